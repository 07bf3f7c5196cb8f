//! The process that holds what proves the enclave: the security module, the receipt key, and what the authorities permit.
//!
//! It never sees a prompt, parses no byte of the model, and speaks to the worker in the terms of [`cleanroom_protocol`] only.

mod control;
mod desk;
mod link;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use cleanroom_attestation::model::ModelDigester;
use cleanroom_protocol::{FromKeeper, Start};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use self::control::Control;
pub use self::desk::Desk;
use self::link::Link;
pub use self::link::{CONFIRM_WITHIN, WorkerEnd};
use crate::Halt;
use crate::commitment;
use crate::config::Config;
use crate::model_port::ModelBytes;
use crate::receipt_key::ReceiptKey;
use crate::release::{Clock, Guard};
use crate::security_module::{Device, SecurityModule};
use crate::serve::Listener;

/// What the keeper gets from the platform that it runs on.
pub struct KeeperPlatform<D, L, O> {
    /// The security module.
    pub device: D,
    /// Where the host hands in releases, denials and leases. Needed when the configuration names a root.
    pub control: Option<L>,
    /// The machine's own clock.
    pub clock: Clock,
    /// The measured configuration.
    pub config: String,
    /// The model file. Untrusted: its digest is committed before a byte of it is parsed.
    pub model: ModelBytes,
    /// The connection to the worker.
    pub worker: UnixStream,
    /// Lets partners' connections arrive, once the worker can take them.
    pub open: O,
}

/// The keeper's life: identify the weights, commit to them, hand them to the worker, and answer it until it has drained after
/// `shutdown`.
///
/// # Errors
/// [`Halt`]: the reason why the enclave does not serve, or no longer does.
pub async fn run<D, L, O, F>(platform: KeeperPlatform<D, L, O>, shutdown: F) -> Result<(), Halt>
where
    D: Device,
    L: Listener,
    O: FnOnce() -> io::Result<()>,
    F: Future<Output = ()>,
{
    let KeeperPlatform { device, control, clock, config: text, model, worker, open } = platform;
    let config = Config::from_toml(&text)?;
    let digest = {
        let mut digester = ModelDigester::new();
        model.pieces().for_each(|piece| digester.update(piece));
        digester.finish()
    };
    if let Some(expected) = config.model_sha256.filter(|expected| *expected != digest) {
        return Err(Halt::OtherModel { expected, actual: digest });
    }

    let security_module = SecurityModule::start(device)?;
    let receipt_key = ReceiptKey::generate()?;
    let committed = commitment::commit(&security_module, digest, &receipt_key).await?;
    tracing::info!("commitments made, locked and read back");

    let mut desk = Desk::new(committed, config.model.clone(), security_module, receipt_key);
    let guard = match &config.release_root {
        None => None,
        Some(root) => {
            let guard = Guard::new(root, config.model, digest, clock).map_err(Halt::Root)?;
            desk = desk.guarded(Arc::clone(&guard));
            Some((guard, control.ok_or(Halt::NoControl)?))
        }
    };
    let desk = Arc::new(desk);

    let (mut read, mut write) = worker.into_split();
    // From here on the worker can show no other leaf, whatever it reads.
    let leaf = link::leaf(&mut read).await?;
    let start = Start {
        config: text,
        model_digest: digest,
        receipt_key: desk.receipt_key().to_vec(),
        model_bytes: model.length(),
    };
    let handed_over = async {
        write.write_all(&FromKeeper::Start(start).frame(0)).await?;
        // Each piece goes as soon as the worker has it, so that the model is not there twice.
        for piece in model.into_pieces() {
            write.write_all(&piece).await?;
        }
        Ok::<_, io::Error>(())
    };
    // A worker that cannot serve says so, and reads no further.
    let (_, ready) = tokio::join!(handed_over, link::ready(&mut read));
    ready?;

    let mut tasks = JoinSet::new();
    let link = Link::new(write, &mut tasks);
    open().map_err(Halt::Listen)?;
    link.say(&FromKeeper::Serve).await;
    let control = async {
        match guard {
            Some((guard, listener)) => {
                let (desk, link) = (Arc::clone(&desk), Arc::clone(&link));
                Control { guard, desk, link }.serve(listener).await
            }
            None => std::future::pending().await,
        }
    };
    let drain = async {
        shutdown.await;
        link.say(&FromKeeper::Drain).await;
        std::future::pending::<()>().await;
    };
    let (control, drain) = (pin!(control), pin!(drain));
    tokio::select! {
        end = link::answer(read, leaf, &desk, &link) => Ok(end?),
        end = control => Err(end.into()),
        () = drain => Ok(()),
    }
}

impl Desk {
    /// Answers one worker that is an attester and nothing more: it was given no model, and nothing ever changes for it.
    ///
    /// # Errors
    /// [`WorkerEnd`]: why there is nobody to answer any more.
    pub async fn serve(self, worker: UnixStream) -> Result<(), WorkerEnd> {
        let (mut read, write) = worker.into_split();
        let leaf = link::leaf(&mut read).await?;
        let mut tasks = JoinSet::new();
        let link = Link::new(write, &mut tasks);
        link::answer(read, leaf, &Arc::new(self), &link).await
    }
}
