// The Vercel AI SDK, unmodified and with its defaults, against a Cleanroom API whose model calls tools.
//
// Reads the base URL (with `/v1`) from CLEANROOM_BASE_URL. Prints one line for each case and exits with 1 if one fails.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText, tool } from 'ai';
import { z } from 'zod';

const baseURL = process.env.CLEANROOM_BASE_URL;
const options = { baseURL, apiKey: 'not looked at' };
const headers = { authorization: `Bearer ${options.apiKey}` };
const listed = await (await fetch(`${baseURL}/models`, { headers })).json();
const MODEL = listed.data[0].id;
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

let failed = 0;
async function check(name, run) {
  try {
    const seen = await run();
    if (!seen) throw new Error('nothing came');
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}`, error, error?.responseBody ?? '');
  }
}

for (const [name, model] of Object.entries(models)) {
  await check(`${name} talks`, async () => (await generateText({ model, ...asked })).text);
  await check(`${name} streams`, async () => {
    let text = '';
    const errors = [];
    const { textStream } = streamText({ model, ...asked, onError: ({ error }) => errors.push(error) });
    for await (const piece of textStream) text += piece;
    if (errors.length > 0) throw errors[0];
    return text;
  });
  await check(`${name} calls`, async () => {
    const { toolCalls } = await generateText({ model, ...asked, tools: { weather }, toolChoice: 'required' });
    return toolCalls.length > 0 && toolCalls[0].toolName === 'weather' && ['C', 'F'].includes(toolCalls[0].input.unit);
  });
}
console.log(failed === 0 ? 'all cases passed' : `${failed} cases failed`);
process.exit(failed === 0 ? 0 : 1);
