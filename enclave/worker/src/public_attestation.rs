//! `GET /.well-known/cleanroom/attestation?nonce=…`: evidence for an auditor who is nobody's partner.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::channel::{ModelId, Nonce};
use cleanroom_attestation::digest::Sha256Digest;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::keeper::Keeper;

/// Where the evidence is.
pub(crate) const PATH: &str = "/.well-known/cleanroom/attestation";

/// What is attested of every enclave for as long as it runs.
pub struct Facts {
    /// The model that it serves.
    pub model_id: ModelId,
    /// The identity of the weights.
    pub model_digest: Sha256Digest,
    /// The receipt key, DER of its `SubjectPublicKeyInfo`.
    pub receipt_key: Vec<u8>,
}

pub(crate) struct PublicAttestations {
    keeper: Keeper,
    facts: Facts,
}

impl PublicAttestations {
    pub(crate) fn new(keeper: Keeper, facts: Facts) -> Arc<Self> {
        Arc::new(Self { keeper, facts })
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
    challenge: Result<Query<Challenge>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let mut nonce = [0; Nonce::LENGTH];
    let decoded = challenge
        .ok()
        .and_then(|Query(Challenge { nonce: text })| hex::decode_to_slice(text, &mut nonce).ok());
    if decoded.is_none() {
        return (StatusCode::BAD_REQUEST, "expected ?nonce= and 64 hexadecimal digits\n").into_response();
    }
    let Facts { model_id, model_digest, receipt_key } = &attestations.facts;
    match attestations.keeper.public(Nonce::from_bytes(nonce)).await {
        Ok(evidence) => Json(Answer {
            document: STANDARD.encode(&evidence.document),
            model: model_id.to_string(),
            model_sha256: model_digest.to_string(),
            release_sha256: evidence.release.map(|digest| digest.to_string()),
            lease_sha256: evidence.lease.map(|digest| digest.to_string()),
            receipt_key: STANDARD.encode(receipt_key),
        })
        .into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "no evidence at the moment; try again shortly\n")
            .into_response(),
    }
}
