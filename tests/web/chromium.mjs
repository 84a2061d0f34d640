// Headless Chromium with WebGPU on SwiftShader, and a folder at http://localhost/ without a server.

import { createRequire } from 'node:module';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
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

// Serves `folder` under `base` of these hosts. What the page should not do is in `problems`: errors and warnings of the
// console, errors that nobody caught, requests to other hosts or for files that are missing. With `gpu: false`, there
// is no WebGPU.
export async function open(folder, { base = '/', gpu = true, hosts = ['localhost'], ...options } = {}) {
    const profile = mkdtempSync(join(tmpdir(), 'chromium-'));
    const context = await chromium.launchPersistentContext(profile, {
        executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
        headless: true,
        args: [...FLAGS, ...gpu ? ['--enable-unsafe-webgpu'] : ['--disable-features=WebGPU', '--disable-gpu']],
        ...options,
    });
    const problems = [];
    await context.route('**/*', (route) => {
        const url = new URL(route.request().url());
        const path = decodeURIComponent(url.pathname);
        if (!hosts.includes(url.hostname) || !path.startsWith(base)) {
            problems.push(`foreign request: ${url}`);
            return route.abort();
        }
        const file = normalize(join(folder, path.slice(base.length) || 'index.html'));
        try {
            return route.fulfill({ body: readFileSync(file), contentType: TYPES[extname(file)] });
        } catch {
            problems.push(`no such file: ${path}`);
            return route.fulfill({ status: 404, body: 'no such file' });
        }
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
    return { context, page: context.pages()[0] ?? await context.newPage(), problems, close };
}
