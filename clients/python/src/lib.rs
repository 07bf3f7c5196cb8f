//! The native half of the Python package `cleanroom`.
//!
//! It hands requests to [`cleanroom_partner::client::Client`], which the local proxy uses too, and holds no rule
//! of its own about what may be sent or believed. Python never waits here with its lock held: requests run on
//! this module's own threads, and Python waits for a [`pending::Pending`].

mod answer;
mod channel;
mod pending;
mod program;
mod runtime;

use pyo3::prelude::*;

pyo3::create_exception!(
    _native,
    Failed,
    pyo3::exceptions::PyException,
    "The arguments are code and message."
);

/// The native half of the package `cleanroom`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("Failed", module.py().get_type::<Failed>())?;
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<pending::Pending>()?;
    module.add_class::<answer::Answer>()?;
    module.add_class::<answer::Problem>()?;
    module.add_class::<answer::Proof>()?;
    module.add_function(wrap_pyfunction!(program::run, module)?)?;
    Ok(())
}
