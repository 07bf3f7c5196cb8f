//! A share of a model's key that AWS KMS holds in place of a broker.
//!
//! Whoever makes the shares seals one to a key of KMS, offline, with the key's public half. The key's policy
//! lets the role of the enclave's host decrypt it, but only for attestation documents of the released images.
//! KMS checks the document and encrypts the share to the key in it. So the host can ask, with AWS's own
//! program and its own credentials, and cannot read what comes back.
//!
//! ```text
//! enclave ── document with an RSA key ──► host ── kms:Decrypt, Recipient = document ──► KMS
//!   ▲                                      │  ◄────────── CiphertextForRecipient ────────┘
//!   └────── three fields of it ────────────┘
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `arn` | the names of keys, roles and users |
//! | `sealed` | the file of a share that is sealed to a key of KMS, and the question to KMS |
//! | `answer` | KMS's answer: JSON with a CMS message in it |
//! | `envelope` | that message, in the BER that KMS writes |
//! | `policy` | the policy of the key, out of a release |
//!
//! `docs/protocol.md`, 12.7, is the specification. The host reads the answer and not the enclave: the keeper holds the keys, so no
//! parser may be near. A host that reads it wrongly, or changes it, can only keep the weights sealed. The
//! enclave's side is in `cleanroom-key-release`. This crate does no I/O and no cryptography, and knows no
//! clock.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod answer;
mod arn;
mod envelope;
mod policy;
mod sealed;

pub use answer::{ANSWER_LIMIT, AnswerError, read_answer};
pub use arn::{ArnError, KeyArn, PrincipalArn};
pub use envelope::{CONTENT_LIMIT, ENVELOPE_LIMIT, Envelope, EnvelopeError};
pub use policy::{POLICY_LIMIT, PolicyError, key_policy};
pub use sealed::{FILE_LIMIT, SealedForKms, SealedForKmsError};

#[cfg(test)]
mod tests;
