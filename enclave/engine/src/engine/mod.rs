//! Running a model for many requests at once.
//!
//! One worker thread takes jobs from a bounded queue and computes, step by step, one token for every answer under way
//! together with a piece of the prompts that are being read, so that all of them share one pass over the weights.
//! Each job has a key-value cache of its own, wiped before another job gets it.
//!
//! Jobs have owners, and owners have equal shares: of the sequences that become free, whoever queued first, and of the prompt
//! tokens in a step. One owner's many jobs or long prompts take from that owner's share; an owner who asked for little lately
//! goes first.

mod answer;
mod queue;
mod scheduler;

use std::{
    io,
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use queue::{Cancelled, Queue};
use scheduler::Scheduler;
use zeroize::Zeroizing;

use crate::{
    constraint::Constraint,
    logprobs::ScoredToken,
    model::{Model, Prompt},
    pool::Pool,
    sampling::Sampling,
};

/// How much the engine may run at once.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Sequences that run at once; each owns a key-value cache of the model's context length.
    pub max_sequences: NonZeroUsize,
    /// Sequences of one owner that run at once; with fewer than [`max_sequences`](Self::max_sequences) an owner who has none running
    /// never waits for one who has many.
    pub max_per_owner: NonZeroUsize,
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
    Threads(#[source] io::Error),
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
    /// A bias on a token that the model does not have.
    #[error("expected a bias on tokens below {vocabulary}")]
    BiasToken {
        /// How many tokens the model has.
        vocabulary: usize,
    },
    /// The worker has ended; the engine must be started anew.
    #[error("the engine has stopped")]
    Stopped,
}

/// Most stop strings of one job.
pub const MAX_STOP_STRINGS: usize = 4;
/// Most bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;

/// Whom a job is for. The engine only tells equal ones from different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owner(pub [u8; 32]);

/// One request.
pub struct Job {
    /// Whose share it takes from.
    pub owner: Owner,
    /// What to continue.
    pub prompt: Prompt,
    /// Most tokens to generate; `None` runs to the end of the context.
    pub max_tokens: Option<u32>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Added to the scores of these tokens before anything else.
    pub bias: Zeroizing<Vec<(u32, f32)>>,
    /// The form that the answer must have, made by the model that the engine runs. An answer that ends with [`FinishReason::Stop`] has
    /// it; one of another length or with a stop string is a beginning of one.
    pub constraint: Option<Constraint>,
    /// Whether each piece of the answer comes with its tokens' probabilities, and with how many likelier ones:
    /// at most [`MAX_TOP_LOGPROBS`](crate::MAX_TOP_LOGPROBS).
    pub logprobs: Option<u8>,
    /// Texts that end the answer and are never emitted; at most [`MAX_STOP_STRINGS`].
    pub stop: Vec<String>,
    /// Where events go.
    pub sink: Box<dyn Sink>,
}

/// Receives the events of one job.
pub trait Sink: Send {
    /// Permits the next token before any of it is emitted; `Break` cancels the job and the token is dropped. Called on the
    /// engine's thread, so it must not block.
    fn token(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

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
pub struct Text {
    text: Zeroizing<String>,
    tokens: Vec<ScoredToken>,
}

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The tokens that ended in this piece, if the job asked for them. Those of a stop string are left out.
    pub fn tokens(&self) -> &[ScoredToken] {
        &self.tokens
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn.
    Stop,
    /// The stop string with this index in [`Job::stop`] came.
    StopString(usize),
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
pub struct JobHandle {
    queue: Arc<Queue>,
    cancelled: Cancelled,
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.queue.cancel(&self.cancelled);
    }
}

/// A running engine. Dropping it cancels everything and joins its threads.
pub struct Engine {
    model: Arc<Model>,
    queue: Arc<Queue>,
    worker: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the threads and reserves the caches.
    ///
    /// # Errors
    /// [`StartError`] when memory or threads are refused.
    pub fn start(model: Arc<Model>, config: EngineConfig) -> Result<Engine, StartError> {
        check_memory(&model, config)?;
        let queue = Arc::new(Queue::new(config));
        let (started, starting) = mpsc::channel();
        let worker = {
            let (model, queue) = (Arc::clone(&model), Arc::clone(&queue));
            let builder = thread::Builder::new().name("engine".into());
            builder.spawn(move || work(&model, &queue, config, &started)).map_err(StartError::Threads)?
        };
        let engine = Engine { model, queue, worker: Some(worker) };
        match starting.recv() {
            Ok(Ok(())) => Ok(engine),
            Ok(Err(error)) => Err(StartError::Threads(error)),
            Err(mpsc::RecvError) => {
                Err(StartError::Threads(io::Error::other("the worker threads did not start")))
            }
        }
    }

    /// The model this engine runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Queues a job. Never blocks.
    ///
    /// # Errors
    /// [`SubmitError`] says what to change or whether to try again.
    pub fn submit(&self, job: Job) -> Result<JobHandle, SubmitError> {
        let limit = self.model.shape().context - 1;
        let stops_are_valid = job.stop.len() <= MAX_STOP_STRINGS
            && job.stop.iter().all(|stop| (1..=MAX_STOP_BYTES).contains(&stop.len()));
        let vocabulary = self.model.tokenizer().len();
        match job.prompt.len() {
            0 => Err(SubmitError::PromptEmpty),
            tokens if tokens > limit => Err(SubmitError::PromptTooLong { tokens, limit }),
            _ if !stops_are_valid => Err(SubmitError::StopStrings),
            _ if job.bias.iter().any(|(token, _)| *token as usize >= vocabulary) => {
                Err(SubmitError::BiasToken { vocabulary })
            }
            _ => {
                let cancelled = self.queue.push(job)?;
                Ok(JobHandle { queue: Arc::clone(&self.queue), cancelled })
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has already closed the queue and dropped its sinks.
            let _ = worker.join();
        }
    }
}

/// Closes the queue however the worker ends, so that nobody waits for a worker that is gone.
struct CloseOnDrop<'a>(&'a Queue);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn work(model: &Model, queue: &Queue, config: EngineConfig, started: &mpsc::Sender<io::Result<()>>) {
    let _close = CloseOnDrop(queue);
    let pool = match Pool::new(config.threads) {
        Ok(pool) => pool,
        Err(error) => {
            // A starter that is gone needs no answer.
            let _ = started.send(Err(error));
            return;
        }
    };
    let mut scheduler = Scheduler::new(model, queue, pool, config);
    if started.send(Ok(())).is_ok() {
        scheduler.run();
    }
}

/// Asks for the memory of all caches once, so that too large a configuration is an error and not an abort.
fn check_memory(model: &Model, config: EngineConfig) -> Result<(), StartError> {
    let bytes = model.cache_bytes_per_sequence().saturating_mul(config.max_sequences.get() as u128);
    let too_much = StartError::CacheMemory { bytes };
    let Ok(size) = usize::try_from(bytes) else { return Err(too_much) };
    Vec::<u8>::new().try_reserve_exact(size).map_err(|_| too_much)
}
