//! A verifier's conclusion about one document, axis by axis.
//!
//! [`appraise`] takes evidence, a policy, what this session expects and a time, and always gives a [`Verdict`]: one shape
//! to print, whether the document is accepted or not even CBOR. There is one way from it to a value that may be trusted:
//! [`Verdict::accepted`] and, for a channel, [`Verdict::accepted_session`]. [`AcceptedEvidence`] and [`AcceptedSession`]
//! have no other constructor.

mod appraise;
mod axis;
mod check;
mod checks;
mod conclusion;
mod evidence;
mod expectation;
mod report;

pub use self::appraise::appraise;
pub use self::axis::{Axis, AxisStatus, Outcome};
pub use self::check::{Check, ClockDifference, Rejection};
pub use self::conclusion::Verdict;
pub use self::evidence::{AcceptedEvidence, AcceptedSession};
pub use self::expectation::{Expectation, MIN_SESSION_NONCE_LENGTH};
