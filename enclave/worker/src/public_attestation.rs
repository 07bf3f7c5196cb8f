//! `GET /.well-known/cleanroom/attestation?nonce=…`: evidence for an auditor who is not a partner.
//!
//! Auditors share a document. The security module signs at most one for each [`INTERVAL`], over the nonces of all who asked
//! meanwhile, and each gets the path from their own nonce to it. So a hundred strangers cost the security module as much as one. A
//! connection has one question at a time; another one has to wait for the answer to the first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Extension, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::channel::{ModelId, Nonce, NoncePath, RefusalCode, SharedNonces};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_protocol::PublicEvidence;
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::keeper::Keeper;

/// Where the evidence is.
pub(crate) const PATH: &str = "/.well-known/cleanroom/attestation";

/// The security module is asked once in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is attested of every enclave for as long as it runs.
pub struct Facts {
    /// The model that it serves.
    pub model_id: ModelId,
    /// The identity of the weights.
    pub model_digest: Sha256Digest,
    /// The receipt key, DER of its `SubjectPublicKeyInfo`.
    pub receipt_key: Vec<u8>,
}

/// A connection's right to ask, one question at a time.
#[derive(Clone)]
pub(crate) struct Turn(Arc<Semaphore>);

impl Turn {
    /// For a new connection.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// `None` while another question of this connection has no answer yet.
    fn take(self) -> Option<OwnedSemaphorePermit> {
        self.0.try_acquire_owned().ok()
    }
}

pub(crate) struct PublicAttestations {
    keeper: Keeper,
    facts: Facts,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    /// The nonces of the next document. Not more than there are connections.
    waiting: Vec<(Nonce, oneshot::Sender<Answered>)>,
    /// Whether somebody sees to the next document.
    under_way: bool,
    /// Before this time there is none.
    next: Option<Instant>,
}

type Answered = Result<Statement, RefusalCode>;

/// A document that answers this nonce among others.
struct Statement {
    evidence: Arc<PublicEvidence>,
    path: NoncePath,
}

impl PublicAttestations {
    pub(crate) fn new(keeper: Keeper, facts: Facts) -> Arc<Self> {
        Arc::new(Self { keeper, facts, asked: Mutex::default() })
    }

    async fn statement(self: &Arc<Self>, nonce: Nonce) -> Answered {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut asked = self.asked();
            // Who hangs up and asks again takes no further space.
            asked.waiting.retain(|(_, answer)| !answer.is_closed());
            asked.waiting.push((nonce, answer));
            !core::mem::replace(&mut asked.under_way, true)
        };
        if is_first {
            tokio::spawn(Arc::clone(self).ask());
        }
        answered.await.unwrap_or(Err(RefusalCode::NoEvidence))
    }

    /// Asks for documents until nobody waits for one.
    async fn ask(self: Arc<Self>) {
        loop {
            let next = self.asked().next;
            if let Some(next) = next {
                sleep_until(next).await;
            }
            let waiting = {
                let mut asked = self.asked();
                asked.waiting.retain(|(_, answer)| !answer.is_closed());
                if asked.waiting.is_empty() {
                    asked.under_way = false;
                    return;
                }
                asked.next = Instant::now().checked_add(INTERVAL);
                core::mem::take(&mut asked.waiting)
            };
            let (nonces, answers): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            let shared = SharedNonces::of(&nonces);
            let evidence = self.keeper.public(shared.root()).await.map(Arc::new);
            for (index, answer) in answers.into_iter().enumerate() {
                let statement = evidence.clone().and_then(|evidence| {
                    let path = shared.path(index).ok_or(RefusalCode::NoEvidence)?;
                    Ok(Statement { evidence, path })
                });
                let _ = answer.send(statement);
            }
        }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        // The list is whole at every instruction that could unwind.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn router(attestations: Arc<PublicAttestations>) -> Router {
    Router::new().route(PATH, get(attest)).with_state(attestations)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Challenge {
    /// 32 bytes in hexadecimal.
    nonce: String,
}

/// What is needed to recompute the evidence's `user_data`.
#[derive(Serialize)]
struct Answer {
    document: String,
    index: u64,
    path: Vec<String>,
    model: String,
    model_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    release_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_sha256: Option<String>,
    receipt_key: String,
}

async fn attest(
    State(attestations): State<Arc<PublicAttestations>>,
    Extension(turn): Extension<Turn>,
    challenge: Result<Query<Challenge>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let mut nonce = [0; Nonce::LENGTH];
    let decoded = challenge
        .ok()
        .and_then(|Query(Challenge { nonce: text })| hex::decode_to_slice(text, &mut nonce).ok());
    if decoded.is_none() {
        return (StatusCode::BAD_REQUEST, "expected ?nonce= and 64 hexadecimal digits\n").into_response();
    }
    let Some(_turn) = turn.take() else {
        return again(StatusCode::TOO_MANY_REQUESTS, "one question at a time on each connection\n");
    };
    let Ok(Statement { evidence, path }) = attestations.statement(Nonce::from_bytes(nonce)).await else {
        return again(StatusCode::SERVICE_UNAVAILABLE, "no evidence at the moment; try again shortly\n");
    };
    let Facts { model_id, model_digest, receipt_key } = &attestations.facts;
    Json(Answer {
        document: STANDARD.encode(&evidence.document),
        index: path.index,
        path: path.siblings.iter().map(ToString::to_string).collect(),
        model: model_id.to_string(),
        model_sha256: model_digest.to_string(),
        release_sha256: evidence.release.map(|digest| digest.to_string()),
        lease_sha256: evidence.lease.map(|digest| digest.to_string()),
        receipt_key: STANDARD.encode(receipt_key),
    })
    .into_response()
}

/// A refusal that holds for [`INTERVAL`].
fn again(status: StatusCode, why: &'static str) -> Response {
    (status, [(header::RETRY_AFTER, HeaderValue::from(INTERVAL.as_secs()))], why).into_response()
}
