//! The HTTP API inside the enclave: the parts of OpenAI's and of Anthropic's API that the backend can answer, and a refusal by
//! name for the rest.
//!
//! | endpoint | |
//! |---|---|
//! | `GET /v1/models`, `GET /v1/models/{id}` | the model served |
//! | `POST /v1/chat/completions` | a conversation, continued; whole or streamed |
//! | `POST /v1/completions` | a text, continued; whole or streamed |
//! | `POST /v1/responses` | a conversation in OpenAI's newer form, continued; whole or streamed |
//! | `POST /v1/embeddings` | the direction of texts, where the model's file says that it is made for it |
//! | `POST /v1/messages` | a conversation in Anthropic's form, continued; whole or streamed |
//! | `POST /v1/messages/count_tokens` | the length of such a conversation |
//! | `GET /v1/receipts/{id}` | the receipt of one of the partner's last requests |
//! | `GET /healthz` | `{"status":"ok"}` |
//!
//! `logprobs` are those of the model itself, before temperature and everything else that a request can change. The choices of
//! `n` are sequences of their own: each takes a slot, a grant and the prompt's tokens as a request would.
//!
//! `response_format` (OpenAI) and `output_config.format` (Anthropic) hold an answer to JSON, or to a part of JSON Schema. A
//! keyword that the backend does not understand is refused by name. Stop sequences cannot stand beside them.
//!
//! All but the last endpoint need a [`SessionIdentity`], which the server puts into the request's extensions. The router
//! itself needs none for `/healthz`; in service, a session of a key that is not admitted gets 403 for every path.
//! A request passes these steps: a free slot, a bounded body, syntax, the model's name, a slot of its own, the backend's
//! preparation, the backend's start. Prompts and completions are held in types without `Debug` and are never logged.

mod answer;
mod beside;
mod body;
mod chat;
mod completions;
mod conversation;
mod delivery;
mod embed;
mod embeddings;
pub(crate) mod error;
mod identity;
mod json;
mod judge;
mod messages;
mod models;
mod receipted;
mod receipts;
mod request;
mod responses;
mod scores;
mod secret;
mod service;
mod shape;
mod stream;
#[cfg(test)]
mod tests;
mod text;
mod tools;
mod uniform;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cleanroom_backend::Input;
use http::request::Parts;
use http::{HeaderMap, Request};

use self::answer::Endpoint;
use self::completions::CompletionRequest;
use self::embeddings::EmbeddingsRequest;
pub use self::error::ApiError;
pub use self::json::ParameterName;
use self::judge::Record;
use self::messages::CountRequest;
pub(crate) use self::receipted::refuse;
pub use self::request::RequestLimits;
pub use self::service::{Limits, Service};
use self::shape::Dialect;
use crate::session::SessionIdentity;

/// The API as a service for requests that carry a [`SessionIdentity`] in their extensions.
pub fn router(service: Arc<Service>) -> Router {
    let receipted = from_fn_with_state(Arc::clone(&service), receipted::receipted);
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(text_completions))
        .route("/v1/embeddings", post(text_embeddings))
        .route("/v1/responses", post(openai_responses))
        .route("/v1/messages", post(anthropic_messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route_layer(receipted)
        .route("/healthz", get(health))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*id}", get(retrieve_model))
        .route("/v1/receipts/{id}", get(retrieve_receipt))
        .fallback(async |headers: HeaderMap| ApiError::UnknownUrl.respond(dialect(&headers)))
        .method_not_allowed_fallback(async |headers: HeaderMap| {
            ApiError::MethodNotAllowed.respond(dialect(&headers))
        })
        .with_state(service)
}

/// The session behind a request, and the record that its verdict goes into.
struct Caller(SessionIdentity, Record);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Query parameters that an endpoint does not have are ignored, as both originals do.
        let session = parts.extensions.get::<SessionIdentity>().copied().ok_or(ApiError::NoPartner)?;
        Ok(Self(session, parts.extensions.get().cloned().unwrap_or_default()))
    }
}

async fn health() -> impl IntoResponse {
    Json(serde_json::json!({ "status": "ok" }))
}

/// A refusal for Anthropic's clients.
struct AnthropicError(ApiError);

impl From<ApiError> for AnthropicError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for AnthropicError {
    fn into_response(self) -> Response {
        self.0.respond(Dialect::Anthropic)
    }
}

/// Whose clients ask. The lists of models have one path in both APIs, and Anthropic's clients name the version of theirs.
pub(crate) fn dialect(headers: &HeaderMap) -> Dialect {
    if headers.contains_key("anthropic-version") { Dialect::Anthropic } else { Dialect::OpenAi }
}

async fn list_models(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    caller: Result<Caller, ApiError>,
) -> Response {
    let dialect = dialect(&headers);
    match (caller.and_then(|_| service.abilities()), dialect) {
        (Err(error), dialect) => error.respond(dialect),
        (Ok(abilities), Dialect::OpenAi) => Json(service.model.list(&abilities)).into_response(),
        (Ok(abilities), Dialect::Anthropic) => {
            Json(service.model.list_to_anthropic(&abilities)).into_response()
        }
    }
}

async fn retrieve_model(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    caller: Result<Caller, ApiError>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let dialect = dialect(&headers);
    // A path that is not UTF-8 names no model either.
    let id = id.as_ref().map_or("", |Path(id)| id.as_str());
    let abilities = caller.and_then(|_| service.model.check(id)).and_then(|()| service.abilities());
    match (abilities, dialect) {
        (Err(error), dialect) => error.respond(dialect),
        (Ok(abilities), Dialect::OpenAi) => Json(service.model.describe(&abilities)).into_response(),
        (Ok(abilities), Dialect::Anthropic) => {
            Json(service.model.describe_to_anthropic(&abilities)).into_response()
        }
    }
}

async fn retrieve_receipt(
    State(service): State<Arc<Service>>,
    Caller(session, _): Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let id = id.map_err(|_| ApiError::NoSuchReceipt)?;
    let receipts = service.receipts.as_ref().ok_or(ApiError::NoSuchReceipt)?;
    let receipt = receipts.find(session.partner, id.as_str()).ok_or(ApiError::NoSuchReceipt)?;
    Ok(answer::response("application/json", Body::from(receipt)))
}

async fn chat_completions(
    State(service): State<Arc<Service>>,
    Caller(session, record): Caller,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parameters, inputs, slots) =
        service.conversation(&session, request, chat::parse, &chat::ABILITIES).await?;
    service.answer(Endpoint::OpenAi(&chat::WORDING), parameters, inputs, slots, &record).await
}

async fn text_completions(
    State(service): State<Arc<Service>>,
    Caller(session, record): Caller,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let body = service.receive(&session, request).await?;
    let CompletionRequest { parameters, prompts } =
        CompletionRequest::parse(body.as_slice(), &service.limits.request, service::random()?)?;
    drop(body);
    let answers = parameters.choices.saturating_mul(u32::try_from(prompts.len()).unwrap_or(u32::MAX));
    let slots = service.admit(&session, &parameters.model, answers)?;
    service.answer(Endpoint::OpenAi(&completions::WORDING), parameters, prompts, slots, &record).await
}

async fn text_embeddings(
    State(service): State<Arc<Service>>,
    Caller(session, record): Caller,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let body = service.receive(&session, request).await?;
    let request = EmbeddingsRequest::parse(body.as_slice(), &service.limits.request)?;
    drop(body);
    let slots = service.admit(&session, &request.model, 1)?;
    service.embed(request, slots, &record).await
}

async fn openai_responses(
    State(service): State<Arc<Service>>,
    Caller(session, record): Caller,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parameters, inputs, slots) =
        service.conversation(&session, request, responses::parse, &responses::ABILITIES).await?;
    service.answer(Endpoint::Responses, parameters, inputs, slots, &record).await
}

async fn anthropic_messages(
    State(service): State<Arc<Service>>,
    caller: Result<Caller, ApiError>,
    request: Request<Body>,
) -> Result<Response, AnthropicError> {
    let Caller(session, record) = caller?;
    let (parameters, inputs, slots) =
        service.conversation(&session, request, messages::parse, &messages::ABILITIES).await?;
    Ok(service.answer(Endpoint::Messages, parameters, inputs, slots, &record).await?)
}

async fn count_tokens(
    State(service): State<Arc<Service>>,
    caller: Result<Caller, ApiError>,
    request: Request<Body>,
) -> Result<Response, AnthropicError> {
    let Caller(session, _) = caller?;
    let body = service.receive(&session, request).await?;
    let CountRequest { model, mut conversation, thinking } =
        CountRequest::parse(body.as_slice(), &service.limits.request)?;
    drop(body);
    service.model.check(model.as_str())?;
    tools::settle(&mut conversation, thinking, &service.abilities()?, &messages::ABILITIES)?;
    // Tokenising takes a processor as an answer does, so it takes a slot as well.
    let slots = service.admit(&session, &model, 1)?;
    let tokens = service.count(Input::Chat(conversation), &slots).await?;
    Ok(Json(CountRequest::answer(tokens)).into_response())
}
