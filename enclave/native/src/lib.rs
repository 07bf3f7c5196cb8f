//! The project's own engine behind the door that the API knows.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod conversation;
mod sink;

use std::io::Read;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cleanroom_backend::{
    Abilities, Backend, Form, Handle, Input, LoadError, Loader, Output, Owner, Pending, PrepareError,
    Prepared, Settings, Sink, StartError, Task, TextClassifier, WallClock,
};
use cleanroom_engine::{
    AnswerReader, Classifier, Clock, Constraint, Engine, EngineConfig, Job, Model, ModelError, Prompt,
    PromptError, Sampling, SamplingError, Speech, SubmitError,
};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::sink::Translate;

/// The engine as a backend.
pub struct Native {
    engine: Arc<Engine>,
}

impl Native {
    /// A backend that runs this engine.
    #[must_use]
    pub fn shared(engine: Engine) -> Arc<dyn Backend> {
        Arc::new(Self { engine: Arc::new(engine) })
    }
}

/// Reads GGUF files.
#[derive(Debug, Clone, Copy, Default)]
pub struct NativeLoader;

impl Loader for NativeLoader {
    fn before_confinement(&self) {
        // The engine remembers the answer, for which the system opens files.
        let _ = cleanroom_engine::processors();
    }

    fn load(
        self,
        file: &mut dyn Read,
        length: u64,
        settings: Settings,
        clock: WallClock,
    ) -> Result<Arc<dyn Backend>, LoadError> {
        let model = Model::read_gguf(file, length, |_| {}).map_err(NotLoaded::Model)?;
        let model = model.with_wall_clock(move || clock());
        let Settings {
            threads,
            sequences,
            per_owner,
            queued,
            kv_memory,
            prefix_time,
            clock: ageing,
            engine: _,
        } = settings;
        let config = EngineConfig {
            threads: threads.unwrap_or_else(cleanroom_engine::processors),
            max_sequences: sequences,
            max_per_owner: per_owner,
            max_queued: queued,
            kv_memory,
            prefix_time,
        };
        let ageing = Clock::new(move || ageing.now());
        let engine = Engine::start_with_clock(Arc::new(model), config, ageing);
        Ok(Native::shared(engine.map_err(NotLoaded::Engine)?))
    }

    fn classifier(file: &[u8]) -> Result<TextClassifier, LoadError> {
        let classifier = Classifier::from_gguf(file).map_err(NotLoaded::Classifier)?;
        let labels = classifier.labels().to_vec();
        let score = move |text: &str, label: usize| {
            // The caller's thread is the only one, and no other can be refused.
            let scores = classifier.scores(text, NonZeroUsize::MIN).ok();
            scores.and_then(|scores| scores.as_slice().get(label).copied()).unwrap_or(1.0)
        };
        Ok(TextClassifier { labels, score: Box::new(score) })
    }
}

/// Why there is no engine for a model.
#[derive(Debug, thiserror::Error)]
enum NotLoaded {
    #[error("the model file cannot be used: {0}")]
    Model(#[source] ModelError),
    #[error("the classifier's file cannot be used: {0}")]
    Classifier(#[source] ModelError),
    #[error("the engine cannot be started: {0}")]
    Engine(#[source] cleanroom_engine::StartError),
}

impl Backend for Native {
    fn abilities(&self) -> Abilities {
        let model = self.engine.model();
        let Speech { tools, reasoning, has_switch, has_effort } = model.speech();
        Abilities {
            chat: model.chat_template().map_err(|error| error.to_string()),
            tools,
            reasoning,
            has_switch,
            has_effort,
            embedding_width: model.facts().embedding,
        }
    }

    fn prepare(&self, task: Task) -> Pending<'_, Result<Box<dyn Prepared>, PrepareError>> {
        let model = Arc::clone(self.engine.model());
        // The weights of a revoked model must not wait for a request that has not started.
        let engine = Arc::downgrade(&self.engine);
        Box::pin(async move {
            let ready = tokio::task::spawn_blocking(move || Ready::new(engine, &model, task)).await;
            let ready: Box<dyn Prepared> = Box::new(ready.map_err(|_| PrepareError::Stopped)??);
            Ok(ready)
        })
    }

    fn presence(&self, owner: Owner) -> Handle {
        Handle::new(self.engine.presence(cleanroom_engine::Owner(owner.0)))
    }

    fn present(&self) -> Vec<Owner> {
        self.engine.present().into_iter().map(|owner| Owner(owner.0)).collect()
    }

    fn forget(&self, owner: Owner) {
        self.engine.forget(cleanroom_engine::Owner(owner.0));
    }

    fn step(&self) -> Pending<'static, bool> {
        let (done, is_done) = oneshot::channel();
        self.engine.after_step(move || {
            // Whoever asked may have gone since.
            let _ = done.send(());
        });
        Box::pin(async move { is_done.await.is_ok() })
    }
}

/// A request whose prompt is tokens.
struct Ready {
    engine: Weak<Engine>,
    prompt: Prompt,
    constraint: Option<Constraint>,
    /// Where answers are more than text.
    reader: Option<AnswerReader>,
    task: Rest,
}

/// What is left of a task once its prompt has been read.
struct Rest {
    owner: cleanroom_engine::Owner,
    share: std::num::NonZeroU8,
    time: Duration,
    output: Output,
}

impl Ready {
    fn new(engine: Weak<Engine>, model: &Model, task: Task) -> Result<Self, PrepareError> {
        let Task { owner, share, input, output, time } = task;
        let form = match &output {
            Output::Answer { form, .. } => form,
            Output::Embedding => &Form::Text,
        };
        let Begun { prompt, constraint, reader } = match input {
            Input::Chat(conversation) => conversation::begin(model, &conversation, form)?,
            Input::Text(text) => {
                Begun::plain(model.prompt_from_text(text.as_str()), constraint(model, form)?)?
            }
            Input::Tokens(tokens) => {
                Begun::plain(model.prompt_from_tokens(tokens), constraint(model, form)?)?
            }
        };
        let owner = cleanroom_engine::Owner(owner.0);
        Ok(Self { engine, prompt, constraint, reader, task: Rest { owner, share, time, output } })
    }
}

impl Prepared for Ready {
    fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    fn start(self: Box<Self>, sinks: Vec<Box<dyn Sink>>) -> Result<Vec<Handle>, StartError> {
        let Self { engine, prompt, constraint, reader, task: Rest { owner, share, time, output } } = *self;
        let engine = engine.upgrade().ok_or(StartError::Stopped)?;
        let deadline = Some(engine.clock().now().after(time));
        let mut running = Vec::with_capacity(sinks.len());
        for (index, sink) in (0..).zip(sinks) {
            let mut job = Job::new(prompt.clone(), Box::new(Translate::new(sink, reader.clone())));
            job.shows_marks = reader.is_some();
            (job.owner, job.share, job.deadline) = (owner, share, deadline);
            job.constraint.clone_from(&constraint);
            match &output {
                Output::Answer { max_tokens, sampling, bias, form: _, logprobs, stop } => {
                    let sampling = translate(*sampling).map_err(|_| StartError::Stopped)?;
                    job.max_tokens = *max_tokens;
                    job.sampling = sampling.for_choice(index);
                    job.bias = bias.clone();
                    job.logprobs = *logprobs;
                    job.stop = stop.iter().map(|stop| Zeroizing::new(stop.as_str().to_owned())).collect();
                }
                Output::Embedding => {
                    // Memory for the prompt is all that it needs.
                    (job.max_tokens, job.embedding) = (Some(1), true);
                }
            }
            // If one is not taken, dropping the others cancels them.
            running.push(Handle::new(engine.submit(job).map_err(not_submitted)?));
        }
        Ok(running)
    }
}

/// A prompt, and what becomes of its answers.
struct Begun {
    prompt: Prompt,
    constraint: Option<Constraint>,
    reader: Option<AnswerReader>,
}

impl Begun {
    /// Answers that are text and nothing else.
    fn plain(
        prompt: Result<Prompt, PromptError>,
        constraint: Option<Constraint>,
    ) -> Result<Self, PrepareError> {
        Ok(Self { prompt: prompt.map_err(not_prompted)?, constraint, reader: None })
    }
}

fn not_prompted(error: PromptError) -> PrepareError {
    match error {
        PromptError::TooLong { bytes, limit } => PrepareError::TooLong { bytes, limit },
        other => PrepareError::Prompt(other.to_string()),
    }
}

fn constraint(model: &Model, form: &Form) -> Result<Option<Constraint>, PrepareError> {
    match form {
        Form::Text => Ok(None),
        Form::JsonObject => model.constrained_to_objects().map(Some).map_err(|_| PrepareError::Stopped),
        Form::JsonSchema(schema) => {
            let constraint = model.constrained_to(schema.as_str());
            constraint.map(Some).map_err(|error| PrepareError::Schema(error.to_string()))
        }
    }
}

fn translate(sampling: cleanroom_backend::Sampling) -> Result<Sampling, SamplingError> {
    let cleanroom_backend::Sampling { temperature, top_p, top_k, min_p, presence, frequency, seed } =
        sampling;
    Sampling::new(temperature, top_p, seed)?
        .with_top_k(top_k)
        .with_min_p(min_p)?
        .with_penalties(presence, frequency)
}

fn not_submitted(error: SubmitError) -> StartError {
    match error {
        SubmitError::Busy => StartError::Busy,
        SubmitError::PromptTooLong { tokens, limit }
        | SubmitError::PromptTooLongForMemory { tokens, limit } => {
            StartError::PromptTooLong { tokens, limit }
        }
        SubmitError::PromptEmpty => StartError::PromptEmpty,
        SubmitError::BiasToken { vocabulary } => StartError::BiasToken { vocabulary },
        SubmitError::NoEmbeddings => StartError::NoEmbeddings,
        SubmitError::StopStrings | SubmitError::Stopped => StartError::Stopped,
    }
}
