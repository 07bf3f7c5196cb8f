//! The native half of the Node package `cleanroom`.
//!
//! It hands requests to [`cleanroom_partner::client::package`], which sends as the local proxy does, and
//! holds no rule of its own about what may be sent or believed. Node's event loop never waits here: requests
//! run on this module's own threads, and each call gives a promise.
//!
//! No function throws. What can go wrong comes as a [`answer::Problem`] or a [`program::Failed`], from which
//! the JavaScript half makes its exceptions.

mod answer;
mod channel;
mod program;
mod runtime;
