//! Which experts compute which rows.

use super::add;
use crate::{kernels::Kernels, matrix::Product, model::Vector, scratch::Scratch};

/// One row that one expert computes.
#[derive(Clone, Copy, Default)]
pub(super) struct Choice {
    pub(super) expert: usize,
    pub(super) row: usize,
    /// What its result counts for.
    pub(super) weight: f32,
}

/// The `used` experts with the highest scores for each row, the lower number first among equals. Their weights are
/// the softmax of their scores. Expert after expert, and of each its rows in order.
pub(super) fn choices(
    kernels: Kernels,
    scores: &Product,
    bias: Option<&Vector>,
    experts: usize,
    used: usize,
    rows: usize,
) -> Scratch<Choice> {
    let mut choices = Scratch::with_capacity(rows * used);
    let mut of_row = Scratch::filled(experts);
    let mut numbers: Scratch<usize> = Scratch::filled(experts);
    let mut weights = Scratch::filled(used);
    for row in 0..rows {
        scores.copy_row(row, &mut of_row);
        if let Some(bias) = bias {
            add(&mut of_row, bias);
        }
        numbers.iter_mut().enumerate().for_each(|(number, place)| *place = number);
        numbers.sort_unstable_by(|a, b| of_row[*b].total_cmp(&of_row[*a]).then(a.cmp(b)));
        weights.iter_mut().zip(numbers.iter()).for_each(|(weight, number)| *weight = of_row[*number]);
        kernels.softmax(&mut weights);
        let chosen = numbers.iter().zip(weights.iter());
        choices.extend(chosen.map(|(expert, weight)| Choice { expert: *expert, row, weight: *weight }));
    }
    choices.sort_unstable_by_key(|choice| (choice.expert, choice.row));
    choices
}
