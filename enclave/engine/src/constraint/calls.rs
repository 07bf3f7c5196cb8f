//! Calls of tools as a grammar: the form around them, the names there are, and arguments by their schemas.

use super::SchemaError;
use super::grammar::{Builder, Grammar, RETURN, State, StateId};
use super::json::Json;
use super::schema::Compiler;
use crate::forms::CallForm;

/// A tool that an answer may call.
#[derive(Clone, Copy)]
pub struct CallableTool<'a> {
    /// Letters, digits, `_` and `-`.
    pub name: &'a str,
    /// The JSON Schema of its arguments; none for any object.
    pub parameters: Option<&'a str>,
    /// Whether a schema that is not understood is an error. Otherwise the arguments are any object then.
    pub strict: bool,
}

/// What calls an answer may or must have.
#[derive(Clone, Copy)]
pub struct CallsWanted<'a> {
    /// Those that may be called. At least one.
    pub tools: &'a [CallableTool<'a>],
    /// Whether the answer must be a call.
    pub must: bool,
    /// Whether there may be several.
    pub parallel: bool,
    /// What an answer that is no call is held to: JSON of this schema.
    pub otherwise: Option<&'a str>,
}

/// The beginning of calls, as it is looked for in an answer of which calls are a part.
pub(super) fn marker(form: CallForm) -> &'static str {
    match form {
        CallForm::Hermes => "<tool_call>",
        CallForm::Llama => "{\"name\"",
        CallForm::MistralList | CallForm::MistralNamed => "[TOOL_CALLS]",
        CallForm::Harmony => " to=functions.",
    }
}

/// What comes before the marker where nothing but calls may come.
const fn opening(form: CallForm) -> &'static str {
    match form {
        CallForm::Harmony => "<|channel|>commentary",
        _ => "",
    }
}

/// Calls of these tools. `after_marker` leaves out the marker of the first.
pub(super) fn compile(
    form: CallForm,
    wanted: &CallsWanted<'_>,
    after_marker: bool,
) -> Result<Grammar, (usize, SchemaError)> {
    let mut roots = Vec::with_capacity(wanted.tools.len());
    for (index, tool) in wanted.tools.iter().enumerate() {
        let root = tool.parameters.map_or(Ok(None), |parameters| read(parameters).map(Some));
        roots.push(match root {
            Ok(root) => root,
            Err(error) if tool.strict => return Err((index, error)),
            Err(_) => None,
        });
    }
    let otherwise = wanted.otherwise.filter(|_| !wanted.must).map(read).transpose();
    let otherwise = otherwise.map_err(|error| (wanted.tools.len(), error))?;
    match grammar(form, wanted, &roots, otherwise.as_ref(), after_marker) {
        Ok(grammar) => Ok(grammar),
        // Each fits, and all together do not.
        Err(_) if wanted.tools.iter().all(|tool| !tool.strict) => {
            let any: Vec<Option<Json>> = roots.iter().map(|_| None).collect();
            grammar(form, wanted, &any, otherwise.as_ref(), after_marker).map_err(|error| (0, error))
        }
        Err(error) => Err((0, error)),
    }
}

/// A schema that can be compiled by itself.
fn read(schema: &str) -> Result<Json, SchemaError> {
    super::schema::compile(schema)?;
    serde_json::from_str(schema).map_err(|_| SchemaError::Json)
}

fn grammar(
    form: CallForm,
    wanted: &CallsWanted<'_>,
    roots: &[Option<Json>],
    otherwise: Option<&Json>,
    after_marker: bool,
) -> Result<Grammar, SchemaError> {
    let mut compiler = Compiler::new(&Json::Null)?;
    let mut tools = Vec::with_capacity(roots.len());
    for (tool, root) in wanted.tools.iter().zip(roots) {
        // A schema that says nothing of the type means an object.
        let rule = match root.as_ref().filter(|root| says_type(root)) {
            Some(root) => compiler.compile_root(root)?,
            None => compiler.any_object(),
        };
        tools.push((tool.name, rule));
    }
    let otherwise = otherwise.map(|root| compiler.compile_root(root)).transpose()?;
    let mut calls = Calls { builder: &mut compiler.builder, tools };
    let mut start = calls.after_marker(form, wanted.parallel)?;
    if !after_marker {
        start = calls.builder.literal(marker(form).as_bytes(), start)?;
        start = calls.builder.literal(opening(form).as_bytes(), start)?;
    }
    if let Some(rule) = otherwise {
        let json = compiler.builder.call(rule, RETURN)?;
        start = compiler.builder.split(vec![start, json])?;
    }
    compiler.builder.finish(start)
}

fn says_type(schema: &Json) -> bool {
    match schema {
        Json::Object(members) => members.iter().any(|(name, _)| ["type", "$ref"].contains(&name.as_str())),
        _ => false,
    }
}

struct Calls<'b, 't> {
    builder: &'b mut Builder,
    /// Names, and the rules of arguments.
    tools: Vec<(&'t str, StateId)>,
}

impl Calls<'_, '_> {
    /// The place behind the first marker.
    fn after_marker(&mut self, form: CallForm, parallel: bool) -> Result<StateId, SchemaError> {
        let start = match form {
            CallForm::Hermes => {
                let again = self.builder.reserve()?;
                let end = self.builder.literal(b"</tool_call>", again)?;
                let space = self.builder.white_space(end)?;
                let call = self.object("arguments", space)?;
                let start = self.builder.white_space(call)?;
                let next = self.builder.literal(marker(form).as_bytes(), start)?;
                let next = self.builder.white_space(next)?;
                self.repeat(again, next, parallel);
                start
            }
            CallForm::Llama => {
                let end = self.builder.byte(b'}', RETURN)?;
                self.named("parameters", end)?
            }
            CallForm::MistralList => {
                let again = self.builder.reserve()?;
                let space = self.builder.white_space(again)?;
                let call = self.object("arguments", space)?;
                let start = self.builder.white_space(call)?;
                let comma = self.builder.byte(b',', start)?;
                let end = self.builder.byte(b']', RETURN)?;
                let ways = if parallel { vec![end, comma] } else { vec![end] };
                self.builder.set(again, State::Split(ways.into()));
                let list = self.builder.byte(b'[', start)?;
                self.builder.white_space(list)?
            }
            CallForm::MistralNamed => {
                let again = self.builder.reserve()?;
                let call = self.spelled("[ARGS]", again)?;
                let next = self.builder.literal(marker(form).as_bytes(), call)?;
                self.repeat(again, next, parallel);
                call
            }
            CallForm::Harmony => self.spelled(" <|constrain|>json<|message|>", RETURN)?,
        };
        Ok(start)
    }

    /// After a call: the end, or another one.
    fn repeat(&mut self, again: StateId, next: StateId, parallel: bool) {
        let ways = if parallel { vec![RETURN, next] } else { vec![RETURN] };
        self.builder.set(again, State::Split(ways.into()));
    }

    /// `{"name": "f", "arguments": …}`
    fn object(&mut self, key: &str, next: StateId) -> Result<StateId, SchemaError> {
        let end = self.builder.byte(b'}', next)?;
        let named = self.named(key, end)?;
        let name = self.builder.literal(b"\"name\"", named)?;
        let space = self.builder.white_space(name)?;
        self.builder.byte(b'{', space)
    }

    /// `: "f", "arguments": …` and white space.
    fn named(&mut self, key: &str, next: StateId) -> Result<StateId, SchemaError> {
        let space = self.builder.white_space(next)?;
        let mut ways = Vec::with_capacity(self.tools.len());
        for (name, arguments) in &self.tools {
            let value = self.builder.call(*arguments, space)?;
            let value = self.builder.white_space(value)?;
            let colon = self.builder.byte(b':', value)?;
            let text = format!("\"{key}\"");
            let key = self.builder.literal(text.as_bytes(), colon)?;
            let key = self.builder.white_space(key)?;
            let comma = self.builder.byte(b',', key)?;
            ways.push(self.builder.literal(format!("\"{name}\"").as_bytes(), comma)?);
        }
        let names = self.builder.split(ways)?;
        let space = self.builder.white_space(names)?;
        self.builder.byte(b':', space)
    }

    /// `f`, `between`, and the arguments.
    fn spelled(&mut self, between: &str, next: StateId) -> Result<StateId, SchemaError> {
        let mut ways = Vec::with_capacity(self.tools.len());
        for (name, arguments) in &self.tools {
            let value = self.builder.call(*arguments, next)?;
            let between = self.builder.literal(between.as_bytes(), value)?;
            ways.push(self.builder.literal(name.as_bytes(), between)?);
        }
        self.builder.split(ways)
    }
}
