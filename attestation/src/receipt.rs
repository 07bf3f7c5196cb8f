//! Receipts: the enclave's signed statement about each request, and the partner's checks of it.
//!
//! `docs/receipts.md` is the specification. A [`Receipt`] travels in a DSSE envelope that the receipt key signs. It has no text:
//! request and response stand in it as [`Commitment`]s, made with a [`Salt`] that the partner alone gets. Without the salt, nobody
//! can try texts against a commitment. With it, whoever has the text can show that it is the one.

mod answer;
mod commitment;
mod payload;
mod signed;

#[cfg(test)]
mod tests;

pub use answer::{AnswerText, whole_answer};
pub use commitment::{Commitment, Committer, Part, Salt};
pub use payload::{Finish, Receipt, ReceiptId, ReceiptIdError};
pub use signed::{Delivered, MAX_DELIVERED_BYTES, ReceiptError, SignedReceipt};
