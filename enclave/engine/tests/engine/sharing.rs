//! One engine for many: queues, shares, cancellation, time.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use cleanroom_engine::{
    Clock, Engine, EngineConfig, FinishReason, JobHandle, Model, Owner, PromptError, StartError, SubmitError,
    Usage,
};

use crate::harness::{
    ANSWER, DEMO, Heard, MODEL, QUESTION, answer, collect, engine, engine_with, gated_job, job, job_with,
    question,
};

#[test]
fn prompts_that_do_not_fit_are_refused() {
    let engine = engine(1, 1, 0);
    let submit = |text: &str| engine.submit(job(MODEL.prompt_from_text(text).unwrap()).0).err();
    assert_eq!(submit(""), Some(SubmitError::PromptEmpty));
    assert_eq!(submit(&"!?".repeat(300)), Some(SubmitError::PromptTooLong { tokens: 600, limit: 511 }));
    let hopeless = MODEL.prompt_from_text(&"x".repeat(1 << 20)).err();
    assert!(matches!(hopeless, Some(PromptError::TooLong { bytes: 1_048_576, .. })));
}

#[test]
fn a_full_engine_says_so_and_takes_jobs_again() {
    let engine = engine(1, 1, 1);
    let (running, running_heard, gate) = gated_job(question(QUESTION));
    let _running = engine.submit(running).unwrap();
    assert!(matches!(running_heard.recv(), Ok(Heard::Text(_))), "the first job holds the only sequence");
    let (waiting, waiting_heard) = job(question(QUESTION));
    let waiting = engine.submit(waiting).unwrap();
    assert_eq!(engine.submit(job(question(QUESTION)).0).err(), Some(SubmitError::Busy));
    // A cancelled job gives its place in the queue back at once, and is never run.
    drop(waiting);
    assert_eq!(collect(waiting_heard), (String::new(), None));
    let (next, next_heard) = job(question(QUESTION));
    let _next = engine.submit(next).unwrap();
    drop(gate);
    assert_eq!(collect(next_heard).0, ANSWER);
    // Whoever has heard the end may submit at once.
    assert_eq!(answer(&engine, |_| {}).0, ANSWER);
}

#[test]
fn nobody_waits_behind_all_of_another_owners_jobs() {
    for (sequences, expected) in [(1, ["late", "flood 1", "flood 2"]), (2, ["late", "flood 1", "flood 2"])] {
        let engine = engine(1, sequences, 4);
        let [flood, other] = [1, 2].map(|byte| Owner([byte; 32]));
        let (mut first, first_heard, gate) = gated_job(question(QUESTION));
        first.owner = flood;
        let mut handles = vec![engine.submit(first).unwrap()];
        assert!(matches!(first_heard.recv(), Ok(Heard::Text(_))));
        // While the engine waits for the gate, another owner's job comes after two more of the first one's.
        let started = Arc::new(Mutex::new(Vec::new()));
        for (name, owner) in [("flood 1", flood), ("flood 2", flood), ("late", other)] {
            let started = Arc::clone(&started);
            let (mut job, heard) = job_with(question(QUESTION), move |texts| {
                if texts == 1 {
                    started.lock().unwrap().push(name);
                }
                ControlFlow::Continue(())
            });
            job.owner = owner;
            handles.push(engine.submit(job).unwrap());
            // Nobody listens; the channel stays open until the engine is gone.
            std::mem::forget(heard);
        }
        drop(gate);
        while started.lock().unwrap().len() < expected.len() {
            std::thread::yield_now();
        }
        assert_eq!(*started.lock().unwrap(), expected, "{sequences} sequences");
    }
}

#[test]
fn an_owner_gets_no_more_sequences_than_its_share_even_while_others_are_free() {
    let engine = engine_with(1, 3, 1, 0);
    let (first, first_heard, gate) = gated_job(question(QUESTION));
    let _first = engine.submit(first).unwrap();
    let first_heard = Mutex::new(first_heard);
    let first_has_ended =
        move || first_heard.lock().unwrap().try_iter().any(|heard| matches!(heard, Heard::Finished(..)));
    let (second, second_heard) = job_with(question(QUESTION), move |texts| {
        assert!(texts > 1 || first_has_ended(), "the second runs beside the first");
        ControlFlow::Continue(())
    });
    let _second = engine.submit(second).unwrap();
    let (mut other, other_heard, other_gate) = gated_job(question(QUESTION));
    other.owner = Owner([1; 32]);
    let _other = engine.submit(other).unwrap();
    drop(gate);
    // Another owner's job begins before the second; the engine waits in it until the gate opens.
    assert!(matches!(other_heard.recv(), Ok(Heard::Text(_))));
    assert!(second_heard.try_recv().is_err());
    drop(other_gate);
    assert_eq!(collect(second_heard).0, ANSWER);
}

#[test]
fn dropping_the_handle_cancels_at_the_next_token() {
    let engine = engine(1, 1, 0);
    let (job, heard, gate) = gated_job(question("Tell me a story."));
    let handle = engine.submit(job).unwrap();
    assert!(matches!(heard.recv(), Ok(Heard::Text(_))));
    drop(handle);
    drop(gate);
    assert_eq!(collect(heard), (String::new(), None), "no text and no end after the cancellation");
    assert_eq!(answer_when_free(&engine), ANSWER);
}

#[test]
fn a_sink_that_breaks_cancels() {
    let engine = engine(1, 1, 0);
    let stop_at = |number| {
        move |texts| if texts == number { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let (job, heard) = job_with(question("Tell me a story."), stop_at(3));
    let _handle = engine.submit(job).unwrap();
    let events: Vec<_> = heard.iter().collect();
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|event| matches!(event, Heard::Text(_))));
    assert_eq!(answer_when_free(&engine), ANSWER);
}

/// A cancelled job's place is free once its sink is gone, which the tests have seen before they call this.
fn answer_when_free(engine: &Engine) -> String {
    answer(engine, |_| {}).0
}

#[test]
fn dropping_the_engine_cancels_everything() {
    let engine = engine(2, 1, 1);
    let (running, running_heard, gate) = gated_job(question("Tell me a story."));
    let running = engine.submit(running).unwrap();
    assert!(matches!(running_heard.recv(), Ok(Heard::Text(_))));
    let (waiting, waiting_heard) = job(question(QUESTION));
    let waiting = engine.submit(waiting).unwrap();
    drop(gate);
    drop(engine);
    let (_, end) = collect(running_heard);
    assert_eq!(end, None);
    assert_eq!(collect(waiting_heard), (String::new(), None));
    // Handles may outlive the engine.
    drop::<[JobHandle; 2]>([running, waiting]);
}

#[test]
fn a_panic_of_the_worker_strands_nobody() {
    let engine = engine(2, 2, 2);
    let (bystander, bystander_heard, gate) = gated_job(question(QUESTION));
    let _bystander = engine.submit(bystander).unwrap();
    assert!(matches!(bystander_heard.recv(), Ok(Heard::Text(_))));
    let (panicking, panicking_heard) =
        job_with(question(QUESTION), |_| panic!("a sink that panics, as the test wants"));
    let _panicking = engine.submit(panicking).unwrap();
    let (waiting, waiting_heard) = job(question(QUESTION));
    let _waiting = engine.submit(waiting).unwrap();
    drop(gate);
    // All sinks are dropped, so all channels close.
    for heard in [bystander_heard, panicking_heard, waiting_heard] {
        let _ = collect(heard);
    }
    assert_eq!(engine.submit(job(question(QUESTION)).0).err(), Some(SubmitError::Stopped));
}

#[test]
fn too_large_a_configuration_is_an_error() {
    let most = NonZeroUsize::new(usize::MAX / 2).unwrap();
    let config = EngineConfig::new(NonZeroUsize::MIN, most);
    let refused = Engine::start(Arc::clone(&MODEL), config).err();
    assert!(matches!(refused, Some(StartError::CacheTooSmall { .. })));
    let many = NonZeroUsize::new(1 << 40).unwrap();
    let config = EngineConfig { kv_memory: u64::MAX, ..EngineConfig::new(NonZeroUsize::MIN, many) };
    let refused = Engine::start(Arc::clone(&MODEL), config).err();
    assert!(matches!(refused, Some(StartError::CacheMemory { .. })));
}

#[test]
fn a_shorter_context_is_kept() {
    let model = Model::from_gguf(DEMO).unwrap();
    let full = model.cache_bytes_per_sequence();
    let model = model.with_context_limit(64);
    assert_eq!((model.facts().context_length, model.cache_bytes_per_sequence()), (64, full / 8));
    let config = EngineConfig::new(NonZeroUsize::MIN, NonZeroUsize::MIN);
    let engine = Engine::start(Arc::new(model), config).unwrap();
    let (job, heard) = job(question("Tell me a story about a fox named Mia."));
    let prompt_tokens = job.prompt.len() as u32;
    let _handle = engine.submit(job).unwrap();
    let usage = Usage { prompt_tokens, cached_tokens: 0, completion_tokens: 64 - prompt_tokens };
    assert_eq!(collect(heard).1, Some((FinishReason::Length, usage)));
}

#[test]
fn a_job_whose_time_is_over_ends_wherever_it_is() {
    let (clock, hand) = Clock::scripted();
    let config = EngineConfig::new(NonZeroUsize::MIN, NonZeroUsize::MIN);
    let config = EngineConfig { max_queued: 2, ..config };
    let engine = Engine::start_with_clock(Arc::clone(&MODEL), config, clock).unwrap();
    let within = |seconds| Some(engine.clock().now().after(Duration::from_secs(seconds)));
    let late = |completion_tokens| {
        let usage = Usage { prompt_tokens: 12, cached_tokens: 0, completion_tokens };
        Some((FinishReason::Deadline, usage))
    };
    let (mut running, running_heard, gate) = gated_job(question(QUESTION));
    running.deadline = within(10);
    let _running = engine.submit(running).unwrap();
    assert!(matches!(running_heard.recv(), Ok(Heard::Text(_))));
    let (mut waiting, waiting_heard) = job(question(QUESTION));
    waiting.deadline = within(10);
    let _waiting = engine.submit(waiting).unwrap();
    let (mut patient, patient_heard) = job(question(QUESTION));
    patient.deadline = within(11);
    let _patient = engine.submit(patient).unwrap();
    hand.advance(Duration::from_secs(10));
    drop(gate);
    let (_, end) = collect(running_heard);
    assert_eq!(end, late(1), "no further token is computed");
    assert_eq!(collect(waiting_heard), (String::new(), late(0)));
    assert_eq!(collect(patient_heard).0, ANSWER);
    // One whose time is over before it comes.
    let (_, end) = answer(&engine, |job| job.deadline = within(0));
    assert_eq!(end, late(0));
    assert_eq!(answer(&engine, |job| job.deadline = within(1)).0, ANSWER);
}
