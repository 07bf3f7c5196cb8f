//! How a position turns queries and keys (rotary embedding).

use super::Row;
use crate::{
    model::{Model, Pairs, Rope, RopeFactors},
    scratch::StepBuffer,
};

/// Turns the pairs of a head by the angles of the position. What is beyond the rotated width stays.
pub(crate) fn rotate(pairs: Pairs, head: &mut [f32], rotations: &[[f32; 2]]) {
    let turn = |x: &mut f32, y: &mut f32, [cosine, sine]: &[f32; 2]| {
        (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
    };
    match pairs {
        Pairs::Neighbours => {
            for ([x, y], rotation) in head.as_chunks_mut::<2>().0.iter_mut().zip(rotations) {
                turn(x, y, rotation);
            }
        }
        Pairs::Halves => {
            let (first, last) = head.split_at_mut(rotations.len());
            for ((x, y), rotation) in first.iter_mut().zip(last).zip(rotations) {
                turn(x, y, rotation);
            }
        }
    }
}

/// How the heads of each row of a step are turned, in one kind of layer.
pub(super) struct Rotations {
    /// Angle per position for each pair of a head.
    frequencies: Vec<f64>,
    magnitude: f32,
    /// Cosine and sine for each row and pair.
    turns: StepBuffer<f32>,
}

impl Rotations {
    /// For steps of at most `rows` rows.
    pub(super) fn new(model: &Model, rope: Rope, rows: usize) -> Self {
        let shape = model.shape();
        let factors = match &model.weights().rope_factors {
            Some(RopeFactors::One(factors)) => Some(factors),
            Some(RopeFactors::ShortAndLong(short, long)) => {
                Some(if shape.context > shape.original_context { long } else { short })
            }
            None => None,
        };
        let frequencies = rope.frequencies(shape.rope_width, factors.map(|factors| factors.as_slice()));
        Self { frequencies, magnitude: rope.magnitude, turns: StepBuffer::new(rows * shape.rope_width) }
    }

    pub(super) fn fill(&mut self, rows: &[Row]) {
        let turns = self.turns.first_mut(rows.len() * self.frequencies.len() * 2).as_chunks_mut().0;
        for (row, turns) in rows.iter().zip(turns.chunks_exact_mut(self.frequencies.len())) {
            for (frequency, turn) in self.frequencies.iter().zip(turns) {
                let (sine, cosine) = (row.position as f64 * frequency).sin_cos();
                *turn = [cosine as f32 * self.magnitude, sine as f32 * self.magnitude];
            }
        }
    }

    /// Cosine and sine for each pair, row after row.
    pub(super) fn of_rows(&self) -> impl Iterator<Item = &[[f32; 2]]> {
        self.turns.as_chunks().0.chunks_exact(self.frequencies.len())
    }

    /// Overwrites what was written since the last time.
    pub(super) fn erase(&mut self) {
        let Self { frequencies: _, magnitude: _, turns } = self;
        turns.erase();
    }
}
