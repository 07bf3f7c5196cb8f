//! Release control on a whole clean room: what the authorities permit runs, nothing else does, and the host cannot change it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use bytes::Bytes;
use cleanroom_attestation::channel::StreamEnd;
use cleanroom_attestation::model::model_digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::{
    Accepted, BootMillis, ControlAnswer, ControlKind, LeaseRequest, List, ModelState, Release,
};
use cleanroom_channel::identity::Identity;
use cleanroom_enclave::release::Clock;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::{self, SessionError, Sessions};
use cleanroom_tests::authorities::{Authorities, LEASE_MS};
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::house::{Control, House, model};
use cleanroom_tests::room::{World, model_id};
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
}

impl Hold {
    fn after(&self, tokens: u32) {
        *self.left.lock().unwrap() = Some(tokens);
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
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let hold = Arc::new(Hold::default());
        let (now, held) = (Arc::clone(&clock), Arc::clone(&hold));
        let clock_of_room = Clock::from_fn(move || {
            held.pass();
            BootMillis(now.load(Ordering::SeqCst))
        });
        let config = format!("[release]\nroot = '''{}'''\n", authorities.root_text());
        let house = House::start_on(World::new(), &config, clock_of_room).await;
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
