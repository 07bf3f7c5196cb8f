//! The outcomes for a document that is not refused.

/// What [`TrustedState`](super::TrustedState) did with something that it did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It was new and counts from now on.
    New,
    /// Its payload was there already, byte for byte. Signatures of a root or release that came with it this time were not looked
    /// at: to pass it on, take the envelope that is held here.
    Known,
    /// A good lease, and other issuers' leases for the same nonce are still needed.
    MoreIssuersNeeded,
}
