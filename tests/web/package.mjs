// node tests/web/package.mjs [PART OF A NAME]: the package's tests in headless Chromium, in a window and in a worker;
// its example; what it says of a machine without a GPU. `src/js/build` makes the package.

import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { open } from './chromium.mjs';

const root = join(fileURLToPath(new URL('.', import.meta.url)), '../..');
const folder = join(root, 'target/web-test');
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
cpSync(join(root, 'target/npm'), join(folder, 'pkg'), { recursive: true });
for (const name of ['tests.mjs', 'worker.js']) cpSync(join(fileURLToPath(new URL('.', import.meta.url)), name), join(folder, name));
cpSync(join(root, 'src/js/example.mjs'), join(folder, 'example.mjs'));
writeFileSync(join(folder, 'index.html'), `<!doctype html><title>tests</title><link rel="icon" href="data:,">
<script type="importmap">{ "imports": { "wgpu-optim": "./pkg/index.js" } }</script>`);

const only = process.argv[2] ?? '';
let [passed, failed] = [0, 0];
const note = (line) => {
    line.startsWith('ok') ? passed++ : failed++;
    console.log(line);
};
const test = async (name, body) => {
    if (!name.includes(only)) return;
    try {
        note(`ok ${name}: ${await body()}`);
    } catch (error) {
        note(`FAILED ${name}: ${error.message}`);
    }
};
const ensure = (held, said) => {
    if (!held) throw new Error(said);
    return said;
};

const { page, problems, close } = await open(folder);
await page.goto('http://localhost/');
const { lines } = await page.evaluate(async (only) => {
    const { Optimizer } = await import('./pkg/index.js');
    const { run } = await import('./tests.mjs');
    const newDevice = async () => (await navigator.gpu.requestAdapter()).requestDevice();
    return run({ Optimizer, newDevice, only });
}, only);
lines.forEach(note);
const inWorker = await page.evaluate((only) => new Promise((resolve, reject) => {
    const worker = new Worker(`./worker.js#${encodeURIComponent(only)}`, { type: 'module' });
    worker.onerror = () => reject(new Error('the worker failed'));
    worker.onmessage = ({ data }) => resolve(data);
}), only);
inWorker.lines.forEach((line) => note(`${line}, in a worker`));
await test('a software adapter, in a worker', async () => ensure(/software adapter/.test(inWorker.why), inWorker.why));
await test("the README's example", async () => {
    const logged = page.waitForEvent('console', (message) => message.type() === 'log');
    await page.evaluate(() => import('./example.mjs'));
    const [w] = await Promise.all((await logged).args().map((arg) => arg.evaluate((x) => x[0] ?? x)));
    return ensure(Math.abs(w - 3) < 0.1, `it ends at ${w}`);
});
const why = (page) => page.evaluate(async () => (await import('./pkg/index.js')).Optimizer.whyNoGpu());
await test('a software adapter', async () => {
    const said = await why(page);
    return ensure(/swiftshader.*software adapter/.test(said), said);
});
await close();
// Nothing that the tests provoke reaches the console: errors are caught where they are made.
await test('the console is silent', async () => ensure(problems.length === 0, problems.join('; ') || 'no error'));

await test('no adapter', async () => {
    const { page, close } = await open(folder, { gpu: false });
    await page.goto('http://localhost/');
    const said = await why(page);
    await close();
    return ensure(/no adapter|no WebGPU/.test(said), said);
});
await test('an insecure page', async () => {
    const { page, close } = await open(folder, { hosts: ['insecure.test'] });
    await page.goto('http://insecure.test/');
    const said = await why(page);
    await close();
    return ensure(said?.includes('not secure'), said);
});
console.log(`${passed} passed, ${failed} failed in Chromium`);
process.exit(failed ? 1 : 0);
