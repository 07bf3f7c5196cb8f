//! The keeper as an attester (RFC 9334): the evidence that it shows and the statements that it signs, one method for each
//! purpose.

use std::sync::Arc;

use cleanroom_attestation::channel::{
    EvidenceFrame, Exchange, ModelId, Nonce, PublicAttestation, RefusalCode, StreamEnd, Transcript,
    key_digest,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::Refusal;
use cleanroom_config::Partners;
use cleanroom_guard::{Guard, InForce, ShownRelease};
use cleanroom_protocol::{ChannelQuestion, EndQuestion, Evidence, PublicEvidence, SignedEnd};

use crate::commitment::Committed;
use crate::receipt_key::ReceiptKey;
use crate::security_module::{Precedence, SecurityModule, SecurityModuleError};

/// Holds the security module and the receipt key, for one model that was committed to.
pub struct Attester {
    security_module: SecurityModule,
    receipt_key: ReceiptKey,
    model_id: ModelId,
    model_digest: Sha256Digest,
    guard: Option<Arc<Guard>>,
    partners: Partners,
}

impl Attester {
    /// An attester without release control.
    #[must_use]
    pub fn new(
        committed: Committed,
        model_id: ModelId,
        security_module: SecurityModule,
        receipt_key: ReceiptKey,
    ) -> Self {
        Self {
            security_module,
            receipt_key,
            model_id,
            model_digest: committed.model(),
            guard: None,
            partners: Partners::Any,
        }
    }

    /// The same attester, under release control: it shows release and lease, and no evidence to sessions that they do not
    /// permit.
    #[must_use]
    pub fn guarded(mut self, guard: Arc<Guard>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The same attester, which knows whom the configuration lists.
    #[must_use]
    pub fn listing(mut self, partners: Partners) -> Self {
        self.partners = partners;
        self
    }

    /// Whose question it is: a partner's that may use the model now, or a stranger's.
    pub(super) fn precedence(&self, question: &ChannelQuestion) -> Precedence {
        let permitted = |key: &Sha256Digest| {
            self.partners.admit(key) && self.guard.as_ref().is_none_or(|guard| guard.check(key).is_ok())
        };
        match key_digest(&question.partner_certificate) {
            Some(key) if permitted(&key) => Precedence::Partner,
            _ => Precedence::Stranger,
        }
    }

    /// The receipt key's public half, DER of its `SubjectPublicKeyInfo`.
    pub(super) fn receipt_key(&self) -> &[u8] {
        self.receipt_key.subject_public_key_info()
    }

    /// The evidence of a session with the enclave that shows `leaf`. The worker's part of the transcript is as good as its word;
    /// a partner compares all of it with its own connection.
    pub(super) async fn channel(
        &self,
        leaf: Sha384Digest,
        question: &ChannelQuestion,
        precedence: Precedence,
    ) -> Result<Evidence, RefusalCode> {
        let hello = question.hello();
        if hello.model_id != self.model_id {
            return Err(RefusalCode::UnknownModel);
        }
        let partner_key = key_digest(&question.partner_certificate).ok_or(RefusalCode::NoEvidence)?;
        let shown = self.shown(&partner_key).map_err(RefusalCode::NotServed)?;
        let transcript = Transcript {
            nonce: &hello.nonce,
            binder: &question.binder,
            enclave_leaf: leaf,
            partner_leaf: Sha384Digest::of(&[&question.partner_certificate]),
            cipher_suite: question.cipher_suite,
            group: question.group,
            model_id: &self.model_id,
            model_digest: self.model_digest,
            release: shown.as_ref().map(|shown| shown.release_digest),
            lease: shown.as_ref().map(|shown| shown.lease_digest),
            receipt_key: self.receipt_key(),
        };
        let document = self
            .security_module
            .evidence(&transcript.evidence_request(), precedence)
            .await
            .map_err(|error| refusal(&error))?;
        let mut evidence = EvidenceFrame {
            document: &document,
            release: shown.as_ref().map_or(&[], |shown| &shown.release),
            lease: shown.as_ref().map_or(&[], |shown| &shown.lease),
            model_digest: self.model_digest,
            signature: &[],
        };
        let transcript = transcript.digest();
        let message = Exchange::begin(question.hello_frame())
            .server_finished_message(&transcript, &evidence.encode_unsigned());
        let signature = self.receipt_key.sign(&message);
        evidence.signature = &signature;
        Ok(Evidence { transcript, body: evidence.encode() })
    }

    /// Evidence for everybody whose nonce stands behind `nonce` ([`cleanroom_attestation::channel::SharedNonces`]).
    pub(super) async fn public(&self, nonce: &Nonce) -> Result<PublicEvidence, RefusalCode> {
        let shown = self.guard.as_ref().and_then(|guard| guard.shown());
        let (release, lease) = shown.map(|shown| (shown.release_digest, shown.lease_digest)).unzip();
        let attestation = self.public_attestation(nonce, release, lease);
        let document = self
            .security_module
            .evidence(&attestation.evidence_request(), Precedence::Public)
            .await
            .map_err(|error| refusal(&error))?;
        Ok(PublicEvidence { document, release, lease })
    }

    /// The statement that the worker ended a stream. `None` without release control, under which nothing is ended.
    pub(super) fn end(&self, question: &EndQuestion) -> Option<SignedEnd> {
        let EndQuestion { transcript, stream, reason } = question;
        let InForce { at, release, lease } = self.guard.as_ref()?.in_force();
        let end = StreamEnd { transcript, stream, reason: reason.code(), at_ms: at.0, release, lease };
        Some(SignedEnd { at, release, lease, signature: self.receipt_key.sign(&end.message()) })
    }

    /// The security module.
    pub(super) const fn security_module(&self) -> &SecurityModule {
        &self.security_module
    }

    fn public_attestation<'a>(
        &'a self,
        nonce: &'a Nonce,
        release: Option<Sha256Digest>,
        lease: Option<Sha256Digest>,
    ) -> PublicAttestation<'a> {
        PublicAttestation {
            nonce,
            model_id: &self.model_id,
            model_digest: self.model_digest,
            release,
            lease,
            receipt_key: self.receipt_key(),
        }
    }

    /// The release and lease that a session of this partner is shown; nothing without release control.
    fn shown(&self, partner_key: &Sha256Digest) -> Result<Option<ShownRelease>, Refusal> {
        let Some(guard) = &self.guard else { return Ok(None) };
        guard.check_session(partner_key)?;
        guard.shown().map(Some).ok_or(Refusal::NoLease)
    }
}

fn refusal(error: &SecurityModuleError) -> RefusalCode {
    match error {
        SecurityModuleError::Busy => RefusalCode::Busy,
        _ => RefusalCode::NoEvidence,
    }
}
