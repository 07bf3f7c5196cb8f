// Runs the cases in `cases/`, which say as data what is asked of a client and what its answer must look like.
//
// `cases.py` runs the same with the clients for Python. `cases/README.md` says what the files mean.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';

import { CLASSES, clients } from './suite.mjs';

// The cases of a file, each as a function.
export async function cases(name) {
  const written = JSON.parse(await readFile(new URL(`../cases/${name}.json`, import.meta.url)));
  const model = (await clients.openai.models.list()).data[0].id;
  const given = { MODEL: model, ...written.given };
  return written.cases.map(({ name: title, steps }) => {
    const run = async () => {
      const known = { ...given };
      for (const step of steps) {
        if (step.ask !== undefined) await asked(written.asks[step.ask], step, known);
        for (const [left, operator, ...right] of step.expect ?? []) {
          check(operator, value(left, known), ...right.map((each) => value(each, known)));
        }
      }
    };
    return Object.assign(run, { title });
  });
}

// Asks what a step says, and keeps what comes.
async function asked(ask, step, known) {
  const [name, call] = ask.call.split(' ');
  const parts = call.split('.').map((part) => part.replace(/_(.)/g, (_, letter) => letter.toUpperCase()));
  const method = parts.pop();
  const holder = parts.reduce((object, part) => object[part], clients[name]);
  const one = (more = {}, stream = step.stream) => {
    const parameters = value({ ...ask.with, ...step.with, ...more }, known);
    if (stream) parameters.stream = true;
    const given = value(step.arguments ?? ask.arguments ?? [], known);
    if (Object.keys(parameters).length > 0) given.push(parameters);
    if (step.query !== undefined) given.push({ query: step.query });
    return holder[method](...given);
  };
  const whole = async (more) => (step.stream ? streamed(await one(more)) : one(more));
  let answer;
  if (step.refused !== undefined) return refused(CLASSES[name], one, step.refused, known.SECRET);
  if (step.closed !== undefined) {
    for (let each = 0; each < step.closed; each += 1) for await (const _ of await one({}, true)) break;
    return undefined;
  }
  if (step.together !== undefined) {
    answer = await Promise.all(step.together.map(whole));
  } else if (step.each !== undefined) {
    answer = [];
    for (const more of step.each) answer.push(await whole(more));
  } else {
    answer = await whole();
  }
  known[step.as ?? 'answer'] = answer;
  return undefined;
}

// Expects a typed error that repeats nothing of the request.
async function refused(classes, request, expected, secret) {
  let error;
  try {
    await request();
  } catch (caught) {
    error = caught;
  }
  assert(error !== undefined, `expected ${expected.kind}, got an answer`);
  assert.equal(error.constructor, classes[expected.kind], error);
  // One package unwraps the body, the other does not.
  const body = error.error.error ?? error.error;
  for (const name of ['code', 'param', 'type']) {
    if (name in expected) assert.deepEqual([name, body[name] ?? null], [name, expected[name]], String(error));
  }
  assert(!String(error).includes(secret));
  assert(String(error).includes(expected.says ?? ''), error);
}

// All of a stream: its events, and what they add up to.
async function streamed(stream) {
  const [chunks, texts, finishes] = [[], [], []];
  let thoughts = '';
  const add = (index, text) => (texts[index] = (texts[index] ?? '') + (text ?? ''));
  for await (const chunk of stream) {
    chunks.push(chunk);
    for (const choice of chunk.choices ?? []) {
      const delta = choice.delta ?? choice;
      add(choice.index, delta.content ?? delta.text);
      thoughts += delta.reasoning_content ?? '';
      if (choice.finish_reason) finishes.push(choice.finish_reason);
    }
    if (chunk.type === 'content_block_delta') {
      add(0, chunk.delta.text);
      thoughts += chunk.delta.thinking ?? '';
    } else if (chunk.type === 'message_delta') finishes.push(chunk.delta.stop_reason);
    else if (chunk.type === 'response.output_text.delta') add(0, chunk.delta);
    else if (['response.completed', 'response.incomplete'].includes(chunk.type))
      finishes.push(chunk.response.status);
  }
  return { chunks, texts, text: texts[0] ?? '', thoughts, finishes };
}

// What a written value stands for.
function value(written, known) {
  if (typeof written === 'string' && written.startsWith('$')) {
    const [name, ...path] = written.slice(1).split('.');
    return at(known[name], path);
  }
  if (Array.isArray(written)) return written.map((each) => value(each, known));
  if (written === null || typeof written !== 'object') return written;
  const [name] = Object.keys(written);
  if (Object.keys(written).length === 1 && FUNCTIONS[name] !== undefined) {
    return FUNCTIONS[name](value(written[name], known));
  }
  return Object.fromEntries(Object.entries(written).map(([key, each]) => [key, value(each, known)]));
}

function at(found, path) {
  for (const [number, part] of path.entries()) {
    if (part === '*') return (found ?? []).map((each) => at(each, path.slice(number + 1)));
    found = (Array.isArray(found) ? found.at(Number(part)) : found?.[part]) ?? null;
  }
  return found;
}

// Whether the arguments of a call fit the schema of its tool, of the kinds that the cases use.
function fits(call, schemas) {
  const { required, properties } = schemas[call.name];
  const given = call.input ?? JSON.parse(call.arguments);
  const isSo = ([name, kind]) =>
    kind.enum?.includes(given[name]) ??
    (typeof given[name] === 'string' && given[name].length <= kind.maxLength);
  return (
    Object.keys(given).sort().join() === [...required].sort().join() && Object.entries(properties).every(isSo)
  );
}

const FUNCTIONS = {
  $at: ([object, key]) => object[key],
  $before: ([text, end]) => text.split(end)[0],
  $count: (list) => list.length,
  $counts: (lists) => lists.map((each) => each?.length ?? 0),
  $distinct: (list) => new Set(list.map((each) => JSON.stringify(each))).size,
  $flat: (lists) => lists.filter((each) => each !== null).flat(),
  $fit: ([calls, schemas]) => calls.map((call) => fits(call, schemas)),
  $furthest: ([left, right]) => Math.max(...left.map((each, index) => Math.abs(each - right[index]))),
  $join: (parts) => (parts.every((part) => typeof part === 'string') ? parts.join('') : parts.flat()),
  $json: JSON.parse,
  $keys: Object.keys,
  $max: (list) => Math.max(...list),
  $min: (list) => Math.min(...list),
  $repeat: ([part, times]) =>
    typeof part === 'string' ? part.repeat(times) : Array(times).fill(part).flat(),
  $squares: (numbers) => numbers.reduce((sum, each) => sum + each * each, 0),
  $sum: (list) => list.reduce((sum, each) => sum + each, 0),
  $utf8: (lists) => Buffer.from(lists.flat()).toString('utf8'),
  $word: ([text, number]) => text.split(' ')[number],
};

const CHECKS = {
  is: (left, right) => assert.deepEqual(left, right),
  'is not': (left, right) => assert.notDeepEqual(left, right),
  'is there': (left) => assert(left && left.length !== 0),
  'is empty': (left) => assert(!left || left.length === 0),
  above: (left, right) => assert(left > right),
  'at least': (left, right) => assert(left >= right),
  'at most': (left, right) => assert(left <= right),
  'is about': (left, right) => assert(Math.abs(left - right) < 1e-4),
  'is one of': (left, right) => assert(right.includes(left)),
  'begins with': (left, right) => assert(left.startsWith(right)),
  has: (left, right) => assert(left.includes(right)),
};

function check(operator, left, right) {
  try {
    CHECKS[operator](left, right);
  } catch (cause) {
    throw new Error(`expected ${JSON.stringify(left)} ${operator} ${JSON.stringify(right)}`, { cause });
  }
}
