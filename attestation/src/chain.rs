//! X.509: from a document's certificates to a pinned root.

mod anchor;
mod cache;

pub use self::anchor::{Tier, TrustAnchor};
pub use self::cache::ChainCache;
