//! Release control: which models may run, for whom, until when, and who can stop them.
//!
//! `docs/release.md` gives the format, the rules and the argument; `docs/schema/` holds the JSON Schemas. In short: a [`Root`] in
//! the measured image names the authorities' keys. A quorum of them signs a [`Release`], which names everything that may run.
//! Issuers sign a [`Lease`] online, for a nonce that one enclave drew; it lets that release run for some seconds. Any one
//! authority signs a [`Denial`], which halts a model, a partner or the partners with an attribute until a later release lifts it by its digest. All four travel
//! as DSSE [`Envelope`]s through a host that is trusted with nothing.
//!
//! * `documents`: the signed documents, and the count of their signatures. No state.
//! * `decisions`: what follows from what was accepted. [`TrustedState`] takes documents in, refuses what breaks a rule, and
//!   answers a [`Question`] with a [`Decision`].

mod decisions;
mod documents;

#[cfg(test)]
mod tests;

pub use decisions::{
    Accepted, DENIALS_LIMIT, DENIALS_PER_KEY, Decision, LeaseRefusal, LeaseRequest, LimitReached, LiveLease,
    Meter, ModelStatus, Phase, Question, Refusal, SafeguardTally, ShownError, ShownTerms, TrustedState,
};
pub use documents::{
    ATTRIBUTE_TEXT_LIMIT, Algorithm, Attribute, AttributeError, AttributeText, AuditRules, AuthorityDocument,
    BROKERS_LIMIT, BootMillis, Broker, Brokers, DEPLOYMENTS_LIMIT, Day, DayBroker, DayBrokers, DayError,
    Denial, Deployment, DocumentName, EGRESS_LIMIT, Egress, Envelope, IMAGES_LIMIT, Id, Image, KEYS_LIMIT,
    Keep, KeyError, LEASE_DENIALS_LIMIT, LEASE_SECONDS_LIMIT, Label, Lease, LeaseRules, Limits, List,
    MODELS_LIMIT, Model, ModelState, Nonce, OPENING_VALID_MS, Opening, OpeningRefusal, OpeningRule,
    PARTNER_ATTRIBUTES_LIMIT, PARTNER_KEYS_LIMIT, PARTNER_MODELS_LIMIT, PARTNERS_LIMIT, Partner, Payload,
    PayloadType, PublicKey, REASONS_LIMIT, RECEIVERS_LIMIT, RETENTION_DAYS_LIMIT, ROLE_KEYS_LIMIT, Receiver,
    ReceiverKey, ReceiverKeyError, RecordFacts, Release, ReleaseError, Retention, Role, RoleRule, Roles,
    Root, RootKey, SAFEGUARD_COUNT_LIMIT, SAFEGUARD_LIMITS_LIMIT, SAFEGUARD_SECONDS_LIMIT, SIGNATURES_LIMIT,
    SUPERSEDED_LIMIT, SafeguardLimit, Safeguards, Signature, TEXT_LIMIT, Target, TextError, TimeError,
    TpmImage, UnixMillis, VERSION_LIMIT, Verified, WITNESS_SECONDS_LIMIT, WITNESSES_LIMIT, Weights, Witness,
    issuers_needed, lease_digest,
};
