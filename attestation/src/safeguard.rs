//! What an enclave says about judging a request: words and names, and never text.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;

/// The longest policy file that an enclave takes, in bytes.
pub const SAFEGUARD_POLICY_LIMIT: usize = 1 << 20;
/// The longest file of a text classifier that an enclave takes, in bytes.
pub const SAFEGUARD_CLASSIFIER_LIMIT: usize = 64 << 20;
/// The most policies that judge one request: that of the newest release, and until it is leased that of the one before.
pub const SAFEGUARD_POLICIES_LIMIT: usize = 2;
/// The most rules that are named for one request.
pub const SAFEGUARD_RULES_LIMIT: usize = 16;
/// The longest name of a rule, in bytes.
pub const SAFEGUARD_RULE_BYTES: usize = 64;

/// How a request was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SafeguardVerdict {
    /// SHA-256 of each policy that judged it: one, or two while a newer release waits for its lease.
    pub policies_sha256: Vec<Sha256Digest>,
    /// The strictest action of the rules that matched.
    pub action: SafeguardAction,
    /// The names of the rules that matched, the strictest first.
    pub rules: Vec<String>,
}

impl SafeguardVerdict {
    /// Whether the numbers and names are within their limits, and the action is one that these rules can have.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Self { policies_sha256, action, rules } = self;
        (1..=SAFEGUARD_POLICIES_LIMIT).contains(&policies_sha256.len())
            && rules.len() <= SAFEGUARD_RULES_LIMIT
            && rules.iter().all(|rule| is_rule(rule))
            && (*action == SafeguardAction::Allow) == rules.is_empty()
    }
}

/// Whether `name` is one of a rule: 1 to 64 lower-case letters, digits, `-` and `.`.
fn is_rule(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.len() <= SAFEGUARD_RULE_BYTES && name.bytes().all(plain)
}

/// What a verdict demands. The order is the severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SafeguardAction {
    /// Nothing.
    Allow,
    /// The verdict is recorded.
    Flag,
    /// The request is refused, or the answer ends.
    Refuse,
    /// As [`Self::Refuse`].
    End,
}

impl SafeguardAction {
    /// Each of them, the mildest first.
    pub const ALL: [Self; 4] = [Self::Allow, Self::Flag, Self::Refuse, Self::End];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Flag => "flag",
            Self::Refuse => "refuse",
            Self::End => "end",
        }
    }

    /// Whether nothing of an answer leaves any more.
    #[must_use]
    pub const fn stops(self) -> bool {
        matches!(self, Self::Refuse | Self::End)
    }
}

impl fmt::Display for SafeguardAction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
