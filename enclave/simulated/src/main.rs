//! The enclave of the simulated tier: a process with a software security module; never part of an image.

fn main() {}
