//! The scores behind the answers: for measuring a model, and for comparing this engine with others.

use std::{io, num::NonZeroUsize};

use zeroize::Zeroizing;

use crate::{
    cache::{Cache, PAGE},
    clock::Moment,
    forward::{Forward, Row},
    model::Model,
    pool::Pool,
    scratch::Scratch,
};

/// Tokens computed in one step.
const STEP: usize = 128;

/// Computes the scores (logits) of sequences that grow token by token. An engine serves requests; this serves
/// measurements.
pub struct Evaluator<'m> {
    model: &'m Model,
    forward: Forward,
    cache: Cache,
    /// Tokens of each sequence so far.
    lengths: Vec<usize>,
    scores: Scratch<f32>,
}

/// One token of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluatedToken {
    /// Number of the sequence, from 0.
    pub sequence: usize,
    /// The token.
    pub token: u32,
    /// Whether the scores of the token after it are wanted.
    pub scored: bool,
}

/// Why tokens cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The operating system refused a thread.
    #[error("cannot start the threads")]
    Threads(#[from] io::Error),
    /// A sequence number out of range.
    #[error("there are {sequences} sequences, got number {found}")]
    Sequence {
        /// What was given.
        found: usize,
        /// How many there are.
        sequences: usize,
    },
    /// A token that the model does not have.
    #[error("the vocabulary has {vocabulary} tokens, got {found}")]
    Token {
        /// What was given.
        found: u32,
        /// How many there are.
        vocabulary: usize,
    },
    /// A sequence longer than the model's context.
    #[error("the context is {limit} tokens long")]
    Context {
        /// The model's context.
        limit: usize,
    },
}

impl<'m> Evaluator<'m> {
    /// Capacity for `sequences` sequences of the model's context length.
    ///
    /// # Errors
    /// [`EvaluateError::Threads`].
    pub fn new(
        model: &'m Model,
        threads: NonZeroUsize,
        sequences: NonZeroUsize,
    ) -> Result<Self, EvaluateError> {
        let pool = Pool::new(threads)?;
        Ok(Self {
            model,
            forward: Forward::new(model, pool, STEP, STEP),
            cache: Cache::new(
                model.shape(),
                sequences.get(),
                sequences.get() * model.shape().context.div_ceil(PAGE),
            ),
            lengths: vec![0; sequences.get()],
            scores: Scratch::filled(model.tokenizer().len()),
        })
    }

    /// Appends tokens to their sequences and calls `each` with the index of every scored token and its
    /// scores.
    ///
    /// # Errors
    /// [`EvaluateError`]; sequences then keep what was appended before.
    pub fn append(
        &mut self,
        tokens: &[EvaluatedToken],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(), EvaluateError> {
        for (step, tokens) in tokens.chunks(STEP).enumerate() {
            let rows = tokens.iter().map(|token| self.row(*token)).collect::<Result<Scratch<_>, _>>()?;
            // Nothing stops it.
            let _ = self.forward.step(self.model, &mut self.cache, &rows, || true);
            let scored = rows.iter().enumerate().filter(|(_, row)| row.scored);
            for (order, (index, _)) in scored.enumerate() {
                self.forward.scores(order, &mut self.scores);
                each(step * STEP + index, &self.scores);
            }
        }
        Ok(())
    }

    /// Empties a sequence; one that is not there is empty already.
    pub fn clear(&mut self, sequence: usize) {
        if let Some(length) = self.lengths.get_mut(sequence) {
            self.cache.release(sequence, Moment::ZERO);
            *length = 0;
        }
    }

    fn row(
        &mut self,
        EvaluatedToken { sequence, token, scored }: EvaluatedToken,
    ) -> Result<Row, EvaluateError> {
        let (sequences, vocabulary) = (self.lengths.len(), self.scores.len());
        let length =
            self.lengths.get_mut(sequence).ok_or(EvaluateError::Sequence { found: sequence, sequences })?;
        if token as usize >= vocabulary {
            return Err(EvaluateError::Token { found: token, vocabulary });
        }
        let limit = self.model.shape().context;
        if *length >= limit || self.cache.extend(sequence, *length + 1).is_err() {
            return Err(EvaluateError::Context { limit });
        }
        *length += 1;
        Ok(Row { sequence, position: *length - 1, token, scored })
    }
}

impl Model {
    /// The tokens of plain text, without any that a prompt begins with. Control tokens written in it stay
    /// text.
    pub fn tokens_of_text(&self, text: &str) -> Zeroizing<Vec<u32>> {
        let mut tokens = Scratch::new();
        self.tokenizer().encode_text(text, &mut tokens);
        Zeroizing::new(tokens.to_vec())
    }
}
