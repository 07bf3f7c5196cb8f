//! Refusals, in the shapes that clients of OpenAI and of Anthropic know.
//!
//! A refusal never carries anything that was sent: it names the parameter, says what was expected, and gives numbers. The
//! only text of the caller's that is repeated is the *name* of a parameter, once it has been checked to be a name.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::release::{LimitReached, Refusal};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::json::ParameterName;
use super::shape::Dialect;
use crate::grant::Stop;

/// Why a request was refused or could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The body is not one JSON object.
    #[error("the body is not a JSON object: {problem} at line {line}, column {column}")]
    Json {
        /// What is wrong, in fixed words.
        problem: &'static str,
        /// Line of the first wrong byte, from 1.
        line: usize,
        /// Column of the first wrong byte, from 1.
        column: usize,
    },
    /// A parameter that no OpenAI API of this kind defines.
    #[error("unknown parameter: {0}")]
    UnknownParameter(ParameterName),
    /// A parameter that OpenAI defines and that this server does not implement.
    #[error("{param} is not supported here{}", accepted_values(accepts))]
    UnsupportedParameter {
        /// The parameter.
        param: ParameterName,
        /// The JSON values that mean the same as leaving it out.
        accepts: &'static [&'static str],
    },
    /// A parameter that asks for what the model served cannot do.
    #[error("{param} cannot be honoured: this model cannot {what}")]
    ModelCannot {
        /// The parameter.
        param: ParameterName,
        /// What, in fixed words.
        what: &'static str,
    },
    /// A parameter given twice.
    #[error("{0} is given more than once")]
    DuplicateParameter(ParameterName),
    /// A parameter that must be there and is not.
    #[error("missing required parameter: {0}")]
    MissingParameter(ParameterName),
    /// A parameter with a value that it cannot have.
    #[error("invalid value for {param}: expected {expected}")]
    InvalidValue {
        /// The parameter.
        param: ParameterName,
        /// What would have been right.
        expected: String,
    },
    /// A model that is not served.
    #[error("this model does not exist here: the model served is {served}")]
    ModelNotFound {
        /// The public id of the model that is.
        served: ModelId,
    },
    /// A prompt that leaves no room for an answer.
    #[error("the prompt has {tokens} tokens; a prompt may have at most {limit}")]
    ContextLengthExceeded {
        /// The parameter that holds the prompt.
        param: &'static str,
        /// Tokens in the prompt.
        tokens: usize,
        /// Most tokens that a prompt may have.
        limit: usize,
    },
    /// A prompt of so many bytes that no context could hold it.
    #[error("the prompt has {bytes} bytes; at most {limit} can fit into the model's context")]
    PromptTooLong {
        /// The parameter that holds the prompt.
        param: &'static str,
        /// Bytes in the prompt.
        bytes: usize,
        /// Most bytes that a prompt may have.
        limit: usize,
    },
    /// A prompt without a token.
    #[error("invalid value for '{param}': expected at least one token to continue")]
    PromptEmpty {
        /// The parameter that holds the prompt.
        param: &'static str,
    },
    /// A conversation that the model's chat template does not accept.
    #[error("invalid value for '{param}': {reason}")]
    PromptRefused {
        /// The parameter that holds the prompt.
        param: &'static str,
        /// Why, in the backend's own words, which never repeat the prompt.
        reason: String,
    },
    /// A JSON Schema that cannot shape an answer.
    #[error("invalid value for '{param}': {reason}")]
    SchemaRefused {
        /// The parameter that holds the schema.
        param: &'static str,
        /// Why, in the backend's own words, which never repeat the schema.
        reason: String,
    },
    /// A request for embeddings from a model that is not made for them.
    #[error("this model gives no embeddings: its file names no pooling_type")]
    NoEmbeddings,
    /// A body above the limit.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// Most bytes that a body may have.
        limit: usize,
    },
    /// A body that did not arrive in time.
    #[error("the body did not arrive within {} seconds", limit.as_secs())]
    BodyTimeout {
        /// Time that a body may take.
        limit: Duration,
    },
    /// A body that ended early.
    #[error("the body ended before it was complete")]
    BodyIncomplete,
    /// A body that is not plain JSON.
    #[error("expected the headers `content-type: application/json` and no content-encoding")]
    UnsupportedMediaType,
    /// A path that does not exist.
    #[error(
        "unknown URL: expected /v1/models, /v1/models/{{id}}, /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages, /v1/messages/count_tokens, /v1/receipts/{{id}} or /healthz"
    )]
    UnknownUrl,
    /// A receipt that is not kept here, or is another partner's.
    #[error("no receipt with this id is kept here: the enclave keeps each partner's newest receipts")]
    NoSuchReceipt,
    /// A method that the path does not have.
    #[error("this URL does not support this method: see the allow header")]
    MethodNotAllowed,
    /// No slot is free.
    #[error("too many requests are being served: try again in {} s", retry_after.as_secs())]
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
    /// An engine of its own process does not answer now.
    #[error("the engine does not answer now: try again in {} s", retry_after.as_secs())]
    EngineUnavailable {
        /// When to come back.
        retry_after: Duration,
    },
    /// A request that did not come through the attested channel.
    #[error("this request did not come through an attested channel")]
    NoPartner,
    /// A partner whose key the enclave's configuration does not list.
    #[error("this partner's key may not use the model: ask the operator to list it")]
    PartnerNotListed,
    /// What the authorities released and leased, or a limit of the partner's, does not permit it.
    #[error("{0}")]
    Stopped(Stop),
    /// A rule of the safeguards refuses the request.
    #[error("{0}")]
    Safeguard(SafeguardRefusal),
    /// A prompt of tokens, where safeguards judge text.
    #[error(
        "invalid value for '{param}': expected text, because the model's safeguards judge what is read, and tokens are no text"
    )]
    TokensNotJudged {
        /// The parameter that holds the prompt.
        param: &'static str,
    },
    /// The answer was not complete within the time that a request may take.
    #[error("the request reached its time limit; the answer is not complete")]
    RequestTime,
    /// The engine, or the enclave's own random source, failed. Nothing about the request caused it.
    #[error("the inference engine failed: the answer is not complete")]
    Failed,
}

/// What a partner is told of a refusal by the safeguards: names, and nothing that was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeguardRefusal {
    /// The rules that matched, the strictest first.
    pub rules: Vec<String>,
    /// The id of the request's receipt.
    pub receipt: Option<String>,
}

impl core::fmt::Display for SafeguardRefusal {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "the model's safeguards refuse this: rule {}", self.rules.join(", "))?;
        match &self.receipt {
            Some(receipt) => write!(formatter, "; receipt {receipt}"),
            None => Ok(()),
        }
    }
}

/// The code of the refusal that a response is, for whoever handles the response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefusedBecause(pub(crate) &'static str);

/// The refusal of a partner whose key is not listed.
pub(crate) fn partner_not_listed() -> ApiError {
    ApiError::PartnerNotListed
}

/// 403 for what only the authorities can change, 503 for a lease that may come back, 429 for limits.
const fn stopped_status(stop: Stop) -> StatusCode {
    match stop {
        Stop::Limit(_) => StatusCode::TOO_MANY_REQUESTS,
        Stop::Refused(
            Refusal::NoRelease
            | Refusal::NoLease
            | Refusal::LeaseLapsed
            | Refusal::ClockWentBack
            | Refusal::SafeguardMissing
            | Refusal::RetentionMissing
            | Refusal::Unwitnessed,
        ) => StatusCode::SERVICE_UNAVAILABLE,
        Stop::Refused(_) | Stop::Safeguard => StatusCode::FORBIDDEN,
    }
}

const fn retry_after(stop: Stop) -> Option<Duration> {
    match stop {
        Stop::Limit(
            LimitReached::RequestsPerMinute { retry_after_ms, .. }
            | LimitReached::TokensPerDay { retry_after_ms, .. },
        ) => Some(Duration::from_millis(retry_after_ms)),
        Stop::Limit(LimitReached::Concurrency { .. }) => Some(Duration::from_secs(1)),
        Stop::Refused(_) | Stop::Safeguard => None,
    }
}

fn accepted_values(accepts: &[&str]) -> String {
    if accepts.is_empty() {
        ": leave it out".to_owned()
    } else {
        format!(": leave it out or send {}", accepts.join(" or "))
    }
}

impl ApiError {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ModelNotFound { .. } | Self::UnknownUrl | Self::NoSuchReceipt => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NoPartner | Self::PartnerNotListed | Self::Safeguard(_) => StatusCode::FORBIDDEN,
            Self::Stopped(stop) => stopped_status(*stop),
            Self::RequestTime => StatusCode::GATEWAY_TIMEOUT,
            Self::EngineUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// OpenAI's `error.type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } | Self::Stopped(Stop::Limit(_)) => "requests",
            Self::Stopped(Stop::Refused(_)) => "release_error",
            Self::Safeguard(_) | Self::Stopped(Stop::Safeguard) => "safeguard_error",
            Self::RequestTime | Self::EngineUnavailable { .. } | Self::Failed => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// OpenAI's `error.code`, with names of our own where OpenAI has none.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Json { .. } => "invalid_json",
            Self::UnknownParameter(_) => "unknown_parameter",
            Self::UnsupportedParameter { .. } | Self::ModelCannot { .. } => "unsupported_parameter",
            Self::DuplicateParameter(_) => "duplicate_parameter",
            Self::MissingParameter(_) => "missing_required_parameter",
            Self::InvalidValue { .. }
            | Self::PromptEmpty { .. }
            | Self::PromptRefused { .. }
            | Self::TokensNotJudged { .. } => "invalid_value",
            Self::SchemaRefused { .. } => "invalid_schema",
            Self::NoEmbeddings => "no_embeddings",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::ContextLengthExceeded { .. } | Self::PromptTooLong { .. } => "context_length_exceeded",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyTimeout { .. } => "body_timeout",
            Self::BodyIncomplete => "body_incomplete",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnknownUrl => "unknown_url",
            Self::NoSuchReceipt => "receipt_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Busy { .. } => "rate_limit_exceeded",
            Self::NoPartner => "not_attested",
            Self::PartnerNotListed => "partner_not_listed",
            Self::Stopped(stop) => stop.code(),
            Self::Safeguard(_) => Stop::Safeguard.code(),
            Self::RequestTime => "request_time",
            Self::EngineUnavailable { .. } => "engine_unavailable",
            Self::Failed => "engine_failed",
        }
    }

    /// OpenAI's `error.param`: the parameter at fault.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::UnknownParameter(param)
            | Self::UnsupportedParameter { param, .. }
            | Self::ModelCannot { param, .. }
            | Self::DuplicateParameter(param)
            | Self::MissingParameter(param)
            | Self::InvalidValue { param, .. } => Some(param.as_str()),
            Self::ModelNotFound { .. } | Self::NoEmbeddings => Some("model"),
            Self::ContextLengthExceeded { param, .. }
            | Self::PromptTooLong { param, .. }
            | Self::PromptEmpty { param }
            | Self::TokensNotJudged { param }
            | Self::PromptRefused { param, .. }
            | Self::SchemaRefused { param, .. } => Some(param),
            _ => None,
        }
    }

    /// The JSON object of the answer: `{"error": {"message", "type", "param", "code"}}`.
    pub fn to_json(&self) -> String {
        self.to_value(Dialect::OpenAi).to_string()
    }

    /// The JSON object of the answer as these clients know it. Anthropic's have no code or parameter; they find them there all the
    /// same.
    pub(crate) fn to_value(&self, dialect: Dialect) -> serde_json::Value {
        let kind = match dialect {
            Dialect::OpenAi => self.kind(),
            Dialect::Anthropic => self.anthropic_kind(),
        };
        let mut error =
            json!({ "message": self.to_string(), "type": kind, "param": self.param(), "code": self.code() });
        if let (Self::Safeguard(refusal), Some(error)) = (self, error.as_object_mut()) {
            error.insert("rules".to_owned(), json!(refusal.rules));
            error.insert("receipt".to_owned(), json!(refusal.receipt));
        }
        match dialect {
            Dialect::OpenAi => json!({ "error": error }),
            Dialect::Anthropic => json!({ "type": "error", "error": error }),
        }
    }

    /// Anthropic's `error.type`, which follows the HTTP status.
    fn anthropic_kind(&self) -> &'static str {
        match self.status() {
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The answer in the shape that these clients know.
    pub(crate) fn respond(&self, dialect: Dialect) -> Response {
        // The code is one of our own fixed words, so it can be logged; the rest of the refusal is between the enclave and the partner.
        let mut response = (self.status(), self.to_value(dialect).to_string()).into_response();
        response.extensions_mut().insert(RefusedBecause(self.code()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let retry_after = match self {
            Self::Busy { retry_after } | Self::EngineUnavailable { retry_after } => Some(*retry_after),
            Self::Stopped(stop) => retry_after(*stop),
            _ => None,
        };
        if matches!(self, Self::RequestTime) {
            // Both clients would send again what takes too long.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if let Some(time) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(time.as_secs().max(1)));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.respond(Dialect::OpenAi)
    }
}
