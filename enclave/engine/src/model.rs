//! A model in memory and the prompts made for it.

use zeroize::Zeroizing;

/// What a model file says of itself.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `general.architecture`, always `llama` for now.
    pub architecture: String,
    /// `general.name`, empty when the file has none.
    pub name: String,
    /// Number of weights.
    pub parameters: u64,
    /// Most tokens of prompt and answer together.
    pub context_length: u32,
    /// Number of tokens in the vocabulary.
    pub vocabulary: u32,
    /// How the matrices are stored, e.g. `Q8_0`; several are joined with `+`.
    pub weights: String,
}

/// Why a file is not a model this engine runs.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file ends early.
    #[error("the file is cut short")]
    Truncated,
}

/// Why a prompt could not be made. Never carries any of the prompt's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The model file has no chat template.
    #[error("the model has no chat template; send text instead of messages")]
    NoTemplate,
    /// A role other than `system`, `developer`, `user`, `assistant` and `tool`.
    #[error("expected the role system, developer, user, assistant or tool")]
    Role,
    /// The model's chat template refused the messages (for example their order) or used too much work or output.
    #[error("the model's chat template does not accept these messages: {0}")]
    Template(&'static str),
    /// More text than any context of this model can hold; not tokenised at all.
    #[error("the text has {bytes} bytes, more than {limit} can never fit into the context")]
    TooLong {
        /// Bytes given.
        bytes: usize,
        /// Most bytes accepted.
        limit: usize,
    },
}

/// One message of a chat.
#[derive(Clone, Copy)]
pub struct ChatMessage<'a> {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: &'a str,
    /// The text. Control tokens written in it stay text.
    pub content: &'a str,
}

/// The tokens of a prompt, zeroised on drop.
pub struct Prompt {
    tokens: Zeroizing<Vec<u32>>,
}

impl Prompt {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// A model: immutable, shared by everything that runs it.
pub struct Model {
    facts: Facts,
}

impl Model {
    /// Reads a GGUF file. The weights are copied into the kernels' layout, so `bytes` may be dropped afterwards.
    ///
    /// # Errors
    /// [`ModelError`] names what was expected and what came.
    pub fn from_gguf(_bytes: &[u8]) -> Result<Model, ModelError> {
        Err(ModelError::Truncated)
    }

    /// What the file says of itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Applies the model's chat template and asks for the assistant's turn.
    ///
    /// # Errors
    /// [`PromptError`], never with any of the text.
    pub fn prompt_from_chat(&self, _messages: &[ChatMessage<'_>]) -> Result<Prompt, PromptError> {
        Err(PromptError::NoTemplate)
    }

    /// Tokenises plain text. Control tokens written in it stay text.
    ///
    /// # Errors
    /// [`PromptError`], never with any of the text.
    pub fn prompt_from_text(&self, _text: &str) -> Result<Prompt, PromptError> {
        Err(PromptError::NoTemplate)
    }
}
