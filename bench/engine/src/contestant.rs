//! One interface to all engines: tokens in, scores out.

use std::{
    error::Error,
    num::{NonZeroU32, NonZeroUsize},
};

use cleanroom_engine::{EvaluatedToken, Evaluator, Model};
use llama_cpp_2::{
    LogOptions,
    context::{LlamaContext, params::LlamaContextParams},
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Tokens of one sequence, from the first position that is free.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub sequence: usize,
    pub tokens: &'a [u32],
    /// Whether all tokens are scored, or only the last.
    pub all: bool,
}

pub trait Contestant {
    /// Computes the pieces in one go; the scores of each scored token, in order, go to `each`.
    fn append(&mut self, pieces: &[Piece<'_>], each: &mut dyn FnMut(&[f32])) -> Outcome<()>;

    /// Empties all sequences.
    fn clear(&mut self);
}

/// Sequences that are computed at once at most.
pub const SEQUENCES: usize = 4;
/// Tokens of a sequence at most.
pub const CONTEXT: usize = 512;

pub struct Ours<'m>(Evaluator<'m>);

impl<'m> Ours<'m> {
    pub fn new(model: &'m Model, threads: usize) -> Outcome<Self> {
        let number = |number| NonZeroUsize::new(number).ok_or("no threads");
        Ok(Self(Evaluator::new(model, number(threads)?, number(SEQUENCES)?)?))
    }
}

impl Contestant for Ours<'_> {
    fn append(&mut self, pieces: &[Piece<'_>], each: &mut dyn FnMut(&[f32])) -> Outcome<()> {
        let tokens: Vec<EvaluatedToken> = pieces
            .iter()
            .flat_map(|piece| {
                let last = piece.tokens.len() - 1;
                piece.tokens.iter().enumerate().map(move |(index, token)| EvaluatedToken {
                    sequence: piece.sequence,
                    token: *token,
                    scored: piece.all || index == last,
                })
            })
            .collect();
        Ok(self.0.append(&tokens, |_, scores| each(scores))?)
    }

    fn clear(&mut self) {
        (0..SEQUENCES).for_each(|sequence| self.0.clear(sequence));
    }
}

/// llama.cpp and its model.
pub struct Llama {
    backend: LlamaBackend,
    model: LlamaModel,
}

impl Llama {
    pub fn load(backend: LlamaBackend, file: &str) -> Outcome<Self> {
        let model = LlamaModel::load_from_file(&backend, file, &LlamaModelParams::default())?;
        Ok(Self { backend, model })
    }

    /// Silent: what it says of a model is of no interest here.
    pub fn backend() -> Outcome<LlamaBackend> {
        llama_cpp_2::send_logs_to_tracing(LogOptions::default().with_logs_enabled(false));
        Ok(LlamaBackend::init()?)
    }

    pub fn into_backend(self) -> LlamaBackend {
        self.backend
    }

    pub fn model(&self) -> &LlamaModel {
        &self.model
    }

    pub fn start(&self, threads: usize) -> Outcome<Theirs<'_>> {
        let threads = i32::try_from(threads)?;
        let parameters = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(u32::try_from(CONTEXT * SEQUENCES)?))
            .with_n_batch(u32::try_from(CONTEXT)?)
            .with_n_ubatch(u32::try_from(CONTEXT)?)
            .with_n_seq_max(u32::try_from(SEQUENCES)?)
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let context = self.model.new_context(&self.backend, parameters)?;
        let batch = LlamaBatch::new(CONTEXT, i32::try_from(SEQUENCES)?);
        Ok(Theirs { context, batch, lengths: [0; SEQUENCES] })
    }
}

pub struct Theirs<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'m>,
    lengths: [usize; SEQUENCES],
}

impl Contestant for Theirs<'_> {
    fn append(&mut self, pieces: &[Piece<'_>], each: &mut dyn FnMut(&[f32])) -> Outcome<()> {
        self.batch.clear();
        let mut scored = Vec::new();
        for piece in pieces {
            let length = &mut self.lengths[piece.sequence];
            for (index, token) in piece.tokens.iter().enumerate() {
                let wanted = piece.all || index + 1 == piece.tokens.len();
                if wanted {
                    scored.push(self.batch.n_tokens());
                }
                let token = LlamaToken(i32::try_from(*token)?);
                self.batch.add(token, i32::try_from(*length)?, &[i32::try_from(piece.sequence)?], wanted)?;
                *length += 1;
            }
        }
        self.context.decode(&mut self.batch)?;
        scored.into_iter().for_each(|index| each(self.context.get_logits_ith(index)));
        Ok(())
    }

    fn clear(&mut self) {
        self.context.clear_kv_cache();
        self.lengths = [0; SEQUENCES];
    }
}

/// The token of the largest score, the first of equals.
pub fn best(scores: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (score, token) in scores.iter().zip(0..) {
        if *score > best.0 {
            best = (*score, token);
        }
    }
    best.1
}

/// Tokens that look like those of a text: any from a range, by a fixed rule.
pub fn prompt(seed: u32, length: usize, vocabulary: u32) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let first = vocabulary / 8;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            first + (state >> 8) % (vocabulary - first)
        })
        .collect()
}
