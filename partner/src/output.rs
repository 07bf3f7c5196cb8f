//! The output of the commands: text for people, in aligned columns, or one JSON object.
//!
//! A command builds a [`Listing`] and a serialisable value of the same content and hands both to the
//! [`Terminal`]. Text from files and peers passes through [`printable`], so that nobody writes escape
//! sequences to the user's terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::outcome::{Failure, Outcome};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It passed.
    Ok,
    /// It failed.
    Fail,
    /// It was not asked for.
    NotAsked,
}

impl Mark {
    const fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fail => "FAIL",
            Self::NotAsked => "not asked",
        }
    }

    const fn style(self) -> &'static str {
        match self {
            Self::Ok => GREEN,
            Self::Fail => BOLD_RED,
            Self::NotAsked => YELLOW,
        }
    }
}

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BOLD_RED: &str = "\x1b[1;31m";

/// Text for people: headings, and under each of them lines in aligned columns.
#[derive(Debug, Default)]
pub struct Listing {
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    heading: String,
    lines: Vec<Line>,
}

#[derive(Debug)]
enum Line {
    /// A name and its value, which may have several lines.
    Field(String, String),
    /// A mark, what it is about, and what was found.
    Check(Mark, String, String),
    /// A sentence.
    Note(String),
}

impl Listing {
    /// An empty listing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a block of lines. Without a heading when `heading` is empty.
    pub fn heading(&mut self, heading: impl Into<String>) {
        self.blocks.push(Block { heading: heading.into(), lines: Vec::new() });
    }

    /// A name and its value.
    pub fn field(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.line(Line::Field(name.into(), value.into()));
    }

    /// The result of one check.
    pub fn check(&mut self, mark: Mark, name: impl Into<String>, found: impl Into<String>) {
        self.line(Line::Check(mark, name.into(), found.into()));
    }

    /// A sentence in the block.
    pub fn note(&mut self, text: impl Into<String>) {
        self.line(Line::Note(text.into()));
    }

    fn line(&mut self, line: Line) {
        if self.blocks.is_empty() {
            self.heading("");
        }
        if let Some(block) = self.blocks.last_mut() {
            block.lines.push(line);
        }
    }

    /// The listing as text that ends in a line break, with escape sequences for colours if `colour`.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for (index, block) in self.blocks.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            if !block.heading.is_empty() {
                paint(&mut text, &block.heading, BOLD, colour);
                text.push('\n');
            }
            block.render(&mut text, colour);
        }
        text
    }
}

impl Block {
    fn render(&self, text: &mut String, colour: bool) {
        let indent = if self.heading.is_empty() { "" } else { "  " };
        let width = |of: fn(&Line) -> Option<&str>| {
            self.lines.iter().filter_map(of).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let name_width = width(|line| match line {
            Line::Field(name, _) | Line::Check(_, name, _) => Some(name),
            Line::Note(_) => None,
        });
        let mark_width = width(|line| match line {
            Line::Check(mark, ..) => Some(mark.text()),
            _ => None,
        });
        for line in &self.lines {
            text.push_str(indent);
            match line {
                Line::Note(note) => {
                    paint(text, note, DIM, colour);
                    text.push('\n');
                }
                Line::Field(name, value) => {
                    let gap = if mark_width > 0 { mark_width + 2 } else { 0 };
                    push_padded(text, "", gap, "", false);
                    push_padded(text, name, name_width, DIM, colour);
                    push_value(text, value, indent.len() + gap + name_width + 2);
                }
                Line::Check(mark, name, found) => {
                    push_padded(text, mark.text(), mark_width, mark.style(), colour);
                    text.push_str("  ");
                    push_padded(text, name, name_width, "", colour);
                    push_value(text, found, indent.len() + mark_width + 2 + name_width + 2);
                }
            }
        }
    }
}

fn push_padded(text: &mut String, cell: &str, width: usize, style: &str, colour: bool) {
    paint(text, cell, style, colour);
    text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
}

/// A value behind its name. Its further lines begin in the same column as the first.
fn push_value(text: &mut String, value: &str, column: usize) {
    for (index, line) in value.lines().enumerate() {
        if index == 0 {
            text.push_str("  ");
        } else {
            text.extend(std::iter::repeat_n(' ', column));
        }
        text.push_str(line);
        text.push('\n');
    }
    if value.is_empty() {
        text.push('\n');
    }
}

fn paint(text: &mut String, cell: &str, style: &str, colour: bool) {
    if colour && !style.is_empty() {
        let _ = write!(text, "{style}{cell}{RESET}");
    } else {
        text.push_str(cell);
    }
}

/// `text` with everything escaped that could steer a terminal or reorder what people read: control
/// characters, and the invisible and bidirectional formatting characters of Unicode.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        let steers = matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        );
        if steers || character.is_control() {
            clean.extend(character.escape_unicode());
        } else {
            clean.push(character);
        }
    }
    clean
}

/// As [`printable`], for a text of several lines. Further lines are indented, so that none of them can pass
/// for a message of its own.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().split('\n').map(printable).collect();
    lines.join("\n  ").lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A length as people read it, with the exact count of bytes beside it from 1 KiB on.
#[must_use]
pub fn bytes(length: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        let scale = 1_u64 << shift;
        if length >= scale {
            let tenths = (u128::from(length) * 10 + u128::from(scale) / 2) >> shift;
            return format!("{}.{} {unit} ({length} bytes)", tenths / 10, tenths % 10);
        }
    }
    format!("{length} bytes")
}

/// A time in its two largest units, such as `3days 4h left`.
#[must_use]
pub fn left(seconds: u64) -> String {
    let exact = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let units: Vec<&str> = exact.split(' ').take(2).collect();
    format!("{} left", units.join(" "))
}

/// Where a command's results go.
pub struct Terminal {
    out: Box<dyn Write>,
    errors: Box<dyn Write>,
    json: bool,
    colour: bool,
}

impl Terminal {
    /// Standard output and standard error. Colours if standard output is a terminal and `NO_COLOR` is unset
    /// or empty.
    #[must_use]
    pub fn standard(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let out = io::stdout();
        let colour = out.is_terminal() && !plain;
        Self { out: Box::new(out), errors: Box::new(io::stderr()), json, colour }
    }

    /// Whether results are printed as JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Keeps results as JSON in memory, and shows nothing.
    #[must_use]
    pub fn captured() -> (Self, Captured) {
        let captured = Captured::default();
        let out = Box::new(captured.clone());
        (Self { out, errors: Box::new(io::sink()), json: true, colour: false }, captured)
    }

    /// Prints a result: `value` as JSON if that was asked for, `listing` otherwise.
    ///
    /// # Errors
    ///
    /// [`Failure`] when it could not be written, for instance to a full disk.
    pub fn report(&mut self, value: &impl Serialize, listing: &Listing) -> Result<(), Failure> {
        let text = listing.render(self.colour);
        self.lines(value, &text)
    }

    /// Prints a result: `value` as JSON if that was asked for, `lines` as they are otherwise.
    ///
    /// # Errors
    ///
    /// As [`Terminal::report`].
    pub fn lines(&mut self, value: &impl Serialize, lines: &str) -> Result<(), Failure> {
        let text = if self.json {
            serde_json::to_string_pretty(value).map(|json| json + "\n").map_err(io::Error::other)
        } else {
            Ok(lines.to_owned())
        };
        text.and_then(|text| self.write(&text)).map_err(unwritable)
    }

    /// Prints a result that is meant for another program, as it is.
    ///
    /// # Errors
    ///
    /// As [`Terminal::report`].
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text).map_err(unwritable)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Prints why there is no result: to standard output as JSON if that was asked for, otherwise to standard
    /// error.
    pub fn failure(&mut self, failure: &Failure) {
        // There is nowhere left to say that this could not be written; the exit code still does.
        let _ = if self.json {
            let error = serde_json::json!({ "error": { "code": failure.code, "message": failure.message } });
            writeln!(self.out, "{error:#}")
        } else {
            writeln!(self.errors, "cleanroom: {}", printable_lines(&failure.message))
        };
    }
}

/// What was printed to a captured terminal. Clones are of the same one.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// All that was printed so far.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an adapter for map_err")]
fn unwritable(error: io::Error) -> Failure {
    Failure {
        outcome: Outcome::Unreachable,
        code: "unwritable",
        message: format!("the result could not be written: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> Listing {
        let mut listing = Listing::new();
        listing.field("file", "a.eif");
        listing.heading("Checks");
        listing.check(Mark::Ok, "signature", "verified");
        listing.check(Mark::Fail, "PCR0", "expected aa\ngot      bb");
        listing.check(Mark::NotAsked, "nonce", "");
        listing.field("note", "x");
        listing.note("A sentence.");
        listing
    }

    #[test]
    fn columns_are_aligned() {
        let expected = "\
file  a.eif

Checks
  ok         signature  verified
  FAIL       PCR0       expected aa
                        got      bb
  not asked  nonce\u{20}\u{20}\u{20}\u{20}
             note       x
  A sentence.
";
        assert_eq!(listing().render(false), expected);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let coloured = listing().render(true);
        assert!(coloured.contains("\x1b[1;31mFAIL\x1b[0m"));
        let mut plain = coloured;
        for style in [RESET, BOLD_RED, BOLD, DIM, GREEN, YELLOW] {
            plain = plain.replace(style, "");
        }
        assert_eq!(plain, listing().render(false));
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("plain – ünïcode"), "plain – ünïcode");
        assert_eq!(printable("\x1b[2Jx\n\u{9b}"), "\\u{1b}[2Jx\\u{a}\\u{9b}");
        assert_eq!(printable("a\u{202e}b\u{feff}"), "a\\u{202e}b\\u{feff}");
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(printable_lines("one"), "one");
        assert_eq!(printable_lines("a\n  |\n6 | x\x1b[2J\u{9b}\n"), "a\n    |\n  6 | x\\u{1b}[2J\\u{9b}");
    }

    #[test]
    fn a_time_has_its_two_largest_units() {
        for (seconds, expected) in [(9, "9s left"), (3_661, "1h 1m left"), (273_845, "3days 4h left")] {
            assert_eq!(left(seconds), expected);
        }
    }

    #[test]
    fn lengths_are_exact() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1024), "1.0 KiB (1024 bytes)");
        assert_eq!(bytes(1_610_612_736), "1.5 GiB (1610612736 bytes)");
        assert_eq!(bytes(u64::MAX), "17179869184.0 GiB (18446744073709551615 bytes)");
    }
}
