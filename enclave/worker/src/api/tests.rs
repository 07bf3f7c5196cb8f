//! What a request may say: the syntax of both endpoints, refusal by refusal.

use serde_json::{Value, json};

use super::chat;
use super::completions::CompletionRequest;
use super::conversation::ConversationRequest;
use super::error::ApiError;
use super::request::{Delivery, Form, Parameters, RequestLimits};
use super::secret::SecretString;
use super::tools::settle;
use cleanroom_backend::{Abilities, Conversation, Input, Sampling, ToolChoice};

/// Occurs in every refused request below, and must occur in no refusal.
const SECRET: &str = "Dornröschen-4711";

fn chat(body: &str) -> Result<ConversationRequest, ApiError> {
    chat::parse(body.as_bytes(), &RequestLimits::default(), 99)
}

fn completion(body: &str) -> Result<CompletionRequest, ApiError> {
    CompletionRequest::parse(body.as_bytes(), &RequestLimits::default(), 99)
}

/// A request that is in order, with `extra` members on top.
fn chat_with(extra: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{SECRET}"}}]{extra}}}"#)
}

fn completion_with(extra: &str) -> String {
    format!(r#"{{"model":"m","prompt":"{SECRET}"{extra}}}"#)
}

fn parameters(extra: &str) -> Parameters {
    chat(&chat_with(extra)).unwrap_or_else(|error| panic!("{extra}: {error}")).parameters
}

/// Parses, expects a refusal with this code and parameter, and checks that it repeats nothing.
fn refused<T>(parse: impl Fn(&str) -> Result<T, ApiError>, body: &str, code: &str, param: Option<&str>) {
    let Err(error) = parse(body) else { panic!("accepted: {body}") };
    assert_eq!((error.code(), error.param()), (code, param), "{body}\n{error}");
    assert_eq!(error.status(), 400);
    let value: Value = serde_json::from_str(&error.to_json()).unwrap();
    assert_eq!(value["error"]["param"], json!(param));
    assert_eq!(value["error"]["code"], code);
    assert_eq!(value["error"]["type"], "invalid_request_error");
    for text in [error.to_json(), format!("{error:?}")] {
        assert!(!text.contains("Dornr") && !text.contains("4711"), "the refusal repeats the request: {text}");
    }
}

#[test]
fn defaults_are_openai_s() {
    let parameters = parameters("");
    assert_eq!(parameters.model.as_str(), "m");
    assert_eq!(parameters.max_tokens, None);
    assert_eq!(parameters.sampling, Sampling { temperature: 1.0, seed: 99, ..Sampling::GREEDY });
    assert!(parameters.stop.is_empty());
    assert_eq!(parameters.delivery, Delivery::Whole);
}

#[test]
fn every_supported_parameter_arrives() {
    let parameters = parameters(
        r#","temperature":0.5,"top_p":0.9,"seed":-1,"max_tokens":7,"stop":["a","\n"],"user":"u","stream":true,
           "stream_options":{"include_usage":true,"include_obfuscation":false}"#,
    );
    assert_eq!(
        parameters.sampling,
        Sampling { temperature: 0.5, top_p: 0.9, seed: u64::MAX, ..Sampling::GREEDY }
    );
    assert_eq!(parameters.max_tokens, Some(7));
    assert_eq!(parameters.stop.iter().map(SecretString::as_str).collect::<Vec<_>>(), ["a", "\n"]);
    assert_eq!(parameters.delivery, Delivery::Stream { include_usage: true, include_obfuscation: false });
    assert_eq!(self::parameters(r#","max_completion_tokens":8"#).max_tokens, Some(8));
    assert_eq!(self::parameters(r#","stop":"x""#).stop.len(), 1);
    assert_eq!(self::parameters(r#","top_p":0"#).sampling, Sampling::GREEDY);
    assert_eq!(
        self::parameters(r#","stream":true"#).delivery,
        Delivery::Stream { include_usage: false, include_obfuscation: true },
        "padding is on unless the client says otherwise"
    );
}

#[test]
fn what_tokens_are_chosen_from_arrives() {
    let parameters = parameters(
        r#","temperature":0.5,"seed":3,"presence_penalty":-2,"frequency_penalty":0.25,"top_k":40,"min_p":0.125,
           "logit_bias":{"7":-100,"0":1.5}"#,
    );
    let sampling = Sampling {
        temperature: 0.5,
        top_p: 1.0,
        top_k: 40,
        min_p: 0.125,
        presence: -2.0,
        frequency: 0.25,
        seed: 3,
    };
    assert_eq!(parameters.sampling, sampling);
    assert_eq!(*parameters.bias, [(7, -100.0), (0, 1.5)]);
    for (member, name) in [
        (r#""presence_penalty":2.1"#, "presence_penalty"),
        (r#""frequency_penalty":"1""#, "frequency_penalty"),
        (r#""top_k":-1"#, "top_k"),
        (r#""top_k":1.5"#, "top_k"),
        (r#""min_p":1.5"#, "min_p"),
        (r#""logit_bias":[]"#, "logit_bias"),
        (r#""logit_bias":{"Dornröschen-4711":1}"#, "logit_bias"),
        (r#""logit_bias":{"4294967296":1}"#, "logit_bias"),
        (r#""logit_bias":{"07":1}"#, "logit_bias"),
        (r#""logit_bias":{"+7":1}"#, "logit_bias"),
        (r#""logit_bias":{"7":101}"#, "logit_bias"),
        (r#""logit_bias":{"7":null}"#, "logit_bias"),
    ] {
        refused(chat, &chat_with(&format!(",{member}")), "invalid_value", Some(name));
        refused(completion, &completion_with(&format!(",{member}")), "invalid_value", Some(name));
    }
}

#[test]
fn null_means_absent() {
    let names = "temperature top_p seed max_tokens max_completion_tokens stop user stream stream_options tools n logprobs";
    let nulls: String = names.split(' ').map(|name| format!(",\"{name}\":null")).collect();
    assert_eq!(parameters(&nulls).delivery, Delivery::Whole);
}

#[test]
fn values_that_mean_nothing_are_accepted() {
    let neutral = [
        r#""n":1"#,
        r#""logprobs":false"#,
        r#""metadata":{}"#,
        r#""modalities":[ "text" ]"#,
        r#""parallel_tool_calls":true"#,
        r#""reasoning_effort":"none""#,
        r#""response_format":{ "type" : "text" }"#,
        r#""prompt_cache_key":"k""#,
        r#""safety_identifier":"s""#,
        r#""service_tier":"auto""#,
        r#""store":false"#,
        r#""tool_choice":"none""#,
        r#""tools":[]"#,
        r#""top_logprobs":0"#,
    ];
    for member in neutral {
        parameters(&format!(",{member}"));
    }
    for member in [r#""best_of":1"#, r#""echo":false"#, r#""suffix":"""#, r#""logprobs":null"#, r#""n":1"#] {
        assert!(completion(&completion_with(&format!(",{member}"))).is_ok(), "{member}");
    }
}

#[test]
fn what_openai_defines_and_we_do_not_is_refused_by_name() {
    let chat_cases = [
        ("audio", r#"{"voice":"a"}"#),
        ("function_call", r#"{"name":"f"}"#),
        ("functions", r#"[{"name":"f"}]"#),
        ("metadata", r#"{"a":"b"}"#),
        ("modalities", r#"["text","audio"]"#),
        ("moderation", r#"{"model":"m"}"#),
        ("prediction", r#"{"type":"content","content":"x"}"#),
        ("prompt_cache_options", r#"{"mode":"a"}"#),
        ("prompt_cache_retention", r#""24h""#),
        ("service_tier", r#""priority""#),
        ("store", "true"),
        ("verbosity", r#""low""#),
        ("web_search_options", "{}"),
    ];
    for (name, value) in chat_cases {
        refused(chat, &chat_with(&format!(",\"{name}\":{value}")), "unsupported_parameter", Some(name));
    }
    let completion_cases = [("best_of", "2"), ("echo", "true"), ("suffix", r#""x""#)];
    for (name, value) in completion_cases {
        refused(
            completion,
            &completion_with(&format!(",\"{name}\":{value}")),
            "unsupported_parameter",
            Some(name),
        );
    }
}

#[test]
fn what_nobody_defines_is_refused_by_name_if_it_is_one() {
    refused(chat, &chat_with(r#","top_a":1"#), "unknown_parameter", Some("top_a"));
    refused(chat, &chat_with(r#","prompt":"x""#), "unknown_parameter", Some("prompt"));
    refused(completion, &completion_with(r#","messages":[]"#), "unknown_parameter", Some("messages"));
    refused(
        completion,
        &completion_with(r#","max_completion_tokens":1"#),
        "unknown_parameter",
        Some("max_completion_tokens"),
    );
    refused(chat, &chat_with(&format!(r#","{SECRET}":1"#)), "unknown_parameter", Some("(not a name)"));
    refused(
        chat,
        &chat_with(&format!(r#","{}":1"#, "a".repeat(65))),
        "unknown_parameter",
        Some("(not a name)"),
    );
    let option = r#","stream":true,"stream_options":{"include_more":true}"#;
    refused(chat, &chat_with(option), "unknown_parameter", Some("stream_options.include_more"));
}

#[test]
fn wrong_values_are_refused() {
    let secret = format!("\"{SECRET}\"");
    let cases = [
        ("temperature", "-0.1"),
        ("temperature", "2.01"),
        ("temperature", "1e999"),
        ("temperature", secret.as_str()),
        ("top_p", "1.1"),
        ("top_p", "-1"),
        ("seed", "0.5"),
        ("seed", "9223372036854775808"),
        ("max_tokens", "0"),
        ("max_tokens", "-2"),
        ("max_tokens", "4294967296"),
        ("max_completion_tokens", "0"),
        ("max_completion_tokens", secret.as_str()),
        ("stream", "1"),
        ("stream", secret.as_str()),
        ("stop", r#"["a","b","c","d","e"]"#),
        ("stop", r#""""#),
        ("stop", "5"),
        ("user", "5"),
        ("stream_options", r#"{"include_usage":true}"#),
    ];
    for (name, value) in cases {
        refused(chat, &chat_with(&format!(",\"{name}\":{value}")), "invalid_value", Some(name));
    }
    refused(chat, &chat_with(r#","stop":["a",""]"#), "invalid_value", Some("stop[1]"));
    refused(chat, &chat_with(r#","stop":["a",null]"#), "invalid_value", Some("stop[1]"));
    let long = "x".repeat(257);
    refused(chat, &chat_with(&format!(r#","stop":["{long}"]"#)), "invalid_value", Some("stop[0]"));
    refused(chat, &chat_with(&format!(r#","user":"{long}{long}""#)), "invalid_value", Some("user"));
    let both = r#","max_tokens":1,"max_completion_tokens":1"#;
    refused(chat, &chat_with(both), "invalid_value", Some("max_completion_tokens"));
    let usage = format!(r#","stream":true,"stream_options":{{"include_usage":{secret}}}"#);
    refused(chat, &chat_with(&usage), "invalid_value", Some("stream_options.include_usage"));
    refused(
        chat,
        &chat_with(r#","stream":true,"stream_options":[]"#),
        "invalid_value",
        Some("stream_options"),
    );
}

#[test]
fn probabilities_and_choices_arrive_within_their_limits() {
    let arrived = parameters(r#","logprobs":true,"top_logprobs":20,"n":8"#);
    assert_eq!((arrived.logprobs, arrived.choices), (Some(20), 8));
    assert_eq!(arrived.max_tokens, Some(65_536 / 21 / 8), "memory is bounded where the request does not say");
    assert_eq!(parameters(r#","logprobs":true"#).logprobs, Some(0));
    assert_eq!(parameters(r#","logprobs":false,"top_logprobs":0"#).logprobs, None);
    let Ok(text) = completion(&completion_with(r#","logprobs":5,"n":2"#)) else { panic!("refused") };
    assert_eq!((text.parameters.logprobs, text.parameters.choices), (Some(5), 2));
    assert_eq!(text.parameters.max_tokens, Some(16));
    for (extra, name) in [
        (r#","top_logprobs":1"#, "top_logprobs"),
        (r#","logprobs":true,"top_logprobs":21"#, "top_logprobs"),
        (r#","logprobs":1"#, "logprobs"),
        (r#","n":0"#, "n"),
        (r#","n":9"#, "n"),
        (r#","n":"2""#, "n"),
        (r#","logprobs":true,"top_logprobs":20,"max_tokens":4000"#, "max_tokens"),
        (r#","logprobs":true,"n":8,"max_completion_tokens":9000"#, "max_tokens"),
    ] {
        refused(chat, &chat_with(extra), "invalid_value", Some(name));
    }
    for (extra, name) in [(r#","logprobs":6"#, "logprobs"), (r#","logprobs":true"#, "logprobs")] {
        refused(completion, &completion_with(extra), "invalid_value", Some(name));
    }
}

#[test]
fn a_form_arrives_and_has_no_stop_string_beside_it() {
    assert!(matches!(parameters(r#","response_format":{"type":"json_object"}"#).form, Form::JsonObject));
    assert!(matches!(parameters(r#","response_format":{"type":"text"},"stop":"x""#).form, Form::Text));
    let schema = |schema: &str| {
        format!(
            r#","response_format":{{"type":"json_schema","json_schema":{{"name":"{SECRET}","strict":true,"schema":{schema}}}}}"#
        )
    };
    let Form::JsonSchema { schema: arrived, param } = parameters(&schema(r#"{"b": 1, "a": 2}"#)).form else {
        panic!("another form");
    };
    assert_eq!((arrived.as_str(), param), (r#"{"b": 1, "a": 2}"#, "response_format.json_schema.schema"));
    let long = format!(r#"{{"const":"{}"}}"#, "x".repeat(64 * 1024));
    for (extra, code, param) in [
        (schema("[]"), "invalid_value", "response_format.json_schema.schema"),
        (schema(&long), "invalid_value", "response_format.json_schema.schema"),
        (schema("{}") + r#","stop":["x"]"#, "invalid_value", "stop"),
        (r#","response_format":{"type":"json_object"},"stop":"x""#.to_owned(), "invalid_value", "stop"),
        (r#","response_format":{"type":"xml"}"#.to_owned(), "invalid_value", "response_format.type"),
        (
            r#","response_format":{"type":"json_object","x":1}"#.to_owned(),
            "unknown_parameter",
            "response_format.x",
        ),
        (
            r#","response_format":{"type":"json_schema"}"#.to_owned(),
            "missing_required_parameter",
            "response_format.json_schema",
        ),
        (
            r#","response_format":{"type":"json_schema","json_schema":{"schema":{}}}"#.to_owned(),
            "missing_required_parameter",
            "response_format.json_schema.name",
        ),
    ] {
        refused(chat, &chat_with(&extra), code, Some(param));
    }
    refused(
        completion,
        &completion_with(r#","response_format":{"type":"text"}"#),
        "unknown_parameter",
        Some("response_format"),
    );
}

#[test]
fn twice_is_once_too_often() {
    refused(chat, &chat_with(r#","model":"m""#), "duplicate_parameter", Some("model"));
    let body =
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"a","content":"{SECRET}"}}]}}"#);
    refused(chat, &body, "duplicate_parameter", Some("messages[0].content"));
}

#[test]
fn bodies_that_are_not_one_object_are_refused_with_a_position_only() {
    let many: String = (0..65).map(|n| format!("\"{SECRET}{n}\":1,")).collect();
    let cases = [
        String::new(),
        format!("\"{SECRET}\""),
        format!("[\"{SECRET}\"]"),
        format!("{{\"model\": {SECRET}}}"),
        chat_with("}"),
        chat_with(",").replace("]", ""),
        format!("{{{many}\"a\":1}}"),
        format!("{{\"model\":\"{SECRET}"),
    ];
    for body in &cases {
        refused(chat, body, "invalid_json", None);
    }
    let not_utf8 = [b"{\"model\":\"".as_slice(), &[0xff], b"\"}"].concat();
    let result = chat::parse(&not_utf8, &RequestLimits::default(), 0);
    assert!(matches!(result, Err(ApiError::Json { line: 1, .. })));
    let Err(error) = chat("{\n  \"model\": x}") else { panic!("accepted") };
    assert!(error.to_string().contains("line 2, column 12"), "{error}");
}

#[test]
fn deep_nesting_is_refused_without_recursion() {
    let depth = 200_000;
    let deep = "[".repeat(depth) + &"]".repeat(depth);
    refused(chat, &chat_with(&format!(",\"tools\":{deep}")), "invalid_value", Some("tools[0]"));
    refused(chat, &chat_with(&format!(",\"stop\":{deep}")), "invalid_value", Some("stop[0]"));
}

#[test]
fn missing_parameters_are_named() {
    refused(
        chat,
        r#"{"messages":[{"role":"user","content":"a"}]}"#,
        "missing_required_parameter",
        Some("model"),
    );
    refused(chat, r#"{"model":"m"}"#, "missing_required_parameter", Some("messages"));
    refused(completion, r#"{"model":"m","prompt":null}"#, "missing_required_parameter", Some("prompt"));
}

fn messages(messages: &str) -> String {
    format!(r#"{{"model":"m","messages":{messages}}}"#)
}

#[test]
fn conversations_arrive() {
    let body = messages(
        r#"[{"role":"developer","content":"be kind"},
            {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"\u00e7\n"}]},
            {"role":"assistant","content":"b","refusal":null,"tool_calls":null,"annotations":[],"audio":null},
            {"role":"system","content":""}]"#,
    );
    let request = chat(&body).unwrap_or_else(|error| panic!("{error}"));
    let turns: Vec<_> = request.conversation.messages.iter().map(|m| (m.role, m.content.as_str())).collect();
    assert_eq!(turns, [("system", "be kind"), ("user", "aç\n"), ("assistant", "b"), ("system", "")]);
}

#[test]
fn wrong_messages_are_refused_with_their_place() {
    let one =
        |message: &str| messages(&format!("[{{\"role\":\"user\",\"content\":\"{SECRET}\"}},{message}]"));
    let cases = [
        ("null", "invalid_value", "messages[1]"),
        ("\"x\"", "invalid_value", "messages[1]"),
        (r#"{"content":"x"}"#, "missing_required_parameter", "messages[1].role"),
        (r#"{"role":"user"}"#, "missing_required_parameter", "messages[1].content"),
        (r#"{"role":"assistant","content":null}"#, "missing_required_parameter", "messages[1].content"),
        (r#"{"role":"tool","content":"x"}"#, "missing_required_parameter", "messages[1].tool_call_id"),
        (r#"{"role":7,"content":"x"}"#, "invalid_value", "messages[1].role"),
        (r#"{"role":"user","content":7}"#, "invalid_value", "messages[1].content"),
        (r#"{"role":"user","content":"\ud800"}"#, "invalid_value", "messages[1].content"),
        (r#"{"role":"user","content":"x","name":7}"#, "invalid_value", "messages[1].name"),
        (
            r#"{"role":"assistant","content":"x","tool_calls":[{}]}"#,
            "missing_required_parameter",
            "messages[1].tool_calls[0].id",
        ),
        (r#"{"role":"user","content":"x","more":1}"#, "unknown_parameter", "messages[1].more"),
        (r#"{"role":"user","content":[]}"#, "invalid_value", "messages[1].content"),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{}}]}"#,
            "invalid_value",
            "messages[1].content[0].type",
        ),
        (
            r#"{"role":"user","content":[{"type":"text"}]}"#,
            "missing_required_parameter",
            "messages[1].content[0].text",
        ),
        (
            r#"{"role":"user","content":[{"type":"text","text":"a","x":1}]}"#,
            "unknown_parameter",
            "messages[1].content[0].x",
        ),
    ];
    for (message, code, param) in cases {
        refused(chat, &one(message), code, Some(param));
    }
    refused(chat, &messages("[]"), "invalid_value", Some("messages"));
    refused(chat, &messages("{}"), "invalid_value", Some("messages"));
}

#[test]
fn sizes_are_limited() {
    let limits =
        RequestLimits { messages: 2, parts: 2, text_bytes: 5, stop_bytes: 3, ..RequestLimits::default() };
    let chat = |body: &str| chat::parse(body.as_bytes(), &limits, 0);
    let completion = |body: &str| CompletionRequest::parse(body.as_bytes(), &limits, 0);
    let turn = |content: &str| format!(r#"{{"role":"user","content":{content}}}"#);
    let part = r#"{"type":"text","text":"12345"}"#;

    assert!(chat(&messages(&format!("[{0},{0}]", turn("\"12345\"")))).is_ok());
    assert!(chat(&messages(&format!("[{}]", turn(&format!("[{part},{part}]"))))).is_ok());
    refused(chat, &messages(&format!("[{0},{0},{0}]", turn("\"1\""))), "invalid_value", Some("messages"));
    refused(
        chat,
        &messages(&format!("[{}]", turn("\"123456\""))),
        "invalid_value",
        Some("messages[0].content"),
    );
    let parts = messages(&format!("[{}]", turn(&format!("[{part},{part},{part}]"))));
    refused(chat, &parts, "invalid_value", Some("messages[0].content"));
    refused(completion, r#"{"model":"m","prompt":"123456"}"#, "invalid_value", Some("prompt"));
    refused(completion, r#"{"model":"m","prompt":"1","stop":"1234"}"#, "invalid_value", Some("stop"));
}

#[test]
fn an_array_longer_than_any_limit_is_never_cut_short_in_silence() {
    let limits = RequestLimits { messages: usize::MAX, ..RequestLimits::default() };
    let turns = vec![r#"{"role":"user","content":"a"}"#; 5000].join(",");
    let body = messages(&format!("[{turns}]"));
    refused(|body| chat::parse(body.as_bytes(), &limits, 0), &body, "invalid_value", Some("messages"));
}

#[test]
fn prompts_arrive() {
    let kinds = |prompt: &str| {
        let request = completion(&format!(r#"{{"model":"m","prompt":{prompt}}}"#));
        let prompts = request.unwrap_or_else(|error| panic!("{error}")).prompts;
        let kind = |input: &Input| match input {
            Input::Text(text) => text.as_str().to_owned(),
            Input::Tokens(tokens) => format!("{:?}", &**tokens),
            Input::Chat(_) => panic!("no chat"),
        };
        prompts.iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(r#""abc""#), ["abc"]);
    assert_eq!(kinds(r#"["abc"]"#), ["abc"]);
    assert_eq!(kinds(r#"["a","b"]"#), ["a", "b"]);
    assert_eq!(kinds("[1,2]"), ["[1, 2]"]);
    assert_eq!(kinds("[[1],[2,3]]"), ["[1]", "[2, 3]"]);
}

#[test]
fn wrong_prompts_are_refused() {
    let cases = [
        ("[]", "prompt"),
        (r#"["1","2","3","4","5","6","7","8","9"]"#, "prompt"),
        (r#"["a",[null]]"#, "prompt[1][0]"),
        ("[1.5]", "prompt[0]"),
        ("[-1]", "prompt[0]"),
        ("[[]]", "prompt[0]"),
        ("7", "prompt"),
    ];
    for (prompt, param) in cases {
        refused(completion, &format!(r#"{{"model":"m","prompt":{prompt}}}"#), "invalid_value", Some(param));
    }
}

#[test]
fn no_limit_of_tokens_can_be_said_as_older_clients_do() {
    assert_eq!(parameters(r#","max_tokens":-1"#).max_tokens, None);
    assert_eq!(parameters(r#","max_completion_tokens":-1"#).max_tokens, None);
    let completion = |extra: &str| completion(&completion_with(extra)).ok().unwrap().parameters.max_tokens;
    assert_eq!((completion(""), completion(r#","max_tokens":-1"#)), (Some(16), None));
    refused(chat, &chat_with(r#","max_tokens":-2"#), "invalid_value", Some("max_tokens"));
}

// ---- Tools ----

const TOOL: &str =
    r#"{"type":"function","function":{"name":"f","description":"d","parameters":{"b": 1},"strict":true}}"#;

fn conversation(extra: &str) -> Conversation {
    chat(&chat_with(extra)).unwrap_or_else(|error| panic!("{extra}: {error}")).conversation
}

#[test]
fn tools_and_choices_arrive() {
    let given =
        conversation(&format!(r#","tools":[{TOOL},{}]"#, r#"{"type":"function","function":{"name":"g"}}"#));
    let [f, g] = given.tools.as_slice() else { panic!("two tools") };
    assert_eq!(
        (f.name.as_str(), f.description.as_ref().map(SecretString::as_str), f.strict),
        ("f", Some("d"), true)
    );
    assert_eq!(f.parameters.as_ref().map(SecretString::as_str), Some(r#"{"b": 1}"#));
    assert!(g.parameters.is_none() && !g.strict);
    assert_eq!((given.choice, given.parallel), (ToolChoice::Auto, true));
    for (choice, expected) in [
        (r#""auto""#, ToolChoice::Auto),
        (r#""none""#, ToolChoice::None),
        (r#""required""#, ToolChoice::Required),
        (r#"{"type":"function","function":{"name":"f"}}"#, ToolChoice::Named(0)),
    ] {
        let given =
            conversation(&format!(r#","tools":[{TOOL}],"tool_choice":{choice},"parallel_tool_calls":false"#));
        assert_eq!((given.choice, given.parallel), (expected, false));
    }
}

#[test]
fn wrong_tools_and_choices_are_refused_with_their_place() {
    let long = "x".repeat(129);
    for (extra, code, param) in [
        (
            format!(r#""tools":[{{"type":"function","function":{{"name":"{SECRET}"}}}}]"#),
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            format!(r#""tools":[{{"type":"function","function":{{"name":"{long}"}}}}]"#),
            "invalid_value",
            "tools[0].function.name",
        ),
        (format!(r#""tools":[{TOOL},{TOOL}]"#), "invalid_value", "tools[1]"),
        (r#""tools":[{"type":"web_search"}]"#.to_owned(), "invalid_value", "tools[0].type"),
        (r#""tools":[{"type":"function"}]"#.to_owned(), "missing_required_parameter", "tools[0].function"),
        (r#""tool_choice":"required""#.to_owned(), "invalid_value", "tool_choice"),
        (r#""tool_choice":"any""#.to_owned(), "invalid_value", "tool_choice"),
        (
            format!(r#""tools":[{TOOL}],"tool_choice":{{"type":"function","function":{{"name":"g"}}}}"#),
            "invalid_value",
            "tool_choice.function.name",
        ),
        (r#""reasoning_effort":"some""#.to_owned(), "invalid_value", "reasoning_effort"),
        (r#""reasoning_effort":"low","enable_thinking":true"#.to_owned(), "invalid_value", "enable_thinking"),
        (r#""chat_template_kwargs":[]"#.to_owned(), "invalid_value", "chat_template_kwargs"),
    ] {
        refused(chat, &chat_with(&format!(",{extra}")), code, Some(param));
    }
}

#[test]
fn calls_their_answers_and_names_arrive() {
    let body = messages(
        r#"[{"role":"user","name":"Ann","content":"x"},
            {"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"c","type":"function","index":0,"function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"c","content":"3"}]"#,
    );
    let request = chat(&body).unwrap_or_else(|error| panic!("{error}"));
    let [user, assistant, tool] = request.conversation.messages.as_slice() else { panic!("three messages") };
    let text = |text: &Option<SecretString>| text.as_ref().map(|text| text.as_str().to_owned());
    assert_eq!(text(&user.name).as_deref(), Some("Ann"));
    assert_eq!((assistant.content.as_str(), text(&assistant.reasoning).as_deref()), ("", Some("hm")));
    let [call] = assistant.calls.as_slice() else { panic!("one call") };
    assert_eq!((call.id.as_str(), call.name.as_str(), call.arguments.as_str()), ("c", "f", "{}"));
    assert_eq!((tool.role, text(&tool.answers).as_deref()), ("tool", Some("c")));
    for (list, code, param) in [
        (r#"[{"role":"tool","content":"x"}]"#, "missing_required_parameter", "messages[0].tool_call_id"),
        (r#"[{"role":"assistant","content":null}]"#, "missing_required_parameter", "messages[0].content"),
        (
            r#"[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f"}}]}]"#,
            "missing_required_parameter",
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            r#"[{"role":"user","content":"x","tool_calls":[{}]}]"#,
            "unsupported_parameter",
            "messages[0].tool_calls",
        ),
    ] {
        refused(chat, &messages(list), code, Some(param));
    }
}

#[test]
fn what_the_model_cannot_do_is_refused_by_name() {
    let none = Abilities {
        chat: Ok(true),
        tools: false,
        reasoning: false,
        has_switch: false,
        has_effort: false,
        embedding_width: None,
    };
    let switch = Abilities { tools: true, reasoning: true, has_switch: true, ..none.clone() };
    let effort = Abilities { tools: true, reasoning: true, has_effort: true, ..none.clone() };
    let settled = |extra: &str, abilities: &Abilities| {
        let Ok(ConversationRequest { mut conversation, thinking, .. }) = chat(&chat_with(extra)) else {
            panic!("{extra}")
        };
        settle(&mut conversation, thinking, abilities, &chat::ABILITIES)
            .map(|()| (conversation.thinks, conversation.effort))
            .map_err(|error| (error.code(), error.param().unwrap_or_default().to_owned()))
    };
    let refused = |param: &str| Err(("unsupported_parameter", param.to_owned()));
    let tools = format!(r#","tools":[{TOOL}]"#);
    assert_eq!(settled(&tools, &none), refused("tools"));
    assert_eq!(settled(&format!(r#"{tools},"tool_choice":"none""#), &none), Ok((None, None)));
    assert_eq!(settled(&tools, &switch), Ok((None, None)));
    assert_eq!(settled(r#","reasoning_effort":"high""#, &none), refused("reasoning_effort"));
    assert_eq!(settled(r#","reasoning_effort":"none""#, &none), Ok((None, None)));
    assert_eq!(settled(r#","reasoning_effort":"high""#, &switch), Ok((Some(true), None)));
    assert_eq!(settled(r#","reasoning_effort":"minimal""#, &switch), Ok((Some(false), None)));
    assert_eq!(settled(r#","reasoning_effort":"high""#, &effort), Ok((None, Some("high"))));
    assert_eq!(settled(r#","enable_thinking":true"#, &none), refused("enable_thinking"));
    assert_eq!(settled(r#","enable_thinking":false"#, &switch), Ok((Some(false), None)));
}
