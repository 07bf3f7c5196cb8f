//! candle, by the interface of the others.

use std::{fs::File, io::BufReader};

use candle_core::{Device, Tensor, quantized::gguf_file};
use candle_transformers::models::quantized_llama::ModelWeights;

use crate::contestant::{Contestant, Outcome, Piece, SEQUENCES};

/// candle: one copy of the weights, and keys and values for each sequence. It has no batch of sequences that differ in length,
/// so they are computed one after another. Its threads are those of the process; see `speed`.
pub struct Candle {
    sequences: Vec<ModelWeights>,
    lengths: [usize; SEQUENCES],
}

impl Candle {
    pub fn load(path: &str) -> Outcome<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let content = gguf_file::Content::read(&mut file)?;
        let model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
        Ok(Self { sequences: vec![model; SEQUENCES], lengths: [0; SEQUENCES] })
    }
}

impl Contestant for Candle {
    fn append(&mut self, pieces: &[Piece<'_>], each: &mut dyn FnMut(&[f32])) -> Outcome<()> {
        for piece in pieces {
            if piece.all {
                return Err("candle scores only the last token".into());
            }
            let length = &mut self.lengths[piece.sequence];
            let tokens = Tensor::new(piece.tokens, &Device::Cpu)?.unsqueeze(0)?;
            let scores = self.sequences[piece.sequence].forward(&tokens, *length)?;
            *length += piece.tokens.len();
            each(&scores.squeeze(0)?.to_vec1::<f32>()?);
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.sequences.iter_mut().for_each(ModelWeights::clear_kv_cache);
        self.lengths = [0; SEQUENCES];
    }
}
