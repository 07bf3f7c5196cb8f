//! Fetches the weights from the host's store. What [`open`] gives out is whole, and its identity is known.
//!
//! ```text
//! store ── ranges, several at once ──► commitment ─► open each chunk ─► hash it ─► Weights: pieces, digest
//!                                      (sealed)      (sealed)
//! ```
//!
//! The store is the host's, so nothing that it says is believed. A sealed file's length is proven by its last chunk, each chunk
//! by its tag at its own place, the key by its commitment, and the whole by the Merkle tree that is the model's identity. The
//! caller compares that identity with the one it expects, commits to it, and only then lets anybody parse a byte.
//!
//! Chunks are opened and hashed on the runtime's threads, each straight into the place where it stays, a few at a time, so that
//! they are in the processor's cache meanwhile: a model of n bytes takes n bytes and 64 KiB for each connection. Ranges that do not come, or come damaged, are asked for again on another
//! connection, a few times.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod error;
mod fetch;
mod plan;

use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::{ModelDigester, SubtreeDigester};
use cleanroom_console::Line;
use cleanroom_link::listener::Listener;
use cleanroom_link::store::Description;
use cleanroom_sealing::Key;
use tokio::time::timeout;
use zeroize::Zeroizing;

pub use error::WeightsError;
use plan::Plan;

/// In which form the weights must come.
pub enum How {
    /// As they are.
    Plain,
    /// Sealed with this key, which is wiped when the file is open.
    Sealed(Key),
}

/// How much, and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes that the weights may have.
    pub bytes: u64,
    /// Connections at once.
    pub connections: usize,
    /// How long a range may take.
    pub range_time: Duration,
    /// How often in a row ranges may fail before it is given up.
    pub attempts: u32,
}

impl Limits {
    /// Room for this many bytes of weights, and the rest as usual.
    #[must_use]
    pub const fn for_bytes(bytes: u64) -> Self {
        Self { bytes, connections: 4, range_time: Duration::from_secs(20), attempts: 5 }
    }
}

/// A model's bytes in memory, in pieces, which are erased when they are dropped.
pub struct Weights {
    pieces: Vec<Zeroizing<Vec<u8>>>,
    digest: Sha256Digest,
}

impl Weights {
    /// The model's identity, computed from these bytes.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Their length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The pieces, in order, each for whoever takes it to drop before the next.
    pub fn into_pieces(self) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
        self.pieces.into_iter()
    }
}

impl From<Vec<u8>> for Weights {
    fn from(bytes: Vec<u8>) -> Self {
        let mut digester = ModelDigester::new();
        digester.update(&bytes);
        Self { pieces: vec![Zeroizing::new(bytes)], digest: digester.finish() }
    }
}

/// Fetches the weights from the store that connects to `listener`.
///
/// # Errors
/// [`WeightsError`]: why there are none. Nothing of what was read is left then.
pub async fn open<L: Listener>(listener: &mut L, how: How, limits: &Limits) -> Result<Weights, WeightsError> {
    let (mut first, mut description) = first_connection(listener, limits.range_time).await;
    let plan = match how {
        How::Plain => Plan::plain(description, limits)?,
        How::Sealed(key) => {
            let mut failures = 0;
            loop {
                match Plan::sealed(description, limits, &key, &mut first).await {
                    Err(WeightsError::Stalled { .. }) if failures + 1 < limits.attempts => failures += 1,
                    planned => break planned?,
                }
                (first, description) = first_connection(listener, limits.range_time).await;
            }
        }
    };
    let pieces = fetch::all(listener, first, plan, limits).await?;
    let mut whole = SubtreeDigester::new();
    let mut bytes = Vec::with_capacity(pieces.len());
    for (piece, digest) in pieces {
        whole.push(digest);
        bytes.push(piece);
    }
    let digest = whole.finish().ok_or(WeightsError::Stalled { failures: 0 })?;
    Ok(Weights { pieces: bytes, digest })
}

/// Waits for the store, as long as it takes: without a model there is nothing else to do. A connection that says nothing for
/// `range_time` gives way to the next one.
async fn first_connection<L: Listener>(listener: &mut L, range_time: Duration) -> (L::Stream, Description) {
    loop {
        let mut stream = listener.connection().await;
        let reason = match timeout(range_time, Description::read(&mut stream)).await {
            Ok(Ok(description)) => return (stream, description),
            Ok(Err(error)) => error.kind(),
            Err(_) => std::io::ErrorKind::TimedOut,
        };
        Line::StoreUnusable { reason }.say();
    }
}
