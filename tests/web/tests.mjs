// What must hold of the package, in Node and in a browser. Each test gets { Optimizer, device, ensure, near }, and a
// device of its own.

const values = (n, seed) => Float32Array.from({ length: n }, (_, i) => Math.sin(seed + 1.7 * i));

/** What the call throws, or its promise. */
async function thrown(call, what = call) {
    try {
        await call();
    } catch (error) {
        return error;
    }
    throw new Error(`nothing was thrown by ${what}`);
}

/** Steps this optimizer on gradients that depend on the step alone. */
async function train(optimizer, steps, { n = 100, scale = () => 1, spoil = () => false } = {}) {
    for (let t = 0; t < steps; t++) {
        const factor = scale();
        const gradient = values(n, 100 + t).map((g) => g * factor);
        if (spoil(t)) gradient[3] = NaN;
        await optimizer.room();
        optimizer.writeGradient('w', gradient);
        optimizer.step();
    }
}

/** Counts the bytes of this device's buffers that are not destroyed. */
function counted(device) {
    let bytes = 0;
    const create = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
        const buffer = create(descriptor);
        const destroy = buffer.destroy.bind(buffer);
        bytes += descriptor.size;
        buffer.destroy = () => {
            bytes -= descriptor.size;
            buffer.destroy = () => {};
            destroy();
        };
        return buffer;
    };
    return () => bytes;
}

export const tests = {
    async 'Adam on the device is Adam on the CPU, to the bit'({ Optimizer, device, ensure }) {
        const options = { rule: 'adam', lr: 0.1 };
        const both = [await Optimizer.on(device, options), await Optimizer.cpu(options)];
        for (const optimizer of both) {
            optimizer.add('w', values(100, 1));
            await train(optimizer, 10);
        }
        const [ours, cpu] = await Promise.all(both.map((optimizer) => optimizer.read('w')));
        ensure(ours.every((x, i) => x === cpu[i]), { ours, cpu });
    },

    async 'every rule on the device is the one on the CPU'({ Optimizer, device, ensure, near }) {
        const rules = Optimizer.rules();
        ensure(rules.length >= 47, rules.length);
        for (const { name, states } of rules) {
            const read = [];
            for (const make of [(options) => Optimizer.on(device, options), Optimizer.cpu]) {
                const optimizer = await make({ rule: name, weightDecay: { decoupled: 0.01 } });
                optimizer.add('w', values(1003, 1));
                await train(optimizer, 5, { n: 1003 });
                read.push([await optimizer.read('w')]);
                for (const state of states) read.at(-1).push(await optimizer.readState('w', state));
                optimizer.destroy();
            }
            read[0].forEach((ours, k) => near(ours, read[1][k], 5e-6, `${name} ${states[k - 1] ?? 'w'}`));
        }
    },

    async 'clipping, loss scale, skips, schedule and average'({ Optimizer, device, ensure, near }) {
        const found = [];
        for (const make of [(options) => Optimizer.on(device, options), Optimizer.cpu]) {
            const optimizer = await make({
                rule: 'adam', lr: 0.01, weightDecay: { decoupled: 0.01 }, averaging: { ema: 0.9 },
                schedule: 'cosine(300).warmup(10)', maxNorm: 1, lossScaler: { initScale: 4, growthInterval: 1000 },
            });
            optimizer.add('w', values(100, 1));
            let scale = 4;
            for (let t = 0; t < 100; t++) {
                await train(optimizer, 1, { scale: () => scale, spoil: () => t === 30 || t === 70 });
                await optimizer.settle();
                scale = optimizer.report().lossScale;
            }
            const { skippedSteps, lossScale } = optimizer.report();
            const plain = await optimizer.read('w');
            await optimizer.swapAverages();
            const averaged = await optimizer.read('w');
            await optimizer.swapAverages();
            found.push({ skippedSteps, lossScale, plain, averaged, steps: optimizer.steps('w'), lr: optimizer.lr() });
        }
        const [ours, cpu] = found;
        for (const key of ['skippedSteps', 'lossScale', 'steps', 'lr']) ensure(ours[key] === cpu[key], [key, ours, cpu]);
        ensure(ours.skippedSteps === 2 && ours.steps === 98 && ours.lossScale === 1, ours);
        near(ours.plain, cpu.plain, 5e-6, 'parameters');
        near(ours.averaged, cpu.averaged, 5e-6, 'averages');
    },

    async 'Schedule-Free is evaluated at another point, and trains on'({ Optimizer, device, ensure, near }) {
        const found = [];
        for (const optimizer of [
            await Optimizer.on(device, { rule: 'schedule-free-adamw', lr: 0.01 }),
            await Optimizer.cpu({ rule: 'schedule-free-adamw', lr: 0.01 }),
        ]) {
            optimizer.add('w', values(100, 1));
            await train(optimizer, 20);
            await optimizer.evaluate();
            const x = await optimizer.read('w');
            const error = await thrown(() => optimizer.step());
            ensure(error.code === 'Unsupported' && error.message.includes('train'), error);
            await optimizer.train();
            await train(optimizer, 1);
            found.push({ x, w: await optimizer.read('w') });
        }
        near(found[0].x, found[1].x, 5e-6, 'x');
        near(found[0].w, found[1].w, 5e-6, 'w');
        ensure(found[0].x.some((x, i) => Math.abs(x - found[0].w[i]) > 1e-3), found[0]);
    },

    async 'without room() 128 steps, and with it any number'({ Optimizer, device, ensure }) {
        for (const options of [{}, { maxNorm: 1 }]) {
            const optimizer = await Optimizer.on(device, options);
            optimizer.add('w', values(100, 1));
            optimizer.writeGradient('w', values(100, 2));
            let done = 0;
            const error = await thrown(() => {
                for (; done < 1000; done++) optimizer.step();
            });
            ensure(done === 128 && error.code === 'TooManyStepsInFlight' && error.message.includes('room'), [done, error]);
            for (; done < 1000; done++) {
                await optimizer.room();
                optimizer.step();
            }
            await optimizer.settle();
            ensure(optimizer.steps('w') === 1000, optimizer.steps('w'));
        }
    },

    async 'a shader that does not compile is an error with its line'({ Optimizer, device, ensure }) {
        const create = device.createShaderModule.bind(device);
        device.createShaderModule = (it) => create({ ...it, code: it.code.replace('h.lr', 'h.nothing') });
        const error = await thrown(() => Optimizer.on(device, { rule: 'sgd' }));
        ensure(error.code === 'Shader' && /sgd.*line \d+.*nothing/s.test(error.message), error);
    },

    async 'a destroyed buffer is an error, and only for the call that comes next'({ Optimizer, device, ensure }) {
        const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
        const [w, g] = [0, 1].map(() => device.createBuffer({ size: 64, usage }));
        const optimizer = await Optimizer.on(device, { rule: 'sgd', lr: 0.1 });
        optimizer.adopt('w', { buffer: w }, { buffer: g });
        optimizer.step();
        await optimizer.check();
        w.destroy();
        optimizer.step();
        const error = await thrown(() => optimizer.check());
        ensure(error.code === 'Rejected' && error.message.includes('destroyed'), error);
        await optimizer.check();
        ensure((await thrown(() => optimizer.read('w'))).code.match(/Rejected|ReadBack/));
    },

    async 'a lost device is an error'({ Optimizer, device, ensure }) {
        const optimizer = await Optimizer.on(device);
        optimizer.add('w', values(100, 1));
        optimizer.writeGradient('w', values(100, 2));
        optimizer.step();
        device.destroy();
        await device.lost;
        await new Promise((resolve) => setTimeout(resolve, 10));
        for (const call of [
            () => optimizer.step(), () => optimizer.read('w'), () => optimizer.room(), () => optimizer.save(),
            () => optimizer.add('b', values(3, 3)), () => optimizer.settle(), () => Optimizer.on(device),
        ]) {
            const error = await thrown(call);
            ensure(error.code === 'DeviceLost', [`${call}`, error]);
        }
    },

    async 'your buffers step as the optimizer\'s own, to the bit'({ Optimizer, device, ensure, near }) {
        const uncaptured = [];
        device.addEventListener('uncapturederror', (event) => uncaptured.push(event.error.message));
        const [gpu, create] = [globalThis.navigator?.gpu, device.createBuffer];
        const optimizer = await Optimizer.on(device, { lr: 0.1 });
        const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
        const [w, g] = [0, 1].map(() => device.createBuffer({ size: 256 + 4000, usage }));
        device.queue.writeBuffer(w, 256, values(1000, 1));
        optimizer.add('own', values(1000, 1));
        optimizer.adopt('yours', { buffer: w, offset: 256 }, { buffer: g, offset: 256, size: 4000 });
        ensure(globalThis.navigator?.gpu === gpu && device.createBuffer === create, 'something is still shadowed');
        ensure(optimizer.parameter('yours').buffer === w, 'another buffer');
        for (let t = 0; t < 500; t++) {
            const gradient = values(1000, t);
            await optimizer.room();
            optimizer.writeGradient('own', gradient);
            device.queue.writeBuffer(g, 256, gradient);
            optimizer.step();
        }
        const [own, yours] = [await optimizer.read('own'), await optimizer.read('yours')];
        ensure(own.every((x, i) => x === yours[i]) && uncaptured.length === 0, { own, yours, uncaptured });
        // What is wrong with a range is said in the crate's words.
        const uses = device.createBuffer({ size: 64, usage: GPUBufferUsage.STORAGE });
        const reads = device.createBuffer({ size: 64, usage: GPUBufferUsage.COPY_SRC });
        const wrong = [
            ['NoBuffer', {}, { buffer: g }], ['NoBuffer', { buffer: w, offset: -4 }, { buffer: g }],
            ['NoBuffer', { buffer: w, size: 3 }, { buffer: g }], ['MissingUsage', { buffer: reads }, { buffer: g }],
            ['OutOfBounds', { buffer: uses, size: 128 }, { buffer: g }], ['Length', { buffer: uses }, { buffer: g }],
            ['Misaligned', { buffer: w, offset: 2, size: 4 }, { buffer: g, size: 4 }],
            ['Overlap', { buffer: w }, { buffer: g }],
        ];
        for (const [code, parameter, gradient] of wrong) {
            const error = await thrown(() => optimizer.adopt('x', parameter, gradient), code);
            ensure(error.code === code, [code, error.code, error.message]);
        }
        ensure(`${optimizer.parameters()}` === 'own,yours', optimizer.parameters());
        // Parameter and gradient in one buffer, and a new buffer for each gradient.
        const both = device.createBuffer({ size: 512, usage });
        optimizer.adopt('both', { buffer: both, size: 256 }, { buffer: both, offset: 256 });
        for (let k = 0; k < 200; k++) {
            const fresh = device.createBuffer({ size: 256, usage });
            optimizer.setGradient('both', { buffer: fresh });
        }
        optimizer.setGradient('both', { buffer: both, offset: 256 });
        device.queue.writeBuffer(both, 256, new Float32Array(64).fill(2));
        await optimizer.room();
        optimizer.step();
        await optimizer.idle();
        near(await optimizer.read('both'), new Float32Array(64).fill(-0.1), 1e-6, 'one buffer');
        ensure(uncaptured.length === 0, uncaptured);
    },

    async 'memory comes back'({ Optimizer, device, ensure }) {
        const alive = counted(device);
        const optimizer = await Optimizer.on(device, { maxNorm: 1 });
        optimizer.add('w', new Float32Array(1 << 20));
        optimizer.writeGradient('w', new Float32Array(1 << 20));
        await train(optimizer, 3, { n: 1 << 20 });
        await optimizer.read('w');
        const before = alive();
        for (let k = 0; k < 20; k++) await optimizer.read('w');
        ensure(alive() === before, [alive(), before, 'after reads']);
        optimizer.add('second', new Float32Array(1 << 20));
        ensure(alive() >= before + 4 * (4 << 20), 'nothing was counted');
        optimizer.remove('second');
        ensure(alive() - before < 1 << 16, [alive(), before, 'after a removal']);
        optimizer.accumulate('w', new Float32Array(1 << 20));
        ensure(alive() - before < 1 << 16, [alive(), before, 'after a micro-batch']);
        optimizer.destroy();
        ensure(alive() < 1 << 17, [alive(), 'after destroy()']);
        ensure((await thrown(() => optimizer.step())).code === 'Destroyed');
    },

    async 'a checkpoint goes from the device to the CPU, and a wrong one nowhere'({ Optimizer, device, ensure }) {
        const first = await Optimizer.on(device, { lr: 0.1, precision: 'block8' });
        first.add('w', values(5000, 1));
        await train(first, 10, { n: 5000 });
        const file = await first.save();
        const again = await Optimizer.cpu({ lr: 0.5, precision: 'block8' });
        again.add('w', new Float32Array(5000));
        again.load(file);
        const [a, b] = [await first.read('w'), await again.read('w')];
        ensure(a.every((x, i) => x === b[i]) && again.steps('w') === 10 && again.lr() === 0.1, again.steps('w'));
        again.add('more', values(3, 1));
        const mismatch = await thrown(() => again.load(file));
        ensure(mismatch.code === 'Mismatch' && mismatch.message.includes('more'), mismatch);
        const damaged = await thrown(() => again.load(file.slice(0, 1000)));
        ensure(damaged.code === 'Checkpoint' && again.steps('w') === 10, damaged);
    },

    async 'wrong options say what is wrong'({ Optimizer, device, ensure }) {
        const wrong = [
            [{ rule: 'adamm' }, 'UnknownRule', 'adamax'], [{ betaa: 0.9 }, 'Options', 'beta1'],
            [{ beta1: 1.5 }, 'Hyperparameter', 'beta1'], [{ lr: -1 }, 'Hyperparameter', 'lr'],
            [{ lr: NaN }, 'Options', 'NaN'], [{ lr: '1' }, 'Options', 'f64'], [{ weightDecay: { l3: 1 } }, 'Options', 'l2'],
            [{ schedule: 'cosin(3)' }, 'Schedule', 'cosine'], [{ precision: 'int4' }, 'Options', 'block8'],
            [{ maxNorm: -1 }, 'Hyperparameter', 'max_norm'], [{ lossScaler: { scale: 1 } }, 'Options', 'init_scale'],
            [3, 'Options', 'object'], [null, 'Options', 'object'], [{ lossScaler: true }, 'Options', 'lossScaler'],
        ];
        for (const [options, code, word] of wrong) {
            const error = await thrown(() => Optimizer.on(device, options));
            ensure(error instanceof Error && error.code === code && error.message.includes(word), [options, code, `${error}`]);
        }
        ensure((await thrown(() => Optimizer.on({}))).code === 'NoDevice');
        const optimizer = await Optimizer.on(device);
        const calls = [
            [() => optimizer.add('w', values(3, 1), { group: 1 }), 'UnknownGroup'],
            [() => optimizer.add('w', values(3, 1), { lrScale: -1 }), 'Hyperparameter'],
            [() => optimizer.read('w'), 'UnknownParameter'], [() => optimizer.lr(7), 'UnknownGroup'],
            [() => optimizer.set({ maxNorm: 1 }), 'Options'], [() => optimizer.load(new Uint8Array(3)), 'Checkpoint'],
            [() => optimizer.addAll({ w: [1, 2] }), 'Options'],
        ];
        for (const [call, code] of calls) {
            const error = await thrown(call);
            ensure(error.code === code, [`${call}`, code, error]);
        }
        ensure(optimizer.parameters().length === 0, optimizer.parameters());
        optimizer.add('w', values(3, 1));
        ensure((await thrown(() => optimizer.add('w', values(3, 1)))).code === 'DuplicateName');
        ensure((await thrown(() => optimizer.writeGradient('w', values(4, 1)))).code === 'Length');
    },

    async 'ranges live on when the optimizer is collected, and not when it is destroyed'({ Optimizer, device, ensure }) {
        const copied = async (range) => {
            device.pushErrorScope('validation');
            const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;
            const staging = device.createBuffer({ size: range.size, usage });
            const encoder = device.createCommandEncoder();
            encoder.copyBufferToBuffer(range.buffer, range.offset, staging, 0, range.size);
            device.queue.submit([encoder.finish()]);
            return device.popErrorScope();
        };
        for (const [end, refused] of [['free', false], ['destroy', true]]) {
            const optimizer = await Optimizer.on(device);
            optimizer.add('w', values(100, 1));
            const range = optimizer.parameter('w');
            // What the garbage collector calls, too.
            optimizer[end]();
            const error = await copied(range);
            ensure(!!error === refused, [end, error?.message]);
        }
    },

    async 'micro-batches by the hundred'({ Optimizer, device, ensure, near }) {
        const optimizer = await Optimizer.on(device, { rule: 'sgd', lr: 1 });
        optimizer.add('w', new Float32Array(8));
        for (let k = 0; k < 400; k++) {
            await optimizer.room();
            optimizer.accumulate('w', new Float32Array(8).fill(k % 2));
        }
        await optimizer.room();
        optimizer.step();
        near(await optimizer.read('w'), new Float32Array(8).fill(-0.5), 1e-6, 'their mean');
    },

    async 'what is refused changes nothing'({ Optimizer, device, ensure, near }) {
        const optimizer = await Optimizer.on(device, { rule: 'sgd', lr: 1 });
        optimizer.add('w', new Float32Array(2));
        const refused = [
            () => optimizer.addGroup({ averaging: { ema: 2 } }), () => optimizer.set({ lr: 0.5, averaging: { ema: 2 } }),
            () => optimizer.set({ rule: 'adam', lr: -1 }), () => optimizer.safeguard({ maxNorm: 1, typo: 2 }),
            () => optimizer.safeguard({ maxNorm: 1, lossScaler: 65536 }), () => optimizer.setParameter('w', { group: 1 }),
            () => optimizer.setParameter('w', { group: 0, lrScale: -1 }), () => optimizer.set(() => 1),
            () => optimizer.addGroup({ precision: 'bf16', adaptiveClip: { clipping: 1, eps: 1e-3, over: 'row' } }),
            () => optimizer.add(3, values(3, 1)), () => optimizer.remove(undefined), () => optimizer.read(3),
            () => optimizer.addAll(null), () => optimizer.load(undefined), () => optimizer.add('x', 3), () => optimizer.write('w', [1, 2]), () => optimizer.lr(0.5),
            () => optimizer.set({ lr: 1n }), () => optimizer.safeguard({ maxNorm: { norm: 'l2' } }),
            () => optimizer.safeguard({ maxNorm: NaN }), () => optimizer.set({ clipValue: Infinity }),
        ];
        for (const call of refused) ensure((await thrown(call)).code, `${call}`);
        optimizer.writeGradient('w', new Float32Array([300, 400]));
        optimizer.step();
        near(await optimizer.read('w'), new Float32Array([-300, -400]), 0, 'a plain step');
        ensure(await optimizer.addGroup({}) === 1 && optimizer.lr() === 1, 'a group was left');
        // No limit, and yet a report.
        optimizer.safeguard({ maxNorm: Infinity });
        optimizer.step();
        ensure((await optimizer.readReport()).gradNorm === 500, optimizer.report());
        optimizer.writeGradient('w', new Float32Array([NaN, 1]));
        optimizer.step();
        ensure(Number.isNaN((await optimizer.readReport()).gradNorm), optimizer.report());
    },

    async 'what must be known is asked for by its name'({ Optimizer, device, ensure }) {
        const options = { averaging: { ema: 0.9 }, maxNorm: 1 };
        const optimizer = await Optimizer.on(device, options);
        await optimizer.addGroup({ averaging: { ema: 0.9 } });
        optimizer.add('w', values(3, 1));
        optimizer.writeGradient('w', values(3, 2));
        optimizer.step();
        const error = await thrown(() => optimizer.setParameter('w', { group: 1 }));
        ensure(error.code === 'TooManyStepsInFlight' && error.message.includes('settle'), `${error}`);
        await optimizer.settle();
        optimizer.setParameter('w', { group: 1 });
        await optimizer.swapAverages(1);
        // While averages are swapped in, a schedule stays with what is refused beside it.
        const lr = optimizer.lr(1);
        const swapped = await thrown(() => optimizer.set({ schedule: 'constant(0.5)', averaging: { ema: 0.5 } }, 1));
        ensure(swapped.code === 'Unsupported' && optimizer.lr(1) === lr, `${swapped} ${optimizer.lr(1)}`);
    },

    async 'a device that is none, or will not be lent'({ Optimizer, device, ensure }) {
        const methods = { createBuffer() {}, createComputePipeline() {}, pushErrorScope() {} };
        const objects = { features: null, limits: null, lost: null, queue: null };
        const throws = { get features() { throw new Error('nothing here'); } };
        for (const none of [methods, { ...methods, ...objects }, throws, {}, null, 3]) {
            const error = await thrown(() => Optimizer.on(none));
            ensure(error.code === 'NoDevice', `${error}`);
        }
        const optimizer = await Optimizer.on(device);
        const buffer = device.createBuffer({ size: 64, usage: GPUBufferUsage.STORAGE });
        Object.preventExtensions(device);
        const error = await thrown(() => optimizer.adopt('w', { buffer }, { buffer }));
        ensure(error.code === 'NoBuffer', `${error}`);
        // Nor a buffer that only looks like one, or begins within a byte.
        const looks = { buffer: { size: 64, usage: 0xffff } };
        ensure((await thrown(() => optimizer.adopt('w', looks, looks))).code === 'NoBuffer');
        ensure((await thrown(() => optimizer.adopt('w', { buffer, offset: 4.5 }, { buffer }))).code === 'NoBuffer');
        optimizer.add('w', values(3, 1));
    },

    async 'a shader that failed once fails again'({ Optimizer, device, ensure }) {
        const optimizer = await Optimizer.on(device, { rule: 'adam' });
        const create = device.createShaderModule.bind(device);
        device.createShaderModule = (it) => create({ ...it, code: it.code.replace('h.lr', 'h.nothing') });
        for (let k = 0; k < 2; k++) {
            ensure((await thrown(() => optimizer.addGroup({ rule: 'sgd' }))).code === 'Shader', k);
        }
        device.createShaderModule = create;
        ensure(await optimizer.addGroup({ rule: 'sgd' }) === 1, 'a group was left');
    },

    async 'what has not finished is in the way of a change'({ Optimizer, device, ensure }) {
        const optimizer = await Optimizer.on(device);
        optimizer.add('w', values(100, 1));
        const reading = optimizer.read('w');
        const busy = await thrown(() => optimizer.step());
        ensure(busy.code === 'Busy' && optimizer.report().gradNorm === 0, busy);
        ensure((await Promise.all([reading, optimizer.read('w')])).every((w) => w.length === 100));
        optimizer.writeGradient('w', values(100, 2));
        optimizer.step();
        ensure(optimizer.steps('w') === 1, optimizer.steps('w'));
    },

    async 'groups, settings, states and the rest'({ Optimizer, device, ensure, near }) {
        const optimizer = await Optimizer.on(device, { rule: 'adam', beta1: 0.8, maxNorm: { maxNorm: 2, norm: 'max' } });
        const group = await optimizer.addGroup({ rule: 'momentum', momentum: 0.9, lr: 0.5, clipValue: 0.25 });
        optimizer.addAll({ w: values(100, 1), b: values(10, 2) });
        optimizer.add('v', values(8, 3), { group, lrScale: 0.5, shape: [2, 4] });
        ensure(`${[group, optimizer.lr(group), optimizer.parameters()]}` === '1,0.5,w,b,v');
        optimizer.writeGradient('v', new Float32Array(8).fill(1));
        optimizer.step();
        near(await optimizer.read('v'), values(8, 3).map((x) => x - 0.25 * 0.25), 1e-6, 'a clipped step');
        near(await optimizer.readState('v', 'momentum_buffer'), new Float32Array(8).fill(0.25), 1e-6, 'momentum');
        await optimizer.set({ lr: 0.1, clipValue: null }, group);
        ensure(optimizer.settings(group).lr === 0.1 && optimizer.settings(group).clipValue === null);
        optimizer.setLr(0.2, group);
        optimizer.setParameter('v', { frozen: true });
        const frozen = await optimizer.read('v');
        optimizer.writeGradient('w', values(100, 5));
        optimizer.step();
        near(await optimizer.read('v'), frozen, 0, 'frozen');
        optimizer.writeState('w', 'exp_avg', new Float32Array(100).fill(7));
        near(await optimizer.readState('w', 'exp_avg'), new Float32Array(100).fill(7), 0, 'a state');
        optimizer.zeroGrad();
        near(await optimizer.readGradient('w'), new Float32Array(100), 0, 'a gradient');
        optimizer.setGradient('w', null);
        optimizer.step();
        ensure(optimizer.steps('w') === 1, optimizer.steps('w'));
        optimizer.setGradient('w', 'own');
        optimizer.accumulate('w', values(100, 1));
        optimizer.accumulate('w', values(100, 1));
        near(await optimizer.readGradient('w'), values(100, 1).map((g) => 2 * g), 1e-6, 'micro-batches');
        optimizer.safeguard({ maxNorm: null, nonFinite: 'zero', lossScaler: null });
        for (const range of [optimizer.state('w', 'exp_avg'), optimizer.lossScale(), optimizer.gradient('b')]) {
            ensure(range.buffer instanceof GPUBuffer && range.size > 0, range);
        }
        optimizer.write('b', values(10, 9));
        near(await optimizer.read('b'), values(10, 9), 0, 'written');
        const report = await optimizer.readReport();
        ensure(report.lossScale === 1 && report.lrTooSmall === null, report);
        const nesterov = await Optimizer.on(device, { rule: 'momentum', lr: 0.1 });
        nesterov.add('w', values(4, 1));
        nesterov.writeState('w', 'momentum_buffer', new Float32Array(4).fill(1));
        nesterov.lookAhead();
        near(await nesterov.read('w'), values(4, 1).map((x) => x - 0.09), 1e-6, 'a look-ahead');
        await nesterov.idle();
    },
};

/** Runs the tests whose names contain `only`; returns a line each, and how many failed. */
export async function run({ Optimizer, newDevice, only = '' }) {
    const ensure = (held, said) => {
        if (!held) throw new Error(JSON.stringify(said, (_, x) => (x instanceof Error ? `${x.code}: ${x.message}` : x)));
    };
    const near = (a, b, tolerance, what) => {
        const scale = Math.max(1e-30, ...b.map(Math.abs));
        ensure(a.length === b.length, [what, a.length, b.length]);
        a.forEach((x, i) => ensure(Math.abs(x - b[i]) <= tolerance * scale, [what, i, x, b[i]]));
    };
    const lines = [];
    let failed = 0;
    for (const [name, test] of Object.entries(tests).filter(([name]) => name.includes(only))) {
        const began = performance.now();
        try {
            await test({ Optimizer, device: await newDevice(), ensure, near });
            lines.push(`ok ${name}, ${Math.round(performance.now() - began)} ms`);
        } catch (error) {
            failed++;
            lines.push(`FAILED ${name}: ${error?.stack ?? error}`.slice(0, 1500));
        }
    }
    return { lines, failed };
}
