// node tests/web/types.mjs: the package's types, by TypeScript's compiler; and no `any` in them.

import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(fileURLToPath(new URL('.', import.meta.url)), '../..');
const [tools, folder] = [join(root, 'target/web-tools/node_modules'), join(root, 'target/web-types')];
rmSync(folder, { recursive: true, force: true });
mkdirSync(join(folder, 'node_modules/@webgpu'), { recursive: true });
cpSync(join(root, 'target/npm'), join(folder, 'node_modules/wgpu-optim'), { recursive: true });
cpSync(join(tools, '@webgpu/types'), join(folder, 'node_modules/@webgpu/types'), { recursive: true });
cpSync(join(fileURLToPath(new URL('.', import.meta.url)), 'types.ts'), join(folder, 'types.ts'));
const compilerOptions = {
    strict: true, noEmit: true, noUncheckedIndexedAccess: true, target: 'es2022', module: 'nodenext', lib: ['es2022', 'esnext.disposable', 'dom'],
    types: ['@webgpu/types'], skipLibCheck: false,
};
writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['types.ts'] }));
writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
try {
    execFileSync(process.execPath, [join(tools, 'typescript/bin/tsc'), '-p', folder], { encoding: 'utf8' });
} catch (error) {
    console.log(error.stdout);
    process.exit(1);
}
const types = readFileSync(join(root, 'target/npm/wgpu_optim.d.ts'), 'utf8').split('export type InitInput')[0];
const loose = types.split('\n').filter((line) => /\bany\b/.test(line.replace(/\/\*.*|^\s*\*.*|\/\/.*/, '')));
loose.forEach((line) => console.log(`any: ${line}`));
console.log(`types: ${types.split('\n').length} lines, ${loose.length} with any`);
process.exit(loose.length ? 1 : 0);
