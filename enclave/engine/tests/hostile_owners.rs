//! What an owner who wants to harm the others cannot do: keep memory, keep sequences, or keep anybody
//! waiting.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{
        Arc, LazyLock, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use cleanroom_engine::{
    ChatMessage, Engine, EngineConfig, Event, FinishReason, Job, JobHandle, Model, Owner, Prompt, Sink,
    SubmitError,
};
use zeroize::Zeroizing;

static MODEL: LazyLock<Arc<Model>> =
    LazyLock::new(|| Arc::new(Model::from_gguf(include_bytes!("../../../models/demo.gguf")).unwrap()));

const LOUD: Owner = Owner([1; 32]);
const QUIET: Owner = Owner([2; 32]);

fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

fn question(text: &str) -> Prompt {
    MODEL.prompt_from_chat(&[ChatMessage::new("user", text)]).unwrap()
}

/// Calls a function with the number of every token, and tells when it is dropped.
struct Tokens<F> {
    each: F,
    tokens: usize,
    end: Option<FinishReason>,
    ended: mpsc::Sender<Option<FinishReason>>,
}

impl<F: FnMut(usize) -> ControlFlow<()> + Send> Sink for Tokens<F> {
    fn token(&mut self) -> ControlFlow<()> {
        self.tokens += 1;
        (self.each)(self.tokens)
    }

    fn event(&mut self, event: Event) -> ControlFlow<()> {
        if let Event::Finished { reason, .. } = event {
            self.end = Some(reason);
        }
        ControlFlow::Continue(())
    }
}

impl<F> Drop for Tokens<F> {
    fn drop(&mut self) {
        // A test that has seen enough does not listen.
        let _ = self.ended.send(self.end);
    }
}

fn job(
    owner: Owner,
    prompt: Prompt,
    each: impl FnMut(usize) -> ControlFlow<()> + Send + 'static,
) -> (Job, mpsc::Receiver<Option<FinishReason>>) {
    let (ended, end) = mpsc::channel();
    let sink = Box::new(Tokens { each, tokens: 0, end: None, ended });
    (Job { owner, ..Job::new(prompt, sink) }, end)
}

fn go_on(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Waits until every page is free or kept for a prompt, and says how many are kept.
fn kept_when_nothing_runs(engine: &Engine) -> usize {
    let begun = Instant::now();
    loop {
        let memory = engine.memory();
        if memory.free + memory.kept == memory.pages {
            return memory.kept;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{memory:?}");
        std::thread::yield_now();
    }
}

#[test]
fn thousands_of_cancellations_at_every_point_leave_no_page_behind() {
    const JOBS: usize = 2500;
    let config = EngineConfig { max_queued: 5, ..EngineConfig::new(count(1), count(3)) };
    let engine = Engine::start(Arc::clone(&MODEL), config).unwrap();
    let presence = engine.presence(LOUD);
    // Longer than a page, and equal, so that pages are kept, found and shared.
    let text = "The enclave measures the image. ".repeat(14);
    let mut handles: Vec<(JobHandle, mpsc::Receiver<Option<FinishReason>>)> = Vec::new();
    let (mut submitted, mut cancelled) = (0, 0);
    while submitted < JOBS {
        let text = if submitted % 7 == 0 { "What is attestation?" } else { &text };
        // Some are cancelled by their own sink: at the first token, or in the middle of the answer.
        let last = [usize::MAX, usize::MAX, 1, 3][submitted % 4];
        let (mut job, end) = job(LOUD, question(text), move |tokens| {
            if tokens >= last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        job.max_tokens = Some(4);
        match engine.submit(job) {
            Ok(handle) => {
                submitted += 1;
                handles.push((handle, end));
            }
            // The others wherever they are: in the queue, while they are read, while they are answered.
            Err(SubmitError::Busy) if !handles.is_empty() => {
                cancelled += 1;
                drop(handles.swap_remove(cancelled * 31 % handles.len()));
            }
            Err(SubmitError::Busy) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        handles.retain(|(_, end)| end.try_recv().is_err());
    }
    assert!(cancelled > JOBS / 2, "{cancelled} cancelled");
    drop(handles);
    kept_when_nothing_runs(&engine);
    let (job, end) = job(LOUD, question("What is attestation?"), go_on);
    let _handle = engine.submit(job).unwrap();
    assert_eq!(end.recv().unwrap(), Some(FinishReason::Stop));
    drop(presence);
    let begun = Instant::now();
    while engine.memory().free < engine.memory().pages {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", engine.memory());
        std::thread::yield_now();
    }
}

#[test]
fn whoever_floods_the_engine_costs_a_newcomer_no_more_than_the_step_under_way() {
    const QUESTIONS: usize = 12;
    const FLOOD: usize = 6;
    let config =
        EngineConfig { max_per_owner: count(FLOOD), max_queued: 16, ..EngineConfig::new(count(1), count(8)) };
    let engine = Arc::new(OnceLock::new());
    let loud_tokens = Arc::new(AtomicUsize::new(0));
    // What the flood got between each question and the first token of its answer.
    let (waited, waits) = mpsc::channel();
    let kept: Arc<Mutex<Vec<JobHandle>>> = Arc::default();
    let asked = Arc::new(AtomicUsize::new(0));

    // Runs on the engine's thread, with the first of the flood's tokens of every twentieth step: no clock
    // decides when a question comes.
    let ask = {
        let (engine, loud_tokens, kept, asked) =
            (Arc::clone(&engine), Arc::clone(&loud_tokens), Arc::clone(&kept), Arc::clone(&asked));
        move || {
            let engine: &Engine = engine.get().unwrap();
            let (loud_tokens, waited) = (Arc::clone(&loud_tokens), waited.clone());
            let before = loud_tokens.load(Ordering::SeqCst);
            let (mut job, _) = job(QUIET, question("What is attestation?"), move |_| {
                let _ = waited.send(loud_tokens.load(Ordering::SeqCst) - before);
                ControlFlow::Continue(())
            });
            job.max_tokens = Some(1);
            kept.lock().unwrap().push(engine.submit(job).unwrap());
            asked.fetch_add(1, Ordering::SeqCst);
        }
    };
    let ask = Arc::new(ask);
    assert!(engine.set(Engine::start(Arc::clone(&MODEL), config).unwrap()).is_ok());
    // The engine's own thread must not be the last to let go of it.
    std::mem::forget(Arc::clone(&engine));
    let engine: &Engine = engine.get().unwrap();
    let mut flood = Vec::new();
    for number in 0..FLOOD + 10 {
        // Some read long prompts while others answer; those in the queue follow.
        let text = "Tell me everything about attestation and keys. ".repeat(1 + number % 5 * 8);
        let (loud_tokens, ask, asked) = (Arc::clone(&loud_tokens), Arc::clone(&ask), Arc::clone(&asked));
        let (mut job, end) = job(LOUD, question(&text), move |_| {
            let token = loud_tokens.fetch_add(1, Ordering::SeqCst);
            if token % 20 == 0 && asked.load(Ordering::SeqCst) < QUESTIONS {
                ask();
            }
            ControlFlow::Continue(())
        });
        // The answers go on: the end of a turn is never the likeliest token.
        job.bias = Zeroizing::new(vec![(40, 100.0)]);
        job.max_tokens = Some(60);
        flood.push((engine.submit(job).unwrap(), end));
    }
    for _ in 0..QUESTIONS {
        let tokens = waits.recv().unwrap();
        // The rest of the step that the question came in. In the next one it is read, and the flood's answers
        // wait.
        assert!(tokens < FLOOD * 2, "{tokens} tokens of the flood came first");
    }
    drop(flood);
}

#[test]
fn prompts_at_the_limit_are_read_and_one_token_more_is_refused() {
    let engine = Engine::start(Arc::clone(&MODEL), EngineConfig::new(count(1), count(1))).unwrap();
    let submit = |tokens: usize| {
        let text = format!("{}{}", "!?".repeat(tokens / 2), &"!"[..tokens % 2]);
        let prompt = MODEL.prompt_from_text(&text).unwrap();
        assert_eq!(prompt.len(), tokens);
        let (job, end) = job(LOUD, prompt, go_on);
        engine.submit(job).map(|handle| (handle, end).1.recv().unwrap())
    };
    // One token of an answer is the end of the context.
    assert!(matches!(submit(511), Ok(Some(FinishReason::Length | FinishReason::Stop))));
    for tokens in [512, 513] {
        assert_eq!(submit(tokens).err(), Some(SubmitError::PromptTooLong { tokens, limit: 511 }));
    }
    assert_eq!(kept_when_nothing_runs(&engine), 0);
}
