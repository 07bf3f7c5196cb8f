//! Retention in a release, and the openings of records under it.

use super::*;

/// A retention that breaks no rule.
fn rule() -> Retention {
    let keys = [Signer::ed25519(50), Signer::ed25519(51)];
    let brokers = ["bank", "utility"].iter().zip(&keys);
    let brokers = brokers.map(|(name, signer)| DayBroker { name: id(name), key: signer.public() });
    let receiver = |name: &str| Receiver { name: id(name), sha256: key(name).digest() };
    Retention {
        keep: Keep::All,
        days: 30,
        brokers: DayBrokers { needed: 2, of: list(brokers) },
        opening: OpeningRule {
            reasons: list([id("abuse"), id("court")]),
            receivers: list([receiver("investigator"), receiver("regulator")]),
        },
    }
}

fn key(text: &str) -> ReceiverKey {
    ReceiverKey::new(&text.as_bytes().iter().copied().cycle().take(ReceiverKey::LENGTH).collect::<Vec<_>>())
        .unwrap()
}

/// What becomes of a release whose first model has this retention.
fn released(change: impl FnOnce(&mut Retention)) -> &'static str {
    let world = World::new();
    let mut release = world.release(1);
    let mut models = release.models.to_vec();
    let mut rule = rule();
    change(&mut rule);
    models[0].retention = Some(rule);
    release.models = list(models);
    code(world.state().accept_release(&world.seal_release(&release)))
}

#[test]
fn a_retention_keeps_to_its_rules() {
    assert_eq!(released(|_| {}), "accepted");
    assert_eq!(released(|rule| rule.days = 0), "range");
    assert_eq!(released(|rule| rule.days = RETENTION_DAYS_LIMIT + 1), "range");
    assert_eq!(released(|rule| rule.brokers.needed = 0), "range");
    assert_eq!(released(|rule| rule.brokers.needed = 3), "range");
    assert_eq!(released(|rule| rule.brokers.of = list([])), "range");
    assert_eq!(released(|rule| rule.opening.reasons = list([])), "range");
    assert_eq!(released(|rule| rule.opening.receivers = list([])), "range");
    let second = |change: fn(&DayBroker, &mut DayBroker)| {
        move |rule: &mut Retention| {
            let mut brokers = rule.brokers.of.to_vec();
            let first = brokers[0].clone();
            change(&first, &mut brokers[1]);
            rule.brokers.of = list(brokers);
        }
    };
    assert_eq!(released(second(|first, second| second.name = first.name.clone())), "repeated");
    assert_eq!(released(second(|first, second| second.key = first.key.clone())), "repeated");
    assert_eq!(released(|rule| rule.opening.reasons = list([id("abuse"), id("abuse")])), "repeated");
    let receivers = |names: [(&'static str, &'static str); 2]| {
        move |rule: &mut Retention| {
            let receivers = names.map(|(name, of)| Receiver { name: id(name), sha256: key(of).digest() });
            rule.opening.receivers = list(receivers);
        }
    };
    assert_eq!(released(receivers([("a", "a"), ("a", "b")])), "repeated");
    assert_eq!(released(receivers([("a", "a"), ("b", "a")])), "repeated");
    // Without safeguards nothing is ever flagged.
    assert_eq!(released(|rule| rule.keep = Keep::Flagged), "dangling");
}

fn facts() -> RecordFacts {
    RecordFacts { record: sha256("record"), day: "2026-11-29".parse().unwrap(), partner: sha256("partner") }
}

fn opening() -> Opening {
    let RecordFacts { record, day, partner } = facts();
    Opening {
        room: id(ROOM),
        record,
        day,
        partner,
        reason: id("abuse"),
        text: label("case 17"),
        receiver: key("investigator"),
        expires: UnixMillis(1_000_000 + OPENING_VALID_MS),
        serial: sha256("serial"),
    }
}

#[test]
fn an_opening_opens_one_record_for_a_listed_reason_and_receiver_in_its_time() {
    let now = UnixMillis(1_000_000);
    let used = |change: fn(&mut Opening), at: UnixMillis| {
        let mut opening = opening();
        change(&mut opening);
        opening.check_use(&rule(), &facts(), at).map_err(OpeningRefusal::code)
    };
    assert_eq!(used(|_| {}, now), Ok(()));
    assert_eq!(used(|_| {}, UnixMillis(now.0 + OPENING_VALID_MS - 1)), Ok(()));
    assert_eq!(used(|_| {}, UnixMillis(now.0 + OPENING_VALID_MS)), Err("opening-expired"));
    assert_eq!(used(|_| {}, UnixMillis(now.0 - 1)), Err("opening-too-long"));
    assert_eq!(used(|opening| opening.record = sha256("other"), now), Err("opening-record"));
    assert_eq!(used(|opening| opening.partner = sha256("other"), now), Err("opening-record"));
    assert_eq!(used(|opening| opening.day = Day(1), now), Err("opening-record"));
    assert_eq!(used(|opening| opening.reason = id("curiosity"), now), Err("opening-reason"));
    assert_eq!(used(|opening| opening.receiver = key("stranger"), now), Err("opening-receiver"));
}

#[test]
fn an_opening_needs_the_quorum_of_a_release() {
    let world = World::new();
    let root = world.root();
    let sealed = |signers: &[&Signer]| seal(PayloadType::Opening, &opening().to_payload(), signers);
    let opened = |bytes: &[u8]| code(root.open::<Opening>(bytes));
    assert_eq!(opened(&sealed(&[&world.offline[0], &world.offline[1]])), "accepted");
    assert_eq!(opened(&sealed(&[&world.offline[0]])), "threshold");
    assert_eq!(opened(&sealed(&[&world.offline[0], &world.offline[0]])), "threshold");
    assert_eq!(opened(&sealed(&[&world.offline[0], &world.online[1]])), "threshold");
    let release = world.seal_release(&world.release(1));
    assert_eq!(opened(&release), "payload-type");
    let elsewhere = Opening { room: id("elsewhere"), ..opening() };
    let signers = [&world.offline[0], &world.offline[1]];
    assert_eq!(opened(&seal(PayloadType::Opening, &elsewhere.to_payload(), &signers)), "room");
    let long = "\"".repeat(TEXT_LIMIT);
    let name = "x".repeat(TEXT_LIMIT);
    let longest = Opening { room: id(&name), reason: id(&name), text: label(&long), ..opening() };
    assert!(longest.to_payload().len() <= PayloadType::Opening.limit());
}
