// The official client of `@anthropic-ai/sdk` over an attested channel.
import Official, { APIConnectionError } from '@anthropic-ai/sdk';
import { over } from './client.js';

export class Anthropic extends over(Official, 'origin', APIConnectionError) {}

export default Anthropic;
