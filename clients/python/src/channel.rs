//! An attested channel to a clean room, for any number of requests.

use std::path::PathBuf;

use bytes::Bytes;
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_partner::address::Address;
use cleanroom_partner::client::{self, Client, ReceiptSlot};
use cleanroom_partner::outcome::Failure;
use cleanroom_partner::receipts::ReceiptFolder;
use cleanroom_partner::session::{Reach, SendError, Sessions};
use cleanroom_partner::setup::Setup;
use http::{HeaderName, HeaderValue, Request};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::answer::{Answer, Problem, Proof, done};
use crate::pending::Pending;
use crate::{Failed, runtime};

/// Keeps one proven session, and proves the clean room again when that is due.
#[pyclass(frozen)]
pub(crate) struct Channel {
    client: Client,
    /// The model that answers.
    #[pyo3(get)]
    model: String,
    /// SHA-256 of the partner's key, in hexadecimal.
    #[pyo3(get)]
    partner: String,
}

#[pymethods]
impl Channel {
    #[new]
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
        let wrong = |problem: String| Failed::new_err(("usage", problem));
        let addresses =
            addresses.iter().map(|address| address.parse::<Address>()).collect::<Result<Vec<_>, _>>();
        let addresses = addresses.map_err(|error| wrong(error.to_string()))?;
        if addresses.is_empty() {
            return Err(wrong("expected at least one address".to_owned()));
        }
        let policy_sha256 = policy_sha256.as_deref().map(Sha256Digest::from_written).transpose();
        let policy_sha256 = policy_sha256.map_err(|error| wrong(error.to_string()))?;
        let model =
            model.as_deref().map(ModelId::new).transpose().map_err(|error| wrong(error.to_string()))?;
        let setup = Setup { addresses, policy, policy_sha256, key, model, proxy, record };
        let (party, model) = setup.load().map_err(failed)?;
        let sessions = Sessions::through(party, setup.dialer().map_err(failed)?);
        let partner = sessions.partner().to_string();
        let client = Client::new(sessions);
        let client = match receipts {
            Some(folder) => client.keep_receipts(ReceiptFolder::at(folder)),
            None => client.verify_receipts(),
        };
        Ok(Self { client, model: model.to_string(), partner })
    }

    /// Proves the clean room, unless it is proven already. Gives a `Proof` or a `Problem`.
    #[pyo3(signature = (wake=None))]
    fn prove(&self, wake: Option<Py<PyAny>>) -> PyResult<Pending> {
        let client = self.client.clone();
        let proven = async move {
            match client.sessions().get().await {
                Ok(session) => done(Proof::new(session, ReceiptSlot::default())),
                Err(reason) => {
                    done(Problem(client::Problem::from_send(&SendError { reach: Reach::NeverSent, reason })))
                }
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
        let mut request = Request::builder().method(method).uri(path);
        if let Some(map) = request.headers_mut() {
            for (name, value) in &headers {
                // What is no header of HTTP has no meaning to the clean room either.
                let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value));
                if let (Ok(name), Ok(value)) = (name, value) {
                    map.insert(name, value);
                }
            }
        }
        // The error would repeat the path.
        let request = request.body(Bytes::from_owner(body));
        let request = request.map_err(|_| Failed::new_err(("bad-path", "expected a method and a path")))?;
        let client = self.client.clone();
        let answered = async move {
            match client.send(request).await {
                Ok(answer) => match Answer::of(answer).await {
                    Ok(answer) => done(answer),
                    Err(problem) => done(Problem(problem)),
                },
                Err(problem) => done(Problem(problem)),
            }
        };
        Pending::begin(answered, wake)
    }
}

fn failed(failure: Failure) -> PyErr {
    Failed::new_err((failure.code, failure.message))
}
