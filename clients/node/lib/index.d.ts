/** The settings of a channel. Paths are those of files, or `file:` URLs. */
export interface ChannelOptions {
  /** Your policy, the file that `cleanroom verify` reads. Default: `trust.toml`. */
  policy?: string | URL;
  /** What SHA-256 of that file must be, in hexadecimal. */
  policySha256?: string;
  /** Your key, made by `cleanroom key new`. Default: `cleanroom.key`. */
  key?: string | URL;
  /** The model to use; not needed when the policy has only one. */
  model?: string;
  /** The HTTP proxy to reach hosts through, or `none`. Without it the environment decides. */
  proxy?: string;
  /** A folder in which each receipt is kept before its answer counts. */
  receipts?: string | URL;
  /** A folder in which a record of each verification is kept, also of those that fail. */
  record?: string | URL;
}

/**
 * An attested channel to a clean room. Nothing is connected before it is needed.
 *
 * It proves the clean room before the first request, and again before the evidence is too old. Several
 * clients may share it. An idle channel does not keep the process alive.
 */
export declare class Channel {
  /**
   * Reads the two files.
   *
   * @param address `HOST:PORT` or `unix:PATH`; or several, the preferred one first.
   * @throws {Failure} when a setting or a file is wrong.
   */
  constructor(address: string | readonly string[], options?: ChannelOptions);

  /**
   * A `fetch` whose requests go to the proven clean room alone. It needs no `this`.
   *
   * Rejects with {@link NotProven} or {@link NotReached} when there is no answer of a proven clean room. A
   * body that breaks off ends with {@link NotReached}. A signal that aborts ends the generation, and so does
   * a body that is cancelled.
   */
  readonly fetch: typeof globalThis.fetch;

  /** Proves the clean room now, unless it is proven already. */
  prove(): Promise<Proof>;

  /** The model that answers. */
  readonly model: string;
  /** SHA-256 of your key, in hexadecimal, by which the clean room knows you. */
  readonly partner: string;
  /** Where the clean room is. */
  readonly addresses: string[];
  /** The base URL of clients that want it without `/v1`, such as `@anthropic-ai/sdk`. */
  readonly origin: string;
  /** The base URL, with `/v1`, of all other clients. */
  readonly baseURL: string;
}

/** What was proven about the clean room that answers, before the request was sent. */
export declare class Proof {
  private constructor();
  /** The name that your policy, or the release, gives to the image that booted. */
  readonly image: string;
  /** Who vouches for the hardware: `production`, or `development` under a root of your own. */
  readonly tier: 'production' | 'development';
  /** The identity of the model that answers, in hexadecimal. */
  readonly modelSha256: string;
  /** The digest by which receipts name the session, in hexadecimal. */
  readonly transcriptSha384: string;
  /** What the authorities permit, if your policy pins their root. */
  readonly release: Record<string, unknown> | undefined;
  /** Each check with its expected and its actual value, as `cleanroom --json verify` prints it. */
  readonly verdict: Record<string, unknown>;
  /** The verified receipt of the answer. A stream has one when it has ended. */
  readonly receipt: Receipt | undefined;
}

/** A receipt that the clean room's receipt key signed, verified against this session, request and answer. */
export interface Receipt {
  /** What the receipt says: model, release, times, byte counts, finish state, commitments. */
  readonly payload: Record<string, unknown>;
  /** The signed envelope (DSSE), for others to verify. */
  readonly envelope: Record<string, unknown>;
  /** The file that it is kept in, if the channel keeps receipts. */
  readonly path: string | undefined;
}

/**
 * The proof behind a response of `channel.fetch`; an answer, a page or a stream of the clients in
 * `cleanroom/openai` and `cleanroom/anthropic`; or an exception of an official client. `undefined` when
 * nothing was sent.
 */
export declare function proof(of: unknown): Proof | undefined;

/** The receipt of the same. A stream has one when it has ended. */
export declare function receipt(of: unknown): Receipt | undefined;

/** There is no answer of a proven clean room, or not a whole one. It repeats nothing of a request. */
export declare class CleanroomError extends Error {
  protected constructor();
  /** A stable word for the reason, the same as the program `cleanroom` gives. */
  readonly code: string;
  /** The exit code of a command of the program `cleanroom` that ends for this reason. */
  readonly exitCode: number;
  /** How far the request got. */
  readonly reach: 'never-sent' | 'may-have-been-sent' | 'was-sent';
  /** The verdict on evidence that was refused. */
  readonly verdict: Record<string, unknown> | undefined;
  /** What was proven before the request was sent, if it was sent. */
  readonly proof: Proof | undefined;
}

/** The clean room was refused: it could not prove what your policy asks for. Nothing was sent. */
export declare class NotProven extends CleanroomError {}

/** No clean room was reached, or the connection to it was lost. `reach` says how far the request got. */
export declare class NotReached extends CleanroomError {}

/** Nothing was judged: a setting or a file of your own is wrong, or a command could not come to a result. */
export declare class Failure extends CleanroomError {}

/** What a command found: the members that the program prints with `--json`. */
export interface Report {
  /** Nothing failed. Questions that were not asked are in the report as such. */
  readonly passed: boolean;
  /** Nothing failed, and something was not asked about. */
  readonly partial: boolean;
  readonly [member: string]: unknown;
}

/**
 * Judges the clean room at `address` against your policy, and reports each check. Only a challenge is sent.
 *
 * Rejects with {@link NotProven} when something failed a check, and with {@link Failure} when nothing was
 * judged.
 */
export declare function verify(
  address: string,
  options?: Omit<ChannelOptions, 'receipts' | 'record'>,
): Promise<Report>;

/** The PCRs of an enclave image file. Rejects with {@link Failure} when the image is refused. */
export declare function measure(image: string | URL): Promise<Report>;

/** What is in an enclave image or an attestation document, and its faults. It judges nothing. */
export declare function explain(file: string | URL): Promise<Report>;

/** The version of this package. */
export declare const version: string;
