//! Sealed retention through a whole room: what is kept, what is served without, who opens it, and how the partner sees that.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{Entry, SignedCheckpoint};
use cleanroom_attestation::record::{RecordHead, RecordKey, RecordedExchange};
use cleanroom_attestation::release::{
    Accepted, Algorithm, Day, DayBroker, DayBrokers, Id, Keep, List, Opening, OpeningRule, PublicKey,
    Receiver, ReceiverKey, Release, Retention, Safeguards, UnixMillis,
};
use cleanroom_key_release::{
    DaySecret, Recipient, RetentionAnswer, RetentionRequest, Wanted, open_for_receiver,
};
use cleanroom_link::control::{ControlAnswer, ControlKind, OpeningMessage, ShareMessage, ShareState};
use cleanroom_partner::audit::{Against, Store, audit};
use cleanroom_partner::proxy::Proxy;
use cleanroom_partner::receipts::{KeptReceipt, ReceiptFolder};
use cleanroom_partner::session::Sessions;
use cleanroom_tests::authorities::Authorities;
use cleanroom_tests::clean_room::Control;
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::log::LogKeeper;
use cleanroom_tests::platform::now_ms;
use cleanroom_tests::released_room::ReleasedRoom;
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::watch;

const CHAT: &str = "/v1/chat/completions";
const QUESTION: &str = "What is attestation?";
const NAMES: [&str; 3] = ["bank", "utility", "regulator"];

/// Flags what is asked of the weather.
const POLICY: &str = r#"
version = 1
id = "test"
hold_back = 64

[[rules]]
id = "watch.weather"
about = "is noted"
on = "prompt"
action = "flag"
any = ["the weather"]
"#;

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

/// Three brokers that a test has answer, with the secrets that they made.
struct Brokers {
    keys: Vec<Ed25519KeyPair>,
    secrets: HashMap<(usize, Day), DaySecret>,
}

impl Brokers {
    fn new() -> Self {
        let keys = NAMES.iter().map(|_| Ed25519KeyPair::generate().unwrap()).collect();
        Self { keys, secrets: HashMap::new() }
    }

    fn answer(&mut self, index: usize, request: &[u8]) -> Vec<u8> {
        let request = RetentionRequest::decode(request).unwrap();
        let sign = |message: &[u8]| Some(self.keys[index].sign(message).as_ref().to_vec());
        let answer = match &request.wanted {
            Wanted::Secret(day) => {
                let new = || DaySecret::generate().unwrap();
                let secret = self.secrets.entry((index, *day)).or_insert_with(new);
                RetentionAnswer::seal(secret.as_bytes(), &request, sign)
            }
            Wanted::Part { head, .. } => {
                let head = RecordHead::parse(head).unwrap();
                let secret = &self.secrets[&(index, head.subject.day)];
                let part = secret.part(&id(NAMES[index]), &head.subject).unwrap();
                RetentionAnswer::seal(part.as_bytes(), &request, sign)
            }
        };
        answer.unwrap().encode()
    }
}

/// A room whose release demands records, and a host that takes them when the test says so.
struct Stage {
    room: ReleasedRoom,
    brokers: Brokers,
    receiver: Recipient,
    records: Arc<Mutex<Vec<Vec<u8>>>>,
    stores: watch::Sender<bool>,
    folder: tempfile::TempDir,
    log: LogKeeper,
    proxy: SocketAddr,
    /// The signed release.
    envelope: Vec<u8>,
    /// When the room's first lease had begun. Its clock stands still until a test moves it.
    began_ms: u64,
}

impl Stage {
    /// Brokers have given nothing yet, and nobody asks for records.
    async fn new(keep: Keep) -> Self {
        Self::under(keep, |_, release| release).await
    }

    /// The same under a release that the test changes.
    async fn under(keep: Keep, change: impl FnOnce(&Authorities, Release) -> Release) -> Self {
        let mut room = ReleasedRoom::start().await;
        let (brokers, receiver) = (Brokers::new(), Recipient::generate());
        let of = NAMES.iter().zip(&brokers.keys).map(|(name, key)| DayBroker {
            name: id(name),
            key: PublicKey::from_raw(Algorithm::Ed25519, key.public_key().as_ref()).unwrap(),
        });
        let public = ReceiverKey::new(receiver.public().as_bytes()).unwrap();
        let rule = Retention {
            keep,
            days: 30,
            brokers: DayBrokers { needed: 2, of: List::new(of.collect()).unwrap() },
            opening: OpeningRule {
                reasons: List::new(vec![id("abuse")]).unwrap(),
                receivers: List::new(vec![Receiver { name: id("investigator"), sha256: public.digest() }])
                    .unwrap(),
            },
        };
        let release = change(&room.authorities, room.release(1));
        let mut models = release.models.to_vec();
        models[0].retention = Some(rule);
        models[0].safeguards =
            Some(Safeguards { policy: Sha256Digest::of(&[POLICY.as_bytes()]), limits: List::default() });
        let envelope = room.run(&Release { models: List::new(models).unwrap(), ..release }).await;
        let began_ms = now_ms();
        let policy = room.hand(ControlKind::SafeguardPolicy, POLICY.as_bytes()).await;
        assert_eq!(policy, ControlAnswer::Accepted(Accepted::New));
        let folder = tempfile::tempdir().unwrap();
        let proxy = keeping(&room, &folder.path().join("receipts")).await;
        let log = LogKeeper::new(folder.path());
        Self {
            room,
            brokers,
            receiver,
            records: Arc::default(),
            stores: watch::Sender::new(true),
            folder,
            log,
            proxy,
            envelope,
            began_ms,
        }
    }

    /// A room that serves.
    async fn serving(keep: Keep) -> Self {
        let mut stage = Self::new(keep).await;
        for index in 0..NAMES.len() {
            stage.give_day(index).await;
        }
        stage.take_records().await;
        stage
    }

    async fn give_day(&mut self, index: usize) {
        let message = |bytes| ShareMessage { broker: id(NAMES[index]), bytes }.encode();
        let request = match self.room.hand(ControlKind::DayAsk, &message(vec![7; 32])).await {
            ControlAnswer::ShareRequest(request) => request,
            other => panic!("expected a request, got {other:?}"),
        };
        let answer = self.brokers.answer(index, &request);
        let state = self.room.hand(ControlKind::Day, &message(answer)).await;
        assert!(matches!(state, ControlAnswer::Shares(_)), "{state:?}");
    }

    /// Begins to take records, on a connection of its own, and returns when the enclave knows it.
    async fn take_records(&self) {
        let control: Control = self.room.clean_room.control().await;
        let (records, mut stores) = (Arc::clone(&self.records), self.stores.subscribe());
        let (began, begun) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let (mut control, mut stored, mut began) = (control, Vec::new(), Some(began));
            loop {
                stores.wait_for(|stores| *stores).await.unwrap();
                let answer = control.send(ControlKind::Record, &stored).await;
                began.take().map(|began| began.send(()));
                stored.clear();
                let ControlAnswer::Record(record) = answer else { continue };
                // A host that does not store says nothing.
                if *stores.borrow() {
                    stored = RecordHead::split(&record).unwrap().0.digest().as_bytes().to_vec();
                    records.lock().unwrap().push(record);
                }
            }
        });
        begun.await.unwrap();
    }

    async fn ask(&self, text: &str) -> (StatusCode, serde_json::Value) {
        json(send(self.proxy, "POST", CHAT, &question(text, false)).await).await
    }

    fn receipts(&self) -> Vec<KeptReceipt> {
        let folder = ReceiptFolder::at(self.folder.path().join("receipts"));
        let (mut receipts, _) = folder.read().unwrap();
        receipts.sort_by_key(|kept| kept.signed.receipt().number);
        receipts
    }

    fn records(&self) -> Vec<Vec<u8>> {
        self.records.lock().unwrap().clone()
    }

    fn opening(&self, head: &RecordHead) -> Opening {
        let facts = head.facts();
        Opening {
            room: head.subject.room.clone(),
            record: facts.record,
            day: facts.day,
            partner: facts.partner,
            reason: id("abuse"),
            text: "case 17".parse().unwrap(),
            receiver: ReceiverKey::new(self.receiver.public().as_bytes()).unwrap(),
            expires: UnixMillis(now_ms() + 3_600_000),
            serial: Sha256Digest::of(&[b"serial"]),
        }
    }

    async fn open(&mut self, head: &RecordHead, opening: Vec<u8>) -> ControlAnswer {
        let message = OpeningMessage { head: head.to_bytes(), opening };
        self.room.hand(ControlKind::Open, &message.encode()).await
    }

    /// Carries one broker's part.
    async fn part(&mut self, opening: &Sha256Digest, index: usize) -> ControlAnswer {
        let message = |bytes| {
            let message = ShareMessage { broker: id(NAMES[index]), bytes }.encode();
            [opening.as_bytes().as_slice(), &message].concat()
        };
        let request = match self.room.hand(ControlKind::PartAsk, &message(vec![7; 32])).await {
            ControlAnswer::ShareRequest(request) => request,
            other => panic!("expected a request, got {other:?}"),
        };
        let answer = self.brokers.answer(index, &request);
        self.room.hand(ControlKind::Part, &message(answer)).await
    }

    async fn opened(&mut self, opening: &Sha256Digest) -> ControlAnswer {
        self.room.hand(ControlKind::Opened, opening.as_bytes()).await
    }
}

async fn keeping(room: &ReleasedRoom, folder: &Path) -> SocketAddr {
    let sessions = Sessions::new(room.party(&room.identity), room.clean_room.address());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::new(sessions).keep_receipts(ReceiptFolder::at(folder.to_owned()));
    tokio::spawn(proxy.serve(listener, std::future::pending()));
    address
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

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_before_enough_brokers_have_given_and_the_host_takes_records() {
    let mut stage = Stage::new(Keep::All).await;
    assert_eq!(stage.room.hand(ControlKind::Days, b"").await, waits(3, &NAMES));
    assert_eq!(stage.room.asked().await, "retention-missing");
    stage.give_day(0).await;
    stage.take_records().await;
    assert_eq!(stage.room.hand(ControlKind::Days, b"").await, waits(2, &NAMES[1..]));
    assert_eq!(stage.room.asked().await, "retention-missing");
    stage.give_day(2).await;
    assert_eq!(stage.room.asked().await, "served");
    assert_eq!(stage.records().len(), 1);
    // And the other way round: secrets alone are not enough.
    let mut stage = Stage::new(Keep::All).await;
    for index in 0..NAMES.len() {
        stage.give_day(index).await;
    }
    assert_eq!(stage.room.asked().await, "retention-missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_open_a_record_for_its_receiver_after_the_log_says_so() {
    let mut stage = Stage::serving(Keep::All).await;
    let (status, answer) = stage.ask(QUESTION).await;
    assert_eq!(status, StatusCode::OK);
    let said = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let receipt = stage.receipts().last().unwrap().signed.clone();
    let record = stage.records().pop().unwrap();
    let (head, body) = RecordHead::split(&record).unwrap();
    let digest = head.digest();
    assert_eq!(receipt.receipt().record_sha256, Some(digest));
    assert_eq!(
        (&head.subject.receipt, head.subject.partner),
        (&receipt.receipt().id, receipt.receipt().partner)
    );
    // Nothing of the text is in what the host has.
    let words: Vec<&str> = said.split(' ').filter(|word| word.len() > 6).take(3).collect();
    for text in words.iter().copied().chain(["attestation?"]) {
        assert!(!contains(&record, text), "{text}");
    }

    let opening = stage.opening(&head);
    let alone = stage.room.authorities.sign_opening(&opening, &[0]);
    assert_eq!(refused(&stage.open(&head, alone).await), "threshold");
    let signed = stage.room.authorities.sign_opening(&opening, &[0, 2]);
    let named = cleanroom_attestation::release::Envelope::parse(
        &signed,
        cleanroom_attestation::release::PayloadType::Opening,
    );
    let named = named.unwrap().digest();
    assert_eq!(refused(&stage.opened(&named).await), "opening-unknown");
    assert_eq!(stage.open(&head, signed.clone()).await, waits(2, &NAMES));
    assert_eq!(stage.part(&named, 2).await, waits(1, &NAMES[..2]));
    assert_eq!(refused(&stage.opened(&named).await), "opening-parts-missing");
    assert_eq!(stage.part(&named, 0).await, waits(0, &NAMES[1..2]));
    // A host that hides the opening gets nothing for it.
    assert_eq!(refused(&stage.opened(&named).await), "opening-not-logged");
    let store = stage.log.fetch(&mut stage.room.control).await;
    let ControlAnswer::Opened(given) = stage.opened(&named).await else { panic!("expected the key") };
    assert!(open_for_receiver(&given, &Recipient::generate(), &digest, &named).is_none());
    let key: RecordKey = open_for_receiver(&given, &stage.receiver, &digest, &named).unwrap();
    let exchange = RecordedExchange::open(body, &key).unwrap();
    assert!(contains(&exchange.request, QUESTION) && contains(&exchange.response, &said[..20]));

    let said = stage.log.said();
    let kept = Entry::Record { sha256: digest, receipt_sha256: receipt.digest(), at_ms: 0 };
    let is_kept = |entry: &&Entry| {
        matches!((entry, &kept), (Entry::Record { sha256: a, receipt_sha256: b, .. },
        Entry::Record { sha256: c, receipt_sha256: d, .. }) if (a, b) == (c, d))
    };
    assert_eq!(said.iter().filter(is_kept).count(), 1);
    // The partner's audit shows it, as its own.
    let receipts = stage.receipts();
    let against = Against {
        policy: None,
        receipts: &receipts,
        bad_receipts: &[],
        partner: None,
        seen: std::collections::BTreeMap::new(),
        other: None,
        witnesses: None,
    };
    std::fs::write(stage.folder.path().join("boots"), store.file_name().unwrap().to_str().unwrap()).unwrap();
    let report =
        audit(&Store::named(stage.folder.path().to_str().unwrap()).unwrap(), &against, |_, _| {}).unwrap();
    let [boot] = report.boots.as_slice() else { panic!("{:?}", report.boots.len()) };
    let [opened] = boot.openings.as_slice() else { panic!("{:?}", boot.openings) };
    assert_eq!(
        (opened.record_sha256, opened.reason.as_str(), opened.text.as_str()),
        (digest, "abuse", "case 17")
    );
    assert_eq!(opened.receipt.as_deref(), Some(receipt.receipt().id.as_str()));
    assert!(opened.is_new);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_witnesses_are_demanded_a_record_opens_only_after_they_have_cosigned_its_opening() {
    let mut stage =
        Stage::under(Keep::All, |authorities, release| authorities.witnessed(release, 2, 60)).await;
    for index in 0..NAMES.len() {
        stage.give_day(index).await;
    }
    stage.take_records().await;
    let checkpoint = async |stage: &mut Stage| {
        let store = stage.log.fetch(&mut stage.room.control).await;
        SignedCheckpoint::parse(&std::fs::read(store.join("checkpoint")).unwrap()).unwrap()
    };
    let hand = async |stage: &mut Stage, note: &SignedCheckpoint, by: &[usize]| {
        let note = by.iter().fold(note.clone(), |note, by| stage.room.authorities.cosign(*by, &note));
        stage.room.hand(ControlKind::Witnessed, &note.to_bytes()).await
    };
    let before = checkpoint(&mut stage).await;
    assert_eq!(hand(&mut stage, &before, &[0, 1]).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(stage.ask(QUESTION).await.0, StatusCode::OK);
    let head = RecordHead::split(&stage.records()[0]).unwrap().0;
    let opening = stage.opening(&head);
    let signed = stage.room.authorities.sign_opening(&opening, &[0, 2]);
    let named = Sha256Digest::of(&[&cleanroom_attestation::release::Payload::to_payload(&opening)]);
    assert_eq!(stage.open(&head, signed).await, waits(2, &NAMES));
    stage.part(&named, 0).await;
    stage.part(&named, 1).await;
    assert_eq!(refused(&stage.opened(&named).await), "opening-not-logged");
    let after = checkpoint(&mut stage).await;
    // Stored, and shown to nobody: not even what was witnessed before helps, nor one witness of two.
    assert_eq!(refused(&stage.opened(&named).await), "opening-not-witnessed");
    hand(&mut stage, &before, &[0, 1, 2]).await;
    assert_eq!(refused(&hand(&mut stage, &after, &[1]).await), "witness-quorum");
    assert_eq!(refused(&stage.opened(&named).await), "opening-not-witnessed");
    hand(&mut stage, &after, &[1, 2]).await;
    assert!(matches!(stage.opened(&named).await, ControlAnswer::Opened(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_opening_but_the_right_one_is_refused_with_its_code() {
    let mut stage = Stage::serving(Keep::All).await;
    assert_eq!(stage.ask(QUESTION).await.0, StatusCode::OK);
    let head = RecordHead::split(&stage.records()[0]).unwrap().0;
    let other = Sha256Digest::of(&[b"other"]);
    type Change = Box<dyn Fn(&mut Opening)>;
    let stranger = ReceiverKey::new(Recipient::generate().public().as_bytes()).unwrap();
    let changes: Vec<(&str, Change)> = vec![
        ("opening-reason", Box::new(|opening| opening.reason = id("curiosity"))),
        ("opening-receiver", Box::new(move |opening| opening.receiver = stranger.clone())),
        ("opening-expired", Box::new(|opening| opening.expires = UnixMillis(now_ms() - 3_600_000))),
        ("opening-too-long", Box::new(|opening| opening.expires = UnixMillis(now_ms() + 9 * 86_400_000))),
        ("opening-record", Box::new(move |opening| opening.record = other)),
        ("opening-record", Box::new(move |opening| opening.partner = other)),
        ("opening-record", Box::new(|opening| opening.day = Day(1))),
        ("room", Box::new(|opening| opening.room = id("elsewhere"))),
    ];
    for (code, change) in changes {
        let mut opening = stage.opening(&head);
        change(&mut opening);
        let signed = stage.room.authorities.sign_opening(&opening, &[0, 1]);
        assert_eq!(refused(&stage.open(&head, signed).await), code);
    }
    // A head that somebody made: of another room or model, or with parts that no broker's secret opens.
    let mut elsewhere = head.clone();
    elsewhere.subject.room = id("elsewhere");
    let opening = Opening { room: head.subject.room.clone(), ..stage.opening(&elsewhere) };
    let signed = stage.room.authorities.sign_opening(&opening, &[0, 1]);
    assert_eq!(refused(&stage.open(&elsewhere, signed).await), "record-elsewhere");
    let mut forged = head.clone();
    forged.subject.partner = other;
    let opening = stage.opening(&forged);
    let signed = stage.room.authorities.sign_opening(&opening, &[0, 1]);
    let digest = Sha256Digest::of(&[&cleanroom_attestation::release::Payload::to_payload(&opening)]);
    assert_eq!(stage.open(&forged, signed).await, waits(2, &NAMES));
    assert_eq!(refused(&stage.part(&digest, 0).await), "retention-part");

    // An opening that is begun in its time and asked for after it.
    let opening = Opening { expires: UnixMillis(stage.began_ms + 30_000), ..stage.opening(&head) };
    let digest = Sha256Digest::of(&[&cleanroom_attestation::release::Payload::to_payload(&opening)]);
    let signed = stage.room.authorities.sign_opening(&opening, &[0, 1]);
    assert_eq!(stage.open(&head, signed).await, waits(2, &NAMES));
    stage.part(&digest, 0).await;
    stage.part(&digest, 1).await;
    stage.log.fetch(&mut stage.room.control).await;
    stage.room.pass_time(20_000);
    assert!(matches!(stage.opened(&digest).await, ControlAnswer::Opened(_)));
    stage.room.pass_time(35_000);
    assert_eq!(refused(&stage.opened(&digest).await), "opening-expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stores_no_record_gets_no_answer_out_and_nothing_new_begins() {
    let mut stage = Stage::serving(Keep::All).await;
    assert_eq!(stage.ask(QUESTION).await.0, StatusCode::OK);
    stage.stores.send_replace(false);
    let proxy = stage.proxy;
    let asking =
        tokio::spawn(async move { json(send(proxy, "POST", CHAT, &question(QUESTION, false)).await).await });
    // The answer is there, and waits for its record.
    let begun = std::time::Instant::now();
    while !asking.is_finished() {
        assert!(begun.elapsed().as_secs() < 100, "the answer waits for ever");
        stage.room.pass_time(500);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let (status, body) = asking.await.unwrap();
    assert_ne!(status, StatusCode::OK, "{body}");
    assert!(body["choices"].is_null(), "{body}");
    assert_eq!(stage.records().len(), 1);
    // Time has passed: the lease is another reason to refuse.
    let envelope = stage.envelope.clone();
    stage.room.renew(&envelope).await;
    assert_eq!(stage.room.asked().await, "retention-missing");
    // It stores again: what waited comes, and the room serves.
    stage.stores.send_replace(true);
    let begun = std::time::Instant::now();
    while stage.room.asked().await != "served" {
        assert!(begun.elapsed().as_secs() < 60, "the room does not serve again");
    }
    assert!(stage.records().len() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_flagged_is_kept_and_nothing_else() {
    let stage = Stage::serving(Keep::Flagged).await;
    for text in [QUESTION, "How is the weather?", "And then?"] {
        assert_eq!(stage.ask(text).await.0, StatusCode::OK);
    }
    let kept: Vec<bool> =
        stage.receipts().iter().map(|kept| kept.signed.receipt().record_sha256.is_some()).collect();
    assert_eq!(kept, [false, true, false]);
    assert_eq!(stage.records().len(), 1);
    let streamed = send(stage.proxy, "POST", CHAT, &question("How is the weather?", true)).await;
    let streamed = http_body_util::BodyExt::collect(streamed.into_body()).await.unwrap().to_bytes();
    assert!(contains(&streamed, "[DONE]"));
    assert_eq!(stage.records().len(), 2);
}
