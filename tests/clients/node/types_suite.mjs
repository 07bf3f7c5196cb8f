// The declarations of the package `cleanroom`: they are right by themselves, and what `types.ts` writes fits
// them.
//
// Prints one line for each case and exits with 1 if one fails.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import { run } from './suite.mjs';

const folder = fileURLToPath(new URL('../..', import.meta.url));
const OPTIONS = '--noEmit --strict --module nodenext --target es2024 --preserveSymlinks --pretty false'.split(
  ' ',
);

function aProgramInTypeScriptIsRight() {
  const tsc = [`${folder}/node_modules/typescript/bin/tsc`, ...OPTIONS, 'suites/node/types.ts'];
  return new Promise((done, fail) => {
    execFile(process.execPath, tsc, { cwd: folder, timeout: 120_000 }, (error, stdout) => {
      // Declarations of others want those of Node, which nobody needs here.
      const ours = stdout.split('\n').filter((line) => /^(suites|node_modules\/cleanroom)\//.test(line));
      if (error && ours.length === 0 && !stdout.includes('node_modules/')) fail(error);
      else if (ours.length > 0) fail(new Error(ours.join('\n')));
      else done();
    });
  });
}

assert(process.env.CLEANROOM_ADDRESS, 'the declarations are those of the package');
await run('declarations', [aProgramInTypeScriptIsRight]);
