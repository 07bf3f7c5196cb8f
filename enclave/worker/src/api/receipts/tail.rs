//! A stream with its receipt behind the last event.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use cleanroom_attestation::receipt::Finish;
use cleanroom_config::Traffic;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::recording::Recording;
use crate::api::error::ApiError;
use crate::api::stream::Ending;

/// The receipt's part of the stream has a length that is a multiple of this many bytes, so that it tells nothing about the numbers in it. With a
/// `[traffic]` shape it is a multiple of the step.
const STEP: usize = 1024;

/// The body of a streamed answer, and after it the receipt.
pub(in crate::api) struct WithReceipt {
    stage: Stage,
    ending: Ending,
    traffic: Option<Traffic>,
}

enum Stage {
    /// The answer leaves.
    Answer(Body, Box<Recording>),
    /// The keeper signs.
    Signing(Pin<Box<dyn Future<Output = Option<String>> + Send>>),
    /// The receipt leaves, in frames of one length at one rhythm if there is a shape.
    Receipt(Bytes, Option<Interval>),
    /// There is nothing more.
    Over,
}

impl WithReceipt {
    pub(in crate::api) fn new(
        body: Body,
        ending: Ending,
        recording: Recording,
        traffic: Option<Traffic>,
    ) -> Self {
        Self { stage: Stage::Answer(body, Box::new(recording)), ending, traffic }
    }

    /// What follows when the answer has left, or broke off.
    fn answer_ended(&mut self, mut recording: Recording, broken: Option<axum::Error>) -> Option<axum::Error> {
        let (finish, code) = self.ending.finish();
        let Some(error) = broken else {
            self.stage = Stage::Signing(Box::pin(recording.close(finish, code)));
            return None;
        };
        // HTTP breaks the stream off, so nothing can follow. The partner finds the receipt under its id.
        recording.close_unseen(Finish::Failed, code.or(Some(ApiError::Failed.code())));
        Some(error)
    }
}

impl HttpBody for WithReceipt {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Answer(body, recording) => {
                    let broken = match ready!(Pin::new(body).poll_frame(context)) {
                        Some(Ok(frame)) => {
                            if let Some(data) = frame.data_ref() {
                                recording.left_in_stream(data);
                            }
                            return Poll::Ready(Some(Ok(frame)));
                        }
                        Some(Err(error)) => Some(error),
                        None => None,
                    };
                    // The engine's part goes with the body.
                    let Stage::Answer(_, recording) = std::mem::replace(&mut this.stage, Stage::Over) else {
                        return Poll::Ready(None);
                    };
                    if let Some(error) = this.answer_ended(*recording, broken) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Stage::Signing(receipt) => match ready!(receipt.as_mut().poll(context)) {
                    Some(receipt) => {
                        let step = this.traffic.map_or(STEP, |traffic| traffic.step().get());
                        this.stage = Stage::Receipt(comment(&receipt, step), this.traffic.map(rhythm));
                    }
                    // An answer without a receipt does not end in order.
                    None => {
                        this.stage = Stage::Over;
                        return Poll::Ready(Some(Err(axum::Error::new(ApiError::Failed))));
                    }
                },
                Stage::Receipt(comment, ticks) => {
                    if let Some(ticks) = ticks {
                        ready!(ticks.poll_tick(context));
                    }
                    let step = this.traffic.map_or(comment.len(), |traffic| traffic.step().get());
                    let frame = comment.split_to(step.min(comment.len()));
                    if comment.is_empty() {
                        this.stage = Stage::Over;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(frame))));
                }
                Stage::Over => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }
}

/// The rhythm of the answer, gone on with.
fn rhythm(traffic: Traffic) -> Interval {
    let mut ticks = interval_at(Instant::now() + traffic.cadence(), traffic.cadence());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The receipt as a comment, which every client passes over (HTML standard, section 9.2.6). Clients look at events whose names they
/// do not know, and some at events behind the last one. Another comment before it makes the length a multiple of `step`.
fn comment(receipt: &str, step: usize) -> Bytes {
    let comment = format!(": {receipt}\n\n");
    // The filler has at least its colon and its line break.
    let whole = comment.len().saturating_add(2).next_multiple_of(step.max(1));
    let filler = whole.saturating_sub(comment.len()).saturating_sub(2);
    Bytes::from(format!(":{}\n{comment}", ".".repeat(filler)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comment_has_a_length_that_says_nothing() {
        for length in 0..3000 {
            let comment = comment(&"x".repeat(length), 512);
            assert_eq!(comment.len() % 512, 0);
            assert!(comment.starts_with(b":") && comment.ends_with(b"x\n\n") == (length > 0));
        }
    }
}
