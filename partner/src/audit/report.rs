//! The report of an audit.

use std::collections::BTreeMap;

use cleanroom_attestation::digest::Sha256Digest;
use serde::Serialize;

use cleanroom_report::Terms;

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A stable word in kebab case.
    pub code: &'static str,
    /// The boot, entry or file.
    pub place: String,
    /// What was expected and what was found.
    pub problem: String,
}

/// How a boot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootStatus {
    /// Its log has an end.
    Ended,
    /// Its log has no end: the enclave runs, or it ended at once.
    Open,
}

/// A record that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opened {
    /// The place of the entry in the log.
    pub index: u64,
    /// The record.
    pub record_sha256: Sha256Digest,
    /// The receipt of the partner's own request that it is the record of, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// The code of the reason.
    pub reason: String,
    /// The reason in words.
    pub text: String,
    /// When: milliseconds since 1970 by the security module's clock.
    pub at_ms: u64,
    /// Whether the last audit with this state did not see it.
    pub is_new: bool,
}

/// What the log of one boot says, as far as it is sound.
#[derive(Debug, Clone, Serialize)]
pub struct BootReport {
    /// The boot.
    pub boot: Sha256Digest,
    /// Entries of the checkpoint.
    pub size: u64,
    /// Their root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Sha256Digest>,
    /// Whether the log has an end.
    pub status: BootStatus,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The identity of its weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<Sha256Digest>,
    /// The image, once the policy's reference values say which one it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the enclave booted: milliseconds since 1970 by the security module's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began_ms: Option<u64>,
    /// When it came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// What witnesses have cosigned of it, if somebody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosigned: Option<Cosigned>,
    /// Entries of each kind.
    pub entries: BTreeMap<&'static str, u64>,
    /// How often a partner reached a limit of the safeguards, by the limit's name.
    pub held: BTreeMap<String, u64>,
    /// Records that were opened.
    pub openings: Vec<Opened>,
    /// Sessions that were refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Receipts of the partner that stand where they say.
    pub receipts_found: usize,
    /// Releases and denials in the order in which the enclave took them.
    pub history: Vec<Event>,
    /// Who may do what at the end of the log.
    #[serde(skip)]
    pub(super) terms: Option<Terms>,
    /// What is wrong with it.
    #[serde(skip)]
    pub problems: Vec<Problem>,
    /// How many more problems of a kind there are than are named.
    #[serde(skip)]
    unnamed: BTreeMap<&'static str, u64>,
}

/// What a boot's log says of its cosignatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// How many entries were cosigned.
    pub size: u64,
    /// By whom, with the time by each witness's own clock: seconds since 1970.
    pub by: BTreeMap<String, u64>,
}

/// Problems of one kind that are named of a boot. A store may have any number of them.
const NAMED: usize = 20;

/// A root, release or denial that the enclave took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// `root`, `release` or `denial`.
    pub kind: &'static str,
    /// SHA-256 of its payload.
    pub sha256: Sha256Digest,
    /// When.
    pub at_ms: u64,
    /// What the document says, once its signatures were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

impl BootReport {
    /// Nothing is known of `boot` yet.
    #[must_use]
    pub fn new(boot: Sha256Digest) -> Self {
        Self {
            boot,
            size: 0,
            root: None,
            status: BootStatus::Open,
            model: None,
            model_sha256: None,
            image: None,
            began_ms: None,
            ended_ms: None,
            cosigned: None,
            entries: BTreeMap::new(),
            held: BTreeMap::new(),
            openings: Vec::new(),
            refused: BTreeMap::new(),
            receipts_found: 0,
            history: Vec::new(),
            terms: None,
            problems: Vec::new(),
            unnamed: BTreeMap::new(),
        }
    }

    /// Notes what is wrong at `place`, which is within the boot. Of one kind, the first [`NAMED`] are named and the others
    /// counted.
    pub(super) fn problem(&mut self, code: &'static str, place: &str, problem: impl Into<String>) {
        if self.problems.iter().filter(|named| named.code == code).count() >= NAMED {
            *self.unnamed.entry(code).or_default() += 1;
            return;
        }
        let place = if place.is_empty() { self.boot.to_string() } else { format!("{}/{place}", self.boot) };
        self.problems.push(Problem { code, place, problem: problem.into() });
    }

    /// Says how many problems were only counted.
    pub(super) fn close(&mut self) {
        let boot = self.boot.to_string();
        for (code, number) in std::mem::take(&mut self.unnamed) {
            let problem = format!("there are {number} more of this kind");
            self.problems.push(Problem { code, place: boot.clone(), problem });
        }
    }
}

/// What an audit found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Every boot of the store.
    pub boots: Vec<BootReport>,
    /// Receipts that were compared.
    pub receipts: usize,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Who may do what, by the newest documents that any log names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

impl Report {
    pub(super) fn take(&mut self, mut boot: BootReport) {
        if let Some(terms) = boot.terms.take()
            && self.terms.as_ref().is_none_or(|newest| newest.age() <= terms.age())
        {
            self.terms = Some(terms);
        }
        self.problems.extend(boot.problems.iter().cloned());
        boot.problems.shrink_to_fit();
        self.boots.push(boot);
    }

    pub(super) fn problem(&mut self, code: &'static str, place: String, problem: &str) {
        self.problems.push(Problem { code, place, problem: problem.to_owned() });
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}
