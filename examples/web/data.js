// Files of this page, the images of MNIST, and random numbers that are the same in every run.

export const PIXELS = 784;
export const CLASSES = 10;

// A file beside this one.
export async function file(name) {
    const answer = await fetch(new URL(name, import.meta.url));
    if (!answer.ok) throw new Error(`${name}: the server answers ${answer.status} ${answer.statusText}`);
    return new Uint8Array(await answer.arrayBuffer());
}

// Unpacks gzip. Some servers say that a .gz file is only encoded so: the browser has unpacked that already.
export async function gunzip(bytes) {
    if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    return new Uint8Array(await new Response(stream).arrayBuffer());
}

// 8,000 images to train on and 2,000 to test on: { images, labels } each, PIXELS bytes an image.
export async function mnist() {
    const [images, labels] = await Promise.all(
        ['t10k-images-idx3-ubyte.gz', 't10k-labels-idx1-ubyte.gz'].map(async (name) => gunzip(await file(name))),
    );
    const word = (bytes, k) => new DataView(bytes.buffer).getUint32(4 * k);
    if (images.length !== 16 + 10000 * PIXELS || word(images, 0) !== 0x803 || labels.length !== 8 + 10000) {
        throw new Error('The files of MNIST are not those that this page comes with.');
    }
    const part = (from, to) => ({
        images: images.slice(16 + from * PIXELS, 16 + to * PIXELS),
        labels: labels.slice(8 + from, 8 + to),
    });
    return { train: part(0, 8000), test: part(8000, 10000) };
}

// Numbers in [0, 1): mulberry32.
function random(seed) {
    let state = seed >>> 0;
    return () => {
        state = state + 0x6d2b79f5 >>> 0;
        let x = Math.imul(state ^ state >>> 15, state | 1);
        x ^= x + Math.imul(x ^ x >>> 7, x | 61);
        return ((x ^ x >>> 14) >>> 0) / 2 ** 32;
    };
}

// 0 … length − 1 in a random order.
export function shuffled(length, seed) {
    const next = random(seed);
    const order = Uint32Array.from({ length }, (_, k) => k);
    for (let k = length - 1; k > 0; k--) {
        const other = Math.floor(next() * (k + 1));
        [order[k], order[other]] = [order[other], order[k]];
    }
    return order;
}

export const LAYERS = [[PIXELS, 128], [128, CLASSES]];

// Weights, inputs × outputs, uniform within ±√(6 / inputs) (He et al. 2015), and biases of 0, by name.
export function initial(seed) {
    const next = random(seed);
    return Object.fromEntries(LAYERS.flatMap(([inputs, outputs], k) => {
        const bound = Math.sqrt(6 / inputs);
        const weights = Float32Array.from({ length: inputs * outputs }, () => (2 * next() - 1) * bound);
        return [[`w${k + 1}`, weights], [`b${k + 1}`, new Float32Array(outputs)]];
    }));
}
