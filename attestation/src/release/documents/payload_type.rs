//! The kinds of document that travel in an envelope.

/// The type of an envelope's payload. The type is part of what is signed, so a signature for one never counts
/// for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadType {
    /// A [`Root`](crate::release::Root).
    Root,
    /// A [`Release`](crate::release::Release).
    Release,
    /// A [`Denial`](crate::release::Denial).
    Denial,
    /// A [`Lease`](crate::release::Lease): the statement of one issuer.
    Lease,
    /// An [`Opening`](crate::release::Opening) of a record.
    Opening,
    /// A [`Receipt`](crate::receipt::Receipt), which no authority signs but an enclave.
    Receipt,
}

impl PayloadType {
    /// The media type that stands in `payloadType`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "application/vnd.cleanroom.root.v1+json",
            Self::Release => "application/vnd.cleanroom.release.v1+json",
            Self::Receipt => "application/vnd.cleanroom.receipt.v1+json",
            Self::Denial => "application/vnd.cleanroom.denial.v1+json",
            Self::Lease => "application/vnd.cleanroom.lease.v1+json",
            Self::Opening => "application/vnd.cleanroom.opening.v1+json",
        }
    }

    /// One word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Denial => "denial",
            Self::Lease => "lease",
            Self::Opening => "opening",
            Self::Receipt => "receipt",
        }
    }

    /// The most bytes of such a payload. A denial whose texts all have their full length has less than 1 KiB. A lease that lists
    /// as many denials as it may has less than 20 KiB. An opening has a key of 1216 bytes.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::Root => 64 << 10,
            Self::Release => 8 << 20,
            Self::Denial => 1 << 10,
            Self::Lease => 20 << 10,
            Self::Receipt | Self::Opening => 4 << 10,
        }
    }

    /// The most bytes of an envelope around it: base64 makes four bytes of three, and signatures take their place.
    #[must_use]
    pub const fn envelope_limit(self) -> usize {
        self.limit() / 3 * 4 + (32 << 10)
    }
}
