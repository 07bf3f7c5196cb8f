//! What shares, requests and the way of a share from a broker to an enclave must keep.

use cleanroom_attestation::channel::{ModelId, Nonce, length_prefixed};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Broker, Brokers, Id, List};

use super::*;

const NAMES: [&str; 3] = ["bank", "utility", "regulator"];

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn digest(text: &str) -> Sha256Digest {
    Sha256Digest::of(&[text.as_bytes()])
}

fn of<'a>(model: &'a Sha256Digest, broker: &'a Id) -> ShareOf<'a> {
    ShareOf { purpose: Purpose::Weights, model, broker }
}

fn request(broker: &str, recipient: &RecipientKey) -> ShareRequest {
    ShareRequest {
        nonce: Nonce::from_bytes([7; 32]),
        broker: id(broker),
        model_id: ModelId::new("demo").unwrap(),
        model_digest: digest("model"),
        root_version: 3,
        root: digest("root"),
        release: digest("release"),
        lease: vec![1, 2, 3],
        recipient: recipient.clone(),
        document: b"a document".to_vec(),
    }
}

/// A secret that three brokers hold, any `needed` of whom can give it, and a collector for it.
struct World {
    secret: Secret,
    shares: Vec<Share>,
    collector: Collector,
}

impl World {
    fn new(needed: usize) -> Self {
        let secret = Secret::generate().unwrap();
        let shares = secret.split(needed, NAMES.len()).unwrap();
        let brokers = NAMES.iter().zip(&shares).map(|(name, share)| Broker {
            name: id(name),
            sha256: share.commitment(&of(&digest("model"), &id(name))),
        });
        let of = List::new(brokers.collect()).unwrap();
        let collector = Collector::new(digest("model"), &Brokers { needed: needed as u64, of });
        Self { secret, shares, collector }
    }

    fn ask(&mut self, broker: &str) -> ShareRequest {
        let request = request(broker, self.collector.recipient());
        self.collector.ask(request.clone()).unwrap();
        request
    }

    /// The whole way of one broker's share.
    fn give(&mut self, broker: &str) -> Result<Taken, ShareError> {
        let request = self.ask(broker);
        let at = NAMES.iter().position(|name| *name == broker).unwrap();
        let sealed = SealedShare::seal(&self.shares[at], &request).unwrap();
        self.collector.take(&id(broker), &sealed)
    }

    fn key(&self) -> Option<[u8; 32]> {
        match self.collector.finish().unwrap() {
            Outcome::Needs(_) => None,
            Outcome::Key(key) => Some(*key.as_bytes()),
        }
    }
}

#[test]
fn any_two_of_three_give_the_key_and_one_does_not() {
    for pair in [[0, 1], [1, 2], [2, 0]] {
        let mut world = World::new(2);
        let expected = DataKey::derive(&world.secret, Purpose::Weights, &digest("model")).unwrap();
        assert_eq!(world.give(NAMES[pair[0]]), Ok(Taken::MoreNeeded));
        assert_eq!((world.key(), world.collector.still_needed()), (None, 1));
        // The same broker again is worth nothing.
        assert_eq!(world.give(NAMES[pair[0]]), Ok(Taken::MoreNeeded));
        assert_eq!(world.give(NAMES[pair[1]]), Ok(Taken::Complete));
        assert_eq!(world.key(), Some(*expected.as_bytes()));
        let missing: Vec<&Id> = world.collector.missing().collect();
        assert_eq!(missing.len(), 1);
    }
}

#[test]
fn every_number_of_shares_up_to_the_limit_splits_and_joins() {
    let secret = Secret::generate().unwrap();
    for of in 1..=16 {
        for needed in 1..=of {
            let shares = secret.split(needed, of).unwrap();
            let last: Vec<&Share> = shares.iter().rev().take(needed).collect();
            assert_eq!(Secret::join(&last).unwrap().bytes(), secret.bytes(), "{needed} of {of}");
            if needed > 1 {
                assert_ne!(Secret::join(&last[1..]).unwrap().bytes(), secret.bytes());
            }
        }
    }
    for (needed, of) in [(0, 1), (2, 1), (1, 0), (1, 17), (17, 17)] {
        assert_eq!(secret.split(needed, of).err(), Some(SplitError::Numbers { needed, of }));
    }
}

#[test]
fn the_derivation_is_that_of_the_specification() {
    // HKDF with Python's `hmac`: extract(salt, LP(32 times 0x01) LP()), expand(LP("weights") LP(SHA-256("model"))).
    let shares = [Share::read(&[1; 33]).unwrap()];
    let secret = Secret::join(&[&shares[0]]).unwrap();
    assert_eq!(secret.bytes(), [1; 32]);
    let key = DataKey::derive(&secret, Purpose::Weights, &digest("model")).unwrap();
    let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "4b47df04dd12102e6f7039cc23331f387d14a555c36e714b6725436ea5273614");
    // Another model has another key, though the secret were the same.
    let other = DataKey::derive(&secret, Purpose::Weights, &digest("other")).unwrap();
    assert_ne!(key.as_bytes(), other.as_bytes());
}

#[test]
fn a_share_of_another_model_or_broker_or_at_another_place_is_not_taken() {
    let mut world = World::new(2);
    // Another secret's share, and the right secret's share of another broker.
    let foreign = Secret::generate().unwrap().split(2, 3).unwrap();
    for wrong in [&foreign[0], &world.shares[1]] {
        let request = request("bank", world.collector.recipient());
        world.collector.ask(request.clone()).unwrap();
        let sealed = SealedShare::seal(wrong, &request).unwrap();
        assert_eq!(world.collector.take(&id("bank"), &sealed), Err(ShareError::Commitment));
    }
    assert_eq!(world.key(), None);
    assert!(Share::read(&[0; 33]).is_none(), "the place of the secret itself");
    assert!(Share::read(&[1; 32]).is_none());
}

#[test]
fn two_brokers_that_hold_one_share_are_worth_one() {
    let secret = Secret::generate().unwrap();
    let share = &secret.split(2, 2).unwrap()[0];
    let brokers = ["a", "b"]
        .map(|name| Broker { name: id(name), sha256: share.commitment(&of(&digest("model"), &id(name))) });
    let brokers = Brokers { needed: 2, of: List::new(brokers.to_vec()).unwrap() };
    let mut collector = Collector::new(digest("model"), &brokers);
    let mut give = |name: &str| {
        let request = request(name, collector.recipient());
        collector.ask(request.clone()).unwrap();
        collector.take(&id(name), &SealedShare::seal(share, &request).unwrap())
    };
    assert_eq!(give("a"), Ok(Taken::MoreNeeded));
    assert_eq!(give("b"), Err(ShareError::SamePlace));
}

#[test]
fn a_share_opens_for_the_request_that_it_was_sealed_for_and_no_other() {
    let mut world = World::new(2);
    let asked = world.ask("bank");
    type Change = fn(&mut ShareRequest);
    let changes: [(&str, Change); 7] = [
        ("nonce", |request| request.nonce = Nonce::from_bytes([8; 32])),
        ("document", |request| request.document.push(0)),
        ("release", |request| request.release = digest("another release")),
        ("root version", |request| request.root_version = 2),
        ("root", |request| request.root = digest("another root")),
        ("model", |request| request.model_digest = digest("another model")),
        ("broker", |request| request.broker = id("utility")),
    ];
    for (what, change) in changes {
        let mut other = asked.clone();
        change(&mut other);
        let sealed = SealedShare::seal(&world.shares[0], &other).unwrap();
        let taken = world.collector.take(&id("bank"), &sealed);
        assert_eq!(taken, Err(ShareError::SealedOtherwise), "{what}");
    }
    // Sealed to another enclave's key, and damaged at either end.
    let mut other = asked.clone();
    other.recipient = Recipient::generate().public().clone();
    let sealed = SealedShare::seal(&world.shares[0], &other).unwrap();
    assert_eq!(world.collector.take(&id("bank"), &sealed), Err(ShareError::SealedOtherwise));
    let sealed = SealedShare::seal(&world.shares[0], &asked).unwrap();
    for at in [0, 1119, 1120, SealedShare::LENGTH - 1] {
        let mut bytes = sealed.as_bytes().to_vec();
        bytes[at] ^= 1;
        let damaged = SealedShare::read(&bytes).unwrap();
        assert_eq!(world.collector.take(&id("bank"), &damaged), Err(ShareError::SealedOtherwise));
    }
    assert!(SealedShare::read(&sealed.as_bytes()[1..]).is_none());
    // The one that was asked for counts, once.
    assert_eq!(world.collector.take(&id("bank"), &sealed), Ok(Taken::MoreNeeded));
    assert_eq!(world.collector.take(&id("bank"), &sealed), Err(ShareError::NotAsked));
    assert_eq!(world.collector.take(&id("nobody"), &sealed), Err(ShareError::UnknownBroker));
    // Only the request that was made last is answered.
    let first = world.ask("utility");
    let mut second = first.clone();
    second.nonce = Nonce::from_bytes([9; 32]);
    world.collector.ask(second).unwrap();
    let late = SealedShare::seal(&world.shares[1], &first).unwrap();
    assert_eq!(world.collector.take(&id("utility"), &late), Err(ShareError::SealedOtherwise));
}

#[test]
fn requests_are_read_back_and_everything_else_is_refused() {
    let request = request("bank", Recipient::generate().public());
    let bytes = request.encode();
    assert!(bytes.len() <= ShareRequest::LIMIT);
    assert_eq!(ShareRequest::decode(&bytes), Ok(request.clone()));
    for cut in 0..bytes.len() {
        assert_eq!(ShareRequest::decode(&bytes[..cut]), Err(RequestError), "cut at {cut}");
    }
    assert_eq!(ShareRequest::decode(&[bytes.as_slice(), &[0]].concat()), Err(RequestError));
    for version in [0, u64::MAX] {
        let other = ShareRequest { root_version: version, ..request.clone() };
        assert_eq!(ShareRequest::decode(&other.encode()), Err(RequestError));
    }
    // A length that is announced reserves nothing.
    assert_eq!(ShareRequest::decode(&length_prefixed(&[&[0; 33]])), Err(RequestError));
}

#[test]
fn every_field_of_a_request_is_in_its_evidence() {
    let asked = request("bank", Recipient::generate().public());
    type Change = fn(&mut ShareRequest);
    let changes: [Change; 9] = [
        |request| request.nonce = Nonce::from_bytes([8; 32]),
        |request| request.broker = id("utility"),
        |request| request.model_id = ModelId::new("other").unwrap(),
        |request| request.model_digest = digest("another model"),
        |request| request.root_version = 2,
        |request| request.root = digest("another root"),
        |request| request.release = digest("another release"),
        |request| request.lease.push(0),
        |request| request.recipient = Recipient::generate().public().clone(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = asked.clone();
        change(&mut other);
        let (one, other) = (asked.evidence().evidence_request(), other.evidence().evidence_request());
        assert_ne!(one.user_data(), other.user_data(), "field {number}");
    }
}
