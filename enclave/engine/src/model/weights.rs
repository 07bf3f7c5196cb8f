//! The tensors of a model: each must be there, of the right shape, and no other.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{Architecture, Hyperparameters, ModelError, Progress, source::Numbers};
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

/// A file whose tensors are those of such a model: each there, in its shape, and no other. Nothing was read of
/// them.
pub(super) struct Plan<'f, 'a> {
    file: &'f Gguf<'a>,
    architecture: Architecture,
    shape: &'f Hyperparameters,
    vocabulary: usize,
    kinds: BTreeMap<String, Kind>,
}

/// What a tensor becomes.
#[derive(Clone, Copy)]
enum Kind {
    Matrix,
    Vector,
}

impl<'f, 'a> Plan<'f, 'a> {
    /// Checks the file's tensors by its header.
    pub(super) fn of(
        file: &'f Gguf<'a>,
        architecture: Architecture,
        shape: &'f Hyperparameters,
        vocabulary: usize,
    ) -> Result<Self, ModelError> {
        let mut check = Check { file, kinds: BTreeMap::new() };
        gather(&mut check, architecture, shape, vocabulary)?;
        let kinds = check.kinds;
        // A tensor nobody asked for (a bias, for example) would silently be left out of the computation.
        match file.tensors().find(|(name, _)| !kinds.contains_key(*name)) {
            Some((name, _)) => Err(ModelError::UnexpectedTensor { name: name.into() }),
            None => Ok(Self { file, architecture, shape, vocabulary, kinds }),
        }
    }

    /// Reads the tensors in the order of the file.
    pub(super) fn read(
        self,
        numbers: &mut Numbers<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Weights, ModelError> {
        let Self { file, architecture, shape, vocabulary, kinds } = self;
        let mut tensors: Vec<(&str, &Tensor)> = file.tensors().collect();
        tensors.sort_unstable_by_key(|(_, tensor)| tensor.start);
        let mut read = Progress { done: 0, total: tensors.iter().map(|(_, tensor)| tensor.length).sum() };
        let mut loaded = Loaded { matrices: BTreeMap::new(), vectors: BTreeMap::new() };
        for (name, tensor) in tensors {
            match kinds.get(name) {
                Some(Kind::Matrix) => {
                    let mut start = tensor.start;
                    let matrix = Matrix::read(tensor, |bytes| {
                        numbers.read(start, bytes)?;
                        start += bytes.len() as u64;
                        Ok::<_, ModelError>(())
                    })?;
                    loaded.matrices.insert(name.into(), matrix);
                }
                Some(Kind::Vector) => _ = loaded.vectors.insert(name.into(), vector(tensor, numbers)?),
                None => return Err(ModelError::UnexpectedTensor { name: name.into() }),
            }
            read.done += tensor.length;
            progress(read);
        }
        gather(&mut loaded, architecture, shape, vocabulary)
    }
}

/// Where [`gather`] has tensors from.
trait Tensors {
    fn has(&self, name: &str) -> bool;
    fn matrix(&mut self, name: &str, columns: usize, rows: usize) -> Result<Matrix, ModelError>;
    fn vector(&mut self, name: &str, length: usize) -> Result<Vector, ModelError>;
}

/// Asks for every tensor of a model, once.
fn gather(
    tensors: &mut impl Tensors,
    architecture: Architecture,
    shape: &Hyperparameters,
    vocabulary: usize,
) -> Result<Weights, ModelError> {
    let width = shape.width;
    let embedding = tensors.matrix("token_embd.weight", width, vocabulary)?;
    let output = match tensors.has("output.weight") {
        true => Some(tensors.matrix("output.weight", width, vocabulary)?),
        false => None,
    };
    let rope_factors = match tensors.has("rope_freqs.weight") {
        true => Some(tensors.vector("rope_freqs.weight", shape.rope_width / 2)?),
        false => None,
    };
    let output_norm = tensors.vector("output_norm.weight", width)?;
    let layers = (0..shape.layers).map(|index| layer(tensors, index, architecture, shape));
    let layers = layers.collect::<Result<_, _>>()?;
    Ok(Weights { embedding, layers, output_norm, output, rope_factors })
}

fn layer(
    tensors: &mut impl Tensors,
    index: usize,
    architecture: Architecture,
    shape: &Hyperparameters,
) -> Result<Layer, ModelError> {
    let width = shape.width;
    let queries = shape.heads * shape.head_width;
    let keys = shape.kv_heads * shape.head_width;
    let name = |part: &str| format!("blk.{index}.{part}.weight");
    let bias = |part: &str| format!("blk.{index}.{part}.bias");
    let biases = if architecture.has_biases() {
        Some(Biases {
            query: tensors.vector(&bias("attn_q"), queries)?,
            key: tensors.vector(&bias("attn_k"), keys)?,
            value: tensors.vector(&bias("attn_v"), keys)?,
        })
    } else {
        None
    };
    let head_norms = if architecture.has_head_norms() {
        Some(HeadNorms {
            query: tensors.vector(&name("attn_q_norm"), shape.head_width)?,
            key: tensors.vector(&name("attn_k_norm"), shape.head_width)?,
        })
    } else {
        None
    };
    Ok(Layer {
        biases,
        head_norms,
        attention_norm: tensors.vector(&name("attn_norm"), width)?,
        query: tensors.matrix(&name("attn_q"), width, queries)?,
        key: tensors.matrix(&name("attn_k"), width, keys)?,
        value: tensors.matrix(&name("attn_v"), width, keys)?,
        attention_output: tensors.matrix(&name("attn_output"), queries, width)?,
        feed_forward_norm: tensors.vector(&name("ffn_norm"), width)?,
        gate: tensors.matrix(&name("ffn_gate"), width, shape.feed_forward)?,
        up: tensors.matrix(&name("ffn_up"), width, shape.feed_forward)?,
        down: tensors.matrix(&name("ffn_down"), shape.feed_forward, width)?,
    })
}

/// Checks that each tensor is there and as it must be, and gives empty ones.
struct Check<'f, 'a> {
    file: &'f Gguf<'a>,
    kinds: BTreeMap<String, Kind>,
}

impl Check<'_, '_> {
    fn tensor(&mut self, name: &str, expected: [usize; 4], kind: Kind) -> Result<TensorType, ModelError> {
        let tensor = self.file.tensor(name).ok_or_else(|| missing(name))?;
        if tensor.dimensions != expected {
            return Err(ModelError::Shape { name: name.into(), expected, found: tensor.dimensions });
        }
        self.kinds.insert(name.into(), kind);
        Ok(tensor.tensor_type)
    }
}

impl Tensors for Check<'_, '_> {
    fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    fn matrix(&mut self, name: &str, columns: usize, rows: usize) -> Result<Matrix, ModelError> {
        self.tensor(name, [columns, rows, 1, 1], Kind::Matrix).map(|_| Matrix::empty())
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vector, ModelError> {
        match self.tensor(name, [length, 1, 1, 1], Kind::Vector)? {
            TensorType::F32 => Ok(Vector::default()),
            found => Err(ModelError::VectorType { name: name.into(), found }),
        }
    }
}

/// What was read.
struct Loaded {
    matrices: BTreeMap<String, Matrix>,
    vectors: BTreeMap<String, Vector>,
}

impl Tensors for Loaded {
    fn has(&self, name: &str) -> bool {
        self.matrices.contains_key(name) || self.vectors.contains_key(name)
    }

    fn matrix(&mut self, name: &str, _columns: usize, _rows: usize) -> Result<Matrix, ModelError> {
        self.matrices.remove(name).ok_or_else(|| missing(name))
    }

    fn vector(&mut self, name: &str, _length: usize) -> Result<Vector, ModelError> {
        self.vectors.remove(name).ok_or_else(|| missing(name))
    }
}

fn vector(tensor: &Tensor, numbers: &mut Numbers<'_>) -> Result<Vector, ModelError> {
    let [length, ..] = tensor.dimensions;
    let mut bytes = Zeroizing::new(vec![0; length.saturating_mul(4)]);
    numbers.read(tensor.start, &mut bytes)?;
    let numbers = bytes.as_chunks::<4>().0.iter();
    Ok(Zeroizing::new(numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}

fn missing(name: &str) -> ModelError {
    ModelError::MissingTensor { name: name.into() }
}
