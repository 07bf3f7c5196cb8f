//! The host as a whole: a relay, an enclave if this host runs one, and the report for the operator.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Observed};
use crate::endpoint::{BoundListener, EnclaveAddress};
use crate::launcher::{Launcher, Patience, Pulse, RestartPolicy, State, Status, SuperviseError, supervise};
use crate::relay::{self, Counters, Limits};
use crate::status::{self, Sources};

/// Relays to an enclave that somebody else runs, until `stop`.
///
/// # Errors
/// When the report can no longer be given.
pub async fn relay_only(
    listener: BoundListener,
    enclave: EnclaveAddress,
    limits: Limits,
    report: Option<BoundListener>,
    stop: CancellationToken,
) -> io::Result<()> {
    let counters = Arc::new(Counters::default());
    let sources = Sources { relay: Arc::clone(&counters), enclave: None, release: None, stop: stop.clone() };
    let relay = relay::serve(listener, Arc::new(enclave), limits, counters, stop.cancelled_owned());
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
/// On `stop` the relay takes no more connections. An enclave that can drain itself is asked to at once, and
/// each has the same time to come to its end; any other is ended when the relay has.
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
    let enclave_stop = if L::DRAINS_ITSELF { stop } else { CancellationToken::new() };
    let enclave_task = async {
        let result =
            supervise(launcher, settings.restart, settings.patience, pulse, &status, enclave_stop.clone())
                .await;
        relay_stop.cancel();
        result
    };
    let relay_task = async {
        let stopped = relay_stop.clone().cancelled_owned();
        let cut = relay::serve(listener, partner, settings.limits, counters, stopped).await;
        enclave_stop.cancel();
        cut
    };
    let agent = async {
        match access.agent {
            Some((control, settings)) => agent::serve(control, settings, observed).await,
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
            Ok(result?)
        }
        result = report_until_the_end(report, sources) => Ok(result?),
        () = announce => Ok(()),
        () = agent => Ok(()),
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
