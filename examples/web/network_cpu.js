// The network in plain JavaScript, with Optimizer.cpu: for browsers without WebGPU. It has the methods of GpuNetwork.

import { CLASSES, LAYERS, PIXELS, initial } from './data.js';

const HIDDEN = LAYERS[0][1];

export class CpuNetwork {
    static async make(Optimizer, { data, batch }, { rule, lr }, seed) {
        const network = new CpuNetwork();
        const weights = initial(seed);
        const optimizer = await Optimizer.cpu({ rule, lr });
        for (const [name, values] of Object.entries(weights)) optimizer.add(name, values);
        const gradients = Object.fromEntries(
            Object.entries(weights).map(([name, values]) => [name, new Float32Array(values.length)]),
        );
        Object.assign(network, { optimizer, data, batch, weights, gradients });
        network.hidden = new Float32Array(batch * HIDDEN);
        network.logits = new Float32Array(batch * CLASSES);
        network.dHidden = new Float32Array(HIDDEN);
        return network;
    }

    start(order) {
        Object.assign(this, { order, cursor: 0, found: [] });
    }

    // The hidden units and logits of one image, in row `row` of the batch.
    forward(images, image, row) {
        const { w1, b1, w2, b2 } = this.weights;
        const hidden = this.hidden.subarray(row * HIDDEN, (row + 1) * HIDDEN);
        const logits = this.logits.subarray(row * CLASSES, (row + 1) * CLASSES);
        hidden.set(b1);
        for (let k = 0; k < PIXELS; k++) {
            const x = images[image * PIXELS + k] / 255;
            // Most pixels are 0.
            if (x === 0) continue;
            for (let j = 0, at = k * HIDDEN; j < HIDDEN; j++) hidden[j] += x * w1[at + j];
        }
        logits.set(b2);
        for (let k = 0; k < HIDDEN; k++) {
            // Not Math.max, which would hide NaN from the loss: NaN < 0 is false.
            if (hidden[k] < 0) hidden[k] = 0;
            for (let c = 0; c < CLASSES; c++) logits[c] += hidden[k] * w2[k * CLASSES + c];
        }
        return { hidden, logits };
    }

    // Adds one image's gradients and returns its loss.
    backward(images, image, label, row, count) {
        const { hidden, logits } = this.forward(images, image, row);
        const { w1, b1, w2, b2 } = this.gradients;
        const largest = Math.max(...logits);
        const own = logits[label];
        let total = 0;
        for (let c = 0; c < CLASSES; c++) total += Math.exp(logits[c] - largest);
        this.dHidden.fill(0);
        for (let c = 0; c < CLASSES; c++) {
            const d = (Math.exp(logits[c] - largest) / total - (c === label)) / count;
            b2[c] += d;
            for (let k = 0; k < HIDDEN; k++) {
                if (!(hidden[k] > 0)) continue;
                w2[k * CLASSES + c] += d * hidden[k];
                this.dHidden[k] += d * this.weights.w2[k * CLASSES + c];
            }
        }
        for (let j = 0; j < HIDDEN; j++) b1[j] += this.dHidden[j];
        for (let k = 0; k < PIXELS; k++) {
            const x = images[image * PIXELS + k] / 255;
            if (x === 0) continue;
            for (let j = 0, at = k * HIDDEN; j < HIDDEN; j++) w1[at + j] += x * this.dHidden[j];
        }
        return Math.log(total) + largest - own;
    }

    async step() {
        const { images, labels } = this.data.train;
        const batch = this.order.subarray(this.cursor, this.cursor + this.batch);
        this.cursor += this.batch;
        Object.values(this.gradients).forEach((gradient) => gradient.fill(0));
        let sum = 0;
        batch.forEach((image, row) => sum += this.backward(images, image, labels[image], row, batch.length));
        this.found.push(sum / batch.length);
        for (const [name, gradient] of Object.entries(this.gradients)) this.optimizer.writeGradient(name, gradient);
        this.optimizer.step();
        for (const name of Object.keys(this.weights)) this.weights[name] = await this.optimizer.read(name);
    }

    async losses(from, to) {
        return this.found.slice(from, to);
    }

    async guesses() {
        const { images, labels } = this.data.test;
        return Uint8Array.from(labels, (_, image) => {
            const { logits } = this.forward(images, image, 0);
            return logits.indexOf(Math.max(...logits));
        });
    }

    destroy() {
        this.optimizer.destroy();
    }
}
