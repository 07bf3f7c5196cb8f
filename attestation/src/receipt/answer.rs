//! The part of a streamed answer that a receipt commits to.
//!
//! A stream of server-sent events may have comments between its events, which keep its shape and mean nothing. A receipt commits to
//! the events alone: every line but the comments, and every empty line but those after another one or at the beginning. Both ends
//! compute that from the bytes that they see.

/// The part of a whole response that a receipt commits to: all but the spaces at its end, which keep a shape and mean nothing.
#[must_use]
pub fn whole_answer(body: &[u8]) -> &[u8] {
    let end = body.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last.saturating_add(1));
    body.get(..end).unwrap_or_default()
}

/// Finds the events in the bytes of a stream, piece by piece.
#[derive(Debug, Clone, Default)]
pub struct AnswerText {
    line: Line,
    /// Whether a line of an event has come that no empty line has ended.
    is_open: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    /// Nothing of the line has come.
    #[default]
    Start,
    /// A line of an event.
    Event,
    /// A comment.
    Comment,
}

impl AnswerText {
    /// Gives the pieces of `bytes` that belong to events to `to`.
    pub fn update(&mut self, mut bytes: &[u8], mut to: impl FnMut(&[u8])) {
        while let [first, ..] = bytes {
            if self.line == Line::Start {
                self.line = if *first == b':' { Line::Comment } else { Line::Event };
                if *first == b'\n' {
                    if self.is_open {
                        to(b"\n");
                    }
                    (self.is_open, self.line) = (false, Line::Start);
                    bytes = bytes.get(1..).unwrap_or_default();
                    continue;
                }
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end.saturating_add(1)));
            if self.line == Line::Event {
                to(part);
                self.is_open = true;
            }
            if end.is_some() {
                self.line = Line::Start;
            }
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &str, step: usize) -> String {
        let (mut text, mut found) = (AnswerText::default(), Vec::new());
        stream
            .as_bytes()
            .chunks(step)
            .for_each(|piece| text.update(piece, |part| found.extend_from_slice(part)));
        String::from_utf8(found).unwrap()
    }

    #[test]
    fn spaces_at_the_end_of_a_whole_answer_are_left_out() {
        for (body, expected) in [("{}", "{}"), ("{ }   ", "{ }"), ("", ""), ("   ", ""), ("{}\n ", "{}\n")] {
            assert_eq!(whole_answer(body.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn comments_and_empty_lines_between_events_are_left_out_however_the_bytes_come() {
        for (stream, expected) in [
            ("", ""),
            ("data: a\n\n", "data: a\n\n"),
            (":....\n\n:\ndata: a\n\n:...\n\n\ndata: b\n\n", "data: a\n\ndata: b\n\n"),
            ("event: x\ndata: :a\n\n\n\n", "event: x\ndata: :a\n\n"),
            ("\n\ndata: a\n:..\ndata: b\n\n", "data: a\ndata: b\n\n"),
            ("data: cut", "data: cut"),
        ] {
            for step in 1..=9 {
                assert_eq!(events(stream, step), expected, "{stream:?} in pieces of {step}");
            }
        }
    }
}
