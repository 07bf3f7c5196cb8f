//! A clean room under authorities, whose time and tokens pass when the test says so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use cleanroom_attestation::model::model_digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::{Accepted, BootMillis, Release};
use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_partner::channel::RelyingParty;
use http::StatusCode;

use crate::authorities::Authorities;
use crate::clean_room::{CleanRoom, Control, model};
use crate::client::{json, question, send};
use crate::platform::{World, model_id};

/// A clean room under a root, its partner, and a clock that the test moves.
pub struct ReleasedRoom {
    /// Its authorities.
    pub authorities: Authorities,
    /// The enclave, and the host around it.
    pub clean_room: CleanRoom,
    /// The host's end of the control connection.
    pub control: Control,
    /// The partner that releases name.
    pub identity: Identity,
    /// The enclave's clock, in milliseconds.
    pub clock: Arc<AtomicU64>,
    /// Where the engine stops.
    pub hold: Arc<Hold>,
}

/// Looks at the clock for each token of one answer: before the step, and when the token is permitted.
const LOOKS: u32 = 2;

/// Stops the engine at a token, so that something can happen in the middle of an answer.
#[derive(Default)]
pub struct Hold {
    /// Looks at the clock that the engine may still take; `None` for any number.
    left: Mutex<Option<u32>>,
    changed: Condvar,
    /// Whether the engine stands at the token.
    reached: AtomicBool,
}

impl Hold {
    /// Stops the engine after so many tokens.
    pub fn after(&self, tokens: u32) {
        *self.left.lock().unwrap() = Some(tokens * LOOKS);
    }

    /// Waits until the engine stands there, so that it looks at no clock before it is released.
    pub async fn reached(&self) {
        while !self.reached.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }

    /// Lets the engine go on.
    pub fn release(&self) {
        *self.left.lock().unwrap() = None;
        self.changed.notify_all();
    }

    /// Called whenever the enclave looks at its clock.
    pub fn pass(&self) {
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

impl ReleasedRoom {
    /// A clean room of new authorities, for a new partner.
    pub async fn start() -> Self {
        let authorities = Authorities::new();
        Self::of(authorities, Identity::generate().unwrap()).await
    }

    /// A boot of a clean room of these authorities.
    pub async fn of(authorities: Authorities, identity: Identity) -> Self {
        Self::on(World::new(), authorities, identity).await
    }

    /// A clean room whose security module and authorities are `shift_ms` ahead of the clock of this machine, which is the host's.
    pub async fn at(shift_ms: i64) -> Self {
        let mut authorities = Authorities::new();
        authorities.shift_ms = shift_ms;
        Self::on(World::at(shift_ms), authorities, Identity::generate().unwrap()).await
    }

    /// The same on a security module.
    pub async fn on(world: World, authorities: Authorities, identity: Identity) -> Self {
        Self::configured(world, authorities, identity, "").await
    }

    /// A clean room whose answers leave slowly: 1024 bytes, some three events, every ten seconds.
    pub async fn slow() -> Self {
        Self::slow_and("").await
    }

    /// The same, with more lines of configuration.
    pub async fn slow_and(more: &str) -> Self {
        let traffic = format!("[traffic]\nstep = 1024\ncadence = \"10s\"\n{more}");
        Self::configured(World::new(), Authorities::new(), Identity::generate().unwrap(), &traffic).await
    }

    async fn configured(world: World, authorities: Authorities, identity: Identity, more: &str) -> Self {
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let hold = Arc::new(Hold::default());
        let (now, held) = (Arc::clone(&clock), Arc::clone(&hold));
        let clock_of_room = Clock::from_fn(move || {
            held.pass();
            BootMillis(now.load(Ordering::SeqCst))
        });
        let config = format!("[release]\nroot = '''{}'''\n{more}", authorities.root_text());
        let clean_room = CleanRoom::start_on(world, &config, clock_of_room).await;
        let control = clean_room.control().await;
        Self { authorities, clean_room, control, identity, clock, hold }
    }

    /// A release of this image and model for the partner.
    pub fn release(&self, version: u64) -> Release {
        let image = self.clean_room.world().image();
        self.authorities.release(version, image, model_digest(&model()), self.identity.key_digest())
    }

    /// Hands in a release and a lease for it.
    pub async fn run(&mut self, release: &Release) -> Vec<u8> {
        let release = self.authorities.sign(release);
        assert_eq!(self.hand(ControlKind::RELEASE, &release).await, ControlAnswer::Accepted(Accepted::New));
        self.renew(&release).await;
        release
    }

    /// Hands in a lease for a release.
    pub async fn renew(&mut self, release: &[u8]) {
        let request = self.control.ask().await;
        let lease = self.authorities.lease(&request, release, &[]);
        assert_eq!(self.hand(ControlKind::LEASE, &lease).await, ControlAnswer::Accepted(Accepted::New));
    }

    /// Hands in a document.
    pub async fn hand(&mut self, kind: ControlKind, body: &[u8]) -> ControlAnswer {
        self.control.send(kind, body).await
    }

    /// Sends a frame and does not wait for the answer.
    pub async fn throw(&mut self, kind: ControlKind, body: &[u8]) {
        self.control.throw(kind, body).await;
    }

    /// Hands in a document that is refused, and gives the code.
    pub async fn refused(&mut self, kind: ControlKind, body: &[u8]) -> String {
        match self.hand(kind, body).await {
            ControlAnswer::Refused(code) => code,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// Moves the enclave's clock on.
    pub fn pass_time(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    /// The policy of a partner that requires release control.
    pub fn policy(&self) -> Policy {
        self.clean_room.world().policy_under(&self.authorities.root_text())
    }

    /// A partner with that policy.
    pub fn party(&self, identity: &Identity) -> RelyingParty {
        RelyingParty::new(identity, self.policy(), model_id()).unwrap()
    }

    /// A proxy of the partner that releases name.
    pub async fn proxy(&self) -> SocketAddr {
        self.clean_room.proxy_under(&self.identity, self.policy()).await
    }

    /// The code with which a request of the partner, on a session of its own, is refused; `served` if it is not.
    pub async fn asked(&self) -> String {
        let proxy = self.proxy().await;
        let (status, body) =
            json(send(proxy, "POST", "/v1/chat/completions", &question("Hi", false)).await).await;
        if status == StatusCode::OK {
            return "served".to_owned();
        }
        let code = body["error"]["code"].as_str().unwrap();
        // Refused before the session or on it: these tests ask what is refused, not by whom it is told.
        code.strip_prefix("unproven/").unwrap_or(code).to_owned()
    }
}
