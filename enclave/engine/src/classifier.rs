//! A text classifier: a small encoder that reads a whole text in both directions and scores labels.
//!
//! The architecture is that of `NanoGuard` (`PyPI` `metatronnanoguard`): layers of attention and of a
//! feed-forward part with squared `ReLU`, RMS norms without weights, rotated and then normed queries and
//! keys, the mean of all states, one linear layer. Each layer begins with a weighted sum of the states and of
//! what they were before the first layer. A file is a GGUF; `docs/safeguards.md` lists what must be in it.
//!
//! Weights may have any type that the engine reads. Scores depend neither on the processor nor on the number
//! of threads.

mod file;

use std::{io, num::NonZeroUsize};

use file::{File, Shape};
use zeroize::Zeroizing;

use crate::{
    forward::rotate,
    gguf::Gguf,
    kernels::{Kernels, Query},
    matrix::{Forms, Inputs, Matrix, Product, multiply},
    model::{ModelError, Pairs},
    pool::Pool,
    scratch::{Scratch, StepBuffer},
    tokenizer::Tokenizer,
};

/// Added to the mean of squares under a root; as `PyTorch` does for `rms_norm` without an epsilon.
const RMS_EPSILON: f32 = f32::EPSILON;
/// Added to the variance under the root of the last norm; as `PyTorch` does.
const LAST_EPSILON: f64 = 1e-5;
/// Queries of a head that are asked together. More share the widening of keys and values; fewer need less
/// memory for scores.
const QUERIES_TOGETHER: usize = 64;
/// Positions of keys and values that stay in the nearest cache while the queries pass by.
const POSITIONS_TOGETHER: usize = 64;

/// A text classifier: immutable, shared by all that use it. The weights are zeroised on drop.
pub struct Classifier {
    shape: Shape,
    labels: Vec<String>,
    tokenizer: Tokenizer,
    first_token: u32,
    filling: u32,
    weights: file::Weights,
    /// Cosine and sine for each position and pair.
    rotations: Vec<[f32; 2]>,
    /// The weight of norms that have none.
    ones: Vec<f32>,
    kernels: Kernels,
}

/// What a classifier says of a text: for each of its labels a number from 0 to 1. It tells much of the text,
/// so it is erased like it.
pub struct Scores(Scratch<f32>);

impl Scores {
    /// The numbers, in the order of [`Classifier::labels`].
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}

impl Classifier {
    /// Reads a classifier from the bytes of its file, which is assumed hostile.
    ///
    /// # Errors
    /// [`ModelError`] for anything that is not a whole classifier of a supported form.
    pub fn from_gguf(bytes: &[u8]) -> Result<Self, ModelError> {
        let File { shape, labels, tokenizer, first_token, filling, weights } =
            File::read(&Gguf::parse(bytes)?)?;
        Ok(Self {
            rotations: rotations(&shape),
            ones: vec![1.0; shape.width],
            kernels: Kernels::best(),
            shape,
            labels,
            tokenizer,
            first_token,
            filling,
            weights,
        })
    }

    /// What it tells apart, in the order of the scores.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The most tokens that it reads at once, the one that begins every text among them.
    pub fn window(&self) -> usize {
        self.shape.context
    }

    /// The tokens of a text, without the one that begins every text.
    pub fn tokens_of_text(&self, text: &str) -> Zeroizing<Vec<u32>> {
        Zeroizing::new(self.encode(text).to_vec())
    }

    fn encode(&self, text: &str) -> Scratch<u32> {
        let mut tokens = Scratch::new();
        self.tokenizer.encode_text(text, &mut tokens);
        tokens
    }

    /// Scores a text. A text that is longer than a window is read in windows that overlap by half, and each
    /// label has the greatest of its scores.
    ///
    /// # Errors
    /// When the operating system refuses a thread. The first of them is the caller's.
    pub fn scores(&self, text: &str, threads: NonZeroUsize) -> io::Result<Scores> {
        let pool = Pool::new(threads)?;
        let tokens = self.encode(text);
        let mut work = None;
        let mut most = Scratch::<f32>::filled(self.labels.len());
        for window in windows(&tokens, self.shape.context - 1) {
            let count = window.len() + 1;
            let rows = count.max(self.shape.padding);
            let mut read = Scratch::with_capacity(rows);
            read.push(self.first_token);
            read.extend_from_slice(window);
            read.extend(std::iter::repeat_n(self.filling, rows - count));
            // The last window of a long text is as long as the others.
            let work = work.get_or_insert_with(|| Work::new(self, rows));
            work.go_through(self, &pool, &read, count);
            let scores = self.classify(work, count);
            most.iter_mut().zip(&*scores).for_each(|(most, score)| *most = most.max(*score));
        }
        Ok(Scores(most))
    }

    /// The scores of a text whose last states are in `work`; only those of its `count` own tokens count.
    fn classify(&self, work: &Work, count: usize) -> Scratch<f32> {
        let width = self.shape.width;
        let mut state = Scratch::<f32>::filled(width);
        let mut mean = Scratch::<f64>::filled(width);
        for values in work.stream.chunks_exact(width).take(count) {
            self.kernels.rms_norm(values, &self.ones, RMS_EPSILON, &mut state);
            mean.iter_mut().zip(&*state).for_each(|(mean, value)| *mean += f64::from(*value) / count as f64);
        }
        let centre = mean.iter().sum::<f64>() / width as f64;
        mean.iter_mut().for_each(|value| *value -= centre);
        let variance = mean.iter().map(|value| value * value).sum::<f64>() / width as f64;
        let factor = 1.0 / (variance + LAST_EPSILON).sqrt();
        let file::Weights { norm, norm_bias, head, head_bias, .. } = &self.weights;
        for ((value, weight), bias) in mean.iter_mut().zip(&**norm).zip(&**norm_bias) {
            *value = *value * factor * f64::from(*weight) + f64::from(*bias);
        }
        let mut scores = Scratch::with_capacity(self.labels.len());
        for (weights, bias) in head.chunks_exact(width).zip(&**head_bias) {
            let sum: f64 = weights.iter().zip(&*mean).map(|(weight, value)| f64::from(*weight) * value).sum();
            scores.push((sum + f64::from(*bias)) as f32);
        }
        self.kernels.softmax(&mut scores);
        scores
    }
}

/// Pieces of at most `length` tokens that overlap by half; one, perhaps empty, if they all fit.
fn windows(tokens: &[u32], length: usize) -> impl Iterator<Item = &[u32]> {
    let step = length.div_ceil(2).max(1);
    let further = tokens.len().saturating_sub(length).div_ceil(step);
    (0..=further).map(move |index| {
        let end = (index * step + length).min(tokens.len());
        &tokens[end.saturating_sub(length)..end]
    })
}

/// Cosine and sine of every position and pair. `NanoGuard` keeps them as 16-bit numbers, and turns the other
/// way round than models of this engine do.
fn rotations(shape: &Shape) -> Vec<[f32; 2]> {
    let pairs = shape.head_width() / 2;
    let frequencies: Vec<f32> = (0..pairs)
        .map(|pair| 1.0 / shape.rope_base.powf((2 * pair) as f32 / shape.head_width() as f32))
        .collect();
    let of_position = |position: usize| {
        frequencies.iter().map(move |frequency| {
            let (sine, cosine) = f64::from(position as f32 * frequency).sin_cos();
            [bf16(cosine as f32), -bf16(sine as f32)]
        })
    };
    (0..shape.context).flat_map(of_position).collect()
}

/// The number with its lower 16 bits rounded away, to even on a tie.
fn bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let odd = bits >> 16 & 1;
    f32::from_bits(bits.wrapping_add(0x7fff + odd) & 0xffff_0000)
}

/// Buffers for windows of a number of tokens. What they hold of a text is erased on drop.
struct Work {
    /// The states before the first layer, row after row.
    start: StepBuffer<f32>,
    stream: StepBuffer<f32>,
    queries: StepBuffer<f32>,
    row: StepBuffer<f32>,
    /// Head after head, position after position.
    keys: StepBuffer<u16>,
    values: StepBuffer<u16>,
    normed: Inputs,
    attended: Inputs,
    activated: Inputs,
    query_product: Product,
    key_product: Product,
    value_product: Product,
    residual_product: Product,
    up_product: Product,
}

impl Work {
    fn new(classifier: &Classifier, rows: usize) -> Self {
        let Shape { width, feed_forward, .. } = classifier.shape;
        let forms = |matrices: fn(&file::Layer) -> Vec<&Matrix>| {
            let matrices = classifier.weights.layers.iter().flat_map(matrices);
            matrices.map(Matrix::forms).fold(Forms::default(), Forms::and)
        };
        let normed = forms(|layer| vec![&layer.query, &layer.key, &layer.value, &layer.up]);
        Self {
            start: StepBuffer::new(rows * width),
            stream: StepBuffer::new(rows * width),
            queries: StepBuffer::new(rows * width),
            row: StepBuffer::new(width),
            keys: StepBuffer::new(rows * width),
            values: StepBuffer::new(rows * width),
            normed: Inputs::new(rows, width, normed),
            attended: Inputs::new(rows, width, forms(|layer| vec![&layer.output])),
            activated: Inputs::new(rows, feed_forward, forms(|layer| vec![&layer.down])),
            query_product: Product::new(rows, width),
            key_product: Product::new(rows, width),
            value_product: Product::new(rows, width),
            residual_product: Product::new(rows, width),
            up_product: Product::new(rows, feed_forward),
        }
    }

    /// Takes the tokens through all layers. Of the last one, only the states of the first `count` are
    /// computed.
    fn go_through(&mut self, classifier: &Classifier, pool: &Pool, tokens: &[u32], count: usize) {
        let Classifier { shape, weights, ones, kernels, .. } = classifier;
        let (rows, length) = (tokens.len(), tokens.len() * shape.width);
        let starts = self.start.first_mut(length).chunks_exact_mut(shape.width);
        for (token, start) in tokens.iter().zip(starts) {
            weights.embedding.read_row(*token as usize, start);
            kernels.rms_norm_in_place(start, ones, RMS_EPSILON);
        }
        self.stream.first_mut(length).copy_from_slice(&self.start[..length]);
        let scales = weights.stream_scales.iter().zip(&*weights.start_scales).enumerate();
        for (layer, (index, (stream_scale, start_scale))) in weights.layers.iter().zip(scales) {
            for (stream, start) in self.stream.first_mut(length).iter_mut().zip(&*self.start) {
                *stream = stream_scale * *stream + start_scale * start;
            }
            let wanted = if index + 1 == shape.layers { count } else { rows };
            self.attention(classifier, pool, layer, rows, wanted);
            self.feed_forward(classifier, pool, layer, wanted);
        }
    }

    /// The first `wanted` rows attend to all `rows`.
    fn attention(
        &mut self,
        classifier: &Classifier,
        pool: &Pool,
        layer: &file::Layer,
        rows: usize,
        wanted: usize,
    ) {
        let kernels = classifier.kernels;
        let forms = [&layer.query, &layer.key, &layer.value].map(Matrix::forms);
        self.norm(classifier, pool, forms.into_iter().fold(Forms::default(), Forms::and), rows);
        multiply(
            kernels,
            pool,
            [&layer.query, &layer.key, &layer.value],
            &self.normed,
            [&mut self.query_product, &mut self.key_product, &mut self.value_product],
        );
        self.place(classifier, rows);
        self.attend(classifier, pool, layer.output.forms(), rows, wanted);
        multiply(kernels, pool, [&layer.output], &self.attended, [&mut self.residual_product]);
        self.add_residual(classifier, wanted);
    }

    fn feed_forward(&mut self, classifier: &Classifier, pool: &Pool, layer: &file::Layer, rows: usize) {
        let kernels = classifier.kernels;
        self.norm(classifier, pool, layer.up.forms(), rows);
        multiply(kernels, pool, [&layer.up], &self.normed, [&mut self.up_product]);
        let (up, width) = (&self.up_product, classifier.shape.feed_forward);
        self.activated.fill(kernels, pool, layer.down.forms(), rows, |first, output| {
            for (index, output) in output.chunks_exact_mut(width).enumerate() {
                up.copy_row(first + index, output);
                output.iter_mut().for_each(|value| *value = value.max(0.0) * value.max(0.0));
            }
        });
        multiply(kernels, pool, [&layer.down], &self.activated, [&mut self.residual_product]);
        self.add_residual(classifier, rows);
    }

    fn norm(&mut self, classifier: &Classifier, pool: &Pool, forms: Forms, rows: usize) {
        let Classifier { shape: Shape { width, .. }, ones, kernels, .. } = classifier;
        let stream = &self.stream;
        self.normed.fill(*kernels, pool, forms, rows, |first, output| {
            let values = stream[first * width..].chunks_exact(*width);
            for (values, output) in values.zip(output.chunks_exact_mut(*width)) {
                kernels.rms_norm(values, ones, RMS_EPSILON, output);
            }
        });
    }

    fn add_residual(&mut self, classifier: &Classifier, rows: usize) {
        let streams = self.stream.first_mut(rows * classifier.shape.width);
        classifier.kernels.add(self.residual_product.results(0, rows), streams);
    }

    /// Rotates and norms the queries and keys, and places keys and values where attention wants them.
    fn place(&mut self, classifier: &Classifier, rows: usize) {
        let Classifier { shape, ones, kernels, rotations, .. } = classifier;
        let (width, of_head) = (shape.width, shape.head_width());
        let turn = |head: &mut [f32], rotations: &[[f32; 2]]| {
            rotate(Pairs::Halves, head, rotations);
            kernels.rms_norm_in_place(head, &ones[..of_head], RMS_EPSILON);
        };
        let queries = self.queries.first_mut(rows * width).chunks_exact_mut(width);
        let (keys, values) = (self.keys.first_mut(rows * width), self.values.first_mut(rows * width));
        let row = self.row.first_mut(width);
        let of_rows = rotations.chunks_exact(of_head / 2).zip(queries).enumerate();
        for (index, (rotations, queries)) in of_rows {
            self.query_product.copy_row(index, queries);
            queries.chunks_exact_mut(of_head).for_each(|query| turn(query, rotations));
            let place = |head: usize| (head * rows + index) * of_head;
            self.key_product.copy_row(index, row);
            for (head, key) in row.chunks_exact_mut(of_head).enumerate() {
                turn(key, rotations);
                kernels.halve(key, &mut keys[place(head)..][..of_head]);
            }
            self.value_product.copy_row(index, row);
            for (head, value) in row.chunks_exact(of_head).enumerate() {
                kernels.halve(value, &mut values[place(head)..][..of_head]);
            }
        }
    }

    fn attend(&mut self, classifier: &Classifier, pool: &Pool, forms: Forms, rows: usize, wanted: usize) {
        let Classifier { shape: Shape { heads, width, .. }, kernels, .. } = classifier;
        let of_head = width / heads;
        let (queries, keys, values) = (&self.queries, &self.keys, &self.values);
        self.attended.fill_units(*kernels, pool, forms, wanted, of_head, |units| {
            let mut of_heads: Vec<Vec<&mut [f32]>> =
                (0..*heads).map(|_| Vec::with_capacity(wanted)).collect();
            for (index, unit) in units.into_iter().enumerate() {
                of_heads[index % heads].push(unit);
            }
            let tasks = of_heads.iter_mut().enumerate().flat_map(|(head, outputs)| {
                let groups = outputs.chunks_mut(QUERIES_TOGETHER).enumerate();
                groups.map(move |(group, outputs)| (head, group * QUERIES_TOGETHER, outputs))
            });
            pool.for_each(tasks.collect(), |(head, first, outputs): (usize, usize, &mut [&mut [f32]])| {
                let mut scores = Scratch::filled(outputs.len() * rows);
                let places = scores.chunks_exact_mut(rows).zip(outputs).enumerate();
                let mut asked: Vec<Query<'_>> = places
                    .map(|(index, (scores, output))| {
                        let at = (first + index) * width + head * of_head;
                        Query { query: &queries[at..][..of_head], first: 0, scores, sink: None, output }
                    })
                    .collect();
                let place = head * rows * of_head..(head + 1) * rows * of_head;
                let piece = POSITIONS_TOGETHER * of_head;
                let pieces = keys[place.clone()].chunks(piece).zip(values[place].chunks(piece));
                kernels.attend(&mut asked, None, pieces);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_overlap_by_half_and_reach_the_end() {
        let tokens: Vec<u32> = (0..10).collect();
        let cut = |length| windows(&tokens, length).map(<[u32]>::to_vec).collect::<Vec<_>>();
        assert_eq!(cut(10), std::slice::from_ref(&tokens));
        assert_eq!(cut(11), std::slice::from_ref(&tokens));
        assert_eq!(cut(6), [vec![0, 1, 2, 3, 4, 5], vec![3, 4, 5, 6, 7, 8], vec![4, 5, 6, 7, 8, 9]]);
        assert_eq!(cut(1).len(), 10);
        assert_eq!(windows(&[], 4).collect::<Vec<_>>(), [&[] as &[u32]]);
    }

    #[test]
    fn numbers_are_rounded_to_sixteen_bits() {
        assert_eq!(bf16(1.0), 1.0);
        assert_eq!(bf16(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(bf16(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(bf16(-0.3), -0.300_781_25);
    }
}
