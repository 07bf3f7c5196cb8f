//! Release control on a whole clean room: what the authorities permit runs, nothing else does, and the host cannot change it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use bytes::Bytes;
use cleanroom_attestation::channel::StreamEnd;
use cleanroom_attestation::model::model_digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::{
    Accepted, BootMillis, ControlAnswer, ControlKind, LeaseRequest, List, ModelState, Release, UnixMillis,
};
use cleanroom_attestation::time::Timestamp;
use cleanroom_channel::identity::Identity;
use cleanroom_enclave::release::Clock;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::{self, SessionError, Sessions};
use cleanroom_tests::authorities::{Authorities, LEASE_MS};
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::house::{Control, House, model};
use cleanroom_tests::room::{World, model_id, now_ms};
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};

/// A clean room under a root, its partner, and a clock that the test moves.
struct Room {
    authorities: Authorities,
    house: House,
    control: Control,
    identity: Identity,
    clock: Arc<AtomicU64>,
    hold: Arc<Hold>,
}

/// Stops the engine at a token, so that something can happen in the middle of an answer.
#[derive(Default)]
struct Hold {
    /// Tokens that the engine may still make; `None` for any number.
    left: Mutex<Option<u32>>,
    changed: Condvar,
    /// Whether the engine stands at the token.
    reached: AtomicBool,
}

impl Hold {
    fn after(&self, tokens: u32) {
        *self.left.lock().unwrap() = Some(tokens);
    }

    /// Waits until the engine stands there, so that it looks at no clock before it is released.
    async fn reached(&self) {
        while !self.reached.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }

    fn release(&self) {
        *self.left.lock().unwrap() = None;
        self.changed.notify_all();
    }

    /// Called whenever the enclave looks at its clock. The engine does so once for each token.
    fn pass(&self) {
        if !std::thread::current().name().is_some_and(|name| name.starts_with("engine")) {
            return;
        }
        let left = self.left.lock().unwrap();
        self.reached.store(*left == Some(0), Ordering::SeqCst);
        let mut left = self.changed.wait_while(left, |left| *left == Some(0)).unwrap();
        if let Some(left) = left.as_mut() {
            *left -= 1;
        }
    }
}

impl Room {
    async fn start() -> Self {
        let authorities = Authorities::new();
        Self::of(authorities, Identity::generate().unwrap()).await
    }

    /// A boot of a clean room of these authorities.
    async fn of(authorities: Authorities, identity: Identity) -> Self {
        Self::on(World::new(), authorities, identity).await
    }

    /// A clean room whose security module and authorities are `shift_ms` ahead of the clock of this machine, which is the host's.
    async fn at(shift_ms: i64) -> Self {
        let mut authorities = Authorities::new();
        authorities.shift_ms = shift_ms;
        Self::on(World::at(shift_ms), authorities, Identity::generate().unwrap()).await
    }

    async fn on(world: World, authorities: Authorities, identity: Identity) -> Self {
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let hold = Arc::new(Hold::default());
        let (now, held) = (Arc::clone(&clock), Arc::clone(&hold));
        let clock_of_room = Clock::from_fn(move || {
            held.pass();
            BootMillis(now.load(Ordering::SeqCst))
        });
        let config = format!("[release]\nroot = '''{}'''\n", authorities.root_text());
        let house = House::start_on(world, &config, clock_of_room).await;
        let control = house.control().await;
        Self { authorities, house, control, identity, clock, hold }
    }

    fn release(&self, version: u64) -> Release {
        let image = self.house.world().image();
        self.authorities.release(version, image, model_digest(&model()), self.identity.key_digest())
    }

    /// Hands in a release and a lease for it.
    async fn run(&mut self, release: &Release) -> Vec<u8> {
        let release = self.authorities.sign(release);
        assert_eq!(self.hand(ControlKind::Release, &release).await, ControlAnswer::Accepted(Accepted::New));
        self.renew(&release).await;
        release
    }

    async fn renew(&mut self, release: &[u8]) {
        let request = self.control.ask().await;
        let lease = self.authorities.lease(&request, release, &[]);
        assert_eq!(self.hand(ControlKind::Lease, &lease).await, ControlAnswer::Accepted(Accepted::New));
    }

    async fn hand(&mut self, kind: ControlKind, body: &[u8]) -> ControlAnswer {
        self.control.send(kind, body).await
    }

    /// Sends a frame and does not wait for the answer.
    async fn throw(&mut self, kind: ControlKind, body: &[u8]) {
        self.control.throw(kind, body).await;
    }

    async fn refused(&mut self, kind: ControlKind, body: &[u8]) -> String {
        match self.hand(kind, body).await {
            ControlAnswer::Refused(code) => code,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn pass_time(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    fn policy(&self) -> Policy {
        self.house.world().policy_under(&self.authorities.root_text())
    }

    fn party(&self, identity: &Identity) -> RelyingParty {
        RelyingParty::new(identity, self.policy(), model_id()).unwrap()
    }

    async fn proxy(&self) -> SocketAddr {
        self.house.proxy_under(&self.identity, self.policy()).await
    }

    /// The code with which a request of the partner, on a session of its own, is refused; `served` if it is not.
    async fn asked(&self) -> String {
        let proxy = self.proxy().await;
        let (status, body) =
            json(send(proxy, "POST", "/v1/chat/completions", &question("Hi", false)).await).await;
        if status == StatusCode::OK {
            return "served".to_owned();
        }
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_before_it_is_released_and_leased_and_then_the_partner_sees_the_terms() {
    let mut room = Room::start().await;
    assert_eq!(room.asked().await, "no-release");
    let release = room.authorities.sign(&room.release(1));
    assert_eq!(room.refused(ControlKind::Ask, b"").await, "no-release");
    let _ = room.hand(ControlKind::Release, &release).await;
    assert_eq!(room.asked().await, "no-lease");
    room.renew(&release).await;
    assert_eq!(room.asked().await, "served");

    let party = room.party(&room.identity);
    room.pass_time(20_000);
    let appraised = session::appraise(&party, &room.house.address()).await.unwrap();
    assert!(appraised.accepted().is_ok(), "{:?}", appraised.accepted().err());
    let permitted = appraised.permitted().unwrap().as_ref().unwrap();
    assert_eq!((permitted.partner.as_str(), permitted.release_version), ("p", 1));
    assert_eq!(permitted.lease_seconds_left, 40);
    assert_eq!(permitted.holds_for.as_millis(), 40_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_that_pins_no_root_refuses_a_release_and_one_that_pins_another_root_too() {
    let mut room = Room::start().await;
    let release = room.release(1);
    room.run(&release).await;
    let code = |result: Result<_, SessionError>| result.err().map_or("accepted", |error| error.code());

    let party = RelyingParty::new(&room.identity, room.house.policy(), model_id()).unwrap();
    let appraised = session::appraise(&party, &room.house.address()).await.unwrap();
    assert_eq!(appraised.accepted().unwrap_err().code(), "unexpected-release");

    let other = room.house.world().policy_under(&Authorities::new().root_text());
    let party = RelyingParty::new(&room.identity, other, model_id()).unwrap();
    assert_eq!(code(session::appraise(&party, &room.house.address()).await), "threshold");

    // A key that the release does not know gets evidence, for auditing, and no more.
    let stranger = Identity::generate().unwrap();
    let appraised = session::appraise(&room.party(&stranger), &room.house.address()).await.unwrap();
    assert!(appraised.verdict().accepted().is_ok());
    assert_eq!(appraised.accepted().unwrap_err().code(), "partner-unknown");

    // And a clean room without release control shows nothing to a partner that pins a root.
    let plain = House::start("").await;
    let policy = plain.world().policy_under(&room.authorities.root_text());
    let party = RelyingParty::new(&room.identity, policy, model_id()).unwrap();
    assert_eq!(code(session::appraise(&party, &plain.address()).await), "no-release");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_lease_stops_everything_and_only_a_new_one_resumes() {
    let mut room = Room::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    room.pass_time(LEASE_MS - 1);
    assert_eq!(room.asked().await, "served");
    room.pass_time(1);
    assert_eq!(room.asked().await, "lease-lapsed");
    room.renew(&release).await;
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_before_the_answer_counts_and_a_late_answer_is_none() {
    let mut room = Room::start().await;
    let release = room.authorities.sign(&room.release(1));
    let _ = room.hand(ControlKind::Release, &release).await;
    let request = room.control.ask().await;
    let lease = room.authorities.lease(&request, &release, &[]);
    room.pass_time(LEASE_MS - 1_000);
    assert_eq!(room.hand(ControlKind::Lease, &lease).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(room.asked().await, "served");
    room.pass_time(1_000);
    assert_eq!(room.asked().await, "lease-lapsed");

    let request = room.control.ask().await;
    let lease = room.authorities.lease(&request, &release, &[]);
    room.pass_time(LEASE_MS);
    assert_eq!(room.refused(ControlKind::Lease, &lease).await, "lease-late");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_replays_reorders_or_mixes_is_refused() {
    let mut room = Room::start().await;
    let (first, second) = (room.release(1), room.release(2));
    let (first, second) = (room.authorities.sign(&first), room.authorities.sign(&second));
    let alone = room.authorities.sign_alone(&room.release(3));
    let foreign = Authorities::new().sign(&room.release(3));
    // Reordered: a lease before anything else, and before its nonce.
    let zero = LeaseRequest {
        nonce: "07".repeat(32).parse().unwrap(),
        root_version: 1,
        release_sha256: cleanroom_attestation::release::Envelope::parse(
            &first,
            cleanroom_attestation::release::PayloadType::Release,
        )
        .unwrap()
        .digest(),
    };
    let made_up = room.authorities.lease(&zero, &first, &[]);
    assert_eq!(room.refused(ControlKind::Lease, &made_up).await, "no-lease-asked");
    assert_eq!(room.refused(ControlKind::Release, &alone).await, "threshold");
    assert_eq!(room.refused(ControlKind::Release, &foreign).await, "threshold");
    assert_eq!(room.refused(ControlKind::Release, &made_up).await, "payload-type");

    let _ = room.hand(ControlKind::Release, &first).await;
    let request = room.control.ask().await;
    let old = room.authorities.lease(&request, &first, &[]);
    assert_eq!(room.hand(ControlKind::Lease, &old).await, ControlAnswer::Accepted(Accepted::New));
    // Replayed: after another nonce was drawn, the lease is worth nothing.
    let _ = room.control.ask().await;
    assert_eq!(room.refused(ControlKind::Lease, &old).await, "wrong-nonce");

    let _ = room.hand(ControlKind::Release, &second).await;
    assert_eq!(room.refused(ControlKind::Release, &first).await, "rollback");
    // A lease for the release before cannot renew it.
    let mut request = room.control.ask().await;
    let newest = request.release_sha256;
    request.release_sha256 = zero.release_sha256;
    let stale = room.authorities.lease(&request, &first, &[]);
    assert_ne!(newest, zero.release_sha256);
    assert_eq!(room.refused(ControlKind::Lease, &stale).await, "lease-release");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_one_boot_is_worth_nothing_in_another() {
    let mut room = Room::start().await;
    let release = room.authorities.sign(&room.release(1));
    let _ = room.hand(ControlKind::Release, &release).await;
    let request = room.control.ask().await;
    let lease = room.authorities.lease(&request, &release, &[]);
    assert_eq!(room.hand(ControlKind::Lease, &lease).await, ControlAnswer::Accepted(Accepted::New));

    // The same authorities and partner, booted again: it has forgotten everything and begins with nothing.
    let Room { authorities, identity, .. } = room;
    let mut again = Room::of(authorities, identity).await;
    assert_eq!(again.asked().await, "no-release");
    let _ = again.hand(ControlKind::Release, &release).await;
    assert_eq!(again.refused(ControlKind::Lease, &lease).await, "no-lease-asked");
    let _ = again.control.ask().await;
    assert_eq!(again.refused(ControlKind::Lease, &lease).await, "wrong-nonce");
    assert_eq!(again.asked().await, "no-lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_that_the_host_withholds_comes_with_the_lease_and_only_a_release_lifts_it() {
    let mut room = Room::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    let (denial, digest) = room.authorities.deny_model();
    let request = room.control.ask().await;
    let lease = room.authorities.lease(&request, &release, &[&denial]);
    assert_eq!(room.hand(ControlKind::Lease, &lease).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(room.asked().await, "model-denied");
    // A lease that does not repeat it does not lift it.
    room.renew(&release).await;
    assert_eq!(room.asked().await, "model-denied");

    let mut resumed = room.release(2);
    resumed.supersedes_denials = List::new(vec![digest]).unwrap();
    room.run(&resumed).await;
    assert_eq!(room.asked().await, "served");
}

/// A running stream, read up to its first event with text.
async fn stream(room: &Room) -> (Arc<session::Session<Full<Bytes>>>, http::Response<hyper::body::Incoming>) {
    let sessions = Sessions::new(room.party(&room.identity), room.house.address());
    let session = sessions.get().await.unwrap();
    let request = http::Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Full::from(question("Tell me a short story.", true)))
        .unwrap();
    let mut response = session.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.body_mut().frame().await.unwrap().unwrap().is_data());
    (session, response)
}

/// The signed end of a stream: its reason, once the signature is good.
async fn signed_end(
    session: &session::Session<Full<Bytes>>,
    response: http::Response<hyper::body::Incoming>,
) -> Option<String> {
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(rest.to_vec()).unwrap();
    if text.contains("[DONE]") {
        return None;
    }
    assert!(!text.contains(r#""finish_reason":""#), "{text}");
    let event = text.trim_end().rsplit("data: ").next().unwrap();
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    let end = &event["cleanroom_stream_end"];
    assert_eq!(end["reason"], event["error"]["code"]);
    let digest = |name: &str| end[name].as_str().map(|text| text.parse().unwrap());
    let message = StreamEnd {
        transcript: &session.transcript(),
        stream: end["stream"].as_str().unwrap(),
        reason: end["reason"].as_str().unwrap(),
        at_ms: end["at_ms"].as_u64().unwrap(),
        release: digest("release_sha256"),
        lease: digest("lease_sha256"),
    }
    .message();
    let signature =
        base64::engine::general_purpose::STANDARD.decode(end["signature"].as_str().unwrap()).unwrap();
    // The last 32 bytes of the SubjectPublicKeyInfo are the Ed25519 key.
    let key = session.evidence().evidence().public_key().unwrap();
    UnparsedPublicKey::new(&ED25519, &key[key.len() - 32..]).verify(&message, &signature).unwrap();
    Some(end["reason"].as_str().unwrap().to_owned())
}

/// A room in the middle of an answer: three tokens are out, and the engine waits before the fourth.
async fn in_the_middle() -> (Room, Arc<session::Session<Full<Bytes>>>, http::Response<hyper::body::Incoming>)
{
    let mut room = Room::start().await;
    let release = room.release(1);
    room.run(&release).await;
    room.hold.after(3);
    let (session, response) = stream(&room).await;
    room.hold.reached().await;
    (room, session, response)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_ends_has_no_signed_end() {
    let (room, session, response) = in_the_middle().await;
    room.hold.release();
    assert_eq!(signed_end(&session, response).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_ends_a_running_stream_with_a_signed_reason() {
    let (mut room, session, response) = in_the_middle().await;
    let denial = room.authorities.deny_model().0;
    assert_eq!(room.hand(ControlKind::Denial, &denial).await, ControlAnswer::Accepted(Accepted::New));
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("model-denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapse_ends_a_running_stream_with_a_signed_reason() {
    let (room, session, response) = in_the_middle().await;
    room.pass_time(LEASE_MS);
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("lease-lapsed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_lease_and_a_newer_release_let_a_running_stream_go_on() {
    let (mut room, session, response) = in_the_middle().await;
    let second = room.release(2);
    room.run(&second).await;
    room.pass_time(LEASE_MS - 1);
    room.hold.release();
    assert_eq!(signed_end(&session, response).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_a_running_stream_and_the_weights_are_gone_for_good() {
    let (mut room, session, response) = in_the_middle().await;
    let mut revoked = room.release(2);
    let mut model = revoked.models[0].clone();
    model.state = ModelState::Revoked;
    revoked.models = List::new(vec![model]).unwrap();
    let revoked = room.authorities.sign(&revoked);
    // The answer comes once the weights are erased, and the engine that reads them is held.
    room.throw(ControlKind::Release, &revoked).await;
    while room.asked().await != "model-revoked" {}
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("model-revoked"));

    // A release that takes it back does not bring them back: this enclave has to be started again.
    let Room { authorities, house, control, identity, clock, hold } = room;
    drop(control);
    let control = house.control().await;
    let mut room = Room { authorities, house, control, identity, clock, hold };
    let third = room.release(3);
    room.run(&third).await;
    assert_eq!(room.asked().await, "model-revoked");
}

/// As [`Room::asked`], of a partner whose clock is right, whatever this machine's says.
async fn asked_at_the_right_time(room: &Room) -> String {
    let party = room.party(&room.identity);
    let stream = room.house.address().connect().await.unwrap();
    let challenged = match party.challenge(stream).await {
        Ok(challenged) => challenged,
        Err(error) => return error.code().to_owned(),
    };
    let appraised = challenged.appraise(Timestamp::from_millis(room.house.world().now_ms())).unwrap();
    if let Err(refused) = appraised.accepted() {
        return refused.code().to_owned();
    }
    let session = session::Session::start(appraised.confirm().await.unwrap(), Duration::from_secs(60));
    let session = session.await.unwrap();
    let request = http::Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(question("Hi", false))))
        .unwrap();
    let (status, body) = json(session.send(request).await.unwrap()).await;
    if status == StatusCode::OK { "served".to_owned() } else { body["error"]["code"].to_string() }
}

const DAY_MS: i64 = 24 * 3600 * 1000;
const YEAR_MS: i64 = 365 * DAY_MS;

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_clock_decides_nothing() {
    // The host sets its clock back by a year, to before the end of a release that has ended.
    let mut room = Room::at(YEAR_MS).await;
    let mut release = room.release(1);
    release.expires = UnixMillis((now_ms() + 30 * DAY_MS as u64) / 1000 * 1000);
    let release = room.authorities.sign(&release);
    let _ = room.hand(ControlKind::Release, &release).await;
    let request = room.control.ask().await;
    // The issuers know what time it is, so the lease is of one who does not.
    room.authorities.shift_ms = 0;
    let lease = room.authorities.lease(&request, &release, &[]);
    assert_eq!(room.hand(ControlKind::Lease, &lease).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(asked_at_the_right_time(&room).await, "release-expired");

    // The host sets its clock on by a year: what is in force stays in force.
    let mut room = Room::at(-YEAR_MS).await;
    let mut release = room.release(1);
    release.expires = UnixMillis((now_ms() - 335 * DAY_MS as u64) / 1000 * 1000);
    room.run(&release).await;
    assert_eq!(asked_at_the_right_time(&room).await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_clock_that_jumps_can_only_end_the_service() {
    let mut room = Room::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    let begin = room.clock.load(Ordering::SeqCst);
    room.clock.store(begin - 1, Ordering::SeqCst);
    assert_eq!(room.asked().await, "clock-went-back");
    assert_eq!(room.refused(ControlKind::Ask, b"").await, "clock-went-back");
    room.clock.store(begin + YEAR_MS as u64, Ordering::SeqCst);
    assert_eq!(room.asked().await, "lease-lapsed");
    // A lease that is asked for now lets it go on.
    room.renew(&release).await;
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_makes_nobody_forget_a_halt() {
    let mut room = Room::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    let denial = room.authorities.deny_model().0;
    let _ = room.hand(ControlKind::Denial, &denial).await;
    assert_eq!(room.asked().await, "model-denied");

    // The enclave forgets; whoever gives it a lease does not.
    let Room { authorities, identity, .. } = room;
    let mut again = Room::of(authorities, identity).await;
    let _ = again.hand(ControlKind::Release, &release).await;
    let request = again.control.ask().await;
    let lease = again.authorities.lease(&request, &release, &[&denial]);
    let _ = again.hand(ControlKind::Lease, &lease).await;
    assert_eq!(again.asked().await, "model-denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_one_enclave_is_worth_nothing_in_another_that_runs_beside_it() {
    let mut one = Room::start().await;
    let release = one.release(1);
    let release = one.run(&release).await;
    let other_authorities = Authorities::new();
    let mut other = Room::on(World::new(), other_authorities, Identity::generate().unwrap()).await;
    // Of the same authorities: both trust the same root.
    std::mem::swap(&mut one.authorities, &mut other.authorities);
    assert_eq!(other.refused(ControlKind::Release, &release).await, "threshold");
    std::mem::swap(&mut one.authorities, &mut other.authorities);

    let Room { authorities, identity, mut control, .. } = one;
    let mut second = Room::of(authorities, identity).await;
    let _ = second.hand(ControlKind::Release, &release).await;
    let (for_first, for_second) = (control.ask().await, second.control.ask().await);
    assert_ne!(for_first.nonce, for_second.nonce);
    let lease = second.authorities.lease(&for_first, &release, &[]);
    assert_eq!(second.refused(ControlKind::Lease, &lease).await, "wrong-nonce");
    assert_eq!(second.asked().await, "no-lease");
    let lease = second.authorities.lease(&for_second, &release, &[]);
    assert_eq!(second.hand(ControlKind::Lease, &lease).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(second.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_root_is_left_behind_and_the_keys_that_left_it_count_no_more() {
    let mut room = Room::start().await;
    let first = room.release(1);
    // Signed by two, of which one leaves with root 2.
    let first = room.run(&first).await;
    assert_eq!(room.asked().await, "served");
    let (old, next) = (room.authorities.root(), room.authorities.next_root());
    assert_eq!(room.hand(ControlKind::Root, &next).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(room.asked().await, "no-release");
    assert_eq!(room.refused(ControlKind::Root, &old).await, "rollback");
    assert_eq!(room.refused(ControlKind::Release, &first).await, "threshold");

    let second = room.authorities.sign_as([0, 1], &room.release(2));
    assert_eq!(room.hand(ControlKind::Release, &second).await, ControlAnswer::Accepted(Accepted::New));
    let request = room.control.ask().await;
    assert_eq!(request.root_version, 2);
    // The third authority's online key has left with it.
    let left = room.authorities.lease_of(2, &request, &second, &[]);
    assert_eq!(room.refused(ControlKind::Lease, &left).await, "threshold");
    let lease = room.authorities.lease(&request, &second, &[]);
    assert_eq!(room.hand(ControlKind::Lease, &lease).await, ControlAnswer::Accepted(Accepted::New));

    // A partner that pins the new root goes on, and one that still pins the old one has to take the new one first.
    let next = String::from_utf8(next).unwrap();
    let code = async |root: &str| {
        let policy = room.house.world().policy_under(root);
        let party = RelyingParty::new(&room.identity, policy, model_id()).unwrap();
        match session::appraise(&party, &room.house.address()).await {
            Ok(appraised) => appraised.accepted().err().map(|refused| refused.code()),
            Err(error) => Some(error.code()),
        }
    };
    assert_eq!(code(&next).await, None);
    assert_eq!(code(&room.authorities.root_text()).await, Some("lease-root"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_withholds_a_new_root_gets_no_more_leases() {
    let mut room = Room::start().await;
    let release = room.authorities.sign_as([0, 1], &room.release(1));
    let _ = room.hand(ControlKind::Release, &release).await;
    let request = room.control.ask().await;
    let mut service = room.authorities.service(2);
    service.accept_release(&release).unwrap();
    let refusal = service.draft_lease(&request, room.authorities.now()).unwrap_err();
    assert_eq!(refusal.code(), "root-outdated");
    // And a lease for the new root is none for an enclave that was not given it.
    let lease = room.authorities.lease(&LeaseRequest { root_version: 2, ..request }, &release, &[]);
    assert_eq!(room.refused(ControlKind::Lease, &lease).await, "lease-root");
    assert_eq!(room.asked().await, "no-lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_issuers_make_a_lease_and_one_twice_does_not() {
    let mut room = Room::start().await;
    let mut release = room.release(1);
    release.lease.issuers = 2;
    let release = room.authorities.sign(&release);
    let _ = room.hand(ControlKind::Release, &release).await;
    let early = room.control.ask().await;
    let of = |room: &Room, issuer, request: &LeaseRequest| {
        room.authorities.lease_of(issuer, request, &release, &[])
    };
    let earlier = of(&room, 1, &early);
    let request = room.control.ask().await;
    let more = ControlAnswer::Accepted(Accepted::MoreIssuersNeeded);
    for _ in 0..2 {
        let lease = of(&room, 0, &request);
        assert_eq!(room.hand(ControlKind::Lease, &lease).await, more);
    }
    assert_eq!(room.refused(ControlKind::Lease, &earlier).await, "wrong-nonce");
    assert_eq!(room.asked().await, "no-lease");
    let denial = room.authorities.deny_model().0;
    let second = room.authorities.lease_of(2, &request, &release, &[&denial]);
    assert_eq!(room.hand(ControlKind::Lease, &second).await, ControlAnswer::Accepted(Accepted::New));
    // What one of them denies is denied.
    assert_eq!(room.asked().await, "model-denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_is_shown_the_statement_of_every_issuer() {
    let mut room = Room::start().await;
    let mut release = room.release(1);
    release.lease.issuers = 2;
    let release = room.authorities.sign(&release);
    let _ = room.hand(ControlKind::Release, &release).await;
    let request = room.control.ask().await;
    for issuer in [0, 2] {
        let lease = room.authorities.lease_of(issuer, &request, &release, &[]);
        let _ = room.hand(ControlKind::Lease, &lease).await;
    }
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_model_finishes_what_runs_and_begins_nothing() {
    let (mut room, session, response) = in_the_middle().await;
    let mut draining = room.release(2);
    let mut model = draining.models[0].clone();
    model.state = ModelState::Draining;
    draining.models = List::new(vec![model]).unwrap();
    room.run(&draining).await;
    assert_eq!(room.asked().await, "model-draining");
    room.hold.release();
    assert_eq!(signed_end(&session, response).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_ends_a_running_stream_with_a_signed_reason() {
    let (mut room, session, response) = in_the_middle().await;
    let mut suspended = room.release(2);
    let mut model = suspended.models[0].clone();
    model.state = ModelState::Suspended;
    suspended.models = List::new(vec![model]).unwrap();
    let suspended = room.authorities.sign(&suspended);
    let _ = room.hand(ControlKind::Release, &suspended).await;
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("model-suspended"));
}

/// A stream through the local proxy, read up to its first event with text.
async fn proxied(room: &Room) -> http::Response<hyper::body::Incoming> {
    let proxy = room.proxy().await;
    let question = question("Tell me a short story.", true);
    let mut response = send(proxy, "POST", "/v1/chat/completions", &question).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.body_mut().frame().await.unwrap().unwrap().is_data());
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_cuts_what_runs_when_the_lease_it_was_shown_ends_and_no_other_is_proven() {
    let mut room = Room::start().await;
    let release = room.release(1);
    room.run(&release).await;
    // So much is left that the session is proven, and so little that its end comes soon.
    room.pass_time(LEASE_MS - 300);
    room.hold.after(3);
    let response = proxied(&room).await;
    room.hold.reached().await;
    // The lease lapses, and an enclave that does not obey it would go on: here, it says nothing at all.
    room.pass_time(LEASE_MS);
    assert!(response.into_body().collect().await.is_err(), "the stream must be cut");
    room.hold.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_lets_a_stream_go_on_when_the_same_clean_room_is_proven_again() {
    let mut room = Room::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    room.pass_time(LEASE_MS - 300);
    room.hold.after(3);
    let response = proxied(&room).await;
    room.hold.reached().await;
    let proven = room.house.recorder.len();
    room.renew(&release).await;
    let hold = Arc::clone(&room.hold);
    let recorder = room.house.recorder.clone();
    // Another handshake went by: the clean room was proven again while the stream waited.
    tokio::task::spawn_blocking(move || {
        while recorder.len() < proven + 4_096 {
            std::thread::yield_now();
        }
        hold.release();
    });
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_inside_the_enclave() {
    let mut room = Room::start().await;
    let mut release = room.release(1);
    let mut partner = release.partners[0].clone();
    partner.limits.requests_per_minute = 2;
    release.partners = List::new(vec![partner]).unwrap();
    room.run(&release).await;
    for expected in ["served", "served", "requests-per-minute-limit"] {
        assert_eq!(room.asked().await, expected);
    }
}
