//! The appraisal itself.

use super::{Axes, Axis, AxisStatus, Check, Expectation, Outcome, Rejection, Verdict};
use crate::chain::ChainCache;
use crate::document::Document;
use crate::policy::Policy;
use crate::time::Timestamp;

/// Appraises a document: structure, chain, signature, then everything that the policy and the session ask.
///
/// `at` is the verifier's time; the library reads no clock. With a `cache`, chains that were validated before are not
/// validated again, but their validity windows are.
#[must_use]
pub fn appraise(
    document: &[u8],
    policy: &Policy,
    expected: &Expectation<'_>,
    at: Timestamp,
    cache: Option<&mut ChainCache>,
) -> Verdict {
    let _ = (policy, expected, at, cache);
    let (code, actual) = match Document::parse(document) {
        Ok(_) => ("chain-not-validated", "a chain that this version does not validate".to_owned()),
        Err(error) => (error.code(), error.to_string()),
    };
    let check = Check {
        axis: Axis::Platform,
        what: "document".to_owned(),
        expected: "an attestation document".to_owned(),
        actual: actual.clone(),
        rejection: Some(code),
    };
    let rejection = Rejection {
        code,
        axis: Axis::Platform,
        what: check.what.clone(),
        expected: check.expected.clone(),
        actual,
    };
    Verdict {
        outcome: Outcome::Fail,
        axes: Axes {
            platform: AxisStatus::Failed,
            image: AxisStatus::NotAsked,
            deployment: AxisStatus::NotAsked,
            model: AxisStatus::NotAsked,
            freshness: AxisStatus::NotAsked,
            session: AxisStatus::NotAsked,
        },
        tier: None,
        debug: false,
        checks: vec![check],
        evidence: None,
        session: Err(rejection.clone()),
        rejection: Some(rejection),
    }
}
