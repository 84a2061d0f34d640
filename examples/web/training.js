// The training loop, without anything that one sees.

import { shuffled } from './data.js';

// Losses are shown as the mean of this many batches.
const REPORT = 25;
// Tests an epoch.
const TESTS = 2;
const SLICE = 12;

// Lets the page draw and answer. Timers would wait 4 ms, and a second in a background tab.
function breathe() {
    return new Promise((resolve) => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => {
            port1.close();
            resolve();
        };
        port2.postMessage(null);
    });
}

// What the buttons hold: whether a run is paused or stopped.
export class Gate {
    stopped = false;
    paused = false;

    pause() {
        this.paused = true;
    }

    resume() {
        this.paused = false;
        this.wake?.();
    }

    stop() {
        this.stopped = true;
        this.resume();
    }

    // Returns whether to go on, once the run is not paused.
    async pass() {
        while (this.paused) await new Promise((resolve) => this.wake = resolve);
        return !this.stopped;
    }
}

// How many rounds go to the device before the next wait: about 25 ms of work, so that the page can draw between them.
// What it waits for are the rounds before the last ones, so that the device always has some to do.
class Pace {
    constructor(device) {
        Object.assign(this, { device, rounds: 0, size: 1, since: performance.now() });
    }

    async next() {
        if (!this.device) {
            if (performance.now() - this.since < SLICE) return;
            await breathe();
            this.since = performance.now();
            return;
        }
        if (++this.rounds < this.size) return;
        const submitted = this.device.queue.onSubmittedWorkDone();
        await this.before;
        this.before = submitted;
        const now = performance.now();
        const took = now - this.since;
        this.size = took < 15 ? Math.min(2 * this.size, 32) : took > 40 ? Math.max(1, this.size >> 1) : this.size;
        [this.since, this.rounds] = [now, 0];
        await breathe();
    }
}

// Trains the networks side by side, batch by batch. `runs`: [{ network, … }]; `tell` has the functions
// loss(run, epochs, value), tested(run, epochs, guesses), progress(epochs, steps), diverged(run). Returns whether it
// came to the end.
export async function train({ runs, data, batch, epochs, device, gate, tell }) {
    const batches = Math.ceil(data.train.labels.length / batch);
    const pace = new Pace(device);
    let live = [...runs];
    const test = async (at) => {
        for (const run of live) tell.tested(run, at, await run.network.guesses());
    };
    for (let epoch = 0; epoch < epochs; epoch++) {
        const order = shuffled(data.train.labels.length, 1 + epoch);
        live.forEach(({ network }) => network.start(order));
        let reported = 0;
        for (let done = 1; done <= batches; done++) {
            for (const { network } of live) await network.step();
            await pace.next();
            if (!await gate.pass()) return false;
            const at = epoch + done / batches;
            tell.progress(at, live.length);
            if (done % REPORT === 0 || done === batches) {
                for (const run of live) {
                    const losses = await run.network.losses(reported, done);
                    const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
                    if (Number.isFinite(mean)) tell.loss(run, at, mean);
                    else tell.diverged(run);
                }
                reported = done;
                live = live.filter((run) => !run.diverged);
                if (live.length === 0) return true;
            }
            const tests = (count) => Math.floor(count * TESTS / batches);
            if (tests(done) > tests(done - 1)) await test(at);
        }
    }
    return true;
}
