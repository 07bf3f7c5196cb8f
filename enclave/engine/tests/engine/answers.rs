//! What an answer is: its tokens, its form, its probabilities, its end.

use std::{ops::ControlFlow, sync::mpsc};

use cleanroom_engine::{
    Event, FinishReason, MAX_STOP_BYTES, MAX_STOP_STRINGS, Model, Sampling, ScoredToken, Sink, SubmitError,
    TokenScore, Usage,
};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::harness::{ANSWER, DEMO, MODEL, QUESTION, answer, collect, engine, job, question};

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
        job.stop = stop.map(|stop| Zeroizing::new(stop.to_owned())).into_iter().collect();
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
        let strings = strings.iter().map(|string| Zeroizing::new((*string).to_owned()));
        answer(&engine, |job| job.stop = strings.collect())
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
        job.stop = stop.into_iter().map(Zeroizing::new).collect();
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
fn loading_tells_how_far_it_is() {
    let mut heard = Vec::new();
    Model::from_gguf_with_progress(DEMO, |progress| heard.push(progress)).unwrap();
    assert!(heard.is_sorted_by(|a, b| a.done < b.done && a.total == b.total));
    let last = heard.last().unwrap();
    assert_eq!(last.done, last.total);
    assert!(heard.len() > 50 && last.total < DEMO.len() as u64);
}
