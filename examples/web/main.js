// Starts the page: loads the package, finds the device, sets up the three parts.
//
// In the URL: ?device=gpu or ?device=cpu chooses the device, ?epochs=1 the epochs of MNIST.

import { check } from './check.js';
import { Devices } from './device.js';
import { mnist } from './mnist.js';
import { trajectories } from './trajectories.js';

const get = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);

function choose(devices) {
    const text = () => get('device-text').textContent = devices.text();
    text();
    get('device-choice').hidden = !devices.hasGpu;
    for (const radio of document.querySelectorAll('input[name=device]')) {
        radio.checked = radio.value === devices.choice;
        radio.addEventListener('change', () => {
            devices.choice = radio.value;
            text();
        });
    }
}

try {
    const { Optimizer } = await import('./pkg/index.js');
    const { Check } = await import('./pkg/wgpu_optim.js');
    trajectories(Optimizer);
    const devices = await Devices.find(Optimizer, asked.get('device'));
    choose(devices);
    mnist(Optimizer, devices, Number(asked.get('epochs')));
    check(Check, devices);
    document.documentElement.dataset.ready = '';
} catch (problem) {
    get('page-error').textContent = `The page could not start: ${problem?.message ?? problem}`;
    get('page-error').hidden = false;
    get('device-text').textContent = 'Unknown';
}
