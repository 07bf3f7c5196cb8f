//! Who may do what, by the newest documents of the authorities that a log names.

use std::collections::BTreeSet;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{ModelState, Target, TrustedState, UnixMillis, Verified};
use serde::Serialize;

/// The root and the release in force at the end of a log, and what is halted.
#[derive(Debug, Clone, Serialize)]
pub struct Terms {
    /// The clean room.
    pub room: String,
    /// The root.
    pub root: Document,
    /// Whose keys the root names.
    pub authorities: BTreeSet<String>,
    /// The newest release, if there is one.
    pub release: Option<Document>,
    /// Its models.
    pub models: Vec<Model>,
    /// Its partners.
    pub partners: Vec<Partner>,
}

/// A signed document.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its payload.
    pub sha256: Sha256Digest,
    /// When it expires.
    pub expires: UnixMillis,
    /// The authorities whose signatures count.
    pub signed_by: BTreeSet<String>,
}

/// A model of the release.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// The identity of its weights.
    pub sha256: Sha256Digest,
    /// What the release says of it.
    pub state: ModelState,
    /// Whether its weights are sealed.
    pub sealed: bool,
    /// SHA-256 of the policy by which enclaves judge its prompts and answers; none if they judge nothing.
    pub safeguards: Option<Sha256Digest>,
    /// Whether an authority has halted it.
    pub halted: bool,
}

/// A partner of the release.
#[derive(Debug, Clone, Serialize)]
pub struct Partner {
    /// Its name.
    pub id: String,
    /// The models that it may use.
    pub models: Vec<String>,
    /// Until when.
    pub expires: UnixMillis,
    /// Whether an authority has halted it.
    pub halted: bool,
}

impl Terms {
    pub(super) fn of(state: &TrustedState) -> Self {
        let halted: BTreeSet<&Target> = state.denials_in_force().map(|(_, target)| target).collect();
        let root = state.root();
        let release = state.release();
        let models = release.iter().flat_map(|release| release.models.iter()).map(|model| Model {
            id: model.id.to_string(),
            sha256: model.sha256,
            state: model.state,
            sealed: model.weights.is_some(),
            safeguards: model.safeguards.as_ref().map(|safeguards| safeguards.policy),
            halted: halted.contains(&Target::Model(model.id.clone())),
        });
        let partners = release.iter().flat_map(|release| release.partners.iter()).map(|partner| Partner {
            id: partner.id.to_string(),
            models: partner.models.iter().map(ToString::to_string).collect(),
            expires: partner.expires,
            halted: halted.contains(&Target::Partner(partner.id.clone())),
        });
        Self {
            room: root.room.to_string(),
            root: document(root, root.version, root.expires),
            authorities: root.keys.iter().map(|key| key.authority.to_string()).collect(),
            release: release.map(|release| document(release, release.version, release.expires)),
            models: models.collect(),
            partners: partners.collect(),
        }
    }

    /// What a report prefers: the newer root, then the newer release.
    pub(super) fn age(&self) -> (u64, u64) {
        (self.root.version, self.release.as_ref().map_or(0, |release| release.version))
    }
}

fn document<T>(verified: &Verified<T>, version: u64, expires: UnixMillis) -> Document {
    let signed_by = verified.signers().iter().map(|key| key.authority.to_string()).collect();
    Document { version, sha256: verified.digest(), expires, signed_by }
}
