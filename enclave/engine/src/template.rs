//! The chat template of a model file: messages to tokens.
//!
//! A template is Jinja that joins message contents and control tokens into one string. If that string were
//! simply searched for control tokens, a user who writes `<|im_end|>` could end the turn and speak as
//! somebody else. Therefore [`guard`] replaces each character of a message that could be part of a control
//! token with a stand-in before the template runs. Control tokens are then searched for only among the
//! characters that the template itself wrote. The stand-ins become text again afterwards. A template still
//! finds the text that it looks for in a message: comparisons, methods, filters and tests see the original
//! ([`comparisons`], [`strings`]).

#![deny(clippy::indexing_slicing)]

mod comparisons;
mod guard;
mod input;
mod python;
mod strings;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::SystemTime};

use guard::Guard;
use input::Input;
use minijinja::{Environment, Error, ErrorKind, syntax::SyntaxConfig, value::Value};

use crate::{
    chat::Chat,
    forms::Forms,
    prompt::PromptError,
    scratch::{Scratch, ScratchText},
    tokenizer::Tokenizer,
};

/// Work a template may do, in instructions of the interpreter.
const FUEL: u64 = 4_000_000;
/// Nesting of template calls.
const RECURSION: usize = 64;
/// Bytes a template may write beyond four times the longest text a context can hold (a stand-in takes four
/// bytes).
const OUTPUT_ALLOWANCE: usize = 64 * 1024;
/// Roles a template may see. They are compared, not guarded, because some templates build control tokens from
/// them.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

const NAME: &str = "chat";

/// A chat template that does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tokenizer.chat_template does not parse, line {line}")]
pub struct TemplateError {
    /// Line of the template, from 1; 0 when not known.
    pub line: usize,
}

/// A parsed chat template.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    forms: Forms,
}

/// A chat as tokens.
pub(crate) struct Rendered {
    pub(crate) tokens: Scratch<u32>,
    /// The mark that ends the thought in the middle of which the prompt leaves the model.
    pub(crate) thought_ends_with: Option<&'static str>,
}

impl ChatTemplate {
    pub(crate) fn new(source: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // Published templates are written for these two settings of Jinja.
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(|_| TemplateError { line: 0 })?,
        );
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.add_function("raise_exception", |_reason: &str| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "refused by the template"))
        });
        let mut template = Self { environment, forms: Forms::of_template(source) };
        template.set_clock(SystemTime::now);
        template
            .environment
            .add_template_owned(NAME, comparisons::compared_as_written(&without_generation_tags(source)))
            .map_err(|error| TemplateError { line: error.line().unwrap_or(0) })?;
        Ok(template)
    }

    /// How answers say more than text.
    pub(crate) fn forms(&self) -> Forms {
        self.forms
    }

    /// The clock of `strftime_now`.
    pub(crate) fn set_clock(&mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) {
        self.environment.add_function("strftime_now", move |format: &str| {
            let since = now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let text = python::strftime(format, since.as_secs());
            text.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "an unknown directive of strftime"))
        });
    }

    /// The tokens of a chat up to where the assistant's answer begins. `text_limit` is the most bytes of text
    /// that can fit into the model's context.
    pub(crate) fn tokens(
        &self,
        tokenizer: &Tokenizer,
        chat: &Chat<'_>,
        text_limit: usize,
    ) -> Result<Rendered, PromptError> {
        if chat.messages.iter().any(|message| !ROLES.contains(&message.role)) {
            return Err(PromptError::Role);
        }
        let input = Input::read(chat)?;
        let mut bytes = 0_usize;
        input.each_text(&mut |text| bytes = bytes.saturating_add(text.len()));
        if bytes > text_limit {
            return Err(PromptError::TooLong { bytes, limit: text_limit });
        }
        let guard = Guard::new(tokenizer.control_alphabet(), |each| input.each_text(each))
            .ok_or(PromptError::Template("the messages use every private-use character"))?;
        let guard = Arc::new(guard);
        let rendered = self.render(tokenizer, &guard, &input, text_limit)?;
        match std::str::from_utf8(&rendered) {
            Ok(rendered) => Ok(Rendered {
                tokens: tokens_of(tokenizer, &guard, rendered),
                thought_ends_with: self.forms.opened_by(rendered),
            }),
            Err(_) => Err(PromptError::Template("its output is not UTF-8")),
        }
    }

    fn render(
        &self,
        tokenizer: &Tokenizer,
        guard: &Arc<Guard>,
        input: &Input<'_>,
        text_limit: usize,
    ) -> Result<Scratch<u8>, PromptError> {
        let mut environment = self.environment.clone();
        strings::add_to(&mut environment, guard);
        let mut variables = input.variables(guard, self.forms);
        variables.push(("add_generation_prompt".to_owned(), Value::from(true)));
        variables.push(("bos_token".to_owned(), Value::from(tokenizer.bos_text())));
        variables.push(("eos_token".to_owned(), Value::from(tokenizer.eos_text())));
        let variables = Value::from_pairs(variables);
        let limit = text_limit.saturating_mul(4).saturating_add(OUTPUT_ALLOWANCE);
        let mut output = Output { bytes: Scratch::new(), limit };
        let template = environment.get_template(NAME).map_err(|error| refusal(&error))?;
        template.render_captured_to(variables, &mut output).map_err(|error| refusal(&error))?;
        Ok(output.bytes)
    }
}

/// The template without the tags with which Transformers marks the assistant's text: `{% generation %}` and
/// its end. They do not change the text. A condition that always holds replaces them and keeps their
/// white-space control.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_start_matches("{%").trim_end_matches("%}");
        let word = word.trim_matches(|character: char| character.is_whitespace() || "+-".contains(character));
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Control tokens where the template wrote them, everything else as text.
fn tokens_of(tokenizer: &Tokenizer, guard: &Guard, rendered: &str) -> Scratch<u32> {
    let mut tokens = Scratch::new();
    let mut text = ScratchText::with_capacity(rendered.len());
    let mut rest = rendered;
    while let Some(character) = rest.chars().next() {
        let length = match tokenizer.control(rest) {
            Some((token, length)) => {
                tokenizer.encode_text(&text, &mut tokens);
                text.clear();
                tokens.push(token);
                let after = rest.get(length..).unwrap_or_default();
                let trimmed = if tokenizer.is_trimmed_after(token) { after.trim_start() } else { after };
                rest.len() - trimmed.len()
            }
            None => {
                text.push(guard.restore(character));
                character.len_utf8()
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    tokenizer.encode_text(&text, &mut tokens);
    tokens
}

/// The kind of error. The interpreter's own message is left out because it may quote the chat.
fn refusal(error: &Error) -> PromptError {
    PromptError::Template(match error.kind() {
        ErrorKind::OutOfFuel => "it did too much work",
        ErrorKind::WriteFailure => "its output is too long",
        ErrorKind::InvalidOperation => "it refused them",
        ErrorKind::UndefinedError => "it needs a value that chats here do not have",
        ErrorKind::UnknownFunction
        | ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownMethod => "it uses a function that is not supported",
        _ => "it failed",
    })
}

/// The rendering, of a bounded length.
struct Output {
    bytes: Scratch<u8>,
    limit: usize,
}

impl std::io::Write for Output {
    fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
        if more.len() > self.limit - self.bytes.len() {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
