// The page of the suite: `suite.names`, and `suite.run(number)`.

import init from './suite.js';
import { told, uses } from './host.mjs';

// A browser's adapter makes one device; the suite makes many on the one that it has found.
const { requestDevice } = GPUAdapter.prototype;
GPUAdapter.prototype.requestDevice = async function (descriptor) {
    return requestDevice.call(await navigator.gpu.requestAdapter(), descriptor);
};

const wasm = await init();
uses(wasm);
wasm.suite_watch_panics();

// What was told during a call, and what the call returned; a trap rejects with what was told.
async function call(name, ...numbers) {
    told.length = 0;
    try {
        const code = await WebAssembly.promising(wasm[name])(...numbers);
        return { code, text: told.join('\n') };
    } catch (e) {
        throw new Error(told.join('\n') || `${e}\n${e.stack}`);
    }
}

const names = (await call('suite_start')).text.split('\n');
globalThis.suite = { names, run: (number) => call('suite_run', number) };
