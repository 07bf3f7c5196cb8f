//! Prompts, and the reasons to refuse one.

use crate::scratch::Scratch;

/// Why a prompt could not be made. Never carries any of the prompt's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The model file has no chat template.
    #[error("the model has no chat template; send text instead of messages")]
    NoTemplate,
    /// The model file has a chat template that does not parse; see
    /// [`Model::chat_template`](crate::Model::chat_template).
    #[error("the model's chat template cannot be used; send text instead of messages")]
    UnusableTemplate,
    /// A role other than `system`, `developer`, `user`, `assistant` and `tool`.
    #[error("expected the role system, developer, user, assistant or tool")]
    Role,
    /// The model's chat template refused the messages (for example their order) or used too much work or
    /// output.
    #[error("the model's chat template does not accept these messages: {0}")]
    Template(&'static str),
    /// A tool whose parameters are no JSON object.
    #[error("expected the parameters of a tool as a JSON object")]
    Tool,
    /// Variables for the template that are no JSON object, or that have a name which the template knows already.
    #[error("expected variables for the template as a JSON object, with no name that templates know already")]
    Variables,
    /// More text than any context of this model can hold; not tokenised at all.
    #[error("the text has {bytes} bytes, but at most {limit} can fit into the context")]
    TooLong {
        /// Bytes given.
        bytes: usize,
        /// Most bytes accepted.
        limit: usize,
    },
    /// A token that the model does not have.
    #[error("expected tokens below {vocabulary}")]
    Token {
        /// How many tokens the model has.
        vocabulary: usize,
    },
}

/// The tokens of a prompt, erased on drop.
#[derive(Clone)]
pub struct Prompt {
    tokens: Scratch<u32>,
}

impl Prompt {
    pub(crate) fn new(tokens: Scratch<u32>) -> Self {
        Self { tokens }
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn into_tokens(self) -> Scratch<u32> {
        self.tokens
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
