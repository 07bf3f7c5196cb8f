//! One step of the transformer over any mix of sequences: prompt pieces and single new tokens together.
//!
//! A row is one token of one sequence. Rows share the pass over the weights and nothing else. Each number of
//! a row depends on that row and its own sequence's pages alone, in an order that other rows do not change.

mod choices;
mod rotations;
mod runs;

use std::ops::ControlFlow;

use crate::{
    cache::{Cache, PAGE},
    kernels::{Kernels, Query},
    matrix::{Forms, Inputs, Matrix, Product, multiply},
    model::{Expert, FeedForward, Gate, Hyperparameters, Layer, Model, Pairs, Vector},
    pool::Pool,
    scratch::{Scratch, StepBuffer},
};

pub(crate) use self::rotations::rotate;
use self::{
    choices::choices,
    rotations::Rotations,
    runs::{Run, runs},
};

/// One token to compute.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row {
    /// The sequence whose cache it reads and writes.
    pub(crate) sequence: usize,
    /// Its position in the sequence. All earlier positions are in the cache or earlier in this step, and the
    /// cache has room for this one.
    pub(crate) position: usize,
    pub(crate) token: u32,
    /// Whether the scores of the token after it are wanted.
    pub(crate) scored: bool,
}

/// An interrupted step: its rows after a number of half layers. Their keys and values are in the cache.
pub(crate) struct Interrupted {
    rows: Scratch<Row>,
    /// Their residual streams.
    stream: Scratch<f32>,
    halves: usize,
}

impl Interrupted {
    /// Whether it has a row of this sequence.
    pub(crate) fn has(&self, sequence: usize) -> bool {
        self.rows.iter().any(|row| row.sequence == sequence)
    }

    /// The step without the rows of a sequence that has ended.
    pub(crate) fn without(mut self, sequence: usize) -> Option<Self> {
        if !self.has(sequence) {
            return Some(self);
        }
        let width = self.stream.len() / self.rows.len().max(1);
        let mut stream = Scratch::with_capacity(self.stream.len());
        let streams = self.rows.iter().zip(self.stream.chunks_exact(width));
        let kept = streams.filter(|(row, _)| row.sequence != sequence);
        kept.for_each(|(_, numbers)| stream.extend_from_slice(numbers));
        self.stream = stream;
        self.rows.retain(|row| row.sequence != sequence);
        (!self.rows.is_empty()).then_some(self)
    }
}

/// Buffers for steps of a limited number of rows. They hold traces of the text until [`Forward::erase`].
pub(crate) struct Forward {
    kernels: Kernels,
    pool: Pool,
    pairs: Pairs,
    gate: Gate,
    score_cap: Option<f32>,
    /// The residual stream, row after row.
    stream: StepBuffer<f32>,
    rotations: Rotations,
    /// Of the layers with a window, if theirs are others.
    local_rotations: Option<Rotations>,
    queries: StepBuffer<f32>,
    key: StepBuffer<f32>,
    value: StepBuffer<f32>,
    normed: Inputs,
    attended: Inputs,
    gated: Inputs,
    /// Of models with experts: the normed rows that one expert has, and what all experts give.
    chosen: Inputs,
    mixed: StepBuffer<f32>,
    router_product: Product,
    query_product: Product,
    key_product: Product,
    value_product: Product,
    residual_product: Product,
    gate_product: Product,
    up_product: Product,
    scored: Inputs,
    scores: Product,
}

impl Forward {
    /// Buffers for steps of at most `rows` rows, of which at most `scored` are scored.
    pub(crate) fn new(model: &Model, pool: Pool, rows: usize, scored: usize) -> Self {
        let shape = model.shape();
        let layers = &model.weights().layers;
        let forms = |matrices: fn(&Layer) -> Vec<&Matrix>| {
            layers.iter().flat_map(matrices).map(Matrix::forms).fold(Forms::default(), Forms::and)
        };
        let of_experts = |matrices: fn(&Expert) -> [&Matrix; 2]| {
            let experts = layers.iter().flat_map(|layer| layer.feed_forward.experts());
            experts.flat_map(matrices).map(Matrix::forms).fold(Forms::default(), Forms::and)
        };
        let entry = of_experts(|expert| [&expert.gate, &expert.up]);
        let gated = of_experts(|expert| [&expert.down, &expert.down]);
        let (before, chosen) = match shape.experts {
            Some(_) => (forms(|layer| layer.feed_forward.router().into_iter().collect()), entry),
            None => (entry, Forms::default()),
        };
        let normed = forms(|layer| vec![&layer.query, &layer.key, &layer.value]).and(before);
        let attended = forms(|layer| vec![&layer.attention_output]);
        let with_experts = if shape.experts.is_some() { rows } else { 0 };
        let (queries, keys) = (shape.heads * shape.head_width, shape.kv_heads * shape.head_width);
        Self {
            kernels: model.kernels(),
            pool,
            pairs: model.architecture().pairs(),
            gate: model.architecture().gate(),
            score_cap: shape.score_cap,
            stream: StepBuffer::new(rows * shape.width),
            rotations: Rotations::new(model, shape.rope, rows),
            local_rotations: shape.local_rope.map(|rope| Rotations::new(model, rope, rows)),
            queries: StepBuffer::new(rows * queries),
            key: StepBuffer::new(keys),
            value: StepBuffer::new(keys),
            normed: Inputs::new(rows, shape.width, normed),
            attended: Inputs::new(rows, queries, attended),
            gated: Inputs::new(rows, shape.feed_forward, gated),
            chosen: Inputs::new(with_experts, shape.width, chosen),
            mixed: StepBuffer::new(with_experts * shape.width),
            router_product: Product::new(with_experts, shape.experts.map_or(0, |counts| counts.all)),
            query_product: Product::new(rows, queries),
            key_product: Product::new(rows, keys),
            value_product: Product::new(rows, keys),
            residual_product: Product::new(rows, shape.width),
            gate_product: Product::new(rows, shape.feed_forward),
            up_product: Product::new(rows, shape.feed_forward),
            scored: Inputs::new(scored, shape.width, head(model).forms()),
            scores: Product::new(scored, model.tokenizer().len()),
        }
    }

    /// Computes the rows. Rows of one sequence must come in the order of their positions, all below the
    /// context length.
    ///
    /// The step asks `goes_on` before every half layer, and is interrupted when the answer is no. Other
    /// sequences' rows may be computed before [`Forward::resume`] continues the step.
    pub(crate) fn step(
        &mut self,
        model: &Model,
        cache: &mut Cache,
        rows: &[Row],
        goes_on: impl FnMut() -> bool,
    ) -> ControlFlow<Interrupted> {
        let (width, factor) = (model.shape().width, model.shape().embedding_factor);
        let streams = self.stream.first_mut(rows.len() * width).chunks_exact_mut(width);
        for (row, stream) in rows.iter().zip(streams) {
            model.weights().embedding.read_row(row.token as usize, stream);
            if factor != 1.0 {
                stream.iter_mut().for_each(|number| *number *= factor);
            }
        }
        self.go_through(model, cache, rows, 0, goes_on).map_break(|halves| Interrupted {
            rows: Scratch::from(rows),
            stream: Scratch::from(&self.stream[..rows.len() * width]),
            halves,
        })
    }

    /// Continues an interrupted step, as [`Forward::step`] would have. Returns the rows when they are
    /// complete.
    pub(crate) fn resume(
        &mut self,
        model: &Model,
        cache: &mut Cache,
        step: Interrupted,
        goes_on: impl FnMut() -> bool,
    ) -> ControlFlow<Interrupted, Scratch<Row>> {
        let Interrupted { rows, mut stream, halves } = step;
        let length = stream.len();
        self.stream.first_mut(length).copy_from_slice(&stream);
        match self.go_through(model, cache, &rows, halves, goes_on) {
            ControlFlow::Continue(()) => ControlFlow::Continue(rows),
            ControlFlow::Break(halves) => {
                stream.copy_from_slice(&self.stream[..length]);
                ControlFlow::Break(Interrupted { rows, stream, halves })
            }
        }
    }

    /// Takes the rows through the remaining half layers after the first `halves`. An interruption returns the
    /// number of completed ones.
    fn go_through(
        &mut self,
        model: &Model,
        cache: &mut Cache,
        rows: &[Row],
        halves: usize,
        mut goes_on: impl FnMut() -> bool,
    ) -> ControlFlow<usize> {
        let shape = model.shape();
        self.rotations.fill(rows);
        if let Some(rotations) = &mut self.local_rotations {
            rotations.fill(rows);
        }
        let layers = model.weights().layers.iter().enumerate();
        let all = layers.flat_map(|(index, layer)| [(index, layer, true), (index, layer, false)]);
        for (half, (index, layer, is_attention)) in all.enumerate().skip(halves) {
            if !goes_on() {
                return ControlFlow::Break(half);
            }
            if is_attention {
                self.attention(shape, index, layer, cache, rows);
            } else {
                self.feed_forward(shape, layer, rows.len());
            }
        }
        self.score(model, rows);
        ControlFlow::Continue(())
    }

    /// Copies the scores (logits) of the `index`-th scored row of the last step.
    pub(crate) fn scores(&self, index: usize, output: &mut [f32]) {
        self.scores.copy_row(index, output);
        if let Some(cap) = self.score_cap {
            self.kernels.soften(output, cap);
        }
    }

    /// The state of a row of the last step after all layers and the last norm.
    pub(crate) fn state(&self, model: &Model, row: usize, output: &mut [f32]) {
        let shape = model.shape();
        let values = &self.stream[row * shape.width..][..shape.width];
        self.kernels.rms_norm(values, &model.weights().output_norm, shape.norm_epsilon, output);
    }

    /// Overwrites the traces of all steps since the last call. An interrupted step keeps its own rows and
    /// streams, so it loses nothing.
    pub(crate) fn erase(&mut self) {
        // A new buffer that is not named here breaks the build.
        let Self {
            kernels: _,
            pool: _,
            pairs: _,
            gate: _,
            score_cap: _,
            stream,
            rotations,
            local_rotations,
            queries,
            key,
            value,
            normed,
            attended,
            gated,
            chosen,
            mixed,
            router_product,
            query_product,
            key_product,
            value_product,
            residual_product,
            gate_product,
            up_product,
            scored,
            scores,
        } = self;
        [stream, queries, key, value, mixed].into_iter().for_each(StepBuffer::erase);
        [Some(rotations), local_rotations.as_mut()].into_iter().flatten().for_each(Rotations::erase);
        [normed, attended, gated, chosen, scored].into_iter().for_each(Inputs::erase);
        let products = [
            router_product,
            query_product,
            key_product,
            value_product,
            residual_product,
            gate_product,
            up_product,
        ];
        products.into_iter().chain([scores]).for_each(Product::erase);
    }

    /// For the search of memory: the contents of each buffer, by name, for one row of the last step, which
    /// must be the first scored one.
    #[cfg(test)]
    pub(crate) fn last_row(&self, shape: &Hyperparameters, row: usize) -> Vec<(&'static str, Vec<f32>)> {
        let of_row = |numbers: &[f32], width: usize| numbers[row * width..][..width].to_vec();
        let of_product = |product: &Product, row: usize, width: usize| {
            let mut numbers = vec![0.0; width];
            product.copy_row(row, &mut numbers);
            numbers
        };
        let (queries, keys) = (shape.heads * shape.head_width, shape.kv_heads * shape.head_width);
        let scores = self.scores.width() * crate::kernels::TILE_ROWS;
        vec![
            ("residual stream", of_row(&self.stream, shape.width)),
            ("queries", of_row(&self.queries, queries)),
            ("normed", of_row(self.normed.values(), shape.width)),
            ("attended", of_row(self.attended.values(), queries)),
            ("gated", of_row(self.gated.values(), shape.feed_forward)),
            ("scored", self.scored.values().to_vec()),
            ("product of queries", of_product(&self.query_product, row, queries)),
            ("product of keys", of_product(&self.key_product, row, keys)),
            ("product of values", of_product(&self.value_product, row, keys)),
            ("product for the stream", of_product(&self.residual_product, row, shape.width)),
            ("product of gates", of_product(&self.gate_product, row, shape.feed_forward)),
            ("product up", of_product(&self.up_product, row, shape.feed_forward)),
            ("scores", of_product(&self.scores, 0, scores)),
        ]
    }

    fn attention(
        &mut self,
        shape: &Hyperparameters,
        index: usize,
        layer: &Layer,
        cache: &mut Cache,
        rows: &[Row],
    ) {
        let kernels = self.kernels;
        let forms = [&layer.query, &layer.key, &layer.value].map(Matrix::forms);
        self.norm(
            shape,
            &layer.attention_norm,
            forms.into_iter().fold(Forms::default(), Forms::and),
            rows.len(),
        );
        multiply(
            kernels,
            &self.pool,
            [&layer.query, &layer.key, &layer.value],
            &self.normed,
            [&mut self.query_product, &mut self.key_product, &mut self.value_product],
        );
        self.place_keys_and_values(shape, index, layer, cache, rows);
        self.attend(shape, index, layer, cache, rows);
        multiply(
            kernels,
            &self.pool,
            [&layer.attention_output],
            &self.attended,
            [&mut self.residual_product],
        );
        let norm = layer.post_norms.as_ref().map(|norms| &norms.attention);
        self.add_residual(shape, norm, layer.output_bias.as_ref(), rows.len());
    }

    fn feed_forward(&mut self, shape: &Hyperparameters, layer: &Layer, rows: usize) {
        let kernels = self.kernels;
        let expert = match &layer.feed_forward {
            FeedForward::Dense(expert) => expert,
            FeedForward::Experts { router, router_bias, experts } => {
                self.norm(shape, &layer.feed_forward_norm, router.forms(), rows);
                return self.mix(shape, router, router_bias.as_ref(), experts, rows);
            }
        };
        self.norm(shape, &layer.feed_forward_norm, expert.gate.forms().and(expert.up.forms()), rows);
        multiply(
            kernels,
            &self.pool,
            [&expert.gate, &expert.up],
            &self.normed,
            [&mut self.gate_product, &mut self.up_product],
        );
        self.apply_gate(shape, expert, rows);
        multiply(kernels, &self.pool, [&expert.down], &self.gated, [&mut self.residual_product]);
        let norm = layer.post_norms.as_ref().map(|norms| &norms.feed_forward);
        self.add_residual(shape, norm, None, rows);
    }

    /// Makes the products of gate and up one.
    fn apply_gate(&mut self, shape: &Hyperparameters, expert: &Expert, rows: usize) {
        let (kernels, width) = (self.kernels, shape.feed_forward);
        let (gate, up, of_gate) = (&self.gate_product, &self.up_product, self.gate);
        self.gated.fill(kernels, &self.pool, expert.down.forms(), rows, |first, output| {
            let count = output.len() / width;
            match (of_gate, &expert.biases) {
                (Gate::Silu, _) => {
                    kernels.swiglu(gate.results(first, count), up.results(first, count), output);
                }
                (Gate::Gelu, _) => {
                    kernels.geglu(gate.results(first, count), up.results(first, count), output);
                }
                (Gate::Clamped, biases) => {
                    let [mut gates, mut ups] = [(); 2].map(|()| Scratch::filled(width));
                    for (row, output) in output.chunks_exact_mut(width).enumerate() {
                        gate.copy_row(first + row, &mut gates);
                        up.copy_row(first + row, &mut ups);
                        if let Some(biases) = biases {
                            add(&mut gates, &biases.gate);
                            add(&mut ups, &biases.up);
                        }
                        kernels.clamped_swiglu(&gates, &ups, output);
                    }
                }
            }
        });
    }

    /// Gives each normed row to the experts that its router chooses, and adds their weighted results to the stream. An
    /// expert computes all its rows at once, and a row's results are added in the order of its experts, whatever the
    /// other rows choose.
    fn mix(
        &mut self,
        shape: &Hyperparameters,
        router: &Matrix,
        router_bias: Option<&Vector>,
        experts: &[Expert],
        rows: usize,
    ) {
        let (kernels, width) = (self.kernels, shape.width);
        let used = shape.experts.map_or(0, |counts| counts.used);
        multiply(kernels, &self.pool, [router], &self.normed, [&mut self.router_product]);
        let choices = choices(kernels, &self.router_product, router_bias, experts.len(), used, rows);
        self.mixed.first_mut(rows * width).fill(0.0);
        for choices in choices.chunk_by(|a, b| a.expert == b.expert) {
            let Some(expert) = choices.first().and_then(|choice| experts.get(choice.expert)) else {
                continue;
            };
            let forms = expert.gate.forms().and(expert.up.forms());
            let normed = self.normed.values();
            self.chosen.fill(kernels, &self.pool, forms, choices.len(), |first, output| {
                for (choice, output) in choices[first..].iter().zip(output.chunks_exact_mut(width)) {
                    output.copy_from_slice(&normed[choice.row * width..][..width]);
                }
            });
            multiply(
                kernels,
                &self.pool,
                [&expert.gate, &expert.up],
                &self.chosen,
                [&mut self.gate_product, &mut self.up_product],
            );
            self.apply_gate(shape, expert, choices.len());
            multiply(kernels, &self.pool, [&expert.down], &self.gated, [&mut self.residual_product]);
            let mixed = self.mixed.first_mut(rows * width);
            let mut result = Scratch::filled(width);
            for (number, choice) in choices.iter().enumerate() {
                self.residual_product.copy_row(number, &mut result);
                if let Some(biases) = &expert.biases {
                    add(&mut result, &biases.down);
                }
                let row = mixed[choice.row * width..][..width].iter_mut();
                row.zip(result.iter()).for_each(|(sum, number)| *sum += choice.weight * number);
            }
        }
        let streams = self.stream.first_mut(rows * width);
        add(streams, &self.mixed[..rows * width]);
    }

    fn norm(&mut self, shape: &Hyperparameters, weight: &[f32], forms: Forms, rows: usize) {
        let (kernels, stream) = (self.kernels, &self.stream);
        self.normed.fill(kernels, &self.pool, forms, rows, |first, output| {
            let values = stream[first * shape.width..].chunks_exact(shape.width);
            for (values, output) in values.zip(output.chunks_exact_mut(shape.width)) {
                kernels.rms_norm(values, weight, shape.norm_epsilon, output);
            }
        });
    }

    /// Adds what half a layer gave to the stream, with `bias` and normed with `norm` if there are such.
    fn add_residual(
        &mut self,
        shape: &Hyperparameters,
        norm: Option<&Vector>,
        bias: Option<&Vector>,
        rows: usize,
    ) {
        let (kernels, added) = (self.kernels, &self.residual_product);
        let pieces = self.stream.first_mut(rows * shape.width).chunks_mut(ROWS_PER_TASK * shape.width);
        self.pool.for_each(pieces.enumerate().collect(), |(piece, streams)| {
            let (first, count) = (piece * ROWS_PER_TASK, streams.len() / shape.width);
            if norm.is_none() && bias.is_none() {
                return kernels.add(added.results(first, count), streams);
            }
            let mut result = Scratch::filled(shape.width);
            for (row, stream) in streams.chunks_exact_mut(shape.width).enumerate() {
                added.copy_row(first + row, &mut result);
                if let Some(bias) = bias {
                    add(&mut result, bias);
                }
                if let Some(norm) = norm {
                    kernels.rms_norm_in_place(&mut result, norm, shape.norm_epsilon);
                }
                add(stream, &result);
            }
        });
    }

    fn place_keys_and_values(
        &mut self,
        shape: &Hyperparameters,
        index: usize,
        layer: &Layer,
        cache: &mut Cache,
        rows: &[Row],
    ) {
        let width = shape.head_width;
        let rotations = match &self.local_rotations {
            Some(rotations) if shape.window_of(index).is_some() => rotations.of_rows(),
            _ => self.rotations.of_rows(),
        };
        let queries = self.queries.first_mut(rows.len() * shape.heads * width);
        let (keys, values) = (shape.kv_heads * width, shape.kv_heads * width);
        let (key, value) = (self.key.first_mut(keys), self.value.first_mut(values));
        let of_rows = rows.iter().zip(rotations).zip(queries.chunks_exact_mut(shape.heads * width));
        for (number, ((row, rotations), queries)) in of_rows.enumerate() {
            self.query_product.copy_row(number, queries);
            self.key_product.copy_row(number, key);
            self.value_product.copy_row(number, value);
            if let Some(biases) = &layer.biases {
                add(queries, &biases.query);
                add(key, &biases.key);
                add(value, &biases.value);
            }
            let factor = shape.query_factor.at(row.position);
            for query in queries.chunks_exact_mut(width) {
                if let Some(norms) = &layer.head_norms {
                    self.kernels.rms_norm_in_place(query, &norms.query, shape.norm_epsilon);
                }
                rotate(self.pairs, query, rotations);
                if factor != 1.0 {
                    query.iter_mut().for_each(|number| *number *= factor);
                }
            }
            let heads = key.chunks_exact_mut(width).zip(value.chunks_exact(width));
            for (head, (key, value)) in heads.enumerate() {
                if let Some(norms) = &layer.head_norms {
                    self.kernels.rms_norm_in_place(key, &norms.key, shape.norm_epsilon);
                }
                rotate(self.pairs, key, rotations);
                let (key_place, value_place) = cache.place(row.sequence, index, head, row.position);
                self.kernels.halve(key, key_place);
                self.kernels.halve(value, value_place);
            }
        }
    }

    fn attend(&mut self, shape: &Hyperparameters, index: usize, layer: &Layer, cache: &Cache, rows: &[Row]) {
        let (kernels, pool, queries) = (self.kernels, &self.pool, &self.queries);
        let width = shape.head_width;
        let group = shape.heads / shape.kv_heads;
        let row_width = shape.heads * width;
        let window = shape.window_of(index).unwrap_or(usize::MAX);
        let forms = layer.attention_output.forms();
        let longest = rows.iter().map(|row| (row.position + 1).min(window)).max().unwrap_or(0);
        let per_task = (SERIAL_ATTENTION / (longest * width * group).max(1)).max(1);
        self.attended.fill_units(kernels, pool, forms, rows.len(), group * width, |units| {
            let mut runs = runs(rows, shape.kv_heads, units);
            let tasks = runs.chunks_mut(per_task).collect();
            pool.for_each(tasks, |runs: &mut [Run<'_>]| {
                for Run { first, rows, head, outputs } in runs {
                    // The rows are in the order of their positions.
                    let [Some(earliest), Some(latest)] = [rows.first(), rows.last()] else { continue };
                    let (sequence, end) = (latest.sequence, latest.position + 1);
                    let first_seen = |row: &Row| (row.position + 1).saturating_sub(window);
                    // Pages before all windows are left out.
                    let begin = first_seen(earliest) / PAGE * PAGE;
                    let most = longest.min(end);
                    let mut scores = Scratch::filled(rows.len() * group * most);
                    let outputs = outputs.iter_mut().flat_map(|outputs| outputs.chunks_exact_mut(width));
                    let mut asked: Vec<Query<'_>> = outputs
                        .zip(scores.chunks_exact_mut(most.max(1)))
                        .enumerate()
                        .map(|(number, (output, scores))| {
                            let (row, member) = (number / group, *head * group + number % group);
                            let at = (*first + row) * row_width + member * width;
                            let seen = first_seen(&rows[row])..rows[row].position + 1;
                            let scores = &mut scores[..seen.len()];
                            let sink = layer.sinks.as_ref().map(|sinks| sinks[member]);
                            let (query, first) = (&queries[at..][..width], seen.start - begin);
                            Query { query, first, scores, sink, output }
                        })
                        .collect();
                    let pieces = cache.head(sequence, index, *head, begin, end);
                    kernels.attend(&mut asked, shape.attention_cap, pieces);
                }
            });
        });
    }

    fn score(&mut self, model: &Model, rows: &[Row]) {
        let (kernels, stream, shape) = (self.kernels, &self.stream, model.shape());
        let scored: Vec<usize> =
            rows.iter().enumerate().filter(|(_, row)| row.scored).map(|(i, _)| i).collect();
        if scored.is_empty() {
            return;
        }
        let weights = model.weights();
        let head = head(model);
        self.scored.fill(kernels, &self.pool, head.forms(), scored.len(), |first, output| {
            for (row, output) in scored[first..].iter().zip(output.chunks_exact_mut(shape.width)) {
                let values = &stream[row * shape.width..][..shape.width];
                kernels.rms_norm(values, &weights.output_norm, shape.norm_epsilon, output);
            }
        });
        multiply(kernels, &self.pool, [head], &self.scored, [&mut self.scores]);
    }
}

/// Multiplications of attention below which a task is not worth its cost.
const SERIAL_ATTENTION: usize = 1 << 15;
/// Rows of elementwise work that are worth a task of their own.
const ROWS_PER_TASK: usize = 16;

/// The matrix that gives the scores of the vocabulary.
fn head(model: &Model) -> &Matrix {
    let weights = model.weights();
    weights.output.as_ref().unwrap_or(&weights.embedding)
}

fn add(numbers: &mut [f32], more: &[f32]) {
    for (number, more) in numbers.iter_mut().zip(more) {
        *number += more;
    }
}

#[cfg(test)]
mod tests;
