//! Somebody with a key of their own who verifies nothing: an auditor who only collects evidence, or an adversary.

use std::sync::Arc;

use bytes::Bytes;
use cleanroom_attestation::channel::{Exchange, FrameKind, HelloFrame, Nonce, NoncePath, PublicAttestation};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_channel::frames::Frame;
use cleanroom_channel::identity::Identity;
use cleanroom_channel::tls;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::platform::model_id;

/// Why a stranger has no session.
#[derive(Debug, PartialEq, Eq)]
pub enum NoSession {
    /// The connection ended before the evidence came.
    Closed,
    /// The enclave refused; the body of its frame.
    Refused(Vec<u8>),
}

/// What may follow the first frame.
const EXPECTED: &[FrameKind] = &[FrameKind::Evidence, FrameKind::Refusal];

/// A key without rights.
pub struct Stranger(Identity);

impl Stranger {
    /// A new key.
    #[must_use]
    pub fn new() -> Self {
        Self(Identity::generate().unwrap())
    }

    /// A session on `stream`, whatever the evidence says.
    ///
    /// # Errors
    /// [`NoSession`].
    pub async fn session<S>(&self, stream: S) -> Result<TlsStream<S>, NoSession>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::new(tls::client_config(&self.0).unwrap()));
        let connected = connector.connect(tls::server_name(), stream).await;
        let mut stream = connected.map_err(|_| NoSession::Closed)?;
        let nonce = Nonce::from_bytes([1; Nonce::LENGTH]);
        let hello =
            Frame::new(FrameKind::Hello, &HelloFrame { nonce: nonce.clone(), model_id: model_id() }.encode());
        hello.write(&mut stream).await.map_err(|_| NoSession::Closed)?;
        let evidence = Frame::read(&mut stream, EXPECTED).await.map_err(|_| NoSession::Closed)?;
        if evidence.kind() == FrameKind::Refusal {
            return Err(NoSession::Refused(evidence.body().to_vec()));
        }
        let key = tls::finished_key(stream.get_ref().1, &nonce).unwrap();
        let finished = Exchange::begin(hello.bytes()).client_finished(evidence.bytes(), &key);
        let finished = Frame::new(FrameKind::Finished, &finished);
        finished.write(&mut stream).await.map_err(|_| NoSession::Closed)?;
        Ok(stream)
    }

    /// HTTP/2 on a session.
    ///
    /// # Errors
    /// [`NoSession`].
    pub async fn requests<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, NoSession>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(self.session(stream).await?);
        let started = http2::handshake(TokioExecutor::new(), stream).await;
        let (sender, connection) = started.map_err(|_| NoSession::Closed)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Default for Stranger {
    fn default() -> Self {
        Self::new()
    }
}

/// Asks for a public attestation. An error says that the connection is gone.
///
/// # Errors
/// What hyper says of the connection.
pub async fn ask_attestation(
    requests: &mut SendRequest<Full<Bytes>>,
    nonce: &Nonce,
) -> Result<Response<Incoming>, hyper::Error> {
    let path = format!("/.well-known/cleanroom/attestation?nonce={}", hex(nonce.as_bytes()));
    requests.ready().await?;
    let request = Request::get(format!("https://cleanroom{path}")).body(Full::default()).unwrap();
    requests.send_request(request).await
}

/// What a public attestation says, and the document's own nonce.
pub struct Statement {
    /// The attestation document.
    pub document: Vec<u8>,
    /// The root of the nonces that it answers.
    pub root: Nonce,
    /// The user data that the document must have.
    pub user_data: Vec<u8>,
    /// The receipt key, DER of its `SubjectPublicKeyInfo`.
    pub receipt_key: Vec<u8>,
    /// The release that it shows.
    pub release: Option<Sha256Digest>,
    /// The lease that it shows.
    pub lease: Option<Sha256Digest>,
}

impl Statement {
    /// Follows the answer to `nonce`, as an auditor does by `docs/protocol.md`.
    #[must_use]
    pub fn of(answer: &serde_json::Value, nonce: &Nonce) -> Self {
        use base64::Engine as _;
        let decode = |name: &str| {
            base64::engine::general_purpose::STANDARD.decode(answer[name].as_str().unwrap()).unwrap()
        };
        let digest = |value: &serde_json::Value| value.as_str().map(|text| text.parse().unwrap());
        let siblings = answer["path"].as_array().unwrap().iter().map(|value| digest(value).unwrap());
        let path = NoncePath { index: answer["index"].as_u64().unwrap(), siblings: siblings.collect() };
        let root = path.root(nonce).unwrap();
        let (release, lease) = (digest(&answer["release_sha256"]), digest(&answer["lease_sha256"]));
        let receipt_key = decode("receipt_key");
        let request = PublicAttestation {
            nonce: &root,
            model_id: &model_id(),
            model_digest: digest(&answer["model_sha256"]).unwrap(),
            release,
            lease,
            receipt_key: &receipt_key,
        }
        .evidence_request();
        let user_data = request.user_data().to_vec();
        Self { document: decode("document"), root, user_data, receipt_key, release, lease }
    }

    /// A name of the document.
    #[must_use]
    pub fn digest(&self) -> Sha384Digest {
        Sha384Digest::of(&[&self.document])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
