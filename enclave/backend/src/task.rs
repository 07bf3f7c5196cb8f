//! The task that a request gives to a backend.

use std::num::NonZeroU8;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::secret::SecretString;

/// Most alternatives that are told for one token.
pub const MAX_TOP_LOGPROBS: u8 = 20;

/// Whom a request is for. A backend only tells equal owners from different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owner(pub [u8; 32]);

/// One request.
pub struct Task {
    /// Whose share of the backend the request takes.
    pub owner: Owner,
    /// How large that share is: an owner with 2 gets twice the sequences and tokens of an owner with 1, when both want more
    /// than there are.
    pub share: NonZeroU8,
    /// The prompt.
    pub input: Input,
    /// Whether an answer or an embedding is wanted.
    pub output: Output,
    /// The longest time from the start to the end of the answer.
    pub time: Duration,
}

/// A prompt.
pub enum Input {
    /// A conversation, for the model's chat template.
    Chat(Conversation),
    /// Text to continue.
    Text(SecretString),
    /// Tokens to continue.
    Tokens(Zeroizing<Vec<u32>>),
}

/// A conversation, and what its next turn may be.
#[derive(Default)]
pub struct Conversation {
    /// At least one.
    pub messages: Vec<Message>,
    /// The tools that the model is told of.
    pub tools: Vec<Tool>,
    /// Whether it calls one.
    pub choice: ToolChoice,
    /// Whether it may call several at once.
    pub parallel: bool,
    /// Whether the model is to think first, where its template can tell it. `None` leaves it to the template.
    pub thinks: Option<bool>,
    /// How much it is to think, where its template can tell it.
    pub effort: Option<&'static str>,
    /// More variables for the model's template: a JSON object.
    pub variables: Option<SecretString>,
}

/// One message of a conversation.
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    /// The text. Control tokens that are written in it stay text.
    pub content: SecretString,
    /// Who speaks, among several of one role.
    pub name: Option<SecretString>,
    /// What the assistant thought before it spoke.
    pub reasoning: Option<SecretString>,
    /// The tools that the assistant called.
    pub calls: Vec<ToolCall>,
    /// The id of the call that a tool's message answers.
    pub answers: Option<SecretString>,
}

impl Message {
    /// A message that is nothing but text.
    #[must_use]
    pub const fn new(role: &'static str, content: SecretString) -> Self {
        Self { role, content, name: None, reasoning: None, calls: Vec::new(), answers: None }
    }
}

/// A call of a tool.
pub struct ToolCall {
    /// What the tool's answer refers to.
    pub id: SecretString,
    /// The tool.
    pub name: SecretString,
    /// JSON, usually an object.
    pub arguments: SecretString,
}

/// A tool that a model may call.
pub struct Tool {
    /// 1 to 64 letters, digits, `_` and `-`.
    pub name: SecretString,
    /// What it is for.
    pub description: Option<SecretString>,
    /// The JSON Schema of its arguments; `None` for any object.
    pub parameters: Option<SecretString>,
    /// Whether a schema that the backend does not understand is an error. Otherwise arguments are any object then.
    pub strict: bool,
}

/// Whether a model calls a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// It does not.
    None,
    /// It must.
    Required,
    /// It must, and this one: an index into the tools.
    Named(usize),
}

/// What is wanted.
pub enum Output {
    /// An answer.
    Answer {
        /// Most tokens to generate. `None` runs to the end of the context.
        max_tokens: Option<u32>,
        /// How the next token is chosen.
        sampling: Sampling,
        /// Added to the scores of these tokens before anything else.
        bias: Bias,
        /// The form that the answer must have.
        form: Form,
        /// Whether tokens come with their probabilities, and with how many likelier tokens: at most [`MAX_TOP_LOGPROBS`].
        logprobs: Option<u8>,
        /// Texts that end the answer and are never emitted. At most four.
        stop: Vec<SecretString>,
    },
    /// The embedding of the prompt.
    Embedding,
}

/// Token ids, and numbers from -100 to 100. Erased on drop, because a list of tokens can tell what an answer is about.
pub type Bias = Zeroizing<Vec<(u32, f32)>>;

/// The form that an answer must have.
#[derive(Clone)]
pub enum Form {
    /// Any text.
    Text,
    /// One JSON object.
    JsonObject,
    /// JSON that is valid for this JSON Schema.
    JsonSchema(SecretString),
}

/// How the next token is chosen. Whoever makes one keeps each value in its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 (always the most likely token) to 2.
    pub temperature: f32,
    /// Only the most likely tokens that have this much probability together: above 0, at most 1.
    pub top_p: f32,
    /// Only this many of the most likely tokens. 0 is no limit.
    pub top_k: u32,
    /// Only tokens that are at least this part as likely as the most likely one: 0 to 1.
    pub min_p: f32,
    /// Lowers the score of each token that the answer has already, once: -2 to 2.
    pub presence: f32,
    /// Lowers the score of each token that the answer has already, for each time: -2 to 2.
    pub frequency: f32,
    /// The same seed gives the same answer.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, presence: 0.0, frequency: 0.0, seed: 0 };
}
