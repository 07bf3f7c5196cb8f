//! One answer of the engine, from the request's body to the sink.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_backend::{Event, FinishReason, Piece, SecretString, Sink, Usage};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::chunk::{CallPart, Chunk, Finish, WireUsage};
use crate::events::EventReader;
use crate::http::Exchange;
use crate::queue::Place;
use crate::stops::{Released, Stops};
use crate::{Failure, Shared};

/// Bytes of text that a token stands for, on the average of an answer; an answer with more is none.
const BYTES_PER_TOKEN: usize = 256;
/// The same for an answer of few tokens.
const LEAST_BYTES: usize = 64 * 1024;
/// Events that say nothing new, for each token: an engine may tell of roles, usage and ends in events of their own.
const EVENTS_PER_TOKEN: u64 = 2;
/// The same for an answer of few tokens.
const LEAST_EVENTS: u64 = 64;
/// Tokens that an engine may count beyond the most that was asked for: the one that ends a turn, and a few that it takes back.
const SPARE_TOKENS: u32 = 8;

/// What an answer needs.
pub(crate) struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) place: Place,
    pub(crate) path: &'static str,
    pub(crate) body: Zeroizing<Vec<u8>>,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) stop: Vec<SecretString>,
    /// Names of the tools that may be called.
    pub(crate) tools: Arc<[SecretString]>,
    pub(crate) max_tokens: u32,
    /// As they were counted before.
    pub(crate) prompt_tokens: u32,
    pub(crate) time: Duration,
}

/// Why there is nothing more to read.
enum End {
    /// The engine's own end, or a stop string.
    Finished(FinishReason),
    /// The sink wants no more.
    Cancelled,
}

/// Runs one answer to its end. A sink that is dropped without an end has been failed, and whoever made the backend is told
/// why.
pub(crate) async fn run(job: Job) {
    let Job { shared, place, path, body, sink, stop, tools, max_tokens, prompt_tokens, time } = job;
    let deadline = Instant::now() + time;
    let mut answer = Answer {
        sink,
        stops: Stops::new(stop),
        tools,
        call: None,
        counted: 0,
        max_tokens,
        left_bytes: (max_tokens as usize).saturating_mul(BYTES_PER_TOKEN).saturating_add(LEAST_BYTES),
        left_events: u64::from(max_tokens).saturating_mul(EVENTS_PER_TOKEN).saturating_add(LEAST_EVENTS),
        prompt_tokens,
        cached_tokens: 0,
        finish: None,
    };
    // The place is given back before anybody can see the end.
    let ended = timeout_at(deadline, async {
        let mut place = place;
        place.ready().await;
        let silence = shared.facts.silence;
        let exchange = Exchange::begin(shared.door.as_ref(), path, Some(body), silence).await?.events()?;
        answer.follow(exchange, &shared).await
    })
    .await;
    // The connection is closed by now: an engine that is not read any more stops.
    let end = match ended {
        Err(_) => End::Finished(FinishReason::Deadline),
        Ok(Ok(end)) => end,
        Ok(Err(failure)) => return (shared.report)(failure),
    };
    if let End::Finished(reason) = end {
        let _ = answer.sink.event(Event::Finished { reason, usage: answer.usage() });
    }
    shared.stepped();
}

struct Answer {
    sink: Box<dyn Sink>,
    stops: Stops,
    tools: Arc<[SecretString]>,
    /// The call that has not ended: its number, and its arguments so far.
    call: Option<(u32, Zeroizing<String>)>,
    /// Tokens that the sink has permitted.
    counted: u32,
    max_tokens: u32,
    left_bytes: usize,
    left_events: u64,
    prompt_tokens: u32,
    cached_tokens: u32,
    finish: Option<Finish>,
}

impl Answer {
    async fn follow(&mut self, mut exchange: Exchange, shared: &Shared) -> Result<End, Failure> {
        let mut reader = EventReader::default();
        let mut spoke = Instant::now();
        while let Some(bytes) = exchange.next().await? {
            let mut end = None;
            let mut has_event = false;
            let _ = reader.push(&bytes, |data| {
                has_event = true;
                match self.event(data) {
                    Ok(None) => ControlFlow::Continue(()),
                    other => {
                        end = Some(other);
                        ControlFlow::Break(())
                    }
                }
            })?;
            match end {
                Some(Ok(Some(end))) => return Ok(end),
                Some(Err(failure)) => return Err(failure),
                Some(Ok(None)) | None => {}
            }
            if has_event {
                spoke = Instant::now();
                shared.stepped();
            } else if spoke.elapsed() > shared.facts.silence {
                // Comments alone are no answer.
                return Err(Failure::Silent);
            }
        }
        // Some servers end without a last word.
        self.end()
    }

    /// Takes in the data of an event. Gives the end if it is one.
    fn event(&mut self, data: &[u8]) -> Result<Option<End>, Failure> {
        if data == b"[DONE]" {
            return self.end().map(Some);
        }
        self.left_events = self.left_events.checked_sub(1).ok_or(Failure::TooMuch)?;
        let Chunk { text, reasoning, calls, scores, finish, usage } = Chunk::parse(data)?;
        let says =
            |text: &Option<crate::chunk::Text>| text.as_ref().is_some_and(|text| !text.as_str().is_empty());
        let has_content = says(&text) || says(&reasoning) || !calls.is_empty() || !scores.is_empty();
        if has_content && self.finish.is_some() {
            return Err(Failure::TooMuch);
        }
        if self.count(usage, has_content, scores.len())?.is_break() {
            return Ok(Some(End::Cancelled));
        }
        if let Some(reasoning) = reasoning.filter(|reasoning| !reasoning.as_str().is_empty()) {
            self.spend(reasoning.as_str())?;
            if self.sink.event(Event::Reasoning(reasoning.as_str())).is_break() {
                return Ok(Some(End::Cancelled));
            }
        }
        if text.is_some() || !scores.is_empty() {
            let text = text.unwrap_or_default();
            self.spend(text.as_str())?;
            let released = self.stops.push(text.as_str(), scores);
            let stopped = released.stopped;
            if self.say(&released).is_break() {
                return Ok(Some(End::Cancelled));
            }
            if let Some(index) = stopped {
                return Ok(Some(End::Finished(FinishReason::StopString(index))));
            }
        }
        for part in &calls {
            if self.call(part)?.is_break() {
                return Ok(Some(End::Cancelled));
            }
        }
        self.finish = self.finish.or(finish);
        Ok(None)
    }

    /// Has the sink permit the tokens of an event before anything of it is emitted.
    fn count(
        &mut self,
        usage: Option<WireUsage>,
        has_content: bool,
        scores: usize,
    ) -> Result<ControlFlow<()>, Failure> {
        let told = usage.map_or(0, |usage| usage.completion_tokens.saturating_sub(self.counted));
        if let Some(usage) = usage {
            (self.prompt_tokens, self.cached_tokens) = (usage.prompt_tokens, usage.cached_tokens());
        }
        // An engine that does not say how many tokens an event has is asked for by the event.
        let shown = if has_content && usage.is_none() { scores.max(1) } else { 0 };
        let more = told.max(u32::try_from(shown).unwrap_or(u32::MAX));
        self.counted = self.counted.saturating_add(more);
        if self.counted > self.max_tokens.saturating_add(SPARE_TOKENS) {
            return Err(Failure::TooMuch);
        }
        // Something may be said without a new token, and is asked for all the same.
        for _ in 0..more.max(u32::from(has_content)) {
            if self.sink.token().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn spend(&mut self, text: &str) -> Result<(), Failure> {
        self.left_bytes = self.left_bytes.checked_sub(text.len()).ok_or(Failure::TooMuch)?;
        Ok(())
    }

    fn say(&mut self, Released { text, tokens, stopped: _ }: &Released) -> ControlFlow<()> {
        if text.is_empty() && tokens.is_empty() {
            return ControlFlow::Continue(());
        }
        self.sink.event(Event::Text(Piece { text, tokens }))
    }

    /// Takes in a part of a call. The arguments leave when they are whole and JSON, because an answer can hold them as they are.
    fn call(&mut self, part: &CallPart) -> Result<ControlFlow<()>, Failure> {
        let (name, arguments) = (&part.function.name, &part.function.arguments);
        let is_new = self.call.as_ref().is_none_or(|(index, _)| *index != part.index);
        if is_new {
            if self.end_call()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let name = name.as_ref().ok_or(Failure::Call)?;
            if !self.tools.iter().any(|tool| tool.as_str() == name.as_str()) {
                return Err(Failure::Call);
            }
            self.spend(name.as_str())?;
            let flow = self.sink.event(Event::Call(name.as_str()));
            self.call = Some((part.index, Zeroizing::default()));
            if flow.is_break() {
                return Ok(flow);
            }
        }
        if let Some(arguments) = arguments {
            self.spend(arguments.as_str())?;
            if let Some((_, kept)) = &mut self.call {
                kept.push_str(arguments.as_str());
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn end_call(&mut self) -> Result<ControlFlow<()>, Failure> {
        let Some((_, arguments)) = self.call.take() else { return Ok(ControlFlow::Continue(())) };
        // No arguments are an object without members.
        let arguments = if arguments.trim().is_empty() { "{}" } else { arguments.as_str() };
        let is_object = arguments.trim_start().starts_with('{')
            && serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok();
        if !is_object {
            return Err(Failure::Call);
        }
        Ok(self.sink.event(Event::Arguments(arguments)))
    }

    /// The engine has said everything.
    fn end(&mut self) -> Result<End, Failure> {
        let reason = match self.finish {
            None => return Err(Failure::EndedEarly),
            Some(Finish::Other) => return Err(Failure::FinishReason),
            Some(Finish::Stop) => FinishReason::Stop,
            Some(Finish::Length) => FinishReason::Length,
        };
        // Arguments that the limit cut off are no JSON, and were asked for so.
        let is_cut = reason == FinishReason::Length && self.call.is_some();
        let rest = self.stops.finish();
        let flow = self.say(&rest);
        if flow.is_break() || (!is_cut && self.end_call()?.is_break()) {
            return Ok(End::Cancelled);
        }
        Ok(End::Finished(reason))
    }

    const fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.counted,
        }
    }
}
