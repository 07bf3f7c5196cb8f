//! Every request of a partner gets a receipt, whatever becomes of it, and nobody learns more from it than it says.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::log::Entry;
use cleanroom_attestation::receipt::{Commitment, Finish, Part, Receipt, Salt};
use cleanroom_channel::identity::Identity;
use cleanroom_link::control::ControlKind;
use cleanroom_partner::proxy::Proxy;
use cleanroom_partner::receipts::{KeptReceipt, ReceiptFolder};
use cleanroom_partner::session::Sessions;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::log::LogKeeper;
use cleanroom_tests::released_room::ReleasedRoom;
use cleanroom_tests::wait;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;

const CHAT: &str = "/v1/chat/completions";
const QUESTION: &str = "What is attestation?";

/// A proxy that keeps receipts in `folder`.
async fn keeping(sessions: Sessions, folder: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::new(sessions).keep_receipts(ReceiptFolder::at(folder.to_owned()));
    tokio::spawn(proxy.serve(listener, std::future::pending()));
    address
}

fn read(folder: &Path) -> Vec<KeptReceipt> {
    let (receipts, bad) = ReceiptFolder::at(folder.to_owned()).read().unwrap();
    assert!(bad.is_empty(), "{bad:?}");
    receipts
}

/// The receipts of the folder, once there are so many. The proxy fetches those of cut answers by itself.
async fn once_there_are(folder: &Path, count: usize) -> Vec<KeptReceipt> {
    wait::found("there are so many receipts", async || {
        let receipts = if folder.exists() { read(folder) } else { Vec::new() };
        (receipts.len() >= count).then_some(receipts)
    })
    .await
}

async fn body(response: http::Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Everything of a stream before its receipt, as a receipt commits to it.
fn answer(stream: &str) -> String {
    let (answer, _) = stream.split_once(": {\"receipt\":").unwrap();
    let lines = answer.split_inclusive('\n').filter(|line| !line.starts_with(':'));
    lines.collect::<String>()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_a_receipt_that_the_proxy_keeps_and_the_log_names() {
    let clean_room = CleanRoom::start("").await;
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("receipts");
    let identity = Identity::generate().unwrap();
    let proxy = keeping(Sessions::new(clean_room.party(&identity), clean_room.address()), &kept).await;

    // Whole.
    let asked = question(QUESTION, false);
    let whole = body(send(proxy, "POST", CHAT, &asked).await).await;
    // Streamed, in both dialects.
    let asked_to_stream = question(QUESTION, true);
    let stream = body(send(proxy, "POST", CHAT, &asked_to_stream).await).await;
    let message = serde_json::json!({
        "model": "demo", "max_tokens": 20, "stream": true, "messages": [{ "role": "user", "content": QUESTION }],
    });
    let message_stream = body(send(proxy, "POST", "/v1/messages", &message.to_string()).await).await;
    assert!(message_stream.contains("message_stop"));
    // Refused.
    let refused = send(
        proxy,
        "POST",
        CHAT,
        r#"{"model":"demo","messages":[{"role":"user","content":"x"}],"nonsense":1}"#,
    )
    .await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    // Aborted: the client goes after the first piece.
    let mut cut = send(proxy, "POST", CHAT, &question("Tell me a short story.", true)).await;
    cut.body_mut().frame().await.unwrap().unwrap();
    drop(cut);

    let receipts = once_there_are(&kept, 5).await;
    let of = |number: u64| receipts.iter().find(|kept| kept.signed.receipt().number == number).unwrap();
    let said = |number| {
        let Receipt { finish, code, .. } = of(number).signed.receipt();
        (*finish, code.as_deref())
    };
    assert_eq!(said(1), (Finish::Finished, None));
    assert_eq!(said(2), (Finish::Finished, None));
    assert_eq!(said(3), (Finish::Finished, None));
    assert_eq!(said(4), (Finish::Refused, Some("unknown_parameter")));
    assert_eq!(said(5), (Finish::Aborted, None));
    // They open with what was sent and what came.
    for (number, request, response) in [
        (1, &asked, whole.clone()),
        (2, &asked_to_stream, answer(&stream)),
        (3, &message.to_string(), answer(&message_stream)),
    ] {
        let KeptReceipt { signed, salt, .. } = of(number);
        signed.opens(Part::Request, request.as_bytes(), salt).unwrap();
        signed.opens(Part::Response, response.as_bytes(), salt).unwrap();
        signed.opens(Part::Response, b"another answer", salt).unwrap_err();
    }
    // Numbered without a gap, each naming the one before it.
    for number in 2..=5 {
        assert_eq!(of(number).signed.receipt().previous_sha256, Some(of(number - 1).signed.digest()));
    }
    assert!(receipts.iter().all(|kept| kept.signed.receipt().partner == identity.key_digest()));

    // The log has each at the place that it names, after the boot record.
    let mut log = LogKeeper::new(folder.path());
    log.fetch(&mut clean_room.control().await).await;
    let entries = log.said();
    assert!(matches!(&entries[0], Entry::Boot(_)));
    for kept in &receipts {
        let index = usize::try_from(kept.signed.receipt().index).unwrap();
        assert_eq!(entries[index], Entry::Receipt { sha256: kept.signed.digest() });
    }

    // Nothing of a prompt or an answer is in a receipt or in the log.
    let text = serde_json::from_str::<serde_json::Value>(&whole).unwrap();
    let text = text["choices"][0]["message"]["content"].as_str().unwrap();
    let mut searched: Vec<Vec<u8>> = receipts.iter().map(|kept| kept.signed.receipt().to_payload()).collect();
    searched.extend(log.entries.iter().cloned());
    for (secret, encoded) in
        [QUESTION, text, "measurements", "short story"].map(|text| (text, STANDARD.encode(text)))
    {
        for needle in [secret, encoded.trim_end_matches('=')] {
            let holds =
                |bytes: &Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!searched.iter().any(holds), "{needle}");
        }
    }
    let salts: Vec<String> = receipts.iter().map(|kept| STANDARD.encode(kept.salt.as_bytes())).collect();
    let holds_salt = |bytes: &Vec<u8>| salts.iter().any(|salt| String::from_utf8_lossy(bytes).contains(salt));
    assert!(!searched.iter().any(holds_salt), "a salt is for the partner alone");

    // Whoever has a receipt and not its salt cannot try prompts; with the salt the same search succeeds.
    let committed = of(1).signed.receipt().request.sha256;
    let guesses = ["Who can read my prompt?", QUESTION, "What is a PCR?"].map(|text| question(text, false));
    let found = |salt: &Salt| {
        guesses.iter().find(|guess| Commitment::to(guess.as_bytes(), Part::Request, salt).sha256 == committed)
    };
    assert_eq!(found(&Salt::from_bytes([0; 32])), None);
    assert_eq!(found(&of(1).salt), Some(&asked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_found_by_the_partner_whose_it_is_and_by_no_other() {
    let clean_room = CleanRoom::start("").await;
    let mine = clean_room.proxy(&Identity::generate().unwrap()).await;
    let other = clean_room.proxy(&Identity::generate().unwrap()).await;
    let response = send(mine, "POST", CHAT, &question(QUESTION, false)).await;
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let header = STANDARD.decode(response.headers()["cleanroom-receipt"].as_bytes()).unwrap();
    let path = format!("/v1/receipts/{id}");
    let found = body(send(mine, "GET", &path, "").await).await;
    assert_eq!(found.as_bytes(), header);
    for (proxy, path) in [(other, path.as_str()), (mine, "/v1/receipts/none"), (mine, "/v1/receipts/a%00b")] {
        let (status, body) = json(send(proxy, "GET", path, "").await).await;
        assert_eq!(
            (status, body["error"]["code"].as_str()),
            (StatusCode::NOT_FOUND, Some("receipt_not_found"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_halt_cuts_has_a_receipt_that_says_so_and_so_have_those_after_it() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    room.run(&release).await;
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("receipts");
    let sessions = Sessions::new(room.party(&room.identity), room.clean_room.address());
    let proxy = keeping(sessions, &kept).await;
    room.hold.after(3);
    let mut cut = send(proxy, "POST", CHAT, &question("Tell me a short story.", true)).await;
    cut.body_mut().frame().await.unwrap().unwrap();
    room.hold.reached().await;
    let denial = room.authorities.deny_model().0;
    room.hand(ControlKind::DENIAL, &denial).await;
    room.hold.release();
    assert!(body(cut).await.contains("cleanroom_stream_end"));
    // On the same session, which the release no longer permits anything.
    let (status, refusal) = json(send(proxy, "POST", CHAT, &question(QUESTION, false)).await).await;
    assert_eq!((status, refusal["error"]["code"].as_str()), (StatusCode::FORBIDDEN, Some("model-denied")));

    let receipts = once_there_are(&kept, 2).await;
    let [halted, refused] = receipts.as_slice() else { panic!("two receipts") };
    let (halted, refused) = (halted.signed.receipt(), refused.signed.receipt());
    assert_eq!((halted.finish, halted.code.as_deref()), (Finish::Halted, Some("model-denied")));
    assert_eq!((refused.finish, refused.code.as_deref()), (Finish::Refused, Some("model-denied")));
    assert!(halted.release_sha256.is_some() && halted.lease_sha256.is_some());

    // The log tells the same story.
    let mut log = LogKeeper::new(folder.path());
    log.fetch(&mut room.control).await;
    let story: Vec<&str> = log.said().iter().map(Entry::kind).collect();
    assert_eq!(story, ["boot", "release", "lease", "denial", "receipt", "receipt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_responses_ends_once_its_receipt_is_kept() {
    let clean_room = CleanRoom::start("").await;
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("receipts");
    let identity = Identity::generate().unwrap();
    let proxy = keeping(Sessions::new(clean_room.party(&identity), clean_room.address()), &kept).await;
    let asked =
        serde_json::json!({ "model": "demo", "stream": true, "store": false, "input": QUESTION }).to_string();
    let answer = body(send(proxy, "POST", "/v1/responses", &asked).await).await;
    assert!(answer.contains("event: response.completed\n"), "{answer}");
    // The receipt is on the disk before the client has the end.
    let receipts = read(&kept);
    let [KeptReceipt { signed, salt, .. }] = receipts.as_slice() else { panic!("expected one receipt") };
    signed.opens(Part::Request, asked.as_bytes(), salt).unwrap();
    signed.opens(Part::Response, self::answer(&answer).as_bytes(), salt).unwrap();
    // A whole one has it in its head.
    let asked = asked.replace("\"stream\":true", "\"stream\":false");
    assert_eq!(send(proxy, "POST", "/v1/responses", &asked).await.status(), StatusCode::OK);
    assert_eq!(read(&kept).len(), 2);
}
