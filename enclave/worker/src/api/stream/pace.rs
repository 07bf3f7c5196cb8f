//! The shape that the configuration gives to traffic: a stream leaves in frames of one length at one rhythm, whatever there is to say, until the
//! answer has ended. Comments, which clients of server-sent events ignore, take the place of what is missing.

use std::num::NonZeroUsize;

use bytes::Bytes;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::api::secret::SecretBuffer;
use cleanroom_config::Traffic;

/// One frame of `step` bytes at every tick: neither how long tokens are nor when they come can be seen from outside.
pub(super) struct Pace {
    pub(super) ticks: Interval,
    pub(super) step: usize,
}

impl Pace {
    pub(super) fn new(traffic: Traffic) -> Self {
        let mut ticks = interval(traffic.cadence());
        // A connection that was not ready gets its next frame a whole cadence later: what piled up must not be seen either.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, step: traffic.step().get() }
    }
}

/// Fills a frame that ends with an event up to `step` bytes with what clients ignore: a comment line, or for one byte an empty line.
pub(super) fn fill(frame: &mut SecretBuffer, step: usize) {
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
    let length = answer.len().max(1).next_multiple_of(step.get());
    let mut filled = SecretBuffer::with_capacity(length);
    filled.push(answer);
    filled.push(&vec![b' '; length - answer.len()]);
    filled.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gap_can_be_filled() {
        let step = 512;
        for length in 0..=step {
            let mut frame = SecretBuffer::default();
            frame.push(&vec![b'x'; length]);
            fill(&mut frame, step);
            assert_eq!(frame.len(), step);
        }
    }

    #[test]
    fn a_whole_answer_is_filled_up_to_a_step() {
        let step = NonZeroUsize::new(8).unwrap();
        for (answer, length) in [("", 8), ("{}", 8), ("{\"a\":12}", 8), ("{\"a\":123}", 16)] {
            let filled = fill_whole(&Bytes::from(answer), step);
            assert_eq!(filled.len(), length);
            assert_eq!(std::str::from_utf8(&filled).unwrap().trim_end(), answer);
        }
    }
}
