//! Code that all programs on their owners' machines share.
//!
//! The host, the partner's program and the authority's program use this crate. The enclave and everything
//! that it measures do not: an enclave has no disk, no terminal and no signals.
//!
//! | module | in one line |
//! |---|---|
//! | [`log`] | `let _log = log::start(Format::Text, "info")?;` |
//! | [`output`] | `output::print(&text)?;` |
//! | [`mod@file`] | `file::replace(&path, &bytes, 0o644)?;` |
//! | [`lock`] | `let _lock = FolderLock::take(&folder)?;` |
//! | [`claim`] | `let listener = ClaimedListener::bind(&path, 0o600).await?;` |
//! | [`clock`] | `clock.timeout_at(deadline, work).await?` |
//! | [`network`] | `let stream = network::connect("lease.example:8700").await?;` |
//! | [`limits`] | `limits::require_open_files(4096)?;` |
//! | [`signals`] | `signals.next().await` |
//! | [`manual`] | `manual.write(&Arguments::command())?;` |
//!
//! Features keep small programs small: `log` brings `tracing`, `runtime` brings tokio (for `clock` and
//! `signals`), `network` brings sockets (for `network` and `claim`), `manual` brings what writes manual pages. The crate is for Unix
//! systems.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

#[cfg(feature = "network")]
pub mod claim;
#[cfg(feature = "runtime")]
pub mod clock;
#[cfg(feature = "examples")]
pub mod examples;
pub mod file;
pub mod limits;
pub mod lock;
#[cfg(feature = "log")]
pub mod log;
#[cfg(feature = "manual")]
pub mod manual;
#[cfg(feature = "network")]
pub mod network;
pub mod output;
#[cfg(feature = "runtime")]
pub mod signals;
