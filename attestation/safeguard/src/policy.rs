//! A policy: rules that were read from one file, and the automata that find them.

mod error;
mod file;

use aho_corasick::automaton::Automaton as _;
use aho_corasick::nfa::contiguous::NFA;
use cleanroom_attestation::digest::Sha256Digest;

pub use self::error::PolicyError;
use self::file::{PolicyFile, RuleFile};
use crate::{Action, Part, RuleId};

/// The longest policy file, in bytes.
pub const MAX_POLICY_BYTES: usize = 1 << 20;
/// The most rules of a policy.
pub const MAX_RULES: usize = 1024;
/// The most terms of all rules of a policy together.
pub const MAX_TERMS: usize = 8192;
/// The longest term, in bytes.
pub const MAX_TERM_BYTES: usize = 256;
/// The most bytes of an answer that a policy may hold back.
pub const MAX_HOLD_BACK_BYTES: usize = 4096;

/// A policy that was read and compiled. Exchanges share it.
pub struct Policy {
    id: RuleId,
    digest: Sha256Digest,
    hold_back: usize,
    rules: Vec<RuleSummary>,
    literals: NFA,
    /// The rule of each literal.
    owners: Vec<usize>,
}

/// A rule as reports show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSummary {
    /// The rule's name.
    pub id: RuleId,
    /// What the author says about it.
    pub about: String,
    /// The part of an exchange that the rule looks at.
    pub part: Part,
    /// What it demands.
    pub action: Action,
    /// How many terms it looks for.
    pub terms: usize,
}

impl Policy {
    /// Reads a policy from the bytes of its file and compiles it.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] says which limit or rule of the format the file breaks. The length is compared before
    /// anything is parsed.
    pub fn read(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong { maximum: MAX_POLICY_BYTES, actual: bytes.len() });
        }
        let text = core::str::from_utf8(bytes).map_err(|_| PolicyError::Encoding)?;
        let file: PolicyFile = toml::from_str(text)
            .map_err(|error| PolicyError::Syntax(error.to_string().trim_end().to_owned()))?;
        Self::compile(file, Sha256Digest::of(&[bytes]))
    }

    fn compile(file: PolicyFile, digest: Sha256Digest) -> Result<Self, PolicyError> {
        let PolicyFile { version, id, hold_back, rules: listed } = file;
        if version != 1 {
            return Err(PolicyError::Version(version));
        }
        let id = RuleId::read(&id).ok_or(PolicyError::Name(id))?;
        let hold_back = usize::try_from(hold_back)
            .ok()
            .filter(|bytes| *bytes <= MAX_HOLD_BACK_BYTES)
            .ok_or_else(|| PolicyError::Number {
                place: "policy".to_owned(),
                name: "hold_back",
                minimum: 0,
                maximum: MAX_HOLD_BACK_BYTES as u64,
                actual: hold_back,
            })?;
        if listed.len() > MAX_RULES {
            return Err(PolicyError::TooMany { what: "rules", maximum: MAX_RULES, actual: listed.len() });
        }
        let mut rules: Vec<RuleSummary> = Vec::with_capacity(listed.len());
        let mut literals = Vec::new();
        let mut owners = Vec::new();
        for RuleFile { id, about, on, action, any } in listed {
            let id = RuleId::read(&id).ok_or(PolicyError::Name(id))?;
            if rules.iter().any(|rule| rule.id == id) {
                return Err(PolicyError::Twice(id.to_string()));
            }
            let refuse = |problem: String| PolicyError::Rule { rule: id.to_string(), problem };
            if action == Action::Allow {
                return Err(refuse("its action is allow; expected flag, refuse or end".to_owned()));
            }
            if any.is_empty() {
                return Err(refuse("it has no term; give at least one in `any`".to_owned()));
            }
            let terms = any.len();
            for term in any {
                if term.is_empty() || term.len() > MAX_TERM_BYTES {
                    return Err(refuse(format!(
                        "a term has {} bytes; expected 1 to {MAX_TERM_BYTES}",
                        term.len()
                    )));
                }
                owners.push(rules.len());
                literals.push(term.to_lowercase());
            }
            if literals.len() > MAX_TERMS {
                return Err(PolicyError::TooMany {
                    what: "terms",
                    maximum: MAX_TERMS,
                    actual: literals.len(),
                });
            }
            rules.push(RuleSummary { id, about, part: on, action, terms });
        }
        let literals = NFA::new(&literals).map_err(|error| PolicyError::Compile(error.to_string()))?;
        Ok(Self { id, digest, hold_back, rules, literals, owners })
    }

    /// The policy's own name.
    #[must_use]
    pub const fn id(&self) -> &RuleId {
        &self.id
    }

    /// SHA-256 of the file's bytes. A release names a policy by it.
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        *self.digest.as_bytes()
    }

    /// How many bytes at the end of an unfinished answer wait before they may leave, at least. Up to three bytes more
    /// may wait, because only whole characters leave.
    #[must_use]
    pub const fn hold_back(&self) -> usize {
        self.hold_back
    }

    /// The rules, in the file's order.
    #[must_use]
    pub fn rules(&self) -> &[RuleSummary] {
        &self.rules
    }

    /// The bytes of memory that the compiled policy takes, which all exchanges share.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.literals.memory_usage()
    }

    pub(crate) const fn literals(&self) -> &NFA {
        &self.literals
    }

    pub(crate) fn owners(&self) -> &[usize] {
        &self.owners
    }
}
