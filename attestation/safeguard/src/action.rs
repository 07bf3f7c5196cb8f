//! What a rule demands, and of which part of an exchange.

use core::fmt;

use serde::{Deserialize, Serialize};

/// What a policy demands of an exchange. The order is the severity: of several actions the greatest applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// No rule matches.
    #[default]
    Allow,
    /// The exchange goes on. The verdict is recorded.
    Flag,
    /// The exchange ends: nothing of the answer leaves, or nothing more.
    Refuse,
    /// As [`Action::Refuse`], for what is worse: limits over several requests may count it apart.
    End,
}

impl Action {
    /// The action's name in a policy file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Flag => "flag",
            Self::Refuse => "refuse",
            Self::End => "end",
        }
    }

    /// Whether the answer stops.
    #[must_use]
    pub const fn stops(self) -> bool {
        matches!(self, Self::Refuse | Self::End)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The part of an exchange that a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The messages of the request.
    Prompt,
    /// The text that the model writes.
    Answer,
    /// Both. A rule of several terms may find one in the prompt and another in the answer.
    Exchange,
}

impl Part {
    /// The part's name in a policy file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Answer => "answer",
            Self::Exchange => "exchange",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
