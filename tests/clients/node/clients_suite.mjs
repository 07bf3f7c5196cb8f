// The official `openai` and `@anthropic-ai/sdk` packages, unmodified: the shared cases, and what only these
// packages have.
//
// The argument names the file of cases. `suite` says how the API is reached. Prints one line for each case
// and exits with 1 if one fails.
import assert from 'node:assert/strict';

import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { cases } from './cases.mjs';
import { CLASSES, clients, run } from './suite.mjs';

const { openai, anthropic } = clients;
const MODEL = (await openai.models.list()).data[0].id;
const messages = [{ role: 'user', content: 'What is attestation?' }];
const chat = { model: MODEL, messages, temperature: 0 };
const message = { model: MODEL, messages, max_tokens: 120, temperature: 0 };

const Check = z.object({
  image: z.enum(['debug', 'release']),
  valid: z.boolean(),
  level: z.enum(['low', 'high']),
});
const Time = z.object({ zone: z.enum(['UTC', 'CET']) });

async function theStreamHelperOfOpenAIUnderstandsTheStream() {
  const stream = openai.chat.completions.stream(chat);
  let text = '';
  stream.on('content', (piece) => (text += piece));
  const final = await stream.finalChatCompletion();
  const whole = await openai.chat.completions.create(chat);
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(final.choices[0].message.content, text);
}

async function anAnswerOfOpenAIsHasTheFormOfAModel() {
  const format = zodResponseFormat(Check, 'check');
  const answer = await openai.chat.completions.parse({ ...chat, response_format: format, max_tokens: 200 });
  Check.parse(answer.choices[0].message.parsed);
}

async function theStreamHelperOfAnthropicUnderstandsTheStream() {
  const stream = anthropic.messages.stream(message);
  let text = '';
  stream.on('text', (piece) => (text += piece));
  const final = await stream.finalMessage();
  const whole = await anthropic.messages.create(message);
  assert.equal(text, whole.content[0].text);
  assert.deepEqual([final.content[0].text, final.usage.output_tokens], [text, whole.usage.output_tokens]);
}

async function aMessageHasTheFormOfAModel() {
  const format = { output_config: { format: zodOutputFormat(Check) } };
  const parsed = await anthropic.messages.parse({ ...message, ...format, max_tokens: 200 });
  Check.parse(parsed.parsed_output);
}

async function helpersParseCallsWholeAndStreamed() {
  const tools = [zodFunction({ name: 'Time', parameters: Time })];
  const asked = {
    ...chat,
    tools,
    tool_choice: 'required',
    parallel_tool_calls: false,
    max_tokens: 400,
    seed: 3,
  };
  const parsed = (await openai.chat.completions.parse(asked)).choices[0].message.tool_calls[0].function;
  Time.parse(parsed.parsed_arguments);
  const final = await openai.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls[0].function.arguments, parsed.arguments);
}

// 64 at once are more than are served and wait. Some are refused, and told when to come back.
async function tooManyAtOnceAreToldWhenToComeBack() {
  const once = openai.withOptions({ maxRetries: 0 });
  const many = Array.from({ length: 64 }, () => once.chat.completions.create({ ...chat, max_tokens: 200 }));
  const outcomes = await Promise.allSettled(many);
  const refusals = outcomes.filter(({ status }) => status === 'rejected').map(({ reason }) => reason);
  assert(refusals.length > 0 && refusals.length < outcomes.length, String(refusals.length));
  for (const error of refusals) {
    assert.equal(error.constructor, CLASSES.openai.RateLimitError, error);
    assert(Number(error.headers.get('retry-after')) >= 1);
  }
  // The package's own retries honour the header, so that patient clients are all served in the end.
  assert.equal((await openai.chat.completions.create(chat)).choices[0].finish_reason, 'stop');
}

const more = {
  openai: [
    theStreamHelperOfOpenAIUnderstandsTheStream,
    anAnswerOfOpenAIsHasTheFormOfAModel,
    tooManyAtOnceAreToldWhenToComeBack,
  ],
  anthropic: [theStreamHelperOfAnthropicUnderstandsTheStream, aMessageHasTheFormOfAModel],
  tools: [helpersParseCallsWholeAndStreamed],
  agents: [],
  embeddings: [],
};
const [file] = process.argv.slice(2);
await run(`official clients: ${file}`, [...(await cases(file)), ...more[file]]);
