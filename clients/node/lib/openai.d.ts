import Official, { type ClientOptions } from 'openai';
import type { Channel, ChannelOptions } from './index.js';

/** The options of the official client, and those of a channel. */
export interface Options
  extends Omit<ClientOptions, 'baseURL' | 'fetch' | 'apiKey'>, Omit<ChannelOptions, 'model'> {
  /** A channel, or the address of a clean room, or several. Without it, the variable CLEANROOM_ADDRESS. */
  channel?: Channel | string | readonly string[];
  /** The model of the channel; not needed when the policy has only one. */
  cleanroomModel?: string;
  /** Not needed. If one is given, it stays in this process. */
  apiKey?: ClientOptions['apiKey'];
}

/**
 * The official client, whose requests go to a proven clean room alone.
 *
 * When there is no answer of a proven clean room, it throws the official `APIConnectionError`, whose `cause`
 * is the `CleanroomError`. A clean room that was refused is not asked again.
 */
export declare class OpenAI extends Official {
  constructor(options?: Options);
  readonly channel: Channel;
}

export default OpenAI;
