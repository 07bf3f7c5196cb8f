// An attested channel, and the fetch over it.
import native from './native.js';
import { expect, problem } from './errors.js';
import { Proof, remember } from './proof.js';
import { written } from './program.js';

// What clients take for their server. The name can never be resolved (RFC 6761), so whatever in them does not
// use the channel reaches nobody.
const ORIGIN = 'https://cleanroom.invalid';
const SETTINGS = ['policy', 'policySha256', 'key', 'model', 'proxy', 'receipts', 'record'];
const PATHS = ['policy', 'key', 'receipts', 'record'];
const NULL_BODY = new Set([204, 205, 304]);

export class Channel {
  #native;
  #addresses;

  constructor(address, options = {}) {
    for (const name of Object.keys(options)) {
      if (!SETTINGS.includes(name))
        throw new TypeError(`a Channel has no option ${name}; it has ${SETTINGS.join(', ')}`);
    }
    this.#addresses = typeof address === 'string' ? [address] : [...address];
    const settings = { ...options, addresses: this.#addresses };
    settings.policy ??= 'trust.toml';
    settings.key ??= 'cleanroom.key';
    for (const name of PATHS) if (settings[name] !== undefined) settings[name] = written(settings[name]);
    this.#native = expect(native.open(settings));
    this.fetch = (input, init) => this.#fetch(input, init, (found) => Promise.reject(problem(found)));
  }

  get model() {
    return this.#native.model;
  }

  get partner() {
    return this.#native.partner;
  }

  get addresses() {
    return [...this.#addresses];
  }

  get origin() {
    return ORIGIN;
  }

  get baseURL() {
    return `${ORIGIN}/v1`;
  }

  async prove() {
    const found = await this.#native.prove();
    if (found instanceof native.Problem) throw problem(found);
    return new Proof(found);
  }

  // For the clients of this package: a problem is a response that they do not send again, as the local
  // proxy's is.
  static fetchForClients(channel, failed) {
    return (input, init) =>
      channel.#fetch(input, init, (found, path) => {
        const { status, headers, content } = found.response(path);
        const response = new Response(content, { status, headers: paired(headers) });
        failed(response, problem(found));
        return response;
      });
  }

  async #fetch(input, init, failed) {
    const request = new Request(input instanceof Request ? input : new URL(input, ORIGIN), init);
    const signal = init?.signal ?? (input instanceof Request ? input.signal : undefined);
    const { origin, pathname, search } = new URL(request.url);
    if (origin !== ORIGIN)
      throw new TypeError(`this fetch speaks to its clean room alone: use ${ORIGIN} as the server`);
    const body = new Uint8Array(await request.arrayBuffer());
    signal?.throwIfAborted();
    const abort = new native.Abort();
    const stop = () => abort.abort();
    signal?.addEventListener('abort', stop);
    try {
      const path = pathname + search;
      const sent = this.#native.send(request.method, path, [...request.headers].flat(), body, abort);
      // The native half has a copy, which it zeroises when it is sent.
      body.fill(0);
      const answer = await sent;
      if (signal?.aborted && answer instanceof native.Answer) answer.close();
      signal?.throwIfAborted();
      if (answer instanceof native.Problem) return await failed(answer, pathname);
      return respond(answer, signal);
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }
}

function respond(answer, signal) {
  const proof = new Proof(answer.proof);
  const whole = answer.whole;
  const body = NULL_BODY.has(answer.status)
    ? null
    : (whole ?? new ReadableStream(new Source(answer, proof, signal), { highWaterMark: 0 }));
  const response = new Response(body, { status: answer.status, headers: paired(answer.headers) });
  remember(response, proof);
  // Official exceptions have the headers alone.
  remember(response.headers, proof);
  return response;
}

// What a stream's body reads from. A piece is asked for when the reader wants one, so a slow reader slows the
// clean room down.
class Source {
  #answer;
  #proof;
  #signal;
  #abort;
  #controller;

  constructor(answer, proof, signal) {
    this.#answer = answer;
    this.#proof = proof;
    this.#signal = signal;
    this.#abort = abortOf(new WeakRef(this));
    signal?.addEventListener('abort', this.#abort, { once: true });
  }

  start(controller) {
    this.#controller = controller;
  }

  async pull(controller) {
    const piece = await this.#answer.next();
    if (piece instanceof Uint8Array) return controller.enqueue(piece);
    this.#ended();
    if (this.#signal?.aborted) return undefined;
    return piece === undefined ? controller.close() : controller.error(problem(piece, this.#proof));
  }

  cancel() {
    this.#ended();
    this.#answer.close();
  }

  abort() {
    this.#controller.error(this.#signal.reason);
    this.#answer.close();
  }

  #ended() {
    this.#signal?.removeEventListener('abort', this.#abort);
  }
}

// A signal that lives long does not keep a body that nobody reads any more, whose generation then ends. A
// function of its own, because one inside a method would keep what that method knows.
function abortOf(source) {
  return () => source.deref()?.abort();
}

function paired(flat) {
  const pairs = [];
  for (let at = 0; at + 1 < flat.length; at += 2) pairs.push([flat[at], flat[at + 1]]);
  return pairs;
}
