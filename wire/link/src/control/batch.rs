//! The enclave's log on its way to the host: the next entries, and the checkpoint after them.

use cleanroom_attestation::channel::{Fields, length_prefixed};
use cleanroom_attestation::log::{MAX_CHECKPOINT_BYTES, MAX_ENTRY_BYTES, SignedCheckpoint};

use super::ControlError;

/// The longest batch, in bytes.
pub const MAX_BATCH_BYTES: usize = 256 << 10;

/// Entries, and the checkpoint of the log that ends with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The place of the first entry in the log.
    pub first: u64,
    /// The entries, in order. None when the host has all.
    pub entries: Vec<Vec<u8>>,
    /// The checkpoint, a signed note.
    pub checkpoint: Vec<u8>,
}

/// The bytes that `entries` take in a batch beside the checkpoint.
#[must_use]
pub fn batch_size<'a>(entries: impl Iterator<Item = &'a [u8]>) -> usize {
    entries.fold(16 + MAX_CHECKPOINT_BYTES, |size, entry| size.saturating_add(entry.len()).saturating_add(4))
}

impl Batch {
    /// `LP(first, 8 bytes) LP(checkpoint) LP(entry)…`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { first, entries, checkpoint } = self;
        let mut bytes = length_prefixed(&[&first.to_be_bytes(), checkpoint]);
        for entry in entries {
            bytes.extend_from_slice(&length_prefixed(&[entry]));
        }
        bytes
    }

    /// Reads a batch, **unverified**.
    ///
    /// # Errors
    /// [`ControlError::Malformed`] when it is not one, or its checkpoint is of another size than its entries lead to.
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        Self::read(bytes).ok_or(ControlError::Malformed)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_BATCH_BYTES {
            return None;
        }
        let mut fields = Fields::new(bytes);
        let first = u64::from_be_bytes(fields.next(8)?.try_into().ok()?);
        let checkpoint = fields.next(MAX_CHECKPOINT_BYTES)?.to_vec();
        let mut entries = Vec::new();
        while !fields.is_at_end() {
            entries.push(fields.next(MAX_ENTRY_BYTES)?.to_vec());
        }
        let size = SignedCheckpoint::parse(&checkpoint).ok()?.unverified().size;
        let end = first.checked_add(u64::try_from(entries.len()).ok()?)?;
        (size == end).then_some(Self { first, entries, checkpoint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note of the right form. Its root is zeros, and nobody signed it.
    fn checkpoint(size: u64) -> Vec<u8> {
        let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        format!("log\n{size}\n{root}\n\n\u{2014} log AAAAAAAA\n").into_bytes()
    }

    #[test]
    fn batches_are_read_back_and_end_where_their_checkpoint_does() {
        let batch = |size| Batch {
            first: 3,
            entries: vec![b"a".to_vec(), b"bc".to_vec()],
            checkpoint: checkpoint(size),
        };
        assert_eq!(Batch::decode(&batch(5).encode()), Ok(batch(5)));
        assert_eq!(Batch::decode(&batch(6).encode()), Err(ControlError::Malformed));
        let bytes = batch(5).encode();
        for cut in 0..bytes.len() {
            assert!(Batch::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Batch::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
        assert!(Batch::decode(&vec![0; MAX_BATCH_BYTES + 1]).is_err());
    }
}
