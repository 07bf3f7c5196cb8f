//! The authorities' permission for this partner: release and lease as the clean room shows them, judged by
//! the partner itself.

use std::time::Duration;

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::document::Document;
use cleanroom_attestation::log::WitnessRule;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::{
    Keep, Phase, Question, Refusal, Release, ShownError, ShownTerms, UnixMillis, Verified,
};
use cleanroom_attestation::time::Timestamp;
use serde::Serialize;

use crate::refused::{Refused, ReleaseAxis};

/// Which exchanges an enclave keeps as sealed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// All of them, or those that the safeguards flag.
    pub keep: Keep,
    /// For how many days after its own a record can be opened.
    pub days: u64,
}

/// By which witnesses the enclave's log must be cosigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WitnessTerms {
    /// Their keys, each as NAME+ID+KEY: what `cleanroom audit --witness` takes.
    pub keys: Vec<String>,
    /// How many of them must have cosigned.
    pub needed: u64,
    /// How long the log may run ahead of that, in seconds. Then the enclave begins nothing new.
    pub within_seconds: u64,
}

/// What the authorities permit this partner, with the time that is left for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Permitted {
    /// The room's name in root and release.
    pub room: String,
    /// The release's version.
    pub release_version: u64,
    /// SHA-256 of its payload.
    pub release_sha256: Sha256Digest,
    /// Seconds until the release expires, by this machine's clock.
    pub release_seconds_left: u64,
    /// The digest of the lease.
    pub lease_sha256: Sha256Digest,
    /// Seconds that the lease still ran when the enclave showed it.
    pub lease_seconds_left: u64,
    /// SHA-256 of the policy by which the enclave judges prompts and answers. Absent when it judges nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safeguards_sha256: Option<Sha256Digest>,
    /// Which exchanges are kept as sealed records, and for how long. Absent when none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Kept>,
    /// By which witnesses the log must be cosigned. Absent when the enclave waits for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witnesses: Option<WitnessTerms>,
    /// The partner's name in the release.
    pub partner: String,
    /// Seconds until the partner's admission expires, by this machine's clock.
    pub partner_seconds_left: u64,
    /// How long all of it holds together: a session that needs longer is proven again.
    #[serde(skip)]
    pub holds_for: Duration,
}

/// A release and a lease whose signatures count under the root that the policy pins.
pub(crate) struct ShownPermission(ShownTerms);

impl ShownPermission {
    /// Reads what the enclave shows; `None` when the policy pins no root.
    pub(crate) fn open(policy: &Policy, release: &[u8], lease: &[u8]) -> Result<Option<Self>, Refused> {
        let Some(trust) = policy.release() else { return Ok(None) };
        ShownTerms::open(trust.root(), release, lease).map(|terms| Some(Self(terms))).map_err(|error| {
            let axis = match &error {
                ShownError::NoLease | ShownError::Form | ShownError::Issuers | ShownError::TooLong { .. } => {
                    ReleaseAxis::Lease
                }
                _ => ReleaseAxis::Release,
            };
            Refused::Release { axis, code: error.code(), message: error.to_string() }
        })
    }

    pub(crate) const fn release(&self) -> &Verified<Release> {
        self.0.release()
    }

    pub(crate) const fn lease(&self) -> Sha256Digest {
        self.0.lease()
    }

    /// Whether the holder of `key` may use the model now, in the deployment that `document` is from.
    ///
    /// The document may not be verified yet. The answer counts only with an accepted verdict on it.
    pub(crate) fn judge(
        &self,
        key: &Sha256Digest,
        model: &ModelId,
        model_sha256: &Sha256Digest,
        document: &[u8],
        at: Timestamp,
    ) -> Result<Permitted, Refused> {
        let release = self.release();
        let question =
            Question { partner_key: key, model: model.as_str(), model_sha256, phase: Phase::Start };
        let unix = UnixMillis(at.as_millis());
        let left_ms = self.0.decide(&question, unix).map_err(refused)?;

        let document = Document::parse(document).ok();
        let pcrs = document.as_ref().and_then(|document| document.pcrs().enclave());
        let pcr = |index| pcrs.and_then(|pcrs| pcrs.get(index));
        if !release.permits_deployment(pcr(3), pcr(4), pcr(8)) {
            return Err(Refused::Release {
                axis: ReleaseAxis::Release,
                code: "deployment-mismatch",
                message: "the release does not permit a clean room in this deployment (PCR 3, 4 and 8)"
                    .to_owned(),
            });
        }
        let partner = release.partners.iter().find(|partner| partner.keys.contains(key));
        let partner = partner.ok_or_else(|| refused(Refusal::PartnerUnknown))?;
        let seconds = |expires: UnixMillis| expires.0.saturating_sub(unix.0) / 1000;
        Ok(Permitted {
            room: release.room.to_string(),
            release_version: release.version,
            release_sha256: release.digest(),
            release_seconds_left: seconds(release.expires),
            lease_sha256: self.lease(),
            lease_seconds_left: self.0.lease_left_ms() / 1000,
            safeguards_sha256: release
                .model(model.as_str())
                .and_then(|model| model.safeguards.as_ref())
                .map(|safeguards| safeguards.policy),
            retention: release
                .model(model.as_str())
                .and_then(|model| model.retention.as_ref())
                .map(|rule| Kept { keep: rule.keep, days: rule.days }),
            witnesses: WitnessRule::of(self.0.root(), release).map(|rule| WitnessTerms {
                keys: rule.keys().iter().map(ToString::to_string).collect(),
                needed: rule.needed(),
                within_seconds: rule.within_ms() / 1000,
            }),
            partner: partner.id.to_string(),
            partner_seconds_left: seconds(partner.expires),
            holds_for: Duration::from_millis(left_ms),
        })
    }
}

fn refused(refusal: Refusal) -> Refused {
    let axis = match refusal {
        Refusal::NoLease | Refusal::LeaseLapsed | Refusal::ClockWentBack => ReleaseAxis::Lease,
        Refusal::PartnerUnknown
        | Refusal::PartnerExpired
        | Refusal::PartnerDenied
        | Refusal::AttributeDenied
        | Refusal::ModelNotGranted => ReleaseAxis::Partner,
        _ => ReleaseAxis::Release,
    };
    Refused::Release { axis, code: refusal.code(), message: refusal.to_string() }
}
