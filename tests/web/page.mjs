// Drives the page that examples/web/build assembles, in Chromium on SwiftShader.
//
//   node tests/web/page.mjs                        about a minute; says what it found, fails if it is wrong
//   node tests/web/page.mjs --shots target/shots   also pictures of each state, wide and narrow, light and dark

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { open } from './chromium.mjs';

const { values: { shots, folder } } = parseArgs({
    options: { shots: { type: 'string' }, folder: { type: 'string', default: 'target/page' } },
});
// Not at the root of its server: all addresses must be relative.
const BASE = '/some/where/';

const began = performance.now();
const say = (text) => console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(5)} s  ${text}`);

// Asks until the answer is true. Not page.waitForFunction, which the page's content security policy forbids.
async function until(what, seconds, ask) {
    const end = performance.now() + 1000 * seconds;
    while (!await ask()) {
        assert(performance.now() < end, `waited ${seconds} s until ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
}

async function load(page, query) {
    await page.goto(`http://localhost${BASE}${query}`);
    await until('the page is ready', 20, () => page.evaluate(() => 'ready' in document.documentElement.dataset));
}

// The cells of a rule's row: [rate, …].
async function cells(page, part, rule) {
    const row = page.locator(`#${part} .rules tr`).filter({ has: page.getByText(rule, { exact: true }) });
    const texts = await row.locator('td').allTextContents();
    return [await row.locator('input[inputmode]').inputValue(), ...texts.slice(1)];
}

async function pictures(page, name) {
    if (!shots) return;
    mkdirSync(shots, { recursive: true });
    for (const width of [1200, 390]) {
        for (const colorScheme of ['light', 'dark']) {
            await page.setViewportSize({ width, height: 900 });
            await page.emulateMedia({ colorScheme });
            // Drawings follow with the next frame.
            await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
            await page.screenshot({ path: join(shots, `${name}-${width}-${colorScheme}.png`), fullPage: true });
        }
    }
    await page.setViewportSize({ width: 1200, height: 900 });
    await page.emulateMedia({ colorScheme: 'light' });
}

async function narrow(page) {
    await page.setViewportSize({ width: 360, height: 740 });
    const wide = await page.evaluate(() => [...document.querySelectorAll('body *')]
        .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5)
        .filter((element) => !element.matches('.skip, .hidden'))
        .map((element) => `${element.tagName}#${element.id}`));
    const scrolls = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert(!scrolls && wide.length === 0, `wider than 360 px: ${wide}`);
    await page.setViewportSize({ width: 1200, height: 900 });
    say('no horizontal scrolling at 360 px');
}

async function walks(page) {
    const done = () => page.locator('#walk-status').textContent();
    await page.click('#walk');
    await until('the rules have walked', 20, async () => (await done()).includes('300 steps'));
    for (const rule of ['sgd', 'momentum', 'adagrad', 'rmsprop', 'adam', 'lion']) {
        const [rate, f, steps] = await cells(page, 'walk-rules', rule);
        say(`ravine: ${rule} at ${rate} ends with f = ${f} after ${steps} steps`);
        // At the start, f is 40.
        assert(Number(f) < 0.4 && steps === '300', `${rule} on the ravine: ${f} after ${steps}`);
    }
    await pictures(page, 'trajectories');

    await page.emulateMedia({ reducedMotion: 'reduce' });
    // Another landscape, one more rule, a start by the keys.
    await page.selectOption('#landscape', 'Himmelblau');
    await page.selectOption('#walk-rules select', 'nadam');
    await page.fill('#steps', '100');
    await page.click('#walk-rules .add button');
    await page.focus('#picture');
    for (const key of ['ArrowRight', 'ArrowUp', 'Shift+ArrowUp']) await page.keyboard.press(key);
    assert.match(await page.getAttribute('#picture', 'aria-label'), /x = -0\.15, y = -0\.3\./);
    await page.keyboard.press('Enter');
    const nadam = () => cells(page, 'walk-rules', 'nadam');
    await until('they have walked again', 20, async () => (await nadam())[2] === '100');
    const [, f] = await nadam();
    assert(f !== '' && Number(f) < 2, `nadam on Himmelblau: ${f}`);
    assert.match(await done(), /After 100 steps on Himmelblau, f: .*nadam/);
    await page.emulateMedia({ reducedMotion: 'no-preference' });
    await page.click('#picture', { position: { x: 40, y: 40 } });
    assert.match(await page.getAttribute('#picture', 'aria-label'), /x = -4\./);
    await page.click('#walk-pause');
    assert.equal(await page.textContent('#walk-pause'), 'Continue');
    await page.click('#walk-pause');
    await page.fill('#walk-rules input[inputmode] >> nth=0', '');
    await page.click('#walk');
    assert.match(await page.textContent('#walk-error'), /rate of sgd/);
    say(`Himmelblau: nadam ends with f = ${f}; keys, clicks, pause and a wrong rate work`);
}

async function training(page) {
    const stat = () => page.textContent('#train-stat');
    await until('it trains', 20, async () => /steps a second/.test(await stat()));
}

async function trains(page, where, epochs, rules) {
    for (const box of await page.locator('#train-rules input[type=checkbox]').all()) await box.setChecked(false);
    for (const rule of rules) {
        const box = page.locator('#train-rules').getByLabel(rule, { exact: true });
        if (await box.count() === 1) {
            await box.check();
        } else {
            await page.selectOption('#train-rules select', rule);
            await page.click('#train-rules .add button');
        }
    }
    await page.fill('#epochs', String(epochs));
    await page.click('#train');
    const stat = () => page.textContent('#train-stat');
    await training(page);
    await page.click('#train-pause');
    await page.waitForTimeout(300);
    const paused = await stat();
    await page.waitForTimeout(700);
    assert.equal(await stat(), paused, 'it went on while it was paused');
    await page.click('#train-pause');
    await until('it has trained', 120, async () => /^Done/.test(await stat()) || page.isVisible('#train-error'));
    assert(!await page.isVisible('#train-error'), await page.textContent('#train-error'));
    for (const rule of rules) {
        const [rate, loss, accuracy] = await cells(page, 'train-rules', rule);
        say(`MNIST on ${where}: ${rule} at ${rate}: loss ${loss}, accuracy ${accuracy} after ${epochs} epochs`);
        if (rule === 'adam') assert(parseFloat(accuracy) >= 90, `adam: ${accuracy}`);
    }
    const count = parseInt(await page.textContent('#wrong-count'), 10);
    const rule = await page.inputValue('#wrong-rule');
    const right = parseFloat((await cells(page, 'train-rules', rule))[2]);
    assert(Math.abs(100 - count / 20 - right) < 0.06, `${count} of 2,000 wrong at ${right} %`);
    assert.equal(await page.locator('#digits li').count(), Math.min(count, 48));
    say(`MNIST on ${where}: ${await stat()}; ${count} wrong digits of ${rule}`);
}

async function losesItsDevice(page) {
    await page.fill('#epochs', '50');
    await page.click('#train');
    await training(page);
    await page.evaluate(() => globalThis.lastDevice.destroy());
    await until('it says that the device is lost', 20, () => page.isVisible('#train-error'));
    const text = await page.textContent('#train-error');
    assert.match(text, /device was lost/);
    say(`a lost device: ${text}`);
    await page.fill('#epochs', '1');
    await page.click('#train');
    await training(page);
    await page.click('#train-stop');
    await until('it has stopped', 20, async () => await page.textContent('#train-stat') === 'Stopped');
}

async function checks(page, device) {
    await page.click('#check-start');
    await until('the check is done', 120, async () => {
        return await page.isVisible('#check-error') || await page.isEnabled('#check-save');
    });
    assert(!await page.isVisible('#check-error'), await page.textContent('#check-error'));
    const stat = await page.textContent('#check-stat');
    say(`check: ${stat}`);
    const [files, passed, failed, skipped] = stat.match(/\d+/g).map(Number);
    const download = page.waitForEvent('download');
    await page.click('#check-save');
    const text = readFileSync(await (await download).path(), 'utf8').trim();
    const lines = text.split('\n').map((line) => JSON.parse(line));
    const { device: said, ...counts } = lines.pop();
    assert.deepEqual(counts, { passed, failed, skipped });
    assert(said.includes(device) && stat.includes(said));
    assert.equal(lines.length, files);
    assert.equal(passed + failed + skipped, files);
    assert.equal(failed, 0, JSON.stringify(lines.filter(({ verdict }) => verdict === 'failed')));
    // The archive has only files that the crate can run.
    assert.equal(passed, files);
    assert(files > 250);
    // f32 files are run on each device, and the worst one is named.
    assert(lines.some(({ engine }) => engine.includes(device)), `nothing ran on ${device}`);
    assert.equal(await page.locator('#check-rows tr').count(), files);
    await page.fill('#check-filter', 'adamax passed');
    const shown = await page.locator('#check-rows tr').count();
    assert(shown > 0 && shown < files / 4, `${shown} rows of adamax`);
    await page.fill('#check-filter', '');
}

// Opens a browser for `drive`, and fails if the page had problems.
async function browse(options, drive) {
    const { context, page, problems, close } = await open(folder, { base: BASE, ...options });
    try {
        await drive(page, context);
        // Chromium itself warns where a page asks for an adapter and there is none.
        assert.deepEqual(problems.filter((problem) => !problem.includes('No available adapters')), []);
    } finally {
        await close();
    }
}

// With WebGPU, on SwiftShader.
async function onGpu(page, context) {
    await context.addInitScript(() => {
        if (!globalThis.GPUAdapter) return;
        const { requestDevice } = GPUAdapter.prototype;
        GPUAdapter.prototype.requestDevice = async function (...options) {
            return globalThis.lastDevice = await requestDevice.apply(this, options);
        };
    });
    await load(page, '');
    const usual = await page.textContent('#device-text');
    say(`device: ${usual}`);
    assert.match(usual, /^CPU.*because.*software/);
    assert(await page.isChecked('input[value=cpu]'));
    await page.check('input[value=gpu]');
    assert.match(await page.textContent('#device-text'), /chosen by hand/);

    await load(page, '?device=gpu&epochs=2');
    assert(await page.isChecked('input[value=gpu]'));
    assert.equal(await page.inputValue('#epochs'), '2');
    await pictures(page, 'start');
    await narrow(page);
    await walks(page);
    await trains(page, 'the GPU', 1, ['adam']);
    await checks(page, 'swiftshader');
    await narrow(page);
    await pictures(page, 'end');
    await losesItsDevice(page);
    await pictures(page, 'lost');
}

// Without WebGPU.
async function onCpu(page) {
    await load(page, '?device=gpu');
    const text = await page.textContent('#device-text');
    say(`device: ${text}`);
    assert.match(text, /^CPU/);
    assert(!await page.isVisible('#device-choice'));
    await trains(page, 'the CPU', 2, ['sgd', 'momentum', 'adam', 'lion']);
    await checks(page, 'CPU');
    await pictures(page, 'cpu');
}

await browse({ gpu: true }, onGpu);
await browse({ gpu: false }, onCpu);
say('all is right');
