//! The tensors of a model: each must be there, of the right shape, and no other.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::{Architecture, Hyperparameters, ModelError, Progress};
use crate::{
    gguf::{Gguf, Tensor, TensorType},
    matrix::Matrix,
};

/// All weights of a model, in the kernels' layout. Zeroised on drop.
pub(crate) struct Weights {
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vector,
    /// `None` when the output head is the embedding.
    pub(crate) output: Option<Matrix>,
    /// Divisors of the rotation frequencies, one for each rotated pair, if the model has them.
    pub(crate) rope_factors: Option<Vector>,
}

/// One transformer block.
pub(crate) struct Layer {
    pub(crate) attention_norm: Vector,
    pub(crate) query: Matrix,
    pub(crate) key: Matrix,
    pub(crate) value: Matrix,
    /// Added to queries, keys and values, if the model has them.
    pub(crate) biases: Option<Biases>,
    /// Norms of the queries and of the keys of each head, if the model has them.
    pub(crate) head_norms: Option<HeadNorms>,
    pub(crate) attention_output: Matrix,
    pub(crate) feed_forward_norm: Vector,
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
}

pub(crate) struct Biases {
    pub(crate) query: Vector,
    pub(crate) key: Vector,
    pub(crate) value: Vector,
}

pub(crate) struct HeadNorms {
    pub(crate) query: Vector,
    pub(crate) key: Vector,
}

pub(crate) type Vector = Zeroizing<Vec<f32>>;

impl Weights {
    pub(super) fn from_gguf(
        file: &Gguf<'_>,
        architecture: Architecture,
        shape: &Hyperparameters,
        vocabulary: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ModelError> {
        let bytes = file.tensors().map(|(_, tensor)| tensor.bytes.len() as u64).sum();
        let read = Progress { done: 0, total: bytes };
        let mut loader = Loader { file, architecture, used: BTreeSet::new(), read, progress };
        let width = shape.width;
        let embedding = loader.matrix("token_embd.weight", width, vocabulary)?;
        let output = match file.tensor("output.weight") {
            Some(_) => Some(loader.matrix("output.weight", width, vocabulary)?),
            None => None,
        };
        let rope_factors = match file.tensor("rope_freqs.weight") {
            Some(_) => Some(loader.vector("rope_freqs.weight", shape.rope_width / 2)?),
            None => None,
        };
        let output_norm = loader.vector("output_norm.weight", width)?;
        let layers = (0..shape.layers).map(|index| loader.layer(index, shape)).collect::<Result<_, _>>()?;
        loader.refuse_unused()?;
        Ok(Self { embedding, layers, output_norm, output, rope_factors })
    }
}

/// Looks tensors up and remembers which were used.
struct Loader<'f, 'a> {
    file: &'f Gguf<'a>,
    architecture: Architecture,
    used: BTreeSet<String>,
    read: Progress,
    progress: &'f mut dyn FnMut(Progress),
}

impl<'a> Loader<'_, 'a> {
    fn layer(&mut self, index: usize, shape: &Hyperparameters) -> Result<Layer, ModelError> {
        let width = shape.width;
        let queries = shape.heads * shape.head_width;
        let keys = shape.kv_heads * shape.head_width;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let bias = |part: &str| format!("blk.{index}.{part}.bias");
        let biases = if self.architecture.has_biases() {
            Some(Biases {
                query: self.vector(&bias("attn_q"), queries)?,
                key: self.vector(&bias("attn_k"), keys)?,
                value: self.vector(&bias("attn_v"), keys)?,
            })
        } else {
            None
        };
        let head_norms = if self.architecture.has_head_norms() {
            Some(HeadNorms {
                query: self.vector(&name("attn_q_norm"), shape.head_width)?,
                key: self.vector(&name("attn_k_norm"), shape.head_width)?,
            })
        } else {
            None
        };
        Ok(Layer {
            biases,
            head_norms,
            attention_norm: self.vector(&name("attn_norm"), width)?,
            query: self.matrix(&name("attn_q"), width, queries)?,
            key: self.matrix(&name("attn_k"), width, keys)?,
            value: self.matrix(&name("attn_v"), width, keys)?,
            attention_output: self.matrix(&name("attn_output"), queries, width)?,
            feed_forward_norm: self.vector(&name("ffn_norm"), width)?,
            gate: self.matrix(&name("ffn_gate"), width, shape.feed_forward)?,
            up: self.matrix(&name("ffn_up"), width, shape.feed_forward)?,
            down: self.matrix(&name("ffn_down"), shape.feed_forward, width)?,
        })
    }

    fn matrix(&mut self, name: &str, columns: usize, rows: usize) -> Result<Matrix, ModelError> {
        let tensor = self.tensor(name, [columns, rows, 1, 1])?;
        let matrix = Matrix::from_tensor(&tensor);
        self.count(&tensor);
        Ok(matrix)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vector, ModelError> {
        let tensor = self.tensor(name, [length, 1, 1, 1])?;
        if tensor.tensor_type != TensorType::F32 {
            return Err(ModelError::VectorType { name: name.into(), found: tensor.tensor_type });
        }
        let numbers = tensor.bytes.as_chunks::<4>().0.iter();
        let vector = Zeroizing::new(numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect());
        self.count(&tensor);
        Ok(vector)
    }

    fn count(&mut self, tensor: &Tensor<'_>) {
        self.read.done += tensor.bytes.len() as u64;
        (self.progress)(self.read);
    }

    fn tensor(&mut self, name: &str, expected: [usize; 4]) -> Result<Tensor<'a>, ModelError> {
        let tensor = self.file.tensor(name).ok_or_else(|| ModelError::MissingTensor { name: name.into() })?;
        if tensor.dimensions != expected {
            return Err(ModelError::Shape { name: name.into(), expected, found: tensor.dimensions });
        }
        self.used.insert(name.into());
        Ok(*tensor)
    }

    /// A tensor nobody asked for (a bias, for example) would silently be left out of the computation.
    fn refuse_unused(&self) -> Result<(), ModelError> {
        match self.file.tensors().find(|(name, _)| !self.used.contains(*name)) {
            Some((name, _)) => Err(ModelError::UnexpectedTensor { name: name.into() }),
            None => Ok(()),
        }
    }
}
