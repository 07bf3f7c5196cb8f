//! The probabilities of tokens (`logprobs`), in the two forms that OpenAI has for them.
//!
//! They are the model's own, before temperature and everything else that a request can change; OpenAI does not say which its own are.

use cleanroom_backend::{ScoredToken, TokenScore};

use super::secret::SecretBuffer;
use super::text::escape;

/// How probabilities are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScoresForm {
    /// An object for each token (chat).
    List,
    /// Arrays of tokens, of probabilities, of alternatives, and of places in the text (text completions).
    Columns,
}

/// What OpenAI writes for a probability of next to nothing.
const UNLIKELY: f32 = -9999.0;

/// The JSON of one choice's probabilities that were not written yet.
pub(crate) struct Scores {
    form: ScoresForm,
    top: u8,
    columns: [SecretBuffer; 4],
    /// Characters of the choice's text before the next token.
    offset: usize,
}

impl Scores {
    pub(crate) fn new(form: ScoresForm, top: u8) -> Self {
        Self { form, top, columns: Default::default(), offset: 0 }
    }

    /// What the size of an event is rounded up to (bytes): mostly more than one token takes, whichever it is.
    pub(crate) fn padding(&self) -> usize {
        128 * (2 + usize::from(self.top))
    }

    pub(crate) fn add(&mut self, tokens: &[ScoredToken]) {
        for token in tokens {
            for column in &mut self.columns {
                if !column.is_empty() {
                    column.push(b",");
                }
            }
            let [first, second, third, fourth] = &mut self.columns;
            match self.form {
                ScoresForm::List => {
                    open_entry(first, &token.chosen);
                    first.push(b",\"top_logprobs\":[");
                    for (index, other) in token.top.iter().enumerate() {
                        if index > 0 {
                            first.push(b",");
                        }
                        open_entry(first, other);
                        first.push(b"}");
                    }
                    first.push(b"]}");
                }
                ScoresForm::Columns => {
                    name(first, &token.chosen);
                    number(second, token.chosen.logprob());
                    third.push(b"{");
                    // The chosen one always, and each name once.
                    let chosen = token.chosen.bytes();
                    let others = token.top.iter().filter(|other| other.bytes() != chosen);
                    for (index, other) in [&token.chosen].into_iter().chain(others).enumerate() {
                        if index > 0 {
                            third.push(b",");
                        }
                        name(third, other);
                        third.push(b":");
                        number(third, other.logprob());
                    }
                    third.push(b"}");
                    fourth.push(self.offset.to_string().as_bytes());
                }
            }
            self.offset += characters(&token.chosen);
        }
    }

    /// Writes what was added since the last time.
    pub(crate) fn write(&mut self, out: &mut SecretBuffer) {
        let columns = std::mem::take(&mut self.columns);
        let names: &[&str] = match self.form {
            ScoresForm::List => &["{\"content\":["],
            ScoresForm::Columns => {
                &["{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[", "],\"text_offset\":["]
            }
        };
        for (name, column) in names.iter().zip(&columns) {
            out.push(name.as_bytes());
            out.push(column.as_slice());
        }
        out.push(match self.form {
            ScoresForm::List => b"],\"refusal\":null}",
            ScoresForm::Columns => b"]}",
        });
    }
}

/// `{"token": …, "logprob": …, "bytes": …`, without its end.
fn open_entry(out: &mut SecretBuffer, token: &TokenScore) {
    out.push(b"{\"token\":");
    name(out, token);
    out.push(b",\"logprob\":");
    number(out, token.logprob());
    if !token.is_text() {
        return out.push(b",\"bytes\":null");
    }
    out.push(b",\"bytes\":[");
    for (index, byte) in token.bytes().iter().enumerate() {
        if index > 0 {
            out.push(b",");
        }
        decimal(out, *byte);
    }
    out.push(b"]");
}

/// The token as a JSON string. What is no whole character is written as OpenAI does: `bytes:\xe2\x82`.
fn name(out: &mut SecretBuffer, token: &TokenScore) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b"\"");
    match std::str::from_utf8(token.bytes()) {
        Ok(text) => escape(out, text),
        Err(_) => {
            out.push(b"bytes:");
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            for byte in token.bytes() {
                out.push(&[b'\\', b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    out.push(b"\"");
}

/// Six digits after the point for all, so that their lengths tell little.
fn number(out: &mut SecretBuffer, logprob: f32) {
    let logprob = if logprob.is_finite() { logprob.max(UNLIKELY) } else { UNLIKELY };
    out.push(format!("{logprob:.6}").as_bytes());
}

fn decimal(out: &mut SecretBuffer, byte: u8) {
    let digits = [byte / 100, byte / 10 % 10, byte % 10].map(|digit| b'0' + digit);
    let skip = digits.iter().take(2).take_while(|digit| **digit == b'0').count();
    out.push(digits.get(skip..).unwrap_or_default());
}

/// How many characters begin in this token.
fn characters(token: &TokenScore) -> usize {
    if !token.is_text() {
        return 0;
    }
    // Every byte of UTF-8 that does not go on with a character begins one.
    token.bytes().iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full() {
        let written = |write: &dyn Fn(&mut SecretBuffer)| {
            let mut out = SecretBuffer::default();
            write(&mut out);
            String::from_utf8(out.take().to_vec()).unwrap()
        };
        for byte in [0, 7, 10, 99, 100, 255] {
            assert_eq!(written(&|out| decimal(out, byte)), byte.to_string());
        }
        assert_eq!(written(&|out| number(out, -0.5)), "-0.500000");
        assert_eq!(written(&|out| number(out, f32::NAN)), "-9999.000000");
        assert_eq!(written(&|out| number(out, f32::NEG_INFINITY)), "-9999.000000");
    }
}
