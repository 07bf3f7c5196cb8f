//! A conversation, as the input of a chat template.

/// One message of a chat.
#[derive(Clone, Copy, Default)]
pub struct ChatMessage<'a> {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: &'a str,
    /// The text. Control tokens written in it stay text.
    pub content: &'a str,
    /// Who speaks, among several of one role.
    pub name: Option<&'a str>,
    /// What the assistant thought before it spoke.
    pub reasoning: Option<&'a str>,
    /// The tools that the assistant called.
    pub calls: &'a [ChatCall<'a>],
    /// The id of the call that a tool's message answers.
    pub answers: Option<&'a str>,
}

impl<'a> ChatMessage<'a> {
    /// A message that is nothing but text.
    #[must_use]
    pub fn new(role: &'a str, content: &'a str) -> Self {
        Self { role, content, ..Self::default() }
    }
}

/// A call of a tool.
#[derive(Clone, Copy)]
pub struct ChatCall<'a> {
    /// What the tool's answer refers to.
    pub id: &'a str,
    /// The tool.
    pub name: &'a str,
    /// JSON, usually an object. Anything else is shown as text.
    pub arguments: &'a str,
}

/// A tool that may be called.
#[derive(Clone, Copy)]
pub struct ChatTool<'a> {
    /// Its name: letters, digits, `_` and `-`.
    pub name: &'a str,
    /// What it is for.
    pub description: Option<&'a str>,
    /// The JSON Schema of its arguments; none for any object.
    pub parameters: Option<&'a str>,
}

/// A conversation, and what a template is told beside it.
#[derive(Clone, Copy, Default)]
pub struct Chat<'a> {
    /// At least one.
    pub messages: &'a [ChatMessage<'a>],
    /// The tools that the model is told of.
    pub tools: &'a [ChatTool<'a>],
    /// Whether the model is to think first, for templates that ask for `enable_thinking`.
    pub thinks: Option<bool>,
    /// How much, for templates that ask for `reasoning_effort`.
    pub effort: Option<&'a str>,
    /// More variables for the template: a JSON object.
    pub variables: Option<&'a str>,
}
