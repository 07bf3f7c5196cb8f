//! An existing engine behind the door that the API knows: any server of OpenAI's API on a Unix socket.
//!
//! ```text
//! API ── Task ──► OpenAi ── HTTP/1.1, one connection for each answer ──► socket ── vLLM, llama-server, …
//! ```
//!
//! The engine is trusted with prompts, because the measured image and its measured configuration say which one it is. It is
//! not trusted to keep to a protocol: its events are read with limits before memory is taken, and each way to fail has a
//! [`Failure`]. What it cannot do is refused by name before a request reaches it. It is never told whom a request is for.
//!
//! `docs/engines.md` lists what is mapped, refused and trusted.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod answer;
mod chunk;
mod count;
mod events;
mod failure;
mod http;
mod owners;
mod queue;
mod request;
mod stops;

use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_backend::{
    Abilities, Backend, EngineFacts, Flavour, Handle, Input, Output, Owner, Pending, PrepareError, Prepared,
    SecretString, Settings, Sink, StartError, Task, ToolChoice,
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::answer::Job;
pub use crate::chunk::Chunk;
pub use crate::events::{EventReader, MAX_EVENT};
pub use crate::failure::Failure;
use crate::http::Exchange;
pub use crate::http::{Door, SocketAt};
use crate::owners::Owners;
use crate::queue::{Place, Queue, QueueLimits};
use crate::request::Wanted;

/// Is told why the engine failed a request.
pub type Report = Arc<dyn Fn(Failure) + Send + Sync>;

/// An engine as a backend.
pub struct OpenAi {
    shared: Arc<Shared>,
    owners: Arc<Owners>,
    queue: Arc<Queue>,
}

struct Shared {
    facts: EngineFacts,
    door: Arc<dyn Door>,
    report: Report,
    steps: watch::Sender<u64>,
}

impl Shared {
    /// The engine has said something.
    fn stepped(&self) {
        self.steps.send_modify(|steps| *steps = steps.wrapping_add(1));
    }
}

impl OpenAi {
    /// A backend over the engine behind `door`. Of `settings`, the numbers of answers count; memory and threads are the engine's
    /// own affair.
    pub fn new(facts: EngineFacts, door: Arc<dyn Door>, settings: &Settings, report: Report) -> Self {
        let limits = QueueLimits {
            running: settings.sequences,
            per_owner: settings.per_owner,
            waiting: settings.queued,
        };
        let shared = Shared { facts, door, report, steps: watch::channel(0).0 };
        Self { shared: Arc::new(shared), owners: Arc::default(), queue: Queue::new(limits) }
    }

    /// Whether the engine is ready to answer.
    ///
    /// # Errors
    /// [`Failure`]: why not.
    pub async fn health(&self) -> Result<(), Failure> {
        health(&self.shared.facts, self.shared.door.as_ref()).await
    }
}

/// Most bytes of an answer to the question whether the engine is well.
const MAX_HEALTH: usize = 1024 * 1024;

async fn health(facts: &EngineFacts, door: &dyn Door) -> Result<(), Failure> {
    let path = match facts.flavour {
        Flavour::Vllm | Flavour::LlamaServer => "/health",
        Flavour::OpenAi => "/v1/models",
    };
    Exchange::begin(door, path, None, facts.silence).await?.whole(MAX_HEALTH).await.map(drop)
}

/// How long is waited before an engine that is not well is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl Backend for OpenAi {
    fn abilities(&self) -> Abilities {
        let EngineFacts { tools, reasoning, thinking_switch, effort, .. } = self.shared.facts;
        Abilities {
            chat: Ok(true),
            tools,
            reasoning,
            has_switch: thinking_switch,
            has_effort: effort,
            embedding_width: None,
        }
    }

    fn prepare(&self, task: Task) -> Pending<'_, Result<Box<dyn Prepared>, PrepareError>> {
        Box::pin(async move {
            request::check(&self.shared.facts, &task.input, &task.output)?;
            let prompt_tokens = count::tokens(&self.shared, &task.input).await?;
            let salt = self.owners.salt(task.owner).ok_or(PrepareError::Stopped)?;
            let ready = Ready {
                shared: Arc::clone(&self.shared),
                queue: Arc::clone(&self.queue),
                salt,
                prompt_tokens,
                task,
            };
            ready.check()?;
            let ready: Box<dyn Prepared> = Box::new(ready);
            Ok(ready)
        })
    }

    fn presence(&self, owner: Owner) -> Handle {
        self.owners.presence(owner)
    }

    fn present(&self) -> Vec<Owner> {
        self.owners.present()
    }

    fn forget(&self, owner: Owner) {
        self.owners.forget(owner);
    }

    /// A step is an event of an answer, or the engine's word that it is well.
    fn step(&self) -> Pending<'static, bool> {
        let mut steps = self.shared.steps.subscribe();
        let (facts, door) = (self.shared.facts.clone(), Arc::clone(&self.shared.door));
        Box::pin(async move {
            let is_well = async {
                while health(&facts, door.as_ref()).await.is_err() {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            };
            tokio::select! {
                stepped = steps.changed() => stepped.is_ok(),
                () = is_well => true,
            }
        })
    }
}

/// A request whose tokens are counted.
struct Ready {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    salt: owners::Salt,
    prompt_tokens: usize,
    task: Task,
}

impl Ready {
    /// Most tokens of a prompt: one is left for the answer.
    fn limit(&self) -> usize {
        self.shared.facts.context.get().saturating_sub(1) as usize
    }

    /// Tokens of the prompt and of the answer at most, if the prompt fits.
    fn lengths(&self) -> Result<(u32, u32), StartError> {
        let too_long = StartError::PromptTooLong { tokens: self.prompt_tokens, limit: self.limit() };
        let prompt = u32::try_from(self.prompt_tokens).map_err(|_| too_long)?;
        let left = self.shared.facts.context.get().checked_sub(prompt).filter(|left| *left > 0);
        let left = left.ok_or(too_long)?;
        let wanted = match &self.task.output {
            Output::Answer { max_tokens, .. } => max_tokens.unwrap_or(left),
            Output::Embedding => 1,
        };
        Ok((prompt, wanted.min(left)))
    }

    /// The body of the answer with this index.
    fn body(&self, index: u64, max_tokens: u32) -> Result<zeroize::Zeroizing<Vec<u8>>, PrepareError> {
        let Task { input, output, .. } = &self.task;
        let seed = match output {
            Output::Answer { sampling, .. } => sampling.seed.wrapping_add(index),
            Output::Embedding => 0,
        };
        let wanted = Wanted { max_tokens, seed, salt: Some(self.salt) };
        request::body(&self.shared.facts, input, output, &wanted)
    }

    /// That there is a body, so that what is wrong with a schema is said before anything starts.
    fn check(&self) -> Result<(), PrepareError> {
        match self.task.output {
            Output::Answer { .. } => self.body(0, 1).map(drop),
            Output::Embedding => Ok(()),
        }
    }

    /// The tools that may be called.
    fn tools(&self) -> Arc<[SecretString]> {
        match &self.task.input {
            Input::Chat(conversation) if conversation.choice != ToolChoice::None => {
                conversation.tools.iter().map(|tool| tool.name.clone()).collect()
            }
            _ => Arc::default(),
        }
    }
}

impl Prepared for Ready {
    fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    fn start(self: Box<Self>, sinks: Vec<Box<dyn Sink>>) -> Result<Vec<Handle>, StartError> {
        let Output::Answer { stop, .. } = &self.task.output else { return Err(StartError::NoEmbeddings) };
        if self.prompt_tokens == 0 {
            return Err(StartError::PromptEmpty);
        }
        let (prompt_tokens, max_tokens) = self.lengths()?;
        let share: NonZeroU8 = self.task.share;
        let places: Vec<Place> =
            self.queue.enter(self.task.owner, share, sinks.len()).ok_or(StartError::Busy)?;
        let tools = self.tools();
        let mut jobs = Vec::with_capacity(sinks.len());
        for (index, (sink, place)) in (0..).zip(sinks.into_iter().zip(places)) {
            jobs.push(Job {
                shared: Arc::clone(&self.shared),
                place,
                path: request::path(&self.task.input),
                body: self.body(index, max_tokens).map_err(|_| StartError::Stopped)?,
                sink,
                stop: stop.clone(),
                tools: Arc::clone(&tools),
                max_tokens,
                prompt_tokens,
                time: self.task.time,
            });
        }
        let run = |job| Handle::new(AbortOnDropHandle::new(tokio::spawn(answer::run(job))));
        Ok(jobs.into_iter().map(run).collect())
    }
}
