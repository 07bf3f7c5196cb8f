//! What the packages for other languages share: settings in the words of their users, answers that are read
//! piece by piece and ended from another thread, and proofs as JSON.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use super::{Answer, AnswerBody, Client, Problem, ReceiptSlot, VerifiedReceipt};
use crate::address::Address;
use crate::outcome::{Failure, usage};
use crate::receipts::ReceiptFolder;
use crate::session::{Reach, SendError, Session, Sessions};
use crate::setup::Setup;

/// The settings of a channel, as a user writes them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The clean room's hosts, the preferred one first.
    pub addresses: Vec<String>,
    /// The policy's file.
    pub policy: PathBuf,
    /// What SHA-256 of that file must be, in hexadecimal.
    pub policy_sha256: Option<String>,
    /// The file of the partner's key.
    pub key: PathBuf,
    /// The model to use; not needed when the policy has only one.
    pub model: Option<String>,
    /// The HTTP proxy to reach hosts through, or `none`. Without it the environment decides.
    pub proxy: Option<String>,
    /// The folder in which each receipt is kept before its answer counts.
    pub receipts: Option<PathBuf>,
    /// The folder in which a record of each verification is kept.
    pub record: Option<PathBuf>,
}

/// An attested channel: one proven session, which is proven again when that is due.
#[derive(Clone)]
pub struct Channel {
    client: Client,
    model: ModelId,
}

impl Channel {
    /// Reads the files that the settings name. Nothing is connected before it is needed.
    ///
    /// # Errors
    /// [`Failure`] names what is wrong with a setting or a file.
    pub fn open(settings: Settings) -> Result<Self, Failure> {
        let Settings { addresses, policy, policy_sha256, key, model, proxy, receipts, record } = settings;
        let wrong = |error: &dyn std::fmt::Display| usage("usage", error.to_string());
        let addresses: Result<Vec<Address>, _> = addresses.iter().map(|address| address.parse()).collect();
        let addresses = addresses.map_err(|error| wrong(&error))?;
        if addresses.is_empty() {
            return Err(wrong(&"expected at least one address"));
        }
        let policy_sha256 = policy_sha256.as_deref().map(Sha256Digest::from_written).transpose();
        let policy_sha256 = policy_sha256.map_err(|error| wrong(&error))?;
        let model = model.as_deref().map(ModelId::new).transpose().map_err(|error| wrong(&error))?;
        let setup = Setup { addresses, policy, policy_sha256, key, model, proxy, record };
        let (party, model) = setup.load()?;
        let client = Client::new(Sessions::through(party, setup.dialer()?));
        let client = match receipts {
            Some(folder) => client.keep_receipts(ReceiptFolder::at(folder)),
            None => client.verify_receipts(),
        };
        Ok(Self { client, model })
    }

    /// The model that answers.
    #[must_use]
    pub const fn model(&self) -> &ModelId {
        &self.model
    }

    /// SHA-256 of the partner's key, by which the clean room knows the partner.
    #[must_use]
    pub fn partner(&self) -> Sha256Digest {
        self.client.sessions().partner()
    }

    /// Proves the clean room, unless it is proven already.
    ///
    /// # Errors
    /// [`Problem`] says why it is not proven.
    pub async fn prove(&self) -> Result<Proof, Problem> {
        match self.client.sessions().get().await {
            Ok(session) => Ok(Proof { session, receipt: ReceiptSlot::default() }),
            Err(reason) => Err(Problem::from_send(&SendError { reach: Reach::NeverSent, reason })),
        }
    }

    /// Sends a request on a proven session. The answer is there when it is whole, or when its stream begins.
    ///
    /// # Errors
    /// [`Problem`], which says how far the request got.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Received, Problem> {
        Received::of(self.client.send(request).await?).await
    }
}

/// A request of these parts. What is no header of HTTP has no meaning to the clean room either, and is left
/// out.
///
/// # Errors
/// [`Problem`] when method or path is none.
pub fn request<'h>(
    method: &str,
    path: &str,
    headers: impl IntoIterator<Item = (&'h [u8], &'h [u8])>,
    body: Bytes,
) -> Result<Request<Bytes>, Problem> {
    let mut request = Request::new(body);
    // The errors would repeat what they are about.
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| Problem::bad_path())?;
    *request.uri_mut() = path.parse().map_err(|_| Problem::bad_path())?;
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            request.headers_mut().insert(name, value);
        }
    }
    Ok(request)
}

/// What was proven before a request was sent, and its receipt once that is verified.
#[derive(Clone)]
pub struct Proof {
    session: Arc<Session>,
    receipt: ReceiptSlot,
}

impl Proof {
    /// What was proven, as JSON: image, tier, model, transcript, release and verdict.
    #[must_use]
    pub fn proven(&self) -> String {
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
    #[must_use]
    pub fn receipt(&self) -> Option<String> {
        self.receipt.get().map(|receipt| receipt_value(receipt).to_string())
    }
}

/// The receipt's own members are in `payload`, which the envelope signs.
fn receipt_value(receipt: &VerifiedReceipt) -> Value {
    let envelope: Value = serde_json::from_slice(&receipt.signed.to_json()).unwrap_or_default();
    json!({ "payload": receipt.signed.receipt(), "envelope": envelope, "path": receipt.path })
}

/// An answer. It is whole, or a stream of pieces.
pub struct Received {
    head: Parts,
    whole: Option<Bytes>,
    body: Arc<Mutex<Option<AnswerBody>>>,
    closed: watch::Sender<bool>,
    proof: Proof,
}

impl Received {
    async fn of(answer: Answer) -> Result<Self, Problem> {
        let Answer { response, session, receipt } = answer;
        let (head, mut body) = response.into_parts();
        let mut whole = None;
        if !body.is_stream() {
            whole = Some((&mut body).collect().await?.to_bytes());
        }
        let body = Arc::new(Mutex::new(Some(body)));
        let proof = Proof { session, receipt };
        Ok(Self { head, whole, body, closed: watch::channel(false).0, proof })
    }

    /// The status of HTTP.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// The headers of HTTP.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The content, if the answer is no stream.
    #[must_use]
    pub const fn whole(&self) -> Option<&Bytes> {
        self.whole.as_ref()
    }

    /// What was proven before the request was sent.
    #[must_use]
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }

    /// The next piece of a stream: whole events, nothing at the end or after [`Received::close`], or a
    /// problem.
    pub fn next(&self) -> impl Future<Output = Option<Result<Bytes, Problem>>> + Send + 'static {
        let (body, mut closed) = (Arc::clone(&self.body), self.closed.subscribe());
        async move {
            let mut body = body.lock().await;
            let stream = body.as_mut()?;
            let frame = tokio::select! {
                // Also when the answer itself is gone, which closes it.
                _ = closed.wait_for(|closed| *closed) => None,
                frame = stream.frame() => frame,
            };
            if frame.is_none() {
                *body = None;
            }
            frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
        }
    }

    /// Ends the answer on this runtime. A generation that still runs ends with it.
    pub fn close(&self, runtime: &Handle) {
        self.closed.send_replace(true);
        let body = Arc::clone(&self.body);
        runtime.spawn(async move { drop(body.lock().await.take()) });
    }
}
