// Counts what a library does on WebGPU. Import this before any library is loaded.
//
// Only one library works at a time, and it is waited for before the next one begins: everything between two calls of
// `countFor` is that library's.

/** By library: dispatches and submissions so far, bytes of buffers that are created and not destroyed. */
const counts = new Map();
const buffers = new WeakMap();
let current;

/** Counts for this library from now on. Returns its counters. */
export function countFor(library) {
    if (!counts.has(library)) counts.set(library, { dispatches: 0, submissions: 0, bytes: 0 });
    current = counts.get(library);
    return current;
}

countFor('none');

/** Calls `before` with the arguments of a method, in front of it, and `after` with its result. */
function wrap(prototype, method, { before = () => {}, after = () => {} }) {
    const original = prototype[method];
    prototype[method] = function (...args) {
        before(this, ...args);
        const result = original.apply(this, args);
        after(result, ...args);
        return result;
    };
}

const dispatch = { before: () => current.dispatches++ };
wrap(GPUComputePassEncoder.prototype, 'dispatchWorkgroups', dispatch);
wrap(GPUComputePassEncoder.prototype, 'dispatchWorkgroupsIndirect', dispatch);
wrap(GPUQueue.prototype, 'submit', { before: () => current.submissions++ });
wrap(GPUDevice.prototype, 'createBuffer', {
    after(buffer, { size }) {
        buffers.set(buffer, { size, owner: current });
        current.bytes += size;
    },
});
wrap(GPUBuffer.prototype, 'destroy', {
    before(buffer) {
        const known = buffers.get(buffer);
        if (!known) return;
        known.owner.bytes -= known.size;
        buffers.delete(buffer);
    },
});
