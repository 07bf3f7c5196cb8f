//! The body of an answer to a local client: whole, or a stream that can be told from a cut one.

use std::future::Future as _;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cleanroom_attestation::receipt::ReceiptError;
use hyper::body::{Body, Frame, Incoming};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};

use super::problem::{Dialect, Problem};
use super::receipts::{Event, Keeping, NoReceipt, is_shape};
use super::slots::Kept;
use crate::session::{Reach, SendError, Session, SessionError};

/// The longest event that is held until it is whole, in bytes.
const MAX_EVENT: usize = 4 << 20;

/// How long the last event of a cut stream has to reach the client before the connection is reset.
const LAST_EVENT: Duration = Duration::from_millis(250);

/// The body of an answer.
pub(super) struct AnswerBody {
    kind: Kind,
    /// Keeps the connection's slot until the last byte is on its way.
    _kept: Option<Kept>,
}

enum Kind {
    Whole(Option<Bytes>),
    Events(Box<Events>),
}

impl AnswerBody {
    /// A body of which everything is there.
    pub(super) fn whole(bytes: Bytes, kept: Option<Kept>) -> Self {
        Self { kind: Kind::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())), _kept: kept }
    }

    /// A stream of server-sent events.
    pub(super) fn events(events: Events, kept: Kept) -> Self {
        Self { kind: Kind::Events(Box::new(events)), _kept: Some(kept) }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        match &mut self.get_mut().kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Events(events) => events.poll(context).map(|next| next.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                hyper::body::SizeHint::with_exact(length.try_into().unwrap_or(u64::MAX))
            }
            Kind::Events(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// Passes whole events on. If the clean room's stream breaks off, the client gets an error event in its own
/// dialect, and then the connection is reset. Some clients look at events and others at the end of the
/// connection; neither can take the answer for a whole one.
///
/// Where receipts are kept, the event that tells the client that its answer is whole waits until the receipt
/// is on the disk.
pub(super) struct Events {
    from_room: Incoming,
    session: Arc<Session>,
    dialect: Dialect,
    /// The beginning of an event that is not whole yet.
    partial: BytesMut,
    state: State,
    reset: Reset,
    /// Where receipts are kept: the one of this answer.
    receipt: Option<Keeping>,
    /// Events that wait for the receipt.
    held: BytesMut,
}

enum State {
    Running,
    /// The receipt is on its way to the disk.
    Keeping(JoinHandle<Result<(), NoReceipt>>),
    /// The receipt is on the disk, or none is wanted. Nothing but shape follows.
    Kept,
    /// The error event is on its way.
    Failing(Pin<Box<Sleep>>),
    Ended,
}

/// What came is not what an answer with a receipt is made of.
const FOREIGN: NoReceipt = NoReceipt::Wrong(ReceiptError::Response);

impl Events {
    pub(super) fn new(
        from_room: Incoming,
        session: Arc<Session>,
        dialect: Dialect,
        reset: Reset,
        receipt: Option<Keeping>,
    ) -> Self {
        let (partial, held) = (BytesMut::new(), BytesMut::new());
        Self { from_room, session, dialect, partial, state: State::Running, reset, receipt, held }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, AnswerCut>>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Failing(time) => {
                    ready!(time.as_mut().poll(context));
                    self.state = State::Ended;
                    self.reset.at_close();
                    return Poll::Ready(Some(Err(AnswerCut)));
                }
                State::Keeping(kept) => {
                    let kept = ready!(Pin::new(kept).poll(context));
                    let kept =
                        kept.unwrap_or_else(|_| Err(NoReceipt::NotKept("the program is ending".to_owned())));
                    if let Err(error) = kept {
                        return Poll::Ready(Some(Ok(self.fail_without_receipt(&error))));
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
                Some(Err(error)) => return Poll::Ready(Some(Ok(self.fail(error)))),
                None if matches!(self.state, State::Running) && self.receipt.is_some() => {
                    return Poll::Ready(Some(Ok(self.fail_without_receipt(&NoReceipt::Missing))));
                }
                None => {
                    let rest = self.partial.split().freeze();
                    if self.receipt.is_some() && !is_shape(&rest) {
                        return Poll::Ready(Some(Ok(self.fail_without_receipt(&FOREIGN))));
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
            let passed = self.receipted(whole);
            if !passed.is_empty() {
                return Poll::Ready(Some(Ok(passed)));
            }
        }
    }

    /// What of some events may go on now.
    fn receipted(&mut self, events: Bytes) -> Bytes {
        let Some(receipt) = &mut self.receipt else { return events };
        if !matches!(self.state, State::Running) {
            return if is_shape(&events) { events } else { self.fail_without_receipt(&FOREIGN) };
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
                    return self.fail_without_receipt(&FOREIGN);
                }
            }
        }
        passed.freeze()
    }

    /// The last event of a stream whose receipt is missing or another's.
    fn fail_without_receipt(&mut self, error: &NoReceipt) -> Bytes {
        self.state = State::Failing(Box::pin(sleep(LAST_EVENT)));
        let problem = Problem::no_receipt(error);
        tracing::error!(code = problem.code(), "{}", problem.message());
        problem.to_event(self.dialect)
    }

    /// The last event of a stream that broke off.
    fn fail(&mut self, error: hyper::Error) -> Bytes {
        self.state = State::Failing(Box::pin(sleep(LAST_EVENT)));
        let problem = Problem::from_send(&answer_cut(error, &self.session));
        tracing::error!(code = problem.code(), "an answer was cut: {}", problem.message());
        problem.to_event(self.dialect)
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

/// The client's connection is reset (RST) when it is closed, instead of ended in order.
#[derive(Clone)]
pub(super) struct Reset(Option<Arc<OwnedFd>>);

impl Reset {
    /// For a connection. Without effect if the system has no descriptor left.
    pub(super) fn of(connection: impl std::os::fd::AsFd) -> Self {
        Self(connection.as_fd().try_clone_to_owned().ok().map(Arc::new))
    }

    fn at_close(&self) {
        if let Some(connection) = &self.0 {
            let _ = rustix::net::sockopt::set_socket_linger(connection, Some(Duration::ZERO));
        }
    }
}

/// The answer is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not whole")]
pub(super) struct AnswerCut;

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
