//! Shares of the key of sealed weights, and secrets of days: carried from each broker to the enclave, while it waits for them.
//!
//! The host cannot read a share, and an enclave takes none but the one that its release commits to. So the most that a broken
//! host or broker can do is to keep the weights sealed.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_attestation::release::Id;
use cleanroom_link::control::{ControlAnswer, ControlKind, ShareMessage};
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::TICK;
use super::complaint::Complaint;
use super::control::Control;
use super::service::Authority;

/// The longest pause before a broker that gave nothing is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a broker may take for one answer. It verifies evidence and has its log on the disk before it answers, and
/// nothing else waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest challenge and the longest sealed share, in bytes.
pub(super) const ANSWER_LIMIT: usize = 2 << 10;
/// What an enclave says that needs no key: `docs/protocol.md` section 12.
const NO_KEY_NEEDED: &str = "no-key-needed";

/// A broker: `NAME=http://HOST:PORT`, with the name that the release gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub(super) name: Id,
    pub(super) service: Authority,
}

impl FromStr for Broker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = text.split_once('=').ok_or("expected NAME=http://HOST:PORT")?;
        let name =
            name.parse().map_err(|error: cleanroom_attestation::release::TextError| error.to_string())?;
        Ok(Self { name, service: url.parse::<Authority>()?.taking(PATIENCE) })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {}", self.name, self.service)
    }
}

/// How far one look came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// This enclave needs no key, and never will on this connection.
    NoKeyNeeded,
    /// It does not wait for this broker now.
    NotMissing,
    /// A share was handed in and counts.
    Given,
    /// Nothing came of it.
    Nothing(String),
}

/// What is carried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carried {
    /// Asks what the enclave waits for.
    state: ControlKind,
    /// Brings a challenge.
    ask: ControlKind,
    /// Hands in an answer.
    give: ControlKind,
    /// Where a broker answers.
    path: &'static str,
}

impl Carried {
    /// A share of the key of sealed weights.
    pub(super) const SHARE: Self = Self {
        state: ControlKind::Shares,
        ask: ControlKind::ShareAsk,
        give: ControlKind::Share,
        path: "/v1/share",
    };
    /// The secret of the present day, under which records are sealed.
    pub(super) const DAY: Self = Self {
        state: ControlKind::Days,
        ask: ControlKind::DayAsk,
        give: ControlKind::Day,
        path: "/v1/retention",
    };
}

/// Carries what one broker has for the enclave.
pub(super) struct Shares<S> {
    control: Arc<Control<S>>,
    broker: Broker,
    carried: Carried,
}

/// How soon the next look at a share follows, and what of it is worth a line of the log.
struct Pace {
    complaint: Complaint,
    pause: Duration,
}

impl Pace {
    fn new() -> Self {
        Self { complaint: Complaint::default(), pause: TICK }
    }

    /// The pause after a look. `None`: no look follows.
    fn after(&mut self, looked: &Looked, broker: &impl fmt::Display) -> Option<Duration> {
        match looked {
            Looked::NoKeyNeeded => return None,
            Looked::NotMissing => self.pause = TICK,
            Looked::Given => {
                self.complaint.clear();
                self.pause = TICK;
                tracing::info!(%broker, "a share was handed in");
            }
            Looked::Nothing(reason) => {
                if self.complaint.is_due(reason) {
                    tracing::warn!(%broker, reason, "no share");
                }
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
        Some(self.pause)
    }
}

/// Looks again and again, at the pace that each look leaves, until the control connection ends. Gives its error.
pub(super) async fn carry<F: Future<Output = io::Result<Looked>>>(
    broker: &impl fmt::Display,
    look: impl Fn() -> F,
) -> io::Error {
    let mut pace = Pace::new();
    loop {
        let pause = match look().await {
            Err(error) => return error,
            Ok(looked) => pace.after(&looked, broker),
        };
        match pause {
            Some(pause) => sleep(pause).await,
            // Another task notices the end of the connection.
            None => return std::future::pending().await,
        }
    }
}

/// Why the enclave does not wait for the share of `name` now, out of its answer to a question for its state. `None` when it waits.
pub(super) fn not_waiting(answer: &ControlAnswer, name: &Id) -> Option<Looked> {
    match answer {
        ControlAnswer::Shares(state) if state.missing.contains(name) && state.needed > 0 => None,
        ControlAnswer::Refused(code) if code == NO_KEY_NEEDED => Some(Looked::NoKeyNeeded),
        // It has this share or enough others, or it waits for a release or a lease.
        _ => Some(Looked::NotMissing),
    }
}

/// What came of a share that was handed in.
pub(super) fn handed_in(answer: &ControlAnswer) -> Looked {
    match answer {
        ControlAnswer::Shares(_) => Looked::Given,
        other => Looked::Nothing(refused(other)),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Shares<S> {
    pub(super) const fn new(control: Arc<Control<S>>, broker: Broker, carried: Carried) -> Self {
        Self { control, broker, carried }
    }

    /// Carries the share whenever the enclave waits for it, until the control connection ends, and gives its error.
    pub(super) async fn run(self) -> io::Error {
        carry(&self.broker, || self.look()).await
    }

    /// Looks once. An error is one of the control connection.
    pub(super) async fn look(&self) -> io::Result<Looked> {
        let Broker { name, service } = &self.broker;
        let Carried { state, ask, give, path } = self.carried;
        if let Some(looked) = not_waiting(&self.control.ask(state, b"").await?, name) {
            return Ok(looked);
        }
        let challenge = match service.call(Method::POST, "/v1/challenge", Vec::new(), ANSWER_LIMIT).await {
            Ok(bytes) => bytes,
            Err(reason) => return Ok(Looked::Nothing(reason)),
        };
        let message = ShareMessage { broker: name.clone(), bytes: challenge };
        let request = match self.control.ask(ask, &message.encode()).await? {
            ControlAnswer::ShareRequest(request) => request,
            other => return Ok(Looked::Nothing(refused(&other))),
        };
        let share = match service.call(Method::POST, path, request, ANSWER_LIMIT).await {
            Ok(bytes) => bytes,
            Err(reason) => return Ok(Looked::Nothing(reason)),
        };
        let message = ShareMessage { broker: name.clone(), bytes: share };
        Ok(handed_in(&self.control.ask(give, &message.encode()).await?))
    }
}

pub(super) fn refused(answer: &ControlAnswer) -> String {
    match answer {
        ControlAnswer::Refused(code) => format!("the enclave refused: {code}"),
        _ => "the enclave gave another answer than was asked for".to_owned(),
    }
}
