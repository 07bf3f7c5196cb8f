//! Keeps one enclave running: starts it, waits until it serves, starts it again when it fails.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Enclave, Exit, How, LaunchError, Launcher};
use crate::probe::Vitals;

/// When an enclave that failed is started again.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// The pause before the first restart. It doubles with each failure.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// An enclave that served for this long has not failed at once: the pauses begin anew.
    pub stable_after: Duration,
    /// Restarts before giving up; without a number, never.
    pub restarts: Option<u32>,
}

/// How long an enclave may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the beginning of its start until it accepts connections.
    pub start: Duration,
    /// From being asked to drain until its end.
    pub drain: Duration,
    /// Without an answer to the host's probes, until it is started again.
    pub silence: Duration,
}

/// The state of an enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was started and does not accept connections yet.
    Starting,
    /// It accepts connections.
    Serving,
    /// It failed, and will be started after a pause.
    Waiting,
    /// It was asked to end.
    Draining,
    /// It has ended and will not be started again.
    Stopped,
}

/// How long an enclave that was ended by force may take to be seen gone. After that the host goes on without
/// it.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// A supervisor's report to its watchers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The state of the enclave.
    pub state: State,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it ended the last time. Names no files of this machine.
    pub last_exit: Option<String>,
}

impl Status {
    /// Before the first start.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Starting, restarts: 0, last_exit: None }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

/// How an enclave that stands still is noticed: it answers the host's probes, or it does not. Where nobody probes,
/// nothing is noticed.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Option<watch::Receiver<Vitals>>);

impl Pulse {
    /// Hears what the probes hear.
    #[must_use]
    pub const fn of(vitals: watch::Receiver<Vitals>) -> Self {
        Self(Some(vitals))
    }

    /// Completes when an enclave that serves since `since` has answered nothing for as long as `silence`.
    async fn stops(&self, since: Instant, silence: Duration) {
        let Some(vitals) = &self.0 else { return std::future::pending().await };
        loop {
            let heard = vitals.borrow().heard().unwrap_or(since).max(since);
            let end = heard + silence;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// Why a supervisor gave up.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The enclave could not be started the first time.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The enclave refused what it was given.
    #[error("the enclave refuses this configuration or model: {0}")]
    Refused(Exit),
    /// The enclave failed too often.
    #[error("the enclave failed again after {restarts} restarts, the most that are allowed: {last}")]
    Failed {
        /// How often it was started again.
        restarts: u32,
        /// Why it failed the last time.
        last: String,
    },
}

/// Runs enclaves of `launcher`, one after the other, until `stop`; then drains the last one and returns.
///
/// # Errors
/// [`SuperviseError`] when the enclave cannot be kept running.
pub async fn supervise<L: Launcher>(
    mut launcher: L,
    policy: RestartPolicy,
    patience: Patience,
    pulse: Pulse,
    status: &watch::Sender<Status>,
    stop: CancellationToken,
) -> Result<(), SuperviseError> {
    let mut pause = policy.first_pause;
    let mut restarts = 0;
    let result = loop {
        let is_first = restarts == 0;
        let (failure, summary) = match attempt(&mut launcher, patience, &pulse, status, &stop, is_first).await
        {
            Attempt::Over(result) => break result,
            Attempt::Failed { reason, summary, served } => {
                if served.is_some_and(|served| served >= policy.stable_after) {
                    pause = policy.first_pause;
                }
                (reason, summary)
            }
        };
        if policy.restarts.is_some_and(|limit| restarts >= limit) {
            break Err(SuperviseError::Failed { restarts, last: failure });
        }
        tracing::warn!(reason = %failure, pause_ms = pause.as_millis(), "the enclave ended; it is started again");
        restarts += 1;
        status.send_modify(|status| {
            let last_exit = Some(summary.unwrap_or(failure));
            *status = Status { state: State::Waiting, restarts, last_exit };
        });
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => break Ok(()),
        }
        pause = (pause * 2).min(policy.longest_pause);
    };
    set(status, State::Stopped);
    result
}

/// How one attempt to run an enclave ended.
enum Attempt {
    /// There is no reason for another one.
    Over(Result<(), SuperviseError>),
    /// Another one may go better.
    Failed {
        /// Why it failed.
        reason: String,
        /// The same for a status that strangers may see, where that is shorter.
        summary: Option<String>,
        /// How long the enclave served, if it ended by itself.
        served: Option<Duration>,
    },
}

async fn attempt<L: Launcher>(
    launcher: &mut L,
    patience: Patience,
    pulse: &Pulse,
    status: &watch::Sender<Status>,
    stop: &CancellationToken,
    is_first: bool,
) -> Attempt {
    let failed = |reason| Attempt::Failed { reason, summary: None, served: None };
    set(status, State::Starting);
    let ready_by = Instant::now() + patience.start;
    let launched = tokio::select! {
        biased;
        () = stop.cancelled() => return Attempt::Over(Ok(())),
        launched = timeout_at(ready_by, launcher.launch()) => launched,
    };
    let enclave = match launched {
        Ok(Ok(enclave)) => enclave,
        // What is wrong with the settings at the first start stays wrong. Anything else may pass.
        Ok(Err(error)) if is_first && error.is_lasting() => return Attempt::Over(Err(error.into())),
        Ok(Err(error)) => {
            let (reason, summary) = (error.to_string(), Some(error.summary()));
            return Attempt::Failed { reason, summary, served: None };
        }
        Err(_) => return failed(format!("it did not start within {} s", patience.start.as_secs())),
    };
    match live(enclave, ready_by, patience, pulse, status, stop).await {
        Life::Stopped => Attempt::Over(Ok(())),
        Life::Ended { exit: Exit { how: How::Refused, last_words }, .. } => {
            Attempt::Over(Err(SuperviseError::Refused(Exit { how: How::Refused, last_words })))
        }
        Life::Ended { exit, served } => {
            Attempt::Failed { reason: exit.to_string(), summary: None, served: Some(served) }
        }
        Life::Silent => failed(format!("it answered no probe for {} s", patience.silence.as_secs())),
        Life::NeverReady => {
            failed(format!("it did not accept connections within {} s", patience.start.as_secs()))
        }
    }
}

/// How the life of one enclave went.
enum Life {
    /// It was stopped because the host was asked to.
    Stopped,
    /// It ended by itself.
    Ended { exit: Exit, served: Duration },
    /// It took too long and was ended.
    NeverReady,
    /// It answered no probe and was ended.
    Silent,
}

async fn live(
    mut enclave: impl Enclave,
    ready_by: Instant,
    patience: Patience,
    pulse: &Pulse,
    status: &watch::Sender<Status>,
    stop: &CancellationToken,
) -> Life {
    let ready = enclave.ready();
    tokio::select! {
        biased;
        // Nobody uses it yet.
        () = stop.cancelled() => {
            end(enclave).await;
            return Life::Stopped;
        }
        exit = enclave.ended() => return Life::Ended { exit, served: Duration::ZERO },
        ready = timeout_at(ready_by, ready) => if ready.is_err() {
            end(enclave).await;
            return Life::NeverReady;
        },
    }
    set(status, State::Serving);
    tracing::info!("the enclave accepts connections");
    let since = Instant::now();
    tokio::select! {
        biased;
        () = stop.cancelled() => drain(enclave, patience, status).await,
        exit = enclave.ended() => Life::Ended { exit, served: since.elapsed() },
        () = pulse.stops(since, patience.silence) => {
            end(enclave).await;
            Life::Silent
        }
    }
}

async fn drain(mut enclave: impl Enclave, patience: Patience, status: &watch::Sender<Status>) -> Life {
    set(status, State::Draining);
    enclave.drain();
    if timeout(patience.drain, enclave.ended()).await.is_err() {
        tracing::warn!("the enclave did not end in time and is ended now");
        end(enclave).await;
    }
    Life::Stopped
}

/// Ends an enclave by force.
async fn end(mut enclave: impl Enclave) {
    enclave.kill();
    if timeout(AFTER_KILL, enclave.ended()).await.is_err() {
        tracing::warn!(
            "the enclave was ended, and the system does not say that it is gone; it may still run"
        );
    }
}

fn set(status: &watch::Sender<Status>, state: State) {
    status.send_modify(|status| status.state = state);
}

#[cfg(test)]
mod tests;
