// node tests/web/node.mjs [PART OF A NAME]: the package's tests in Node, on Dawn (npm `webgpu`), and its example.
//
// VK_ICD_FILENAMES chooses the driver, e.g. Chromium's vk_swiftshader_icd.json. `src/js/build` makes the package.

import { cpSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { run } from './tests.mjs';

const root = new URL('../../', import.meta.url);
const tools = createRequire(new URL('target/web-tools/', root));
const { create, globals } = await import(pathToFileURL(tools.resolve('webgpu')));
Object.assign(globalThis, globals);
// Dawn goes with this object.
globalThis.dawn = create([]);

const { Optimizer } = await import(new URL('target/npm/node.js', root));
const adapter = () => globalThis.dawn.requestAdapter();
if (!await adapter()) {
    console.log('Dawn finds no adapter: set VK_ICD_FILENAMES');
    process.exit(1);
}
const { lines, failed } = await run({
    Optimizer, only: process.argv[2], newDevice: async () => (await adapter()).requestDevice(),
});
lines.forEach((line) => console.log(line));

/** The example of the README, as whoever installs the package has it. */
async function example() {
    const text = readFileSync(new URL('src/js/example.mjs', root), 'utf8');
    if (!readFileSync(new URL('src/js/README.md', root), 'utf8').includes(text)) throw new Error('the README has another');
    const folder = new URL('target/web-node/', root);
    mkdirSync(new URL('node_modules', folder), { recursive: true });
    cpSync(new URL('target/npm', root), new URL('node_modules/wgpu-optim', folder), { recursive: true });
    cpSync(new URL('src/js/example.mjs', root), new URL('example.mjs', folder));
    Object.defineProperty(globalThis, 'navigator', { value: { gpu: globalThis.dawn }, configurable: true });
    const { log } = console;
    const said = [];
    console.log = (...all) => said.push(all);
    try {
        await import(new URL('example.mjs', folder));
    } finally {
        console.log = log;
    }
    const [w, norm] = said.at(-1);
    if (!(w.length === 1000 && w.every((x) => Math.abs(x - 3) < 0.1) && norm > 0)) throw new Error(`${w.slice(0, 3)}, ${norm}`);
    return `ok the README's example ends at ${w[0]}`;
}

let wrong = failed;
console.log(await example().catch((error) => (wrong++, `FAILED the README's example: ${error.stack}`)));
const lone = await Optimizer.whyNoGpu();
if (!lone?.includes('Optimizer.on')) throw new Error(`whyNoGpu() says ${lone}`);
console.log(`${lines.length + 1 - wrong} passed, ${wrong} failed in Node ${process.versions.node}`);
process.exit(wrong ? 1 : 0);
