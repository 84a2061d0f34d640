// What there is to run on: a GPU, a software adapter, or only the CPU; and which of them the visitor chose.

export class Devices {
    // Looks for an adapter. `forced` is 'gpu' or 'cpu' to begin with that one.
    static async find(Optimizer, forced) {
        const devices = new Devices();
        devices.why = await Optimizer.whyNoGpu();
        const adapter = await devices.adapter();
        devices.hasGpu = adapter !== null;
        devices.name = adapter ? describe(adapter.info ?? {}) : '';
        const usual = devices.why === undefined && devices.hasGpu ? 'gpu' : 'cpu';
        devices.choice = forced === 'cpu' || (forced === 'gpu' && devices.hasGpu) ? forced : usual;
        return devices;
    }

    async adapter() {
        try {
            return await navigator.gpu?.requestAdapter() ?? null;
        } catch {
            return null;
        }
    }

    // The device to use, or undefined where the CPU is chosen. One serves all parts until it is lost.
    async device() {
        if (this.choice === 'cpu') return undefined;
        if (this.held) return this.held;
        const adapter = await this.adapter();
        if (!adapter) throw new Error('The browser gives no GPU adapter any more. Choose the CPU above, or reload.');
        const device = await adapter.requestDevice();
        this.held = device;
        device.lost.then(() => {
            if (this.held === device) this.held = undefined;
        });
        return device;
    }

    // What the visitor reads. `why` is a sentence without capital and full stop.
    text() {
        const { why, name } = this;
        if (this.choice === 'gpu') return why ? `GPU, chosen by hand, although ${why}.` : `GPU: ${name}, by WebGPU.`;
        return why ? `CPU, by WebAssembly, because ${why}.` : `CPU, by WebAssembly, chosen by hand. The GPU: ${name}.`;
    }
}

function describe({ vendor, architecture, description, device }) {
    const words = [vendor, architecture].filter(Boolean).join(' ');
    return description || words || device || 'a GPU without a name';
}

// Runs `work` and fails as soon as the device is lost or reports an error that nobody caught.
export async function guarded(device, work) {
    if (!device) return work();
    let refuse;
    const refused = new Promise((_, reject) => refuse = reject);
    const report = (event) => {
        event.preventDefault();
        refuse(new Error(`The GPU refused a call: ${event.error.message}`));
    };
    device.addEventListener('uncapturederror', report);
    device.lost.then(({ message, reason }) => refuse(new Error(
        `The GPU device was lost (${message || reason || 'no reason given'}). Start again to use a new one.`,
    )));
    try {
        return await Promise.race([refused, work()]);
    } finally {
        device.removeEventListener('uncapturederror', report);
    }
}
