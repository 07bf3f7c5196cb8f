//! `POST /v1/responses`: OpenAI's newer form of a conversation, as far as it needs no memory on the server.
//!
//! The whole conversation comes with each request. `previous_response_id` and `store` are refused by name: nothing of a
//! conversation is kept here beyond its answer.

#[cfg(test)]
mod tests;

use cleanroom_backend::{Bias, Conversation, Message, Sampling, Tool, ToolCall};

pub(crate) use super::beside::response::ID_PREFIX;
use super::beside::{Beside, ResponseAnswer};
use super::chat::content_of;
use super::conversation::ConversationRequest;
use super::error::ApiError;
use super::json::{Field, Object};
use super::request::{Delivery, Form, MAX_MODEL, MAX_USER, Parameters, RequestLimits, tokens};
use super::secret::SecretString;
use super::shape::{Ending, Identity, Shape};
use super::tools::{self, AbilityNames, Thinking};

/// Defined by OpenAI for this endpoint and not implemented: the parameter, and the JSON values that mean the same as
/// leaving it out.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("background", &["false"]),
    ("context_management", &["[]"]),
    ("conversation", &[]),
    ("include", &["[]", r#"["reasoning.encrypted_content"]"#]),
    ("max_tool_calls", &[]),
    ("metadata", &["{}"]),
    ("moderation", &[]),
    ("previous_response_id", &[]),
    ("prompt", &[]),
    ("prompt_cache_options", &[]),
    ("prompt_cache_retention", &[]),
    ("service_tier", &[r#""auto""#, r#""default""#]),
    ("store", &["false"]),
    ("top_logprobs", &["0"]),
    ("truncation", &[r#""disabled""#]),
];

/// Labels without effect on an answer.
const LABELS: [&str; 3] = ["user", "safety_identifier", "prompt_cache_key"];

/// What a client says of itself, at most (bytes).
const MAX_CLIENT_METADATA: usize = 16 * 1024;

/// Tools that OpenAI runs itself, and this server cannot: nothing leaves a clean room. A model is not told of them, and so does
/// not call them.
const HOSTED: [&str; 5] = [
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "image_generation",
];

/// Members of an item that name it, and change nothing.
const ITEM_LABELS: [&str; 3] = ["id", "status", "phase"];

/// The same for a part of a text.
const UNSUPPORTED_IN_PART: &[(&str, &[&str])] = &[("annotations", &["[]"]), ("logprobs", &["[]"])];

/// Kinds of text parts, of what comes in and of what came out.
const TEXT_PARTS: [&str; 3] = ["input_text", "output_text", "text"];

/// Longest word that is one of a few.
const MAX_WORD: usize = 64;

/// Names of parameters that ask for what not every model can do.
pub(crate) const ABILITIES: AbilityNames =
    AbilityNames { tools: "tools", messages: "input", thinking: "reasoning", effort: "reasoning.effort" };

/// Reads one of `POST /v1/responses`.
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
    for label in LABELS {
        if let Some(label) = object.take(label) {
            label.string(MAX_USER)?;
        }
    }
    if let Some(metadata) = object.take("client_metadata") {
        metadata.object_text(MAX_CLIENT_METADATA)?;
    }
    let mut parameters = Parameters {
        model: object.require("model")?.string(MAX_MODEL)?,
        max_tokens: object.take("max_output_tokens").map(|field| tokens(&field)).transpose()?,
        sampling: sampling(&mut object, default_seed)?,
        bias: Bias::default(),
        stop: Vec::new(),
        form: form(&mut object, limits)?,
        choices: 1,
        text_tools: Vec::new(),
        logprobs: None,
        delivery: delivery(&mut object)?,
    };
    let thinking = thinking(&mut object)?;
    let mut conversation = Conversation { parallel: true, ..Conversation::default() };
    if let Some(tools) = object.take("tools") {
        (conversation.tools, parameters.text_tools) = offered(&tools, limits)?;
    }
    if let Some(choice) = object.take("tool_choice") {
        conversation.choice = tools::openai_choice(&choice, &conversation.tools, false)?;
    }
    if let Some(parallel) = object.take("parallel_tool_calls") {
        conversation.parallel = parallel.boolean()?;
    }
    if let Some(instructions) = object.take("instructions") {
        conversation.messages.push(Message::new("system", instructions.string(limits.text_bytes)?));
    }
    let input = object.require("input")?;
    object.finish()?;
    if input.is_array() {
        for item in &input.array(1..=limits.messages)? {
            take_item(item, limits, &mut conversation.messages)?;
        }
    } else {
        conversation.messages.push(Message::new("user", input.string(limits.text_bytes)?));
    }
    Ok(ConversationRequest { parameters, conversation, thinking })
}

fn sampling(object: &mut Object<'_>, seed: u64) -> Result<Sampling, ApiError> {
    let temperature = object.take("temperature").map_or(Ok(1.0), |field| field.number(0.0..=2.0))?;
    let top_p = object.take("top_p").map_or(Ok(1.0), |field| field.number(0.0..=1.0))?;
    Ok(super::request::new_sampling(temperature, top_p, seed))
}

/// `text`: the form of the answer.
fn form(object: &mut Object<'_>, limits: &RequestLimits) -> Result<Form, ApiError> {
    const KINDS: &str = "'text', 'json_object' or 'json_schema'";
    let Some(text) = object.take("text") else { return Ok(Form::Text) };
    let mut text = text.object()?;
    // A wish that models without it cannot be told.
    text.take_neutral("verbosity", &[r#""low""#, r#""medium""#, r#""high""#])?;
    let format = text.take("format");
    text.finish()?;
    let Some(format) = format else { return Ok(Form::Text) };
    let mut format = format.object()?;
    let kind = format.require("type")?;
    let form = match kind.string(MAX_WORD).map_err(|_| kind.invalid(KINDS))?.as_str() {
        "text" => Form::Text,
        "json_object" => Form::JsonObject,
        "json_schema" => {
            format.require("name")?.string(MAX_USER)?;
            if let Some(description) = format.take("description") {
                description.string(limits.text_bytes)?;
            }
            // Every schema is kept to strictly.
            if let Some(strict) = format.take("strict") {
                strict.boolean()?;
            }
            let schema = format.require("schema")?.object_text(limits.schema_bytes)?;
            Form::JsonSchema { schema, param: "text.format.schema" }
        }
        _ => return Err(kind.invalid(KINDS)),
    };
    format.finish()?;
    Ok(form)
}

fn delivery(object: &mut Object<'_>) -> Result<Delivery, ApiError> {
    let stream = object.take("stream").map_or(Ok(false), |field| field.boolean())?;
    let mut include_obfuscation = true;
    if let Some(options) = object.take("stream_options") {
        let mut options = options.object()?;
        if let Some(field) = options.take("include_obfuscation") {
            include_obfuscation = field.boolean()?;
        }
        options.finish()?;
    }
    Ok(match stream {
        true => Delivery::Stream { include_usage: true, include_obfuscation },
        false => Delivery::Whole,
    })
}

/// `reasoning`. What a model thinks is told as it is, and never summarised.
fn thinking(object: &mut Object<'_>) -> Result<Thinking, ApiError> {
    let Some(reasoning) = object.take("reasoning") else { return Ok(Thinking::Unsaid) };
    let mut reasoning = reasoning.object()?;
    let effort = reasoning.take("effort").map(|field| Thinking::effort(&field)).transpose()?;
    for name in ["summary", "generate_summary"] {
        reasoning.take_neutral(name, &[r#""auto""#, r#""none""#])?;
    }
    reasoning.finish()?;
    Ok(effort.unwrap_or(Thinking::Unsaid))
}

/// The tools that the model is told of, and the names of those whose input is a text.
fn offered(field: &Field<'_>, limits: &RequestLimits) -> Result<(Vec<Tool>, Vec<SecretString>), ApiError> {
    const KINDS: &str = "'function' or 'custom', the kinds of tools that a client runs";
    let mut text_tools = Vec::new();
    let tools = tools::list(field, limits, |field, limits| {
        let mut object = field.object()?;
        let kind = object.require("type")?;
        let tool = match kind.string(MAX_WORD).map_err(|_| kind.invalid(KINDS))?.as_str() {
            "function" => {
                object.take_neutral("defer_loading", &["false"])?;
                tools::described(&mut object, "parameters", limits)?
            }
            "custom" => {
                let tool = tools::with_text_input(&mut object, limits)?;
                text_tools.push(tool.name.clone());
                tool
            }
            word if HOSTED.contains(&word) => return Ok(None),
            _ => return Err(kind.invalid(KINDS)),
        };
        object.finish()?;
        Ok(Some(tool))
    })?;
    Ok((tools, text_tools))
}

/// One item of a conversation. What the assistant thought, said and called is one message.
fn take_item(field: &Field<'_>, limits: &RequestLimits, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    const KINDS: &str = "'message', 'function_call', 'function_call_output', 'custom_tool_call', \
                         'custom_tool_call_output' or 'reasoning'";
    let mut item = field.object()?;
    for label in ITEM_LABELS {
        if let Some(label) = item.take(label) {
            label.string(MAX_USER)?;
        }
    }
    let kind = item.take("type");
    let word =
        kind.as_ref().map(|kind| kind.string(MAX_WORD).map_err(|_| kind.invalid(KINDS))).transpose()?;
    match word.as_ref().map_or("message", SecretString::as_str) {
        "message" => {
            let role = super::chat::role(&item.require("role")?)?;
            let text = content(&item.require("content")?, limits)?;
            match assistant(messages).filter(|_| role == "assistant") {
                Some(last) if last.content.as_str().is_empty() && last.calls.is_empty() => {
                    last.content = text;
                }
                _ => messages.push(Message::new(role, text)),
            }
        }
        kind @ ("function_call" | "custom_tool_call") => {
            item.take_neutral("namespace", &[])?;
            let call = ToolCall {
                id: item.require("call_id")?.string(tools::MAX_ID)?,
                name: tools::name(&item.require("name")?)?,
                arguments: if kind == "function_call" {
                    item.require("arguments")?.string(limits.text_bytes)?
                } else {
                    tools::text_arguments(&item.require("input")?.string(limits.text_bytes)?)
                },
            };
            match assistant(messages) {
                Some(last) => last.calls.push(call),
                None => {
                    let calls = vec![call];
                    messages.push(Message { calls, ..Message::new("assistant", SecretString::default()) });
                }
            }
        }
        "function_call_output" | "custom_tool_call_output" => {
            let answers = Some(item.require("call_id")?.string(tools::MAX_ID)?);
            let text = content(&item.require("output")?, limits)?;
            messages.push(Message { answers, ..Message::new("tool", text) });
        }
        "reasoning" => {
            item.take_neutral("encrypted_content", &[])?;
            item.take_neutral("summary", &["[]"])?;
            let text = item.take("content").map(|field| thought(&field, limits)).transpose()?;
            messages.push(Message { reasoning: text, ..Message::new("assistant", SecretString::default()) });
        }
        _ => return Err(kind.as_ref().unwrap_or(field).invalid(KINDS)),
    }
    item.finish()
}

/// The last message, if it is the assistant's.
fn assistant(messages: &mut [Message]) -> Option<&mut Message> {
    messages.last_mut().filter(|message| message.role == "assistant")
}

fn content(field: &Field<'_>, limits: &RequestLimits) -> Result<SecretString, ApiError> {
    content_of(field, limits, &TEXT_PARTS, UNSUPPORTED_IN_PART)
}

fn thought(field: &Field<'_>, limits: &RequestLimits) -> Result<SecretString, ApiError> {
    content_of(field, limits, &["reasoning_text"], &[])
}

/// An answer of this endpoint. All that it is made of is in [`ResponseAnswer`].
/// `text_tools` are the names of the tools whose input is a text.
pub(crate) fn shape(identity: &Identity<'_>, delivery: Delivery, text_tools: Vec<SecretString>) -> Shape {
    let answer = ResponseAnswer::new(identity, delivery, text_tools);
    Shape {
        whole: matches!(delivery, Delivery::Whole),
        opening: answer.opening(),
        first: String::new(),
        before: String::new(),
        after: String::new(),
        scores: None,
        after_scores: String::new(),
        after_padding: None,
        before_whole_scores: String::new(),
        before_reason: String::new(),
        after_reason: "",
        before_usage: String::new(),
        after_usage: None,
        ending: Ending::OpenAi,
        beside: Beside::Response(Box::new(answer)),
    }
}
