//! End to end: real processes, hostile hosts, official client libraries.
