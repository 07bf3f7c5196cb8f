//! The receipt key: made at boot, never leaves, committed in PCR 17. Beside it a second key, which only the keeper itself
//! believes: it proves that a session is one that the keeper made the evidence for.

use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use cleanroom_attestation::channel::length_prefixed;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_protocol::SessionTicket;

/// An Ed25519 key (RFC 8032) that signs sessions, ends of streams, receipts and checkpoints. Clones are the same key.
#[derive(Clone)]
pub struct ReceiptKey {
    key: Arc<Ed25519KeyPair>,
    subject_public_key_info: Arc<[u8]>,
    tickets: hmac::Key,
}

impl ReceiptKey {
    /// A new key from the system's generator.
    ///
    /// # Errors
    /// [`ReceiptKeyError`] when the generator fails.
    pub fn generate() -> Result<Self, ReceiptKeyError> {
        let key = Ed25519KeyPair::generate().map_err(|_| ReceiptKeyError)?;
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| ReceiptKeyError)?;
        let subject_public_key_info = der.as_ref().into();
        let tickets =
            hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| ReceiptKeyError)?;
        Ok(Self { key: Arc::new(key), subject_public_key_info, tickets })
    }

    /// DER of the `SubjectPublicKeyInfo` (RFC 8410 section 4), 44 bytes.
    #[must_use]
    pub fn subject_public_key_info(&self) -> &[u8] {
        &self.subject_public_key_info
    }

    /// The signature of `message`, 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message).as_ref().to_vec()
    }

    /// The ticket of a session: an HMAC of its transcript and its partner's key.
    pub(super) fn ticket(
        &self,
        transcript: &Sha384Digest,
        partner: &Sha256Digest,
    ) -> [u8; SessionTicket::TICKET_BYTES] {
        let tag = hmac::sign(&self.tickets, &length_prefixed(&[transcript.as_bytes(), partner.as_bytes()]));
        let mut ticket = [0; SessionTicket::TICKET_BYTES];
        ticket.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        ticket
    }

    /// Whether a session is one that this key made a ticket for. In constant time.
    pub(super) fn knows(&self, session: &SessionTicket) -> bool {
        let SessionTicket { transcript, partner, ticket } = session;
        let message = length_prefixed(&[transcript.as_bytes(), partner.as_bytes()]);
        hmac::verify(&self.tickets, &message, ticket).is_ok()
    }
}

/// No receipt key could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("could not make a receipt key")]
pub struct ReceiptKeyError;
