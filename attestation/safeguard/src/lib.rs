//! Judges an exchange, the prompt and the answer of one request, by a policy of rules and classifiers.
//!
//! [`Policy::read`] reads a policy from the bytes of its file. [`Exchange`] takes the prompt, then the answer
//! in pieces, and says what the policy demands: nothing, a flag, a refusal, or the end of the answer. It
//! holds the last bytes of an answer back, so that text which a rule refuses has not left yet.
//!
//! The verdict does not depend on how the answer was cut into pieces. Memory is bounded by the policy and by
//! [`Policy::hold_back`], and time is linear in the text. No text leaves this crate but in
//! [`Judged::leaves`]: types that hold text have no `Debug` and are erased on drop.
//!
//! A policy may name text classifiers. Who runs one hands it in with [`Policy::attach`]; this crate only calls
//! it.
//!
//! This crate has no I/O, no clock, and no threads. It does not count over several requests.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod action;
mod exchange;
mod judge;
mod policy;
mod prompt;
mod reading;
mod tail;
mod verdict;

pub use action::{Action, Part};
pub use exchange::Exchange;
pub use judge::UNLESS_REACH_CHARACTERS;
pub use policy::{
    Classifier, ClassifierSummary, MAX_CLASSIFIER_BYTES, MAX_CLASSIFIERS, MAX_EXPRESSION_BYTES,
    MAX_EXPRESSIONS, MAX_HOLD_BACK_BYTES, MAX_LITERAL_BYTES, MAX_POLICY_BYTES, MAX_RULES, MAX_TERM_BYTES,
    MAX_TERMS, MAX_WINDOW_BYTES, Policy, PolicyError, RuleSummary, Window,
};
pub use prompt::{PromptReading, pieces};
pub use verdict::{Judged, MAX_RULE_ID_BYTES, MAX_VERDICT_RULES, RuleId, Text, Verdict};

#[cfg(test)]
mod tests;
