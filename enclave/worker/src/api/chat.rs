//! `POST /v1/chat/completions`: what a conversation may look like, and how its answer does.

use cleanroom_backend::{Conversation, MAX_TOP_LOGPROBS, Message, ToolCall};

use super::conversation::ConversationRequest;
use super::error::ApiError;
use super::json::{Field, Object};
use super::request::{Form, Parameters, RequestLimits, limit, top_logprobs, without_stop};
use super::scores::ScoresForm;
use super::secret::SecretString;
use super::shape::Wording;
use super::tools::{self, AbilityNames, Thinking};

/// The answer around its text.
pub(crate) const WORDING: Wording = Wording {
    id_prefix: "chatcmpl-",
    whole_object: "chat.completion",
    whole: [r#","message":{"role":"assistant""#, r#"},"logprobs":"#],
    chunk_object: "chat.completion.chunk",
    first: Some(
        r#","delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}"#,
    ),
    piece: [r#","delta":{"content":""#, r#""},"logprobs":"#],
    last: r#","delta":{}"#,
    scores: ScoresForm::List,
    is_chat: true,
};

/// Defined by OpenAI for this endpoint and not implemented: the parameter, and the JSON values that mean the same as
/// leaving it out.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("audio", &[]),
    ("function_call", &[r#""none""#, r#""auto""#]),
    ("functions", &["[]"]),
    ("metadata", &["{}"]),
    ("modalities", &[r#"["text"]"#]),
    ("moderation", &[]),
    ("prediction", &[]),
    ("prompt_cache_options", &[]),
    ("prompt_cache_retention", &[]),
    ("service_tier", &[r#""auto""#, r#""default""#]),
    ("store", &["false"]),
    ("verbosity", &[r#""medium""#]),
    ("web_search_options", &[]),
];

/// The same for one message. Clients send an assistant's message back as they got it, with these members empty.
const UNSUPPORTED_IN_MESSAGE: &[(&str, &[&str])] =
    &[("annotations", &["[]"]), ("audio", &[]), ("function_call", &[]), ("refusal", &[])];

const ROLES: &str = "'system', 'developer', 'user', 'assistant' or 'tool'";

/// Longest role that is read (bytes).
const MAX_ROLE: usize = 32;

/// Names of parameters that ask for what not every model can do.
pub(crate) const ABILITIES: AbilityNames = AbilityNames {
    tools: "tools",
    messages: "messages",
    thinking: "enable_thinking",
    effort: "reasoning_effort",
};

/// Longest variables for a template (bytes).
const MAX_VARIABLES: usize = 16 * 1024;

/// Reads a conversation of `POST /v1/chat/completions`.
///
/// # Errors
/// What the client has to change.
pub(crate) fn parse(
    body: &[u8],
    limits: &RequestLimits,
    default_seed: u64,
) -> Result<ConversationRequest, ApiError> {
    let mut object = Object::from_body(body)?;
    object.take_all_neutral(UNSUPPORTED)?;
    let mut parameters = Parameters::take(&mut object, limits, default_seed)?;
    let newer = object.take("max_completion_tokens");
    parameters.max_tokens = match (newer, parameters.max_tokens) {
        (Some(field), Some(_)) => {
            return Err(field.invalid("only one of max_tokens and max_completion_tokens"));
        }
        (Some(field), None) => limit(&field)?,
        (None, older) => older,
    };
    parameters.logprobs = logprobs(&mut object)?;
    parameters.limit_scores()?;
    if let Some(format) = object.take("response_format") {
        parameters.form = without_stop(form(&format, limits)?, &parameters, "stop")?;
    }
    let thinking = thinking(&mut object)?;
    let mut conversation = Conversation { parallel: true, ..Conversation::default() };
    if let Some(tools) = object.take("tools") {
        conversation.tools =
            tools::list(&tools, limits, |field, limits| tools::openai_tool(field, limits).map(Some))?;
    }
    if let Some(choice) = object.take("tool_choice") {
        conversation.choice = tools::openai_choice(&choice, &conversation.tools, true)?;
    }
    if let Some(parallel) = object.take("parallel_tool_calls") {
        conversation.parallel = parallel.boolean()?;
    }
    if let Some(variables) = object.take("chat_template_kwargs") {
        conversation.variables = Some(variables.object_text(MAX_VARIABLES)?);
    }
    let messages = object.require("messages")?.array(1..=limits.messages)?;
    object.finish()?;
    conversation.messages = messages.iter().map(|field| message(field, limits)).collect::<Result<_, _>>()?;
    Ok(ConversationRequest { parameters, conversation, thinking })
}

/// `reasoning_effort` of OpenAI's, and `enable_thinking`, which others' clients send.
fn thinking(object: &mut Object<'_>) -> Result<Thinking, ApiError> {
    let effort = object.take("reasoning_effort").map(|field| Thinking::effort(&field)).transpose()?;
    let Some(switch) = object.take("enable_thinking") else { return Ok(effort.unwrap_or(Thinking::Unsaid)) };
    match (switch.boolean()?, effort) {
        (_, Some(_)) => Err(switch.invalid("only one of enable_thinking and reasoning_effort")),
        (true, None) => Ok(Thinking::On),
        (false, None) => Ok(Thinking::Off),
    }
}

/// Whether each token's probability is told, and of how many likelier ones.
fn logprobs(object: &mut Object<'_>) -> Result<Option<u8>, ApiError> {
    let wanted = object.take("logprobs").map_or(Ok(false), |field| field.boolean())?;
    let Some(top) = object.take("top_logprobs") else { return Ok(wanted.then_some(0)) };
    let count = top_logprobs(&top, MAX_TOP_LOGPROBS)?;
    match (wanted, count) {
        (true, count) => Ok(Some(count)),
        (false, 0) => Ok(None),
        (false, _) => Err(top.invalid("no top_logprobs, because logprobs is not true")),
    }
}

/// Longest name and description of a schema (bytes). They change nothing.
const MAX_LABEL: usize = 4096;

fn form(field: &Field<'_>, limits: &RequestLimits) -> Result<Form, ApiError> {
    const KINDS: &str = "'text', 'json_object' or 'json_schema'";
    let mut object = field.object()?;
    let kind = object.require("type")?;
    let form = match kind.string(MAX_ROLE).map_err(|_| kind.invalid(KINDS))?.as_str() {
        "text" => Form::Text,
        "json_object" => Form::JsonObject,
        "json_schema" => {
            let mut definition = object.require("json_schema")?.object()?;
            definition.require("name")?.string(MAX_LABEL)?;
            if let Some(description) = definition.take("description") {
                description.string(MAX_LABEL)?;
            }
            // Every schema is kept to strictly.
            if let Some(strict) = definition.take("strict") {
                strict.boolean()?;
            }
            let schema = definition.require("schema")?.object_text(limits.schema_bytes)?;
            definition.finish()?;
            Form::JsonSchema { schema, param: "response_format.json_schema.schema" }
        }
        _ => return Err(kind.invalid(KINDS)),
    };
    object.finish()?;
    Ok(form)
}

fn message(field: &Field<'_>, limits: &RequestLimits) -> Result<Message, ApiError> {
    let mut object = field.object()?;
    object.take_all_neutral(UNSUPPORTED_IN_MESSAGE)?;
    let role = role(&object.require("role")?)?;
    let mut message = Message::new(role, SecretString::default());
    message.name = object.take("name").map(|name| name.string(MAX_LABEL)).transpose()?;
    if role == "assistant" {
        // What it thought comes back under either name.
        for name in ["reasoning_content", "reasoning"] {
            if let Some(reasoning) = object.take(name) {
                message.reasoning = Some(reasoning.string(limits.text_bytes)?);
            }
        }
        if let Some(calls) = object.take("tool_calls") {
            let calls = calls.array(0..=limits.tools)?;
            message.calls = calls.iter().map(|field| call(field, limits)).collect::<Result<_, _>>()?;
        }
    } else {
        object.take_neutral("tool_calls", &["[]"])?;
    }
    if role == "tool" {
        message.answers = Some(object.require("tool_call_id")?.string(tools::MAX_ID)?);
    }
    match object.take("content") {
        Some(text) => message.content = content(&text, limits, &[])?,
        // Who calls need not speak.
        None if !message.calls.is_empty() => {}
        None => return Err(object.missing("content")),
    }
    object.finish()?;
    Ok(message)
}

/// A call that the assistant made.
fn call(field: &Field<'_>, limits: &RequestLimits) -> Result<ToolCall, ApiError> {
    let mut object = field.object()?;
    if let Some(kind) = object.take("type")
        && kind.string(MAX_ROLE).map_or(true, |kind| kind.as_str() != "function")
    {
        return Err(kind.invalid("'function', the only kind of call that is supported"));
    }
    if let Some(index) = object.take("index") {
        index.integer(0..=i64::MAX)?;
    }
    let id = object.require("id")?.string(tools::MAX_ID)?;
    let mut function = object.require("function")?.object()?;
    object.finish()?;
    let name = tools::name(&function.require("name")?)?;
    let arguments = function.require("arguments")?.string(limits.text_bytes)?;
    function.finish()?;
    Ok(ToolCall { id, name, arguments })
}

pub(crate) fn role(field: &Field<'_>) -> Result<&'static str, ApiError> {
    let invalid = |_| field.invalid(ROLES);
    match field.string(MAX_ROLE).map_err(invalid)?.as_str() {
        // Since its reasoning models OpenAI calls the system's messages the developer's; templates know the older name.
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" => Ok("tool"),
        _ => Err(field.invalid(ROLES)),
    }
}

/// A string, or text parts, which are joined with nothing between them. `neutral` are members of a part that may only have
/// values that mean nothing.
pub(crate) fn content(
    field: &Field<'_>,
    limits: &RequestLimits,
    neutral: &[(&str, &'static [&'static str])],
) -> Result<SecretString, ApiError> {
    content_of(field, limits, &["text"], neutral)
}

/// The same with parts of these kinds.
pub(crate) fn content_of(
    field: &Field<'_>,
    limits: &RequestLimits,
    kinds: &[&str],
    neutral: &[(&str, &'static [&'static str])],
) -> Result<SecretString, ApiError> {
    if field.is_string() {
        return field.string(limits.text_bytes);
    }
    if !field.is_array() {
        return Err(field.invalid("a string, or an array of text parts"));
    }
    let text = |part: &Field<'_>| {
        let mut part = part.object()?;
        let kind = part.require("type")?;
        if kind.string(MAX_ROLE).map_or(true, |kind| !kinds.contains(&kind.as_str())) {
            let kinds = kinds.join("' or '");
            return Err(kind.invalid(format!("'{kinds}', the only kind of content that is supported")));
        }
        let text = part.require("text")?.string(limits.text_bytes)?;
        part.take_all_neutral(neutral)?;
        part.finish()?;
        Ok(text)
    };
    let parts = field.array(1..=limits.parts)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(SecretString::concat(&parts))
}
