//! Buffers that nobody else may read: no `Debug`, no `Display`, erased on drop, and no copy left behind by growing.
//!
//! Some copies belong to libraries and are out of reach here: the frames in which hyper hands over a request body, the scratch
//! space in which `serde_json` decodes a string with escapes, and the output buffers of hyper and rustls. All of them live
//! in enclave memory for a short time, and the enclave's allocator erases them when they are freed.

use bytes::Bytes;
pub(crate) use cleanroom_backend::SecretString;
use zeroize::Zeroizing;

/// Bytes of a request or an answer.
#[derive(Default)]
pub(crate) struct SecretBuffer(Zeroizing<Vec<u8>>);

impl SecretBuffer {
    /// The least that is allocated once something is written: a few events of a stream.
    const MINIMUM: usize = 1024;

    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(bytes)))
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Appends a byte `count` times.
    pub(crate) fn fill(&mut self, byte: u8, count: usize) {
        self.reserve(count);
        let length = self.0.len() + count;
        self.0.resize(length, byte);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// What is in the buffer, which is empty afterwards. The bytes are zeroised when the last user lets go of them.
    pub(crate) fn take(&mut self) -> Bytes {
        Bytes::from_owner(Owned(std::mem::take(&mut self.0)))
    }

    /// What is in the buffer, erased on drop.
    pub(crate) fn into_vec(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    fn reserve(&mut self, additional: usize) {
        let needed = self.0.len().saturating_add(additional);
        if needed > self.0.capacity() {
            let capacity = needed.max(self.0.capacity().saturating_mul(2)).max(Self::MINIMUM);
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&self.0);
            self.0 = larger; // The assignment drops, and so zeroises, the old allocation.
        }
    }
}

/// The owner behind a [`Bytes`]: zeroises on drop.
struct Owned(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_and_taking_keep_every_byte() {
        let mut buffer = SecretBuffer::with_capacity(3);
        let mut expected = Vec::new();
        for n in 0..1000_u16 {
            buffer.push(&n.to_be_bytes());
            expected.extend_from_slice(&n.to_be_bytes());
        }
        assert_eq!(buffer.as_slice(), expected);
        assert_eq!(buffer.take(), expected);
        assert!(buffer.is_empty());
        buffer.push(b"again");
        assert_eq!(buffer.take(), "again");
    }
}
