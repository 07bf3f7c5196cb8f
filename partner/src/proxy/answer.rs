//! The body of an answer to a local client, which can tell a whole answer from a cut one.

use std::future::Future as _;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::metrics::Metrics;
use super::slots::Kept;
use crate::client::{AnswerBody, Dialect, Problem};

/// How long the last event of a cut stream has to reach the client before the connection is reset.
const LAST_EVENT: Duration = Duration::from_millis(250);

/// The body of an answer to a local client.
///
/// If the clean room's stream breaks off, the client gets an error event in its own dialect, and then the
/// connection is reset. Some clients look at events and others at the end of the connection; neither can take
/// the answer for a whole one.
pub(super) struct LocalBody {
    state: State,
    /// Keeps the connection's slot until the last byte is on its way.
    _kept: Option<Kept>,
}

enum State {
    /// The proxy's own words.
    Own(Option<Bytes>),
    /// An answer of the clean room.
    Answer {
        body: AnswerBody,
        dialect: Dialect,
        reset: Reset,
        /// Where it is counted if it breaks off.
        metrics: Arc<Metrics>,
    },
    /// The error event is on its way.
    Failing(Pin<Box<Sleep>>, Reset),
    Ended,
}

impl LocalBody {
    /// The proxy's own words.
    pub(super) fn own(bytes: Bytes) -> Self {
        Self { state: State::Own(Some(bytes).filter(|bytes| !bytes.is_empty())), _kept: None }
    }

    /// An answer of the clean room, on a local connection that `reset` can reset.
    pub(super) fn answer(
        body: AnswerBody,
        dialect: Dialect,
        reset: Reset,
        kept: Kept,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { state: State::Answer { body, dialect, reset, metrics }, _kept: Some(kept) }
    }

    /// The last event of a stream that is not whole.
    fn fail(&mut self, problem: &Problem) -> Bytes {
        tracing::error!(code = problem.code(), "an answer was cut: {}", problem.message());
        let state = std::mem::replace(&mut self.state, State::Ended);
        let State::Answer { dialect, reset, metrics, .. } = state else { return Bytes::new() };
        metrics.cut(problem.code());
        self.state = State::Failing(Box::pin(sleep(LAST_EVENT)), reset);
        problem.to_event(dialect)
    }
}

impl Body for LocalBody {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        let this = self.get_mut();
        let answer = match &mut this.state {
            State::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            State::Ended => return Poll::Ready(None),
            State::Failing(time, reset) => {
                ready!(time.as_mut().poll(context));
                reset.at_close();
                this.state = State::Ended;
                return Poll::Ready(Some(Err(AnswerCut)));
            }
            State::Answer { body, .. } => ready!(Pin::new(body).poll_frame(context)),
        };
        let failing = |problem: Problem| Frame::data(this.fail(&problem.of_proxy()));
        Poll::Ready(answer.map(|frame| Ok(frame.unwrap_or_else(failing))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Own(bytes) => bytes.is_none(),
            State::Answer { body, .. } => body.is_end_stream(),
            State::Failing(..) | State::Ended => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Own(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(length.try_into().unwrap_or(u64::MAX))
            }
            State::Answer { body, .. } => body.size_hint(),
            State::Failing(..) | State::Ended => SizeHint::default(),
        }
    }
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
