//! Checkpoints: C2SP `tlog-checkpoint` in a C2SP `signed-note`, both of version 1.0.0.
//!
//! ```text
//! cleanroom/log/BOOT
//! SIZE
//! ROOT in base64
//!
//! — cleanroom/log/BOOT base64(key id, 4 bytes ‖ Ed25519 signature, 64 bytes)
//! ```
//!
//! The text up to and with the newline before the blank line is what is signed. A second line of the same name has a signature for COSE
//! receipts (`cose`), which readers of notes pass over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cose::{self, cose_to_be_signed};
use crate::digest::Sha256Digest;
use crate::release::{Algorithm, PublicKey};

/// The longest signed checkpoint that is read, in bytes.
pub const MAX_CHECKPOINT_BYTES: usize = 16 << 10;
/// The most signatures on one: the log's own and those of witnesses.
const MAX_SIGNATURES: usize = 32;
/// The longest name of a key, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// The longest signature with its key id, in bytes.
const MAX_SIGNATURE_BYTES: usize = 256;
/// Before the name of a signature: an em dash and a space.
const DASH: &str = "\u{2014} ";

/// What a key of a note signs, as the byte that stands before the key where its id is computed (C2SP `signed-note`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// Notes themselves, with Ed25519: a log's own key.
    Log = 0x01,
    /// Cosignatures, with Ed25519 and a time: the key of a witness.
    Cosignature = 0x04,
}

/// Which boot of an enclave a log is of: SHA-256 of its receipt key, DER of the `SubjectPublicKeyInfo`.
#[must_use]
pub fn boot_of(receipt_key: &[u8]) -> Sha256Digest {
    Sha256Digest::of(&[receipt_key])
}

/// What the names of logs begin with.
const ORIGIN: &str = "cleanroom/log/";

/// The name of a boot's log, which is also the name of its key.
#[must_use]
pub fn origin(boot: &Sha256Digest) -> String {
    format!("{ORIGIN}{boot}")
}

/// A log's size and root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: String,
    /// How many leaves it has.
    pub size: u64,
    /// Their root.
    pub root: Sha256Digest,
}

impl Checkpoint {
    /// The boot whose log it is; `None` when its name is not that of a boot's log.
    #[must_use]
    pub fn boot(&self) -> Option<Sha256Digest> {
        let boot = self.origin.strip_prefix(ORIGIN)?.parse().ok()?;
        // One spelling.
        (origin(&boot) == self.origin).then_some(boot)
    }

    /// What is signed.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { origin, size, root } = self;
        format!("{origin}\n{size}\n{}\n", STANDARD.encode(root.as_bytes()))
    }

    /// The signed note, once `signature` by `key` over [`Self::text`] is there.
    #[must_use]
    pub fn signed(&self, key: &NoteKey, signature: &[u8]) -> Vec<u8> {
        let signature =
            NoteSignature { name: key.name.clone(), bytes: [key.id().as_slice(), signature].concat() };
        format!("{}\n{}", self.text(), signature.line()).into_bytes()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let origin = lines.next().filter(|origin| is_name(origin))?.to_owned();
        let digits = lines.next()?;
        let size: u64 = digits.parse().ok()?;
        // One spelling for each number: no sign, no leading zero.
        if size.to_string() != digits {
            return None;
        }
        let root = STANDARD.decode(lines.next()?).ok()?;
        let root = Sha256Digest::try_from(root.as_slice()).ok()?;
        // Extension lines are allowed by the format. These logs have none.
        lines.next().is_none().then_some(Self { origin, size, root })
    }
}

/// A key that signs notes with Ed25519.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    key: PublicKey,
}

impl NoteKey {
    /// The key of a boot's log, out of its receipt key (DER of the `SubjectPublicKeyInfo`). `None` for another algorithm.
    #[must_use]
    pub fn of_boot(receipt_key: &[u8]) -> Option<Self> {
        let key = PublicKey::from_spki(receipt_key).ok()?;
        let name = origin(&boot_of(receipt_key));
        (key.algorithm() == Algorithm::Ed25519).then_some(Self { name, key })
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of `SHA-256(name ‖ 0x0A ‖ 0x01 ‖ key)`.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, KeyKind::Log, &self.key)
    }

    /// `NAME+ID+KEY`, as other programs take it.
    #[must_use]
    pub fn verifier(&self) -> String {
        verifier(&self.name, KeyKind::Log, &self.key)
    }

    /// The DER of the key's `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        self.key.spki()
    }

    /// The second line of a checkpoint, once `signature` over [`cose_to_be_signed`] is there.
    #[must_use]
    pub fn cose_line(&self, signature: &[u8]) -> NoteSignature {
        NoteSignature { name: self.name.clone(), bytes: [self.cose_id().as_slice(), signature].concat() }
    }

    /// The first four bytes of `SHA-256(name ‖ 0x0A ‖ 0xFF ‖ "cleanroom/cose-receipt/1" ‖ key)`.
    fn cose_id(&self) -> [u8; 4] {
        id_of(&[self.name.as_bytes(), b"\n", cose::KEY_KIND, raw(&self.key)])
    }
}

/// The first four bytes of `SHA-256(name ‖ 0x0A ‖ kind ‖ key)`.
pub(super) fn key_id(name: &str, kind: KeyKind, key: &PublicKey) -> [u8; 4] {
    id_of(&[name.as_bytes(), b"\n", &[kind as u8], raw(key)])
}

fn id_of(parts: &[&[u8]]) -> [u8; 4] {
    let [a, b, c, d, ..] = *Sha256Digest::of(parts).as_bytes();
    [a, b, c, d]
}

/// `NAME+ID+KEY`.
pub(super) fn verifier(name: &str, kind: KeyKind, key: &PublicKey) -> String {
    let id = hex::encode(key_id(name, kind, key));
    format!("{name}+{id}+{}", STANDARD.encode([&[kind as u8][..], raw(key)].concat()))
}

/// The 32 bytes of an Ed25519 key, which end its `SubjectPublicKeyInfo`.
fn raw(key: &PublicKey) -> &[u8] {
    key.spki().last_chunk::<32>().map_or(&[], <[u8; 32]>::as_slice)
}

/// One line of signature, **unverified**.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// What the signer calls itself.
    pub name: String,
    /// Key id and signature.
    pub bytes: Vec<u8>,
}

impl NoteSignature {
    /// The line of the note, with its end.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{DASH}{} {}\n", self.name, STANDARD.encode(&self.bytes))
    }

    /// Reads lines of signature alone, as a witness answers. `None` unless all of them are of the form.
    #[must_use]
    pub fn parse_lines(bytes: &[u8]) -> Option<Vec<Self>> {
        if bytes.len() > MAX_CHECKPOINT_BYTES {
            return None;
        }
        let lines = core::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        if lines.split('\n').count() > MAX_SIGNATURES {
            return None;
        }
        lines.split('\n').map(Self::parse).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
        if signature.len() > MAX_SIGNATURE_BYTES.saturating_mul(2) {
            return None;
        }
        let bytes = STANDARD.decode(signature).ok()?;
        let long_enough = (5..=MAX_SIGNATURE_BYTES).contains(&bytes.len());
        (is_name(name) && long_enough).then(|| Self { name: name.to_owned(), bytes })
    }
}

/// A name has no space, no plus and no control character.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |each: char| !each.is_whitespace() && !each.is_control() && each != '+';
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.chars().all(plain)
}

/// A checkpoint with signatures, **none of them verified**.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    text: String,
    checkpoint: Checkpoint,
    signatures: Vec<NoteSignature>,
}

impl SignedCheckpoint {
    /// Reads a note.
    ///
    /// # Errors
    /// [`CheckpointError::Form`] for anything but a note of this form.
    pub fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        Self::read(bytes).ok_or(CheckpointError::Form)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_CHECKPOINT_BYTES {
            return None;
        }
        let note = core::str::from_utf8(bytes).ok()?;
        let (text, lines) = note.split_once("\n\n")?;
        let text = format!("{text}\n");
        let signatures = NoteSignature::parse_lines(lines.as_bytes())?;
        Some(Self { checkpoint: Checkpoint::parse(&text)?, text, signatures })
    }

    /// What it says, **unverified**.
    #[must_use]
    pub const fn unverified(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What is signed: the lines of [`Checkpoint::text`].
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The note with one more signature.
    #[must_use]
    pub fn with(&self, signature: NoteSignature) -> Self {
        let mut note = self.clone();
        note.signatures.push(signature);
        note
    }

    /// The note's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut note = format!("{}\n", self.text);
        self.signatures.iter().for_each(|signature| note.push_str(&signature.line()));
        note.into_bytes()
    }

    /// The signatures, **unverified**.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The lines of others than the log itself, **unverified**.
    pub fn cosignatures(&self) -> impl Iterator<Item = &NoteSignature> {
        self.signatures.iter().filter(|line| line.name != self.checkpoint.origin)
    }

    /// The log's signature for COSE receipts, 64 bytes of Ed25519, if it is there and by this key.
    #[must_use]
    pub fn cose_signature(&self, key: &NoteKey) -> Option<&[u8]> {
        let signed = cose_to_be_signed(&self.checkpoint.boot()?, &self.checkpoint.root);
        let id = key.cose_id();
        let lines = self.signatures.iter().filter(|line| line.name == key.name);
        lines
            .filter_map(|line| line.bytes.strip_prefix(&id))
            .find(|signature| key.key.verifies(&signed, signature))
    }

    /// What it says, if the log with this key says it.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn verify(&self, key: &NoteKey) -> Result<&Checkpoint, CheckpointError> {
        if self.checkpoint.origin != key.name {
            return Err(CheckpointError::OtherLog);
        }
        self.own_signature(key).map(|_| &self.checkpoint).ok_or(CheckpointError::Signature)
    }

    /// The note with the log's own signature alone, if there is one.
    #[must_use]
    pub fn signed_by(&self, key: &NoteKey) -> Option<Self> {
        let signatures = vec![self.own_signature(key)?.clone()];
        Some(Self { signatures, ..self.clone() })
    }

    fn own_signature(&self, key: &NoteKey) -> Option<&NoteSignature> {
        let id = key.id();
        self.signatures.iter().find(|signature| {
            let bytes = signature.bytes.strip_prefix(&id);
            signature.name == key.name
                && bytes.is_some_and(|bytes| key.key.verifies(self.text.as_bytes(), bytes))
        })
    }
}

/// Why bytes are not the checkpoint of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a signed note with a checkpoint.
    #[error("expected a signed checkpoint (C2SP tlog-checkpoint), got something else")]
    Form,
    /// Of another log.
    #[error("the checkpoint is of another log")]
    OtherLog,
    /// Not signed by the log.
    #[error("the checkpoint is not signed by the log's own key")]
    Signature,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::crypto::backend::signature::{Ed25519KeyPair, KeyPair as _};

    pub(crate) struct Signer(Ed25519KeyPair);

    impl Signer {
        pub(crate) fn new(seed: u8) -> Self {
            Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
        }

        pub(crate) fn spki(&self) -> Vec<u8> {
            PublicKey::from_raw(Algorithm::Ed25519, self.0.public_key().as_ref()).unwrap().spki().to_vec()
        }

        pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
            self.0.sign(message).as_ref().to_vec()
        }

        pub(crate) fn note_key(&self) -> NoteKey {
            NoteKey::of_boot(&self.spki()).unwrap()
        }

        pub(crate) fn checkpoint(&self, size: u64, root: Sha256Digest) -> Vec<u8> {
            let checkpoint = Checkpoint { origin: origin(&boot_of(&self.spki())), size, root };
            checkpoint.signed(&self.note_key(), &self.sign(checkpoint.text().as_bytes()))
        }
    }

    #[test]
    fn a_log_is_named_after_its_boot_in_one_spelling() {
        let boot = boot_of(b"a receipt key");
        let of = |origin: String| Checkpoint { origin, size: 0, root: boot }.boot();
        assert_eq!(of(origin(&boot)), Some(boot));
        for other in [
            boot.to_string(),
            format!("cleanroom/log/../{boot}"),
            format!("cleanroom/log/{}", boot.to_string().to_uppercase()),
            format!("cleanroom/log/0x{boot}"),
            "cleanroom/log/".to_owned(),
        ] {
            assert_eq!(of(other.clone()), None, "{other}");
        }
    }

    #[test]
    fn a_checkpoint_is_believed_under_its_own_key_alone() {
        let (signer, other) = (Signer::new(1), Signer::new(2));
        let root = Sha256Digest::of(&[b"root"]);
        let note = signer.checkpoint(7, root);
        let signed = SignedCheckpoint::parse(&note).unwrap();
        let checkpoint = signed.verify(&signer.note_key()).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (7, root));
        assert_eq!(signed.verify(&other.note_key()), Err(CheckpointError::OtherLog));
        // Every changed character is another checkpoint or none.
        let text = String::from_utf8(note).unwrap();
        for changed in
            [text.replacen("\n7\n", "\n8\n", 1), text.replace("\u{2014} cleanroom", "\u{2014} dleanroom")]
        {
            let signed = SignedCheckpoint::parse(changed.as_bytes()).unwrap();
            assert_eq!(signed.verify(&signer.note_key()), Err(CheckpointError::Signature));
        }
        // A signature of another key under this name and id.
        let forged = Checkpoint { origin: signer.note_key().name, size: 7, root };
        let forged = forged.signed(&signer.note_key(), &other.sign(forged.text().as_bytes()));
        let forged = SignedCheckpoint::parse(&forged).unwrap();
        assert_eq!(forged.verify(&signer.note_key()), Err(CheckpointError::Signature));
    }

    #[test]
    fn the_signature_for_cose_receipts_is_a_line_of_its_own_and_of_this_root() {
        let (signer, other) = (Signer::new(1), Signer::new(2));
        let key = signer.note_key();
        let note = |root, line: Option<NoteSignature>| {
            let note = SignedCheckpoint::parse(&signer.checkpoint(7, root)).unwrap();
            line.map_or_else(|| note.clone(), |line| note.with(line))
        };
        let (boot, root) = (boot_of(&signer.spki()), Sha256Digest::of(&[b"root"]));
        let signature = signer.sign(&cose_to_be_signed(&boot, &root));
        let signed = note(root, Some(key.cose_line(&signature)));
        let signed = SignedCheckpoint::parse(&signed.to_bytes()).unwrap();
        assert_eq!(signed.cose_signature(&key), Some(signature.as_slice()));
        // It is still the checkpoint that it was, and nobody has cosigned it.
        assert_eq!(signed.verify(&key).unwrap().size, 7);
        assert_eq!((signed.signatures().len(), signed.cosignatures().count()), (2, 0));
        assert_eq!(signed.signed_by(&key), Some(note(root, None)));
        // Without the line, of another root, of another key, and the log's other signature in its place.
        assert_eq!(note(root, None).cose_signature(&key), None);
        let moved = note(Sha256Digest::of(&[b"other"]), Some(key.cose_line(&signature)));
        assert_eq!(moved.cose_signature(&key), None);
        assert_eq!(signed.cose_signature(&other.note_key()), None);
        let plain = note(root, None).signatures()[0].bytes[4..].to_vec();
        assert_eq!(note(root, Some(key.cose_line(&plain))).cose_signature(&key), None);
        // What is signed for COSE is no note, and the other way round.
        let line = NoteSignature { name: key.name.clone(), bytes: [&key.id()[..], &signature].concat() };
        let alone = SignedCheckpoint { signatures: vec![line], ..note(root, None) };
        assert_eq!(alone.verify(&key), Err(CheckpointError::Signature));
    }

    #[test]
    fn what_is_not_exactly_of_the_form_is_refused() {
        let note = String::from_utf8(Signer::new(1).checkpoint(10, Sha256Digest::of(&[b"r"]))).unwrap();
        assert!(SignedCheckpoint::parse(note.as_bytes()).is_ok());
        for bad in [
            String::new(),
            note.trim_end().to_owned(),
            note.replace("\n10\n", "\n010\n"),
            note.replace("\n10\n", "\n+10\n"),
            note.replace("\n10\n", "\n-1\n"),
            note.replace("\n\n", "\nextension\n\n"),
            note.replace("\n\n", "\n"),
            note.replace('\u{2014}', "-"),
            note.replace("cleanroom/log", "cleanroom log"),
            format!("{note}\n"),
            format!("{note}{}", "\u{2014} a AAAAAAAA\n".repeat(MAX_SIGNATURES)),
            format!("{note}\u{2014} {} AAAAAAAA\n", "a".repeat(MAX_NAME_BYTES + 1)),
        ] {
            assert_eq!(SignedCheckpoint::parse(bad.as_bytes()), Err(CheckpointError::Form), "{bad}");
        }
        let witnessed = format!("{note}\u{2014} witness.example AAAAAAAA\n");
        assert_eq!(SignedCheckpoint::parse(witnessed.as_bytes()).unwrap().signatures().len(), 2);
    }
}
