//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's form of a conversation.
//!
//! The same three kinds of parameter as in [`request`](super::request): implemented, accepted with a value that means
//! nothing, refused by name. Nothing is ignored, except two labels that have no effect on an answer: `metadata.user_id`, and
//! `cache_control`, which is about Anthropic's own prices.

use cleanroom_backend::{Bias, Message, Sampling};
use serde_json::json;

use super::chat::content;
use super::error::ApiError;
use super::json::{Field, Object};
use super::request::{
    Delivery, Form, MAX_MODEL, MAX_USER, Parameters, RequestLimits, stop_strings, tokens, without_stop,
};
use super::secret::SecretString;
use super::shape::{Ending, Identity, Shape};

/// Defined by Anthropic for this endpoint and not implemented: the parameter, and the JSON values that mean the same as
/// leaving it out.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("container", &[]),
    ("context_management", &[]),
    ("diagnostics", &[]),
    ("inference_geo", &[]),
    ("mcp_servers", &["[]"]),
    ("output_format", &[]),
    ("service_tier", &[r#""auto""#, r#""standard_only""#]),
    ("speed", &[r#""standard""#]),
    ("thinking", &[r#"{"type":"disabled"}"#]),
    ("tool_choice", &[r#"{"type":"none"}"#, r#"{"type":"auto"}"#]),
    ("tools", &["[]"]),
    ("user_profile_id", &[]),
    ("workspace_id", &[]),
];

/// The same for what may stand in a block of text.
const UNSUPPORTED_IN_BLOCK: &[(&str, &[&str])] = &[("citations", &["[]"]), ("cache_control", CACHE_CONTROL)];

/// Marks for a cache that this server does not have.
const CACHE_CONTROL: &[&str] =
    &[r#"{"type":"ephemeral"}"#, r#"{"type":"ephemeral","ttl":"5m"}"#, r#"{"type":"ephemeral","ttl":"1h"}"#];

const ROLES: &str = "'user' or 'assistant'";

/// Longest role that is read (bytes).
const MAX_ROLE: usize = 32;

/// A request that may be served.
pub(crate) struct MessagesRequest {
    pub(crate) parameters: Parameters,
    pub(crate) conversation: Conversation,
}

/// A conversation to continue.
pub(crate) struct Conversation {
    /// The system's turn, if there is one, and then the others. At least one.
    pub(crate) turns: Vec<Message>,
}

impl MessagesRequest {
    pub(crate) fn parse(body: &[u8], limits: &RequestLimits, default_seed: u64) -> Result<Self, ApiError> {
        let mut object = Object::from_body(body)?;
        for (name, accepts) in UNSUPPORTED {
            object.take_neutral(name, accepts)?;
        }
        object.take_neutral("cache_control", CACHE_CONTROL)?;
        if let Some(metadata) = object.take("metadata") {
            let mut metadata = metadata.object()?;
            if let Some(user) = metadata.take("user_id") {
                user.string(MAX_USER)?;
            }
            metadata.finish()?;
        }
        let stream = object.take("stream").map_or(Ok(false), |field| field.boolean())?;
        let form = form(&mut object, limits)?;
        let mut parameters = Parameters {
            model: object.require("model")?.string(MAX_MODEL)?,
            max_tokens: Some(tokens(&object.require("max_tokens")?)?),
            sampling: sampling(&mut object, default_seed)?,
            bias: Bias::default(),
            stop: object
                .take("stop_sequences")
                .map_or(Ok(Vec::new()), |field| stop_strings(&field, limits))?,
            form: Form::Text,
            choices: 1,
            logprobs: None,
            delivery: if stream {
                Delivery::Stream { include_usage: true, include_obfuscation: true }
            } else {
                Delivery::Whole
            },
        };
        parameters.form = without_stop(form, &parameters, "stop_sequences")?;
        let conversation = Conversation::take(&mut object, limits)?;
        object.finish()?;
        Ok(Self { parameters, conversation })
    }
}

/// A request that asks how long its prompt is.
pub(crate) struct CountRequest {
    pub(crate) model: SecretString,
    pub(crate) conversation: Conversation,
}

impl CountRequest {
    pub(crate) fn parse(body: &[u8], limits: &RequestLimits) -> Result<Self, ApiError> {
        let mut object = Object::from_body(body)?;
        for (name, accepts) in UNSUPPORTED {
            object.take_neutral(name, accepts)?;
        }
        object.take_neutral("cache_control", CACHE_CONTROL)?;
        // It shapes the answer; the prompt stays as it is.
        form(&mut object, limits)?;
        let model = object.require("model")?.string(MAX_MODEL)?;
        let conversation = Conversation::take(&mut object, limits)?;
        object.finish()?;
        Ok(Self { model, conversation })
    }

    /// The answer.
    pub(crate) fn answer(input_tokens: usize) -> serde_json::Value {
        json!({ "input_tokens": input_tokens })
    }
}

/// `output_config`, of which the format is supported.
fn form(object: &mut Object<'_>, limits: &RequestLimits) -> Result<Form, ApiError> {
    const KIND: &str = "'json_schema'";
    let Some(config) = object.take("output_config") else { return Ok(Form::Text) };
    let mut config = config.object()?;
    config.take_neutral("effort", &[])?;
    let format = config.take("format");
    config.finish()?;
    let Some(format) = format else { return Ok(Form::Text) };
    let mut format = format.object()?;
    let kind = format.require("type")?;
    if kind.string(MAX_ROLE).map_or(true, |kind| kind.as_str() != "json_schema") {
        return Err(kind.invalid(KIND));
    }
    let schema = format.require("schema")?.object_text(limits.schema_bytes)?;
    format.finish()?;
    Ok(Form::JsonSchema { schema, param: "output_config.format.schema" })
}

impl Conversation {
    fn take(object: &mut Object<'_>, limits: &RequestLimits) -> Result<Self, ApiError> {
        let mut turns = Vec::new();
        if let Some(system) = object.take("system") {
            turns.push(Message { role: "system", content: content(&system, limits, UNSUPPORTED_IN_BLOCK)? });
        }
        let messages = object.require("messages")?.array(1..=limits.messages)?;
        let mut last = None;
        for message in &messages {
            let (role, message) = turn(message, limits)?;
            last = Some(role);
            turns.push(message);
        }
        match (last, messages.last()) {
            (Some("assistant"), Some(message)) => {
                Err(message
                    .invalid("a last message by the user: an answer cannot be begun for the model here"))
            }
            _ => Ok(Self { turns }),
        }
    }
}

fn turn(field: &Field<'_>, limits: &RequestLimits) -> Result<(&'static str, Message), ApiError> {
    let mut object = field.object()?;
    let role = object.require("role")?;
    let role = match role.string(MAX_ROLE).map_err(|_| role.invalid(ROLES))?.as_str() {
        "user" => "user",
        "assistant" => "assistant",
        _ => return Err(role.invalid(ROLES)),
    };
    let content = content(&object.require("content")?, limits, UNSUPPORTED_IN_BLOCK)?;
    object.finish()?;
    Ok((role, Message { role, content }))
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
            first: "{\"type\":\"text\",\"text\":\"".to_owned(),
            before: String::new(),
            after: String::new(),
            scores: None,
            after_scores: String::new(),
            after_padding: None,
            before_whole_scores: String::new(),
            before_reason: "\"}],\"stop_reason\":\"".to_owned(),
            after_reason: "",
            before_usage: ",\"usage\":".to_owned(),
            after_usage: Some("}"),
            ending,
        },
        Delivery::Stream { .. } => Shape {
            whole: false,
            opening: format!(
                "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{{message}],\"stop_reason\":null,\
                 \"stop_sequence\":null,\"usage\":{{\"input_tokens\":{input_tokens},\"output_tokens\":0}}}}}}\n\n\
                 event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\
                 \"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}}\n\n"
            ),
            first: String::new(),
            before: "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
                     \"delta\":{\"type\":\"text_delta\",\"text\":\""
                .to_owned(),
            after: "\"},\"obfuscation\":\"".to_owned(),
            scores: None,
            after_scores: String::new(),
            after_padding: Some("\"}\n\n"),
            before_whole_scores: String::new(),
            before_reason: "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n\
                            event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\""
                .to_owned(),
            after_reason: "",
            before_usage: "},\"usage\":".to_owned(),
            after_usage: Some("}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
            ending,
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

    fn parse(extra: &str) -> Result<MessagesRequest, ApiError> {
        let body = format!(
            r#"{{"model":"m","max_tokens":5,"messages":[{{"role":"user","content":"{SECRET}"}}]{extra}}}"#
        );
        MessagesRequest::parse(body.as_bytes(), &RequestLimits::default(), 99)
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
            request.conversation.turns.iter().map(|turn| (turn.role, turn.content.as_str())).collect();
        assert_eq!(turns[..2], [("system", "be kind"), ("user", SECRET)]);
    }

    #[test]
    fn what_anthropic_defines_and_we_do_not_is_refused_by_name_and_repeats_nothing() {
        let cases = [
            ("container", r#""c""#),
            ("context_management", "{}"),
            ("diagnostics", "{}"),
            ("inference_geo", r#""eu""#),
            ("mcp_servers", r#"[{"type":"url"}]"#),
            ("output_format", "{}"),
            ("service_tier", r#""priority""#),
            ("speed", r#""fast""#),
            ("thinking", r#"{"type":"enabled","budget_tokens":1024}"#),
            ("tool_choice", r#"{"type":"any"}"#),
            ("tools", r#"[{"name":"Dornröschen-4711"}]"#),
            ("user_profile_id", r#""u""#),
            ("workspace_id", r#""w""#),
        ];
        for (name, value) in cases {
            let Err(error) = parse(&format!(",\"{name}\":{value}")) else { panic!("{name} was accepted") };
            assert_eq!((error.code(), error.param()), ("unsupported_parameter", Some(name)));
            assert!(!format!("{error:?}{error}").contains("4711"));
        }
        assert_eq!(cases.len(), UNSUPPORTED.len());
        let Err(error) = parse(r#","output_config":{"effort":"high"}"#) else { panic!("accepted") };
        assert_eq!((error.code(), error.param()), ("unsupported_parameter", Some("output_config.effort")));
        let Err(error) = parse(r#","n":1"#) else { panic!("accepted") };
        assert_eq!((error.code(), error.param()), ("unknown_parameter", Some("n")));
    }

    #[test]
    fn a_form_arrives_and_has_no_stop_sequence_beside_it() {
        let request = parse(
            r#","output_config":{"effort":null,"format":{"type":"json_schema","schema":{"type": "null"}}}"#,
        );
        let Ok(MessagesRequest { parameters, .. }) = request else { panic!("refused") };
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
            MessagesRequest::parse(body.as_bytes(), &RequestLimits::default(), 1)
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
    fn the_number_of_tokens_must_be_said() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
        let error = MessagesRequest::parse(body, &RequestLimits::default(), 1).err().unwrap();
        assert_eq!((error.code(), error.param()), ("missing_required_parameter", Some("max_tokens")));
        assert!(CountRequest::parse(body, &RequestLimits::default()).is_ok());
    }
}
