//! The threads that requests run on, and the thread that tells Python of their ends.

use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::Failed;

/// One for TLS and HTTP/2, and one so that a large request of one caller does not hold up the others.
const THREADS: usize = 2;

struct Background {
    runtime: Runtime,
    wake: Sender<Py<PyAny>>,
    /// The process that the threads are in.
    process: u32,
}

/// The process's runtime. It lives as long as the process.
///
/// # Errors
/// [`Failed`] in a child process that was forked, which has no threads, and when the system gives none.
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    background().map(|background| &background.runtime)
}

/// Calls `wake` soon, on a thread that may wait for Python's lock. Requests never do.
pub(crate) fn wake(wake: Py<PyAny>) {
    if let Ok(background) = background() {
        let _ = background.wake.send(wake);
    }
}

fn background() -> PyResult<&'static Background> {
    static BACKGROUND: OnceLock<Result<Background, String>> = OnceLock::new();
    let started = BACKGROUND.get_or_init(|| Background::start().map_err(|error| error.to_string()));
    let background =
        started.as_ref().map_err(|error| Failed::new_err(("runtime", format!("no threads: {error}"))))?;
    if background.process == std::process::id() {
        return Ok(background);
    }
    let message = "this process was forked from one that had used cleanroom already; its threads are not here. \
                   Start processes with `spawn`, or import and use cleanroom in the child alone";
    Err(Failed::new_err(("forked", message)))
}

impl Background {
    fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("cleanroom")
            .enable_all()
            .build()?;
        let (wake, wakes) = channel::<Py<PyAny>>();
        std::thread::Builder::new().name("cleanroom-wake".to_owned()).spawn(move || {
            for wake in wakes {
                // An interpreter or event loop that is ending wants to hear nothing more.
                let _ = Python::try_attach(|python| wake.call0(python).map(drop));
            }
        })?;
        Ok(Self { runtime, wake, process: std::process::id() })
    }
}
