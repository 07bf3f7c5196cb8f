//! The host's look into its enclave. An enclave answers a probe only if its worker answers, the engine has done a step,
//! and the security module attests.
//!
//! An open socket says less: a worker that hangs keeps its socket. The enclave proves nothing here, and need not: the
//! host asks to know whom to send where, and when to start the enclave again. Partners prove the enclave themselves.

use std::time::Duration;

use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_link::load::Load;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::agent::Control;
use crate::agent::complaint::Complaint;
use crate::endpoint::EnclaveAddress;
use crate::relay::Dial as _;

/// How long to wait after an answer until the next probe.
const PAUSE: Duration = Duration::from_secs(2);
/// The pause after an enclave could not be reached.
const DIAL_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take: longer than the enclave waits for its own parts.
const PATIENCE: Duration = Duration::from_secs(40);
/// Without an answer for so long, partners are better served elsewhere.
const WELL_FOR: Duration = Duration::from_secs(30);

/// What the enclave's answers say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Vitals {
    /// When an enclave last answered that it works.
    heard: Option<Instant>,
    /// The same of the enclave that is there now, and how much it had to do.
    now: Option<(Instant, Load)>,
}

/// The last answer, for the report.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LastProbe {
    /// Milliseconds since.
    pub age_ms: u64,
    /// How much the enclave had to do.
    pub load: Load,
}

impl Vitals {
    fn hear(&mut self, load: Load) {
        let now = Instant::now();
        *self = Self { heard: Some(now), now: Some((now, load)) };
    }

    /// When an enclave last answered that it works, if one ever did.
    #[must_use]
    pub const fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Whether the enclave has answered of late that it works.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.now.is_some_and(|(at, _)| at.elapsed() < WELL_FOR)
    }

    /// The last answer of the enclave that is there now.
    #[must_use]
    pub fn last(&self) -> Option<LastProbe> {
        self.now.map(|(at, load)| LastProbe {
            age_ms: u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX),
            load,
        })
    }
}

/// What is known when an enclave answers now; for tests of what depends on it.
#[cfg(test)]
pub(crate) fn heard_now() -> Vitals {
    let mut vitals = Vitals::default();
    vitals.hear(Load::Idle);
    vitals
}

/// Probes the enclave behind the address `control` for ever, over its restarts.
pub async fn watch(control: EnclaveAddress, vitals: watch::Sender<Vitals>) {
    let mut complaint = Complaint::default();
    loop {
        if let Ok(stream) = control.dial().await {
            let control = Control::new(stream).waiting(PATIENCE);
            let reason = loop {
                match control.ask(ControlKind::Probe, b"").await {
                    Ok(ControlAnswer::Alive(load)) => {
                        complaint.clear();
                        vitals.send_modify(|vitals| vitals.hear(load));
                    }
                    // An enclave that waits for the key of its weights serves one connection at a time. The agent, which
                    // brings the key, must have its turn.
                    Ok(ControlAnswer::Refused(code)) => break code,
                    Ok(_) => break "that is no answer to a probe".to_owned(),
                    Err(error) => break error.to_string(),
                }
                sleep(PAUSE).await;
            };
            drop(control);
            if complaint.is_due(&reason) {
                tracing::info!(reason, "the enclave does not say that it works");
            }
            vitals.send_modify(|vitals| vitals.now = None);
            sleep(PAUSE).await;
        }
        sleep(DIAL_PAUSE).await;
    }
}
