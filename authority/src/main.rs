//! The authorities' program: releases, leases, halting, key release.

fn main() {}
