//! Tools, and whether they are called: what both APIs say of them in words of their own.

use cleanroom_backend::{Abilities, Conversation, Tool, ToolChoice};

use super::error::ApiError;
use super::json::{Field, Object, ParameterName};
use super::request::RequestLimits;
use super::secret::{SecretBuffer, SecretString};
use super::text::escape;

/// Longest description of a tool (bytes).
const MAX_DESCRIPTION: usize = 64 * 1024;
/// Longest name of a tool (bytes).
pub(crate) const MAX_NAME: usize = 128;
/// Longest id of a call (bytes).
pub(crate) const MAX_ID: usize = 256;
/// Longest word that is one of a few.
const MAX_WORD: usize = 32;

/// A name that can stand in every form of calls without escapes.
pub(crate) fn name(field: &Field<'_>) -> Result<SecretString, ApiError> {
    let name = field.string(MAX_NAME)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.as_str().is_empty() || !name.as_str().bytes().all(is_plain) {
        return Err(field.invalid(format!("1 to {MAX_NAME} letters, digits, underscores and dashes")));
    }
    Ok(name)
}

/// A list of tools, each taken by `tool` or left out by it, none with the name of another.
pub(crate) fn list(
    field: &Field<'_>,
    limits: &RequestLimits,
    mut tool: impl FnMut(&Field<'_>, &RequestLimits) -> Result<Option<Tool>, ApiError>,
) -> Result<Vec<Tool>, ApiError> {
    let mut tools: Vec<Tool> = Vec::new();
    for element in field.array(0..=limits.tools)? {
        let Some(tool) = tool(&element, limits)? else { continue };
        if tools.iter().any(|other| other.name.as_str() == tool.name.as_str()) {
            return Err(element.invalid("a tool with a name of its own"));
        }
        tools.push(tool);
    }
    Ok(tools)
}

/// The members of a tool that both APIs have; `parameters` is the name of its schema.
pub(crate) fn described(
    object: &mut Object<'_>,
    parameters: &'static str,
    limits: &RequestLimits,
) -> Result<Tool, ApiError> {
    Ok(Tool {
        name: name(&object.require("name")?)?,
        description: object.take("description").map(|field| field.string(MAX_DESCRIPTION)).transpose()?,
        parameters: object
            .take(parameters)
            .map(|field| field.object_text(limits.schema_bytes))
            .transpose()?,
        strict: object.take("strict").map_or(Ok(false), |field| field.boolean())?,
    })
}

/// The arguments of a tool whose input is a text, since models and their templates know objects only.
pub(crate) const TEXT_INPUT: &str = r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}"#;

/// The input of a tool whose input is a text, as arguments.
pub(crate) fn text_arguments(input: &SecretString) -> SecretString {
    let mut arguments = SecretBuffer::default();
    arguments.push(br#"{"input":""#);
    escape(&mut arguments, input.as_str());
    arguments.push(br#""}"#);
    SecretString::new(str::from_utf8(arguments.as_slice()).unwrap_or_default())
}

/// The input of a tool whose input is a text, out of the arguments of a call. Arguments that were cut short are the input as
/// they are.
pub(crate) fn text_input(arguments: &str) -> SecretString {
    let input = Object::from_body(arguments.as_bytes()).ok().and_then(|mut members| members.take("input"));
    input.and_then(|input| input.string(arguments.len()).ok()).unwrap_or_else(|| SecretString::new(arguments))
}

/// A tool whose input is a text. The model is told the grammar of the text, and nothing holds the model to it.
pub(crate) fn with_text_input(object: &mut Object<'_>, limits: &RequestLimits) -> Result<Tool, ApiError> {
    const FORMATS: &str = "'text' or 'grammar'";
    let mut tool = Tool {
        name: name(&object.require("name")?)?,
        description: object.take("description").map(|field| field.string(MAX_DESCRIPTION)).transpose()?,
        parameters: Some(SecretString::new(TEXT_INPUT)),
        strict: true,
    };
    let Some(format) = object.take("format") else { return Ok(tool) };
    let mut format = format.object()?;
    let kind = format.require("type")?;
    match kind.string(MAX_WORD).map_err(|_| kind.invalid(FORMATS))?.as_str() {
        "text" => {}
        "grammar" => {
            let syntax = format.require("syntax")?;
            let syntax = syntax
                .string(MAX_WORD)
                .ok()
                .filter(|word| matches!(word.as_str(), "lark" | "regex"))
                .ok_or_else(|| syntax.invalid("'lark' or 'regex'"))?;
            let definition = format.require("definition")?.string(limits.schema_bytes)?;
            let described = tool.description.take().unwrap_or_default();
            tool.description = Some(SecretString::concat(&[
                described,
                SecretString::new("\nThe input follows this grammar ("),
                syntax,
                SecretString::new("):\n"),
                definition,
            ]));
        }
        _ => return Err(kind.invalid(FORMATS)),
    }
    format.finish()?;
    Ok(tool)
}

/// A tool of OpenAI's chats.
pub(crate) fn openai_tool(field: &Field<'_>, limits: &RequestLimits) -> Result<Tool, ApiError> {
    let mut object = field.object()?;
    let kind = object.require("type")?;
    if kind.string(MAX_WORD).map_or(true, |kind| kind.as_str() != "function") {
        return Err(kind.invalid("'function', the only kind of tool that is supported"));
    }
    let mut function = object.require("function")?.object()?;
    let tool = described(&mut function, "parameters", limits)?;
    function.finish()?;
    object.finish()?;
    Ok(tool)
}

/// `tool_choice` of OpenAI's. `nested` says whether the name stands in an object of its own, as in chats.
pub(crate) fn openai_choice(field: &Field<'_>, tools: &[Tool], nested: bool) -> Result<ToolChoice, ApiError> {
    const CHOICES: &str = "'auto', 'none', 'required', or a function by its name";
    if field.is_string() {
        return match field.string(MAX_WORD).map_err(|_| field.invalid(CHOICES))?.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => must(field, tools),
            _ => Err(field.invalid(CHOICES)),
        };
    }
    let mut object = field.object().map_err(|_| field.invalid(CHOICES))?;
    let kind = object.require("type")?;
    let kinds: &[&str] = if nested { &["function"] } else { &["function", "custom"] };
    if kind.string(MAX_WORD).map_or(true, |kind| !kinds.contains(&kind.as_str())) {
        return Err(kind.invalid("a function or a custom tool by its name; in chats a function"));
    }
    let name = if nested {
        let mut function = object.require("function")?.object()?;
        let name = function.require("name")?;
        function.finish()?;
        name
    } else {
        object.require("name")?
    };
    object.finish()?;
    named(&name, tools)
}

/// Some tool must be called.
pub(crate) fn must(field: &Field<'_>, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    if tools.is_empty() {
        Err(field.invalid("tools, one of which can be called"))
    } else {
        Ok(ToolChoice::Required)
    }
}

/// The tool with this name must be called.
pub(crate) fn named(field: &Field<'_>, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    let name = name(field)?;
    let index = tools.iter().position(|tool| tool.name.as_str() == name.as_str());
    index.map(ToolChoice::Named).ok_or_else(|| field.invalid("the name of one of the tools"))
}

/// What a request says of thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// Nothing.
    Unsaid,
    /// Not at all, unless the model always does.
    Off,
    /// As much as the model finds fit, if it can think at all.
    IfAble,
    On,
    /// So much.
    Effort(&'static str),
}

/// Words for how much a model is to think.
const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

impl Thinking {
    /// A level of effort.
    pub(crate) fn effort(field: &Field<'_>) -> Result<Self, ApiError> {
        let expected = || field.invalid("'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'");
        let level = field.string(MAX_WORD).map_err(|_| expected())?;
        EFFORTS
            .iter()
            .find(|known| **known == level.as_str())
            .map(|known| Self::Effort(known))
            .ok_or_else(expected)
    }
}

/// Names of the parameters that a refusal names, in the words of one API.
pub(crate) struct AbilityNames {
    pub(crate) tools: &'static str,
    pub(crate) messages: &'static str,
    pub(crate) thinking: &'static str,
    pub(crate) effort: &'static str,
}

/// Refuses what the model cannot do, and tells its template what it asks for.
pub(crate) fn settle(
    conversation: &mut Conversation,
    thinking: Thinking,
    abilities: &Abilities,
    names: &AbilityNames,
) -> Result<(), ApiError> {
    let cannot = |param: &'static str, what: &'static str| {
        Err(ApiError::ModelCannot { param: ParameterName::known(param), what })
    };
    let uses_tools = !conversation.tools.is_empty() && conversation.choice != ToolChoice::None;
    if uses_tools && !abilities.tools {
        return cannot(names.tools, "call tools: its chat template has no form for it that is known here");
    }
    let has_calls =
        |message: &cleanroom_backend::Message| !message.calls.is_empty() || message.answers.is_some();
    if !abilities.tools && conversation.messages.iter().any(has_calls) {
        return cannot(
            names.messages,
            "read calls of tools: its chat template has no form for it that is known here",
        );
    }
    match thinking {
        Thinking::Unsaid => {}
        Thinking::Off => conversation.thinks = abilities.has_switch.then_some(false),
        Thinking::IfAble if !abilities.reasoning => {}
        Thinking::On if !abilities.reasoning => return cannot(names.thinking, "tell what it thinks"),
        Thinking::On | Thinking::IfAble => conversation.thinks = abilities.has_switch.then_some(true),
        Thinking::Effort(level) if abilities.has_effort => {
            conversation.effort = Some(level);
            conversation.thinks = abilities.has_switch.then_some(level != "none");
        }
        Thinking::Effort(level) if abilities.has_switch => {
            conversation.thinks = Some(!matches!(level, "none" | "minimal"));
        }
        Thinking::Effort("none") => {}
        Thinking::Effort(_) => return cannot(names.effort, "be told how much to think"),
    }
    Ok(())
}
