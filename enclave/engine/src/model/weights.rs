//! The tensors of a model: each must be there, of the right shape, and no other.

use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

use super::{Architecture, Hyperparameters, ModelError, Progress, source::Numbers};
use crate::{
    gguf::{Gguf, GgufError, Tensor, TensorType},
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

/// The tensors of a model as they are read, file after file: each in its shape, once, and no other.
pub(super) struct Loading {
    architecture: Architecture,
    shape: Hyperparameters,
    vocabulary: usize,
    /// Those that a model of this shape can have.
    possible: BTreeMap<String, Expected>,
    /// Those that were in a header.
    found: BTreeSet<String>,
    loaded: Loaded,
    parameters: u64,
    types: BTreeSet<TensorType>,
    /// Bytes read.
    done: u64,
}

/// What a tensor must be, and becomes.
#[derive(Clone, Copy)]
struct Expected {
    dimensions: [usize; 4],
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Matrix,
    Vector,
}

impl Loading {
    /// Of a model of this shape, of which nothing was read.
    pub(super) fn new(
        architecture: Architecture,
        shape: Hyperparameters,
        vocabulary: usize,
    ) -> Result<Self, ModelError> {
        let mut possible = Possible(BTreeMap::new());
        gather(&mut possible, architecture, &shape, vocabulary)?;
        Ok(Self {
            architecture,
            shape,
            vocabulary,
            possible: possible.0,
            found: BTreeSet::new(),
            loaded: Loaded { matrices: BTreeMap::new(), vectors: BTreeMap::new() },
            parameters: 0,
            types: BTreeSet::new(),
            done: 0,
        })
    }

    /// Checks a file's tensors by its header, then reads them in the order of the file. The files behind it have
    /// `later` bytes; when it is the `last`, all tensors must be there.
    pub(super) fn read(
        &mut self,
        file: &Gguf<'_>,
        numbers: &mut Numbers<'_>,
        later: u64,
        last: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ModelError> {
        self.check(file, last)?;
        let mut tensors: Vec<(&str, &Tensor)> = file.tensors().collect();
        tensors.sort_unstable_by_key(|(_, tensor)| tensor.start);
        let own: u64 = tensors.iter().map(|(_, tensor)| tensor.length).sum();
        let total = self.done.saturating_add(own).saturating_add(later);
        for (name, tensor) in tensors {
            match self.possible.get(name).map(|expected| expected.kind) {
                Some(Kind::Matrix) => {
                    let mut start = tensor.start;
                    let matrix = Matrix::read(tensor, |bytes| {
                        numbers.read(start, bytes)?;
                        start += bytes.len() as u64;
                        Ok::<_, ModelError>(())
                    })?;
                    self.loaded.matrices.insert(name.into(), matrix);
                }
                Some(Kind::Vector) => _ = self.loaded.vectors.insert(name.into(), vector(tensor, numbers)?),
                None => return Err(ModelError::UnexpectedTensor { name: name.into() }),
            }
            self.done += tensor.length;
            progress(Progress { done: self.done, total });
        }
        Ok(())
    }

    fn check(&mut self, file: &Gguf<'_>, last: bool) -> Result<(), ModelError> {
        let mut unexpected = None;
        for (name, tensor) in file.tensors() {
            let Tensor { tensor_type, dimensions, .. } = *tensor;
            let Some(Expected { dimensions: expected, kind }) = self.possible.get(name).copied() else {
                unexpected = unexpected.or(Some(name));
                continue;
            };
            if dimensions != expected {
                return Err(ModelError::Shape { name: name.into(), expected, found: dimensions });
            }
            match (kind, tensor_type) {
                (Kind::Matrix, _) => _ = self.types.insert(tensor_type),
                (Kind::Vector, TensorType::F32) => {}
                (Kind::Vector, found) => return Err(ModelError::VectorType { name: name.into(), found }),
            }
            if !self.found.insert(name.into()) {
                return Err(GgufError::DuplicateTensor { name: name.into() }.into());
            }
            let numbers = dimensions.iter().map(|length| *length as u64).product::<u64>();
            self.parameters = self.parameters.saturating_add(numbers);
        }
        if last {
            gather(&mut Found(&self.found), self.architecture, &self.shape, self.vocabulary)?;
        }
        // A tensor nobody asked for (a bias, for example) would silently be left out of the computation.
        unexpected.map_or(Ok(()), |name| Err(ModelError::UnexpectedTensor { name: name.into() }))
    }

    /// Numbers of all tensors that were found.
    pub(super) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The types of the matrices that were found, joined with `+`.
    pub(super) fn types(&self) -> String {
        self.types.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
    }

    /// The weights, once all files were read.
    pub(super) fn finish(mut self) -> Result<Weights, ModelError> {
        gather(&mut self.loaded, self.architecture, &self.shape, self.vocabulary)
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

/// Every tensor that a model can have. Gives empty ones.
struct Possible(BTreeMap<String, Expected>);

impl Tensors for Possible {
    fn has(&self, _name: &str) -> bool {
        true
    }

    fn matrix(&mut self, name: &str, columns: usize, rows: usize) -> Result<Matrix, ModelError> {
        self.0.insert(name.into(), Expected { dimensions: [columns, rows, 1, 1], kind: Kind::Matrix });
        Ok(Matrix::empty())
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vector, ModelError> {
        self.0.insert(name.into(), Expected { dimensions: [length, 1, 1, 1], kind: Kind::Vector });
        Ok(Vector::default())
    }
}

/// Checks that each tensor is there, and gives empty ones.
struct Found<'f>(&'f BTreeSet<String>);

impl Tensors for Found<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn matrix(&mut self, name: &str, _columns: usize, _rows: usize) -> Result<Matrix, ModelError> {
        self.has(name).then(Matrix::empty).ok_or_else(|| missing(name))
    }

    fn vector(&mut self, name: &str, _length: usize) -> Result<Vector, ModelError> {
        self.has(name).then(Vector::default).ok_or_else(|| missing(name))
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
