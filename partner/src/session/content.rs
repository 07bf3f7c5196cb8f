//! The content of a request. Each piece leaves only while the session may carry it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cleanroom_program::clock::{BootInstant, Clock};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};

use super::connection::Connection;

/// Any error of a body.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The longest piece that is given to HTTP/2 at once, in bytes.
const PIECE: usize = 64 * 1024;

/// For how long a session may carry anything.
#[derive(Clone)]
pub(super) struct Validity {
    pub(super) clock: Clock,
    pub(super) until: BootInstant,
    pub(super) connection: Connection,
}

impl Validity {
    /// Whether nothing more may be sent.
    pub(super) fn is_over(&self) -> bool {
        self.connection.is_cut() || self.connection.is_superseded() || self.clock.now() >= self.until
    }

    /// Waits until nothing more may be sent.
    pub(super) async fn over(&self) {
        tokio::select! {
            () = self.clock.sleep_until(self.until) => {}
            () = self.connection.superseded() => {}
        }
    }
}

/// The content of one request on one session.
pub(super) struct Content {
    /// What the sender still has to give.
    source: UnsyncBoxBody<Bytes, BoxError>,
    /// What the sender has given and HTTP/2 has not got.
    given: Bytes,
    validity: Validity,
    begun: Begun,
}

/// Whether a byte of a request was given to HTTP/2, from where it can leave at any moment. Clones are of the
/// same request.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<AtomicBool>);

impl Begun {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Content {
    pub(super) fn new<B>(source: B, validity: Validity) -> (Self, Begun)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let begun = Begun::default();
        // The head of a request without content is all of it, and HTTP/2 does not ask before it sends a head.
        if source.is_end_stream() {
            begun.set();
        }
        let source = source.map_err(Into::into).boxed_unsync();
        (Self { source, given: Bytes::new(), validity, begun: begun.clone() }, begun)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        while this.given.is_empty() {
            match ready!(Pin::new(&mut this.source).poll_frame(context)) {
                Some(Ok(frame)) => this.given = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        if this.validity.is_over() {
            return Poll::Ready(Some(Err(SessionOver.into())));
        }
        this.begun.set();
        let piece = this.given.split_to(this.given.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.given.is_empty() && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let given = u64::try_from(self.given.len()).unwrap_or(u64::MAX);
        let source = self.source.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = source.upper().and_then(|upper| upper.checked_add(given)) {
            hint.set_upper(upper);
        }
        hint.set_lower(source.lower().saturating_add(given));
        hint
    }
}

/// The session ended before all of the content was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session ended before all of the content was sent")]
struct SessionOver;
