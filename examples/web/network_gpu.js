// The network on the GPU: this page's buffers, the kernels of network.wgsl, and an optimizer that owns the parameters.

import { CLASSES, LAYERS, PIXELS, initial } from './data.js';

// The bindings of network.wgsl, and which of them each entry point uses.
const NAMES = [
    'layer', 'progress', 'images', 'labels', 'order', 'input', 'w', 'b', 'scale', 'z', 'mean', 'variance',
    'running_mean', 'running_variance', 'output', 'd', 'd_input', 'g_w', 'g_b', 'g_scale', 'outcome', 'losses',
];
const USES = {
    unpack: ['layer', 'progress', 'images', 'order', 'input'],
    dense: ['layer', 'progress', 'input', 'w', 'b', 'z'],
    activate: ['layer', 'progress', 'order', 'z', 'output'],
    loss: ['layer', 'progress', 'labels', 'order', 'z', 'd', 'outcome'],
    gradient: ['layer', 'progress', 'input', 'd', 'g_w', 'g_b'],
    back: ['layer', 'progress', 'input', 'w', 'd', 'd_input'],
    finish: ['layer', 'progress', 'outcome', 'losses'],
};
// Images that a test takes at once.
const TEST_BATCH = 500;
const groups = (units) => Math.ceil(units / 64);

// What all networks of a run share: the pipelines and the images.
export class Shared {
    static async make(device, wgsl, data, batch) {
        const shared = new Shared();
        Object.assign(shared, { device, data, batch, buffers: [] });
        const module = device.createShaderModule({ code: wgsl });
        const entries = Object.keys(USES).map(async (entryPoint) => {
            const pipeline = device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint } });
            return [entryPoint, await pipeline];
        });
        shared.pipelines = Object.fromEntries(await Promise.all(entries));
        for (const set of ['train', 'test']) {
            const { images, labels } = data[set];
            shared[set] = { images: shared.filled(images), labels: shared.filled(Uint32Array.from(labels)) };
        }
        return shared;
    }

    storage(words, owner = this) {
        const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
        const buffer = this.device.createBuffer({ size: 4 * words, usage });
        owner.buffers.push(buffer);
        return buffer;
    }

    filled(content, owner = this) {
        const buffer = this.storage(content.byteLength / 4, owner);
        this.device.queue.writeBuffer(buffer, 0, content);
        return buffer;
    }

    uniform(content, owner) {
        const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
        const buffer = this.device.createBuffer({ size: content.byteLength, usage });
        owner.buffers.push(buffer);
        this.device.queue.writeBuffer(buffer, 0, content);
        return buffer;
    }

    pass(entry, resources, workgroups) {
        const pipeline = this.pipelines[entry];
        const entries = USES[entry].map((name) => {
            const resource = resources[name] instanceof GPUBuffer ? { buffer: resources[name] } : resources[name];
            return { binding: NAMES.indexOf(name), resource };
        });
        const bindings = this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
        return { pipeline, bindings, workgroups };
    }

    destroy() {
        this.buffers.forEach((buffer) => buffer.destroy());
    }
}

// The activations of one network for one set of images, and what a batch dispatches.
class Passes {
    constructor(shared, owner, optimizer, set, batch) {
        const storage = (words) => shared.storage(words, owner);
        const count = shared.data[set].labels.length;
        const of = { ...shared[set], progress: storage(4), outcome: storage(2 * batch) };
        of.order = shared.filled(Uint32Array.from({ length: count }, (_, k) => k), owner);
        of.losses = storage(Math.ceil(count / batch));
        const [forward, backward] = [[], []];
        let [input, dInput] = [storage(batch * PIXELS), storage(1)];
        LAYERS.forEach(([inputs, outputs], l) => {
            const last = l + 1 === LAYERS.length;
            const layer = shared.uniform(new Uint32Array([batch, count, inputs, outputs, l, 1]), owner);
            Object.assign(of, { layer, input, d_input: dInput });
            for (const name of ['z', 'output', 'd']) of[name] = storage(batch * outputs);
            for (const name of ['w', 'b']) {
                of[name] = optimizer.parameter(`${name}${l + 1}`);
                of[`g_${name}`] = optimizer.gradient(`${name}${l + 1}`);
            }
            const pass = (entry, ...workgroups) => shared.pass(entry, of, workgroups);
            if (l === 0) forward.push(pass('unpack', groups(PIXELS), batch));
            forward.push(pass('dense', groups(outputs), batch));
            forward.push(last ? pass('loss', groups(batch)) : pass('activate', groups(outputs), batch));
            const back = [pass('gradient', groups(outputs), inputs + 1)];
            if (l > 0) back.push(pass('back', groups(inputs), batch));
            backward.unshift(...back);
            [input, dInput] = [of.output, of.d];
        });
        const finish = shared.pass('finish', of, [1]);
        this.passes = set === 'train' ? [...forward, ...backward, finish] : [...forward, finish];
        Object.assign(this, { count, batch, logits: of.z, order: of.order, progress: of.progress, losses: of.losses });
    }

    encode(encoder) {
        const pass = encoder.beginComputePass();
        for (const { pipeline, bindings, workgroups } of this.passes) {
            pass.setPipeline(pipeline);
            pass.setBindGroup(0, bindings);
            pass.dispatchWorkgroups(...workgroups);
        }
        pass.end();
    }
}

export class GpuNetwork {
    static async make(Optimizer, shared, { rule, lr }, seed) {
        const network = new GpuNetwork();
        Object.assign(network, { device: shared.device, buffers: [] });
        const optimizer = network.optimizer = await Optimizer.on(shared.device, { rule, lr });
        for (const [name, values] of Object.entries(initial(seed))) optimizer.add(name, values);
        network.training = new Passes(shared, network, optimizer, 'train', shared.batch);
        network.testing = new Passes(shared, network, optimizer, 'test', TEST_BATCH);
        return network;
    }

    // Starts an epoch over the training images in this order.
    start(order) {
        this.device.queue.writeBuffer(this.training.order, 0, order);
        this.device.queue.writeBuffer(this.training.progress, 0, new Uint32Array(4));
    }

    // Forward, backward and the optimizer's step of the next batch. Nothing is read back.
    async step() {
        const encoder = this.device.createCommandEncoder();
        this.training.encode(encoder);
        this.device.queue.submit([encoder.finish()]);
        await this.optimizer.room();
        this.optimizer.step();
    }

    // The losses of these batches of the epoch.
    async losses(from, to) {
        const encoder = this.device.createCommandEncoder();
        return new Float32Array(await this.read(encoder, [[this.training.losses, 4 * from, 4 * (to - from)]]));
    }

    // What the network takes each test image for.
    async guesses() {
        const { testing, device } = this;
        const batches = testing.count / testing.batch;
        const logits = device.createBuffer({
            size: 4 * testing.count * CLASSES, usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
        });
        device.queue.writeBuffer(testing.progress, 0, new Uint32Array(4));
        const encoder = device.createCommandEncoder();
        for (let k = 0; k < batches; k++) {
            testing.encode(encoder);
            const size = 4 * testing.batch * CLASSES;
            encoder.copyBufferToBuffer(testing.logits, 0, logits, k * size, size);
        }
        const values = new Float32Array(await this.read(encoder, [[logits, 0, logits.size]]));
        logits.destroy();
        return Uint8Array.from({ length: testing.count }, (_, sample) => {
            const row = values.subarray(sample * CLASSES, (sample + 1) * CLASSES);
            return row.indexOf(Math.max(...row));
        });
    }

    // Submits the encoder and returns bytes of buffers as they are behind it.
    async read(encoder, ranges) {
        const size = ranges.reduce((sum, [, , length]) => sum + length, 0);
        const staging = this.device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
        let at = 0;
        for (const [buffer, offset, length] of ranges) {
            encoder.copyBufferToBuffer(buffer, offset, staging, at, length);
            at += length;
        }
        this.device.queue.submit([encoder.finish()]);
        await staging.mapAsync(GPUMapMode.READ);
        const bytes = staging.getMappedRange().slice(0);
        staging.destroy();
        return bytes;
    }

    destroy() {
        this.optimizer.destroy();
        this.buffers.forEach((buffer) => buffer.destroy());
    }
}
