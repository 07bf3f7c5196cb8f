//! An answer in the making: the engine's thread writes at one end, HTTP reads at the other.
//!
//! Between the two is one buffer of finished bytes. The engine never waits for the network, and what has piled up when the
//! network is ready leaves as one frame. The buffer cannot outgrow the model's context, and the place that the request took in
//! [`Admission`](crate::admission::Admission) is only given back once the engine is done *and* the answer has been
//! read, so answers that nobody reads cannot pile up either. It is given back before the client can have seen the end, so a client's
//! next request never meets its last one.
//!
//! Under release control every token is permitted before it is emitted. When one is not, a stream gets an event that says why, signed
//! by the keeper, and ends without a finish reason. The engine does not wait for the signature.
//!
//! Where the configuration gives traffic a shape, a stream leaves in frames of one length at one rhythm, whatever there is to say, until the
//! answer has ended: comments, which clients of server-sent events ignore, take the place of what is missing.
//!
//! An answer whose time is over ends with an event that says so, and without a finish reason, too.
//!
//! Otherwise an answer ends cleanly only after its finish reason. If the engine drops its end before that, a stream gets an error event
//! and is then broken off, so that no client takes the stump for the whole.

use std::future::Future as _;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cleanroom_engine::{Event, FinishReason, Sink, Usage};
use cleanroom_protocol::SignedEnd;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval, sleep};

use super::error::ApiError;
use super::secret::SecretBuffer;
use super::shape::{Dialect, Shape};
use crate::admission::Permit;
use crate::config::Traffic;
use crate::release::{Pass, Stop};
use crate::worker::Keeper;

/// The longest frame, so that little of an answer leaves for the buffers of a connection that takes no more (bytes).
const MAX_FRAME: usize = 16 * 1024;

/// How long the event about a failure has to get on its way: breaking a stream off discards what has not been sent.
const FAREWELL: Duration = Duration::from_millis(50);

/// Makes the ends of one answer: one to write each choice, and one to read all. Every choice has a place of its own.
pub(crate) fn answer(choices: Vec<(Shape, Permit)>) -> (Vec<Writer>, Reader) {
    let mut ready = SecretBuffer::default();
    let dialect = choices.first().map_or(Dialect::OpenAi, |(shape, _)| shape.dialect());
    if let Some((shape, _)) = choices.first() {
        shape.open(&mut ready);
    }
    let mut whole: Vec<SecretBuffer> = Vec::new();
    for (shape, _) in &choices {
        if shape.whole {
            let mut choice = SecretBuffer::default();
            shape.open_choice(&mut choice);
            whole.push(choice);
        } else {
            shape.open_choice(&mut ready);
        }
    }
    let state = State {
        ready,
        whole,
        unfinished: choices.len(),
        usage: Usage::default(),
        end: None,
        waker: None,
        abandoned: false,
    };
    let shared = Arc::new(Shared(Mutex::new(state)));
    let (shapes, permits): (Vec<_>, Vec<_>) =
        choices.into_iter().map(|(shape, permit)| (shape, Arc::new(permit))).unzip();
    let writer = |(index, (shape, permit)): (usize, (Shape, &Arc<Permit>))| Writer {
        shape,
        index,
        shared: Arc::clone(&shared),
        permit: Some(Arc::clone(permit)),
        pass: None,
        finished: false,
        stopped: false,
    };
    let writers = shapes.into_iter().zip(&permits).enumerate().map(writer).collect();
    (writers, Reader { shared, permits, dialect })
}

struct Shared(Mutex<State>);

struct State {
    /// What HTTP can have at once.
    ready: SecretBuffer,
    /// The choices of a whole answer, which come one after the other and only when all are complete.
    whole: Vec<SecretBuffer>,
    /// Choices that have not ended.
    unfinished: usize,
    /// Of the choices that have. They have one prompt.
    usage: Usage,
    /// Set once; nothing is written afterwards.
    end: Option<End>,
    waker: Option<Waker>,
    /// The reader is gone.
    abandoned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Broken,
    /// Not permitted any further. The event that says so stands in the buffer already.
    Stopped(Stop),
    /// The request's time is over. The event that says so stands in the buffer already.
    Late,
}

impl End {
    /// Whether HTTP ends in order.
    const fn is_clean(self) -> bool {
        !matches!(self, Self::Broken)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic on the other side leaves at worst a missing end, which reads as a broken answer.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// The engine's end.
pub(crate) struct Writer {
    shape: Shape,
    /// Which choice it writes.
    index: usize,
    shared: Arc<Shared>,
    /// Until the finish reason.
    permit: Option<Arc<Permit>>,
    /// Under release control: the permission, who signs when it ends, and the answer's id.
    pass: Option<(Pass, Keeper, String)>,
    /// Whether the choice is complete.
    finished: bool,
    /// Another end than the engine's is on its way.
    stopped: bool,
}

impl Writer {
    /// The same end, which asks `pass` before every token of the answer called `id`.
    pub(crate) fn under(mut self, pass: Pass, keeper: Keeper, id: String) -> Self {
        self.pass = Some((pass, keeper, id));
        self
    }
}

impl Sink for Writer {
    fn token(&mut self) -> ControlFlow<()> {
        let Some((pass, keeper, id)) = &mut self.pass else { return ControlFlow::Continue(()) };
        let Err(stop) = pass.next_token() else { return ControlFlow::Continue(()) };
        let (id, dialect, shared) = (id.clone(), self.shape.dialect(), Arc::clone(&self.shared));
        keeper.sign_end(pass.end(&id, stop), move |signed| match signed {
            Ok(end) => {
                let mut state = shared.lock();
                // Another choice may have said so.
                if state.end.is_none() {
                    state.ready.push(stream_end(&end, &id, stop, dialect).as_bytes());
                }
                drop(state);
                shared.end(End::Stopped(stop));
            }
            // Nobody can say any more why it ends, so it must not end in order.
            Err(_) => shared.end(End::Broken),
        });
        (self.permit, self.pass, self.stopped) = (None, None, true);
        ControlFlow::Break(())
    }

    fn event(&mut self, event: Event) -> ControlFlow<()> {
        let mut state = self.shared.lock();
        if state.abandoned || state.end.is_some() {
            return ControlFlow::Break(());
        }
        let State { ready, whole, .. } = &mut *state;
        let out = whole.get_mut(self.index).unwrap_or(ready);
        match event {
            Event::Text(text) => self.shape.piece(out, text.as_str(), text.tokens()),
            // Nobody asked for one.
            Event::Embedding(_) => {}
            Event::Finished { reason: FinishReason::Deadline, .. } => {
                (self.permit, self.pass, self.finished) = (None, None, true);
                let event = self.shape.dialect().failure(&ApiError::RequestTime, &[]);
                state.ready.push(event.as_bytes());
                state.end = Some(End::Late);
            }
            Event::Finished { reason, usage } => {
                (self.permit, self.pass, self.finished) = (None, None, true);
                self.shape.close_choice(out, reason);
                state.finish_choice(usage, &self.shape);
            }
        }
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        ControlFlow::Continue(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An engine that ends because its model is revoked drops its sinks before their next token.
        if self.finished {
            return;
        }
        let _ = self.token();
        if !self.stopped {
            self.shared.end(End::Broken); // Without effect after another end.
        }
    }
}

/// The network's end.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    dialect: Dialect,
    /// Until the last byte has left.
    permits: Vec<Arc<Permit>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.abandoned = true;
        state.waker = None;
    }
}

impl Reader {
    /// The whole answer, once it is complete.
    pub(crate) async fn whole(self) -> Result<Bytes, ApiError> {
        std::future::poll_fn(|context| {
            let mut state = self.shared.lock();
            match state.end {
                Some(End::Complete) => Poll::Ready(Ok(state.ready.take())),
                Some(End::Broken) => Poll::Ready(Err(ApiError::Failed)),
                Some(End::Stopped(stop)) => Poll::Ready(Err(ApiError::Stopped(stop))),
                Some(End::Late) => Poll::Ready(Err(ApiError::RequestTime)),
                None => state.wait(context),
            }
        })
        .await
    }

    /// The answer as a stream, with the shape of `traffic` if there is one. `running` is kept until the stream is dropped: dropping it
    /// stops the generation.
    pub(crate) fn into_body<R: Send + Unpin + 'static>(
        self,
        traffic: Option<Traffic>,
        running: R,
    ) -> EventStream<R> {
        let pace = traffic.map(Pace::new);
        EventStream { reader: self, pace, leaving: Bytes::new(), farewell: Farewell::Due, _running: running }
    }
}

impl State {
    /// Counts a choice that has ended; the last one ends the answer.
    fn finish_choice(
        &mut self,
        Usage { prompt_tokens, cached_tokens, completion_tokens }: Usage,
        shape: &Shape,
    ) {
        // The prompt is counted once, and so is what one choice at least had to compute.
        let is_first = self.usage.prompt_tokens == 0;
        let least = if is_first { cached_tokens } else { self.usage.cached_tokens.min(cached_tokens) };
        self.usage.cached_tokens = least;
        self.usage.prompt_tokens = prompt_tokens;
        self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(completion_tokens);
        self.unfinished = self.unfinished.saturating_sub(1);
        if self.unfinished > 0 {
            return;
        }
        for (index, choice) in std::mem::take(&mut self.whole).iter().enumerate() {
            if index > 0 {
                self.ready.push(b",");
            }
            self.ready.push(choice.as_slice());
        }
        shape.close(&mut self.ready, self.usage);
        self.end = Some(End::Complete);
    }

    fn wait<T>(&mut self, context: &Context<'_>) -> Poll<T> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// The body of a streamed answer (`text/event-stream`).
pub(crate) struct EventStream<R> {
    reader: Reader,
    pace: Option<Pace>,
    /// Taken from the buffer, and too long for one frame.
    leaving: Bytes,
    farewell: Farewell,
    _running: R,
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
        let mut state = this.reader.shared.lock();
        // What has ended and left needs no further tick.
        if let Some(pace) = &mut this.pace
            && !(is_drained(&this.leaving, &state) && state.end.is_some_and(|end| this.farewell.is_over(end)))
        {
            ready!(pace.ticks.poll_tick(context));
        }
        refill(&mut this.leaving, &mut this.farewell, this.reader.dialect, &mut state);
        let frame = match &this.pace {
            None => this.leaving.split_to(this.leaving.len().min(MAX_FRAME)),
            Some(pace) => {
                let mut frame = SecretBuffer::with_capacity(pace.step);
                while frame.len() < pace.step && !this.leaving.is_empty() {
                    let room = pace.step - frame.len();
                    frame.push(&this.leaving.split_to(this.leaving.len().min(room)));
                    refill(&mut this.leaving, &mut this.farewell, this.reader.dialect, &mut state);
                }
                if !frame.is_empty() || state.end.is_none() {
                    fill(&mut frame, pace.step);
                }
                frame.take()
            }
        };
        if !frame.is_empty() {
            match state.end {
                Some(end) if is_drained(&this.leaving, &state) => {
                    if end.is_clean() {
                        this.reader.permits.clear();
                    } else if matches!(this.farewell, Farewell::Told) {
                        this.farewell = Farewell::Sent(Box::pin(sleep(FAREWELL)));
                    }
                }
                _ => {}
            }
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        match (state.end, &mut this.farewell) {
            (None, _) => state.wait(context),
            (Some(End::Broken), Farewell::Sent(sent)) => {
                sent.as_mut().poll(context).map(|()| Some(Err(ApiError::Failed)))
            }
            (Some(End::Broken), _) => Poll::Ready(Some(Err(ApiError::Failed))),
            (Some(End::Complete | End::Stopped(_) | End::Late), _) => Poll::Ready(None),
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

/// One frame of `step` bytes at every tick: neither how long tokens are nor when they come can be seen from outside.
struct Pace {
    ticks: Interval,
    step: usize,
}

impl Pace {
    fn new(traffic: Traffic) -> Self {
        let mut ticks = interval(traffic.cadence());
        // A connection that was not ready gets its next frame a whole cadence later: what piled up must not be seen either.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, step: traffic.step().get() }
    }
}

/// Fills a frame that ends with an event up to `step` bytes with what clients ignore: a comment line, or for one byte an empty line.
fn fill(frame: &mut SecretBuffer, step: usize) {
    match step.saturating_sub(frame.len()) {
        0 => {}
        1 => frame.push(b"\n"),
        gap => {
            frame.push(b":");
            frame.push(&vec![b'.'; gap - 2]);
            frame.push(b"\n");
        }
    }
}

/// `answer`, whose length is made a multiple of `step` with the white space that may follow a JSON text (RFC 8259, section 2).
pub(crate) fn fill_whole(answer: &Bytes, step: NonZeroUsize) -> Bytes {
    let length = answer.len().next_multiple_of(step.get());
    let mut filled = SecretBuffer::with_capacity(length);
    filled.push(answer);
    filled.push(&vec![b' '; length - answer.len()]);
    filled.take()
}

/// The event that ends a stream before its time, see `docs/protocol.md`.
fn stream_end(end: &SignedEnd, id: &str, stop: Stop, dialect: Dialect) -> String {
    let signed = serde_json::json!({
        "stream": id,
        "reason": stop.code(),
        "at_ms": end.at.0,
        "release_sha256": end.release.map(|digest| digest.to_string()),
        "lease_sha256": end.lease.map(|digest| digest.to_string()),
        "signature": STANDARD.encode(&end.signature),
    });
    dialect.failure(&ApiError::Stopped(stop), &[("cleanroom_stream_end", signed)])
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use cleanroom_attestation::digest::Sha256Digest;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::admission::{Admission, AdmissionLimits};
    use crate::api::request::Delivery;
    use crate::api::shape::Identity;
    use crate::api::{PartnerId, chat};

    const STREAM: Delivery = Delivery::Stream { include_usage: false, include_obfuscation: true };

    fn ends(delivery: Delivery) -> (Writer, Reader, Arc<Admission>) {
        let one = NonZeroUsize::MIN;
        let admission = Admission::new(AdmissionLimits { total: one, per_partner: one });
        let permit = admission.admit(PartnerId::from(Sha256Digest::from_bytes([1; 32]))).ok().unwrap();
        let identity = Identity { id: "1", created: 0, model: "m", fingerprint: "fp_0" };
        let shape = Shape::new(&chat::WORDING, &identity, delivery, 0, None);
        let (mut writers, reader) = answer(vec![(shape, permit)]);
        (writers.remove(0), reader, admission)
    }

    /// The ends of an answer with two choices.
    fn two(delivery: Delivery) -> (Writer, Writer, Reader, Arc<Admission>) {
        let two = NonZeroUsize::new(2).unwrap();
        let admission = Admission::new(AdmissionLimits { total: two, per_partner: two });
        let identity = Identity { id: "1", created: 0, model: "m", fingerprint: "fp_0" };
        let choices = (0..2).map(|index| {
            let permit = admission.admit(PartnerId::from(Sha256Digest::from_bytes([1; 32]))).ok().unwrap();
            (Shape::new(&chat::WORDING, &identity, delivery, index, None), permit)
        });
        let (mut writers, reader) = answer(choices.collect());
        let second = writers.pop().unwrap();
        (writers.pop().unwrap(), second, reader, admission)
    }

    #[tokio::test]
    async fn choices_come_in_order_whichever_ends_first_and_their_tokens_are_summed() {
        let (mut first, mut second, reader, admission) = two(Delivery::Whole);
        let usage = |completion_tokens| Usage { prompt_tokens: 5, cached_tokens: 0, completion_tokens };
        let end = |reason, tokens| Event::Finished { reason, usage: usage(tokens) };
        assert!(second.event(end(FinishReason::Length, 3)).is_continue());
        drop(second);
        assert_eq!(admission.taken(), 2, "what has ended is not read before all has");
        assert!(first.event(end(FinishReason::Stop, 4)).is_continue());
        let answer: serde_json::Value = serde_json::from_slice(&reader.whole().await.ok().unwrap()).unwrap();
        assert_eq!(admission.taken(), 0);
        let choices: Vec<_> = answer["choices"].as_array().unwrap().iter().collect();
        assert_eq!((&choices[0]["index"], &choices[0]["finish_reason"]), (&0.into(), &"stop".into()));
        assert_eq!((&choices[1]["index"], &choices[1]["finish_reason"]), (&1.into(), &"length".into()));
        assert_eq!(answer["usage"]["completion_tokens"], 7);
        assert_eq!(answer["usage"]["prompt_tokens"], 5);
    }

    #[tokio::test]
    async fn one_choice_that_breaks_breaks_the_answer_and_stops_the_others() {
        let (first, mut second, reader, _admission) = two(Delivery::Whole);
        drop(first);
        assert!(finish(&mut second).is_break());
        assert!(matches!(reader.whole().await, Err(ApiError::Failed)));

        let (mut first, second, reader, _admission) = two(STREAM);
        assert!(finish(&mut first).is_continue());
        let mut body = reader.into_body(None, ());
        let seen = frame(&mut body).await;
        assert!(seen.contains(r#""index":1"#) && !seen.contains("[DONE]"), "{seen}");
        drop(second);
        assert!(frame(&mut body).await.contains("engine_failed"));
    }

    fn finish(writer: &mut Writer) -> ControlFlow<()> {
        writer.event(Event::Finished { reason: FinishReason::Stop, usage: Usage::default() })
    }

    async fn frame(body: &mut EventStream<()>) -> String {
        let data = body.frame().await.unwrap().ok().unwrap().into_data().ok().unwrap();
        String::from_utf8(data.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_is_ready_leaves_in_one_frame_and_then_the_stream_ends() {
        let (mut writer, reader, _admission) = ends(STREAM);
        assert!(finish(&mut writer).is_continue());
        drop(writer);
        let mut body = reader.into_body(None, ());
        assert!(!body.is_end_stream());
        let only = frame(&mut body).await;
        assert!(only.contains(r#""role":"assistant""#) && only.contains(r#""finish_reason":"stop""#));
        assert!(only.ends_with("data: [DONE]\n\n"));
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_engine_dies_tells_the_failure_and_is_broken_off() {
        let (writer, reader, _admission) = ends(STREAM);
        let mut body = reader.into_body(None, ());
        let mut seen = frame(&mut body).await;
        drop(writer);
        seen += &frame(&mut body).await;
        assert!(seen.contains(r#""code":"engine_failed""#), "{seen}");
        assert!(!seen.contains("[DONE]") && !seen.contains(r#""finish_reason":""#), "{seen}");
        assert!(!body.is_end_stream());
        assert!(body.frame().await.unwrap().is_err(), "the HTTP stream must not end cleanly");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_after_what_was_said_just_before_it() {
        for traffic in [None, Traffic::new(STEP, CADENCE)] {
            let (mut writer, reader, _admission) = ends(STREAM);
            writer.shape.piece(&mut writer.shared.lock().ready, "last words", &[]);
            drop(writer);
            let mut body = reader.into_body(traffic, ());
            let (mut seen, begun) = (String::new(), tokio::time::Instant::now());
            let error = loop {
                match body.frame().await.unwrap() {
                    Ok(frame) => seen += std::str::from_utf8(&frame.into_data().ok().unwrap()).unwrap(),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, ApiError::Failed));
            let (said, failed) = (seen.find("last words"), seen.find(r#""code":"engine_failed""#));
            assert!(said.is_some() && said < failed, "{seen}");
            assert!(begun.elapsed() >= FAREWELL, "what is broken off at once is lost on its way");
        }
    }

    #[tokio::test]
    async fn a_whole_answer_whose_engine_dies_is_an_error() {
        let (writer, reader, _admission) = ends(Delivery::Whole);
        drop(writer);
        assert!(matches!(reader.whole().await, Err(ApiError::Failed)));
    }

    #[tokio::test]
    async fn an_answer_whose_time_is_over_says_so_and_never_looks_complete() {
        let late = |writer: &mut Writer| {
            writer.event(Event::Finished { reason: FinishReason::Deadline, usage: Usage::default() })
        };
        let (mut writer, reader, admission) = ends(Delivery::Whole);
        let _ = late(&mut writer);
        assert!(matches!(reader.whole().await, Err(ApiError::RequestTime)));
        assert_eq!(admission.taken(), 0);

        let (mut writer, reader, _admission) = ends(STREAM);
        let _ = late(&mut writer);
        drop(writer);
        let mut body = reader.into_body(None, ());
        let only = frame(&mut body).await;
        assert!(only.contains(r#""code":"request_time""#), "{only}");
        assert!(!only.contains("[DONE]") && !only.contains(r#""finish_reason":""#), "{only}");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let (mut writer, reader, _admission) = ends(Delivery::Whole);
        let waiting = tokio::spawn(reader.whole());
        tokio::task::yield_now().await;
        let _ = finish(&mut writer);
        assert!(waiting.await.unwrap().is_ok());
    }

    #[test]
    fn a_writer_whose_reader_has_gone_is_told_to_stop() {
        let (mut writer, reader, _admission) = ends(STREAM);
        drop(reader.into_body(None, ()));
        assert!(finish(&mut writer).is_break());
    }

    #[test]
    fn the_place_is_kept_while_either_end_holds_on() {
        let (writer, reader, admission) = ends(STREAM);
        drop(reader);
        assert_eq!(admission.taken(), 1, "the engine still works on it");
        drop(writer);
        assert_eq!(admission.taken(), 0);

        let (mut writer, reader, admission) = ends(STREAM);
        let _ = finish(&mut writer);
        drop(writer);
        assert_eq!(admission.taken(), 1, "the answer still waits to be read");
        drop(reader);
        assert_eq!(admission.taken(), 0);
    }

    #[tokio::test]
    async fn the_place_is_free_before_the_end_can_be_seen() {
        // The engine's thread has told the end, and not yet let go of its sink.
        let (mut writer, reader, admission) = ends(Delivery::Whole);
        let _ = finish(&mut writer);
        assert!(reader.whole().await.is_ok());
        assert_eq!(admission.taken(), 0);

        // The network has the last frame, and not yet let go of the body.
        let (mut writer, reader, admission) = ends(STREAM);
        let mut body = reader.into_body(None, ());
        assert!(!frame(&mut body).await.contains("[DONE]"));
        let _ = finish(&mut writer);
        assert_eq!(admission.taken(), 1);
        assert!(frame(&mut body).await.contains("[DONE]"));
        assert_eq!(admission.taken(), 0);
    }

    #[tokio::test]
    async fn a_long_answer_leaves_in_bounded_frames_and_holds_its_place_until_the_last() {
        let (mut writer, reader, admission) = ends(STREAM);
        let text = "x".repeat(MAX_FRAME + 5);
        writer.shape.piece(&mut writer.shared.lock().ready, &text, &[]);
        let _ = finish(&mut writer);
        let mut body = reader.into_body(None, ());
        assert_eq!(frame(&mut body).await.len(), MAX_FRAME);
        assert!(!body.is_end_stream());
        assert_eq!(admission.taken(), 1);
        assert!(frame(&mut body).await.ends_with("data: [DONE]\n\n"));
        assert!(body.is_end_stream());
        assert_eq!(admission.taken(), 0);
    }

    const STEP: usize = 512;
    const CADENCE: Duration = Duration::from_millis(50);

    fn paced(reader: Reader) -> EventStream<()> {
        reader.into_body(Some(Traffic::new(STEP, CADENCE).unwrap()), ())
    }

    /// What a client of server-sent events makes of a stream: no comments, no empty events.
    fn without_comments(stream: &str) -> String {
        let mut events = String::new();
        for line in stream.split_inclusive('\n').filter(|line| !line.starts_with(':')) {
            if line != "\n" || !(events.is_empty() || events.ends_with("\n\n")) {
                events += line;
            }
        }
        events
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_stream_has_one_length_and_one_rhythm_whatever_is_said() {
        for pieces in
            [vec![STEP / 2, 0, 1, 0, 40], vec![3 * STEP], vec![0, 0, 0], vec![], vec![STEP - 1, STEP - 2]]
        {
            let (mut writer, reader, admission) = ends(STREAM);
            let (mut plain, plain_reader, _plain) = ends(STREAM);
            let mut body = paced(reader);
            let begun = tokio::time::Instant::now();
            let (mut stream, mut ticks) = (String::new(), 0_u32);
            let mut pieces = pieces.into_iter();
            let mut finished = false;
            while !finished || !body.is_end_stream() {
                match pieces.next() {
                    Some(0) => {}
                    Some(length) => {
                        for end in [&mut writer, &mut plain] {
                            end.shape.piece(&mut end.shared.lock().ready, &"x".repeat(length), &[]);
                        }
                    }
                    None if finished => {}
                    None => {
                        finished = true;
                        let _ = (finish(&mut writer), finish(&mut plain));
                    }
                }
                let frame = frame(&mut body).await;
                assert_eq!(frame.len(), STEP);
                assert_eq!(begun.elapsed(), CADENCE * ticks);
                ticks += 1;
                stream += &frame;
            }
            assert!(body.frame().await.is_none());
            assert_eq!(admission.taken(), 0);
            let expected = plain_reader.whole_stream().await;
            assert_eq!(without_comments(&stream), expected);
        }
    }

    #[test]
    fn every_gap_can_be_filled() {
        for length in 0..=STEP {
            let mut frame = SecretBuffer::default();
            frame.push(&vec![b'x'; length]);
            fill(&mut frame, STEP);
            assert_eq!(frame.len(), STEP);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_stream_says_nothing_in_its_rhythm_too() {
        let (_writer, reader, _admission) =
            ends(Delivery::Stream { include_usage: false, include_obfuscation: false });
        let mut body = paced(reader);
        assert!(without_comments(&frame(&mut body).await).contains("assistant"));
        for _ in 0..3 {
            let before = tokio::time::Instant::now();
            let only = frame(&mut body).await;
            assert_eq!((without_comments(&only).as_str(), only.len()), ("", STEP));
            assert_eq!(before.elapsed(), CADENCE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_stream_whose_engine_dies_is_broken_off_after_a_frame_like_all_others() {
        let (writer, reader, _admission) = ends(STREAM);
        let mut body = paced(reader);
        let mut seen = frame(&mut body).await;
        drop(writer);
        seen += &frame(&mut body).await;
        assert_eq!(seen.len(), 2 * STEP);
        assert!(seen.contains(r#""code":"engine_failed""#), "{seen}");
        assert!(!body.is_end_stream());
        assert!(body.frame().await.unwrap().is_err(), "the HTTP stream must not end cleanly");
    }

    #[test]
    fn a_whole_answer_is_filled_up_to_a_step() {
        let step = NonZeroUsize::new(8).unwrap();
        for (answer, length) in [("{}", 8), ("{\"a\":12}", 8), ("{\"a\":123}", 16)] {
            let filled = fill_whole(&Bytes::from(answer), step);
            assert_eq!(filled.len(), length);
            assert_eq!(std::str::from_utf8(&filled).unwrap().trim_end(), answer);
        }
    }

    impl Reader {
        /// Everything that a stream without a pace carries.
        async fn whole_stream(self) -> String {
            let body = self.into_body(None, ()).collect().await.ok().unwrap();
            String::from_utf8(body.to_bytes().to_vec()).unwrap()
        }
    }
}
