//! What comes of a request: an answer, a problem, and what was proven before.

use std::sync::Arc;

use bytes::Bytes;
use cleanroom_partner::client::{self, AnswerBody, Dialect, ReceiptSlot, VerifiedReceipt};
use cleanroom_partner::session::{Reach, Session};
use http_body_util::BodyExt as _;
use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};

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
pub(crate) struct Proof {
    session: Arc<Session>,
    receipt: ReceiptSlot,
}

impl Proof {
    pub(crate) fn new(session: Arc<Session>, receipt: ReceiptSlot) -> Self {
        Self { session, receipt }
    }
}

#[pymethods]
impl Proof {
    /// What was proven, as JSON.
    fn proven(&self) -> String {
        let evidence = self.session.evidence().evidence();
        json!({
            "image": evidence.image(),
            "tier": evidence.tier(),
            "model_sha256": self.session.model_digest(),
            "transcript_sha384": self.session.transcript(),
            "release": self.session.permitted(),
            "verdict": self.session.verdict(),
        })
        .to_string()
    }

    /// The verified receipt, as JSON; nothing as long as there is none.
    fn receipt(&self) -> Option<String> {
        self.receipt.get().map(|receipt| receipt_value(receipt).to_string())
    }
}

/// The receipt's own members are in `payload`, which the envelope signs.
fn receipt_value(receipt: &VerifiedReceipt) -> Value {
    let envelope: Value = serde_json::from_slice(&receipt.signed.to_json()).unwrap_or_default();
    json!({ "payload": receipt.signed.receipt(), "envelope": envelope, "path": receipt.path })
}

/// An answer. It is whole, or a stream of pieces.
#[pyclass(frozen)]
pub(crate) struct Answer {
    #[pyo3(get)]
    status: u16,
    headers: Headers,
    whole: Option<Vec<u8>>,
    body: Arc<Mutex<Option<AnswerBody>>>,
    closed: Arc<Notify>,
    session: Arc<Session>,
    receipt: ReceiptSlot,
}

impl Answer {
    /// Takes the answer of a client; the content too, if it is whole.
    pub(crate) async fn of(answer: client::Answer) -> Result<Self, client::Problem> {
        let client::Answer { response, session, receipt } = answer;
        let (head, mut body) = response.into_parts();
        let mut whole = None;
        if !body.is_stream() {
            whole = Some((&mut body).collect().await?.to_bytes().to_vec());
        }
        Ok(Self {
            status: head.status.as_u16(),
            headers: headers(&head.headers),
            whole,
            body: Arc::new(Mutex::new(Some(body))),
            closed: Arc::default(),
            session,
            receipt,
        })
    }
}

#[pymethods]
impl Answer {
    #[getter]
    fn headers(&self) -> Headers {
        self.headers.clone()
    }

    /// The content, if the answer is no stream.
    #[getter]
    fn whole<'p>(&self, python: Python<'p>) -> Option<Bound<'p, PyBytes>> {
        self.whole.as_ref().map(|bytes| PyBytes::new(python, bytes))
    }

    #[getter]
    fn proof(&self) -> Proof {
        Proof::new(Arc::clone(&self.session), self.receipt.clone())
    }

    /// The next piece of a stream: whole events, `None` at the end, or a `Problem`.
    #[pyo3(signature = (wake=None))]
    fn next(&self, wake: Option<Py<PyAny>>) -> PyResult<Pending> {
        let (body, closed) = (Arc::clone(&self.body), Arc::clone(&self.closed));
        let next = async move {
            let mut body = body.lock().await;
            let Some(stream) = body.as_mut() else { return piece(None) };
            let frame = tokio::select! {
                frame = stream.frame() => frame,
                () = closed.notified() => None,
            };
            match frame {
                Some(Ok(frame)) => piece(Some(frame.into_data().unwrap_or_default())),
                Some(Err(problem)) => done(Problem(problem)),
                None => {
                    *body = None;
                    piece(None)
                }
            }
        };
        Pending::begin(next, wake)
    }

    /// Ends the answer. A generation that still runs ends with it.
    fn close(&self) -> PyResult<()> {
        self.closed.notify_waiters();
        let body = Arc::clone(&self.body);
        runtime::runtime()?.spawn(async move { drop(body.lock().await.take()) });
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
        match self.0.reach() {
            Reach::NeverSent => "never-sent",
            Reach::MayHaveBeenSent => "may-have-been-sent",
            Reach::WasSent => "was-sent",
        }
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
