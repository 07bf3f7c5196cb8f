//! Cosignatures of witnesses: C2SP `tlog-cosignature` 1.0.1 with Ed25519.
//!
//! ```text
//! cosignature/v1
//! time SECONDS
//! cleanroom/log/BOOT
//! SIZE
//! ROOT in base64
//! ```
//!
//! is what a witness signs: two lines, then the text of the checkpoint. It says that this is the largest tree of the log that the
//! witness has seen, and that it contains every smaller one that the witness has signed. The signature's bytes in the note are
//! the key id (4 bytes), the time (seconds since 1970, 8 bytes, big-endian) and the signature (64 bytes).

use core::fmt;
use core::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{KeyKind, NoteSignature, SignedCheckpoint, is_name, key_id, verifier};
use crate::release::{Algorithm, PublicKey};

/// The public key of a witness. Its written form is `NAME+ID+KEY`, as witnesses publish it (C2SP `signed-note`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    key: PublicKey,
}

/// A text is not the key of a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the key of a witness as NAME+ID+KEY, with an Ed25519 key for cosignatures (type 04)")]
pub struct WitnessKeyError;

impl WitnessKey {
    /// The key of the witness that calls itself `name`.
    ///
    /// # Errors
    /// [`WitnessKeyError`] when the name is not one of a signed note, or the key not Ed25519.
    pub fn new(name: &str, key: PublicKey) -> Result<Self, WitnessKeyError> {
        let is_one = is_name(name) && key.algorithm() == Algorithm::Ed25519;
        if is_one { Ok(Self { name: name.to_owned(), key }) } else { Err(WitnessKeyError) }
    }

    /// What the witness calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a witness signs to cosign `checkpoint` at `seconds` since 1970.
    #[must_use]
    pub fn message(checkpoint: &SignedCheckpoint, seconds: u64) -> Vec<u8> {
        format!("cosignature/v1\ntime {seconds}\n{}", checkpoint.text()).into_bytes()
    }

    /// The line of the note, out of the signature over [`Self::message`].
    #[must_use]
    pub fn cosignature(&self, seconds: u64, signature: &[u8]) -> NoteSignature {
        let bytes = [self.id().as_slice(), &seconds.to_be_bytes(), signature].concat();
        NoteSignature { name: self.name.clone(), bytes }
    }

    /// When the witness cosigned `checkpoint`: seconds since 1970 by its own clock. `None` if it did not. Of several cosignatures
    /// the newest counts.
    #[must_use]
    pub fn cosigned(&self, checkpoint: &SignedCheckpoint) -> Option<u64> {
        let id = self.id();
        let mine = checkpoint.signatures().iter().filter(|signature| signature.name == self.name);
        mine.filter_map(|signature| {
            let (seconds, signature) = signature.bytes.strip_prefix(&id)?.split_first_chunk::<8>()?;
            let seconds = u64::from_be_bytes(*seconds);
            self.key.verifies(&Self::message(checkpoint, seconds), signature).then_some(seconds)
        })
        .max()
    }

    fn id(&self) -> [u8; 4] {
        key_id(&self.name, KeyKind::Cosignature, &self.key)
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&verifier(&self.name, KeyKind::Cosignature, &self.key))
    }
}

impl FromStr for WitnessKey {
    type Err = WitnessKeyError;

    fn from_str(text: &str) -> Result<Self, WitnessKeyError> {
        let read = || {
            let (name, rest) = text.split_once('+')?;
            // The base64 of the key may contain a plus, so only the first two divide.
            let (_, key) = rest.split_once('+')?;
            let (kind, raw) =
                STANDARD.decode(key).ok()?.split_first().map(|(kind, raw)| (*kind, raw.to_vec()))?;
            let key = PublicKey::from_raw(Algorithm::Ed25519, &raw).ok()?;
            let key = Self::new(name, key).ok()?;
            // One spelling: the id must be the right one.
            (kind == KeyKind::Cosignature as u8 && key.to_string() == text).then_some(key)
        };
        read().ok_or(WitnessKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::tests::Signer;
    use super::*;
    use crate::digest::Sha256Digest;

    fn witness(signer: &Signer, name: &str) -> WitnessKey {
        WitnessKey::new(name, PublicKey::from_spki(&signer.spki()).unwrap()).unwrap()
    }

    fn cosign(key: &WitnessKey, signer: &Signer, note: &SignedCheckpoint, seconds: u64) -> SignedCheckpoint {
        note.with(key.cosignature(seconds, &signer.sign(&WitnessKey::message(note, seconds))))
    }

    #[test]
    fn a_cosignature_counts_for_its_own_key_its_own_time_and_its_own_checkpoint() {
        let (log, one, two) = (Signer::new(1), Signer::new(2), Signer::new(3));
        let (first, second) = (witness(&one, "one.example"), witness(&two, "two.example"));
        let note = SignedCheckpoint::parse(&log.checkpoint(7, Sha256Digest::of(&[b"root"]))).unwrap();
        let cosigned = cosign(&first, &one, &note, 1_700_000_000);
        // It is a note that others read, and the log's own signature is still there.
        let cosigned = SignedCheckpoint::parse(&cosigned.to_bytes()).unwrap();
        assert!(cosigned.verify(&log.note_key()).is_ok());
        assert_eq!(first.cosigned(&cosigned), Some(1_700_000_000));
        assert_eq!(second.cosigned(&cosigned), None);
        assert_eq!(witness(&two, "one.example").cosigned(&cosigned), None, "another key under the same name");
        assert_eq!(witness(&one, "two.example").cosigned(&cosigned), None, "the same key under another name");
        let later = cosign(&first, &one, &cosigned, 1_700_000_009);
        assert_eq!(first.cosigned(&later), Some(1_700_000_009));
        // Every changed bit of the cosignature is none.
        let genuine = cosigned.signatures().last().unwrap().clone();
        for bit in 0..genuine.bytes.len() * 8 {
            let mut bytes = genuine.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = note.with(NoteSignature { name: genuine.name.clone(), bytes });
            assert_eq!(first.cosigned(&changed), None, "bit {bit}");
        }
        // A cosignature of another checkpoint.
        let other = SignedCheckpoint::parse(&log.checkpoint(8, Sha256Digest::of(&[b"root"]))).unwrap();
        assert_eq!(first.cosigned(&other.with(genuine)), None);
        // The log's own signature is no cosignature, even where a witness has the log's name and key.
        assert_eq!(witness(&log, log.note_key().name()).cosigned(&note), None);
    }

    #[test]
    fn a_key_has_one_written_form() {
        let key = witness(&Signer::new(2), "one.example");
        let text = key.to_string();
        assert_eq!(text.parse(), Ok(key.clone()));
        let mut parts = text.splitn(3, '+');
        let (name, id, raw) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let of_log = verifier(name, KeyKind::Log, &key.key);
        for bad in [
            String::new(),
            of_log,
            format!("{name}+{id}"),
            format!("{name}+00000000+{raw}"),
            format!("two.example+{id}+{raw}"),
            format!("{name}+{id}+{raw} "),
            format!("{name}+{}+{raw}", id.to_uppercase()),
        ] {
            assert_eq!(bad.parse::<WitnessKey>(), Err(WitnessKeyError), "{bad}");
        }
        assert_eq!(WitnessKey::new("one example", key.key), Err(WitnessKeyError));
    }
}
