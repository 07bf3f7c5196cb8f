//! Setting up an attested session against a plain mutual-TLS handshake.
//!
//! Both ends have a thread of their own, as they would on two machines, and a Unix socket between them. A plain handshake ends
//! with a byte there and a byte back, after which both ends know that the other is ready; the attested side's exchange
//! is such a round trip itself.
//!
//! There are two plain sides. One is the channel's own TLS and nothing more: each end proves that it holds *some* key, so that
//! the difference is what attestation adds. The other is mutual TLS as it is commonly run: rustls's own
//! verifiers, and on each side a certificate under a private authority.

use std::error::Error;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_channel::identity::Identity;
use cleanroom_channel::tls;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::clock::now;
use cleanroom_worker::channel::Acceptor;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::clean_room::{ModuleTime, World, model_id, read_policy};
use crate::clock::{self, Samples};
use crate::limits::Primitives;
use crate::private_tls::{self, PrivateTls};
use crate::report::{Limit, Report};

/// The largest ratio of an attested set-up to a plain handshake, without the security module's answer.
const TARGET: f64 = 1.3;

/// How many set-ups of each kind are made before any is measured.
const WARM_UP: usize = 20;

/// What is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The channel's TLS, which judges no certificate.
    Bare,
    /// TLS with the same cryptography whose certificates are verified.
    Private,
    /// By a relying party that has seen the security module's chain before.
    Warm,
    /// By a relying party that verifies the whole chain.
    Cold,
}

/// Measures `rounds` set-ups of each kind, in turn.
pub(crate) fn measure(report: &mut Report, rounds: usize) -> Result<(), Box<dyn Error>> {
    let mut primitives = Primitives::new()?;
    let world = World::new()?;
    let digest = Sha256Digest::of(&[b"no weights"]);
    let runtime = current_thread()?;
    let (acceptor, module) = runtime.block_on(world.acceptor(digest))?;
    let private = PrivateTls::new()?;
    let acceptors = Acceptors {
        bare: TlsAcceptor::from(Arc::new(tls::server_config(&Identity::generate()?)?)),
        private: TlsAcceptor::from(Arc::new(private.server)),
    };
    let partner = Partner::new(read_policy(&world.policy(digest))?, private.client)?;
    let mut bench = Bench { partner, enclave: EnclaveEnd::start(acceptor, acceptors)?, module, runtime };
    let mut all = Results::default();
    for round in 0..WARM_UP + rounds {
        primitives.sample();
        for (kind, costs) in [
            (Kind::Bare, &mut all.bare),
            (Kind::Warm, &mut all.warm),
            (Kind::Private, &mut all.private),
            (Kind::Cold, &mut all.cold),
        ] {
            let cost = bench.one(kind)?;
            if round >= WARM_UP {
                costs.push(&cost);
            }
        }
    }
    describe(report, rounds, &primitives, &all);
    Ok(())
}

struct Bench {
    partner: Partner,
    enclave: EnclaveEnd,
    module: ModuleTime,
    runtime: Runtime,
}

impl Bench {
    fn one(&mut self, kind: Kind) -> Result<Cost, Box<dyn Error>> {
        let fresh = (kind == Kind::Cold).then(|| self.partner.fresh_party()).transpose()?;
        let party = fresh.as_ref().unwrap_or(&self.partner.party);
        let (near, far) = StdUnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        self.enclave.expect(kind, far)?;

        let module_before = self.module.spent();
        let (wall, cpu, own) = (Instant::now(), clock::process(), clock::thread());
        self.runtime.block_on(async {
            let stream = UnixStream::from_std(near)?;
            match kind {
                Kind::Bare => plain(&self.partner.bare, tls::server_name(), stream).await,
                Kind::Private => plain(&self.partner.private, private_tls::server_name()?, stream).await,
                Kind::Warm | Kind::Cold => Ok(attested(party, stream).await?),
            }
        })?;
        let enclave = self.enclave.done()?;
        let wall = wall.elapsed().max(enclave.ended.duration_since(wall));
        let (cpu, own) = (clock::process() - cpu, clock::thread() - own);
        let module_after = self.module.spent();
        let module_wall = module_after.0 - module_before.0;
        let module_cpu = module_after.1 - module_before.1;
        Ok(Cost {
            wall: wall.saturating_sub(module_wall),
            cpu: cpu.saturating_sub(module_cpu),
            partner: own,
            enclave: enclave.cpu,
            module: module_wall,
        })
    }
}

async fn attested(party: &RelyingParty, stream: UnixStream) -> Result<(), Box<dyn Error>> {
    party.challenge(stream).await?.appraise(now())?.confirm().await?;
    Ok(())
}

/// The partner's end.
struct Partner {
    identity: Identity,
    policy: Policy,
    party: RelyingParty,
    bare: TlsConnector,
    private: TlsConnector,
}

impl Partner {
    fn new(policy: Policy, private: ClientConfig) -> Result<Self, Box<dyn Error>> {
        let identity = Identity::generate()?;
        let party = RelyingParty::new(&identity, policy.clone(), model_id())?;
        let bare = TlsConnector::from(Arc::new(tls::client_config(&identity)?));
        Ok(Self { identity, policy, party, bare, private: TlsConnector::from(Arc::new(private)) })
    }

    fn fresh_party(&self) -> Result<RelyingParty, Box<dyn Error>> {
        Ok(RelyingParty::new(&self.identity, self.policy.clone(), model_id())?)
    }
}

async fn plain(
    connector: &TlsConnector,
    name: ServerName<'static>,
    stream: UnixStream,
) -> Result<(), Box<dyn Error>> {
    let mut stream = connector.connect(name, stream).await?;
    stream.write_u8(1).await?;
    stream.flush().await?;
    stream.read_u8().await?;
    Ok(())
}

/// The enclave's end, on a thread of its own.
struct EnclaveEnd {
    jobs: UnboundedSender<(Kind, StdUnixStream)>,
    ready: mpsc::Receiver<()>,
    done: mpsc::Receiver<io::Result<EnclaveCost>>,
}

struct Acceptors {
    bare: TlsAcceptor,
    private: TlsAcceptor,
}

struct EnclaveCost {
    ended: Instant,
    cpu: Duration,
}

impl EnclaveEnd {
    fn start(acceptor: Acceptor, acceptors: Acceptors) -> Result<Self, Box<dyn Error>> {
        let (jobs, queue) = unbounded_channel();
        let (say_ready, ready) = mpsc::channel();
        let (say_done, done) = mpsc::channel();
        let runtime = current_thread()?;
        std::thread::Builder::new()
            .name("enclave-end".to_owned())
            .spawn(move || runtime.block_on(serve(queue, acceptor, acceptors, say_ready, say_done)))?;
        Ok(Self { jobs, ready, done })
    }

    /// Returns when the enclave's end waits for the first byte.
    fn expect(&self, kind: Kind, stream: StdUnixStream) -> Result<(), Box<dyn Error>> {
        self.jobs.send((kind, stream)).map_err(|_| "the enclave's end is gone")?;
        Ok(self.ready.recv()?)
    }

    fn done(&self) -> Result<EnclaveCost, Box<dyn Error>> {
        Ok(self.done.recv()??)
    }
}

async fn serve(
    mut queue: UnboundedReceiver<(Kind, StdUnixStream)>,
    acceptor: Acceptor,
    acceptors: Acceptors,
    ready: mpsc::Sender<()>,
    done: mpsc::Sender<io::Result<EnclaveCost>>,
) {
    while let Some((kind, stream)) = queue.recv().await {
        let begun = clock::thread();
        let outcome = async {
            let stream = UnixStream::from_std(stream)?;
            let _ = ready.send(());
            match kind {
                Kind::Bare => accept_plain(&acceptors.bare, stream).await,
                Kind::Private => accept_plain(&acceptors.private, stream).await,
                Kind::Warm | Kind::Cold => match acceptor.accept(stream).await {
                    Ok(_session) => Ok(()),
                    Err(error) => Err(io::Error::other(error)),
                },
            }
        };
        let outcome = outcome.await;
        let cost = EnclaveCost { ended: Instant::now(), cpu: clock::thread() - begun };
        let _ = done.send(outcome.map(|()| cost));
    }
}

async fn accept_plain(acceptor: &TlsAcceptor, stream: UnixStream) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let byte = stream.read_u8().await?;
    stream.write_u8(byte).await?;
    stream.flush().await
}

fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// What one set-up cost. Wall time and processor time are without the security module's answer.
struct Cost {
    wall: Duration,
    /// All threads of the process.
    cpu: Duration,
    partner: Duration,
    enclave: Duration,
    /// How long the security module took for its answer.
    module: Duration,
}

#[derive(Default)]
struct Costs {
    wall: Samples,
    cpu: Samples,
    partner: Samples,
    enclave: Samples,
    module: Samples,
}

impl Costs {
    fn push(&mut self, cost: &Cost) {
        let microseconds = |duration: Duration| duration.as_secs_f64() * 1e6;
        self.wall.push(microseconds(cost.wall));
        self.cpu.push(microseconds(cost.cpu));
        self.partner.push(microseconds(cost.partner));
        self.enclave.push(microseconds(cost.enclave));
        self.module.push(microseconds(cost.module));
    }

    fn json(&self) -> Value {
        json!({
            "wall_us": self.wall.median(), "wall_least_us": self.wall.least(),
            "cpu_us": self.cpu.median(), "cpu_least_us": self.cpu.least(),
            "partner_cpu_us": self.partner.median(), "partner_cpu_least_us": self.partner.least(),
            "enclave_cpu_us": self.enclave.median(), "enclave_cpu_least_us": self.enclave.least(),
            "security_module_us": self.module.median(),
        })
    }

    fn row(&self, name: &str) -> String {
        format!(
            "  {name:<24}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>11.0}{:>11.0}",
            self.wall.median(),
            self.wall.least(),
            self.cpu.median(),
            self.cpu.least(),
            self.partner.median(),
            self.enclave.median()
        )
    }
}

#[derive(Default)]
struct Results {
    bare: Costs,
    private: Costs,
    warm: Costs,
    cold: Costs,
}

/// How much more than a plain side an attested one costs, by each measure.
struct Ratios {
    wall: f64,
    wall_least: f64,
    cpu: f64,
    cpu_least: f64,
}

impl Ratios {
    fn of(attested: &Costs, plain: &Costs) -> Self {
        Self {
            wall: attested.wall.median() / plain.wall.median(),
            wall_least: attested.wall.least() / plain.wall.least(),
            cpu: attested.cpu.median() / plain.cpu.median(),
            cpu_least: attested.cpu.least() / plain.cpu.least(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "wall": self.wall, "wall_of_the_least": self.wall_least,
            "cpu": self.cpu, "cpu_of_the_least": self.cpu_least,
        })
    }

    fn row(&self, name: &str) -> String {
        format!(
            "  {name:<36}{:>6.2}{:>9.2}{:>9.2}{:>9.2}",
            self.wall, self.wall_least, self.cpu, self.cpu_least
        )
    }
}

fn describe(report: &mut Report, rounds: usize, limits: &Primitives, all: &Results) {
    let Results { bare, private, warm, cold } = all;
    let least_added = limits.added_by_attestation();
    let possible = 1.0 + least_added / bare.cpu.median();
    let to_bare = Ratios::of(warm, bare);
    let to_private = Ratios::of(warm, private);
    let (cold_to_bare, cold_to_private) = (Ratios::of(cold, bare), Ratios::of(cold, private));

    report.line(format!(
        "Session set-up, {rounds} of each kind in turn over a Unix socket, both ends together, microseconds"
    ));
    report.line("                              wall    least      CPU    least    partner    enclave");
    report.line(bare.row("TLS alone, keys unknown"));
    report.line(private.row("mutual TLS, private CA"));
    report.line(warm.row("attested, chain known"));
    report.line(cold.row("attested, first time"));
    report.line("  ratio of attested to                  wall    least      CPU    least");
    report.line(to_bare.row("TLS alone, chain known"));
    report.line(to_private.row("mutual TLS, chain known"));
    report.line(cold_to_bare.row("TLS alone, first time"));
    report.line(cold_to_private.row("mutual TLS, first time"));
    report.line(format!(
        "  The security module's answer is timed inside its device and subtracted: {:.0} us with the software module.",
        warm.module.median()
    ));
    report.line("  What cannot be saved, CPU microseconds, measured between the set-ups:");
    for (name, cost) in limits.rows() {
        report.line(format!("    {name:<52}{cost:>7.0}"));
    }
    report.line(format!(
        "    so attestation adds {least_added:.0} to TLS alone at the least: no ratio below {possible:.2} is possible"
    ));

    report.section(
        "session_set_up",
        json!({
            "rounds": rounds,
            "tls_alone": bare.json(), "mutual_tls_private_ca": private.json(),
            "attested_chain_known": warm.json(), "attested_first_time": cold.json(),
            "ratio_chain_known": { "to_tls_alone": to_bare.json(), "to_mutual_tls": to_private.json() },
            "ratio_first_time": { "to_tls_alone": cold_to_bare.json(), "to_mutual_tls": cold_to_private.json() },
            "limit": {
                "primitives_us": limits.json(), "least_added_us": least_added, "least_ratio_to_tls_alone": possible,
            },
            "note": "the security module's answer is subtracted",
        }),
    );
    report.target("attested set-up / TLS alone, CPU", to_bare.cpu, Limit::AtMost(TARGET));
    report.target(
        "attested set-up / mutual TLS under a private CA, CPU",
        to_private.cpu,
        Limit::AtMost(TARGET),
    );
    report.target(
        "attested set-up / mutual TLS under a private CA, wall",
        to_private.wall,
        Limit::AtMost(TARGET),
    );
}
