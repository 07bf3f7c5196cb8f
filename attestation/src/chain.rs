//! X.509: from a document's certificates to a pinned root (RFC 5280, narrowed to the profile of Nitro's attestation PKI).
//!
//! Two validations must agree. `rustls-webpki` finds and verifies a certification path; it does not look at key usage,
//! ignores key identifiers and takes certificates in any order. The pass of our own demands the profile: root first, each
//! certificate issued by the one before it and nothing beside them, P-384 and SHA-384 throughout, the key usages that
//! each position needs. An error of either refuses the chain; no kind of error is passed over.

mod anchor;
mod cache;
pub(crate) mod certificate;
pub(crate) mod der;
mod error;
pub(crate) mod name;
mod path;
mod validated;
mod view;
pub(crate) mod window;

pub use self::anchor::{AnchorError, Tier, TrustAnchor};
pub use self::cache::ChainCache;
pub use self::error::{CertificateError, ChainError, Position};
pub use self::view::{CertificateContents, CertificateView, describe, describe_certificates};

pub(crate) use self::path::validate;
pub(crate) use self::validated::{Certificates, Chain};
pub(crate) use self::window::Clock;
