// Runs the suite's tests in Chromium one after another, in a new browser after one that panicked or took too long.
//
//   node tests/web/suite/run.mjs [PART OF A NAME…]

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { open } from '../chromium.mjs';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const folder = path('../../../target/web-suite/page');
// Seconds. The longest took two minutes beside a build, on two cores.
const LIMIT = 400;

const skipped = new Map();
for (const line of readFileSync(path('skipped'), 'utf8').split('\n')) {
    const [name, reason] = line.split('\t');
    if (reason) skipped.set(name, reason);
}

async function start() {
    const browser = await open(folder);
    await browser.page.goto('http://localhost/');
    const end = performance.now() + 60_000;
    for (;;) {
        const names = await browser.page.evaluate(() => globalThis.suite?.names);
        if (names) return { ...browser, names };
        if (browser.problems.length > 0 || performance.now() > end) {
            await browser.close();
            throw new Error(`the page does not start: ${browser.problems.join('\n')}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

// The adapter's label before the name is always the same here.
const plain = (name) => name.replace(/^[^:]*\/[^:]*::/, '');
const wanted = (name) => process.argv.length < 3 || process.argv.slice(2).some((part) => name.includes(part));

let browser = await start();
const names = browser.names.map(plain);
for (const name of skipped.keys()) {
    if (!names.includes(name)) throw new Error(`skipped: no test is called ${name}`);
}
const failed = [];
let passed = 0, left = 0;
const fail = (name, ms, message) => {
    failed.push(name);
    console.log(`FAILED ${name}, ${ms} ms: ${message}`);
};

for (const [number, name] of names.entries()) {
    if (!wanted(name)) continue;
    if (skipped.has(name)) {
        left += 1;
        console.log(`skip ${name}: ${skipped.get(name)}`);
        continue;
    }
    browser ??= await start();
    browser.problems.length = 0;
    const began = performance.now();
    const ms = () => Math.round(performance.now() - began);
    let timer;
    try {
        const late = new Promise((_, reject) => {
            timer = setTimeout(() => reject(new Error(`longer than ${LIMIT} s`)), 1000 * LIMIT);
        });
        const run = browser.page.evaluate((number) => globalThis.suite.run(number), number);
        const { code, text } = await Promise.race([run, late]);
        if (code === 0) {
            passed += 1;
            console.log(`ok ${name}, ${ms()} ms`);
        } else {
            // Failed, or ignored for want of an adapter.
            fail(name, ms(), text);
        }
    } catch (e) {
        fail(name, ms(), [e.message, ...browser.problems].join('\n'));
        await browser.close();
        browser = undefined;
    } finally {
        clearTimeout(timer);
    }
}
await browser?.close();
console.log(`${passed} passed, ${failed.length} failed, ${left} skipped`);
process.exitCode = failed.length > 0 || passed === 0 ? 1 : 0;
