//! Tokens through the whole path with receipts against the same path without.
//!
//! Two enclaves read one copy of the weights. Both are put together from the enclave's own parts; one of them has no receipts,
//! which no program of the project can be told.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;

use serde_json::json;

use super::{
    ANSWER, Answer, Direct, Enclave, PROMPT, Pairs, Receipts, Speeds, WholePath, client_runtime, read_model,
    start_engine,
};
use crate::clock::Samples;
use crate::report::{Limit, Report};

/// The least part of the tokens per second without receipts that must be left.
const TARGET: f64 = 0.99;
/// How many times as many rounds as the other parts have.
const ROUNDS_MORE: usize = 4;

/// Measures `rounds` answers on each side, in turn.
pub(crate) fn measure(
    report: &mut Report,
    model: &Path,
    rounds: usize,
    threads: Option<NonZeroUsize>,
) -> Result<(), Box<dyn Error>> {
    let threads = threads.map_or_else(std::thread::available_parallelism, Ok)?;
    let (model, digest) = read_model(model)?;
    let prompt = Direct { engine: start_engine(&model, threads)? }.find_prompt()?;
    let [bare, receipted] = [Receipts::None, Receipts::Each];
    let enclave = |receipts| Enclave::start(digest, start_engine(&model, threads)?, receipts);
    let (bare, receipted) = (enclave(bare)?, enclave(receipted)?);
    let runtime = client_runtime()?;
    let mut without = runtime.block_on(WholePath::start(&bare))?;
    let mut with = runtime.block_on(WholePath::start(&receipted))?;
    let mut ask = |receipts| -> Result<Answer, Box<dyn Error>> {
        let path = if receipts == Receipts::Each { &mut with } else { &mut without };
        let answer = runtime.block_on(path.answer(&prompt))?;
        if answer.receipt.is_some() != (receipts == Receipts::Each) {
            return Err("a receipt is missing, or came where there should be none".into());
        }
        Ok(answer)
    };
    if ask(Receipts::None)?.text != ask(Receipts::Each)?.text {
        return Err("the two paths gave different answers to the same prompt".into());
    }
    let (mut bare, mut receipted, mut pairs) = (Speeds::default(), Speeds::default(), Pairs::default());
    let mut behind = Samples::default();
    // One answer of a shared machine differs from the next by more than what is looked for.
    let rounds = rounds * ROUNDS_MORE;
    for round in 0..rounds {
        // Neither side always comes first.
        let before = (round % 2 == 0).then(|| ask(Receipts::None)).transpose()?;
        let answer = ask(Receipts::Each)?;
        let other = before.map_or_else(|| ask(Receipts::None), Ok)?;
        receipted.push(&answer);
        bare.push(&other);
        pairs.push(&answer, &other);
        if let Some(time) = answer.receipt {
            behind.push(time.as_secs_f64() * 1e3);
        }
    }
    let ratio = pairs.whole.median();
    report.line("");
    report.line(format!(
        "Whole path with receipts against the same path without: {PROMPT} tokens in, {ANSWER} out, {threads} threads, {rounds} rounds in turn"
    ));
    report.line("                          first token, ms    tokens/s after it      tokens/s in all");
    report.line("                           median    least       median     most       median     most");
    report.line(bare.row("without receipts"));
    report.line(receipted.row("with receipts"));
    report.line(format!(
        "  ratio of tokens/s in all, median of rounds: {ratio:.4}; the receipt comes {:.2} ms after the last event",
        behind.median()
    ));
    report.section(
        "receipts",
        json!({
            "prompt_tokens": PROMPT, "answer_tokens": ANSWER, "rounds": rounds, "threads": threads,
            "without": bare.json(), "with": receipted.json(), "ratio": { "tokens_per_second": ratio }, "receipt_after_last_event_ms": behind.median(),
        }),
    );
    report.target("whole path with receipts / without, tokens per second", ratio, Limit::AtLeast(TARGET));
    Ok(())
}
