//! A model with another chat template.

#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(clippy::expect_used, reason = "only tests use this; in them a panic is the report")]

/// A template that tells of tools and of thoughts in the form of Hermes and Qwen.
pub(crate) const TOOLS_AND_THOUGHTS: &str = r#"{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{% set content = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content %}{{ content }}{% for call in m.tool_calls %}<tool_call>{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking %}<think>
{% endif %}{% endif %}"#;

/// The model of `file` with `template` in the place of its own, and room for the descriptions of tools.
pub(crate) fn with_template(file: &[u8], template: &str) -> Vec<u8> {
    const CONTEXT: u32 = 4096;
    let key = b"tokenizer.chat_template\x08\0\0\0";
    let at = file.windows(key.len()).position(|window| window == key).expect("a template") + key.len();
    let (before, rest) = file.split_at(at);
    let (length, rest) = rest.split_at(8);
    let length = length.iter().rev().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    let after = rest.get(length..).expect("a whole template");
    // The tensors' data must stay aligned to 32 bytes; a comment fills up.
    let comment = 4 + (length + 4 * 32 - (template.len() + 4) % 32) % 32;
    let filled = format!("{template}{{#{}#}}", " ".repeat(comment - 4));
    assert_eq!(filled.len() % 32, length % 32);
    let mut changed = [before, &(filled.len() as u64).to_le_bytes(), filled.as_bytes(), after].concat();
    let key = b"llama.context_length\x04\0\0\0";
    let at = changed.windows(key.len()).position(|window| window == key).expect("a context") + key.len();
    changed.get_mut(at..at + 4).expect("a number").copy_from_slice(&CONTEXT.to_le_bytes());
    changed
}
