//! A policy: rules that were read from one file, and the automata that find them.

mod classifier;
mod compiled;
mod error;
mod file;
mod term;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cleanroom_attestation::digest::Sha256Digest;

pub(crate) use self::classifier::Attached;
pub use self::classifier::{
    Classifier, ClassifierSummary, MAX_CLASSIFIER_BYTES, MAX_CLASSIFIERS, MAX_WINDOW_BYTES, Window,
};
use self::compiled::RuleTerms;
pub(crate) use self::compiled::{Compiled, Literals, Role, Sight};
pub use self::compiled::{MAX_EXPRESSION_BYTES, MAX_EXPRESSIONS, MAX_LITERAL_BYTES};
pub use self::error::PolicyError;
use self::file::{ClassifierFile, PolicyFile, RuleFile};
pub use self::term::MAX_TERM_BYTES;
use self::term::{Needle, Term};
use crate::{Action, Part, RuleId};

/// The longest policy file, in bytes.
pub const MAX_POLICY_BYTES: usize = 1 << 20;
/// The most rules of a policy.
pub const MAX_RULES: usize = 1024;
/// The most terms of all rules of a policy together, the terms of lists counted for each rule that uses them.
pub const MAX_TERMS: usize = 8192;
/// The most bytes of an answer that a policy may hold back.
pub const MAX_HOLD_BACK_BYTES: usize = 4096;
/// The most terms that `all` may have.
const MAX_SLOTS: usize = 8;
/// The greatest `within`, in characters.
const MAX_WITHIN: u64 = 1 << 16;
/// The greatest `times`.
const MAX_TIMES: u64 = 10_000;

/// A policy that was read and compiled. Exchanges share it.
pub struct Policy {
    id: RuleId,
    digest: Sha256Digest,
    hold_back: usize,
    rules: Vec<RuleSummary>,
    compiled: Compiled,
    classifiers: Vec<Attached>,
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
    /// How many terms it looks for, those of lists included.
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
        let PolicyFile { version, id, hold_back, lists, rules, classifiers } = toml::from_str(text)
            .map_err(|error| PolicyError::Syntax(error.to_string().trim_end().to_owned()))?;
        if version != 1 {
            return Err(PolicyError::Version(version));
        }
        let id = RuleId::read(&id).ok_or(PolicyError::Name(id))?;
        let hold_back = number("policy", "hold_back", hold_back, 0, MAX_HOLD_BACK_BYTES as u64)?;
        let mut reader = Reader::new(&lists)?;
        if rules.len() > MAX_RULES {
            return Err(PolicyError::TooMany { what: "rules", maximum: MAX_RULES, actual: rules.len() });
        }
        for rule in rules {
            reader.rule(rule)?;
        }
        let classifiers = reader.classifiers(classifiers)?;
        reader.all_lists_are_used()?;
        let Reader { needles, terms, rules, .. } = reader;
        Ok(Self {
            id,
            digest: Sha256Digest::of(&[bytes]),
            hold_back: usize::try_from(hold_back).unwrap_or(MAX_HOLD_BACK_BYTES),
            rules,
            compiled: Compiled::new(needles, terms)?,
            classifiers,
        })
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

    /// How many bytes at the end of an unfinished answer wait before they may leave, at least. More wait
    /// while a match may still be excused, and where a character would be cut.
    #[must_use]
    pub const fn hold_back(&self) -> usize {
        self.hold_back
    }

    /// The rules, in the file's order.
    #[must_use]
    pub fn rules(&self) -> &[RuleSummary] {
        &self.rules
    }

    /// The classifiers, in the file's order.
    pub fn classifiers(&self) -> impl ExactSizeIterator<Item = &ClassifierSummary> {
        self.classifiers.iter().map(|attached| &attached.summary)
    }

    /// Hands in a classifier. Whether the policy names it.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Classifier`] when its file lacks the label that the policy wants.
    pub fn attach(&mut self, classifier: &Arc<Classifier>) -> Result<bool, PolicyError> {
        let mut is_named = false;
        for attached in &mut self.classifiers {
            is_named |= attached.attach(classifier)?;
        }
        Ok(is_named)
    }

    /// SHA-256 of each classifier that the policy names and that was not handed in. Until it is, it counts as one
    /// that gives every text the highest score.
    pub fn missing(&self) -> impl Iterator<Item = [u8; 32]> {
        self.classifiers
            .iter()
            .filter(|attached| attached.is_missing())
            .map(|attached| attached.summary.sha256)
    }

    /// The bytes of memory of the compiled policy, which all exchanges share.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.compiled.memory_bytes()
    }

    pub(crate) fn attached(&self) -> &[Attached] {
        &self.classifiers
    }

    pub(crate) const fn compiled(&self) -> &Compiled {
        &self.compiled
    }
}

fn number(
    place: &str,
    name: &'static str,
    actual: u64,
    minimum: u64,
    maximum: u64,
) -> Result<u64, PolicyError> {
    if (minimum..=maximum).contains(&actual) {
        return Ok(actual);
    }
    Err(PolicyError::Number { place: place.to_owned(), name, minimum, maximum, actual })
}

/// Collects rules and their terms.
struct Reader<'a> {
    lists: BTreeMap<&'a str, Vec<Needle>>,
    used: BTreeSet<String>,
    names: BTreeSet<RuleId>,
    needles: BTreeMap<Needle, Vec<(usize, Role)>>,
    count: usize,
    slots: usize,
    terms: Vec<RuleTerms>,
    rules: Vec<RuleSummary>,
}

impl<'a> Reader<'a> {
    fn new(written: &'a BTreeMap<String, Vec<String>>) -> Result<Self, PolicyError> {
        let mut lists = BTreeMap::new();
        for (name, terms) in written {
            let refuse = |problem: String| PolicyError::List { list: name.clone(), problem };
            RuleId::read(name).ok_or_else(|| PolicyError::Name(name.clone()))?;
            let mut needles = Vec::with_capacity(terms.len());
            for term in terms {
                match Term::read(term).map_err(refuse)? {
                    Term::Needle(needle) => needles.push(needle),
                    Term::List(_) => return Err(refuse("it names a list; only rules may".to_owned())),
                }
            }
            if needles.is_empty() {
                return Err(refuse("it is empty".to_owned()));
            }
            lists.insert(name.as_str(), needles);
        }
        Ok(Self {
            lists,
            used: BTreeSet::new(),
            names: BTreeSet::new(),
            needles: BTreeMap::new(),
            count: 0,
            slots: 0,
            terms: Vec::new(),
            rules: Vec::new(),
        })
    }

    fn rule(&mut self, written: RuleFile) -> Result<(), PolicyError> {
        let RuleFile { id, about, on: part, action, any, all, within, times, unless, hidden } = written;
        let id = RuleId::read(&id).ok_or(PolicyError::Name(id))?;
        if !self.names.insert(id.clone()) {
            return Err(PolicyError::Twice(id.to_string()));
        }
        let refuse =
            |problem: &str| Err(PolicyError::Rule { rule: id.to_string(), problem: problem.to_owned() });
        match (action, any.is_empty(), all.len()) {
            (Action::Allow, ..) => return refuse("its action is allow; expected flag, refuse or end"),
            (_, true, 0) => return refuse("it has no term; give at least one in `any`, or two in `all`"),
            (_, false, 1..) => return refuse("it has `any` and `all`; make two rules, or a list for `all`"),
            (_, true, 1) => return refuse("`all` has one term; use `any`"),
            (_, true, count) if count > MAX_SLOTS => return refuse("`all` has more than 8 terms"),
            _ => {}
        }
        if within.is_some() && all.is_empty() {
            return refuse("`within` is for the terms of `all`");
        }
        if times.is_some() && any.is_empty() {
            return refuse("`times` is for the terms of `any`");
        }
        let place = format!("rule {id}");
        let within = within.map_or(Ok(u64::MAX), |within| number(&place, "within", within, 1, MAX_WITHIN))?;
        let times = times.map_or(Ok(1), |times| number(&place, "times", times, 2, MAX_TIMES))?;
        let slots = self.slots..self.slots + all.len();
        self.slots = slots.end;
        let before = self.count;
        for term in &any {
            self.term(&id, term, Role::Any)?;
        }
        for (slot, term) in slots.clone().zip(&all) {
            self.term(&id, term, Role::All(slot))?;
        }
        for term in &unless {
            self.term(&id, term, Role::Unless)?;
        }
        self.terms.push(RuleTerms {
            part,
            action,
            slots,
            within,
            times: u32::try_from(times).unwrap_or(u32::MAX),
            excusable: !unless.is_empty(),
            hidden,
        });
        self.rules.push(RuleSummary { id, about, part, action, terms: self.count - before });
        Ok(())
    }

    fn classifiers(&mut self, written: Vec<ClassifierFile>) -> Result<Vec<Attached>, PolicyError> {
        let actual = written.len();
        if actual > MAX_CLASSIFIERS {
            return Err(PolicyError::TooMany { what: "classifiers", maximum: MAX_CLASSIFIERS, actual });
        }
        let mut read = Vec::with_capacity(actual);
        for classifier in written {
            let attached = Attached::read(classifier)?;
            if !self.names.insert(attached.summary.id.clone()) {
                return Err(PolicyError::Twice(attached.summary.id.to_string()));
            }
            read.push(attached);
        }
        Ok(read)
    }

    fn term(&mut self, rule: &RuleId, written: &str, role: Role) -> Result<(), PolicyError> {
        let refuse = |problem: String| PolicyError::Rule { rule: rule.to_string(), problem };
        let needles = match Term::read(written).map_err(refuse)? {
            Term::Needle(needle) => vec![needle],
            Term::List(name) => {
                self.used.insert(name.to_owned());
                self.lists.get(name).ok_or_else(|| refuse(format!("there is no list {name:?}")))?.clone()
            }
        };
        self.count += needles.len();
        if self.count > MAX_TERMS {
            return Err(PolicyError::TooMany { what: "terms", maximum: MAX_TERMS, actual: self.count });
        }
        for needle in needles {
            self.needles.entry(needle).or_default().push((self.rules.len(), role));
        }
        Ok(())
    }

    /// A list that no rule names is a mistake: what it lists is not looked for.
    fn all_lists_are_used(&self) -> Result<(), PolicyError> {
        match self.lists.keys().find(|name| !self.used.contains(**name)) {
            Some(name) => {
                Err(PolicyError::List { list: (*name).to_owned(), problem: "no rule names it".to_owned() })
            }
            None => Ok(()),
        }
    }
}
