//! The channel's vectors, which another implementation computed from the specification.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use cleanroom_attestation::channel::{
    Binder, EvidenceFrame, Exchange, FinishedKey, FrameKind, HelloFrame, ModelId, Nonce, PublicAttestation,
    Role, Transcript, boot_measurement, encode_frame,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::measurement::extended_once;
use serde_json::Value;
use zeroize::Zeroizing;

struct Case(Value);

impl Case {
    fn text(&self, part: &str, name: &str) -> &str {
        self.0[part][name].as_str().unwrap_or_else(|| panic!("{part}.{name} is missing"))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text("input", name)).unwrap()
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap()
    }

    fn number(&self, name: &str) -> u16 {
        u16::from_be_bytes(self.array(name))
    }

    fn digest(&self, name: &str) -> Option<Sha256Digest> {
        let bytes = self.bytes(name);
        (!bytes.is_empty()).then(|| Sha256Digest::try_from(bytes.as_slice()).unwrap())
    }

    fn expect(&self, name: &str, actual: impl AsRef<[u8]>) {
        assert_eq!(hex::encode(actual), self.text("output", name), "{name} of {}", self.0["name"]);
    }
}

#[test]
fn two_implementations_agree() {
    let file: Value = serde_json::from_str(include_str!("../../tests/vectors/channel.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    cases.iter().cloned().map(Case).for_each(|case| check(&case));
}

fn check(case: &Case) {
    let nonce = Nonce::from_bytes(case.array("nonce"));
    let binder = Binder::from_exported(case.array("binder"));
    let model_id = ModelId::new(case.text("input", "model_id")).unwrap();
    let model_digest = Sha256Digest::from_bytes(case.array("model_digest"));
    let receipt_key = case.bytes("receipt_key");
    let (release, lease) = (case.digest("release"), case.digest("lease"));
    let transcript = Transcript {
        nonce: &nonce,
        binder: &binder,
        enclave_leaf: Sha384Digest::from_bytes(case.array("enclave_leaf_sha384")),
        partner_leaf: Sha384Digest::from_bytes(case.array("partner_leaf_sha384")),
        cipher_suite: case.number("cipher_suite"),
        group: case.number("group"),
        model_id: &model_id,
        model_digest,
        release,
        lease,
        receipt_key: &receipt_key,
    };
    let public = PublicAttestation {
        nonce: &nonce,
        model_id: &model_id,
        model_digest,
        release,
        lease,
        receipt_key: &receipt_key,
    };
    case.expect("server_exporter_context", Role::Server.exporter_context(&nonce));
    case.expect("client_exporter_context", Role::Client.exporter_context(&nonce));
    case.expect("transcript", transcript.digest().as_bytes());
    case.expect("channel_user_data", transcript.evidence_request().user_data());
    case.expect("public_user_data", public.evidence_request().user_data());

    let hello = HelloFrame { nonce: nonce.clone(), model_id: model_id.clone() };
    let hello = encode_frame(FrameKind::Hello, &hello.encode());
    case.expect("hello_frame", &hello);
    let (document, signature) = (case.bytes("document"), case.bytes("signature"));
    let evidence =
        EvidenceFrame { document: &document, release: &[], lease: &[], model_digest, signature: &signature };
    let evidence_frame = encode_frame(FrameKind::Evidence, &evidence.encode());
    case.expect("evidence_frame", &evidence_frame);

    let exchange = Exchange::begin(&hello);
    let message = exchange.server_finished_message(&transcript.digest(), &evidence.encode_unsigned());
    case.expect("server_finished_message", message);
    let key = FinishedKey::from_exported(&Zeroizing::new(case.array("finished_key")));
    let finished = exchange.client_finished(&evidence_frame, &key);
    case.expect("finished_frame", encode_frame(FrameKind::Finished, &finished));

    case.expect("pcr16", extended_once(boot_measurement::model(&model_digest).as_bytes()).as_bytes());
    case.expect("pcr17", extended_once(boot_measurement::receipt_key(&receipt_key).as_bytes()).as_bytes());
}
