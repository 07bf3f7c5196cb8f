//! What comes of a request: an answer, a problem, and what was proven before.

use bytes::Bytes;
use cleanroom_partner::client::package;
use cleanroom_partner::client::{self, Dialect};
use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::pending::{Done, Pending};
use crate::runtime;

/// Names and values of a head.
type Headers = Vec<(Vec<u8>, Vec<u8>)>;

fn headers(headers: &http::HeaderMap) -> Headers {
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())
    };
    headers.iter().map(pair).collect()
}

/// An object of one of this module's classes.
pub(crate) fn done<T>(object: T) -> Done
where
    T: Into<PyClassInitializer<T>> + PyClass + Send + 'static,
{
    Done::new(|python| Ok(Py::new(python, object)?.into_any()))
}

/// A piece of an answer; nothing at its end.
fn piece(bytes: Option<Bytes>) -> Done {
    Done::new(move |python| match bytes {
        Some(bytes) => Ok(PyBytes::new(python, &bytes).into_any().unbind()),
        None => Ok(python.None()),
    })
}

/// What was proven before a request was sent, and its receipt once that is verified.
#[pyclass(frozen)]
pub(crate) struct Proof(pub(crate) package::Proof);

#[pymethods]
impl Proof {
    /// What was proven, as JSON.
    fn proven(&self) -> String {
        self.0.proven()
    }

    /// The verified receipt, as JSON; nothing as long as there is none.
    fn receipt(&self) -> Option<String> {
        self.0.receipt()
    }
}

/// An answer. It is whole, or a stream of pieces.
#[pyclass(frozen)]
pub(crate) struct Answer(pub(crate) package::Received);

#[pymethods]
impl Answer {
    #[getter]
    fn status(&self) -> u16 {
        self.0.status()
    }

    #[getter]
    fn headers(&self) -> Headers {
        headers(self.0.headers())
    }

    /// The content, if the answer is no stream.
    #[getter]
    fn whole<'p>(&self, python: Python<'p>) -> Option<Bound<'p, PyBytes>> {
        self.0.whole().map(|bytes| PyBytes::new(python, bytes))
    }

    #[getter]
    fn proof(&self) -> Proof {
        Proof(self.0.proof().clone())
    }

    /// The next piece of a stream: whole events, `None` at the end, or a `Problem`.
    #[pyo3(signature = (wake=None))]
    fn next(&self, wake: Option<Py<PyAny>>) -> PyResult<Pending> {
        let next = self.0.next();
        let next = async move {
            match next.await {
                Some(Ok(bytes)) => piece(Some(bytes)),
                Some(Err(problem)) => done(Problem(problem)),
                None => piece(None),
            }
        };
        Pending::begin(next, wake)
    }

    /// Ends the answer. A generation that still runs ends with it.
    fn close(&self) -> PyResult<()> {
        self.0.close(runtime::runtime()?.handle());
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// Why there is no answer, or not a whole one.
#[pyclass(frozen)]
pub(crate) struct Problem(pub(crate) client::Problem);

#[pymethods]
impl Problem {
    #[getter]
    fn code(&self) -> &'static str {
        self.0.code()
    }

    #[getter]
    fn message(&self) -> &str {
        self.0.message()
    }

    /// How far the request got: `never-sent`, `may-have-been-sent` or `was-sent`.
    #[getter]
    fn reach(&self) -> &'static str {
        self.0.reach().name()
    }

    /// Whether the clean room was refused, in contrast to not being reached.
    #[getter]
    fn refused(&self) -> bool {
        self.0.is_refusal()
    }

    /// The verdict on evidence that was refused, as JSON.
    fn verdict(&self) -> Option<String> {
        self.0.verdict().and_then(|verdict| serde_json::to_string(verdict).ok())
    }

    /// Status, headers and content with which the local proxy says the same.
    fn response(&self, path: &str) -> (u16, Headers, Vec<u8>) {
        let (head, body) = self.0.to_response(Dialect::of(path)).into_parts();
        (head.status.as_u16(), headers(&head.headers), body.to_vec())
    }
}
