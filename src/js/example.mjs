import { Optimizer } from 'wgpu-optim';

const adapter = await navigator.gpu.requestAdapter();
const device = await adapter.requestDevice();
const adam = await Optimizer.on(device, { rule: 'adam', lr: 0.1, weightDecay: { decoupled: 0.01 }, maxNorm: 1 });
adam.add('w', new Float32Array(1000).fill(1));

// Your kernel: it reads the parameter, and writes its gradient where the optimizer reads it. Here it is w − 3.
const module = device.createShaderModule({ code: `
    @group(0) @binding(0) var<storage, read_write> w: array<f32>;
    @group(0) @binding(1) var<storage, read_write> g: array<f32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&g) { g[id.x] = w[id.x] - 3.0; }
    }` });
const pipeline = device.createComputePipeline({ layout: 'auto', compute: { module } });
const entries = [adam.parameter('w'), adam.gradient('w')].map((resource, binding) => ({ binding, resource }));
const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });

for (let step = 0; step < 300; step++) {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(16);
    pass.end();
    device.queue.submit([encoder.finish()]);
    await adam.room(); // waits only if the GPU is 128 steps behind
    adam.step(); // behind your submission, in the same queue
}
console.log(await adam.read('w'), adam.report().gradNorm);
