//! The process that handles plaintext: TLS sessions, the HTTP API, and the backend that runs the model.
//!
//! ```text
//! host's relay ──► serve (bounded accept) ──► channel (TLS) ──► api (OpenAI and Anthropic over HTTP) ──► backend
//!                                               │ ▲                ▲
//!                       questions, by purpose   ▼ │                │ releases, leases, denials
//!                                             keeper (the other process)
//! ```
//!
//! The worker has what it was started with and can get nothing more: the connection to the keeper, the socket on which
//! partners arrive, and the console. [`confinement`] holds it to that. The worker cannot depend on the security module, on
//! the receipt key or on an engine: `docs/architecture.md` lists its edges, and a test holds it to them.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod admission;
pub mod api;
pub mod channel;
pub mod confinement;
mod connections;
mod grant;
mod keeper;
mod model_file;
mod pace;
mod policies;
mod public_attestation;
pub mod serve;
mod session;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cleanroom_backend::{
    Clock as BackendClock, EngineFacts, Flavour, LoadError, Loader, Settings, WallClock,
};
use cleanroom_channel::identity::{Identity, IdentityError};
use cleanroom_config::{Config, ConfigError, Engine, EngineKind};
use cleanroom_console::Line;
use cleanroom_guard::{Clock, Guard, Sealing};
use cleanroom_link::listener::Listener;
use cleanroom_protocol::{self as protocol, Change, FromKeeper, FromWorker, MAX_REASON_BYTES, Start};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

pub use self::admission::{AdmissionLimits, partners_share};
use self::api::Service;
use self::channel::Acceptor;
pub use self::grant::{Grant, Grants, Stop};
use self::keeper::Order;
pub use self::keeper::{Keeper, KeeperGone};
use self::model_file::ModelFile;
pub use self::public_attestation::Facts;
use self::serve::Server;
pub use self::session::{PartnerId, SessionIdentity};

/// Everything that the worker gets from whoever starts it.
pub struct WorkerInputs<M, C, O> {
    /// The connection to the keeper.
    pub keeper: UnixStream,
    /// The machine's own clock.
    pub clock: Clock,
    /// Makes a backend of the model file.
    pub loader: M,
    /// Takes away what the worker does not need. Called before a byte of the model is read.
    pub confine: C,
    /// The socket on which partners arrive, once they may.
    pub listener: O,
}

/// The worker's life, from its leaf to the end of its last session after the keeper lets it drain.
///
/// # Errors
/// [`WorkerError`], of which the keeper has been told.
pub async fn run<L, M, C, O>(inputs: WorkerInputs<M, C, O>) -> Result<(), WorkerError>
where
    L: Listener,
    M: Loader,
    C: FnOnce() -> io::Result<()>,
    O: FnOnce() -> io::Result<L>,
{
    let WorkerInputs { mut keeper, clock, loader, confine, listener } = inputs;
    let started = match start(&mut keeper, &clock, &loader, confine).await {
        Ok(started) => started,
        Err(error) => return Err(failed(&mut keeper, error).await),
    };
    let (mut keeper, prepared) = prepare(keeper, started, clock, loader).await?;
    match prepared {
        Ok(prepared) => serve(prepared, keeper, listener).await,
        Err(error) => Err(failed(&mut keeper, error).await),
    }
}

/// Tells the keeper why this worker does not serve.
async fn failed(keeper: &mut UnixStream, error: WorkerError) -> WorkerError {
    let printable = error.to_string().replace(char::is_control, " ");
    let reason = printable.chars().scan(0, |bytes, each| {
        *bytes += each.len_utf8();
        (*bytes <= MAX_REASON_BYTES).then_some(each)
    });
    let _ = keeper.write_all(&FromWorker::Failed(reason.collect()).frame(0)).await;
    error
}

/// A worker that was told what to serve, and is confined.
struct Started {
    identity: Identity,
    start: Start,
    config: Config,
    guard: Option<Arc<Guard>>,
}

/// A worker that has everything but partners.
struct Prepared {
    identity: Identity,
    start: Start,
    config: Config,
    service: Service,
    guard: Option<Arc<Guard>>,
    clock: Clock,
}

async fn start(
    keeper: &mut UnixStream,
    clock: &Clock,
    loader: &impl Loader,
    confine: impl FnOnce() -> io::Result<()>,
) -> Result<Started, WorkerError> {
    // Made before anything that a stranger wrote is read.
    let identity = Identity::generate()?;
    keeper.write_all(&FromWorker::Leaf(identity.leaf_digest()).frame(0)).await?;
    let (header, body) = protocol::read(keeper).await.map_err(|_| KeeperGone)?;
    let Ok(FromKeeper::Start(start)) = FromKeeper::decode(header.kind(), &body) else {
        return Err(KeeperGone.into());
    };
    let config = Config::from_toml(&start.config)?;
    // The last time that the system is asked about itself.
    loader.before_confinement();
    let _ = clock.now();
    confine().map_err(WorkerError::Confinement)?;
    let sealing = if config.sealed { Sealing::Sealed } else { Sealing::Plain };
    let guard = match &config.release_root {
        None => None,
        // The keeper has read the same root from the same configuration.
        Some(root) => Some(
            Guard::new(root, config.model.clone(), start.model_digest, sealing, clock.clone())
                .map_err(|_| KeeperGone)?,
        ),
    };
    Ok(Started { identity, start, config, guard })
}

/// Loads the model, whose bytes come next on the connection to the keeper, and gives the connection back.
async fn prepare<L: Loader>(
    keeper: UnixStream,
    started: Started,
    clock: Clock,
    loader: L,
) -> Result<(UnixStream, Result<Prepared, WorkerError>), WorkerError> {
    let Started { identity, start, config, guard } = started;
    let (length, settings) = (start.model_bytes, settings(&config, clock.clone()));
    let time = wall_clock(guard.clone());
    let load = move |file: &mut ModelFile| loader.load(file, length, settings, time);
    let (keeper, backend) = ModelFile::new(keeper, length).read_by(load).await?;
    let prepared = backend.map_err(WorkerError::Backend).map(|backend| {
        Line::ModelLoaded { model: &config.model, digest: &start.model_digest }.say();
        let service = Service::new(backend, config.model.clone(), start.model_digest, &config.limits)
            .shaped(config.traffic)
            .classified_by(L::classifier)
            .behind(config.engine.as_ref().map(|engine| engine.identity.clone()));
        Prepared { identity, start, config, service, guard, clock }
    });
    Ok((keeper, prepared))
}

/// The security module's time under release control, which the host cannot set; else the machine's own.
fn wall_clock(guard: Option<Arc<Guard>>) -> WallClock {
    match guard {
        Some(guard) => Arc::new(move || {
            let since = guard.wall_time().map_or(0, |time| time.0);
            SystemTime::UNIX_EPOCH + Duration::from_millis(since)
        }),
        None => Arc::new(SystemTime::now),
    }
}

/// The backend's part of the configured limits.
fn settings(config: &Config, clock: Clock) -> Settings {
    let limits = &config.limits;
    Settings {
        threads: limits.threads,
        sequences: limits.sequences,
        per_owner: partners_share(limits.sequences),
        queued: limits.queued,
        kv_memory: limits.kv_memory.get(),
        prefix_time: limits.prefix_time,
        clock: BackendClock::new(move || Duration::from_millis(clock.now().0)),
        engine: config.engine.as_ref().map(|engine| facts(engine, config)),
    }
}

/// What a backend is to know of the engine that the configuration names.
fn facts(engine: &Engine, config: &Config) -> EngineFacts {
    EngineFacts {
        flavour: match engine.kind {
            EngineKind::Vllm => Flavour::Vllm,
            EngineKind::LlamaServer => Flavour::LlamaServer,
            EngineKind::OpenAi => Flavour::OpenAi,
        },
        model: engine.served_model.clone().unwrap_or_else(|| config.model.as_str().to_owned()),
        context: engine.context,
        tools: engine.tools,
        reasoning: engine.reasoning,
        thinking_switch: engine.thinking_switch,
        effort: engine.reasoning_effort,
        logprobs: engine.logprobs,
        silence: engine.silence,
        start: engine.start,
    }
}

async fn serve<L: Listener>(
    prepared: Prepared,
    keeper: UnixStream,
    listener: impl FnOnce() -> io::Result<L>,
) -> Result<(), WorkerError> {
    let Prepared { identity, start, config, mut service, guard, clock } = prepared;
    let (read, write) = keeper.into_split();
    let (keeper, mut orders) = Keeper::connect(read, write);
    keeper.say(0, &FromWorker::Ready).await?;
    let Some(Order::Serve) = orders.recv().await else { return Err(KeeperGone.into()) };

    if let Some(guard) = &guard {
        service = service.guarded(Grants::new(Arc::clone(guard)), keeper.clone());
    }
    let service = Arc::new(service.receipted(keeper.clone(), clock.clone()));
    let acceptor = Acceptor::new(&identity, keeper.clone())?;
    let facts = Facts {
        model_id: config.model.clone(),
        model_digest: start.model_digest,
        receipt_key: start.receipt_key,
    };
    let server = Server::new(Arc::new(acceptor), facts, Arc::clone(&service), config).timed_by(clock);
    let listener = listener()?;
    let (drain, draining) = watch::channel(false);
    let shutdown = async move {
        let mut draining = draining;
        _ = draining.wait_for(|drain| *drain).await;
    };
    Line::Serving.say();
    tokio::select! {
        () = server.serve(listener, shutdown) => {}
        error = obey(&mut orders, &keeper, guard.as_ref(), &service, &drain) => return Err(error.into()),
    }
    Line::Drained.say();
    keeper.say(0, &FromWorker::Drained).await?;
    // The keeper hangs up when it has heard it.
    while orders.recv().await.is_some() {}
    Ok(())
}

/// Carries out the keeper's orders, until there is no keeper.
async fn obey(
    orders: &mut mpsc::Receiver<Order>,
    keeper: &Keeper,
    guard: Option<&Arc<Guard>>,
    service: &Arc<Service>,
    drain: &watch::Sender<bool>,
) -> KeeperGone {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve => {}
            Order::Drain => _ = drain.send_replace(true),
            Order::Probe => {
                let (service, keeper) = (Arc::clone(service), keeper.clone());
                // An engine that stands still keeps no order waiting.
                tokio::spawn(async move {
                    if let Some(load) = service.probe().await {
                        let _ = keeper.say(0, &FromWorker::Alive(load)).await;
                    }
                });
            }
            Order::Change(id, change) => {
                let Some(guard) = guard else { break };
                // What the keeper's guard accepted, or was changed by while it refused it, does the same here. The keeper reads no
                // rules, so a policy that cannot judge is as missing as one that has not come. One that waits for a classifier
                // comes with it.
                match change {
                    Change::Classifier(file) => {
                        let reader = Arc::clone(service);
                        let complete =
                            tokio::task::spawn_blocking(move || reader.read_classifier(&file)).await;
                        for policy in complete.unwrap_or_default() {
                            let _ = guard.accept_policy(policy);
                        }
                    }
                    Change::Policy(policy) if !service.read_policy(&policy) => {}
                    change => _ = guard.apply(&change),
                }
                service.release_changed().await;
                if keeper.say(id, &FromWorker::Done).await.is_err() {
                    break;
                }
            }
        }
    }
    KeeperGone
}

/// An acceptor for the keeper at the other end of `keeper`, and nothing more of a worker.
///
/// # Errors
/// [`WorkerError`] when there is no key or no keeper.
pub async fn acceptor(mut keeper: UnixStream) -> Result<Acceptor, WorkerError> {
    let identity = Identity::generate()?;
    keeper.write_all(&FromWorker::Leaf(identity.leaf_digest()).frame(0)).await?;
    let (read, write) = keeper.into_split();
    Ok(Acceptor::new(&identity, Keeper::connect(read, write).0)?)
}

/// Why a worker does not serve. The words are what the console shows.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No TLS key could be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration is not one.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What the worker does not need could not be taken away from it.
    #[error("the worker cannot be confined: {0}")]
    Confinement(#[source] io::Error),
    /// The model cannot be served.
    #[error("{0}")]
    Backend(#[source] LoadError),
    /// The keeper is gone.
    #[error(transparent)]
    Keeper(#[from] KeeperGone),
    /// The connection to the keeper or the socket for partners failed.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
}
