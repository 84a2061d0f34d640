// The package's tests in a worker.
import { Optimizer } from './pkg/index.js';
import { run } from './tests.mjs';

const newDevice = async () => (await navigator.gpu.requestAdapter()).requestDevice();
const found = await run({ Optimizer, newDevice, only: decodeURIComponent(location.hash.slice(1)) });
postMessage({ ...found, why: await Optimizer.whyNoGpu() });
