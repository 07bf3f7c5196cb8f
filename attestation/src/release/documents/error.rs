//! The reasons to refuse a signed document.

use super::payload_type::PayloadType;
use super::role::Role;

/// Why an envelope, its payload or a step of the state was refused. Nothing has changed when one of these comes back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// More bytes than a document of this kind may have; nothing was decoded.
    #[error(
        "a {what} of {actual} bytes is over the limit of {limit}; split it up or remove what is no longer needed"
    )]
    TooLarge {
        /// What was to be read.
        what: &'static str,
        /// The most bytes it may have.
        limit: usize,
        /// The bytes that came.
        actual: usize,
    },
    /// Not JSON of the expected form: a member is missing, unknown, twice there, or has a value that it cannot have.
    #[error("the {what} does not have the form in docs/release.md: {problem}")]
    Form {
        /// What was read.
        what: &'static str,
        /// What was wrong, with line and column.
        problem: String,
    },
    /// Base64 was expected.
    #[error("the envelope's {0} is not base64")]
    Base64(&'static str),
    /// An envelope around something else.
    #[error("expected an envelope with a payload of type {}, got {actual:?}", expected.as_str())]
    PayloadType {
        /// The type that was expected.
        expected: PayloadType,
        /// The type that the envelope names.
        actual: String,
    },
    /// Two entries share what must be theirs alone.
    #[error("{what} {value} occurs twice; each may occur once")]
    Repeated {
        /// What was repeated.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// A name that nothing in the document (or in the root) carries.
    #[error("{from} names {what} {value}, which does not exist there; add it or remove the name")]
    Dangling {
        /// Where the name stands.
        from: &'static str,
        /// What kind of thing it should name.
        what: &'static str,
        /// The name.
        value: String,
    },
    /// A number outside its range.
    #[error("{what} is {actual}, expected {least} to {most}")]
    Range {
        /// Which number.
        what: &'static str,
        /// The smallest permitted value.
        least: u64,
        /// The largest permitted value.
        most: u64,
        /// The value that came.
        actual: u64,
    },
    /// A key of the lease role, which is used online, is also in a role that must be kept offline.
    #[error(
        "key {key} is in the role lease and in the role {role}: an online key may not count towards that quorum; use two keys"
    )]
    OnlineKey {
        /// The key's name in the root.
        key: String,
        /// The other role.
        role: Role,
    },
    /// Two keys of one authority in one role, so that it would count twice.
    #[error(
        "authority {authority} has two keys in the role {role}; an authority counts once, so give it one key there"
    )]
    AuthorityTwice {
        /// The authority.
        authority: String,
        /// The role.
        role: Role,
    },
    /// Too few distinct keys of the role signed.
    #[error("{what}: {valid} distinct keys of the role {role} signed, {needed} are needed")]
    Threshold {
        /// What was to be accepted.
        what: &'static str,
        /// The role whose keys count.
        role: Role,
        /// Distinct keys that are needed.
        needed: usize,
        /// Distinct keys of the role whose signature is good.
        valid: usize,
    },
    /// A signature to be added that was not made with the key it is said to come from.
    #[error(
        "the signature was not made over this payload with the key {0}; sign the bytes of the pre-authentication encoding"
    )]
    NotTheSigner(crate::digest::Sha256Digest),
    /// Signed for another clean room.
    #[error("the {what} is for the room {actual}, this is the room {expected}")]
    Room {
        /// What was to be accepted.
        what: &'static str,
        /// This room.
        expected: String,
        /// The room that the document names.
        actual: String,
    },
    /// An older version than the one already accepted.
    #[error("{what} version {actual} is older than version {current}, which was accepted before")]
    Rollback {
        /// What was to be accepted.
        what: &'static str,
        /// The version already accepted.
        current: u64,
        /// The version that came.
        actual: u64,
    },
    /// The accepted version again, with other bytes.
    #[error("{what} version {version} was accepted before with other bytes; a change needs a higher version")]
    SameVersionOtherBytes {
        /// What was to be accepted.
        what: &'static str,
        /// The version.
        version: u64,
    },
    /// A root that does not follow directly on the current one.
    #[error(
        "root version {actual} does not follow on version {current}: give every root in between, one at a time"
    )]
    RootSkipped {
        /// The current root's version.
        current: u64,
        /// The version that came.
        actual: u64,
    },
    /// A release below the root's `minimum_release`.
    #[error("release version {actual} is below {minimum}, the root's minimum_release")]
    BelowMinimum {
        /// The root's `minimum_release`.
        minimum: u64,
        /// The version that came.
        actual: u64,
    },
    /// A lease came before any release.
    #[error("no release has been accepted yet, and a lease must name one")]
    NoRelease,
    /// No nonce is outstanding.
    #[error("no lease has been asked for: begin_lease comes first")]
    NoLeaseAsked,
    /// The nonce was used before, or is all zero.
    #[error("the nonce is all zero or was used for the last lease; draw 32 fresh random bytes")]
    StaleNonce,
    /// The lease is for another nonce: for another enclave, another boot or an earlier exchange.
    #[error("the lease answers an older or foreign nonce; expected the nonce that this enclave sent last")]
    WrongNonce,
    /// The lease names another root version.
    #[error("the lease was signed under root version {actual}, this enclave holds version {current}")]
    LeaseRoot {
        /// The version held here.
        current: u64,
        /// The version that the lease names.
        actual: u64,
    },
    /// The lease names another release.
    #[error(
        "the lease names release version {actual_version}, digest {actual}; the newest release here has the digest {current}"
    )]
    LeaseRelease {
        /// Digest of the newest release here.
        current: crate::digest::Sha256Digest,
        /// Digest that the lease names.
        actual: crate::digest::Sha256Digest,
        /// Version that the lease names.
        actual_version: u64,
    },
    /// The lease is longer than the release permits.
    #[error("the lease is for {actual} seconds, the release permits {most}")]
    LeaseTooLong {
        /// Seconds that the release permits.
        most: u64,
        /// Seconds that the lease names.
        actual: u64,
    },
    /// The lease had already ended when it came, counted from the sending of the nonce.
    #[error("the lease ended {0} milliseconds before it arrived; ask again")]
    LeaseLate(u64),
    /// The caller's clock went back.
    #[error("the monotonic clock went back")]
    ClockWentBack,
    /// A lease lists a denial that was not handed in. What a digest stands for is known from the denial alone.
    #[error(
        "the lease lists the denial {0}, which has not been handed in with a good signature; hand in that denial, then the lease"
    )]
    DenialMissing(crate::digest::Sha256Digest),
    /// Every deny key that signed the denial has as many in force as one key may have.
    #[error(
        "a deny key may have {limit} denials in force; a release has to lift some, or a new root has to leave the key out"
    )]
    TooManyDenials {
        /// The most denials of one key that are in force.
        limit: usize,
    },
    /// A member of a release that promises something which this version does not enforce.
    #[error("{member} must be {neutral} in a release: this version enforces no other value")]
    NotEnforced {
        /// The member.
        member: &'static str,
        /// The only value that it may have.
        neutral: &'static str,
    },
    /// A witness that the release names has a key, or a name, with which nobody can cosign a log.
    #[error("the witness key {0} can cosign no log: expected an Ed25519 key whose name has no plus sign")]
    WitnessKey(String),
    /// The release says of this enclave's model that its weights are sealed, and the measured configuration says that they are not;
    /// or the other way round.
    #[error("the release says that the weights are {}, and this enclave takes them {}; change one of the two", sealed(*in_release), sealed(!*in_release))]
    Weights {
        /// Whether the release says that they are sealed.
        in_release: bool,
    },
    /// A safeguard policy that no release in force, and none that waits for its lease, names for this enclave's model.
    #[error("no release here names the safeguard policy with the digest {0} for this model")]
    PolicyNotNamed(crate::digest::Sha256Digest),
}

const fn sealed(is: bool) -> &'static str {
    if is { "sealed" } else { "as they are" }
}

impl ReleaseError {
    /// A stable word for programs and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Form { .. } => "form",
            Self::Base64(_) => "base64",
            Self::PayloadType { .. } => "payload-type",
            Self::Repeated { .. } => "repeated",
            Self::Dangling { .. } => "dangling",
            Self::Range { .. } => "range",
            Self::OnlineKey { .. } => "online-key",
            Self::AuthorityTwice { .. } => "authority-twice",
            Self::Threshold { .. } => "threshold",
            Self::NotTheSigner(_) => "not-the-signer",
            Self::Room { .. } => "room",
            Self::Rollback { .. } => "rollback",
            Self::SameVersionOtherBytes { .. } => "same-version-other-bytes",
            Self::RootSkipped { .. } => "root-skipped",
            Self::BelowMinimum { .. } => "below-minimum",
            Self::NoRelease => "no-release",
            Self::NoLeaseAsked => "no-lease-asked",
            Self::StaleNonce => "stale-nonce",
            Self::WrongNonce => "wrong-nonce",
            Self::LeaseRoot { .. } => "lease-root",
            Self::LeaseRelease { .. } => "lease-release",
            Self::LeaseTooLong { .. } => "lease-too-long",
            Self::LeaseLate(_) => "lease-late",
            Self::ClockWentBack => "clock-went-back",
            Self::DenialMissing(_) => "denial-missing",
            Self::TooManyDenials { .. } => "too-many-denials",
            Self::NotEnforced { .. } | Self::Weights { .. } => "not-enforced",
            Self::WitnessKey(_) => "witness-key",
            Self::PolicyNotNamed(_) => "policy-not-named",
        }
    }

    /// An error of `serde_json`, shortened: it quotes what a stranger wrote.
    pub(in crate::release) fn form(what: &'static str, error: &serde_json::Error) -> Self {
        const LIMIT: usize = 240;
        let full = error.to_string();
        let mut problem: String =
            full.chars().take(LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if problem.len() < full.len() {
            problem.push('…');
        }
        Self::Form { what, problem }
    }
}

/// Refuses a number outside `least..=most`.
pub(in crate::release) fn in_range(
    what: &'static str,
    actual: u64,
    least: u64,
    most: u64,
) -> Result<(), ReleaseError> {
    if (least..=most).contains(&actual) {
        Ok(())
    } else {
        Err(ReleaseError::Range { what, least, most, actual })
    }
}
