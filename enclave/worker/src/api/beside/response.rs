//! An answer of `/v1/responses`: items, one after the other, and events about each.

use cleanroom_backend::{FinishReason, Usage};

use crate::api::delivery::Delivery;
use crate::api::identity::Identity;
use crate::api::secret::{SecretBuffer, SecretString};
use crate::api::text::{PADDING, escape};
use crate::api::tools;

/// Ahead of an answer's id.
pub(crate) const ID_PREFIX: &str = "resp_";

/// An answer in the making.
pub(crate) struct ResponseAnswer {
    id: String,
    /// Members of the response that do not change.
    head: String,
    delivery: Delivery,
    /// Items that have ended, as JSON values with commas between them.
    done: SecretBuffer,
    open: Option<Item>,
    /// Items that have begun.
    items: usize,
    /// Events that were written.
    events: u64,
    reason: FinishReason,
    /// Names of the tools whose input is a text.
    text_tools: Vec<SecretString>,
}

/// An item that has not ended.
struct Item {
    kind: Kind,
    /// The text so far, as the inside of a JSON string.
    text: SecretBuffer,
    /// The name of the tool that is called, likewise.
    name: SecretBuffer,
    /// The arguments of a call whose input is a text, as they come.
    arguments: SecretBuffer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call,
    /// A call of a tool whose input is a text.
    TextCall,
}

impl Kind {
    const fn is_call(self) -> bool {
        matches!(self, Self::Call | Self::TextCall)
    }

    /// Ahead of an item's id.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Reasoning => "rs_",
            Self::Message => "msg_",
            Self::Call => "fc_",
            Self::TextCall => "ctc_",
        }
    }

    /// What events about more of the item are called, and the member that its text is in at the end.
    const fn events(self) -> (&'static str, &'static str) {
        match self {
            Self::Reasoning => ("response.reasoning_text", "text"),
            Self::Message => ("response.output_text", "text"),
            Self::Call => ("response.function_call_arguments", "arguments"),
            Self::TextCall => ("response.custom_tool_call_input", "input"),
        }
    }

    /// A part of the item's content around its text.
    const fn part(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Reasoning => Some((r#"{"type":"reasoning_text","text":""#, r#""}"#)),
            Self::Message => {
                Some((r#"{"type":"output_text","text":""#, r#"","annotations":[],"logprobs":[]}"#))
            }
            Self::Call | Self::TextCall => None,
        }
    }
}

impl ResponseAnswer {
    pub(crate) fn new(identity: &Identity<'_>, delivery: Delivery, text_tools: Vec<SecretString>) -> Self {
        let Identity { id, created, model, .. } = identity;
        let head = format!(
            "\"id\":\"{ID_PREFIX}{id}\",\"object\":\"response\",\"created_at\":{created},\"model\":\"{model}\",\"background\":false,\
             \"error\":null,\"instructions\":null,\"max_output_tokens\":null,\"metadata\":{{}},\"parallel_tool_calls\":true,\
             \"previous_response_id\":null,\"reasoning\":{{\"effort\":null,\"summary\":null}},\"service_tier\":\"default\",\
             \"store\":false,\"temperature\":null,\"text\":{{\"format\":{{\"type\":\"text\"}}}},\"tool_choice\":\"auto\",\
             \"tools\":[],\"top_p\":null,\"truncation\":\"disabled\""
        );
        Self {
            id: (*id).to_owned(),
            head,
            delivery,
            done: SecretBuffer::default(),
            open: None,
            items: 0,
            events: 2,
            reason: FinishReason::Stop,
            text_tools,
        }
    }

    /// The events ahead of the first item; nothing for a whole answer.
    pub(crate) fn opening(&self) -> String {
        let Delivery::Stream { .. } = self.delivery else { return String::new() };
        let event = |number: u64, name: &str| {
            format!(
                "event: {name}\ndata: {{\"type\":\"{name}\",\"sequence_number\":{number},\"response\":{{{},\
                 \"status\":\"in_progress\",\"incomplete_details\":null,\"output\":[],\"usage\":null}}}}\n\n",
                self.head
            )
        };
        event(0, "response.created") + &event(1, "response.in_progress")
    }

    pub(crate) fn text(&mut self, out: &mut SecretBuffer, text: &str) {
        self.more(out, Kind::Message, text);
    }

    pub(crate) fn reasoning(&mut self, out: &mut SecretBuffer, text: &str) {
        self.more(out, Kind::Reasoning, text);
    }

    pub(crate) fn call(&mut self, out: &mut SecretBuffer, name: &str) {
        let is_text = self.text_tools.iter().any(|tool| tool.as_str() == name);
        self.begin(out, if is_text { Kind::TextCall } else { Kind::Call }, name);
    }

    pub(crate) fn arguments(&mut self, out: &mut SecretBuffer, text: &str) {
        match &mut self.open {
            Some(item) if item.kind == Kind::Call => self.more(out, Kind::Call, text),
            // The input is inside of the arguments, and is told when they are whole.
            Some(item) if item.kind == Kind::TextCall => item.arguments.push(text.as_bytes()),
            _ => {}
        }
    }

    /// Ends the last item.
    pub(crate) fn close(&mut self, out: &mut SecretBuffer, reason: FinishReason) {
        self.end(out);
        self.reason = reason;
    }

    /// Ends the answer.
    pub(crate) fn finish(&mut self, out: &mut SecretBuffer, usage: Usage) {
        let Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
        let total = u64::from(prompt_tokens) + u64::from(completion_tokens);
        let (status, details) = match self.reason {
            FinishReason::Length | FinishReason::Deadline => {
                ("incomplete", r#"{"reason":"max_output_tokens"}"#)
            }
            FinishReason::Stop | FinishReason::StopString(_) => ("completed", "null"),
        };
        let is_stream = matches!(self.delivery, Delivery::Stream { .. });
        if is_stream {
            self.event(out, &format!("response.{status}"));
            out.push(b",\"response\":");
        }
        out.push(
            format!("{{{},\"status\":\"{status}\",\"incomplete_details\":{details},\"output\":[", self.head)
                .as_bytes(),
        );
        out.push(self.done.as_slice());
        let usage = format!(
            "],\"usage\":{{\"input_tokens\":{prompt_tokens},\"input_tokens_details\":{{\"cached_tokens\":{cached_tokens}}},\
             \"output_tokens\":{completion_tokens},\"output_tokens_details\":{{\"reasoning_tokens\":0}},\"total_tokens\":{total}}}}}"
        );
        out.push(usage.as_bytes());
        if is_stream {
            out.push(b"}\n\n");
        }
    }

    /// More of an item of this kind, which begins if another one is open.
    fn more(&mut self, out: &mut SecretBuffer, kind: Kind, text: &str) {
        if self.open.as_ref().is_none_or(|item| item.kind != kind) {
            self.begin(out, kind, "");
        }
        let mut escaped = SecretBuffer::default();
        escape(&mut escaped, text);
        if let Delivery::Stream { include_obfuscation, .. } = self.delivery {
            self.about(out, kind, &format!("{}.delta", kind.events().0));
            if kind == Kind::Message {
                out.push(b",\"logprobs\":[]");
            }
            out.push(b",\"delta\":\"");
            out.push(escaped.as_slice());
            if include_obfuscation {
                out.push(b"\",\"obfuscation\":\"");
                out.fill(b'.', PADDING - escaped.len() % PADDING);
            }
            out.push(b"\"}\n\n");
        }
        if let Some(item) = &mut self.open {
            item.text.push(escaped.as_slice());
        }
    }

    fn begin(&mut self, out: &mut SecretBuffer, kind: Kind, name: &str) {
        self.end(out);
        let mut item = Item {
            kind,
            text: SecretBuffer::default(),
            name: SecretBuffer::default(),
            arguments: SecretBuffer::default(),
        };
        escape(&mut item.name, name);
        self.items += 1;
        let is_stream = matches!(self.delivery, Delivery::Stream { .. });
        if is_stream {
            self.event(out, "response.output_item.added");
            out.push(format!(",\"output_index\":{},\"item\":", self.index()).as_bytes());
            self.write(out, &item, "in_progress");
            out.push(b"}\n\n");
        }
        self.open = Some(item);
        if let (true, Some((before, after))) = (is_stream, kind.part()) {
            self.about(out, kind, "response.content_part.added");
            out.push(format!(",\"part\":{before}{after}}}\n\n").as_bytes());
        }
    }

    /// Ends the item that is open.
    fn end(&mut self, out: &mut SecretBuffer) {
        if let Some(item) = self.open.as_mut().filter(|item| item.kind == Kind::TextCall) {
            let arguments = std::mem::take(&mut item.arguments);
            let input = tools::text_input(str::from_utf8(arguments.as_slice()).unwrap_or_default());
            self.more(out, Kind::TextCall, input.as_str());
        }
        let Some(item) = self.open.take() else { return };
        if matches!(self.delivery, Delivery::Stream { .. }) {
            let (event, member) = item.kind.events();
            self.about(out, item.kind, &format!("{event}.done"));
            out.push(format!(",\"{member}\":\"").as_bytes());
            out.push(item.text.as_slice());
            out.push(b"\"");
            out.push(if item.kind == Kind::Message { b",\"logprobs\":[]".as_slice() } else { b"" });
            out.push(b"}\n\n");
            if let Some((before, after)) = item.kind.part() {
                self.about(out, item.kind, "response.content_part.done");
                out.push(format!(",\"part\":{before}").as_bytes());
                out.push(item.text.as_slice());
                out.push(format!("{after}}}\n\n").as_bytes());
            }
        }
        self.done(out, &item);
    }

    /// Keeps an item that has ended, and tells of it.
    fn done(&mut self, out: &mut SecretBuffer, item: &Item) {
        let mut json = SecretBuffer::default();
        self.write(&mut json, item, "completed");
        if matches!(self.delivery, Delivery::Stream { .. }) {
            self.event(out, "response.output_item.done");
            out.push(format!(",\"output_index\":{},\"item\":", self.index()).as_bytes());
            out.push(json.as_slice());
            out.push(b"}\n\n");
        }
        if !self.done.is_empty() {
            self.done.push(b",");
        }
        self.done.push(json.as_slice());
    }

    /// Begins an event.
    fn event(&mut self, out: &mut SecretBuffer, name: &str) {
        let event = format!("event: {name}\ndata: {{\"type\":\"{name}\",\"sequence_number\":{}", self.events);
        out.push(event.as_bytes());
        self.events += 1;
    }

    /// Begins an event about the last item, which is of this kind.
    fn about(&mut self, out: &mut SecretBuffer, kind: Kind, name: &str) {
        self.event(out, name);
        let place = format!(",\"item_id\":\"{}\",\"output_index\":{}", self.item_id(kind), self.index());
        out.push(place.as_bytes());
        if !kind.is_call() {
            out.push(b",\"content_index\":0");
        }
    }

    /// The last item that has begun.
    fn index(&self) -> usize {
        self.items.saturating_sub(1)
    }

    fn item_id(&self, kind: Kind) -> String {
        format!("{}{}x{}", kind.prefix(), self.id, self.index())
    }

    /// An item as a JSON value.
    fn write(&self, out: &mut SecretBuffer, item: &Item, status: &str) {
        let id = self.item_id(item.kind);
        let head = format!("{{\"id\":\"{id}\",\"status\":\"{status}\",");
        out.push(head.as_bytes());
        match item.kind {
            Kind::Call | Kind::TextCall => {
                let kind = if item.kind == Kind::Call { "function_call" } else { "custom_tool_call" };
                let (id, index) = (&self.id, self.index());
                let call = format!("\"type\":\"{kind}\",\"call_id\":\"call_{id}x{index}\",\"name\":\"");
                out.push(call.as_bytes());
                out.push(item.name.as_slice());
                out.push(format!("\",\"{}\":\"", item.kind.events().1).as_bytes());
                out.push(item.text.as_slice());
                return out.push(b"\"}");
            }
            Kind::Reasoning => out.push(b"\"type\":\"reasoning\",\"summary\":[],\"content\":["),
            Kind::Message => out.push(b"\"type\":\"message\",\"role\":\"assistant\",\"content\":["),
        }
        if let Some((before, after)) = item.kind.part().filter(|_| !item.text.is_empty()) {
            out.push(before.as_bytes());
            out.push(item.text.as_slice());
            out.push(after.as_bytes());
        }
        out.push(b"]}");
    }
}
