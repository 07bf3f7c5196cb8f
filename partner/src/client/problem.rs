//! Why there is no answer of the clean room, or not a whole one: in the form of the API that the client speaks.

use std::sync::Arc;

use bytes::Bytes;
use cleanroom_attestation::verdict::Verdict;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::receipts::NoReceipt;
use super::{MAX_ANSWER, MAX_BODY};
use crate::outcome::Outcome;
use crate::session::{Reach, SendError, SessionError};

/// Both official clients send a request again unless this says no.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

const NO_RECEIPT: &str = "no-receipt";

/// Whose API a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

impl Dialect {
    /// The dialect of a path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") { Self::Anthropic } else { Self::OpenAi }
    }
}

/// Why there is no answer of the clean room, or not a whole one. It repeats nothing of the request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry: bool,
    reach: Reach,
    reason: Option<Arc<SessionError>>,
}

impl Problem {
    /// A request that failed on its way to the clean room or back.
    #[must_use]
    pub fn from_send(error: &SendError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        // What was never sent can be sent again, except to a room that was refused.
        let retry = error.reach == Reach::NeverSent && !error.reason.is_refusal();
        let status = if retry { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY };
        Self { status, code, message, retry, reach: error.reach, reason: Some(Arc::clone(&error.reason)) }
    }

    /// The request is not of a program that knows that it speaks to this proxy.
    pub(crate) fn not_local() -> Self {
        let message = "expected a request from a program on this machine to the proxy's own address, \
                       not from a web page; `--allow-origin ORIGIN` of `cleanroom connect` serves one";
        Self::of_client(StatusCode::FORBIDDEN, "not-local", message.to_owned())
    }

    /// The request has nothing that a web page could not have made a browser send.
    pub(crate) fn no_credential() -> Self {
        let message = "expected one of the headers that web pages cannot send: `Authorization: Bearer KEY`, \
                       `X-Api-Key: KEY` or `Content-Type: application/json`; \
                       any KEY will do, and it stays on this machine";
        Self::of_client(StatusCode::UNAUTHORIZED, "no-credential", message.to_owned())
    }

    /// The request does not have the token that this proxy asks for.
    pub(crate) fn wrong_token() -> Self {
        let message = "expected the proxy's token as the API key (`Authorization: Bearer TOKEN` or \
                       `X-Api-Key: TOKEN`): the word in the file of `cleanroom connect --token-file`";
        Self::of_client(StatusCode::UNAUTHORIZED, "wrong-token", message.to_owned())
    }

    /// The body is too long, or ended early.
    pub(crate) fn bad_body() -> Self {
        let message = format!("expected a complete body of at most {MAX_BODY} bytes; nothing was sent");
        Self::of_client(StatusCode::PAYLOAD_TOO_LARGE, "bad-body", message)
    }

    /// The body did not come in time.
    pub(crate) fn late_body(limit: std::time::Duration) -> Self {
        let seconds = limit.as_secs();
        let message = format!("expected a complete body within {seconds} seconds; nothing was sent");
        Self::of_client(StatusCode::REQUEST_TIMEOUT, "late-body", message)
    }

    /// The path cannot be sent on.
    pub(crate) fn bad_path() -> Self {
        Self::of_client(
            StatusCode::BAD_REQUEST,
            "bad-path",
            "expected a method and a path such as /v1/models".to_owned(),
        )
    }

    /// The clean room's answer is longer than the proxy keeps.
    pub(crate) fn long_answer() -> Self {
        let message = format!("the answer is longer than {MAX_ANSWER} bytes. {}", Reach::WasSent.sentence());
        Self::of_answer("long-answer", message)
    }

    /// The answer came without its receipt, which the user wants kept.
    pub(crate) fn no_receipt(error: &NoReceipt) -> Self {
        let message = format!("{error}. {}", Reach::WasSent.sentence());
        Self::of_answer(NO_RECEIPT, message)
    }

    /// As the proxy says it, with the option that its user gave.
    pub(crate) fn of_proxy(mut self) -> Self {
        if self.code == NO_RECEIPT {
            self.message += " `--receipts` of `cleanroom connect` asks for a receipt.";
        }
        self
    }

    /// Requests are under way on all connections that the proxy keeps.
    pub(crate) fn busy() -> Self {
        let message = "the proxy has as many requests under way as it takes; try again shortly. \
             Your request was not sent.";
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "busy",
            message: message.to_owned(),
            retry: true,
            reach: Reach::NeverSent,
            reason: None,
        }
    }

    fn of_client(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code, message, retry: false, reach: Reach::NeverSent, reason: None }
    }

    fn of_answer(code: &'static str, message: String) -> Self {
        Self { reach: Reach::WasSent, ..Self::of_client(StatusCode::BAD_GATEWAY, code, message) }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What went wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How far the request got.
    #[must_use]
    pub const fn reach(&self) -> Reach {
        self.reach
    }

    /// Whether this program's own checks refused the clean room.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.reason.as_ref().is_some_and(|reason| reason.is_refusal())
    }

    /// What it means to a script: the exit code of a program that ends with it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.reason {
            _ if self.is_refusal() && self.reach == Reach::NeverSent => Outcome::Refused,
            // Nothing was wrong but the request itself.
            None if self.reach == Reach::NeverSent && !self.retry => Outcome::Usage,
            _ => Outcome::Unreachable,
        }
    }

    /// The verdict on the evidence that was refused.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.reason.as_ref().and_then(|reason| reason.verdict())
    }

    fn to_value(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi => json!({
                "error": {
                    "message": self.message, "type": "cleanroom_error", "param": null, "code": self.code,
                },
            }),
            // Clients tell errors apart by the status; the type is one that they know.
            Dialect::Anthropic => json!({
                "type": "error",
                "error": { "type": "api_error", "message": self.message, "code": self.code },
            }),
        }
    }

    /// The response that a client of this dialect understands.
    #[must_use]
    pub fn to_response(&self, dialect: Dialect) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.to_value(dialect).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(SHOULD_RETRY, HeaderValue::from_static(if self.retry { "true" } else { "false" }));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.retry {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// The last event of a stream that is not whole.
    pub(crate) fn to_event(&self, dialect: Dialect) -> Bytes {
        let name = if dialect == Dialect::Anthropic { "event: error\n" } else { "" };
        Bytes::from(format!("{name}data: {}\n\n", self.to_value(dialect)))
    }
}
