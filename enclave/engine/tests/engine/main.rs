//! The engine from outside, on the demo model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
#[path = "../support/embedding_model.rs"]
mod embedding_model;
mod embeddings;
mod harness;
mod memory;
mod sharing;
