//! What the authorities have released, for people: who may do what, as data and as parts of a page.
//!
//! The audit of `cleanroom` and the report of `cleanroom-authority` are both made of it, so that the same facts look the same
//! to a partner and to an overseer. It reads no file and has no clock.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

pub mod page;
mod terms;

pub use terms::{Document, Model, Partner, Records, Terms, WitnessDemand, authorities};
