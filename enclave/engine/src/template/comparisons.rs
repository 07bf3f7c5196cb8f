//! Comparisons in a template compare the original texts, not their stand-ins.
//!
//! An operator cannot be given another meaning, a function can. So each operand of `==`, `in` and their like
//! becomes an argument of [`AS_WRITTEN`] before the template is parsed: `'</think>' in content` turns into
//! `as_written('</think>') in as_written(content)`. What comes of a comparison is true or false, so no text
//! leaves it.

/// The function that operands are passed through.
pub(super) const AS_WRITTEN: &str = "as_written";

/// The source with every operand of a comparison as an argument of [`AS_WRITTEN`]. Line breaks stay where they
/// are. What is no template is left for the parser to refuse.
pub(super) fn compared_as_written(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + source.len() / 4);
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let length = match tag.get(..2) {
            Some("{#") => copy_through(tag, "#}", &mut out),
            Some("{%") if first_word(tag) == "raw" => copy_through(tag, "endraw", &mut out),
            Some("{%" | "{{") => copy_tag(tag, &mut out),
            _ => {
                out.push('{');
                1
            }
        };
        rest = tag.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Copies up to the end of `last`, and says how much that was.
fn copy_through(tag: &str, last: &str, out: &mut String) -> usize {
    let end = tag.find(last).map_or(tag.len(), |at| at + last.len());
    out.push_str(tag.get(..end).unwrap_or_default());
    end
}

/// The first word of a tag.
fn first_word(tag: &str) -> &str {
    let inside = tag.get(2..).unwrap_or_default().trim_start_matches(['-', '+']).trim_start();
    inside.split(|character: char| !is_word(character)).next().unwrap_or_default()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Copies one tag with its operands as arguments, and says how long it was.
fn copy_tag(tag: &str, out: &mut String) -> usize {
    let (tokens, length) = tokens(tag);
    let mut insertions = Operands::of(tag, &tokens);
    insertions.sort_by_key(|(at, _)| *at);
    let mut copied = 0;
    for (at, insertion) in insertions {
        out.push_str(tag.get(copied..at).unwrap_or_default());
        out.push_str(insertion);
        copied = at;
    }
    out.push_str(tag.get(copied..length).unwrap_or_default());
    length
}

/// From where to where a token reaches.
type Token = (usize, usize);

/// The tokens between the braces of a tag, and the length of the tag with its braces.
fn tokens(tag: &str) -> (Vec<Token>, usize) {
    let closing = if tag.starts_with("{%") { "%}" } else { "}}" };
    let mut tokens = Vec::new();
    let mut depth = 0_usize;
    let mut at = 2;
    while let Some(character) = tag.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = tag.get(at..).unwrap_or_default();
        if depth == 0 && rest.starts_with(closing) {
            return (tokens, at + closing.len());
        }
        let length = match character {
            '\'' | '"' => text_length(rest, character),
            '(' | '[' | '{' => {
                depth += 1;
                1
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                1
            }
            '=' | '!' | '<' | '>' | '*' | '/' if is_double(rest) => 2,
            _ if is_word(character) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => character.len_utf8(),
        };
        let is_control = matches!(character, '-' | '+')
            && depth == 0
            && (at == 2 || rest.get(1..).is_some_and(|rest| rest.starts_with(closing)));
        if !character.is_whitespace() && !is_control {
            tokens.push((at, at + length));
        }
        at += length;
    }
    (tokens, tag.len())
}

/// Bytes of a quoted text with its quotes.
fn text_length(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Whether an operator of two characters begins here.
fn is_double(rest: &str) -> bool {
    ["==", "!=", "<=", ">=", "**", "//"].iter().any(|operator| rest.starts_with(operator))
}

/// Finds what is compared in a tag.
struct Operands<'t> {
    tag: &'t str,
    /// The brackets that are open, the tag itself first.
    levels: Vec<Level>,
    /// Where the last token ended.
    last_end: usize,
    insertions: Vec<(usize, &'static str)>,
}

/// What stands between two brackets, so far.
#[derive(Default)]
struct Level {
    /// Where the operand under way began.
    start: Option<usize>,
    /// Whether it stands to the right of a comparison.
    is_right: bool,
}

/// What a token is to operands.
enum Role {
    /// A part of one.
    Part,
    /// Between two of one comparison.
    Comparison,
    /// Between two that have nothing to do with each other.
    Boundary,
    Opening,
    Closing,
}

impl<'t> Operands<'t> {
    /// What must be inserted, and where.
    fn of(tag: &'t str, tokens: &[Token]) -> Vec<(usize, &'static str)> {
        let mut operands = Self { tag, levels: vec![Level::default()], last_end: 0, insertions: Vec::new() };
        let mut is_loop = false;
        let words: Vec<&str> = tokens.iter().map(|token| operands.text(*token)).collect();
        for (index, token) in tokens.iter().enumerate() {
            let word = words.get(index).copied().unwrap_or_default();
            let before = |count: usize| index.checked_sub(count).and_then(|index| words.get(index)).copied();
            let names_test = before(1) == Some("is") || (before(1) == Some("not") && before(2) == Some("is"));
            let is_statement = index == 0 && tag.starts_with("{%");
            is_loop |= is_statement && word == "for";
            let role = match word {
                _ if before(1) == Some(".") || names_test => Role::Part,
                _ if is_statement => Role::Boundary,
                "in" if is_loop && operands.levels.len() == 1 => {
                    is_loop = false;
                    Role::Boundary
                }
                "==" | "!=" | "<" | ">" | "<=" | ">=" | "in" => Role::Comparison,
                "not" if before(1) == Some("is") => Role::Part,
                "not" if words.get(index + 1) == Some(&"in") => Role::Comparison,
                "and" | "or" | "not" | "if" | "else" | "," | ":" | "=" => Role::Boundary,
                "(" | "[" | "{" => Role::Opening,
                ")" | "]" | "}" => Role::Closing,
                _ => Role::Part,
            };
            operands.take(*token, &role);
        }
        while !operands.levels.is_empty() {
            operands.close();
            operands.levels.pop();
        }
        operands.insertions
    }

    fn text(&self, (start, end): Token) -> &'t str {
        self.tag.get(start..end).unwrap_or_default()
    }

    fn take(&mut self, (start, end): Token, role: &Role) {
        match role {
            Role::Part => self.begin(start),
            Role::Boundary => self.close(),
            Role::Comparison => self.compare(),
            Role::Opening => {
                self.begin(start);
                self.levels.push(Level::default());
            }
            Role::Closing => {
                self.close();
                if self.levels.len() > 1 {
                    self.levels.pop();
                }
            }
        }
        self.last_end = end;
    }

    /// Begins an operand, if none is under way.
    fn begin(&mut self, at: usize) {
        let Some(level) = self.levels.last_mut() else { return };
        if level.start.is_none() {
            level.start = Some(at);
            if level.is_right {
                self.insertions.push((at, OPEN));
            }
        }
    }

    /// Ends the operand under way, and what it was compared with.
    fn close(&mut self) {
        let Some(level) = self.levels.last_mut() else { return };
        if level.is_right && level.start.is_some() {
            self.insertions.push((self.last_end, ")"));
        }
        *level = Level::default();
    }

    /// Goes on from the left of a comparison to its right.
    fn compare(&mut self) {
        let Some(level) = self.levels.last_mut() else { return };
        if let Some(start) = level.start {
            if !level.is_right {
                self.insertions.push((start, OPEN));
            }
            self.insertions.push((self.last_end, ")"));
        }
        *level = Level { start: None, is_right: true };
    }
}

const OPEN: &str = "as_written(";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_become_arguments() {
        assert_eq!(OPEN, format!("{AS_WRITTEN}("));
        for (source, expected) in [
            ("{{ a == b }}", "{{ as_written(a) == as_written(b) }}"),
            (
                "{%- if 'x' in m.content and not y -%}",
                "{%- if as_written('x') in as_written(m.content) and not y -%}",
            ),
            ("{% for m in ms %}", "{% for m in ms %}"),
            (
                "{% for m in ms if m.role != 'x' %}",
                "{% for m in ms if as_written(m.role) != as_written('x') %}",
            ),
            ("{% if a not in [b, c] %}", "{% if as_written(a) not in as_written([b, c]) %}"),
            ("{% if a is not none %}", "{% if a is not none %}"),
            ("{% if not a is in(b) %}", "{% if not a is in(b) %}"),
            (
                "{% set x = f(a == b, c=d)[1:] ~ 'e' %}",
                "{% set x = f(as_written(a) == as_written(b), c=d)[1:] ~ 'e' %}",
            ),
            (
                "{{ a if b|trim + 'c' >= d.in else 'e == f' }}",
                "{{ a if as_written(b|trim + 'c') >= as_written(d.in) else 'e == f' }}",
            ),
            (
                "{{ (a == b) != c == d }}",
                "{{ as_written((as_written(a) == as_written(b))) != as_written(c) == as_written(d) }}",
            ),
            ("{{ {'a': {'b': c < d}} }}", "{{ {'a': {'b': as_written(c) < as_written(d)}} }}"),
            (
                "{# a == b #}{% raw %}{{ a == b }}{% endraw %}",
                "{# a == b #}{% raw %}{{ a == b }}{% endraw %}",
            ),
            ("a == b { c == d", "a == b { c == d"),
            ("{{ 'it\\'s' == x }}", "{{ as_written('it\\'s') == as_written(x) }}"),
            ("{% elif a % 2 == 0 %}", "{% elif as_written(a % 2) == as_written(0) %}"),
        ] {
            assert_eq!(compared_as_written(source), expected);
        }
    }

    #[test]
    fn what_is_no_template_ends_all_the_same() {
        for source in [
            "{{",
            "{%",
            "{{ a == ",
            "{{ 'a",
            "{{ ) == ] }}",
            "{% in in in %}",
            "{{ == }}",
            "{",
            "{{ é == ü }} ß",
        ] {
            let written = compared_as_written(source);
            assert_eq!(written.replace(OPEN, "").replace(')', ""), source.replace(')', ""));
        }
    }
}
