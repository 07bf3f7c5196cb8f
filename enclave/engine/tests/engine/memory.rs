//! Memory for keys and values, and what is kept of prompts.

use std::{
    num::NonZeroUsize,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use cleanroom_engine::{
    Clock, Engine, EngineConfig, FinishReason, Hand, Job, MemoryUse, Owner, Sampling, StartError,
    SubmitError, Usage,
};
use zeroize::Zeroizing;

use crate::harness::{ANSWER, Heard, MODEL, QUESTION, answer, collect, job, question};

/// Bytes of one page of the demo model: 32 positions.
const PAGE: u64 = 6 * 4 * 2 * 32 * 32 * 2;

fn engine_with_pages(sequences: usize, max_queued: usize, kv_memory: u64) -> Result<Engine, StartError> {
    let config = EngineConfig::new(NonZeroUsize::MIN, NonZeroUsize::new(sequences).unwrap());
    Engine::start(Arc::clone(&MODEL), EngineConfig { max_queued, kv_memory, ..config })
}

#[test]
fn the_memory_for_keys_and_values_is_at_least_a_page_for_each_sequence() {
    let refused = engine_with_pages(3, 0, 3 * PAGE - 1).err();
    assert!(matches!(refused, Some(StartError::CacheTooSmall { budget, max_sequences: 3, least })
        if budget == 3 * PAGE - 1 && least == u128::from(3 * PAGE)));
    assert!(engine_with_pages(3, 0, 3 * PAGE).is_ok());
}

#[test]
fn memory_bounds_a_job_as_the_context_does() {
    let engine = engine_with_pages(1, 0, PAGE).unwrap();
    let (_, end) = answer(&engine, |_| {});
    assert_eq!(
        end,
        Some((FinishReason::Length, Usage { prompt_tokens: 12, cached_tokens: 0, completion_tokens: 20 }))
    );
    let submit = |count: usize| {
        let (job, heard) = job(MODEL.prompt_from_text(&"!?".repeat(count)).unwrap());
        let tokens = job.prompt.len();
        (tokens, engine.submit(job).map(|handle| (handle, collect(heard))))
    };
    let (tokens, refused) = submit(200);
    assert_eq!(refused.err(), Some(SubmitError::PromptTooLongForMemory { tokens, limit: 31 }));
    let fits = |count: &usize| submit(*count).1.is_ok();
    let longest = (1..40).take_while(fits).last().unwrap();
    assert!((30..=31).contains(&submit(longest).0));
}

/// A job whose answer goes on for so many tokens, drawn at random.
fn long_job(owner: u8, tokens: u32) -> (Job, mpsc::Receiver<Heard>) {
    let (mut job, heard) = job(question(QUESTION));
    job.owner = Owner([owner; 32]);
    job.max_tokens = Some(tokens);
    job.sampling = Sampling::new(1.5, 0.95, u64::from(owner)).unwrap();
    // No end of a turn.
    job.bias = Zeroizing::new(vec![(0, -100.0), (2, -100.0)]);
    (job, heard)
}

/// The answer of such a job that has all memory to itself.
fn long_answer(owner: u8, tokens: u32) -> String {
    let engine = engine_with_pages(1, 0, 16 * PAGE).unwrap();
    let (job, heard) = long_job(owner, tokens);
    let _handle = engine.submit(job).unwrap();
    collect(heard).0
}

#[test]
fn answers_that_do_not_fit_together_are_paused_and_are_what_they_would_have_been() {
    const ANSWERS: [u8; 3] = [1, 2, 3];
    let alone = ANSWERS.map(|owner| long_answer(owner, 150));
    // Each needs six pages in the end, and there are eight, of which an owner may have all.
    for owners in [ANSWERS, [9; 3]] {
        let engine = engine_with_pages(3, 3, 8 * PAGE).unwrap();
        let _presence = owners.map(|owner| engine.presence(Owner([owner; 32])));
        let jobs: Vec<_> = ANSWERS
            .into_iter()
            .zip(owners)
            .map(|(number, owner)| {
                let (mut job, heard) = long_job(number, 150);
                job.owner = Owner([owner; 32]);
                (engine.submit(job).unwrap(), heard)
            })
            .collect();
        for ((_handle, heard), alone) in jobs.into_iter().zip(&alone) {
            let (text, end) = collect(heard);
            assert_eq!(&text, alone);
            let usage = Usage { prompt_tokens: 12, cached_tokens: 0, completion_tokens: 150 };
            assert_eq!(end, Some((FinishReason::Length, usage)));
        }
    }
}

#[test]
fn an_answer_without_a_limit_keeps_nobody_waiting() {
    // One whole context, and nobody says how long an answer may be.
    let engine = engine_with_pages(4, 4, 16 * PAGE).unwrap();
    let (mut endless, endless_heard) = long_job(1, 400);
    endless.max_tokens = None;
    let _endless = engine.submit(endless).unwrap();
    assert!(matches!(endless_heard.recv(), Ok(Heard::Text(_))));
    let (mut short, heard) = job(question(QUESTION));
    short.owner = Owner([2; 32]);
    let _short = engine.submit(short).unwrap();
    assert_eq!(collect(heard).0, ANSWER);
    let heard_meanwhile: Vec<_> = endless_heard.try_iter().collect();
    assert!(heard_meanwhile.iter().all(|heard| matches!(heard, Heard::Text(_))), "it still goes on");
}

const A: Owner = Owner([1; 32]);
const B: Owner = Owner([2; 32]);

/// An engine that keeps prompts for so many seconds.
fn keeping_engine(seconds: u64) -> (Engine, Hand) {
    let (clock, hand) = Clock::scripted();
    let config = EngineConfig::new(NonZeroUsize::MIN, NonZeroUsize::new(2).unwrap());
    let config = EngineConfig { prefix_time: Duration::from_secs(seconds), ..config };
    (Engine::start_with_clock(Arc::clone(&MODEL), config, clock).unwrap(), hand)
}

/// Asks a question of 200 tokens and more, and gives the answer and how many of its tokens were not computed.
fn ask_at_length(engine: &Engine, owner: Owner) -> (String, u32) {
    let long = format!("{}{QUESTION}", "The enclave measures the image. ".repeat(40));
    let (mut job, heard) = job(question(&long));
    job.owner = owner;
    job.max_tokens = Some(9);
    assert!(job.prompt.len() > 200);
    let _handle = engine.submit(job).unwrap();
    let (text, end) = collect(heard);
    (text, end.unwrap().1.cached_tokens)
}

/// The state of the memory once the engine has nothing more to do.
fn memory_when(engine: &Engine, is_right: impl Fn(MemoryUse) -> bool) -> MemoryUse {
    let begun = Instant::now();
    while !is_right(engine.memory()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", engine.memory());
        std::thread::yield_now();
    }
    engine.memory()
}

#[test]
fn an_owners_prompt_is_read_once_and_another_owners_is_not_spared_anything() {
    let (engine, _hand) = keeping_engine(60);
    let (_a, _b) = (engine.presence(A), engine.presence(B));
    let (first, found) = ask_at_length(&engine, A);
    assert_eq!(found, 0);
    let (second, found) = ask_at_length(&engine, A);
    assert!(found >= 192 && found % 32 == 0, "{found} tokens were found");
    assert_eq!(first, second);
    // The same prompt costs another owner all of it.
    assert_eq!(ask_at_length(&engine, B), (first.clone(), 0));
    assert_eq!(ask_at_length(&engine, B), (first, found));
}

#[test]
fn what_is_kept_of_an_owner_is_gone_once_it_has_left_is_forgotten_or_the_time_is_over() {
    let (engine, hand) = keeping_engine(60);
    let all_free = |memory: MemoryUse| memory.free == memory.pages;
    // Nothing is kept of somebody who is not there.
    assert_eq!(ask_at_length(&engine, A).1, 0);
    memory_when(&engine, all_free);
    assert_eq!(ask_at_length(&engine, A).1, 0);

    let presences = [engine.presence(A), engine.presence(A)];
    let _other = engine.presence(B);
    let kept = |memory: MemoryUse| memory.kept > 0 && memory.free + memory.kept == memory.pages;
    ask_at_length(&engine, A);
    let of_one = memory_when(&engine, kept);
    ask_at_length(&engine, B);
    memory_when(&engine, |memory| memory.kept == 2 * of_one.kept);
    let [first, last] = presences;
    drop(first);
    assert!(ask_at_length(&engine, A).1 > 0, "one session is still open");
    drop(last);
    // No further work is needed for this.
    memory_when(&engine, |memory| memory == of_one);
    let _again = engine.presence(A);
    assert_eq!(ask_at_length(&engine, A).1, 0);

    engine.forget(A);
    assert_eq!(ask_at_length(&engine, A).1, 0);
    assert!(ask_at_length(&engine, B).1 > 0);

    hand.advance(Duration::from_secs(59));
    assert!(ask_at_length(&engine, A).1 > 0);
    hand.advance(Duration::from_secs(61));
    assert_eq!(ask_at_length(&engine, A).1, 0);
}

#[test]
fn what_is_kept_expires_while_nobody_asks_for_anything() {
    let (engine, hand) = keeping_engine(60);
    let _presence = engine.presence(A);
    ask_at_length(&engine, A);
    memory_when(&engine, |memory| memory.kept > 0);
    // As while the machine sleeps: the clock goes on, and nothing wakes the engine.
    hand.advance(Duration::from_secs(60));
    memory_when(&engine, |memory| memory.free == memory.pages);
}

#[test]
fn nothing_is_kept_for_no_time_at_all() {
    let (engine, _hand) = keeping_engine(0);
    let _presence = engine.presence(A);
    assert_eq!([0; 2].map(|_| ask_at_length(&engine, A).1), [0; 2]);
}
