//! An attester that holds a genuine security module and lies about exactly one thing.

use cleanroom_attestation::channel::boot_measurement::{self, MODEL_PCR, RECEIPT_KEY_PCR};
use cleanroom_attestation::channel::{
    Binder, EvidenceFrame, Exchange, FrameKind, HelloFrame, Nonce, PublicAttestation, Role, Transcript,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::log::boot_of;
use cleanroom_attestation::receipt::{Receipt, SignedReceipt};
use cleanroom_channel::frames::Frame;
use cleanroom_channel::identity::Identity;
use cleanroom_channel::tls::{self, Established};
use cleanroom_keeper::receipt_key::ReceiptKey;
use cleanroom_keeper::security_module::SecurityModule;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::platform::{SoftwareDevice, model_digest, model_id};

/// What the liar lies about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Nothing: the control of every experiment.
    Nothing,
    /// The transcript names another partner's certificate.
    PartnerLeaf,
    /// The transcript names another enclave's certificate.
    EnclaveLeaf,
    /// The transcript has a binder of another connection.
    Binder,
    /// The transcript names another group.
    Group,
    /// The document was made for another nonce.
    Nonce,
    /// The document was made for the public attestation.
    Purpose,
    /// The document's `user_data` is somebody else's protocol.
    ForeignUserData,
    /// The signature of the exchange is of another key.
    Signature,
    /// The receipt key is not the one in PCR 17.
    ReceiptKey,
    /// The frame claims a model that PCR 16 does not have.
    Model,
    /// One bit of the document is flipped.
    FlippedBit,
    /// A release that nobody asked for.
    Release,
}

/// The liar: its security module has PCR 16 and 17 committed like an honest enclave's.
pub struct Liar {
    device: SoftwareDevice,
    identity: Identity,
    receipt_key: ReceiptKey,
}

impl Liar {
    /// Boots on a security module; the model in PCR 16 is `model`.
    pub async fn boot(device: SoftwareDevice, model: Sha256Digest) -> Self {
        let receipt_key = ReceiptKey::generate().unwrap();
        let security_module = SecurityModule::start(device.clone()).unwrap();
        for (pcr, data) in [
            (MODEL_PCR, boot_measurement::model(&model)),
            (RECEIPT_KEY_PCR, boot_measurement::receipt_key(receipt_key.subject_public_key_info())),
        ] {
            security_module.extend_pcr(pcr, &data).await.unwrap();
            security_module.lock_pcr(pcr).await.unwrap();
        }
        Self { device, identity: Identity::generate().unwrap(), receipt_key }
    }

    /// Accepts TLS and reads the partner's `Hello`.
    pub async fn hello<S>(&self, stream: S) -> (TlsStream<S>, Frame)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = tls::server_config(&self.identity).unwrap();
        let mut stream = TlsAcceptor::from(std::sync::Arc::new(config)).accept(stream).await.unwrap();
        let hello = Frame::read(&mut stream, &[FrameKind::Hello]).await.unwrap();
        (stream, hello)
    }

    /// The evidence for this connection, with one lie in it.
    pub fn evidence<S>(&self, stream: &TlsStream<S>, hello: &Frame, lie: Lie) -> Frame {
        self.proof(stream, hello, lie).0
    }

    /// The same, and the transcript's digest.
    pub fn proof<S>(&self, stream: &TlsStream<S>, hello: &Frame, lie: Lie) -> (Frame, Sha384Digest) {
        let connection = stream.get_ref().1;
        let facts = Established::of(connection, Role::Server, self.identity.leaf_digest()).unwrap();
        let HelloFrame { nonce, .. } = HelloFrame::decode(hello.body()).unwrap();
        let other = Sha384Digest::of(&[b"another certificate"]);
        let mut binder = tls::binder(connection, &nonce).unwrap();
        if lie == Lie::Binder {
            binder = Binder::from_exported([7; Binder::LENGTH]);
        }
        let other_key = ReceiptKey::generate().unwrap();
        let receipt_key = if lie == Lie::ReceiptKey { &other_key } else { &self.receipt_key };
        let model_id = model_id();
        let transcript = Transcript {
            nonce: &nonce,
            binder: &binder,
            enclave_leaf: if lie == Lie::EnclaveLeaf { other } else { facts.enclave_leaf },
            partner_leaf: if lie == Lie::PartnerLeaf { other } else { facts.partner_leaf },
            cipher_suite: facts.cipher_suite,
            group: if lie == Lie::Group { 0x001d } else { facts.group },
            model_id: &model_id,
            model_digest: model_digest(),
            release: None,
            lease: None,
            receipt_key: receipt_key.subject_public_key_info(),
        };
        let mut document = self.document(&transcript, lie);
        if lie == Lie::FlippedBit {
            // The last byte is of the signature; every other bit of a document is flipped by the verifier's own tests.
            *document.last_mut().unwrap() ^= 1;
        }
        let mut frame = EvidenceFrame {
            document: &document,
            release: if lie == Lie::Release { b"{}" } else { b"" },
            lease: b"",
            model_digest: model_digest(),
            signature: b"",
        };
        let message = Exchange::begin(hello.bytes())
            .server_finished_message(&transcript.digest(), &frame.encode_unsigned());
        let signer = if lie == Lie::Signature { &other_key } else { receipt_key };
        let signature = signer.sign(&message);
        frame.signature = &signature;
        (Frame::new(FrameKind::Evidence, &frame.encode()), transcript.digest())
    }

    /// A receipt that the receipt key of this boot signed.
    #[must_use]
    pub fn receipt(&self, mut receipt: Receipt) -> SignedReceipt {
        let key = self.receipt_key.subject_public_key_info();
        receipt.boot = boot_of(key);
        SignedReceipt::sign(receipt, key, |message| self.receipt_key.sign(message)).unwrap()
    }

    fn document(&self, transcript: &Transcript<'_>, lie: Lie) -> Vec<u8> {
        let request = match lie {
            Lie::Purpose => PublicAttestation {
                nonce: transcript.nonce,
                model_id: transcript.model_id,
                model_digest: transcript.model_digest,
                release: None,
                lease: None,
                receipt_key: transcript.receipt_key,
            }
            .evidence_request(),
            Lie::Nonce => {
                // Everything else is of this session: only the challenge is an old one.
                let old = Nonce::from_bytes([0; Nonce::LENGTH]);
                let honest = transcript.evidence_request();
                return self.device.attest(old.as_bytes(), honest.user_data(), honest.public_key());
            }
            Lie::ForeignUserData => {
                let honest = transcript.evidence_request();
                return self.device.attest(honest.nonce(), b"another protocol", honest.public_key());
            }
            _ => transcript.evidence_request(),
        };
        self.device.attest(request.nonce(), request.user_data(), request.public_key())
    }
}

/// What a partner sends after it was given `answer`: everything up to the end of the connection.
pub async fn after<S>(mut stream: TlsStream<S>, answer: &[u8]) -> Vec<u8>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _ = stream.write_all(answer).await;
    let _ = stream.flush().await;
    let mut received = Vec::new();
    // A partner that closes without a farewell is as silent as one that says it.
    let _ = stream.read_to_end(&mut received).await;
    received
}
