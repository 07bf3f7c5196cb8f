//! An auditor's memory from one audit to the next.

use std::collections::BTreeMap;

use cleanroom_attestation::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

use super::report::Report;

/// What was seen of a boot's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Its size.
    pub size: u64,
    /// Its root.
    pub root: Sha256Digest,
}

/// The state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The version of this form: 1.
    version: u32,
    /// The newest sound view of each boot.
    pub boots: BTreeMap<String, Seen>,
    /// The last audits, the newest last: each with its time and the codes of what was wrong.
    pub audits: Vec<Audit>,
}

/// That an audit was made, also when it failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// When, by the auditor's clock (RFC 3339).
    pub at: String,
    /// What was wrong.
    pub problems: Vec<String>,
}

/// Audits that are remembered.
const AUDITS: usize = 100;

/// The state file is none.
#[derive(Debug, thiserror::Error)]
#[error("expected a state file that `cleanroom audit` wrote")]
pub struct StateError;

impl Default for State {
    fn default() -> Self {
        Self { version: 1, boots: BTreeMap::new(), audits: Vec::new() }
    }
}

impl State {
    /// Reads a state file.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        let state: Self = serde_json::from_slice(bytes).map_err(|_| StateError)?;
        let are_boots = state.boots.keys().all(|boot| boot.parse::<Sha256Digest>().is_ok());
        if state.version == 1 && are_boots { Ok(state) } else { Err(StateError) }
    }

    /// What was seen of each boot.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<Sha256Digest, Seen> {
        self.boots.iter().filter_map(|(boot, seen)| Some((boot.parse().ok()?, *seen))).collect()
    }

    /// Takes the result of an audit in. A boot with a problem stays as it was seen before.
    pub fn take(&mut self, report: &Report, at: String) {
        for boot in report.boots.iter().filter(|boot| boot.problems.is_empty()) {
            if let Some(root) = boot.root {
                self.boots.insert(boot.boot.to_string(), Seen { size: boot.size, root });
            }
        }
        let problems = report.problems.iter().map(|problem| format!("{} {}", problem.code, problem.place));
        self.audits.push(Audit { at, problems: problems.take(AUDITS).collect() });
        let old = self.audits.len().saturating_sub(AUDITS);
        self.audits.drain(..old);
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}
