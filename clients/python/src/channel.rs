//! An attested channel to a clean room, for any number of requests.

use std::path::PathBuf;

use bytes::Bytes;
use cleanroom_partner::client::package::{self, Settings, request};
use cleanroom_partner::outcome::Failure;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::answer::{Answer, Problem, Proof, done};
use crate::pending::Pending;
use crate::{Failed, runtime};

/// Keeps one proven session, and proves the clean room again when that is due.
#[pyclass(frozen)]
pub(crate) struct Channel(package::Channel);

#[pymethods]
impl Channel {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "Python has a name for each")]
    #[pyo3(signature = (addresses, *, policy, policy_sha256, key, model, proxy, receipts, record))]
    fn new(
        addresses: Vec<String>,
        policy: PathBuf,
        policy_sha256: Option<String>,
        key: PathBuf,
        model: Option<String>,
        proxy: Option<String>,
        receipts: Option<PathBuf>,
        record: Option<PathBuf>,
    ) -> PyResult<Self> {
        runtime::runtime()?;
        let settings = Settings { addresses, policy, policy_sha256, key, model, proxy, receipts, record };
        package::Channel::open(settings).map(Self).map_err(failed)
    }

    /// The model that answers.
    #[getter]
    fn model(&self) -> String {
        self.0.model().to_string()
    }

    /// SHA-256 of the partner's key, in hexadecimal.
    #[getter]
    fn partner(&self) -> String {
        self.0.partner().to_string()
    }

    /// Proves the clean room, unless it is proven already. Gives a `Proof` or a `Problem`.
    #[pyo3(signature = (wake=None))]
    fn prove(&self, wake: Option<Py<PyAny>>) -> PyResult<Pending> {
        let channel = self.0.clone();
        let proven = async move {
            match channel.prove().await {
                Ok(proof) => done(Proof(proof)),
                Err(problem) => done(Problem(problem)),
            }
        };
        Pending::begin(proven, wake)
    }

    /// Sends a request on a proven session. Gives an `Answer` or a `Problem`. The body is not copied.
    #[pyo3(signature = (method, path, headers, body, wake=None))]
    fn send(
        &self,
        method: &str,
        path: &str,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: PyBackedBytes,
        wake: Option<Py<PyAny>>,
    ) -> PyResult<Pending> {
        let headers = headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let request = request(method, path, headers, Bytes::from_owner(body))
            .map_err(|problem| Failed::new_err((problem.code(), problem.message().to_owned())))?;
        let channel = self.0.clone();
        let answered = async move {
            match channel.send(request).await {
                Ok(answer) => done(Answer(answer)),
                Err(problem) => done(Problem(problem)),
            }
        };
        Pending::begin(answered, wake)
    }
}

fn failed(failure: Failure) -> PyErr {
    Failed::new_err((failure.code, failure.message))
}
