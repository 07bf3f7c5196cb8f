// The program's commands `verify`, `measure` and `explain`, with their results as objects.
import { fileURLToPath } from 'node:url';
import native from './native.js';
import { NotProven, expect } from './errors.js';

const OPTIONS = { policySha256: '--policy-sha256', model: '--model', proxy: '--proxy' };

export async function verify(address, { policy = 'trust.toml', key = 'cleanroom.key', ...more } = {}) {
  const command = ['verify', address, '--policy', written(policy), '--key', written(key)];
  for (const [name, value] of Object.entries(more)) {
    if (OPTIONS[name] === undefined) throw new TypeError(`verify has no option ${name}`);
    if (value !== undefined) command.push(OPTIONS[name], value);
  }
  const report = await run(command);
  if (report.passed) return report;
  const { code } = report;
  const message = `the clean room at ${address} was refused: ${code}`;
  throw new NotProven(message, { code, exitCode: 1, reach: 'never-sent', verdict: { ...report } });
}

export async function measure(image) {
  return run(['measure', written(image)]);
}

export async function explain(file) {
  return run(['explain', written(file)]);
}

async function run(command) {
  const { exitCode, json } = expect(await native.run(command));
  const report = JSON.parse(json);
  // Beside what the program prints, and not printed with it.
  Object.defineProperty(report, 'passed', { value: exitCode === 0 || exitCode === 3 });
  Object.defineProperty(report, 'partial', { value: exitCode === 3 });
  return report;
}

// A path, also if it is a URL.
export function written(path) {
  return path instanceof URL ? fileURLToPath(path) : String(path);
}
