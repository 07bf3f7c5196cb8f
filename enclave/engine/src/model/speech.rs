//! Conversations with a model: prompts with tools, and answers that are more than text.

use std::sync::Arc;

use super::Model;
use crate::{
    chat::Chat,
    constraint::{CallableTool, CallsWanted, Constraint, SchemaError, TokenTable},
    forms::{AnswerReader, CallForm, Forms, ThoughtForm},
    prompt::{Prompt, PromptError},
    scratch::ScratchText,
};

/// The prompt of a conversation.
pub struct ChatPrompt {
    /// Its tokens.
    pub prompt: Prompt,
    /// The mark that ends the thought in the middle of which the prompt leaves the model.
    thought_ends_with: Option<&'static str>,
}

/// What a model's chat template lets it do beside text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Speech {
    /// Whether it can be told of tools, and its calls can be read.
    pub tools: bool,
    /// Whether it says what it thinks apart from what it says.
    pub reasoning: bool,
    /// Whether it can be told to think or not to.
    pub has_switch: bool,
    /// Whether it can be told how much to think.
    pub has_effort: bool,
}

impl Model {
    /// What answers to a chat can be. Nothing without a chat template that can be used.
    pub fn speech(&self) -> Speech {
        let Some(forms) = self.forms() else { return Speech::default() };
        let Forms { calls, thoughts, has_switch, has_effort } = forms;
        Speech { tools: calls.is_some(), reasoning: thoughts.is_some(), has_switch, has_effort }
    }

    fn forms(&self) -> Option<Forms> {
        self.template.as_ref()?.as_ref().ok().map(crate::template::ChatTemplate::forms)
    }

    /// Applies the model's chat template to a conversation, and asks for the assistant's turn.
    ///
    /// # Errors
    /// [`PromptError`], never with any of the text.
    pub fn prompt_from_conversation(&self, chat: &Chat<'_>) -> Result<ChatPrompt, PromptError> {
        let template = self.template.as_ref().ok_or(PromptError::NoTemplate)?;
        let template = template.as_ref().map_err(|_| PromptError::UnusableTemplate)?;
        let rendered = template.tokens(&self.tokenizer, chat, self.text_limit())?;
        Ok(ChatPrompt { prompt: self.prompt(rendered.tokens), thought_ends_with: rendered.thought_ends_with })
    }

    /// A reader of the answers to a prompt, in which calls of these tools are looked for. `None` for a model whose
    /// answers are text and nothing else. Its jobs must [show marks](crate::Job::shows_marks).
    pub fn answer_reader(
        &self,
        prompt: &ChatPrompt,
        tools: Option<&[CallableTool<'_>]>,
    ) -> Option<AnswerReader> {
        let forms = self.forms().filter(|forms| !forms.is_plain())?;
        let tools = tools.map(|tools| tools.iter().map(|tool| ScratchText::from(tool.name)).collect());
        Some(AnswerReader::new(forms, tools, prompt.thought_ends_with.is_some()))
    }

    /// Answers in which each call has its form, and arguments that are valid for the tool's schema.
    ///
    /// # Errors
    /// The index of the tool whose schema is not supported, and why.
    pub fn constrained_to_calls(
        &self,
        prompt: &ChatPrompt,
        wanted: &CallsWanted<'_>,
    ) -> Result<Option<Constraint>, (usize, SchemaError)> {
        let Some(form) = self.forms().and_then(|forms| forms.calls) else { return Ok(None) };
        let constraint = Constraint::calls(form, wanted, self.shown_token_table())?;
        // Harmony's thoughts have messages of their own, in front of any.
        let after = prompt.thought_ends_with.filter(|_| form != CallForm::Harmony);
        Ok(Some(match after {
            Some(mark) => constraint.after(mark),
            None => constraint,
        }))
    }

    /// The same form for what the answer to a prompt says, after what it thinks.
    #[must_use]
    pub fn after_thought(&self, prompt: &ChatPrompt, constraint: Constraint) -> Constraint {
        let is_harmony = self.forms().is_some_and(|forms| forms.thoughts == Some(ThoughtForm::Harmony));
        let mark = if is_harmony { Some("<|channel|>final<|message|>") } else { prompt.thought_ends_with };
        match mark {
            Some(mark) => constraint.after(mark).with_tokens(self.shown_token_table()),
            None => constraint,
        }
    }

    /// What a token stands for in an answer that shows marks.
    pub(crate) fn shown_bytes(&self, token: u32) -> &[u8] {
        if self.marks.contains(&token) {
            self.tokenizer.text_of(token).as_bytes()
        } else {
            self.tokenizer.bytes_of(token)
        }
    }

    fn shown_token_table(&self) -> Arc<TokenTable> {
        let make = || Arc::new(TokenTable::new(&self.tokenizer, &self.marks));
        Arc::clone(self.shown_token_table.get_or_init(make))
    }
}

#[cfg(test)]
mod tests;
