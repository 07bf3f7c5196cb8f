//! The inference engine: bytes of a model in, tokens out.
//!
//! This crate knows nothing of networks, keys, enclaves or partners. It reads a GGUF file that is assumed
//! hostile, and runs it for many sequences at once:
//!
//! ```text
//! Model::from_gguf(bytes) ─► Model ─► Prompt (tokens, zeroised)
//!                              │
//!                       Engine::start ─► Engine::submit(Job) ─► Sink::event(Text …) … Sink::event(Finished)
//! ```
//!
//! Prompts and completions are held in types that have neither `Debug` nor `Display` and are zeroised on
//! drop.

#![warn(clippy::undocumented_unsafe_blocks)]

use std::num::NonZeroUsize;
use std::sync::OnceLock;

mod cache;
mod chat;
mod classifier;
mod clock;
mod constraint;
mod embedding;
mod evaluate;
mod forms;
mod forward;
pub mod gguf;
#[cfg(test)]
#[path = "../tests/support/gguf_writer.rs"]
#[expect(dead_code, reason = "shared with integration tests and examples, which use the rest")]
mod gguf_writer;
mod kernels;
mod logprobs;
mod matrix;
mod model;
mod owner;
mod pool;
#[cfg(test)]
mod pool_tests;
mod primitives;
mod prompt;
mod sampling;
mod scheduling;
mod scratch;
mod template;
mod tokenizer;

pub use chat::{Chat, ChatCall, ChatMessage, ChatTool};
pub use classifier::{Classifier, Scores};
pub use clock::{Clock, Hand, Moment};
pub use constraint::{CallableTool, CallsWanted, Constraint, Matcher, RandomAnswer, SchemaError};
pub use embedding::Embedding;
pub use evaluate::{EvaluateError, EvaluatedToken, Evaluator};
pub use forms::{AnswerReader, Part};
pub use kernels::Instructions;
pub use logprobs::{MAX_TOP_LOGPROBS, ScoredToken, TokenScore};
pub use model::{ChatPrompt, Facts, Model, ModelError, Progress, Speech};
pub use owner::Owner;
pub use prompt::{Prompt, PromptError};
pub use sampling::{Sampling, SamplingError};
pub use scheduling::{
    Engine, EngineConfig, Event, FinishReason, Job, JobHandle, MAX_STOP_BYTES, MAX_STOP_STRINGS, MemoryUse,
    Presence, Sink, StartError, SubmitError, Text, Usage,
};
pub use template::TemplateError;
pub use tokenizer::TokenizerError;

/// How many processors this process may use. The system is asked once, through files: a process that is
/// confined later can still know what it was told before.
pub fn processors() -> NonZeroUsize {
    static PROCESSORS: OnceLock<NonZeroUsize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}
