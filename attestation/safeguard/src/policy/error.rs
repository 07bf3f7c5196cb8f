//! Why a file is no policy.

use crate::verdict::MAX_RULE_ID_BYTES;

/// Why a file is no policy. The messages name rules of the policy's author and quote nothing of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file is too long. It was not parsed.
    #[error("the policy has {actual} bytes; at most {maximum} are read")]
    TooLong {
        /// The most bytes.
        maximum: usize,
        /// The bytes of the file.
        actual: usize,
    },
    /// The file is no UTF-8.
    #[error("the policy is no UTF-8 text")]
    Encoding,
    /// The file is no TOML, or has members that a policy does not have.
    #[error("the policy cannot be read: {0}")]
    Syntax(String),
    /// The file has another version of the format.
    #[error("version {0} is unknown; this program reads version 1")]
    Version(u64),
    /// A number is out of bounds.
    #[error("{place}: {name} is {actual}; expected {minimum} to {maximum}")]
    Number {
        /// The rule, or `policy`.
        place: String,
        /// The member.
        name: &'static str,
        /// The least value.
        minimum: u64,
        /// The greatest value.
        maximum: u64,
        /// The value.
        actual: u64,
    },
    /// Something is there too often.
    #[error("there are {actual} {what}; at most {maximum} are permitted")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The most.
        maximum: usize,
        /// How many there are.
        actual: usize,
    },
    /// A name is not permitted.
    #[error(
        "{0:?} is no name: expected 1 to {MAX_RULE_ID_BYTES} of a-z, 0-9, '-' and '.', with a letter or digit at both ends"
    )]
    Name(String),
    /// Two rules or classifiers have one name.
    #[error("two rules or classifiers are called {0}")]
    Twice(String),
    /// A rule contradicts itself or can never match.
    #[error("rule {rule}: {problem}")]
    Rule {
        /// The rule.
        rule: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A classifier's entry contradicts itself, or does not fit the classifier's file.
    #[error("classifier {classifier}: {problem}")]
    Classifier {
        /// The classifier's name in the policy.
        classifier: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A list breaks a rule.
    #[error("list {list}: {problem}")]
    List {
        /// The list.
        list: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// An expression is not permitted.
    #[error("the expression /{expression}/ cannot be used: {problem}")]
    Expression {
        /// The expression.
        expression: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The matcher cannot be built within its limits.
    #[error("the rules cannot be compiled: {0}")]
    Compile(String),
}

impl PolicyError {
    /// The stable code of the reason.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "policy-too-long",
            Self::Encoding => "policy-encoding",
            Self::Syntax(_) => "policy-syntax",
            Self::Version(_) => "policy-version",
            Self::Number { .. } => "policy-number",
            Self::TooMany { .. } => "policy-too-many",
            Self::Name(_) => "policy-name",
            Self::Twice(_) => "policy-twice",
            Self::Rule { .. } => "policy-rule",
            Self::Classifier { .. } => "policy-classifier",
            Self::List { .. } => "policy-list",
            Self::Expression { .. } => "policy-expression",
            Self::Compile(_) => "policy-compile",
        }
    }
}
