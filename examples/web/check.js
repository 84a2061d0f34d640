// The part "Check this GPU": golden trajectories, one file after the other.

import { file, gunzip } from './data.js';
import { guarded } from './device.js';

const ORDER = { failed: 0, skipped: 1, passed: 2 };
// What a screen reader is told of: every so many files.
const SAY = 50;

export function check(Check, devices) {
    const get = (id) => document.getElementById(id);
    const [start, stop, save, copy] = ['start', 'stop', 'save', 'copy'].map((name) => get(`check-${name}`));
    const [error, progress, stat, status] = ['error', 'progress', 'stat', 'status'].map((name) => get(`check-${name}`));
    const [result, rows, filter] = ['result', 'rows', 'filter'].map((name) => get(`check-${name}`));
    let results = [];
    let device = '';
    // Of the check that goes on.
    let turn = {};

    function counts() {
        const of = (verdict) => results.filter((one) => one.verdict === verdict).length;
        return { passed: of('passed'), failed: of('failed'), skipped: of('skipped') };
    }

    const wbr = () => document.createElement('wbr');

    function row(one) {
        const made = document.createElement('tr');
        made.className = one.verdict;
        const texts = [one.verdict, one.file, one.verdict === 'skipped' ? '' : share(one.of_tolerance)];
        made.append(...texts.map((text) => Object.assign(document.createElement('td'), { textContent: text })));
        made.lastChild.className = 'number';
        // Long names break behind an underscore.
        made.children[1].replaceChildren(...one.file.split(/(?<=_)/).flatMap((part) => [part, wbr()]));
        const why = one.why ?? [one.engine, one.verdict === 'failed' && one.what].filter(Boolean).join(': ');
        if (why) made.children[1].append(Object.assign(document.createElement('small'), { textContent: why }));
        return made;
    }

    function share(part) {
        return Number.isFinite(part) ? `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %` : 'beyond';
    }

    function draw() {
        const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
        const text = (one) => `${one.verdict} ${one.file} ${one.engine ?? ''} ${one.why ?? ''}`.toLowerCase();
        const shown = results.filter((one) => words.every((word) => text(one).includes(word)));
        shown.sort((a, b) => ORDER[a.verdict] - ORDER[b.verdict] || (b.of_tolerance ?? 0) - (a.of_tolerance ?? 0));
        rows.replaceChildren(...shown.map(row));
        result.hidden = results.length === 0;
    }

    function summary(count) {
        const { passed, failed, skipped } = counts();
        const which = results.length < count ? `${results.length} of ${count} files` : `${count} files`;
        return `${which}: ${passed} passed, ${failed} failed, ${skipped} skipped, on ${device}`;
    }

    // Lines of JSON: an object a file, then one with the counts and the device.
    function lines() {
        return [...results, { ...counts(), device }].map((one) => `${JSON.stringify(one)}\n`).join('');
    }

    async function run(own, gpu) {
        const golden = new TextDecoder().decode(await gunzip(await file('golden.json.gz')));
        const session = await Check.start(gpu, golden);
        const files = session.files;
        const count = files.length;
        device = session.devices.join(', ');
        progress.max = count;
        let drawn = performance.now();
        for (let k = 0; k < count; k++) {
            const one = await session.run(files[k]);
            if (own.stopped) break;
            results.push(one);
            const now = performance.now();
            if (now - drawn > 100 || k + 1 === count) {
                drawn = now;
                progress.value = results.length;
                stat.textContent = summary(count);
                draw();
                await new Promise((resolve) => setTimeout(resolve));
            }
            if (results.length % SAY === 0) status.textContent = `${results.length} of ${count} files`;
        }
        session.free();
        // A lost device has said so, and another check may be under way.
        if (own !== turn || own.failed) return;
        stat.textContent = status.textContent = `${summary(count)}${own.stopped ? '. Stopped' : ''}.`;
        draw();
    }

    async function begin() {
        results = [];
        const own = turn = { stopped: false, failed: false };
        error.hidden = true;
        progress.hidden = false;
        progress.value = 0;
        [start.disabled, stop.disabled, save.disabled, copy.disabled] = [true, false, true, true];
        stat.textContent = 'Loading the trajectories …';
        draw();
        try {
            const gpu = await devices.device();
            await guarded(gpu, () => run(own, gpu));
        } catch (problem) {
            own.stopped = own.failed = true;
            error.textContent = problem?.message ?? String(problem);
            error.hidden = false;
            stat.textContent = '';
            draw();
        }
        progress.hidden = true;
        [start.disabled, stop.disabled] = [false, true];
        save.disabled = copy.disabled = results.length === 0;
    }

    start.addEventListener('click', begin);
    stop.addEventListener('click', () => turn.stopped = true);
    filter.addEventListener('input', draw);
    save.addEventListener('click', () => {
        const address = URL.createObjectURL(new Blob([lines()], { type: 'application/x-ndjson' }));
        Object.assign(document.createElement('a'), { href: address, download: 'wgpu-optim-check.jsonl' }).click();
        setTimeout(() => URL.revokeObjectURL(address), 1000);
    });
    copy.addEventListener('click', async () => {
        try {
            await navigator.clipboard.writeText(lines());
            copy.textContent = 'Copied';
        } catch {
            copy.textContent = 'The browser does not allow it';
        }
        setTimeout(() => copy.textContent = 'Copy JSON', 2000);
    });
}
