//! Hands the enclave what the authorities sign: roots, releases and denials as they come, and leases before
//! the last one ends.
//!
//! ```text
//! renewal ──────────────┐ its own turn
//! one task per service ─┤ one turn for all of them ──► control connection ──► enclave
//! files ────────────────┤
//! one task per broker ──┤
//! one per share of KMS ─┘
//! log store ◄──────────────────── what the enclave's log has grown by
//! ```
//!
//! Nothing here is trusted. The enclave refuses what is not signed, and ends its service when leases stay
//! away. So the most that a broken agent can do is to stop the enclave's service. The most that a broken
//! lease service can do is to withhold its own signature: renewal waits for no other work, and no service is
//! given more work than a bound.

pub(crate) mod complaint;
mod control;
mod delivery;
mod kms;
mod log;
mod records;
mod renewal;
pub(crate) mod service;
mod shares;
#[cfg(test)]
mod tests;
mod witnessed;

use cleanroom_link::control::ControlState;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub(crate) use self::control::Control;
use self::delivery::{Delivery, Files, Source};
pub use self::kms::KmsShare;
use self::kms::KmsShares;
use self::renewal::Renewal;
use crate::endpoint::EnclaveAddress;
use crate::log_store::LogStore;
use crate::relay::Dial as _;
use crate::witnesses::Witnesses;
use records::Openings;
pub use records::RecordStore;
pub use service::Authority;
pub use shares::Broker;
use shares::{Carried, Shares};

/// How often everything is looked at.
const TICK: Duration = Duration::from_secs(1);
/// The pause between two attempts to reach an enclave. It is short, because the enclave's log is fetched from its start.
const DIAL_PAUSE: Duration = Duration::from_millis(100);

/// Where everything comes from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The lease services. All are asked at once.
    pub authorities: Vec<Authority>,
    /// A release, beside those that the lease services have. A newer one takes its place in the file.
    pub release: Option<PathBuf>,
    /// A folder of denials, beside those that the lease services know.
    pub denials: Option<PathBuf>,
    /// Files with safeguard policies, which the enclave takes if a release names them.
    pub safeguards: Vec<PathBuf>,
    /// Files of text classifiers, which the enclave takes if such a policy names them.
    pub classifiers: Vec<PathBuf>,
    /// The brokers that hold shares of the key of sealed weights. All are asked at once.
    pub brokers: Vec<Broker>,
    /// The shares of that key that AWS KMS holds.
    pub kms: Vec<KmsShare>,
    /// Where the enclave's sealed records are kept. Without it, an enclave whose release demands records serves nobody.
    pub records: Option<RecordStore>,
    /// A folder of openings, which are carried out.
    pub openings: Option<PathBuf>,
    /// Where the enclave's log is kept. Without it, nobody can audit the enclave.
    pub log: Option<LogStore>,
    /// The witnesses that cosign it.
    pub witnesses: Vec<Authority>,
}

impl Settings {
    /// Whether the enclave is under release control, so that its service depends on what is handed in.
    #[must_use]
    pub fn hands_in(&self) -> bool {
        !self.authorities.is_empty()
    }

    /// Who cosigns the log, if it is kept and somebody does.
    #[must_use]
    pub fn witnesses(&self) -> Option<Witnesses> {
        Witnesses::new(self.log.clone()?, &self.witnesses)
    }
}

/// What the enclave said last about its release and its lease.
#[derive(Debug, Clone, Copy, Default)]
pub struct Observed {
    /// When an enclave last answered.
    heard: Option<Instant>,
    /// What it said then; nothing after its control connection has ended.
    state: Option<ControlState>,
    /// Whether the enclave at the other end has heard that its log is fetched.
    follows_log: bool,
}

impl Observed {
    fn hear(&mut self, state: ControlState) {
        self.heard = Some(Instant::now());
        self.state = Some(state);
    }

    /// Whether the enclave at the other end has heard that its log is fetched. It then ends only after the host has
    /// the last entry.
    #[must_use]
    pub const fn follows_log(&self) -> bool {
        self.follows_log
    }

    /// Milliseconds that the lease still runs by that; 0 when there is none, or when the enclave says
    /// nothing.
    #[must_use]
    pub fn lease_left_ms(&self) -> u64 {
        self.left(|state| Some(state.lease_left_ms)).unwrap_or(0)
    }

    /// Milliseconds that the log still counts as witnessed by that; 0 when too few witnesses have cosigned in time. None
    /// when no release demands witnesses, or when the enclave says nothing.
    #[must_use]
    pub fn witnessed_left_ms(&self) -> Option<u64> {
        self.left(|state| state.witnessed_left_ms)
    }

    /// A time that the enclave said, less what has passed since.
    fn left(&self, of: impl FnOnce(&ControlState) -> Option<u64>) -> Option<u64> {
        let left = of(self.state.as_ref()?)?;
        let since = u64::try_from(self.heard?.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(left.saturating_sub(since))
    }
}

/// Serves the enclave behind the address `control` for ever, over its restarts. `observed` hears what the
/// enclave says. `cosigned` has the newest checkpoint of the enclave's log that witnesses have cosigned, if any are asked.
pub async fn serve(
    control: EnclaveAddress,
    settings: Settings,
    observed: watch::Sender<Observed>,
    cosigned: Option<watch::Receiver<Option<Vec<u8>>>>,
) {
    let records = async {
        match &settings.records {
            Some(store) => keep_records(&control, store).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(serve_control(&control, &settings, &observed, cosigned.as_ref()), records);
}

/// Keeps the records of the enclave behind `control`, on a connection of its own: the enclave answers when there is one.
async fn keep_records(control: &EnclaveAddress, store: &RecordStore) {
    loop {
        if let Ok(stream) = control.dial().await {
            let error = records::keep(&Control::new(stream), store).await;
            tracing::debug!(%error, "the connection for records ended");
        }
        sleep(TICK).await;
    }
}

async fn serve_control(
    control: &EnclaveAddress,
    settings: &Settings,
    observed: &watch::Sender<Observed>,
    cosigned: Option<&watch::Receiver<Option<Vec<u8>>>>,
) {
    loop {
        if let Ok(stream) = control.dial().await {
            let error = session(stream, settings, observed, cosigned.cloned()).await;
            observed.send_modify(|observed| {
                observed.state = None;
                observed.follows_log = false;
            });
            tracing::info!(%error, "the control connection to the enclave ended");
        }
        sleep(DIAL_PAUSE).await;
    }
}

/// Serves one enclave until its control connection ends, and says why it did.
async fn session<S>(
    stream: S,
    settings: &Settings,
    observed: &watch::Sender<Observed>,
    cosigned: Option<watch::Receiver<Option<Vec<u8>>>>,
) -> io::Error
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let control = Arc::new(Control::new(stream));
    let mut tasks = JoinSet::new();
    if let Some(store) = &settings.log {
        tasks.spawn(log::keep(Arc::clone(&control), store.clone(), observed.clone()));
    }
    if let Some(cosigned) = cosigned.filter(|_| settings.hands_in()) {
        tasks.spawn(witnessed::hand_in(Arc::clone(&control), cosigned));
    }
    if settings.hands_in() {
        let delivery = Delivery::new(Arc::clone(&control), settings.log.clone());
        for broker in &settings.brokers {
            tasks.spawn(Shares::new(Arc::clone(&control), broker.clone(), Carried::SHARE).run());
            tasks.spawn(Shares::new(Arc::clone(&control), broker.clone(), Carried::DAY).run());
        }
        for share in &settings.kms {
            tasks.spawn(KmsShares::new(Arc::clone(&control), share.clone()).run());
        }
        if let (Some(records), Some(folder)) = (&settings.records, &settings.openings) {
            let (records, brokers) = (records.clone(), settings.brokers.clone());
            let openings = Openings::new(Arc::clone(&control), records, folder.clone(), brokers);
            tasks.spawn(openings.run());
        }
        let renewal = Renewal::new(control, settings.authorities.clone(), observed.clone());
        tasks.spawn(renewal.run());
        for authority in &settings.authorities {
            tasks.spawn(delivery.clone().run(Source::Service(authority.clone())));
        }
        let files = Files {
            release: settings.release.clone(),
            denials: settings.denials.clone(),
            safeguards: settings.safeguards.clone(),
            classifiers: settings.classifiers.clone(),
        };
        tasks.spawn(delivery.run(Source::Files(files)));
    }
    // The first task that ends ends all: each ends with the connection only.
    match tasks.join_next().await {
        Some(Ok(error)) => error,
        _ => io::Error::other("a task of the agent failed"),
    }
}
