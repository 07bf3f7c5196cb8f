//! The policy of a key of KMS, out of the release whose images may have the share.

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::release::{Deployment, Image, Release};
use serde_json::{Map, Value, json};

use crate::arn::PrincipalArn;

/// The longest policy that KMS takes, in bytes.
pub const POLICY_LIMIT: usize = 32 << 10;

/// What an administrator of the key may do: everything that a key needs over the years but its use. Whoever
/// may change a policy can let anything be decrypted, so the administrator is the authority that holds the
/// share.
const ADMINISTRATION: [&str; 12] = [
    "kms:CancelKeyDeletion",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:GetKeyPolicy",
    "kms:GetPublicKey",
    "kms:ListKeyPolicies",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
];

/// Why there is no policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// KMS would refuse it.
    #[error(
        "expected a policy of at most {POLICY_LIMIT} bytes, got {0}: the release has too many images and deployments for one key"
    )]
    TooLong(usize),
    /// Nobody could use the key.
    #[error(
        "expected a release with at least one image of an enclave; instances with a NitroTPM get no share of KMS yet"
    )]
    NoImage,
}

/// The policy of a key that opens one share: `host`, the role of the enclave's parent instance, may decrypt
/// for each image of the release, where the release lets it run. Nobody may without a document of one of
/// them, whatever another statement or a grant says.
///
/// # Errors
/// [`PolicyError`].
pub fn key_policy(
    release: &Release,
    administrator: &PrincipalArn,
    host: &PrincipalArn,
) -> Result<Value, PolicyError> {
    if release.images.is_empty() {
        return Err(PolicyError::NoImage);
    }
    let mut statements = vec![json!({
        "Sid": "Administration",
        "Effect": "Allow",
        "Principal": { "AWS": administrator.as_str() },
        "Action": ADMINISTRATION,
        "Resource": "*",
    })];
    for image in &release.images {
        match &release.deployments {
            None => statements.push(decrypt(host, image, None)),
            Some(all) => {
                statements.extend(all.iter().map(|deployment| decrypt(host, image, Some(deployment))));
            }
        }
    }
    let images: Vec<String> = release.images.iter().map(|image| image.pcr0.to_string()).collect();
    statements.push(json!({
        "Sid": "NothingWithoutAReleasedImage",
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["kms:Decrypt", "kms:ReEncryptFrom"],
        "Resource": "*",
        // It also holds for a request without a document.
        "Condition": { "StringNotEqualsIgnoreCase": { "kms:RecipientAttestation:ImageSha384": images } },
    }));
    let policy = json!({ "Version": "2012-10-17", "Statement": statements });
    match policy.to_string().len() {
        length if length > POLICY_LIMIT => Err(PolicyError::TooLong(length)),
        _ => Ok(policy),
    }
}

/// Lets `host` decrypt for an enclave of `image`, in `deployment` if there is one.
fn decrypt(host: &PrincipalArn, image: &Image, deployment: Option<&Deployment>) -> Value {
    // Destructured, so that a new register cannot be forgotten here.
    let Image { name: _, pcr0, pcr1, pcr2 } = image;
    let mut registers = Map::new();
    let mut put = |name: &str, value: &Sha384Digest| {
        registers.insert(format!("kms:RecipientAttestation:{name}"), value.to_string().into());
    };
    // PCR 0 by the name that AWS's own examples give it.
    put("ImageSha384", pcr0);
    put("PCR1", pcr1);
    put("PCR2", pcr2);
    if let Some(Deployment { name: _, pcr3, pcr4, pcr8 }) = deployment {
        for (name, value) in [("PCR3", pcr3), ("PCR4", pcr4), ("PCR8", pcr8)] {
            if let Some(value) = value {
                put(name, value);
            }
        }
    }
    json!({
        "Effect": "Allow",
        "Principal": { "AWS": host.as_str() },
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": { "StringEqualsIgnoreCase": registers },
    })
}
