//! A broker that holds secrets of days, as a process: what it gives to seal, what it gives for an opening, and what it deletes.

use std::process::Stdio;

use cleanroom_attestation::channel::boot_measurement::Registers;
use cleanroom_attestation::channel::{ModelId, boot_measurement};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::measurement::extended_once;
use cleanroom_attestation::record::{RecordHead, RecordKey, RecordSubject, RecordedExchange};
use cleanroom_attestation::release::{
    Day, DayBrokers, Envelope, Opening, PayloadType, Release, Retention, Root, UnixMillis, Verified,
};
use cleanroom_key_release::{
    DayCollector, DayError, OpeningCollector, RecipientKey, RetentionAnswer, RetentionRequest, Wanted,
    seal_record,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::broker::{World, model, now_ms};
use crate::service::Service;

const NAMES: [&str; 3] = ["bank", "utility", "regulator"];

/// Three brokers with folders of secrets, under a release that keeps everything for a day.
struct Brokers {
    world: World,
    running: Vec<Service>,
}

impl Brokers {
    fn new() -> Self {
        Self::of(World::new())
    }

    fn of(world: World) -> Self {
        let folder = &world.folder;
        let receiver = folder.json("opening key receiver.key")["sha256"].as_str().unwrap().to_owned();
        folder.ok("opening key other.key");
        let brokers = NAMES.map(|name| {
            let key = folder.json(&format!("key new {name}.pem"))["spki"].clone();
            json!({ "name": name, "key": key })
        });
        let rule = json!({
            "keep": "all", "days": 1,
            "brokers": { "needed": 2, "of": brokers },
            "opening": { "reasons": ["abuse"], "receivers": [{ "name": "investigator", "sha256": receiver }] },
        });
        folder.write("retention.json", rule.to_string().as_bytes());
        world.release(2, "--retention demo=retention.json");
        let mut brokers = Self { world, running: Vec::new() };
        for name in NAMES {
            brokers.running.push(brokers.serve(name));
        }
        brokers
    }

    fn serve(&self, name: &str) -> Service {
        let mut command = self.world.folder.command(&format!(
            "broker serve --listen 127.0.0.1:0 --root root.json --release release.json --denials denials \
             --policy trust.toml --allow allow.toml --log {name}.log --days {name}-days --key {name}.pem"
        ));
        Service::spawn(command.stderr(Stdio::null())).unwrap()
    }

    fn root(&self) -> Verified<Root> {
        Root::open_first(&self.world.folder.read("root.json")).unwrap()
    }

    fn rule(&self) -> Retention {
        let release: Verified<Release> = self.root().open(&self.world.folder.read("release.json")).unwrap();
        release.models[0].retention.clone().unwrap()
    }

    fn brokers(&self) -> DayBrokers {
        self.rule().brokers
    }

    /// What an enclave that serves the model asks broker `index` for. It seals the answer to `collector`'s key.
    fn request(&self, index: usize, recipient: &RecipientKey, wanted: Wanted) -> RetentionRequest {
        self.request_of(index, recipient, wanted, &model())
    }

    fn request_of(
        &self,
        index: usize,
        recipient: &RecipientKey,
        wanted: Wanted,
        committed: &Sha256Digest,
    ) -> RetentionRequest {
        let mut enclave = self.world.enclave(&self.running[index]);
        let pcr = extended_once(boot_measurement::model(committed).as_bytes());
        enclave.forge.document.put_pcr(16, pcr.as_bytes());
        enclave.forge.document.put_pcr(17, &[1; 48]);
        enclave.request.broker = NAMES[index].parse().unwrap();
        enclave.request.recipient = recipient.clone();
        enclave.wanted = Some(wanted.clone());
        let asked = self.world.request(enclave, |_| {});
        RetentionRequest { asked, wanted }
    }

    /// What an instance whose registers 14 and 15 are these asks the first broker for.
    fn request_of_instance(&self, registers: [Sha384Digest; 2]) -> RetentionRequest {
        let wanted = Wanted::Secret(today());
        let mut enclave = self.world.enclave(&self.running[0]);
        for (index, value) in [14, 15].into_iter().zip(registers) {
            enclave.forge.document.put_pcr(index, value.as_bytes());
        }
        enclave.request.broker = NAMES[0].parse().unwrap();
        enclave.request.recipient = DayCollector::new(self.brokers()).recipient().clone();
        enclave.wanted = Some(wanted.clone());
        RetentionRequest { asked: self.world.request(enclave, |_| {}), wanted }
    }

    fn ask(&self, index: usize, request: &RetentionRequest) -> Result<RetentionAnswer, String> {
        let (status, answer) = self.running[index].ask("POST", "/v1/retention", &request.encode());
        if status == 200 {
            return Ok(RetentionAnswer::decode(&answer).unwrap());
        }
        let json: Value = serde_json::from_slice(&answer).unwrap();
        Err(json["error"]["code"].as_str().unwrap().to_owned())
    }

    fn secret(&self, index: usize, day: Day) -> Result<RetentionAnswer, String> {
        let days = DayCollector::new(self.brokers());
        self.ask(index, &self.request(index, days.recipient(), Wanted::Secret(day)))
    }

    /// An enclave that has today's secrets.
    fn enclave(&self) -> (DayCollector, Day) {
        let (mut days, day) = (DayCollector::new(self.brokers()), today());
        for (index, name) in NAMES.iter().enumerate() {
            let request = self.request(index, days.recipient(), Wanted::Secret(day));
            days.ask(request.clone()).unwrap();
            days.take(&name.parse().unwrap(), &self.ask(index, &request).unwrap()).unwrap();
        }
        (days, day)
    }

    /// A record of today, in the file `record`.
    fn record(&self, change: impl FnOnce(&mut RecordSubject)) -> RecordHead {
        let (days, day) = self.enclave();
        let key: RecordKey = Zeroizing::new([7; 32]);
        let exchange = RecordedExchange {
            request: Zeroizing::new(b"the question".to_vec()),
            response: Zeroizing::new(b"the answer".to_vec()),
            verdict: None,
        };
        let body = exchange.seal(&key).unwrap();
        let mut subject = RecordSubject {
            serial: [0; 32],
            room: self.root().room.clone(),
            model: ModelId::new("demo").unwrap(),
            model_sha256: model(),
            boot: model(),
            receipt: "chatcmpl-1".parse().unwrap(),
            partner: Sha256Digest::of(&[b"a partner"]),
            day,
            release: model(),
            body: Sha256Digest::of(&[&body]),
        };
        change(&mut subject);
        let secrets = days.sealing(UnixMillis(now_ms())).unwrap();
        let head = seal_record(subject, &key, &secrets).unwrap();
        self.world.folder.write("record", &head.record(&body));
        head
    }

    /// An opening of the record in the file `record`, signed by these.
    fn opening(&self, options: &str, signers: &[&str]) -> Vec<u8> {
        let folder = &self.world.folder;
        folder.ok(&format!(
            "opening draft --root root.json --release release.json --record record --text case-17 {options} \
             --out opening.draft.json"
        ));
        self.signed(signers)
    }

    /// The envelope of the draft `opening.draft.json`.
    fn signed(&self, signers: &[&str]) -> Vec<u8> {
        let folder = &self.world.folder;
        let _ = std::fs::remove_file(folder.path("opening.json"));
        for (index, key) in signers.iter().enumerate() {
            let document = if index == 0 { "opening.draft.json" } else { "opening.json" };
            folder.ok(&format!("opening sign {document} --root root.json --key {key}.pem"));
        }
        std::fs::remove_file(folder.path("opening.draft.json")).unwrap();
        folder.read("opening.json")
    }

    fn part(&self, index: usize, head: &RecordHead, opening: &[u8]) -> Result<RetentionAnswer, String> {
        let collector = OpeningCollector::new(head.clone(), self.brokers());
        let wanted = Wanted::Part { head: head.to_bytes(), opening: opening.to_vec() };
        self.ask(index, &self.request(index, collector.recipient(), wanted))
    }
}

fn today() -> Day {
    Day::of(UnixMillis(now_ms()))
}

fn in_hours(hours: u64) -> UnixMillis {
    UnixMillis(now_ms() + hours * 3_600_000)
}

fn right() -> String {
    format!("--reason abuse --receiver receiver.key.pub --expires {}", in_hours(24))
}

#[test]
fn two_of_three_authorities_and_brokers_open_one_record_for_its_receiver() {
    let brokers = Brokers::new();
    let folder = &brokers.world.folder;
    let head = brokers.record(|_| {});
    let opening = brokers.opening(&right(), &["b", "c"]);
    let shown = folder.json("opening show opening.json --root root.json");
    assert_eq!(shown["opening"]["record"], head.digest().to_string());
    assert_eq!(shown["progress"]["complete"], true);

    let mut collector = OpeningCollector::new(head.clone(), brokers.brokers());
    for index in [2, 0] {
        let wanted = Wanted::Part { head: head.to_bytes(), opening: opening.clone() };
        let request = brokers.request(index, collector.recipient(), wanted);
        collector.ask(request.clone()).unwrap();
        collector.take(&NAMES[index].parse().unwrap(), &brokers.ask(index, &request).unwrap()).unwrap();
    }
    let envelope: Verified<Opening> = brokers.root().open(&opening).unwrap();
    let given = collector.finish(&envelope.receiver, &envelope.digest()).unwrap();
    folder.write("given", &given);
    let receive = "opening receive --root root.json --opening opening.json --record record --given given";
    folder.ok(&format!("{receive} --key receiver.key --out exchange.json"));
    let exchange: Value = serde_json::from_slice(&folder.read("exchange.json")).unwrap();
    assert_eq!((&exchange["request"], &exchange["response"]), (&json!("the question"), &json!("the answer")));
    // Another receiver, and a key that was given for something else.
    assert_eq!(folder.refused(&format!("{receive} --key other.key --out x.json")), "given");
    folder.write("given", &given[1..]);
    assert_eq!(folder.refused(&format!("{receive} --key receiver.key --out x.json")), "given");
    // Each broker's log says what left it.
    let log = String::from_utf8(folder.read("bank.log")).unwrap();
    assert!(log.contains(&format!("\"retention\":\"part {}\"", head.digest())), "{log}");
    assert!(log.contains(&format!("\"retention\":\"secret {}\"", head.subject.day)), "{log}");
}

#[test]
fn every_opening_but_the_right_one_is_refused_with_its_code() {
    let brokers = Brokers::new();
    let folder = &brokers.world.folder;
    let head = brokers.record(|_| {});
    let code = |opening: &[u8]| brokers.part(0, &head, opening).err();
    // One signature; the same signature twice counts once.
    let alone = brokers.opening(&right(), &["b"]);
    assert_eq!(code(&alone).as_deref(), Some("threshold"));
    // A release that the same quorum signed is no opening.
    let wrong = folder.read("release.json");
    assert!(code(&wrong).is_some());

    // What the draft refuses, and what a broker refuses when somebody signs it all the same.
    for (options, expected) in [
        (
            format!("--reason curiosity --receiver receiver.key.pub --expires {}", in_hours(24)),
            "opening-reason",
        ),
        (format!("--reason abuse --receiver other.key.pub --expires {}", in_hours(24)), "opening-receiver"),
        (
            format!("--reason abuse --receiver receiver.key.pub --expires {}", in_hours(24 * 8)),
            "opening-too-long",
        ),
        (
            "--reason abuse --receiver receiver.key.pub --expires 2020-01-01T00:00:00Z".to_owned(),
            "opening-expired",
        ),
    ] {
        let line = format!(
            "opening draft --root root.json --release release.json --record record --text t {options} --out x.draft.json"
        );
        assert_eq!(folder.refused(&line), expected);
    }
    let right = brokers.opening(&right(), &["b", "c"]);
    let payload = Envelope::parse(&right, PayloadType::Opening).unwrap();
    let payload: Value = serde_json::from_slice(payload.payload()).unwrap();
    let other_receiver = String::from_utf8(folder.read("other.key.pub")).unwrap().trim().to_owned();
    let other = Sha256Digest::of(&[b"other"]).to_string();
    for (member, value, expected) in [
        ("reason", json!("curiosity"), "opening-reason"),
        ("receiver", json!(other_receiver), "opening-receiver"),
        ("expires", json!("2020-01-01T00:00:00Z"), "opening-expired"),
        ("expires", json!(in_hours(24 * 8)), "opening-too-long"),
        ("record", json!(other), "opening-record"),
        ("partner", json!(other), "opening-record"),
        ("day", json!("2020-01-01"), "opening-record"),
    ] {
        let mut changed = payload.clone();
        changed[member] = value;
        folder.write("opening.draft.json", changed.to_string().as_bytes());
        let opening = brokers.signed(&["b", "c"]);
        assert_eq!(code(&opening).as_deref(), Some(expected), "{member}");
    }
    // A record of another room or model; the opening is for exactly that record.
    type Change = fn(&mut RecordSubject);
    let changes: [Change; 2] = [
        |subject| subject.room = "other".parse().unwrap(),
        |subject| subject.model_sha256 = Sha256Digest::of(&[b"x"]),
    ];
    for change in changes {
        let elsewhere = brokers.record(change);
        assert_eq!(brokers.part(0, &elsewhere, &right).err().as_deref(), Some("record-elsewhere"));
    }
    // And the right one still counts.
    assert_eq!(code(&right), None);
}

#[test]
fn a_secret_leaves_for_its_own_day_and_for_an_enclave_that_serves_the_model() {
    let brokers = Brokers::new();
    let day = today();
    assert_eq!(brokers.secret(0, Day(day.0 - 2)).err().as_deref(), Some("day-over"));
    assert_eq!(brokers.secret(0, Day(day.0 + 2)).err().as_deref(), Some("day-not-begun"));
    assert!(brokers.secret(0, day).is_ok());
    let days = DayCollector::new(brokers.brokers());
    let secret = || Wanted::Secret(day);
    // An enclave that has committed to another model, or to none.
    let other = Sha256Digest::of(&[b"another model"]);
    let request = brokers.request_of(0, days.recipient(), secret(), &other);
    assert_eq!(brokers.ask(0, &request).err().as_deref(), Some("model-not-committed"));
    // Evidence that was made to be given a share of weights, or for another day.
    for made_for in [None, Some(Wanted::Secret(Day(day.0 - 1)))] {
        let mut enclave = brokers.world.enclave(&brokers.running[0]);
        enclave.request.recipient = days.recipient().clone();
        enclave.wanted = made_for;
        let asked = brokers.world.request(enclave, |_| {});
        let request = RetentionRequest { asked, wanted: secret() };
        assert_eq!(brokers.ask(0, &request).err().as_deref(), Some("user-data-mismatch"));
    }
    // A request that is played again, and one that names another broker.
    let request = brokers.request(0, days.recipient(), secret());
    assert!(brokers.ask(0, &request).is_ok());
    assert_eq!(brokers.ask(0, &request).err().as_deref(), Some("challenge-answered"));
    let mut request = brokers.request(0, days.recipient(), secret());
    request.asked.broker = "utility".parse().unwrap();
    assert_eq!(brokers.ask(0, &request).err().as_deref(), Some("broker-unknown"));
    // A halt.
    let folder = &brokers.world.folder;
    folder
        .ok("halt demo --root root.json --release release.json --key c.pem --reason r --out denials/d.json");
    assert_eq!(brokers.secret(0, day).err().as_deref(), Some("model-denied"));
}

#[test]
fn an_instance_gets_a_secret_once_its_commitment_is_closed() {
    let mut world = World::new();
    world.become_instances();
    world.allow_instances();
    let brokers = Brokers::of(world);
    let open = |model: &Sha256Digest| extended_once(boot_measurement::model(model).as_bytes());
    let closed = |model: &Sha256Digest| Registers::NitroTpm.closed(&open(model));
    let (key, zero) = (Sha384Digest::from_bytes([1; 48]), Sha384Digest::from_bytes([0; 48]));
    let ask = |registers| brokers.ask(0, &brokers.request_of_instance(registers)).map(|_| ());
    let (model, other) = (model(), Sha256Digest::of(&[b"other"]));
    assert_eq!(ask([closed(&model), key]), Ok(()));
    for registers in [[open(&model), key], [closed(&other), key], [zero, key], [closed(&model), zero]] {
        assert_eq!(ask(registers), Err("model-not-committed".to_owned()));
    }
}

#[test]
fn after_its_retention_nobody_opens_a_record_the_brokers_included() {
    let mut brokers = Brokers::new();
    let head = brokers.record(|_| {});
    let opening = brokers.opening(&right(), &["b", "c"]);
    assert!(brokers.part(0, &head, &opening).is_ok());
    let file = |name: &str| format!("{name}-days/{}-{}.day", head.subject.day, model());
    // The days pass: each broker's file says that its time is over.
    brokers.running.clear();
    for name in NAMES {
        let path = brokers.world.folder.path(&file(name));
        let mut form: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        form["ends"] = json!("2020-01-01T00:00:00Z");
        std::fs::write(&path, form.to_string()).unwrap();
    }
    for name in NAMES {
        brokers.running.push(brokers.serve(name));
    }
    for (index, name) in NAMES.iter().enumerate() {
        assert_eq!(brokers.part(index, &head, &opening).err().as_deref(), Some("day-deleted"), "{name}");
        let begun = std::time::Instant::now();
        while brokers.world.folder.exists(&file(name)) {
            assert!(begun.elapsed().as_secs() < 60, "{name} deletes nothing");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(brokers.part(index, &head, &opening).err().as_deref(), Some("day-deleted"), "{name}");
    }
    // What the brokers make anew for the day opens nothing that was sealed before.
    let mut collector = OpeningCollector::new(head.clone(), brokers.brokers());
    brokers.secret(0, head.subject.day).unwrap();
    let wanted = Wanted::Part { head: head.to_bytes(), opening };
    let request = brokers.request(0, collector.recipient(), wanted);
    collector.ask(request.clone()).unwrap();
    let taken = collector.take(&"bank".parse().unwrap(), &brokers.ask(0, &request).unwrap());
    assert_eq!(taken.map_err(DayError::code), Err("retention-part"));
}
