//! Splits the text of an answer, as it comes, into thoughts, text and tool calls.
//!
//! Nothing that could still become a mark leaves. What looks like a call and is none leaves as text.

use super::{CallForm, Forms, ThoughtForm};
use crate::scratch::ScratchText;

/// Longest beginning of a call, up to its arguments (bytes).
const MAX_HEAD: usize = 1024;

/// A part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// More of what the model says.
    Text(&'a str),
    /// More of what the model thinks.
    Thought(&'a str),
    /// A call of the tool with this name begins.
    Call(&'a str),
    /// More of the last call's arguments, which are JSON.
    Arguments(&'a str),
}

/// Reads one answer.
#[derive(Clone)]
pub struct AnswerReader {
    forms: Forms,
    /// Whether calls are looked for, and of which tools.
    tools: Option<Vec<ScratchText>>,
    state: State,
    /// What has come and cannot be decided yet.
    held: ScratchText,
    /// White space at the end of a text that a call may follow.
    space: ScratchText,
}

/// Where in its answer the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has come but white space.
    Start,
    Thought,
    /// White space between a thought and a text is not a part of either.
    AfterThought,
    Text,
    /// At the beginning of a call, up to its arguments.
    Head {
        is_next: bool,
    },
    Arguments(Scan),
    /// Behind the arguments.
    Tail,
    /// Behind a call, where another can begin.
    Between,
    /// In the header of a message (Harmony).
    Header,
    /// In the body of one.
    Body(Channel),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Thought,
    Text,
    Call,
}

/// Where in a JSON value the arguments are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Scan {
    depth: u32,
    in_text: bool,
    is_escaped: bool,
    has_begun: bool,
}

/// What a step has come to.
enum Step {
    Again,
    /// More text is needed.
    Wait,
}

impl AnswerReader {
    /// A reader at the beginning of an answer. `in_thought` says that the prompt ends in the middle of a thought.
    pub(crate) fn new(forms: Forms, tools: Option<Vec<ScratchText>>, in_thought: bool) -> Self {
        let state = match (forms.thoughts, in_thought) {
            (Some(ThoughtForm::Harmony), _) => State::Header,
            (Some(_), true) => State::Thought,
            _ => State::Start,
        };
        let tools = tools.filter(|_| forms.calls.is_some());
        Self { forms, tools, state, held: ScratchText::default(), space: ScratchText::default() }
    }

    /// A reader of the answers to a template's prompts, in which calls of these tools are looked for. For measuring and for
    /// testing; [`Model::answer_reader`](crate::Model::answer_reader) makes the one for a prompt.
    #[must_use]
    pub fn of_template(template: &str, tools: &[&str], in_thought: bool) -> Self {
        let tools = tools.iter().map(|tool| ScratchText::from(*tool)).collect();
        Self::new(Forms::of_template(template), Some(tools), in_thought)
    }

    /// Takes more of the answer.
    pub fn push(&mut self, text: &str, each: &mut dyn FnMut(Part<'_>)) {
        self.held.push_str(text);
        while !self.held.is_empty() && matches!(self.step(each), Step::Again) {}
    }

    /// Takes the end of the answer: what was held is what it looks like.
    pub fn finish(&mut self, each: &mut dyn FnMut(Part<'_>)) {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Thought | State::Body(Channel::Thought) => emit(&held, Part::Thought, each),
            State::Arguments(_) | State::Body(Channel::Call) => emit(&held, Part::Arguments, each),
            State::Tail | State::Between | State::Header | State::AfterThought => {}
            State::Head { is_next: true } => {}
            State::Start | State::Text | State::Head { .. } | State::Body(Channel::Text) => {
                self.say(&held, each);
            }
        }
        let space = std::mem::take(&mut self.space);
        if self.state == State::Text {
            emit(&space, Part::Text, each);
        }
    }

    fn step(&mut self, each: &mut dyn FnMut(Part<'_>)) -> Step {
        match self.state {
            State::Start => self.start(),
            State::Thought => self.thought(each),
            State::AfterThought => self.after_thought(),
            State::Text => self.text(each),
            State::Head { .. } => self.head(each),
            State::Arguments(scan) => self.arguments(scan, each),
            State::Tail => self.tail(),
            State::Between => self.between(),
            State::Header => self.header(each),
            State::Body(channel) => self.body(channel, each),
        }
    }

    /// Whether the answer begins with a thought, a call or a text.
    fn start(&mut self) -> Step {
        let trimmed = self.held.trim_start();
        if trimmed.is_empty() {
            return Step::Wait;
        }
        let before = self.held.len() - trimmed.len();
        if let Some(ThoughtForm::Marks(open, _)) = self.forms.thoughts {
            if trimmed.starts_with(open) {
                self.drop_held(before + open.len());
                self.state = State::Thought;
                return Step::Again;
            }
            if open.starts_with(trimmed) {
                return Step::Wait;
            }
        }
        self.begin_text()
    }

    /// What follows a thought, or has none before it.
    fn begin_text(&mut self) -> Step {
        let is_llama = self.tools.is_some() && self.forms.calls == Some(CallForm::Llama);
        if is_llama {
            let trimmed = self.held.trim_start();
            if !trimmed.is_empty() && trimmed.len() < PYTHON.len() && PYTHON.starts_with(trimmed) {
                return Step::Wait;
            }
            if trimmed.starts_with('{') || trimmed.starts_with(PYTHON) {
                self.state = State::Head { is_next: false };
                return Step::Again;
            }
        }
        self.state = State::Text;
        Step::Again
    }

    fn thought(&mut self, each: &mut dyn FnMut(Part<'_>)) -> Step {
        let Some(ThoughtForm::Marks(_, close)) = self.forms.thoughts else {
            self.state = State::Text;
            return Step::Again;
        };
        let (safe, found) = until(&self.held, &[close]);
        emit(self.held.get(..safe).unwrap_or_default(), Part::Thought, each);
        self.drop_held(safe + found.map_or(0, str::len));
        if found.is_some() {
            self.state = State::AfterThought;
            return Step::Again;
        }
        Step::Wait
    }

    fn after_thought(&mut self) -> Step {
        let before = self.held.len() - self.held.trim_start().len();
        self.drop_held(before);
        if self.held.is_empty() { Step::Wait } else { self.begin_text() }
    }

    fn text(&mut self, each: &mut dyn FnMut(Part<'_>)) -> Step {
        let mark = match (self.tools.is_some(), self.forms.calls) {
            (true, Some(CallForm::Hermes)) => HERMES,
            (true, Some(CallForm::MistralList | CallForm::MistralNamed)) => MISTRAL,
            _ => {
                let held = std::mem::take(&mut self.held);
                self.say(&held, each);
                return Step::Wait;
            }
        };
        let (safe, found) = until(&self.held, &[mark]);
        let text = ScratchText::from(self.held.get(..safe).unwrap_or_default());
        self.drop_held(safe + found.map_or(0, str::len));
        if found.is_some() {
            let text = text.trim_end();
            if !text.is_empty() {
                self.say(text, each);
            }
            self.space.clear();
            self.state = State::Head { is_next: false };
            return Step::Again;
        }
        self.say(&text, each);
        Step::Wait
    }

    /// Emits text, without white space at its end that a call may follow.
    fn say(&mut self, text: &str, each: &mut dyn FnMut(Part<'_>)) {
        if self.tools.is_none() {
            return emit(text, Part::Text, each);
        }
        let trimmed = text.trim_end();
        if trimmed.is_empty() {
            self.space.push_str(text);
            return;
        }
        let space = std::mem::take(&mut self.space);
        emit(&space, Part::Text, each);
        emit(trimmed, Part::Text, each);
        self.space.push_str(text.get(trimmed.len()..).unwrap_or_default());
    }

    fn head(&mut self, each: &mut dyn FnMut(Part<'_>)) -> Step {
        let head = match self.forms.calls {
            Some(CallForm::MistralNamed) => named_head(&self.held),
            _ => json_head(&self.held),
        };
        let is_known = |name: &str| self.tools.iter().flatten().any(|tool| tool.as_str() == name);
        match head {
            Head::Whole { name, length } if length <= MAX_HEAD && is_known(&name) => {
                each(Part::Call(&name));
                self.drop_held(length);
                self.state = State::Arguments(Scan::default());
                Step::Again
            }
            Head::Begun if self.held.len() <= MAX_HEAD => Step::Wait,
            // No call after all.
            _ => {
                self.state = State::Text;
                Step::Again
            }
        }
    }

    fn arguments(&mut self, mut scan: Scan, each: &mut dyn FnMut(Part<'_>)) -> Step {
        if !scan.has_begun {
            let before = self.held.len() - self.held.trim_start().len();
            self.drop_held(before);
        }
        let end = self.held.char_indices().find_map(|(at, character)| scan.end(at, character));
        let length = end.unwrap_or(self.held.len());
        emit(self.held.get(..length).unwrap_or_default(), Part::Arguments, each);
        self.drop_held(length);
        self.state = if end.is_some() { State::Tail } else { State::Arguments(scan) };
        Step::Again
    }

    /// The bracket that closes the call's own object, and the mark behind it.
    fn tail(&mut self) -> Step {
        if self.forms.calls == Some(CallForm::MistralNamed) {
            self.state = State::Between;
            return Step::Again;
        }
        let trimmed = self.held.trim_start();
        if trimmed.is_empty() {
            return Step::Wait;
        }
        let before = self.held.len() - trimmed.len();
        self.drop_held(before + usize::from(trimmed.starts_with('}')));
        self.state = State::Between;
        Step::Again
    }

    fn between(&mut self) -> Step {
        let trimmed = self.held.trim_start();
        let (ends, next): (&[&str], &str) = match self.forms.calls {
            Some(CallForm::Hermes) => (&["</tool_call>"], HERMES),
            Some(CallForm::MistralList) => (&["]"], ","),
            Some(CallForm::MistralNamed) => (&[], MISTRAL),
            _ => (&[], "\u{0}"),
        };
        let before = self.held.len() - trimmed.len();
        if trimmed.is_empty()
            || ends.iter().chain([&next]).any(|mark| mark.len() > trimmed.len() && mark.starts_with(trimmed))
        {
            return Step::Wait;
        }
        if let Some(end) = ends.iter().find(|end| trimmed.starts_with(**end)) {
            self.drop_held(before + end.len());
            return Step::Again;
        }
        if trimmed.starts_with(next) {
            self.drop_held(before + next.len());
            self.state = State::Head { is_next: true };
            return Step::Again;
        }
        self.drop_held(before);
        self.state = State::Text;
        Step::Again
    }

    /// `<|channel|>analysis<|message|>`, `… to=functions.name …` (Harmony).
    fn header(&mut self, each: &mut dyn FnMut(Part<'_>)) -> Step {
        const MESSAGE: &str = "<|message|>";
        let found = self.held.find(MESSAGE);
        if found.is_none() && self.held.len() <= MAX_HEAD + MESSAGE.len() {
            return Step::Wait;
        }
        let Some(end) = found.filter(|end| *end <= MAX_HEAD) else {
            self.state = State::Text;
            return Step::Again;
        };
        let header = ScratchText::from(self.held.get(..end).unwrap_or_default());
        self.drop_held(end + MESSAGE.len());
        let channel = header.split("<|channel|>").nth(1).unwrap_or_default().trim_start();
        let called = header
            .split("to=functions.")
            .nth(1)
            .map(|rest| rest.split(|c: char| c.is_whitespace() || c == '<').next().unwrap_or_default());
        let known = called.filter(|name| self.tools.iter().flatten().any(|tool| tool.as_str() == *name));
        self.state = State::Body(match known {
            Some(name) => {
                each(Part::Call(name));
                Channel::Call
            }
            None if channel.starts_with("analysis") => Channel::Thought,
            None => Channel::Text,
        });
        Step::Again
    }

    fn body(&mut self, channel: Channel, each: &mut dyn FnMut(Part<'_>)) -> Step {
        let (safe, found) =
            until(&self.held, &["<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"]);
        let text = ScratchText::from(self.held.get(..safe).unwrap_or_default());
        let mark = found.map_or(0, |mark| if mark == "<|channel|>" { 0 } else { mark.len() });
        self.drop_held(safe + mark);
        match channel {
            Channel::Thought => emit(&text, Part::Thought, each),
            Channel::Call => emit(&text, Part::Arguments, each),
            Channel::Text => emit(&text, Part::Text, each),
        }
        if found.is_some() {
            self.state = State::Header;
            return Step::Again;
        }
        Step::Wait
    }

    fn drop_held(&mut self, length: usize) {
        self.held = ScratchText::from(self.held.get(length..).unwrap_or_default());
    }
}

const HERMES: &str = "<tool_call>";
const MISTRAL: &str = "[TOOL_CALLS]";
const PYTHON: &str = "<|python_tag|>";

fn emit<'t>(text: &'t str, part: fn(&'t str) -> Part<'t>, each: &mut dyn FnMut(Part<'_>)) {
    if !text.is_empty() {
        each(part(text));
    }
}

/// How much of `held` comes before any of the marks, and the mark that follows. What could become a mark does not
/// count.
fn until<'m>(held: &str, marks: &[&'m str]) -> (usize, Option<&'m str>) {
    let found = marks.iter().filter_map(|mark| Some((held.find(mark)?, *mark))).min_by_key(|(at, _)| *at);
    if let Some((at, mark)) = found {
        return (at, Some(mark));
    }
    let beginnings = marks.iter().flat_map(|mark| (1..mark.len()).filter_map(|length| mark.get(..length)));
    let undecided = beginnings.filter(|beginning| held.ends_with(beginning)).map(str::len).max();
    (held.len() - undecided.unwrap_or(0), None)
}

/// What a call begins with.
enum Head {
    /// The tool's name, and bytes up to the arguments.
    Whole {
        name: ScratchText,
        length: usize,
    },
    /// More is needed.
    Begun,
    Other,
}

/// `{"name": "f", "arguments":`
fn json_head(held: &str) -> Head {
    let mut rest = held.trim_start();
    rest = rest.strip_prefix(PYTHON).unwrap_or(rest).trim_start();
    // The list of calls.
    rest = rest.strip_prefix('[').unwrap_or(rest);
    let mut name = "";
    let parts: [(&[&str], bool); 7] = [
        (&["{"], false),
        (&["\"name\""], false),
        (&[":"], false),
        (&["\""], true),
        (&[","], false),
        (&["\"arguments\"", "\"parameters\""], false),
        (&[":"], false),
    ];
    for (texts, is_name) in parts {
        rest = rest.trim_start();
        let Some(text) = texts.iter().find(|text| rest.starts_with(**text)) else {
            let may_come = texts.iter().any(|text| text.starts_with(rest));
            return if may_come { Head::Begun } else { Head::Other };
        };
        rest = rest.get(text.len()..).unwrap_or_default();
        if is_name {
            let Some((found, after)) = rest.split_once('"') else { return Head::Begun };
            (name, rest) = (found, after);
        }
    }
    Head::Whole { name: ScratchText::from(name), length: held.len() - rest.len() }
}

/// `name[ARGS]`, with an id of the call between the two or without.
fn named_head(held: &str) -> Head {
    match held.split_once("[ARGS]") {
        Some((name, rest)) => {
            let name = name.split("[CALL_ID]").next().unwrap_or_default().trim();
            Head::Whole { name: ScratchText::from(name), length: held.len() - rest.len() }
        }
        None => Head::Begun,
    }
}

impl Scan {
    /// Takes one character; says where the value ends, if it has.
    fn end(&mut self, at: usize, character: char) -> Option<usize> {
        let after = Some(at + character.len_utf8());
        if self.in_text {
            match character {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                '"' => {
                    self.in_text = false;
                    return after.filter(|_| self.depth == 0);
                }
                _ => {}
            }
            return None;
        }
        match character {
            '"' => (self.in_text, self.has_begun) = (true, true),
            '{' | '[' => {
                self.depth = self.depth.saturating_add(1);
                self.has_begun = true;
            }
            '}' | ']' | ',' if self.depth == 0 => return Some(at),
            '}' | ']' => {
                self.depth -= 1;
                return after.filter(|_| self.depth == 0);
            }
            _ => self.has_begun |= !character.is_whitespace(),
        }
        None
    }
}
