//! Running a model for many requests at once.
//!
//! One worker thread takes jobs from a bounded queue. It computes step by step. Each step has the next token
//! of every running answer and a piece of each prompt, so that one pass over the weights serves all of them.
//!
//! Keys and values live in pages from one pool of a stated size. A job starts when there are pages for its
//! prompt. Its answer gets further pages as it grows. If there are none left, the scheduler pauses the
//! youngest answer of the owner who has most pages for its share. It frees these pages, and computes the
//! answer's tokens again when there is capacity. The answer then goes on as it would have, because a result
//! depends on its own tokens alone. A page belongs to one job, and is wiped before another job gets it. Full
//! pages of a prompt may be kept for the same owner's next prompt, while that owner is present
//! ([`Engine::presence`]).
//!
//! Jobs have owners, and owners have shares. Shares are equal unless jobs say otherwise. They divide the
//! sequences and pages that become free, and the prompt tokens of a step. Many jobs or long prompts of one
//! owner take from that owner's share. An owner who asked for little lately goes first.

mod answer;
#[cfg(test)]
mod memory_search;
mod queue;
mod scheduler;
mod sharing;

use std::{
    io,
    num::{NonZeroU8, NonZeroUsize},
    ops::ControlFlow,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use queue::{Cancelled, Need, Queue};
use scheduler::Scheduler;
use zeroize::Zeroizing;

use crate::{
    cache::{Cache, PAGE},
    clock::{Clock, Moment},
    constraint::Constraint,
    embedding::Embedding,
    logprobs::ScoredToken,
    model::Model,
    owner::Owner,
    pool::Pool,
    prompt::Prompt,
    sampling::Sampling,
    scratch::ScratchText,
};

/// How much the engine may run at once.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Sequences that run at once.
    pub max_sequences: NonZeroUsize,
    /// Sequences of one owner that run at once; the owner may have the same part of the pages. Owners who have
    /// some get no more than this together. With fewer than [`max_sequences`](Self::max_sequences), the rest is
    /// for owners who have none running, so that they do not wait for those who have many.
    pub max_per_owner: NonZeroUsize,
    /// Jobs that may wait for a free sequence.
    pub max_queued: usize,
    /// Bytes for keys and values of all sequences together. The engine takes no more than whole contexts for
    /// all sequences need. An owner's part of it is its part of the sequences, and bounds the length of a
    /// job.
    pub kv_memory: u64,
    /// How long unused pages of a prompt are kept for later prompts of the same owner. A running job that
    /// needs their memory gets it earlier. Zero keeps nothing.
    pub prefix_time: Duration,
}

impl EngineConfig {
    /// Enough for whole contexts of small models, and many conversations of larger ones.
    pub const DEFAULT_KV_MEMORY: u64 = 2 << 30;

    /// The pauses of a conversation.
    pub const DEFAULT_PREFIX_TIME: Duration = Duration::from_secs(5 * 60);

    /// Any owner may have all sequences; no queue; default memory.
    #[must_use]
    pub fn new(threads: NonZeroUsize, max_sequences: NonZeroUsize) -> Self {
        Self {
            threads,
            max_sequences,
            max_per_owner: max_sequences,
            max_queued: 0,
            kv_memory: Self::DEFAULT_KV_MEMORY,
            prefix_time: Self::DEFAULT_PREFIX_TIME,
        }
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The memory for keys and values cannot be had.
    #[error(
        "{bytes} bytes for keys and values cannot be allocated; lower kv_memory, max_sequences or the context"
    )]
    CacheMemory {
        /// Bytes of the pool.
        bytes: u128,
    },
    /// The memory for keys and values is not a page for each sequence.
    #[error(
        "{budget} bytes for keys and values are too few; {max_sequences} sequences need {least} at least"
    )]
    CacheTooSmall {
        /// What was configured.
        budget: u64,
        /// Sequences that are to run at once.
        max_sequences: usize,
        /// Bytes of a page for each of them.
        least: u128,
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
    /// The prompt and one token of an answer would never fit into the memory that one owner may have.
    #[error("the prompt has {tokens} tokens, but memory holds the keys and values of {limit}")]
    PromptTooLongForMemory {
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
    /// An embedding from a model that is not made for them.
    #[error("this model gives no embeddings: its file names no pooling_type")]
    NoEmbeddings,
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
    /// The owner whose share it uses.
    pub owner: Owner,
    /// The size of that share. When two owners want more than there is, a share of 2 gets twice the sequences
    /// and tokens of a share of 1.
    pub share: NonZeroU8,
    /// When it ends whether it is complete or not, by the engine's [`clock`](Engine::clock).
    pub deadline: Option<Moment>,
    /// What to continue.
    pub prompt: Prompt,
    /// Most tokens to generate; `None` runs to the end of the context.
    pub max_tokens: Option<u32>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Added to the scores of these tokens before anything else.
    pub bias: Zeroizing<Vec<(u32, f32)>>,
    /// The form that the answer must have, made by the model that the engine runs. An answer that ends with
    /// [`FinishReason::Stop`] has it; one of another length or with a stop string is a beginning of one.
    pub constraint: Option<Constraint>,
    /// Whether each piece of the answer comes with its tokens' probabilities, and with how many likelier
    /// ones: at most [`MAX_TOP_LOGPROBS`](crate::MAX_TOP_LOGPROBS).
    pub logprobs: Option<u8>,
    /// Whether the answer shows the control tokens by which its parts are told apart, for
    /// [`Model::answer_reader`].
    pub shows_marks: bool,
    /// Whether the prompt's embedding is wanted instead of an answer.
    pub embedding: bool,
    /// Texts that end the answer and are never emitted; at most [`MAX_STOP_STRINGS`].
    pub stop: Vec<Zeroizing<String>>,
    /// Where events go.
    pub sink: Box<dyn Sink>,
}

impl Job {
    /// The likeliest continuation of `prompt` to its end, for nobody in particular; everything else is set in
    /// the fields.
    #[must_use]
    pub fn new(prompt: Prompt, sink: Box<dyn Sink>) -> Self {
        Self {
            owner: Owner::default(),
            share: NonZeroU8::MIN,
            deadline: None,
            prompt,
            max_tokens: None,
            sampling: Sampling::greedy(),
            bias: Zeroizing::default(),
            constraint: None,
            logprobs: None,
            shows_marks: false,
            embedding: false,
            stop: Vec::new(),
            sink,
        }
    }
}

/// Receives the events of one job.
pub trait Sink: Send {
    /// Permits the next token before any part of it is emitted. `Break` cancels the job and drops the token.
    /// Called on the engine's thread, so it must not block.
    fn token(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Takes one event; `Break` cancels the job. Called on the engine's thread, so it must not block. A sink
    /// that is dropped without [`Event::Finished`] belongs to a job that was cancelled or whose engine
    /// stopped.
    fn event(&mut self, event: Event) -> ControlFlow<()>;
}

/// What happens to a job.
pub enum Event {
    /// The next piece of the answer.
    Text(Text),
    /// The embedding, of a job that asked for it.
    Embedding(Embedding),
    /// The answer is complete. Nothing follows.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
}

/// A piece of an answer: whole characters, erased on drop.
pub struct Text {
    text: ScratchText,
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
    /// [`Job::deadline`], before the answer was complete or had begun.
    Deadline,
}

/// Tokens of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens that came from kept pages of an earlier prompt of the same owner.
    pub cached_tokens: u32,
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

/// Where the pages for keys and values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// All.
    pub pages: usize,
    /// Wiped, and nobody's.
    pub free: usize,
    /// Kept for later prompts, and read by no job.
    pub kept: usize,
}

/// Says that an owner is there: pages of its prompts are kept only as long as one of these lives.
#[must_use = "dropping it says that the owner has left"]
pub struct Presence {
    queue: Arc<Queue>,
    owner: Owner,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.queue.leave(self.owner);
    }
}

/// A running engine. Dropping it cancels everything and joins its threads.
pub struct Engine {
    model: Arc<Model>,
    queue: Arc<Queue>,
    capacity: Capacity,
    worker: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the threads and reserves the memory. Time is counted by [`Clock::monotonic`].
    ///
    /// # Errors
    /// [`StartError`] when memory or threads are refused.
    pub fn start(model: Arc<Model>, config: EngineConfig) -> Result<Engine, StartError> {
        Self::start_with_clock(model, config, Clock::monotonic())
    }

    /// As [`Engine::start`], by another clock.
    ///
    /// # Errors
    /// See [`Engine::start`].
    pub fn start_with_clock(
        model: Arc<Model>,
        config: EngineConfig,
        clock: Clock,
    ) -> Result<Engine, StartError> {
        let capacity = Capacity::new(&model, config)?;
        let queue = Arc::new(Queue::new(config, capacity, clock));
        let (started, starting) = mpsc::channel();
        let worker = {
            let (model, queue) = (Arc::clone(&model), Arc::clone(&queue));
            let builder = thread::Builder::new().name("engine".into());
            builder
                .spawn(move || work(&model, &queue, config, capacity, &started))
                .map_err(StartError::Threads)?
        };
        let engine = Engine { model, queue, capacity, worker: Some(worker) };
        match starting.recv() {
            Ok(Ok(())) => Ok(engine),
            Ok(Err(error)) => Err(StartError::Threads(error)),
            Err(mpsc::RecvError) => {
                Err(StartError::Threads(io::Error::other("the worker threads did not start")))
            }
        }
    }

    /// What deadlines are counted by.
    pub fn clock(&self) -> &Clock {
        self.queue.clock()
    }

    /// Owners that are there.
    pub fn present(&self) -> Vec<Owner> {
        self.queue.present()
    }

    /// The model this engine runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Says that an owner is there, until the last presence of this owner is dropped. Then all that is kept
    /// of its prompts is wiped, at the end of the step that the engine is at.
    pub fn presence(&self, owner: Owner) -> Presence {
        self.queue.enter(owner);
        Presence { queue: Arc::clone(&self.queue), owner }
    }

    /// Wipes all that is kept of an owner's prompts, at the end of the step that the engine is at.
    pub fn forget(&self, owner: Owner) {
        self.queue.forget(owner);
    }

    /// Calls `then` on the engine's thread, at the end of the step that it is at or at once when it is idle. Of an engine that
    /// has ended it is dropped uncalled. It has to be quick: the engine waits for it.
    pub fn after_step(&self, then: impl FnOnce() + Send + 'static) {
        self.queue.after_step(Box::new(then));
    }

    /// Where the memory was at the end of the last step.
    pub fn memory(&self) -> MemoryUse {
        self.queue.memory()
    }

    /// Queues a job. Never blocks.
    ///
    /// # Errors
    /// [`SubmitError`] says what to change or whether to try again.
    pub fn submit(&self, job: Job) -> Result<JobHandle, SubmitError> {
        let (limit, fits) = (self.model.shape().context - 1, self.capacity.positions - 1);
        let stops_are_valid = job.stop.len() <= MAX_STOP_STRINGS
            && job.stop.iter().all(|stop| (1..=MAX_STOP_BYTES).contains(&stop.len()));
        let vocabulary = self.model.tokenizer().len();
        match job.prompt.len() {
            0 => Err(SubmitError::PromptEmpty),
            tokens if tokens > limit => Err(SubmitError::PromptTooLong { tokens, limit }),
            tokens if tokens > fits => Err(SubmitError::PromptTooLongForMemory { tokens, limit: fits }),
            _ if job.embedding && self.model.shape().pooling.is_none() => Err(SubmitError::NoEmbeddings),
            _ if !stops_are_valid => Err(SubmitError::StopStrings),
            _ if job.bias.iter().any(|(token, _)| *token as usize >= vocabulary) => {
                Err(SubmitError::BiasToken { vocabulary })
            }
            _ => {
                let need = self.capacity.need(&job);
                let cancelled = self.queue.push(job, need)?;
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

fn work(
    model: &Model,
    queue: &Queue,
    config: EngineConfig,
    capacity: Capacity,
    started: &mpsc::Sender<io::Result<()>>,
) {
    let _close = CloseOnDrop(queue);
    let pool = match Pool::new(config.threads) {
        Ok(pool) => pool,
        Err(error) => {
            // A starter that is gone needs no answer.
            let _ = started.send(Err(error));
            return;
        }
    };
    let mut scheduler = Scheduler::new(model, queue, pool, config, capacity);
    if started.send(Ok(())).is_ok() {
        scheduler.run();
    }
}

/// What fits into the memory for keys and values.
#[derive(Debug, Clone, Copy)]
struct Capacity {
    /// Pages in the pool.
    pages: usize,
    /// Pages that one owner may have.
    per_owner: usize,
    /// Positions that one job may have: the model's context, or what fits into one owner's pages.
    positions: usize,
}

impl Capacity {
    /// Asks for the memory once, so that too large a configuration is an error and not an abort.
    fn new(model: &Model, config: EngineConfig) -> Result<Self, StartError> {
        let (context, page) = (model.shape().context, Cache::page_bytes(model.shape()));
        let (sequences, per_owner) = (config.max_sequences.get(), config.max_per_owner.get());
        let most = (sequences as u128).saturating_mul(context.div_ceil(PAGE) as u128);
        let pages = (u128::from(config.kv_memory) / page as u128).min(most);
        let least = (sequences as u128).saturating_mul(page as u128);
        if pages < sequences as u128 {
            let budget = config.kv_memory;
            return Err(StartError::CacheTooSmall { budget, max_sequences: sequences, least });
        }
        let bytes = pages.saturating_mul(page as u128);
        let too_much = StartError::CacheMemory { bytes };
        let (Ok(size), Ok(pages)) = (usize::try_from(bytes), usize::try_from(pages)) else {
            return Err(too_much);
        };
        Vec::<u8>::new().try_reserve_exact(size).map_err(|_| too_much)?;
        // At least one for each sequence that the owner may have.
        let per_owner = (pages as u128 * per_owner.min(sequences) as u128 / sequences as u128) as usize;
        Ok(Self { pages, per_owner, positions: context.min(per_owner.saturating_mul(PAGE)) })
    }

    /// What a job whose prompt fits needs to begin, and how long its answer can be.
    fn need(&self, job: &Job) -> Need {
        let capacity = u32::try_from(self.positions - job.prompt.len()).unwrap_or(u32::MAX);
        let limit = job.max_tokens.map_or(capacity, |tokens| tokens.min(capacity));
        // The last token of an answer is never computed.
        let positions = job.prompt.len() + usize::from(limit > 1);
        Need { tokens: limit, pages: positions.div_ceil(PAGE) }
    }
}
