//! Work that runs while Python goes on.

use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::runtime;

/// How often a waiting thread looks whether a signal (Ctrl-C) has come.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// What came of some work. It becomes an object of Python, or an exception, where Python's lock is held.
pub(crate) struct Done(Box<Becoming>);

type Becoming = dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send;

impl Done {
    pub(crate) fn new(becoming: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static) -> Self {
        Self(Box::new(becoming))
    }

    fn into_python(self, python: Python<'_>) -> PyResult<Py<PyAny>> {
        (self.0)(python)
    }
}

#[derive(Default)]
struct Slot {
    done: Mutex<Option<Done>>,
    filled: Condvar,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, done: Done, wake: Option<Py<PyAny>>) {
        *self.lock() = Some(done);
        self.filled.notify_all();
        if let Some(wake) = wake {
            runtime::wake(wake);
        }
    }

    /// Takes what is there within `patience`.
    fn wait(&self, patience: Duration) -> Option<Done> {
        let slot = self.filled.wait_timeout_while(self.lock(), patience, |done| done.is_none());
        slot.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

/// Work that runs on another thread. Dropping it ends the work.
#[pyclass(frozen)]
pub(crate) struct Pending {
    slot: Arc<Slot>,
    task: Option<AbortHandle>,
}

impl Pending {
    /// Begins `work`; `wake` is called when it is done.
    pub(crate) fn begin(
        work: impl Future<Output = Done> + Send + 'static,
        wake: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let slot = Arc::<Slot>::default();
        let filled = Arc::clone(&slot);
        let task = runtime::runtime()?.spawn(async move { filled.fill(work.await, wake) });
        Ok(Self { slot, task: Some(task.abort_handle()) })
    }

    /// Begins work that blocks its thread and cannot be ended.
    pub(crate) fn begin_blocking(work: impl FnOnce() -> Done + Send + 'static) -> PyResult<Self> {
        let slot = Arc::<Slot>::default();
        let filled = Arc::clone(&slot);
        runtime::runtime()?.spawn_blocking(move || filled.fill(work(), None));
        Ok(Self { slot, task: None })
    }
}

#[pymethods]
impl Pending {
    /// Waits for the result without Python's lock. A signal handler that raises, as Ctrl-C does, ends the work.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, python: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let timeout = timeout.map(Duration::try_from_secs_f64).and_then(Result::ok);
        let last = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = last.map_or(SIGNALS_EVERY, |last| last.saturating_duration_since(Instant::now()));
            if let Some(done) = python.detach(|| self.slot.wait(left.min(SIGNALS_EVERY))) {
                return done.into_python(python);
            }
            python.check_signals().inspect_err(|_| self.cancel())?;
            if last.is_some_and(|last| Instant::now() >= last) {
                self.cancel();
                return Err(PyTimeoutError::new_err("no answer in time"));
            }
        }
    }

    /// The result, after the call of `wake`.
    fn take(&self, python: Python<'_>) -> PyResult<Py<PyAny>> {
        let done = self.slot.lock().take();
        done.ok_or_else(|| PyRuntimeError::new_err("the work is not done"))?.into_python(python)
    }

    /// Ends the work. Without effect when it is done.
    fn cancel(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cancel();
    }
}
