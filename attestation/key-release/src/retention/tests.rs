//! The whole way of a record between an enclave, its brokers and a receiver, and every other way.

use cleanroom_attestation::channel::{ModelId, Nonce};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::record::{RecordHead, RecordKey, RecordSubject};
use cleanroom_attestation::release::{
    Algorithm, Day, DayBroker, DayBrokers, Id, List, PublicKey, ReceiverKey, UnixMillis,
};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::{Recipient, RecipientKey, ShareRequest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

const NAMES: [&str; 3] = ["bank", "utility", "regulator"];
const DAY: Day = Day(20_786);

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn sha256(text: &str) -> Sha256Digest {
    Sha256Digest::of(&[text.as_bytes()])
}

fn at(day: Day, ms: u64) -> UnixMillis {
    UnixMillis(day.begin().0 + ms)
}

/// Three brokers, each with its key and its secret of the day.
struct World {
    keys: Vec<Ed25519KeyPair>,
    secrets: Vec<DaySecret>,
    brokers: DayBrokers,
}

impl World {
    fn new() -> Self {
        let keys: Vec<_> = NAMES.iter().map(|_| Ed25519KeyPair::generate().unwrap()).collect();
        let of = NAMES.iter().zip(&keys).map(|(name, key)| DayBroker {
            name: id(name),
            key: PublicKey::from_raw(Algorithm::Ed25519, key.public_key().as_ref()).unwrap(),
        });
        let brokers = DayBrokers { needed: 2, of: List::new(of.collect()).unwrap() };
        let secrets = NAMES.iter().map(|_| DaySecret::generate().unwrap()).collect();
        Self { keys, secrets, brokers }
    }

    fn request(&self, index: usize, recipient: &RecipientKey, wanted: Wanted) -> RetentionRequest {
        let asked = ShareRequest {
            nonce: Nonce::from_bytes([7; 32]),
            broker: id(NAMES[index]),
            model_id: ModelId::new("demo").unwrap(),
            model_digest: sha256("model"),
            root_version: 3,
            root: sha256("root"),
            release: sha256("release"),
            lease: vec![1, 2, 3],
            recipient: recipient.clone(),
            document: b"a document".to_vec(),
        };
        RetentionRequest { asked, wanted }
    }

    fn answer(&self, by: usize, secret: &[u8; 32], request: &RetentionRequest) -> RetentionAnswer {
        let sign = |message: &[u8]| Some(self.keys[by].sign(message).as_ref().to_vec());
        RetentionAnswer::seal(secret, request, sign).unwrap()
    }

    /// An enclave that has the secrets of these brokers.
    fn enclave(&self, of: &[usize]) -> DayCollector {
        let mut days = DayCollector::new(self.brokers.clone());
        for index in of {
            let request = self.request(*index, days.recipient(), Wanted::Secret(DAY));
            days.ask(request.clone()).unwrap();
            days.take(&id(NAMES[*index]), &self.answer(*index, self.secrets[*index].as_bytes(), &request))
                .unwrap();
        }
        days
    }

    fn opening(&self, head: &RecordHead, from: &[usize]) -> OpeningCollector {
        let mut opening = OpeningCollector::new(head.clone(), self.brokers.clone());
        for index in from {
            let wanted = Wanted::Part { head: head.to_bytes(), opening: b"an opening".to_vec() };
            let request = self.request(*index, opening.recipient(), wanted);
            opening.ask(request.clone()).unwrap();
            let part = self.secrets[*index].part(&id(NAMES[*index]), &head.subject).unwrap();
            opening.take(&id(NAMES[*index]), &self.answer(*index, part.as_bytes(), &request)).unwrap();
        }
        opening
    }
}

fn subject() -> RecordSubject {
    RecordSubject {
        serial: [0; 32],
        room: id("room"),
        model: ModelId::new("demo").unwrap(),
        model_sha256: sha256("model"),
        boot: sha256("boot"),
        receipt: "chatcmpl-1".parse().unwrap(),
        partner: sha256("partner"),
        day: DAY,
        release: sha256("release"),
        body: sha256("body"),
    }
}

fn sealed(days: &DayCollector, key: &RecordKey) -> RecordHead {
    let secrets = days.sealing(at(DAY, 1)).unwrap();
    assert_eq!(secrets.day(), DAY);
    let head = seal_record(RecordSubject { day: Day(1), ..subject() }, key, &secrets).unwrap();
    assert_eq!(head.subject.day, DAY);
    head
}

#[test]
fn two_brokers_of_three_open_a_record_for_its_receiver_and_one_does_not() {
    let (world, key) = (World::new(), Zeroizing::new([5; 32]));
    let head = sealed(&world.enclave(&[0, 1, 2]), &key);
    let receiver = Recipient::generate();
    let public = ReceiverKey::new(receiver.public().as_bytes()).unwrap();
    let digest = sha256("opening");
    for pair in [[0, 1], [2, 0], [1, 2]] {
        let opening = world.opening(&head, &pair);
        assert_eq!((opening.still_needed(), opening.missing().len()), (0, 1));
        let given = opening.finish(&public, &digest).unwrap();
        let opened = |receiver: &Recipient, record: &Sha256Digest, opening: &Sha256Digest| {
            open_for_receiver(&given, receiver, record, opening)
        };
        assert_eq!(opened(&receiver, &head.digest(), &digest), Some(key.clone()));
        // The private half in a file is the same receiver.
        let again = Recipient::from_private_bytes(&receiver.private_bytes()).unwrap();
        assert_eq!(opened(&again, &head.digest(), &digest), Some(key.clone()));
        assert!(opened(&Recipient::generate(), &head.digest(), &digest).is_none());
        assert!(opened(&receiver, &sha256("another"), &digest).is_none());
        assert!(opened(&receiver, &head.digest(), &sha256("another")).is_none());
    }
    let alone = world.opening(&head, &[1]);
    assert_eq!((alone.still_needed(), alone.finish(&public, &digest)), (1, None));
}

#[test]
fn a_record_that_two_brokers_sealed_needs_both() {
    let (world, key) = (World::new(), Zeroizing::new([5; 32]));
    let days = world.enclave(&[0, 2]);
    assert_eq!(days.missing(at(DAY, 1)), [id("utility")]);
    let head = sealed(&days, &key);
    assert_eq!((head.parts.len(), head.needed), (2, 2));
    assert!(world.enclave(&[1]).sealing(at(DAY, 1)).is_none(), "one is too few");
}

#[test]
fn a_secret_seals_within_its_day_and_ten_minutes() {
    let days = World::new().enclave(&[0, 1]);
    let next = Day(DAY.0 + 1);
    for (now, seals) in [
        (UnixMillis(DAY.begin().0 - 1), false),
        (at(DAY, 0), true),
        (at(next, SEALS_AFTER_MS - 1), true),
        (at(next, SEALS_AFTER_MS), false),
    ] {
        assert_eq!(days.sealing(now).is_some(), seals, "{now}");
    }
    // The next day is asked for as soon as it begins.
    assert_eq!(days.missing(at(next, 0)).len(), 3);
}

#[test]
fn a_part_is_bound_to_all_that_its_head_says() {
    let (world, key) = (World::new(), Zeroizing::new([5; 32]));
    let head = sealed(&world.enclave(&[0, 1, 2]), &key);
    type Change = fn(&mut RecordSubject);
    let changes: [Change; 10] = [
        |subject| subject.serial[0] ^= 1,
        |subject| subject.room = id("other"),
        |subject| subject.model = ModelId::new("other").unwrap(),
        |subject| subject.model_sha256 = sha256("other"),
        |subject| subject.boot = sha256("other"),
        |subject| subject.receipt = "other".parse().unwrap(),
        |subject| subject.partner = sha256("other"),
        |subject| subject.day = Day(DAY.0 + 1),
        |subject| subject.release = sha256("other"),
        |subject| subject.body = sha256("other"),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = head.clone();
        change(&mut other.subject);
        let mut opening = OpeningCollector::new(other.clone(), world.brokers.clone());
        let wanted = Wanted::Part { head: other.to_bytes(), opening: Vec::new() };
        let request = world.request(0, opening.recipient(), wanted);
        opening.ask(request.clone()).unwrap();
        let part = world.secrets[0].part(&id("bank"), &other.subject).unwrap();
        let answer = world.answer(0, part.as_bytes(), &request);
        assert_eq!(opening.take(&id("bank"), &answer), Err(DayError::Part), "change {number}");
    }
}

#[test]
fn an_answer_counts_for_its_own_request_and_by_its_own_broker() {
    let world = World::new();
    let mut days = DayCollector::new(world.brokers.clone());
    let (bank, secret) = (id("bank"), [1; 32]);
    let request = world.request(0, days.recipient(), Wanted::Secret(DAY));
    let answer = world.answer(0, &secret, &request);
    assert_eq!(days.take(&bank, &answer), Err(DayError::NotAsked));
    assert_eq!(days.take(&id("nobody"), &answer), Err(DayError::UnknownBroker));
    days.ask(request.clone()).unwrap();
    // A secret that a host made up, sealed as it should be.
    let forged = RetentionAnswer::seal(&secret, &request, |_| Some(vec![0; 64])).unwrap();
    assert_eq!(days.take(&bank, &forged), Err(DayError::NotTheBrokers));
    assert_eq!(days.take(&bank, &world.answer(1, &secret, &request)), Err(DayError::NotTheBrokers));
    type Change = fn(&mut RetentionRequest);
    let changes: [Change; 4] = [
        |request| request.wanted = Wanted::Secret(Day(DAY.0 + 1)),
        |request| request.asked.nonce = Nonce::from_bytes([8; 32]),
        |request| request.asked.document.push(0),
        |request| request.asked.recipient = Recipient::generate().public().clone(),
    ];
    for change in changes {
        let mut other = request.clone();
        change(&mut other);
        assert_eq!(days.take(&bank, &world.answer(0, &secret, &other)), Err(DayError::NotTheBrokers));
    }
    days.take(&bank, &answer).unwrap();
    assert_eq!(days.take(&bank, &answer), Err(DayError::NotAsked), "once");
}

#[test]
fn evidence_is_made_for_one_purpose() {
    let world = World::new();
    let recipient = Recipient::generate();
    let part = |head: &[u8], opening: &[u8]| Wanted::Part { head: head.to_vec(), opening: opening.to_vec() };
    let wanted = [
        Wanted::Secret(DAY),
        Wanted::Secret(Day(DAY.0 + 1)),
        part(b"head", b"opening"),
        part(b"head", b"other"),
        part(b"heado", b"pening"),
    ];
    let mut seen =
        vec![world.request(0, recipient.public(), Wanted::Secret(DAY)).asked.evidence().evidence_request()];
    for wanted in wanted {
        let evidence = world.request(0, recipient.public(), wanted).evidence_request();
        assert!(!seen.contains(&evidence));
        seen.push(evidence);
    }
}

#[test]
fn the_key_of_a_part_is_that_of_the_specification() {
    // HKDF with Python's `hmac`: extract("cleanroom/record-part/1", 32 times 0x01), expand(LP("bank") LP(SHA-256(subject))).
    let secret = DaySecret::read(&[1; 32]).unwrap();
    let part = secret.part(&id("bank"), &subject()).unwrap();
    let digits: String = part.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let of = Sha256Digest::of(&[&subject().to_bytes()]);
    assert_eq!(
        (of.to_string().as_str(), digits.as_str()),
        (
            "812b2df514ae44c431070538c65531f19389f4af678fa83b2666d25119f28589",
            "4f00136439b61c44cdca47da80d2b74e74374b2be9065ac3b44e0c0b7cf6e603"
        )
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_no_request_is_refused_and_what_is_one_comes_back(
        day: u32, head: Vec<u8>, opening: Vec<u8>, cut in 0usize..4000
    ) {
        let (world, recipient) = (World::new(), Recipient::generate());
        for wanted in [Wanted::Secret(Day(day)), Wanted::Part { head, opening }] {
            let request = world.request(0, recipient.public(), wanted);
            let bytes = request.encode();
            prop_assert!(bytes.len() <= RetentionRequest::LIMIT);
            prop_assert_eq!(RetentionRequest::decode(&bytes), Ok(request));
            let cut = cut.min(bytes.len() - 1);
            prop_assert!(RetentionRequest::decode(&bytes[..cut]).is_err());
            prop_assert!(RetentionRequest::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
