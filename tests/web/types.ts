// What TypeScript must accept of the package's types, and what it must not. `tsc --noEmit` runs nothing.

import { Optimizer } from 'wgpu-optim';
import type { GroupOptions, OptimError, Report, RuleName } from 'wgpu-optim';

export async function right(device: GPUDevice): Promise<Report> {
    const rule: RuleName = 'adam';
    const options: GroupOptions = { rule, lr: 1e-3, beta1: 0.9, weightDecay: { decoupled: 0.01 }, schedule: 'cosine(100)' };
    const adam: Optimizer = await Optimizer.on(device, { ...options, maxNorm: 1, lossScaler: { initScale: 1024 } });
    const group: number = await adam.addGroup({ rule: 'momentum', momentum: 0.9, averaging: { ema: 0.99 } });
    adam.addAll({ w: new Float32Array(4), b: new Float32Array(2) });
    adam.add('v', new Float32Array(4), { group, lrScale: 0.1, shape: [2, 2] });
    const buffer = device.createBuffer({ size: 64, usage: GPUBufferUsage.STORAGE });
    adam.adopt('x', { buffer }, { buffer, offset: 32, size: 32 });
    const binding: GPUBufferBinding = adam.parameter('w');
    device.queue.writeBuffer(binding.buffer, 0, new Float32Array(4));
    await adam.room();
    adam.step();
    const w: Float32Array = await adam.read('w');
    const saved: Uint8Array = await adam.save();
    adam.load(saved);
    try {
        adam.setLr(w[0] ?? 0, group);
    } catch (error) {
        if ((error as OptimError).code === 'Hyperparameter') throw error;
    }
    const name: string = Optimizer.rules()[0]!.name;
    const why: string | undefined = await Optimizer.whyNoGpu();
    console.log(name, why);
    return adam.readReport();
}

export async function wrong(adam: Optimizer, device: GPUDevice): Promise<void> {
    // @ts-expect-error: no rule of this name
    await Optimizer.on(device, { rule: 'adamm' });
    // @ts-expect-error: no option of this name
    await Optimizer.on(device, { learningRate: 1 });
    // @ts-expect-error: a number
    await Optimizer.on(device, { lr: '1e-3' });
    // @ts-expect-error: a device
    await Optimizer.on({}, {});
    // @ts-expect-error: Float32Array
    adam.write('w', [1, 2, 3]);
    // @ts-expect-error: no method of this name
    adam.stepp();
    // @ts-expect-error: a promise
    const w: Float32Array = adam.read('w');
    // @ts-expect-error: no code of this name
    const known: boolean = ({} as OptimError).code === 'Nothing';
    console.log(w, known);
}
