//! Text classifiers: what scores a text, and what a policy makes of the score.
//!
//! The policy names a classifier by the digest of its file, and says from which score on what follows. Whoever
//! runs the classifier hands it in with [`Policy::attach`](crate::Policy::attach). One that was not handed in
//! counts as one that is sure: nothing passes because a file is missing.

use std::sync::Arc;

use cleanroom_attestation::digest::Sha256Digest;

use super::error::PolicyError;
use super::file::ClassifierFile;
use crate::{Action, Part, RuleId};

/// The most classifiers of a policy.
pub const MAX_CLASSIFIERS: usize = 4;
/// The longest file of a classifier that an enclave takes, in bytes.
pub const MAX_CLASSIFIER_BYTES: usize = cleanroom_attestation::safeguard::SAFEGUARD_CLASSIFIER_LIMIT;
/// The greatest window of an answer that a classifier reads at once, in bytes.
pub const MAX_WINDOW_BYTES: usize = 16 << 10;
/// The least and the most bytes between two windows of an answer.
const STEP_BYTES: core::ops::RangeInclusive<u64> = 32..=4096;

/// What scores a text: from 0 to 1 for a label.
type Score = dyn Fn(&str, usize) -> f32 + Send + Sync;

/// A classifier that can score. Policies share it.
pub struct Classifier {
    digest: Sha256Digest,
    labels: Box<[Box<str>]>,
    score: Box<Score>,
}

impl Classifier {
    /// The classifier of a file, which `score` runs: it gives a text's score, from 0 to 1, for one of the labels
    /// by its place. Numbers that are not finite count as 1.
    pub fn new<'l>(
        file: &[u8],
        labels: impl IntoIterator<Item = &'l str>,
        score: impl Fn(&str, usize) -> f32 + Send + Sync + 'static,
    ) -> Self {
        Self {
            digest: Sha256Digest::of(&[file]),
            labels: labels.into_iter().map(Box::from).collect(),
            score: Box::new(score),
        }
    }

    /// SHA-256 of the file. A policy names a classifier by it.
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        *self.digest.as_bytes()
    }
}

/// A classifier as a policy uses it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierSummary {
    /// The name that stands in verdicts.
    pub id: RuleId,
    /// What the author says about it.
    pub about: Box<str>,
    /// SHA-256 of the classifier's file.
    pub sha256: [u8; 32],
    /// The label whose score counts.
    pub label: Box<str>,
    /// What is scored. With [`Part::Exchange`] these are the prompt and the answer, each by itself.
    pub part: Part,
    /// The least score for each action, the mildest first.
    pub from: Vec<(Action, f32)>,
    /// Of an answer: how many bytes are read at once, and after how many more this is done again.
    pub window: Option<Window>,
}

/// How an answer is read: windows that overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Bytes that are read at once, at most.
    pub bytes: usize,
    /// Bytes of the answer from one window's end to the next.
    pub step: usize,
}

/// A classifier of a policy, with what scores for it.
pub(crate) struct Attached {
    pub(crate) summary: ClassifierSummary,
    /// The classifier, and the place of the label.
    by: Option<(Arc<Classifier>, usize)>,
}

impl Attached {
    /// Reads a policy's entry, whose classifier is not there yet.
    pub(super) fn read(written: ClassifierFile) -> Result<Self, PolicyError> {
        let ClassifierFile { id, about, sha256, label, on: part, flag, refuse, end, window, step } = written;
        let id = RuleId::read(&id).ok_or(PolicyError::Name(id))?;
        let refused = |problem: &str| PolicyError::Classifier {
            classifier: id.to_string(),
            problem: problem.to_owned(),
        };
        let sha256: Sha256Digest =
            sha256.parse().map_err(|_| refused("sha256: expected 64 hexadecimal digits in lower case"))?;
        let from: Vec<_> = [(Action::Flag, flag), (Action::Refuse, refuse), (Action::End, end)]
            .into_iter()
            .filter_map(|(action, from)| Some((action, from? as f32)))
            .collect();
        if from.is_empty() {
            return Err(refused("no score leads to anything; give `flag`, `refuse` or `end`"));
        }
        if !from.iter().all(|(_, from)| *from > 0.0 && *from <= 1.0) {
            return Err(refused("scores are above 0 and at most 1"));
        }
        if !from.is_sorted_by(|(_, mild), (_, strict)| mild <= strict) {
            return Err(refused("a stricter action needs at least the score of a milder one"));
        }
        let window = match (part, window, step) {
            (Part::Prompt, None, None) => None,
            (Part::Prompt, ..) => return Err(refused("`window` and `step` are for answers")),
            (_, Some(window), Some(step)) => {
                if !STEP_BYTES.contains(&step) {
                    return Err(refused("`step` is 32 to 4096 bytes"));
                }
                if !(step..=MAX_WINDOW_BYTES as u64).contains(&window) {
                    return Err(refused("`window` is at least `step`, and at most 16384 bytes"));
                }
                // Both fit: they were compared with their limits.
                let bytes = |number: u64| usize::try_from(number).unwrap_or(MAX_WINDOW_BYTES);
                Some(Window { bytes: bytes(window), step: bytes(step) })
            }
            _ => return Err(refused("it reads answers, so it needs `window` and `step`")),
        };
        let sha256 = *sha256.as_bytes();
        let (about, label) = (about.into(), label.into());
        Ok(Self { summary: ClassifierSummary { id, about, sha256, label, part, from, window }, by: None })
    }

    /// Whether nothing scores for it yet.
    pub(crate) const fn is_missing(&self) -> bool {
        self.by.is_none()
    }

    /// Takes the classifier if it is the one that is named. Whether it is.
    pub(crate) fn attach(&mut self, classifier: &Arc<Classifier>) -> Result<bool, PolicyError> {
        if classifier.digest() != self.summary.sha256 {
            return Ok(false);
        }
        let place = classifier.labels.iter().position(|label| *label == self.summary.label);
        let place = place.ok_or_else(|| PolicyError::Classifier {
            classifier: self.summary.id.to_string(),
            problem: format!(
                "its file has no label {:?}; it has {:?}",
                self.summary.label, classifier.labels
            ),
        })?;
        self.by = Some((Arc::clone(classifier), place));
        Ok(true)
    }

    /// The strictest action that it can demand.
    pub(crate) fn strictest(&self) -> Action {
        self.summary.from.last().map(|(action, _)| *action).unwrap_or_default()
    }

    /// What the text demands.
    pub(crate) fn judge(&self, text: &str) -> Action {
        let score = self.by.as_ref().map_or(1.0, |(classifier, label)| (classifier.score)(text, *label));
        let score = if score.is_finite() { score } else { 1.0 };
        let reached = self.summary.from.iter().rev().find(|(_, from)| score >= *from);
        reached.map(|(action, _)| *action).unwrap_or_default()
    }
}
