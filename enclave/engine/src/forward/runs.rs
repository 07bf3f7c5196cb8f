//! Rows that attend together.

use super::Row;

/// Rows of a run. More rows share the widening of keys and values; fewer need less memory for scores.
const ROWS_TOGETHER: usize = 8;
/// Rows of one sequence that attend to the keys and values of one head together.
pub(super) struct Run<'a> {
    /// Index of the first row.
    pub(super) first: usize,
    pub(super) rows: &'a [Row],
    /// Which of the heads of keys and values.
    pub(super) head: usize,
    /// For each row, what comes of its queries.
    pub(super) outputs: Vec<&'a mut [f32]>,
}

/// Cuts the rows into runs for each of `heads`. `units` are the outputs: for each row, all heads in order.
pub(super) fn runs<'a>(rows: &'a [Row], heads: usize, units: Vec<&'a mut [f32]>) -> Vec<Run<'a>> {
    let mut runs = Vec::with_capacity(rows.len() * heads);
    let (mut first, mut units) = (0, units.into_iter());
    for rows in rows.chunk_by(|a, b| a.sequence == b.sequence).flat_map(|rows| rows.chunks(ROWS_TOGETHER)) {
        let at = runs.len();
        let outputs = || Vec::with_capacity(rows.len());
        runs.extend((0..heads).map(|head| Run { first, rows, head, outputs: outputs() }));
        for _ in rows {
            runs[at..].iter_mut().zip(&mut units).for_each(|(run, unit)| run.outputs.push(unit));
        }
        first += rows.len();
    }
    runs
}
