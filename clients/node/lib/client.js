// What the clients of this package share.
import { Channel } from './channel.js';
import { proof, remember } from './proof.js';

// The official clients want an API key. It stays in this process.
const UNUSED_KEY = "the partner's key proves who it is";
const SETTINGS = ['policy', 'policySha256', 'key', 'proxy', 'receipts', 'record'];

const channels = new WeakMap();
const failures = new WeakMap();

// The options of the official client, with a fetch that leads to the channel alone, and the channel.
function overChannel(given, base) {
  const { channel: named, cleanroomModel: model, baseURL, ...official } = given;
  const settings = { model };
  for (const name of SETTINGS) {
    settings[name] = official[name];
    delete official[name];
  }
  for (const name of Object.keys(settings)) if (settings[name] === undefined) delete settings[name];
  const inherited = channels.get(official.fetch);
  if (official.fetch !== undefined && inherited === undefined) {
    throw new TypeError('fetch would send without a proof; a cleanroom client has its own');
  }
  const channel = named ?? inherited ?? process.env.CLEANROOM_ADDRESS;
  if (channel === undefined) {
    throw new TypeError(
      "expected a Channel, or the address of a clean room such as 'cleanroom.example:8443', as `channel` " +
        'or in the variable CLEANROOM_ADDRESS',
    );
  }
  const whole = channel instanceof Channel;
  if (whole && Object.keys(settings).length > 0) {
    throw new TypeError(
      `a Channel is whole already; ${Object.keys(settings).join(', ')} belongs to new Channel(…)`,
    );
  }
  const found = whole ? channel : new Channel(channel, settings);
  const expected = found[base];
  if (baseURL !== undefined && baseURL !== null && String(baseURL).replace(/\/+$/, '') !== expected) {
    throw new TypeError('baseURL is no choice here: requests go to the proven clean room alone');
  }
  const fetch =
    inherited === found
      ? official.fetch
      : Channel.fetchForClients(found, (response, error) => failures.set(response.headers, error));
  channels.set(fetch, found);
  return {
    channel: found,
    options: { ...official, apiKey: official.apiKey || UNUSED_KEY, baseURL: expected, fetch },
  };
}

// The official client over a channel. `base` is the member of a channel that is the client's base URL.
export function over(Official, base, APIConnectionError) {
  return class extends Official {
    constructor(options = {}) {
      const { channel, options: official } = overChannel(options, base);
      super(official);
      this.channel = channel;
    }

    request(options, remainingRetries) {
      return super.request(options, remainingRetries)._thenUnwrap((answer, { response }) => {
        const found = proof(response);
        if (found !== undefined) remember(answer, found);
        return answer;
      });
    }

    // An official exception is made of the response's headers; those of a problem of ours stand for it.
    makeStatusError(status, error, message, headers) {
      const cause = failures.get(headers);
      if (cause !== undefined) return new APIConnectionError({ message: cause.message, cause });
      return super.makeStatusError(status, error, message, headers);
    }
  };
}
