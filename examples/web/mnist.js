// The part "MNIST": buttons, curves and wrong digits around training.js.

import { chart } from './canvas.js';
import { PIXELS, file, mnist as images } from './data.js';
import { guarded } from './device.js';
import { CpuNetwork } from './network_cpu.js';
import { GpuNetwork, Shared } from './network_gpu.js';
import { RuleTable, colour, short } from './rules.js';
import { Gate, train } from './training.js';

const DEFAULTS = ['sgd', 'momentum', 'adam'];
const BATCH = 64;
const SEED = 1;
// Rates for rules whose default is too low for a few epochs, or too high.
const RATES = [
    [/^sgd$/, 0.1], [/-ema$/, 0.5], [/^(momentum|nesterov)/, 0.05], [/^(lamb|novograd)/, 0.01], [/^lars/, 10],
    [/^lion$/, 1e-3],
    // With momentum, 0.01 is too high.
    [/^rmsprop-(.*momentum|graves)/, 1e-3],
];
// Wrong digits before "Show all".
const FEW = 48;

const count = (number) => number.toLocaleString('en');
const percent = (part) => `${(100 * part).toFixed(1)} %`;

// Where a value is between two, by the logarithm.
function logarithmic(bottom, top) {
    return (value) => Math.log(Math.max(value, 1e-9) / bottom) / Math.log(top / bottom);
}

export function mnist(Optimizer, devices, epochsAsked) {
    const get = (id) => document.getElementById(id);
    const [start, pause, stop] = ['train', 'train-pause', 'train-stop'].map(get);
    const [stat, error, status] = ['train-stat', 'train-error', 'train-status'].map(get);
    const [wrong, chosenRule, digits, more] = ['wrong', 'wrong-rule', 'digits', 'wrong-more'].map(get);
    const defaults = Object.fromEntries(Optimizer.rules().map(({ name, lr }) => [name, lr]));
    let runs = [];
    let gate = new Gate();
    let data = null;
    let epochs = 4;
    let lit = null;
    let meter = {};
    if (epochsAsked) get('epochs').value = epochs = epochsAsked;

    const series = (key) => runs.map((run) => {
        const strong = run.rule === lit;
        return { colour: colour(run.rule), points: run[key], strong, faint: lit !== null && !strong };
    });
    const drawLoss = chart(get('loss'), () => {
        const lowest = Math.min(0.2, ...runs.flatMap((run) => run.losses.map(([, loss]) => loss)));
        const bottom = [0.1, 0.05, 0.02, 0.01, 0.005, 0.002].find((value) => value <= lowest) ?? 0.001;
        const ticks = [2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001].filter((tick) => tick >= bottom);
        const labels = ticks.map((tick) => [tick, String(tick)]);
        return { series: series('losses'), xMax: epochs, place: logarithmic(bottom, 2.5), ticks: labels };
    });
    const drawAccuracy = chart(get('accuracy'), () => {
        // By errors: from 95 to 97.5 % is as far as from 90 to 95 %.
        const place = logarithmic(0.6, 0.02);
        const ticks = [0.5, 0.8, 0.9, 0.95, 0.98].map((part) => [1 - part, `${100 * part} %`]);
        const errors = series('accuracy').map((line) => ({
            ...line, points: line.points.map(([at, part]) => [at, Math.min(0.6, 1 - part)]),
        }));
        return { series: errors, xMax: epochs, place, ticks };
    });
    const draw = () => {
        drawLoss();
        drawAccuracy();
    };

    const table = new RuleTable(get('train-rules'), {
        names: Object.keys(defaults),
        chosen: DEFAULTS,
        columns: ['Loss', 'Accuracy'],
        rate: (rule) => (RATES.find(([names]) => names.test(rule)) ?? ['', defaults[rule]])[1],
        lit: (rule) => {
            lit = runs.some((run) => run.rule === rule) ? rule : null;
            draw();
        },
    });

    const tell = {
        loss(run, at, loss) {
            run.losses.push([at, loss]);
            table.show(run.rule, short(loss));
            draw();
        },
        tested(run, at, guesses) {
            run.guesses = guesses;
            const right = guesses.reduce((sum, guess, k) => sum + (guess === data.test.labels[k]), 0);
            run.accuracy.push([at, right / guesses.length]);
            table.show(run.rule, table.rows.get(run.rule).cells[0].textContent, percent(right / guesses.length));
            draw();
        },
        progress(at, steps) {
            const now = performance.now();
            meter.steps += steps;
            meter.all += steps;
            if (now - meter.since < 500) return;
            meter.rate = Math.round(1000 * meter.steps / (now - meter.since));
            Object.assign(meter, { steps: 0, since: now });
            stat.textContent = `Epoch ${at.toFixed(1)} of ${epochs} · ${count(meter.rate)} steps a second`;
        },
        diverged(run) {
            run.diverged = true;
            table.show(run.rule, 'diverged', '');
        },
    };

    async function network(device, wanted, shared) {
        const make = device ? GpuNetwork : CpuNetwork;
        return { ...wanted, losses: [], accuracy: [], network: await make.make(Optimizer, shared, wanted, SEED) };
    }

    async function run(own, device) {
        let shared;
        const mine = runs;
        try {
            data ??= await images();
            const wgsl = device && new TextDecoder().decode(await file('network.wgsl'));
            shared = device ? await Shared.make(device, wgsl, data, BATCH) : { data, batch: BATCH };
            const wanted = table.chosen();
            if (wanted.length === 0) throw new Error('Choose a rule.');
            for (const of of wanted) mine.push(await network(device, of, shared));
            meter = { steps: 0, all: 0, since: performance.now(), began: performance.now() };
            draw();
            return await train({ runs: mine, data, batch: BATCH, epochs, device, gate: own, tell });
        } finally {
            mine.forEach((run) => run.network.destroy());
            shared?.destroy?.();
        }
    }

    async function begin() {
        const own = gate = new Gate();
        error.hidden = wrong.hidden = true;
        [start.disabled, pause.disabled, stop.disabled] = [true, false, false];
        pause.textContent = 'Pause';
        stat.textContent = 'Getting ready …';
        runs = [];
        table.clear();
        try {
            epochs = Number(get('epochs').value);
            if (!Number.isInteger(epochs) || epochs < 1 || epochs > 50) throw new Error('Epochs: from 1 to 50.');
            const device = await devices.device();
            const began = performance.now();
            const complete = await guarded(device, () => run(own, device));
            const seconds = ((performance.now() - began) / 1000).toFixed(1);
            const where = device ? devices.name : 'the CPU';
            const rate = `, ${count(Math.round(1000 * meter.all / (performance.now() - meter.began)))} steps a second`;
            stat.textContent = complete ? `Done in ${seconds} s on ${where}${rate}` : 'Stopped';
            summarize(complete);
        } catch (problem) {
            own.stop();
            error.textContent = problem?.message ?? String(problem);
            error.hidden = false;
            stat.textContent = '';
        }
        [start.disabled, pause.disabled, stop.disabled] = [false, true, true];
        draw();
    }

    // For readers of the screen, and the wrong digits for all.
    function summarize(complete) {
        const ends = runs.filter((run) => run.accuracy.length > 0).map((run) => (
            `${run.rule} ${run.diverged ? 'diverged' : percent(run.accuracy[run.accuracy.length - 1][1])}`
        ));
        status.textContent = `${complete ? 'Done' : 'Stopped'}. Accuracy: ${ends.join(', ')}.`;
        get('accuracy').ariaLabel = `Accuracy by epochs. Last: ${ends.join(', ')}`;
        const losses = runs.filter((run) => run.losses.length > 0);
        const last = losses.map((run) => `${run.rule} ${short(run.losses[run.losses.length - 1][1])}`);
        get('loss').ariaLabel = `Training loss by epochs. Last: ${last.join(', ')}`;
        const shown = runs.filter((run) => run.guesses && !run.diverged);
        if (shown.length === 0) return;
        const best = Math.max(...shown.map((run) => run.accuracy[run.accuracy.length - 1][1]));
        chosenRule.replaceChildren(...shown.map((run) => {
            return new Option(run.rule, run.rule, false, run.accuracy[run.accuracy.length - 1][1] === best);
        }));
        wrong.hidden = false;
        showWrong(FEW);
    }

    function showWrong(limit) {
        const { guesses } = runs.find((run) => run.rule === chosenRule.value);
        const { labels } = data.test;
        const missed = [...guesses.keys()].filter((k) => guesses[k] !== labels[k]);
        get('wrong-count').textContent =
            `${count(missed.length)} of ${count(guesses.length)}: the label, then the guess`;
        digits.replaceChildren(...missed.slice(0, limit).map((k) => digit(k, labels[k], guesses[k])));
        more.hidden = missed.length <= limit;
    }

    function digit(k, label, guess) {
        const item = document.createElement('li');
        const canvas = Object.assign(document.createElement('canvas'), { width: 28, height: 28 });
        const pixels = new ImageData(28, 28);
        for (let i = 0; i < PIXELS; i++) {
            pixels.data.set([0, 0, 0, data.test.images[k * PIXELS + i]], 4 * i);
        }
        canvas.getContext('2d').putImageData(pixels, 0, 0);
        canvas.ariaHidden = 'true';
        const text = document.createElement('span');
        text.textContent = `${label} → ${guess}`;
        item.append(canvas, text);
        item.ariaLabel = `A ${label}, taken for a ${guess}`;
        return item;
    }

    start.addEventListener('click', begin);
    stop.addEventListener('click', () => gate.stop());
    pause.addEventListener('click', () => {
        if (gate.paused) {
            Object.assign(meter, { steps: 0, since: performance.now() });
            gate.resume();
        } else {
            gate.pause();
        }
        pause.textContent = gate.paused ? 'Continue' : 'Pause';
    });
    chosenRule.addEventListener('change', () => showWrong(FEW));
    more.addEventListener('click', () => showWrong(Infinity));
    draw();
}
