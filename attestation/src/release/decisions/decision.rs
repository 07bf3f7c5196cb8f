//! The question at the start of a session, at every request and at every token, and its answer.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::denials::Denials;
use crate::digest::Sha256Digest;
use crate::release::documents::{
    Attribute, BootMillis, Id, Limits, ModelState, Partner, Release, Target, UnixMillis, Verified,
};

/// May this partner use this model?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// SHA-256 of the `SubjectPublicKeyInfo` that the partner proved to hold.
    pub partner_key: &'a Sha256Digest,
    /// The model's id.
    pub model: &'a str,
    /// The digest of the weights that are loaded under this id.
    pub model_sha256: &'a Sha256Digest,
    /// For what.
    pub phase: Phase,
}

/// What the answer is for. A draining model still finishes what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A new session or a new request.
    Start,
    /// The next token of a request that was admitted earlier.
    Continue,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Yes, and at the latest at `until` it must be asked again.
    Serve {
        /// The end of the lease, or of whatever ends first.
        until: BootMillis,
        /// How much the partner may do.
        limits: Limits,
    },
    /// No.
    Refuse(Refusal),
}

/// Why not. Each has a stable code; a partner may be told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// No release has been accepted.
    #[error("no release has been accepted")]
    NoRelease,
    /// No lease has been accepted since boot, or what it named is no longer valid.
    #[error("the authorities have not given this enclave a lease")]
    NoLease,
    /// The last lease has ended.
    #[error("the lease has ended and the authorities have not renewed it")]
    LeaseLapsed,
    /// The monotonic clock shows a time before the lease began.
    #[error("the enclave's monotonic clock went back")]
    ClockWentBack,
    /// The root has expired.
    #[error("the root has expired")]
    RootExpired,
    /// The release has expired.
    #[error("the release has expired")]
    ReleaseExpired,
    /// The partner reached a limit of the safeguards.
    #[error(
        "the partner reached a limit of the model's safeguards and is held until a newer release is in force"
    )]
    PartnerHeld,
    /// The release names no partner with this key.
    #[error("the release lists no partner with this key")]
    PartnerUnknown,
    /// The partner's time is over.
    #[error("the partner's admission has expired")]
    PartnerExpired,
    /// An authority halted the partner.
    #[error("an authority has halted the partner")]
    PartnerDenied,
    /// An authority halted the partners with an attribute that a release in force gives this partner.
    #[error("an authority has halted the partners with an attribute that the release gives this partner")]
    AttributeDenied,
    /// The release does not name the model, or not for this partner: which of the two is not said.
    #[error("the release does not grant this model to this partner")]
    ModelNotGranted,
    /// The release names other weights under this id.
    #[error("the release names other weights for this model")]
    ModelDigest,
    /// An authority halted the model.
    #[error("an authority has halted the model")]
    ModelDenied,
    /// The model takes no new requests.
    #[error("the model takes no new requests")]
    ModelDraining,
    /// The model is suspended.
    #[error("the model is suspended")]
    ModelSuspended,
    /// The model is revoked.
    #[error("the model is revoked")]
    ModelRevoked,
    /// The enclave does not have the policy that the release names, or cannot read it.
    #[error("the enclave does not have the safeguard policy that the release names")]
    SafeguardMissing,
    /// The release demands records, and the enclave has no secret of the day to seal them under, or a host that takes none.
    #[error("the enclave cannot keep the sealed records that the release demands")]
    RetentionMissing,
    /// The release demands witnesses, and too few have cosigned the enclave's log for too long.
    #[error("too few of the witnesses that the release names have cosigned the enclave's log in time")]
    Unwitnessed,
}

impl Refusal {
    /// Every refusal, in the order of their codes on the wire.
    pub const ALL: [Self; 20] = [
        Self::NoRelease,
        Self::NoLease,
        Self::LeaseLapsed,
        Self::ClockWentBack,
        Self::RootExpired,
        Self::ReleaseExpired,
        Self::PartnerHeld,
        Self::PartnerUnknown,
        Self::PartnerExpired,
        Self::PartnerDenied,
        Self::ModelNotGranted,
        Self::ModelDigest,
        Self::ModelDenied,
        Self::ModelDraining,
        Self::ModelSuspended,
        Self::ModelRevoked,
        Self::SafeguardMissing,
        Self::RetentionMissing,
        Self::Unwitnessed,
        Self::AttributeDenied,
    ];

    /// The code in the channel's `Refusal` frame: 16 to 35, in the order of [`Self::ALL`].
    pub(crate) const fn wire_code(self) -> u8 {
        match self {
            Self::NoRelease => 16,
            Self::NoLease => 17,
            Self::LeaseLapsed => 18,
            Self::ClockWentBack => 19,
            Self::RootExpired => 20,
            Self::ReleaseExpired => 21,
            Self::PartnerHeld => 22,
            Self::PartnerUnknown => 23,
            Self::PartnerExpired => 24,
            Self::PartnerDenied => 25,
            Self::ModelNotGranted => 26,
            Self::ModelDigest => 27,
            Self::ModelDenied => 28,
            Self::ModelDraining => 29,
            Self::ModelSuspended => 30,
            Self::ModelRevoked => 31,
            Self::SafeguardMissing => 32,
            Self::RetentionMissing => 33,
            Self::Unwitnessed => 34,
            Self::AttributeDenied => 35,
        }
    }

    /// A stable word for programs, receipts and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoRelease => "no-release",
            Self::NoLease => "no-lease",
            Self::LeaseLapsed => "lease-lapsed",
            Self::ClockWentBack => "clock-went-back",
            Self::RootExpired => "root-expired",
            Self::ReleaseExpired => "release-expired",
            Self::PartnerHeld => "partner-held",
            Self::PartnerUnknown => "partner-unknown",
            Self::PartnerExpired => "partner-expired",
            Self::PartnerDenied => "partner-denied",
            Self::ModelNotGranted => "model-not-granted",
            Self::ModelDigest => "model-digest",
            Self::ModelDenied => "model-denied",
            Self::ModelDraining => "model-draining",
            Self::ModelSuspended => "model-suspended",
            Self::ModelRevoked => "model-revoked",
            Self::SafeguardMissing => "safeguard-missing",
            Self::RetentionMissing => "retention-missing",
            Self::Unwitnessed => "unwitnessed",
            Self::AttributeDenied => "attribute-denied",
        }
    }
}

/// A release with an index of what a decision looks up.
#[derive(Debug, Clone)]
pub(super) struct IndexedRelease {
    pub(super) release: Verified<Release>,
    /// The denials that it lifts.
    pub(super) lifted: HashSet<Sha256Digest>,
    /// From a partner's key to the index in [`Self::partners`].
    keys: HashMap<Sha256Digest, u32>,
    /// In the order of the release.
    partners: Box<[PartnerRow]>,
    /// From a model's id to the index in [`Self::models`].
    model_ids: HashMap<Id, u16>,
    /// In the order of the release.
    models: Box<[ModelRow]>,
    /// The attributes that are halted and that this release gives to somebody.
    attributes: BTreeSet<Attribute>,
}

#[derive(Debug, Clone)]
struct PartnerRow {
    models: Box<[u16]>,
    limits: Limits,
    expires: UnixMillis,
    /// By a denial of its name.
    denied: bool,
    /// By a denial of one of its attributes.
    attribute_denied: bool,
}

#[derive(Debug, Clone)]
struct ModelRow {
    sha256: Sha256Digest,
    state: ModelState,
    denied: bool,
}

impl IndexedRelease {
    pub(super) fn new(release: Verified<Release>, denials: &Denials) -> Self {
        // The limits of a release are far below u16 and u32; what did not fit would simply not be found.
        let model_ids: HashMap<Id, u16> =
            (0..).zip(&release.models).map(|(row, model)| (model.id.clone(), row)).collect();
        let models = release.models.iter().map(|model| ModelRow {
            sha256: model.sha256,
            state: model.state,
            denied: false,
        });
        let keys = (0..).zip(&release.partners);
        let keys = keys.flat_map(|(row, partner)| partner.keys.iter().map(move |key| (*key, row))).collect();
        let partners = release.partners.iter().map(|partner| {
            let mut granted: Box<[u16]> =
                partner.models.iter().filter_map(|id| model_ids.get(id).copied()).collect();
            granted.sort_unstable();
            PartnerRow {
                models: granted,
                limits: partner.limits,
                expires: partner.expires,
                denied: false,
                attribute_denied: false,
            }
        });
        let lifted = release.supersedes_denials.iter().copied().collect();
        let mut indexed = Self {
            keys,
            partners: partners.collect(),
            models: models.collect(),
            model_ids,
            lifted,
            attributes: BTreeSet::new(),
            release,
        };
        indexed.mark(denials);
        indexed
    }

    /// Marks what `denials`, except those that this release lifts, halt, and nothing else.
    pub(super) fn mark(&mut self, denials: &Denials) {
        let (mut models, mut partners, mut attributes) = (HashSet::new(), HashSet::new(), HashSet::new());
        for (_, target) in denials.halted(&self.lifted) {
            match target {
                Target::Model(id) => models.insert(id),
                Target::Partner(id) => partners.insert(id),
                Target::Attribute(attribute) => attributes.insert(attribute),
            };
        }
        for (model, row) in self.release.models.iter().zip(&mut self.models) {
            row.denied = models.contains(&model.id);
        }
        for (partner, row) in self.release.partners.iter().zip(&mut self.partners) {
            row.denied = partners.contains(&partner.id);
            row.attribute_denied = partner.attributes().iter().any(|given| attributes.contains(given));
        }
        let given = self.release.partners.iter().flat_map(Partner::attributes);
        self.attributes = given.filter(|given| attributes.contains(given)).cloned().collect();
    }

    /// The models, partners and attributes of this release that are halted.
    pub(super) fn halted(&self) -> impl Iterator<Item = Target> {
        let models = self.release.models.iter().zip(&self.models);
        let models = models.filter(|(_, row)| row.denied).map(|(model, _)| Target::Model(model.id.clone()));
        let partners = self.release.partners.iter().zip(&self.partners);
        let partners =
            partners.filter(|(_, row)| row.denied).map(|(partner, _)| Target::Partner(partner.id.clone()));
        models.chain(partners).chain(self.attributes.iter().cloned().map(Target::Attribute))
    }

    /// What this release alone says. `end` is when the lease ends at the latest.
    pub(super) fn decide(
        &self,
        question: &Question<'_>,
        now: BootMillis,
        unix: UnixMillis,
        end: BootMillis,
    ) -> Result<(BootMillis, Limits), Refusal> {
        let left = |expires: UnixMillis| expires.0.checked_sub(unix.0).filter(|left| *left > 0);
        let release_left = left(self.release.expires).ok_or(Refusal::ReleaseExpired)?;
        let row = self.keys.get(question.partner_key).and_then(|row| self.partners.get(*row as usize));
        let partner = row.ok_or(Refusal::PartnerUnknown)?;
        if partner.denied {
            return Err(Refusal::PartnerDenied);
        }
        if partner.attribute_denied {
            return Err(Refusal::AttributeDenied);
        }
        let partner_left = left(partner.expires).ok_or(Refusal::PartnerExpired)?;

        let row = self.model_ids.get(question.model).ok_or(Refusal::ModelNotGranted)?;
        if partner.models.binary_search(row).is_err() {
            return Err(Refusal::ModelNotGranted);
        }
        let model = self.models.get(usize::from(*row)).ok_or(Refusal::ModelNotGranted)?;
        if model.sha256 != *question.model_sha256 {
            return Err(Refusal::ModelDigest);
        }
        if model.denied {
            return Err(Refusal::ModelDenied);
        }
        match (model.state, question.phase) {
            (ModelState::Active, _) | (ModelState::Draining, Phase::Continue) => {}
            (ModelState::Draining, Phase::Start) => return Err(Refusal::ModelDraining),
            (ModelState::Suspended, _) => return Err(Refusal::ModelSuspended),
            (ModelState::Revoked, _) => return Err(Refusal::ModelRevoked),
        }
        Ok((end.min(now.plus(release_left.min(partner_left))), partner.limits))
    }

    /// The partner with this key.
    pub(super) fn partner(&self, key: &Sha256Digest) -> Option<&Partner> {
        self.keys.get(key).and_then(|row| self.release.partners.get(*row as usize))
    }

    /// Whether the model is halted by a denial that this release does not lift.
    pub(super) fn model_denied(&self, id: &str) -> bool {
        self.model_ids
            .get(id)
            .and_then(|row| self.models.get(usize::from(*row)))
            .is_some_and(|model| model.denied)
    }
}
