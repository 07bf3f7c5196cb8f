//! The body of a streamed answer: what the engine has written leaves as frames, at once or at the pace of the configuration.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::pace::{Pace, fill};
use super::{End, Reader, State};
use crate::api::error::ApiError;
use crate::api::secret::SecretBuffer;
use crate::api::shape::Dialect;
use cleanroom_config::Traffic;

/// The longest frame, so that little of an answer leaves for the buffers of a connection that takes no more (bytes).
pub(super) const MAX_FRAME: usize = 16 * 1024;

/// How long the event about a failure has to get on its way: breaking a stream off discards what has not been sent.
pub(super) const FAREWELL: Duration = Duration::from_millis(50);

/// How long a stream is silent before it says that it is there: some clients end one that is silent for minutes.
pub(super) const QUIET: Duration = Duration::from_secs(15);

/// The body of a streamed answer (`text/event-stream`).
pub(crate) struct EventStream<R> {
    reader: Reader,
    pace: Option<Pace>,
    /// Taken from the buffer, and too long for one frame.
    leaving: Bytes,
    /// The last two bytes that left. An event ends with an empty line.
    last: [u8; 2],
    /// When nothing will have left for [`QUIET`]. A stream with a pace is never silent.
    quiet: Option<Pin<Box<Sleep>>>,
    farewell: Farewell,
    _running: R,
}

impl<R> EventStream<R> {
    pub(super) fn new(reader: Reader, traffic: Option<Traffic>, running: R) -> Self {
        let pace = traffic.map(Pace::new);
        Self {
            reader,
            pace,
            leaving: Bytes::new(),
            last: *b"\n\n",
            quiet: None,
            farewell: Farewell::Due,
            _running: running,
        }
    }
}

impl<R> EventStream<R> {
    /// What leaves now: all that is ready up to [`MAX_FRAME`], or exactly one step of the pace. Nothing when nothing is to leave.
    fn next_frame(&mut self, state: &mut State) -> Bytes {
        let Some(pace) = &self.pace else {
            let frame = self.leaving.split_to(self.leaving.len().min(MAX_FRAME));
            self.last = last_two(self.last, &frame);
            return frame;
        };
        let mut frame = SecretBuffer::with_capacity(pace.step);
        while frame.len() < pace.step && !self.leaving.is_empty() {
            let room = pace.step - frame.len();
            let part = self.leaving.split_to(self.leaving.len().min(room));
            self.last = last_two(self.last, &part);
            frame.push(&part);
            refill(&mut self.leaving, &mut self.farewell, self.reader.dialect, state);
        }
        if !frame.is_empty() || state.end.is_none() {
            fill(&mut frame, pace.step);
        }
        frame.take()
    }

    /// Once all of an answer has left: gives its slots back, or the event about its failure some time to arrive.
    fn note_drained(&mut self, state: &State) {
        let Some(end) = state.end.filter(|_| is_drained(&self.leaving, state)) else { return };
        if end.is_clean() {
            self.reader.slots.clear();
        } else if matches!(self.farewell, Farewell::Told) {
            self.farewell = Farewell::Sent(Box::pin(sleep(FAREWELL)));
        }
    }

    /// What a stream does that has nothing to send: it ends, breaks off, waits, or shows that it is there.
    fn poll_end(
        &mut self,
        state: &mut State,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ApiError>>> {
        let quiet = &mut self.quiet;
        let mut is_quiet = || {
            let quiet = quiet.get_or_insert_with(|| Box::pin(sleep(QUIET)));
            quiet.as_mut().poll(context).is_ready()
        };
        match (state.end, &mut self.farewell) {
            (None, _) if is_quiet() => {
                self.quiet = None;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.reader.dialect.ping())))))
            }
            (None, _) => state.wait(context),
            (Some(End::Broken), Farewell::Sent(sent)) => {
                sent.as_mut().poll(context).map(|()| Some(Err(ApiError::Failed)))
            }
            (Some(End::Broken), _) => Poll::Ready(Some(Err(ApiError::Failed))),
            (Some(End::Complete | End::Stopped(_) | End::Late), _) => Poll::Ready(None),
        }
    }
}

/// Where a stream that must be broken off stands.
enum Farewell {
    /// The event about the failure is still to be told.
    Due,
    /// It is leaving.
    Told,
    /// It has left, and gets this time to arrive.
    Sent(Pin<Box<Sleep>>),
}

impl Farewell {
    /// Whether nothing is to be told any more of an answer that has ended like this.
    const fn is_over(&self, end: End) -> bool {
        end.is_clean() || !matches!(self, Self::Due)
    }
}

impl<R: Send + Unpin + 'static> Body for EventStream<R> {
    type Data = Bytes;
    type Error = ApiError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ApiError>>> {
        let this = &mut *self;
        let shared = Arc::clone(&this.reader.shared);
        let mut state = shared.lock();
        // What has ended and left needs no further tick.
        if let Some(pace) = &mut this.pace
            && !(is_drained(&this.leaving, &state) && state.end.is_some_and(|end| this.farewell.is_over(end)))
        {
            ready!(pace.ticks.poll_tick(context));
        }
        let is_drained_already = is_drained(&this.leaving, &state) && state.end.is_some();
        if !is_drained_already {
            this.reader.stop_if_refused(&mut state);
        }
        if std::mem::take(&mut state.held_back) {
            this.leaving.truncate(end_of_event(this.last, &this.leaving));
        }
        refill(&mut this.leaving, &mut this.farewell, this.reader.dialect, &mut state);
        let frame = this.next_frame(&mut state);
        if frame.is_empty() {
            this.poll_end(&mut state, context)
        } else {
            this.note_drained(&state);
            this.quiet = None;
            Poll::Ready(Some(Ok(Frame::data(frame))))
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.reader.shared.lock();
        is_drained(&self.leaving, &state) && state.end.is_some_and(End::is_clean)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Whether everything that was written has left.
fn is_drained(leaving: &Bytes, state: &State) -> bool {
    leaving.is_empty() && state.ready.is_empty()
}

/// The last two bytes once `part` has left as well.
fn last_two(before: [u8; 2], part: &[u8]) -> [u8; 2] {
    match part {
        [] => before,
        [only] => [before[1], *only],
        [.., first, second] => [*first, *second],
    }
}

/// How much of `leaving` belongs to the event that has begun to leave. `last` are the bytes before it.
fn end_of_event(last: [u8; 2], leaving: &[u8]) -> usize {
    match (last, leaving) {
        ([b'\n', b'\n'], _) => 0,
        ([_, b'\n'], [b'\n', ..]) => 1,
        _ => {
            let end = leaving.windows(2).position(|pair| pair == b"\n\n");
            end.map_or(leaving.len(), |end| end.saturating_add(2))
        }
    }
}

/// Gets what leaves next, when nothing is leaving.
fn refill(leaving: &mut Bytes, farewell: &mut Farewell, dialect: Dialect, state: &mut State) {
    if !leaving.is_empty() {
        return;
    }
    if !state.ready.is_empty() {
        *leaving = state.ready.take();
    } else if state.end == Some(End::Broken) && matches!(farewell, Farewell::Due) {
        *farewell = Farewell::Told;
        *leaving = Bytes::from(dialect.failure(&ApiError::Failed, &[]));
    }
}
