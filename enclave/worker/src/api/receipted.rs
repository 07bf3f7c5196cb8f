//! A receipt for each request: a whole response gets it as the header `cleanroom-receipt`, a stream behind its last event.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::receipt::{Finish, whole_answer};
use cleanroom_attestation::release::Refusal;
use http::{HeaderName, HeaderValue, Method};
use http_body_util::BodyExt as _;

use super::error::{ApiError, RefusedBecause};
use super::receipts::{Recorded, Recording, WithReceipt};
use super::service::Service;
use super::shape::Dialect;
use super::stream::Ending;
use crate::grant::Stop;
use crate::session::SessionIdentity;

/// The header of a whole response: base64 of the JSON that follows a stream.
const HEADER: HeaderName = HeaderName::from_static("cleanroom-receipt");
/// The header of a streamed response: the salt in base64, so that the partner can commit to the answer as it comes.
const SALT_HEADER: HeaderName = HeaderName::from_static("cleanroom-receipt-salt");
/// The codes of responses that say that the enclave could not do what it was to do. All others refuse.
const FAILURES: [&str; 2] = [ApiError::Failed.code(), ApiError::RequestTime.code()];

/// Answers a request of a session, and gives a receipt for it.
pub(super) async fn receipted(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let session = request.extensions().get::<SessionIdentity>().copied();
    let (Some(receipts), Some(session), &Method::POST) = (&service.receipts, session, request.method())
    else {
        return next.run(request).await;
    };
    let Some(recording) = Recording::begin(receipts, &session, service.keep()) else {
        return ApiError::Failed.into_response();
    };
    let mut request = request.map(|body| Body::new(Recorded::new(body, recording.request())));
    request.extensions_mut().insert(recording.record());
    let response = next.run(request).await;
    finish(&service, recording, response).await
}

/// Refuses a request that gets no further, with a receipt if the key is a partner's.
pub(crate) async fn refuse(
    service: &Arc<Service>,
    session: &SessionIdentity,
    method: &Method,
    error: &ApiError,
    dialect: Dialect,
) -> Response {
    let response = error.respond(dialect);
    let is_stranger = matches!(error, ApiError::Stopped(Stop::Refused(Refusal::PartnerUnknown)));
    let (Some(receipts), false, &Method::POST) = (&service.receipts, is_stranger, method) else {
        return response;
    };
    // Nothing of a request that gets no further is kept.
    let Some(recording) = Recording::begin(receipts, session, None) else {
        return ApiError::Failed.into_response();
    };
    finish(service, recording, response).await
}

/// Has the receipt follow the response.
async fn finish(service: &Service, mut recording: Recording, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let id = parts.headers.get("x-request-id").and_then(|id| id.to_str().ok()?.parse().ok());
    if let Some(id) = id {
        recording.name(id);
    } else if let Ok(mut id) = HeaderValue::try_from(recording.id().as_str()) {
        // Kept out of HPACK's table, so that every head is as long.
        id.set_sensitive(true);
        parts.headers.insert("request-id", id.clone());
        parts.headers.insert("x-request-id", id);
    }
    if let Some(ending) = parts.extensions.remove::<Ending>() {
        if let Ok(salt) = HeaderValue::try_from(STANDARD.encode(recording.salt().as_bytes())) {
            parts.headers.insert(SALT_HEADER, salt);
        }
        let body = WithReceipt::new(body, ending, recording, service.traffic);
        return Response::from_parts(parts, Body::new(body));
    }
    // It is all in memory.
    let Ok(whole) = body.collect().await else { return ApiError::Failed.into_response() };
    let whole = whole.to_bytes();
    recording.left(whole_answer(&whole));
    let code = parts.extensions.get::<RefusedBecause>().map(|RefusedBecause(code)| *code);
    let end = match code {
        None => Finish::Finished,
        Some(code) if FAILURES.contains(&code) => Finish::Failed,
        Some(_) => Finish::Refused,
    };
    let Some(receipt) = recording.close(end, code).await else { return ApiError::Failed.into_response() };
    // Where traffic has a shape, heads have one length, and a receipt would show in it. The partner asks for it then.
    if service.traffic.is_none() {
        let Ok(header) = HeaderValue::try_from(STANDARD.encode(receipt)) else {
            return ApiError::Failed.into_response();
        };
        parts.headers.insert(HEADER, header);
    }
    Response::from_parts(parts, Body::from(whole))
}
