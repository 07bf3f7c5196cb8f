//! The list of checks while an appraisal makes them.

use core::fmt;

use super::{Axis, AxisStatus, Check, Conclusion, Rejection, Verdict};
use crate::chain::{ChainError, Tier};
use crate::document::DocumentError;
use crate::time::Timestamp;

/// Everything that was checked so far. Whatever way a failure is recorded, the conclusion is a rejection.
#[derive(Default)]
pub(super) struct Checks {
    made: Vec<Check>,
    rejection: Option<Rejection>,
}

impl Checks {
    /// Records a check. The appraisal goes on when it fails, so that a report names everything that is wrong.
    /// `details` are what was expected and what was found.
    pub(super) fn check(
        &mut self,
        passed: bool,
        axis: Axis,
        code: &'static str,
        what: impl Into<String>,
        details: impl FnOnce() -> (String, String),
    ) {
        let (expected, actual) = details();
        let check = Check { axis, what: what.into(), expected, actual, rejection: (!passed).then_some(code) };
        if !passed && self.rejection.is_none() {
            self.rejection = Some(check.as_rejection(code));
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
        let (axis, what, expected) = (Axis::Platform, what.to_owned(), expected.to_owned());
        match result {
            Ok(value) => {
                let actual = found(&value);
                self.made.push(Check { axis, what, expected, actual, rejection: None });
                Ok(value)
            }
            Err(error) => {
                let (code, actual) = (error.code(), error.to_string());
                let check = Check { axis, what, expected, actual, rejection: Some(code) };
                let rejection = check.as_rejection(code);
                self.made.push(check);
                Err(Ended(rejection))
            }
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
            let on_axis = || self.made.iter().filter(move |check| check.axis == axis);
            match (on_axis().count(), on_axis().all(Check::passed)) {
                (0, _) => AxisStatus::NotAsked,
                (_, true) => AxisStatus::Passed,
                (_, false) => AxisStatus::Failed,
            }
        });
        Verdict { axes, tier, debug, checks: self.made, conclusion }
    }
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
    #[error("another signature")]
    Signature,
    #[error("{timestamp}, while the leaf certificate is valid from {not_before} to {not_after}")]
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

impl Check {
    fn as_rejection(&self, code: &'static str) -> Rejection {
        Rejection {
            code,
            axis: self.axis,
            what: self.what.clone(),
            expected: self.expected.clone(),
            actual: self.actual.clone(),
        }
    }
}
