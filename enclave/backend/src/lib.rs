//! The door between the API and whatever runs a model.
//!
//! Messages and parameters go in. Pieces of text, token counts, probabilities and a finish reason come out. The API knows
//! nothing else of an engine, so another engine can stand behind the same door.
//!
//! ```text
//! API ── Task ──► Backend::prepare ──► Prepared (how many tokens?) ── Prepared::start ──► Sink::token, Sink::event …
//! ```
//!
//! A request is prepared first and started afterwards, because release control counts the tokens of a prompt before
//! the prompt is read. A backend asks the [`Sink`] before every token, and ends the answer when the sink says so.
//!
//! Types that hold a prompt or an answer have neither `Debug` nor `Display`, and erase themselves.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod clock;
mod engine;
mod event;
mod secret;
mod task;

use std::any::Any;
use std::error::Error;
use std::future::Future;
use std::io::Read;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use self::clock::Clock;
pub use self::engine::{EngineFacts, Flavour};
pub use self::event::{Event, FinishReason, Piece, ScoredToken, Sink, TokenScore, Usage};
pub use self::secret::SecretString;
pub use self::task::{
    Bias, Conversation, Form, Input, MAX_TOP_LOGPROBS, Message, Output, Owner, Sampling, Task, Tool,
    ToolCall, ToolChoice,
};

/// A future that a trait object can return.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs one model for many requests at once.
pub trait Backend: Send + Sync + 'static {
    /// What the model can be asked for.
    fn abilities(&self) -> Abilities;

    /// Reads a request as far as its tokens can be counted: the template, the tokenizer, the form of the answer. This can
    /// take as long as a prompt is long, and must not block the caller's runtime.
    fn prepare(&self, task: Task) -> Pending<'_, Result<Box<dyn Prepared>, PrepareError>>;

    /// Says that an owner is there, until the value is dropped. A backend keeps what it has read of an owner's prompts at
    /// most for as long as such a value lives.
    fn presence(&self, owner: Owner) -> Handle;

    /// The owners that are there.
    fn present(&self) -> Vec<Owner>;

    /// Erases all that is kept of an owner's prompts.
    fn forget(&self, owner: Owner);

    /// Completes with `true` when the backend has done a step, or at once when it has nothing to do; with `false` when it has
    /// ended. One that stands still never completes. The future does not keep the backend.
    fn step(&self) -> Pending<'static, bool>;
}

/// A request that can start.
pub trait Prepared: Send {
    /// Tokens of the prompt.
    fn prompt_tokens(&self) -> usize;

    /// Starts an answer for each sink, each with random numbers of its own. Never blocks. Dropping a handle cancels its
    /// answer at the next token.
    ///
    /// # Errors
    /// [`StartError`]; then no answer runs, and the sinks are dropped.
    fn start(self: Box<Self>, sinks: Vec<Box<dyn Sink>>) -> Result<Vec<Handle>, StartError>;
}

/// Something that ends when it is dropped.
#[must_use = "dropping it ends what it stands for"]
pub struct Handle {
    _held: Box<dyn Any + Send>,
}

impl Handle {
    /// A handle that drops `held`.
    pub fn new(held: impl Any + Send) -> Self {
        Self { _held: Box::new(held) }
    }
}

/// How much a backend may run and keep, and by which clock.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that compute. `None` for as many as the machine has processors.
    pub threads: Option<NonZeroUsize>,
    /// Answers that run at once.
    pub sequences: NonZeroUsize,
    /// Answers of one owner that run at once.
    pub per_owner: NonZeroUsize,
    /// Answers that wait.
    pub queued: usize,
    /// Memory for keys and values, in bytes.
    pub kv_memory: u64,
    /// How long the beginnings of prompts are kept for the same owner.
    pub prefix_time: Duration,
    /// By which requests and beginnings of prompts grow old.
    pub clock: Clock,
    /// The engine of its own process that is to serve, if the configuration names one.
    pub engine: Option<EngineFacts>,
}

/// What a model can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// Whether the model's file has a template for conversations; if it has one that cannot be used, why not.
    pub chat: Result<bool, String>,
    /// Whether it can be told of tools, and its calls can be told from text.
    pub tools: bool,
    /// Whether what it thinks can be told from what it says.
    pub reasoning: bool,
    /// Whether it can be told to think or not to.
    pub has_switch: bool,
    /// Whether it can be told how much to think.
    pub has_effort: bool,
    /// The width of the model's embeddings. `None` for a model that is not made for embeddings.
    pub embedding_width: Option<u32>,
}

/// Absolute time.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Makes a backend of a model file.
pub trait Loader: Send + 'static {
    /// Asks the system everything that a confined process can no longer ask. Called before a byte of the model is read.
    fn before_confinement(&self);

    /// Reads a file of `length` bytes, which is hostile until proven otherwise, and starts the backend. The file comes
    /// once, from its beginning to its end, so that it need not be in memory beside what is made of it. `clock` is what a
    /// prompt that tells the date goes by.
    ///
    /// # Errors
    /// Why not, in words that do not repeat the file.
    fn load(
        self,
        file: &mut dyn Read,
        length: u64,
        settings: Settings,
        clock: WallClock,
    ) -> Result<Arc<dyn Backend>, LoadError>;

    /// Reads a text classifier from the bytes of its file, which is hostile until proven otherwise.
    ///
    /// # Errors
    /// Why not, in words that do not repeat the file.
    fn classifier(file: &[u8]) -> Result<TextClassifier, LoadError>
    where
        Self: Sized;
}

/// What tells texts apart.
pub struct TextClassifier {
    /// What it knows.
    pub labels: Vec<String>,
    /// The score of a text, from 0 to 1, for one of the labels by its place.
    pub score: Score,
}

/// Scores a text, from 0 to 1, for a label by its place.
pub type Score = Box<dyn Fn(&str, usize) -> f32 + Send + Sync>;

/// Why a model cannot be served, in the backend's own words.
pub type LoadError = Box<dyn Error + Send + Sync>;

/// Why a request cannot be prepared. The reasons never repeat the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// More text than the model's context can ever hold.
    #[error("the text has {bytes} bytes, but at most {limit} can fit into the context")]
    TooLong {
        /// Bytes that came.
        bytes: usize,
        /// Most bytes that are read.
        limit: usize,
    },
    /// The model has no template, the template refuses these messages, or a token does not exist.
    #[error("{0}")]
    Prompt(String),
    /// The schema cannot shape an answer.
    #[error("{0}")]
    Schema(String),
    /// The schema of a tool's arguments cannot shape a call.
    #[error("{reason}")]
    Tool {
        /// Which tool, from 0.
        index: usize,
        /// Why.
        reason: String,
    },
    /// What this backend cannot do, whatever the model is.
    #[error("this model cannot {what}")]
    Cannot {
        /// The request's parameter.
        param: &'static str,
        /// What, in fixed words.
        what: &'static str,
    },
    /// The engine does not answer now. It is being started, or has failed; the same request can succeed later.
    #[error("the engine does not answer now")]
    Unavailable,
    /// The backend failed or has ended. Nothing about the request caused it.
    #[error("the backend has stopped")]
    Stopped,
}

/// Why a prepared request cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Every sequence runs and as many requests wait as may wait.
    #[error("all sequences are running and the queue is full")]
    Busy,
    /// The prompt leaves no space for an answer.
    #[error("the prompt has {tokens} tokens, the limit is {limit}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Most tokens of a prompt.
        limit: usize,
    },
    /// The prompt has no token.
    #[error("the prompt is empty")]
    PromptEmpty,
    /// A bias on a token that the model does not have.
    #[error("expected a bias on tokens below {vocabulary}")]
    BiasToken {
        /// Tokens of the model.
        vocabulary: usize,
    },
    /// The model is not made for embeddings.
    #[error("this model gives no embeddings")]
    NoEmbeddings,
    /// The backend failed or has ended.
    #[error("the backend has stopped")]
    Stopped,
}
