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
    pub(crate) rope_factors: Option<RopeFactors>,
}

/// Divisors of the rotation frequencies, one for each rotated pair.
pub(crate) enum RopeFactors {
    /// For every context.
    One(Vector),
    /// For contexts up to the original one, and for longer ones.
    ShortAndLong(Vector, Vector),
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
    /// Added to what attention gives, if the model has it.
    pub(crate) output_bias: Option<Vector>,
    /// For each head a score of attention that belongs to no position, if the model has them.
    pub(crate) sinks: Option<Vector>,
    /// Norms of what the two halves add to the stream, if the model has them.
    pub(crate) post_norms: Option<PostNorms>,
    pub(crate) feed_forward_norm: Vector,
    pub(crate) feed_forward: FeedForward,
}

/// The second half of a layer.
pub(crate) enum FeedForward {
    Dense(Expert),
    Experts {
        /// Gives each expert's score.
        router: Matrix,
        router_bias: Option<Vector>,
        experts: Vec<Expert>,
    },
}

/// A gated feed-forward network.
pub(crate) struct Expert {
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
    pub(crate) biases: Option<ExpertBiases>,
}

pub(crate) struct ExpertBiases {
    pub(crate) gate: Vector,
    pub(crate) up: Vector,
    pub(crate) down: Vector,
}

impl FeedForward {
    pub(crate) fn router(&self) -> Option<&Matrix> {
        match self {
            FeedForward::Dense(_) => None,
            FeedForward::Experts { router, .. } => Some(router),
        }
    }

    /// All of its networks: one or many.
    pub(crate) fn experts(&self) -> &[Expert] {
        match self {
            FeedForward::Dense(expert) => std::slice::from_ref(expert),
            FeedForward::Experts { experts, .. } => experts,
        }
    }
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

pub(crate) struct PostNorms {
    pub(crate) attention: Vector,
    pub(crate) feed_forward: Vector,
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
struct Expected {
    dimensions: [usize; 4],
    kind: Kind,
}

enum Kind {
    /// Matrices of so many rows each, one below the other.
    Matrices(Vec<usize>),
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
            match self.possible.get(name).map(|expected| &expected.kind) {
                Some(Kind::Matrices(parts)) => {
                    let mut start = tensor.start;
                    let mut fill = |bytes: &mut [u8]| {
                        numbers.read(start, bytes)?;
                        start += bytes.len() as u64;
                        Ok::<_, ModelError>(())
                    };
                    let matrices = parts.iter().map(|rows| Matrix::read(tensor, *rows, &mut fill));
                    self.loaded.matrices.insert(name.into(), matrices.collect::<Result<_, _>>()?);
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
            let Some(Expected { dimensions: expected, kind }) = self.possible.get(name) else {
                unexpected = unexpected.or(Some(name));
                continue;
            };
            if dimensions != *expected {
                return Err(ModelError::Shape { name: name.into(), expected: *expected, found: dimensions });
            }
            match (kind, tensor_type) {
                (Kind::Matrices(_), _) => _ = self.types.insert(tensor_type),
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
    /// A tensor of these dimensions that is several matrices of so many rows each, one below the other.
    fn stack(
        &mut self,
        name: &str,
        dimensions: [usize; 4],
        rows: Vec<usize>,
    ) -> Result<Vec<Matrix>, ModelError>;
    /// The same of two dimensions.
    fn matrices<const N: usize>(
        &mut self,
        name: &str,
        columns: usize,
        rows: [usize; N],
    ) -> Result<[Matrix; N], ModelError> {
        let matrices = self.stack(name, [columns, rows.iter().sum(), 1, 1], rows.into())?;
        matrices.try_into().map_err(|_| missing(name))
    }
    fn matrix(&mut self, name: &str, columns: usize, rows: usize) -> Result<Matrix, ModelError> {
        self.matrices(name, columns, [rows]).map(|[matrix]| matrix)
    }
    /// So many vectors of this length, one after the other.
    fn vectors(&mut self, name: &str, length: usize, count: usize) -> Result<Vector, ModelError>;
    fn vector(&mut self, name: &str, length: usize) -> Result<Vector, ModelError> {
        self.vectors(name, length, 1)
    }
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
    let rope_factors = rope_factors(tensors, architecture, shape.rope_width / 2)?;
    let output_norm = tensors.vector("output_norm.weight", width)?;
    let layers = (0..shape.layers).map(|index| layer(tensors, index, architecture, shape));
    let layers = layers.collect::<Result<_, _>>()?;
    Ok(Weights { embedding, layers, output_norm, output, rope_factors })
}

fn rope_factors(
    tensors: &mut impl Tensors,
    architecture: Architecture,
    pairs: usize,
) -> Result<Option<RopeFactors>, ModelError> {
    const ONE: &str = "rope_freqs.weight";
    const SHORT: &str = "rope_factors_short.weight";
    const LONG: &str = "rope_factors_long.weight";
    if architecture.is_gemma() {
        return Ok(None);
    }
    if architecture != Architecture::Phi3 {
        let one = tensors.has(ONE).then(|| tensors.vector(ONE, pairs)).transpose()?;
        return Ok(one.map(RopeFactors::One));
    }
    if !(tensors.has(SHORT) || tensors.has(LONG)) {
        return Ok(None);
    }
    Ok(Some(RopeFactors::ShortAndLong(tensors.vector(SHORT, pairs)?, tensors.vector(LONG, pairs)?)))
}

fn layer<T: Tensors>(
    tensors: &mut T,
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
    let post_norms = if architecture.is_gemma() {
        Some(PostNorms {
            attention: tensors.vector(&name("post_attention_norm"), width)?,
            feed_forward: tensors.vector(&name("post_ffw_norm"), width)?,
        })
    } else {
        None
    };
    let joined = architecture.has_joined_tensors();
    let [query, key, value] = if joined {
        tensors.matrices(&name("attn_qkv"), width, [queries, keys, keys])?
    } else {
        [
            tensors.matrix(&name("attn_q"), width, queries)?,
            tensors.matrix(&name("attn_k"), width, keys)?,
            tensors.matrix(&name("attn_v"), width, keys)?,
        ]
    };
    let is_gpt_oss = architecture.is_gpt_oss();
    let of_gpt_oss = |tensors: &mut T, name: &str, length: usize| {
        is_gpt_oss.then(|| tensors.vector(name, length)).transpose()
    };
    // gpt-oss has no norm behind attention, but calls the one before the other half so.
    let feed_forward_norm = if is_gpt_oss { "post_attention_norm" } else { "ffn_norm" };
    Ok(Layer {
        biases,
        head_norms,
        post_norms,
        attention_norm: tensors.vector(&name("attn_norm"), width)?,
        query,
        key,
        value,
        attention_output: tensors.matrix(&name("attn_output"), queries, width)?,
        output_bias: of_gpt_oss(tensors, &bias("attn_output"), width)?,
        sinks: of_gpt_oss(tensors, &name("attn_sinks"), shape.heads)?,
        feed_forward_norm: tensors.vector(&name(feed_forward_norm), width)?,
        feed_forward: match shape.experts {
            Some(counts) => experts(tensors, index, architecture, shape, counts.all)?,
            None => dense(tensors, index, architecture, shape)?,
        },
    })
}

fn dense(
    tensors: &mut impl Tensors,
    index: usize,
    architecture: Architecture,
    shape: &Hyperparameters,
) -> Result<FeedForward, ModelError> {
    let (width, inner) = (shape.width, shape.feed_forward);
    let name = |part: &str| format!("blk.{index}.{part}.weight");
    let [gate, up] = if architecture.has_joined_tensors() {
        tensors.matrices(&name("ffn_up"), width, [inner; 2])?
    } else {
        [tensors.matrix(&name("ffn_gate"), width, inner)?, tensors.matrix(&name("ffn_up"), width, inner)?]
    };
    let down = tensors.matrix(&name("ffn_down"), inner, width)?;
    Ok(FeedForward::Dense(Expert { gate, up, down, biases: None }))
}

fn experts(
    tensors: &mut impl Tensors,
    index: usize,
    architecture: Architecture,
    shape: &Hyperparameters,
    count: usize,
) -> Result<FeedForward, ModelError> {
    let (width, inner) = (shape.width, shape.feed_forward);
    let name = |part: &str, kind: &str| format!("blk.{index}.{part}.{kind}");
    let mut stack = |part: &str, columns: usize, rows: usize| {
        tensors.stack(&name(part, "weight"), [columns, rows, count, 1], vec![rows; count])
    };
    let gates = stack("ffn_gate_exps", width, inner)?;
    let ups = stack("ffn_up_exps", width, inner)?;
    let downs = stack("ffn_down_exps", inner, width)?;
    let router = tensors.matrix(&name("ffn_gate_inp", "weight"), width, count)?;
    let mut experts: Vec<Expert> = gates
        .into_iter()
        .zip(ups)
        .zip(downs)
        .map(|((gate, up), down)| Expert { gate, up, down, biases: None })
        .collect();
    if !architecture.is_gpt_oss() {
        return Ok(FeedForward::Experts { router, router_bias: None, experts });
    }
    let mut biases = |part: &str, length: usize| {
        let all = tensors.vectors(&name(part, "bias"), length, count)?;
        Ok::<_, ModelError>(all.chunks(length).map(|bias| Vector::new(bias.to_vec())).collect::<Vec<_>>())
    };
    let gates = biases("ffn_gate_exps", inner)?;
    let ups = biases("ffn_up_exps", inner)?;
    let downs = biases("ffn_down_exps", width)?;
    let of_experts = gates.into_iter().zip(ups).zip(downs);
    for (expert, ((gate, up), down)) in experts.iter_mut().zip(of_experts) {
        expert.biases = Some(ExpertBiases { gate, up, down });
    }
    let router_bias = Some(tensors.vector(&name("ffn_gate_inp", "bias"), count)?);
    Ok(FeedForward::Experts { router, router_bias, experts })
}

/// Every tensor that a model can have. Gives empty ones.
struct Possible(BTreeMap<String, Expected>);

impl Tensors for Possible {
    fn has(&self, _name: &str) -> bool {
        true
    }

    fn stack(
        &mut self,
        name: &str,
        dimensions: [usize; 4],
        rows: Vec<usize>,
    ) -> Result<Vec<Matrix>, ModelError> {
        let matrices = rows.iter().map(|_| Matrix::empty()).collect();
        self.0.insert(name.into(), Expected { dimensions, kind: Kind::Matrices(rows) });
        Ok(matrices)
    }

    fn vectors(&mut self, name: &str, length: usize, count: usize) -> Result<Vector, ModelError> {
        self.0.insert(name.into(), Expected { dimensions: [length, count, 1, 1], kind: Kind::Vector });
        Ok(Vector::default())
    }
}

/// Checks that each tensor is there, and gives empty ones.
struct Found<'f>(&'f BTreeSet<String>);

impl Tensors for Found<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn stack(
        &mut self,
        name: &str,
        _dimensions: [usize; 4],
        rows: Vec<usize>,
    ) -> Result<Vec<Matrix>, ModelError> {
        let matrices = || rows.iter().map(|_| Matrix::empty()).collect();
        self.has(name).then(matrices).ok_or_else(|| missing(name))
    }

    fn vectors(&mut self, name: &str, _length: usize, _count: usize) -> Result<Vector, ModelError> {
        self.has(name).then(Vector::default).ok_or_else(|| missing(name))
    }
}

/// What was read.
struct Loaded {
    matrices: BTreeMap<String, Vec<Matrix>>,
    vectors: BTreeMap<String, Vector>,
}

impl Tensors for Loaded {
    fn has(&self, name: &str) -> bool {
        self.matrices.contains_key(name) || self.vectors.contains_key(name)
    }

    fn stack(
        &mut self,
        name: &str,
        _dimensions: [usize; 4],
        _rows: Vec<usize>,
    ) -> Result<Vec<Matrix>, ModelError> {
        self.matrices.remove(name).ok_or_else(|| missing(name))
    }

    fn vectors(&mut self, name: &str, _length: usize, _count: usize) -> Result<Vector, ModelError> {
        self.vectors.remove(name).ok_or_else(|| missing(name))
    }
}

fn vector(tensor: &Tensor, numbers: &mut Numbers<'_>) -> Result<Vector, ModelError> {
    let length = tensor.dimensions.iter().product::<usize>();
    let mut bytes = Zeroizing::new(vec![0; length.saturating_mul(4)]);
    numbers.read(tensor.start, &mut bytes)?;
    let numbers = bytes.as_chunks::<4>().0.iter();
    Ok(Zeroizing::new(numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}

fn missing(name: &str) -> ModelError {
    ModelError::MissingTensor { name: name.into() }
}
