//! The lease field of an `Evidence` frame: how long the lease still runs, and the statements that make it.

use super::MAX_LEASE_BYTES;
use super::encoding::{Fields, length_prefix};
use super::length_prefixed;

/// The most statements in one lease. A root has at most this many lease keys.
const MAX_STATEMENTS: usize = 16;

/// A lease as an enclave shows it: `LP(milliseconds left, u64 big-endian)`, then `LP(envelope)` for each issuer's statement.
///
/// Only the enclave knows when it sent the nonce that the statements answer, so it says how much is left; the receipt key's
/// signature over the frame makes that a statement of the measured code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownLease<'a> {
    /// Milliseconds that the lease still ran when the frame was made.
    pub left_ms: u64,
    /// The envelopes, each of another issuer; at least one.
    pub envelopes: Vec<&'a [u8]>,
}

impl<'a> ShownLease<'a> {
    /// The field's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut field = length_prefixed(&[&self.left_ms.to_be_bytes()]);
        for envelope in &self.envelopes {
            field.extend_from_slice(&length_prefix(envelope));
            field.extend_from_slice(envelope);
        }
        field
    }

    /// Reads a field; `None` when it is not exactly one.
    #[must_use]
    pub fn decode(field: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(field);
        let left_ms = u64::from_be_bytes(fields.next(8)?.try_into().ok()?);
        let mut envelopes = Vec::new();
        while !fields.is_at_end() {
            if envelopes.len() == MAX_STATEMENTS {
                return None;
            }
            envelopes.push(fields.next(MAX_LEASE_BYTES)?);
        }
        (!envelopes.is_empty()).then_some(Self { left_ms, envelopes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_back_and_a_broken_one_is_not() {
        let lease = ShownLease { left_ms: 1 << 40, envelopes: vec![b"one", b"two"] };
        let field = lease.encode();
        assert_eq!(ShownLease::decode(&field), Some(lease));
        // After the first whole envelope (12 + 7 bytes) a cut one is a shorter lease, which its digest then gives away.
        for cut in (0..field.len()).filter(|cut| *cut != 19) {
            assert_eq!(ShownLease::decode(&field[..cut]), None, "cut at {cut}");
        }
        let many = ShownLease { left_ms: 1, envelopes: vec![b""; MAX_STATEMENTS + 1] };
        assert_eq!(ShownLease::decode(&many.encode()), None);
    }
}
