//! Which tokens are computed next, and what becomes of the results.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU8,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::{
    EngineConfig, Event, FinishReason, Job, MemoryUse, Room, Sink, Usage,
    answer::{Answer, Piece},
    queue::{Cancelled, Need, Queue, Waiting, Work},
    sharing::{PROMPT_ROWS, Standing, Standings, budget, credit, shares},
};
use crate::{
    cache::Cache,
    embedding::Pooler,
    forward::{Forward, Interrupted, Row},
    logprobs::ScoredToken,
    model::{Model, Prompt},
    owner::Owner,
    pool::Pool,
    sampling::Sampler,
    scratch::{Scratch, StepBuffer},
};

/// A step that was interrupted is done by this part of it while others wait, as often as they have a step.
const PARTS: usize = 16;
/// Lately means that each step takes one part in so many off.
const RECENT_STEPS: usize = 8;

/// Runs sequences until the queue is closed.
pub(super) struct Scheduler<'a> {
    model: &'a Model,
    queue: &'a Queue,
    forward: Forward,
    cache: Cache,
    room: Room,
    prefix_time: Duration,
    /// One for each sequence of the cache.
    sequences: Vec<Option<Sequence>>,
    /// The first sequence to get prompt rows in the next step.
    turn: usize,
    /// Rows that each owner had lately; no entry for one without any.
    recent: HashMap<Owner, usize>,
    /// Whether answers waited in the step before, as they never do twice in a row.
    answers_waited: bool,
    /// Steps that wait for others, none with a sequence of another and so no more than there are sequences; and whether others had one
    /// since the last was interrupted.
    interrupted: VecDeque<Interrupted>,
    others_had_a_step: bool,
    /// The rows of the step under way; empty between steps.
    rows: Scratch<Row>,
    scores: StepBuffer<f32>,
}

/// One running job.
struct Sequence {
    owner: Owner,
    share: NonZeroU8,
    deadline: Option<Instant>,
    prompt: Prompt,
    /// What is reserved for it.
    need: Need,
    /// Prompt tokens whose keys and values are there.
    read: usize,
    /// How many of them were found and not computed.
    cached: usize,
    /// The last token of the answer, not computed yet.
    last: u32,
    /// The probability of that token, until it is told.
    scored: Option<ScoredToken>,
    generated: u32,
    logprobs: Option<u8>,
    /// What becomes of the prompt where an embedding is wanted.
    pooler: Option<Pooler>,
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
    pub(super) fn new(
        model: &'a Model,
        queue: &'a Queue,
        pool: Pool,
        config: EngineConfig,
        room: Room,
    ) -> Self {
        let sequences = config.max_sequences.get();
        Self {
            model,
            queue,
            forward: Forward::new(model, pool, sequences + PROMPT_ROWS, sequences),
            cache: Cache::new(model.shape(), sequences, room.pages),
            room,
            prefix_time: config.prefix_time,
            sequences: (0..sequences).map(|_| None).collect(),
            turn: 0,
            recent: HashMap::new(),
            answers_waited: false,
            interrupted: VecDeque::new(),
            others_had_a_step: false,
            rows: Scratch::with_capacity(sequences + PROMPT_ROWS),
            scores: StepBuffer::new(model.tokenizer().len()),
        }
    }

    pub(super) fn run(&mut self) {
        while let Some(work) = self.queue.next(self.memory(), self.next_expiry()) {
            self.begin(work);
            self.compute();
        }
    }

    /// Gives jobs their sequences, and takes those of jobs that are over.
    fn begin(&mut self, Work { jobs, late, forgotten }: Work) {
        forgotten.into_iter().for_each(|owner| self.cache.forget(owner));
        self.cache.expire(self.now(), self.prefix_time);
        late.into_iter().for_each(refuse_late);
        jobs.into_iter().for_each(|waiting| self.admit(waiting));
        self.release_cancelled();
        self.end_late();
    }

    /// Computes the next step, or a part of one that was interrupted.
    fn compute(&mut self) {
        if self.others_had_a_step
            && let Some(step) = self.interrupted.pop_front()
        {
            return self.go_on(step);
        }
        self.choose_rows();
        self.extend_cache();
        if !self.rows.is_empty() {
            self.step();
        } else if let Some(step) = self.interrupted.pop_front() {
            self.go_on(step);
        }
    }

    fn now(&self) -> Instant {
        self.queue.clock().now()
    }

    fn memory(&self) -> MemoryUse {
        let (free, kept) = self.cache.free_and_kept();
        MemoryUse { pages: self.room.pages, free, kept }
    }

    /// When something expires that is kept, if nothing happens before.
    fn next_expiry(&self) -> Option<Instant> {
        self.cache.oldest_kept()?.checked_add(self.prefix_time)
    }

    /// Computes the chosen rows. A newcomer interrupts that, and waits for less than half a layer.
    fn step(&mut self) {
        self.charge_rows();
        let goes_on = || !self.queue.has_newcomer();
        match self.forward.step(self.model, &mut self.cache, &self.rows, goes_on) {
            ControlFlow::Break(step) => self.interrupt(step),
            ControlFlow::Continue(()) => {
                self.others_had_a_step = true;
                self.take_results();
            }
        }
    }

    /// Goes on with a step that was interrupted: with a part of it where others have something to do, so that neither keeps the other
    /// waiting for long, and nothing that was computed is lost however many newcomers come.
    fn go_on(&mut self, step: Interrupted) {
        let others = self.sequences.iter().enumerate().any(|(index, s)| s.is_some() && !step.has(index));
        let part = (self.model.shape().layers * 2).div_ceil(PARTS);
        let mut halves = 0;
        let goes_on = || {
            halves += 1;
            halves <= part || !(others || self.queue.has_newcomer())
        };
        match self.forward.resume(self.model, &mut self.cache, step, goes_on) {
            ControlFlow::Break(step) => self.interrupt(step),
            ControlFlow::Continue(rows) => {
                self.rows.clear();
                self.rows.extend_from_slice(&rows);
                self.take_results();
            }
        }
    }

    fn interrupt(&mut self, step: Interrupted) {
        // The step has its rows with it.
        self.rows.clear();
        self.interrupted.push_back(step);
        self.others_had_a_step = false;
    }

    /// Takes what was computed of the rows, and then tells it: what ends meanwhile erases the step's buffers.
    fn take_results(&mut self) {
        self.note_what_was_read();
        let embedded = self.pool_states();
        let answering = self.choose_tokens();
        self.rows.clear();
        embedded.into_iter().for_each(|index| self.tell_embedding(index));
        answering.into_iter().for_each(|index| self.tell_token(index));
    }

    /// Makes room in the cache for the chosen rows. It has been reserved for every sequence, so none is ever broken off here.
    fn extend_cache(&mut self) {
        let mut broken = Vec::new();
        for row in self.rows.iter() {
            if self.cache.extend(row.sequence, row.position + 1).is_err() {
                broken.push(row.sequence);
            }
        }
        for sequence in broken {
            drop(self.release(sequence));
        }
    }

    /// Counts the rows of a step against their owners, whatever becomes of it.
    fn charge_rows(&mut self) {
        self.recent.values_mut().for_each(|rows| *rows -= rows.div_ceil(RECENT_STEPS));
        for row in self.rows.iter() {
            if let Some(sequence) = self.sequences.get(row.sequence).and_then(Option::as_ref) {
                *self.recent.entry(sequence.owner).or_default() += 1;
            }
        }
        self.recent.retain(|_, rows| *rows > 0);
    }

    fn note_what_was_read(&mut self) {
        for row in self.rows.iter() {
            if let Some(sequence) = self.sequences.get_mut(row.sequence).and_then(Option::as_mut) {
                sequence.read = sequence.read.max((row.position + 1).min(sequence.prompt.len()));
            }
        }
    }

    /// Gives a job a free sequence; the queue hands out no more jobs than there are.
    fn admit(&mut self, Waiting { job, need, cancelled }: Waiting) {
        let Some(index) = self.sequences.iter().position(Option::is_none) else { return };
        let cached = match need.tokens {
            0 => 0,
            // Every token's state is wanted, and those of cached ones are gone.
            _ if job.embedding => 0,
            _ => self.cache.reuse(index, job.owner, job.prompt.tokens()),
        };
        let sequence = Sequence {
            owner: job.owner,
            share: job.share,
            deadline: job.deadline,
            need,
            read: cached,
            cached,
            last: 0,
            scored: None,
            generated: 0,
            logprobs: job.logprobs,
            pooler: self
                .model
                .shape()
                .pooling
                .filter(|_| job.embedding)
                .map(|kind| Pooler::new(kind, self.model.shape().width)),
            sampler: Sampler::new(job.sampling, job.bias).constrained(job.constraint.as_ref()),
            answer: Answer::new(job.stop),
            sink: job.sink,
            prompt: job.prompt,
            cancelled,
        };
        if let Some(place) = self.sequences.get_mut(index) {
            *place = Some(sequence);
        }
        if need.tokens == 0 {
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

    fn end_late(&mut self) {
        let now = self.now();
        for index in 0..self.sequences.len() {
            let deadline = self.sequences[index].as_ref().and_then(|sequence| sequence.deadline);
            if deadline.is_some_and(|deadline| deadline <= now) {
                self.end(index, FinishReason::Deadline);
            }
        }
    }

    /// How every owner stands that has a sequence.
    fn standings(&self) -> Standings {
        let mut standings = Standings::new();
        for sequence in self.sequences.iter().flatten() {
            let recent = self.recent.get(&sequence.owner).copied().unwrap_or(0);
            let new = Standing { share: sequence.share, recent, sequences: 0 };
            let standing = standings.entry(sequence.owner).or_insert(new);
            standing.sequences += 1;
            standing.share = standing.share.max(sequence.share);
        }
        standings
    }

    /// One row for every answer, then prompt rows for the owners who had fewest rows lately, starting with another sequence each time.
    /// Where an owner with credit has a prompt, that is read first, and the answers of owners without wait for one step. Nothing is chosen of
    /// the sequences whose step waits.
    fn choose_rows(&mut self) {
        self.rows.clear();
        let waits = |index: usize| self.interrupted.iter().any(|step| step.has(index));
        let sequences = || {
            let sequences = self.sequences.iter().enumerate().filter(|(index, _)| !waits(*index));
            sequences.filter_map(|(index, sequence)| Some((index, sequence.as_ref()?)))
        };
        let standings = self.standings();
        let has_credit = |sequence: &Sequence| credit(&standings, sequence.owner) > 0;
        let in_a_hurry = sequences().any(|(_, sequence)| !sequence.is_answering() && has_credit(sequence));
        let wait = in_a_hurry && !self.answers_waited;
        for (index, sequence) in sequences().filter(|(_, sequence)| sequence.is_answering()) {
            if wait && !has_credit(sequence) {
                continue;
            }
            let position = sequence.prompt.len() + sequence.generated as usize - 1;
            self.rows.push(Row { sequence: index, position, token: sequence.last, scored: true });
        }
        let answering = sequences().any(|(_, sequence)| sequence.is_answering());
        self.answers_waited = wait;
        let reading: Vec<usize> =
            sequences().filter(|(_, s)| !s.is_answering()).map(|(index, _)| index).collect();
        let first = reading.iter().position(|index| *index >= self.turn).unwrap_or(0);
        let (before, from) = reading.split_at(first);
        let order: Vec<usize> = from.iter().chain(before).copied().collect();
        let wanted = order.iter().filter_map(|index| self.sequences.get(*index)?.as_ref());
        let wanted: Vec<(Owner, usize)> =
            wanted.map(|sequence| (sequence.owner, sequence.prompt.len() - sequence.read)).collect();
        let budget = budget(answering, &wanted, &standings);
        for (index, count) in order.iter().zip(shares(budget, &wanted, &standings)) {
            let Some(sequence) = self.sequences.get(*index).and_then(Option::as_ref) else { continue };
            let tokens = sequence.prompt.tokens();
            let chosen = tokens.iter().enumerate().skip(sequence.read).take(count);
            self.rows.extend(chosen.map(|(position, token)| Row {
                sequence: *index,
                position,
                token: *token,
                scored: position + 1 == tokens.len() && sequence.pooler.is_none(),
            }));
        }
        self.turn = from.first().map_or(0, |index| index + 1);
    }

    /// Takes the states of the rows whose embeddings are wanted. Returns the sequences that are read.
    fn pool_states(&mut self) -> Vec<usize> {
        let mut ended = Vec::new();
        for (number, row) in self.rows.iter().enumerate() {
            let Some(sequence) = self.sequences.get_mut(row.sequence).and_then(Option::as_mut) else {
                continue;
            };
            let Some(pooler) = &mut sequence.pooler else { continue };
            pooler.add(|state| self.forward.state(self.model, number, state));
            if row.position + 1 == sequence.prompt.len() {
                ended.push(row.sequence);
            }
        }
        ended
    }

    /// Chooses the next token of every sequence that was scored. Returns these sequences.
    fn choose_tokens(&mut self) -> Vec<usize> {
        let scored: Vec<usize> = self.rows.iter().filter(|row| row.scored).map(|row| row.sequence).collect();
        for (order, index) in scored.iter().enumerate() {
            let Some(sequence) = self.sequences.get_mut(*index).and_then(Option::as_mut) else { continue };
            let scores = self.scores.first_mut(self.model.tokenizer().len());
            self.forward.scores(order, scores);
            let token = sequence.sampler.choose(self.model.kernels(), scores);
            sequence.last = token;
            sequence.scored = sequence.logprobs.map(|count| {
                // The sampler changed them.
                self.forward.scores(order, scores);
                ScoredToken::new(self.model.tokenizer(), scores, token, count)
            });
        }
        scored
    }

    /// Ends a sequence whose prompt is read, with its embedding. Its place is free before its sink hears of it.
    fn tell_embedding(&mut self, index: usize) {
        let Some(Sequence { prompt, pooler: Some(pooler), mut sink, .. }) = self.release(index) else {
            return;
        };
        let usage = Usage { prompt_tokens: prompt.len() as u32, cached_tokens: 0, completion_tokens: 0 };
        drop(prompt);
        if sink.event(Event::Embedding(pooler.finish())).is_continue() {
            let _ = sink.event(Event::Finished { reason: FinishReason::Stop, usage });
        }
    }

    /// Tells a sequence's sink of the token that was chosen, unless it must not come or nobody wants it.
    fn tell_token(&mut self, index: usize) {
        let Some(sequence) = self.sequences.get_mut(index).and_then(Option::as_mut) else { return };
        let (owner, is_first) = (sequence.owner, sequence.generated == 0);
        let outcome = sequence.tell(self.model);
        // Not before its first token was permitted.
        if is_first
            && sequence.generated > 0
            && !matches!(outcome, Outcome::Cancelled)
            && !self.prefix_time.is_zero()
            && self.queue.is_present(owner)
        {
            self.cache.keep(index, owner, sequence.prompt.tokens(), self.queue.clock().now());
        }
        match outcome {
            Outcome::Continues => {}
            Outcome::Ends(reason) => self.end(index, reason),
            Outcome::Cancelled => drop(self.release(index)),
        }
    }

    /// Ends a sequence. Its place is free and its prompt erased before its sink hears of it.
    fn end(&mut self, index: usize, reason: FinishReason) {
        let Some(sequence) = self.release(index) else { return };
        let Sequence { prompt, sampler, mut answer, mut sink, cached, generated, .. } = sequence;
        let usage = Usage {
            prompt_tokens: prompt.len() as u32,
            cached_tokens: cached as u32,
            completion_tokens: generated,
        };
        drop((prompt, sampler));
        let text = answer.finish();
        drop(answer);
        if text.is_some_and(|text| sink.event(Event::Text(text)).is_break()) {
            return;
        }
        // Nothing follows the end, so there is nothing left to cancel.
        let _ = sink.event(Event::Finished { reason, usage });
    }

    /// Frees a sequence's place and erases what it left in what all share, whoever else runs. Between the rows of a step and
    /// its results nothing is released.
    fn release(&mut self, index: usize) -> Option<Sequence> {
        let sequence = self.sequences.get_mut(index)?.take()?;
        let waiting = std::mem::take(&mut self.interrupted);
        self.interrupted = waiting.into_iter().filter_map(|step| step.without(index)).collect();
        self.rows.retain(|row| row.sequence != index);
        self.cache.release(index, self.now());
        self.forward.erase();
        self.scores.erase();
        if self.sequences.iter().all(Option::is_none) {
            self.recent.clear();
        }
        self.queue.finished(sequence.owner, sequence.need);
        Some(sequence)
    }
}

/// Tells whoever waited for it that a job's time is over.
fn refuse_late(Waiting { job, .. }: Waiting) {
    let Job { prompt, mut sink, .. } = job;
    let usage = Usage { prompt_tokens: prompt.len() as u32, ..Usage::default() };
    drop(prompt);
    // Nothing follows the end, so there is nothing left to cancel.
    let _ = sink.event(Event::Finished { reason: FinishReason::Deadline, usage });
}

impl Sequence {
    /// Whether the prompt is read and scored, so that the answer has begun.
    fn is_answering(&self) -> bool {
        self.generated > 0
    }

    /// Tells the sink of the last token.
    fn tell(&mut self, model: &Model) -> Outcome {
        let (token, scored) = (self.last, self.scored.take());
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
        let Piece { text, stopped } = self.answer.push(model.tokenizer().bytes_of(token), scored);
        if let Some(text) = text
            && self.sink.event(Event::Text(text)) == ControlFlow::Break(())
        {
            return Outcome::Cancelled;
        }
        match (stopped, self.generated == self.need.tokens) {
            (Some(index), _) => Outcome::Ends(FinishReason::StopString(index)),
            (None, true) => Outcome::Ends(FinishReason::Length),
            (None, false) => Outcome::Continues,
        }
    }
}

#[cfg(test)]
mod tests;
