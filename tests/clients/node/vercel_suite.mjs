// The Vercel AI SDK, unmodified and with its defaults, against a Cleanroom API whose model calls tools.
//
// `suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
import assert from 'node:assert/strict';

import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText, tool } from 'ai';
import { z } from 'zod';

import { OPENAI, clients, run } from './suite.mjs';

const { baseURL, apiKey, fetch } = OPENAI;
const options = { baseURL, apiKey, fetch };
const MODEL = (await clients.openai.models.list()).data[0].id;
const openai = createOpenAI(options);
const models = {
  'openai by default': openai(MODEL),
  'openai chat': openai.chat(MODEL),
  'openai compatible': createOpenAICompatible({ name: 'cleanroom', ...options })(MODEL),
  anthropic: createAnthropic(options)(MODEL),
};
const asked = { prompt: 'What is attestation?', maxRetries: 0, maxOutputTokens: 200 };
const weather = tool({
  description: 'Tells the weather.',
  inputSchema: z.object({ city: z.string().max(4), unit: z.enum(['C', 'F']) }),
});

const cases = [];
function check(title, ask) {
  cases.push(Object.assign(async () => assert(await ask(), 'nothing came'), { title }));
}

for (const [name, model] of Object.entries(models)) {
  check(`${name} talks`, async () => (await generateText({ model, ...asked })).text);
  check(`${name} streams`, async () => {
    let text = '';
    const errors = [];
    const { textStream } = streamText({ model, ...asked, onError: ({ error }) => errors.push(error) });
    for await (const piece of textStream) text += piece;
    if (errors.length > 0) throw errors[0];
    return text;
  });
  check(`${name} calls`, async () => {
    const { toolCalls } = await generateText({ model, ...asked, tools: { weather }, toolChoice: 'required' });
    return (
      toolCalls.length > 0 &&
      toolCalls[0].toolName === 'weather' &&
      ['C', 'F'].includes(toolCalls[0].input.unit)
    );
  });
}
await run('Vercel AI SDK', cases);
