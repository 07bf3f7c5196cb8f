//! Which tokens are computed next, and what becomes of the results.

use std::{collections::HashMap, ops::ControlFlow};

use zeroize::{Zeroize, Zeroizing};

use super::{
    EngineConfig, Event, FinishReason, Owner, Sink, Usage,
    answer::{Answer, Piece},
    queue::{Cancelled, Queue, Waiting},
};
use crate::{
    cache::Cache,
    forward::{Forward, Row},
    model::{Model, Prompt},
    pool::Pool,
    sampling::Sampler,
};

/// Prompt tokens in one step while nobody waits for a next token: enough for the processor to be the limit.
const PROMPT_ROWS: usize = 128;
/// Prompt tokens in one step beside others' answers, which go on only as fast as the steps.
const PROMPT_ROWS_BESIDE_ANSWERS: usize = 32;

/// Runs sequences until the queue is closed.
pub(super) struct Scheduler<'a> {
    model: &'a Model,
    queue: &'a Queue,
    forward: Forward,
    caches: Vec<Cache>,
    /// One for each cache.
    sequences: Vec<Option<Sequence>>,
    /// The first sequence to get prompt rows in the next step.
    turn: usize,
    rows: Vec<Row>,
    scores: Zeroizing<Vec<f32>>,
}

/// One running job.
struct Sequence {
    owner: Owner,
    prompt: Prompt,
    /// Prompt tokens computed.
    read: usize,
    /// The last token of the answer, not computed yet.
    last: u32,
    generated: u32,
    limit: u32,
    sampler: Sampler,
    answer: Answer,
    sink: Box<dyn Sink>,
    cancelled: Cancelled,
}

/// How a sequence goes on after a token.
enum Outcome {
    Continues,
    Ends(FinishReason),
    Cancelled,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(model: &'a Model, queue: &'a Queue, pool: Pool, config: EngineConfig) -> Self {
        let sequences = config.max_sequences.get();
        Self {
            model,
            queue,
            forward: Forward::new(model, pool, sequences + PROMPT_ROWS, sequences),
            caches: (0..sequences).map(|_| Cache::new(model.shape())).collect(),
            sequences: (0..sequences).map(|_| None).collect(),
            turn: 0,
            rows: Vec::with_capacity(sequences + PROMPT_ROWS),
            scores: Zeroizing::new(vec![0.0; model.tokenizer().len()]),
        }
    }

    pub(super) fn run(&mut self) {
        while let Some(jobs) = self.queue.next() {
            jobs.into_iter().for_each(|waiting| self.admit(waiting));
            self.release_cancelled();
            self.choose_rows();
            if !self.rows.is_empty() {
                self.forward.step(self.model, &mut self.caches, &self.rows);
                self.take_scores();
            }
        }
    }

    /// Gives a job a free sequence; the queue hands out no more jobs than there are.
    fn admit(&mut self, Waiting { job, cancelled }: Waiting) {
        let Some(index) = self.sequences.iter().position(Option::is_none) else { return };
        let room = self.model.shape().context - job.prompt.len();
        let limit = job.max_tokens.unwrap_or(u32::MAX).min(u32::try_from(room).unwrap_or(u32::MAX));
        let sequence = Sequence {
            owner: job.owner,
            read: 0,
            last: 0,
            generated: 0,
            limit,
            sampler: Sampler::new(job.sampling, job.bias),
            answer: Answer::new(job.stop.into_iter().map(Zeroizing::new).collect()),
            sink: job.sink,
            prompt: job.prompt,
            cancelled,
        };
        if let Some(place) = self.sequences.get_mut(index) {
            *place = Some(sequence);
        }
        if limit == 0 {
            self.end(index, FinishReason::Length);
        }
    }

    fn release_cancelled(&mut self) {
        for index in 0..self.sequences.len() {
            if self.sequences[index].as_ref().is_some_and(|sequence| sequence.cancelled.is_set()) {
                drop(self.release(index));
            }
        }
    }

    /// One row for every answer, then prompt rows in equal shares for their owners, starting with another sequence each time.
    fn choose_rows(&mut self) {
        self.rows.clear();
        let sequences = || self.sequences.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?)));
        for (index, sequence) in sequences().filter(|(_, sequence)| sequence.is_answering()) {
            let position = sequence.prompt.len() + sequence.generated as usize - 1;
            self.rows.push(Row { sequence: index, position, token: sequence.last, scored: true });
        }
        let budget = if self.rows.is_empty() { PROMPT_ROWS } else { PROMPT_ROWS_BESIDE_ANSWERS };
        let reading: Vec<usize> =
            sequences().filter(|(_, s)| !s.is_answering()).map(|(index, _)| index).collect();
        let first = reading.iter().position(|index| *index >= self.turn).unwrap_or(0);
        let (before, from) = reading.split_at(first);
        let order: Vec<usize> = from.iter().chain(before).copied().collect();
        let wanted = order.iter().filter_map(|index| self.sequences.get(*index)?.as_ref());
        let wanted: Vec<(Owner, usize)> =
            wanted.map(|sequence| (sequence.owner, sequence.prompt.len() - sequence.read)).collect();
        for (index, count) in order.iter().zip(shares(budget, &wanted)) {
            let Some(sequence) = self.sequences.get_mut(*index).and_then(Option::as_mut) else { continue };
            let tokens = sequence.prompt.tokens();
            let chosen = tokens.iter().enumerate().skip(sequence.read).take(count);
            self.rows.extend(chosen.map(|(position, token)| Row {
                sequence: *index,
                position,
                token: *token,
                scored: position + 1 == tokens.len(),
            }));
            sequence.read += count;
        }
        self.turn = from.first().map_or(0, |index| index + 1);
    }

    /// Chooses the next token of every sequence that was scored.
    fn take_scores(&mut self) {
        let scored: Vec<usize> = self.rows.iter().filter(|row| row.scored).map(|row| row.sequence).collect();
        for (order, index) in scored.into_iter().enumerate() {
            self.forward.scores(order, &mut self.scores);
            let Some(sequence) = self.sequences.get_mut(index).and_then(Option::as_mut) else { continue };
            let token = sequence.sampler.choose(self.model.kernels(), &mut self.scores);
            match sequence.take(self.model, token) {
                Outcome::Continues => {}
                Outcome::Ends(reason) => self.end(index, reason),
                Outcome::Cancelled => drop(self.release(index)),
            }
        }
    }

    /// Ends a sequence. Its place is free before its sink hears of it.
    fn end(&mut self, index: usize, reason: FinishReason) {
        let Some(mut sequence) = self.release(index) else { return };
        if let Some(text) = sequence.answer.finish()
            && sequence.sink.event(Event::Text(text)).is_break()
        {
            return;
        }
        let usage =
            Usage { prompt_tokens: sequence.prompt.len() as u32, completion_tokens: sequence.generated };
        // Nothing follows the end, so there is nothing left to cancel.
        let _ = sequence.sink.event(Event::Finished { reason, usage });
    }

    /// Frees a sequence's place and wipes what it left behind.
    fn release(&mut self, index: usize) -> Option<Sequence> {
        let sequence = self.sequences.get_mut(index)?.take()?;
        if let Some(cache) = self.caches.get_mut(index) {
            cache.wipe();
        }
        if self.sequences.iter().all(Option::is_none) {
            self.forward.wipe();
            self.scores.as_mut_slice().zeroize();
            self.rows.as_mut_slice().zeroize();
        }
        self.queue.finished(sequence.owner);
        Some(sequence)
    }
}

/// Divides `budget` among sequences that want so many rows each: one row after the other goes to the owner that has fewest so far,
/// and there to the sequence that has fewest; of equals, to the first.
fn shares(budget: usize, wanted: &[(Owner, usize)]) -> Vec<usize> {
    let mut shares = vec![0; wanted.len()];
    let mut of_owner: HashMap<Owner, usize> = HashMap::new();
    for _ in 0..budget {
        let hungry = wanted.iter().zip(&mut shares).filter(|((_, wanted), share)| **share < *wanted);
        let next = hungry.min_by_key(|((owner, _), share)| (of_owner.get(owner).copied(), **share));
        let Some(((owner, _), share)) = next else { break };
        *share += 1;
        *of_owner.entry(*owner).or_default() += 1;
    }
    shares
}

impl Sequence {
    /// Whether the prompt is read and scored, so that the answer has begun.
    fn is_answering(&self) -> bool {
        self.generated > 0
    }

    fn take(&mut self, model: &Model, token: u32) -> Outcome {
        if self.cancelled.is_set() {
            return Outcome::Cancelled;
        }
        if model.tokenizer().ends_turn(token) {
            return Outcome::Ends(FinishReason::Stop);
        }
        if self.sink.token().is_break() {
            return Outcome::Cancelled;
        }
        self.generated += 1;
        self.last = token;
        let Piece { text, stopped } = self.answer.push(model.tokenizer().bytes_of(token));
        if let Some(text) = text
            && self.sink.event(Event::Text(text)) == ControlFlow::Break(())
        {
            return Outcome::Cancelled;
        }
        match (stopped, self.generated == self.limit) {
            (Some(index), _) => Outcome::Ends(FinishReason::StopString(index)),
            (None, true) => Outcome::Ends(FinishReason::Length),
            (None, false) => Outcome::Continues,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_rows_are_shared_between_owners_and_then_between_their_sequences() {
        let [a, b] = [1, 2].map(|byte| Owner([byte; 32]));
        // Three long prompts of one owner get together what one of another gets.
        assert_eq!(shares(12, &[(a, 99), (a, 99), (a, 99), (b, 99)]), [2, 2, 2, 6]);
        // What one does not want is for the others.
        assert_eq!(shares(12, &[(a, 99), (b, 2)]), [10, 2]);
        assert_eq!(shares(12, &[(a, 1), (a, 99), (b, 99)]), [1, 5, 6]);
        assert_eq!(shares(12, &[(a, 3), (b, 4)]), [3, 4]);
        assert_eq!(shares(3, &[(a, 9), (b, 9)]), [2, 1]);
        assert_eq!(shares(12, &[]), [0; 0]);
    }
}
