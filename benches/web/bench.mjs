// Times one Adam step of this package beside those of TensorFlow.js and jax-js, on WebGPU in a headless Chromium.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { open } from '../../tests/web/chromium.mjs';

const help = `usage: node benches/web/bench.mjs [options]

Times one Adam step of this package, of TensorFlow.js' WebGPU back end, and of jax-js under jit, in turn on one page of
a headless Chromium, on SwiftShader, and checks that all of them go where Adam in f64 goes. On first use it installs
the others, in fixed versions, and esbuild from npm into target/web-bench.

  --package DIR     this package, as src/js/build leaves it (default: target/npm)
  --only NAMES      some of the libraries: wgpu-optim,tfjs,jax-js
  --rounds N        rounds for each library (default: 5)
  --steps N         steps in a round (default: 20)
  --json            prints JSON instead of a table
  --help            prints this

Columns: median, least and most of the rounds in ms a step, each round with a wait for the device at its end; ms until
the first step is done, with loading and compiling; dispatches and submissions of a step; MiB of GPU buffers that are
not destroyed, after 5 steps and at the end; the largest difference from Adam in f64 after 10 steps; KiB that the page
loads, minified, raw and after gzip -9.
`;

const pinned = {
    '@jax-js/jax': '0.1.25',
    '@tensorflow/tfjs-backend-webgpu': '4.22.0',
    '@tensorflow/tfjs-core': '4.22.0',
    'esbuild': '0.28.2',
};

const cases = [{ tensors: 1, length: 1_000_000 }, { tensors: 200, length: 4096 }];
const tolerance = 1e-5;

const root = resolve(fileURLToPath(new URL('.', import.meta.url)), '../..');
const work = join(root, 'target/web-bench');
const site = join(work, 'site');

const { values: args } = parseArgs({
    options: {
        'package': { type: 'string', default: join(root, 'target/npm') },
        'only': { type: 'string' },
        'rounds': { type: 'string', default: '5' },
        'steps': { type: 'string', default: '20' },
        'json': { type: 'boolean', default: false },
        'help': { type: 'boolean', default: false },
    },
});

function install() {
    const text = JSON.stringify({ private: true, dependencies: pinned }, null, 4);
    const file = join(work, 'package.json');
    if (existsSync(join(work, 'node_modules')) && existsSync(file) && readFileSync(file, 'utf8') === text) return;
    mkdirSync(work, { recursive: true });
    rmSync(join(work, 'package-lock.json'), { force: true });
    writeFileSync(file, text);
    execFileSync('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund'], {
        cwd: work, stdio: ['ignore', 'ignore', 'inherit'],
    });
}

/** Bundles and minifies each library into a folder of its own, with only what libraries.js imports. */
async function bundle(directory) {
    const { build } = createRequire(join(work, 'package.json'))('esbuild');
    const sources = {
        'wgpu-optim': `export { Optimizer } from ${JSON.stringify(join(directory, 'index.js'))};`,
        'tfjs': `import '@tensorflow/tfjs-backend-webgpu';
            export { backend, ready, setBackend, slice, tensor1d, train, variable } from '@tensorflow/tfjs-core';`,
        'jax-js': 'export { defaultDevice, getWebGPUDevice, init, jit, numpy, tree } from \'@jax-js/jax\';',
    };
    rmSync(site, { recursive: true, force: true });
    for (const [name, contents] of Object.entries(sources)) {
        await build({
            stdin: { contents, resolveDir: work, sourcefile: `${name}.js` },
            outdir: join(site, name),
            entryNames: 'index',
            bundle: true,
            splitting: true,
            minify: true,
            format: 'esm',
            platform: 'browser',
            target: 'esnext',
            logLevel: 'error',
        });
    }
    copyFileSync(join(directory, 'wgpu_optim_bg.wasm'), join(site, 'wgpu-optim/wgpu_optim_bg.wasm'));
}

/** Opens the browser and calls `use` with a function that runs one case on a page of its own. */
async function withBrowser(use) {
    const here = fileURLToPath(new URL('.', import.meta.url));
    const { context, problems, loaded, close } = await open([site, here], { flags: ['--use-webgpu-adapter=swiftshader'] });
    try {
        await use(async options => {
            loaded.clear();
            const page = await context.newPage();
            await page.goto('http://localhost/bench.html');
            await page.waitForFunction(() => globalThis.bench);
            const results = await page.evaluate(options => globalThis.bench(options), options);
            await page.close();
            problems.splice(0).forEach(problem => console.error(problem.slice(0, 600)));
            return results.map(result => ({ ...result, ...sizes(loaded, result.library) }));
        }, context.browser()?.version());
    } finally {
        await close();
    }
}

/** Bytes of what the page has loaded of a library. */
function sizes(loaded, library) {
    const files = [...loaded].filter(file => file.startsWith(join(site, library, '/'))).map(file => readFileSync(file));
    const sum = numbers => numbers.reduce((a, b) => a + b, 0);
    return {
        raw: sum(files.map(file => file.length)),
        gzip: sum(files.map(file => gzipSync(file, { level: 9 }).length)),
    };
}

const median = numbers => {
    const sorted = [...numbers].sort((a, b) => a - b);
    return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
};

function table(results) {
    const rows = results.map(({ library, error, times, ...r }) => error ? [library, error] : [
        library, median(times).toFixed(2), Math.min(...times).toFixed(2), Math.max(...times).toFixed(2),
        r.first.toFixed(0), r.dispatches.toFixed(1), r.submissions.toFixed(1),
        (r.bytesWarm / 2 ** 20).toFixed(1), (r.bytesEnd / 2 ** 20).toFixed(1), r.difference.toExponential(1),
        (r.raw / 1024).toFixed(0), (r.gzip / 1024).toFixed(0),
    ]);
    const titles = ['library', 'median', 'least', 'most', 'first', 'dispatches', 'submissions',
        'MiB warm', 'MiB end', 'off', 'KiB', 'gzip'];
    const lines = [titles, ...rows.filter(row => row.length > 2)];
    const widths = titles.map((_, column) => Math.max(...lines.map(row => row[column].length)));
    const aligned = lines.map(row => row.map((cell, i) => i ? cell.padStart(widths[i]) : cell.padEnd(widths[i])));
    return [
        ...aligned.map(row => row.join('  ')),
        ...rows.filter(row => row.length === 2).map(([library, error]) => `${library} failed: ${error}`),
    ].join('\n');
}

async function main() {
    install();
    await bundle(resolve(args.package));
    const report = { versions: pinned, cases: [] };
    await withBrowser(async (run, version) => {
        report.chromium = version;
        for (const { tensors, length } of cases) {
            const results = await run({
                tensors, length, rounds: Number(args.rounds), steps: Number(args.steps), only: args.only?.split(','),
            });
            report.cases.push({ tensors, length, results });
            if (!args.json) console.log(`${tensors} × ${length}\n${table(results)}\n`);
            for (const { error, difference } of results) {
                if (error || !(difference <= tolerance)) process.exitCode = 1;
            }
        }
    });
    const versions = Object.entries(pinned).map(([name, version]) => `${name} ${version}`).join(', ');
    console.log(args.json ? JSON.stringify(report, null, 4) : `Chromium ${report.chromium}, ${versions}`);
}

if (args.help) console.log(help.trimEnd());
else await main();
