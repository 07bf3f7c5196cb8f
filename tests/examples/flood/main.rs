//! What a partner notices of others who flood the enclave, through the whole attested path: in quiet and beside the flood, in turns.
//!
//! ```text
//! flood MODEL [--strangers | --no-limits] [QUESTIONS]
//! ```
//!
//! Without a flag another partner floods the engine ([`partners`]), and the time to the first token counts. With `--no-limits` two
//! partners flood it, and nobody says how long an answer may be ([`unlimited`]). With `--strangers` keys without rights keep the
//! enclave as busy as they can ([`strangers`]), and the time to set a session up counts as well. Exit status 1 when the 95th percentile
//! beside a flood is over twice the quiet one; with `--no-limits` when any first token is.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made has failed")]

mod measure;
mod partners;
mod processors;
mod strangers;
mod unlimited;

use std::process::ExitCode;

use tokio::runtime::Runtime;

fn main() -> ExitCode {
    if let Some(path) = strangers::attacked() {
        return strangers::attack(&path);
    }
    let mut arguments = std::env::args().skip(1).peekable();
    let model = arguments.next().and_then(|path| std::fs::read(path).ok());
    let by_strangers = arguments.next_if_eq("--strangers").is_some();
    let without_limits = !by_strangers && arguments.next_if_eq("--no-limits").is_some();
    let questions = arguments.next().map_or(Ok(8), |count| count.parse());
    let (Some(model), Ok(questions), None) = (model, questions, arguments.next()) else {
        eprintln!(
            "flood: expected a model file; --strangers, --no-limits or neither; and how many questions to ask in each turn"
        );
        return ExitCode::from(2);
    };
    let met = if by_strangers {
        let apart = processors::leave_the_last_to_strangers();
        runtime().block_on(strangers::run(model, questions, apart))
    } else if without_limits {
        runtime().block_on(unlimited::run(model, questions))
    } else {
        runtime().block_on(partners::run(model, questions))
    };
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// With a thread for each processor that this process may use now.
fn runtime() -> Runtime {
    Runtime::new().expect("a runtime can start")
}
