use cleanroom_backend::{FinishReason, ToolChoice, Usage};
use serde_json::{Value, json};

use super::*;
use crate::api::secret::SecretBuffer;

const SECRET: &str = "Dornröschen-4711";
const IDENTITY: Identity<'_> = Identity { id: "0a", created: 7, model: "m", fingerprint: "fp_0b" };

fn parse(members: &str) -> Result<ConversationRequest, (&'static str, String)> {
    let body = format!(r#"{{"model":"m",{members}}}"#);
    super::parse(body.as_bytes(), &RequestLimits::default(), 9).map_err(|error| {
        assert!(!format!("{error}{error:?}").contains("4711"), "the refusal repeats the request");
        (error.code(), error.param().unwrap_or_default().to_owned())
    })
}

#[test]
fn a_text_and_every_parameter_arrive() {
    let request = parse(
        r#""input":"x","instructions":"be kind","max_output_tokens":5,"temperature":0.5,"top_p":0.9,"stream":true,
           "store":false,"include":["reasoning.encrypted_content"],"reasoning":{"effort":"low","summary":"auto"},
           "text":{"format":{"type":"json_schema","name":"n","strict":true,"schema":{"type":"null"}}},
           "tools":[{"type":"function","name":"f","parameters":{},"strict":true}],"tool_choice":{"type":"function","name":"f"},
           "parallel_tool_calls":false,"prompt_cache_key":"k","truncation":"disabled","background":false"#,
    )
    .unwrap_or_else(|error| panic!("{error:?}"));
    let ConversationRequest { parameters, conversation, thinking } = request;
    assert_eq!(parameters.max_tokens, Some(5));
    assert!(matches!(parameters.form, Form::JsonSchema { param: "text.format.schema", .. }));
    assert!(matches!(parameters.delivery, Delivery::Stream { .. }));
    assert_eq!(thinking, Thinking::Effort("low"));
    let told: Vec<_> = conversation.messages.iter().map(|m| (m.role, m.content.as_str())).collect();
    assert_eq!(told, [("system", "be kind"), ("user", "x")]);
    assert_eq!((conversation.choice, conversation.parallel), (ToolChoice::Named(0), false));
}

#[test]
fn items_become_messages() {
    let request = parse(
        r#""input":[{"role":"developer","content":"d"},
            {"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
            {"type":"reasoning","id":"rs","summary":[],"content":[{"type":"reasoning_text","text":"hm"}],"encrypted_content":null},
            {"type":"message","id":"msg","status":"completed","role":"assistant","content":[{"type":"output_text","text":"c","annotations":[],"logprobs":[]}]},
            {"type":"function_call","id":"fc","call_id":"1","name":"f","arguments":"{}","status":"completed"},
            {"type":"function_call","call_id":"2","name":"g","arguments":"{}"},
            {"type":"function_call_output","call_id":"1","output":"3"},
            {"type":"function_call_output","call_id":"2","output":[{"type":"input_text","text":"4"}]}]"#,
    )
    .unwrap_or_else(|error| panic!("{error:?}"));
    let told: Vec<_> = request
        .conversation
        .messages
        .iter()
        .map(|m| {
            (m.role, m.content.as_str(), m.calls.len(), m.answers.as_ref().map_or("", SecretString::as_str))
        })
        .collect();
    let expected = [
        ("system", "d", 0, ""),
        ("user", "ab", 0, ""),
        ("assistant", "c", 2, ""),
        ("tool", "3", 0, "1"),
        ("tool", "4", 0, "2"),
    ];
    assert_eq!(told, expected);
    let reasoning = &request.conversation.messages[2].reasoning;
    assert_eq!(reasoning.as_ref().map(SecretString::as_str), Some("hm"));
}

#[test]
fn what_needs_a_memory_here_or_is_not_known_is_refused_by_name() {
    for (members, code, param) in [
        (r#""input":"x","previous_response_id":"resp_1""#, "unsupported_parameter", "previous_response_id"),
        (r#""input":"x","store":true"#, "unsupported_parameter", "store"),
        (r#""input":"x","conversation":"c""#, "unsupported_parameter", "conversation"),
        (r#""input":"x","background":true"#, "unsupported_parameter", "background"),
        (r#""input":"x","include":["file_search_call.results"]"#, "unsupported_parameter", "include"),
        (r#""input":"x","truncation":"auto""#, "unsupported_parameter", "truncation"),
        (r#""input":"x","messages":[]"#, "unknown_parameter", "messages"),
        (r#""input":"x","tools":[{"type":"file_search"}]"#, "invalid_value", "tools[0].type"),
        (r#""input":[{"type":"item_reference","id":"Dornröschen-4711"}]"#, "invalid_value", "input[0].type"),
        (
            r#""input":[{"role":"user","content":[{"type":"input_image"}]}]"#,
            "invalid_value",
            "input[0].content[0].type",
        ),
        (r#""instructions":"x""#, "missing_required_parameter", "input"),
        (r#""input":"x","text":{"format":{"type":"xml"}}"#, "invalid_value", "text.format.type"),
    ] {
        assert_eq!(parse(members).err(), Some((code, param.to_owned())), "{members}");
    }
    assert!(parse(&format!(r#""input":"{SECRET}","input":"x""#)).is_err());
}

fn speak(delivery: Delivery, reason: FinishReason) -> String {
    let mut shape = shape(&IDENTITY, delivery, vec![SecretString::new("patch")]);
    let mut out = SecretBuffer::default();
    shape.open(&mut out);
    shape.open_choice(&mut out);
    shape.reasoning(&mut out, "hm");
    shape.piece(&mut out, "a\"", &[]);
    shape.piece(&mut out, "b", &[]);
    shape.call(&mut out, "f");
    shape.arguments(&mut out, "{\"x\":");
    shape.arguments(&mut out, "1}");
    shape.call(&mut out, "patch");
    shape.arguments(&mut out, "{ \"input\":\"*** \\\"a");
    shape.arguments(&mut out, "\\n\"}");
    shape.close_choice(&mut out, reason);
    shape.close(&mut out, Usage { prompt_tokens: 3, cached_tokens: 1, completion_tokens: 2 });
    String::from_utf8(out.take().to_vec()).unwrap()
}

/// The items of [`speak`].
fn items() -> Value {
    json!([
        {"id": "rs_0ax0", "status": "completed", "type": "reasoning", "summary": [],
         "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"id": "msg_0ax1", "status": "completed", "type": "message", "role": "assistant",
         "content": [{"type": "output_text", "text": "a\"b", "annotations": [], "logprobs": []}]},
        {"id": "fc_0ax2", "status": "completed", "type": "function_call", "call_id": "call_0ax2", "name": "f",
         "arguments": "{\"x\":1}"},
        {"id": "ctc_0ax3", "status": "completed", "type": "custom_tool_call", "call_id": "call_0ax3", "name": "patch",
         "input": "*** \"a\n"},
    ])
}

#[test]
fn a_whole_response_has_an_item_for_each_part() {
    let value: Value = serde_json::from_str(&speak(Delivery::Whole, FinishReason::Stop)).unwrap();
    assert_eq!(value["output"], items());
    assert_eq!((&value["id"], &value["status"]), (&json!("resp_0a"), &json!("completed")));
    assert_eq!(value["usage"]["input_tokens_details"]["cached_tokens"], 1);
    assert_eq!(value["usage"]["total_tokens"], 5);
    let value: Value = serde_json::from_str(&speak(Delivery::Whole, FinishReason::Length)).unwrap();
    assert_eq!(value["status"], "incomplete");
    assert_eq!(value["incomplete_details"]["reason"], "max_output_tokens");
}

#[test]
fn a_streamed_response_tells_of_each_item_and_has_all_at_its_end() {
    let delivery = Delivery::Stream { include_usage: true, include_obfuscation: true };
    let stream = speak(delivery, FinishReason::Stop);
    let mut names = Vec::new();
    let mut events = Vec::new();
    for (number, event) in stream.split_terminator("\n\n").enumerate() {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        assert_eq!(data["sequence_number"], number);
        names.push(data["type"].as_str().unwrap().strip_prefix("response.").unwrap().to_owned());
        events.push(data);
    }
    let expected = [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ];
    assert_eq!(names, expected);
    assert_eq!(events.last().unwrap()["response"]["output"], items());
    assert_eq!(events[10]["item_id"], "msg_0ax1");
    assert_eq!(events[10]["delta"], "a\"");
    assert_eq!(events[12]["text"], "a\"b");
    assert_eq!(events[18]["arguments"], "{\"x\":1}");
    assert_eq!((&events[21]["item_id"], &events[21]["delta"]), (&json!("ctc_0ax3"), &json!("*** \"a\n")));
    assert_eq!(events[22]["input"], "*** \"a\n");
    assert!(!events[16]["obfuscation"].as_str().unwrap().is_empty());
}

#[test]
fn a_tool_whose_input_is_a_text_is_told_as_one_with_an_object() {
    let request = parse(
        r#""input":[{"role":"user","content":"x"},
             {"type":"custom_tool_call","id":"ctc_1","call_id":"1","name":"patch","input":"a\"b","status":"completed"},
             {"type":"custom_tool_call_output","call_id":"1","output":"done"}],
           "tools":[{"type":"custom","name":"patch","description":"Edits.","format":{"type":"grammar","syntax":"lark",
               "definition":"start: /.+/"}},
             {"type":"web_search","external_web_access":false},{"type":"custom","name":"say"},
             {"type":"function","name":"f","parameters":{}}],
           "client_metadata":{"installation":"0"},"text":{"verbosity":"low"}"#,
    );
    let request = request.unwrap_or_else(|error| panic!("{error:?}"));
    let named: Vec<_> = request.parameters.text_tools.iter().map(SecretString::as_str).collect();
    assert_eq!(named, ["patch", "say"]);
    let tools = &request.conversation.tools;
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["patch", "say", "f"], "a model is not told of what the server would run");
    let description = tools[0].description.as_ref().map_or("", SecretString::as_str);
    assert_eq!(description, "Edits.\nThe input follows this grammar (lark):\nstart: /.+/");
    assert_eq!(tools[0].parameters.as_ref().map(SecretString::as_str), Some(tools::TEXT_INPUT));
    let messages = &request.conversation.messages;
    assert_eq!(messages[1].calls[0].arguments.as_str(), r#"{"input":"a\"b"}"#);
    assert_eq!(messages[2].content.as_str(), "done");
    for (tools, param) in [
        (r#"[{"type":"local_shell"}]"#, "tools[0].type"),
        (r#"[{"type":"custom","name":"f","format":{"type":"x"}}]"#, "tools[0].format.type"),
        (
            r#"[{"type":"custom","name":"f","format":{"type":"grammar","syntax":"x","definition":""}}]"#,
            "tools[0].format.syntax",
        ),
        (r#"[{"type":"custom","name":"f"},{"type":"custom","name":"f"}]"#, "tools[1]"),
    ] {
        let refused = parse(&format!(r#""input":"x","tools":{tools}"#)).err();
        assert_eq!(refused, Some(("invalid_value", param.to_owned())), "{tools}");
    }
}

#[test]
fn an_input_that_was_cut_short_is_told_as_it_came() {
    assert_eq!(tools::text_input(r#"{"input":"a\u00e4"}"#).as_str(), "aä");
    assert_eq!(tools::text_input(r#"{"input":"a"#).as_str(), r#"{"input":"a"#);
    assert_eq!(tools::text_input("").as_str(), "");
}
