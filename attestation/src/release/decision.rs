//! The question that is asked at the start of a session, at every request and at every token, and its answer.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::denial::Target;
use super::fields::Id;
use super::manifest::{Limits, ModelState, Partner, Release};
use super::open::Verified;
use super::time::{BootMillis, UnixMillis};
use crate::digest::Sha256Digest;

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
    /// More denials came than can be kept.
    #[error("more denials than can be kept: everything is halted")]
    TooManyDenials,
    /// The release names no partner with this key.
    #[error("the release names no partner with this key")]
    PartnerUnknown,
    /// The partner's time is over.
    #[error("the partner's admission has expired")]
    PartnerExpired,
    /// An authority halted the partner.
    #[error("an authority has halted the partner")]
    PartnerDenied,
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
}

impl Refusal {
    /// Every refusal, in the order of their codes on the wire.
    pub const ALL: [Self; 16] = [
        Self::NoRelease,
        Self::NoLease,
        Self::LeaseLapsed,
        Self::ClockWentBack,
        Self::RootExpired,
        Self::ReleaseExpired,
        Self::TooManyDenials,
        Self::PartnerUnknown,
        Self::PartnerExpired,
        Self::PartnerDenied,
        Self::ModelNotGranted,
        Self::ModelDigest,
        Self::ModelDenied,
        Self::ModelDraining,
        Self::ModelSuspended,
        Self::ModelRevoked,
    ];

    /// The code in the channel's `Refusal` frame: 16 to 31, in the order of [`Self::ALL`].
    pub(crate) const fn wire_code(self) -> u8 {
        match self {
            Self::NoRelease => 16,
            Self::NoLease => 17,
            Self::LeaseLapsed => 18,
            Self::ClockWentBack => 19,
            Self::RootExpired => 20,
            Self::ReleaseExpired => 21,
            Self::TooManyDenials => 22,
            Self::PartnerUnknown => 23,
            Self::PartnerExpired => 24,
            Self::PartnerDenied => 25,
            Self::ModelNotGranted => 26,
            Self::ModelDigest => 27,
            Self::ModelDenied => 28,
            Self::ModelDraining => 29,
            Self::ModelSuspended => 30,
            Self::ModelRevoked => 31,
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
            Self::TooManyDenials => "too-many-denials",
            Self::PartnerUnknown => "partner-unknown",
            Self::PartnerExpired => "partner-expired",
            Self::PartnerDenied => "partner-denied",
            Self::ModelNotGranted => "model-not-granted",
            Self::ModelDigest => "model-digest",
            Self::ModelDenied => "model-denied",
            Self::ModelDraining => "model-draining",
            Self::ModelSuspended => "model-suspended",
            Self::ModelRevoked => "model-revoked",
        }
    }
}

/// A release with what a decision needs looked up beforehand.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) release: Verified<Release>,
    /// From a partner's key to its place in [`Self::partners`].
    keys: HashMap<Sha256Digest, u32>,
    /// In the order of the release.
    partners: Box<[PartnerRow]>,
    /// From a model's id to its place in [`Self::models`].
    model_ids: HashMap<Id, u16>,
    /// In the order of the release.
    models: Box<[ModelRow]>,
}

#[derive(Debug, Clone)]
struct PartnerRow {
    models: Box<[u16]>,
    limits: Limits,
    expires: UnixMillis,
    denied: bool,
}

#[derive(Debug, Clone)]
struct ModelRow {
    sha256: Sha256Digest,
    state: ModelState,
    denied: bool,
}

impl Standing {
    pub(super) fn new(release: Verified<Release>, denials: &BTreeMap<Sha256Digest, Target>) -> Self {
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
            PartnerRow { models: granted, limits: partner.limits, expires: partner.expires, denied: false }
        });
        let mut standing =
            Self { keys, partners: partners.collect(), models: models.collect(), model_ids, release };
        standing.apply(denials);
        standing
    }

    /// Marks what `denials`, except those that this release lifts, halt. Nothing is ever unmarked.
    pub(super) fn apply(&mut self, denials: &BTreeMap<Sha256Digest, Target>) {
        let lifted: HashSet<&Sha256Digest> = self.release.supersedes_denials.iter().collect();
        let in_force = denials.iter().filter(|(digest, _)| !lifted.contains(digest));
        let halted: HashSet<&Target> = in_force.map(|(_, target)| target).collect();
        for target in &halted {
            if let Target::Model(id) = target
                && let Some(row) = self.model_ids.get(id)
                && let Some(model) = self.models.get_mut(usize::from(*row))
            {
                model.denied = true;
            }
        }
        if halted.iter().any(|target| matches!(target, Target::Partner(_))) {
            for (partner, row) in self.release.partners.iter().zip(&mut self.partners) {
                row.denied |= halted.contains(&Target::Partner(partner.id.clone()));
            }
        }
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
