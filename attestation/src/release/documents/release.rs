//! The release: which models run in which images, for which partners, under which limits.

use std::collections::HashMap;
use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

use super::attribute::{Attribute, PARTNER_ATTRIBUTES_LIMIT};
use super::denial::Target;
use super::error::{ReleaseError, in_range};
use super::fields::{Id, Label, List, first_repeated, present};
use super::key::Algorithm;
use super::payload_type::PayloadType;
use super::retention::{BROKERS_LIMIT, Keep, Retention};
use super::role::Role;
use super::root::{Root, VERSION_LIMIT};
use super::time::UnixMillis;
use super::verified::{Payload, Sealed};
use crate::digest::{Sha256Digest, Sha384Digest};
use crate::safeguard::SafeguardAction;

/// The most images in a release.
pub const IMAGES_LIMIT: usize = 256;
/// The most deployments in a release.
pub const DEPLOYMENTS_LIMIT: usize = 1024;
/// The most models in a release.
pub const MODELS_LIMIT: usize = 1024;
/// The most partners in a release.
pub const PARTNERS_LIMIT: usize = 20_000;
/// The most models of one partner.
pub const PARTNER_MODELS_LIMIT: usize = 64;
/// The most keys of one partner.
pub const PARTNER_KEYS_LIMIT: usize = 4;
/// The most destinations outside the enclave.
pub const EGRESS_LIMIT: usize = 64;
/// The most witnesses of the log.
pub const WITNESSES_LIMIT: usize = 16;
/// The most denials that one release lifts.
pub const SUPERSEDED_LIMIT: usize = 4096;
/// The most limits of one model's safeguards.
pub const SAFEGUARD_LIMITS_LIMIT: usize = 8;
/// The most verdicts that a limit counts up to.
pub const SAFEGUARD_COUNT_LIMIT: u64 = 1_000_000;
/// The longest time in seconds over which a limit counts: thirty days.
pub const SAFEGUARD_SECONDS_LIMIT: u64 = 2_592_000;
/// The longest time in seconds that a log may run ahead of its witnesses: an hour.
pub const WITNESS_SECONDS_LIMIT: u64 = 3600;
/// The longest lease in seconds: a day.
pub const LEASE_SECONDS_LIMIT: u64 = 86_400;

/// The payload of a release envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The clean room.
    pub room: Id,
    /// Rises with each release.
    pub version: u64,
    /// From this moment on nothing is served under this release.
    pub expires: UnixMillis,
    /// Digests (SHA-256 of the payload) of the denials that this release lifts. Every other denial stays in force.
    pub supersedes_denials: List<Sha256Digest, SUPERSEDED_LIMIT>,
    /// The images of enclaves that may run; at least one, where there are none of the other kind.
    pub images: List<Image, IMAGES_LIMIT>,
    /// The images of instances with a `NitroTPM` that may run. Absent: none. Present: at least one.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub nitrotpm_images: Option<List<TpmImage, IMAGES_LIMIT>>,
    /// Where they may run. Absent: anywhere. Present: at least one.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub deployments: Option<List<Deployment, DEPLOYMENTS_LIMIT>>,
    /// The models.
    pub models: List<Model, MODELS_LIMIT>,
    /// The partners.
    pub partners: List<Partner, PARTNERS_LIMIT>,
    /// The only destinations that the enclave opens connections to. Empty: this version opens none.
    pub egress: List<Egress, EGRESS_LIMIT>,
    /// The witnesses of the log. Empty: the enclave waits for none.
    pub witnesses: List<Witness, WITNESSES_LIMIT>,
    /// How leases are given.
    pub lease: LeaseRules,
    /// By which witnesses the log must be cosigned.
    pub audit: AuditRules,
}

/// An image by its measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Name and version, for people.
    pub name: Label,
    /// SHA-384: the whole image.
    pub pcr0: Sha384Digest,
    /// SHA-384: kernel, command line and first ramdisk.
    pub pcr1: Sha384Digest,
    /// SHA-384: the application.
    pub pcr2: Sha384Digest,
}

/// An image of an instance that is the enclave itself, by the registers of its TPM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmImage {
    /// Name and version, for people.
    pub name: Label,
    /// SHA-384: what the firmware starts.
    pub pcr4: Sha384Digest,
    /// SHA-384: Secure Boot.
    pub pcr7: Sha384Digest,
    /// SHA-384: what is added beside the image at boot. Zero when that is nothing.
    pub pcr12: Sha384Digest,
}

/// A place that an image may run in. Every PCR that is given must match; at least one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// A name, for people.
    pub name: Label,
    /// SHA-384: the IAM role of the parent instance.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub pcr3: Option<Sha384Digest>,
    /// SHA-384: the id of the parent instance.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub pcr4: Option<Sha384Digest>,
    /// SHA-384: the certificate that signed the image.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<Sha384Digest>,
}

/// A model by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What requests call it.
    pub id: Id,
    /// Its identity: the SHA-256 over its weights that the enclave commits to.
    pub sha256: Sha256Digest,
    /// Whether it serves.
    pub state: ModelState,
    /// Present: the weights are sealed, and this says where their key comes from. An enclave that would take them unsealed refuses the
    /// release, and one that opens sealed weights refuses a release without this.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// Present: the enclave judges every prompt and answer by this. An enclave that does not have the policy serves nobody.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub safeguards: Option<Safeguards>,
    /// Present: the enclave keeps exchanges as sealed records. One that cannot do all of it refuses the release.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// By what an enclave judges prompts and answers of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Safeguards {
    /// SHA-256 over the bytes of the policy file.
    pub policy: Sha256Digest,
    /// What holds a partner over several requests. Empty: nothing does.
    pub limits: List<SafeguardLimit, SAFEGUARD_LIMITS_LIMIT>,
}

/// So many verdicts within so much time hold a partner, until a newer release is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SafeguardLimit {
    /// The limit's name, which the log repeats.
    pub id: Id,
    /// Counts verdicts with this action or a stricter one. Never [`SafeguardAction::Allow`].
    pub action: SafeguardAction,
    /// How many verdicts reach the limit.
    pub count: u64,
    /// Within how many seconds.
    pub within_seconds: u64,
}

/// Where the key of sealed weights comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// The brokers that hold shares of it.
    pub brokers: Brokers,
}

/// Brokers, some of which together hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brokers {
    /// How many shares make the secret.
    pub needed: u64,
    /// The brokers, each with its share; at least one.
    pub of: List<Broker, BROKERS_LIMIT>,
}

/// A broker and the share that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// The broker's name.
    pub name: Id,
    /// The commitment to its share, so that an enclave knows a wrong one: `docs/protocol.md` section 12.
    pub sha256: Sha256Digest,
}

/// Whether a model serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    /// It serves.
    Active,
    /// Running requests finish, new ones are refused.
    Draining,
    /// New requests are refused and running ones end. The weights stay in memory.
    Suspended,
    /// As suspended, and the weights are erased from memory.
    Revoked,
}

impl ModelState {
    /// The state as it stands in a release.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

/// A partner by its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partner {
    /// The partner's name.
    pub id: Id,
    /// SHA-256 over the `SubjectPublicKeyInfo` of each key that the partner may connect with; at least one.
    pub keys: List<Sha256Digest, PARTNER_KEYS_LIMIT>,
    /// The models it may use.
    pub models: List<Id, PARTNER_MODELS_LIMIT>,
    /// How much it may use them.
    pub limits: Limits,
    /// From this moment on it is refused.
    pub expires: UnixMillis,
    /// Attributes that a denial can name: at most one value under each name. Absent: none. Present: at least one.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub attributes: Option<List<Attribute, PARTNER_ATTRIBUTES_LIMIT>>,
}

/// How much a partner may do, over all its sessions with one enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests in any 60 seconds.
    pub requests_per_minute: u32,
    /// Prompt and completion tokens in any 24 hours.
    pub tokens_per_day: u64,
    /// Requests running at the same time.
    pub concurrency: u32,
    /// How large the partner's share is of what the enclave can do, when partners want more: one who has 2 gets twice what one with 1
    /// gets. Absent: 1.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub share: Option<NonZeroU8>,
}

/// A destination outside the enclave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// A host name, exactly as TLS names it.
    pub host: Id,
    /// A TCP port.
    pub port: u16,
}

/// A witness of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// The name of its key, which is in the root's witness role. The witness calls itself so in its cosignatures.
    pub key: Id,
    /// Where it is asked, for people and the host.
    pub url: Label,
}

/// How leases are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRules {
    /// The longest lease, in seconds counted from the sending of its nonce.
    pub seconds: u64,
    /// Distinct lease keys it takes. The root's own threshold counts when it is higher.
    pub issuers: u64,
}

/// By which witnesses the log must be cosigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRules {
    /// How long the log may run ahead of its last witnessed checkpoint, in seconds. Then the enclave begins nothing new. 0 where
    /// there are no witnesses.
    pub checkpoint_seconds: u64,
    /// Distinct witnesses that must have cosigned a checkpoint for it to count as witnessed. 0 where there are none.
    pub witnesses: u64,
}

impl Partner {
    /// The partner's attributes; none where the release gives it none.
    #[must_use]
    pub fn attributes(&self) -> &[Attribute] {
        self.attributes.as_deref().unwrap_or_default()
    }

    /// Every target that halts this partner: its name and each of its attributes.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let attributes = self.attributes().iter().cloned().map(Target::Attribute);
        core::iter::once(Target::Partner(self.id.clone())).chain(attributes)
    }
}

impl Limits {
    /// The partner's share, 1 where none is given.
    #[must_use]
    pub fn share(&self) -> NonZeroU8 {
        self.share.unwrap_or(NonZeroU8::MIN)
    }

    /// The smaller of each.
    #[must_use]
    pub fn lesser(&self, other: &Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.min(other.requests_per_minute),
            tokens_per_day: self.tokens_per_day.min(other.tokens_per_day),
            concurrency: self.concurrency.min(other.concurrency),
            share: Some(self.share().min(other.share())),
        }
    }
}

impl Release {
    /// The image with these measurements.
    #[must_use]
    pub fn image(&self, pcr0: &Sha384Digest, pcr1: &Sha384Digest, pcr2: &Sha384Digest) -> Option<&Image> {
        self.images.iter().find(|image| (&image.pcr0, &image.pcr1, &image.pcr2) == (pcr0, pcr1, pcr2))
    }

    /// The images of instances with a `NitroTPM`; none where the release names none.
    #[must_use]
    pub fn nitrotpm_images(&self) -> &[TpmImage] {
        self.nitrotpm_images.as_deref().unwrap_or_default()
    }

    /// Whether the release permits a deployment with these measurements: `None` for a PCR that the evidence does not have.
    /// A release without deployments permits every one.
    #[must_use]
    pub fn permits_deployment(
        &self,
        pcr3: Option<&Sha384Digest>,
        pcr4: Option<&Sha384Digest>,
        pcr8: Option<&Sha384Digest>,
    ) -> bool {
        let fits = |wanted: &Option<Sha384Digest>, actual: Option<&Sha384Digest>| {
            wanted.as_ref().is_none_or(|wanted| Some(wanted) == actual)
        };
        self.deployments.as_ref().is_none_or(|deployments| {
            deployments
                .iter()
                .any(|place| fits(&place.pcr3, pcr3) && fits(&place.pcr4, pcr4) && fits(&place.pcr8, pcr8))
        })
    }

    /// The model called `id`.
    #[must_use]
    pub fn model(&self, id: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.id.as_str() == id)
    }

    /// Whether the release says that the weights of the model called `id` are sealed. `None` for a model that it does not know.
    #[must_use]
    pub fn seals(&self, id: &str) -> Option<bool> {
        self.model(id).map(|model| model.weights.is_some())
    }

    /// The partner called `id`.
    #[must_use]
    pub fn partner(&self, id: &str) -> Option<&Partner> {
        self.partners.iter().find(|partner| partner.id.as_str() == id)
    }

    fn check_unique(&self) -> Result<(), ReleaseError> {
        let repeated = |what, value: Option<String>| match value {
            Some(value) => Err(ReleaseError::Repeated { what, value }),
            None => Ok(()),
        };
        let text = |id: Option<&Id>| id.map(ToString::to_string);
        repeated("the model", text(first_repeated(self.models.iter().map(|model| &model.id))))?;
        // Weights with two names would serve under one when a denial halts the other.
        let weights = self.models.iter().map(|model| &model.sha256);
        repeated("the model with the digest", first_repeated(weights).map(ToString::to_string))?;
        repeated("the partner", text(first_repeated(self.partners.iter().map(|partner| &partner.id))))?;
        let keys = self.partners.iter().flat_map(|partner| partner.keys.iter());
        repeated("the partner key", first_repeated(keys).map(ToString::to_string))?;
        repeated("the witness", text(first_repeated(self.witnesses.iter().map(|witness| &witness.key))))?;
        let images = self.images.iter().map(|image| (&image.pcr0, &image.pcr1, &image.pcr2));
        repeated("the image with PCR0", first_repeated(images).map(|(pcr0, ..)| pcr0.to_string()))?;
        let images = self.nitrotpm_images().iter().map(|image| (&image.pcr4, &image.pcr7, &image.pcr12));
        repeated("the image with PCR4", first_repeated(images).map(|(pcr4, ..)| pcr4.to_string()))?;
        let egress = self.egress.iter().map(|to| (&to.host, to.port));
        repeated(
            "the destination",
            first_repeated(egress).map(|(host, port)| format!("{host} port {port}")),
        )?;
        repeated(
            "the superseded denial",
            first_repeated(self.supersedes_denials.iter()).map(ToString::to_string),
        )
    }

    /// A partner has at most one value under each name.
    fn check_attributes(&self) -> Result<(), ReleaseError> {
        for attributes in self.partners.iter().filter_map(|partner| partner.attributes.as_ref()) {
            let count = attributes.len() as u64;
            in_range("number of attributes of a partner", count, 1, PARTNER_ATTRIBUTES_LIMIT as u64)?;
            if let Some(name) = first_repeated(attributes.iter().map(|attribute| &attribute.name)) {
                let value = name.to_string();
                return Err(ReleaseError::Repeated { what: "for one partner the attribute", value });
            }
        }
        Ok(())
    }

    /// Each broker holds one share of a model, and each share is another one.
    fn check_brokers(&self) -> Result<(), ReleaseError> {
        for Weights { brokers: Brokers { needed, of } } in
            self.models.iter().filter_map(|model| model.weights.as_ref())
        {
            in_range("number of brokers of a model", of.len() as u64, 1, BROKERS_LIMIT as u64)?;
            in_range("number of shares needed", *needed, 1, of.len() as u64)?;
            let repeated = |what, value: Option<String>| match value {
                Some(value) => Err(ReleaseError::Repeated { what, value }),
                None => Ok(()),
            };
            let name = first_repeated(of.iter().map(|broker| &broker.name));
            repeated("for one model the broker", name.map(ToString::to_string))?;
            let share = first_repeated(of.iter().map(|broker| &broker.sha256));
            repeated("for one model the share", share.map(ToString::to_string))?;
        }
        Ok(())
    }

    /// Each limit of a model has a name of its own, and counts something.
    fn check_safeguards(&self) -> Result<(), ReleaseError> {
        for Safeguards { policy: _, limits } in
            self.models.iter().filter_map(|model| model.safeguards.as_ref())
        {
            if let Some(repeated) = first_repeated(limits.iter().map(|limit| &limit.id)) {
                let value = repeated.to_string();
                return Err(ReleaseError::Repeated { what: "for one model the safeguard limit", value });
            }
            for SafeguardLimit { id: _, action, count, within_seconds } in limits {
                let allowed = u64::from(*action == SafeguardAction::Allow);
                in_range("number of safeguard limits that count what is allowed", allowed, 0, 0)?;
                in_range("count of a safeguard limit", *count, 1, SAFEGUARD_COUNT_LIMIT)?;
                in_range("within_seconds of a safeguard limit", *within_seconds, 1, SAFEGUARD_SECONDS_LIMIT)?;
            }
        }
        Ok(())
    }

    /// Retention is whole, and flags nothing without safeguards.
    fn check_retention(&self) -> Result<(), ReleaseError> {
        for model in &self.models {
            let Some(retention) = &model.retention else { continue };
            retention.check()?;
            if retention.keep == Keep::Flagged && model.safeguards.is_none() {
                let value = model.id.to_string();
                return Err(ReleaseError::Dangling {
                    from: "the retention of flagged exchanges",
                    what: "the safeguards of the model",
                    value,
                });
            }
        }
        Ok(())
    }

    /// Every partner's models exist, each once.
    fn check_grants(&self) -> Result<(), ReleaseError> {
        // For each model the last partner that was granted it.
        let mut granted: HashMap<&Id, Option<usize>> =
            self.models.iter().map(|model| (&model.id, None)).collect();
        for (number, partner) in self.partners.iter().enumerate() {
            for id in &partner.models {
                match granted.get_mut(id).map(|last| last.replace(number)) {
                    None => {
                        let value = id.to_string();
                        return Err(ReleaseError::Dangling { from: "a partner", what: "the model", value });
                    }
                    Some(last) if last == Some(number) => {
                        return Err(ReleaseError::Repeated {
                            what: "for one partner the model",
                            value: id.to_string(),
                        });
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ReleaseError> {
        in_range("version", self.version, 1, VERSION_LIMIT)?;
        if let Some(images) = &self.nitrotpm_images {
            in_range("number of nitrotpm_images", images.len() as u64, 1, IMAGES_LIMIT as u64)?;
        }
        let fewest = u64::from(self.nitrotpm_images.is_none());
        in_range("number of images", self.images.len() as u64, fewest, IMAGES_LIMIT as u64)?;
        if let Some(deployments) = &self.deployments {
            in_range("number of deployments", deployments.len() as u64, 1, DEPLOYMENTS_LIMIT as u64)?;
            for place in deployments {
                let given = [&place.pcr3, &place.pcr4, &place.pcr8].into_iter().flatten().count() as u64;
                in_range("number of PCRs of a deployment", given, 1, 3)?;
            }
        }
        // An image that measures as zero is one in debug mode: its host reads its memory.
        for image in &self.images {
            let zero = [image.pcr0, image.pcr1, image.pcr2].iter().filter(|pcr| pcr.is_zero()).count() as u64;
            in_range("number of all-zero PCRs of an image", zero, 0, 0)?;
        }
        // Firmware that has measured nothing proves nothing. Register 12 has measured nothing when all is well.
        for image in self.nitrotpm_images() {
            let zero = [image.pcr4, image.pcr7].iter().filter(|pcr| pcr.is_zero()).count() as u64;
            in_range("number of all-zero PCRs 4 and 7 of an image", zero, 0, 0)?;
        }
        for partner in &self.partners {
            in_range("number of keys of a partner", partner.keys.len() as u64, 1, PARTNER_KEYS_LIMIT as u64)?;
            in_range("tokens_per_day", partner.limits.tokens_per_day, 0, VERSION_LIMIT)?;
        }
        for to in &self.egress {
            in_range("port", to.port.into(), 1, u16::MAX.into())?;
        }
        in_range("lease.seconds", self.lease.seconds, 1, LEASE_SECONDS_LIMIT)?;
        in_range("lease.issuers", self.lease.issuers, 1, super::root::ROLE_KEYS_LIMIT as u64)?;
        // With witnesses both numbers say something, and without them neither does.
        let (least, most) = if self.witnesses.is_empty() { (0, 0) } else { (1, WITNESS_SECONDS_LIMIT) };
        in_range("audit.checkpoint_seconds", self.audit.checkpoint_seconds, least, most)?;
        in_range("audit.witnesses", self.audit.witnesses, least, self.witnesses.len() as u64)
    }

    /// Refuses what this version would not enforce. A release promises nothing that nobody keeps.
    fn check_enforced(&self) -> Result<(), ReleaseError> {
        if !self.egress.is_empty() {
            return Err(ReleaseError::NotEnforced { member: "egress", neutral: "[]" });
        }
        Ok(())
    }
}

impl Sealed for Release {}

impl Payload for Release {
    const TYPE: PayloadType = PayloadType::Release;
    const ROLE: Role = Role::Release;

    fn check(&self) -> Result<(), ReleaseError> {
        self.check_numbers()?;
        self.check_unique()?;
        self.check_brokers()?;
        self.check_safeguards()?;
        self.check_retention()?;
        self.check_grants()?;
        self.check_attributes()?;
        self.check_enforced()
    }

    fn check_against(&self, root: &Root) -> Result<(), ReleaseError> {
        root.check_clean_room("release", &self.room)?;
        if self.version < root.minimum_release {
            return Err(ReleaseError::BelowMinimum { minimum: root.minimum_release, actual: self.version });
        }
        in_range("lease.issuers", self.lease.issuers, 1, root.roles.lease.keys.len() as u64)?;
        for Witness { key: name, url: _ } in &self.witnesses {
            let key = root.keys_of(Role::Witness).find(|key| key.name == *name);
            let missing = || ReleaseError::Dangling {
                from: "the release",
                what: "the witness key",
                value: name.to_string(),
            };
            let key = key.ok_or_else(missing)?;
            // Names of keys in signed notes have no plus sign.
            if key.spki.algorithm() != Algorithm::Ed25519 || name.as_str().contains('+') {
                return Err(ReleaseError::WitnessKey(name.to_string()));
            }
        }
        Ok(())
    }
}
