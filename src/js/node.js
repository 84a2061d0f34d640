import { readFileSync } from 'node:fs';
import { initSync, Optimizer } from './wgpu_optim.js';

initSync({ module: readFileSync(new URL('wgpu_optim_bg.wasm', import.meta.url)) });
export { Optimizer };
