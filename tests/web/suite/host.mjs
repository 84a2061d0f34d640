// What the suite's wasm imports. `Suspending` suspends the whole wasm stack until the promise is kept.

let memory;
// By promise: what keeps it.
const waiting = new Map();
// Promises that were kept before anybody waited.
const early = new Set();
const { port1, port2 } = new MessageChannel();
let wakes = [];
port1.onmessage = () => {
    const due = wakes;
    wakes = [];
    for (const wake of due) wake();
};

export const told = [];

export function uses(exports) {
    memory = exports.memory;
}

export function report(text, len) {
    told.push(new TextDecoder().decode(new Uint8Array(memory.buffer, text, len)));
}

export const now = () => performance.now();

export function resume(until) {
    const keep = waiting.get(until);
    if (keep) keep(); else early.add(until);
}

export const suspend = new WebAssembly.Suspending((until, milliseconds) => {
    if (early.delete(until)) return undefined;
    return new Promise((resolve) => {
        // A timer cannot be set for longer.
        const timer = milliseconds < 2 ** 31 ? setTimeout(() => keep(), milliseconds) : undefined;
        const keep = () => {
            clearTimeout(timer);
            waiting.delete(until);
            resolve();
        };
        waiting.set(until, keep);
    });
});

// A turn of the page by a message comes at once; a timer of 0 ms is one of 4 ms after a few.
export const pause = new WebAssembly.Suspending((milliseconds) => new Promise((resolve) => {
    if (milliseconds > 0) {
        setTimeout(resolve, milliseconds);
    } else {
        wakes.push(resolve);
        port2.postMessage(0);
    }
}));
