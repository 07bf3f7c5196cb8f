//! What judging says: actions and names of rules, and never text.

use core::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{Action, Policy};

/// The longest name of a rule, in bytes.
pub const MAX_RULE_ID_BYTES: usize = 64;
/// The most rules that one verdict names. The strictest are named first.
pub const MAX_VERDICT_RULES: usize = 16;

/// The name of a rule: 1 to [`MAX_RULE_ID_BYTES`] bytes of `a`–`z`, `0`–`9`, `-` and `.`. The policy's author chose
/// it, so nothing that a partner wrote is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(Arc<str>);

impl RuleId {
    /// Reads a name. `None` when it breaks the rule above, or starts or ends with a dot or a hyphen.
    #[must_use]
    pub fn read(name: &str) -> Option<Self> {
        let permitted =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let valid = bytes.len() <= MAX_RULE_ID_BYTES
            && bytes.iter().copied().all(permitted)
            && edge(bytes.first())
            && edge(bytes.last());
        valid.then(|| Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name up to its first dot: the family of attacks that the rule belongs to.
    #[must_use]
    pub fn family(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(family, _)| family)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What the policy demands of an exchange as far as it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The strictest action of the rules that matched.
    pub action: Action,
    /// The rules that matched, at most [`MAX_VERDICT_RULES`]: the strictest first, and then in the policy's order.
    pub rules: Vec<RuleId>,
}

impl Verdict {
    /// What rules that matched demand together with the classifiers of a policy, each of which demands an action.
    pub(crate) fn of<'p>(
        matched: impl Iterator<Item = (Action, &'p RuleId)>,
        policy: &'p Policy,
        classified: &[Action],
    ) -> Self {
        let classifiers = policy.classifiers().zip(classified);
        let classifiers = classifiers.map(|(classifier, action)| (*action, &classifier.id));
        let mut named: Vec<_> =
            matched.chain(classifiers.filter(|(action, _)| *action > Action::Allow)).collect();
        named.sort_by_key(|(action, _)| core::cmp::Reverse(*action));
        Self {
            action: named.first().map(|(action, _)| *action).unwrap_or_default(),
            rules: named.iter().take(MAX_VERDICT_RULES).map(|(_, id)| (*id).clone()).collect(),
        }
    }
}

/// Text of an answer. It has no `Debug` and no `Display`, and is erased on drop.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Text(Zeroizing<String>);

impl Text {
    /// A copy of `text`, exactly as long as needed.
    pub(crate) fn copy(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A step of judging an answer.
#[derive(Clone, Default)]
pub struct Judged {
    /// The text that may leave now.
    pub leaves: Text,
    /// The verdict on the exchange so far.
    pub verdict: Verdict,
}
