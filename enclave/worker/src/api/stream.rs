//! An answer in the making: the backend's thread writes at one end, HTTP reads at the other.
//!
//! Between the two is one buffer of finished bytes. The backend never waits for the network, nor for classifiers. Bytes that have piled up when
//! the network is ready leave as one frame. The buffer cannot outgrow the model's context.
//!
//! A request keeps its slot in [`Admission`](crate::admission::Admission) until the backend is done *and* the answer has
//! been read, so unread answers cannot pile up. The slot is free before the client can have seen the end, so a client's
//! next request never meets its last one.
//!
//! An answer ends in one of five ways:
//!
//! * With its finish reason, and HTTP ends in order.
//! * Under release control, when a token may no longer be made or made text may no longer leave: the stream
//!   gets an event with the reason, signed by the keeper, and ends without a finish reason. The backend does
//!   not wait for the signature.
//! * Under safeguards, when a rule refuses what was said: as above, and nothing leaves that was not judged.
//! * When its time is over: an event says so, and there is no finish reason.
//! * When the backend drops its end early: a stream gets an error event and is broken off, so that no client takes a part
//!   for the whole.

mod aside;
mod events;
mod gate;
mod pace;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cleanroom_attestation::receipt::Finish;
use cleanroom_backend::{Event, FinishReason, Sink, Usage};
use cleanroom_config::Traffic;
use cleanroom_protocol::{EndQuestion, SignedEnd};
use tokio::sync::mpsc;

use self::aside::Aside;
use self::events::EventStream;
use self::gate::{Gate, Held};
pub(crate) use self::pace::fill_whole;
use super::error::ApiError;
use super::judge::{Judge, Stopped};
use super::secret::SecretBuffer;
use super::shape::{Dialect, Shape};
use crate::admission::Slot;
use crate::grant::{Grant, Permission, Stop};
use crate::keeper::Keeper;

/// Makes the ends of one answer: one to write each choice, and one to read all. Every choice has a place of its own. Each
/// `per_prompt` of them continue one prompt.
pub(crate) fn answer(choices: Vec<(Shape, Slot)>, per_prompt: usize) -> (Vec<Writer>, Reader) {
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
        usage: vec![Usage::default(); choices.len().div_ceil(per_prompt.max(1))],
        end: None,
        refusal: None,
        waker: None,
        abandoned: false,
        stopping: false,
        held_back: false,
        halted: false,
    };
    let shared = Arc::new(Shared(Mutex::new(state)));
    let (presence, absence) = mpsc::channel(1);
    let (shapes, slots): (Vec<_>, Vec<_>) =
        choices.into_iter().map(|(shape, slot)| (shape, Arc::new(slot))).unzip();
    let writer = |(index, (shape, slot)): (usize, (Shape, &Arc<Slot>))| Writer {
        shape,
        index,
        prompt: index / per_prompt.max(1),
        shared: Arc::clone(&shared),
        slot: Some(Arc::clone(slot)),
        grant: None,
        gate: None,
        finished: false,
        stopped: false,
        _presence: presence.clone(),
    };
    let writers = shapes.into_iter().zip(&slots).enumerate().map(writer).collect();
    (writers, Reader { shared, slots, dialect, control: None, absence })
}

struct Shared(Mutex<State>);

struct State {
    /// What HTTP can have at once.
    ready: SecretBuffer,
    /// The choices of a whole answer, which come one after the other and only when all are complete.
    whole: Vec<SecretBuffer>,
    /// Choices that have not ended.
    unfinished: usize,
    /// Of the choices that have, for each prompt.
    usage: Vec<Usage>,
    /// Set once; nothing is written afterwards.
    end: Option<End>,
    /// What the safeguards refuse the answer with, if they do.
    refusal: Option<ApiError>,
    waker: Option<Waker>,
    /// The reader is gone.
    abandoned: bool,
    /// Nothing more may leave, and the keeper has been asked to sign that.
    stopping: bool,
    /// The reader is to let go of what it has taken and not sent, but for the event that has begun to leave.
    held_back: bool,
    /// Release control has ended the answer.
    halted: bool,
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

/// A permission that [`Aside`](aside::Aside) asks while a writer is busy.
type SharedGrant = Arc<Mutex<Grant>>;

fn next_token(grant: &SharedGrant) -> Result<(), Stop> {
    grant.lock().unwrap_or_else(PoisonError::into_inner).next_token()
}

/// The engine's end.
pub(crate) struct Writer {
    shape: Shape,
    /// Which choice it writes, and to which prompt.
    index: usize,
    prompt: usize,
    shared: Arc<Shared>,
    /// Until the finish reason.
    slot: Option<Arc<Slot>>,
    /// Under release control: the permission, who signs when it ends, and the answer's id.
    grant: Option<(SharedGrant, Keeper, String)>,
    /// Under safeguards: what has not been judged to its end.
    gate: Option<Gate>,
    /// Whether the choice is complete.
    finished: bool,
    /// Another end than the engine's is on its way.
    stopped: bool,
    /// Dropped last: slot and grant are free then.
    _presence: mpsc::Sender<Infallible>,
}

impl Writer {
    /// The same end, which asks `grant` before every token of the answer called `id`.
    pub(crate) fn under(mut self, grant: Grant, keeper: Keeper, id: String) -> Self {
        self.grant = Some((Arc::new(Mutex::new(grant)), keeper, id));
        self
    }

    /// The same end, from which nothing leaves before `judge` has judged it. Only an end under release control has one.
    pub(crate) fn judged(mut self, judge: Option<Judge>) -> Self {
        self.gate = judge.map(Gate::new);
        self
    }

    /// The same end as the backend gets it. One that judges slowly does so on a thread of its own.
    pub(crate) fn into_sink(self) -> Box<dyn Sink> {
        if self.gate.as_ref().is_some_and(Gate::is_slow) {
            Box::new(Aside::new(self))
        } else {
            Box::new(self)
        }
    }

    /// Ends the answer, and has the keeper sign why.
    fn stop(&mut self, stop: Stop) {
        let Some((grant, keeper, id)) = self.grant.take() else { return };
        let left = match (stop, &mut self.gate) {
            // Text within a limit is the partner's, also once the limit is reached.
            (Stop::Limit(_), Some(gate)) => gate.finish().unwrap_or_default(),
            _ => Vec::new(),
        };
        // Another choice, or the reader, may have asked already.
        let mut state = self.shared.lock();
        // Nobody reads the end of an answer that is abandoned.
        let is_first = !std::mem::replace(&mut state.stopping, true) && !state.abandoned;
        if is_first {
            match stop {
                Stop::Refused(_) => state.hold_back(),
                Stop::Limit(_) => state.release(&mut self.shape, self.index, &left),
                // What has left the gate was judged.
                Stop::Safeguard => {
                    let id = if self.shape.whole { None } else { Some(id.as_str()) };
                    state.refusal = self.gate.as_ref().map(|gate| gate.refusal(id));
                }
            }
        }
        drop(state);
        if is_first {
            let question = grant.lock().unwrap_or_else(PoisonError::into_inner).end(&id, stop);
            sign_end(&keeper, question, &self.shared, &id, stop, self.shape.dialect());
        }
        (self.slot, self.stopped) = (None, true);
    }

    /// What may leave once `event` is judged, without the event itself if it is the last one.
    fn judge(&mut self, event: &Event<'_>) -> Result<Option<Vec<Held>>, Stopped> {
        self.gate.as_mut().map(|gate| gate.pass(event)).transpose()
    }
}

impl Sink for Writer {
    fn token(&mut self) -> ControlFlow<()> {
        let Some((grant, ..)) = &self.grant else { return ControlFlow::Continue(()) };
        let Err(stop) = next_token(grant) else { return ControlFlow::Continue(()) };
        self.stop(stop);
        ControlFlow::Break(())
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let Ok(judged) = self.judge(&event) else {
            self.stop(Stop::Safeguard);
            return ControlFlow::Break(());
        };
        let mut state = self.shared.lock();
        if state.stopping {
            self.stopped = true;
        }
        if state.abandoned || state.stopping || state.end.is_some() {
            return ControlFlow::Break(());
        }
        if let Some(judged) = &judged {
            state.release(&mut self.shape, self.index, judged);
        }
        let out = state.out(self.index);
        match event {
            // What was judged has left above.
            Event::Text(_) | Event::Reasoning(_) | Event::Call(_) | Event::Arguments(_)
                if judged.is_some() => {}
            Event::Text(_) | Event::Reasoning(_) | Event::Call(_) | Event::Arguments(_) => {
                release(&mut self.shape, out, &event);
            }
            // Nobody asked for one.
            Event::Embedding(_) => {}
            Event::Finished { reason: FinishReason::Deadline, .. } => {
                (self.slot, self.grant, self.finished) = (None, None, true);
                let event = self.shape.dialect().failure(&ApiError::RequestTime, &[]);
                state.ready.push(event.as_bytes());
                state.end = Some(End::Late);
            }
            Event::Finished { reason, usage } => {
                (self.slot, self.grant, self.finished) = (None, None, true);
                self.shape.close_choice(out, reason);
                state.finish_choice(self.prompt, usage, &mut self.shape);
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
        if !self.stopped && !self.shared.lock().stopping {
            self.shared.end(End::Broken); // Without effect after another end.
        }
    }
}

/// The network's end.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    dialect: Dialect,
    /// Until the last byte has left.
    slots: Vec<Arc<Slot>>,
    /// Under release control: whether the rest may still leave, who signs when it may not, and the answer's id.
    control: Option<(Permission, Keeper, String)>,
    /// Ends when no writer is left.
    absence: mpsc::Receiver<Infallible>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.abandoned = true;
        state.waker = None;
    }
}

/// How an answer ended, once it has.
#[derive(Clone)]
pub(crate) struct Ending(Arc<Shared>);

impl Ending {
    /// The word for it, and why, for every end but the regular one.
    pub(crate) fn finish(&self) -> (Finish, Option<&'static str>) {
        match self.0.lock().end {
            Some(End::Complete) => (Finish::Finished, None),
            Some(End::Stopped(stop)) => (Finish::Halted, Some(stop.code())),
            Some(End::Late) => (Finish::Failed, Some(ApiError::RequestTime.code())),
            Some(End::Broken) | None => (Finish::Failed, Some(ApiError::Failed.code())),
        }
    }
}

impl Reader {
    /// Lets go of the answer, which the backend was told to end, and waits until it has. The slots are free then.
    pub(crate) fn abandon(mut self) -> impl Future<Output = ()> {
        self.slots.clear();
        self.shared.lock().abandoned = true;
        async move { _ = self.absence.recv().await }
    }

    /// What can be asked how the answer ended.
    pub(crate) fn ending(&self) -> Ending {
        Ending(Arc::clone(&self.shared))
    }

    /// The same end, which asks `permission` before anything of the answer called `id` leaves. An answer can be made long
    /// before it leaves: at the pace of `[traffic]`, or as fast as a slow client reads.
    pub(crate) fn under(mut self, permission: Permission, keeper: Keeper, id: String) -> Self {
        self.control = Some((permission, keeper, id));
        self
    }

    /// The whole answer, once it is complete.
    pub(crate) async fn whole(mut self) -> Result<Bytes, ApiError> {
        std::future::poll_fn(|context| {
            let mut state = self.shared.lock();
            match state.end {
                Some(End::Complete) => Poll::Ready(Ok(())),
                Some(End::Broken) => Poll::Ready(Err(ApiError::Failed)),
                Some(End::Stopped(stop)) => Poll::Ready(Err(state.stopped(stop))),
                Some(End::Late) => Poll::Ready(Err(ApiError::RequestTime)),
                None => state.wait(context),
            }
        })
        .await?;
        if let Some((permission, ..)) = &mut self.control {
            permission.still_permitted().map_err(ApiError::Stopped)?;
        }
        Ok(self.shared.lock().ready.take())
    }

    /// Throws away what has not left, if it may not leave any more, and has the end of the stream signed.
    fn stop_if_refused(&mut self, state: &mut State) {
        let Some((permission, keeper, id)) = &mut self.control else { return };
        // What was made before a limit or a deadline ended the answer may still be waiting to leave.
        if state.halted || state.end == Some(End::Broken) {
            return;
        }
        let Err(stop) = permission.still_permitted() else { return };
        state.hold_back();
        (state.stopping, state.end) = (true, None);
        sign_end(keeper, permission.end(id, stop), &self.shared, id, stop, self.dialect);
    }

    /// The answer as a stream, with the shape of `traffic` if there is one. `running` is kept until the stream is dropped: dropping it
    /// stops the generation.
    pub(crate) fn into_body<R: Send + Unpin + 'static>(
        self,
        traffic: Option<Traffic>,
        running: R,
    ) -> EventStream<R> {
        EventStream::new(self, traffic, running)
    }
}

impl State {
    /// Where a choice is written.
    fn out(&mut self, choice: usize) -> &mut SecretBuffer {
        self.whole.get_mut(choice).unwrap_or(&mut self.ready)
    }

    /// Lets events out that were judged.
    fn release(&mut self, shape: &mut Shape, choice: usize, judged: &[Held]) {
        let out = self.out(choice);
        judged.iter().for_each(|held| release(shape, out, &held.event()));
    }

    /// The refusal that an answer ends with that was stopped.
    fn stopped(&mut self, stop: Stop) -> ApiError {
        match stop {
            Stop::Safeguard => self.refusal.take().unwrap_or(ApiError::Stopped(stop)),
            Stop::Refused(_) | Stop::Limit(_) => ApiError::Stopped(stop),
        }
    }

    /// Lets go of everything that has not left.
    fn hold_back(&mut self) {
        drop(self.ready.take());
        (self.held_back, self.halted) = (true, true);
    }

    /// Counts a choice that has ended; the last one ends the answer.
    fn finish_choice(
        &mut self,
        prompt: usize,
        Usage { prompt_tokens, cached_tokens, completion_tokens }: Usage,
        shape: &mut Shape,
    ) {
        if let Some(usage) = self.usage.get_mut(prompt) {
            // A prompt is counted once, and so is what one choice at least had to compute.
            let is_first = usage.prompt_tokens == 0;
            let least = if is_first { cached_tokens } else { usage.cached_tokens.min(cached_tokens) };
            usage.cached_tokens = least;
            usage.prompt_tokens = prompt_tokens;
            usage.completion_tokens = usage.completion_tokens.saturating_add(completion_tokens);
        }
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
        let sum = |all: Usage, one: &Usage| Usage {
            prompt_tokens: all.prompt_tokens.saturating_add(one.prompt_tokens),
            cached_tokens: all.cached_tokens.saturating_add(one.cached_tokens),
            completion_tokens: all.completion_tokens.saturating_add(one.completion_tokens),
        };
        shape.close(&mut self.ready, self.usage.iter().fold(Usage::default(), sum));
        self.end = Some(End::Complete);
    }

    fn wait<T>(&mut self, context: &Context<'_>) -> Poll<T> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// Has the keeper sign that the stream called `id` ends because of `stop`, and ends the stream with that.
fn sign_end(
    keeper: &Keeper,
    question: EndQuestion,
    shared: &Arc<Shared>,
    id: &str,
    stop: Stop,
    dialect: Dialect,
) {
    let (id, shared) = (id.to_owned(), Arc::clone(shared));
    keeper.sign_end(question, move |signed| match signed {
        Ok(end) => {
            let mut state = shared.lock();
            if state.end.is_none() {
                let signed = signed_end(&end, &id, stop);
                let refusal = state.stopped(stop);
                state.ready.push(dialect.failure(&refusal, &[("cleanroom_stream_end", signed)]).as_bytes());
                state.refusal = Some(refusal).filter(|_| stop == Stop::Safeguard);
            }
            drop(state);
            shared.end(End::Stopped(stop));
        }
        // Nobody can say any more why it ends, so it must not end in order.
        Err(_) => shared.end(End::Broken),
    });
}

/// The one point at which anything that the model says enters an answer. Whatever must hold text back stands here.
fn release(shape: &mut Shape, out: &mut SecretBuffer, event: &Event<'_>) {
    match event {
        Event::Text(piece) => shape.piece(out, piece.text, piece.tokens),
        Event::Reasoning(text) => shape.reasoning(out, text),
        Event::Call(name) => shape.call(out, name),
        Event::Arguments(text) => shape.arguments(out, text),
        Event::Embedding(_) | Event::Finished { .. } => {}
    }
}

/// The signed part of the event that ends a stream before its time, see `docs/protocol.md`.
fn signed_end(end: &SignedEnd, id: &str, stop: Stop) -> serde_json::Value {
    serde_json::json!({
        "stream": id,
        "reason": stop.code(),
        "at_ms": end.at.0,
        "release_sha256": end.release.map(|digest| digest.to_string()),
        "lease_sha256": end.lease.map(|digest| digest.to_string()),
        "signature": STANDARD.encode(&end.signature),
    })
}
