//! The forms of a model's thoughts and tool calls. The model's chat template defines them.
//!
//! | form of calls | what the model writes |
//! |---|---|
//! | Hermes, Qwen | `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as often as it calls |
//! | Llama 3 | `{"name": …, "parameters": {…}}`, and nothing else |
//! | Mistral | `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` |
//! | Mistral, since 2025 | `[TOOL_CALLS]name[ARGS]{…}`, as often as it calls |
//! | Harmony (gpt-oss) | `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}` |

mod reader;
#[cfg(test)]
mod tests;

pub use reader::{AnswerReader, Part};

/// How a model calls tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallForm {
    Hermes,
    Llama,
    MistralList,
    MistralNamed,
    Harmony,
}

/// How a model marks what it thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThoughtForm {
    /// Between two marks.
    Marks(&'static str, &'static str),
    Harmony,
}

/// What a chat template says of its model's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forms {
    pub(crate) calls: Option<CallForm>,
    pub(crate) thoughts: Option<ThoughtForm>,
    /// Whether the template asks for `enable_thinking`.
    pub(crate) has_switch: bool,
    /// Whether the template asks for `reasoning_effort`.
    pub(crate) has_effort: bool,
}

/// The marks of tags that are read here.
const THINK: ThoughtForm = ThoughtForm::Marks("<think>", "</think>");
const BRACKETS: ThoughtForm = ThoughtForm::Marks("[THINK]", "[/THINK]");

impl Forms {
    pub(crate) fn of_template(source: &str) -> Self {
        let has = |text: &str| source.contains(text);
        let is_harmony = has("<|channel|>") && has("<|message|>");
        // Qwen's coders write parameters as tags inside the same marks, which is another form.
        let calls = match () {
            () if !has("tools") => None,
            () if is_harmony => Some(CallForm::Harmony),
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Some(CallForm::MistralNamed),
            () if has("[TOOL_CALLS]") => Some(CallForm::MistralList),
            () if has("<tool_call>") && !has("<function=") && !has("<arg_key>") => Some(CallForm::Hermes),
            () if has("<|start_header_id|>") && has("parameters") => Some(CallForm::Llama),
            () => None,
        };
        let thoughts = match () {
            () if is_harmony => Some(ThoughtForm::Harmony),
            () if has("</think>") => Some(THINK),
            () if has("[/THINK]") => Some(BRACKETS),
            () => None,
        };
        Self { calls, thoughts, has_switch: has("enable_thinking"), has_effort: has("reasoning_effort") }
    }

    /// Whether an answer can be more than text.
    pub(crate) fn is_plain(self) -> bool {
        self.calls.is_none() && self.thoughts.is_none()
    }

    /// Control tokens that an answer shows by their text, so that it can be read.
    pub(crate) fn marks(self) -> impl Iterator<Item = &'static str> {
        let of_calls: &[&str] = match self.calls {
            Some(CallForm::Hermes) => &["<tool_call>", "</tool_call>"],
            Some(CallForm::Llama) => &["<|python_tag|>"],
            Some(CallForm::MistralList) => &["[TOOL_CALLS]"],
            Some(CallForm::MistralNamed) => &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
            Some(CallForm::Harmony) | None => &[],
        };
        let of_thoughts: &[&str] = match self.thoughts {
            Some(THINK) => &["<think>", "</think>"],
            Some(BRACKETS) => &["[THINK]", "[/THINK]"],
            Some(ThoughtForm::Harmony) => {
                &["<|channel|>", "<|message|>", "<|constrain|>", "<|start|>", "<|end|>"]
            }
            Some(ThoughtForm::Marks(..)) | None => &[],
        };
        of_calls.iter().chain(of_thoughts).copied()
    }

    /// The mark with which a prompt leaves the model in the middle of its thoughts, if it does.
    pub(crate) fn opened_by(self, prompt: &str) -> Option<&'static str> {
        match self.thoughts {
            Some(ThoughtForm::Marks(open, close)) if prompt.trim_end().ends_with(open) => Some(close),
            _ => None,
        }
    }
}
