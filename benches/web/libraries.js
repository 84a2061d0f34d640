// Adam in three libraries, each as its users write it. `load` gets { params, grads, lr, beta1, beta2, eps }, the first
// two as arrays of Float32Array, and returns
//
//     device     the GPUDevice that the library uses
//     step()     one step
//     number()   the first element of the first parameter, after all steps
//     read(i)    all of parameter i

/** Reads one f32 of a buffer. */
async function readNumber(device, buffer, offset = 0) {
    const staging = device.createBuffer({ size: 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, offset, staging, 0, 4);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const [value] = new Float32Array(staging.getMappedRange());
    staging.destroy();
    return value;
}

const ours = {
    name: 'wgpu-optim',
    async load({ params, grads, lr, beta1, beta2, eps }) {
        const { Optimizer } = await import('/wgpu-optim/index.js');
        const adapter = await navigator.gpu.requestAdapter();
        const device = await adapter.requestDevice();
        const optimizer = await Optimizer.on(device, { rule: 'adam', lr, beta1, beta2, eps });
        const name = i => `p${i}`;
        params.forEach((values, i) => optimizer.add(name(i), values));
        grads.forEach((values, i) => optimizer.writeGradient(name(i), values));
        return {
            device,
            async step() {
                await optimizer.room();
                optimizer.step();
            },
            number() {
                const { buffer, offset } = optimizer.parameter(name(0));
                return readNumber(device, buffer, offset);
            },
            read: i => optimizer.read(name(i)),
        };
    },
};

// Its epsilon is added outside of the root, as everywhere here; by default it is 1e-7.
const tensorflow = {
    name: 'tfjs',
    async load({ params, grads, lr, beta1, beta2, eps }) {
        const tf = await import('/tfjs/index.js');
        if (!await tf.setBackend('webgpu')) throw new Error('tf.setBackend(\'webgpu\') says false');
        await tf.ready();
        const variables = params.map((values, i) => tf.variable(tf.tensor1d(values), true, `p${i}`));
        const gradients = Object.fromEntries(grads.map((values, i) => [`p${i}`, tf.tensor1d(values)]));
        const adam = tf.train.adam(lr, beta1, beta2, eps);
        return {
            device: tf.backend().device,
            step: () => adam.applyGradients(gradients),
            async number() {
                const first = tf.slice(variables[0], [0], [1]);
                const [value] = await first.data();
                first.dispose();
                return value;
            },
            read: i => variables[i].data(),
        };
    },
};

// Adam as @jax-js/optax has it, with the bias correction in the graph, and the whole step in one `jit`.
const jaxjs = {
    name: 'jax-js',
    async load({ params, grads, lr, beta1, beta2, eps }) {
        const { init, defaultDevice, getWebGPUDevice, jit, numpy: np, tree } = await import('/jax-js/index.js');
        if (!(await init('webgpu')).includes('webgpu')) throw new Error('jax.init(\'webgpu\') finds no device');
        defaultDevice('webgpu');
        const device = getWebGPUDevice();
        const adam = jit((state, gradients) => {
            const count = state.count.add(1);
            const correction = beta => np.reciprocal(np.subtract(1, np.power(beta, count.ref)));
            const [correction1, correction2] = [correction(beta1), correction(beta2)];
            const next = { count, params: [], mu: [], nu: [] };
            gradients.forEach((gradient, i) => {
                const mu = gradient.ref.mul(1 - beta1).add(state.mu[i].mul(beta1));
                const nu = np.square(gradient).mul(1 - beta2).add(state.nu[i].mul(beta2));
                const root = np.sqrt(nu.ref.mul(correction2.ref)).add(eps);
                const update = mu.ref.mul(correction1.ref).div(root).mul(-lr);
                next.params.push(state.params[i].add(update));
                next.mu.push(mu);
                next.nu.push(nu);
            });
            correction1.dispose();
            correction2.dispose();
            return next;
        });
        let state = {
            count: np.array(0),
            params: params.map(values => np.array(values)),
            mu: params.map(values => np.zeros([values.length])),
            nu: params.map(values => np.zeros([values.length])),
        };
        const gradients = grads.map(values => np.array(values));
        return {
            device,
            // Arrays are lazy, so something must ask for a step's results, as a loop that reads its loss does. To await
            // one output is as fast here as `gpuBufferSync`, which only submits, or faster. With neither it is slow.
            async step() {
                state = adam(state, tree.ref(gradients));
                await state.params[0].blockUntilReady();
            },
            number: () => readNumber(device, state.params[0].ref.gpuBufferSync()),
            read: i => state.params[i].ref.data(),
        };
    },
};

export const libraries = [ours, tensorflow, jaxjs];
