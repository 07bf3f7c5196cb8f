// The package `cleanroom`: proofs, receipts, its exceptions, and how a generation is ended.
//
// Prints one line for each case and exits with 1 if one fails.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect, promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import Official from '@anthropic-ai/sdk';
import OfficialOpenAI, {
  APIConnectionError,
  APIUserAbortError,
  BadRequestError,
  NotFoundError,
} from 'openai';
import {
  Channel,
  CleanroomError,
  Failure,
  NotProven,
  NotReached,
  proof,
  receipt,
  verify,
  version,
} from 'cleanroom';
import Anthropic from 'cleanroom/anthropic';
import OpenAI from 'cleanroom/openai';
import { ADDRESS, API_KEY, FILES, run } from './suite.mjs';

const channel = new Channel(ADDRESS, FILES);
const client = new OpenAI({ channel });
const MODEL = channel.model;
const SECRET = 'Zwetschgenkuchen';
const QUESTION = [{ role: 'user', content: `What is attestation? ${SECRET}` }];
const LONG = { model: MODEL, messages: QUESTION, max_tokens: 400, temperature: 0 };

function ask(more = {}, via = client, options = undefined) {
  return via.chat.completions.create({ ...LONG, max_tokens: 8, ...more }, options);
}

function post(more = {}, init = {}) {
  const body = JSON.stringify({ ...LONG, max_tokens: 8, ...more });
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${API_KEY}` };
  return channel.fetch(`${channel.baseURL}/chat/completions`, { method: 'POST', headers, body, ...init });
}

// The exception of a request, which repeats nothing of it.
async function raised(Kind, request) {
  try {
    await request();
  } catch (error) {
    assert(error instanceof Kind, error);
    assert(!(String(error) + inspect(error)).includes(SECRET), error);
    return error;
  }
  assert.fail(`expected ${Kind.name}`);
}

async function inFolder(use) {
  const folder = await mkdtemp(join(tmpdir(), 'cleanroom-'));
  try {
    await use(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function aResponseHasItsProofAndItsReceipt() {
  const response = await post();
  assert.equal(response.status, 200);
  const found = proof(response);
  assert.deepEqual([found.image, found.tier], ['the image', 'development']);
  // Nobody asked about the deployment, all else passed.
  assert.equal(found.verdict.outcome, 'partial');
  const { payload } = receipt(response);
  assert.equal(payload.id, response.headers.get('x-request-id'));
  assert.equal(payload.model_sha256, found.modelSha256);
  assert.equal(payload.session, found.transcriptSha384);
  const answer = await response.json();
  assert(answer.choices[0].message.content);
  assert(!(inspect(found) + JSON.stringify(found.receipt)).includes(SECRET));
}

async function anAnswerOfTheClientsHasThemToo() {
  const answer = await ask();
  assert.equal(receipt(answer).payload.id, answer._request_id);
  assert(!JSON.stringify(answer).includes('transcript'));
  const message = await new Anthropic({ channel }).messages.create({
    model: MODEL,
    messages: QUESTION,
    max_tokens: 8,
  });
  assert.equal(receipt(message).payload.id, message.id);
  assert.equal(proof(await client.models.list()).image, 'the image');
}

async function aStreamHasItsReceiptWhenItHasEnded() {
  const stream = await ask({ stream: true });
  const found = proof(stream);
  let pieces = 0;
  for await (const _ of stream) {
    if (pieces === 0) assert.equal(found.receipt, undefined);
    pieces += 1;
  }
  assert(pieces > 2 && found.receipt.payload.finish, pieces);
}

async function aRefusalOfTheCleanRoomHasItsProofAndReceipt() {
  const error = await raised(BadRequestError, () => ask({ temperature: 17 }));
  assert.equal(receipt(error).payload.model_sha256, proof(error).modelSha256);
  assert.equal(proof(await raised(NotFoundError, () => client.models.retrieve('gpt'))).image, 'the image');
}

async function receiptsAndRecordsAreKeptWhereTheChannelSays() {
  await inFolder(async (folder) => {
    const [receipts, record] = [join(folder, 'receipts'), join(folder, 'records')];
    const answer = await ask({}, new OpenAI({ channel: ADDRESS, ...FILES, receipts, record }));
    const { path } = receipt(answer);
    assert(path.startsWith(receipts) && JSON.parse(await readFile(path)), path);
    assert.equal((await readdir(record)).length, 1);
  });
}

async function aPolicyThatAsksForMoreRejectsBeforeAnythingIsSent() {
  await inFolder(async (folder) => {
    const text = await readFile(FILES.policy, 'utf8');
    const pcr0 = text.split('pcr0 = "')[1].split('"')[0];
    const policy = join(folder, 'strict.toml');
    await writeFile(policy, text.replace(pcr0, [...pcr0].reverse().join('')));
    const strict = new Channel(ADDRESS, { ...FILES, policy });
    const refused = (error) => {
      assert(error instanceof CleanroomError);
      assert.deepEqual([error.code, error.exitCode, error.reach], ['pcr0-mismatch', 1, 'never-sent']);
      assert.equal(error.verdict.outcome, 'fail');
      assert.equal(proof(error), undefined);
    };
    refused(await raised(NotProven, () => strict.fetch('/v1/models')));
    refused(await raised(NotProven, () => strict.prove()));
    const began = performance.now();
    const error = await raised(APIConnectionError, () => ask({}, new OpenAI({ channel: strict })));
    refused(error.cause);
    // The client did not try again, as it does when a server is not reached.
    assert(performance.now() - began < 5000);
    const other = new Anthropic({ channel: strict });
    refused(
      (await raised(Error, () => other.messages.create({ model: MODEL, messages: QUESTION, max_tokens: 8 })))
        .cause,
    );
    const official = new OfficialOpenAI({
      fetch: strict.fetch,
      baseURL: strict.baseURL,
      apiKey: API_KEY,
      maxRetries: 0,
    });
    refused((await raised(APIConnectionError, () => ask({}, official))).cause);
    const verified = await raised(NotProven, () => verify(ADDRESS, { ...FILES, policy }));
    assert.deepEqual(
      [verified.code, verified.exitCode, verified.verdict.accepted],
      ['pcr0-mismatch', 1, false],
    );
  });
}

async function nobodyThereIsAnotherException() {
  const nowhere = new OpenAI({ channel: 'unix:/nowhere/host.sock', ...FILES, maxRetries: 0 });
  const { cause } = await raised(APIConnectionError, () => ask({}, nowhere));
  assert(cause instanceof NotReached);
  assert.deepEqual([cause.code, cause.exitCode, cause.reach], ['unreachable', 4, 'never-sent']);
}

async function filesThatAreWrongSaySo() {
  const missing = await raised(Failure, async () => new Channel(ADDRESS, { policy: '/nowhere', key: 'k' }));
  assert.deepEqual([missing.code, missing.exitCode], ['unreadable', 4]);
  const wrong = await raised(Failure, async () => new Channel('no address', FILES));
  assert.deepEqual([wrong.code, wrong.exitCode], ['usage', 2]);
  await raised(TypeError, async () => new Channel(ADDRESS, { ...FILES, policies: 'x' }));
  assert.equal((await raised(Failure, () => verify(ADDRESS, { policy: '/nowhere' }))).code, 'unreadable');
}

async function nothingLeadsAroundTheProof() {
  await raised(TypeError, async () => new OpenAI({ channel, fetch: globalThis.fetch }));
  await raised(TypeError, async () => new OpenAI({ channel, baseURL: 'https://api.openai.com/v1' }));
  await raised(TypeError, async () => new OpenAI({ channel, policy: 'other.toml' }));
  await raised(TypeError, () => channel.fetch('https://api.openai.com/v1/models'));
  await raised(TypeError, () => channel.fetch('http://cleanroom.invalid/v1/models'));
  await raised(TypeError, () => channel.fetch('https://cleanroom.invalid:8443/v1/models'));
  const copied = client.withOptions({ maxRetries: 0 });
  assert(copied instanceof OpenAI && copied.channel === channel);
  await raised(TypeError, async () => client.withOptions({ baseURL: 'https://api.openai.com/v1' }));
  await raised(TypeError, async () => client.withOptions({ fetch: globalThis.fetch }));
  await raised(Error, async () => new OpenAI({ channel, dataResidency: 'eu' }));
  // The official client asks whoever is named. The fetch does not.
  const { cause } = await raised(APIConnectionError, () => copied.get('https://api.openai.com/v1/models'));
  assert(cause instanceof TypeError);
}

async function theAddressMayComeFromTheEnvironment() {
  delete process.env.CLEANROOM_ADDRESS;
  try {
    await raised(TypeError, async () => new OpenAI());
  } finally {
    process.env.CLEANROOM_ADDRESS = ADDRESS;
  }
  assert.deepEqual(new OpenAI(FILES).channel.addresses, [ADDRESS]);
}

async function whatVerifyReports() {
  const report = await verify(ADDRESS, FILES);
  assert(report.passed && report.partial && report.accepted && report.code === null, report);
}

// Whether generations were ended: 60 more than there are places.
async function placesAreFreeAgain(begin) {
  for (let each = 0; each < 60; each += 1) await begin();
  assert((await ask()).choices[0].finish_reason);
}

// The receipt of an answer that was ended early. The channel asks for it as soon as it lets the answer go,
// and for none of an answer that it still holds.
async function receiptOfWhatWasEnded(found, meanwhile = () => {}) {
  for (let each = 0; each < 200 && found.receipt === undefined; each += 1) {
    meanwhile();
    await new Promise((done) => setTimeout(done, 50));
  }
  assert(found.receipt, 'the answer was not ended');
}

async function anAbortedRequestEndsItsGeneration() {
  await placesAreFreeAgain(async () => {
    const abort = new AbortController();
    const asked = post({ max_tokens: 400 }, { signal: abort.signal });
    setTimeout(() => abort.abort(new Error('enough')), 5);
    await asked.then((response) => response.text()).catch((error) => assert.equal(error.message, 'enough'));
  });
  // It ends before a shorter one that began before it. A machine that is busy elsewhere may come too late to
  // see that.
  const race = async () => {
    const abort = new AbortController();
    const ended = [];
    const other = post({ max_tokens: 30 }).then(() => ended.push('the other'));
    const asked = post({ max_tokens: 400 }, { signal: abort.signal }).catch(() =>
      ended.push('the aborted one'),
    );
    setImmediate(() => abort.abort());
    await Promise.all([other, asked]);
    return ended[0];
  };
  let first;
  for (let each = 0; each < 5 && first !== 'the aborted one'; each += 1) first = await race();
  assert.equal(first, 'the aborted one');
  const begun = AbortSignal.abort(new Error('before it began'));
  assert.equal((await raised(Error, () => post({}, { signal: begun }))).message, 'before it began');
  const aborted = async () => {
    const early = new AbortController();
    const request = ask({ max_tokens: 400 }, client, { signal: early.signal });
    early.abort();
    await request;
  };
  await raised(APIUserAbortError, aborted);
}

async function anAbortedStreamEndsItsGeneration() {
  let last;
  await placesAreFreeAgain(async () => {
    const abort = new AbortController();
    const response = await post({ max_tokens: 400, stream: true }, { signal: abort.signal });
    const reader = response.body.getReader();
    assert(!(await reader.read()).done);
    abort.abort(new Error('enough'));
    await assert.rejects(async () => {
      while (!(await reader.read()).done);
    }, /enough/);
    last = { found: proof(response), response };
  });
  await receiptOfWhatWasEnded(last.found);
}

async function aCancelledOrForgottenStreamEndsItsGeneration() {
  let last;
  await placesAreFreeAgain(async () => {
    last = await post({ max_tokens: 400, stream: true });
    await last.body.cancel();
  });
  await receiptOfWhatWasEnded(proof(last));
  await placesAreFreeAgain(async () => {
    for await (const _ of (last = await ask({ max_tokens: 400, stream: true }))) break;
  });
  await receiptOfWhatWasEnded(proof(last));
  // Also if a signal lives on that could abort it.
  const { signal } = new AbortController();
  const forgotten = proof(await post({ max_tokens: 400, stream: true }, { signal }));
  setFlagsFromString('--expose-gc');
  await receiptOfWhatWasEnded(forgotten, runInNewContext('gc'));
}

async function nothingIsReadAheadOfItsReader() {
  const response = await post({ stream: true });
  const reader = response.body.getReader();
  await reader.read();
  // Time enough for the whole answer. Its end verifies the receipt, and nobody has asked for the end.
  await new Promise((done) => setTimeout(done, 500));
  assert.equal(receipt(response), undefined);
  while (!(await reader.read()).done);
  assert(receipt(response));
}

async function otherWorkRunsWhileOneWaits() {
  let turns = 0;
  let answered = false;
  const asked = post({ max_tokens: 200 }).then(() => (answered = true));
  while (!answered) {
    await new Promise(setImmediate);
    turns += 1;
  }
  await asked;
  assert(turns > 100, String(turns));
}

// Runs a script in a process of its own, with a channel, and gives what it prints. It must end by itself.
async function script(text) {
  const whole = `
    import { Channel } from ${JSON.stringify(import.meta.resolve('cleanroom'))};
    const { CLEANROOM_ADDRESS: address, CLEANROOM_POLICY: policy, CLEANROOM_KEY: key } = process.env;
    const channel = new Channel(address, { policy, key });
    const body = ${JSON.stringify(JSON.stringify({ ...LONG, stream: true }))};
    const headers = { 'content-type': 'application/json' };
    const ask = () => channel.fetch('/v1/chat/completions', { method: 'POST', body, headers });
    ${text}`;
  const flags = ['--input-type=module', '--eval', whole];
  return (await promisify(execFile)(process.execPath, flags, { timeout: 30_000 })).stdout.trim();
}

async function anIdleChannelDoesNotKeepTheProcess() {
  const proven = await script(`
    await channel.prove();
    const response = await channel.fetch('/v1/models');
    console.log((await response.json()).data.length);`);
  assert.equal(proven, '1');
}

async function aProcessOrAWorkerMayEndInTheMiddleOfAnAnswer() {
  const asked = await script(`
    await channel.prove();
    ask().catch(() => {});
    process.stdout.write('asked', () => process.exit(0));`);
  assert.equal(asked, 'asked');
  const ended = await script(`
    import { Worker } from 'node:worker_threads';
    const reader = (await ask()).body.getReader();
    await reader.read();
    const worker = new Worker(\`
      import(${JSON.stringify(import.meta.resolve('cleanroom'))}).then(async ({ Channel }) => {
        const channel = new Channel(\${JSON.stringify(address)}, \${JSON.stringify({ policy, key })});
        const response = await channel.fetch('/v1/chat/completions', {
          method: 'POST', body: \${JSON.stringify(body)}, headers: \${JSON.stringify(headers)},
        });
        const reader = response.body.getReader();
        await reader.read();
        (await import('node:worker_threads')).parentPort.postMessage('reading');
        while (!(await reader.read()).done);
      });\`, { eval: true });
    await new Promise((read) => worker.once('message', read));
    await worker.terminate();
    while (!(await reader.read()).done);
    console.log('ended');`);
  assert.equal(ended, 'ended');
}

async function anUnmodifiedOfficialClientTakesTheFetch() {
  const official = new Official({ fetch: channel.fetch, baseURL: channel.origin, apiKey: API_KEY });
  const asked = official.messages.create({ model: MODEL, messages: QUESTION, max_tokens: 8 });
  const { data, response } = await asked.withResponse();
  assert(data.content[0].text);
  assert.equal(receipt(response).payload.id, data.id);
}

await run(`cleanroom ${version}`, [
  aResponseHasItsProofAndItsReceipt,
  anAnswerOfTheClientsHasThemToo,
  aStreamHasItsReceiptWhenItHasEnded,
  aRefusalOfTheCleanRoomHasItsProofAndReceipt,
  anUnmodifiedOfficialClientTakesTheFetch,
  receiptsAndRecordsAreKeptWhereTheChannelSays,
  aPolicyThatAsksForMoreRejectsBeforeAnythingIsSent,
  nobodyThereIsAnotherException,
  filesThatAreWrongSaySo,
  nothingLeadsAroundTheProof,
  theAddressMayComeFromTheEnvironment,
  whatVerifyReports,
  anAbortedRequestEndsItsGeneration,
  anAbortedStreamEndsItsGeneration,
  aCancelledOrForgottenStreamEndsItsGeneration,
  nothingIsReadAheadOfItsReader,
  otherWorkRunsWhileOneWaits,
  anIdleChannelDoesNotKeepTheProcess,
  aProcessOrAWorkerMayEndInTheMiddleOfAnAnswer,
]);
