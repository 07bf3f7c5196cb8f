//! An enclave without its key, among hostile brokers and before a hostile host: it opens sealed weights with the shares that its
//! release names, sealed for the request that it made, and with nothing else.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use cleanroom_attestation::channel::{KmsEvidence, Nonce};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::document::Document;
use cleanroom_attestation::release::{
    self, Accepted, Broker, Brokers, Id, List, PayloadType, Release, Weights,
};
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, Rejection, appraise};
use cleanroom_config::Config;
use cleanroom_forge::kms::Envelope;
use cleanroom_guard::Clock;
use cleanroom_keeper::Halt;
use cleanroom_keeper::keys::{Released, obtain};
use cleanroom_keeper::security_module::SecurityModule;
use cleanroom_key_release::{DataKey, Purpose, Recipient, SealedShare, Secret, Share, ShareOf, ShareRequest};
use cleanroom_link::control::{ControlAnswer, ControlKind, ShareMessage, ShareState};
use cleanroom_tests::authorities::Authorities;
use cleanroom_tests::clean_room::Control;
use cleanroom_tests::platform::{World, now_ms};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

const NAMES: [&str; 3] = ["bank", "utility", "regulator"];

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn model() -> Sha256Digest {
    Sha256Digest::of(&[b"the weights"])
}

/// An enclave that waits for its key, its authorities, and brokers whose shares a test gives or withholds.
struct Stage {
    world: World,
    authorities: Authorities,
    secret: Secret,
    shares: Vec<Share>,
    enclave: JoinHandle<Result<Option<Released>, Halt>>,
    control: Control,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (world, authorities) = (World::new(), Authorities::new());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let mut listener = UnixListener::bind(&path).unwrap();
        let root = authorities.root_text();
        let config = "version = 1\nmodel = \"demo\"\npartners = \"any\"\n";
        let config = Config::from_toml(config).unwrap();
        let security_module = SecurityModule::start(world.device(world.accepted.clone())).unwrap();
        let enclave = tokio::spawn(async move {
            obtain(&config, &root, Clock::boot(), &security_module, &mut listener).await
        });
        let control = Control::over(UnixStream::connect(path).await.unwrap());
        let secret = Secret::generate().unwrap();
        let shares = secret.split(2, NAMES.len()).unwrap();
        Self { world, authorities, secret, shares, enclave, control, folder }
    }

    /// A stage on which release 1 and a lease for it are in force.
    async fn released() -> Self {
        let mut stage = Self::new().await;
        let release = stage.release(1);
        stage.run(&release).await;
        stage
    }

    /// Release `version`, which names the brokers and their shares.
    fn release(&self, version: u64) -> Release {
        let partner = Sha256Digest::of(&[b"a partner's key"]);
        let mut release = self.authorities.release(version, self.world.image(), model(), partner);
        let brokers = NAMES.iter().zip(&self.shares).map(|(name, share)| {
            let of = ShareOf { purpose: Purpose::Weights, model: &model(), broker: &id(name) };
            Broker { name: id(name), sha256: share.commitment(&of) }
        });
        let brokers = Brokers { needed: 2, of: List::new(brokers.collect()).unwrap() };
        let mut models = release.models.to_vec();
        models[0].weights = Some(Weights { brokers });
        release.models = List::new(models).unwrap();
        release
    }

    async fn run(&mut self, release: &Release) {
        let release = self.authorities.sign(release);
        let accepted = ControlAnswer::Accepted(Accepted::New);
        assert_eq!(self.control.send(ControlKind::RELEASE, &release).await, accepted);
        let request = self.control.ask().await;
        let lease = self.authorities.lease(&request, &release, &[]);
        assert_eq!(self.control.send(ControlKind::LEASE, &lease).await, accepted);
    }

    /// What the enclave shows to a broker for a challenge.
    async fn request(&mut self, broker: &str, challenge: u8) -> ShareRequest {
        let message = ShareMessage { broker: id(broker), bytes: vec![challenge; 32] };
        match self.control.send(ControlKind::ShareAsk, &message.encode()).await {
            ControlAnswer::ShareRequest(bytes) => ShareRequest::decode(&bytes).unwrap(),
            other => panic!("expected a request, got {other:?}"),
        }
    }

    async fn hand(&mut self, broker: &str, sealed: &SealedShare) -> ControlAnswer {
        let message = ShareMessage { broker: id(broker), bytes: sealed.as_bytes().to_vec() };
        self.control.send(ControlKind::Share, &message.encode()).await
    }

    fn seal(&self, index: usize, request: &ShareRequest) -> SealedShare {
        SealedShare::seal(&self.shares[index], request).unwrap()
    }

    /// An honest broker's whole way.
    async fn give(&mut self, index: usize) -> ControlAnswer {
        let request = self.request(NAMES[index], 7).await;
        let sealed = self.seal(index, &request);
        self.hand(NAMES[index], &sealed).await
    }

    /// The document that KMS is to get for the share of `broker`.
    async fn document_for_kms(&mut self, broker: &str) -> Vec<u8> {
        match self.control.send(ControlKind::KmsAsk, broker.as_bytes()).await {
            ControlAnswer::ShareRequest(document) => document,
            other => panic!("expected a document, got {other:?}"),
        }
    }

    /// What KMS answers to `document` if it holds a share.
    fn kms(&self, index: usize, document: &[u8]) -> Envelope {
        let document = Document::parse(document).unwrap();
        Envelope::seal(document.public_key().unwrap(), self.shares[index].as_bytes())
    }

    async fn hand_from_kms(&mut self, broker: &str, fields: Vec<u8>) -> ControlAnswer {
        let message = ShareMessage { broker: id(broker), bytes: fields };
        self.control.send(ControlKind::KmsShare, &message.encode()).await
    }

    async fn key(self) -> Released {
        self.enclave.await.unwrap().unwrap().unwrap()
    }
}

fn refused(answer: &ControlAnswer) -> &str {
    match answer {
        ControlAnswer::Refused(code) => code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn waits(needed: u64, missing: &[&str]) -> ControlAnswer {
    ControlAnswer::Shares(ShareState { needed, missing: missing.iter().map(|name| id(name)).collect() })
}

#[tokio::test]
async fn two_brokers_of_three_open_the_weights_and_their_evidence_is_genuine() {
    let mut stage = Stage::released().await;
    assert_eq!(stage.control.send(ControlKind::Shares, b"").await, waits(2, &NAMES));
    let request = stage.request("bank", 7).await;
    // What a broker's verifier says of it.
    let expected = request.evidence().evidence_request();
    let expectation = Expectation {
        nonce: Some(expected.nonce()),
        user_data: Some(expected.user_data()),
        ..Expectation::default()
    };
    let policy = stage.world.policy_under(&stage.authorities.root_text());
    let policy = policy.with_release(&stage.release(1));
    let verdict = appraise(&request.document, &policy, &expectation, Timestamp::from_millis(now_ms()), None);
    verdict.accepted().unwrap();
    assert_eq!((request.nonce.as_bytes(), request.model_digest), (&[7; 32], model()));

    let sealed = stage.seal(0, &request);
    assert_eq!(stage.hand("bank", &sealed).await, waits(1, &["utility", "regulator"]));
    // The same again is worth nothing.
    assert_eq!(refused(&stage.hand("bank", &sealed).await), "share-not-asked");
    assert!(!stage.enclave.is_finished());
    assert_eq!(stage.give(2).await, waits(0, &["utility"]));
    let expected = DataKey::derive(&stage.secret, Purpose::Weights, &model()).unwrap();
    let released = stage.key().await;
    assert_eq!((released.key.as_bytes(), released.model), (expected.as_bytes(), model()));
}

#[tokio::test]
async fn one_authority_alone_opens_nothing_however_often_it_gives() {
    let mut stage = Stage::released().await;
    for _ in 0..3 {
        assert_eq!(stage.give(0).await, waits(1, &["utility", "regulator"]));
    }
    // Its share in the place of another's, and a share of its own making.
    let request = stage.request("utility", 8).await;
    let sealed = stage.seal(0, &request);
    assert_eq!(refused(&stage.hand("utility", &sealed).await), "share-commitment");
    let own = &Secret::generate().unwrap().split(2, 2).unwrap()[1];
    let sealed = SealedShare::seal(own, &request).unwrap();
    assert_eq!(refused(&stage.hand("utility", &sealed).await), "share-commitment");
    assert_eq!(refused(&stage.hand("nobody", &sealed).await), "unknown-broker");
    assert!(!stage.enclave.is_finished());
}

#[tokio::test]
async fn a_share_that_was_sealed_for_anything_else_is_not_taken() {
    let mut stage = Stage::released().await;
    let request = stage.request("bank", 7).await;
    // For another nonce, another document, another root, and to another enclave.
    type Change = fn(&mut ShareRequest);
    let changes: [Change; 5] = [
        |request| request.nonce = Nonce::from_bytes([8; 32]),
        |request| request.document.push(0),
        |request| request.root_version = 2,
        |request| request.release = Sha256Digest::of(&[b"another release"]),
        |request| request.recipient = Recipient::generate().public().clone(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = request.clone();
        change(&mut other);
        let sealed = stage.seal(0, &other);
        assert_eq!(refused(&stage.hand("bank", &sealed).await), "share-sealed-otherwise", "change {number}");
    }
    // An answer to a question that was asked before the last one.
    let late = stage.seal(0, &request);
    stage.request("bank", 9).await;
    assert_eq!(refused(&stage.hand("bank", &late).await), "share-sealed-otherwise");
    // And what is no share.
    for bytes in [Vec::new(), vec![0; SealedShare::LENGTH - 1], vec![0; SealedShare::LENGTH + 1]] {
        let message = ShareMessage { broker: id("bank"), bytes };
        let answer = stage.control.send(ControlKind::Share, &message.encode()).await;
        assert_eq!(refused(&answer), "share-form");
    }
    for challenge in [0, 31, 33] {
        let message = ShareMessage { broker: id("bank"), bytes: vec![7; challenge] };
        let body = message.encode();
        if body.len() <= ControlKind::ShareAsk.limit() {
            assert_eq!(refused(&stage.control.send(ControlKind::ShareAsk, &body).await), "share-form");
        }
    }
    assert_eq!(stage.give(0).await, waits(1, &["utility", "regulator"]), "the right one still counts");
}

#[tokio::test]
async fn nothing_is_asked_for_without_a_release_a_lease_and_a_model_that_may_serve() {
    let mut stage = Stage::new().await;
    let ask = ShareMessage { broker: id("bank"), bytes: vec![7; 32] }.encode();
    let code =
        async |stage: &mut Stage| refused(&stage.control.send(ControlKind::ShareAsk, &ask).await).to_owned();
    assert_eq!(code(&mut stage).await, "no-lease");
    let release = stage.release(1);
    let signed = stage.authorities.sign(&release);
    stage.control.send(ControlKind::RELEASE, &signed).await;
    assert_eq!(code(&mut stage).await, "no-lease");
    assert_eq!(refused(&stage.control.send(ControlKind::Shares, b"").await), "no-lease");
    let request = stage.control.ask().await;
    let lease = stage.authorities.lease(&request, &signed, &[]);
    stage.control.send(ControlKind::LEASE, &lease).await;
    assert_eq!(stage.give(0).await, waits(1, &["utility", "regulator"]));
    // A newer release without its lease, then with it: the shares are asked for anew, of the brokers that it names.
    let next = stage.release(2);
    let next_signed = stage.authorities.sign(&next);
    stage.control.send(ControlKind::RELEASE, &next_signed).await;
    assert_eq!(code(&mut stage).await, "no-lease");
    let request = stage.control.ask().await;
    let lease = stage.authorities.lease(&request, &next_signed, &[]);
    stage.control.send(ControlKind::LEASE, &lease).await;
    assert_eq!(stage.control.send(ControlKind::Shares, b"").await, waits(2, &NAMES));
    // A release that says that the weights are not sealed is none for this enclave.
    let mut plain = stage.release(3);
    let mut models = plain.models.to_vec();
    models[0].weights = None;
    plain.models = List::new(models).unwrap();
    let plain = stage.authorities.sign(&plain);
    assert_eq!(refused(&stage.control.send(ControlKind::RELEASE, &plain).await), "not-enforced");
    // A halt.
    assert_eq!(stage.give(0).await, waits(1, &["utility", "regulator"]));
    let (denial, _) = stage.authorities.deny_model();
    stage.control.send(ControlKind::DENIAL, &denial).await;
    assert_eq!(code(&mut stage).await, "model-denied");
    let message = ShareMessage { broker: id("bank"), bytes: vec![0; SealedShare::LENGTH] };
    let answer = stage.control.send(ControlKind::Share, &message.encode()).await;
    assert_eq!(refused(&answer), "model-denied");
    assert!(!stage.enclave.is_finished());
}

#[tokio::test]
async fn a_share_that_kms_holds_counts_beside_a_brokers() {
    let mut stage = Stage::released().await;
    let document = stage.document_for_kms("bank").await;
    let answer = stage.kms(0, &document);
    assert_eq!(stage.hand_from_kms("bank", answer.fields()).await, waits(1, &["utility", "regulator"]));
    // The same again, and the same share from the broker itself, are worth nothing.
    assert_eq!(stage.hand_from_kms("bank", answer.fields()).await, waits(1, &["utility", "regulator"]));
    assert_eq!(stage.give(0).await, waits(1, &["utility", "regulator"]));
    assert!(!stage.enclave.is_finished());
    assert_eq!(stage.give(2).await, waits(0, &["utility"]));
    let expected = DataKey::derive(&stage.secret, Purpose::Weights, &model()).unwrap();
    assert_eq!(stage.key().await.key.as_bytes(), expected.as_bytes());
}

#[tokio::test]
async fn a_document_for_kms_is_genuine_and_none_for_anything_else() {
    let mut stage = Stage::released().await;
    let document = stage.document_for_kms("bank").await;
    let parsed = Document::parse(&document).unwrap();
    let (recipient, nonce) = (parsed.public_key().unwrap(), parsed.nonce());
    assert_eq!(nonce, None, "KMS gives no challenge");
    let release = stage.authorities.sign(&stage.release(1));
    let release = release::Envelope::parse(&release, PayloadType::Release);
    let evidence = KmsEvidence {
        purpose: "weights",
        broker: &id("bank"),
        model_digest: model(),
        release: release.unwrap().digest(),
        recipient,
    };
    let evidence = evidence.evidence_request();
    let share = stage.request("bank", 7).await;
    let share = share.evidence().evidence_request();
    let policy = stage.world.policy_under(&stage.authorities.root_text()).with_release(&stage.release(1));
    let code = |user_data: &[u8]| {
        let expectation = Expectation { user_data: Some(user_data), ..Expectation::default() };
        let verdict = appraise(&document, &policy, &expectation, Timestamp::from_millis(now_ms()), None);
        verdict.accepted().err().map(Rejection::code)
    };
    assert_eq!(code(evidence.user_data()), None);
    assert_eq!(code(share.user_data()), Some("user-data-mismatch"));
}

#[tokio::test]
async fn what_a_host_makes_of_an_answer_of_kms_is_refused_in_one_way() {
    let mut stage = Stage::released().await;
    let document = stage.document_for_kms("bank").await;
    let good = stage.kms(0, &document).fields();
    // One bit of the encrypted key, of the vector, of each block of the share, and of the padding.
    for byte in [0, 255, 256, 271, 272, 288, 304, 319] {
        let mut changed = good.clone();
        changed[byte] ^= 1;
        assert_eq!(refused(&stage.hand_from_kms("bank", changed).await), "share-kms", "byte {byte}");
    }
    // Another's share, and the right share for another enclave.
    let other = stage.kms(1, &document).fields();
    assert_eq!(refused(&stage.hand_from_kms("bank", other).await), "share-kms");
    let elsewhere = Stage::released().await.document_for_kms("bank").await;
    let elsewhere = stage.kms(0, &elsewhere).fields();
    assert_eq!(refused(&stage.hand_from_kms("bank", elsewhere).await), "share-kms");
    // What has not the form.
    for length in [0, good.len() - 1, good.len() + 1] {
        assert_eq!(refused(&stage.hand_from_kms("bank", vec![0; length]).await), "share-form");
    }
    for name in [&b""[..], b"a b", b"\xff"] {
        assert_eq!(refused(&stage.control.send(ControlKind::KmsAsk, name).await), "share-form");
    }
    // Whom the release does not name.
    assert_eq!(refused(&stage.control.send(ControlKind::KmsAsk, b"nobody").await), "unknown-broker");
    assert_eq!(refused(&stage.hand_from_kms("nobody", good.clone()).await), "unknown-broker");
    assert_eq!(stage.hand_from_kms("bank", good).await, waits(1, &["utility", "regulator"]));
}

#[tokio::test]
async fn kms_is_asked_for_nothing_without_a_release_and_a_lease_and_after_a_halt() {
    let mut stage = Stage::new().await;
    let ask = async |stage: &mut Stage| match stage.control.send(ControlKind::KmsAsk, b"bank").await {
        ControlAnswer::Refused(code) => code,
        _ => "asked".to_owned(),
    };
    assert_eq!(ask(&mut stage).await, "no-lease");
    let release = stage.release(1);
    stage.run(&release).await;
    let fields = vec![0; 320];
    assert_eq!(refused(&stage.hand_from_kms("bank", fields.clone()).await), "share-not-asked");
    assert_eq!(ask(&mut stage).await, "asked");
    let (denial, _) = stage.authorities.deny_model();
    stage.control.send(ControlKind::DENIAL, &denial).await;
    assert_eq!(ask(&mut stage).await, "model-denied");
    assert_eq!(refused(&stage.hand_from_kms("bank", fields).await), "model-denied");
    assert!(!stage.enclave.is_finished());
}

#[tokio::test]
async fn an_enclave_that_is_asked_to_end_waits_for_no_key() {
    let mut stage = Stage::released().await;
    assert_eq!(stage.give(0).await, waits(1, &["utility", "regulator"]));
    let accepted = ControlAnswer::Accepted(Accepted::New);
    assert_eq!(stage.control.send(ControlKind::Drain, b"").await, accepted);
    assert!(stage.enclave.await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn a_host_that_hangs_up_begins_where_it_was() {
    let mut stage = Stage::released().await;
    assert_eq!(stage.give(0).await, waits(1, &["utility", "regulator"]));
    let path = stage.folder.path().join("control.sock");
    // A frame that announces too much ends the connection, before a byte of it is read.
    stage.control.throw(ControlKind::Share, &vec![0; ControlKind::Share.limit() + 1]).await;
    stage.control = Control::over(UnixStream::connect(path).await.unwrap());
    assert_eq!(stage.control.send(ControlKind::Shares, b"").await, waits(1, &["utility", "regulator"]));
    assert_eq!(stage.give(1).await, waits(0, &["regulator"]));
    stage.key().await;
}
