//! Exchanges as people write them, with what they expect.

use cleanroom_safeguard::Action;
use serde::Deserialize;
use zeroize::Zeroizing;

/// What a file of exchanges is.
pub(super) enum Kind {
    /// One text.
    Text,
    /// One exchange a line, each as JSON.
    Lines,
}

impl Kind {
    pub(super) fn of(text: &str) -> Self {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty()).peekable();
        if lines.peek().is_some() && lines.all(|line| line.trim_start().starts_with('{')) {
            Self::Lines
        } else {
            Self::Text
        }
    }
}

/// One exchange, and what is expected of it. The texts are erased on drop.
pub(super) struct Written {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) prompt: Zeroizing<Vec<String>>,
    pub(super) answer: Zeroizing<Vec<String>>,
    pub(super) expect: Option<Action>,
    pub(super) rules: Vec<String>,
}

impl Written {
    /// A text as an exchange of which there is nothing else.
    pub(super) fn of_text(text: &str, is_answer: bool) -> Self {
        let (text, nothing) = (Zeroizing::new(vec![text.to_owned()]), Zeroizing::default());
        let (prompt, answer) = if is_answer { (nothing, text) } else { (text, nothing) };
        Self { line: 1, name: String::new(), prompt, answer, expect: None, rules: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    prompt: Texts,
    #[serde(default)]
    answer: Texts,
    expect: Option<Action>,
    #[serde(default)]
    rules: Vec<String>,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

impl Default for Texts {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl From<Texts> for Zeroizing<Vec<String>> {
    fn from(texts: Texts) -> Self {
        Self::new(match texts {
            Texts::One(text) => vec![text],
            Texts::Several(texts) => texts,
        })
    }
}

/// Reads JSON Lines. The error names the line, and quotes nothing of it.
pub(super) fn read_lines(text: &str) -> Result<Vec<Written>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let number = index + 1;
            let Line { prompt, answer, expect, rules, name } = serde_json::from_str(line)
                .map_err(|error| format!("line {number} is no exchange: {error}"))?;
            let (prompt, answer) = (Zeroizing::from(prompt), Zeroizing::from(answer));
            if prompt.is_empty() && answer.is_empty() {
                return Err(format!("line {number} has neither `prompt` nor `answer`"));
            }
            Ok(Written { line: number, name, prompt, answer, expect, rules })
        })
        .collect()
}
