//! What a witness is asked: the body of C2SP `tlog-witness` 1.0.0, `POST /add-checkpoint`.
//!
//! ```text
//! old SIZE
//! the consistency proof from SIZE to the checkpoint's size, one hash in base64 on each line
//!
//! the signed checkpoint
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{MAX_CHECKPOINT_BYTES, SignedCheckpoint};
use crate::digest::Sha256Digest;

/// The most hashes in a consistency proof.
const MAX_HASHES: usize = 63;
/// A hash in base64 with the end of its line, in bytes.
const HASH_LINE: usize = 45;

/// A request to cosign a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size that the witness cosigned last, as far as the asker knows; 0 if none.
    pub old: u64,
    /// That the log of that size is the beginning of the checkpoint's. **Unverified.**
    pub proof: Vec<Sha256Digest>,
    /// The checkpoint. **Unverified.**
    pub checkpoint: SignedCheckpoint,
}

impl AddCheckpoint {
    /// The longest body, in bytes.
    pub const LIMIT: usize = 32 + MAX_HASHES * HASH_LINE + MAX_CHECKPOINT_BYTES;

    /// Reads a body.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        if body.len() > Self::LIMIT {
            return None;
        }
        let (head, checkpoint) = core::str::from_utf8(body).ok()?.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let digits = lines.next()?.strip_prefix("old ")?;
        let old: u64 = digits.parse().ok()?;
        // One spelling for each number: no sign, no leading zero.
        if old.to_string() != digits {
            return None;
        }
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == MAX_HASHES {
                return None;
            }
            let hash = STANDARD.decode(line).ok()?;
            proof.push(Sha256Digest::try_from(hash.as_slice()).ok()?);
        }
        let checkpoint = SignedCheckpoint::parse(checkpoint.as_bytes()).ok()?;
        Some(Self { old, proof, checkpoint })
    }

    /// The body.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { old, proof, checkpoint } = self;
        let mut body = format!("old {old}\n");
        for hash in proof {
            body.push_str(&STANDARD.encode(hash.as_bytes()));
            body.push('\n');
        }
        body.push('\n');
        [body.as_bytes(), &checkpoint.to_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::tests::Signer;
    use super::*;

    #[test]
    fn a_body_has_one_form() {
        let checkpoint = Signer::new(1).checkpoint(10, Sha256Digest::of(&[b"r"]));
        let checkpoint = SignedCheckpoint::parse(&checkpoint).unwrap();
        let proof: Vec<_> = (0..3_u8).map(|number| Sha256Digest::of(&[&[number]])).collect();
        let request = AddCheckpoint { old: 7, proof, checkpoint };
        let body = String::from_utf8(request.to_bytes()).unwrap();
        assert_eq!(AddCheckpoint::parse(body.as_bytes()), Some(request.clone()));
        let empty = AddCheckpoint { old: 0, proof: Vec::new(), checkpoint: request.checkpoint.clone() };
        assert_eq!(AddCheckpoint::parse(&empty.to_bytes()), Some(empty));
        let longest = AddCheckpoint { proof: vec![Sha256Digest::of(&[]); MAX_HASHES], ..request.clone() };
        assert_eq!(AddCheckpoint::parse(&longest.to_bytes()), Some(longest));
        let too_long = AddCheckpoint { proof: vec![Sha256Digest::of(&[]); MAX_HASHES + 1], ..request };
        assert_eq!(AddCheckpoint::parse(&too_long.to_bytes()), None);
        for bad in [
            String::new(),
            body.replacen("old 7", "old 07", 1),
            body.replacen("old 7", "old +7", 1),
            body.replacen("old 7", "old", 1),
            body.replacen("old 7\n", "", 1),
            body.replacen('=', "", 1),
            body.replacen("\n\n", "\n", 1),
            format!("{body}\n"),
            format!("{body}{}", " ".repeat(AddCheckpoint::LIMIT)),
        ] {
            assert_eq!(AddCheckpoint::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
