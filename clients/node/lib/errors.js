// The exceptions. None of them repeats anything of a request or an answer.

export class CleanroomError extends Error {
  static {
    this.prototype.name = 'CleanroomError';
  }

  constructor(message, { code, exitCode, reach, verdict, proof }) {
    super(message);
    this.code = code;
    this.exitCode = exitCode;
    this.reach = reach;
    // Not printed with the exception: a verdict has many lines.
    Object.defineProperty(this, 'verdict', { value: verdict });
    Object.defineProperty(this, 'proof', { value: proof });
  }
}

export class NotProven extends CleanroomError {
  static {
    this.prototype.name = 'NotProven';
  }
}

export class NotReached extends CleanroomError {
  static {
    this.prototype.name = 'NotReached';
  }
}

export class Failure extends CleanroomError {
  static {
    this.prototype.name = 'Failure';
  }
}

// The exception of a native `Problem`.
export function problem(native, proof) {
  const verdict = native.verdict();
  const { code, exitCode, reach } = native;
  const Kind = native.refused ? NotProven : NotReached;
  return new Kind(native.message, {
    code,
    exitCode,
    reach,
    verdict: verdict == null ? undefined : JSON.parse(verdict),
    proof,
  });
}

// What the native half gives, or the exception of its `Failed`.
export function expect(result) {
  if (result.failed === undefined) return result;
  throw new Failure(result.message, { code: result.failed, exitCode: result.exitCode, reach: 'never-sent' });
}
