//! The HTTP API inside the enclave: the parts of OpenAI's and of Anthropic's API that the engine can answer, and a refusal by
//! name for the rest.
//!
//! | endpoint | |
//! |---|---|
//! | `GET /v1/models`, `GET /v1/models/{id}` | the model served |
//! | `POST /v1/chat/completions` | a conversation, continued; whole or streamed |
//! | `POST /v1/completions` | a text, continued; whole or streamed |
//! | `POST /v1/embeddings` | the direction of texts, where the model's file says that it is made for it |
//! | `POST /v1/messages` | a conversation in Anthropic's form, continued; whole or streamed |
//! | `POST /v1/messages/count_tokens` | the length of such a conversation |
//! | `GET /healthz` | `{"status":"ok"}` |
//!
//! `logprobs` are those of the model itself, before temperature and everything else that a request can change. The choices of `n` are sequences of
//! their own, and each takes a place, a permission and the prompt's tokens as a request would.
//!
//! `response_format` (OpenAI) and `output_config.format` (Anthropic) hold an answer to JSON, or to a part of JSON Schema that the engine's
//! `constraint` module lists; what it does not understand is refused by name. Beside them there are no stop sequences.
//!
//! All but the last are for partners: the channel must have put a [`PartnerId`] into the request's extensions. A request
//! passes, in this order: room in the house, a bounded body, syntax, the model's name, a place of its own, the tokenizer, the
//! engine. Prompts and completions are held in types without `Debug` and are never logged.

mod body;
mod chat;
mod completions;
mod embeddings;
pub(crate) mod error;
mod json;
mod messages;
mod models;
mod partner_id;
mod request;
mod scores;
mod secret;
mod shape;
mod stream;
#[cfg(test)]
mod tests;

use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::Refusal;
use cleanroom_engine::{
    Constraint, Engine, Job, Model, Owner, Presence, Prompt, PromptError, Sampling, SubmitError,
};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request};
use zeroize::Zeroizing;

use crate::admission::{Admission, AdmissionLimits, Full, Permit, partners_share};
use crate::config::{self, Traffic};
use crate::release::{Guard, Pass, Stop};
use crate::worker::Keeper;
use chat::ChatRequest;
use completions::CompletionRequest;
use embeddings::{EmbeddingsRequest, Input};
pub use error::ApiError;
pub use json::ParameterName;
use messages::{CountRequest, MessagesRequest};
use models::PublicModel;
pub use partner_id::{PartnerId, SessionTranscript};
pub use request::RequestLimits;
use request::{Bias, Delivery, Form, Parameters};
use secret::{SecretBuffer, SecretString};
use shape::{Dialect, Identity, Shape, Wording};

/// Everything that is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests in the engine: the sequences that it runs and the jobs that it lets wait
    /// ([`EngineConfig`](cleanroom_engine::EngineConfig)).
    pub generations: AdmissionLimits,
    /// Request bodies that are being received. Times `body_bytes`, this is the memory that uploads can take.
    pub uploads: AdmissionLimits,
    /// Bytes in one body.
    pub body_bytes: usize,
    /// Time for one body to arrive.
    pub body_time: Duration,
    /// What a request may hold.
    pub request: RequestLimits,
    /// The longest time from a request's arrival to the end of its answer.
    pub request_time: Duration,
    /// What a refused client is told to wait; whole seconds, at least one.
    pub retry_after: Duration,
}

impl Limits {
    /// Limits for an engine that runs and queues `generations` jobs.
    ///
    /// One partner may have [`partners_share`] of them.
    pub fn new(generations: NonZeroUsize) -> Self {
        let generations = AdmissionLimits { total: generations, per_partner: partners_share(generations) };
        Self {
            generations,
            uploads: generations,
            body_bytes: 1024 * 1024,
            body_time: Duration::from_secs(30),
            request: RequestLimits::default(),
            request_time: Duration::from_secs(60 * 60),
            retry_after: Duration::from_secs(1),
        }
    }
}

impl From<&config::Limits> for Limits {
    fn from(limits: &config::Limits) -> Self {
        Self {
            request_time: limits.request_time,
            ..Self::new(limits.sequences.saturating_add(limits.queued))
        }
    }
}

/// What the API serves: an engine, under a name, within limits.
pub struct Service {
    /// Gone once the model is revoked.
    engine: RwLock<Option<Arc<Engine>>>,
    guard: Option<(Arc<Guard>, Keeper)>,
    traffic: Option<Traffic>,
    model: PublicModel,
    limits: Limits,
    generations: Arc<Admission>,
    uploads: Arc<Admission>,
}

impl Service {
    /// A service that nobody uses yet. `digest` is the model's identity.
    pub fn new(engine: Engine, id: ModelId, digest: Sha256Digest, limits: impl Into<Limits>) -> Self {
        let (model, limits) = (PublicModel::new(id, &digest, now()), limits.into());
        let (generations, uploads) = (Admission::new(limits.generations), Admission::new(limits.uploads));
        let engine = RwLock::new(Some(Arc::new(engine)));
        Self { engine, guard: None, traffic: None, model, limits, generations, uploads }
    }

    /// The same service, under release control. What ends a stream is signed by the keeper.
    #[must_use]
    pub fn guarded(mut self, guard: Arc<Guard>, keeper: Keeper) -> Self {
        self.guard = Some((guard, keeper));
        self
    }

    /// The same service, whose answers look from outside as `traffic` says.
    #[must_use]
    pub const fn shaped(mut self, traffic: Option<Traffic>) -> Self {
        self.traffic = traffic;
        self
    }

    /// Whether the authorities permit this partner anything now.
    pub(crate) fn check(&self, partner: PartnerId) -> Result<(), ApiError> {
        let Some((guard, _)) = &self.guard else { return Ok(()) };
        guard.check(partner.digest()).map_err(|refusal| {
            // Nothing is kept for somebody who may not use it.
            self.engine().into_iter().for_each(|engine| engine.forget(owner(partner)));
            ApiError::Stopped(refusal.into())
        })
    }

    /// Lets the engine keep what it has read of this partner's prompts, for its next ones, until the last such value is dropped.
    pub(crate) fn presence(&self, partner: PartnerId) -> Option<Presence> {
        self.engine().ok().map(|engine| engine.presence(owner(partner)))
    }

    /// Lets go of whatever the authorities no longer permit.
    pub(crate) async fn release_changed(&self) {
        let Some((guard, _)) = &self.guard else { return };
        if guard.is_revoked() {
            self.erase().await;
        }
        let Ok(engine) = self.engine() else { return };
        for present in engine.present() {
            if guard.check(&Sha256Digest::from_bytes(present.0)).is_err() {
                engine.forget(present);
            }
        }
    }

    /// Lets go of the weights for ever. Their memory is overwritten when the last request that still reads them has
    /// ended, which is after the token that it is at.
    async fn erase(&self) {
        let engine = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(engine) = engine {
            tracing::warn!("the model is revoked: erasing its weights");
            // Waits for the engine's threads.
            _ = tokio::task::spawn_blocking(move || drop(engine)).await;
        }
    }

    fn engine(&self) -> Result<Arc<Engine>, ApiError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner).clone();
        engine.ok_or(ApiError::Stopped(Stop::Refused(Refusal::ModelRevoked)))
    }

    /// Requests that hold a place in the engine, or an answer that is still being read.
    pub fn active(&self) -> usize {
        self.generations.taken()
    }
}

/// The API as a service for requests that carry a [`PartnerId`] in their extensions.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*id}", get(retrieve_model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(text_completions))
        .route("/v1/embeddings", post(text_embeddings))
        .route("/v1/messages", post(anthropic_messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .fallback(async || ApiError::UnknownUrl)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(service)
}

/// The partner behind a request that is well formed up to its body.
struct Caller(PartnerId, Option<SessionTranscript>);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let partner = parts.extensions.get::<PartnerId>().copied().ok_or(ApiError::NoPartner)?;
        if parts.uri.query().is_some() {
            return Err(ApiError::QueryNotSupported);
        }
        Ok(Self(partner, parts.extensions.get::<SessionTranscript>().copied()))
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
fn dialect(headers: &HeaderMap) -> Dialect {
    if headers.contains_key("anthropic-version") { Dialect::Anthropic } else { Dialect::OpenAi }
}

async fn list_models(State(service): State<Arc<Service>>, headers: HeaderMap, _: Caller) -> Response {
    match dialect(&headers) {
        Dialect::OpenAi => Json(service.model.list()).into_response(),
        Dialect::Anthropic => Json(service.model.list_to_anthropic()).into_response(),
    }
}

async fn retrieve_model(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    _: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let dialect = dialect(&headers);
    // A path that is not UTF-8 names no model either.
    match service.model.check(id.as_ref().map_or("", |Path(id)| id.as_str())) {
        Err(error) => error.respond(dialect),
        Ok(()) if dialect == Dialect::Anthropic => {
            Json(service.model.describe_to_anthropic()).into_response()
        }
        Ok(()) => Json(service.model.describe()).into_response(),
    }
}

async fn chat_completions(
    State(service): State<Arc<Service>>,
    Caller(partner, session): Caller,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let body = service.receive(partner, request).await?;
    let ChatRequest { parameters, messages } =
        ChatRequest::parse(body.as_slice(), &service.limits.request, random()?)?;
    drop(body);
    let places = service.admit(partner, session, &parameters.model, parameters.choices)?;
    let prompt = service.conversation(messages).await?;
    let max_tokens = parameters.max_tokens;
    service.answer(Endpoint::OpenAi(&chat::WORDING), "messages", parameters, max_tokens, prompt, places).await
}

async fn text_completions(
    State(service): State<Arc<Service>>,
    Caller(partner, session): Caller,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let body = service.receive(partner, request).await?;
    let CompletionRequest { parameters, prompt } =
        CompletionRequest::parse(body.as_slice(), &service.limits.request, random()?)?;
    drop(body);
    let places = service.admit(partner, session, &parameters.model, parameters.choices)?;
    let prompt = service.prompt("prompt", move |model| model.prompt_from_text(prompt.as_str())).await?;
    let max_tokens = parameters.max_tokens;
    service
        .answer(Endpoint::OpenAi(&completions::WORDING), "prompt", parameters, max_tokens, prompt, places)
        .await
}

async fn text_embeddings(
    State(service): State<Arc<Service>>,
    Caller(partner, session): Caller,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let body = service.receive(partner, request).await?;
    let request = EmbeddingsRequest::parse(body.as_slice(), &service.limits.request)?;
    drop(body);
    let places = service.admit(partner, session, &request.model, 1)?;
    service.embed(partner, request, places).await
}

async fn anthropic_messages(
    State(service): State<Arc<Service>>,
    caller: Result<Caller, ApiError>,
    request: Request<Body>,
) -> Result<Response, AnthropicError> {
    let Caller(partner, session) = caller?;
    let body = service.receive(partner, request).await?;
    let MessagesRequest { parameters, conversation } =
        MessagesRequest::parse(body.as_slice(), &service.limits.request, random()?)?;
    drop(body);
    let places = service.admit(partner, session, &parameters.model, parameters.choices)?;
    let prompt = service.conversation(conversation.turns).await?;
    let max_tokens = parameters.max_tokens;
    Ok(service.answer(Endpoint::Messages, "messages", parameters, max_tokens, prompt, places).await?)
}

async fn count_tokens(
    State(service): State<Arc<Service>>,
    caller: Result<Caller, ApiError>,
    request: Request<Body>,
) -> Result<Response, AnthropicError> {
    let Caller(partner, session) = caller?;
    let body = service.receive(partner, request).await?;
    let CountRequest { model, conversation } = CountRequest::parse(body.as_slice(), &service.limits.request)?;
    drop(body);
    // Tokenising takes a processor as an answer does, so it takes a place as well.
    let _places = service.admit(partner, session, &model, 1)?;
    let prompt = service.conversation(conversation.turns).await?;
    Ok(Json(CountRequest::answer(prompt.len())).into_response())
}

/// A place in the engine, and under release control the permission to use it.
type Place = (Permit, Option<Pass>);

/// Which endpoint an answer is for.
enum Endpoint {
    OpenAi(&'static Wording),
    Messages,
}

impl Endpoint {
    /// The answer's id as clients see it.
    fn answer_id(&self, id: &str) -> String {
        match self {
            Self::OpenAi(wording) => wording.answer_id(id),
            Self::Messages => format!("{}{id}", messages::ID_PREFIX),
        }
    }
}

impl Service {
    /// Takes in the body, if there is room for the request that it makes.
    async fn receive(&self, partner: PartnerId, request: Request<Body>) -> Result<SecretBuffer, ApiError> {
        self.generations.has_room(partner).map_err(|full| self.busy(full))?;
        let _upload = self.uploads.admit(partner).map_err(|full| self.busy(full))?;
        let (parts, body) = request.into_parts();
        body::read(&parts.headers, body, self.limits.body_bytes, self.limits.body_time).await
    }

    /// Checks the model's name and takes places in the engine, one for each choice.
    fn admit(
        &self,
        partner: PartnerId,
        session: Option<SessionTranscript>,
        model: &SecretString,
        choices: u32,
    ) -> Result<Vec<Place>, ApiError> {
        self.model.check(model.as_str())?;
        let most = self.limits.generations.per_partner.min(self.limits.generations.total).get();
        if choices as usize > most {
            return Err(ApiError::InvalidValue {
                param: ParameterName::known("n"),
                expected: format!(
                    "an integer from 1 to {most}, the requests that a partner may have at once"
                ),
            });
        }
        (0..choices)
            .map(|_| {
                let permit = self.generations.admit(partner).map_err(|full| self.busy(full))?;
                let Some((guard, _)) = &self.guard else { return Ok((permit, None)) };
                let SessionTranscript(transcript) = session.ok_or(ApiError::NoPartner)?;
                let pass = guard.admit(partner.digest(), transcript).map_err(ApiError::Stopped)?;
                Ok((permit, Some(pass)))
            })
            .collect()
    }

    /// Tokenises away from the threads that serve connections: a long prompt takes a while. The permit, which the caller holds
    /// already, bounds how many do so at once.
    async fn prompt(
        &self,
        param: &'static str,
        tokenise: impl FnOnce(&Model) -> Result<Prompt, PromptError> + Send + 'static,
    ) -> Result<Prompt, ApiError> {
        let model = Arc::clone(self.engine()?.model());
        let prompt = tokio::task::spawn_blocking(move || tokenise(&model)).await;
        prompt.map_err(|_| ApiError::Failed)?.map_err(|error| match error {
            PromptError::TooLong { bytes, limit } => ApiError::PromptTooLong { param, bytes, limit },
            other => ApiError::PromptRefused { param, reason: other },
        })
    }

    /// The prompt that the model's template makes of a conversation.
    async fn conversation(&self, turns: Vec<chat::Message>) -> Result<Prompt, ApiError> {
        self.prompt("messages", move |model| {
            let turns: Vec<_> = turns.iter().map(chat::Message::as_turn).collect();
            model.prompt_from_chat(&turns)
        })
        .await
    }

    /// Makes ready what holds the answer to its form, away from the threads that serve connections and from the engine's. The permit, which
    /// the caller holds already, bounds how many do so at once.
    async fn constraint(&self, form: Form) -> Result<Option<Constraint>, ApiError> {
        let model = Arc::clone(self.engine()?.model());
        let constrained = match form {
            Form::Text => return Ok(None),
            Form::JsonObject => tokio::task::spawn_blocking(move || {
                model.constrained_to_objects().map_err(|_| ApiError::Failed)
            }),
            Form::JsonSchema { schema, param } => tokio::task::spawn_blocking(move || {
                let constraint = model.constrained_to(schema.as_str());
                constraint.map_err(|reason| ApiError::SchemaRefused { param, reason })
            }),
        };
        constrained.await.map_err(|_| ApiError::Failed)?.map(Some)
    }

    async fn answer(
        &self,
        endpoint: Endpoint,
        param: &'static str,
        parameters: Parameters,
        max_tokens: Option<u32>,
        prompt: Prompt,
        places: Vec<Place>,
    ) -> Result<Response, ApiError> {
        let constraint = self.constraint(parameters.form).await?;
        // Every choice reads the prompt.
        for pass in places.iter().filter_map(|(_, pass)| pass.as_ref()) {
            pass.prompt(prompt.len()).map_err(ApiError::Stopped)?;
        }
        let id = random().and_then(|high| Ok(format!("{high:016x}{:016x}", random()?)))?;
        let created =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let (model, fingerprint) = (self.model.id(), self.model.fingerprint());
        let identity = Identity { id: &id, created, model, fingerprint };
        let answer_id = endpoint.answer_id(&id);
        let stop: Vec<Zeroizing<String>> =
            parameters.stop.iter().map(|stop| Zeroizing::new(stop.as_str().to_owned())).collect();
        let (permits, passes): (Vec<_>, Vec<_>) = places.into_iter().unzip();
        let owner = permits.first().map(|permit| owner(permit.partner())).unwrap_or_default();
        let Parameters { delivery, logprobs, sampling, bias, .. } = parameters;
        let shapes: Vec<Shape> = match endpoint {
            Endpoint::OpenAi(wording) => {
                let indices = (0..).zip(&permits).map(|(index, _)| index);
                indices.map(|index| Shape::new(wording, &identity, delivery, index, logprobs)).collect()
            }
            Endpoint::Messages => vec![messages::shape(&identity, delivery, prompt.len(), parameters.stop)],
        };
        let (writers, reader) = stream::answer(shapes.into_iter().zip(permits).collect());
        let request_id = HeaderValue::try_from(&answer_id).map_err(|_| ApiError::Failed)?;
        let engine = self.engine()?;
        let deadline = engine.clock().now().checked_add(self.limits.request_time);
        // If one is not taken, dropping the others cancels them.
        let mut running = Vec::with_capacity(writers.len());
        for ((index, writer), pass) in (0..).zip(writers).zip(passes) {
            let share = pass.as_ref().map_or(NonZeroU8::MIN, Pass::share);
            let writer = match (pass, &self.guard) {
                (Some(pass), Some((_, keeper))) => writer.under(pass, keeper.clone(), answer_id.clone()),
                _ => writer,
            };
            let job = Job {
                owner,
                share,
                deadline,
                prompt: prompt.clone(),
                max_tokens,
                sampling: sampling.for_choice(index),
                bias: bias.clone(),
                constraint: constraint.clone(),
                logprobs,
                embedding: false,
                stop: stop.clone(),
                sink: Box::new(writer),
            };
            running.push(engine.submit(job).map_err(|error| self.not_submitted(param, error))?);
        }
        drop((prompt, engine));
        let (media_type, body) = match delivery {
            Delivery::Stream { .. } => {
                ("text/event-stream; charset=utf-8", Body::new(reader.into_body(self.traffic, running)))
            }
            Delivery::Whole => {
                let whole = reader.whole().await?;
                drop(running);
                ("application/json", Body::from(self.filled(whole)))
            }
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Both clients show this to their users: `_request_id`.
        response.headers_mut().insert("request-id", request_id.clone());
        response.headers_mut().insert("x-request-id", request_id);
        Ok(response)
    }

    /// A whole answer, as long as the traffic's shape has it.
    fn filled(&self, whole: Bytes) -> Bytes {
        match self.traffic {
            Some(traffic) => stream::fill_whole(&whole, traffic.step()),
            None => whole,
        }
    }

    /// Embeds one input after the other, in the one place that the request has.
    async fn embed(
        &self,
        partner: PartnerId,
        EmbeddingsRequest { inputs, encoding, dimensions, .. }: EmbeddingsRequest,
        mut places: Vec<Place>,
    ) -> Result<Response, ApiError> {
        const INPUT: &str = "input";
        let width = self.engine()?.model().facts().embedding.ok_or(ApiError::NoEmbeddings)?;
        if dimensions.is_some_and(|dimensions| dimensions != width) {
            return Err(ApiError::InvalidValue {
                param: ParameterName::known("dimensions"),
                expected: format!("{width}, the model's own number, or none"),
            });
        }
        let (mut answer, mut tokens) = (embeddings::Answer::new(encoding), 0);
        for input in inputs {
            let prompt = self
                .prompt(INPUT, move |model| match input {
                    Input::Text(text) => model.prompt_from_text(text.as_str()),
                    Input::Tokens(tokens) => model.prompt_from_tokens(tokens),
                })
                .await?;
            for pass in places.iter_mut().filter_map(|(_, pass)| pass.as_mut()) {
                pass.prompt(prompt.len()).and_then(|()| pass.next_token()).map_err(ApiError::Stopped)?;
            }
            tokens += prompt.len() as u64;
            let (sink, embedding) = embeddings::Receiver::new();
            let share = places.iter().find_map(|(_, pass)| pass.as_ref()).map_or(NonZeroU8::MIN, Pass::share);
            let engine = self.engine()?;
            let job = Job {
                owner: Owner(*partner.digest().as_bytes()),
                share,
                deadline: engine.clock().now().checked_add(self.limits.request_time),
                prompt,
                // Memory for the prompt is all that it needs.
                max_tokens: Some(1),
                sampling: Sampling::greedy(),
                bias: Bias::default(),
                constraint: None,
                logprobs: None,
                embedding: true,
                stop: Vec::new(),
                sink: Box::new(sink),
            };
            let running = engine.submit(job).map_err(|error| self.not_submitted(INPUT, error))?;
            drop(engine);
            let Ok(embedding) = embedding.await else {
                for pass in places.iter_mut().filter_map(|(_, pass)| pass.as_mut()) {
                    pass.next_token().map_err(ApiError::Stopped)?;
                }
                return Err(ApiError::Failed);
            };
            drop(running);
            answer.push(embedding.ok_or(ApiError::RequestTime)?.as_slice());
        }
        let body = answer.finish(self.model.id(), tokens).take();
        drop(places);
        let mut response = Response::new(Body::from(self.filled(body)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    fn not_submitted(&self, param: &'static str, error: SubmitError) -> ApiError {
        match error {
            SubmitError::Busy => self.busy(Full),
            SubmitError::PromptTooLong { tokens, limit }
            | SubmitError::PromptTooLongForMemory { tokens, limit } => {
                ApiError::ContextLengthExceeded { param, tokens, limit }
            }
            SubmitError::PromptEmpty => ApiError::PromptEmpty { param },
            SubmitError::BiasToken { vocabulary } => ApiError::InvalidValue {
                param: ParameterName::known("logit_bias"),
                expected: format!("token ids below {vocabulary}, the model's number of tokens"),
            },
            SubmitError::NoEmbeddings => ApiError::NoEmbeddings,
            SubmitError::StopStrings | SubmitError::Stopped => ApiError::Failed,
        }
    }

    fn busy(&self, _: Full) -> ApiError {
        ApiError::Busy { retry_after: self.limits.retry_after }
    }
}

/// Whose share of the engine a partner's requests take from.
fn owner(partner: PartnerId) -> Owner {
    Owner(*partner.digest().as_bytes())
}

/// Seconds since 1970 by the enclave's clock, which the host could have set: for people to read, not evidence.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// 64 random bits of the enclave's own.
fn random() -> Result<u64, ApiError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ApiError::Failed)?;
    Ok(u64::from_ne_bytes(bytes))
}
