//! A clean room under authorities, whose time and tokens pass when the test says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
use crate::hold::Hold;
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
    pub hold: Hold,
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
        let hold = Hold::default();
        let (now, look) = (Arc::clone(&clock), hold.look());
        let clock_of_room = Clock::from_fn(move || {
            look();
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
