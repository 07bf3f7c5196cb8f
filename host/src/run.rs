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
use crate::probe::{self, Vitals};
use crate::relay::{self, Counters, Limits, NextHost, Partners, Threads};
use crate::status::{self, Sources};
use crate::witnesses::Witnesses;

/// How long an enclave that is to end waits for the host to reach it for its log.
const REACH_LOG: Duration = Duration::from_secs(5);

/// Relays to an enclave that somebody else runs, or to another host, until `stop`. Behind `control` the enclave is told
/// that it is to drain.
///
/// # Errors
/// When the system gives no threads, or the report can no longer be given.
pub async fn relay_only(
    partners: Partners,
    (next, control): (NextHost, Option<EnclaveAddress>),
    limits: Limits,
    report: Option<BoundListener>,
    stop: CancellationToken,
) -> io::Result<()> {
    let counters = Arc::new(Counters::default());
    let sources = Sources {
        relay: Arc::clone(&counters),
        enclave: None,
        probes: None,
        release: None,
        stop: stop.clone(),
    };
    let over = CancellationToken::new();
    let relay = relay::begin(Threads::start()?, partners, Arc::new(next), limits, counters)?;
    let relay = async {
        let stopped = stop.clone().cancelled_owned();
        let cut = relay.until(stopped).await;
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

/// Runs an enclave, relays to it, probes it and keeps it in touch with the authorities, until `stop`. `ready` is
/// called once, when the enclave accepts connections and has answered a probe.
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
    partners: Partners,
    settings: Settings,
    report: Option<BoundListener>,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let Access { partner, control, agent } = access;
    let counters = Arc::new(Counters::default());
    let (status, enclave) = watch::channel(Status::new());
    let (vitals, probes) = watch::channel(Vitals::default());
    let (observed, release) = watch::channel(Observed::default());
    let witnesses = agent.as_ref().and_then(agent::Settings::witnesses);
    let cosigned = witnesses.as_ref().map(Witnesses::cosigned);
    let follow = agent.as_ref().is_some_and(|agent| agent.log.is_some()).then(|| release.clone());
    let sources = Sources {
        relay: Arc::clone(&counters),
        enclave: Some(enclave.clone()),
        probes: Some(probes.clone()),
        release: agent.as_ref().is_some_and(agent::Settings::hands_in).then_some(release),
        stop: stop.clone(),
    };

    // If the enclave cannot be kept running, the relay has nothing to wait for.
    let relay_stop = stop.child_token();
    let enclave_stop = CancellationToken::new();
    let enclave_task = async {
        let (pulse, stop) = (Pulse::of(probes.clone()), enclave_stop.clone());
        let result = supervise(launcher, settings.restart, settings.patience, pulse, &status, stop).await;
        relay_stop.cancel();
        result
    };
    let stopped = relay_stop.clone().cancelled_owned();
    let relay = Threads::start()
        .and_then(|threads| relay::begin(threads, partners, Arc::new(partner), settings.limits, counters));
    let relay_task = relay.map_err(RunError::Threads)?.until(stopped);
    tokio::select! {
        (result, cut) = async { tokio::join!(enclave_task, relay_task) } => {
            tracing::info!(cut, "drained");
            if let Some(witnesses) = &witnesses {
                witnesses.finish().await;
            }
            Ok(result?)
        }
        result = report_until_the_end(report, sources) => Ok(result?),
        () = announce(enclave.clone(), probes.clone(), ready) => Ok(()),
        () = end(stop, follow, enclave.clone(), &enclave_stop) => Ok(()),
        () = probe::watch(control.clone(), vitals) => Ok(()),
        () = if_any(witnesses.as_ref().map(Witnesses::run)) => Ok(()),
        () = if_any(agent.map(|agent| agent::serve(control.clone(), agent, observed, cosigned))) => Ok(()),
    }
}

/// Completes with `task`; without one, never.
async fn if_any(task: Option<impl Future<Output = ()>>) {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Calls `ready` once the enclave accepts connections and works. Never completes.
async fn announce(
    mut enclave: watch::Receiver<Status>,
    mut probes: watch::Receiver<Vitals>,
    ready: impl FnOnce(),
) {
    let serves = enclave.wait_for(|status| status.state == State::Serving).await.is_ok();
    if serves && probes.wait_for(Vitals::is_well).await.is_ok() {
        ready();
    }
    std::future::pending::<()>().await;
}

/// Has the enclave drain after `stop`, once it has heard that its log is fetched if that is to be waited for. Never
/// completes.
async fn end(
    stop: CancellationToken,
    follow: Option<watch::Receiver<Observed>>,
    enclave: watch::Receiver<Status>,
    enclave_stop: &CancellationToken,
) {
    stop.cancelled().await;
    if let Some(observed) = follow
        && enclave.borrow().state == State::Serving
    {
        follows_log(observed).await;
    }
    enclave_stop.cancel();
    std::future::pending::<()>().await;
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
    /// Where the enclave is probed and told to drain.
    pub control: EnclaveAddress,
    /// What is handed in and fetched there. None when that is nothing.
    pub agent: Option<agent::Settings>,
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
    /// The system gives the relay no threads.
    #[error("could not start the relay's threads: {0}")]
    Threads(#[source] io::Error),
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
