//! The program's own commands, which give their JSON.

use std::ffi::OsString;

use cleanroom_partner::cli;
use cleanroom_partner::outcome::Failure;
use napi::bindgen_prelude::{Either, Env, Object, Result};
use napi_derive::napi;

use crate::runtime::promise;

/// The version of the package.
#[napi]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Nothing was judged.
#[napi(object)]
pub struct Failed {
    /// A stable name.
    pub failed: String,
    /// The exit code of a program that ends with it.
    pub exit_code: u8,
    /// What was expected, what came, what to do.
    pub message: String,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failed: failure.code.to_owned(), exit_code: failure.outcome as u8, message: failure.message }
    }
}

/// What a command found.
#[napi(object)]
pub struct Ran {
    /// The exit code.
    pub exit_code: u8,
    /// What it prints with `--json`.
    pub json: String,
}

/// Runs a command of `cleanroom` as with `--json`.
#[napi]
pub fn run(env: &Env, arguments: Vec<String>) -> Result<Object<'_>> {
    promise(env, async move {
        let command =
            move || cli::json(["cleanroom".to_owned()].into_iter().chain(arguments).map(OsString::from));
        match tokio::task::spawn_blocking(command).await {
            Ok(Ok((outcome, json))) => Either::A(Ran { exit_code: outcome as u8, json }),
            Ok(Err(failure)) => Either::B(failure.into()),
            Err(_) => Either::B(Failed {
                failed: "runtime".to_owned(),
                exit_code: 4,
                message: "the command's thread ended; this is a defect".to_owned(),
            }),
        }
    })
}
