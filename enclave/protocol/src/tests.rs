use cleanroom_attestation::channel::{
    Binder, FrameKind, HelloFrame, ModelId, Nonce, RefusalCode, encode_frame, length_prefixed,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::receipt::{Commitment, Finish};
use cleanroom_attestation::release::{
    AuthorityDocument, BootMillis, LimitReached, Nonce as LeaseNonce, Refusal, UnixMillis,
};
use cleanroom_attestation::safeguard::{SafeguardAction, SafeguardVerdict};
use zeroize::Zeroizing;

use cleanroom_link::load::Load;

use super::*;

fn hello() -> Vec<u8> {
    let hello =
        HelloFrame { nonce: Nonce::from_bytes([1; 32]), model_id: ModelId::new("demo").unwrap() }.encode();
    encode_frame(FrameKind::Hello, &hello)
}

fn questions() -> Vec<FromWorker> {
    let binder = Binder::from_exported([2; 32]);
    let reason = EndReason::from(Refusal::ModelDenied);
    let transcript = Sha384Digest::of(&[b"t"]);
    vec![
        FromWorker::Leaf(transcript),
        FromWorker::Ready,
        FromWorker::Channel(ChannelQuestion::new(hello(), binder, vec![3; 400], 0x1302, 0x11ec).unwrap()),
        FromWorker::Public(Nonce::from_bytes([4; 32])),
        FromWorker::End(EndQuestion { transcript, stream: "chatcmpl-1".to_owned(), reason }),
        FromWorker::Done,
        FromWorker::Drained,
        FromWorker::Failed("no".to_owned()),
        FromWorker::Receipt(receipt()),
        FromWorker::Alive(Load::Full),
    ]
}

fn receipt() -> ReceiptQuestion {
    let sha256 = Sha256Digest::of(&[b"d"]);
    let transcript = Sha384Digest::of(&[b"t"]);
    ReceiptQuestion {
        session: SessionTicket { transcript, partner: sha256, ticket: [1; 32] },
        id: "chatcmpl-1".parse().unwrap(),
        request: Commitment { sha256, bytes: 1 },
        response: Commitment { sha256, bytes: 2 },
        finish: Finish::Halted,
        code: Some("model-denied".to_owned()),
        safeguard: Some(SafeguardVerdict {
            policies_sha256: vec![Sha256Digest::of(&[b"policy"])],
            action: SafeguardAction::Refuse,
            rules: vec!["override.ignore-previous".to_owned(), "role.no-rules".to_owned()],
        }),
        started: BootMillis(3),
        exchange: Some(Box::new(SealedExchange { key: Zeroizing::new([7; 32]), body: vec![8; 5000] })),
    }
}

fn answers() -> Vec<FromKeeper> {
    let (digest, transcript) = (Sha256Digest::of(&[b"d"]), Sha384Digest::of(&[b"t"]));
    let document =
        |kind| FromKeeper::Change(Change::Document { kind, at: BootMillis(7), envelope: b"{}".to_vec() });
    vec![
        FromKeeper::Start(Start {
            config: "version = 1".to_owned(),
            model_digest: digest,
            receipt_key: vec![1; 44],
            model_bytes: 1 << 40,
        }),
        FromKeeper::Serve,
        FromKeeper::Drain,
        FromKeeper::Probe,
        FromKeeper::Change(Change::Begin {
            nonce: LeaseNonce::from_bytes([5; 32]),
            sent: BootMillis(1),
            unix: UnixMillis(2),
            read_at: BootMillis(3),
        }),
        document(AuthorityDocument::Root),
        document(AuthorityDocument::Release),
        document(AuthorityDocument::Denial),
        document(AuthorityDocument::Lease),
        FromKeeper::Evidence(Evidence { transcript, ticket: [2; 32], body: vec![6; 5000] }),
        FromKeeper::Public(PublicEvidence { document: vec![7; 5000], release: Some(digest), lease: None }),
        FromKeeper::SignedEnd(SignedEnd {
            at: UnixMillis(8),
            release: None,
            lease: Some(digest),
            signature: vec![9; 64],
        }),
        FromKeeper::Refused(RefusalCode::NotServed(Refusal::LeaseLapsed)),
        FromKeeper::Receipt(b"{}".to_vec()),
        FromKeeper::Change(Change::Policy(b"version = 1".to_vec())),
        FromKeeper::Change(Change::Classifier(b"GGUF".to_vec())),
        FromKeeper::Change(Change::Hold { partner: "p".parse().unwrap(), release: digest }),
        FromKeeper::Change(Change::Sealing { until: BootMillis(9) }),
        FromKeeper::Change(Change::Witnessed { rule: digest, until: BootMillis(9) }),
    ]
}

/// Every frame, and how its body is read.
type Reader = fn(&[u8]) -> Result<Vec<u8>, ProtocolError>;

fn read_worker(frame: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let (header, body) = frame.split_first_chunk().unwrap();
    let header = Header::<WorkerKind>::parse(*header)?;
    FromWorker::decode(header.kind(), body).map(|said| said.frame(header.id()).to_vec())
}

fn read_keeper(frame: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let (header, body) = frame.split_first_chunk().unwrap();
    let header = Header::<KeeperKind>::parse(*header)?;
    FromKeeper::decode(header.kind(), body).map(|said| said.frame(header.id()).to_vec())
}

fn frames() -> Vec<(Vec<u8>, Reader)> {
    let questions = questions().into_iter().map(|said| (said.frame(17).to_vec(), read_worker as Reader));
    let answers = answers().into_iter().map(|said| (said.frame(17).to_vec(), read_keeper as Reader));
    questions.chain(answers).collect()
}

#[test]
fn every_frame_is_read_back_and_none_that_is_cut_or_longer() {
    assert_eq!(questions().len(), WorkerKind::ALL.len());
    assert_eq!(answers().len(), KeeperKind::ALL.len());
    for (frame, read) in frames() {
        let kind = frame[0];
        assert_eq!(read(&frame).as_ref(), Ok(&frame), "kind {kind}");
        for cut in HEADER_BYTES..frame.len() {
            assert_eq!(read(&frame[..cut]), Err(ProtocolError::Malformed(kind)), "cut at {cut}");
        }
        let longer = [frame.as_slice(), &[0; 4]].concat();
        assert_eq!(read(&longer), Err(ProtocolError::Malformed(kind)), "kind {kind}");
    }
}

#[test]
fn lengths_are_bounded_before_a_body_is_read() {
    for (mut frame, read) in frames() {
        frame[5..9].copy_from_slice(&u32::MAX.to_be_bytes());
        let error = read(&frame).unwrap_err();
        assert!(matches!(error, ProtocolError::TooLong { code, .. } if code == frame[0]), "{error}");
    }
    let limit = WorkerKind::Channel.limit();
    let header = |length: usize| {
        let mut header = [3, 0, 0, 0, 0, 0, 0, 0, 0];
        header[5..].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        Header::<WorkerKind>::parse(header)
    };
    assert_eq!(header(limit).unwrap().body_bytes(), limit);
    assert!(header(limit + 1).is_err());
    // What a keeper says is nothing that a worker can say.
    for code in (0..=255).filter(|code| !(1..=10).contains(code)) {
        assert_eq!(Header::<WorkerKind>::parse([code; 9]), Err(ProtocolError::Kind(code)));
    }
}

#[test]
fn a_channel_question_is_about_one_whole_hello() {
    let frame = |hello: &[u8]| {
        let body = length_prefixed(&[hello, &[2; 32], &[3; 400], &[0x13, 0x02, 0x11, 0xec]]);
        FromWorker::decode(WorkerKind::Channel, &body)
    };
    let whole = hello();
    assert!(frame(&whole).is_ok());
    let other_kind = [&[2], &whole[1..]].concat();
    let no_model = encode_frame(FrameKind::Hello, &length_prefixed(&[&[1; 32], b"../etc"]));
    let longer = [whole.as_slice(), b"x"].concat();
    for hello in [&[][..], &whole[..whole.len() - 1], &longer, &other_kind, &no_model] {
        assert!(frame(hello).is_err());
    }
}

#[test]
fn only_what_is_on_the_list_ends_a_stream() {
    let end = |stream: &[u8], reason: &[u8]| {
        FromWorker::decode(WorkerKind::End, &length_prefixed(&[&[1; 48], stream, reason]))
    };
    for reason in Refusal::ALL.map(Refusal::code) {
        assert!(end(b"msg_1", reason.as_bytes()).is_ok(), "{reason}");
    }
    let limit = LimitReached::TokensPerDay { limit: 1, retry_after_ms: 1 };
    assert!(end(b"msg_1", limit.code().as_bytes()).is_ok());
    assert!(end(b"msg_1", b"because").is_err() && end(b"msg_1", b"").is_err());
    for stream in [&b""[..], b"a b", b"\x00\x01", "ü".as_bytes(), &[b'a'; 65]] {
        assert!(end(stream, b"model-denied").is_err());
    }
}

#[test]
fn a_reason_is_one_line() {
    let failed = |reason: &[u8]| FromWorker::decode(WorkerKind::Failed, &length_prefixed(&[reason]));
    assert!(failed(b"the model file cannot be used").is_ok());
    assert!(failed(b"two\nlines").is_err() && failed(b"\xff").is_err() && failed(&[b'x'; 513]).is_err());
}

#[test]
fn the_end_of_a_request_is_told_in_words_of_its_own() {
    for finish in Finish::ALL {
        for code in [None, Some("busy".to_owned())] {
            let question = ReceiptQuestion { finish, code, ..receipt() };
            let frame = FromWorker::Receipt(question.clone()).frame(1);
            let read = FromWorker::decode(WorkerKind::Receipt, &frame[HEADER_BYTES..]);
            assert!(matches!(read, Ok(FromWorker::Receipt(read)) if read == question));
        }
    }
    for code in ["a b", "Why", "\u{e9}", &"x".repeat(65)] {
        let frame =
            FromWorker::Receipt(ReceiptQuestion { code: Some(code.to_owned()), ..receipt() }).frame(1);
        assert!(FromWorker::decode(WorkerKind::Receipt, &frame[HEADER_BYTES..]).is_err(), "{code}");
    }
}
