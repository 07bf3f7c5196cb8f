//! Embeddings of texts.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, mpsc},
};

use cleanroom_engine::{Engine, EngineConfig, Event, Model, PromptError, Sink, SubmitError};
use zeroize::Zeroizing;

use crate::embedding_model::for_embeddings;
use crate::harness::{DEMO, MODEL, QUESTION, engine, job, question};

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
