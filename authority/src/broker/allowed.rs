//! The broker's own list of images and models. A release that a quorum signed is not enough: each broker says for itself what it
//! gives its share for.

use std::path::Path;

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::document::Pcrs;
use serde::Deserialize;

use crate::failure::Failure;
use crate::files;

/// The longest list, in bytes.
const LIMIT: usize = 256 << 10;

/// What the broker's operator allows. Whatever is not named is not.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allowed {
    version: u64,
    /// PCR 0 of each image of enclaves.
    #[serde(default)]
    images: Vec<Sha384Digest>,
    /// Register 4 of each image of instances with a `NitroTPM`.
    #[serde(default)]
    nitrotpm_images: Vec<Sha384Digest>,
    #[serde(rename = "model")]
    models: Vec<AllowedModel>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowedModel {
    id: ModelId,
    sha256: Sha256Digest,
}

impl Allowed {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let refused = |problem: String| Failure::Refused {
            what: path.display().to_string(),
            code: "allow-list",
            problem,
        };
        let bytes = files::read(path, LIMIT)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| refused("it is not UTF-8".to_owned()))?;
        let allowed: Self = toml::from_str(text).map_err(|error| refused(error.to_string()))?;
        if allowed.version != 1 {
            return Err(refused(format!("expected version = 1, got {}", allowed.version)));
        }
        if (allowed.images.is_empty() && allowed.nitrotpm_images.is_empty()) || allowed.models.is_empty() {
            return Err(refused("expected at least one image and one [[model]]".to_owned()));
        }
        Ok(allowed)
    }

    pub(super) fn allows_model(&self, id: &ModelId, sha256: &Sha256Digest) -> bool {
        self.models.iter().any(|model| (&model.id, &model.sha256) == (id, sha256))
    }

    /// Whether the image with these registers is on the list of its kind.
    pub(super) fn allows_image(&self, pcrs: &Pcrs) -> bool {
        let (list, register) = match pcrs {
            Pcrs::NitroEnclave(pcrs) => (&self.images, pcrs.get(0)),
            Pcrs::NitroTpm(pcrs) => (&self.nitrotpm_images, pcrs.get(4)),
        };
        register.is_some_and(|register| list.contains(register))
    }
}
