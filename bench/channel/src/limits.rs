//! What this machine can do at best: the cryptographic steps that cannot be left out, and reading memory.

use std::error::Error;
use std::time::Instant;

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, ParsedPublicKey, Signature,
};
use rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;
use serde_json::{Value, json};

use crate::clock::{Samples, thread};

/// About as long as an attestation document.
const DOCUMENT_BYTES: usize = 4600;
/// About as long as what a handshake or the receipt key signs.
const MESSAGE_BYTES: usize = 140;

/// The cryptographic steps of a session, and how long each takes in microseconds of processor time.
pub(crate) struct Primitives {
    random: SystemRandom,
    message: [u8; DOCUMENT_BYTES],
    p384: EcdsaKeyPair,
    p384_public: ParsedPublicKey,
    p384_signature: Signature,
    ed25519: Ed25519KeyPair,
    ed25519_public: ParsedPublicKey,
    ed25519_signature: Signature,
    key_exchange: Samples,
    p384_sign: Samples,
    p384_verify: Samples,
    ed25519_sign: Samples,
    ed25519_verify: Samples,
    hash_document: Samples,
}

impl Primitives {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let random = SystemRandom::new();
        let message = [7; DOCUMENT_BYTES];
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)?;
        let ed25519 = Ed25519KeyPair::generate()?;
        Ok(Self {
            p384_public: ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, p384.public_key())?,
            p384_signature: p384.sign(&random, &message)?,
            ed25519_public: ParsedPublicKey::new(&ED25519, ed25519.public_key())?,
            ed25519_signature: ed25519.sign(&message[..MESSAGE_BYTES]),
            random,
            message,
            p384,
            ed25519,
            key_exchange: Samples::default(),
            p384_sign: Samples::default(),
            p384_verify: Samples::default(),
            ed25519_sign: Samples::default(),
            ed25519_verify: Samples::default(),
            hash_document: Samples::default(),
        })
    }

    /// Takes one sample of each. Called between the set-ups, so that both meet the same machine.
    pub(crate) fn sample(&mut self) {
        let message = &self.message[..MESSAGE_BYTES];
        timed(&mut self.key_exchange, || {
            let client = X25519MLKEM768.start()?;
            let server = X25519MLKEM768.start_and_complete(client.pub_key())?;
            client.complete(&server.pub_key)
        });
        timed(&mut self.p384_sign, || self.p384.sign(&self.random, message));
        timed(&mut self.p384_verify, || {
            self.p384_public.verify_sig(&self.message, self.p384_signature.as_ref())
        });
        timed(&mut self.ed25519_sign, || self.ed25519.sign(message));
        timed(&mut self.ed25519_verify, || {
            self.ed25519_public.verify_sig(message, self.ed25519_signature.as_ref())
        });
        timed(&mut self.hash_document, || digest(&SHA384, &self.message));
    }

    /// What an attested session needs beyond TLS when the chain is known: the document's signature, the receipt key's
    /// signature made and verified, and the document hashed into the exchange by both ends, twice each.
    pub(crate) fn added_by_attestation(&self) -> f64 {
        let [.., document, receipt_key, hashes] = self.rows();
        document.1 + receipt_key.1 + hashes.1
    }

    pub(crate) fn rows(&self) -> [(&'static str, f64); 6] {
        let receipt_key = self.ed25519_sign.median() + self.ed25519_verify.median();
        [
            ("TLS: key exchange X25519MLKEM768, both ends", self.key_exchange.median()),
            ("TLS: 2 P-384 signatures", 2.0 * self.p384_sign.median()),
            ("TLS: 2 P-384 verifications", 2.0 * self.p384_verify.median()),
            ("attestation: 1 P-384 verification (the document)", self.p384_verify.median()),
            ("attestation: 1 Ed25519 signature and verification", receipt_key),
            ("attestation: the document hashed, twice at each end", 4.0 * self.hash_document.median()),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "x25519mlkem768_both_ends": self.key_exchange.median(),
            "p384_sign": self.p384_sign.median(), "p384_verify": self.p384_verify.median(),
            "ed25519_sign": self.ed25519_sign.median(), "ed25519_verify": self.ed25519_verify.median(),
            "sha384_document": self.hash_document.median(),
        })
    }
}

fn timed<T>(samples: &mut Samples, work: impl FnOnce() -> T) {
    let begun = thread();
    std::hint::black_box(work());
    samples.push((thread() - begun).as_secs_f64() * 1e6);
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
