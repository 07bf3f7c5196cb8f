use super::*;
use crate::{
    chat::ChatMessage,
    constraint::{Matcher, RandomAnswer},
    forms::Part,
};

#[path = "../../../tests/support/template_model.rs"]
mod template_model;

const DEMO: &[u8] = include_bytes!("../../../../../models/demo.gguf");
const SCHEMA: &str = r#"{"type":"object","properties":{"a":{"enum":[1,2]},"b":{"type":"boolean"}},"required":["a","b"],"additionalProperties":false}"#;

/// Templates that tell of tools, one for each form of calls.
const TEMPLATES: [&str; 5] = [
    "{{ tools }}<tool_call>{{ messages[0].content }}",
    "<|start_header_id|>{{ tools }} parameters {{ messages[0].content }}",
    "{{ tools }}[TOOL_CALLS]{{ messages[0].content }}",
    "{{ tools }}[TOOL_CALLS][ARGS]{{ messages[0].content }}",
    "{{ tools }}<|channel|><|message|>{{ messages[0].content }}",
];

fn model(template: &str) -> Model {
    Model::from_gguf(&template_model::with_template(DEMO, template)).unwrap()
}

fn prompt(model: &Model, thinks: bool) -> ChatPrompt {
    let chat = Chat { messages: &[ChatMessage::new("user", "x")], thinks: Some(thinks), ..Chat::default() };
    model.prompt_from_conversation(&chat).unwrap()
}

fn tool(name: &str) -> CallableTool<'_> {
    CallableTool { name, parameters: Some(SCHEMA), strict: true }
}

/// Calls and their arguments, and whatever else there is.
fn read(
    model: &Model,
    prompt: &ChatPrompt,
    tools: &[CallableTool<'_>],
    answer: &str,
) -> (Vec<(String, String)>, String) {
    let mut reader = model.answer_reader(prompt, Some(tools)).unwrap();
    let (mut calls, mut rest) = (Vec::<(String, String)>::new(), String::new());
    let mut each = |part: Part<'_>| match part {
        Part::Call(name) => calls.push((name.to_owned(), String::new())),
        Part::Arguments(text) => calls.last_mut().unwrap().1.push_str(text),
        Part::Text(text) | Part::Thought(text) => rest.push_str(text),
    };
    reader.push(answer, &mut each);
    reader.finish(&mut each);
    (calls, rest)
}

#[test]
fn calls_that_must_come_are_read_as_what_they_are_in_every_form() {
    let tools = [tool("f"), tool("get_weather")];
    for template in TEMPLATES {
        let model = model(template);
        let prompt = prompt(&model, false);
        let mut most = 0;
        for (seed, parallel) in (0..24).flat_map(|seed| [(seed, false), (seed, true)]) {
            let wanted = CallsWanted { tools: &tools, must: true, parallel, otherwise: None };
            let constraint = model.constrained_to_calls(&prompt, &wanted).unwrap().unwrap();
            let RandomAnswer::Ended(answer) = model.random_answer(&constraint, seed, 600) else { continue };
            let answer = std::str::from_utf8(&answer).unwrap();
            let (calls, rest) = read(&model, &prompt, &tools, answer);
            assert_eq!(rest, "", "{answer}");
            assert!(!calls.is_empty() && (parallel || calls.len() == 1), "{answer}");
            for (name, arguments) in &calls {
                assert!(["f", "get_weather"].contains(&name.as_str()));
                let json: serde_json::Value = serde_json::from_str(arguments).unwrap();
                assert!(json["a"].is_u64() && json["b"].is_boolean(), "{answer}");
            }
            most = most.max(calls.len());
        }
        assert!(most > 0, "no answer of {template} ended");
    }
}

#[test]
fn an_answer_is_a_call_or_what_it_is_held_to_otherwise() {
    let model = model(TEMPLATES[0]);
    let prompt = prompt(&model, false);
    let tools = [tool("f")];
    let wanted =
        CallsWanted { tools: &tools, must: false, parallel: false, otherwise: Some(r#"{"type":"boolean"}"#) };
    let constraint = model.constrained_to_calls(&prompt, &wanted).unwrap().unwrap();
    for (text, is_fine) in [("true", true), ("<tool_call>{\"name\": \"f\",", true), ("Hello", false)] {
        assert_eq!(walk(&model, &mut constraint.matcher(), text), is_fine, "{text}");
    }
    let odd = CallableTool { name: "g", parameters: Some(r#"{"type":"object","not":{}}"#), strict: true };
    let second = |odd: CallableTool<'_>| {
        let tools = [tool("f"), odd];
        let wanted = CallsWanted { tools: &tools, must: true, parallel: true, otherwise: None };
        model.constrained_to_calls(&prompt, &wanted).err()
    };
    assert_eq!(second(odd), Some((1, SchemaError::Keyword("not"))));
    assert_eq!(second(CallableTool { strict: false, ..odd }), None);
}

/// Whether a text may come, byte by byte, and is permitted by the mask each time.
fn walk(model: &Model, matcher: &mut Matcher, text: &str) -> bool {
    text.bytes().all(|byte| {
        let token = model.tokenizer.single_byte(byte);
        let mut scores = vec![0.0; model.tokenizer.len()];
        matcher.mask(&mut scores);
        scores[token as usize] == 0.0 && matcher.accept(token)
    })
}

#[test]
fn text_is_free_until_a_call_begins_and_calls_are_not() {
    for (template, free, call) in [
        (
            TEMPLATES[0],
            "Let me <tool_ see, <tool_call",
            ">\n{\"name\": \"f\", \"arguments\": {\"a\": 1, \"b\": true}}\n</tool_call>",
        ),
        (TEMPLATES[1], " {\"na", "me\": \"f\", \"parameters\": {\"a\": 2, \"b\": false}}"),
        (TEMPLATES[2], "Hm. [TOOL_CALLS", "][{\"name\": \"f\", \"arguments\": {\"a\": 2, \"b\": false}}]"),
        (TEMPLATES[3], "[TOOL_[TOOL_CALLS", "]f[ARGS]{\"a\": 2, \"b\": false}"),
    ] {
        let model = model(template);
        let prompt = prompt(&model, false);
        let tools = [tool("f")];
        let wanted = CallsWanted { tools: &tools, must: false, parallel: false, otherwise: None };
        let constraint = model.constrained_to_calls(&prompt, &wanted).unwrap().unwrap();
        let mut matcher = constraint.matcher();
        assert!(matcher.is_complete() && walk(&model, &mut matcher, free), "{free}");
        assert!(matcher.is_complete(), "text may end");
        assert!(walk(&model, &mut matcher, call), "{call}");
        assert!(matcher.is_complete(), "{call}");
        // In the call no other text may come.
        let mut matcher = constraint.matcher();
        assert!(walk(&model, &mut matcher, free));
        assert!(!walk(&model, &mut matcher, &call.replace("\"a\"", "\"x\"")));
        assert!(!matcher.is_complete());
    }
    // Where calls come at the beginning only, other text stays text.
    let model = model(TEMPLATES[1]);
    let prompt = prompt(&model, false);
    let tools = [tool("f")];
    let wanted = CallsWanted { tools: &tools, must: false, parallel: false, otherwise: None };
    let mut matcher = model.constrained_to_calls(&prompt, &wanted).unwrap().unwrap().matcher();
    assert!(walk(&model, &mut matcher, "Yes: {\"name\": 3, <tool_call>"));
}

#[test]
fn what_is_said_has_its_form_after_what_is_thought() {
    let template =
        "{{ tools }}<tool_call></think>{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}";
    let model = model(template);
    let (thinks, does_not) = (prompt(&model, true), prompt(&model, false));
    let form = || model.constrained_to(r#"{"type":"boolean"}"#).unwrap();
    assert!(!walk(&model, &mut model.after_thought(&does_not, form()).matcher(), "Hm"));
    let mut matcher = model.after_thought(&thinks, form()).matcher();
    assert!(walk(&model, &mut matcher, "Hm </thin"));
    assert!(!matcher.is_complete(), "a thought is no answer");
    let mut scores = vec![0.0; model.tokenizer.len()];
    matcher.mask(&mut scores);
    assert!(model.token_table().ends().iter().all(|end| scores[*end as usize] == f32::NEG_INFINITY));
    assert!(walk(&model, &mut matcher, "k>"));
    assert!(walk(&model, &mut matcher, "true") && matcher.is_complete());
    let tools = [tool("f")];
    let wanted = CallsWanted { tools: &tools, must: true, parallel: false, otherwise: None };
    let mut matcher = model.constrained_to_calls(&thinks, &wanted).unwrap().unwrap().matcher();
    assert!(walk(&model, &mut matcher, "Hm</think><tool_call>{\"name\": \"f\", "));
    assert!(!walk(&model, &mut matcher, "x"));
}
