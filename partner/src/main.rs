//! The partner's program: verify, connect, measure, audit.

fn main() {}
