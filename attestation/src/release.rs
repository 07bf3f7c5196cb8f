//! Release control: which models may run, for whom, until when, and who can stop them.
//!
//! The format and its rules are in `docs/release.md`, the JSON Schemas in `docs/schema/`. In short: a [`Root`] that is part of
//! the measured image names the authorities' keys; a [`Release`], signed by a quorum of them, names everything that may run; a
//! [`Lease`], signed online for a nonce that one enclave drew, lets that release run for some seconds; a [`Denial`], signed by
//! any one authority, halts a model or a partner until a later release lifts it by name. All four travel as DSSE
//! [`Envelope`]s through a host that is trusted with nothing.
//!
//! [`TrustedState`] takes them in, refuses what breaks a rule, and answers a [`Question`] with a [`Decision`].

mod control;
mod decision;
mod denial;
mod envelope;
mod error;
mod fields;
mod issue;
mod key;
mod lease;
mod limits;
mod manifest;
mod open;
mod root;
mod shown;
mod state;
mod time;

#[cfg(test)]
mod tests;

pub use control::{
    CONTROL_ANSWER_LIMIT, CONTROL_HEADER_BYTES, ControlAnswer, ControlError, ControlKind, ControlState,
};
pub use decision::{Decision, Phase, Question, Refusal};
pub use denial::{Denial, DenialNotice, Target};
pub use envelope::{Envelope, PayloadType, SIGNATURES_LIMIT, Signature};
pub use error::ReleaseError;
pub use fields::{Id, Label, List, TEXT_LIMIT, TextError};
pub use issue::{LeaseRefusal, LeaseRequest};
pub use key::{Algorithm, KeyError, PublicKey};
pub use lease::{Lease, NOTICES_LIMIT, Nonce, ReleaseName, issuers_needed, lease_digest};
pub use limits::{LimitReached, Meter};
pub use manifest::{
    AuditRules, DEPLOYMENTS_LIMIT, Deployment, EGRESS_LIMIT, Egress, IMAGES_LIMIT, Image,
    LEASE_SECONDS_LIMIT, LeaseRules, Limits, MODELS_LIMIT, Model, ModelState, PARTNER_KEYS_LIMIT,
    PARTNER_MODELS_LIMIT, PARTNERS_LIMIT, Partner, Release, SUPERSEDED_LIMIT, WITNESSES_LIMIT, Witness,
};
pub use open::{Payload, Verified};
pub use root::{KEYS_LIMIT, ROLE_KEYS_LIMIT, Role, RoleRule, Roles, Root, RootKey, VERSION_LIMIT};
pub use shown::{ShownError, ShownTerms};
pub use state::{Accepted, DENIALS_LIMIT, LiveLease, ModelStanding, TrustedState};
pub use time::{BootMillis, TimeError, UnixMillis};
