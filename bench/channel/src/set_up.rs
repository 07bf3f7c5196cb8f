//! Setting up an attested session against a plain mutual-TLS handshake.
//!
//! Both ends have a thread of their own, as they would on two machines, and a Unix socket between them. The plain side ends
//! with a byte there and a byte back, after which both ends know that the other is ready; the attested side's exchange
//! is such a round trip itself.

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
use cleanroom_enclave::channel::Attester;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::now;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::clean_room::{ModuleTime, World, model_id, read_policy};
use crate::clock::{self, Samples};
use crate::limits::Primitives;
use crate::report::{Limit, Report};

/// The largest ratio of an attested set-up to a plain handshake, without the security module's answer.
const TARGET: f64 = 1.3;

/// How many set-ups of each kind are made before any is measured.
const WARM_UP: usize = 20;

/// What is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// By a relying party that has seen the security module's chain before.
    Warm,
    /// By a relying party that verifies the whole chain.
    Cold,
}

/// Measures `rounds` set-ups of each kind, in turn.
pub(crate) fn measure(report: &mut Report, rounds: usize) -> Result<(), Box<dyn Error>> {
    let primitives = Primitives::measure()?;
    let world = World::new()?;
    let digest = Sha256Digest::of(&[b"no weights"]);
    let runtime = current_thread()?;
    let (attester, module) = runtime.block_on(world.attester(digest))?;
    let server_identity = Identity::generate()?;
    let mut bench = Bench {
        partner: Partner::new(read_policy(&world.policy(digest))?)?,
        enclave: EnclaveEnd::start(
            attester,
            TlsAcceptor::from(Arc::new(tls::server_config(&server_identity)?)),
        )?,
        module,
        runtime,
    };
    let (mut plain, mut warm, mut cold) = (Costs::default(), Costs::default(), Costs::default());
    for round in 0..WARM_UP + rounds {
        for (kind, costs) in [(Kind::Plain, &mut plain), (Kind::Warm, &mut warm), (Kind::Cold, &mut cold)] {
            let cost = bench.one(kind)?;
            if round >= WARM_UP {
                costs.push(&cost);
            }
        }
    }
    describe(report, rounds, &primitives, &plain, &warm, &cold);
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
                Kind::Plain => self.partner.plain(stream).await,
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
    connector: TlsConnector,
}

impl Partner {
    fn new(policy: Policy) -> Result<Self, Box<dyn Error>> {
        let identity = Identity::generate()?;
        let party = RelyingParty::new(&identity, policy.clone(), model_id())?;
        let connector = TlsConnector::from(Arc::new(tls::client_config(&identity)?));
        Ok(Self { identity, policy, party, connector })
    }

    fn fresh_party(&self) -> Result<RelyingParty, Box<dyn Error>> {
        Ok(RelyingParty::new(&self.identity, self.policy.clone(), model_id())?)
    }

    async fn plain(&self, stream: UnixStream) -> Result<(), Box<dyn Error>> {
        let mut stream = self.connector.connect(tls::server_name(), stream).await?;
        stream.write_all(&[1]).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok(())
    }
}

/// The enclave's end, on a thread of its own.
struct EnclaveEnd {
    jobs: UnboundedSender<(Kind, StdUnixStream)>,
    ready: mpsc::Receiver<()>,
    done: mpsc::Receiver<io::Result<EnclaveCost>>,
}

struct EnclaveCost {
    ended: Instant,
    cpu: Duration,
}

impl EnclaveEnd {
    fn start(attester: Attester, acceptor: TlsAcceptor) -> Result<Self, Box<dyn Error>> {
        let (jobs, queue) = unbounded_channel();
        let (say_ready, ready) = mpsc::channel();
        let (say_done, done) = mpsc::channel();
        let runtime = current_thread()?;
        std::thread::Builder::new()
            .name("enclave-end".to_owned())
            .spawn(move || runtime.block_on(serve(queue, attester, acceptor, say_ready, say_done)))?;
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
    attester: Attester,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<()>,
    done: mpsc::Sender<io::Result<EnclaveCost>>,
) {
    while let Some((kind, stream)) = queue.recv().await {
        let begun = clock::thread();
        let outcome = async {
            let stream = UnixStream::from_std(stream)?;
            let _ = ready.send(());
            match kind {
                Kind::Plain => plain(&acceptor, stream).await,
                Kind::Warm | Kind::Cold => match attester.accept(stream).await {
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

async fn plain(acceptor: &TlsAcceptor, stream: UnixStream) -> io::Result<()> {
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
            "partner_cpu_us": self.partner.median(),
            "enclave_cpu_us": self.enclave.median(),
            "security_module_us": self.module.median(),
        })
    }

    fn row(&self, name: &str) -> String {
        format!(
            "  {name:<22}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>11.0}{:>11.0}",
            self.wall.median(),
            self.wall.least(),
            self.cpu.median(),
            self.cpu.least(),
            self.partner.median(),
            self.enclave.median()
        )
    }
}

fn describe(
    report: &mut Report,
    rounds: usize,
    limits: &Primitives,
    plain: &Costs,
    warm: &Costs,
    cold: &Costs,
) {
    let ratio = |of: fn(&Costs) -> f64, costs: &Costs| of(costs) / of(plain);
    let (wall, cpu): (fn(&Costs) -> f64, fn(&Costs) -> f64) = (|c| c.wall.median(), |c| c.cpu.median());
    let wall_least: fn(&Costs) -> f64 = |c| c.wall.least();
    let cpu_least: fn(&Costs) -> f64 = |c| c.cpu.least();
    let least_added = limits.added_by_attestation();
    let possible = (cpu(plain) + least_added) / cpu(plain);

    report.line(format!(
        "Session set-up, {rounds} of each kind in turn over a Unix socket, microseconds; both ends together"
    ));
    report.line("                         wall    least      CPU    least    partner    enclave");
    report.line(plain.row("plain mutual TLS"));
    report.line(warm.row("attested, known chain"));
    report.line(cold.row("attested, first time"));
    report.line(format!(
        "  ratio, known chain: wall {:.2} (of the least {:.2}), CPU {:.2} (of the least {:.2})",
        ratio(wall, warm),
        ratio(wall_least, warm),
        ratio(cpu, warm),
        ratio(cpu_least, warm)
    ));
    report.line(format!("  ratio, first time:  wall {:.2}, CPU {:.2}", ratio(wall, cold), ratio(cpu, cold)));
    report.line(format!(
        "  The security module's answer is measured inside its device and subtracted: {:.0} us here with the software module.",
        warm.module.median()
    ));
    report.line("  What cannot be saved, in CPU microseconds of this machine:");
    for (name, cost) in limits.rows() {
        report.line(format!("    {name:<52}{cost:>7.0}"));
    }
    report.line(format!(
        "    so attestation adds at least {least_added:.0}: the ratio cannot be below {possible:.2}"
    ));

    report.section(
        "session_set_up",
        json!({
            "rounds": rounds,
            "plain": plain.json(), "attested_known_chain": warm.json(), "attested_first_time": cold.json(),
            "ratio_known_chain": { "wall": ratio(wall, warm), "cpu": ratio(cpu, warm) },
            "ratio_first_time": { "wall": ratio(wall, cold), "cpu": ratio(cpu, cold) },
            "limit": { "primitives_us": limits.json(), "least_added_us": least_added, "least_ratio": possible },
            "note": "the security module's answer is subtracted",
        }),
    );
    report.target("attested set-up / plain handshake, CPU", ratio(cpu, warm), Limit::AtMost(TARGET));
    report.target("attested set-up / plain handshake, wall", ratio(wall, warm), Limit::AtMost(TARGET));
}
