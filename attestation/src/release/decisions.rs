//! The consequences of accepted documents: for the enclave that runs a model, the issuer that signs a lease,
//! and the partner that checks both.
//!
//! Pure: every time and every random byte comes from the caller.

mod accepted;
mod decision;
mod denials;
mod issue;
mod meter;
mod shown;
mod state;
mod tally;

pub use accepted::Accepted;
pub use decision::{Decision, Phase, Question, Refusal};
pub use denials::{DENIALS_LIMIT, DENIALS_PER_KEY};
pub use issue::{LeaseRefusal, LeaseRequest};
pub use meter::{LimitReached, Meter};
pub use shown::{ShownError, ShownTerms};
pub use state::{LiveLease, ModelStatus, TrustedState};
pub use tally::SafeguardTally;
