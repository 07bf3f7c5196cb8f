//! The policy of a relying party: trust anchors and reference values, read once from `trust.toml`.
//!
//! ```toml
//! version = 1
//!
//! [[trust_anchor]]             # at least one
//! name = "aws"                 # "aws" and "aws-us-gov" are built in; their pins are part of this library
//!
//! [[trust_anchor]]             # any other root is a development root, and says so
//! name = "laptop"
//! tier = "development"
//! sha256 = "…"                 # SHA-256 of the root certificate's DER, 64 hexadecimal digits; or
//! certificate = '''…'''        # the certificate itself, as PEM
//!
//! [[image]]                    # at least one image, of either kind
//! name = "cleanroom 0.1.0"
//! pcr0 = "…"                   # 96 hexadecimal digits each
//! pcr1 = "…"
//! pcr2 = "…"
//!
//! [[image]]                    # tests only: accepts any enclave in debug mode, which proves no image at all
//! name = "whatever is on the bench"
//! debug = true
//!
//! [[nitrotpm_image]]           # an EC2 instance with NitroTPM instead of an enclave; 4, 7 and 12 are required
//! name = "attestable AMI"
//! pcrs = { 4 = "…", 7 = "…", 12 = "…" }    # 12 is 96 zeros when nothing was added to the image at boot
//!
//! [deployment]                 # optional; every key that is there is checked
//! pcr3 = ["…"]                 # SHA-384 measurement of the IAM role
//! pcr4 = ["…"]                 # of the parent instance's id
//! pcr8 = ["…"]                 # of the image's signing certificate
//!
//! [[model]]                    # optional here, required for a channel
//! id = "demo"
//! sha256 = "…"
//!
//! [release]                    # instead of [[image]], [deployment] and [[model]]: what the authorities under this root release
//! root = '''{ … }'''           # the root's envelope
//! model = "demo"               # the model to use when nobody names another; optional
//!
//! [freshness]                  # optional
//! max_age = "5m"               # evidence's time stamp against the verifier's clock
//! max_skew = "30s"             # how far that clock may be behind the time stamp, and behind the start of a
//!                              # certificate; 60s when not given
//! max_session = "15m"          # how long a session may live on one attestation
//! ```
//!
//! A digest is written in hexadecimal, also with `0x` or with colons between the bytes, or in base64.
//!
//! Unknown keys are refused everywhere, and so is every list that is present but empty: a set of no reference values
//! would either accept everything or nothing, and the reader of the file could not tell which.

mod raw;
mod release_trust;

use core::time::Duration;
use std::collections::BTreeMap;

use crate::chain::TrustAnchor;
use crate::digest::{Sha256Digest, Sha384Digest};

pub use self::raw::PolicyError;
pub use self::release_trust::ReleaseTrust;

/// The longest policy file, in bytes.
pub const MAX_POLICY_LENGTH: usize = 1 << 20;

/// How far the verifier's clock may be behind when the policy does not say.
pub const DEFAULT_MAX_SKEW: Duration = Duration::from_secs(60);

/// A relying party's policy: valid by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    sha256: Sha256Digest,
    anchors: Vec<TrustAnchor>,
    images: Vec<ImageReference>,
    tpm_images: Vec<TpmImageReference>,
    deployment: Option<DeploymentReference>,
    models: Vec<ModelReference>,
    freshness: Freshness,
    release: Option<ReleaseTrust>,
}

/// Reference values of one enclave image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    name: String,
    measurement: ImageMeasurement,
}

/// What an enclave of an image must have measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageMeasurement {
    /// Exactly these three registers.
    Measured {
        /// Whole image.
        pcr0: Sha384Digest,
        /// Kernel, command line and first ramdisk.
        pcr1: Sha384Digest,
        /// Application ramdisks.
        pcr2: Sha384Digest,
    },
    /// Any enclave in debug mode: nothing about its image is proven, and its operator can read its console.
    Debug,
}

/// Reference values of one `NitroTPM` machine image: register index and value, 4, 7 and 12 among them. Zero is a value like
/// any other there: a register that must have measured nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmImageReference {
    name: String,
    pcrs: BTreeMap<u8, Sha384Digest>,
}

/// Reference values of a deployment. Each list that is there is not empty; at least one is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentReference {
    pcr3: Option<Vec<Sha384Digest>>,
    pcr4: Option<Vec<Sha384Digest>>,
    pcr8: Option<Vec<Sha384Digest>>,
}

/// A model that the relying party accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelReference {
    id: String,
    sha256: Sha256Digest,
}

/// How old evidence may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The greatest age of a document's time stamp by the verifier's clock; `None` when the policy does not ask.
    pub max_age: Option<Duration>,
    /// How far that clock may be behind: behind the time stamp, and behind the start of a certificate.
    pub max_skew: Duration,
    /// How long a session may live on one attestation; `None` when the policy does not say.
    pub max_session: Option<Duration>,
}

impl Policy {
    /// Reads and validates a policy file.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], which says what in the file is wrong and what is expected there.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        raw::read(text)
    }

    /// The SHA-256 of the policy file. A policy that took a release's reference values keeps that of its file.
    #[must_use]
    pub const fn sha256(&self) -> &Sha256Digest {
        &self.sha256
    }

    /// The roots that are trusted. Never empty; no two share a name or a certificate.
    #[must_use]
    pub fn anchors(&self) -> &[TrustAnchor] {
        &self.anchors
    }

    /// The enclave images that are accepted. Empty only when [`Self::tpm_images`] is not.
    #[must_use]
    pub fn images(&self) -> &[ImageReference] {
        &self.images
    }

    /// The `NitroTPM` machine images that are accepted.
    #[must_use]
    pub fn tpm_images(&self) -> &[TpmImageReference] {
        &self.tpm_images
    }

    /// The deployment that is expected, when the policy asks about it.
    #[must_use]
    pub const fn deployment(&self) -> Option<&DeploymentReference> {
        self.deployment.as_ref()
    }

    /// The models that are accepted; empty when the policy does not ask.
    #[must_use]
    pub fn models(&self) -> &[ModelReference] {
        &self.models
    }

    /// Every digest that is accepted for the model called `id`.
    pub fn model_digests<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Sha256Digest> {
        self.models.iter().filter(move |model| model.id == id).map(|model| &model.sha256)
    }

    /// How old evidence may be.
    #[must_use]
    pub const fn freshness(&self) -> &Freshness {
        &self.freshness
    }
}

impl ImageReference {
    /// What the policy calls the image.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What an enclave of this image must have measured.
    #[must_use]
    pub const fn measurement(&self) -> &ImageMeasurement {
        &self.measurement
    }
}

impl TpmImageReference {
    /// What the policy calls the image.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Register index and expected value.
    #[must_use]
    pub const fn pcrs(&self) -> &BTreeMap<u8, Sha384Digest> {
        &self.pcrs
    }
}

impl DeploymentReference {
    /// The register index and accepted values of every register that the policy asks about.
    pub fn registers(&self) -> impl Iterator<Item = (u8, &[Sha384Digest])> {
        [(3, &self.pcr3), (4, &self.pcr4), (8, &self.pcr8)]
            .into_iter()
            .filter_map(|(index, values)| Some((index, values.as_deref()?)))
    }
}

impl ModelReference {
    /// The name under which requests ask for the model.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The model's identity: the SHA-256 tree over its plaintext chunks.
    #[must_use]
    pub const fn sha256(&self) -> &Sha256Digest {
        &self.sha256
    }
}
