import init, { Optimizer } from './wgpu_optim.js';

await init();
export { Optimizer };
