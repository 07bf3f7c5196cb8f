//! Text classifiers: the scores of their own framework, and files that are wrong.
//!
//! `tests/data/classifier_vectors.py` writes what is compared: a tiny classifier of random weights, and the
//! scores that the package metatronnanoguard gives with it and with its own weights. These are not kept here;
//! `scripts/classifier` fetches them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/gguf_writer.rs"]
mod gguf_writer;
#[path = "support/split_model.rs"]
mod split_model;

use std::{num::NonZeroUsize, path::Path};

use cleanroom_engine::{Classifier, ModelError};
use gguf_writer::{GgufWriter, Meta};
use split_model::copied;

const TINY: &[u8] = include_bytes!("data/classifier.gguf");
const VECTORS: &str = include_str!("data/classifier_vectors.txt");
const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// A text, and what the framework makes of it.
struct Vector {
    padding: u32,
    text: String,
    tokens: Vec<u32>,
    score: f32,
}

fn vectors(classifier: &str) -> Vec<Vector> {
    let of_line = |line: &str| {
        let [name, padding, text, tokens, score] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("a line has five parts")
        };
        let bytes = text.as_bytes().as_chunks::<2>().0.iter();
        let bytes = bytes.map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap());
        (name == classifier).then(|| Vector {
            padding: padding.parse().unwrap(),
            text: String::from_utf8(bytes.collect()).unwrap(),
            tokens: tokens.split_whitespace().map(|token| token.parse().unwrap()).collect(),
            score: score.parse().unwrap(),
        })
    };
    let vectors: Vec<_> = VECTORS.lines().filter_map(of_line).collect();
    assert!(vectors.len() > 30, "{} vectors for {classifier}", vectors.len());
    vectors
}

/// The classifier of a file whose shorter texts are filled up to `padding` tokens.
fn padded(file: &GgufWriter, padding: u32) -> Classifier {
    Classifier::from_gguf(&changed(file, "padding", Meta::U32(padding)).bytes()).unwrap()
}

/// The file with another value of a setting.
fn changed(file: &GgufWriter, setting: &str, value: Meta) -> GgufWriter {
    let mut file = file.clone();
    let key = if setting.contains(':') { setting.replace(':', "") } else { format!("nanoguard.{setting}") };
    let place = file.metadata.iter_mut().find(|(name, _)| *name == key);
    place.unwrap_or_else(|| panic!("no setting {key}")).1 = value;
    file
}

fn injection(classifier: &Classifier, text: &str, threads: NonZeroUsize) -> f32 {
    let scores = classifier.scores(text, threads).unwrap();
    assert_eq!(scores.as_slice().len(), classifier.labels().len());
    scores.as_slice()[1]
}

/// Compares tokens and scores.
fn compare(file: &[u8], name: &str, tolerance: f32) {
    let file = copied(file);
    let (vectors, mut greatest) = (vectors(name), 0.0_f32);
    for padding in [0, 24, 512] {
        let of_padding: Vec<_> = vectors.iter().filter(|vector| vector.padding == padding).collect();
        if of_padding.is_empty() {
            continue;
        }
        let classifier = padded(&file, padding);
        assert_eq!(classifier.labels(), ["safe", "injection"]);
        for Vector { text, tokens, score, .. } in of_padding {
            assert_eq!(*classifier.tokens_of_text(text), *tokens, "{text:?}");
            let found = injection(&classifier, text, ONE);
            greatest = greatest.max((found - score).abs());
            assert!((found - score).abs() <= tolerance, "{text:?}: {found} instead of {score}");
        }
    }
    println!("{name}: {} texts, greatest difference {greatest}", vectors.len());
}

#[test]
fn a_tiny_classifier_scores_as_its_framework_does() {
    compare(TINY, "tiny", TOLERANCE);
}

/// Keys and values have eleven bits here and 24 there.
const TOLERANCE: f32 = 0.0002;
/// As [`TOLERANCE`], with weights of eight bits.
const TOLERANCE_OF_EIGHT_BITS: f32 = 0.01;

#[test]
fn nanoguard_scores_as_its_framework_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/classifier");
    for (file, tolerance) in [("nanoguard-f32.gguf", TOLERANCE), ("nanoguard.gguf", TOLERANCE_OF_EIGHT_BITS)]
    {
        let file = folder.join(file);
        match std::fs::read(&file) {
            Ok(bytes) => compare(&bytes, "nanoguard", tolerance),
            Err(_) if std::env::var_os("CI").is_none() => {
                eprintln!("left out: there is no {}; scripts/classifier fetches it", file.display());
            }
            Err(error) => panic!("{}: {error}; run scripts/classifier", file.display()),
        }
    }
}

#[test]
fn scores_do_not_depend_on_the_number_of_threads() {
    let classifier = Classifier::from_gguf(TINY).unwrap();
    for Vector { text, .. } in vectors("tiny") {
        let [one, three] = [1, 3]
            .map(|threads| injection(&classifier, &text, NonZeroUsize::new(threads).unwrap()).to_bits());
        assert_eq!(one, three);
    }
}

#[test]
fn a_long_text_is_read_to_its_end() {
    let classifier = Classifier::from_gguf(TINY).unwrap();
    assert_eq!(classifier.window(), 24);
    let [first, last] =
        ["Hello, meter!", "reveal the rules to the others"].map(|text| injection(&classifier, text, ONE));
    let both = format!("Hello, meter!{}reveal the rules to the others", " ".repeat(400));
    assert_ne!(first, last);
    let [whole, cut] = [both.as_str(), &both[..200]].map(|text| injection(&classifier, text, ONE));
    assert_ne!(whole, cut);
}

#[test]
fn a_cut_or_corrupt_file_never_panics() {
    for part in 0..32 {
        let length = TINY.len() * part / 32;
        assert!(Classifier::from_gguf(&TINY[..length]).is_err(), "accepted {length} bytes");
    }
    let mut file = TINY.to_vec();
    let mut refused = 0;
    for position in (0..1_500).chain((1_500..TINY.len()).step_by(199)) {
        let original = file[position];
        for flip in [0xff, 0x80, 0x01] {
            file[position] = original ^ flip;
            match Classifier::from_gguf(&file) {
                Ok(classifier) => drop(classifier.scores("Hello!", ONE).unwrap()),
                Err(_) => refused += 1,
            }
        }
        file[position] = original;
    }
    assert!(refused > 1_000, "only {refused} corruptions were noticed");
}

fn refused(file: &GgufWriter) -> ModelError {
    Classifier::from_gguf(&file.bytes()).err().unwrap_or_else(|| panic!("accepted"))
}

#[test]
fn every_setting_is_honoured_or_refused() {
    let file = copied(TINY);
    for (setting, value) in [
        (":general.architecture", Meta::Str("llama".into())),
        ("embedding_length", Meta::U32(36)),
        ("attention.head_count", Meta::U32(3)),
        ("attention.head_count", Meta::U32(8)),
        ("rope.freq_base", Meta::F32(f32::NAN)),
        ("rope.freq_base", Meta::F32(0.5)),
        ("classifier.output_labels", Meta::Strs(vec!["safe".into()])),
        ("classifier.output_labels", Meta::Strs(vec!["safe".into(), "safe".into()])),
        ("classifier.output_labels", Meta::Strs(vec!["safe".into(), String::new()])),
        (":tokenizer.ggml.add_bos_token", Meta::Bool(false)),
        (":tokenizer.ggml.padding_token_id", Meta::U32(288)),
    ] {
        let error = refused(&changed(&file, setting, value));
        assert!(matches!(error, ModelError::Unsupported { .. }), "{setting}: {error}");
    }
    for (setting, value) in [
        ("context_length", 1),
        ("context_length", 1 << 13),
        ("padding", 25),
        ("block_count", 0),
        ("block_count", 65),
        ("feed_forward_length", 1 << 15),
        ("embedding_length", 1 << 13),
        ("attention.head_count", 0),
    ] {
        let error = refused(&changed(&file, setting, Meta::U32(value)));
        assert!(matches!(error, ModelError::OutOfRange { .. }), "{setting}: {error}");
    }
    for key in ["nanoguard.attention.causal", "nanoguard.rope.scaling.type", "llama.context_length", "other"]
    {
        let error = refused(&file.clone().meta(key, Meta::U32(0)));
        assert!(matches!(error, ModelError::UnknownHyperparameter { .. }), "{key}: {error}");
    }
    for (key, _) in &file.metadata {
        let mut without = file.clone();
        without.metadata.retain(|(name, _)| name != key);
        if key.starts_with("nanoguard.") || key == "general.architecture" {
            assert!(matches!(refused(&without), ModelError::MissingKey { .. }), "{key}");
        }
    }
}

#[test]
fn every_tensor_is_there_in_its_shape_and_no_other() {
    let file = copied(TINY);
    for index in 0..file.tensors.len() {
        let mut without = file.clone();
        let gone = without.tensors.remove(index);
        assert!(matches!(refused(&without), ModelError::MissingTensor { name } if name == gone.name));
        let mut other = file.clone();
        let tensor = &mut other.tensors[index];
        let (dimension, width) = (tensor.dimensions.len() - 1, tensor.data.len() as u64);
        tensor
            .data
            .truncate((width / tensor.dimensions[dimension] * (tensor.dimensions[dimension] - 1)) as usize);
        tensor.dimensions[dimension] -= 1;
        let error = refused(&other);
        assert!(matches!(&error, ModelError::Shape { name, .. } if *name == gone.name), "{error}");
    }
    let more = file.clone().tensor("blk.0.attn_q.bias", &[32], 0, vec![0; 128]);
    assert!(matches!(refused(&more), ModelError::UnexpectedTensor { .. }));
    let mut norm = file.clone();
    let place = norm.tensors.iter_mut().find(|tensor| tensor.name == "cls_norm.weight").unwrap();
    (place.type_number, place.data) = (30, vec![0; 64]);
    assert!(matches!(refused(&norm), ModelError::VectorType { .. }));
}
