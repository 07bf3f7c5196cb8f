//! What the host sees of answers that are not streamed, where the configuration shapes traffic: a multiple of one length, and a
//! head that is as long whatever it says.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use cleanroom_config::Traffic;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;

use super::error::ApiError;
use super::stream::fill_whole;

/// What official clients ask whether they may send a request again. They go by the status unless it says `true` or `false`.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// `response` as `traffic` has it: an answer, a refusal or a count. A stream has its shape already.
pub(crate) async fn uniform(response: Response, traffic: Traffic) -> Response {
    if response.headers().get(CONTENT_TYPE).is_some_and(is_event_stream) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // All of these bodies are there as a whole already.
    let Ok(whole) = body.collect().await else { return ApiError::Failed.into_response() };
    parts.headers.remove(CONTENT_LENGTH);
    level(&mut parts.headers);
    Response::from_parts(parts, Body::from(fill_whole(&whole.to_bytes(), traffic.step())))
}

fn is_event_stream(value: &HeaderValue) -> bool {
    value.as_bytes().starts_with(b"text/event-stream")
}

/// Gives every head the members that only some need, in values that HPACK codes in as many bytes each time: it keeps a
/// sensitive one out of its table (RFC 7541, section 7.1.3), five digits take four bytes, and so do `false` and `maybe`.
fn level(headers: &mut HeaderMap) {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    let retry_after = format!("{:05}", seconds.unwrap_or(0).min(99_999));
    let should_retry = if headers.contains_key(SHOULD_RETRY) { "false" } else { "maybe" };
    for (name, value) in [(RETRY_AFTER, retry_after.as_str()), (SHOULD_RETRY, should_retry)] {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[tokio::test]
    async fn a_refusal_says_the_same_and_no_more_by_its_length() {
        let traffic = Traffic::new(1024, std::time::Duration::from_millis(50)).unwrap();
        let mut refused = ApiError::RequestTime.into_response();
        refused.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("37"));
        let long = ApiError::PromptRefused { param: "messages", reason: "x".repeat(300) };
        for (response, wait, retry) in [
            (refused, "00037", "false"),
            (long.into_response(), "00000", "maybe"),
            (StatusCode::NO_CONTENT.into_response(), "00000", "maybe"),
        ] {
            let response = uniform(response, traffic).await;
            let headers = response.headers().clone();
            assert_eq!(headers[RETRY_AFTER], wait);
            assert_eq!(headers[SHOULD_RETRY], retry);
            assert!([RETRY_AFTER, SHOULD_RETRY].iter().all(|name| headers[name].is_sensitive()));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 1024);
        }
    }
}
