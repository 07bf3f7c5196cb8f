//! The module at its boundary: CBOR in, CBOR out, documents checked by code that shares nothing with what
//! made them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use aws_nitro_enclaves_nsm_api::api::AttestationDoc;
use cleanroom_attestation::digest::Sha384Digest;
use proptest::prelude::*;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::*;

mod profile;

/// 2026-01-01 00:00:00.789 UTC.
pub(crate) const NOW_MS: u64 = 1_767_225_600_789;
const HOUR_MS: u64 = 3_600_000;

pub(crate) fn measurements() -> Measurements {
    Measurements::of_program(b"program", "serve", b"configuration")
}

pub(crate) fn module() -> SoftwareNsm {
    let root = Arc::new(DevelopmentRoot::generate(NOW_MS).unwrap());
    SoftwareNsm::builder(root, measurements()).start(NOW_MS).unwrap()
}

fn ask(nsm: &mut SoftwareNsm, request: &Request) -> Response {
    ask_at(nsm, request, NOW_MS)
}

fn ask_at(nsm: &mut SoftwareNsm, request: &Request, now_ms: u64) -> Response {
    let request = serde_cbor::to_vec(request).unwrap();
    serde_cbor::from_slice(&nsm.process(&request, now_ms)).unwrap()
}

macro_rules! assert_answer {
    ($answer:expr, $expected:pat) => {
        let answer = $answer;
        assert!(matches!(answer, $expected), "got {answer:?}, expected {}", stringify!($expected));
    };
}

fn plain() -> Request {
    Request::Attestation { user_data: None, nonce: None, public_key: None }
}

/// A document taken apart.
struct Opened {
    signed: Vec<u8>,
    signature: Vec<u8>,
    payload: Vec<u8>,
    statement: AttestationDoc,
}

fn attest_at(nsm: &mut SoftwareNsm, request: &Request, now_ms: u64) -> (Vec<u8>, Opened) {
    let Response::Attestation { document } = ask_at(nsm, request, now_ms) else { panic!("no document") };
    type Envelope = (ByteBuf, BTreeMap<u8, u8>, ByteBuf, ByteBuf);
    let (protected, unprotected, payload, signature): Envelope = serde_cbor::from_slice(&document).unwrap();
    assert_eq!(protected.as_slice(), [0xa1, 0x01, 0x38, 0x22]);
    assert!(unprotected.is_empty());
    let structure = ("Signature1", &protected, ByteBuf::new(), &payload);
    let opened = Opened {
        signed: serde_cbor::to_vec(&structure).unwrap(),
        signature: signature.into_vec(),
        statement: AttestationDoc::from_binary(&payload).unwrap(),
        payload: payload.into_vec(),
    };
    (document, opened)
}

/// Checks signature and chain with webpki, at `at_s`, against `root`.
fn verify(opened: &Opened, root: &[u8], at_s: u64) -> Result<(), String> {
    let statement = &opened.statement;
    let root = CertificateDer::from(root);
    let anchor = webpki::anchor_from_trusted_cert(&root).map_err(|error| error.to_string())?;
    let leaf = CertificateDer::from(statement.certificate.as_slice());
    let leaf = webpki::EndEntityCert::try_from(&leaf).map_err(|error| error.to_string())?;
    let intermediates: Vec<_> =
        statement.cabundle.iter().skip(1).map(|der| CertificateDer::from(der.as_slice())).collect();
    leaf.verify_for_usage(
        &[webpki::aws_lc_rs::ECDSA_P384_SHA384],
        &[anchor],
        &intermediates,
        UnixTime::since_unix_epoch(Duration::from_secs(at_s)),
        webpki::KeyUsage::client_auth(),
        None,
        None,
    )
    .map_err(|error| error.to_string())?;
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, leaf.subject_public_key_info())
        .verify(&opened.signed, &opened.signature)
        .map_err(|_| "signature".to_owned())
}

#[test]
fn describes_itself_as_the_real_module_does() {
    let mut nsm = module();
    let Response::DescribeNSM {
        version_major: 1,
        version_minor: 0,
        version_patch: 0,
        module_id,
        max_pcrs: 32,
        locked_pcrs,
        digest: Digest::SHA384,
    } = ask(&mut nsm, &Request::DescribeNSM)
    else {
        panic!("another description")
    };
    assert_eq!(locked_pcrs, (0..16).collect::<BTreeSet<_>>());
    let (instance, enclave) = module_id.split_once("-enc").unwrap();
    assert_eq!((instance.len(), enclave.len()), (19, 16), "{module_id}");
    assert!(instance.starts_with("i-"));
    // The first six bytes are the boot time in milliseconds.
    assert_eq!(u64::from_str_radix(&enclave[..12], 16).unwrap(), NOW_MS);
}

#[test]
fn boot_registers_hold_the_measurements() {
    let mut nsm = module();
    let [pcr0, pcr1, pcr2] = measurements().image();
    for (index, expected) in
        [(0, pcr0), (1, pcr1), (2, pcr2), (3, Measurements::ZERO), (8, Measurements::ZERO)]
    {
        let Response::DescribePCR { lock: true, data } = ask(&mut nsm, &Request::DescribePCR { index })
        else {
            panic!("PCR {index}")
        };
        assert_eq!(data, expected.as_bytes(), "PCR {index}");
    }
    let Response::DescribePCR { data, .. } = ask(&mut nsm, &Request::DescribePCR { index: 4 }) else {
        panic!()
    };
    let instance = nsm.module_id().split_once("-enc").unwrap().0.to_owned();
    assert_eq!(data, Sha384Digest::of(&[&[0; 48], instance.as_bytes()]).as_bytes());
    assert_answer!(
        ask(&mut nsm, &Request::DescribePCR { index: 16 }),
        Response::DescribePCR { lock: false, .. }
    );
    assert_answer!(
        ask(&mut nsm, &Request::DescribePCR { index: 31 }),
        Response::DescribePCR { lock: false, .. }
    );
    assert_answer!(
        ask(&mut nsm, &Request::DescribePCR { index: 32 }),
        Response::Error(ErrorCode::InvalidIndex)
    );
}

#[test]
fn extending_hashes_the_old_value_and_the_data() {
    let mut nsm = module();
    let mut expected = Measurements::ZERO;
    for data in [&b"first"[..], b"second", b""] {
        expected = Sha384Digest::of(&[expected.as_bytes(), data]);
        let Response::ExtendPCR { data } =
            ask(&mut nsm, &Request::ExtendPCR { index: 16, data: data.to_vec() })
        else {
            panic!()
        };
        assert_eq!(data, expected.as_bytes());
    }
    let Response::DescribePCR { lock: false, data } = ask(&mut nsm, &Request::DescribePCR { index: 16 })
    else {
        panic!()
    };
    assert_eq!(data, expected.as_bytes());
    for (index, code) in [(0, "ReadOnlyIndex"), (15, "ReadOnlyIndex"), (32, "InvalidIndex")] {
        let answer = ask(&mut nsm, &Request::ExtendPCR { index, data: vec![1] });
        assert_eq!(format!("{answer:?}"), format!("Error({code})"), "PCR {index}");
    }
}

#[test]
fn a_locked_register_stays_as_it_is() {
    let mut nsm = module();
    assert_answer!(ask(&mut nsm, &Request::LockPCR { index: 17 }), Response::LockPCR);
    for request in [Request::LockPCR { index: 17 }, Request::ExtendPCR { index: 17, data: vec![1] }] {
        assert_answer!(ask(&mut nsm, &request), Response::Error(ErrorCode::ReadOnlyIndex));
    }
    let Response::DescribePCR { lock: true, data } = ask(&mut nsm, &Request::DescribePCR { index: 17 })
    else {
        panic!()
    };
    assert_eq!(data, [0; 48]);
    assert_answer!(ask(&mut nsm, &Request::LockPCR { index: 3 }), Response::Error(ErrorCode::ReadOnlyIndex));
    assert_answer!(ask(&mut nsm, &Request::LockPCR { index: 32 }), Response::Error(ErrorCode::InvalidIndex));
}

#[test]
fn a_range_is_locked_up_to_but_not_including_its_end() {
    let mut nsm = module();
    assert_answer!(ask(&mut nsm, &Request::LockPCRs { range: 18 }), Response::LockPCRs);
    let Response::DescribeNSM { locked_pcrs, .. } = ask(&mut nsm, &Request::DescribeNSM) else { panic!() };
    assert_eq!(locked_pcrs, (0..18).collect::<BTreeSet<_>>());
    assert_answer!(ask(&mut nsm, &Request::LockPCRs { range: 33 }), Response::Error(ErrorCode::InvalidIndex));
    assert_answer!(ask(&mut nsm, &Request::LockPCRs { range: 32 }), Response::LockPCRs);
    assert_answer!(
        ask(&mut nsm, &Request::ExtendPCR { index: 31, data: vec![1] }),
        Response::Error(ErrorCode::ReadOnlyIndex)
    );
}

#[test]
fn random_bytes_are_as_many_as_the_real_module_gives_and_differ() {
    let mut nsm = module();
    let Response::GetRandom { random: first } = ask(&mut nsm, &Request::GetRandom) else { panic!() };
    let Response::GetRandom { random: second } = ask(&mut nsm, &Request::GetRandom) else { panic!() };
    assert_eq!((first.len(), second.len()), (256, 256));
    assert_ne!(first, second);
}

#[test]
fn what_is_no_request_is_refused() {
    let mut nsm = module();
    for request in [
        &b""[..],
        b"\xff",
        b"\x6bDescribeXYZ",
        b"\xa1\x6bDescribePCR\xa0",
        b"\xa1\x6bDescribePCR\xa1\x65index\x20",
        // A whole request and one byte more.
        b"\x6bDescribeNSM\x00",
    ] {
        let answer = serde_cbor::from_slice(&nsm.process(request, NOW_MS)).unwrap();
        assert_answer!(answer, Response::Error(ErrorCode::InvalidOperation));
    }
    let answer = serde_cbor::from_slice(&nsm.process(&[0; REQUEST_MAX + 1], NOW_MS)).unwrap();
    assert_answer!(answer, Response::Error(ErrorCode::InputTooLarge));
}

#[test]
fn an_answer_that_does_not_fit_says_so() {
    let mut nsm = module();
    let request = serde_cbor::to_vec(&plain()).unwrap();
    let length = nsm.process(&request, NOW_MS).len();
    // Signatures have a fixed length, so all of these documents are equally long.
    let exact = serde_cbor::from_slice(&nsm.process_within(&request, NOW_MS, length)).unwrap();
    assert_answer!(exact, Response::Attestation { .. });
    let short = serde_cbor::from_slice(&nsm.process_within(&request, NOW_MS, length - 1)).unwrap();
    assert_answer!(short, Response::Error(ErrorCode::BufferTooSmall));
}

#[test]
fn the_longest_document_fits_into_an_answer() {
    let mut nsm = module();
    assert_answer!(ask(&mut nsm, &Request::LockPCRs { range: 32 }), Response::LockPCRs);
    let longest = Request::Attestation {
        user_data: Some(vec![1; USER_DATA_MAX].into()),
        nonce: Some(vec![2; NONCE_MAX].into()),
        public_key: Some(vec![3; PUBLIC_KEY_MAX].into()),
    };
    let (_, opened) = attest_at(&mut nsm, &longest, NOW_MS);
    assert_eq!(opened.statement.pcrs.len(), 32);
}

#[test]
fn each_field_has_its_limit() {
    let mut nsm = module();
    let over = |limit: usize| Some(ByteBuf::from(vec![0; limit + 1]));
    for request in [
        Request::Attestation { user_data: over(512), nonce: None, public_key: None },
        Request::Attestation { user_data: None, nonce: over(512), public_key: None },
        Request::Attestation { user_data: None, nonce: None, public_key: over(1024) },
    ] {
        assert_answer!(ask(&mut nsm, &request), Response::Error(ErrorCode::InputTooLarge));
    }
}

#[test]
fn a_document_states_what_was_asked_and_what_is() {
    let mut nsm = module();
    let request = Request::Attestation {
        user_data: Some(ByteBuf::from("user data")),
        nonce: Some(ByteBuf::from("nonce")),
        public_key: Some(ByteBuf::new()),
    };
    let (document, opened) = attest_at(&mut nsm, &request, NOW_MS);
    assert_eq!(document[..7], [0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0], "an untagged COSE_Sign1");
    let statement = opened.statement;
    assert_eq!(statement.module_id, nsm.module_id());
    assert_eq!(statement.digest, Digest::SHA384);
    assert_eq!(statement.timestamp, NOW_MS);
    assert_eq!(statement.user_data.unwrap(), "user data");
    assert_eq!(statement.nonce.unwrap(), "nonce");
    assert_eq!(statement.public_key.unwrap(), "");
    assert_eq!(statement.pcrs.keys().copied().collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
    assert_eq!(statement.pcrs[&0].as_slice(), measurements().image()[0].as_bytes());

    let keys = [
        "module_id",
        "digest",
        "timestamp",
        "pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    ];
    let positions: Vec<_> = keys.map(|key| position(&opened.payload, key)).to_vec();
    assert!(positions.is_sorted(), "{positions:?}");
    // The outer map is of indefinite length and ends with a break.
    assert_eq!((opened.payload[0], opened.payload.last()), (0xbf, Some(&0xff)));
}

/// Where `key` stands in `payload` as a CBOR text string.
fn position(payload: &[u8], key: &str) -> usize {
    let encoded = serde_cbor::to_vec(&key).unwrap();
    payload.windows(encoded.len()).position(|window| window == encoded).unwrap()
}

#[test]
fn absent_fields_are_null() {
    let mut nsm = module();
    let (_, opened) = attest_at(&mut nsm, &plain(), NOW_MS);
    assert!(opened.payload.ends_with(b"\x6apublic_key\xf6\x69user_data\xf6\x65nonce\xf6\xff"));
}

#[test]
fn registers_of_the_enclave_are_attested_once_set() {
    let mut nsm = module();
    ask(&mut nsm, &Request::ExtendPCR { index: 16, data: b"model".to_vec() });
    ask(&mut nsm, &Request::LockPCR { index: 20 });
    let (_, opened) = attest_at(&mut nsm, &plain(), NOW_MS);
    let indexes: Vec<_> = opened.statement.pcrs.keys().copied().collect();
    assert_eq!(indexes, (0..16).chain([16, 20]).collect::<Vec<_>>());
}

#[test]
fn debug_mode_zeroes_the_image_and_keeps_the_parent() {
    let root = Arc::new(DevelopmentRoot::generate(NOW_MS).unwrap());
    let measurements = measurements().with_role("arn:aws:iam::1:role/x").in_debug_mode();
    let mut nsm = SoftwareNsm::builder(root, measurements).start(NOW_MS).unwrap();
    let (_, opened) = attest_at(&mut nsm, &plain(), NOW_MS);
    for index in 0..16 {
        let set = matches!(index, 3 | 4);
        assert_eq!(opened.statement.pcrs[&index].iter().any(|byte| *byte != 0), set, "PCR {index}");
    }
}

#[test]
fn signature_and_chain_verify_under_the_root_and_no_other() {
    let root = Arc::new(DevelopmentRoot::generate(NOW_MS).unwrap());
    let mut nsm = SoftwareNsm::builder(root.clone(), measurements()).start(NOW_MS).unwrap();
    let (_, mut opened) = attest_at(&mut nsm, &plain(), NOW_MS);
    assert_eq!(opened.statement.cabundle.len(), 4);
    assert_eq!(opened.statement.cabundle[0].as_slice(), root.root_certificate_der());
    assert_eq!(verify(&opened, root.root_certificate_der(), NOW_MS / 1000), Ok(()));

    let other = DevelopmentRoot::generate(NOW_MS).unwrap();
    assert!(verify(&opened, other.root_certificate_der(), NOW_MS / 1000).is_err());
    *opened.signed.last_mut().unwrap() ^= 1;
    assert_eq!(verify(&opened, root.root_certificate_der(), NOW_MS / 1000), Err("signature".to_owned()));
}

#[test]
fn the_root_is_known_by_its_fingerprint() {
    let root = DevelopmentRoot::generate(NOW_MS).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, root.root_certificate_der());
    assert_eq!(root.fingerprint().as_bytes(), digest.as_ref());
    let pem = root.root_certificate_pem();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
    let other = DevelopmentRoot::generate(NOW_MS).unwrap();
    assert_ne!(root.fingerprint(), other.fingerprint());
}

#[test]
fn certificates_are_renewed_in_time_for_as_long_as_the_module_runs() {
    let root = Arc::new(DevelopmentRoot::generate(NOW_MS).unwrap());
    let mut nsm = SoftwareNsm::builder(root.clone(), measurements()).start(NOW_MS).unwrap();
    let mut leaves = BTreeSet::new();
    let mut bundles = BTreeSet::new();
    // Thirty days in steps of 110 minutes: every level below the root is renewed, the regional one once.
    let step = 110 * 60_000;
    for now_ms in (NOW_MS..NOW_MS + 30 * 24 * HOUR_MS).step_by(step) {
        let (_, opened) = attest_at(&mut nsm, &plain(), now_ms);
        assert_eq!(verify(&opened, root.root_certificate_der(), now_ms / 1000), Ok(()), "{now_ms}");
        // A document is still good at the latest moment that its leaf promises when it is signed.
        assert_eq!(verify(&opened, root.root_certificate_der(), now_ms / 1000 + 600), Ok(()), "{now_ms}");
        leaves.insert(opened.statement.certificate);
        bundles.insert(opened.statement.cabundle);
    }
    // A leaf lasts for two steps.
    assert!((190..=200).contains(&leaves.len()), "{} leaves", leaves.len());
    assert!((30..=40).contains(&bundles.len()), "{} bundles", bundles.len());
}

#[test]
fn a_leaf_is_reused_until_ten_minutes_before_its_end() {
    let mut nsm = module();
    let mut leaf_at = |now_ms| attest_at(&mut nsm, &plain(), now_ms).1.statement.certificate;
    let first = leaf_at(NOW_MS);
    let last_second = NOW_MS / 1000 * 1000 + 3 * HOUR_MS - 600_000;
    assert_eq!(first, leaf_at(last_second));
    assert_ne!(first, leaf_at(last_second + 1000));
    // A clock that was set back gets a leaf that is valid by that clock.
    assert_ne!(first, leaf_at(NOW_MS - 10_000));
}

#[test]
fn a_time_outside_the_root_is_an_internal_error() {
    let mut nsm = module();
    for now_ms in [0, u64::MAX, NOW_MS - 2 * HOUR_MS, NOW_MS + 31 * 365 * 24 * HOUR_MS] {
        assert_answer!(ask_at(&mut nsm, &plain(), now_ms), Response::Error(ErrorCode::InternalError));
    }
    assert!(matches!(DevelopmentRoot::generate(0), Err(NsmError::Time { .. })));
    assert!(matches!(DevelopmentRoot::generate(u64::MAX), Err(NsmError::Time { .. })));
}

#[test]
fn names_and_ids_can_be_chosen() {
    let root = Arc::new(DevelopmentRoot::generate(NOW_MS).unwrap());
    let builder =
        SoftwareNsm::builder(root, measurements()).region("laptop-1").instance_id("i-0123456789abcdef0");
    let mut nsm = builder.start(NOW_MS).unwrap();
    assert!(nsm.module_id().starts_with("i-0123456789abcdef0-enc"));
    let (_, opened) = attest_at(&mut nsm, &plain(), NOW_MS);
    let common_name = format!("{}.laptop-1.aws", nsm.module_id());
    let certificate = opened.statement.certificate;
    assert!(certificate.windows(common_name.len()).any(|window| window == common_name.as_bytes()));
}

proptest! {
    /// The answer to any request is CBOR of the right type and fits.
    #[test]
    fn any_request_gets_an_answer(request in proptest::collection::vec(any::<u8>(), 0..200), mutate in any::<(u8, u8)>()) {
        thread_local!(static MODULE: std::cell::RefCell<SoftwareNsm> = std::cell::RefCell::new(module()));
        let mut almost = serde_cbor::to_vec(&Request::ExtendPCR { index: 16, data: vec![1; 9] }).unwrap();
        let at = usize::from(mutate.0) % almost.len();
        almost[at] ^= mutate.1;
        for request in [request, almost] {
            let answer = MODULE.with_borrow_mut(|nsm| nsm.process(&request, NOW_MS));
            prop_assert!(answer.len() <= RESPONSE_MAX);
            serde_cbor::from_slice::<Response>(&answer).unwrap();
        }
    }
}

/// A policy as a partner writes one who trusts `root` for development and expects the image of these tests.
fn policy(root: &DevelopmentRoot, image: &Measurements) -> cleanroom_attestation::policy::Policy {
    let [pcr0, pcr1, pcr2] = image.image();
    let text = format!(
        "version = 1\n\
         [[trust_anchor]]\nname = \"laptop\"\ntier = \"development\"\nsha256 = \"{}\"\n\
         [[image]]\nname = \"tests\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n\
         [freshness]\nmax_age = \"5m\"\n",
        root.fingerprint()
    );
    cleanroom_attestation::policy::Policy::from_toml(&text).unwrap()
}

#[test]
fn the_strict_verifier_accepts_a_document_as_development_and_refuses_it_otherwise() {
    use cleanroom_attestation::chain::Tier;
    use cleanroom_attestation::time::Timestamp;
    use cleanroom_attestation::verdict::{Axis, Expectation, appraise};

    let root = Arc::new(DevelopmentRoot::generate(NOW_MS).unwrap());
    let mut nsm = SoftwareNsm::builder(root.clone(), measurements()).start(NOW_MS).unwrap();
    let request = Request::Attestation {
        user_data: Some(ByteBuf::from("user data")),
        nonce: Some(ByteBuf::from([7; 32])),
        public_key: None,
    };
    let (document, _) = attest_at(&mut nsm, &request, NOW_MS);
    let expected = Expectation { nonce: Some(&[7; 32]), ..Expectation::default() };
    let at = Timestamp::from_millis(NOW_MS + 1000);
    let judge = |policy| appraise(&document, &policy, &expected, at, None);

    let verdict = judge(policy(&root, &measurements()));
    let accepted = verdict.accepted().unwrap_or_else(|rejection| panic!("{rejection}"));
    assert_eq!((accepted.tier(), accepted.module_id()), (Tier::Development, nsm.module_id().as_str()));

    let other_root = DevelopmentRoot::generate(NOW_MS).unwrap();
    assert_eq!(judge(policy(&other_root, &measurements())).accepted().unwrap_err().axis(), Axis::Platform);
    let other_image = Measurements::of_program(b"program", "serve", b"other");
    assert_eq!(judge(policy(&root, &other_image)).accepted().unwrap_err().axis(), Axis::Image);

    let mut debug = SoftwareNsm::builder(root.clone(), measurements().in_debug_mode()).start(NOW_MS).unwrap();
    let (document, _) = attest_at(&mut debug, &request, NOW_MS);
    let verdict = appraise(&document, &policy(&root, &measurements()), &expected, at, None);
    assert_eq!(verdict.accepted().unwrap_err().code(), "debug-enclave");
}
