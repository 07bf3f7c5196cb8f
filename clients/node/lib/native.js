// The native half: `src/`. `scripts/node` puts it beside this file.
import { createRequire } from 'node:module';

export default createRequire(import.meta.url)('./cleanroom.node');
