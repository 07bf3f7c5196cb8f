//! A worker that was taken over: its keeper signs a genuine receipt, and it sends other bytes than those. The proxy of a partner
//! that keeps receipts passes nothing on that the receipt does not commit to.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::receipt::{Commitment, Delivered, Finish, Part, Receipt, Salt};
use cleanroom_partner::proxy::Proxy;
use cleanroom_partner::receipts::ReceiptFolder;
use cleanroom_partner::session::Sessions;
use cleanroom_tests::platform::{model_digest, model_id};
use cleanroom_tests::scripted::{Connection, Peer, Received, ScriptedRoom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// The answer to which the receipt commits.
const ANSWER: &str = "data: {\"said\":1}\n\ndata: [DONE]\n\n";
/// What a worker would like a client to read.
const SMUGGLED: &str = "smuggled";

fn salt() -> Salt {
    Salt::from_bytes([5; Salt::LENGTH])
}

/// The receipt of an answer, as the keeper signs it for an honest worker.
fn receipt(peer: &Peer, partner: Sha256Digest, request: &Received) -> String {
    let receipt = peer.enclave().receipt(Receipt {
        version: 1,
        id: "req-1".parse().unwrap(),
        boot: Sha256Digest::of(&[b"set by the signer"]),
        index: 1,
        session: peer.session,
        partner,
        number: 1,
        previous_sha256: None,
        model: model_id(),
        model_sha256: model_digest(),
        release_sha256: None,
        lease_sha256: None,
        request: Commitment::to(&request.content, Part::Request, &salt()),
        response: Commitment::to(ANSWER.as_bytes(), Part::Response, &salt()),
        finish: Finish::Finished,
        code: None,
        safeguard: None,
        record_sha256: None,
        started_ms: 1,
        ended_ms: 2,
    });
    Delivered { envelope: receipt.to_json(), salt: salt() }.to_json()
}

/// What a client reads of an answer whose stream is `pieces`, in which RECEIPT stands for the receipt.
async fn read(pieces: &'static [&'static str]) -> String {
    let partner = Arc::new(OnceLock::new());
    let known = Arc::clone(&partner);
    let room = ScriptedRoom::start(move |_, connection: Connection| {
        let known = Arc::clone(&known);
        async move {
            let mut peer = connection.prove().await;
            peer.begin(&[]).await;
            let request = peer.request().await.unwrap();
            let receipt = receipt(&peer, *known.get().unwrap(), &request);
            let salt = STANDARD.encode(salt().as_bytes());
            let fields = [("cleanroom-receipt-salt", salt.as_str())];
            peer.answer_with(request.stream, "text/event-stream", &fields).await;
            for (index, piece) in pieces.iter().enumerate() {
                let piece = piece.replace("RECEIPT", &receipt);
                peer.content(request.stream, piece.as_bytes(), index + 1 == pieces.len()).await;
            }
            peer.rest().await;
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let sessions = Sessions::new(room.world.partner(), room.address());
    partner.set(sessions.partner()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::new(sessions).keep_receipts(ReceiptFolder::at(folder.path().to_owned()));
    tokio::spawn(proxy.serve(listener, std::future::pending()));
    ask(address).await
}

async fn ask(proxy: SocketAddr) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nhost: {proxy}\r\ncontent-type: application/json\r\n\
         content-length: 2\r\n\r\n{{}}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The end may be a reset.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn an_answer_with_its_receipt_and_shape_around_it_is_whole() {
    for pieces in [
        &["data: {\"said\":1}\n\ndata: [DONE]\n\n:..\n: RECEIPT\n\n"][..],
        &["data: {\"said\":1}\n\n", ":....\n\n", "data: [DONE]\n\n", ": RECEIPT\n\n", ":...\n\n"],
    ] {
        let answer = read(pieces).await;
        assert!(answer.contains("data: {\"said\":1}\n\n"), "{answer}");
        assert!(answer.contains("data: [DONE]\n\n"), "{answer}");
        assert!(!answer.contains("receipt-response"), "{answer}");
    }
}

#[tokio::test]
async fn nothing_passes_that_the_receipt_does_not_commit_to() {
    for pieces in [
        // Before the receipt.
        &["data: {\"said\":1}\n\ndata: [DONE]\n\ndata: smuggled\n\n: RECEIPT\n\n"][..],
        // Behind it, in the same piece, in another one, and in one that does not end.
        &["data: {\"said\":1}\n\ndata: [DONE]\n\n: RECEIPT\n\ndata: smuggled\n\n"],
        &["data: {\"said\":1}\n\ndata: [DONE]\n\n", ": RECEIPT\n\n", "data: smuggled\n\n"],
        &["data: {\"said\":1}\n\ndata: [DONE]\n\n", ": RECEIPT\n\n", "data: smuggled"],
        // In the receipt's own event.
        &["data: {\"said\":1}\n\ndata: [DONE]\n\n: RECEIPT\nevent: x\ndata: smuggled\n\n"],
        // In a comment, which a client ends at a carriage return.
        &["data: {\"said\":1}\n\n:.\rdata: smuggled\n\ndata: [DONE]\n\n: RECEIPT\n\n"],
        &["data: {\"said\":1}\n\ndata: [DONE]\n\n", ": RECEIPT\n\n", ":.\rdata: smuggled\n\n"],
    ] {
        let answer = read(pieces).await;
        assert!(!answer.contains(SMUGGLED), "{pieces:?}: {answer}");
        assert!(answer.contains("receipt"), "the reason is missing: {answer}");
        assert!(!answer.contains("[DONE]") || answer.contains("\"error\""), "{pieces:?}: {answer}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_the_one_of_the_receipt_does_not_end() {
    let pieces = &["data: {\"said\":2}\n\ndata: [DONE]\n\n: RECEIPT\n\n"];
    let answer = read(pieces).await;
    // What was changed has been read as it came. A client that waits for the end never gets one.
    assert!(answer.contains("\"said\":2") && answer.contains("\"error\""), "{answer}");
    assert!(!answer.contains("[DONE]"), "{answer}");
}

#[tokio::test]
async fn nothing_that_some_client_takes_for_the_end_passes_before_the_receipt() {
    for end in [
        "data: [DONE]\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n",
        // Server-sent events have many spellings, and clients look at different parts of them.
        "data:[DONE]\n\n",
        "data: [DONE] \n\n",
        "data: [DONE]more\n\n",
        "data:  [DONE]\n\n",
        "\u{feff}data: [DONE]\n\n",
        "id: 1\ndata: [DONE]\n\n",
        "retry: 1\ndata: [DONE]\n\n",
        "data: [DONE]\nid: 1\n\n",
        "event: x\ndata: [DONE]\n\n",
        "event: x\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        "event:message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        "data: {\"type\":\"message_stop\"}\nevent: message_stop\n\n",
        "event: message_delta\ndata: {\"type\":\"message_stop\"}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"type\":\"message_stop\"}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"\\u0074ype\":\"message_stop\"}\n\n",
        "event: message_stop\n\n",
    ] {
        let end: &'static str = end;
        let pieces: &'static [&'static str] = Box::leak(Box::new(["data: {\"said\":1}\n\n", end]));
        let answer = read(pieces).await;
        assert!(answer.contains("data: {\"said\":1}\n\n"), "{answer}");
        assert!(
            !answer.contains(end) && !answer.contains("DONE") && !answer.contains("_stop"),
            "{end:?}: {answer}"
        );
        assert!(answer.contains("receipt"), "the reason is missing: {answer}");
    }
}
