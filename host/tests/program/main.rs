//! The program as an operator runs it. The enclave is this test program itself, asked to run [`stand_in`]
//! only.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod commands;
mod kit;
mod lives;
mod outlets;
mod readiness;
mod relays;
mod stand_in;

use std::env;
use std::fs;
use std::path::Path;

use cleanroom_link::variable;

/// The stand-in for an enclave: echoes what it hears. In an ordinary run of the tests nothing happens.
#[test]
fn stand_in() {
    let Some(socket) = env::var_os(variable::LISTEN) else { return };
    let behaviour = fs::read_to_string(env::var_os(variable::CONFIG).unwrap()).unwrap();
    println!("told to {behaviour}");
    match behaviour.as_str() {
        "refuse" => std::process::exit(cleanroom_link::exit::REFUSED.into()),
        "crash" => std::process::exit(1),
        _ => {
            let control = env::var_os(variable::CONTROL).unwrap();
            std::thread::spawn(move || stand_in::answer_probes(Path::new(&control), &behaviour));
            stand_in::echo(Path::new(&socket));
        }
    }
}
