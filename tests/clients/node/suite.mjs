// What the suites share: the clients, and the run of the cases.
//
// CLEANROOM_BASE_URL (with `/v1`) leads the official clients, unmodified, to a server or the local proxy.
// Without it, CLEANROOM_ADDRESS, CLEANROOM_POLICY and CLEANROOM_KEY lead them, as unmodified, through the
// fetch of a channel of the package `cleanroom`.
import * as anthropic from '@anthropic-ai/sdk';
import * as openai from 'openai';

export const API_KEY = "the partner's key proves who it is; this one is not looked at";
export const ADDRESS = process.env.CLEANROOM_ADDRESS;
export const FILES = { policy: process.env.CLEANROOM_POLICY, key: process.env.CLEANROOM_KEY };

const url = process.env.CLEANROOM_BASE_URL;
export const channel = url ? undefined : new (await import('cleanroom')).Channel(ADDRESS, FILES);
const options = { apiKey: API_KEY, timeout: 60_000, fetch: channel?.fetch };

// What clients need whose base URL has `/v1`, and those whose base URL has not.
export const OPENAI = { ...options, baseURL: url ?? channel.baseURL };
export const ANTHROPIC = { ...options, baseURL: url?.replace(/\/v1$/, '') ?? channel.origin };

export const clients = { openai: new openai.OpenAI(OPENAI), anthropic: new anthropic.Anthropic(ANTHROPIC) };
export const CLASSES = { openai, anthropic };

// Prints one line for each case, and ends the process with 1 if one fails.
export async function run(name, cases) {
  let failed = 0;
  for (const each of cases) {
    const title = each.title ?? each.name.replace(/([A-Z])/g, (letter) => ` ${letter.toLowerCase()}`);
    const start = performance.now();
    try {
      await each();
      console.log(`ok      ${title} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${title}`, error);
    }
  }
  console.log(`${name}: ${cases.length - failed} of ${cases.length} cases passed`);
  process.exitCode = failed === 0 ? 0 : 1;
}
