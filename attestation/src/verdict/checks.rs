//! The list of checks while an appraisal makes them.

use core::fmt;

use super::axis::{Axis, AxisStatus};
use super::check::{Check, ClockDifference, Rejection};
use super::conclusion::{Conclusion, Verdict};
use crate::chain::{ChainError, Tier};
use crate::digest::Sha256Digest;
use crate::document::DocumentError;
use crate::policy::Policy;
use crate::time::Timestamp;

/// Everything that was checked so far. Whatever way a failure is recorded, the conclusion is a rejection.
pub(super) struct Checks {
    judged_at: Timestamp,
    policy_sha256: Sha256Digest,
    clock: Option<ClockDifference>,
    made: Vec<Check>,
    rejection: Option<Rejection>,
}

impl Checks {
    /// Nothing checked yet, of a document that is judged by `policy` at the time `at`.
    pub(super) fn new(policy: &Policy, at: Timestamp) -> Self {
        let policy_sha256 = *policy.sha256();
        Self { judged_at: at, policy_sha256, clock: None, made: Vec::with_capacity(16), rejection: None }
    }

    /// From now on, a rule about time that is broken says how the verifier's clock looks beside the document's time stamp.
    pub(super) fn compare_clocks(&mut self, time_stamp: Timestamp) {
        self.clock = ClockDifference::between(time_stamp, self.judged_at);
    }

    /// Records a check. The appraisal goes on when it fails, so that a report names everything that is wrong.
    /// `details` are what was expected and what was found.
    pub(super) fn check(
        &mut self,
        passed: bool,
        axis: Axis,
        code: &'static str,
        what: &'static str,
        details: impl FnOnce() -> (String, String),
    ) {
        let (expected, actual) = details();
        let rejection = (!passed).then_some(code);
        let check = Check { axis, what, expected, actual, rejection, explained: false };
        if !passed && self.rejection.is_none() {
            self.rejection = Some(self.rejected(&check, code));
        }
        self.made.push(check);
    }

    /// Records a check of the platform without which the appraisal cannot go on. `found` describes what passed.
    pub(super) fn require<T, E: Coded>(
        &mut self,
        result: Result<T, E>,
        what: &'static str,
        expected: &'static str,
        found: impl FnOnce(&T) -> String,
    ) -> Result<T, Ended> {
        let (axis, expected) = (Axis::Platform, expected.to_owned());
        match result {
            Ok(value) => {
                let actual = found(&value);
                self.made.push(Check { axis, what, expected, actual, rejection: None, explained: false });
                Ok(value)
            }
            Err(error) => {
                let (code, actual) = (error.code(), error.to_string());
                let check = Check { axis, what, expected, actual, rejection: Some(code), explained: true };
                let rejection = self.rejected(&check, code);
                self.made.push(check);
                Err(Ended(rejection))
            }
        }
    }

    fn rejected(&self, check: &Check, code: &'static str) -> Rejection {
        Rejection {
            code,
            axis: check.axis,
            what: check.what,
            expected: check.expected.clone(),
            actual: check.actual.clone(),
            explained: check.explained,
            clock: self.clock.filter(|_| is_about_the_clock(code)),
        }
    }

    /// The verdict on a document that is not genuine.
    pub(super) fn conclude_ended(self, ended: Ended) -> Verdict {
        self.verdict(None, false, Conclusion::Rejected(ended.0))
    }

    /// The verdict on a genuine document. `accepted` is only asked when every check passed.
    pub(super) fn conclude(
        mut self,
        tier: Tier,
        debug: bool,
        accepted: impl FnOnce() -> Conclusion,
    ) -> Verdict {
        let conclusion = self.rejection.take().map_or_else(accepted, Conclusion::Rejected);
        self.verdict(Some(tier), debug, conclusion)
    }

    fn verdict(self, tier: Option<Tier>, debug: bool, conclusion: Conclusion) -> Verdict {
        let axes = Axis::ALL.map(|axis| {
            let mut on_axis = self.made.iter().filter(|check| check.axis == axis).map(Check::passed);
            match on_axis.next() {
                None => AxisStatus::NotAsked,
                Some(first) if first && on_axis.all(|passed| passed) => AxisStatus::Passed,
                Some(_) => AxisStatus::Failed,
            }
        });
        let Self { judged_at, policy_sha256, made: checks, .. } = self;
        Verdict { judged_at, policy_sha256, axes, tier, debug, checks, conclusion }
    }
}

/// Whether a wrong clock of the verifier breaks the rule with this code although the document is right.
fn is_about_the_clock(code: &str) -> bool {
    matches!(
        code,
        "certificate-not-yet-valid" | "certificate-expired" | "timestamp-in-future" | "evidence-too-old"
    )
}

/// The rejection by the required check that failed.
pub(super) struct Ended(Rejection);

/// An error with a stable word for programs.
pub(super) trait Coded: fmt::Display {
    fn code(&self) -> &'static str;
}

impl Coded for DocumentError {
    fn code(&self) -> &'static str {
        self.code()
    }
}

impl Coded for ChainError {
    fn code(&self) -> &'static str {
        self.code()
    }
}

/// Why a well-formed document under a valid chain is not genuine.
#[derive(Debug, thiserror::Error)]
pub(super) enum GenuineError {
    #[error("the leaf certificate names {name:?}, the document {module_id:?}")]
    Name { name: String, module_id: String },
    #[error("the leaf certificate's key did not make this signature")]
    Signature,
    #[error(
        "the document was made at {timestamp}, while the leaf certificate is valid from {not_before} to {not_after}"
    )]
    Time { timestamp: Timestamp, not_before: Timestamp, not_after: Timestamp },
}

impl Coded for GenuineError {
    fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "module-id-leaf",
            Self::Signature => "document-signature",
            Self::Time { .. } => "timestamp-outside-leaf",
        }
    }
}
