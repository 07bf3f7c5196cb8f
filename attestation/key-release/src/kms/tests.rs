//! What an answer of KMS must keep, before a host that changes it and hears what comes of it.

use aws_lc_rs::encoding::Pkcs8V1Der;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Broker, Brokers, Id, List};
use cleanroom_forge::kms::Envelope;

use super::*;
use crate::{Collector, Outcome, Purpose, Secret, ShareError, ShareOf, Taken};

fn aws() -> Id {
    "aws".parse().unwrap()
}

fn model() -> Sha256Digest {
    Sha256Digest::of(&[b"model"])
}

/// A collector that needs the share that KMS holds, and that share.
struct World {
    share: Share,
    collector: Collector,
}

impl World {
    fn new() -> Self {
        Self::with(Secret::generate().unwrap().split(1, 1).unwrap().remove(0))
    }

    fn with(share: Share) -> Self {
        let of = ShareOf { purpose: Purpose::Weights, model: &model(), broker: &aws() };
        let broker = Broker { name: aws(), sha256: share.commitment(&of) };
        let brokers = Brokers { needed: 1, of: List::new(vec![broker]).unwrap() };
        Self { share, collector: Collector::new(model(), &brokers) }
    }

    fn recipient(&mut self) -> Vec<u8> {
        self.collector.kms_recipient(&aws()).unwrap().to_vec()
    }

    fn hand(&mut self, fields: &[u8]) -> Result<Taken, ShareError> {
        self.collector.take_kms(&aws(), &KmsAnswer::read(fields).unwrap())
    }
}

#[test]
fn the_share_that_kms_encrypts_to_this_enclave_opens_the_weights() {
    let mut world = World::new();
    let answer = Envelope::seal(&world.recipient(), world.share.as_bytes());
    assert_eq!(answer.fields().len(), KmsAnswer::LENGTH);
    assert!(matches!(world.collector.finish(), Ok(Outcome::Needs(1))));
    assert_eq!(world.hand(&answer.fields()), Ok(Taken::Complete));
    assert!(matches!(world.collector.finish(), Ok(Outcome::Key(_))));
}

#[test]
fn what_is_not_the_share_for_this_enclave_is_refused_in_one_way() {
    let mut world = World::new();
    let recipient = world.recipient();
    let good = Envelope::seal(&recipient, world.share.as_bytes());
    // Each bit of each field.
    for bit in 0..KmsAnswer::LENGTH * 8 {
        // RSA is slow, so one bit of each byte of the encrypted key has to do.
        if bit < KEY_BYTES * 8 && bit % 8 != bit / 8 % 8 {
            continue;
        }
        let mut changed = good.fields();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(world.hand(&changed), Err(ShareError::KmsAnswer), "bit {bit}");
    }
    let share = world.share.as_bytes().to_vec();
    let other = Secret::generate().unwrap().split(1, 1).unwrap().remove(0);
    let elsewhere = KmsRecipient::generate().unwrap();
    for (what, answer) in [
        ("another share", Envelope::seal(&recipient, other.as_bytes())),
        ("the share for another enclave", Envelope::seal(elsewhere.public(), &share)),
        ("the place of the secret", Envelope::seal(&recipient, &[0; Share::LENGTH])),
        ("another padding", Envelope::seal_padded(&recipient, &[share.as_slice(), &[0; 15]].concat())),
    ] {
        assert_eq!(world.hand(&answer.fields()), Err(ShareError::KmsAnswer), "{what}");
    }
    assert!(KmsAnswer::read(&[0; KmsAnswer::LENGTH - 1]).is_none());
    assert!(KmsAnswer::read(&[0; KmsAnswer::LENGTH + 1]).is_none());
    assert_eq!(world.hand(&good.fields()), Ok(Taken::Complete), "the right one still counts");
}

/// A host that moves blocks asks with each answer whether one byte of a share is a value that it knows. If
/// the padding did not count, the enclave would say yes once in 256 answers.
#[test]
fn blocks_that_a_host_moved_tell_it_nothing_of_a_share() {
    let mut world = World::new();
    let recipient = world.recipient();
    let share = world.share.as_bytes().to_vec();
    let mut right_guesses = 0;
    for _ in 0..4096 {
        let mut answer = Envelope::seal(&recipient, &share);
        // The first block in the place of the third: its first byte becomes the share's place, with two known
        // values.
        let guessed = share[0] ^ answer.initialisation_vector[0] ^ answer.content[BLOCK];
        if guessed != share[2 * BLOCK] {
            continue;
        }
        right_guesses += 1;
        answer.content.copy_within(..BLOCK, 2 * BLOCK);
        assert_eq!(world.hand(&answer.fields()), Err(ShareError::KmsAnswer));
    }
    assert!(right_guesses > 0, "one answer in 256 is such a guess");
}

#[test]
fn kms_is_asked_for_a_share_that_the_release_names_alone() {
    let mut world = World::new();
    let nobody: Id = "nobody".parse().unwrap();
    assert_eq!(world.collector.kms_recipient(&nobody), Err(ShareError::UnknownBroker));
    let elsewhere = KmsRecipient::generate().unwrap();
    let answer = Envelope::seal(elsewhere.public(), world.share.as_bytes()).fields();
    assert_eq!(world.hand(&answer), Err(ShareError::NotAsked), "no key was made yet");
    let recipient = world.recipient();
    assert_eq!(recipient, world.recipient(), "the key is made once");
    let answer = KmsAnswer::read(&Envelope::seal(&recipient, world.share.as_bytes()).fields()).unwrap();
    assert_eq!(world.collector.take_kms(&nobody, &answer), Err(ShareError::UnknownBroker));
}

#[test]
fn a_key_of_kms_opens_what_was_sealed_to_it() {
    let share = World::new().share;
    for size in [KeySize::Rsa2048, KeySize::Rsa3072] {
        let key = PrivateDecryptingKey::generate(size).unwrap();
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let sealed = seal_to_kms(&share, public.as_ref()).unwrap();
        let key = OaepPrivateDecryptingKey::new(key).unwrap();
        let mut room = vec![0; key.min_output_size()];
        let opened = key.decrypt(&OAEP_SHA256_MGF1SHA256, &sealed, &mut room, None).unwrap();
        assert_eq!(opened, share.as_bytes());
        assert_ne!(sealed, seal_to_kms(&share, public.as_ref()).unwrap(), "never the same twice");
    }
    let private: Pkcs8V1Der<'_> = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    for wrong in [&b"no key"[..], private.as_ref(), &[]] {
        assert_eq!(seal_to_kms(&share, wrong), Err(KmsKeyError::Form));
    }
}
