//! The documents that the authorities sign, and the count of their signatures.
//!
//! Dependencies go one way: small types ([`fields`], [`key`], [`time`], [`payload_type`], [`authority_document`], [`role`], [`attribute`]), then [`error`] and
//! [`envelope`], then [`root`], then [`verified`], which counts signatures, then the four documents that roles sign.

mod attribute;
mod authority_document;
mod denial;
mod envelope;
mod error;
mod fields;
mod key;
mod lease;
mod opening;
mod payload_type;
mod release;
mod retention;
mod role;
mod root;
mod time;
mod verified;

pub use attribute::{Attribute, AttributeError, PARTNER_ATTRIBUTES_LIMIT};
pub use authority_document::AuthorityDocument;
pub use denial::{Denial, Target};
pub(super) use envelope::to_json;
pub use envelope::{Envelope, SIGNATURES_LIMIT, Signature};
pub use error::ReleaseError;
pub(super) use error::in_range;
pub use fields::{ATTRIBUTE_TEXT_LIMIT, AttributeText, Id, Label, List, TEXT_LIMIT, TextError};
pub use key::{Algorithm, KeyError, PublicKey};
pub use lease::{DocumentName, LEASE_DENIALS_LIMIT, Lease, Nonce, issuers_needed, lease_digest};
pub use opening::{OPENING_VALID_MS, Opening, OpeningRefusal, ReceiverKey, ReceiverKeyError, RecordFacts};
pub use payload_type::PayloadType;
pub use release::{
    AuditRules, Broker, Brokers, DEPLOYMENTS_LIMIT, Deployment, EGRESS_LIMIT, Egress, IMAGES_LIMIT, Image,
    LEASE_SECONDS_LIMIT, LeaseRules, Limits, MODELS_LIMIT, Model, ModelState, PARTNER_KEYS_LIMIT,
    PARTNER_MODELS_LIMIT, PARTNERS_LIMIT, Partner, Release, SAFEGUARD_COUNT_LIMIT, SAFEGUARD_LIMITS_LIMIT,
    SAFEGUARD_SECONDS_LIMIT, SUPERSEDED_LIMIT, SafeguardLimit, Safeguards, TpmImage, WITNESS_SECONDS_LIMIT,
    WITNESSES_LIMIT, Weights, Witness,
};
pub use retention::{
    BROKERS_LIMIT, Day, DayBroker, DayBrokers, DayError, Keep, OpeningRule, REASONS_LIMIT, RECEIVERS_LIMIT,
    RETENTION_DAYS_LIMIT, Receiver, Retention,
};
pub use role::Role;
pub use root::{KEYS_LIMIT, ROLE_KEYS_LIMIT, RoleRule, Roles, Root, RootKey, VERSION_LIMIT};
pub use time::{BootMillis, TimeError, UnixMillis};
pub use verified::{Payload, Verified};
