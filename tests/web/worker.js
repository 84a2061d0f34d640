// The package's tests in a worker.
import { Optimizer } from './pkg/index.js';
import { run } from './tests.mjs';

const newDevice = async () => (await navigator.gpu.requestAdapter()).requestDevice();
postMessage(await run({ Optimizer, newDevice, only: decodeURIComponent(location.hash.slice(1)) }));
