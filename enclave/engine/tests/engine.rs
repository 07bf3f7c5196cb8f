//! The engine from outside, on the demo model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, LazyLock, Mutex, mpsc},
    time::{Duration, Instant},
};

use cleanroom_engine::{
    ChatMessage, Clock, Engine, EngineConfig, Event, FinishReason, Hand, Job, JobHandle, MAX_STOP_BYTES,
    MAX_STOP_STRINGS, MemoryUse, Model, Owner, Prompt, PromptError, Sampling, ScoredToken, Sink, StartError,
    SubmitError, TokenScore, Usage,
};
use serde_json::Value;
use zeroize::Zeroizing;

#[path = "support/embedding_model.rs"]
mod embedding_model;

use embedding_model::for_embeddings;

const DEMO: &[u8] = include_bytes!("../../../models/demo.gguf");
const QUESTION: &str = "What is attestation?";
const ANSWER: &str = "Attestation proves which image an enclave has started. The signature comes from the platform and \
                      can be checked by anyone. If the measurements do not match, the client must not send its prompt.";

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| Arc::new(Model::from_gguf(DEMO).unwrap()));

fn engine(threads: usize, max_sequences: usize, max_queued: usize) -> Engine {
    engine_with(threads, max_sequences, max_sequences, max_queued)
}

fn engine_with(threads: usize, max_sequences: usize, max_per_owner: usize, max_queued: usize) -> Engine {
    let [threads, max_sequences, max_per_owner] =
        [threads, max_sequences, max_per_owner].map(|number| NonZeroUsize::new(number).unwrap());
    let config = EngineConfig { max_per_owner, max_queued, ..EngineConfig::new(threads, max_sequences) };
    Engine::start(Arc::clone(&MODEL), config).unwrap()
}

fn question(text: &str) -> Prompt {
    MODEL.prompt_from_chat(&[ChatMessage { role: "user", content: text }]).unwrap()
}

/// What a test hears of a job. The channel closes when the sink is dropped.
#[derive(Debug, PartialEq)]
enum Heard {
    Text(String),
    Finished(FinishReason, Usage),
}

struct Channel {
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

fn job_with(
    prompt: Prompt,
    on_text: impl FnMut(usize) -> ControlFlow<()> + Send + 'static,
) -> (Job, mpsc::Receiver<Heard>) {
    let (events, heard) = mpsc::channel();
    let sink = Box::new(Channel { events, on_text: Box::new(on_text), texts: 0 });
    (Job::new(prompt, sink), heard)
}

fn job(prompt: Prompt) -> (Job, mpsc::Receiver<Heard>) {
    job_with(prompt, |_| ControlFlow::Continue(()))
}

/// A job whose sink waits in its first text event until the returned gate is dropped, so that a test decides when the
/// engine goes on.
fn gated_job(prompt: Prompt) -> (Job, mpsc::Receiver<Heard>, mpsc::Sender<()>) {
    let (gate, wait) = mpsc::channel::<()>();
    let (job, heard) = job_with(prompt, move |_| {
        let _ = wait.recv();
        ControlFlow::Continue(())
    });
    (job, heard, gate)
}

/// The whole text and the end of a job.
fn collect(heard: mpsc::Receiver<Heard>) -> (String, Option<(FinishReason, Usage)>) {
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

fn answer(engine: &Engine, change: impl FnOnce(&mut Job)) -> (String, Option<(FinishReason, Usage)>) {
    let (mut job, heard) = job(question(QUESTION));
    change(&mut job);
    let _handle = engine.submit(job).unwrap();
    collect(heard)
}

#[test]
fn the_demo_model_answers() {
    let facts = MODEL.facts();
    assert_eq!((facts.architecture.as_str(), facts.weights.as_str()), ("llama", "Q8_0"));
    assert_eq!((facts.context_length, facts.vocabulary), (512, 1458));
    assert_eq!(facts.parameters, 3_915_520);
    for threads in [1, 2] {
        let (text, end) = answer(&engine(threads, 1, 0), |_| {});
        assert_eq!(text, ANSWER);
        let usage = Usage { prompt_tokens: 12, cached_tokens: 0, completion_tokens: 37 };
        assert_eq!(end, Some((FinishReason::Stop, usage)));
    }
}

/// High temperatures and many seeds: whatever ends by itself is valid, and most answers do.
#[test]
fn an_answer_of_a_form_that_ends_has_it() {
    let schemas = [
        r#"{"type":"object","properties":{"image":{"type":"string","maxLength":20},"checked":{"type":"boolean"}},
            "required":["image","checked"],"additionalProperties":false}"#,
        r#"{"type":"array","items":{"enum":["platform","enclave","client"]},"minItems":1,"maxItems":4}"#,
        r#"{"anyOf":[{"type":"integer","minimum":-20,"maximum":300},{"type":"null"}]}"#,
    ];
    let valid: [fn(&Value) -> bool; 3] = [
        |value| {
            value.as_object().is_some_and(|object| object.len() == 2)
                && value["image"].as_str().is_some_and(|text| text.chars().count() <= 20)
                && value["checked"].is_boolean()
        },
        |value| {
            let known = |item: &Value| ["platform", "enclave", "client"].iter().any(|known| item == known);
            value.as_array().is_some_and(|items| (1..=4).contains(&items.len()) && items.iter().all(known))
        },
        |value| value.is_null() || value.as_i64().is_some_and(|number| (-20..=300).contains(&number)),
    ];
    let engine = engine(1, 4, 0);
    for (schema, valid) in schemas.into_iter().zip(valid) {
        let constraint = MODEL.constrained_to(schema).unwrap();
        let mut ended = 0;
        for seed in 0..24 {
            let temperature = [0.0, 1.0, 2.0][seed as usize % 3];
            let (text, end) = answer(&engine, |job| {
                job.sampling = Sampling::new(temperature, 1.0, seed).unwrap();
                job.constraint = Some(constraint.clone());
                job.max_tokens = Some(150);
            });
            match end.unwrap().0 {
                FinishReason::Stop => {
                    ended += 1;
                    assert!(valid(&serde_json::from_str(&text).unwrap()), "{schema}: {text}");
                }
                reason => assert_eq!(reason, FinishReason::Length),
            }
        }
        assert!(ended > 18, "only {ended} of 24 ended: {schema}");
    }
    let objects = MODEL.constrained_to_objects().unwrap();
    let (text, end) = answer(&engine, |job| job.constraint = Some(objects));
    assert!(text.starts_with('{'), "{text}");
    assert!(end.unwrap().0 == FinishReason::Length || serde_json::from_str::<Value>(&text).is_ok());
}

#[test]
fn every_token_comes_with_its_probability_beside_its_text() {
    /// The bytes of a token, its probability and those of the likeliest.
    type Told = (Vec<u8>, f32, Vec<f32>);
    struct Scores(mpsc::Sender<(String, Vec<Told>)>);
    impl Sink for Scores {
        fn event(&mut self, event: Event) -> ControlFlow<()> {
            if let Event::Text(text) = event {
                let token = |token: &ScoredToken| {
                    let top = token.top.iter().map(TokenScore::logprob).collect();
                    assert_eq!(token.top[0].bytes(), token.chosen.bytes(), "greedy takes the likeliest");
                    (token.chosen.bytes().to_vec(), token.chosen.logprob(), top)
                };
                self.0.send((text.as_str().to_owned(), text.tokens().iter().map(token).collect())).unwrap();
            }
            ControlFlow::Continue(())
        }
    }
    let engine = engine(1, 1, 0);
    for stop in [None, Some("proves")] {
        let (events, heard) = mpsc::channel();
        let (mut job, _) = job(question(QUESTION));
        job.logprobs = Some(3);
        job.stop = stop.map(str::to_owned).into_iter().collect();
        job.bias = Zeroizing::new(vec![(5, -50.0)]);
        job.sink = Box::new(Scores(events));
        let _handle = engine.submit(job).unwrap();
        let (mut text, mut tokens) = (String::new(), Vec::new());
        for (piece, scored) in heard {
            text += &piece;
            let bytes: Vec<u8> = scored.iter().flat_map(|(bytes, _, _)| bytes.clone()).collect();
            assert!(piece.as_bytes().ends_with(&bytes), "tokens come with the text that they end in");
            tokens.extend(scored);
        }
        let joined: Vec<u8> = tokens.iter().flat_map(|(bytes, _, _)| bytes.clone()).collect();
        match stop {
            None => assert_eq!((joined.as_slice(), text.as_str()), (ANSWER.as_bytes(), ANSWER)),
            Some(stop) => {
                assert_eq!(Some(text.as_str()), ANSWER.split(stop).next());
                assert!(text.as_bytes().starts_with(&joined), "nothing of the stop string is told");
            }
        }
        for (_, logprob, top) in &tokens {
            assert!(top.len() == 3 && top[0] == *logprob && *logprob <= 0.0, "{logprob} {top:?}");
            assert!(top.is_sorted_by(|a, b| a >= b));
            assert!(top.iter().map(|logprob| logprob.exp()).sum::<f32>() <= 1.001);
        }
    }
}

struct Embeddings(mpsc::Sender<Vec<f32>>);

impl Sink for Embeddings {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        if let Event::Embedding(embedding) = event {
            self.0.send(embedding.as_slice().to_vec()).unwrap();
        }
        ControlFlow::Continue(())
    }
}

#[test]
fn a_text_has_one_embedding_however_it_is_read() {
    for pooling in [1, 3] {
        let model = Arc::new(Model::from_gguf(&for_embeddings(DEMO, pooling)).unwrap());
        assert_eq!(model.facts().embedding, Some(256));
        let [one, three] = [1, 3].map(|number| NonZeroUsize::new(number).unwrap());
        let config = EngineConfig { max_queued: 8, ..EngineConfig::new(one, three) };
        let engine = Engine::start(Arc::clone(&model), config).unwrap();
        let embed = |text: &str| {
            let (events, heard) = mpsc::channel();
            let (mut job, _) = job(model.prompt_from_text(text).unwrap());
            job.embedding = true;
            job.sink = Box::new(Embeddings(events));
            (engine.submit(job).unwrap(), heard)
        };
        // The longest takes several steps, and all are read beside each other.
        let long = "The enclave proves what it is. ".repeat(25);
        let texts = ["Attestation", "attestation", long.as_str()];
        let alone: Vec<Vec<f32>> =
            texts.iter().map(|text| embed(text)).map(|(_job, heard)| heard.recv().unwrap()).collect();
        let jobs: Vec<_> = texts.iter().map(|text| embed(text)).collect();
        let together: Vec<Vec<f32>> = jobs.iter().map(|(_job, heard)| heard.recv().unwrap()).collect();
        assert_eq!(alone, together);
        for embedding in &alone {
            let length: f32 = embedding.iter().map(|number| number * number).sum();
            assert!(embedding.len() == 256 && (length - 1.0).abs() < 1e-4, "{length}");
        }
        assert!(alone[0] != alone[1] && alone[1] != alone[2]);
    }
}

#[test]
fn a_model_that_is_not_made_for_embeddings_gives_none() {
    let (mut job, heard) = job(question(QUESTION));
    job.embedding = true;
    assert_eq!(engine(1, 1, 0).submit(job).err(), Some(SubmitError::NoEmbeddings));
    assert!(heard.recv().is_err());
    let cls = Model::from_gguf(&for_embeddings(DEMO, 2)).err().unwrap().to_string();
    assert!(cls.contains("pooling_type"), "{cls}");
    let vocabulary = MODEL.facts().vocabulary;
    assert_eq!(
        MODEL.prompt_from_tokens(Zeroizing::new(vec![vocabulary])).err(),
        Some(PromptError::Token { vocabulary: vocabulary as usize })
    );
}

#[test]
fn loading_tells_how_far_it_is() {
    let mut heard = Vec::new();
    Model::from_gguf_with_progress(DEMO, |progress| heard.push(progress)).unwrap();
    assert!(heard.is_sorted_by(|a, b| a.done < b.done && a.total == b.total));
    let last = heard.last().unwrap();
    assert_eq!(last.done, last.total);
    assert!(heard.len() > 50 && last.total < DEMO.len() as u64);
}

#[test]
fn answers_do_not_depend_on_what_else_runs() {
    let questions = [
        "What is attestation?",
        "Tell me a story about a fox named Mia.",
        "What is 7 plus 8?",
        "Who are you?",
    ];
    let jobs = |number: usize| {
        let (mut job, heard) = job(question(questions[number % 4]));
        // Half of them greedy, half drawn.
        let temperature = if number < 4 { 0.0 } else { 1.3 };
        job.sampling = Sampling::new(temperature, 0.9, number as u64).unwrap();
        (job, heard)
    };
    let alone: Vec<_> = (0..8)
        .map(|number| {
            let (job, heard) = jobs(number);
            let engine = engine(1, 1, 0);
            let _handle = engine.submit(job).unwrap();
            collect(heard)
        })
        .collect();
    let engine = engine(2, 8, 0);
    let together: Vec<_> = (0..8)
        .map(|number| {
            let (job, heard) = jobs(number);
            (engine.submit(job).unwrap(), heard)
        })
        .collect();
    let together: Vec<_> = together.into_iter().map(|(_handle, heard)| collect(heard)).collect();
    assert_eq!(alone, together);
    assert_ne!(alone[0], alone[4], "a temperature of 1.3 changes the answer");
}

#[test]
fn a_prompt_longer_than_one_step_is_answered_the_same_beside_others() {
    let long = format!("{}{QUESTION}", "The enclave measures the image. ".repeat(40));
    let alone = {
        let engine = engine(1, 1, 0);
        let (job, heard) = job(question(&long));
        assert!(job.prompt.len() > 200, "{}", job.prompt.len());
        let _handle = engine.submit(job).unwrap();
        collect(heard)
    };
    let engine = engine(2, 3, 0);
    let others: Vec<_> = (0..2)
        .map(|_| {
            let (job, heard) = job(question("Tell me a story."));
            (engine.submit(job).unwrap(), heard)
        })
        .collect();
    let (job, heard) = job(question(&long));
    let _handle = engine.submit(job).unwrap();
    assert_eq!(collect(heard), alone);
    drop(others);
}

#[test]
fn stop_strings_end_the_answer_and_are_not_emitted() {
    let engine = engine(1, 1, 0);
    let stop = |strings: &[&str]| {
        answer(&engine, |job| job.stop = strings.iter().map(|string| (*string).to_owned()).collect())
    };
    let (text, end) = stop(&["e signature comes fr"]);
    assert_eq!(text, "Attestation proves which image an enclave has started. Th");
    assert_eq!(end.unwrap().0, FinishReason::StopString(0));
    let (text, end) = stop(&["never said", "anyone", "platform"]);
    assert!(text.ends_with(" comes from the "), "{text}");
    assert_eq!(end.unwrap().0, FinishReason::StopString(2));
    let (text, end) = stop(&["prompt. And more"]);
    assert_eq!((text.as_str(), end.unwrap().0), (ANSWER, FinishReason::Stop));
}

#[test]
fn stop_strings_out_of_bounds_are_refused() {
    let engine = engine(1, 1, 0);
    let refused = |stop: Vec<String>| {
        let (mut job, _heard) = job(question(QUESTION));
        job.stop = stop;
        engine.submit(job).err()
    };
    assert_eq!(refused(vec!["x".into(); MAX_STOP_STRINGS + 1]), Some(SubmitError::StopStrings));
    assert_eq!(refused(vec![String::new()]), Some(SubmitError::StopStrings));
    assert_eq!(refused(vec!["x".repeat(MAX_STOP_BYTES + 1)]), Some(SubmitError::StopStrings));
    assert_eq!(refused(vec!["x".repeat(MAX_STOP_BYTES); MAX_STOP_STRINGS]), None);
}

#[test]
fn max_tokens_and_the_context_end_an_answer() {
    let engine = engine(1, 1, 0);
    let (text, end) = answer(&engine, |job| job.max_tokens = Some(5));
    assert!(ANSWER.starts_with(&text) && !text.is_empty());
    assert_eq!(
        end,
        Some((FinishReason::Length, Usage { prompt_tokens: 12, cached_tokens: 0, completion_tokens: 5 }))
    );
    let (text, end) = answer(&engine, |job| job.max_tokens = Some(0));
    assert_eq!(
        (text.as_str(), end),
        (
            "",
            Some((FinishReason::Length, Usage { prompt_tokens: 12, cached_tokens: 0, completion_tokens: 0 }))
        )
    );
    // A prompt that leaves room for a few tokens only.
    let (job, heard) = job(MODEL.prompt_from_text(&"story ".repeat(506)).unwrap());
    let room = 512 - job.prompt.len() as u32;
    assert!((1..8).contains(&room), "{room} tokens of room");
    let _handle = engine.submit(job).unwrap();
    let (_, end) = collect(heard);
    let usage = Usage { prompt_tokens: 512 - room, cached_tokens: 0, completion_tokens: room };
    assert_eq!(end, Some((FinishReason::Length, usage)));
}

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

#[test]
fn jobs_that_do_not_fit_together_run_one_after_the_other() {
    // Each may grow to the whole context, and the memory is for one and a half.
    let engine = engine_with_pages(4, 4, 24 * PAGE).unwrap();
    let running = Arc::new(Mutex::new(0));
    let jobs: Vec<_> = (0..6)
        .map(|number| {
            let running = Arc::clone(&running);
            let (mut job, heard) = job_with(question(QUESTION), move |texts| {
                *running.lock().unwrap() += usize::from(texts == 1);
                ControlFlow::Continue(())
            });
            job.owner = Owner([number; 32]);
            (engine.submit(job).unwrap(), heard)
        })
        .collect();
    for (before, (_handle, heard)) in jobs.into_iter().enumerate() {
        // The next one does not begin before this one has ended; the one after it certainly not.
        assert_eq!(collect(heard).0, ANSWER);
        assert!(*running.lock().unwrap() <= before + 2);
    }
    // Short answers fit together.
    let (mut first, first_heard, gate) = gated_job(question(QUESTION));
    first.max_tokens = Some(20);
    let _first = engine.submit(first).unwrap();
    assert!(matches!(first_heard.recv(), Ok(Heard::Text(_))));
    let (mut second, second_heard, second_gate) = gated_job(question(QUESTION));
    second.max_tokens = Some(20);
    let _second = engine.submit(second).unwrap();
    drop(second_gate);
    drop(gate);
    assert!(collect(second_heard).1.is_some());
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
    let config = EngineConfig::new(NonZeroUsize::MIN, NonZeroUsize::MIN);
    let config = EngineConfig { prefix_time: Duration::from_millis(1), ..config };
    let engine = Engine::start(Arc::clone(&MODEL), config).unwrap();
    let _presence = engine.presence(A);
    ask_at_length(&engine, A);
    memory_when(&engine, |memory| memory.free == memory.pages);
}

#[test]
fn nothing_is_kept_for_no_time_at_all() {
    let (engine, _hand) = keeping_engine(0);
    let _presence = engine.presence(A);
    assert_eq!([0; 2].map(|_| ask_at_length(&engine, A).1), [0; 2]);
}

#[test]
fn a_job_whose_time_is_over_ends_wherever_it_is() {
    let (clock, hand) = Clock::scripted();
    let config = EngineConfig::new(NonZeroUsize::MIN, NonZeroUsize::MIN);
    let config = EngineConfig { max_queued: 2, ..config };
    let engine = Engine::start_with_clock(Arc::clone(&MODEL), config, clock).unwrap();
    let within = |seconds| Some(engine.clock().now() + Duration::from_secs(seconds));
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
