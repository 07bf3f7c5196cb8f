//! What must be in a classifier's file: every setting is honoured or refused, every tensor is there, and no
//! other.

#![deny(clippy::indexing_slicing)]

use std::{collections::BTreeSet, ops::RangeInclusive};

use zeroize::Zeroizing;

use crate::{
    gguf::{Gguf, Tensor, TensorType},
    matrix::Matrix,
    model::ModelError,
    tokenizer::Tokenizer,
};

/// The one architecture of classifiers.
const ARCHITECTURE: &str = "nanoguard";

/// The keys after the architecture's name.
const KNOWN: [&str; 8] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "rope.freq_base",
    "padding",
    "classifier.output_labels",
];

/// Most labels, and most bytes of one.
const MAX_LABELS: usize = 16;
const MAX_LABEL_BYTES: usize = 64;

/// A file that was read.
pub(super) struct File {
    pub(super) shape: Shape,
    pub(super) labels: Vec<String>,
    pub(super) tokenizer: Tokenizer,
    /// Begins every text.
    pub(super) first_token: u32,
    /// Stands behind a text that is shorter than `padding`.
    pub(super) filling: u32,
    pub(super) weights: Weights,
}

/// Sizes and constants; every size is at least one and within its limit.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// Tokens of a window.
    pub(super) context: usize,
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) feed_forward: usize,
    pub(super) heads: usize,
    pub(super) rope_base: f32,
    /// Shorter texts are filled up to so many tokens. States see the filling, and it is not in their mean.
    pub(super) padding: usize,
}

impl Shape {
    /// Numbers of each head.
    pub(super) const fn head_width(&self) -> usize {
        self.width / self.heads
    }
}

/// All weights, in the kernels' layout.
pub(super) struct Weights {
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    /// For each layer, the factor of the states before it.
    pub(super) stream_scales: Vector,
    /// For each layer, the factor of the states before the first one.
    pub(super) start_scales: Vector,
    pub(super) norm: Vector,
    pub(super) norm_bias: Vector,
    /// A row for each label.
    pub(super) head: Vector,
    pub(super) head_bias: Vector,
}

/// One layer.
pub(super) struct Layer {
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) value: Matrix,
    pub(super) output: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
}

type Vector = Zeroizing<Vec<f32>>;

impl File {
    pub(super) fn read(file: &Gguf<'_>) -> Result<Self, ModelError> {
        let keys = Keys(file);
        keys.check()?;
        let shape = keys.shape()?;
        let labels = keys.labels()?;
        let tokenizer = Tokenizer::from_gguf(file)?;
        let first_token = tokenizer
            .required_bos()
            .ok_or_else(|| unsupported("tokenizer.ggml.add_bos_token", "true, with a token,"))?;
        const FILLING: &str = "tokenizer.ggml.padding_token_id";
        let filling = file.u32(FILLING)?.ok_or_else(|| ModelError::MissingKey { key: FILLING.into() })?;
        if filling as usize >= tokenizer.len() {
            return Err(unsupported(FILLING, "the number of a token"));
        }
        let weights =
            Tensors { file, asked: BTreeSet::new() }.weights(&shape, tokenizer.len(), labels.len())?;
        Ok(Self { shape, labels, tokenizer, first_token, filling, weights })
    }
}

fn unsupported(key: &str, expected: &'static str) -> ModelError {
    ModelError::Unsupported { key: key.into(), expected }
}

/// The metadata.
struct Keys<'f, 'a>(&'f Gguf<'a>);

impl Keys<'_, '_> {
    fn check(&self) -> Result<(), ModelError> {
        const KEY: &str = "general.architecture";
        match self.0.string(KEY)? {
            Some(ARCHITECTURE) => {}
            Some(_) => return Err(unsupported(KEY, ARCHITECTURE)),
            None => return Err(ModelError::MissingKey { key: KEY.into() }),
        }
        let unknown = self.0.metadata().map(|(key, _)| key).find(|key| {
            let setting = key.strip_prefix(ARCHITECTURE).and_then(|rest| rest.strip_prefix('.'));
            match setting {
                Some(setting) => !KNOWN.contains(&setting),
                None => !key.starts_with("general.") && !key.starts_with("tokenizer.ggml."),
            }
        });
        unknown.map_or(Ok(()), |key| Err(ModelError::UnknownHyperparameter { key: key.into() }))
    }

    fn shape(&self) -> Result<Shape, ModelError> {
        let context = self.size("context_length", 2..=1 << 12)?;
        let shape = Shape {
            context,
            width: self.size("embedding_length", 8..=1 << 12)?,
            layers: self.size("block_count", 1..=1 << 6)?,
            feed_forward: self.size("feed_forward_length", 1..=1 << 14)?,
            heads: self.size("attention.head_count", 1..=1 << 7)?,
            rope_base: self.rope_base()?,
            padding: self.size("padding", 0..=context)?,
        };
        if !shape.width.is_multiple_of(shape.heads) || !shape.head_width().is_multiple_of(8) {
            return Err(unsupported(&name("embedding_length"), "8 times a multiple of attention.head_count"));
        }
        Ok(shape)
    }

    fn size(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize, ModelError> {
        let key = name(key);
        let found = self.0.u32(&key)?.ok_or_else(|| ModelError::MissingKey { key: key.clone() })? as usize;
        if range.contains(&found) {
            return Ok(found);
        }
        Err(ModelError::OutOfRange { key, found, least: *range.start(), most: *range.end() })
    }

    fn rope_base(&self) -> Result<f32, ModelError> {
        let key = name("rope.freq_base");
        match self.0.f32(&key)? {
            Some(base) if base.is_finite() && base >= 1.0 => Ok(base),
            Some(_) => Err(unsupported(&key, "a number of at least 1")),
            None => Err(ModelError::MissingKey { key }),
        }
    }

    fn labels(&self) -> Result<Vec<String>, ModelError> {
        let key = name("classifier.output_labels");
        let labels = self.0.strings(&key)?.ok_or_else(|| ModelError::MissingKey { key: key.clone() })?;
        let is_label = |label: &&str| (1..=MAX_LABEL_BYTES).contains(&label.len());
        let different: BTreeSet<_> = labels.iter().collect();
        if !(2..=MAX_LABELS).contains(&labels.len())
            || !labels.iter().all(is_label)
            || different.len() != labels.len()
        {
            return Err(unsupported(&key, "a list of 2 to 16 labels, all different, of 1 to 64 bytes"));
        }
        Ok(labels.iter().map(|label| (*label).to_owned()).collect())
    }
}

fn name(key: &str) -> String {
    format!("{ARCHITECTURE}.{key}")
}

/// The tensors, and which of them were asked for.
struct Tensors<'f, 'a> {
    file: &'f Gguf<'a>,
    asked: BTreeSet<String>,
}

impl Tensors<'_, '_> {
    fn weights(mut self, shape: &Shape, vocabulary: usize, labels: usize) -> Result<Weights, ModelError> {
        // Sizes first: a file without the tensors that its settings announce reserves nothing for them.
        let weights = Weights {
            embedding: self.matrix("token_embd.weight", shape.width, vocabulary)?,
            stream_scales: self.vector("stream_scale.weight", [shape.layers, 1])?,
            start_scales: self.vector("start_scale.weight", [shape.layers, 1])?,
            norm: self.vector("cls_norm.weight", [shape.width, 1])?,
            norm_bias: self.vector("cls_norm.bias", [shape.width, 1])?,
            head: self.vector("cls.output.weight", [shape.width, labels])?,
            head_bias: self.vector("cls.output.bias", [labels, 1])?,
            layers: (0..shape.layers).map(|index| self.layer(index, shape)).collect::<Result<_, _>>()?,
        };
        match self.file.tensors().find(|(name, _)| !self.asked.contains(*name)) {
            Some((name, _)) => Err(ModelError::UnexpectedTensor { name: name.into() }),
            None => Ok(weights),
        }
    }

    fn layer(&mut self, index: usize, shape: &Shape) -> Result<Layer, ModelError> {
        let (width, feed_forward) = (shape.width, shape.feed_forward);
        let mut matrix =
            |part: &str, columns, rows| self.matrix(&format!("blk.{index}.{part}.weight"), columns, rows);
        Ok(Layer {
            query: matrix("attn_q", width, width)?,
            key: matrix("attn_k", width, width)?,
            value: matrix("attn_v", width, width)?,
            output: matrix("attn_output", width, width)?,
            up: matrix("ffn_up", width, feed_forward)?,
            down: matrix("ffn_down", feed_forward, width)?,
        })
    }

    fn tensor(&mut self, name: &str, expected: [usize; 4]) -> Result<(Tensor, &[u8]), ModelError> {
        let tensor =
            *self.file.tensor(name).ok_or_else(|| ModelError::MissingTensor { name: name.into() })?;
        if tensor.dimensions != expected {
            return Err(ModelError::Shape { name: name.into(), expected, found: tensor.dimensions });
        }
        self.asked.insert(name.into());
        Ok((tensor, self.file.numbers(&tensor)))
    }

    fn matrix(&mut self, name: &str, columns: usize, rows: usize) -> Result<Matrix, ModelError> {
        let (tensor, mut numbers) = self.tensor(name, [columns, rows, 1, 1])?;
        Matrix::read(&tensor, rows, |bytes: &mut [u8]| {
            let (piece, rest) = numbers.split_at_checked(bytes.len()).unwrap_or_default();
            numbers = rest;
            if piece.len() != bytes.len() {
                return Err(ModelError::MissingTensor { name: name.into() });
            }
            bytes.copy_from_slice(piece);
            Ok(())
        })
    }

    fn vector(&mut self, name: &str, [columns, rows]: [usize; 2]) -> Result<Vector, ModelError> {
        let (tensor, numbers) = self.tensor(name, [columns, rows, 1, 1])?;
        if tensor.tensor_type != TensorType::F32 {
            return Err(ModelError::VectorType { name: name.into(), found: tensor.tensor_type });
        }
        let numbers = numbers.as_chunks::<4>().0.iter();
        Ok(Zeroizing::new(numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}
