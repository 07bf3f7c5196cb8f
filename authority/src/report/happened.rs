//! What happened and when, by what this authority's own services have written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{Entry, MAX_CHECKPOINT_BYTES, MAX_ENTRY_BYTES, NoteKey, SignedCheckpoint};
use cleanroom_attestation::release::UnixMillis;
use cleanroom_report::page::Event;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::documents::Documents;
use crate::broker::{self, Happening};
use crate::failure::Failure;
use crate::files;

/// The longest log of a lease service, in bytes.
const MAX_SERVICE_LOG: usize = 256 << 20;
/// The longest list of a witness's boots, in bytes.
const MAX_LIST: usize = 64 << 20;

/// A boot that the witness has taken.
#[derive(Debug, Serialize)]
pub(super) struct BootLine {
    pub(super) boot: Sha256Digest,
    pub(super) model: String,
    /// When the enclave booted, by its security module's clock.
    pub(super) began: UnixMillis,
    /// Entries of the newest checkpoint that was cosigned; 0 before the first.
    pub(super) cosigned: u64,
    /// When the witness cosigned it, by its own clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cosigned_at: Option<UnixMillis>,
}

/// Collects what happened.
#[derive(Default)]
pub(super) struct Happened {
    events: Vec<Event>,
    boots: Vec<BootLine>,
}

/// A line of a service's log.
#[derive(Deserialize)]
struct Line {
    timestamp: String,
    fields: Fields,
}

/// What of it this report understands.
#[derive(Deserialize)]
struct Fields {
    message: String,
    root: Option<u64>,
    release: Option<u64>,
    denial: Option<String>,
    code: Option<String>,
    problem: Option<String>,
}

impl Happened {
    /// Everything in order, and the boots, the newest first.
    pub(super) fn finish(mut self) -> (Vec<Event>, Vec<BootLine>) {
        self.events.sort_by_key(|event| event.at_ms);
        self.boots.sort_by_key(|boot| std::cmp::Reverse(boot.began));
        (self.events, self.boots)
    }

    fn event(&mut self, at_ms: u64, is_good: Option<bool>, says: String) {
        self.events.push(Event { at_ms, is_good, says });
    }

    /// Reads what `lease serve --json` wrote. Lines of another form are passed over: a journal puts its own between them.
    pub(super) fn service_log(&mut self, path: &Path, documents: &Documents) -> Result<(), Failure> {
        let bytes = files::read(path, MAX_SERVICE_LOG)?;
        let (mut last_root, mut last_release) = (None, None);
        let mut denials = BTreeSet::new();
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(Line { timestamp, fields }) = serde_json::from_slice(line) else { continue };
            let Some(at) = time(&timestamp) else { continue };
            let message = fields.message.clone();
            match (message.as_str(), fields) {
                ("documents read", Fields { root: Some(root), release: Some(release), .. }) => {
                    if last_root.replace(root) != Some(root) {
                        self.event(at, None, format!("The lease service took root {root}"));
                    }
                    if release > 0 && last_release.replace(release) != Some(release) {
                        self.took_release(at, release, documents);
                    }
                }
                ("halted" | "a denial was read", Fields { denial: Some(denial), .. })
                    if !denials.contains(&denial) =>
                {
                    self.halted(at, &denial, documents);
                    denials.insert(denial);
                }
                ("leases are given", _) => {
                    self.event(at, Some(true), "The lease service gave leases from now on".to_owned());
                }
                ("no leases are given", Fields { code, .. }) => {
                    let code = code.unwrap_or_else(|| "no reason".to_owned());
                    self.event(
                        at,
                        Some(false),
                        format!("The lease service gave no leases from now on: {code}"),
                    );
                }
                ("no leases until this is repaired", Fields { problem, .. }) => {
                    let problem = problem.unwrap_or_default();
                    let says =
                        format!("The lease service could not use its files, and gave no leases: {problem}");
                    self.event(at, Some(false), says);
                }
                ("listening", _) => self.event(at, None, "The lease service began".to_owned()),
                _ => {}
            }
        }
        Ok(())
    }

    fn took_release(&mut self, at: u64, version: u64, documents: &Documents) {
        let line = documents.releases.iter().find(|line| line.version == version);
        let mut says = format!("The lease service took release {version}");
        if let Some(line) = line {
            says += &format!(", signed by {}", cleanroom_report::page::signers(&line.signed_by));
        }
        self.event(at, Some(true), says);
        // The release before may have listed it already.
        let lifted = |halt: &&super::HaltLine| halt.lifted_by == Some(version);
        for halt in documents.halts.iter().filter(lifted) {
            let says = format!("Release {version} lifted the halt of {}: {}", halt.target, halt.reason);
            self.event(at, Some(true), says);
        }
    }

    fn halted(&mut self, at: u64, denial: &str, documents: &Documents) {
        let known = documents.halts.iter().find(|halt| halt.denial.to_string() == denial);
        let says = match known {
            Some(halt) => {
                let by = cleanroom_report::page::signers(&halt.signed_by);
                format!("{by} halted {}: {}", halt.target, halt.reason)
            }
            None => format!("The denial {denial} came, which is not in the folder"),
        };
        self.event(at, Some(false), says);
    }

    /// Reads a broker's log, whose every line must belong behind the one before.
    pub(super) fn broker_log(&mut self, path: &Path, problems: &mut Vec<Problem>) -> Result<(), Failure> {
        let happenings = match broker::happenings(path) {
            Ok(happenings) => happenings,
            Err(Failure::Refused { what, code, problem }) => {
                problems.push(Problem { code, place: what, problem });
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        let mut refused: BTreeMap<(u64, String), (u64, u64)> = BTreeMap::new();
        for Happening { at, is_given, code, what, enclave } in happenings {
            if is_given {
                let to = enclave.map_or_else(|| "an enclave".to_owned(), |id| format!("the enclave {id}"));
                self.event(at.0, None, format!("The broker gave {to} {what}"));
            } else {
                // Anybody can have requests refused, so they stand together: one line for each hour and reason.
                let hour = at.0 / 3_600_000;
                let counted = refused.entry((hour, code.unwrap_or_default())).or_insert((at.0, 0));
                counted.1 += 1;
            }
        }
        for ((_, code), (at, count)) in refused {
            let requests =
                if count == 1 { "a request".to_owned() } else { format!("{count} requests within the hour") };
            self.event(at, Some(false), format!("The broker refused {requests}: {code}"));
        }
        Ok(())
    }

    /// Reads the state of a witness: the boots that it has taken, and how far it has cosigned each.
    pub(super) fn witness_state(
        &mut self,
        folder: &Path,
        problems: &mut Vec<Problem>,
    ) -> Result<(), Failure> {
        let list = files::read(&folder.join("boots"), MAX_LIST)?;
        for line in String::from_utf8_lossy(&list).lines() {
            let Ok(boot) = line.parse::<Sha256Digest>() else {
                problems.push(damaged(&folder.join("boots"), "a line of it names no boot"));
                continue;
            };
            // The name of a folder: hexadecimal digits and nothing else.
            let place = folder.join(boot.to_string());
            match boot_line(&place, boot)? {
                Ok(line) => {
                    let short = boot.to_string();
                    let short = short.get(..12).unwrap_or_default();
                    let says = format!("Enclave {short}… began to serve {}", line.model);
                    self.event(line.began.0, Some(true), says);
                    self.boots.push(line);
                }
                Err(problem) => problems.push(damaged(&place, problem)),
            }
        }
        Ok(())
    }
}

/// What the witness kept of one boot. The inner error says what is wrong with that.
fn boot_line(folder: &Path, boot: Sha256Digest) -> Result<Result<BootLine, &'static str>, Failure> {
    let Ok(Entry::Boot(record)) = Entry::parse(&files::read(&folder.join("record"), MAX_ENTRY_BYTES)?) else {
        return Ok(Err("it has no boot record"));
    };
    let key = record.receipt_key().ok();
    let Some(key) = key.and_then(|key| NoteKey::of_boot(&key)) else {
        return Ok(Err("its boot record has no receipt key"));
    };
    let mut line = BootLine {
        boot,
        model: record.model.to_string(),
        began: UnixMillis(record.at_ms),
        cosigned: 0,
        cosigned_at: None,
    };
    let path = folder.join("checkpoint");
    if !path.exists() {
        return Ok(Ok(line));
    }
    let note = SignedCheckpoint::parse(&files::read(&path, MAX_CHECKPOINT_BYTES)?);
    let verified = note.as_ref().ok().and_then(|note| Some((note, note.verify(&key).ok()?)));
    let Some((note, checkpoint)) = verified else {
        return Ok(Err("its checkpoint is not signed by the boot's receipt key"));
    };
    line.cosigned = checkpoint.size;
    // The witness's own line is the last: key id, time, signature.
    let time = note.signatures().last().and_then(|line| line.bytes.get(4..12)?.try_into().ok());
    line.cosigned_at = time.map(|seconds| UnixMillis(u64::from_be_bytes(seconds).saturating_mul(1000)));
    Ok(Ok(line))
}

fn damaged(path: &Path, problem: &str) -> Problem {
    Problem { code: "state", place: path.display().to_string(), problem: problem.to_owned() }
}

/// Milliseconds since 1970 of a log line's time: 2027-01-31T12:00:00.123456Z.
fn time(text: &str) -> Option<u64> {
    let (whole, fraction) = text.strip_suffix('Z')?.split_once('.').unwrap_or((text.strip_suffix('Z')?, "0"));
    let seconds: UnixMillis = format!("{whole}Z").parse().ok()?;
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    Some(seconds.0.saturating_add(digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn a_log_lines_time_is_read_to_the_millisecond() {
        assert_eq!(time("2027-01-31T12:00:00.123456Z"), Some(1_801_396_800_123));
        assert_eq!(time("2027-01-31T12:00:00.5Z"), Some(1_801_396_800_500));
        assert_eq!(time("2027-01-31T12:00:00Z"), Some(1_801_396_800_000));
        for bad in ["", "Z", "2027-01-31T12:00:00", "2027-01-31T12:00:00.Xyz", "2027-01-31T12:00:00.ä9Z"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
