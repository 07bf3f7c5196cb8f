//! The process that holds what proves the enclave: the security module, the receipt key, and the authorities' permissions.
//!
//! The keeper never sees a prompt. It opens and hashes the model's bytes and parses none of them. It speaks to the worker only in the terms of
//! [`cleanroom_protocol`], and to the host only in those of [`cleanroom_link`] and of release control. It cannot depend on
//! HTTP, on the API or on an inference engine: `docs/architecture.md` lists its edges, and a test holds it to them.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod attester;
mod broker_request;
pub mod commitment;
mod control;
mod halt;
pub mod keys;
mod log;
pub mod receipt_key;
mod retention;
pub mod security_module;
mod tallies;
mod worker_link;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_config::Config;
use cleanroom_console::Line;
use cleanroom_guard::{Clock, Guard, Sealing};
use cleanroom_link::listener::Listener;
use cleanroom_protocol::{FromKeeper, Start};
use cleanroom_sealing::Key;
use cleanroom_weights::{How, Limits, Weights};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

pub use self::attester::Attester;
use self::control::Control;
pub use self::halt::Halt;
use self::keys::Released;
use self::receipt_key::ReceiptKey;
use self::security_module::{Device, SecurityModule};
pub use self::worker_link::{ALIVE_WITHIN, CONFIRM_WITHIN, WorkerEnd};
use self::worker_link::{Link, Told};

/// What the keeper gets from the platform that it runs on.
pub struct KeeperPlatform<D, L, S, O> {
    /// The security module.
    pub device: D,
    /// Where the host hands in releases, denials and leases. Needed when the configuration names a root.
    pub control: Option<L>,
    /// The machine's own clock.
    pub clock: Clock,
    /// The measured configuration.
    pub config: String,
    /// Where the host's store answers questions for the model's bytes. Untrusted: the keeper commits to their digest before
    /// the worker parses a byte of them.
    pub store: S,
    /// The most bytes that the model may have.
    pub model_limit: u64,
    /// The connection to the worker.
    pub worker: UnixStream,
    /// Lets partners' connections arrive, once the worker can take them.
    pub open: O,
}

/// The keeper's life: identify the weights, commit to them, hand them to the worker, and answer the worker until it has
/// drained after `shutdown`.
///
/// # Errors
/// [`Halt`]: the reason why the enclave does not serve, or no longer does.
pub async fn run<D, L, S, O, F>(platform: KeeperPlatform<D, L, S, O>, shutdown: F) -> Result<(), Halt>
where
    D: Device,
    L: Listener,
    S: Listener,
    O: FnOnce() -> io::Result<()>,
    F: Future<Output = ()>,
{
    let KeeperPlatform { device, control, clock, config: text, store, model_limit, worker, open } = platform;
    let config = Config::from_toml(&text)?;
    let security_module = SecurityModule::start(device)?;
    let mut shutdown = pin!(shutdown);
    let mut control = control;
    let key = tokio::select! {
        key = key_of(&config, &clock, &security_module, control.as_mut()) => key?,
        () = &mut shutdown => KeyOf::Drained,
    };
    let released = match key {
        KeyOf::Plain => None,
        KeyOf::Sealed(released) => Some(released),
        // An enclave that waits for its key has nothing to drain.
        KeyOf::Drained => return Ok(()),
    };
    let model = weights(store, model_limit, config.model_sha256, released).await?;
    // Of the weights, and of the engine that serves them if it is not the image's own.
    let digest = config.identity(model.digest());
    let guard = guard(&config, digest, clock.clone(), control.is_some())?;
    let attester = commit(security_module, &config, digest, guard.as_ref(), clock.clone()).await?;
    attester.begin_log().await?;

    let (mut read, mut write) = worker.into_split();
    // From here on the worker can show no other leaf, whatever it reads.
    let leaf = worker_link::leaf(&mut read).await?;
    let start = Start {
        config: text,
        model_digest: digest,
        receipt_key: attester.receipt_key().to_vec(),
        model_bytes: model.length(),
    };
    start_worker(&mut read, &mut write, start, model).await?;
    let mut tasks = JoinSet::new();
    let (link, holdings) = Link::new(write, clock, &mut tasks);
    open().map_err(Halt::Listen)?;
    link.serve().await;

    let mut control = pin!(serve_control(guard, control, &attester, &link, holdings));
    let drain = pin!(drain_after(shutdown, &link));
    tokio::select! {
        end = worker_link::answer(read, leaf, &attester, &link) => end?,
        end = &mut control => return Err(end.into()),
        never = drain => match never {},
    }
    // The worker has drained. The host may fetch the last records, and the end of the log.
    tokio::select! {
        () = async {
            attester.retention().drained().await;
            attester.end_log().await;
        } => Ok(()),
        end = control => Err(end.into()),
    }
}

/// What there is to know of the weights' key.
enum KeyOf {
    /// They are not sealed.
    Plain,
    /// The brokers have released it.
    Sealed(Released),
    /// The enclave was asked to end before it was there.
    Drained,
}

/// The key of the weights, if the configuration says that they are sealed.
async fn key_of<L: Listener>(
    config: &Config,
    clock: &Clock,
    security_module: &SecurityModule,
    control: Option<&mut L>,
) -> Result<KeyOf, Halt> {
    let Some(root) = config.release_root.as_ref().filter(|_| config.sealed) else { return Ok(KeyOf::Plain) };
    let control = control.ok_or(Halt::NoControl)?;
    let released = keys::obtain(config, root, clock.clone(), security_module, control).await?;
    Ok(released.map_or(KeyOf::Drained, KeyOf::Sealed))
}

/// The weights, if they have the identity that the configuration and the release expect. The store is asked no more afterwards.
async fn weights(
    mut store: impl Listener,
    limit: u64,
    expected: Option<Sha256Digest>,
    released: Option<Released>,
) -> Result<Weights, Halt> {
    let (how, released) = match released {
        Some(Released { key, model }) => (How::Sealed(Key::from_bytes(key.as_bytes())), Some(model)),
        None => (How::Plain, None),
    };
    let weights = cleanroom_weights::open(&mut store, how, &Limits::for_bytes(limit)).await?;
    let mut expected = expected.into_iter().chain(released);
    match expected.find(|expected| *expected != weights.digest()) {
        Some(expected) => Err(Halt::OtherModel { expected, actual: weights.digest() }),
        None => Ok(weights),
    }
}

/// Release control, if the configuration names a root. It needs a connection that feeds it.
fn guard(
    config: &Config,
    digest: Sha256Digest,
    clock: Clock,
    has_control: bool,
) -> Result<Option<Arc<Guard>>, Halt> {
    let Some(root) = &config.release_root else { return Ok(None) };
    let sealing = if config.sealed { Sealing::Sealed } else { Sealing::Plain };
    let guard = Guard::new(root, config.model.clone(), digest, sealing, clock).map_err(Halt::Root)?;
    if has_control { Ok(Some(guard)) } else { Err(Halt::NoControl) }
}

/// Commits to the model and to a new receipt key, and makes the attester that stands for both.
async fn commit(
    security_module: SecurityModule,
    config: &Config,
    digest: Sha256Digest,
    guard: Option<&Arc<Guard>>,
    clock: Clock,
) -> Result<Arc<Attester>, Halt> {
    let receipt_key = ReceiptKey::generate()?;
    let committed = commitment::commit(&security_module, digest, &receipt_key).await?;
    Line::Committed.say();
    let attester = Attester::new(committed, config.model.clone(), security_module, receipt_key)
        .listing(config.partners.clone())
        .timed_by(clock);
    Ok(Arc::new(match guard {
        Some(guard) => attester.guarded(Arc::clone(guard)),
        None => attester,
    }))
}

/// Hands the worker its configuration and the model, and waits until it can serve.
async fn start_worker(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    start: Start,
    model: Weights,
) -> Result<(), WorkerEnd> {
    let handed_over = async {
        write.write_all(&FromKeeper::Start(start).frame(0)).await?;
        // Each piece goes as soon as the worker has it, so that the model is not there twice.
        for piece in model.into_pieces() {
            write.write_all(&piece).await?;
        }
        Ok::<_, io::Error>(())
    };
    // A worker that cannot serve says so, and reads no further.
    let (_, ready) = tokio::join!(handed_over, worker_link::ready(read));
    ready
}

/// Takes what the host says on its control connections, for ever, or until the worker does not follow. Without release
/// control the host can fetch the log there and ask for a drain, and hand in nothing.
async fn serve_control<L: Listener>(
    guard: Option<Arc<Guard>>,
    control: Option<L>,
    attester: &Arc<Attester>,
    link: &Arc<Link>,
    holdings: UnboundedReceiver<Told>,
) -> WorkerEnd {
    let Some(mut listener) = control else { return std::future::pending().await };
    Control::new(guard, Arc::clone(attester), Arc::clone(link)).serve(&mut listener, holdings).await
}

/// Lets the worker drain after `shutdown`. The worker's last word then ends the keeper.
async fn drain_after(shutdown: impl Future<Output = ()>, link: &Link) -> std::convert::Infallible {
    shutdown.await;
    link.drain().await;
    std::future::pending().await
}

impl Attester {
    /// Answers one worker that only attests: it has no model, and nothing ever changes for it.
    ///
    /// # Errors
    /// [`WorkerEnd`]: why there is nobody to answer any more.
    pub async fn serve(self, worker: UnixStream) -> Result<(), WorkerEnd> {
        let (mut read, write) = worker.into_split();
        let leaf = worker_link::leaf(&mut read).await?;
        let mut tasks = JoinSet::new();
        let (link, _) = Link::new(write, Clock::boot(), &mut tasks);
        worker_link::answer(read, leaf, &Arc::new(self), &link).await
    }
}
