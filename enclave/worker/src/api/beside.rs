//! The parts of an answer beside its text: the model's thoughts and tool calls.
//!
//! A whole answer keeps all of it until its end, since clients want one member for each. A stream writes it as it comes,
//! in the events that its clients know.

pub(crate) mod response;

pub(crate) use self::response::ResponseAnswer;
use super::identity::Identity;
use super::secret::SecretBuffer;
use super::text::escape;

/// What stands beside the text of one choice.
pub(crate) enum Beside {
    /// Nothing can.
    Nothing,
    ChatWhole(Kept),
    ChatStream(ChatStream),
    MessageWhole(Kept),
    MessageStream(MessageStream),
    /// Everything, text as well.
    Response(Box<ResponseAnswer>),
}

/// The parts of a whole answer, each as the inside of a JSON string, but for calls.
pub(crate) struct Kept {
    pub(super) text: SecretBuffer,
    pub(super) reasoning: SecretBuffer,
    /// Calls as JSON values with commas between them.
    made: SecretBuffer,
    /// The arguments of the last call, where they are a JSON value of their own.
    input: SecretBuffer,
    /// Whether the last call has no end yet.
    is_open: bool,
    calls: usize,
    /// Ahead of a call's number in its id.
    id: String,
    is_chat: bool,
}

/// Events of OpenAI's chats.
pub(crate) struct ChatStream {
    /// A chunk up to the index of its choice.
    start: String,
    id: String,
    calls: usize,
}

/// Events of Anthropic's messages: blocks, one after the other.
#[derive(Default)]
pub(crate) struct MessageStream {
    id: String,
    open: Option<Block>,
    /// Blocks that have begun.
    blocks: usize,
    calls: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    ToolUse,
}

/// What goes around the text of an event.
pub(super) type Around = (String, String);

impl Beside {
    pub(crate) fn chat_whole(identity: &Identity<'_>, choice: u32) -> Self {
        Self::ChatWhole(Kept::new(format!("call_{}{choice}", identity.id), true))
    }

    pub(crate) fn chat_stream(identity: &Identity<'_>, choice: u32, start: String) -> Self {
        Self::ChatStream(ChatStream { start, id: format!("call_{}{choice}", identity.id), calls: 0 })
    }

    pub(crate) fn message_whole(identity: &Identity<'_>) -> Self {
        Self::MessageWhole(Kept::new(format!("toolu_{}", identity.id), false))
    }

    pub(crate) fn message_stream(identity: &Identity<'_>) -> Self {
        Self::MessageStream(MessageStream {
            id: format!("toolu_{}", identity.id),
            ..MessageStream::default()
        })
    }

    /// An answer that writes all of its parts itself.
    pub(super) fn response(&mut self) -> Option<&mut ResponseAnswer> {
        match self {
            Self::Response(answer) => Some(answer),
            _ => None,
        }
    }

    /// Where the parts of a whole answer are kept.
    pub(super) fn kept(&mut self) -> Option<&mut Kept> {
        match self {
            Self::ChatWhole(kept) | Self::MessageWhole(kept) => Some(kept),
            _ => None,
        }
    }

    /// Calls that have begun.
    pub(super) const fn calls(&self) -> usize {
        match self {
            Self::Nothing | Self::Response(_) => 0,
            Self::ChatWhole(kept) | Self::MessageWhole(kept) => kept.calls,
            Self::ChatStream(stream) => stream.calls,
            Self::MessageStream(stream) => stream.calls,
        }
    }

    /// Text comes: what stands before it from now on, if that is new.
    pub(super) fn begin_text(&mut self, out: &mut SecretBuffer) -> Option<String> {
        let Self::MessageStream(stream) = self else { return None };
        stream
            .begin(Block::Text, r#"{"type":"text","text":""}"#, out)
            .then(|| stream.delta("text_delta", "text"))
    }

    /// What goes around more of a thought.
    pub(super) fn reasoning(&mut self, out: &mut SecretBuffer) -> Option<Around> {
        match self {
            Self::ChatStream(stream) => {
                let before = format!("{},\"delta\":{{\"reasoning_content\":\"", stream.start);
                Some((before, "\"},\"logprobs\":null".to_owned()))
            }
            Self::MessageStream(stream) => {
                stream.begin(Block::Thinking, r#"{"type":"thinking","thinking":"","signature":""}"#, out);
                Some((stream.delta("thinking_delta", "thinking"), AFTER_DELTA.to_owned()))
            }
            _ => None,
        }
    }

    /// What goes around the name of a tool that is called. A whole answer counts the call only.
    pub(super) fn call(&mut self, out: &mut SecretBuffer) -> Option<Around> {
        match self {
            Self::Nothing | Self::Response(_) => None,
            Self::ChatWhole(kept) | Self::MessageWhole(kept) => {
                kept.calls += 1;
                None
            }
            Self::ChatStream(ChatStream { start, id, calls }) => {
                let before = format!(
                    "{start},\"delta\":{{\"tool_calls\":[{{\"index\":{calls},\"id\":\"{id}x{calls}\",\"type\":\"function\",\
                     \"function\":{{\"name\":\""
                );
                *calls += 1;
                Some((before, "\",\"arguments\":\"\"}}]},\"logprobs\":null".to_owned()))
            }
            Self::MessageStream(stream) => {
                stream.end(out);
                stream.open = Some(Block::ToolUse);
                let MessageStream { id, blocks, calls, .. } = stream;
                let before = format!(
                    "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":{blocks},\
                     \"content_block\":{{\"type\":\"tool_use\",\"id\":\"{id}x{calls}\",\"input\":{{}},\"name\":\""
                );
                (stream.blocks, stream.calls) = (stream.blocks + 1, stream.calls + 1);
                Some((before, AFTER_DELTA.to_owned()))
            }
        }
    }

    /// What goes around more of the last call's arguments.
    pub(super) fn arguments(&mut self, _: &mut SecretBuffer) -> Option<Around> {
        match self {
            Self::ChatStream(ChatStream { start, calls, .. }) => {
                let index = calls.saturating_sub(1);
                let before = format!(
                    "{start},\"delta\":{{\"tool_calls\":[{{\"index\":{index},\"function\":{{\"arguments\":\""
                );
                Some((before, "\"}}]},\"logprobs\":null".to_owned()))
            }
            Self::MessageStream(stream) => {
                Some((stream.delta("input_json_delta", "partial_json"), AFTER_DELTA.to_owned()))
            }
            _ => None,
        }
    }

    /// Ends what is open, or writes what was kept.
    pub(super) fn close(&mut self, out: &mut SecretBuffer) {
        match self {
            Self::Nothing | Self::ChatStream(_) | Self::Response(_) => {}
            Self::ChatWhole(kept) => kept.close_chat(out),
            Self::MessageWhole(kept) => kept.close_message(out),
            Self::MessageStream(stream) => {
                if stream.blocks == 0 {
                    stream.begin(Block::Text, r#"{"type":"text","text":""}"#, out);
                }
                stream.end(out);
            }
        }
    }
}

/// What follows the text of an event of Anthropic's, up to its padding.
pub(super) const AFTER_DELTA: &str = "\"},\"obfuscation\":\"";

impl MessageStream {
    /// Begins a block, if the one that is open is of another kind. Says whether it has.
    fn begin(&mut self, block: Block, json: &str, out: &mut SecretBuffer) -> bool {
        if self.open == Some(block) {
            return false;
        }
        self.end(out);
        let event = format!(
            "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":{},\"content_block\":{json}}}\n\n",
            self.blocks
        );
        out.push(event.as_bytes());
        self.open = Some(block);
        self.blocks += 1;
        true
    }

    /// Ends the block that is open.
    fn end(&mut self, out: &mut SecretBuffer) {
        let Some(block) = self.open.take() else { return };
        let index = self.blocks.saturating_sub(1);
        if block == Block::Thinking {
            // Nobody here signs thoughts; clients want the member.
            let event = format!("{}\"}}}}\n\n", self.delta("signature_delta", "signature"));
            out.push(event.as_bytes());
        }
        let event = format!(
            "event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":{index}}}\n\n"
        );
        out.push(event.as_bytes());
    }

    /// An event about the block that is open, up to its text.
    fn delta(&self, kind: &str, member: &str) -> String {
        let index = self.blocks.saturating_sub(1);
        format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\
             \"delta\":{{\"type\":\"{kind}\",\"{member}\":\""
        )
    }
}

impl Kept {
    fn new(id: String, is_chat: bool) -> Self {
        let (text, reasoning, made, input) = Default::default();
        Self { text, reasoning, made, input, is_open: false, calls: 0, id, is_chat }
    }

    /// Begins a call, which has been counted.
    pub(super) fn begin_call(&mut self, name: &str) {
        self.end_call();
        let (id, number) = (&self.id, self.calls.saturating_sub(1));
        if number > 0 {
            self.made.push(b",");
        }
        let head = match self.is_chat {
            true => format!("{{\"id\":\"{id}x{number}\",\"type\":\"function\",\"function\":{{\"name\":\""),
            false => format!("{{\"type\":\"tool_use\",\"id\":\"{id}x{number}\",\"name\":\""),
        };
        self.made.push(head.as_bytes());
        escape(&mut self.made, name);
        self.made.push(if self.is_chat { b"\",\"arguments\":\"".as_slice() } else { b"\",\"input\":" });
        self.input = SecretBuffer::default();
        self.is_open = true;
    }

    pub(super) fn arguments(&mut self, text: &str) {
        match self.is_chat {
            true => escape(&mut self.made, text),
            false => self.input.push(text.as_bytes()),
        }
    }

    fn end_call(&mut self) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        if self.is_chat {
            return self.made.push(b"\"}}");
        }
        // An answer that was cut off leaves arguments that are no JSON.
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(self.input.as_slice()).is_ok();
        self.made.push(if is_json { self.input.as_slice() } else { b"{}" });
        self.made.push(b"}");
    }

    /// The members of a message of OpenAI's.
    fn close_chat(&mut self, out: &mut SecretBuffer) {
        self.end_call();
        if self.text.is_empty() && self.calls > 0 {
            out.push(b",\"content\":null");
        } else {
            out.push(b",\"content\":\"");
            out.push(self.text.as_slice());
            out.push(b"\"");
        }
        out.push(b",\"refusal\":null");
        if !self.reasoning.is_empty() {
            out.push(b",\"reasoning_content\":\"");
            out.push(self.reasoning.as_slice());
            out.push(b"\"");
        }
        if self.calls > 0 {
            out.push(b",\"tool_calls\":[");
            out.push(self.made.as_slice());
            out.push(b"]");
        }
    }

    /// The blocks of a message of Anthropic's.
    fn close_message(&mut self, out: &mut SecretBuffer) {
        self.end_call();
        let has_thought = !self.reasoning.is_empty();
        if has_thought {
            out.push(b"{\"type\":\"thinking\",\"thinking\":\"");
            out.push(self.reasoning.as_slice());
            out.push(b"\",\"signature\":\"\"}");
        }
        let has_text = !self.text.is_empty() || (self.calls == 0 && !has_thought);
        if has_text {
            out.push(if has_thought { b",".as_slice() } else { b"" });
            out.push(b"{\"type\":\"text\",\"text\":\"");
            out.push(self.text.as_slice());
            out.push(b"\"}");
        }
        if self.calls > 0 {
            out.push(if has_thought || has_text { b",".as_slice() } else { b"" });
            out.push(self.made.as_slice());
        }
    }
}
