//! Answers of a stated form: JSON, or the JSON that a schema describes.
//!
//! A schema comes from a stranger and runs on the thread that all share. Three things follow. Another thread
//! compiles it, into a [`Grammar`] with a bounded number of states. [`walker`] finds the permitted tokens in
//! bounded time and memory. No text makes this code panic.
//!
//! `llguidance` was weighed for this. It understands more of JSON Schema (several `allOf`, `not`,
//! `patternProperties`). With its two companions it has 25 000 lines. It relies on `catch_unwind` behind its
//! 450 assertions; this program aborts on panic, so any partner could halt the enclave. It prints warnings
//! about its input. It would change the order of `serde_json`'s objects in the whole program.

#![deny(clippy::indexing_slicing)]

mod calls;
mod grammar;
pub(crate) mod json;
mod matcher;
mod numbers;
mod pattern;
mod schema;
#[cfg(test)]
mod tests;
mod tokens;
mod walker;

use std::sync::Arc;

pub use calls::{CallableTool, CallsWanted};
use grammar::Grammar;
pub use matcher::Matcher;
use matcher::Waiting;
pub(crate) use tokens::TokenTable;
use zeroize::Zeroizing;

use crate::forms::CallForm;

/// The form that an answer must have. Cheap to clone, and erased with the last clone.
#[derive(Clone)]
pub struct Constraint {
    grammar: Arc<Grammar>,
    tokens: Arc<TokenTable>,
    /// What the form follows, if any text may come before it.
    waiting: Option<Waiting>,
}

/// Why a schema cannot shape an answer. Never repeats any of it but the names of JSON Schema's own keywords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Not JSON, nested too deeply, or with a repeated member.
    #[error("expected JSON of at most 127 levels, and every member once")]
    Json,
    /// Too long to be read.
    #[error("the schema has {bytes} bytes, more than {limit}")]
    TooLong {
        /// Bytes given.
        bytes: usize,
        /// Most bytes accepted.
        limit: usize,
    },
    /// Too large once it is compiled: long texts, many properties, high counts.
    #[error("the schema describes too much: fewer properties or values, or lower maxItems and maxLength")]
    TooLarge,
    /// Not a schema.
    #[error("expected a schema: an object, or true")]
    NoSchema,
    /// An unsupported keyword.
    #[error("the keyword {0} is not supported")]
    Keyword(&'static str),
    /// A supported keyword in an unsupported position.
    #[error("the keyword {0} is not supported beside the others or for this type")]
    Misplaced(&'static str),
    /// A keyword with a value that it cannot have.
    #[error("the keyword {0} expects {1}")]
    Value(&'static str, &'static str),
    /// A reference to nothing.
    #[error(
        "the keyword $ref expects \"#\", or a name under \"#/$defs/\" or \"#/definitions/\" that is there"
    )]
    Reference,
    /// No finite text is valid.
    #[error("the schema allows no finite value with fewer than 48 levels")]
    Endless,
}

impl Constraint {
    /// Answers that are JSON objects.
    pub(crate) fn objects(tokens: Arc<TokenTable>) -> Result<Self, SchemaError> {
        Ok(Self { grammar: Arc::new(schema::any_object()?), tokens, waiting: None })
    }

    /// Answers that are valid for a JSON Schema.
    pub(crate) fn of_schema(schema: &str, tokens: Arc<TokenTable>) -> Result<Self, SchemaError> {
        Ok(Self { grammar: Arc::new(schema::compile(schema)?), tokens, waiting: None })
    }

    /// Answers that are calls of tools, or any text in which calls have their form. The error comes with the index of the
    /// tool whose schema is at fault.
    pub(crate) fn calls(
        form: CallForm,
        wanted: &CallsWanted<'_>,
        tokens: Arc<TokenTable>,
    ) -> Result<Self, (usize, SchemaError)> {
        let may_speak = !wanted.must && wanted.otherwise.is_none();
        let grammar = calls::compile(form, wanted, may_speak)?;
        let waiting = may_speak.then(|| Waiting {
            marker: calls::marker(form),
            at_start: form == CallForm::Llama,
            may_end: true,
        });
        Ok(Self { grammar: Arc::new(grammar), tokens, waiting })
    }

    /// The same form in answers that show marks.
    pub(crate) fn with_tokens(self, tokens: Arc<TokenTable>) -> Self {
        Self { tokens, ..self }
    }

    /// The same form after the first `marker`, before which any text comes.
    #[must_use]
    pub(crate) fn after(self, marker: &'static str) -> Self {
        // What may come anywhere may come there.
        match self.waiting {
            Some(_) => self,
            None => Self { waiting: Some(Waiting { marker, at_start: false, may_end: false }), ..self },
        }
    }

    /// Follows one answer from its beginning.
    #[must_use]
    pub fn matcher(&self) -> Matcher {
        Matcher::new(Arc::clone(&self.grammar), Arc::clone(&self.tokens), self.waiting)
    }
}

/// How a random answer went.
pub enum RandomAnswer {
    /// It ended by itself; its bytes.
    Ended(Zeroizing<Vec<u8>>),
    /// It had no end yet.
    CutOff,
}
