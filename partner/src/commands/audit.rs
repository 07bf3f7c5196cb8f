//! `cleanroom audit`: whether the logs of a clean room are whole, and what they say.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::WitnessKey;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::UnixMillis;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::policy_file::PolicyFile;
use crate::audit::{
    Against, BootReport, BootStatus, Opened, Page, Report, State, Store, Witnesses, audit, page,
};
use crate::clock::now;
use crate::outcome::{Failure, Outcome, usage};
use crate::output::{Listing, Mark, Terminal};
use crate::receipts::ReceiptFolder;

/// The help's last part, with stores that this program can read.
macro_rules! examples {
    ($store:literal, $list:literal, $where:literal) => {
        concat!(
            "\
Examples:
  cleanroom audit log/ --policy trust.toml
  cleanroom audit log/ --policy trust.toml --receipts receipts/ --html audit.html
  cleanroom audit ",
            $store,
            " --policy trust.toml --state audit.json --json
  cleanroom audit log/ --without-policy --compare other-auditors-copy/
  cleanroom audit log/ --policy trust.toml --witness-list ",
            $list,
            " \\
      --witness witness.bank.example+2fe8e54e+BLxIfj5DME50mOyOUrpVqR4lmdoMED1MNMavz1GbJIe9

A store is what `cleanroom-host run --log FOLDER` writes:
",
            $where,
            ".
Nothing of it is believed. Every entry is read, and the tree is computed anew
and compared with the checkpoint that the enclave signed. With a policy, each
boot's evidence is judged as `cleanroom verify` judges it, and releases and
denials are checked under the policy's release root.

From cron: with --state the audit also fails when a log is shorter than before,
or another one. Exit code 0 means that all is well, 1 that something is wrong,
3 that nothing is wrong and no policy was asked for, 4 that the store could not
be read, 5 that nothing is wrong and a sealed record was opened: one of yours
with --receipts, any without; with --state, since the last audit."
        )
    };
}

#[cfg(feature = "online")]
const EXAMPLES: &str = examples!(
    "http://logs.example/cleanroom",
    "http://witness.bank.example:8720",
    "a folder, or an address where a web server serves it"
);
/// This program has no network.
#[cfg(not(feature = "online"))]
const EXAMPLES: &str = examples!("fetched-log/", "fetched-list/", "a folder, or a copy of one");

/// The largest state file, in bytes.
const MAX_STATE: u64 = 16 << 20;
/// Entries from which on a bar is worth its line.
const WORTH_A_BAR: u64 = 100_000;

/// Check the logs of a clean room, and your receipts against them
#[derive(Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub struct Audit {
    /// The store of logs: a folder, or `http://HOST[:PORT][/PATH]`
    #[arg(value_name = "STORE", value_parser = |text: &str| Store::named(text).map(|_| text.to_owned()))]
    store: String,

    #[command(flatten)]
    policy: PolicyFile,

    /// Check the logs without a policy; no boot is then proven to be an enclave's
    #[arg(long)]
    without_policy: bool,

    /// Your receipts, as `cleanroom connect --receipts` keeps them. Each must stand in the log at the place
    /// that it names
    #[arg(long, value_name = "FOLDER")]
    receipts: Option<PathBuf>,

    /// The SHA-256 of your key, as `cleanroom key show` prints it. Each receipt must name it
    #[arg(long, value_name = "SHA256", value_parser = Sha256Digest::from_written, requires = "receipts")]
    partner: Option<Sha256Digest>,

    /// A file in which audits remember the logs. An audit reports a log that has shrunk or changed since the
    /// last audit. Each audit creates or updates the file, which also keeps the results of the last hundred
    /// audits
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Another view of the same logs, such as another auditor's. The audit reports each difference between
    /// the views
    #[arg(long, value_name = "STORE", value_parser = |text: &str| Store::named(text).map(|_| text.to_owned()))]
    compare: Option<String>,

    /// The key of a witness that must have cosigned each log, as `cleanroom-authority witness key` prints it; may be
    /// repeated
    #[arg(long = "witness", value_name = "NAME+ID+KEY")]
    witnesses: Vec<WitnessKey>,

    /// How many of the witnesses must have cosigned each log [default: more than half of them]
    #[arg(long, value_name = "NUMBER", requires = "witnesses", value_parser = clap::value_parser!(u16).range(1..))]
    witnesses_needed: Option<u16>,

    /// What a witness itself says: its address, or a copy of its folder; may be repeated. Boots that it has taken and
    /// the store does not have are found, and entries that it has cosigned and the store does not show
    #[arg(long = "witness-list", value_name = "STORE", requires = "witnesses", value_parser = |text: &str| Store::named(text).map(|_| text.to_owned()))]
    lists: Vec<String>,

    /// Write the report as one page of HTML, for people: it needs no other file and no script
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Audit {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`] when the store or a file of the user's own cannot be read.
    pub fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let policy = if self.without_policy { None } else { Some(self.policy.load()?) };
        let mut state = self.state.as_deref().map(read_state).transpose()?;
        let asks_for_own = self.receipts.is_some();
        let (receipts, bad_receipts) = match self.receipts.map(ReceiptFolder::at) {
            Some(folder) => folder.read().map_err(|error| Failure::unreadable(folder.path(), &error))?,
            None => (Vec::new(), Vec::new()),
        };
        let store = named(&self.store)?;
        let other = self.compare.as_deref().map(named).transpose()?;
        let lists = self.lists.iter().map(|list| named(list)).collect::<Result<Vec<_>, _>>()?;
        let witnesses = witnesses(&self.witnesses, self.witnesses_needed, &lists)?;
        let against = Against {
            policy: policy.as_ref(),
            receipts: &receipts,
            bad_receipts: &bad_receipts,
            partner: self.partner,
            seen: state.as_ref().map(State::seen).unwrap_or_default(),
            other: other.as_ref(),
            witnesses: witnesses.as_ref(),
        };
        let bar = ProgressBar::hidden();
        let report = audit(&store, &against, |read, total| show(&bar, read, total));
        bar.finish_and_clear();
        let report = report.map_err(|error| Failure {
            outcome: Outcome::Unreachable,
            code: "unreadable",
            message: error.to_string(),
        })?;
        if let (Some(state), Some(path)) = (&mut state, &self.state) {
            state.take(&report, UnixMillis(now().as_millis()).to_string());
            write_file(path, &state.to_bytes())?;
        }
        if let Some(path) = &self.html {
            let at = UnixMillis(now().as_millis());
            let text = page(&report, &Page { store: &self.store, at, has_policy: policy.is_some() });
            write_file(path, text.as_bytes())?;
        }
        terminal.report(&report, &listing(&report, policy.as_ref()))?;
        // A partner asks about its own records; an auditor, who has no receipts, about all.
        let concerns = |opened: &Opened| opened.is_new && (!asks_for_own || opened.receipt.is_some());
        let is_opened = report.boots.iter().flat_map(|boot| &boot.openings).any(concerns);
        Ok(match (report.is_sound(), &policy) {
            (false, _) => Outcome::Refused,
            (true, _) if is_opened => Outcome::Opened,
            (true, Some(_)) => Outcome::Pass,
            (true, None) => Outcome::Partial,
        })
    }
}

/// Who must have cosigned, if anybody.
fn witnesses<'a>(
    keys: &'a [WitnessKey],
    needed: Option<u16>,
    lists: &'a [Store],
) -> Result<Option<Witnesses<'a>>, Failure> {
    if keys.is_empty() {
        return Ok(None);
    }
    let mut names: Vec<&str> = keys.iter().map(WitnessKey::name).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() != keys.len() {
        return Err(usage("witness-twice", "two of the keys of witnesses have the same name".to_owned()));
    }
    let needed = needed.map_or(keys.len() / 2 + 1, usize::from);
    if needed > keys.len() {
        let problem =
            format!("--witnesses-needed asks for {needed} cosignatures of {} witnesses", keys.len());
        return Err(usage("witnesses-needed", problem));
    }
    Ok(Some(Witnesses { keys, needed, lists }))
}

fn named(text: &str) -> Result<Store, Failure> {
    Store::named(text).map_err(|error| usage("store", error))
}

fn read_state(path: &Path) -> Result<State, Failure> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(Failure::unreadable(path, &error)),
        Ok(metadata) if metadata.len() > MAX_STATE => {
            return Err(usage("too-long", format!("{} is no state file", path.display())));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|error| Failure::unreadable(path, &error))?;
    State::parse(&bytes).map_err(|error| usage("state", format!("{}: {error}", path.display())))
}

#[cfg(feature = "online")]
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use cleanroom_program::file::{PUBLIC, replace};
    replace(path, bytes, PUBLIC).map_err(|error| unwritable(&error.to_string()))
}

/// The auditor's program has no crate for durable files. A file that is put in place by its name is whole or not there.
#[cfg(not(feature = "online"))]
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let written = std::fs::File::create(&name).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&name, path)
    });
    written.map_err(|error| unwritable(&format!("{}: {error}", path.display())))
}

fn unwritable(problem: &str) -> Failure {
    Failure {
        outcome: Outcome::Unreachable,
        code: "unwritable",
        message: format!("what was found could not be written: {problem}"),
    }
}

/// Brings the bar up to date. It begins with a log that is worth one, on a terminal.
fn show(bar: &ProgressBar, read: u64, total: u64) {
    if bar.length() != Some(total) {
        bar.set_length(total);
        if total >= WORTH_A_BAR && io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template(
                "auditing  {bar:32}  {pos} of {len} entries  {per_sec}  {eta} left",
            ) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(250));
        }
    }
    bar.set_position(read);
}

fn listing(report: &Report, policy: Option<&Policy>) -> Listing {
    let mut listing = Listing::new();
    for boot in &report.boots {
        describe(boot, policy.is_some(), &mut listing);
    }
    if report.boots.is_empty() {
        listing.note("The store has no log.");
    }
    listing.heading("Result");
    if report.receipts > 0 {
        let found: usize = report.boots.iter().map(|boot| boot.receipts_found).sum();
        let mark = if found == report.receipts { Mark::Ok } else { Mark::Fail };
        listing.check(mark, "receipts", format!("{found} of {} stand where they say", report.receipts));
    }
    for problem in &report.problems {
        listing.check(Mark::Fail, problem.code, format!("{}\n{}", problem.place, problem.problem));
    }
    if report.is_sound() {
        listing.check(Mark::Ok, "logs", "every entry is the one that its enclave signed");
    }
    listing
}

fn describe(boot: &BootReport, asked: bool, listing: &mut Listing) {
    listing.heading(format!("Boot {}", boot.boot));
    let time = |ms: u64| UnixMillis(ms).to_string();
    listing.field("began", boot.began_ms.map_or_else(|| "unknown".to_owned(), time));
    listing.field(
        "ended",
        match (boot.status, boot.ended_ms) {
            (BootStatus::Ended, Some(ms)) => time(ms),
            _ => "its log has no end: it runs, or it ended at once".to_owned(),
        },
    );
    if let (Some(model), Some(sha256)) = (&boot.model, &boot.model_sha256) {
        listing.field("model", format!("{model} {sha256}"));
    }
    match (&boot.image, asked) {
        (Some(image), _) => listing.check(Mark::Ok, "image", image.as_str()),
        (None, true) if boot.problems.iter().any(|problem| problem.code == "boot-evidence") => {}
        (None, _) => listing.check(Mark::NotAsked, "image", ""),
    }
    if let Some(cosigned) = &boot.cosigned {
        let by = |(name, seconds): (&String, &u64)| {
            format!("{name} at {}", UnixMillis(seconds.saturating_mul(1000)))
        };
        let by = cosigned.by.iter().map(by).collect::<Vec<_>>().join(", ");
        listing.field("cosigned", format!("{} of {} entries: {by}", cosigned.size, boot.size));
    }
    let count = |(kind, count): (&&'static str, &u64)| format!("{count} {kind}");
    listing.field(
        "entries",
        format!("{}: {}", boot.size, boot.entries.iter().map(count).collect::<Vec<_>>().join(", ")),
    );
    for event in &boot.history {
        let says = event.says.clone().unwrap_or_else(|| event.sha256.to_string());
        listing.field(event.kind, format!("{} {says}", time(event.at_ms)));
    }
    for (limit, count) in &boot.held {
        listing.field("held", format!("{count} times a partner reached the limit {limit}"));
    }
    for Opened { record_sha256, receipt, reason, text, at_ms, is_new, index: _ } in &boot.openings {
        let whose = receipt.as_ref().map_or(String::new(), |receipt| format!(" of your request {receipt}"));
        let new = if *is_new { ", new" } else { "" };
        let says = format!("{} record {record_sha256}{whose}: {reason}: {text}{new}", time(*at_ms));
        listing.field("opened", says);
    }
    for (code, count) in &boot.refused {
        listing.field("refused", format!("{count} sessions: {code}"));
    }
}
