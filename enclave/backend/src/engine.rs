//! What the measured configuration says of an engine of its own process.

use std::num::NonZeroU32;
use std::time::Duration;

/// The dialect that an engine speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// vLLM: counts prompts, salts its caches, tells usage with every event.
    Vllm,
    /// llama.cpp's `llama-server`: counts prompts, and is told to look for no cached prompt.
    LlamaServer,
    /// OpenAI's API and nothing else.
    OpenAi,
}

/// What the measured configuration says of an engine.
#[derive(Debug, Clone)]
pub struct EngineFacts {
    /// Its dialect.
    pub flavour: Flavour,
    /// The name under which the engine knows the model.
    pub model: String,
    /// Tokens of a prompt and its answer together, at most.
    pub context: NonZeroU32,
    /// Whether it can be told of tools.
    pub tools: bool,
    /// Whether it tells what the model thinks apart from what it says.
    pub reasoning: bool,
    /// Whether the model's template knows `enable_thinking`.
    pub thinking_switch: bool,
    /// Whether it can be told how much to think.
    pub effort: bool,
    /// Whether it tells the probabilities of tokens.
    pub logprobs: bool,
    /// The longest time without an event. A prompt that is being read sends none.
    pub silence: Duration,
    /// The longest time from the engine's start until it is ready.
    pub start: Duration,
}
