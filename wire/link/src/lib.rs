//! The contract between a host and its enclave.
//!
//! Both sides take every number and name from here, so neither side can drift away from the other.
//!
//! | module | contents |
//! |---|---|
//! | [`load`] | how much an enclave has to do |
//! | [`port`] | the vsock ports that an enclave listens on |
//! | [`heartbeat`] | the sign of life that an enclave sends when it has booted |
//! | [`variable`] | how a host tells a simulated enclave where things are |
//! | `control` | the frames of the control connection (feature `control`) |
//! | [`exit`] | what a simulated enclave's exit status means |
//! | `store` | how the model's bytes travel to the enclave (feature `stream`) |
//! | `listener` | sockets and ports on which connections arrive (feature `stream`) |
//! | `tcp` | the same ports over TCP, of an instance that is the enclave itself (feature `stream`) |
//! | `body` | how the body of a frame is read (feature `stream`) |
//!
//! Nothing in this contract is secret, and neither side believes the other: the enclave measures, checks and bounds
//! what the host hands over.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

#[cfg(feature = "stream")]
pub mod body;
#[cfg(feature = "control")]
pub mod control;
pub mod exit;
pub mod heartbeat;
#[cfg(feature = "stream")]
pub mod listener;
pub mod load;
pub mod port;
#[cfg(feature = "stream")]
pub mod store;
#[cfg(feature = "stream")]
pub mod tcp;
pub mod variable;
