//! `report`: what an authority's own files say, for overseers: who may do what until when, who signed that, and what happened.

mod documents;
mod happened;
mod page;

use std::path::PathBuf;

use clap::Args;
use cleanroom_attestation::release::{LeaseRefusal, UnixMillis};
use cleanroom_program::file;
use cleanroom_report::Terms;
use cleanroom_report::page::Event;
use serde::Serialize;

use self::documents::{Documents, HaltLine, ImageLine, OpeningLine, ReleaseLine, RootLine};
use self::happened::{BootLine, Happened};
use crate::Outcome;
use crate::chain::{self, RootArguments};
use crate::failure::Failure;
use crate::status::would_lease;

pub(crate) const EXAMPLES: &str = "\
Examples:
  cleanroom-authority report --root roots --release releases --denials denials --html report.html
  cleanroom-authority report --root roots --release releases --denials denials --openings openings \\
      --service-log lease.log --broker-log bank.log --witness-state witness --html report.html
  cleanroom-authority --json report --root roots --release release.json --denials denials

The page needs no other file, no network and no script. Everything on it is as
good as the files: documents count by their signatures, and times are those of
this authority's own services. `cleanroom audit --html` tells what enclaves
did, by logs that they sign. --service-log takes what `lease serve --json`
wrote to standard error.";

/// The newest events on the page. JSON has all.
const SHOWN_EVENTS: usize = 500;

#[derive(Args)]
pub(crate) struct Report {
    #[command(flatten)]
    root: RootArguments,
    /// A release, or a folder of all releases so far; may be repeated. The one with the highest version is in
    /// force.
    #[arg(long = "release", value_name = "FILE", required = true)]
    releases: Vec<PathBuf>,
    /// The folder of denials.
    #[arg(long, value_name = "FOLDER")]
    denials: Option<PathBuf>,
    /// The folder of signed openings.
    #[arg(long, value_name = "FOLDER")]
    openings: Option<PathBuf>,
    /// What `lease serve --json` wrote to standard error; may be repeated. It has the times of releases, halts
    /// and leases.
    #[arg(long = "service-log", value_name = "FILE")]
    service_logs: Vec<PathBuf>,
    /// The log of this authority's broker.
    #[arg(long, value_name = "FILE")]
    broker_log: Option<PathBuf>,
    /// The folder of --state of this authority's witness.
    #[arg(long, value_name = "FOLDER")]
    witness_state: Option<PathBuf>,
    /// The time to judge dates by, as 2027-01-31T12:00:00Z. Default: now.
    #[arg(long, value_name = "TIME")]
    at: Option<UnixMillis>,
    /// Write the report as one page of HTML.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Something that is wrong, and where.
#[derive(Debug, Serialize)]
struct Problem {
    code: &'static str,
    place: String,
    problem: String,
}

/// Everything that the report says.
#[derive(Debug, Serialize)]
struct Overview {
    at: UnixMillis,
    /// The files and folders that were read.
    read: Vec<String>,
    /// `granted`, or the code with which an enclave would get no lease.
    leases: &'static str,
    terms: Terms,
    images: Vec<ImageLine>,
    /// Where they may run; absent: anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    deployments: Option<Vec<String>>,
    halts: Vec<HaltLine>,
    openings: Vec<OpeningLine>,
    releases: Vec<ReleaseLine>,
    roots: Vec<RootLine>,
    /// Boots that the witness has taken.
    boots: Vec<BootLine>,
    #[serde(serialize_with = "events")]
    events: Vec<Event>,
    problems: Vec<Problem>,
}

/// Events as JSON.
fn events<S: serde::Serializer>(events: &[Event], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        at: UnixMillis,
        says: &'a str,
    }
    serializer.collect_seq(events.iter().map(|event| Line { at: UnixMillis(event.at_ms), says: &event.says }))
}

impl Report {
    /// The files and folders that it is made of, but for the roots.
    fn read(&self) -> Vec<String> {
        let Self {
            root: _,
            releases,
            denials,
            openings,
            service_logs,
            broker_log,
            witness_state,
            at: _,
            html: _,
        } = self;
        let all = releases.iter().chain(denials).chain(openings).chain(service_logs).chain(broker_log);
        all.chain(witness_state).map(|path| path.display().to_string()).collect()
    }

    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        let at = self.at.unwrap_or_else(chain::now);
        let read = self.read();
        let mut problems = Vec::new();
        let documents = Documents::read(
            &self.root,
            &self.releases,
            self.denials.as_deref(),
            self.openings.as_deref(),
            at,
            &mut problems,
        )?;
        let mut happened = Happened::default();
        for path in &self.service_logs {
            happened.service_log(path, &documents)?;
        }
        if let Some(path) = &self.broker_log {
            happened.broker_log(path, &mut problems)?;
        }
        if let Some(folder) = &self.witness_state {
            happened.witness_state(folder, &mut problems)?;
        }
        let (events, boots) = happened.finish();
        let leases = would_lease(&documents.state, at).map_or_else(LeaseRefusal::code, |()| "granted");
        let terms = Terms::of(&documents.state);
        let Documents { state: _, roots, releases, halts, openings, images, deployments } = documents;
        let overview = Overview {
            at,
            read,
            leases,
            terms,
            images,
            deployments,
            halts,
            openings,
            releases,
            roots,
            boots,
            events,
            problems,
        };
        let mut text = overview.text();
        if let Some(path) = &self.html {
            file::replace(path, page::page(&overview).as_bytes(), file::PUBLIC)?;
            text += &format!("wrote {}\n", path.display());
        }
        let json =
            serde_json::to_value(&overview).map_err(|error| Failure::Environment(error.to_string()))?;
        let outcome = Outcome { text, json };
        match overview.problems.len() {
            0 => Ok(outcome),
            count => Err(Failure::Unmet {
                outcome: Box::new(outcome),
                code: "report",
                problem: format!("{count} of the files do not count, or are damaged"),
            }),
        }
    }
}

impl Overview {
    /// The report's first sentence.
    fn summary(&self) -> String {
        let halts = self.halts.iter().filter(|halt| halt.is_in_force).count();
        let release = self.terms.release.as_ref();
        let until = release.map_or(self.terms.root.expires, |release| release.expires);
        match (self.problems.len(), self.leases, halts) {
            (1, ..) => "One file does not count, or is damaged.".to_owned(),
            (2.., ..) => format!("{} files do not count, or are damaged.", self.problems.len()),
            (0, "granted", 0) => {
                format!(
                    "Leases are given, until {} at the latest. Nothing is halted.",
                    until.min(self.terms.root.expires)
                )
            }
            (0, "granted", 1) => "Leases are given. One halt is in force.".to_owned(),
            (0, "granted", _) => format!("Leases are given. {halts} halts are in force."),
            (0, code, _) => format!("No enclave gets a lease: {code}."),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{} at {}\n{}\n", self.terms.room, self.at, self.summary());
        for Problem { code, place, problem } in &self.problems {
            text += &format!("  WRONG    {code}: {place}: {problem}\n");
        }
        for model in &self.terms.models {
            let halted = if model.halted { ", HALTED" } else { "" };
            text += &format!("  model    {} {}{halted}\n", model.id, model.state.name());
        }
        for partner in &self.terms.partners {
            let halted = if partner.halted { ", HALTED" } else { "" };
            let attributes = partner.attributes.iter().map(|given| format!(", {given}")).collect::<String>();
            text += &format!("  partner  {} until {}{attributes}{halted}\n", partner.id, partner.expires);
        }
        for halt in &self.halts {
            text += &format!("  halt     {}: {} ({})\n", halt.target, halt.reason, halt.standing());
        }
        for opening in &self.openings {
            text += &format!("  opening  record {}: {}: {}\n", opening.record, opening.reason, opening.text);
        }
        text += &format!("  {} events; --html shows them, and --json\n", self.events.len());
        text
    }
}
