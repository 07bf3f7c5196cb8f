//! The partner's program: verify, connect, measure, audit.
