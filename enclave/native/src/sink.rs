//! The engine's events in the words of the door.

use std::ops::ControlFlow;

use cleanroom_backend::{Event, FinishReason, Piece, ScoredToken, Sink, TokenScore, Usage};

/// A sink for the engine that passes everything on.
pub(crate) struct Translate(pub(crate) Box<dyn Sink>);

impl cleanroom_engine::Sink for Translate {
    fn token(&mut self) -> ControlFlow<()> {
        self.0.token()
    }

    fn event(&mut self, event: cleanroom_engine::Event) -> ControlFlow<()> {
        match event {
            cleanroom_engine::Event::Text(text) => {
                let tokens: Vec<_> = text.tokens().iter().map(scored).collect();
                self.0.event(Event::Text(Piece { text: text.as_str(), tokens: &tokens }))
            }
            cleanroom_engine::Event::Embedding(embedding) => {
                self.0.event(Event::Embedding(embedding.as_slice()))
            }
            cleanroom_engine::Event::Finished { reason, usage } => {
                let cleanroom_engine::Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
                let usage = Usage { prompt_tokens, cached_tokens, completion_tokens };
                self.0.event(Event::Finished { reason: reason_of(reason), usage })
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
