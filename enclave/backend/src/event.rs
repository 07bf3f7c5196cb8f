//! The events of a backend.

use std::ops::ControlFlow;

use zeroize::Zeroizing;

/// Receives one answer. Both methods are called on the backend's own thread, so they must not block.
pub trait Sink: Send {
    /// Permits the next token before any of it is emitted. `Break` cancels the answer, and the token is dropped.
    fn token(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Takes one event. `Break` cancels the answer. A sink that is dropped without [`Event::Finished`] belongs to an answer
    /// that was cancelled, or to a backend that has stopped.
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()>;
}

/// What happens to an answer.
pub enum Event<'a> {
    /// The next piece of text.
    Text(Piece<'a>),
    /// More of what the model thinks before it speaks.
    Reasoning(&'a str),
    /// A call of the tool with this name begins.
    Call(&'a str),
    /// More of the last call's arguments, which are JSON.
    Arguments(&'a str),
    /// The embedding, of a request that asked for it.
    Embedding(&'a [f32]),
    /// The answer is complete. Nothing follows.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
}

/// A piece of an answer: whole characters, and the probabilities of the tokens that ended in it.
pub struct Piece<'a> {
    /// The text.
    pub text: &'a str,
    /// Empty unless the request asked for probabilities.
    pub tokens: &'a [ScoredToken],
}

/// One token of an answer, and what else could have stood there.
#[derive(Clone)]
pub struct ScoredToken {
    /// The token that was chosen.
    pub chosen: TokenScore,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<TokenScore>,
}

/// A token, and the natural logarithm of its probability in the model's own distribution: before temperature, penalties,
/// biases, constraints and limits.
#[derive(Clone)]
pub struct TokenScore {
    bytes: Zeroizing<Vec<u8>>,
    is_text: bool,
    logprob: f32,
}

impl TokenScore {
    /// A token that stands for `bytes`. `is_text` says whether the bytes would stand in an answer.
    #[must_use]
    pub fn new(bytes: &[u8], is_text: bool, logprob: f32) -> Self {
        Self { bytes: Zeroizing::new(bytes.to_vec()), is_text, logprob }
    }

    /// The bytes that the token stands for, which need not be whole characters. For a control token, its name.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether these bytes would stand in the answer.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        self.is_text
    }

    /// At most 0; minus infinity, or not a number, if the model's scores are not numbers.
    #[must_use]
    pub const fn logprob(&self) -> f32 {
        self.logprob
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn.
    Stop,
    /// The stop string with this index came.
    StopString(usize),
    /// The limit of tokens, or the end of the context.
    Length,
    /// The request's time was over before the answer was complete or had begun.
    Deadline,
}

/// Tokens of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many of these were not computed, because an earlier prompt of the same owner began with them.
    pub cached_tokens: u32,
    /// Tokens that were generated. The token that ended the turn is not counted.
    pub completion_tokens: u32,
}
