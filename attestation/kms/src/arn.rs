//! Amazon resource names, as far as they are needed here.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest name, in bytes.
const LIMIT: usize = 512;

/// The name of a key of KMS: `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`. An alias is none: its owner can point
/// it at another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyArn {
    text: String,
    region: String,
}

/// The name of a role or a user: `arn:PARTITION:iam::ACCOUNT:role/NAME` or `…:user/NAME`. An account's root
/// user is none, because a policy that names it names everybody in the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalArn(String);

/// Why a text is not the name that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArnError {
    /// No name of a key.
    #[error("expected the ARN of a key of KMS: arn:PARTITION:kms:REGION:ACCOUNT:key/ID, and no alias")]
    Key,
    /// No name of a role or user.
    #[error("expected the ARN of a role or user: arn:PARTITION:iam::ACCOUNT:role/NAME or :user/NAME")]
    Principal,
}

impl KeyArn {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The region where the key is.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }
}

impl PrincipalArn {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lower-case letters, digits and hyphens, as partitions, regions and the ids of keys have them. The first is
/// no hyphen, so that none can pass for an option of a program.
fn is_plain(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(is_allowed)
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A path and a name of IAM: letters, digits and `/+=,.@_-`. No `*`: a policy has to say whom it means.
fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/+=,.@_-".contains(&byte);
    !text.is_empty() && text.bytes().all(is_allowed)
}

/// The fields between colons, if there are six.
fn fields(text: &str) -> Option<[&str; 6]> {
    let mut fields = text.splitn(6, ':');
    let six = [(); 6].map(|()| fields.next());
    match six {
        [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)] if text.len() <= LIMIT => {
            Some([a, b, c, d, e, f])
        }
        _ => None,
    }
}

impl FromStr for KeyArn {
    type Err = ArnError;

    fn from_str(text: &str) -> Result<Self, ArnError> {
        match fields(text) {
            Some(["arn", partition, "kms", region, account, key])
                if is_plain(partition)
                    && is_plain(region)
                    && is_account(account)
                    && key.strip_prefix("key/").is_some_and(is_plain) =>
            {
                Ok(Self { text: text.to_owned(), region: region.to_owned() })
            }
            _ => Err(ArnError::Key),
        }
    }
}

impl FromStr for PrincipalArn {
    type Err = ArnError;

    fn from_str(text: &str) -> Result<Self, ArnError> {
        match fields(text) {
            Some(["arn", partition, "iam", "", account, name])
                if is_plain(partition)
                    && is_account(account)
                    && name
                        .strip_prefix("role/")
                        .or_else(|| name.strip_prefix("user/"))
                        .is_some_and(is_name) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(ArnError::Principal),
        }
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Display for PrincipalArn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for KeyArn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for KeyArn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
