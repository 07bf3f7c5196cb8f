//! What the fuzz targets share: a chain of certificates whose keys they hold, and documents signed under it.
//!
//! Fuzzing a verifier with finished documents ends at the first signature. These targets fuzz what lies beneath it: they
//! take a payload with [placeholders](Authority::expand) for certificates, fill them in, and sign the result, so that a
//! changed payload still has a valid signature.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, date_time_ymd,
};

/// The time at which everything here is judged: inside every window of [`AUTHORITY`].
pub const NOW: Timestamp = Timestamp::from_seconds(1_767_225_600);

/// The module that [`AUTHORITY`]'s leaf names.
pub const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcdef";

/// The chain of this process. Its keys are new each time; no input depends on them.
pub static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A root, two authorities below it and a leaf, with the leaf's key.
pub struct Authority {
    /// Root first, leaf last.
    pub certificates: [Vec<u8>; 4],
    leaf_key: EcdsaKeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key can be made");
        let keys = [key(), key(), key(), key()];
        let root = authority("root", BasicConstraints::Unconstrained);
        let regional = authority("regional", BasicConstraints::Constrained(1));
        let instance = authority("instance", BasicConstraints::Constrained(0));
        let mut leaf = params(&format!("{MODULE_ID}.development-1.aws"));
        let mut not_a_ca = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0]);
        not_a_ca.set_criticality(true);
        let signs = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 6, 0xc0]);
        leaf.custom_extensions = vec![not_a_ca, signs];

        let signed = |subject: &CertificateParams, key: &KeyPair, issuer: &CertificateParams, issuer_key: &KeyPair| {
            let issuer = Issuer::from_params(issuer, issuer_key);
            subject.signed_by(key, &issuer).expect("a certificate can be made").der().to_vec()
        };
        let certificates = [
            root.self_signed(&keys[0]).expect("a certificate can be made").der().to_vec(),
            signed(&regional, &keys[1], &root, &keys[0]),
            signed(&instance, &keys[2], &regional, &keys[1]),
            signed(&leaf, &keys[3], &instance, &keys[2]),
        ];
        let leaf_key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &keys[3].serialize_der());
        Self { certificates, leaf_key: leaf_key.expect("the key is in PKCS #8") }
    }

    /// Replaces every CBOR byte string `"@0"` to `"@3"` in `template` by the certificate of that number. Placeholders that the
    /// input repeats or moves are filled in wherever they are.
    #[must_use]
    pub fn expand(&self, template: &[u8]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(template.len() + 4096);
        let mut rest = template;
        while let Some((first, tail)) = rest.split_first() {
            match rest {
                [0x42, b'@', number @ b'0'..=b'3', tail @ ..] => {
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
        let signature = self.leaf_key.sign(&SystemRandom::new(), &signed).expect("the key signs");
        let mut document = b"\x84\x44\xa1\x01\x38\x22\xa0".to_vec();
        byte_string(&mut document, payload);
        byte_string(&mut document, signature.as_ref());
        document
    }
}

/// A policy that trusts the root with this digest, for development, and accepts enclaves in debug mode besides one image.
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

fn authority(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = name != "root";
    params
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2035, 1, 1);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
