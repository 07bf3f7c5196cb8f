use std::{num::NonZeroUsize, ops::ControlFlow, sync::mpsc};

use zeroize::Zeroizing;

use super::*;
use crate::scheduling::{Clock, Job};

const LONG: Owner = Owner([1; 32]);
const SHORT: Owner = Owner([2; 32]);

/// Tells when its job is over, and how many tokens the answer has.
struct Ends(mpsc::Sender<u32>);

impl Sink for Ends {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        if let Event::Finished { usage, .. } = event {
            self.0.send(usage.prompt_tokens).unwrap();
        }
        ControlFlow::Continue(())
    }
}

struct Bench {
    model: Model,
    config: EngineConfig,
    capacity: Capacity,
    queue: Queue,
}

impl Bench {
    fn new() -> Self {
        Self::with_pages(3 * 16)
    }

    /// For three sequences, whose contexts would be sixteen pages each.
    fn with_pages(pages: u64) -> Self {
        let model = Model::from_gguf(include_bytes!("../../../../../models/demo.gguf")).unwrap();
        let three = NonZeroUsize::new(3).unwrap();
        let kv_memory = pages * Cache::page_bytes(model.shape()) as u64;
        let config = EngineConfig::new(NonZeroUsize::MIN, three);
        let config = EngineConfig { max_queued: 8, kv_memory, ..config };
        let capacity = Capacity::new(&model, config).unwrap();
        let queue = Queue::new(config, capacity, Clock::monotonic());
        Self { model, config, capacity, queue }
    }

    fn scheduler(&self) -> Scheduler<'_> {
        let pool = Pool::new(NonZeroUsize::MIN).unwrap();
        Scheduler::new(&self.model, &self.queue, pool, self.config, self.capacity)
    }

    /// A job of so many tokens to read and one to answer.
    fn ask(&self, owner: Owner, tokens: usize, ends: &mpsc::Sender<u32>) -> Cancelled {
        let prompt = self.model.prompt_from_text(&"!?".repeat(tokens / 2)).unwrap();
        assert_eq!(prompt.len(), tokens);
        let job = Job { owner, max_tokens: Some(1), ..Job::new(prompt, Box::new(Ends(ends.clone()))) };
        let need = self.capacity.need(&job);
        self.queue.push(job, need).unwrap()
    }

    /// A job of so many tokens to read and so many to answer.
    fn ask_at_length(&self, owner: Owner, read: usize, answer: u32, ends: &mpsc::Sender<u32>) -> Cancelled {
        let prompt = self.model.prompt_from_text(&"!?".repeat(read / 2)).unwrap();
        let job = Job { owner, max_tokens: Some(answer), ..Job::new(prompt, Box::new(Ends(ends.clone()))) };
        // The end of a turn is never the likeliest token.
        let job = Job { bias: Zeroizing::new(vec![(40, 100.0)]), ..job };
        let need = self.capacity.need(&job);
        self.queue.push(job, need).unwrap()
    }

    /// What has come since, as the engine would begin it.
    fn begin(&self, scheduler: &mut Scheduler<'_>) {
        let work = self.queue.next(scheduler.memory(), None).unwrap();
        scheduler.begin(work);
    }
}

#[test]
fn newcomers_interrupt_every_step_and_it_is_done_all_the_same() {
    let bench = Bench::new();
    let mut scheduler = bench.scheduler();
    let (ends, ended) = mpsc::channel();
    let _long = bench.ask(LONG, 400, &ends);
    let rounds = (1..).find(|round| {
        bench.begin(&mut scheduler);
        // In the middle of the step, if it is one of the long prompt.
        let _short = (round % 2 == 1).then(|| bench.ask(SHORT, 2, &ends));
        scheduler.compute();
        assert!(*round < 1000, "the long prompt is never read");
        ended.try_iter().any(|tokens| tokens == 400)
    });
    // Four steps of it, in parts: fewer than sixteen, since it goes on alone once a question is answered.
    assert!(rounds.unwrap() <= 128, "{rounds:?}");
}

#[test]
fn a_newcomer_is_answered_in_the_step_after_the_half_of_a_layer_it_came_in() {
    let bench = Bench::new();
    let mut scheduler = bench.scheduler();
    let (ends, ended) = mpsc::channel();
    let _long = bench.ask(LONG, 400, &ends);
    bench.begin(&mut scheduler);
    let _short = bench.ask(SHORT, 12, &ends);
    scheduler.compute();
    assert!(!scheduler.interrupted.is_empty());
    bench.begin(&mut scheduler);
    scheduler.compute();
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [12]);
    // Nobody else is there: the rest is computed at once.
    bench.begin(&mut scheduler);
    scheduler.compute();
    assert!(scheduler.interrupted.is_empty());
}

#[test]
fn whoever_comes_while_a_step_waits_interrupts_the_next_one_too() {
    const OTHER: Owner = Owner([3; 32]);
    let bench = Bench::new();
    let mut scheduler = bench.scheduler();
    let (ends, ended) = mpsc::channel();
    let _long = bench.ask(LONG, 400, &ends);
    bench.begin(&mut scheduler);
    let _second = bench.ask(OTHER, 300, &ends);
    scheduler.compute();
    bench.begin(&mut scheduler);
    // The step of the second one has hardly begun.
    let _third = bench.ask(SHORT, 12, &ends);
    scheduler.compute();
    assert_eq!(scheduler.interrupted.len(), 2);
    bench.begin(&mut scheduler);
    scheduler.compute();
    let mut over: Vec<u32> = ended.try_iter().collect();
    assert_eq!(over, [12]);
    while over.len() < 3 {
        bench.begin(&mut scheduler);
        scheduler.compute();
        over.extend(ended.try_iter());
    }
}

#[test]
fn what_ends_while_its_step_waits_is_computed_no_further() {
    let bench = Bench::new();
    let mut scheduler = bench.scheduler();
    let (ends, ended) = mpsc::channel();
    let long = bench.ask(LONG, 400, &ends);
    let _other = bench.ask(LONG, 300, &ends);
    bench.begin(&mut scheduler);
    let _short = bench.ask(SHORT, 2, &ends);
    scheduler.compute();
    let has =
        |scheduler: &Scheduler<'_>, sequence| scheduler.interrupted.iter().any(|step| step.has(sequence));
    assert!(has(&scheduler, 0) && has(&scheduler, 1));
    bench.queue.cancel(&long);
    bench.begin(&mut scheduler);
    assert!(!has(&scheduler, 0) && has(&scheduler, 1));
    // Its place is another's, whose first token is not a part of the step that waits.
    let _next = bench.ask(SHORT, 4, &ends);
    let mut over = Vec::new();
    while over.len() < 3 {
        bench.begin(&mut scheduler);
        scheduler.compute();
        over.extend(ended.try_iter());
    }
    assert_eq!(over, [2, 4, 300]);
}

#[test]
fn a_newcomer_gets_memory_from_whoever_has_most_for_its_share() {
    const PAGES: u64 = 6;
    let bench = Bench::with_pages(PAGES);
    let mut scheduler = bench.scheduler();
    let (ends, ended) = mpsc::channel();
    let _long = [12, 14].map(|tokens| bench.ask_at_length(LONG, tokens, 130, &ends));
    let round = |scheduler: &mut Scheduler<'_>| {
        bench.begin(scheduler);
        scheduler.compute();
        scheduler.share_memory();
    };
    while bench.queue.pages_of(LONG) < PAGES as usize {
        round(&mut scheduler);
    }
    let paused = |scheduler: &Scheduler<'_>| -> Vec<bool> {
        scheduler.sequences.iter().flatten().map(|sequence| sequence.is_paused).collect()
    };
    assert_eq!(paused(&scheduler), [false, false]);
    let _short = bench.ask(SHORT, 2, &ends);
    scheduler.share_memory();
    assert_eq!(paused(&scheduler), [false, true], "the younger one of two");
    round(&mut scheduler);
    round(&mut scheduler);
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [2]);
    let mut over = Vec::new();
    while over.len() < 2 {
        round(&mut scheduler);
        over.extend(ended.try_iter());
    }
    assert_eq!(over, [12, 14]);
    let memory = scheduler.memory();
    assert_eq!(memory.free, memory.pages);
}

#[test]
fn a_newcomer_who_lacks_memory_alone_interrupts_the_step_and_gets_it() {
    const PAGES: u64 = 6;
    let bench = Bench::with_pages(PAGES);
    let mut scheduler = bench.scheduler();
    let (ends, ended) = mpsc::channel();
    let _long = [12, 14].map(|tokens| bench.ask_at_length(LONG, tokens, 130, &ends));
    while bench.queue.pages_of(LONG) < PAGES as usize {
        bench.begin(&mut scheduler);
        scheduler.compute();
    }
    let _short = bench.ask(SHORT, 2, &ends);
    bench.begin(&mut scheduler);
    scheduler.compute();
    assert_eq!(scheduler.interrupted.len(), 1);
    scheduler.share_memory();
    bench.begin(&mut scheduler);
    scheduler.compute();
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [2]);
}

#[test]
fn nobody_is_paused_for_an_owner_who_would_have_as_much() {
    let bench = Bench::with_pages(4);
    let mut scheduler = bench.scheduler();
    let (ends, ended) = mpsc::channel();
    let _first = bench.ask_at_length(LONG, 12, 110, &ends);
    while bench.queue.pages_of(LONG) < 3 {
        bench.begin(&mut scheduler);
        scheduler.compute();
    }
    let _second = bench.ask(SHORT, 100, &ends);
    scheduler.share_memory();
    assert!(scheduler.sequences.iter().flatten().all(|sequence| !sequence.is_paused));
    let mut over = Vec::new();
    while over.len() < 2 {
        bench.begin(&mut scheduler);
        scheduler.compute();
        over.extend(ended.try_iter());
    }
    assert_eq!(over, [12, 100], "it waits for its end");
}
