// What was proven before a request was sent, and the receipt of its answer.
import { CleanroomError } from './errors.js';

export class Proof {
  #native;
  #proven;

  constructor(native) {
    this.#native = native;
  }

  get #members() {
    this.#proven ??= JSON.parse(this.#native.proven());
    return this.#proven;
  }

  get image() {
    return this.#members.image;
  }

  get tier() {
    return this.#members.tier;
  }

  get modelSha256() {
    return this.#members.model_sha256;
  }

  get transcriptSha384() {
    return this.#members.transcript_sha384;
  }

  get release() {
    return this.#members.release ?? undefined;
  }

  get verdict() {
    return this.#members.verdict;
  }

  get receipt() {
    const receipt = this.#native.receipt();
    if (receipt == null) return undefined;
    const { payload, envelope, path } = JSON.parse(receipt);
    return { payload, envelope, path: path ?? undefined };
  }
}

const proofs = new WeakMap();

// Remembers what an object rests on, for as long as the object is in use.
export function remember(of, proof) {
  if (of !== null && typeof of === 'object') proofs.set(of, proof);
}

// The proof behind a response, an answer, or an exception. Official exceptions have the response's headers,
// and pages and streams the response.
export function proof(of) {
  for (const each of [of, of?.response, of?.headers, of?.cause]) {
    if (each === null || typeof each !== 'object') continue;
    const found = proofs.get(each) ?? (each instanceof CleanroomError ? each.proof : undefined);
    if (found !== undefined) return found;
  }
  return undefined;
}

export function receipt(of) {
  return proof(of)?.receipt;
}
