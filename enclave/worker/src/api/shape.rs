//! The members around the text of an answer.
//!
//! The text arrives in pieces. A whole answer and a stream of server-sent events are the same thing here: an opening,
//! something around each piece, and a closing. All but the pieces is put together once for each request, so that a token costs
//! three copies into a buffer and nothing else.

use cleanroom_backend::{FinishReason, ScoredToken, Usage};

use super::beside::Beside;
use super::error::ApiError;
pub(crate) use super::identity::Identity;
use super::request::Delivery;
use super::scores::{Scores, ScoresForm};
use super::secret::{SecretBuffer, SecretString};
use super::text::{PADDING, escape};

/// Whose clients an answer is for: which JSON goes around the text, and how an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's: `data` lines alone.
    OpenAi,
    /// Anthropic's: every event has a name.
    Anthropic,
}

impl Dialect {
    /// What a stream says that has no news.
    pub(crate) const fn ping(self) -> &'static [u8] {
        match self {
            // A comment, which clients of server-sent events ignore.
            Self::OpenAi => b": ping\n\n",
            Self::Anthropic => b"event: ping\ndata: {\"type\":\"ping\"}\n\n",
        }
    }

    /// An event in place of the rest of a stream. `members` of our own stand beside the error.
    pub(crate) fn failure(self, error: &ApiError, members: &[(&str, serde_json::Value)]) -> String {
        let mut object = error.to_value(self);
        for (name, value) in members {
            if let Some(object) = object.as_object_mut() {
                object.insert((*name).to_owned(), value.clone());
            }
        }
        let name = if self == Self::Anthropic { "event: error\n" } else { "" };
        format!("{name}data: {object}\n\n")
    }
}

/// The fixed text of one endpoint's answers.
pub(crate) struct Wording {
    pub(crate) id_prefix: &'static str,
    pub(crate) whole_object: &'static str,
    /// A choice after its index: before its text, and between the text and the probabilities.
    pub(crate) whole: [&'static str; 2],
    pub(crate) chunk_object: &'static str,
    /// The choice, after its index, in a chunk ahead of all text.
    pub(crate) first: Option<&'static str>,
    /// The same in a chunk with text: before the text, and between it and the probabilities.
    pub(crate) piece: [&'static str; 2],
    /// The same in the chunk with the finish reason, up to the probabilities.
    pub(crate) last: &'static str,
    /// How probabilities are put.
    pub(crate) scores: ScoresForm,
    /// Whether the answer can be more than text.
    pub(crate) is_chat: bool,
}

impl Wording {
    /// The answer's id as clients see it.
    pub(crate) fn answer_id(&self, id: &str) -> String {
        format!("{}{id}", self.id_prefix)
    }
}

/// Everything around the text of one choice of an answer.
pub(crate) struct Shape {
    /// Whether choices are put together only when all are complete.
    pub(super) whole: bool,
    /// Ahead of the first choice.
    pub(super) opening: String,
    /// Ahead of this choice's text.
    pub(super) first: String,
    pub(super) before: String,
    pub(super) after: String,
    pub(super) scores: Option<Scores>,
    pub(super) after_scores: String,
    /// What comes after the padding; `None` for no padding.
    pub(super) after_padding: Option<&'static str>,
    /// Between the text of a whole choice and its probabilities.
    pub(super) before_whole_scores: String,
    pub(super) before_reason: String,
    /// What ends the choice.
    pub(super) after_reason: &'static str,
    /// What comes before the token counts, once every choice has ended.
    pub(super) before_usage: String,
    /// What comes after the token counts; `None` for no token counts.
    pub(super) after_usage: Option<&'static str>,
    pub(super) ending: Ending,
    /// What stands beside the text.
    pub(super) beside: Beside,
}

/// How the end of an answer is put.
pub(crate) enum Ending {
    /// The finish reason, and all three counts.
    OpenAi,
    /// The stop reason, the stop string that came, and two counts.
    Anthropic {
        /// The request's stop strings.
        stop: Vec<SecretString>,
    },
}

impl Shape {
    /// A choice of an answer for OpenAI's clients. `logprobs` is how many alternatives of each token it tells.
    pub(crate) fn new(
        wording: &Wording,
        identity: &Identity<'_>,
        delivery: Delivery,
        index: u32,
        logprobs: Option<u8>,
    ) -> Self {
        let scores = logprobs.map(|top| Scores::new(wording.scores, top));
        match delivery {
            Delivery::Whole => Self::whole(wording, identity, index, scores),
            Delivery::Stream { include_usage, include_obfuscation } => {
                Self::stream(wording, identity, index, scores, include_usage, include_obfuscation)
            }
        }
    }

    fn whole(wording: &Wording, identity: &Identity<'_>, index: u32, scores: Option<Scores>) -> Self {
        let [before_text, before_scores] = wording.whole;
        Self {
            whole: true,
            opening: format!("{{{},\"choices\":[", wording.members(identity, wording.whole_object)),
            first: format!("{{\"index\":{index}{before_text}"),
            before: String::new(),
            after: String::new(),
            after_scores: String::new(),
            after_padding: None,
            before_whole_scores: format!("{before_scores}{}", null_unless(&scores)),
            scores,
            before_reason: ",\"finish_reason\":\"".to_owned(),
            after_reason: "\"}",
            before_usage: "],\"usage\":".to_owned(),
            after_usage: Some("}"),
            ending: Ending::OpenAi,
            beside: match wording.is_chat {
                true => Beside::chat_whole(identity, index),
                false => Beside::Nothing,
            },
        }
    }

    fn stream(
        wording: &Wording,
        identity: &Identity<'_>,
        index: u32,
        scores: Option<Scores>,
        usage: bool,
        obfuscation: bool,
    ) -> Self {
        let members = wording.members(identity, wording.chunk_object);
        let chunk = format!("data: {{{members},\"choices\":[");
        let start = format!("{chunk}{{\"index\":{index}");
        // When counts are asked for, OpenAI puts `"usage": null` into every chunk but the last.
        let no_usage = if usage { ",\"usage\":null" } else { "" };
        let [before_text, before_scores] = wording.piece;
        let first = wording.first.map(|first| format!("{start}{first}]{no_usage}}}\n\n"));
        Self {
            whole: false,
            opening: String::new(),
            first: first.unwrap_or_default(),
            before: format!("{start}{before_text}"),
            after: format!("{before_scores}{}", null_unless(&scores)),
            scores,
            after_scores: format!(
                ",\"finish_reason\":null}}]{no_usage}{}",
                if obfuscation { ",\"obfuscation\":\"" } else { "}\n\n" }
            ),
            after_padding: obfuscation.then_some("\"}\n\n"),
            before_whole_scores: String::new(),
            before_reason: format!("{start}{},\"logprobs\":null,\"finish_reason\":\"", wording.last),
            after_reason: if usage { "\"}],\"usage\":null}\n\n" } else { "\"}]}\n\n" },
            before_usage: if usage { format!("{chunk}],\"usage\":") } else { "data: [DONE]\n\n".to_owned() },
            after_usage: usage.then_some("}\n\ndata: [DONE]\n\n"),
            ending: Ending::OpenAi,
            beside: match wording.is_chat {
                true => Beside::chat_stream(identity, index, start),
                false => Beside::Nothing,
            },
        }
    }

    pub(crate) const fn dialect(&self) -> Dialect {
        match self.ending {
            Ending::OpenAi => Dialect::OpenAi,
            Ending::Anthropic { .. } => Dialect::Anthropic,
        }
    }

    /// Begins the answer.
    pub(crate) fn open(&self, out: &mut SecretBuffer) {
        out.push(self.opening.as_bytes());
    }

    /// Begins the choice.
    pub(crate) fn open_choice(&self, out: &mut SecretBuffer) {
        out.push(self.first.as_bytes());
    }

    pub(crate) fn piece(&mut self, out: &mut SecretBuffer, text: &str, tokens: &[ScoredToken]) {
        if let Some(answer) = self.beside.response() {
            return answer.text(out, text);
        }
        if let Some(kept) = self.beside.kept() {
            escape(&mut kept.text, text);
            if let Some(scores) = &mut self.scores {
                scores.add(tokens);
            }
            return;
        }
        if let Some(before) = self.beside.begin_text(out) {
            self.before = before;
        }
        out.push(self.before.as_bytes());
        let start = out.len();
        escape(out, text);
        let mut length = out.len().saturating_sub(start);
        out.push(self.after.as_bytes());
        let mut step = PADDING;
        if let Some(scores) = &mut self.scores {
            scores.add(tokens);
            if !self.whole {
                let start = out.len();
                scores.write(out);
                length += out.len().saturating_sub(start);
                step = scores.padding();
            }
        }
        self.pad(out, length, step);
    }

    /// More of what the model thinks.
    pub(crate) fn reasoning(&mut self, out: &mut SecretBuffer, text: &str) {
        if let Some(answer) = self.beside.response() {
            return answer.reasoning(out, text);
        }
        if let Some(kept) = self.beside.kept() {
            return escape(&mut kept.reasoning, text);
        }
        if let Some(around) = self.beside.reasoning(out) {
            self.padded(out, &around, text);
        }
    }

    /// A call of the tool called `name` begins.
    pub(crate) fn call(&mut self, out: &mut SecretBuffer, name: &str) {
        if let Some(answer) = self.beside.response() {
            return answer.call(out, name);
        }
        if let Some(around) = self.beside.call(out) {
            self.padded(out, &around, name);
        }
        if let Some(kept) = self.beside.kept() {
            kept.begin_call(name);
        }
    }

    /// More of the arguments of the last call.
    pub(crate) fn arguments(&mut self, out: &mut SecretBuffer, text: &str) {
        if let Some(answer) = self.beside.response() {
            return answer.arguments(out, text);
        }
        if let Some(kept) = self.beside.kept() {
            return kept.arguments(text);
        }
        if let Some(around) = self.beside.arguments(out) {
            self.padded(out, &around, text);
        }
    }

    /// An event around some text, whose length it does not tell.
    fn padded(&self, out: &mut SecretBuffer, (before, after): &(String, String), text: &str) {
        out.push(before.as_bytes());
        let start = out.len();
        escape(out, text);
        let length = out.len().saturating_sub(start);
        out.push(after.as_bytes());
        self.pad(out, length, PADDING);
    }

    fn pad(&self, out: &mut SecretBuffer, length: usize, step: usize) {
        out.push(self.after_scores.as_bytes());
        if let Some(after_padding) = self.after_padding {
            out.fill(b'.', step - length % step);
            out.push(after_padding.as_bytes());
        }
    }

    /// Ends the choice.
    pub(crate) fn close_choice(&mut self, out: &mut SecretBuffer, reason: FinishReason) {
        if let Some(answer) = self.beside.response() {
            return answer.close(out, reason);
        }
        self.beside.close(out);
        out.push(self.before_whole_scores.as_bytes());
        if let Some(scores) = self.scores.as_mut().filter(|_| self.whole) {
            scores.write(out);
        }
        out.push(self.before_reason.as_bytes());
        out.push(self.ending.reason(reason, self.beside.calls() > 0));
        self.ending.stop_string(out, reason);
        out.push(self.after_reason.as_bytes());
    }

    /// Ends the answer. `usage` is that of all choices.
    pub(crate) fn close(&mut self, out: &mut SecretBuffer, usage: Usage) {
        if let Some(answer) = self.beside.response() {
            return answer.finish(out, usage);
        }
        out.push(self.before_usage.as_bytes());
        if let Some(after_usage) = self.after_usage {
            out.push(self.ending.counts(usage).as_bytes());
            out.push(after_usage.as_bytes());
        }
    }
}

const fn null_unless(scores: &Option<Scores>) -> &'static str {
    if scores.is_some() { "" } else { "null" }
}

impl Ending {
    const fn reason(&self, reason: FinishReason, has_calls: bool) -> &'static [u8] {
        match (self, reason) {
            (Self::OpenAi, FinishReason::Stop) if has_calls => b"tool_calls",
            (Self::Anthropic { .. }, FinishReason::Stop) if has_calls => b"tool_use",
            (Self::OpenAi, FinishReason::Stop | FinishReason::StopString(_)) => b"stop",
            // One whose time is over is ended by another event.
            (Self::OpenAi, FinishReason::Length | FinishReason::Deadline) => b"length",
            (Self::Anthropic { .. }, FinishReason::Stop) => b"end_turn",
            (Self::Anthropic { .. }, FinishReason::StopString(_)) => b"stop_sequence",
            (Self::Anthropic { .. }, FinishReason::Length | FinishReason::Deadline) => b"max_tokens",
        }
    }

    fn stop_string(&self, out: &mut SecretBuffer, reason: FinishReason) {
        let Self::Anthropic { stop } = self else { return };
        let came = match reason {
            FinishReason::StopString(index) => stop.get(index),
            FinishReason::Stop | FinishReason::Length | FinishReason::Deadline => None,
        };
        out.push(b"\",\"stop_sequence\":");
        match came {
            Some(stop) => {
                out.push(b"\"");
                escape(out, stop.as_str());
                out.push(b"\"");
            }
            None => out.push(b"null"),
        }
    }

    /// Anthropic's clients count the prompt's tokens that were not computed apart, OpenAI's among the others.
    fn counts(&self, Usage { prompt_tokens, cached_tokens, completion_tokens }: Usage) -> String {
        let computed = prompt_tokens.saturating_sub(cached_tokens);
        let cached = match self {
            _ if cached_tokens == 0 => String::new(),
            Self::OpenAi => format!(",\"prompt_tokens_details\":{{\"cached_tokens\":{cached_tokens}}}"),
            Self::Anthropic { .. } => format!(",\"cache_read_input_tokens\":{cached_tokens}"),
        };
        let total = u64::from(prompt_tokens) + u64::from(completion_tokens);
        match self {
            Self::OpenAi => format!(
                "{{\"prompt_tokens\":{prompt_tokens},\"completion_tokens\":{completion_tokens},\"total_tokens\":{total}{cached}}}"
            ),
            Self::Anthropic { .. } => {
                format!("{{\"input_tokens\":{computed},\"output_tokens\":{completion_tokens}{cached}}}")
            }
        }
    }
}

impl Wording {
    /// The members that every object of an answer has.
    fn members(&self, identity: &Identity<'_>, object: &str) -> String {
        let Identity { id, created, model, fingerprint } = identity;
        let prefix = self.id_prefix;
        format!(
            "\"id\":\"{prefix}{id}\",\"object\":\"{object}\",\"created\":{created},\"model\":\"{model}\",\"system_fingerprint\":\"{fingerprint}\""
        )
    }
}

#[cfg(test)]
impl Shape {
    /// A whole answer in this shape: the model thinks in two pieces, speaks and calls twice.
    pub(super) fn spoken(mut self, thoughts: [&str; 2], usage: Usage) -> String {
        let mut out = SecretBuffer::default();
        self.open(&mut out);
        self.open_choice(&mut out);
        for thought in thoughts {
            self.reasoning(&mut out, thought);
        }
        self.piece(&mut out, "a", &[]);
        for name in ["f", "g"] {
            self.call(&mut out, name);
            self.arguments(&mut out, "{\"x\": ");
            self.arguments(&mut out, "\"y\"}");
        }
        self.close_choice(&mut out, FinishReason::Stop);
        self.close(&mut out, usage);
        String::from_utf8(out.take().to_vec()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{chat, completions};

    const IDENTITY: Identity<'_> = Identity { id: "0a", created: 7, model: "org/m", fingerprint: "fp_0b" };
    const USAGE: Usage = Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 2 };

    fn render(wording: &Wording, delivery: Delivery, pieces: &[&str]) -> String {
        let mut shape = Shape::new(wording, &IDENTITY, delivery, 0, None);
        let mut out = SecretBuffer::default();
        shape.open(&mut out);
        shape.open_choice(&mut out);
        pieces.iter().for_each(|piece| shape.piece(&mut out, piece, &[]));
        shape.close_choice(&mut out, FinishReason::Length);
        shape.close(&mut out, USAGE);
        String::from_utf8(out.take().to_vec()).unwrap()
    }

    fn events(stream: &str) -> Vec<Value> {
        let mut events: Vec<_> =
            stream.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    #[test]
    fn what_was_not_computed_is_counted_as_each_client_knows_it() {
        let usage = Usage { prompt_tokens: 70, cached_tokens: 64, completion_tokens: 2 };
        let counts = |ending: &Ending| serde_json::from_str::<Value>(&ending.counts(usage)).unwrap();
        let openai = json!({
            "prompt_tokens": 70, "completion_tokens": 2, "total_tokens": 72, "prompt_tokens_details": {"cached_tokens": 64},
        });
        assert_eq!(counts(&Ending::OpenAi), openai);
        let anthropic = json!({"input_tokens": 6, "output_tokens": 2, "cache_read_input_tokens": 64});
        assert_eq!(counts(&Ending::Anthropic { stop: Vec::new() }), anthropic);
    }

    /// What an answer is when the model thinks, speaks and calls twice.
    fn speak(delivery: Delivery) -> String {
        Shape::new(&chat::WORDING, &IDENTITY, delivery, 0, None).spoken(["h\"", "m"], USAGE)
    }

    #[test]
    fn a_whole_answer_has_a_member_for_each_part() {
        let value: Value = serde_json::from_str(&speak(Delivery::Whole)).unwrap();
        let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{\"x\": \"y\"}"}});
        let message = json!({
            "role": "assistant", "content": "a", "refusal": null, "reasoning_content": "h\"m",
            "tool_calls": [call("call_0a0x0", "f"), call("call_0a0x1", "g")],
        });
        assert_eq!(value["choices"][0]["message"], message);
        assert_eq!(value["choices"][0]["finish_reason"], "tool_calls");
    }

    #[test]
    fn a_stream_has_a_chunk_for_each_part() {
        let events = events(&speak(stream(false, true)));
        let deltas: Vec<_> = events.iter().map(|event| event["choices"][0]["delta"].clone()).collect();
        let begun = |index: usize, name: &str| json!({"tool_calls": [{"index": index, "id": format!("call_0a0x{index}"), "type": "function", "function": {"name": name, "arguments": ""}}]});
        let more = |index: usize, text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
        let expected = [
            json!({"role": "assistant", "content": "", "refusal": null}),
            json!({"reasoning_content": "h\""}),
            json!({"reasoning_content": "m"}),
            json!({"content": "a"}),
            begun(0, "f"),
            more(0, "{\"x\": "),
            more(0, "\"y\"}"),
            begun(1, "g"),
            more(1, "{\"x\": "),
            more(1, "\"y\"}"),
            json!({}),
        ];
        assert_eq!(deltas, expected);
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
        assert!(
            events[1..10].iter().all(|event| !event["obfuscation"].as_str().unwrap().is_empty()),
            "all are padded"
        );
    }

    const fn stream(include_usage: bool, include_obfuscation: bool) -> Delivery {
        Delivery::Stream { include_usage, include_obfuscation }
    }

    #[test]
    fn a_whole_chat_answer() {
        let value: Value =
            serde_json::from_str(&render(&chat::WORDING, Delivery::Whole, &["a\"", "b\n"])).unwrap();
        let expected = json!({
            "id": "chatcmpl-0a", "object": "chat.completion", "created": 7, "model": "org/m", "system_fingerprint": "fp_0b",
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": "a\"b\n", "refusal": null},
                "logprobs": null, "finish_reason": "length",
            }],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_whole_text_answer() {
        let value: Value =
            serde_json::from_str(&render(&completions::WORDING, Delivery::Whole, &["a", "b"])).unwrap();
        let expected = json!({
            "id": "cmpl-0a", "object": "text_completion", "created": 7, "model": "org/m", "system_fingerprint": "fp_0b",
            "choices": [{"text": "ab", "index": 0, "logprobs": null, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_chat_stream_opens_with_the_role_and_closes_with_the_reason() {
        let events = events(&render(&chat::WORDING, stream(false, false), &["a", "b"]));
        let choices: Vec<_> = events.iter().map(|event| event["choices"][0].clone()).collect();
        let choice = |delta: Value, reason: Value| json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
        assert_eq!(
            choices,
            [
                choice(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null),
                choice(json!({"content": "a"}), Value::Null),
                choice(json!({"content": "b"}), Value::Null),
                choice(json!({}), json!("length")),
            ]
        );
        for event in &events {
            assert_eq!(event["object"], "chat.completion.chunk");
            assert_eq!(event["id"], "chatcmpl-0a");
            assert!(event.get("usage").is_none() && event.get("obfuscation").is_none());
        }
    }

    #[test]
    fn a_text_stream_has_no_opening() {
        let events = events(&render(&completions::WORDING, stream(false, false), &["a"]));
        assert_eq!(events.len(), 2);
        assert_eq!(
            events[0]["choices"],
            json!([{"text": "a", "index": 0, "logprobs": null, "finish_reason": null}])
        );
        assert_eq!(
            events[1]["choices"],
            json!([{"text": "", "index": 0, "logprobs": null, "finish_reason": "length"}])
        );
        assert_eq!(events[1]["object"], "text_completion");
    }

    #[test]
    fn token_counts_come_last_with_no_choice_and_are_null_before() {
        for wording in [&chat::WORDING, &completions::WORDING] {
            let mut events = events(&render(wording, stream(true, true), &["a", "b"]));
            let last = events.pop().unwrap();
            assert_eq!(last["choices"], json!([]));
            assert_eq!(last["usage"], json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}));
            assert!(events.len() >= 3);
            assert!(events.iter().all(|event| event.get("usage") == Some(&Value::Null)));
        }
    }

    #[test]
    fn padded_events_do_not_tell_the_length_of_their_text() {
        let length = |delivery, text: &str| {
            let mut shape = Shape::new(&chat::WORDING, &IDENTITY, delivery, 0, None);
            let mut out = SecretBuffer::default();
            shape.piece(&mut out, text, &[]);
            out.len()
        };
        let lengths = (1..PADDING).map(|n| length(stream(false, true), &"x".repeat(n)));
        assert_eq!(lengths.collect::<std::collections::BTreeSet<_>>().len(), 1);
        assert_ne!(
            length(stream(false, false), "x"),
            length(stream(false, false), "xx"),
            "this test can fail"
        );
        let text = "x".repeat(PADDING);
        assert_eq!(length(stream(false, true), &text) % PADDING, length(stream(false, true), "x") % PADDING);
        let mut events = events(&render(&chat::WORDING, stream(false, true), &["abc"]));
        assert_eq!(events.remove(1)["obfuscation"].as_str().unwrap().len(), PADDING - 3);
    }

    #[test]
    fn any_text_survives_escaping_and_stays_on_one_line() {
        let mut text: String = (0..0x180_u32).filter_map(char::from_u32).collect();
        text.push_str("\u{2028}\u{fffd}😀 \\\" end");
        let stream = render(&chat::WORDING, stream(false, true), &[&text]);
        assert_eq!(events(&stream)[1]["choices"][0]["delta"]["content"], text);
        assert!(!stream.bytes().any(|byte| byte < 0x20 && byte != b'\n'));
    }
}
