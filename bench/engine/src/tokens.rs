//! Whether both engines cut text into the same tokens.

use cleanroom_engine::Model;

use crate::contestant::{Llama, Outcome};

pub fn run(file: &str, corpus: &[String]) -> Outcome<bool> {
    let llama = Llama::load(Llama::backend()?, file)?;
    let model = Model::from_gguf(&std::fs::read(file)?)?;
    let (mut texts, mut tokens, mut different) = (0_usize, 0_usize, 0_usize);
    for path in corpus {
        let bytes = std::fs::read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        // llama.cpp takes a NUL for the end of the text.
        for piece in text.split('\0').flat_map(pieces) {
            let expected = llama.model().vocab().tokenize(piece.as_bytes(), false, false);
            let found = model.tokens_of_text(piece);
            let same = found.iter().copied().eq(expected.iter().map(|token| token.0.cast_unsigned()));
            if !same && different < 5 {
                let numbers: Vec<i32> = expected.iter().map(|token| token.0).collect();
                println!("different: {piece:?}\n  llama.cpp {numbers:?}\n  ours      {:?}", &*found);
            }
            different += usize::from(!same);
            texts += 1;
            tokens += found.len();
        }
    }
    println!("{texts} texts, {tokens} tokens, {different} different");
    Ok(different == 0 && texts > 0)
}

/// Every line by itself, and every two hundred lines together.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.split_inclusive('\n');
    let ends: Vec<usize> = lines
        .clone()
        .scan(0, |at, line| {
            *at += line.len();
            Some(*at)
        })
        .collect();
    let long = ends.chunks(200).scan(0, move |start, ends| {
        let piece = text.get(*start..*ends.last()?);
        *start = *ends.last()?;
        piece
    });
    lines.chain(long.collect::<Vec<_>>())
}
