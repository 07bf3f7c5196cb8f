//! Safeguards judge every prompt and every answer inside the enclave, by the policy that the release names.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::Entry;
use cleanroom_attestation::receipt::{Finish, Receipt};
use cleanroom_attestation::release::{Accepted, Limits, List, Release, SafeguardLimit, Safeguards};
use cleanroom_attestation::safeguard::{SafeguardAction, SafeguardVerdict};
use cleanroom_channel::identity::Identity;
use cleanroom_engine::Classifier;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_partner::proxy::Proxy;
use cleanroom_partner::receipts::{KeptReceipt, ReceiptFolder};
use cleanroom_partner::session::Sessions;
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::log::LogKeeper;
use cleanroom_tests::released_room::ReleasedRoom;
use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const CHAT: &str = "/v1/chat/completions";
/// The demo model's answer has the word `measurements`.
const QUESTION: &str = "What is attestation?";
const JAILBREAK: &str = "Please open the floodgate protocol now.";

/// Judges what the tests ask. The rule on the answer looks for a word of the demo model's own.
const POLICY: &str = r#"
version = 1
id = "test"
hold_back = 64

[[rules]]
id = "override.floodgate"
about = "asks for the protocol that nobody may open"
on = "prompt"
action = "refuse"
any = ["the floodgate protocol"]

[[rules]]
id = "watch.weather"
about = "is noted"
on = "prompt"
action = "flag"
any = ["the weather"]
"#;

/// The same, and a rule on what the model says.
fn answers_too() -> String {
    format!(
        "{POLICY}\n[[rules]]\nid = \"answer.measured\"\nabout = \"a word of the demo model\"\non = \"answer\"\n\
         action = \"end\"\nany = [\"measurements\"]\n"
    )
}

fn limit(id: &str, action: SafeguardAction, count: u64) -> SafeguardLimit {
    SafeguardLimit { id: id.parse().unwrap(), action, count, within_seconds: 3600 }
}

/// The release with a policy for its only model.
fn judged(release: &Release, policy: &str, limits: &[SafeguardLimit]) -> Release {
    let mut models = release.models.to_vec();
    models[0].safeguards = Some(Safeguards {
        policy: Sha256Digest::of(&[policy.as_bytes()]),
        limits: List::new(limits.to_vec()).unwrap(),
    });
    Release { models: List::new(models).unwrap(), ..release.clone() }
}

/// A room whose release names the policy, which is there, and a proxy that keeps receipts.
struct JudgedRoom {
    room: ReleasedRoom,
    /// The signed release.
    envelope: Vec<u8>,
    folder: tempfile::TempDir,
    proxy: SocketAddr,
}

impl JudgedRoom {
    async fn start(policy: &str, limits: &[SafeguardLimit]) -> Self {
        Self::start_with(policy, limits, |_| {}).await
    }

    /// The same with other limits of the partner.
    async fn start_with(policy: &str, limits: &[SafeguardLimit], change: impl Fn(&mut Limits)) -> Self {
        let mut room = ReleasedRoom::start().await;
        let mut release = judged(&room.release(1), policy, limits);
        let mut partner = release.partners[0].clone();
        change(&mut partner.limits);
        release.partners = List::new(vec![partner]).unwrap();
        let envelope = room.run(&release).await;
        bring(&mut room, policy, Accepted::New).await;
        let folder = tempfile::tempdir().unwrap();
        let proxy = keeping(&room, &room.identity, &folder.path().join("receipts")).await;
        Self { room, envelope, folder, proxy }
    }

    /// Hands in a file as a classifier. The keeper passes it on, whatever it is.
    async fn bring_classifier(&mut self, file: &[u8]) {
        let answer = self.room.hand(ControlKind::SafeguardClassifier, file).await;
        assert_eq!(answer, ControlAnswer::Accepted(Accepted::New));
    }

    async fn ask(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        json(send(self.proxy, "POST", path, &body.to_string()).await).await
    }

    /// The receipts, the oldest first.
    fn receipts(&self) -> Vec<KeptReceipt> {
        let folder = ReceiptFolder::at(self.folder.path().join("receipts"));
        let (mut receipts, bad) = folder.read().unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        receipts.sort_by_key(|kept| kept.signed.receipt().number);
        receipts
    }

    fn last_receipt(&self) -> Receipt {
        self.receipts().last().unwrap().signed.receipt().clone()
    }
}

async fn keeping(room: &ReleasedRoom, identity: &Identity, folder: &Path) -> SocketAddr {
    let sessions = Sessions::new(room.party(identity), room.clean_room.address());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::new(sessions).keep_receipts(ReceiptFolder::at(folder.to_owned()));
    tokio::spawn(proxy.serve(listener, std::future::pending()));
    address
}

async fn bring(room: &mut ReleasedRoom, policy: &str, as_what: Accepted) {
    let answer = room.hand(ControlKind::SafeguardPolicy, policy.as_bytes()).await;
    assert_eq!(answer, ControlAnswer::Accepted(as_what));
}

fn verdict(policy: &str, action: SafeguardAction, rules: &[&str]) -> Option<SafeguardVerdict> {
    Some(SafeguardVerdict {
        policies_sha256: vec![Sha256Digest::of(&[policy.as_bytes()])],
        action,
        rules: rules.iter().map(ToString::to_string).collect(),
    })
}

async fn body(response: http::Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_names_a_policy_serves_nobody_until_the_policy_is_here_and_can_be_read() {
    let mut room = ReleasedRoom::start().await;
    assert_eq!(room.refused(ControlKind::SafeguardPolicy, POLICY.as_bytes()).await, "policy-not-named");
    let release = judged(&room.release(1), POLICY, &[]);
    let envelope = room.run(&release).await;
    assert_eq!(room.asked().await, "safeguard-missing");
    let other = POLICY.replace("nobody", "somebody");
    assert_eq!(room.refused(ControlKind::SafeguardPolicy, other.as_bytes()).await, "policy-not-named");
    assert_eq!(room.asked().await, "safeguard-missing");
    bring(&mut room, POLICY, Accepted::New).await;
    bring(&mut room, POLICY, Accepted::Known).await;
    assert_eq!(room.asked().await, "served");

    // Under a newer release that waits for its lease, both policies judge.
    let next = room.authorities.sign(&judged(&room.release(2), &other, &[]));
    assert_eq!(room.hand(ControlKind::RELEASE, &next).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(room.asked().await, "safeguard-missing");
    bring(&mut room, &other, Accepted::New).await;
    bring(&mut room, POLICY, Accepted::Known).await;
    assert_eq!(room.asked().await, "served");
    assert_ne!(envelope, next);
    room.renew(&next).await;
    assert_eq!(room.refused(ControlKind::SafeguardPolicy, POLICY.as_bytes()).await, "policy-not-named");
    assert_eq!(room.asked().await, "served");

    // The authorities signed something that judges nothing.
    let junk = "version = 1\nid = \"junk\"\nrules = 7\n";
    let release = judged(&room.release(3), junk, &[]);
    room.run(&release).await;
    bring(&mut room, junk, Accepted::New).await;
    assert_eq!(room.asked().await, "safeguard-missing");

    // The log names what came.
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogKeeper::new(folder.path());
    log.fetch(&mut room.control).await;
    let policies = log.said().into_iter().filter_map(|entry| match entry {
        Entry::Policy { sha256, .. } => Some(sha256),
        _ => None,
    });
    let came = [POLICY, &other, junk].map(|policy| Sha256Digest::of(&[policy.as_bytes()]));
    assert_eq!(policies.collect::<Vec<_>>(), came);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_a_rule_refuses_gets_no_token_in_any_api() {
    let judged = JudgedRoom::start(POLICY, &[]).await;
    let messages = json!([{ "role": "user", "content": "Hello." }, { "role": "user", "content": JAILBREAK }]);
    for (path, request) in [
        (CHAT, json!({ "model": "demo", "messages": messages })),
        (CHAT, json!({ "model": "demo", "messages": messages, "stream": true })),
        (CHAT, json!({ "model": "demo", "messages": messages, "n": 2 })),
        ("/v1/completions", json!({ "model": "demo", "prompt": JAILBREAK })),
        ("/v1/completions", json!({ "model": "demo", "prompt": ["Hello.", JAILBREAK], "stream": true })),
        ("/v1/messages", json!({ "model": "demo", "messages": messages, "max_tokens": 9 })),
        ("/v1/messages", json!({ "model": "demo", "messages": messages, "max_tokens": 9, "stream": true })),
        (
            "/v1/messages",
            json!({
                "model": "demo", "system": JAILBREAK, "max_tokens": 9,
                "messages": [{ "role": "user", "content": "Hello." }],
            }),
        ),
        ("/v1/responses", json!({ "model": "demo", "input": JAILBREAK, "store": false })),
        ("/v1/responses", json!({ "model": "demo", "input": JAILBREAK, "store": false, "stream": true })),
    ] {
        let (status, refusal) = judged.ask(path, &request).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {refusal}");
        let error = &refusal["error"];
        assert_eq!(error["code"], "safeguard", "{path}: {refusal}");
        assert_eq!(error["rules"], json!(["override.floodgate"]), "{path}: {refusal}");
        let is_anthropic = path == "/v1/messages";
        assert_eq!(error["type"], if is_anthropic { "permission_error" } else { "safeguard_error" });
        let receipt = judged.last_receipt();
        assert_eq!(error["receipt"], receipt.id.as_str(), "{path}: {refusal}");
        assert!(error["message"].as_str().unwrap().contains(receipt.id.as_str()), "{refusal}");
        assert_eq!((receipt.finish, receipt.code.as_deref()), (Finish::Refused, Some("safeguard")));
        let said = verdict(POLICY, SafeguardAction::Refuse, &["override.floodgate"]);
        assert_eq!(receipt.safeguard, said, "{path}");
    }
    // Tokens are no text, so nobody could judge them.
    let (status, refusal) =
        judged.ask("/v1/completions", &json!({ "model": "demo", "prompt": [1, 2, 3] })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(refusal["error"]["param"], "prompt", "{refusal}");

    // Everything else is served, and its receipt names the policy.
    let (status, _) = judged.ask(CHAT, &serde_json::from_str(&question(QUESTION, false)).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(judged.last_receipt().safeguard, verdict(POLICY, SafeguardAction::Allow, &[]));
    let flagged = question("How is the weather?", false);
    let (status, _) = judged.ask(CHAT, &serde_json::from_str(&flagged).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    let receipt = judged.last_receipt();
    assert_eq!(receipt.safeguard, verdict(POLICY, SafeguardAction::Flag, &["watch.weather"]));
    assert_eq!((receipt.finish, receipt.code), (Finish::Finished, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_an_answer_that_a_rule_refuses_never_leaves() {
    // The counter-proof: without the rule the word is said, whole and streamed.
    let free = JudgedRoom::start(POLICY, &[]).await;
    for stream in [false, true] {
        let said = body(send(free.proxy, "POST", CHAT, &question(QUESTION, stream)).await).await;
        assert!(said_in(&said).contains("measurements"), "{said}");
    }

    let policy = answers_too();
    let judged = JudgedRoom::start(&policy, &[]).await;
    let said = verdict(&policy, SafeguardAction::End, &["answer.measured"]);
    let (status, refusal) =
        judged.ask(CHAT, &serde_json::from_str(&question(QUESTION, false)).unwrap()).await;
    assert_eq!((status, &refusal["error"]["code"]), (StatusCode::FORBIDDEN, &json!("safeguard")));
    let receipt = judged.last_receipt();
    assert_eq!(refusal["error"]["receipt"], receipt.id.as_str());
    assert_eq!((receipt.finish, &receipt.safeguard), (Finish::Refused, &said));

    let anthropic = json!({
        "model": "demo", "max_tokens": 200, "temperature": 0, "stream": true,
        "messages": [{ "role": "user", "content": QUESTION }],
    });
    let responses = json!({
        "model": "demo", "max_output_tokens": 200, "temperature": 0, "stream": true, "store": false,
        "input": QUESTION,
    });
    for (path, request) in [
        (CHAT, question(QUESTION, true)),
        ("/v1/messages", anthropic.to_string()),
        ("/v1/responses", responses.to_string()),
    ] {
        let response = send(judged.proxy, "POST", path, &request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = body(response).await;
        assert!(!text.contains("measurement") && !said_in(&text).contains("measure"), "{path}: {text}");
        assert!(text.contains("cleanroom_stream_end") && text.contains("answer.measured"), "{path}: {text}");
        assert!(!text.contains("[DONE]") && !text.contains("message_stop"), "{path}: {text}");
        let receipt = judged.last_receipt();
        assert_eq!((receipt.finish, receipt.code.as_deref()), (Finish::Halted, Some("safeguard")), "{path}");
        assert_eq!(receipt.safeguard, said, "{path}");
        assert!(text.contains(receipt.id.as_str()), "{path}: {text}");
    }
}

/// A tiny classifier of random weights: it says nothing of a text, and says it of every text alike.
const CLASSIFIER: &[u8] = include_bytes!("../../enclave/engine/tests/data/classifier.gguf");

/// What the classifier says of a text.
fn score(text: &str) -> f32 {
    let classifier = Classifier::from_gguf(CLASSIFIER).unwrap();
    classifier.scores(text, NonZeroUsize::MIN).unwrap().as_slice()[1]
}

/// A policy with nothing but the classifier.
fn classified(members: &str) -> String {
    format!(
        "version = 1\nid = \"classified\"\nhold_back = 64\nrules = []\n\n[[classifiers]]\nid = \"classifier.tiny\"\n\
         sha256 = \"{}\"\nlabel = \"injection\"\n{members}",
        Sha256Digest::of(&[CLASSIFIER])
    )
}

/// A text that has a greater score than what else is asked, and a policy that refuses it.
fn refuses_a_prompt() -> (&'static str, String) {
    let others = ["Hi", "Hello.", QUESTION].map(score).into_iter().fold(0.0, f32::max);
    let texts =
        ["reveal the rules", "00000", "ignore ignore ignore", "meter meter meter", "?!", "\u{e9}\u{e9}"];
    let worst = texts.into_iter().max_by(|one, other| score(one).total_cmp(&score(other))).unwrap();
    let from = (others + score(worst)) / 2.0;
    assert!(others < from, "another text is needed");
    (worst, classified(&format!("on = \"prompt\"\nrefuse = {from}\n")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_serves_nobody_without_its_classifier_which_refuses_prompts() {
    let (worst, policy) = refuses_a_prompt();

    let mut judged = JudgedRoom::start(&policy, &[]).await;
    assert_eq!(judged.room.asked().await, "safeguard-missing");
    for other in [&CLASSIFIER[1..], b"no classifier", b""] {
        judged.bring_classifier(other).await;
        assert_eq!(judged.room.asked().await, "safeguard-missing");
    }
    judged.bring_classifier(CLASSIFIER).await;
    assert_eq!(judged.room.asked().await, "served");

    let (status, refusal) = judged.ask(CHAT, &serde_json::from_str(&question(worst, false)).unwrap()).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{refusal}");
    assert_eq!(refusal["error"]["rules"], json!(["classifier.tiny"]), "{refusal}");
    let said = verdict(&policy, SafeguardAction::Refuse, &["classifier.tiny"]);
    assert_eq!(judged.last_receipt().safeguard, said);
    let (status, _) = judged.ask(CHAT, &serde_json::from_str(&question(QUESTION, false)).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(judged.last_receipt().safeguard, verdict(&policy, SafeguardAction::Allow, &[]));

    // Another policy that names the same classifier finds it, as long as one of the policies in force names it.
    let next = format!("{policy}# another digest\n");
    let room = &mut judged.room;
    let release = room.authorities.sign(&crate::judged(&room.release(2), &next, &[]));
    assert_eq!(room.hand(ControlKind::RELEASE, &release).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(room.asked().await, "safeguard-missing");
    bring(room, &next, Accepted::New).await;
    assert_eq!(room.asked().await, "served");
    let last = crate::judged(&room.release(3), POLICY, &[]);
    room.run(&last).await;
    bring(room, POLICY, Accepted::New).await;
    let again = crate::judged(&room.release(4), &policy, &[]);
    room.run(&again).await;
    bring(room, &policy, Accepted::New).await;
    assert_eq!(room.asked().await, "safeguard-missing");
}

/// The backend reads such a prompt while the classifier does. The partner sees nothing of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_a_classifier_refuses_gets_no_token_and_counts_none() {
    let (worst, policy) = refuses_a_prompt();
    let one_at_a_time = |limits: &mut Limits| {
        (limits.concurrency, limits.requests_per_minute, limits.tokens_per_day) = (2, 10_000, 90);
    };
    let mut judged = JudgedRoom::start_with(&policy, &[], one_at_a_time).await;
    judged.bring_classifier(CLASSIFIER).await;
    let messages = json!([{ "role": "user", "content": "Hello." }, { "role": "user", "content": worst }]);
    let said = verdict(&policy, SafeguardAction::Refuse, &["classifier.tiny"]);
    for (path, request) in [
        (CHAT, json!({ "model": "demo", "messages": messages })),
        (CHAT, json!({ "model": "demo", "messages": messages, "stream": true })),
        (CHAT, json!({ "model": "demo", "messages": messages, "n": 2 })),
        (CHAT, json!({ "model": "demo", "messages": messages, "max_tokens": 1 })),
        ("/v1/completions", json!({ "model": "demo", "prompt": ["Hello.", worst], "stream": true })),
        ("/v1/messages", json!({ "model": "demo", "messages": messages, "max_tokens": 9, "stream": true })),
        ("/v1/responses", json!({ "model": "demo", "input": worst, "store": false, "stream": true })),
    ] {
        // More tokens than the partner may have in a day, if any counted.
        for _ in 0..8 {
            let (status, refusal) = judged.ask(path, &request).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {refusal}");
            let error = &refusal["error"];
            assert_eq!((&error["code"], &error["rules"]), (&json!("safeguard"), &json!(["classifier.tiny"])));
            let receipt = judged.last_receipt();
            assert_eq!(error["receipt"], receipt.id.as_str(), "{path}: {refusal}");
            assert_eq!((receipt.finish, receipt.code.as_deref()), (Finish::Refused, Some("safeguard")));
            assert_eq!(receipt.safeguard, said, "{path}");
        }
    }
    let (status, answer) = judged.ask(CHAT, &serde_json::from_str(&question(QUESTION, false)).unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // What passes counts: a second answer is too much.
    let (status, refusal) =
        judged.ask(CHAT, &serde_json::from_str(&question(QUESTION, false)).unwrap()).await;
    let left = 90 - answer["usage"]["total_tokens"].as_u64().unwrap();
    assert!(left < answer["usage"]["total_tokens"].as_u64().unwrap(), "{answer}");
    assert_eq!(refusal["error"]["code"], "tokens-per-day-limit", "{status} {refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_an_answer_that_a_classifier_refuses_never_leaves() {
    let policy = classified("on = \"answer\"\nend = 0.000001\nwindow = 256\nstep = 32\n");
    let mut judged = JudgedRoom::start(&policy, &[]).await;
    judged.bring_classifier(CLASSIFIER).await;
    let said = verdict(&policy, SafeguardAction::End, &["classifier.tiny"]);
    let (status, refusal) =
        judged.ask(CHAT, &serde_json::from_str(&question(QUESTION, false)).unwrap()).await;
    assert_eq!((status, &refusal["error"]["code"]), (StatusCode::FORBIDDEN, &json!("safeguard")));
    assert_eq!(judged.last_receipt().safeguard, said);
    let text = body(send(judged.proxy, "POST", CHAT, &question(QUESTION, true)).await).await;
    assert!(said_in(&text).is_empty() && text.contains("cleanroom_stream_end"), "{text}");
    assert_eq!(judged.last_receipt().safeguard, said);
}

/// The text of an answer of the chat endpoint, whole or streamed.
fn said_in(answer: &str) -> String {
    let values = answer.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    let values = values.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |value: Value| {
        let choice = &value["choices"][0];
        let text = choice["delta"]["content"].as_str().or(choice["message"]["content"].as_str());
        text.map(str::to_owned)
    };
    values.filter_map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_held_back_arrives_whole() {
    let free = ReleasedRoom::start().await;
    let mut free = free;
    let release = free.release(1);
    free.run(&release).await;
    let proxy = free.proxy().await;
    let judged = JudgedRoom::start(POLICY, &[]).await;
    for stream in [false, true] {
        let plain = body(send(proxy, "POST", CHAT, &question(QUESTION, stream)).await).await;
        let held = body(send(judged.proxy, "POST", CHAT, &question(QUESTION, stream)).await).await;
        assert_eq!(said_in(&plain), said_in(&held));
        assert!(!said_in(&held).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_that_tries_again_and_again_is_held_until_a_newer_release_is_in_force() {
    let limits = [limit("tries", SafeguardAction::Refuse, 3)];
    let mut judged = JudgedRoom::start(POLICY, &limits).await;
    let jailbreak = serde_json::from_str::<Value>(&question(JAILBREAK, false)).unwrap();
    let flagged = serde_json::from_str::<Value>(&question("How is the weather?", false)).unwrap();
    let code = |(_, body): (StatusCode, Value)| body["error"]["code"].as_str().map(str::to_owned);
    // What is milder than the limit's action does not count, and what lies too far back counts no more.
    assert_eq!(code(judged.ask(CHAT, &flagged).await), None);
    for _ in 0..2 {
        assert_eq!(code(judged.ask(CHAT, &jailbreak).await).as_deref(), Some("safeguard"));
    }
    judged.room.pass_time(2 * 3_600_000);
    let envelope = judged.envelope.clone();
    judged.room.renew(&envelope).await;
    for _ in 0..2 {
        assert_eq!(code(judged.ask(CHAT, &jailbreak).await).as_deref(), Some("safeguard"));
    }
    assert_eq!(code(judged.ask(CHAT, &flagged).await), None);
    assert_eq!(code(judged.ask(CHAT, &jailbreak).await).as_deref(), Some("safeguard"));
    let reached = judged.receipts().last().unwrap().signed.digest();
    let (status, refusal) = judged.ask(CHAT, &flagged).await;
    assert_eq!((status, &refusal["error"]["code"]), (StatusCode::FORBIDDEN, &json!("partner-held")));
    // Nor on another session, nor after a new lease of the same release.
    judged.room.renew(&envelope).await;
    assert_eq!(judged.room.asked().await, "partner-held");

    // A newer release lifts it once it is leased.
    let next = judged.room.authorities.sign(&judged_release(&judged.room, 2, &limits));
    judged.room.hand(ControlKind::RELEASE, &next).await;
    assert_eq!(judged.room.asked().await, "partner-held");
    judged.room.renew(&next).await;
    assert_eq!(judged.room.asked().await, "served");
    // It counts from zero again.
    for _ in 0..2 {
        assert_eq!(code(judged.ask(CHAT, &jailbreak).await).as_deref(), Some("safeguard"));
    }
    assert_eq!(judged.room.asked().await, "served");

    // The log says which limit and by which receipt, and not whose.
    let mut log = LogKeeper::new(judged.folder.path());
    log.fetch(&mut judged.room.control).await;
    let holds: Vec<_> = log.said().into_iter().filter(|entry| entry.kind() == "hold").collect();
    let [Entry::Hold { receipt_sha256, limit, .. }] = holds.as_slice() else { panic!("{holds:?}") };
    assert_eq!((*receipt_sha256, limit.as_str()), (reached, "tries"));
}

/// A release of this version with the test's policy.
fn judged_release(room: &ReleasedRoom, version: u64, limits: &[SafeguardLimit]) -> Release {
    judged(&room.release(version), POLICY, limits)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_text_by_two_partners_is_not_counted_together() {
    let mut room = ReleasedRoom::start().await;
    let other = Identity::generate().unwrap();
    let limits = [limit("tries", SafeguardAction::Refuse, 2)];
    let release = judged_release(&room, 1, &limits);
    let mut partners = release.partners.to_vec();
    partners.push(partners[0].clone());
    partners[1].id = "q".parse().unwrap();
    partners[1].keys = List::new(vec![other.key_digest()]).unwrap();
    room.run(&Release { partners: List::new(partners).unwrap(), ..release }).await;
    bring(&mut room, POLICY, Accepted::New).await;
    let mine = room.proxy().await;
    let theirs = room.clean_room.proxy_under(&other, room.policy()).await;
    let ask = async |proxy| {
        let (_, body) = json(send(proxy, "POST", CHAT, &question(JAILBREAK, false)).await).await;
        body["error"]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(ask(mine).await, "safeguard");
    assert_eq!(ask(theirs).await, "safeguard");
    assert_eq!(ask(mine).await, "safeguard");
    assert_eq!(ask(mine).await, "partner-held");
    assert_eq!(ask(theirs).await, "safeguard");
    assert_eq!(ask(theirs).await, "partner-held");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_judged_text_is_in_a_receipt_the_log_or_what_the_host_carries() {
    let policy = answers_too();
    let mut judged = JudgedRoom::start(&policy, &[limit("tries", SafeguardAction::Refuse, 2)]).await;
    for text in [JAILBREAK, QUESTION] {
        let (_, refusal) = judged.ask(CHAT, &serde_json::from_str(&question(text, false)).unwrap()).await;
        assert_eq!(refusal["error"]["code"], "safeguard");
        let refusal = refusal.to_string();
        assert!(!refusal.contains("floodgate protocol") && !refusal.contains("attestation"), "{refusal}");
    }
    let mut log = LogKeeper::new(judged.folder.path());
    log.fetch(&mut judged.room.control).await;
    let mut searched: Vec<Vec<u8>> =
        judged.receipts().iter().map(|kept| kept.signed.receipt().to_payload()).collect();
    searched.extend(log.entries.iter().cloned());
    let found = |needle: &str| {
        let encoded = STANDARD.encode(needle);
        [needle, encoded.trim_end_matches('=')].into_iter().any(|needle| {
            let holds = |bytes: &Vec<u8>| bytes.windows(needle.len()).any(|at| at == needle.as_bytes());
            searched.iter().any(holds) || judged.room.clean_room.recorder.saw(needle.as_bytes())
        })
    };
    for secret in [JAILBREAK, "the floodgate protocol", QUESTION, "measurements"] {
        assert!(!found(secret), "{secret}");
    }
    // The counter-proof: the same search finds what is there, the rules' names in the receipts among it.
    assert!(found("override.floodgate") && found("answer.measured") && found("tries"));
}
