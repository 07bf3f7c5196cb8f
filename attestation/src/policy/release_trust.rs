//! A policy that pins a release root instead of reference values.

use std::collections::BTreeMap;

use super::{
    DeploymentReference, ImageMeasurement, ImageReference, ModelReference, Policy, TpmImageReference,
};
use crate::digest::Sha384Digest;
use crate::release::{Deployment, Release, ReleaseError, Root, TpmImage, Verified};

/// The root whose authorities say what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseTrust {
    root: Verified<Root>,
    model: Option<String>,
}

impl ReleaseTrust {
    pub(super) fn read(root: &str, model: Option<String>) -> Result<Self, ReleaseError> {
        Ok(Self { root: Root::open_first(root.as_bytes())?, model })
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> &Verified<Root> {
        &self.root
    }

    /// The model to use when nobody names another.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

impl Policy {
    /// The release root, when the policy pins one.
    #[must_use]
    pub const fn release(&self) -> Option<&ReleaseTrust> {
        self.release.as_ref()
    }

    /// This policy with the reference values of `release` in place of its own.
    ///
    /// A register of the deployment is asked about when every deployment of the release gives it. That the registers belong to
    /// *one* of the deployments is a question of its own: [`Release::permits_deployment`]. No instance with a `NitroTPM` has
    /// these registers, so a release with deployments permits none.
    #[must_use]
    pub fn with_release(&self, release: &Release) -> Self {
        let images = release.images.iter().map(|image| {
            let (pcr0, pcr1, pcr2) = (image.pcr0, image.pcr1, image.pcr2);
            let measurement = ImageMeasurement::Measured { pcr0, pcr1, pcr2 };
            ImageReference { name: image.name.to_string(), measurement }
        });
        let tpm_images = release.nitrotpm_images().iter().map(|image| {
            let TpmImage { name, pcr4, pcr7, pcr12 } = image;
            let pcrs = BTreeMap::from([(4, *pcr4), (7, *pcr7), (12, *pcr12)]);
            TpmImageReference { name: name.to_string(), pcrs }
        });
        let models = release.models.iter();
        let models = models.map(|model| ModelReference { id: model.id.to_string(), sha256: model.sha256 });
        let deployments: &[Deployment] = release.deployments.as_ref().map_or(&[], |list| list);
        let values = |register: fn(&Deployment) -> Option<Sha384Digest>| -> Option<Vec<Sha384Digest>> {
            let values: Option<Vec<_>> = deployments.iter().map(register).collect();
            values.filter(|values| !values.is_empty())
        };
        let (pcr3, pcr4, pcr8) = (values(|at| at.pcr3), values(|at| at.pcr4), values(|at| at.pcr8));
        let asked = pcr3.is_some() || pcr4.is_some() || pcr8.is_some();
        Self {
            images: images.collect(),
            tpm_images: tpm_images.collect(),
            deployment: asked.then_some(DeploymentReference { pcr3, pcr4, pcr8 }),
            models: models.collect(),
            ..self.clone()
        }
    }
}
