//! Holds back what the model says until the safeguards have judged it.

use std::collections::VecDeque;

use cleanroom_backend::{Event, Piece, ScoredToken, SecretString};

use crate::api::error::ApiError;
use crate::api::judge::{Judge, Stopped};

/// One choice's way out: events that wait for the verdict on their text. What is dropped never leaves.
pub(super) struct Gate {
    judge: Judge,
    /// The events that have not left, each with the length of the answer's text up to its end, in bytes.
    held: VecDeque<(Held, usize)>,
    /// The length of the answer's text so far, in bytes.
    length: usize,
}

/// An event that can wait. It has no `Debug`, and is erased on drop.
pub(super) enum Held {
    Text(SecretString, Vec<ScoredToken>),
    Reasoning(SecretString),
    Call(SecretString),
    Arguments(SecretString),
}

impl Held {
    pub(super) fn of(event: &Event<'_>) -> Option<Self> {
        Some(match event {
            Event::Text(piece) => Self::Text(SecretString::new(piece.text), piece.tokens.to_vec()),
            Event::Reasoning(text) => Self::Reasoning(SecretString::new(text)),
            Event::Call(name) => Self::Call(SecretString::new(name)),
            Event::Arguments(text) => Self::Arguments(SecretString::new(text)),
            Event::Embedding(_) | Event::Finished { .. } => return None,
        })
    }

    fn text(&self) -> &str {
        match self {
            Self::Text(text, _) | Self::Reasoning(text) | Self::Call(text) | Self::Arguments(text) => {
                text.as_str()
            }
        }
    }

    /// The event again.
    pub(super) fn event(&self) -> Event<'_> {
        match self {
            Self::Text(text, tokens) => Event::Text(Piece { text: text.as_str(), tokens }),
            Self::Reasoning(text) => Event::Reasoning(text.as_str()),
            Self::Call(name) => Event::Call(name.as_str()),
            Self::Arguments(text) => Event::Arguments(text.as_str()),
        }
    }
}

impl Gate {
    pub(super) const fn new(judge: Judge) -> Self {
        Self { judge, held: VecDeque::new(), length: 0 }
    }

    /// Whether an event can take milliseconds to judge.
    pub(super) fn is_slow(&self) -> bool {
        self.judge.is_slow()
    }

    /// Takes an event in, and gives the events that may leave now: with the last one, all that are held.
    ///
    /// # Errors
    /// [`Stopped`], and nothing that is held leaves any more.
    pub(super) fn pass(&mut self, event: &Event<'_>) -> Result<Vec<Held>, Stopped> {
        if matches!(event, Event::Finished { .. }) {
            return self.finish();
        }
        let Some(held) = Held::of(event) else { return Ok(Vec::new()) };
        let judged = self.judge.piece(held.text());
        self.length = self.length.saturating_add(held.text().len());
        self.held.push_back((held, self.length));
        let left = judged.inspect_err(|_| self.held.clear())?;
        let leaving = self.held.iter().take_while(|(_, end)| *end <= left).count();
        Ok(self.held.drain(..leaving).map(|(held, _)| held).collect())
    }

    /// Judges the end of the answer, and gives all that is held.
    ///
    /// # Errors
    /// [`Stopped`], and nothing that is held leaves any more.
    pub(super) fn finish(&mut self) -> Result<Vec<Held>, Stopped> {
        self.judge.finish().inspect_err(|_| self.held.clear())?;
        Ok(self.held.drain(..).map(|(held, _)| held).collect())
    }

    /// What the answer called `answer` is refused with; `None` for one of which nothing has left.
    pub(super) fn refusal(&self, answer: Option<&str>) -> ApiError {
        self.judge.refusal(answer)
    }
}
