//! The way of the key of sealed weights to an enclave that a release names, and to nobody else.
//!
//! A secret is split into shares, and each share lies with another *broker*: a service of one authority. An enclave proves to each
//! broker what it is, and for which release and lease it asks. A broker that agrees seals its share to a key that this evidence
//! names. Enough shares make the secret, and the secret makes the [`DataKey`] of one model.
//!
//! ```text
//! broker            host (carries)             enclave
//!   │ ── nonce ──────────────────────────────►  │  asks the security module for evidence over nonce, release, lease, key
//!   │  ◄──────────────────────── ShareRequest ─ │
//!   │ verifies it, writes its log               │
//!   │ ── SealedShare ────────────────────────►  │  opens it, compares the commitment in the release
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `secret` | secrets and shares: split, joined, committed to |
//! | `data_key`, `purpose` | the key that a secret gives, and what it is for |
//! | `request` | what an enclave shows to a broker |
//! | `recipient`, `sealed` | HPKE (RFC 9180): a share for one recipient and one request |
//! | `kms` | a share that AWS KMS holds |
//! | `collector` | the shares that an enclave has, and those that it waits for |
//! | `retention` | secrets of days, and the records that are sealed under them |
//!
//! `docs/protocol.md` section 12 is the specification. This crate does no I/O and knows no clock.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod collector;
mod data_key;
mod kms;
mod purpose;
mod recipient;
mod request;
mod retention;
mod sealed;
mod secret;

pub use collector::{Collector, Outcome, ShareError, Taken};
pub use data_key::DataKey;
pub use kms::{KmsAnswer, KmsKeyError, KmsRecipient, seal_to_kms};
pub use purpose::Purpose;
pub use recipient::RecipientKey;
pub use request::{RequestError, ShareRequest};
pub use retention::{
    DayCollector, DayError, DaySecret, DaySecrets, OpeningCollector, PartKey, RetentionAnswer,
    RetentionRequest, SEALS_AFTER_MS, Wanted, open_for_receiver, seal_record,
};
pub use sealed::{Recipient, SealedShare};
pub use secret::{Secret, Share, ShareOf, SplitError};

#[cfg(test)]
mod tests;
