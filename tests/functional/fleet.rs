//! Several clean rooms behind several addresses, or behind one: where requests go, what a partner hears when
//! clean rooms drain, die or come back.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::channel::RefusalCode;
use cleanroom_attestation::release::Refusal;
use cleanroom_partner::dial::{Dialer, ProxyChoice};
use cleanroom_partner::session::{Answer, Reach, Sessions, Spread};
use cleanroom_program::clock::{Clock, Hands};
use cleanroom_tests::client::{question, send};
use cleanroom_tests::fleet::Fleet;
use cleanroom_tests::scripted::{Connection, Peer, ScriptedRoom};
use cleanroom_tests::wait;
use http::Request;
use http_body_util::BodyExt as _;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// How long a session lives when the policy does not say.
const MAX_SESSION: Duration = Duration::from_secs(15 * 60);

/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

fn request() -> Request<Bytes> {
    Request::post("https://cleanroom/v1/chat/completions").body(Bytes::from_static(b"a prompt")).unwrap()
}

fn dialer(room: &ScriptedRoom) -> Dialer {
    Dialer::new(room.addresses(), ProxyChoice::none())
}

/// Sessions to all addresses of a room, on a clock that the test moves.
fn sessions(room: &ScriptedRoom, spread: Spread) -> (Sessions, Hands) {
    let (clock, hands) = Clock::manual();
    (Sessions::spread(room.world.partner().with_clock(clock), dialer(room), spread), hands)
}

/// Proves one of the enclaves, and begins HTTP/2.
async fn begun(connection: Connection, enclave: usize) -> Peer {
    let mut peer = connection.prove_enclave(enclave, async {}).await;
    peer.begin(&[]).await;
    peer
}

/// Takes requests, begins an answer to each, and ends none.
async fn stream_for_ever(mut peer: Peer, name: usize, came: impl Fn()) {
    while let Some(request) = peer.request().await {
        peer.answer(request.stream, "text/event-stream").await;
        peer.content(request.stream, format!("data: {name}\n\n").as_bytes(), false).await;
        came();
    }
}

/// Says nothing, and keeps the connection.
async fn silent(connection: Connection) {
    let _stream = connection.into_stream();
    std::future::pending::<()>().await;
}

/// How many things of each kind happened.
#[derive(Clone, Default)]
struct Tally(Arc<Mutex<Vec<usize>>>);

impl Tally {
    fn count(&self, kind: usize) {
        let mut counts = self.0.lock().unwrap();
        if counts.len() <= kind {
            counts.resize(kind + 1, 0);
        }
        counts[kind] += 1;
    }

    fn of(&self, kind: usize) -> usize {
        self.0.lock().unwrap().get(kind).copied().unwrap_or(0)
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

/// Sends requests whose answers go on, until each of `rooms` has one at least.
async fn one_each(sessions: &Sessions, seen: &Tally, rooms: usize) -> Vec<Answer> {
    let mut answers = Vec::new();
    in_time(async {
        while (0..rooms).any(|room| seen.of(room) == 0) {
            answers.push(sessions.send(&request()).await.unwrap());
        }
    })
    .await;
    answers
}

async fn next_piece(answer: &mut Answer) -> Bytes {
    let frame = in_time(answer.response.body_mut().frame()).await.unwrap().unwrap();
    frame.into_data().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enclave_whose_worker_stands_still_is_started_again() {
    let fleet = Fleet::start(1, "", &["--silence", "5s"]);
    assert_eq!(fleet.report(0).await["ready"], "ready");
    fleet.stop_worker(0);
    in_time(async {
        while fleet.report(0).await["enclave"]["restarts"] == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(fleet.report(0).await["enclave"]["last_exit"], "it answered no probe for 5 s");
    let (mut proxy, listen) = fleet.connect(&[&fleet.addresses[0].to_string()], &["--wait", "60s"]);
    let answer = send(listen, "POST", "/v1/chat/completions", &question("Hello", false)).await;
    assert!(answer.status().is_success());
    assert!(proxy.stop().success());
}

#[tokio::test]
async fn requests_go_to_the_clean_room_with_the_fewest() {
    let seen = Tally::default();
    let counted = seen.clone();
    let room = ScriptedRoom::start_at(3, move |address, _, connection| {
        let seen = counted.clone();
        async move {
            stream_for_ever(begun(connection, address).await, address, move || seen.count(address)).await;
        }
    })
    .await;
    let (sessions, _hands) = sessions(&room, Spread::EachAddress);
    let mut answers = one_each(&sessions, &seen, 3).await;
    // The clean room that was proven first has some more. The next requests bring all to the same number.
    let most = (0..3).map(|room| seen.of(room)).max().unwrap();
    while answers.len() < 3 * most {
        answers.push(sessions.send(&request()).await.unwrap());
    }
    assert_eq!([seen.of(0), seen.of(1), seen.of(2)], [most; 3]);
    // One of them gets rid of two, and gets the next two.
    let key = answers[0].session.receipt_key().to_vec();
    let is_there = |answer: &Answer| answer.session.receipt_key() == key;
    for _ in 0..2 {
        if let Some(place) = answers.iter().position(is_there) {
            drop(answers.swap_remove(place));
        }
    }
    let freed = 2.min(most);
    for _ in 0..freed {
        let answer = sessions.send(&request()).await.unwrap();
        assert!(is_there(&answer));
        answers.push(answer);
    }
    assert_eq!(room.connections(), 3, "one session for each");
}

#[tokio::test]
async fn a_host_that_hangs_holds_nobody_up() {
    let room = ScriptedRoom::start_at(2, |address, _, connection| async move {
        match address {
            0 => silent(connection).await,
            _ => begun(connection, 1).await.serve(drop).await,
        }
    })
    .await;
    let (sessions, _hands) = sessions(&room, Spread::EachAddress);
    let begun = tokio::time::Instant::now();
    sessions.send(&request()).await.unwrap();
    // The first address has ten seconds for its exchange.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn many_hosts_that_hang_cost_one_time_out_for_everybody() {
    let room = ScriptedRoom::start_at(4, |_, _, connection| silent(connection)).await;
    let sessions = Sessions::spread(room.world.partner(), dialer(&room), Spread::EachAddress);
    let begun = tokio::time::Instant::now();
    let mut waiting = JoinSet::new();
    for _ in 0..6 {
        let sessions = sessions.clone();
        waiting.spawn(async move { sessions.send(&request()).await.err().unwrap() });
    }
    for error in waiting.join_all().await {
        assert_eq!((error.reach, error.code()), (Reach::NeverSent, "timeout"));
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert_eq!(room.connections(), 4);
}

#[tokio::test]
async fn an_outage_is_waited_out_as_long_as_it_may_last() {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let room = ScriptedRoom::start(move |_, connection| {
        let is_over = Arc::clone(&over);
        async move {
            // Before that, a balancer without hosts: it takes connections and ends them.
            if is_over.load(Ordering::SeqCst) {
                begun(connection, 0).await.serve(drop).await;
            }
        }
    })
    .await;
    let waiting =
        |outage| Sessions::spread(room.world.partner(), dialer(&room), Spread::One).waiting_out(outage);
    let error = waiting(Duration::from_millis(600)).send(&request()).await.err().unwrap();
    assert_eq!(error.reach, Reach::NeverSent);
    let attempts = room.connections();
    assert!(attempts > 1, "it was tried again");
    let sessions = waiting(PATIENCE);
    let end = async {
        in_time(async {
            while room.connections() < attempts + 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        is_over.store(true, Ordering::SeqCst);
    };
    let request = request();
    let (answer, ()) = tokio::join!(sessions.send(&request), end);
    assert!(answer.unwrap().response.status().is_success());
}

#[tokio::test]
async fn nobody_waits_for_a_clean_room_that_may_not_serve() {
    let halted = RefusalCode::NotServed(Refusal::ModelDenied);
    let room = ScriptedRoom::start(move |_, connection| async move {
        connection.refuse(halted).await;
    })
    .await;
    let sessions = Sessions::spread(room.world.partner(), dialer(&room), Spread::One).waiting_out(PATIENCE);
    let error = in_time(sessions.send(&request())).await.err().unwrap();
    assert_eq!((error.reach, error.code()), (Reach::NeverSent, "unproven/model-denied"));
    assert_eq!(room.connections(), 1);
}

#[tokio::test]
async fn a_clean_room_that_drains_gets_nothing_new_and_its_stream_ends_in_its_own_time() {
    let (seen, drain, drained, finish) =
        (Tally::default(), Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    // The first request comes to the first clean room, because the second one is late.
    let streams = Arc::new(Semaphore::new(0));
    let script = {
        let (seen, drain, drained, finish) = (seen.clone(), drain.clone(), drained.clone(), finish.clone());
        let streams = streams.clone();
        move |address, number, connection: Connection| {
            let (seen, drain, drained, finish) =
                (seen.clone(), drain.clone(), drained.clone(), finish.clone());
            let streams = streams.clone();
            async move {
                if (address, number) != (0, 0) {
                    if address == 0 {
                        // It is gone by now.
                        return drop(connection);
                    }
                    streams.acquire().await.unwrap().forget();
                    let peer = begun(connection, address).await;
                    return stream_for_ever(peer, address, move || seen.count(address)).await;
                }
                let mut peer = begun(connection, 0).await;
                let request = peer.request().await.unwrap();
                peer.answer(request.stream, "text/event-stream").await;
                peer.content(request.stream, b"data: 1\n\n", false).await;
                seen.count(0);
                streams.add_permits(1);
                drain.notified().await;
                peer.go_away(request.stream).await;
                drained.notify_one();
                finish.notified().await;
                peer.content(request.stream, b"data: [DONE]\n\n", true).await;
                assert!(peer.rest().await.is_empty(), "something new came to a clean room that drains");
            }
        }
    };
    let room = ScriptedRoom::start_at(2, script).await;
    let (sessions, _hands) = sessions(&room, Spread::EachAddress);
    let mut stream = sessions.send(&request()).await.unwrap();
    assert_eq!(next_piece(&mut stream).await, "data: 1\n\n");
    drain.notify_one();
    drained.notified().await;
    for count in 1..5 {
        let _answer = sessions.send(&request()).await.unwrap();
        assert_eq!((seen.of(0), seen.of(1)), (1, count));
    }
    finish.notify_one();
    assert_eq!(in_time(stream.response.into_body().collect()).await.unwrap().to_bytes(), "data: [DONE]\n\n");
}

#[tokio::test]
async fn when_one_clean_room_dies_its_requests_fail_as_they_must_and_no_other_does() {
    let (seen, kill) = (Tally::default(), Arc::new(Notify::new()));
    let script = {
        let (seen, kill) = (seen.clone(), kill.clone());
        move |address, number, connection: Connection| {
            let (seen, kill) = (seen.clone(), kill.clone());
            async move {
                if address == 0 && number > 0 {
                    return drop(connection);
                }
                let serve =
                    stream_for_ever(begun(connection, address).await, address, move || seen.count(address));
                tokio::select! {
                    () = serve => {}
                    () = kill.notified(), if address == 0 => {}
                }
            }
        }
    };
    let room = ScriptedRoom::start_at(2, script).await;
    let (sessions, _hands) = sessions(&room, Spread::EachAddress);
    let answers = one_each(&sessions, &seen, 2).await;
    kill.notify_one();
    let mut going_on = Vec::new();
    for mut answer in answers {
        match &*next_piece(&mut answer).await {
            b"data: 0\n\n" => assert!(in_time(answer.response.body_mut().frame()).await.unwrap().is_err()),
            _ => going_on.push(answer),
        }
    }
    for _ in 0..5 {
        going_on.push(sessions.send(&request()).await.unwrap());
    }
    for answer in &mut going_on {
        let more = tokio::time::timeout(Duration::from_millis(20), answer.response.body_mut().frame()).await;
        assert!(!matches!(more, Ok(Some(Err(_)) | None)), "what runs elsewhere goes on");
    }
}

#[tokio::test]
async fn two_addresses_of_one_clean_room_are_one_session() {
    let (seen, second_is_over) = (Tally::default(), Arc::new(Semaphore::new(0)));
    let script = {
        let (seen, over) = (seen.clone(), second_is_over.clone());
        move |address, _, connection: Connection| {
            let (seen, over) = (seen.clone(), over.clone());
            async move {
                stream_for_ever(begun(connection, 0).await, 0, move || seen.count(address)).await;
                over.add_permits(1);
            }
        }
    };
    let room = ScriptedRoom::start_at(2, script).await;
    let (sessions, hands) = sessions(&room, Spread::EachAddress);
    let _answer = sessions.send(&request()).await.unwrap();
    // One of the two connections is closed at once.
    in_time(second_is_over.acquire()).await.unwrap().forget();
    hands.advance(Duration::from_secs(120));
    for _ in 0..3 {
        let _answer = sessions.send(&request()).await.unwrap();
    }
    assert_eq!(seen.of(0) + seen.of(1), 4);
    assert!(seen.of(0) == 0 || seen.of(1) == 0, "on one connection");
    assert_eq!(room.connections(), 2);
}

#[tokio::test]
async fn behind_one_address_a_balancer_may_have_several() {
    let seen = Tally::default();
    let counted = seen.clone();
    let room = ScriptedRoom::start_at(1, move |_, number, connection| {
        let seen = counted.clone();
        let enclave = number % 3;
        async move {
            stream_for_ever(begun(connection, enclave).await, enclave, move || seen.count(enclave)).await;
        }
    })
    .await;
    let (sessions, _hands) = sessions(&room, Spread::UpTo(3.try_into().unwrap()));
    let _answers = one_each(&sessions, &seen, 3).await;
}

#[tokio::test]
async fn a_clean_room_that_comes_back_is_used_again() {
    let seen = Tally::default();
    let counted = seen.clone();
    let room = ScriptedRoom::start_at(2, move |address, number, connection: Connection| {
        let seen = counted.clone();
        async move {
            // The second one is away at first.
            if address == 1 && number < 2 {
                return drop(connection);
            }
            stream_for_ever(begun(connection, address).await, address, move || seen.count(address)).await;
        }
    })
    .await;
    let (sessions, hands) = sessions(&room, Spread::EachAddress);
    let mut answers = Vec::new();
    in_time(async {
        while seen.of(1) == 0 {
            answers.push(sessions.send(&request()).await.unwrap());
            hands.advance(Duration::from_millis(500));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_clean_room_that_comes_back_behind_a_balancer_is_found_within_seconds() {
    let (seen, proven, is_back) = (Tally::default(), Tally::default(), Arc::new(AtomicBool::new(false)));
    let (counted, tried, back) = (seen.clone(), proven.clone(), Arc::clone(&is_back));
    let room = ScriptedRoom::start_at(1, move |_, number, connection: Connection| {
        let (seen, proven) = (counted.clone(), tried.clone());
        // While it is away, the balancer leads to the other one.
        let enclave = if back.load(Ordering::SeqCst) { number % 2 } else { 0 };
        async move {
            let peer = begun(connection, enclave).await;
            proven.count(enclave);
            stream_for_ever(peer, enclave, move || seen.count(enclave)).await;
        }
    })
    .await;
    let (sessions, hands) = sessions(&room, Spread::UpTo(2.try_into().unwrap()));
    let mut answers = vec![sessions.send(&request()).await.unwrap()];
    // The first search tries the address three times.
    wait::until("the first search is over", || proven.of(0) == 3).await;
    is_back.store(true, Ordering::SeqCst);
    // By the partner's clock, which goes on when what was begun has come to its end.
    let mut waited = Duration::ZERO;
    in_time(async {
        while seen.of(1) == 0 {
            hands.advance(Duration::from_secs(1));
            waited += Duration::from_secs(1);
            answers.push(sessions.send(&request()).await.unwrap());
            wait::until("the search is over", || {
                let proofs: u64 = sessions.proofs().values().sum();
                proven.of(1) > 0 || proofs == room.connections() as u64
            })
            .await;
        }
    })
    .await;
    assert!(waited <= Duration::from_secs(25), "{waited:?}");
}

/// A stream whose session ends, behind an address at which `answers` says which enclave each further connection
/// leads to.
async fn renewed_behind(answers: &'static [usize]) -> (ScriptedRoom, Answer) {
    let room = ScriptedRoom::start_at(1, move |_, number, connection: Connection| async move {
        let enclave = if number == 0 { 0 } else { answers[(number - 1).min(answers.len() - 1)] };
        stream_for_ever(begun(connection, enclave).await, enclave, || {}).await;
    })
    .await;
    let (sessions, hands) = sessions(&room, Spread::One);
    let mut answer = sessions.send(&request()).await.unwrap();
    assert_eq!(next_piece(&mut answer).await, "data: 0\n\n");
    hands.advance(MAX_SESSION);
    wait::until("there is one more connection", || room.connections() > answers.len()).await;
    drop(sessions);
    (room, answer)
}

#[tokio::test]
async fn a_stream_goes_on_although_a_balancer_names_other_clean_rooms_first() {
    let (_room, mut answer) = renewed_behind(&[1, 2, 1, 0]).await;
    let more = tokio::time::timeout(Duration::from_secs(2), answer.response.body_mut().frame()).await;
    assert!(more.is_err(), "the stream goes on");
    assert_eq!(answer.session.why_cut(), None);
}

#[tokio::test]
async fn what_asks_for_a_receipt_comes_to_the_clean_room_that_has_it() {
    let seen = Tally::default();
    let counted = seen.clone();
    let room = ScriptedRoom::start_at(3, move |address, _, connection| {
        let seen = counted.clone();
        async move { begun(connection, address).await.serve(move |_| seen.count(address)).await }
    })
    .await;
    let (sessions, hands) = sessions(&room, Spread::EachAddress);
    let session = sessions.get().await.unwrap();
    for _ in 0..5 {
        let answer = sessions.send_to(&session, &request()).await.unwrap();
        assert_eq!(answer.session.receipt_key(), session.receipt_key());
    }
    // Also after the session has ended.
    hands.advance(MAX_SESSION);
    let answer = sessions.send_to(&session, &request()).await.unwrap();
    assert_eq!(answer.session.receipt_key(), session.receipt_key());
    assert_ne!(answer.session.transcript(), session.transcript());
    let counts = [seen.of(0), seen.of(1), seen.of(2)];
    assert!(counts.contains(&6) && counts.iter().sum::<usize>() == 6, "{counts:?}");
}

// Real processes.

#[tokio::test(flavor = "multi_thread")]
async fn a_session_carries_64_requests_and_a_further_one_waits_until_one_has_ended() {
    const AT_ONCE: u32 = 64;
    // A partner gets three quarters of the sequences.
    let limits = "[limits]\nsequences = 88\nqueued = 0\nthreads = 1\n";
    let fleet = Fleet::start(1, &format!("{limits}[traffic]\nstep = 256\ncadence = \"50ms\"\n"), &[]);
    let (mut proxy, listen) = fleet.connect(&[&fleet.addresses[0].to_string()], &["--wait", "60s"]);
    let (begun, ended) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    // Gives how many answers had ended when this one began.
    let ask = || {
        let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
        let mut asked: serde_json::Value = serde_json::from_str(&question("Hello", true)).unwrap();
        // Without the control tokens no answer ends early.
        asked["logit_bias"] = serde_json::json!({ "0": -100, "1": -100, "2": -100 });
        async move {
            let response = send(listen, "POST", "/v1/chat/completions", &asked.to_string()).await;
            let ended_before = ended.load(Ordering::SeqCst);
            begun.add_permits(1);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).contains("data: [DONE]"));
            ended.fetch_add(1, Ordering::SeqCst);
            ended_before
        }
    };
    let mut first = JoinSet::new();
    for _ in 0..AT_ONCE {
        first.spawn(ask());
    }
    in_time(begun.acquire_many(AT_ONCE)).await.unwrap().forget();
    let ended_before = ask().await;
    assert!(ended_before > 0, "it began while all the others ran");
    in_time(first.join_all()).await;
    assert!(proxy.stop().success());
}

/// A paced stream takes some seconds, whatever the machine's speed.
const PACED: &str = "[traffic]\nstep = 256\ncadence = \"100ms\"\n";

/// How a request through the proxy ended.
#[derive(Debug, PartialEq)]
enum Ended {
    Whole,
    /// An error that says how far the request got.
    Failed(String),
    /// A stream that is not whole.
    Cut(String),
}

async fn ask(proxy: std::net::SocketAddr, is_stream: bool) -> Ended {
    let response = send(proxy, "POST", "/v1/chat/completions", &question("Hello", is_stream)).await;
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => return Ended::Cut(error.to_string()),
    };
    match (status.is_success(), is_stream) {
        (false, _) => Ended::Failed(body),
        (true, true) if !body.contains("data: [DONE]") => Ended::Cut(body),
        _ => Ended::Whole,
    }
}

/// Asks again and again, until it is told to stop; gives every end.
fn asking(proxy: std::net::SocketAddr, stop: &Arc<Notify>) -> tokio::task::JoinHandle<Vec<Ended>> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut ends = Vec::new();
        let mut stop = std::pin::pin!(stop.notified());
        stop.as_mut().enable();
        loop {
            ends.push(ask(proxy, false).await);
            tokio::select! {
                biased;
                () = &mut stop => return ends,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_drain_one_after_the_other_cut_no_stream_and_fail_no_request() {
    let mut fleet = Fleet::start(3, PACED, &["--drain-timeout", "60s"]);
    let addresses: Vec<String> = fleet.addresses.iter().map(ToString::to_string).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (mut proxy, listen) = fleet.connect(&addresses, &[]);
    in_time(fleet.are_connected()).await;
    let stop = Arc::new(Notify::new());
    let asking = asking(listen, &stop);
    for number in 0..2 {
        let mut streams = JoinSet::new();
        for _ in 0..9 {
            streams.spawn(ask(listen, true));
        }
        // Some of the streams run on this host. It ends when they have.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut host = fleet.hosts[number].take().unwrap();
        assert!(tokio::task::spawn_blocking(move || host.stop().success()).await.unwrap());
        for end in streams.join_all().await {
            assert_eq!(end, Ended::Whole, "host {number}");
        }
    }
    stop.notify_one();
    let ends = asking.await.unwrap();
    assert!(ends.len() > 3 && ends.iter().all(|end| *end == Ended::Whole), "{ends:?}");
    assert!(proxy.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_or_a_host_that_is_killed_fails_only_what_ran_there_and_was_sent() {
    let mut fleet = Fleet::start(3, PACED, &[]);
    let addresses: Vec<String> = fleet.addresses.iter().map(ToString::to_string).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (mut proxy, listen) = fleet.connect(&addresses, &[]);
    in_time(fleet.are_connected()).await;
    let stop = Arc::new(Notify::new());
    let asking = asking(listen, &stop);
    for kill in ["enclave", "host"] {
        let mut streams = JoinSet::new();
        for _ in 0..9 {
            streams.spawn(ask(listen, true));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        match kill {
            "enclave" => fleet.kill_enclave(0),
            _ => fleet.kill_host(1),
        }
        let ends = streams.join_all().await;
        let whole = ends.iter().filter(|end| **end == Ended::Whole).count();
        assert!(whole >= 3, "{kill}: {ends:?}");
        assert!(ends.iter().all(|end| !format!("{end:?}").contains("was not sent")), "{kill}: {ends:?}");
    }
    // The enclave that was killed is back, and proven.
    in_time(async {
        while fleet.connections(0).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    stop.notify_one();
    for end in asking.await.unwrap() {
        // What the killed one may have had is not sent twice.
        if let Ended::Failed(body) = end {
            assert!(!body.contains("was not sent"), "{body}");
        }
    }
    // Nobody else is left when the last host goes.
    let mut last = fleet.hosts[2].take().unwrap();
    assert!(tokio::task::spawn_blocking(move || last.stop().success()).await.unwrap());
    assert_eq!(ask(listen, true).await, Ended::Whole);
    assert!(proxy.stop().success());
}
