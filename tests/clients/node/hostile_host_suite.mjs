// The package `cleanroom` against hosts that lie: each lie gives an exception of its own before anything is
// sent.
//
// CLEANROOM_HOSTS lists the hosts as JSON: name, address and the code that is due. Prints one line for each
// and exits with 1 if one fails.
import assert from 'node:assert/strict';
import { inspect } from 'node:util';

import Official from '@anthropic-ai/sdk';
import { Channel, NotProven, NotReached, proof } from 'cleanroom';
import OpenAI from 'cleanroom/openai';
import { API_KEY, FILES, run } from './suite.mjs';

const SECRET = 'Zwetschgenkuchen';
const QUESTION = { model: 'demo', messages: [{ role: 'user', content: SECRET }], max_tokens: 8 };

async function refused(request, code) {
  const error = await request.then(
    () => assert.fail('the request was sent'),
    (caught) => caught.cause ?? caught,
  );
  // A connection that ends early proves nothing against anybody.
  const [Kind, exitCode] = code === 'truncated' ? [NotReached, 4] : [NotProven, 1];
  assert(error instanceof Kind, error);
  assert.deepEqual([error.code, error.exitCode, error.reach], [code, exitCode, 'never-sent']);
  assert.equal(proof(error), undefined);
  assert(!(String(error) + inspect(error)).includes(SECRET));
}

function host([name, address, code]) {
  const isRefused = async () => {
    // Whatever the host, the partner's files are the same.
    const channel = new Channel(address, FILES);
    await refused(
      channel.fetch('/v1/chat/completions', { method: 'POST', body: JSON.stringify(QUESTION) }),
      code,
    );
    await refused(new OpenAI({ channel }).chat.completions.create(QUESTION), code);
    const official = new Official({
      fetch: channel.fetch,
      baseURL: channel.origin,
      apiKey: API_KEY,
      maxRetries: 0,
    });
    await refused(official.messages.create(QUESTION), code);
  };
  return Object.assign(isRefused, { title: `${name} gives ${code}` });
}

await run('hostile hosts', JSON.parse(process.env.CLEANROOM_HOSTS).map(host));
