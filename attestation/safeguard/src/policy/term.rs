//! A term of a rule: a literal, an expression, or a list of them.

use crate::reading::{fold_text, words_of};

/// The longest term, in bytes.
pub const MAX_TERM_BYTES: usize = 256;
/// The fewest characters of a literal, as it is read.
const SHORTEST_LITERAL: usize = 2;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Needle {
    /// Words, as the stream of words reads them.
    Literal {
        /// The words, with one space between them.
        words: String,
        /// Whether the first word may begin earlier.
        open_start: bool,
        /// Whether the last word may go on.
        open_end: bool,
    },
    /// A regular expression.
    Expression(String),
}

/// A term as it is written.
pub(super) enum Term<'a> {
    List(&'a str),
    Needle(Needle),
}

impl<'a> Term<'a> {
    /// Reads a term. The error says what is wrong and what to do.
    pub(super) fn read(written: &'a str) -> Result<Self, String> {
        if written.is_empty() || written.len() > MAX_TERM_BYTES {
            return Err(format!("a term has {} bytes; expected 1 to {MAX_TERM_BYTES}", written.len()));
        }
        if let Some(list) = written.strip_prefix('@') {
            return Ok(Self::List(list));
        }
        if let Some(expression) = written.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            if !expression.is_ascii() {
                return Err(format!(
                    "the expression /{expression}/ is not ASCII; write other letters as literals, which are read like \
                     the text"
                ));
            }
            return Ok(Self::Needle(Needle::Expression(expression.to_owned())));
        }
        let (open_start, rest) = written.strip_prefix('*').map_or((false, written), |rest| (true, rest));
        let (open_end, rest) = rest.strip_suffix('*').map_or((false, rest), |rest| (true, rest));
        let folded = fold_text(rest);
        let words = words_of(&folded);
        if words.chars().filter(|character| *character != ' ').count() < SHORTEST_LITERAL {
            return Err(format!(
                "the literal {written:?} is read as {words:?}; expected at least {SHORTEST_LITERAL} letters or digits. \
                 Write an expression, /…/, for punctuation"
            ));
        }
        if rest.contains('*') {
            return Err(format!("the literal {written:?} has a `*` inside; it may only stand at an end"));
        }
        Ok(Self::Needle(Needle::Literal { words, open_start, open_end }))
    }
}
