//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's form of a conversation.
//!
//! The same three kinds of parameter as in [`request`](super::request): implemented, accepted with a value that means
//! nothing, refused by name. Nothing is ignored, except two labels that have no effect on an answer: `metadata.user_id`, and
//! `cache_control`, which is about Anthropic's own prices.

use cleanroom_backend::{Bias, Conversation, Message, Sampling, Tool, ToolCall, ToolChoice};
use serde_json::json;

use super::beside::{AFTER_DELTA, Beside};
use super::chat::content;
use super::conversation::ConversationRequest;
use super::error::ApiError;
use super::json::{Field, Object};
use super::request::{
    Delivery, Form, MAX_MODEL, MAX_USER, Parameters, RequestLimits, stop_strings, tokens, without_stop,
};
use super::secret::SecretString;
use super::shape::{Ending, Identity, Shape};
use super::tools::{self, AbilityNames, Thinking};

/// Defined by Anthropic for this endpoint and not implemented: the parameter, and the JSON values that mean the same as
/// leaving it out.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("container", &[]),
    // Thoughts of earlier turns stay unless the template leaves them out.
    (
        "context_management",
        &["{}", r#"{"edits":[]}"#, r#"{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]}"#],
    ),
    ("diagnostics", &[]),
    ("inference_geo", &[]),
    ("mcp_servers", &["[]"]),
    ("output_format", &[]),
    ("service_tier", &[r#""auto""#, r#""standard_only""#]),
    ("speed", &[r#""standard""#]),
    ("user_profile_id", &[]),
    ("workspace_id", &[]),
];

/// The same for what may stand in a block of text.
const UNSUPPORTED_IN_BLOCK: &[(&str, &[&str])] = &[("citations", &["[]"]), ("cache_control", CACHE_CONTROL)];

/// Blocks that a message may have.
const USER_BLOCKS: &str = "'text' or 'tool_result'";
const ASSISTANT_BLOCKS: &str = "'text', 'thinking' or 'tool_use'";

/// The same for what may stand in a tool.
const UNSUPPORTED_IN_TOOL: &[(&str, &[&str])] = &[
    ("allowed_callers", &[r#"["direct"]"#]),
    ("cache_control", CACHE_CONTROL),
    ("defer_loading", &["false"]),
    ("eager_input_streaming", &["true", "false"]),
    ("input_examples", &["[]"]),
];

/// Marks for a cache that this server does not have.
const CACHE_CONTROL: &[&str] = &[
    r#"{"type":"ephemeral"}"#,
    r#"{"type":"ephemeral","ttl":"5m"}"#,
    r#"{"type":"ephemeral","ttl":"1h"}"#,
    r#"{"type":"ephemeral","scope":"global"}"#,
    r#"{"type":"ephemeral","ttl":"1h","scope":"global"}"#,
    r#"{"type":"ephemeral","scope":"global","ttl":"1h"}"#,
];

const ROLES: &str = "'user' or 'assistant'";

/// Longest role that is read (bytes).
const MAX_ROLE: usize = 32;

/// Names of parameters that ask for what not every model can do.
pub(crate) const ABILITIES: AbilityNames = AbilityNames {
    tools: "tools",
    messages: "messages",
    thinking: "thinking",
    effort: "output_config.effort",
};

/// Reads one of `POST /v1/messages`.
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
    object.take_neutral("cache_control", CACHE_CONTROL)?;
    if let Some(metadata) = object.take("metadata") {
        let mut metadata = metadata.object()?;
        if let Some(user) = metadata.take("user_id") {
            user.string(MAX_USER)?;
        }
        metadata.finish()?;
    }
    let stream = object.take("stream").map_or(Ok(false), |field| field.boolean())?;
    let (form, effort) = output(&mut object, limits)?;
    let mut parameters = Parameters {
        model: object.require("model")?.string(MAX_MODEL)?,
        max_tokens: Some(tokens(&object.require("max_tokens")?)?),
        sampling: sampling(&mut object, default_seed)?,
        bias: Bias::default(),
        stop: object.take("stop_sequences").map_or(Ok(Vec::new()), |field| stop_strings(&field, limits))?,
        form: Form::Text,
        choices: 1,
        text_tools: Vec::new(),
        logprobs: None,
        delivery: if stream {
            Delivery::Stream { include_usage: true, include_obfuscation: true }
        } else {
            Delivery::Whole
        },
    };
    parameters.form = without_stop(form, &parameters, "stop_sequences")?;
    let thinking = thinking(&mut object, effort)?;
    let conversation = conversation(&mut object, limits)?;
    object.finish()?;
    Ok(ConversationRequest { parameters, conversation, thinking })
}

/// A request that asks how long its prompt is.
pub(crate) struct CountRequest {
    pub(crate) model: SecretString,
    pub(crate) conversation: Conversation,
    pub(crate) thinking: Thinking,
}

impl CountRequest {
    pub(crate) fn parse(body: &[u8], limits: &RequestLimits) -> Result<Self, ApiError> {
        let mut object = Object::from_body(body)?;
        object.take_all_neutral(UNSUPPORTED)?;
        object.take_neutral("cache_control", CACHE_CONTROL)?;
        // It shapes the answer; the prompt stays as it is.
        let (_, effort) = output(&mut object, limits)?;
        let model = object.require("model")?.string(MAX_MODEL)?;
        let thinking = thinking(&mut object, effort)?;
        let conversation = conversation(&mut object, limits)?;
        object.finish()?;
        Ok(Self { model, conversation, thinking })
    }

    /// The answer.
    pub(crate) fn answer(input_tokens: usize) -> serde_json::Value {
        json!({ "input_tokens": input_tokens })
    }
}

/// `output_config`: the form of the answer, and how much the model is to think.
fn output(object: &mut Object<'_>, limits: &RequestLimits) -> Result<(Form, Option<Thinking>), ApiError> {
    const KIND: &str = "'json_schema'";
    let Some(config) = object.take("output_config") else { return Ok((Form::Text, None)) };
    let mut config = config.object()?;
    let effort = config.take("effort").map(|field| Thinking::effort(&field)).transpose()?;
    let format = config.take("format");
    config.finish()?;
    let Some(format) = format else { return Ok((Form::Text, effort)) };
    let mut format = format.object()?;
    let kind = format.require("type")?;
    if kind.string(MAX_ROLE).map_or(true, |kind| kind.as_str() != "json_schema") {
        return Err(kind.invalid(KIND));
    }
    let schema = format.require("schema")?.object_text(limits.schema_bytes)?;
    format.finish()?;
    Ok((Form::JsonSchema { schema, param: "output_config.format.schema" }, effort))
}

/// `thinking`. Its budget is a wish; `max_tokens` is what bounds an answer with its thoughts. Without it a model that can be
/// told not to think does not, as in Anthropic's API.
fn thinking(object: &mut Object<'_>, effort: Option<Thinking>) -> Result<Thinking, ApiError> {
    const KINDS: &str = "'enabled', 'adaptive' or 'disabled'";
    let Some(field) = object.take("thinking") else { return Ok(effort.unwrap_or(Thinking::Off)) };
    let mut thinking = field.object()?;
    let kind = thinking.require("type")?;
    let asked = match kind.string(MAX_ROLE).map_err(|_| kind.invalid(KINDS))?.as_str() {
        "enabled" => {
            thinking.require("budget_tokens")?.integer(1..=i64::from(u32::MAX))?;
            Thinking::On
        }
        "adaptive" => Thinking::IfAble,
        "disabled" => Thinking::Off,
        _ => return Err(kind.invalid(KINDS)),
    };
    if let Some(display) = thinking.take("display") {
        display.string(MAX_ROLE)?;
    }
    thinking.finish()?;
    Ok(effort.filter(|_| asked != Thinking::Off).unwrap_or(asked))
}

/// The system's turn, if there is one, the others, and the tools.
fn conversation(object: &mut Object<'_>, limits: &RequestLimits) -> Result<Conversation, ApiError> {
    let mut conversation = Conversation { parallel: true, ..Conversation::default() };
    if let Some(tools) = object.take("tools") {
        conversation.tools = tools::list(&tools, limits, |field, limits| tool(field, limits).map(Some))?;
    }
    if let Some(choice) = object.take("tool_choice") {
        (conversation.choice, conversation.parallel) = choice_of(&choice, &conversation.tools)?;
    }
    let turns = &mut conversation.messages;
    if let Some(system) = object.take("system") {
        turns.push(Message::new("system", content(&system, limits, UNSUPPORTED_IN_BLOCK)?));
    }
    let messages = object.require("messages")?.array(1..=limits.messages)?;
    for message in &messages {
        turn(message, limits, turns)?;
    }
    match (turns.last().map(|turn| turn.role), messages.last()) {
        (Some("assistant"), Some(message)) => {
            Err(message.invalid("a last message by the user: an answer cannot be begun for the model here"))
        }
        _ => Ok(conversation),
    }
}

fn tool(field: &Field<'_>, limits: &RequestLimits) -> Result<Tool, ApiError> {
    let mut object = field.object()?;
    if let Some(kind) = object.take("type")
        && kind.string(tools::MAX_NAME).map_or(true, |kind| kind.as_str() != "custom")
    {
        return Err(kind.invalid("'custom': tools of Anthropic's own are not here"));
    }
    object.take_all_neutral(UNSUPPORTED_IN_TOOL)?;
    let tool = tools::described(&mut object, "input_schema", limits)?;
    object.finish()?;
    Ok(tool)
}

/// Whether a tool is called, and whether several may be at once.
fn choice_of(field: &Field<'_>, tools: &[Tool]) -> Result<(ToolChoice, bool), ApiError> {
    const KINDS: &str = "'auto', 'any', 'tool' or 'none'";
    let mut object = field.object()?;
    let kind = object.require("type")?;
    let one = object.take("disable_parallel_tool_use").map_or(Ok(false), |field| field.boolean())?;
    let name = object.take("name");
    object.finish()?;
    let choice = match (kind.string(MAX_ROLE).map_err(|_| kind.invalid(KINDS))?.as_str(), name) {
        ("auto", None) => ToolChoice::Auto,
        ("none", None) => ToolChoice::None,
        ("any", None) => tools::must(field, tools)?,
        ("tool", Some(name)) => tools::named(&name, tools)?,
        ("tool", None) => return Err(field.invalid("the name of a tool")),
        ("auto" | "none" | "any", Some(name)) => return Err(name.invalid("no name beside this type")),
        _ => return Err(kind.invalid(KINDS)),
    };
    Ok((choice, !one))
}

/// One message of Anthropic's: what it answers of tools, and what it says.
fn turn(field: &Field<'_>, limits: &RequestLimits, turns: &mut Vec<Message>) -> Result<(), ApiError> {
    let mut object = field.object()?;
    let role = object.require("role")?;
    let role = match role.string(MAX_ROLE).map_err(|_| role.invalid(ROLES))?.as_str() {
        "user" => "user",
        "assistant" => "assistant",
        _ => return Err(role.invalid(ROLES)),
    };
    let said = object.require("content")?;
    object.finish()?;
    if !said.is_array() {
        turns.push(Message::new(role, content(&said, limits, UNSUPPORTED_IN_BLOCK)?));
        return Ok(());
    }
    let mut message = Message::new(role, SecretString::default());
    let (mut texts, mut thoughts) = (Vec::new(), Vec::new());
    for block in &said.array(1..=limits.parts)? {
        let mut members = block.object()?;
        let kind = members.require("type")?;
        let invalid = || kind.invalid(if role == "user" { USER_BLOCKS } else { ASSISTANT_BLOCKS });
        let word = kind.string(MAX_ROLE).map_err(|_| invalid())?;
        members.take_all_neutral(UNSUPPORTED_IN_BLOCK)?;
        match (role, word.as_str()) {
            (_, "text") => texts.push(members.require("text")?.string(limits.text_bytes)?),
            ("user", "tool_result") => turns.push(tool_result(&mut members, limits)?),
            ("assistant", "tool_use") => message.calls.push(tool_use(&mut members, limits)?),
            ("assistant", "thinking") => {
                thoughts.push(members.require("thinking")?.string(limits.text_bytes)?);
                if let Some(signature) = members.take("signature") {
                    signature.string(limits.text_bytes)?;
                }
            }
            _ => return Err(invalid()),
        }
        members.finish()?;
    }
    let only_results = texts.is_empty() && role == "user";
    message.content = SecretString::concat(&texts);
    message.reasoning = (!thoughts.is_empty()).then(|| SecretString::concat(&thoughts));
    if !only_results {
        turns.push(message);
    }
    Ok(())
}

fn tool_use(members: &mut Object<'_>, limits: &RequestLimits) -> Result<ToolCall, ApiError> {
    members.take_neutral("caller", &[r#"{"type":"direct"}"#])?;
    Ok(ToolCall {
        id: members.require("id")?.string(tools::MAX_ID)?,
        name: tools::name(&members.require("name")?)?,
        arguments: members.require("input")?.object_text(limits.text_bytes)?,
    })
}

fn tool_result(members: &mut Object<'_>, limits: &RequestLimits) -> Result<Message, ApiError> {
    let answers = members.require("tool_use_id")?.string(tools::MAX_ID)?;
    let is_error = members.take("is_error").map_or(Ok(false), |field| field.boolean())?;
    let mut text = match members.take("content") {
        Some(field) if field.is("[]") => SecretString::default(),
        Some(field) => content(&field, limits, UNSUPPORTED_IN_BLOCK)?,
        None => SecretString::default(),
    };
    if is_error {
        // Templates know no other way to say so.
        text = SecretString::concat(&[SecretString::new("Error: "), text]);
    }
    Ok(Message { answers: Some(answers), ..Message::new("tool", text) })
}

fn sampling(object: &mut Object<'_>, seed: u64) -> Result<Sampling, ApiError> {
    let temperature = object.take("temperature").map_or(Ok(1.0), |field| field.number(0.0..=1.0))?;
    let top_p = object.take("top_p").map_or(Ok(1.0), |field| field.number(0.0..=1.0))?;
    let top_k = object.take("top_k").map_or(Ok(0), |field| super::request::top_k(&field))?;
    Ok(Sampling { top_k, ..super::request::new_sampling(temperature, top_p, seed) })
}

/// Ahead of an answer's id.
pub(crate) const ID_PREFIX: &str = "msg_";

/// The JSON around an answer's text. `input_tokens` are those of the prompt.
pub(crate) fn shape(
    identity: &Identity<'_>,
    delivery: Delivery,
    input_tokens: usize,
    stop: Vec<SecretString>,
) -> Shape {
    let Identity { id, model, .. } = identity;
    let message = format!(
        "\"id\":\"{ID_PREFIX}{id}\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"{model}\",\"content\":["
    );
    let ending = Ending::Anthropic { stop };
    match delivery {
        Delivery::Whole => Shape {
            whole: true,
            opening: format!("{{{message}"),
            first: String::new(),
            before: String::new(),
            after: String::new(),
            scores: None,
            after_scores: String::new(),
            after_padding: None,
            before_whole_scores: String::new(),
            before_reason: "],\"stop_reason\":\"".to_owned(),
            after_reason: "",
            before_usage: ",\"usage\":".to_owned(),
            after_usage: Some("}"),
            ending,
            beside: Beside::message_whole(identity),
        },
        Delivery::Stream { .. } => Shape {
            whole: false,
            opening: format!(
                "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{{message}],\"stop_reason\":null,\
                 \"stop_sequence\":null,\"usage\":{{\"input_tokens\":{input_tokens},\"output_tokens\":0}}}}}}\n\n"
            ),
            first: String::new(),
            before: String::new(),
            after: AFTER_DELTA.to_owned(),
            scores: None,
            after_scores: String::new(),
            after_padding: Some("\"}\n\n"),
            before_whole_scores: String::new(),
            before_reason:
                "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\""
                    .to_owned(),
            after_reason: "",
            before_usage: "},\"usage\":".to_owned(),
            after_usage: Some("}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
            ending,
            beside: Beside::message_stream(identity),
        },
    }
}

#[cfg(test)]
mod tests {
    use cleanroom_backend::{FinishReason, Usage};
    use serde_json::Value;

    use super::*;
    use crate::api::secret::SecretBuffer;

    const IDENTITY: Identity<'_> = Identity { id: "0a", created: 7, model: "org/m", fingerprint: "fp_0b" };
    const SECRET: &str = "Dornröschen-4711";

    fn parse(extra: &str) -> Result<ConversationRequest, ApiError> {
        let body = format!(
            r#"{{"model":"m","max_tokens":5,"messages":[{{"role":"user","content":"{SECRET}"}}]{extra}}}"#
        );
        super::parse(body.as_bytes(), &RequestLimits::default(), 99)
    }

    fn render(delivery: Delivery, reason: FinishReason) -> String {
        let stop = vec![SecretString::new("x"), SecretString::new("\"end\"")];
        let mut shape = shape(&IDENTITY, delivery, 3, stop);
        let mut out = SecretBuffer::default();
        shape.open(&mut out);
        shape.open_choice(&mut out);
        for piece in ["a\"", "b\n"] {
            shape.piece(&mut out, piece, &[]);
        }
        shape.close_choice(&mut out, reason);
        shape.close(&mut out, Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 2 });
        String::from_utf8(out.take().to_vec()).unwrap()
    }

    #[test]
    fn a_whole_message() {
        let value: Value =
            serde_json::from_str(&render(Delivery::Whole, FinishReason::StopString(1))).unwrap();
        let expected = json!({
            "id": "msg_0a", "type": "message", "role": "assistant", "model": "org/m",
            "content": [{"type": "text", "text": "a\"b\n"}],
            "stop_reason": "stop_sequence", "stop_sequence": "\"end\"",
            "usage": {"input_tokens": 3, "output_tokens": 2},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_stream_names_its_events_and_pads_its_text() {
        let delivery = Delivery::Stream { include_usage: true, include_obfuscation: true };
        let stream = render(delivery, FinishReason::Length);
        let mut events = Vec::new();
        for event in stream.split_terminator("\n\n") {
            let (name, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"], "the name is the type");
            events.push(data);
        }
        let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        let expected = [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ];
        assert_eq!(types, expected);
        assert_eq!(events[0]["message"]["usage"]["input_tokens"], 3);
        assert_eq!(events[0]["message"]["content"], json!([]));
        assert_eq!(events[2]["delta"], json!({"type": "text_delta", "text": "a\""}));
        assert_eq!(events[5]["delta"], json!({"stop_reason": "max_tokens", "stop_sequence": null}));
        assert_eq!(events[5]["usage"], json!({"input_tokens": 3, "output_tokens": 2}));
        let padded = |event: &Value| event.to_string().len();
        assert_eq!(padded(&events[2]), padded(&events[3]), "both texts take three bytes of JSON");
        assert!(!events[2]["obfuscation"].as_str().unwrap().is_empty());
    }

    #[test]
    fn every_supported_parameter_arrives() {
        let request = parse(
            r#","system":[{"type":"text","text":"be ","cache_control":{"type":"ephemeral"}},{"type":"text","text":"kind"}],
               "temperature":0.5,"top_p":0.9,"top_k":40,"stop_sequences":["a","b"],"stream":true,"metadata":{"user_id":"u"}"#,
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(request.parameters.max_tokens, Some(5));
        assert_eq!(
            request.parameters.sampling,
            Sampling { temperature: 0.5, top_p: 0.9, top_k: 40, seed: 99, ..Sampling::GREEDY }
        );
        assert_eq!(request.parameters.stop.len(), 2);
        let turns: Vec<_> =
            request.conversation.messages.iter().map(|turn| (turn.role, turn.content.as_str())).collect();
        assert_eq!(turns[..2], [("system", "be kind"), ("user", SECRET)]);
    }

    #[test]
    fn what_anthropic_defines_and_we_do_not_is_refused_by_name_and_repeats_nothing() {
        let cases = [
            ("container", r#""c""#),
            ("context_management", r#"{"edits":[{"type":"compact_20260112"}]}"#),
            ("diagnostics", "{}"),
            ("inference_geo", r#""eu""#),
            ("mcp_servers", r#"[{"type":"url"}]"#),
            ("output_format", "{}"),
            ("service_tier", r#""priority""#),
            ("speed", r#""fast""#),
            ("user_profile_id", r#""u""#),
            ("workspace_id", r#""w""#),
        ];
        for (name, value) in cases {
            let Err(error) = parse(&format!(",\"{name}\":{value}")) else { panic!("{name} was accepted") };
            assert_eq!((error.code(), error.param()), ("unsupported_parameter", Some(name)));
            assert!(!format!("{error:?}{error}").contains("4711"));
        }
        assert_eq!(cases.len(), UNSUPPORTED.len());
        let Err(error) = parse(r#","n":1"#) else { panic!("accepted") };
        assert_eq!((error.code(), error.param()), ("unknown_parameter", Some("n")));
    }

    #[test]
    fn a_form_arrives_and_has_no_stop_sequence_beside_it() {
        let request = parse(
            r#","output_config":{"effort":null,"format":{"type":"json_schema","schema":{"type": "null"}}}"#,
        );
        let Ok(ConversationRequest { parameters, .. }) = request else { panic!("refused") };
        let Form::JsonSchema { schema, .. } = parameters.form else { panic!("another form") };
        assert_eq!(schema.as_str(), r#"{"type": "null"}"#);
        for (extra, param) in [
            (r#","output_config":{"format":{"type":"text"}}"#, "output_config.format.type"),
            (
                r#","output_config":{"format":{"type":"json_schema","schema":"x"}}"#,
                "output_config.format.schema",
            ),
            (
                r#","stop_sequences":["x"],"output_config":{"format":{"type":"json_schema","schema":{}}}"#,
                "stop_sequences",
            ),
        ] {
            let Err(error) = parse(extra) else { panic!("accepted: {extra}") };
            assert_eq!((error.code(), error.param()), ("invalid_value", Some(param)), "{extra}");
        }
        assert!(matches!(parse(r#","output_config":{}"#).map(|r| r.parameters.form), Ok(Form::Text)));
    }

    #[test]
    fn a_conversation_has_two_roles_and_ends_with_the_user() {
        let parse = |messages: &str| {
            let body = format!(r#"{{"model":"m","max_tokens":5,"messages":{messages}}}"#);
            super::parse(body.as_bytes(), &RequestLimits::default(), 1)
                .err()
                .map(|error| (error.code(), error.param().unwrap_or_default().to_owned()))
        };
        let turn = |role: &str| format!(r#"{{"role":"{role}","content":"x"}}"#);
        let (user, assistant, system) = (turn("user"), turn("assistant"), turn("system"));
        assert_eq!(parse(&format!("[{user},{assistant},{user}]")), None);
        assert_eq!(
            parse(&format!("[{user},{assistant}]")),
            Some(("invalid_value", "messages[1]".to_owned()))
        );
        assert_eq!(parse(&format!("[{system}]")), Some(("invalid_value", "messages[0].role".to_owned())));
        assert_eq!(parse("[]"), Some(("invalid_value", "messages".to_owned())));
        let image = r#"[{"role":"user","content":[{"type":"image","source":{}}]}]"#;
        assert_eq!(parse(image), Some(("invalid_value", "messages[0].content[0].type".to_owned())));
    }

    #[test]
    fn tools_results_and_thoughts_arrive() {
        let body = r#"{"model":"m","max_tokens":5,"thinking":{"type":"enabled","budget_tokens":1024},
            "tools":[{"name":"f","input_schema":{"type":"object"},"cache_control":{"type":"ephemeral"}}],
            "tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true},
            "messages":[{"role":"user","content":"x"},
              {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":""},{"type":"text","text":"a"},
                {"type":"tool_use","id":"t","name":"f","input":{"b": 1}}]},
              {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"3"}],"is_error":true},
                {"type":"text","text":"And?"}]}]}"#;
        let request = super::parse(body.as_bytes(), &RequestLimits::default(), 1)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(request.thinking, Thinking::On);
        let Conversation { messages, tools, choice, parallel, .. } = request.conversation;
        assert_eq!((tools.len(), choice, parallel), (1, ToolChoice::Named(0), false));
        let told: Vec<_> = messages.iter().map(|message| (message.role, message.content.as_str())).collect();
        assert_eq!(told, [("user", "x"), ("assistant", "a"), ("tool", "Error: 3"), ("user", "And?")]);
        assert_eq!(messages[1].calls[0].arguments.as_str(), r#"{"b": 1}"#);
        assert_eq!(messages[1].reasoning.as_ref().map(SecretString::as_str), Some("hm"));
        assert_eq!(messages[2].answers.as_ref().map(SecretString::as_str), Some("t"));
    }

    #[test]
    fn what_an_agent_sends_beside_its_question_changes_nothing() {
        let request = parse(
            r#","thinking":{"type":"adaptive"},"metadata":{"user_id":"{\"device_id\":\"0\"}"},
               "context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},
               "tools":[{"name":"f","input_schema":{},"cache_control":{"type":"ephemeral","scope":"global"}}],
               "system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral","ttl":"1h"}}]"#,
        );
        let Ok(ConversationRequest { thinking, .. }) = request else { panic!("refused") };
        assert_eq!(thinking, Thinking::IfAble);
        // What would change the prompt is refused.
        let edits = r#","context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}"#;
        let Err(error) = parse(edits) else { panic!("accepted") };
        assert_eq!((error.code(), error.param()), ("unsupported_parameter", Some("context_management")));
    }

    #[test]
    fn what_cannot_be_called_is_refused_with_its_place() {
        for (extra, param) in [
            (r#","tools":[{"type":"web_search_20250305","name":"web_search"}]"#, "tools[0].type"),
            (r#","tools":[{"name":"Dornröschen-4711","input_schema":{}}]"#, "tools[0].name"),
            (r#","tool_choice":{"type":"any"}"#, "tool_choice"),
            (r#","tool_choice":{"type":"tool","name":"g"}"#, "tool_choice.name"),
            (r#","tool_choice":{"type":"auto","name":"g"}"#, "tool_choice.name"),
            (r#","thinking":{"type":"enabled","budget_tokens":0}"#, "thinking.budget_tokens"),
            (r#","thinking":{"type":"some"}"#, "thinking.type"),
        ] {
            let Err(error) = parse(extra) else { panic!("accepted: {extra}") };
            assert_eq!((error.code(), error.param()), ("invalid_value", Some(param)), "{extra}");
            assert!(!format!("{error:?}{error}").contains("4711"));
        }
    }

    /// What a message is when the model thinks, speaks and calls twice.
    fn speak(delivery: Delivery) -> String {
        let usage = Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 2 };
        shape(&IDENTITY, delivery, 3, Vec::new()).spoken(["h", "m"], usage)
    }

    #[test]
    fn a_whole_message_has_a_block_for_each_part() {
        let value: Value = serde_json::from_str(&speak(Delivery::Whole)).unwrap();
        let tool =
            |id: &str, name: &str| json!({"type": "tool_use", "id": id, "name": name, "input": {"x": "y"}});
        assert_eq!(
            value["content"],
            json!([
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "a"},
                tool("toolu_0ax0", "f"),
                tool("toolu_0ax1", "g"),
            ])
        );
        assert_eq!(value["stop_reason"], "tool_use");
    }

    #[test]
    fn a_stream_has_a_block_for_each_part() {
        let stream = speak(Delivery::Stream { include_usage: true, include_obfuscation: true });
        let events: Vec<Value> = stream
            .split_terminator("\n\n")
            .map(|event| serde_json::from_str(event.split_once("data: ").unwrap().1).unwrap())
            .collect();
        let told: Vec<String> = events
            .iter()
            .filter_map(|event| {
                let index = event["index"].as_u64()?;
                let what = match event["type"].as_str()? {
                    "content_block_start" => event["content_block"]["type"].to_string(),
                    "content_block_delta" => {
                        let delta = event["delta"].as_object()?;
                        delta.iter().find(|(name, _)| *name != "type")?.1.to_string()
                    }
                    _ => "end".to_owned(),
                };
                Some(format!("{index} {}", what.trim_matches('"')))
            })
            .collect();
        let expected = [
            "0 thinking",
            "0 h",
            "0 m",
            "0 ",
            "0 end",
            "1 text",
            "1 a",
            "1 end",
            "2 tool_use",
            "2 {\\\"x\\\": ",
            "2 \\\"y\\\"}",
            "2 end",
            "3 tool_use",
            "3 {\\\"x\\\": ",
            "3 \\\"y\\\"}",
            "3 end",
        ];
        assert_eq!(told, expected);
        let last = events.iter().find(|event| event["type"] == "message_delta").unwrap();
        assert_eq!(last["delta"]["stop_reason"], "tool_use");
    }

    #[test]
    fn the_number_of_tokens_must_be_said() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
        let error = super::parse(body, &RequestLimits::default(), 1).err().unwrap();
        assert_eq!((error.code(), error.param()), ("missing_required_parameter", Some("max_tokens")));
        assert!(CountRequest::parse(body, &RequestLimits::default()).is_ok());
    }
}
