//! Reads a request body. Bounds on size, time and number hold before the enclave keeps a byte of it.

use std::time::Duration;

use axum::body::Body;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::error::ApiError;
use super::secret::SecretBuffer;

/// Reads a whole JSON body.
///
/// `limit` is in bytes. It is checked against the announced length first, and then against what really arrives. `time` is for the
/// whole body, so that a client which sends a byte now and then does not hold its place for ever.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    time: Duration,
) -> Result<SecretBuffer, ApiError> {
    if !is_json(headers) {
        return Err(ApiError::UnsupportedMediaType);
    }
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(ApiError::BodyTooLarge { limit });
    }
    let read = collect(body, limit, announced);
    tokio::time::timeout(time, read).await.unwrap_or(Err(ApiError::BodyTimeout { limit: time }))
}

async fn collect(mut body: Body, limit: usize, announced: usize) -> Result<SecretBuffer, ApiError> {
    let mut buffer = SecretBuffer::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        // Trailers carry nothing for us.
        let Ok(data) = frame.map_err(|_| ApiError::BodyIncomplete)?.into_data() else { continue };
        if data.len() > limit.saturating_sub(buffer.len()) {
            return Err(ApiError::BodyTooLarge { limit });
        }
        buffer.push(&data);
    }
    Ok(buffer)
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json"))
        && headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity")
}
