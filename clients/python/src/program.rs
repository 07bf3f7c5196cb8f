//! The program's own commands, which give their JSON.

use std::ffi::OsString;

use cleanroom_partner::cli;
use pyo3::prelude::*;

use crate::Failed;
use crate::pending::{Done, Pending};

/// Runs a command of `cleanroom` as with `--json`. Gives its exit code and its JSON.
#[pyfunction]
pub(crate) fn run(arguments: Vec<OsString>) -> PyResult<Pending> {
    Pending::begin_blocking(move || {
        let arguments = [OsString::from("cleanroom")].into_iter().chain(arguments);
        match cli::json(arguments) {
            Ok((outcome, json)) => {
                Done::new(move |python| Ok((outcome as u8, json).into_pyobject(python)?.into_any().unbind()))
            }
            Err(failure) => Done::new(move |_| Err(Failed::new_err((failure.code, failure.message)))),
        }
    })
}
