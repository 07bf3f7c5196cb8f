//! The demo model, and jobs whose events a test hears.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, LazyLock, mpsc},
};

use cleanroom_engine::{
    ChatMessage, Engine, EngineConfig, Event, FinishReason, Job, Model, Prompt, Sink, Usage,
};

pub(crate) const DEMO: &[u8] = include_bytes!("../../../../models/demo.gguf");
pub(crate) const QUESTION: &str = "What is attestation?";
pub(crate) const ANSWER: &str = "Attestation proves which image an enclave has started. The signature comes from the platform and \
                      can be checked by anyone. If the measurements do not match, the client must not send its prompt.";

pub(crate) static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| Arc::new(Model::from_gguf(DEMO).unwrap()));

pub(crate) fn engine(threads: usize, max_sequences: usize, max_queued: usize) -> Engine {
    engine_with(threads, max_sequences, max_sequences, max_queued)
}

pub(crate) fn engine_with(
    threads: usize,
    max_sequences: usize,
    max_per_owner: usize,
    max_queued: usize,
) -> Engine {
    let [threads, max_sequences, max_per_owner] =
        [threads, max_sequences, max_per_owner].map(|number| NonZeroUsize::new(number).unwrap());
    let config = EngineConfig { max_per_owner, max_queued, ..EngineConfig::new(threads, max_sequences) };
    Engine::start(Arc::clone(&MODEL), config).unwrap()
}

pub(crate) fn question(text: &str) -> Prompt {
    MODEL.prompt_from_chat(&[ChatMessage::new("user", text)]).unwrap()
}

/// What a test hears of a job. The channel closes when the sink is dropped.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Text(String),
    Finished(FinishReason, Usage),
}

pub(crate) struct Channel {
    events: mpsc::Sender<Heard>,
    /// Called with the number of text events so far.
    on_text: Box<dyn FnMut(usize) -> ControlFlow<()> + Send>,
    texts: usize,
}

impl Sink for Channel {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        let heard = match event {
            Event::Text(text) => Heard::Text(text.as_str().to_owned()),
            Event::Embedding(_) => return ControlFlow::Break(()),
            Event::Finished { reason, usage } => Heard::Finished(reason, usage),
        };
        let is_text = matches!(heard, Heard::Text(_));
        self.events.send(heard).unwrap();
        if !is_text {
            return ControlFlow::Continue(());
        }
        self.texts += 1;
        (self.on_text)(self.texts)
    }
}

pub(crate) fn job_with(
    prompt: Prompt,
    on_text: impl FnMut(usize) -> ControlFlow<()> + Send + 'static,
) -> (Job, mpsc::Receiver<Heard>) {
    let (events, heard) = mpsc::channel();
    let sink = Box::new(Channel { events, on_text: Box::new(on_text), texts: 0 });
    (Job::new(prompt, sink), heard)
}

pub(crate) fn job(prompt: Prompt) -> (Job, mpsc::Receiver<Heard>) {
    job_with(prompt, |_| ControlFlow::Continue(()))
}

/// A job whose sink waits in its first text event until the returned gate is dropped, so that a test decides
/// when the engine goes on.
pub(crate) fn gated_job(prompt: Prompt) -> (Job, mpsc::Receiver<Heard>, mpsc::Sender<()>) {
    let (gate, wait) = mpsc::channel::<()>();
    let (job, heard) = job_with(prompt, move |_| {
        let _ = wait.recv();
        ControlFlow::Continue(())
    });
    (job, heard, gate)
}

/// The whole text and the end of a job.
pub(crate) fn collect(heard: mpsc::Receiver<Heard>) -> (String, Option<(FinishReason, Usage)>) {
    let mut text = String::new();
    let mut end = None;
    for event in heard {
        assert_eq!(end, None, "nothing follows the end");
        match event {
            Heard::Text(piece) => text.push_str(&piece),
            Heard::Finished(reason, usage) => end = Some((reason, usage)),
        }
    }
    (text, end)
}

pub(crate) fn answer(
    engine: &Engine,
    change: impl FnOnce(&mut Job),
) -> (String, Option<(FinishReason, Usage)>) {
    let (mut job, heard) = job(question(QUESTION));
    change(&mut job);
    let _handle = engine.submit(job).unwrap();
    collect(heard)
}
