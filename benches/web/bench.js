// The page: loads the libraries, checks that they compute the same, and times them in turn. bench.mjs calls `bench`.
import { countFor } from './counters.js';
import { libraries } from './libraries.js';

const options = { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
const warmUp = 5;
const checkedAfter = 10;

/** Parameters in ±1, gradients of very different sizes, some as small as epsilon; the same in each run. */
function problem(tensors, length) {
    let seed = 1;
    const uniform = () => {
        seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
        return seed / 2 ** 31 - 1;
    };
    const fill = value => Array.from({ length: tensors }, () => Float32Array.from({ length }, value));
    return { ...options, params: fill(uniform), grads: fill((_, i) => uniform() * 10 ** -(i % 9)) };
}

/** Where `steps` steps lead, in f64. */
function reference({ params, grads, lr, beta1, beta2, eps }, steps) {
    return params.map((values, tensor) => Float64Array.from(values, (value, i) => {
        const gradient = grads[tensor][i];
        let [m, v] = [0, 0];
        for (let t = 1; t <= steps; t++) {
            m = beta1 * m + (1 - beta1) * gradient;
            v = beta2 * v + (1 - beta2) * gradient ** 2;
            value -= lr * m / (1 - beta1 ** t) / (Math.sqrt(v / (1 - beta2 ** t)) + eps);
        }
        return value;
    }));
}

async function difference(run, expected) {
    let largest = 0;
    for (const [tensor, values] of expected.entries()) {
        const actual = await run.read(tensor);
        if (actual.length !== values.length) throw new Error(`${actual.length} elements`);
        // Written so that a NaN is the largest.
        values.forEach((value, i) => {
            const off = Math.abs(value - actual[i]);
            if (!(off <= largest)) largest = off;
        });
    }
    return largest;
}

async function steps(run, count) {
    for (let i = 0; i < count; i++) await run.step();
}

/** Waits for all steps. To read a number comes first: it also submits what a library has only recorded. */
async function wait(run) {
    const number = await run.number();
    await run.device.queue.onSubmittedWorkDone();
    if (!Number.isFinite(number)) throw new Error(`a parameter is ${number}`);
}

/** Loads a library, warms it up, and checks it. */
async function prepare(library, input, expected) {
    const counters = countFor(library.name);
    const start = performance.now();
    const run = await library.load(input);
    const errors = [];
    run.device.addEventListener('uncapturederror', ({ error }) => errors.push(error.message));
    await steps(run, 1);
    await wait(run);
    const first = performance.now() - start;
    await steps(run, warmUp - 1);
    await wait(run);
    const result = { library: library.name, first, bytesWarm: counters.bytes, times: [] };
    await steps(run, checkedAfter - warmUp);
    result.difference = await difference(run, expected);
    if (errors.length) throw new Error(`${errors.length} errors of WebGPU, the first: ${errors[0]}`);
    return { run, counters, result };
}

/** One round: ms a step, and what a step does. */
async function round({ run, counters, result }, count) {
    countFor(result.library);
    const before = { ...counters };
    const start = performance.now();
    await steps(run, count);
    result.dispatches = (counters.dispatches - before.dispatches) / count;
    result.submissions = (counters.submissions - before.submissions) / count;
    await wait(run);
    result.times.push((performance.now() - start) / count);
    result.bytesEnd = counters.bytes;
}

globalThis.bench = async ({ tensors, length, rounds, steps: count, only }) => {
    const input = problem(tensors, length);
    const expected = reference(input, checkedAfter);
    const [prepared, failed] = [[], []];
    for (const library of libraries.filter(({ name }) => !only || only.includes(name))) {
        try {
            prepared.push(await prepare(library, input, expected));
        } catch (error) {
            failed.push({ library: library.name, error: `${error?.stack ?? error}` });
        }
    }
    for (let i = 0; i < rounds; i++) {
        for (const each of prepared) await round(each, count);
        prepared.push(prepared.shift());
    }
    const results = prepared.map(({ result }) => result);
    return libraries.flatMap(({ name }) => [...results, ...failed].filter(({ library }) => library === name));
};
