//! `POST /v1/chat/completions`: what a conversation may look like, and how its answer does.

use cleanroom_backend::{MAX_TOP_LOGPROBS, Message};

use super::error::ApiError;
use super::json::{Field, Object};
use super::request::{Form, Parameters, RequestLimits, limit, top_logprobs, without_stop};
use super::scores::ScoresForm;
use super::secret::SecretString;
use super::shape::Wording;

/// The answer around its text.
pub(crate) const WORDING: Wording = Wording {
    id_prefix: "chatcmpl-",
    whole_object: "chat.completion",
    whole: [r#","message":{"role":"assistant","content":""#, r#"","refusal":null},"logprobs":"#],
    chunk_object: "chat.completion.chunk",
    first: Some(
        r#","delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}"#,
    ),
    piece: [r#","delta":{"content":""#, r#""},"logprobs":"#],
    last: r#","delta":{}"#,
    scores: ScoresForm::List,
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
    ("parallel_tool_calls", &["true"]),
    ("prediction", &[]),
    ("prompt_cache_options", &[]),
    ("prompt_cache_retention", &[]),
    ("reasoning_effort", &[r#""none""#]),
    ("service_tier", &[r#""auto""#, r#""default""#]),
    ("store", &["false"]),
    ("tool_choice", &[r#""none""#, r#""auto""#]),
    ("tools", &["[]"]),
    ("verbosity", &[r#""medium""#]),
    ("web_search_options", &[]),
];

/// The same for one message. Clients send an assistant's message back as they got it, with these members empty.
const UNSUPPORTED_IN_MESSAGE: &[(&str, &[&str])] = &[
    ("annotations", &["[]"]),
    ("audio", &[]),
    ("function_call", &[]),
    ("name", &[]),
    ("refusal", &[]),
    ("tool_call_id", &[]),
    ("tool_calls", &["[]"]),
];

const ROLES: &str = "'system', 'developer', 'user' or 'assistant'";

/// Longest role that is read (bytes).
const MAX_ROLE: usize = 32;

/// A request that may be served.
pub(crate) struct ChatRequest {
    pub(crate) parameters: Parameters,
    /// At least one.
    pub(crate) messages: Vec<Message>,
}

impl ChatRequest {
    pub(crate) fn parse(body: &[u8], limits: &RequestLimits, default_seed: u64) -> Result<Self, ApiError> {
        let mut object = Object::from_body(body)?;
        for (name, accepts) in UNSUPPORTED {
            object.take_neutral(name, accepts)?;
        }
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
        let messages = object.require("messages")?.array(1..=limits.messages)?;
        object.finish()?;
        let messages = messages.iter().map(|field| message(field, limits)).collect::<Result<_, _>>()?;
        Ok(Self { parameters, messages })
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
    for (name, accepts) in UNSUPPORTED_IN_MESSAGE {
        object.take_neutral(name, accepts)?;
    }
    let role = role(&object.require("role")?)?;
    let content = content(&object.require("content")?, limits, &[])?;
    object.finish()?;
    Ok(Message { role, content })
}

fn role(field: &Field<'_>) -> Result<&'static str, ApiError> {
    let invalid = |_| field.invalid(ROLES);
    match field.string(MAX_ROLE).map_err(invalid)?.as_str() {
        // Since its reasoning models OpenAI calls the system's messages the developer's; templates know the older name.
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
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
    if field.is_string() {
        return field.string(limits.text_bytes);
    }
    if !field.is_array() {
        return Err(field.invalid("a string, or an array of text parts"));
    }
    let text = |part: &Field<'_>| {
        let mut part = part.object()?;
        let kind = part.require("type")?;
        if kind.string(MAX_ROLE).map_or(true, |kind| kind.as_str() != "text") {
            return Err(kind.invalid("'text', the only kind of content that is supported"));
        }
        let text = part.require("text")?.string(limits.text_bytes)?;
        for (name, accepts) in neutral {
            part.take_neutral(name, accepts)?;
        }
        part.finish()?;
        Ok(text)
    };
    let parts = field.array(1..=limits.parts)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(SecretString::concat(&parts))
}
