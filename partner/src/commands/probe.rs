//! `cleanroom probe`: one look at a clean room, for monitoring.

mod prometheus;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use cleanroom_attestation::chain::Tier;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::time::Timestamp;
use cleanroom_program::file::{PUBLIC, replace};
use futures_util::future::join_all;
use serde::Serialize;

use super::relying_party::{PartyArguments, runtime};
use crate::address::Address;
use crate::channel::{Appraised, RelyingParty};
use crate::clock::now;
use crate::dial::{Dialer, Transport};
use crate::outcome::{Failure, Outcome, usage};
use crate::output::{Terminal, left, printable};
use crate::permission::Permitted;
use crate::session::{self, DEFAULT_MAX_SESSION};

pub(crate) const EXAMPLES: &str = "\
Examples:
  cleanroom probe cleanroom.example:8443
  cleanroom probe a.example:8443 b.example:8443 --timeout 5s --json
  cleanroom probe cleanroom.example:8443 --nagios
  cleanroom probe cleanroom.example:8443 --record records/ \\
      --prometheus /var/lib/prometheus/node-exporter/cleanroom.prom

One line for each address: proven, refused or unreachable, and why. The exit
code is of the worst of them: 0 when all are proven, 1 when one was refused, 4
when one was not reached, 2 when a file of your own is wrong. `proven` means
that `cleanroom connect` would use the clean room under this policy; `cleanroom
verify` also tells what the policy does not ask.

With --nagios, the exit codes and the line are those of a Nagios plugin: 0 OK,
2 CRITICAL when a clean room was refused or not reached, 3 UNKNOWN when nothing
could be asked. The line of the worst address comes first.";

/// Prove clean rooms once, and print one line for each: for Nagios, cron and Prometheus
///
/// A probe proves a clean room as a partner does, and sends nothing but the challenge.
#[derive(Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub struct Probe {
    /// The clean rooms' hosts: HOST:PORT or unix:PATH. Each is probed by itself, all at the same time
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Address>,

    /// How long each may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Write metrics in Prometheus' text format to this file, in one step; `-` prints them in place of the
    /// line. The file is for the textfile collector of `node_exporter`
    #[arg(long, value_name = "FILE")]
    prometheus: Option<PathBuf>,

    /// End as a Nagios plugin does
    #[arg(long, conflicts_with = "json")]
    nagios: bool,

    #[command(flatten)]
    party: PartyArguments,
}

/// What one look at one address found.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    address: String,
    time: Timestamp,
    /// `proven`, `refused` or `unreachable`.
    state: State,
    /// Why it is not proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// From the first packet to the verdict.
    seconds: f64,
    #[serde(flatten)]
    proven: Option<Proven>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Proven,
    Refused,
    Unreachable,
    /// A file of the user's own is wrong, and nothing was asked.
    #[serde(rename = "not-asked")]
    NotAsked,
}

/// What is known about a clean room that is proven.
#[derive(Debug, Serialize)]
struct Proven {
    image: String,
    tier: Tier,
    model: String,
    model_sha256: Sha256Digest,
    /// How long a session may rest on this evidence, by the policy.
    evidence_seconds_left: u64,
    certificate_seconds_left: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<Permitted>,
}

#[derive(Serialize)]
struct Report<'a> {
    outcome: Outcome,
    probes: &'a [Found],
}

impl Probe {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`] when a file of the user's own is wrong, or a result cannot be written.
    pub fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        if self.prints_metrics() && terminal.is_json() {
            return Err(Self::prints_twice("--json"));
        }
        let (asked, failure) = self.ask();
        let outcome = outcome(&asked);
        self.write_metrics(&asked, terminal)?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !self.prints_metrics() {
            let lines: String = asked.iter().map(|found| found.line() + "\n").collect();
            terminal.lines(&Report { outcome, probes: &asked }, &lines)?;
        }
        Ok(outcome)
    }

    /// Whether the command is to end as a Nagios plugin does.
    #[must_use]
    pub const fn is_plugin(&self) -> bool {
        self.nagios
    }

    /// Runs the command as a Nagios plugin.
    pub fn run_as_plugin(self, terminal: &mut Terminal) -> ExitCode {
        let (mut asked, failure) = self.ask();
        asked.sort_by_key(|found| std::cmp::Reverse(found.state.weight()));
        let failure = if self.prints_metrics() {
            failure
        } else {
            failure.or_else(|| self.write_metrics(&asked, terminal).err())
        };
        let text = match &failure {
            Some(failure) => plugin_line(Plugin::Unknown, &failure.message, ""),
            None => asked.iter().map(Found::plugin_line).collect(),
        };
        let printed = terminal.text(&text).is_ok();
        let worst = asked.iter().map(|found| found.state.plugin()).max().unwrap_or(Plugin::Unknown);
        let state = if failure.is_some() || !printed { Plugin::Unknown } else { worst };
        ExitCode::from(state as u8)
    }

    /// What is found at each address, and why nothing could be asked.
    fn ask(&self) -> (Vec<Found>, Option<Failure>) {
        match self.try_ask() {
            Ok(found) => (found, None),
            Err(failure) => {
                let not_asked = |address: &Address| Found {
                    address: address.to_string(),
                    time: now(),
                    state: State::NotAsked,
                    code: Some(failure.code.to_owned()),
                    message: Some(failure.message.clone()),
                    seconds: 0.0,
                    proven: None,
                };
                (self.addresses.iter().map(not_asked).collect(), Some(failure))
            }
        }
    }

    fn try_ask(&self) -> Result<Vec<Found>, Failure> {
        if self.prints_metrics() && self.nagios {
            return Err(Self::prints_twice("--nagios"));
        }
        let (party, _) = self.party.load()?;
        let addresses = self.addresses.iter();
        let asked: Vec<(&Address, Dialer)> = addresses
            .map(|address| Ok((address, self.party.dialer(vec![address.clone()])?)))
            .collect::<Result<_, Failure>>()?;
        let (party, limit) = (&party, self.timeout);
        let asking = asked.into_iter().map(|(address, dialer)| ask_one(party, address, dialer, limit));
        let runtime = runtime()?;
        let found = runtime.block_on(join_all(asking));
        // A name that is still being resolved does not keep the program from its end.
        runtime.shutdown_background();
        Ok(found)
    }

    fn prints_twice(option: &str) -> Failure {
        let message = format!("expected either {option} or --prometheus -: both print to standard output");
        usage("usage", message)
    }

    fn prints_metrics(&self) -> bool {
        self.prometheus.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }

    fn write_metrics(&self, found: &[Found], terminal: &mut Terminal) -> Result<(), Failure> {
        let Some(path) = &self.prometheus else { return Ok(()) };
        let text = prometheus::text(found);
        if self.prints_metrics() {
            return terminal.text(&text);
        }
        replace(path, text.as_bytes(), PUBLIC).map_err(|error| Failure {
            outcome: Outcome::Unreachable,
            code: "unwritable",
            message: error.to_string(),
        })
    }
}

/// One look at one address.
async fn ask_one(party: &RelyingParty, address: &Address, dialer: Dialer, limit: Duration) -> Found {
    let begun = Instant::now();
    let appraised = session::appraise_within(party, dialer, limit).await;
    let seconds = begun.elapsed().as_secs_f64();
    let (state, code, message, proven) = match &appraised {
        Ok(appraised) => match appraised.accepted() {
            Ok(_) => (State::Proven, None, None, Proven::of(party, appraised)),
            Err(refused) => {
                (State::Refused, Some(refused.code().to_owned()), Some(refused.to_string()), None)
            }
        },
        Err(error) => {
            let state = if error.is_refusal() { State::Refused } else { State::Unreachable };
            (state, Some(error.code().to_owned()), Some(error.to_string()), None)
        }
    };
    Found { address: address.to_string(), time: now(), state, code, message, seconds, proven }
}

impl Proven {
    fn of(party: &RelyingParty, appraised: &Appraised<Transport>) -> Option<Self> {
        let evidence = appraised.accepted().ok()?.evidence();
        let permitted = appraised.permitted().and_then(|permitted| permitted.as_ref().ok()).cloned();
        let session = party.policy().freshness().max_session.unwrap_or(DEFAULT_MAX_SESSION);
        let left = evidence.not_after().since(now()).unwrap_or_default();
        Some(Self {
            image: evidence.image().to_owned(),
            tier: evidence.tier(),
            model: party.model().to_string(),
            model_sha256: appraised.model_digest(),
            evidence_seconds_left: session.as_secs(),
            certificate_seconds_left: left.as_secs(),
            release: permitted,
        })
    }
}

impl Found {
    /// One line for people.
    fn line(&self) -> String {
        let state = match self.state {
            State::Proven => "proven",
            State::Refused => "refused",
            State::Unreachable => "unreachable",
            State::NotAsked => "not asked",
        };
        format!("{state} {}: {}", self.address, self.facts())
    }

    /// What was found, in one line.
    fn facts(&self) -> String {
        let Some(proven) = &self.proven else {
            let (code, message) = (self.code.as_deref(), self.message.as_deref());
            return printable(&format!("{}: {}", code.unwrap_or_default(), message.unwrap_or_default()));
        };
        let mut facts = format!("{}, {}, model {}", proven.image, proven.tier, proven.model);
        if let Some(release) = &proven.release {
            facts += &format!(
                ", release {} of {} {}",
                release.release_version,
                release.room,
                left(release.release_seconds_left)
            );
            facts += &format!(", lease {}", left(release.lease_seconds_left));
        }
        facts += &format!(", certificate {}, {:.3} s", left(proven.certificate_seconds_left), self.seconds);
        printable(&facts)
    }

    /// One line of a Nagios plugin.
    fn plugin_line(&self) -> String {
        let mut data = format!("time={:.3}s;;;0", self.seconds);
        for (name, seconds) in self.seconds_left() {
            data += &format!(" {name}={seconds}s;;;0");
        }
        plugin_line(self.state.plugin(), &format!("{} {}", self.address, self.facts()), &data)
    }

    /// What ends when.
    fn seconds_left(&self) -> Vec<(&'static str, u64)> {
        let Some(proven) = &self.proven else { return Vec::new() };
        let mut left = vec![
            ("evidence", proven.evidence_seconds_left),
            ("certificate", proven.certificate_seconds_left),
        ];
        if let Some(release) = &proven.release {
            left.push(("lease", release.lease_seconds_left));
            left.push(("release", release.release_seconds_left));
            left.push(("partner", release.partner_seconds_left));
        }
        left
    }
}

/// The exit codes of Nagios plugins (Monitoring Plugins Development Guidelines). A clean room that is proven on half is not, so
/// there is no WARNING.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Plugin {
    Ok = 0,
    Critical = 2,
    Unknown = 3,
}

/// The exit code of a Nagios plugin that could not ask.
pub(crate) const PLUGIN_UNKNOWN: u8 = Plugin::Unknown as u8;

/// A line of text, and behind the bar the numbers.
fn plugin_line(state: Plugin, text: &str, data: &str) -> String {
    let state = match state {
        Plugin::Ok => "OK",
        Plugin::Critical => "CRITICAL",
        Plugin::Unknown => "UNKNOWN",
    };
    let bar = if data.is_empty() { "" } else { " | " };
    format!("CLEANROOM {state}: {}{bar}{data}\n", printable(text).replace('|', "/"))
}

impl State {
    /// How bad it is.
    const fn weight(self) -> u8 {
        match self {
            Self::Proven => 0,
            Self::Unreachable => 1,
            Self::Refused => 2,
            Self::NotAsked => 3,
        }
    }

    const fn plugin(self) -> Plugin {
        match self {
            Self::Proven => Plugin::Ok,
            Self::Refused | Self::Unreachable => Plugin::Critical,
            Self::NotAsked => Plugin::Unknown,
        }
    }
}

/// The outcome of the worst.
fn outcome(found: &[Found]) -> Outcome {
    match found.iter().map(|found| found.state).max_by_key(|state| state.weight()) {
        Some(State::Proven) => Outcome::Pass,
        Some(State::Refused) => Outcome::Refused,
        Some(State::Unreachable) => Outcome::Unreachable,
        Some(State::NotAsked) | None => Outcome::Usage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn failed(state: State, message: &str) -> Found {
        Found {
            address: "a.example:8443".to_owned(),
            time: Timestamp::from_millis(1_769_860_800_500),
            state,
            code: Some("other-code".to_owned()),
            message: Some(message.to_owned()),
            seconds: 0.25,
            proven: None,
        }
    }

    #[test]
    fn a_message_of_a_stranger_stays_in_its_line() {
        let found = failed(State::Refused, "a | b\nOK\u{1b}[2J");
        assert_eq!(found.line(), "refused a.example:8443: other-code: a | b\\u{a}OK\\u{1b}[2J");
        assert_eq!(
            found.plugin_line(),
            "CLEANROOM CRITICAL: a.example:8443 other-code: a / b\\u{a}OK\\u{1b}[2J | time=0.250s;;;0\n"
        );
    }

    #[test]
    fn the_worst_decides() {
        let of =
            |states: &[State]| outcome(&states.iter().map(|state| failed(*state, "")).collect::<Vec<_>>());
        assert_eq!(of(&[State::Proven, State::Proven]), Outcome::Pass);
        assert_eq!(of(&[State::Proven, State::Unreachable]), Outcome::Unreachable);
        assert_eq!(of(&[State::Refused, State::Unreachable, State::Proven]), Outcome::Refused);
        assert_eq!(of(&[]), Outcome::Usage);
    }
}
