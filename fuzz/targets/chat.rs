//! A conversation with tools, and an answer: a typed error or a prompt, no control token that a partner wrote, and an answer
//! that is read alike however it comes in pieces. Never a panic.
//!
//! The first byte chooses the form of calls. Zeros part a text, a schema, arguments and variables.

#![no_main]

use std::sync::LazyLock;

use cleanroom_engine::{
    AnswerReader, CallableTool, CallsWanted, Chat, ChatCall, ChatMessage, ChatTool, Model, Part,
};
use libfuzzer_sys::fuzz_target;

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    Model::from_gguf(include_bytes!("../corpus/model/llama-q8")).expect("the seed is a model")
});

const TEMPLATES: [&str; 6] = [
    "tools <tool_call>",
    "tools <tool_call> </think>",
    "tools <|start_header_id|> parameters",
    "tools [TOOL_CALLS]",
    "tools [TOOL_CALLS] [ARGS]",
    "tools <|channel|> <|message|>",
];

fuzz_target!(|input: &[u8]| {
    let Some((form, rest)) = input.split_first() else { return };
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    let mut parts = rest.splitn(4, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (text, schema, arguments, variables) = (part(), part(), part(), part());

    let template = TEMPLATES[usize::from(form % 6)];
    let in_thought = form & 0x80 != 0;
    let characters: Vec<String> = text.chars().map(String::from).collect();
    let pieces: Vec<&str> = characters.iter().map(String::as_str).collect();
    assert_eq!(read(template, in_thought, &[text]), read(template, in_thought, &pieces));

    let calls = [ChatCall { id: text, name: "f", arguments }];
    let messages = [
        ChatMessage::new("user", text),
        ChatMessage { calls: &calls, reasoning: Some(text), ..ChatMessage::new("assistant", text) },
        ChatMessage { answers: Some(text), ..ChatMessage::new("tool", text) },
    ];
    let tools = [ChatTool { name: "f", description: Some(text), parameters: Some(schema) }];
    let chat =
        Chat { messages: &messages, tools: &tools, thinks: None, effort: None, variables: Some(variables) };
    let Ok(prompt) = MODEL.prompt_from_conversation(&chat) else { return };
    let callable = [CallableTool { name: "f", parameters: Some(schema), strict: false }];
    let wanted = CallsWanted { tools: &callable, must: false, parallel: true, otherwise: None };
    assert!(
        MODEL.constrained_to_calls(&prompt, &wanted).is_ok(),
        "any object is left where a schema is not understood"
    );
});

/// What is read of an answer, with what belongs together joined.
fn read(template: &str, in_thought: bool, pieces: &[&str]) -> Vec<(u8, String)> {
    let mut reader = AnswerReader::of_template(template, &["f"], in_thought);
    let mut parts: Vec<(u8, String)> = Vec::new();
    let mut each = |part: Part<'_>| {
        let (kind, text) = match part {
            Part::Text(text) => (0, text),
            Part::Thought(text) => (1, text),
            Part::Arguments(text) => (2, text),
            Part::Call(text) => (3, text),
        };
        match parts.last_mut() {
            Some((last, joined)) if *last == kind && kind != 3 => joined.push_str(text),
            _ => parts.push((kind, text.to_owned())),
        }
    };
    pieces.iter().for_each(|piece| reader.push(piece, &mut each));
    reader.finish(&mut each);
    parts
}
