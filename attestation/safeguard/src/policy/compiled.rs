//! The automata of a policy, which all exchanges share.

use std::collections::BTreeMap;
use std::ops::Range;

use aho_corasick::automaton::Automaton as _;
use aho_corasick::nfa::contiguous::NFA;
use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::util::syntax;
use regex_automata::{Anchored, MatchKind};

use super::PolicyError;
use super::term::Needle;
use crate::reading::{LONGEST_TIGHT_BYTES, lookalike, rotate};
use crate::{Action, Part};

/// The most different expressions of a policy. Each is a step for each byte of text.
pub const MAX_EXPRESSIONS: usize = 64;
/// The most memory that one compiled expression may take, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 1 << 20;
/// The most bytes of all different literals of a policy together.
pub const MAX_LITERAL_BYTES: usize = 128 * 1024;

/// Literals are looked for with letters replaced by those that they look like, if they have so many letters.
const SHORTEST_LOOKALIKE: usize = 4;
/// Literals are looked for backwards and with letters rotated by 13 places, if they have so many letters.
const SHORTEST_TURNED: usize = 6;
/// Literals are looked for without gaps between letters, if they have so many letters.
const SHORTEST_TIGHT: usize = 6;

/// How a term was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// As it is written.
    Plain,
    /// With other characters for its letters, or with gaps within its words.
    Changed,
    /// Backwards, or with rotated letters.
    Turned,
}

/// What a term is to a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// It suffices.
    Any,
    /// It fills this slot.
    All(usize),
    /// It excuses a match.
    Unless,
}

/// A rule as the judge needs it.
pub(crate) struct RuleTerms {
    pub(crate) part: Part,
    pub(crate) action: Action,
    /// Its slots among all slots of the policy.
    pub(crate) slots: Range<usize>,
    /// The most letters and digits from the end of the first term to the end of the last one.
    pub(crate) within: u64,
    pub(crate) times: u32,
    /// Whether it has terms that excuse.
    pub(crate) excusable: bool,
    /// Whether only terms count that were encoded, backwards, or rotated.
    pub(crate) hidden: bool,
}

/// An automaton of literals.
pub(crate) struct Literals {
    pub(crate) automaton: NFA,
    /// For each pattern, the number of its term.
    pub(crate) patterns: Vec<(usize, Sight)>,
}

/// The ends of a literal without gaps.
pub(crate) struct TightEdges {
    pub(crate) bytes: usize,
    pub(crate) open_start: bool,
    pub(crate) open_end: bool,
}

/// An expression.
pub(crate) struct Expression {
    pub(crate) automaton: dense::DFA<Vec<u32>>,
    pub(crate) start: StateID,
    pub(crate) needle: usize,
}

/// Everything that is looked for.
pub(crate) struct Compiled {
    pub(crate) words: Literals,
    pub(crate) lookalikes: Literals,
    pub(crate) tight: Literals,
    pub(crate) tight_edges: Vec<TightEdges>,
    pub(crate) expressions: Vec<Expression>,
    /// For each term, the rules that look for it.
    pub(crate) uses: Vec<Vec<(usize, Role)>>,
    pub(crate) rules: Vec<RuleTerms>,
    /// The number of slots of all rules.
    pub(crate) slots: usize,
}

impl Compiled {
    pub(super) fn new(
        needles: BTreeMap<Needle, Vec<(usize, Role)>>,
        rules: Vec<RuleTerms>,
    ) -> Result<Self, PolicyError> {
        let mut patterns = Patterns::default();
        let mut expressions = Vec::new();
        let mut uses = Vec::with_capacity(needles.len());
        for (needle, users) in needles {
            let number = uses.len();
            match needle {
                Needle::Literal { words, open_start, open_end } => {
                    patterns.add(number, &words, open_start, open_end);
                }
                Needle::Expression(written) => {
                    if expressions.len() == MAX_EXPRESSIONS {
                        let actual = MAX_EXPRESSIONS + 1;
                        return Err(PolicyError::TooMany {
                            what: "expressions",
                            maximum: MAX_EXPRESSIONS,
                            actual,
                        });
                    }
                    expressions.push(compile_expression(&written, number)?);
                }
            }
            uses.push(users);
        }
        let slots = rules.last().map_or(0, |rule| rule.slots.end);
        let Patterns { literal_bytes, words, lookalikes, tight, tight_edges } = patterns;
        if literal_bytes > MAX_LITERAL_BYTES {
            let what = "bytes of literals";
            return Err(PolicyError::TooMany { what, maximum: MAX_LITERAL_BYTES, actual: literal_bytes });
        }
        Ok(Self {
            words: compile_literals(words)?,
            lookalikes: compile_literals(lookalikes)?,
            tight: compile_literals(tight)?,
            tight_edges,
            expressions,
            uses,
            rules,
            slots,
        })
    }

    /// The bytes of memory of the automata.
    pub(super) fn memory_bytes(&self) -> usize {
        let literals = [&self.words, &self.lookalikes, &self.tight];
        literals.iter().map(|literals| literals.automaton.memory_usage()).sum::<usize>()
            + self.expressions.iter().map(|expression| expression.automaton.memory_usage()).sum::<usize>()
    }
}

/// The spellings of all literals.
#[derive(Default)]
struct Patterns {
    literal_bytes: usize,
    words: Vec<(String, usize, Sight)>,
    lookalikes: Vec<(String, usize, Sight)>,
    tight: Vec<(String, usize, Sight)>,
    tight_edges: Vec<TightEdges>,
}

impl Patterns {
    fn add(&mut self, needle: usize, words: &str, open_start: bool, open_end: bool) {
        let letters = words.chars().filter(|character| *character != ' ').count();
        self.literal_bytes = self.literal_bytes.saturating_add(words.len());
        self.words.push((padded(words, open_start, open_end), needle, Sight::Plain));
        if letters >= SHORTEST_TURNED {
            let backwards: String = words.chars().rev().collect();
            self.words.push((padded(&backwards, open_end, open_start), needle, Sight::Turned));
            if words.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b' ') {
                let rotated: String = words.chars().map(rotate).collect();
                self.words.push((padded(&rotated, open_start, open_end), needle, Sight::Turned));
            }
        }
        let alike: String = words.chars().map(lookalike).collect();
        if letters >= SHORTEST_LOOKALIKE {
            self.lookalikes.push((padded(&alike, open_start, open_end), needle, Sight::Changed));
        }
        let tight: String = alike.chars().filter(|character| *character != ' ').collect();
        if letters >= SHORTEST_TIGHT && tight.len() < LONGEST_TIGHT_BYTES {
            self.tight_edges.push(TightEdges { bytes: tight.len(), open_start, open_end });
            self.tight.push((tight, needle, Sight::Changed));
        }
    }
}

/// A literal with a space at each end where its word ends.
fn padded(words: &str, open_start: bool, open_end: bool) -> String {
    let edge = |open: bool| if open { "" } else { " " };
    format!("{}{words}{}", edge(open_start), edge(open_end))
}

fn compile_literals(listed: Vec<(String, usize, Sight)>) -> Result<Literals, PolicyError> {
    let automaton = NFA::new(listed.iter().map(|(literal, ..)| literal))
        .map_err(|error| PolicyError::Compile(error.to_string()))?;
    let patterns = listed.into_iter().map(|(_, needle, sight)| (needle, sight)).collect();
    Ok(Literals { automaton, patterns })
}

fn compile_expression(written: &str, needle: usize) -> Result<Expression, PolicyError> {
    let refuse = |problem: String| PolicyError::Expression { expression: written.to_owned(), problem };
    // Text is read as ASCII and other bytes: the text's own letters are folded before.
    let syntax = syntax::Config::new().unicode(false).utf8(false).case_insensitive(true).nest_limit(32);
    let parsed = syntax::parse_with(written, &syntax).map_err(|error| refuse(error.to_string()))?;
    let properties = parsed.properties();
    if properties.minimum_len().is_none_or(|length| length < 2) {
        return Err(refuse("it matches less than two characters".to_owned()));
    }
    if properties.look_set().contains_anchor() {
        return Err(refuse(
            "text comes as a stream, so there is no `^` or `$`; `\\n` stands before the first character and at line ends"
                .to_owned(),
        ));
    }
    let automaton = dense::Builder::new()
        .syntax(syntax)
        .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(MAX_EXPRESSION_BYTES)))
        .configure(
            dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Unanchored)
                .dfa_size_limit(Some(MAX_EXPRESSION_BYTES))
                .determinize_size_limit(Some(4 * MAX_EXPRESSION_BYTES)),
        )
        .build(written)
        .map_err(|error| {
            refuse(format!(
                "it does not compile into {MAX_EXPRESSION_BYTES} bytes ({error}); use fewer repetitions, or `all` with \
                 `within` for terms that stand apart"
            ))
        })?;
    let start = automaton
        .start_state(&start::Config::new().anchored(Anchored::No))
        .map_err(|error| refuse(error.to_string()))?;
    Ok(Expression { automaton, start, needle })
}
