//! Server-sent events, read with a limit: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::ops::ControlFlow;

use zeroize::Zeroizing;

use crate::Failure;

/// Most bytes of one line, and of the data of one event.
pub const MAX_EVENT: usize = 256 * 1024;

/// Reads the data of events out of bytes that come in pieces of any length.
#[derive(Default)]
pub struct EventReader {
    /// A line that has not ended.
    line: Zeroizing<Vec<u8>>,
    /// The data of an event that has not ended.
    data: Zeroizing<Vec<u8>>,
    /// Whether the event has data, which can be empty.
    has_data: bool,
    /// Whether the last line ended with a carriage return, to which a line feed may belong.
    after_return: bool,
}

impl EventReader {
    /// Reads more bytes. `each` gets the data of every event that ends in them, until it breaks.
    ///
    /// # Errors
    /// [`Failure::LineTooLong`], before the memory for it is taken.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Failure> {
        if std::mem::take(&mut self.after_return) {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, rest) = bytes.split_at(end);
            extend(&mut self.line, line)?;
            if self.end_line()? {
                let flow = each(&self.data);
                self.data.clear();
                self.has_data = false;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_return = true;
                    &[]
                }
                [_, rest @ ..] => rest,
                [] => &[],
            };
        }
        extend(&mut self.line, bytes)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Takes in a line that has ended. Whether it ends an event that has data.
    fn end_line(&mut self) -> Result<bool, Failure> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(self.has_data);
        }
        // Comments begin with a colon; the other fields mean nothing here.
        let Some(value) = line.strip_prefix(b"data") else { return Ok(false) };
        let value = match value {
            [] => value,
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            _ => return Ok(false),
        };
        if std::mem::replace(&mut self.has_data, true) {
            extend(&mut self.data, b"\n")?;
        }
        extend(&mut self.data, value)?;
        Ok(false)
    }
}

fn extend(buffer: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Failure> {
    if bytes.len() > MAX_EVENT.saturating_sub(buffer.len()) {
        return Err(Failure::LineTooLong { limit: MAX_EVENT });
    }
    buffer.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, Failure> {
        let (mut reader, mut events) = (EventReader::default(), Vec::new());
        for piece in pieces {
            let _ = reader.push(piece, |data| {
                events.push(String::from_utf8_lossy(data).into_owned());
                ControlFlow::Continue(())
            })?;
        }
        Ok(events)
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let text = b": hello\r\ndata: one\n\ndata:two\rdata: lines\r\revent: x\nid: 1\n\ndata\n\ndatum: 3\n\ndata:  4\r\n\r\ndata: 5";
        let expected = ["one", "two\nlines", "", " 4"];
        assert_eq!(read(&[text]).unwrap(), expected);
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(read(&[first, second]).unwrap(), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read(&bytes).unwrap(), expected);
    }

    #[test]
    fn a_line_and_an_event_have_a_limit() {
        let too_long = Err(Failure::LineTooLong { limit: MAX_EVENT });
        let line = vec![b'x'; MAX_EVENT];
        assert_eq!(read(&[&line, b"\n\n"]), Ok(Vec::new()));
        assert_eq!(read(&[&line, b"x"]), too_long);
        let half = [b"data:".as_slice(), &vec![b'x'; MAX_EVENT / 2], b"\n"].concat();
        assert_eq!(read(&[&half, &half, b"\n"]), too_long);
    }

    #[test]
    fn whoever_has_enough_gets_no_more() {
        let (mut reader, mut count) = (EventReader::default(), 0);
        let flow = reader.push(b"data: 1\n\ndata: 2\n\n", |_| {
            count += 1;
            ControlFlow::Break(())
        });
        assert_eq!((flow, count), (Ok(ControlFlow::Break(())), 1));
    }
}
