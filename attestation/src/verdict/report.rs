//! A verdict as text for people and as an object for programs.

use core::fmt;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::axis::{Axis, AxisStatus, Outcome};
use super::check::{Check, Rejection};
use super::conclusion::Verdict;
use super::evidence::AcceptedEvidence;
use crate::chain::Tier;
use crate::digest::Sha256Digest;
use crate::time::Timestamp;

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Object<'a> {
            outcome: Outcome,
            judged_at: Timestamp,
            policy_sha256: &'a Sha256Digest,
            axes: Axes<'a>,
            tier: Option<Tier>,
            debug: bool,
            checks: &'a [Check],
            evidence: Option<&'a AcceptedEvidence>,
            rejection: Option<&'a Rejection>,
        }
        let accepted = self.accepted();
        Object {
            outcome: self.outcome(),
            judged_at: self.judged_at,
            policy_sha256: &self.policy_sha256,
            axes: Axes(self),
            tier: self.tier,
            debug: self.debug,
            checks: &self.checks,
            evidence: accepted.ok(),
            rejection: accepted.err(),
        }
        .serialize(serializer)
    }
}

struct Axes<'a>(&'a Verdict);

impl Serialize for Axes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Axis::ALL.len()))?;
        for axis in Axis::ALL {
            map.serialize_entry(&axis, &self.0.axis(axis))?;
        }
        map.end()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome() {
            Outcome::Pass => "PASS",
            Outcome::Partial => "PARTIAL",
            Outcome::Fail => "FAIL",
        };
        write!(formatter, "{outcome}")?;
        if self.tier == Some(Tier::Development) {
            write!(formatter, "  DEVELOPMENT root: no hardware vouches for this")?;
        }
        if self.debug {
            write!(formatter, "  DEBUG mode: no image is proven, and the operator can read the console")?;
        }
        writeln!(formatter)?;
        if let Some(clock) = self.accepted().err().and_then(Rejection::clock) {
            writeln!(formatter, "{clock}")?;
        }
        for axis in Axis::ALL {
            let status = match self.axis(axis) {
                AxisStatus::Passed => "passed",
                AxisStatus::Failed => "FAILED",
                AxisStatus::NotAsked => "not asked",
            };
            writeln!(formatter, "{:<11} {status}", axis.as_str())?;
            for check in self.checks.iter().filter(|check| check.axis == axis) {
                match check.rejection {
                    None => writeln!(formatter, "  ok   {}: {}", check.what, check.actual)?,
                    Some(code) if check.explained => {
                        writeln!(formatter, "  FAIL {}: {code}: {}", check.what, check.actual)?;
                    }
                    Some(code) => writeln!(
                        formatter,
                        "  FAIL {}: {code}: expected {}, got {}",
                        check.what, check.expected, check.actual
                    )?,
                }
            }
        }
        Ok(())
    }
}
