//! The local proxy against a scripted clean room: who is served, what leaves when, and how an answer that is
//! cut looks.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cleanroom_attestation::channel::RefusalCode;
use cleanroom_attestation::release::Refusal;
use cleanroom_partner::proxy::{Listen, Proxy, Token};
use cleanroom_partner::session::Sessions;
use cleanroom_program::clock::{Clock, Hands};
use cleanroom_program::file::create_secret;
use cleanroom_tests::http_proxy::address_of_this_machine;
use cleanroom_tests::scripted::{Connection, ScriptedRoom};
use cleanroom_tests::wait;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long a session lives when the policy does not say.
const MAX_SESSION: Duration = Duration::from_secs(15 * 60);

/// As many connections as the proxy keeps.
const MAX_CONNECTIONS: usize = 256;

/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves local clients of `room`, on a clock that the test moves.
async fn proxy(room: &ScriptedRoom) -> (SocketAddr, Hands) {
    let (clock, hands) = Clock::manual();
    let sessions = Sessions::new(room.world.partner().with_clock(clock), room.address());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Proxy::new(sessions).serve(listener, std::future::pending()));
    (address, hands)
}

/// The head of a request for a chat.
fn head(proxy: SocketAddr, version: &str, path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/{version}\r\nhost: {proxy}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// What the proxy answers to raw bytes, up to the end of the connection, and how that ends.
async fn exchange(proxy: SocketAddr, bytes: &str) -> (String, io::Result<()>) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    rest(stream).await
}

async fn rest(mut stream: TcpStream) -> (String, io::Result<()>) {
    let mut answer = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().map(drop);
    (String::from_utf8(answer).unwrap(), end)
}

/// The status and the body of a whole answer on a connection that is closed.
fn whole(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// A room that serves every session, and the connections that requests came on.
async fn honest_room() -> (ScriptedRoom, Arc<Mutex<Vec<usize>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let script = {
        let seen = Arc::clone(&seen);
        move |number, connection: Connection| {
            let seen = Arc::clone(&seen);
            async move {
                let mut peer = connection.prove().await;
                peer.begin(&[]).await;
                peer.serve(|_| seen.lock().unwrap().push(number)).await;
            }
        }
    };
    (ScriptedRoom::start(script).await, seen)
}

// What leaves when.

#[tokio::test]
async fn a_body_that_arrives_after_the_session_has_ended_goes_on_a_fresh_one() {
    let (room, seen) = honest_room().await;
    let (proxy, hands) = proxy(&room).await;
    let closing = head(proxy, "1.0", "/v1/chat/completions", 2);
    let (answer, _) = exchange(proxy, &format!("{closing}{{}}")).await;
    assert_eq!(whole(&answer).0, 200);
    // The session is there. The head of the next request comes, and then the session ends.
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(closing.as_bytes()).await.unwrap();
    // More often than the runtime looks at its sockets between two of its tasks.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    hands.advance(MAX_SESSION);
    stream.write_all(b"{}").await.unwrap();
    assert_eq!(whole(&rest(stream).await.0).0, 200);
    assert_eq!(*seen.lock().unwrap(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (room, _) = honest_room().await;
    let (proxy, _) = proxy(&room).await;
    let begun = Instant::now();
    let (answer, _) = exchange(proxy, &head(proxy, "1.0", "/v1/chat/completions", 2)).await;
    let (status, body) = whole(&answer);
    assert_eq!((status, body["error"]["code"].as_str()), (408, Some("late-body")));
    assert!(begun.elapsed() < Duration::from_secs(31), "{:?}", begun.elapsed());
    assert_eq!(room.connections(), 0, "nothing was asked of the room");
}

// The end.

#[tokio::test(start_paused = true)]
async fn a_drain_lasts_as_long_as_the_evidence_of_what_runs() {
    let script = |number: usize, connection: Connection| async move {
        if number > 0 {
            // The clean room is not proven a second time.
            return drop(connection.into_stream());
        }
        let mut peer = connection.prove().await;
        peer.begin(&[]).await;
        let request = peer.request().await.unwrap();
        peer.answer(request.stream, "text/event-stream").await;
        peer.content(request.stream, b"data: 1\n\n", false).await;
        peer.rest().await;
    };
    let room = ScriptedRoom::start(script).await;
    let (clock, hands) = Clock::manual();
    let sessions = Sessions::new(room.world.partner().with_clock(clock), room.address());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(Proxy::new(sessions).serve(listener, async { _ = stopped.await }));

    let mut running = TcpStream::connect(address).await.unwrap();
    running.write_all(format!("{}{{}}", head(address, "1.1", "/v1/messages", 2)).as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"data: 1\n\n\r\n") {
        assert_ne!(running.read_buf(&mut heard).await.unwrap(), 0);
    }
    let mut idle = TcpStream::connect(address).await.unwrap();
    drop(stop);
    // A connection on which nothing runs ends at once, and nobody gets a new one.
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(address).await.is_err());
    // The timers' time passes, and no signal of them ends what runs.
    tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    assert!(!serving.is_finished());
    // Its evidence is too old, and nobody proves the clean room again.
    hands.advance(MAX_SESSION);
    serving.await.unwrap();
    let (rest, _) = rest(running).await;
    assert!(rest.contains("event: error"), "{rest}");
}

// The report.

/// A proxy of `room`, its report, and what drains it.
async fn reported(room: &ScriptedRoom) -> (SocketAddr, SocketAddr, tokio::sync::oneshot::Sender<()>) {
    let proxy = Proxy::new(Sessions::new(room.world.partner(), room.address()));
    let [listener, report] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = [&listener, &report].map(|listener| listener.local_addr().unwrap());
    let [listener, report] = [listener, report].map(|listener| {
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    });
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(proxy.report().serve(report.into()));
    tokio::spawn(proxy.serve(listener, async { _ = stopped.await }));
    let [proxy, report] = addresses;
    (proxy, report, stop)
}

/// The status and the text of a page of the report.
async fn page(report: SocketAddr, path: &str) -> (u16, String) {
    let (answer, _) = exchange(report, &format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n")).await;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

/// Fails unless the page of metrics has each of `lines`.
async fn assert_metrics(report: SocketAddr, lines: &[&str]) {
    let (status, page) = page(report, "/metrics").await;
    assert_eq!(status, 200);
    for line in lines {
        let line = format!("cleanroom_connect_{line}");
        assert!(page.lines().any(|shown| shown == line), "{line} is not in {page}");
    }
    assert!(!page.contains("secret-words"), "{page}");
}

#[tokio::test]
async fn the_report_says_whether_requests_are_sent_and_nothing_of_what_is_in_them() {
    let script = |number: usize, connection: Connection| async move {
        if number == 0 {
            connection.refuse(RefusalCode::NotServed(Refusal::ModelDenied)).await;
            return;
        }
        let mut peer = connection.prove().await;
        peer.begin(&[]).await;
        let request = peer.request().await.unwrap();
        peer.answer(request.stream, "application/json").await;
        peer.content(request.stream, b"{\"secret-words\":1}", true).await;
        // The second answer begins and does not end.
        let request = peer.request().await.unwrap();
        peer.answer(request.stream, "text/event-stream").await;
        peer.content(request.stream, b"data: 1\n\n", false).await;
        peer.rest().await;
    };
    let room = ScriptedRoom::start(script).await;
    let (proxy, report, stop) = reported(&room).await;
    assert_eq!(page(report, "/healthz").await, (200, "well\n".to_owned()));
    assert_metrics(report, &["ready 0", "sessions 0"]).await;
    let missing = "not ready: no clean room is proven: unproven/model-denied\n";
    assert_eq!(page(report, "/readyz").await, (503, missing.to_owned()));
    assert_eq!(page(report, "/readyz").await, (200, "ready\n".to_owned()));

    let asked = "{\"secret-words\":1}";
    let request = format!("{}{asked}", head(proxy, "1.0", "/v1/chat/completions?secret-words", asked.len()));
    assert_eq!(whole(&exchange(proxy, &request).await.0).0, 200);
    let page_of_a_site = "GET /secret-words HTTP/1.0\r\nhost: evil.example\r\n\r\n";
    assert_eq!(whole(&exchange(proxy, page_of_a_site).await.0).0, 403);
    let mut running = TcpStream::connect(proxy).await.unwrap();
    running.write_all(format!("{}{{}}", head(proxy, "1.1", "/v1/messages", 2)).as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"data: 1\n\n\r\n") {
        assert_ne!(running.read_buf(&mut heard).await.unwrap(), 0);
    }
    assert_metrics(
        report,
        &[
            "ready 1",
            "sessions 1",
            "connections 1",
            "requests_under_way 1",
            "answers_total{status=\"2xx\",code=\"none\"} 2",
            "answers_total{status=\"4xx\",code=\"not-local\"} 1",
            "proofs_total{result=\"failed\",code=\"unproven/model-denied\"} 1",
            "proofs_total{result=\"proven\",code=\"none\"} 1",
        ],
    )
    .await;

    drop(stop);
    wait::found("the proxy drains", async || (page(report, "/readyz").await.0 == 503).then_some(())).await;
    let (_, why) = page(report, "/readyz").await;
    assert_eq!(why, "not ready: the proxy was asked to stop\n");
    assert_metrics(report, &["ready 0", "requests_under_way 1"]).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_counted_by_its_code() {
    let room = cutting_room("text/event-stream", b"data: 1\n\n").await;
    let (proxy, report, _stop) = reported(&room).await;
    let (_, end) = exchange(proxy, &format!("{}{{}}", head(proxy, "1.1", "/v1/messages", 2))).await;
    assert!(end.is_err());
    assert_metrics(report, &["answers_cut_total{code=\"connection-lost\"} 1"]).await;
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_from_the_report() {
    let (room, _) = honest_room().await;
    let (_, report, _stop) = reported(&room).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(report).await.unwrap());
    }
    drop(silent);
    assert_eq!(page(report, "/healthz").await.0, 200);
    let (answer, _) =
        exchange(report, "POST /metrics HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert_eq!(page(report, "/v1/models").await.0, 404);
}

// Local strangers.

#[tokio::test]
async fn what_a_page_makes_a_browser_send_never_reaches_the_room() {
    let (room, _) = honest_room().await;
    let (proxy, _) = proxy(&room).await;
    for (request, status) in [
        // An image or a link in a browser that sends no Fetch Metadata, and in one that does.
        ("GET /v1/models HTTP/1.0\r\nhost: HERE\r\n\r\n", 401),
        ("GET /v1/models HTTP/1.0\r\nhost: HERE\r\nsec-fetch-site: cross-site\r\nx-api-key: k\r\n\r\n", 403),
        // A form.
        (
            "POST /v1/chat/completions HTTP/1.0\r\nhost: HERE\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}",
            401,
        ),
        // A name that was pointed here.
        ("GET /v1/models HTTP/1.0\r\nhost: evil.example:80\r\nx-api-key: k\r\n\r\n", 403),
    ] {
        let (answer, _) = exchange(proxy, &request.replace("HERE", &proxy.to_string())).await;
        assert_eq!(whole(&answer).0, status, "{request}");
    }
    assert_eq!(room.connections(), 0);
    let program = format!("GET /v1/models HTTP/1.0\r\nhost: {proxy}\r\nx-api-key: k\r\n\r\n");
    assert_eq!(whole(&exchange(proxy, &program).await.0).0, 200);
}

/// A token, and a proxy at an address that others can reach.
async fn proxy_for_others(room: &ScriptedRoom, token: Option<&str>) -> Option<SocketAddr> {
    let here = address_of_this_machine()?;
    let mut proxy = Proxy::new(Sessions::new(room.world.partner(), room.address()));
    if let Some(token) = token {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        create_secret(&path, token.as_bytes()).unwrap();
        proxy = proxy.require_token(Token::read(&path).unwrap());
    }
    let listener = Listen::Tcp(([0, 0, 0, 0], 0).into()).bind().await.unwrap();
    let Listen::Tcp(address) = listener.address().unwrap() else { panic!("expected a TCP address") };
    tokio::spawn(proxy.serve(listener, std::future::pending()));
    Some(SocketAddr::new(here, address.port()))
}

#[tokio::test]
async fn who_does_not_know_the_token_reaches_nothing() {
    const TOKEN: &str = "5f1d0c6a9b3e24715f1d0c6a9b3e2471";
    let (room, _) = honest_room().await;
    let Some(proxy) = proxy_for_others(&room, Some(TOKEN)).await else { return };
    let request = |fields: &str| format!("GET /v1/models HTTP/1.0\r\nhost: cleanroom\r\n{fields}\r\n");
    for fields in [
        "",
        "content-type: application/json\r\n",
        "x-api-key: unused\r\n",
        "authorization: Bearer unused\r\n",
        &format!("authorization: Basic {TOKEN}\r\n"),
        &format!("x-api-key: {}\r\n", &TOKEN[1..]),
        &format!("cookie: {TOKEN}\r\n"),
    ] {
        let (answer, _) = exchange(proxy, &request(fields)).await;
        assert_eq!(whole(&answer).0, 401, "{fields}");
        assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
    }
    let messages = format!("{}{{}}", head(proxy, "1.0", "/v1/messages", 2));
    let (status, body) = whole(&exchange(proxy, &messages).await.0);
    assert_eq!((status, body["error"]["code"].as_str()), (401, Some("wrong-token")));
    assert_eq!(body["type"], "error", "as Anthropic's clients expect it: {body}");
    // A page that somehow knows it is still a page.
    let page = format!("x-api-key: {TOKEN}\r\norigin: http://evil.example\r\n");
    assert_eq!(whole(&exchange(proxy, &request(&page)).await.0).0, 403);
    assert_eq!(room.connections(), 0);
    for fields in [format!("x-api-key: {TOKEN}\r\n"), format!("authorization: Bearer {TOKEN}\r\n")] {
        assert_eq!(whole(&exchange(proxy, &request(&fields)).await.0).0, 200, "{fields}");
    }
}

#[tokio::test]
async fn an_address_that_others_can_reach_serves_nobody_without_a_token() {
    let (room, _) = honest_room().await;
    let Some(proxy) = proxy_for_others(&room, None).await else { return };
    let request = format!("GET /v1/models HTTP/1.0\r\nhost: {proxy}\r\nx-api-key: k\r\n\r\n");
    assert_eq!(whole(&exchange(proxy, &request).await.0).0, 403);
    assert_eq!(room.connections(), 0);
}

#[tokio::test]
async fn connections_whose_bodies_never_come_lock_nobody_out() {
    let (room, _) = honest_room().await;
    let (proxy, _) = proxy(&room).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(head(proxy, "1.1", "/v1/chat/completions", 1000).as_bytes()).await.unwrap();
        silent.push(stream);
    }
    for _ in 0..3 {
        let request = format!("{}{{}}", head(proxy, "1.0", "/v1/chat/completions", 2));
        assert_eq!(whole(&exchange(proxy, &request).await.0).0, 200);
    }
    // The oldest had to go, and hears why.
    let (status, body) = whole(&rest(silent.swap_remove(0)).await.0);
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("busy")));
}

#[tokio::test]
async fn whoever_loses_its_place_before_it_has_asked_hears_that_the_proxy_is_busy() {
    let (room, _) = honest_room().await;
    let (proxy, _) = proxy(&room).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(proxy).await.unwrap());
    }
    let request = format!("{}{{}}", head(proxy, "1.0", "/v1/chat/completions", 2));
    // It takes the place of the oldest.
    assert_eq!(whole(&exchange(proxy, &request).await.0).0, 200);
    let mut oldest = silent.swap_remove(0);
    oldest.write_all(request.as_bytes()).await.unwrap();
    let (status, body) = whole(&rest(oldest).await.0);
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("busy")));
}

#[tokio::test]
async fn when_requests_are_under_way_everywhere_the_proxy_says_that_it_is_busy() {
    // The room takes requests, and answers none.
    let script = async |_, connection: Connection| {
        let mut peer = connection.prove().await;
        peer.begin(&[(cleanroom_tests::scripted::MAX_CONCURRENT_STREAMS, 1000)]).await;
        peer.rest().await;
    };
    let room = ScriptedRoom::start(script).await;
    let (proxy, _) = proxy(&room).await;
    let request = format!("{}{{}}", head(proxy, "1.0", "/v1/messages", 2));
    let mut running = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        running.push(stream);
    }
    // Some may still be on their way to the room, and give their places up.
    let busy = async {
        loop {
            let mut stream = TcpStream::connect(proxy).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = vec![0; 4096];
            if let Ok(Ok(count @ 1..)) = timeout(Duration::from_millis(500), stream.read(&mut answer)).await {
                return String::from_utf8(answer[..count].to_vec()).unwrap();
            }
            running.push(stream);
        }
    };
    let (status, body) = whole(&timeout(PATIENCE, busy).await.unwrap());
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("busy")));
    assert_eq!(body["type"], "error", "as Anthropic's clients expect it: {body}");

    // Far more than are told at the same time: each of them hears it.
    let long = format!("{}{}", head(proxy, "1.0", "/v1/messages", 1 << 20), " ".repeat(1 << 20));
    let mut crowd = JoinSet::new();
    for number in 0..100 {
        let request = if number % 10 == 0 { long.clone() } else { request.clone() };
        crowd.spawn(async move { exchange(proxy, &request).await.0 });
    }
    for answer in timeout(PATIENCE, crowd.join_all()).await.unwrap() {
        assert_eq!(whole(&answer).0, 503, "{answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    }
}

// Answers that are cut.

/// A room that begins every answer and then cuts the connection.
async fn cutting_room(content_type: &'static str, content: &'static [u8]) -> ScriptedRoom {
    let script = move |_, connection: Connection| async move {
        let mut peer = connection.prove().await;
        peer.begin(&[]).await;
        let Some(request) = peer.request().await else { return };
        peer.answer(request.stream, content_type).await;
        peer.content(request.stream, content, false).await;
    };
    ScriptedRoom::start(script).await
}

#[tokio::test]
async fn a_cut_stream_ends_with_an_error_event_and_a_reset_connection() {
    // The second event is not whole when the connection is cut.
    let room = cutting_room("text/event-stream", b"data: {\"id\":1}\n\ndata: {\"id\"").await;
    for version in ["1.0", "1.1"] {
        for (path, error_event) in [
            ("/v1/chat/completions", "\n\ndata: {\"error\":{"),
            ("/v1/messages", "\n\nevent: error\ndata: {\"error\":{"),
        ] {
            let (proxy, _) = proxy(&room).await;
            let request = format!("{}{{}}", head(proxy, version, path, 2));
            let (answer, end) = exchange(proxy, &request).await;
            // Chunks of HTTP/1.1 have their lengths in between.
            let events: String = answer
                .split_once("\r\n\r\n")
                .unwrap()
                .1
                .split_inclusive('\n')
                .filter(|line| !line.ends_with("\r\n") && *line != "\r\n")
                .collect();
            assert!(events.starts_with("data: {\"id\":1}"), "{version} {path}: {answer}");
            assert!(events.contains(error_event), "{version} {path}: {answer}");
            assert!(
                events.contains("connection-lost") && events.contains("received your request"),
                "{answer}"
            );
            assert!(!events.contains("data: {\"id\"\n") && !answer.contains("[DONE]"), "{answer}");
            assert!(!answer.ends_with("0\r\n\r\n"), "the last chunk must not come: {answer}");
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{version} {path}");
        }
    }
}

#[tokio::test]
async fn a_cut_whole_answer_is_an_error_from_its_first_byte_on() {
    let room = cutting_room("application/json", b"{\"choices\":[").await;
    for version in ["1.0", "1.1"] {
        let (proxy, _) = proxy(&room).await;
        let request = format!("{}{{}}", head(proxy, version, "/v1/chat/completions", 2));
        let request = request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        let (status, body) = whole(&exchange(proxy, &request).await.0);
        assert_eq!((status, body["error"]["code"].as_str()), (502, Some("connection-lost")), "{version}");
        assert!(body["error"]["message"].as_str().unwrap().ends_with("received your request."), "{body}");
    }
}

// Who says what.

#[tokio::test]
async fn a_host_without_an_enclave_speaks_for_itself_alone() {
    for (refusal, code) in [
        (RefusalCode::NotServed(Refusal::ModelDenied), "unproven/model-denied"),
        (RefusalCode::NotServed(Refusal::PartnerDenied), "unproven/partner-denied"),
        (RefusalCode::NotServed(Refusal::ModelRevoked), "unproven/model-revoked"),
        (RefusalCode::UnknownModel, "unproven/unknown-model"),
        (RefusalCode::NoEvidence, "unproven/no-evidence"),
        (RefusalCode::Busy, "unproven/busy"),
        (RefusalCode::Draining, "unproven/draining"),
    ] {
        let script = move |_, connection: Connection| async move {
            assert_eq!(connection.refuse(refusal).await, b"");
        };
        let room = ScriptedRoom::start(script).await;
        let (proxy, _) = proxy(&room).await;
        let request = format!("{}{{}}", head(proxy, "1.0", "/v1/chat/completions", 2));
        let (status, body) = whole(&exchange(proxy, &request).await.0);
        assert_eq!((status, body["error"]["code"].as_str()), (503, Some(code)));
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("the host says, unproven: "), "{message}");
        assert!(message.ends_with("Your request was not sent."), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn six_agents_hear_of_a_silent_host_together() {
    let script = async |_, connection: Connection| {
        let _stream = connection.into_stream();
        std::future::pending::<()>().await;
    };
    let room = ScriptedRoom::start(script).await;
    let (proxy, _) = proxy(&room).await;
    let request = format!("{}{{}}", head(proxy, "1.0", "/v1/chat/completions", 2));
    let begun = Instant::now();
    let mut agents = JoinSet::new();
    for _ in 0..6 {
        let request = request.clone();
        agents.spawn(async move { exchange(proxy, &request).await.0 });
    }
    for answer in agents.join_all().await {
        let (status, body) = whole(&answer);
        assert_eq!((status, body["error"]["code"].as_str()), (503, Some("timeout")));
    }
    assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
    assert_eq!(room.connections(), 1);
}
