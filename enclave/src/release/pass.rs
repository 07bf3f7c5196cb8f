//! The permission under which one request runs, asked again at every token.

use std::num::NonZeroU8;
use std::sync::{Arc, Mutex};

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::{BootMillis, LimitReached, Limits, Meter, Phase, Refusal};
use cleanroom_protocol::{EndQuestion, EndReason};

use super::guard::{Guard, lock};

/// One running request. It counts as running until it is dropped.
pub struct Pass {
    guard: Arc<Guard>,
    meter: Arc<Mutex<Meter>>,
    partner_key: Sha256Digest,
    transcript: Sha384Digest,
    /// Of the decision that `until` and `limits` are from.
    edition: u64,
    until: BootMillis,
    limits: Limits,
}

/// Why a request is not begun, or not gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// What the authorities released and leased does not permit it.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A limit of the partner is reached.
    #[error("{0}")]
    Limit(#[from] LimitReached),
}

impl Stop {
    /// A stable word for programs, as `docs/release.md` lists them.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Limit(limit) => limit.code(),
        }
    }
}

impl Pass {
    pub(super) const fn new(
        guard: Arc<Guard>,
        meter: Arc<Mutex<Meter>>,
        partner_key: Sha256Digest,
        transcript: Sha384Digest,
        edition: u64,
        until: BootMillis,
        limits: Limits,
    ) -> Self {
        Self { guard, meter, partner_key, transcript, edition, until, limits }
    }

    /// Counts the tokens of the prompt before they are read.
    ///
    /// # Errors
    ///
    /// [`Stop`] when the limit is reached.
    pub fn prompt(&self, tokens: usize) -> Result<(), Stop> {
        Ok(lock(&self.meter).spend(tokens as u64, &self.limits, self.guard.now())?)
    }

    /// The partner's share of what the enclave can do.
    pub(crate) fn share(&self) -> NonZeroU8 {
        self.limits.share()
    }

    /// Permits the next token. Two loads and a clock while nothing has changed.
    ///
    /// # Errors
    ///
    /// [`Stop`] says why the request ends here.
    pub fn next_token(&mut self) -> Result<(), Stop> {
        let (now, edition) = (self.guard.now(), self.guard.edition());
        if now >= self.until || edition != self.edition {
            (self.until, self.limits) = self.guard.decide(&self.partner_key, Phase::Continue)?;
            self.edition = edition;
        }
        Ok(lock(&self.meter).spend(1, &self.limits, now)?)
    }

    /// What the keeper is asked to sign when the stream `stream` ends because of `stop`.
    pub(crate) fn end(&self, stream: &str, stop: Stop) -> EndQuestion {
        let reason = match stop {
            Stop::Refused(refusal) => EndReason::from(refusal),
            Stop::Limit(limit) => EndReason::from(limit),
        };
        EndQuestion { transcript: self.transcript, stream: stream.to_owned(), reason }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        lock(&self.meter).finish();
    }
}
