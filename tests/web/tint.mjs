// node tests/web/tint.mjs: every composed shader through Tint, Chrome's compiler, and into a pipeline, on Dawn's null
// back end (npm `webgpu`), which needs no driver. `cargo test --test shaders` writes the texts.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const root = new URL('../../', import.meta.url);
const tools = createRequire(new URL('target/web-tools/', root));
const { create, globals } = await import(pathToFileURL(tools.resolve('webgpu')));
Object.assign(globalThis, globals);
// Dawn goes with this object.
globalThis.dawn = create(['backend=null']);
const adapter = await globalThis.dawn.requestAdapter();
const { maxStorageBuffersPerShaderStage } = adapter.limits;
const device = await adapter.requestDevice({ requiredLimits: { maxStorageBuffersPerShaderStage } });

const began = performance.now();
const all = JSON.parse(readFileSync(new URL(process.argv[2] ?? 'target/tmp/shaders.json', root), 'utf8'));
const texts = new Map(all.map((kernel) => [JSON.stringify(kernel.slice(1)), kernel]));
const said = [];
let [pipelines, large] = [0, 0];
for (const [name, entryPoint, constants, code] of texts.values()) {
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    for (const { type, lineNum, linePos, message } of messages) said.push(`${name}:${lineNum}:${linePos}: ${type}: ${message}`);
    try {
        await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint, constants } });
        pipelines++;
    } catch (error) {
        // More buffers than this device binds: the crate refuses such a configuration with that number.
        const [, needed] = /number of storage buffers \((\d+)\)/.exec(error.message) ?? [];
        if (needed > maxStorageBuffersPerShaderStage) large++;
        else said.push(`${name}: ${error.message}`);
    }
    const error = await device.popErrorScope();
    if (error) said.push(`${name}: ${error.message}`);
}
said.slice(0, 20).forEach((line) => console.log(line));
const seconds = ((performance.now() - began) / 1000).toFixed(1);
console.log(`${texts.size} different texts, ${pipelines} pipelines, ${large} with more than the ${
    maxStorageBuffersPerShaderStage} storage buffers that this device binds, ${said.length} errors and warnings, ${seconds} s`);
process.exit(said.length || pipelines < 500 ? 1 : 0);
