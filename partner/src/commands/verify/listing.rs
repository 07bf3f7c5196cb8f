//! A verdict in words, and its exit code.

use cleanroom_attestation::chain::Tier;
use cleanroom_attestation::verdict::{self, Axis, AxisStatus, Verdict};

use crate::outcome::Outcome;
use crate::output::{Listing, Mark, printable};

/// The exit code of a verdict.
pub(super) fn outcome(verdict: &Verdict) -> Outcome {
    match verdict.outcome() {
        verdict::Outcome::Pass => Outcome::Pass,
        verdict::Outcome::Partial => Outcome::Partial,
        verdict::Outcome::Fail => Outcome::Refused,
    }
}

/// A verdict for people.
pub(super) fn listing(verdict: &Verdict) -> Listing {
    let mut listing = Listing::new();
    listing.heading(match verdict.outcome() {
        verdict::Outcome::Pass => "PASS: everything was asked and holds",
        verdict::Outcome::Partial => "PARTIAL: nothing failed, and something was not asked about",
        verdict::Outcome::Fail => "FAIL: do not trust this document",
    });
    if let Err(rejection) = verdict.accepted() {
        listing.field("because", printable(&rejection.to_string()));
    }
    listing.field("judged at", verdict.judged_at().to_string());
    listing.field("by the policy", format!("SHA-256 {}", verdict.policy_sha256()));
    if verdict.tier() == Some(Tier::Development) {
        listing.field("DEVELOPMENT", "no hardware vouches for this: the policy trusts a development root");
    }
    if verdict.debug() {
        listing.field("DEBUG", "no image is proven, and the enclave's operator can read its console");
    }
    for axis in Axis::ALL {
        listing.heading(axis.as_str());
        if verdict.axis(axis) == AxisStatus::NotAsked {
            // Without a tier the document is not genuine, and nothing else about it was looked at.
            let why = if verdict.tier().is_none() {
                "not reached: the document is not genuine"
            } else {
                hint(axis)
            };
            listing.check(Mark::NotAsked, why, "");
        }
        for check in verdict.checks().iter().filter(|check| check.axis() == axis) {
            let (expected, actual) = (printable(check.expected()), printable(check.actual()));
            match check.rejection() {
                None => listing.check(Mark::Ok, check.what(), actual),
                Some(code) if check.explained() => {
                    listing.check(Mark::Fail, check.what(), format!("{code}\n{actual}"));
                }
                Some(code) => listing.check(
                    Mark::Fail,
                    check.what(),
                    format!("{code}\nexpected  {expected}\ngot       {actual}"),
                ),
            }
        }
    }
    listing
}

/// How to ask about an axis.
const fn hint(axis: Axis) -> &'static str {
    match axis {
        Axis::Platform | Axis::Image => "every policy asks about it",
        Axis::Deployment => "name the deployment in the policy's [deployment]",
        Axis::Model => "give --pcr16",
        Axis::Freshness => "give --nonce, or max_age in the policy's [freshness]",
        Axis::Session => "give --user-data, --public-key or --pcr17",
    }
}
