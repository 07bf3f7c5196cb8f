//! The channel's bytes, pinned: a change of any of them is a new protocol version.

use proptest::prelude::*;

use super::*;
use crate::digest::{Sha256Digest, Sha384Digest};
use crate::release::Id;

fn transcript<'a>(nonce: &'a Nonce, binder: &'a Binder, model_id: &'a ModelId) -> Transcript<'a> {
    Transcript {
        nonce,
        binder,
        enclave_leaf: Sha384Digest::from_bytes([0x03; 48]),
        partner_leaf: Sha384Digest::from_bytes([0x04; 48]),
        cipher_suite: 0x1302,
        group: 0x11ec,
        model_id,
        model_digest: Sha256Digest::from_bytes([0x05; 32]),
        release: None,
        lease: None,
        receipt_key: &[0x06; 44],
    }
}

#[test]
fn every_field_changes_the_transcript() {
    let (nonce, binder) = (Nonce::from_bytes([1; 32]), Binder::from_exported([2; 32]));
    let model_id = ModelId::new("demo").unwrap();
    let base = transcript(&nonce, &binder, &model_id);
    let (other_nonce, other_binder) = (Nonce::from_bytes([9; 32]), Binder::from_exported([9; 32]));
    let other_id = ModelId::new("demp").unwrap();
    let digest = Sha256Digest::from_bytes([9; 32]);
    let leaf = Sha384Digest::from_bytes([9; 48]);
    let changed = [
        Transcript { nonce: &other_nonce, ..base },
        Transcript { binder: &other_binder, ..base },
        Transcript { enclave_leaf: leaf, ..base },
        Transcript { partner_leaf: leaf, ..base },
        Transcript { enclave_leaf: base.partner_leaf, partner_leaf: base.enclave_leaf, ..base },
        Transcript { cipher_suite: 0x1301, ..base },
        Transcript { group: 0x001d, ..base },
        Transcript { model_id: &other_id, ..base },
        Transcript { model_digest: digest, ..base },
        Transcript { release: Some(digest), ..base },
        Transcript { lease: Some(digest), ..base },
        Transcript { receipt_key: &[0x06; 43], ..base },
    ];
    let mut digests: Vec<_> = changed.iter().map(|t| t.digest().to_string()).collect();
    digests.push(base.digest().to_string());
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), changed.len() + 1);
}

#[test]
fn purposes_do_not_pass_for_each_other() {
    let (nonce, binder) = (Nonce::from_bytes([1; 32]), Binder::from_exported([2; 32]));
    let model_id = ModelId::new("demo").unwrap();
    let base = transcript(&nonce, &binder, &model_id);
    let channel = base.evidence_request();
    let public = PublicAttestation {
        nonce: &nonce,
        model_id: &model_id,
        model_digest: base.model_digest,
        release: None,
        lease: None,
        receipt_key: base.receipt_key,
    }
    .evidence_request();
    let kms = KmsEvidence {
        purpose: "weights",
        broker: &"aws".parse().unwrap(),
        model_digest: base.model_digest,
        release: base.model_digest,
        recipient: base.receipt_key,
    }
    .evidence_request();
    assert_eq!(Purpose::claimed_by(channel.user_data()), Some(Purpose::Channel));
    assert_eq!(Purpose::claimed_by(public.user_data()), Some(Purpose::PublicAttestation));
    assert_eq!(Purpose::claimed_by(kms.user_data()), Some(Purpose::Kms));
    for request in [&channel, &public, &kms] {
        assert!(request.user_data().len() <= 128);
    }
    // The same key can be in all three, so the tag has to tell them apart.
    assert_eq!((kms.nonce(), kms.public_key()), (&[][..], base.receipt_key));
}

#[test]
fn a_document_for_kms_says_what_it_was_made_for() {
    let (aws, other): (Id, Id) = ("aws".parse().unwrap(), "other".parse().unwrap());
    let digests = ["a", "b"].map(|text| Sha256Digest::of(&[text.as_bytes()]));
    let base = KmsEvidence {
        purpose: "weights",
        broker: &aws,
        model_digest: digests[0],
        release: digests[0],
        recipient: b"key",
    };
    let changed = [
        base,
        KmsEvidence { purpose: "others", ..base },
        KmsEvidence { broker: &other, ..base },
        KmsEvidence { model_digest: digests[1], ..base },
        KmsEvidence { release: digests[1], ..base },
        KmsEvidence { recipient: b"yek", ..base },
    ];
    let mut all = changed.map(|evidence| evidence.evidence_request().user_data().to_vec()).to_vec();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), changed.len());
}

#[test]
fn roles_export_different_material() {
    let nonce = Nonce::from_bytes([7; 32]);
    assert_ne!(Role::Server.exporter_context(&nonce), Role::Client.exporter_context(&nonce));
}

#[test]
fn headers_are_bounded_before_the_body_is_read() {
    let header = |kind: u8, length: u32| {
        let [a, b, c, d] = length.to_be_bytes();
        [kind, a, b, c, d]
    };
    for kind in [FrameKind::Hello, FrameKind::Evidence, FrameKind::Finished, FrameKind::Refusal] {
        let expected: &'static [FrameKind] =
            &[FrameKind::Hello, FrameKind::Evidence, FrameKind::Finished, FrameKind::Refusal];
        let limit = u32::try_from(kind.max_body_bytes()).unwrap();
        assert!(FrameHeader::parse(header(kind.code(), limit), expected).is_ok());
        assert!(matches!(
            FrameHeader::parse(header(kind.code(), limit + 1), expected),
            Err(FrameError::TooLong { .. })
        ));
    }
    assert!(matches!(
        FrameHeader::parse(header(1, 4), &[FrameKind::Evidence]),
        Err(FrameError::UnexpectedKind { actual: 1, .. })
    ));
    assert!(matches!(
        FrameHeader::parse(header(0, 0), &[FrameKind::Hello]),
        Err(FrameError::UnexpectedKind { actual: 0, .. })
    ));
}

#[test]
fn model_ids_are_closed() {
    assert_eq!(ModelId::new(""), Err(ModelIdError::Empty));
    assert_eq!(ModelId::new(&"a".repeat(129)), Err(ModelIdError::TooLong { actual: 129 }));
    for text in ["-a", "a b", "a\n", "ä", "a\0", "/a"] {
        assert_eq!(ModelId::new(text), Err(ModelIdError::Character), "{text:?}");
    }
    assert!(ModelId::new("org/model-1.5_Q8").is_ok());
}

#[test]
fn finished_depends_on_every_frame_and_the_key() {
    let key = |byte| FinishedKey::from_exported(&zeroize::Zeroizing::new([byte; 48]));
    let base = Exchange::begin(b"hello").client_finished(b"evidence", &key(1));
    assert_ne!(base, Exchange::begin(b"hellp").client_finished(b"evidence", &key(1)));
    assert_ne!(base, Exchange::begin(b"hello").client_finished(b"evidencf", &key(1)));
    assert_ne!(base, Exchange::begin(b"hello").client_finished(b"evidence", &key(2)));
}

proptest! {
    #[test]
    fn hello_round_trips(nonce in any::<[u8; 32]>(), id in "[a-z0-9][a-zA-Z0-9._/-]{0,127}") {
        let hello = HelloFrame { nonce: Nonce::from_bytes(nonce), model_id: ModelId::new(&id).unwrap() };
        prop_assert_eq!(HelloFrame::decode(&hello.encode()).unwrap(), hello);
    }

    #[test]
    fn evidence_round_trips_and_every_cut_is_refused(
        document in proptest::collection::vec(any::<u8>(), 0..200),
        release in proptest::collection::vec(any::<u8>(), 0..50),
        signature in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let frame = EvidenceFrame {
            document: &document,
            release: &release,
            lease: &[],
            model_digest: Sha256Digest::from_bytes([5; 32]),
            signature: &signature,
        };
        let body = frame.encode();
        prop_assert_eq!(EvidenceFrame::decode(&body).unwrap(), frame);
        for cut in 0..body.len() {
            prop_assert!(EvidenceFrame::decode(&body[..cut]).is_err());
        }
        let longer = [body.as_slice(), &[0]].concat();
        prop_assert!(EvidenceFrame::decode(&longer).is_err());
    }
}
