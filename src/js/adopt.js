// What lets wgpu use a GPUDevice and GPUBuffers that JavaScript made. See adopt.rs.

// Why wgpu cannot use this as a device, or undefined.
export function whyNoDevice(device) {
    for (const name of ['GPUBuffer', 'GPUDevice', 'GPUInternalError', 'GPUOutOfMemoryError', 'GPUValidationError']) {
        if (typeof globalThis[name] !== 'function') {
            return `there is no ${name}. In Node: Object.assign(globalThis, globals), of the package \`webgpu\``;
        }
    }
    if (!(device instanceof GPUDevice)) return 'its class is another one';
}

export function isBuffer(buffer) {
    return buffer instanceof GPUBuffer;
}

// Sets a property until the function that is returned puts back what was there.
function shadow(object, key, value) {
    const before = Object.getOwnPropertyDescriptor(object, key);
    Object.defineProperty(object, key, { value, configurable: true, writable: true });
    return () => {
        delete object[key];
        if (before) Object.defineProperty(object, key, before);
    };
}

// While `make` runs, navigator.gpu has one adapter, whose device is this one. Outside of browsers there may be no
// navigator, and no Window by which wgpu knows that it is in none of the workers.
export function withDevice(device, make) {
    const adapter = {
        features: device.features,
        limits: device.limits,
        info: device.adapterInfo ?? {},
        requestDevice: async () => device,
    };
    const before = globalThis.navigator?.gpu;
    const gpu = {
        requestAdapter: async () => adapter,
        getPreferredCanvasFormat: () => 'bgra8unorm',
        wgslLanguageFeatures: before?.wgslLanguageFeatures ?? new Set(),
    };
    const undo = [];
    try {
        if (globalThis.navigator === undefined) undo.push(shadow(globalThis, 'navigator', {}));
        if (globalThis.Window === undefined && globalThis.WorkerGlobalScope === undefined) {
            undo.push(shadow(globalThis, 'Window', class Window {}));
        }
        undo.push(shadow(navigator, 'gpu', gpu));
        make();
    } finally {
        undo.reverse().forEach((put) => put());
    }
}

// While `make` runs, the buffer that the device creates is this one.
export function withBuffer(device, buffer, make) {
    const put = shadow(device, 'createBuffer', () => buffer);
    try {
        make();
    } finally {
        put();
    }
}
