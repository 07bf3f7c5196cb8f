use proptest::prelude::*;

use super::*;
use crate::scratch::ScratchText;

const HERMES: &str = "{% if tools %}<tool_call>{% endif %}";
const THINKING: &str = "{% if tools %}<tool_call></think>{% endif %}{{ enable_thinking }}";
const LLAMA: &str = "<|start_header_id|>{{ tools }} parameters";
const MISTRAL_LIST: &str = "[AVAILABLE_TOOLS]{{ tools }}[TOOL_CALLS]";
const MISTRAL_NAMED: &str = "{{ tools }}[TOOL_CALLS][ARGS]";
const HARMONY: &str = "{{ tools }}<|channel|><|message|>{{ reasoning_effort }}";

/// What is read of an answer that comes in these pieces, with what belongs together joined: `t:` text, `r:`
/// reasoning, `c:` a call, `a:` its arguments.
fn read(template: &str, in_thought: bool, pieces: &[&str]) -> Vec<String> {
    let tools = ["f", "get_weather"].map(ScratchText::from).into_iter().collect();
    let mut reader = AnswerReader::new(Forms::of_template(template), Some(tools), in_thought);
    let mut parts: Vec<(char, String)> = Vec::new();
    let mut each = |part: Part<'_>| {
        let (kind, text) = match part {
            Part::Text(text) => ('t', text),
            Part::Thought(text) => ('r', text),
            Part::Call(text) => ('c', text),
            Part::Arguments(text) => ('a', text),
        };
        match parts.last_mut() {
            Some((last, joined)) if *last == kind && kind != 'c' => joined.push_str(text),
            _ => parts.push((kind, text.to_owned())),
        }
    };
    for piece in pieces {
        reader.push(piece, &mut each);
    }
    reader.finish(&mut each);
    parts.into_iter().map(|(kind, text)| format!("{kind}:{text}")).collect()
}

#[test]
fn forms_are_those_of_the_template() {
    let calls = |source| Forms::of_template(source).calls;
    assert_eq!(calls(HERMES), Some(CallForm::Hermes));
    assert_eq!(calls(LLAMA), Some(CallForm::Llama));
    assert_eq!(calls(MISTRAL_LIST), Some(CallForm::MistralList));
    assert_eq!(calls(MISTRAL_NAMED), Some(CallForm::MistralNamed));
    assert_eq!(calls(HARMONY), Some(CallForm::Harmony));
    assert_eq!(calls("{{ messages }}"), None);
    assert_eq!(calls("{{ tools }}<tool_call><function="), None, "another form");
    let forms = Forms::of_template(THINKING);
    assert!(forms.has_switch && !forms.has_effort && forms.thoughts.is_some());
    assert_eq!(forms.opened_by("x<think>\n"), Some("</think>"));
    assert_eq!(forms.opened_by("x<think>\n\n</think>\n\n"), None);
}

/// Answers, and what is read of them.
const ANSWERS: [(&str, bool, &str, &[&str]); 17] = [
    (HERMES, false, "Hello {\"name\": \"f\"}.\n", &["t:Hello {\"name\": \"f\"}.\n"]),
    (
        HERMES,
        false,
        "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"\", \"b\": [1]}}\n</tool_call>",
        &["t:Let me see.", "c:f", "a:{\"a\": \"}\\\"\", \"b\": [1]}"],
    ),
    (
        HERMES,
        false,
        "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"get_weather\",\"arguments\":{\"x\":1}}</tool_call>",
        &["c:f", "a:{}", "c:get_weather", "a:{\"x\":1}"],
    ),
    (
        HERMES,
        false,
        "<tool_call>{\"name\": \"other\", \"arguments\": {}}",
        &["t:{\"name\": \"other\", \"arguments\": {}}"],
    ),
    (HERMES, false, "a <tool", &["t:a <tool"]),
    (THINKING, false, "<think>\nhm\n</think>\n\nYes.", &["r:\nhm\n", "t:Yes."]),
    (THINKING, true, "hm</think>\n\nYes.", &["r:hm", "t:Yes."]),
    (THINKING, true, "hm </thin", &["r:hm </thin"]),
    (
        THINKING,
        true,
        "hm\n</think>\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
        &["r:hm\n", "c:f", "a:{}"],
    ),
    (THINKING, false, " Yes <think>", &["t: Yes <think>"]),
    (LLAMA, false, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", &["c:f", "a:{\"a\": 1}"]),
    (LLAMA, false, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", &["c:f", "a:{}"]),
    (LLAMA, false, "{\"name\": \"Bob\"}", &["t:{\"name\": \"Bob\"}"]),
    (
        MISTRAL_LIST,
        false,
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": [1]}}, {\"name\": \"f\", \"arguments\": {}}]",
        &["c:f", "a:{\"a\": [1]}", "c:f", "a:{}"],
    ),
    (
        MISTRAL_NAMED,
        false,
        "Wait.[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{}",
        &["t:Wait.", "c:f", "a:{\"a\": 1}", "c:get_weather", "a:{}"],
    ),
    (
        HARMONY,
        false,
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}",
        &["r:hm", "c:f", "a:{\"a\": 1}"],
    ),
    (
        HARMONY,
        false,
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        &["r:hm", "t:Yes."],
    ),
];

#[test]
fn answers_are_read_however_they_come() {
    for (template, in_thought, answer, expected) in ANSWERS {
        assert_eq!(read(template, in_thought, &[answer]), expected, "{answer}");
        let characters: Vec<String> = answer.chars().map(String::from).collect();
        let pieces: Vec<&str> = characters.iter().map(String::as_str).collect();
        assert_eq!(read(template, in_thought, &pieces), expected, "{answer}, character by character");
    }
}

proptest! {
    #[test]
    fn no_answer_is_too_strange_and_its_pieces_do_not_matter(
        form in 0_usize..6,
        answer in "(<tool_call>|</tool_call>|</?think>|\\[TOOL_CALLS\\]|\\[ARGS\\]|<\\|channel\\|>|<\\|message\\|>|<\\|end\\|>|to=functions.f|analysis|\\{\"name\": \"f\", \"arguments\": |[{}\\[\\],\"\\\\ f\né]){0,24}",
        in_thought: bool,
    ) {
        let template = [HERMES, THINKING, LLAMA, MISTRAL_LIST, MISTRAL_NAMED, HARMONY][form];
        let characters: Vec<String> = answer.chars().map(String::from).collect();
        let pieces: Vec<&str> = characters.iter().map(String::as_str).collect();
        prop_assert_eq!(read(template, in_thought, &[&answer]), read(template, in_thought, &pieces));
    }
}
