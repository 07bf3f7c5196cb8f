//! Whether a boot record proves an enclave.

use super::entry::BootRecord;
use crate::channel::{Nonce, PublicAttestation, boot_measurement};
use crate::document::Document;
use crate::measurement::extended_once;
use crate::policy::Policy;
use crate::verdict::{Expectation, Verdict, appraise};

impl BootRecord {
    /// Judges the record's attestation document as it was when it was made: that it is of an enclave that `policy` accepts, which
    /// committed to this model and to this receipt key, for the purpose of a record. Nobody asks whether it is fresh now. `None`
    /// when there is no document that can be read.
    #[must_use]
    pub fn appraise(&self, policy: &Policy) -> Option<Verdict> {
        let (bytes, key) = (self.document().ok()?, self.receipt_key().ok()?);
        let document = Document::parse(&bytes).ok()?;
        // The enclave drew the nonce itself.
        let nonce = document.nonce().and_then(|nonce| nonce.try_into().ok());
        let nonce = Nonce::from_bytes(nonce.unwrap_or([0; Nonce::LENGTH]));
        let attestation = PublicAttestation {
            nonce: &nonce,
            model_id: &self.model,
            model_digest: self.model_sha256,
            release: None,
            lease: None,
            receipt_key: &key,
        };
        let expected = attestation.evidence_request();
        let expectation = Expectation {
            nonce: None,
            user_data: Some(expected.user_data()),
            public_key: Some(&key),
            pcr16: Some(extended_once(boot_measurement::model(&self.model_sha256).as_bytes())),
            pcr17: Some(extended_once(boot_measurement::receipt_key(&key).as_bytes())),
        };
        Some(appraise(&bytes, policy, &expectation, document.timestamp(), None))
    }
}
