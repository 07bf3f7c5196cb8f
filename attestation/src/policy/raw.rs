//! The policy file as people write it, and its checks on the way to a [`Policy`].

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{
    DEFAULT_MAX_SKEW, DeploymentReference, Freshness, ImageMeasurement, ImageReference, MAX_POLICY_LENGTH,
    ModelReference, Policy, ReleaseTrust, TpmImageReference,
};
use crate::chain::{AnchorError, Tier, TrustAnchor};
use crate::digest::{Sha256Digest, Sha384Digest, Written};
use crate::document::REGISTERS;
use crate::release::ReleaseError;

/// The only version of the policy file there is.
const VERSION: u32 = 1;
/// The most entries of one list.
const MAX_ENTRIES: usize = 1024;
/// The longest name, in bytes.
const MAX_NAME_LENGTH: usize = 128;
/// The registers without which a `NitroTPM` reference proves nothing: boot loader or unified kernel image, Secure Boot, and
/// what was added to the image at boot. A kernel's stub measures a command line, credentials and addons that stand beside
/// the image into register 12 alone (GHSA-xrv8-2pf5-f3q7), and nothing in register 7 tells a reader of the policy whether
/// Secure Boot kept them out.
const REQUIRED_TPM_REGISTERS: [u8; 3] = [4, 7, 12];
/// The registers among them that measure something on every machine.
const MEASURED_TPM_REGISTERS: [u8; 2] = [4, 7];

/// A digest in any form in which people and other tools write it.
#[derive(Clone, Copy)]
struct AsWritten<T>(T);

impl<'de, T: Written> Deserialize<'de> for AsWritten<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_written(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    version: u32,
    trust_anchor: Option<Vec<RawAnchor>>,
    image: Option<Vec<RawImage>>,
    nitrotpm_image: Option<Vec<RawTpmImage>>,
    deployment: Option<RawDeployment>,
    model: Option<Vec<RawModel>>,
    freshness: Option<RawFreshness>,
    release: Option<RawRelease>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelease {
    root: String,
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnchor {
    name: String,
    tier: Option<String>,
    sha256: Option<AsWritten<Sha256Digest>>,
    certificate: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    name: String,
    pcr0: Option<AsWritten<Sha384Digest>>,
    pcr1: Option<AsWritten<Sha384Digest>>,
    pcr2: Option<AsWritten<Sha384Digest>>,
    #[serde(default)]
    debug: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTpmImage {
    name: String,
    pcrs: BTreeMap<String, AsWritten<Sha384Digest>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeployment {
    pcr3: Option<Vec<AsWritten<Sha384Digest>>>,
    pcr4: Option<Vec<AsWritten<Sha384Digest>>>,
    pcr8: Option<Vec<AsWritten<Sha384Digest>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    id: String,
    sha256: AsWritten<Sha256Digest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFreshness {
    max_age: Option<String>,
    max_skew: Option<String>,
    max_session: Option<String>,
}

/// Why a policy file is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The file is longer than [`MAX_POLICY_LENGTH`].
    #[error("the policy has {actual} bytes, expected at most {MAX_POLICY_LENGTH}")]
    TooLong {
        /// Bytes that came.
        actual: usize,
    },
    /// The file is not TOML, has a key that does not exist, lacks one that must, or has a value of the wrong kind.
    #[error("the policy cannot be read: {0}")]
    Syntax(String),
    /// Another version of the file than this library reads.
    #[error("the policy has version {actual}, expected {VERSION}")]
    Version {
        /// The version that came.
        actual: u32,
    },
    /// A list that must name at least one value names none.
    #[error("`{list}` has no entries: name at least one value{}", Removable(*.removable))]
    Empty {
        /// The list's key.
        list: &'static str,
        /// Whether the policy may do without the key.
        removable: bool,
    },
    /// A list is longer than any real policy.
    #[error("`{list}` has {actual} entries, expected at most {MAX_ENTRIES}")]
    TooMany {
        /// The list's key.
        list: &'static str,
        /// Entries that came.
        actual: usize,
    },
    /// A name is empty, too long, or has characters that could mislead whoever reads it on a terminal.
    #[error(
        "`{list}` has a name that is empty, longer than {MAX_NAME_LENGTH} bytes or has control characters"
    )]
    Name {
        /// The list's key.
        list: &'static str,
    },
    /// Two entries of a list are the same, so one of them is a mistake.
    #[error("`{list}` names {value} twice: remove one")]
    Duplicate {
        /// The list's key.
        list: &'static str,
        /// The value that came twice.
        value: String,
    },
    /// A built-in trust anchor was given a pin or a tier of its own.
    #[error(
        "trust anchor `{name}` is built in: remove its `sha256`, `certificate` and `tier`, or choose another name"
    )]
    BuiltInAnchor {
        /// The anchor's name.
        name: String,
    },
    /// A trust anchor that is not built in does not say `tier = "development"`.
    #[error(
        "trust anchor `{name}` is not built in (`aws`, `aws-us-gov`), so it must say `tier = \"development\"`"
    )]
    AnchorTier {
        /// The anchor's name.
        name: String,
    },
    /// A development anchor does not say which certificate it is.
    #[error(
        "trust anchor `{name}` needs its root certificate: `sha256`, the SHA-256 of its DER, or `certificate`, its PEM"
    )]
    AnchorPin {
        /// The anchor's name.
        name: String,
    },
    /// A trust anchor's `certificate` is not the PEM of one.
    #[error("the `certificate` of trust anchor `{name}` is not the PEM of one: {error}")]
    AnchorCertificate {
        /// The anchor's name.
        name: String,
        /// What is wrong with it.
        error: AnchorError,
    },
    /// A trust anchor's `sha256` and `certificate` are of two certificates.
    #[error(
        "trust anchor `{name}` names two roots: its `certificate` has the SHA-256 {actual}, its `sha256` is {expected}"
    )]
    AnchorMismatch {
        /// The anchor's name.
        name: String,
        /// The value of `sha256`.
        expected: Sha256Digest,
        /// The SHA-256 of `certificate`.
        actual: Sha256Digest,
    },
    /// An image neither gives all of PCR 0, 1 and 2 nor says `debug = true`, or does both.
    #[error(
        "image `{name}` must give `pcr0`, `pcr1` and `pcr2`, or `debug = true` and none of them: \
         an enclave in debug mode measures nothing"
    )]
    ImageMeasurement {
        /// The image's name.
        name: String,
    },
    /// A reference value is all zeros where a zero proves nothing: an enclave that shows zeros there is in
    /// debug mode, was not signed, or has no role.
    #[error("{subject} is all zeros, which is the value of a register that measured nothing")]
    ZeroReference {
        /// Which value.
        subject: String,
    },
    /// A `NitroTPM` register index is not a decimal number from 0 to 31.
    #[error("nitrotpm_image `{name}` has the register `{index}`, expected 0 to 31")]
    TpmRegister {
        /// The image's name.
        name: String,
        /// The key that came.
        index: String,
    },
    /// A `NitroTPM` image lacks a register without which it proves nothing.
    #[error(
        "nitrotpm_image `{name}` must give the registers 4 (boot loader), 7 (Secure Boot) and 12 (command lines and \
         credentials that were added at boot: 96 zeros when there are none)"
    )]
    TpmRegisters {
        /// The image's name.
        name: String,
    },
    /// Reference values beside a release root, which is to name them.
    #[error("the policy has [release], which names all accepted images and models; remove `{list}`")]
    TwoSources {
        /// The list's key.
        list: &'static str,
    },
    /// `[release]` has no root that its own keys signed.
    #[error("the root in [release] is invalid: {0}")]
    ReleaseRoot(#[from] ReleaseError),
    /// A duration is not one, or is zero.
    #[error("freshness `{key}` is {actual:?}, expected a positive duration like \"5m\" or \"90s\"")]
    Duration {
        /// The key.
        key: &'static str,
        /// What came.
        actual: String,
    },
}

/// The second half of the advice for an empty list.
struct Removable(bool);

impl fmt::Display for Removable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0 { ", or remove the key to not ask" } else { "" })
    }
}

pub(super) fn read(text: &str) -> Result<Policy, PolicyError> {
    if text.len() > MAX_POLICY_LENGTH {
        return Err(PolicyError::TooLong { actual: text.len() });
    }
    let raw: RawPolicy = toml::from_str(text).map_err(|error| PolicyError::Syntax(error.to_string()))?;
    if raw.version != VERSION {
        return Err(PolicyError::Version { actual: raw.version });
    }
    if raw.release.is_some() {
        let given = [
            ("image", raw.image.is_some()),
            ("nitrotpm_image", raw.nitrotpm_image.is_some()),
            ("deployment", raw.deployment.is_some()),
            ("model", raw.model.is_some()),
        ];
        if let Some((list, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(PolicyError::TwoSources { list });
        }
    }
    let release = raw.release.map(|release| ReleaseTrust::read(&release.root, release.model)).transpose()?;
    let image_is_optional = raw.nitrotpm_image.is_some() || release.is_some();
    let images = match raw.image {
        None if image_is_optional => Vec::new(),
        raw_images => images(raw_images.unwrap_or_default())?,
    };
    Ok(Policy {
        sha256: Sha256Digest::of(&[text.as_bytes()]),
        anchors: anchors(raw.trust_anchor.unwrap_or_default())?,
        images,
        tpm_images: raw.nitrotpm_image.map(tpm_images).transpose()?.unwrap_or_default(),
        deployment: raw.deployment.map(deployment).transpose()?,
        models: raw.model.map(models).transpose()?.unwrap_or_default(),
        freshness: freshness(raw.freshness)?,
        release,
    })
}

fn anchors(raw: Vec<RawAnchor>) -> Result<Vec<TrustAnchor>, PolicyError> {
    bounded("trust_anchor", &raw, false)?;
    let anchors = raw.into_iter().map(anchor).collect::<Result<Vec<_>, _>>()?;
    distinct("trust_anchor", anchors.iter().map(TrustAnchor::name))?;
    distinct("trust_anchor", anchors.iter().map(TrustAnchor::sha256))?;
    Ok(anchors)
}

fn anchor(raw: RawAnchor) -> Result<TrustAnchor, PolicyError> {
    named("trust_anchor", &raw.name)?;
    if let Some(anchor) = TrustAnchor::built_in(&raw.name) {
        return match (raw.sha256, raw.certificate, raw.tier) {
            (None, None, None) => Ok(anchor),
            _ => Err(PolicyError::BuiltInAnchor { name: raw.name }),
        };
    }
    if raw.tier.as_deref() != Some(Tier::Development.as_str()) {
        return Err(PolicyError::AnchorTier { name: raw.name });
    }
    let name = raw.name;
    let pinned = raw.sha256.map(|AsWritten(sha256)| TrustAnchor::development(name.clone(), sha256));
    let Some(pem) = raw.certificate else { return pinned.ok_or(PolicyError::AnchorPin { name }) };
    let anchor = TrustAnchor::development_from_pem(name.clone(), pem.as_bytes())
        .map_err(|error| PolicyError::AnchorCertificate { name: name.clone(), error })?;
    match pinned {
        Some(pinned) if pinned != anchor => {
            let (expected, actual) = (*pinned.sha256(), *anchor.sha256());
            Err(PolicyError::AnchorMismatch { name, expected, actual })
        }
        _ => Ok(anchor),
    }
}

fn images(raw: Vec<RawImage>) -> Result<Vec<ImageReference>, PolicyError> {
    bounded("image", &raw, false)?;
    let images = raw.into_iter().map(image).collect::<Result<Vec<_>, _>>()?;
    distinct("image", images.iter().map(ImageReference::name))?;
    Ok(images)
}

fn image(raw: RawImage) -> Result<ImageReference, PolicyError> {
    named("image", &raw.name)?;
    let measurement = match (raw.debug, raw.pcr0, raw.pcr1, raw.pcr2) {
        (false, Some(AsWritten(pcr0)), Some(AsWritten(pcr1)), Some(AsWritten(pcr2))) => {
            for (index, value) in [pcr0, pcr1, pcr2].iter().enumerate() {
                not_zero(value, || format!("pcr{index} of image `{}`", raw.name))?;
            }
            ImageMeasurement::Measured { pcr0, pcr1, pcr2 }
        }
        (true, None, None, None) => ImageMeasurement::Debug,
        _ => return Err(PolicyError::ImageMeasurement { name: raw.name }),
    };
    Ok(ImageReference { name: raw.name, measurement })
}

fn tpm_images(raw: Vec<RawTpmImage>) -> Result<Vec<TpmImageReference>, PolicyError> {
    bounded("nitrotpm_image", &raw, true)?;
    let images = raw.into_iter().map(tpm_image).collect::<Result<Vec<_>, _>>()?;
    distinct("nitrotpm_image", images.iter().map(TpmImageReference::name))?;
    Ok(images)
}

fn tpm_image(raw: RawTpmImage) -> Result<TpmImageReference, PolicyError> {
    named("nitrotpm_image", &raw.name)?;
    let mut pcrs = BTreeMap::new();
    for (key, AsWritten(value)) in raw.pcrs {
        let index = key.parse::<u8>().ok().filter(|index| usize::from(*index) < REGISTERS);
        // Comparing the text keeps "+4" and "04" from being second spellings of 4.
        let Some(index) = index.filter(|index| index.to_string() == key) else {
            return Err(PolicyError::TpmRegister { name: raw.name, index: key });
        };
        if MEASURED_TPM_REGISTERS.contains(&index) {
            not_zero(&value, || format!("register {index} of nitrotpm_image `{}`", raw.name))?;
        }
        pcrs.insert(index, value);
    }
    if REQUIRED_TPM_REGISTERS.iter().any(|index| !pcrs.contains_key(index)) {
        return Err(PolicyError::TpmRegisters { name: raw.name });
    }
    Ok(TpmImageReference { name: raw.name, pcrs })
}

fn deployment(raw: RawDeployment) -> Result<DeploymentReference, PolicyError> {
    if raw.pcr3.is_none() && raw.pcr4.is_none() && raw.pcr8.is_none() {
        return Err(PolicyError::Empty { list: "deployment", removable: true });
    }
    let [pcr3, pcr4, pcr8] = [("pcr3", raw.pcr3), ("pcr4", raw.pcr4), ("pcr8", raw.pcr8)]
        .map(|(list, values)| values.map(|values| deployment_register(list, &values)).transpose());
    Ok(DeploymentReference { pcr3: pcr3?, pcr4: pcr4?, pcr8: pcr8? })
}

fn deployment_register(
    list: &'static str,
    values: &[AsWritten<Sha384Digest>],
) -> Result<Vec<Sha384Digest>, PolicyError> {
    bounded(list, values, true)?;
    let values: Vec<_> = values.iter().map(|AsWritten(value)| *value).collect();
    distinct(list, values.iter())?;
    values.iter().try_for_each(|value| not_zero(value, || format!("a value of deployment `{list}`")))?;
    Ok(values)
}

fn models(raw: Vec<RawModel>) -> Result<Vec<ModelReference>, PolicyError> {
    bounded("model", &raw, true)?;
    for model in &raw {
        named("model", &model.id)?;
        if model.sha256.0.is_zero() {
            return Err(PolicyError::ZeroReference {
                subject: format!("the digest of model `{}`", model.id),
            });
        }
    }
    distinct("model", raw.iter().map(|model| format!("{} {}", model.id, model.sha256.0)))?;
    Ok(raw.into_iter().map(|model| ModelReference { id: model.id, sha256: model.sha256.0 }).collect())
}

fn freshness(raw: Option<RawFreshness>) -> Result<Freshness, PolicyError> {
    let Some(raw) = raw else {
        return Ok(Freshness { max_age: None, max_skew: DEFAULT_MAX_SKEW, max_session: None });
    };
    if raw.max_age.is_none() && raw.max_skew.is_none() && raw.max_session.is_none() {
        return Err(PolicyError::Empty { list: "freshness", removable: true });
    }
    Ok(Freshness {
        max_age: duration("max_age", raw.max_age)?,
        max_skew: duration("max_skew", raw.max_skew)?.unwrap_or(DEFAULT_MAX_SKEW),
        max_session: duration("max_session", raw.max_session)?,
    })
}

fn duration(key: &'static str, text: Option<String>) -> Result<Option<Duration>, PolicyError> {
    let Some(text) = text else { return Ok(None) };
    match humantime::parse_duration(&text) {
        Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
        _ => Err(PolicyError::Duration { key, actual: text }),
    }
}

fn bounded<T>(list: &'static str, entries: &[T], removable: bool) -> Result<(), PolicyError> {
    match entries.len() {
        0 => Err(PolicyError::Empty { list, removable }),
        1..=MAX_ENTRIES => Ok(()),
        actual => Err(PolicyError::TooMany { list, actual }),
    }
}

fn named(list: &'static str, name: &str) -> Result<(), PolicyError> {
    if name.is_empty() || name.len() > MAX_NAME_LENGTH || name.chars().any(char::is_control) {
        return Err(PolicyError::Name { list });
    }
    Ok(())
}

fn distinct<T: Ord + ToString>(
    list: &'static str,
    values: impl Iterator<Item = T>,
) -> Result<(), PolicyError> {
    let mut seen = BTreeSet::new();
    for value in values {
        if seen.contains(&value) {
            return Err(PolicyError::Duplicate { list, value: value.to_string() });
        }
        seen.insert(value);
    }
    Ok(())
}

fn not_zero(value: &Sha384Digest, subject: impl Fn() -> String) -> Result<(), PolicyError> {
    if value.is_zero() {
        return Err(PolicyError::ZeroReference { subject: subject() });
    }
    Ok(())
}
