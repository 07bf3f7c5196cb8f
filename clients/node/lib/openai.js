// The official client of `openai` over an attested channel.
import Official, { APIConnectionError } from 'openai';
import { over } from './client.js';

export class OpenAI extends over(Official, 'baseURL', APIConnectionError) {}

export default OpenAI;
