// The JavaScript examples of the pages, run as they are printed.
//
// Each block runs as a script of its own, in the folder that has the partner's files.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { FILES, run } from './suite.mjs';

const SUITES = fileURLToPath(new URL('.', import.meta.url));
const ROOT = join(await realpath(SUITES), '../../..');
// Beside the packages, because Node looks for them from the script on.
const scripts = await mkdtemp(join(SUITES, '../../examples-'));

async function examples(page) {
  const blocks = (await readFile(join(ROOT, page), 'utf8')).split('```js\n').slice(1);
  return blocks.map((block, number) => {
    const script = block.split('```')[0];
    const runs = async () => {
      const file = join(scripts, `${number}.mjs`);
      await writeFile(file, script);
      const options = { cwd: dirname(FILES.policy), timeout: 60_000 };
      const { stdout } = await promisify(execFile)(process.execPath, [file], options);
      assert(stdout, script);
    };
    return Object.assign(runs, { title: `${page}: ${script.trim().split('\n').at(-1)}` });
  });
}

const cases = [...(await examples('README.md')), ...(await examples('docs/node.md'))];
assert(cases.length >= 5, 'the pages have lost their examples');
await run('examples', cases);
await rm(scripts, { recursive: true });
