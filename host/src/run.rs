//! The host as a whole: a relay, an enclave if this host runs one, and the report for the operator.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Observed};
use crate::drain;
use crate::endpoint::{BoundListener, EnclaveAddress};
use crate::launcher::{Launcher, Patience, Pulse, RestartPolicy, State, Status, SuperviseError, supervise};
use crate::relay::{self, Counters, Limits};
use crate::status::{self, Sources};

/// How long an enclave that is to end waits for the host to reach it for its log.
const REACH_LOG: Duration = Duration::from_secs(5);

/// Relays to an enclave that somebody else runs, until `stop`. Behind `control` the enclave is told that it is to
/// drain.
///
/// # Errors
/// When the report can no longer be given.
pub async fn relay_only(
    listener: BoundListener,
    (enclave, control): (EnclaveAddress, Option<EnclaveAddress>),
    limits: Limits,
    report: Option<BoundListener>,
    stop: CancellationToken,
) -> io::Result<()> {
    let counters = Arc::new(Counters::default());
    let sources = Sources { relay: Arc::clone(&counters), enclave: None, release: None, stop: stop.clone() };
    let over = CancellationToken::new();
    let relay = async {
        let stopped = stop.clone().cancelled_owned();
        let cut = relay::serve(listener, Arc::new(enclave), limits, counters, stopped).await;
        over.cancel();
        cut
    };
    let tell = async {
        stop.cancelled().await;
        if let Some(control) = &control {
            drain::tell(control, &over).await;
        }
    };
    let relay = async { tokio::join!(tell, relay).1 };
    tokio::select! {
        cut = relay => {
            tracing::info!(cut, "drained");
            Ok(())
        }
        result = report_until_the_end(report, sources) => result,
    }
}

/// Runs an enclave, relays to it and keeps it in touch with the authorities, until `stop`. `ready` is called
/// once, when the enclave first accepts connections.
///
/// On `stop` the relay takes no more connections, and the enclave is told to drain. Both have the same time to
/// come to their end. If the host keeps the enclave's log, it reaches the enclave for it first, so that the log
/// has its end.
///
/// # Errors
/// [`RunError`] when the enclave cannot be kept running.
pub async fn with_enclave<L: Launcher>(
    launcher: L,
    access: Access,
    listener: BoundListener,
    settings: Settings,
    report: Option<BoundListener>,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let partner = Arc::new(access.partner);
    let (status, mut watched) = watch::channel(Status::new());
    let counters = Arc::new(Counters::default());
    let (observed, release) = watch::channel(Observed::default());
    let witnesses = access.agent.as_ref().and_then(|(_, settings)| settings.witnesses());
    let keeps_log = access.agent.as_ref().is_some_and(|(_, settings)| settings.log.is_some());
    let followed = release.clone();
    let is_leased = access.agent.as_ref().is_some_and(|(_, settings)| settings.hands_in());
    let pulse = if is_leased { Pulse::of(release.clone()) } else { Pulse::default() };
    let sources = Sources {
        relay: Arc::clone(&counters),
        enclave: Some(watched.clone()),
        release: is_leased.then_some(release),
        stop: stop.clone(),
    };

    // If the enclave cannot be kept running, the relay has nothing to wait for.
    let relay_stop = stop.child_token();
    let enclave_stop = CancellationToken::new();
    let is_serving = watched.clone();
    let end_enclave = async {
        stop.cancelled().await;
        if keeps_log && is_serving.borrow().state == State::Serving {
            follows_log(followed).await;
        }
        enclave_stop.cancel();
        std::future::pending::<()>().await;
    };
    let enclave_task = async {
        let stop = enclave_stop.clone();
        let result = supervise(launcher, settings.restart, settings.patience, pulse, &status, stop).await;
        relay_stop.cancel();
        result
    };
    let relay_task = async {
        let stopped = relay_stop.clone().cancelled_owned();
        relay::serve(listener, partner, settings.limits, counters, stopped).await
    };
    let agent = async {
        match access.agent {
            Some((control, settings)) => agent::serve(control, settings, observed).await,
            None => std::future::pending().await,
        }
    };
    let cosign = async {
        match &witnesses {
            Some(witnesses) => witnesses.run().await,
            None => std::future::pending().await,
        }
    };
    let announce = async {
        if watched.wait_for(|status| status.state == State::Serving).await.is_ok() {
            ready();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        (result, cut) = async { tokio::join!(enclave_task, relay_task) } => {
            tracing::info!(cut, "drained");
            if let Some(witnesses) = &witnesses {
                witnesses.finish().await;
            }
            Ok(result?)
        }
        result = report_until_the_end(report, sources) => Ok(result?),
        () = announce => Ok(()),
        () = end_enclave => Ok(()),
        () = cosign => Ok(()),
        () = agent => Ok(()),
    }
}

/// Waits until the enclave has heard that its log is fetched, or until it has had its time to.
async fn follows_log(mut observed: watch::Receiver<Observed>) {
    let reached = observed.wait_for(Observed::follows_log);
    if tokio::time::timeout(REACH_LOG, reached).await.is_err() {
        tracing::warn!("the enclave ends before its log could be fetched");
    }
}

/// How the host reaches the enclave.
#[derive(Debug)]
pub struct Access {
    /// Where partners' connections go.
    pub partner: EnclaveAddress,
    /// The control address, and what is handed in and fetched there. None when that is nothing.
    pub agent: Option<(EnclaveAddress, agent::Settings)>,
}

/// How an enclave is run and relayed to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Limits of the relay.
    pub limits: Limits,
    /// When the enclave is started again.
    pub restart: RestartPolicy,
    /// How long the enclave may take.
    pub patience: Patience,
}

/// Why a host ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The enclave could not be kept running.
    #[error(transparent)]
    Enclave(#[from] SuperviseError),
    /// The report can no longer be given.
    #[error("the status address failed: {0}")]
    Status(#[from] io::Error),
}

/// Gives the report, if there is an address for it; never completes otherwise.
async fn report_until_the_end(listener: Option<BoundListener>, sources: Sources) -> io::Result<()> {
    match listener {
        Some(listener) => status::serve(listener, sources).await,
        None => std::future::pending().await,
    }
}
