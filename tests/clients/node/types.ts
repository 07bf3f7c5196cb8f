// What a TypeScript program writes against the package. It is compiled, and not run.
import Official from '@anthropic-ai/sdk';
import { createOpenAI } from '@ai-sdk/openai';
import OfficialOpenAI from 'openai';

import {
  Channel,
  CleanroomError,
  Failure,
  NotProven,
  type Proof,
  type Receipt,
  measure,
  proof,
  receipt,
  verify,
} from 'cleanroom';
import Anthropic from 'cleanroom/anthropic';
import { OpenAI } from 'cleanroom/openai';

const channel = new Channel(['a.example:8443', 'unix:/run/b.sock'], {
  policy: new URL('file:///trust.toml'),
  key: 'k',
});
const answer = await new OpenAI({ channel, maxRetries: 0 }).chat.completions.create({
  model: channel.model,
  messages: [],
});
const text: string | null = answer.choices[0].message.content;
const found: Proof | undefined = proof(answer);
const signed: Receipt | undefined = receipt(answer) ?? found?.receipt;
const message = await new Anthropic({ policy: 'trust.toml' }).messages.create({
  model: 'demo',
  max_tokens: 8,
  messages: [],
});
new OfficialOpenAI({ fetch: channel.fetch, baseURL: channel.baseURL, apiKey: 'unused' });
new Official({ fetch: channel.fetch, baseURL: channel.origin, apiKey: 'unused' });
createOpenAI({ fetch: channel.fetch, baseURL: channel.baseURL });
const response: Response = await channel.fetch('/v1/models', { signal: AbortSignal.timeout(1000) });
try {
  const { passed } = await verify('a.example:8443', { proxy: 'none' });
  const pcrs: unknown = (await measure('enclave.eif')).pcrs;
  console.log(passed, pcrs, text, signed?.payload, message.content, response.status);
} catch (error) {
  if (error instanceof NotProven) console.log(error.verdict, error.exitCode);
  if (error instanceof Failure || error instanceof CleanroomError)
    console.log(error.code, error.reach, error.proof?.image);
}

// @ts-expect-error what leads elsewhere is refused
new OpenAI({ channel, baseURL: 'https://api.openai.com/v1' });
// @ts-expect-error there is no such option
new Channel('a.example:8443', { policies: 'trust.toml' });
