//! What this machine can do at best: the cryptographic steps that cannot be left out, and reading memory.

use std::error::Error;
use std::time::Instant;

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, ParsedPublicKey,
};
use rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;
use serde_json::{Value, json};

use crate::clock::microseconds;

/// About as long as an attestation document.
const DOCUMENT_BYTES: usize = 4600;

const SAMPLES: usize = 200;

/// The cost of each primitive in microseconds of processor time.
pub(crate) struct Primitives {
    key_exchange: f64,
    p384_sign: f64,
    p384_verify: f64,
    ed25519_sign: f64,
    ed25519_verify: f64,
    hash_document: f64,
}

impl Primitives {
    pub(crate) fn measure() -> Result<Self, Box<dyn Error>> {
        let random = SystemRandom::new();
        let message = [7; DOCUMENT_BYTES];
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)?;
        let p384_public = ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, p384.public_key())?;
        let p384_signature = p384.sign(&random, &message)?;
        let ed25519 = Ed25519KeyPair::generate()?;
        let ed25519_public = ParsedPublicKey::new(&ED25519, ed25519.public_key())?;
        let ed25519_signature = ed25519.sign(&message[..200]);
        Ok(Self {
            key_exchange: microseconds(SAMPLES, || {
                let client = X25519MLKEM768.start()?;
                let server = X25519MLKEM768.start_and_complete(client.pub_key())?;
                client.complete(&server.pub_key)
            }),
            p384_sign: microseconds(SAMPLES, || p384.sign(&random, &message[..130])),
            p384_verify: microseconds(SAMPLES, || p384_public.verify_sig(&message, p384_signature.as_ref())),
            ed25519_sign: microseconds(SAMPLES, || ed25519.sign(&message[..200])),
            ed25519_verify: microseconds(SAMPLES, || {
                ed25519_public.verify_sig(&message[..200], ed25519_signature.as_ref())
            }),
            hash_document: microseconds(SAMPLES, || digest(&SHA384, &message)),
        })
    }

    /// What an attested session needs beyond TLS when the chain is known: the document's signature, the receipt key's
    /// signature made and verified, and the document hashed into the exchange by both ends, twice each.
    pub(crate) fn added_by_attestation(&self) -> f64 {
        self.p384_verify + self.ed25519_sign + self.ed25519_verify + 4.0 * self.hash_document
    }

    pub(crate) fn rows(&self) -> [(&'static str, f64); 6] {
        [
            ("TLS: key exchange X25519MLKEM768, both ends", self.key_exchange),
            ("TLS: 2 P-384 signatures", 2.0 * self.p384_sign),
            ("TLS: 2 P-384 verifications", 2.0 * self.p384_verify),
            ("attestation: 1 P-384 verification (the document)", self.p384_verify),
            ("attestation: 1 Ed25519 signature and verification", self.ed25519_sign + self.ed25519_verify),
            ("attestation: the document hashed, twice at each end", 4.0 * self.hash_document),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "x25519mlkem768_both_ends": self.key_exchange,
            "p384_sign": self.p384_sign, "p384_verify": self.p384_verify,
            "ed25519_sign": self.ed25519_sign, "ed25519_verify": self.ed25519_verify,
            "sha384_document": self.hash_document,
        })
    }
}

/// How fast all processors together read memory, in bytes per second: the best of a few passes over a buffer that no cache holds.
pub(crate) fn memory_bandwidth(threads: usize) -> f64 {
    const BYTES: usize = 512 << 20;
    let words = vec![1_u64; BYTES / 8];
    let share = words.len().div_ceil(threads.max(1));
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(share) {
                scope.spawn(move || std::hint::black_box(sum(part)));
            }
        });
        best = best.max(BYTES as f64 / begun.elapsed().as_secs_f64());
    }
    best
}

/// Several independent sums, so that loads and not additions are what takes time.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 16];
    for chunk in words.chunks_exact(16) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
