//! Steps that are interrupted.

use std::cell::Cell;
use std::num::NonZeroUsize;

use super::*;

#[test]
fn a_step_that_was_interrupted_goes_on_where_it_was() {
    let model = Model::from_gguf(include_bytes!("../../../../models/demo.gguf")).unwrap();
    let rows: Vec<Row> = (0..5)
        .map(|position| Row { sequence: 0, position, token: 40 + position as u32, scored: position == 4 })
        .collect();
    let [second, other] = [1, 2].map(|sequence| Row { sequence, position: 0, token: 7, scored: true });
    let forward = || Forward::new(&model, Pool::new(NonZeroUsize::MIN).unwrap(), 8, 8);
    let cache = || {
        let mut cache = Cache::new(model.shape(), 3, 3);
        (0..3).for_each(|sequence| cache.extend(sequence, 5).unwrap());
        cache
    };
    let scores = |forward: &Forward| {
        let mut scores = vec![0.0; model.tokenizer().len()];
        forward.scores(0, &mut scores);
        scores
    };

    let (mut whole, mut whole_cache) = (forward(), cache());
    assert!(whole.step(&model, &mut whole_cache, &rows, || true).is_continue());

    let (mut forward, mut cache) = (forward(), cache());
    let asked = Cell::new(0);
    let until = |halves: usize| {
        let asked = &asked;
        move || asked.replace(asked.get() + 1) < halves
    };
    // A sequence that ends while the step waits comes first among its rows.
    let both: Vec<Row> = std::iter::once(second).chain(rows.iter().copied()).collect();
    let step = forward.step(&model, &mut cache, &both, until(3)).break_value().unwrap();
    assert_eq!(asked.get(), 4, "asked before each half of a layer, and the last answer was no");
    assert!(step.has(0) && step.has(1) && !step.has(2));
    let mut step = step.without(1).unwrap();
    assert!(step.has(0) && !step.has(1));
    // Others come in between, wherever it waits.
    let rows = loop {
        assert!(forward.step(&model, &mut cache, &[other], || true).is_continue());
        asked.set(0);
        match forward.resume(&model, &mut cache, step, until(2)) {
            ControlFlow::Break(next) => step = next,
            ControlFlow::Continue(rows) => break rows,
        }
    };
    assert_eq!(rows.len(), 5);
    assert_eq!(scores(&forward), scores(&whole));
    let step = forward.step(&model, &mut cache, &rows, || false).break_value().unwrap();
    assert!(step.without(0).is_none());
}
