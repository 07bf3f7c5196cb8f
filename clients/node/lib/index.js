// The package `cleanroom`: a fetch that proves a clean room before it sends.
import native from './native.js';

export { Channel } from './channel.js';
export { CleanroomError, Failure, NotProven, NotReached } from './errors.js';
export { Proof, proof, receipt } from './proof.js';
export { explain, measure, verify } from './program.js';
export const version = native.VERSION;
