//! Who may do what, by the newest documents of the authorities.

use std::collections::BTreeSet;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Keep, ModelState, Target, TrustedState, UnixMillis, Verified};
use serde::Serialize;

/// The root and the release in force, and what is halted.
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
    /// Which witnesses must cosign the enclaves' logs. Absent when enclaves wait for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witnesses: Option<WitnessDemand>,
}

/// The witnesses that a release demands.
#[derive(Debug, Clone, Serialize)]
pub struct WitnessDemand {
    /// The names of their keys.
    pub names: Vec<String>,
    /// How many of them must have cosigned.
    pub needed: u64,
    /// How long a log may run ahead of that, in seconds.
    pub within_seconds: u64,
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
    /// Which exchanges are kept as sealed records. Absent when none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<Records>,
    /// Whether an authority has halted it.
    pub halted: bool,
}

/// Which exchanges with a model are kept.
#[derive(Debug, Clone, Serialize)]
pub struct Records {
    /// All of them, or those that the safeguards flag.
    pub keep: Keep,
    /// For how many days after its own a record can be opened.
    pub days: u64,
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
    /// Its attributes, each as NAME=VALUE. Absent when it has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// Whether an authority has halted it, by its name or by an attribute.
    pub halted: bool,
}

impl Terms {
    /// What the documents in `state` say.
    #[must_use]
    pub fn of(state: &TrustedState) -> Self {
        let halted: BTreeSet<&Target> = state.denials_in_force().map(|(_, target)| target).collect();
        let root = state.root();
        let release = state.release();
        let models = release.iter().flat_map(|release| release.models.iter()).map(|model| Model {
            id: model.id.to_string(),
            sha256: model.sha256,
            state: model.state,
            sealed: model.weights.is_some(),
            safeguards: model.safeguards.as_ref().map(|safeguards| safeguards.policy),
            records: model.retention.as_ref().map(|rule| Records { keep: rule.keep, days: rule.days }),
            halted: halted.contains(&Target::Model(model.id.clone())),
        });
        let partners = release.iter().flat_map(|release| release.partners.iter()).map(|partner| Partner {
            id: partner.id.to_string(),
            models: partner.models.iter().map(ToString::to_string).collect(),
            expires: partner.expires,
            attributes: partner.attributes().iter().map(ToString::to_string).collect(),
            halted: partner.targets().any(|target| halted.contains(&target)),
        });
        Self {
            room: root.room.to_string(),
            root: Document::of(root, root.version, root.expires),
            authorities: root.keys.iter().map(|key| key.authority.to_string()).collect(),
            release: release.map(|release| Document::of(release, release.version, release.expires)),
            models: models.collect(),
            partners: partners.collect(),
            witnesses: release.filter(|release| !release.witnesses.is_empty()).map(|release| WitnessDemand {
                names: release.witnesses.iter().map(|witness| witness.key.to_string()).collect(),
                needed: release.audit.witnesses,
                within_seconds: release.audit.checkpoint_seconds,
            }),
        }
    }

    /// What a report prefers: the newer root, then the newer release.
    #[must_use]
    pub fn age(&self) -> (u64, u64) {
        (self.root.version, self.release.as_ref().map_or(0, |release| release.version))
    }
}

impl Document {
    /// The document whose signatures were counted.
    #[must_use]
    pub fn of<T>(verified: &Verified<T>, version: u64, expires: UnixMillis) -> Self {
        Self { version, sha256: verified.digest(), expires, signed_by: authorities(verified) }
    }
}

/// The authorities whose signatures count.
#[must_use]
pub fn authorities<T>(verified: &Verified<T>) -> BTreeSet<String> {
    verified.signers().iter().map(|key| key.authority.to_string()).collect()
}
