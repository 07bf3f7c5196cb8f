//! The engine's events in the words of the door.

use std::ops::ControlFlow;

use cleanroom_backend::{Event, FinishReason, Piece, ScoredToken, Sink, TokenScore, Usage};
use cleanroom_engine::{AnswerReader, Part};

/// A sink for the engine that passes everything on.
pub(crate) struct Translate {
    sink: Box<dyn Sink>,
    /// Tells what the model thinks, says and calls apart.
    reader: Option<AnswerReader>,
    /// Probabilities of tokens whose text has not left.
    scores: Vec<ScoredToken>,
}

impl Translate {
    pub(crate) fn new(sink: Box<dyn Sink>, reader: Option<AnswerReader>) -> Self {
        Self { sink, reader, scores: Vec::new() }
    }

    /// Passes on what the reader makes of more text, or of the end.
    fn read(&mut self, text: Option<&cleanroom_engine::Text>) -> ControlFlow<()> {
        let Self { sink, reader: Some(reader), scores } = self else { return ControlFlow::Continue(()) };
        if let Some(text) = text {
            scores.extend(text.tokens().iter().map(scored));
        }
        let mut flow = ControlFlow::Continue(());
        let mut each = |part: Part<'_>| {
            if flow.is_break() {
                return;
            }
            // Probabilities are told of what the model says.
            let tokens = std::mem::take(scores);
            flow = sink.event(match part {
                Part::Text(text) => Event::Text(Piece { text, tokens: &tokens }),
                Part::Thought(text) => Event::Reasoning(text),
                Part::Call(name) => Event::Call(name),
                Part::Arguments(text) => Event::Arguments(text),
            });
        };
        match text {
            Some(text) => reader.push(text.as_str(), &mut each),
            None => reader.finish(&mut each),
        }
        flow
    }
}

impl cleanroom_engine::Sink for Translate {
    fn token(&mut self) -> ControlFlow<()> {
        self.sink.token()
    }

    fn event(&mut self, event: cleanroom_engine::Event) -> ControlFlow<()> {
        match event {
            cleanroom_engine::Event::Text(text) if self.reader.is_some() => self.read(Some(&text)),
            cleanroom_engine::Event::Text(text) => {
                let tokens: Vec<_> = text.tokens().iter().map(scored).collect();
                self.sink.event(Event::Text(Piece { text: text.as_str(), tokens: &tokens }))
            }
            cleanroom_engine::Event::Embedding(embedding) => {
                self.sink.event(Event::Embedding(embedding.as_slice()))
            }
            cleanroom_engine::Event::Finished { reason, usage } => {
                self.read(None)?;
                let cleanroom_engine::Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
                let usage = Usage { prompt_tokens, cached_tokens, completion_tokens };
                self.sink.event(Event::Finished { reason: reason_of(reason), usage })
            }
        }
    }
}

fn scored(token: &cleanroom_engine::ScoredToken) -> ScoredToken {
    ScoredToken { chosen: score(&token.chosen), top: token.top.iter().map(score).collect() }
}

fn score(score: &cleanroom_engine::TokenScore) -> TokenScore {
    TokenScore::new(score.bytes(), score.is_text(), score.logprob())
}

const fn reason_of(reason: cleanroom_engine::FinishReason) -> FinishReason {
    match reason {
        cleanroom_engine::FinishReason::Stop => FinishReason::Stop,
        cleanroom_engine::FinishReason::StopString(index) => FinishReason::StopString(index),
        cleanroom_engine::FinishReason::Length => FinishReason::Length,
        cleanroom_engine::FinishReason::Deadline => FinishReason::Deadline,
    }
}
