// Headless Chromium with WebGPU on SwiftShader, and a folder at http://localhost/ without a server.

import { createRequire } from 'node:module';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(fileURLToPath(new URL('.', import.meta.url)), '../..');
const { chromium } = createRequire(join(root, 'target/web-tools/package.json'))('playwright-core');

const FLAGS = [
    '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
];
const TYPES = {
    '.css': 'text/css', '.gz': 'application/gzip', '.html': 'text/html', '.js': 'text/javascript',
    '.json': 'application/json', '.mjs': 'text/javascript', '.wasm': 'application/wasm', '.wgsl': 'text/plain',
};

// Serves `folder`, or the first of several that has a file, under `base` of these hosts. What the page should not do is in `problems`: errors and warnings of the
// console, errors that nobody caught, requests to other hosts or for files that are missing. With `gpu: false`, there
// is no WebGPU.
export async function open(folder, { base = '/', gpu = true, hosts = ['localhost'], flags = [], ...options } = {}) {
    const profile = mkdtempSync(join(tmpdir(), 'chromium-'));
    const context = await chromium.launchPersistentContext(profile, {
        executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
        headless: true,
        args: [...FLAGS, ...flags, ...gpu ? ['--enable-unsafe-webgpu'] : ['--disable-features=WebGPU', '--disable-gpu']],
        ...options,
    });
    const problems = [];
    // The files that pages have asked for.
    const loaded = new Set();
    await context.route('**/*', (route) => {
        const url = new URL(route.request().url());
        const path = decodeURIComponent(url.pathname);
        if (!hosts.includes(url.hostname) || !path.startsWith(base)) {
            problems.push(`foreign request: ${url}`);
            return route.abort();
        }
        const files = [folder].flat().map((one) => normalize(join(one, path.slice(base.length) || 'index.html')));
        const file = files.find((one) => existsSync(one));
        if (!file) {
            problems.push(`no such file: ${path}`);
            return route.fulfill({ status: 404, body: 'no such file' });
        }
        loaded.add(file);
        return route.fulfill({ body: readFileSync(file), contentType: TYPES[extname(file)] });
    });
    const watch = (page) => {
        page.on('console', (message) => {
            if (['error', 'warning'].includes(message.type())) problems.push(`${message.type()}: ${message.text()}`);
        });
        page.on('pageerror', (error) => problems.push(`uncaught: ${error.message}`));
    };
    context.pages().forEach(watch);
    context.on('page', watch);
    const close = async () => {
        await context.close();
        rmSync(profile, { recursive: true, force: true });
    };
    return { context, page: context.pages()[0] ?? await context.newPage(), problems, loaded, close };
}
