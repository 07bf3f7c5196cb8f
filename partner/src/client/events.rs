//! The body of an answer: whole, or a stream of events that can be told from a cut one.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use cleanroom_attestation::receipt::ReceiptError;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::JoinHandle;

use super::problem::Problem;
use super::receipts::{Event, Keeping, NoReceipt, is_shape};
use crate::session::{InUse, Reach, SendError, Session, SessionError};

/// The longest event that is held until it is whole, in bytes.
const MAX_EVENT: usize = 4 << 20;

/// The body of an answer. It ends only when the answer is whole; otherwise its last frame is a [`Problem`].
///
/// Dropping it ends the generation in the clean room.
pub struct AnswerBody(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Events(Box<Events>),
}

impl AnswerBody {
    /// A body of which everything is there.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// A stream of server-sent events.
    pub(super) fn events(events: Events) -> Self {
        Self(Kind::Events(Box::new(events)))
    }

    /// Whether it is a stream, each frame of which holds whole events.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.0, Kind::Events(_))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Events(events) => events.poll(context).map(|next| next.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(length.try_into().unwrap_or(u64::MAX))
            }
            Kind::Events(_) => SizeHint::default(),
        }
    }
}

/// Passes whole events on. If the clean room's stream breaks off, the last thing that comes is a problem.
///
/// Where receipts are verified, the event that tells the client that its answer is whole waits until the
/// receipt is verified, and on the disk if it is kept.
pub(super) struct Events {
    from_room: Incoming,
    session: InUse,
    /// The beginning of an event that is not whole yet.
    partial: BytesMut,
    state: State,
    /// Where receipts are verified: the one of this answer.
    receipt: Option<Keeping>,
    /// Events that wait for the receipt.
    held: BytesMut,
}

enum State {
    Running,
    /// The receipt is being verified, and on its way to the disk.
    Keeping(JoinHandle<Result<(), NoReceipt>>),
    /// The receipt is there, or none is wanted. Nothing but shape follows.
    Kept,
    /// The stream has ended or failed.
    Ended,
}

/// What came is not what an answer with a receipt is made of.
const FOREIGN: NoReceipt = NoReceipt::Wrong(ReceiptError::Response);

impl Events {
    pub(super) fn new(from_room: Incoming, session: InUse, receipt: Option<Keeping>) -> Self {
        let (partial, held) = (BytesMut::new(), BytesMut::new());
        Self { from_room, session, partial, state: State::Running, receipt, held }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Problem>>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Keeping(kept) => {
                    let kept = ready!(Pin::new(kept).poll(context));
                    let kept =
                        kept.unwrap_or_else(|_| Err(NoReceipt::NotKept("the program is ending".to_owned())));
                    if let Err(error) = kept {
                        return Poll::Ready(Some(Err(self.fail_without_receipt(&error))));
                    }
                    self.state = State::Kept;
                    let held = self.held.split().freeze();
                    if !held.is_empty() {
                        return Poll::Ready(Some(Ok(held)));
                    }
                    continue;
                }
                State::Running | State::Kept => {}
            }
            let data = match ready!(Pin::new(&mut self.from_room).poll_frame(context)) {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(self.fail(error)))),
                None if matches!(self.state, State::Running) && self.receipt.is_some() => {
                    return Poll::Ready(Some(Err(self.fail_without_receipt(&NoReceipt::Missing))));
                }
                None => {
                    let rest = self.partial.split().freeze();
                    if self.receipt.is_some() && !is_shape(&rest) {
                        return Poll::Ready(Some(Err(self.fail_without_receipt(&FOREIGN))));
                    }
                    self.state = State::Ended;
                    return Poll::Ready(Some(rest).filter(|rest| !rest.is_empty()).map(Ok));
                }
            };
            // Almost always one piece is one event.
            let whole = if self.partial.is_empty() && end_of_events(&data) == data.len() && !data.is_empty() {
                data
            } else {
                self.partial.extend_from_slice(&data);
                let whole = end_of_events(&self.partial);
                if whole == 0 && self.partial.len() <= MAX_EVENT {
                    continue;
                }
                let length = if whole > 0 { whole } else { self.partial.len() };
                self.partial.split_to(length).freeze()
            };
            match self.receipted(whole) {
                Ok(passed) if passed.is_empty() => {}
                passed => return Poll::Ready(Some(passed)),
            }
        }
    }

    /// What of some events may go on now.
    fn receipted(&mut self, events: Bytes) -> Result<Bytes, Problem> {
        let Some(receipt) = &mut self.receipt else { return Ok(events) };
        if !matches!(self.state, State::Running) {
            return if is_shape(&events) { Ok(events) } else { Err(self.fail_without_receipt(&FOREIGN)) };
        }
        let mut passed = BytesMut::new();
        let mut rest = events;
        while !rest.is_empty() {
            let end = rest.windows(2).position(|pair| pair == b"\n\n");
            let event = rest.split_to(end.map_or(rest.len(), |end| end + 2));
            match receipt.event(&event) {
                Event::Other if self.held.is_empty() => passed.extend_from_slice(&event),
                // The answer has said that it is whole, so the receipt is due.
                Event::Other | Event::End if self.held.len() <= MAX_EVENT => {
                    self.held.extend_from_slice(&event);
                }
                Event::Receipt(kept) if is_shape(&rest) => {
                    self.held.extend_from_slice(&event);
                    self.held.extend_from_slice(&rest);
                    self.state = State::Keeping(kept);
                    break;
                }
                Event::Other | Event::End | Event::Foreign | Event::Receipt(_) => {
                    return Err(self.fail_without_receipt(&FOREIGN));
                }
            }
        }
        Ok(passed.freeze())
    }

    /// Ends a stream whose receipt is missing or another's.
    fn fail_without_receipt(&mut self, error: &NoReceipt) -> Problem {
        self.state = State::Ended;
        Problem::no_receipt(error)
    }

    /// Ends a stream that broke off.
    fn fail(&mut self, error: hyper::Error) -> Problem {
        self.state = State::Ended;
        Problem::from_send(&answer_cut(error, &self.session))
    }
}

/// Why an answer that had begun is not whole.
pub(super) fn answer_cut(error: hyper::Error, session: &Session) -> SendError {
    let reason = session.why_cut().map_or(SessionError::Lost(error), |cut| SessionError::Cut(cut.clone()));
    SendError { reach: Reach::WasSent, reason: Arc::new(reason) }
}

/// The length of the whole events at the beginning of `bytes` (HTML standard, section 9.2: they end with a
/// blank line).
fn end_of_events(bytes: &[u8]) -> usize {
    let ends = [&b"\n\n"[..], b"\n\r\n"].map(|blank| {
        bytes.windows(blank.len()).rposition(|window| window == blank).map_or(0, |at| at + blank.len())
    });
    ends.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_with_a_blank_line() {
        for (bytes, whole) in [
            (&b""[..], 0),
            (b"data: a", 0),
            (b"data: a\n", 0),
            (b"data: a\n\n", 9),
            (b"data: a\n\ndata: b", 9),
            (b"event: x\r\ndata: a\r\n\r\ndata", 21),
        ] {
            assert_eq!(end_of_events(bytes), whole, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
