//! Secrets and their shares: Shamir's scheme over GF(256), as the crate `blahaj` has it.

use aws_lc_rs::rand;
use blahaj::Sharks;
use cleanroom_attestation::channel::length_prefixed;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{BROKERS_LIMIT, Id};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::purpose::Purpose;

/// A secret that brokers hold together: 32 random bytes, wiped when dropped.
pub struct Secret(Zeroizing<[u8; Self::LENGTH]>);

/// One broker's part of a secret: its place (a byte that is not zero), then 32 bytes. Wiped when dropped.
pub struct Share(Zeroizing<[u8; Self::LENGTH]>);

/// What a share is a share of. A commitment covers it, so that no share stands for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareOf<'a> {
    /// What the key is for.
    pub purpose: Purpose,
    /// The model.
    pub model: &'a Sha256Digest,
    /// The broker that holds it.
    pub broker: &'a Id,
}

/// Why a secret cannot be split as asked, or could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The numbers do not fit together.
    #[error("expected 1 to {BROKERS_LIMIT} shares, of which 1 to all are needed; got {needed} of {of}")]
    Numbers {
        /// Shares that make the secret.
        needed: usize,
        /// Shares in all.
        of: usize,
    },
    /// There were no random bytes.
    #[error("the system's random number generator failed")]
    Random,
}

impl Secret {
    /// The length in bytes.
    pub const LENGTH: usize = 32;

    /// A new secret.
    ///
    /// # Errors
    /// [`SplitError::Random`].
    pub fn generate() -> Result<Self, SplitError> {
        let mut bytes = Zeroizing::new([0; Self::LENGTH]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| SplitError::Random)?;
        Ok(Self(bytes))
    }

    pub(crate) fn from_bytes(bytes: &Zeroizing<[u8; Self::LENGTH]>) -> Self {
        Self(bytes.clone())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// `of` shares, any `needed` of which make the secret and fewer of which say nothing about it.
    ///
    /// # Errors
    /// [`SplitError::Numbers`].
    pub fn split(&self, needed: usize, of: usize) -> Result<Vec<Share>, SplitError> {
        let wrong = SplitError::Numbers { needed, of };
        if !(1..=BROKERS_LIMIT).contains(&of) || !(1..=of).contains(&needed) {
            return Err(wrong);
        }
        let threshold = u8::try_from(needed).map_err(|_| wrong)?;
        let dealt = Sharks(threshold).dealer(self.0.as_slice()).take(of);
        dealt.map(|share| Share::read(&Zeroizing::new(Vec::from(&share))).ok_or(wrong)).collect()
    }

    /// The secret that `shares` make. Fewer than were needed, or a wrong one among them, give another secret or none.
    #[must_use]
    pub fn join(shares: &[&Share]) -> Option<Self> {
        let parts = shares.iter().map(|share| blahaj::Share::try_from(share.0.as_slice()));
        let parts = parts.collect::<Result<Vec<_>, _>>().ok()?;
        let joined = Zeroizing::new(Sharks(u8::try_from(shares.len()).ok()?).recover(&parts).ok()?);
        Some(Self(Zeroizing::new(joined.as_slice().try_into().ok()?)))
    }
}

impl Share {
    /// The length in bytes.
    pub const LENGTH: usize = 1 + Secret::LENGTH;

    /// Reads a share. `None` when it has another length, or the place of the secret itself.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = Zeroizing::new(<[u8; Self::LENGTH]>::try_from(bytes).ok()?);
        bytes.first().is_some_and(|place| *place != 0).then_some(Self(bytes))
    }

    /// The share's bytes, for a broker's own file and for the enclave.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// What a release says about the share: `SHA-256(LP("cleanroom/share/1") LP(purpose) LP(model digest) LP(broker) LP(share))`. It
    /// tells a wrong share from the right one, and nothing about either: a share has 256 random bits.
    #[must_use]
    pub fn commitment(&self, of: &ShareOf<'_>) -> Sha256Digest {
        let ShareOf { purpose, model, broker } = of;
        let fields = Zeroizing::new(length_prefixed(&[
            b"cleanroom/share/1",
            purpose.word().as_bytes(),
            model.as_bytes(),
            broker.as_str().as_bytes(),
            self.0.as_slice(),
        ]));
        Sha256Digest::of(&[&fields])
    }

    /// Whether both are at the same place, so that together they are worth one.
    pub(crate) fn is_at_place_of(&self, other: &Self) -> bool {
        self.0.first().zip(other.0.first()).is_none_or(|(one, other)| bool::from(one.ct_eq(other)))
    }
}
