//! The enclave's commitments before it serves, in two registers of its own: the model in PCR 16, the receipt key in PCR 17.
//! A `NitroTPM` has them in 14 and 15.

use cleanroom_attestation::channel::boot_measurement;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::measurement::extended_once;

use crate::receipt_key::ReceiptKey;
use crate::security_module::{SecurityModule, SecurityModuleError};

/// Proof that the commitments were made, locked and read back. Only [`commit`] makes one, and nothing serves without it.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    model: Sha256Digest,
}

impl Committed {
    /// The model that was committed to.
    #[must_use]
    pub fn model(&self) -> Sha256Digest {
        self.model
    }
}

/// Commits to `model` and `receipt_key`.
///
/// # Errors
/// [`CommitmentError`] when a PCR was touched before, or does not read back as it must. The enclave then halts.
pub async fn commit(
    security_module: &SecurityModule,
    model: Sha256Digest,
    receipt_key: &ReceiptKey,
) -> Result<Committed, CommitmentError> {
    let receipt_key = boot_measurement::receipt_key(receipt_key.subject_public_key_info());
    let registers = security_module.registers();
    commit_pcr(security_module, registers.model(), &boot_measurement::model(&model)).await?;
    commit_pcr(security_module, registers.receipt_key(), &receipt_key).await?;
    Ok(Committed { model })
}

async fn commit_pcr(
    security_module: &SecurityModule,
    index: u8,
    data: &Sha384Digest,
) -> Result<(), CommitmentError> {
    let index = u16::from(index);
    let before = security_module.describe_pcr(index).await?;
    if before.locked || !before.value.is_zero() {
        return Err(CommitmentError::Touched { index });
    }
    let committed = extended_once(data.as_bytes());
    let extended = security_module.extend_pcr(index, data).await?;
    security_module.lock_pcr(index).await?;
    let read_back = security_module.describe_pcr(index).await?;
    let expected = security_module.registers().closed(&committed);
    if extended != committed || read_back.value != expected || !read_back.locked {
        return Err(CommitmentError::NotKept {
            index,
            expected,
            actual: read_back.value,
            locked: read_back.locked,
        });
    }
    Ok(())
}

/// Why the enclave cannot commit, and therefore does not serve.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitmentError {
    /// Somebody extended or locked the PCR first.
    #[error("expected PCR {index} to be zero and unlocked at boot, but it was extended or locked already")]
    Touched {
        /// The PCR.
        index: u16,
    },
    /// The PCR does not hold what it was given.
    #[error("expected PCR {index} to read back as {expected} and locked, got {actual}, locked: {locked}")]
    NotKept {
        /// The PCR.
        index: u16,
        /// The value that the extension gives.
        expected: Sha384Digest,
        /// The value that was read.
        actual: Sha384Digest,
        /// Whether it was locked.
        locked: bool,
    },
    /// The security module did not do its part.
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
}
