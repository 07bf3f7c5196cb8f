//! What the fuzz targets share: a chain of certificates whose keys they hold, and documents signed under it.
//!
//! Fuzzing a verifier with finished documents ends at the first signature. These targets fuzz what lies beneath it: they
//! take a payload with [placeholders](Authority::expand) for certificates, fill them in, and sign the result, so that a
//! changed payload still has a valid signature.

use std::sync::LazyLock;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_forge::{Forge, Key};

pub use cleanroom_forge::MODULE_ID;

/// The time at which everything here is judged: inside every window of [`AUTHORITY`].
pub const NOW: Timestamp = Timestamp::from_seconds(cleanroom_forge::NOW);

/// The chain of this process. Its keys are new each time; no input depends on them.
pub static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A chain in AWS's profile, with the key of its leaf.
pub struct Authority {
    /// Root first, leaf last: [`Self::LEAF`] + 1 of them.
    pub certificates: Vec<Vec<u8>>,
    leaf_key: Key,
}

impl Authority {
    /// The number of the leaf among the certificates.
    pub const LEAF: usize = 4;

    fn new() -> Self {
        let forge = Forge::new();
        let (_, leaf_key) = &forge.chain[Self::LEAF];
        Self { certificates: forge.certificates(), leaf_key: leaf_key.clone() }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.certificates[0]
    }

    /// The leaf, which signs documents.
    #[must_use]
    pub fn leaf(&self) -> &[u8] {
        &self.certificates[Self::LEAF]
    }

    /// Replaces every CBOR byte string `"@0"` to `"@4"` in `template` by the certificate of that number. Placeholders that the
    /// input repeats or moves are filled in wherever they are.
    #[must_use]
    pub fn expand(&self, template: &[u8]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(template.len() + 4096);
        let mut rest = template;
        while let Some((first, tail)) = rest.split_first() {
            match rest {
                [0x42, b'@', number @ b'0'..=b'4', tail @ ..] => {
                    byte_string(&mut payload, &self.certificates[usize::from(number - b'0')]);
                    rest = tail;
                }
                _ => {
                    payload.push(*first);
                    rest = tail;
                }
            }
            // A document of many placeholders is longer than any that is read.
            if payload.len() > 1 << 16 {
                break;
            }
        }
        payload
    }

    /// A document with this payload, signed by the leaf's key.
    #[must_use]
    pub fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let mut signed = b"\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40".to_vec();
        byte_string(&mut signed, payload);
        let signature = self.leaf_key.sign_fixed(&signed, false);
        let mut document = b"\x84\x44\xa1\x01\x38\x22\xa0".to_vec();
        byte_string(&mut document, payload);
        byte_string(&mut document, &signature);
        document
    }
}

/// A policy that trusts the root with this digest, for development, and accepts enclaves in debug mode besides one image. It
/// forgives a clock nothing, so that what it accepts is valid at the time that it is asked about.
#[must_use]
pub fn policy(root: &Sha256Digest) -> Policy {
    let text = format!(
        r#"
version = 1
[[trust_anchor]]
name = "aws"
[[trust_anchor]]
name = "fuzz"
tier = "development"
sha256 = "{root}"
[[image]]
name = "debug"
debug = true
[[image]]
name = "one"
pcr0 = "{one}"
pcr1 = "{one}"
pcr2 = "{one}"
[freshness]
max_skew = "1ms"
"#,
        one = "11".repeat(48),
    );
    Policy::from_toml(&text).expect("the policy is valid")
}

/// Appends a CBOR byte string.
pub fn byte_string(target: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        length @ 0..24 => target.push(0x40 | length as u8),
        length @ 24..0x100 => target.extend_from_slice(&[0x58, length as u8]),
        length @ 0x100..0x1_0000 => {
            target.push(0x59);
            target.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            target.push(0x5a);
            target.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
    target.extend_from_slice(bytes);
}

/// The image with the CRC-32 that its header should have; anything shorter than a header as it is.
#[must_use]
pub fn correct_crc(image: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    if image.len() >= 548 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&image[..544]);
        crc.update(&image[548..]);
        image[544..548].copy_from_slice(&crc.finalize().to_be_bytes());
    }
    image
}
