//! Chooses the tokens of the next step, and handles its results.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU8,
    ops::ControlFlow,
    time::Duration,
};

use super::{
    Capacity, EngineConfig, Event, FinishReason, Job, MemoryUse, Sink, Usage,
    answer::{Answer, Piece},
    queue::{Cancelled, Need, Queue, Short, Waiting, Work, weighted},
    sharing::{Claim, Claims, PROMPT_ROWS, budget, credit, shares},
};
use crate::{
    cache::{Cache, PAGE},
    clock::Moment,
    embedding::Pooler,
    forward::{Forward, Interrupted, Row},
    logprobs::ScoredToken,
    model::Model,
    owner::Owner,
    pool::Pool,
    sampling::Sampler,
    scratch::{Scratch, StepBuffer},
};

/// While others wait, an interrupted step advances by this fraction after each of their steps.
const PARTS: usize = 16;
/// After so many pauses, an answer is paused only if no other can be.
const MAX_PAUSES: usize = 3;
/// Each step reduces the counted rows of an owner by one part in this number.
const RECENT_STEPS: usize = 8;

/// Runs sequences until the queue is closed.
pub(super) struct Scheduler<'a> {
    model: &'a Model,
    queue: &'a Queue,
    forward: Forward,
    cache: Cache,
    capacity: Capacity,
    prefix_time: Duration,
    /// When the step that runs was begun.
    now: Moment,
    /// One for each sequence of the cache.
    sequences: Vec<Option<Sequence>>,
    /// Number of jobs that have begun.
    begun: u64,
    /// The first sequence to get prompt rows in the next step.
    turn: usize,
    /// Each owner's recent rows; no entry for an owner without any.
    recent: HashMap<Owner, usize>,
    /// Whether answers waited in the previous step. They never wait twice in a row.
    answers_waited: bool,
    /// Interrupted steps. No two share a sequence, so there are at most as many as sequences. The flag says
    /// whether other rows had a step since the last interruption.
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
    deadline: Option<Moment>,
    /// Number of the job, counted from the first.
    number: u64,
    /// The prompt's tokens, followed by the answer's.
    text: Scratch<u32>,
    /// Number of prompt tokens.
    prompt: usize,
    /// Its reservation.
    need: Need,
    /// Whether it is paused for memory, and how often it was.
    is_paused: bool,
    pauses: usize,
    /// Tokens with keys and values in the cache.
    read: usize,
    /// How many of these came from kept pages.
    cached: usize,
    /// The chosen token, until the sink has it.
    chosen: u32,
    /// The probability of the chosen token, until the sink has it.
    scored: Option<ScoredToken>,
    generated: u32,
    logprobs: Option<u8>,
    shows_marks: bool,
    /// The embedding under way, if one is wanted.
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
        capacity: Capacity,
    ) -> Self {
        let sequences = config.max_sequences.get();
        Self {
            model,
            queue,
            forward: Forward::new(model, pool, sequences + PROMPT_ROWS, sequences),
            cache: Cache::new(model.shape(), sequences, capacity.pages),
            capacity,
            prefix_time: config.prefix_time,
            now: Moment::ZERO,
            sequences: (0..sequences).map(|_| None).collect(),
            begun: 0,
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
            self.share_memory();
        }
    }

    /// Resumes paused answers that fit, and makes room for a job whose owner has less than others.
    fn share_memory(&mut self) {
        self.resume_paused();
        self.make_room();
    }

    /// The oldest first.
    fn resume_paused(&mut self) {
        let sequences = self.sequences.iter().enumerate();
        let paused =
            sequences.filter_map(|(index, s)| Some((s.as_ref().filter(|s| s.is_paused)?.number, index)));
        let mut paused: Vec<(u64, usize)> = paused.collect();
        paused.sort_unstable();
        for (_, index) in paused {
            let Some(sequence) = self.sequences.get_mut(index).and_then(Option::as_mut) else { continue };
            let pages = sequence.text.len().div_ceil(PAGE);
            if self.queue.resume(sequence.owner, pages) {
                sequence.is_paused = false;
                sequence.need.pages = pages;
                sequence.read = self.cache.reuse(index, sequence.owner, &sequence.text);
            }
        }
    }

    /// Pauses answers for the first job in turn if it lacks only memory. An answer qualifies if its owner has
    /// more for its share than the job's owner would have. Nothing is paused unless that frees enough.
    fn make_room(&mut self) {
        let Some(wanted) = self.queue.wanted() else { return };
        let mut victims = Vec::new();
        let mut missing = wanted.missing;
        while missing > 0 {
            let Some(victim) = self.youngest_of_the_largest(&victims, |owner, weight| {
                owner != wanted.owner && weight > wanted.weight
            }) else {
                return;
            };
            missing = missing.saturating_sub(self.pages(victim));
            victims.push(victim);
        }
        victims.into_iter().for_each(|victim| self.pause(victim));
    }

    /// The pages that a sequence has.
    fn pages(&self, index: usize) -> usize {
        self.sequences.get(index).and_then(Option::as_ref).map_or(0, |sequence| sequence.need.pages)
    }

    /// The youngest answer of the owner that has most pages for its share, among the owners that `may`
    /// accepts. Answers chosen earlier count as paused. An answer that was paused often is chosen last.
    fn youngest_of_the_largest(&self, chosen: &[usize], may: impl Fn(Owner, usize) -> bool) -> Option<usize> {
        let running = self.sequences.iter().enumerate().filter_map(|(index, sequence)| {
            let sequence = sequence.as_ref().filter(|sequence| sequence.can_pause())?;
            (!chosen.contains(&index)).then_some((index, sequence))
        });
        let weight = |sequence: &Sequence| {
            let paused = chosen.iter().filter_map(|index| self.sequences.get(*index)?.as_ref());
            let paused = paused.filter(|other| other.owner == sequence.owner);
            let pages = self.queue.pages_of(sequence.owner);
            weighted(pages - paused.map(|other| other.need.pages).sum::<usize>(), sequence.share)
        };
        let candidates = running.map(|(index, sequence)| (index, sequence, weight(sequence)));
        let candidates = candidates.filter(|(_, sequence, weight)| may(sequence.owner, *weight));
        let order = |(_, s, weight): &(usize, &Sequence, usize)| (s.pauses < MAX_PAUSES, *weight, s.number);
        candidates.max_by_key(order).map(|(index, ..)| index)
    }

    /// Frees a sequence's pages. Its tokens stay and are computed again later, so its answer is the same as
    /// without the pause.
    fn pause(&mut self, index: usize) {
        let Some(sequence) = self.sequences.get_mut(index).and_then(Option::as_mut) else { return };
        let (owner, pages) = (sequence.owner, std::mem::take(&mut sequence.need.pages));
        sequence.is_paused = true;
        sequence.pauses += 1;
        sequence.read = 0;
        self.stop_computing(index);
        self.queue.paused(owner, pages);
    }

    /// Takes a sequence out of all steps and frees its pages.
    fn stop_computing(&mut self, index: usize) {
        let waiting = std::mem::take(&mut self.interrupted);
        self.interrupted = waiting.into_iter().filter_map(|step| step.without(index)).collect();
        self.rows.retain(|row| row.sequence != index);
        self.cache.release(index, self.now);
    }

    /// Reserves the next pages for the answers among the chosen rows. Without free pages, either other
    /// answers are paused for them or they are paused themselves.
    fn grow(&mut self) {
        let growing: Vec<usize> = self
            .rows
            .iter()
            .filter(|row| (row.position + 1).div_ceil(PAGE) > self.pages(row.sequence))
            .map(|row| row.sequence)
            .collect();
        for index in growing {
            while let Some(sequence) = self.sequences.get_mut(index).and_then(Option::as_mut)
                && !sequence.is_paused
            {
                let owner = sequence.owner;
                let short = match self.queue.grow(owner) {
                    Ok(()) => {
                        sequence.need.pages += 1;
                        break;
                    }
                    Err(short) => short,
                };
                let found =
                    self.youngest_of_the_largest(&[], |other, _| short == Short::All || other == owner);
                self.pause(found.unwrap_or(index));
            }
        }
    }

    /// Assigns sequences to new jobs, and takes back those of finished jobs.
    fn begin(&mut self, Work { now, jobs, late, forgotten }: Work) {
        self.now = now;
        forgotten.into_iter().for_each(|owner| self.cache.forget(owner));
        self.cache.expire(now, self.prefix_time);
        late.into_iter().for_each(refuse_late);
        jobs.into_iter().for_each(|waiting| self.admit(waiting));
        self.release_cancelled();
        self.end_late();
    }

    /// Computes the next step, or a part of an interrupted one.
    fn compute(&mut self) {
        if self.others_had_a_step
            && let Some(step) = self.interrupted.pop_front()
        {
            return self.go_on(step);
        }
        self.choose_rows();
        self.grow();
        self.extend_cache();
        if !self.rows.is_empty() {
            self.step();
        } else if let Some(step) = self.interrupted.pop_front() {
            self.go_on(step);
        }
    }

    fn memory(&self) -> MemoryUse {
        let (free, kept) = self.cache.free_and_kept();
        MemoryUse { pages: self.capacity.pages, free, kept }
    }

    /// The time at which the next kept page expires.
    fn next_expiry(&self) -> Option<Moment> {
        Some(self.cache.oldest_kept()?.after(self.prefix_time))
    }

    /// Computes the chosen rows. A newcomer interrupts the step and waits for less than half a layer.
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

    /// Continues an interrupted step. If other rows wait, it computes only a part, so that neither side waits
    /// long. No result is lost, however many newcomers come.
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

    /// Takes all results of the rows before any sink hears of them, because a job that ends erases the step's
    /// buffers.
    fn take_results(&mut self) {
        self.note_what_was_read();
        let embedded = self.pool_states();
        let answering = self.choose_tokens();
        self.rows.clear();
        embedded.into_iter().for_each(|index| self.tell_embedding(index));
        answering.into_iter().for_each(|index| self.tell_token(index));
    }

    /// Makes room in the cache for the chosen rows. The room is reserved, so no sequence ends here for lack
    /// of it.
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

    /// Counts the rows of a step against their owners, even if the step fails.
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
                sequence.read = sequence.read.max(row.position + 1);
            }
        }
    }

    /// Gives a job a free sequence. The queue hands out no more jobs than there are free sequences.
    fn admit(&mut self, Waiting { job, need, cancelled, .. }: Waiting) {
        let Some(index) = self.sequences.iter().position(Option::is_none) else { return };
        let cached = match need.tokens {
            0 => 0,
            // An embedding needs the state of every token, and cached tokens have none.
            _ if job.embedding => 0,
            _ => self.cache.reuse(index, job.owner, job.prompt.tokens()),
        };
        self.begun += 1;
        let sequence = Sequence {
            number: self.begun,
            prompt: job.prompt.len(),
            text: job.prompt.into_tokens(),
            is_paused: false,
            pauses: 0,
            owner: job.owner,
            share: job.share,
            deadline: job.deadline,
            need,
            read: cached,
            cached,
            chosen: 0,
            scored: None,
            generated: 0,
            logprobs: job.logprobs,
            shows_marks: job.shows_marks,
            pooler: self
                .model
                .shape()
                .pooling
                .filter(|_| job.embedding)
                .map(|kind| Pooler::new(kind, self.model.shape().width)),
            sampler: Sampler::new(job.sampling, job.bias).constrained(job.constraint.as_ref()),
            answer: Answer::new(job.stop),
            sink: job.sink,
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
        for index in 0..self.sequences.len() {
            let deadline = self.sequences[index].as_ref().and_then(|sequence| sequence.deadline);
            if deadline.is_some_and(|deadline| deadline <= self.now) {
                self.end(index, FinishReason::Deadline);
            }
        }
    }

    /// The claim of each owner that has a sequence.
    fn claims(&self) -> Claims {
        let mut claims = Claims::new();
        for sequence in self.sequences.iter().flatten() {
            let recent = self.recent.get(&sequence.owner).copied().unwrap_or(0);
            let new = Claim { share: sequence.share, recent, sequences: 0 };
            let claim = claims.entry(sequence.owner).or_insert(new);
            claim.sequences += 1;
            claim.share = claim.share.max(sequence.share);
        }
        claims
    }

    /// Chooses one row for each answer, then prompt rows for the owners with the fewest recent rows, starting
    /// with another sequence each time. If an owner with credit has a prompt, that prompt is read first, and
    /// the answers of owners without credit wait for one step. Sequences of an interrupted step get no rows.
    fn choose_rows(&mut self) {
        self.rows.clear();
        let waits = |index: usize| self.interrupted.iter().any(|step| step.has(index));
        let sequences = || {
            let sequences = self.sequences.iter().enumerate().filter(|(index, _)| !waits(*index));
            let sequences = sequences.filter_map(|(index, sequence)| Some((index, sequence.as_ref()?)));
            sequences.filter(|(_, sequence)| !sequence.is_paused)
        };
        let claims = self.claims();
        let has_credit = |sequence: &Sequence| credit(&claims, sequence.owner) > 0;
        let in_a_hurry = sequences().any(|(_, sequence)| !sequence.is_answering() && has_credit(sequence));
        let wait = in_a_hurry && !self.answers_waited;
        for (index, sequence) in sequences().filter(|(_, sequence)| sequence.is_answering()) {
            if wait && !has_credit(sequence) {
                continue;
            }
            let Some(token) = sequence.text.last().copied() else { continue };
            self.rows.push(Row { sequence: index, position: sequence.text.len() - 1, token, scored: true });
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
            wanted.map(|sequence| (sequence.owner, sequence.text.len() - sequence.read)).collect();
        let budget = budget(answering, &wanted, &claims);
        for (index, count) in order.iter().zip(shares(budget, &wanted, &claims)) {
            let Some(sequence) = self.sequences.get(*index).and_then(Option::as_ref) else { continue };
            let tokens = &sequence.text;
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

    /// Takes the states of the rows whose embeddings are wanted. Returns the sequences whose prompt is
    /// complete.
    fn pool_states(&mut self) -> Vec<usize> {
        let mut ended = Vec::new();
        for (number, row) in self.rows.iter().enumerate() {
            let Some(sequence) = self.sequences.get_mut(row.sequence).and_then(Option::as_mut) else {
                continue;
            };
            let Some(pooler) = &mut sequence.pooler else { continue };
            pooler.add(|state| self.forward.state(self.model, number, state));
            if row.position + 1 == sequence.prompt {
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
            sequence.chosen = token;
            sequence.scored = sequence.logprobs.map(|count| {
                // The sampler changed them.
                self.forward.scores(order, scores);
                ScoredToken::new(self.model.tokenizer(), scores, token, count)
            });
        }
        scored
    }

    /// Ends a sequence whose prompt is complete, with its embedding. Its slot is free before its sink hears
    /// of it.
    fn tell_embedding(&mut self, index: usize) {
        let Some(Sequence { prompt, text, pooler: Some(pooler), mut sink, .. }) = self.release(index) else {
            return;
        };
        let usage = Usage { prompt_tokens: prompt as u32, cached_tokens: 0, completion_tokens: 0 };
        drop(text);
        if sink.event(Event::Embedding(pooler.finish())).is_continue() {
            let _ = sink.event(Event::Finished { reason: FinishReason::Stop, usage });
        }
    }

    /// Gives the chosen token to the sequence's sink, unless the token is not permitted or the job was
    /// cancelled.
    fn tell_token(&mut self, index: usize) {
        let Some(sequence) = self.sequences.get_mut(index).and_then(Option::as_mut) else { return };
        let (owner, is_first) = (sequence.owner, sequence.generated == 0);
        let outcome = sequence.tell(self.model);
        // Only after its first token was permitted.
        if is_first
            && sequence.generated > 0
            && !matches!(outcome, Outcome::Cancelled)
            && !self.prefix_time.is_zero()
            && self.queue.is_present(owner)
        {
            let prompt = sequence.text.get(..sequence.prompt).unwrap_or_default();
            self.cache.keep(index, owner, prompt, self.now);
        }
        match outcome {
            Outcome::Continues => {}
            Outcome::Ends(reason) => self.end(index, reason),
            Outcome::Cancelled => drop(self.release(index)),
        }
    }

    /// Ends a sequence. Its slot is free and its prompt erased before its sink hears of it.
    fn end(&mut self, index: usize, reason: FinishReason) {
        let Some(sequence) = self.release(index) else { return };
        let Sequence { prompt, text, sampler, mut answer, mut sink, cached, generated, .. } = sequence;
        let usage = Usage {
            prompt_tokens: prompt as u32,
            cached_tokens: cached as u32,
            completion_tokens: generated,
        };
        drop((text, sampler));
        let rest = answer.finish();
        drop(answer);
        if rest.is_some_and(|text| sink.event(Event::Text(text)).is_break()) {
            return;
        }
        // Nothing follows the end, so there is nothing left to cancel.
        let _ = sink.event(Event::Finished { reason, usage });
    }

    /// Frees a sequence's slot and erases its traces in shared buffers, even while other sequences run.
    /// Nothing is released between the rows of a step and its results.
    fn release(&mut self, index: usize) -> Option<Sequence> {
        let sequence = self.sequences.get_mut(index)?.take()?;
        self.stop_computing(index);
        self.forward.erase();
        self.scores.erase();
        if self.sequences.iter().all(Option::is_none) {
            self.recent.clear();
        }
        self.queue.finished(sequence.owner, sequence.need);
        Some(sequence)
    }
}

/// Tells the job's sink that its time is over.
fn refuse_late(Waiting { job, .. }: Waiting) {
    let Job { prompt, mut sink, .. } = job;
    let usage = Usage { prompt_tokens: prompt.len() as u32, ..Usage::default() };
    drop(prompt);
    // Nothing follows the end, so there is nothing left to cancel.
    let _ = sink.event(Event::Finished { reason: FinishReason::Deadline, usage });
}

impl Sequence {
    /// Whether only the answer's last token is left to compute. A resumed answer has more.
    fn is_answering(&self) -> bool {
        self.generated > 0 && self.read + 1 == self.text.len()
    }

    /// Whether it can resume from its tokens. An embedding cannot, because its states would be gone.
    fn can_pause(&self) -> bool {
        !self.is_paused && self.pooler.is_none()
    }

    /// Tells the sink of the last token.
    fn tell(&mut self, model: &Model) -> Outcome {
        let (token, scored) = (self.chosen, self.scored.take());
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
        self.text.push(token);
        let bytes =
            if self.shows_marks { model.shown_bytes(token) } else { model.tokenizer().bytes_of(token) };
        let Piece { text, stopped } = self.answer.push(bytes, scored);
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
