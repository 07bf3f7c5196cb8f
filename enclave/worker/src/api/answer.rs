//! One answer, from parameters and a prompt to a response.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use cleanroom_backend::{Form, Handle, Input, Output, Prepared, Sampling, Sink, Task};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use tokio::time::timeout;

use super::error::ApiError;
use super::judge::{Judge, Passed, Record};
use super::messages;
use super::request::{self, Delivery, Parameters};
use super::responses;
use super::secret::SecretString;
use super::service::{Admitted, Service, now, random};
use super::shape::{Identity, Shape, Wording};
use super::stream::{self, Reader};
use crate::grant::{Grant, Trial};

/// Which endpoint an answer is for.
pub(super) enum Endpoint {
    OpenAi(&'static Wording),
    Messages,
    Responses,
}

impl Endpoint {
    /// The answer's id as clients see it.
    fn answer_id(&self, id: &str) -> String {
        match self {
            Self::OpenAi(wording) => wording.answer_id(id),
            Self::Messages => format!("{}{id}", messages::ID_PREFIX),
            Self::Responses => format!("{}{id}", responses::ID_PREFIX),
        }
    }

    /// The parameter that holds the prompt.
    fn prompt(&self, input: Option<&Input>) -> &'static str {
        match (self, input) {
            (Self::Responses, _) => "input",
            (_, Some(Input::Chat(_))) => "messages",
            _ => "prompt",
        }
    }

    /// What goes around the text of each of `choices` choices.
    fn shapes(&self, identity: &Identity<'_>, choices: usize, asked: &Asked, prompt: usize) -> Vec<Shape> {
        let Asked { delivery, logprobs, stop, text_tools } = asked;
        match self {
            Self::OpenAi(wording) => (0..)
                .take(choices)
                .map(|index| Shape::new(wording, identity, *delivery, index, *logprobs))
                .collect(),
            Self::Messages => vec![messages::shape(identity, *delivery, prompt, stop.clone())],
            Self::Responses => vec![responses::shape(identity, *delivery, text_tools.clone())],
        }
    }
}

/// The part of the parameters that shapes the answer on its way out.
struct Asked {
    delivery: Delivery,
    logprobs: Option<u8>,
    stop: Vec<SecretString>,
    text_tools: Vec<SecretString>,
}

/// What is ready to start.
struct Prompts {
    prompts: Vec<Box<dyn Prepared>>,
    /// Under safeguards, one for each answer.
    judges: Vec<Judge>,
    /// Answers to each.
    choices: usize,
    /// The parameter that holds them.
    param: &'static str,
}

/// An answer that the backend works on. Nothing of it leaves before somebody reads; dropping it cancels it.
struct Started {
    reader: Reader,
    running: Vec<Handle>,
    request_id: HeaderValue,
}

impl Started {
    /// Cancels it. What is returned ends when the backend has let go of it.
    fn abandon(self) -> impl Future<Output = ()> {
        drop(self.running);
        self.reader.abandon()
    }
}

/// Names of the parameters that a refusal may have to name.
struct Names {
    prompt: &'static str,
    schema: &'static str,
}

impl Service {
    /// Answers a request that holds `admitted`, one slot for each choice. Every prompt gets as many choices as the
    /// others, one prompt's after the other's.
    pub(super) async fn answer(
        &self,
        endpoint: Endpoint,
        parameters: Parameters,
        inputs: Vec<Input>,
        mut admitted: Vec<Admitted>,
        record: &Record,
    ) -> Result<Response, ApiError> {
        let choices = (parameters.choices as usize).max(1);
        let [first, ..] = admitted.as_slice() else { return Err(ApiError::Failed) };
        let begun = Instant::now();
        let param = endpoint.prompt(inputs.first());
        let Passed { inputs, judges, unread } = self.judge(inputs, choices, param, record).await?;
        let time = self.limits.request_time.saturating_sub(begun.elapsed());
        let (asked, names, tasks) = self.tasks(&endpoint, parameters, inputs, first, time);
        // What a prompt uses that the classifiers refuse does not count.
        let grants = admitted.iter_mut().filter_map(|admitted| admitted.grant.as_mut());
        let trials: Vec<Trial> = grants.filter(|_| unread.is_some()).map(Grant::on_trial).collect();
        let mut prompts = Vec::with_capacity(tasks.len());
        for (task, admitted) in tasks.into_iter().zip(admitted.chunks_mut(choices)) {
            let prepared = self.prepare(task, names.prompt, names.schema).await?;
            count(admitted, prepared.prompt_tokens())?;
            prompts.push(prepared);
        }
        let tokens = prompts.iter().map(|prepared| prepared.prompt_tokens()).sum();

        let id = format!("{:016x}{:016x}", random()?, random()?);
        let answer_id = endpoint.answer_id(&id);
        let (model, fingerprint) = (self.model.id(), self.model.fingerprint());
        let identity = Identity { id: &id, created: now(), model, fingerprint };
        let shapes = endpoint.shapes(&identity, admitted.len(), &asked, tokens);
        let prompts = Prompts { prompts, judges, choices, param: names.prompt };
        // The backend reads the prompt while the classifiers do.
        let classifying = unread.map(|unread| self.classify(unread));
        let started = self.start(prompts, &answer_id, shapes, admitted);
        if let Some(classifying) = classifying {
            let late = |_| ApiError::RequestTime;
            let passed = timeout(time, classifying.passed()).await.map_err(late).flatten();
            if let Err(refusal) = passed {
                // Nothing of the answer has left, and now nothing will.
                let abandoned = started.ok().map(Started::abandon);
                trials.into_iter().for_each(Trial::refuse);
                if let Some(abandoned) = abandoned {
                    // A client's next request does not meet this one.
                    let _ = timeout(time, abandoned).await;
                }
                return Err(refusal);
            }
        }
        self.follow(started?, asked.delivery).await
    }

    /// How many tokens a conversation has.
    pub(super) async fn count(&self, input: Input, admitted: &[Admitted]) -> Result<usize, ApiError> {
        let [admitted, ..] = admitted else { return Err(ApiError::Failed) };
        let (owner, share, time) = (admitted.owner(), admitted.share(), self.limits.request_time);
        let task = Task { owner, share, input, output: Output::Embedding, time };
        Ok(self.prepare(task, "messages", "messages").await?.prompt_tokens())
    }

    /// What the backend is asked for, once for each prompt.
    fn tasks(
        &self,
        endpoint: &Endpoint,
        parameters: Parameters,
        inputs: Vec<Input>,
        admitted: &Admitted,
        time: Duration,
    ) -> (Asked, Names, Vec<Task>) {
        let Parameters { max_tokens, sampling, bias, stop, form, logprobs, delivery, text_tools, .. } =
            parameters;
        let prompt = endpoint.prompt(inputs.first());
        let (form, schema) = match form {
            request::Form::Text => (Form::Text, prompt),
            request::Form::JsonObject => (Form::JsonObject, prompt),
            request::Form::JsonSchema { schema, param } => (Form::JsonSchema(schema), param),
        };
        let asked = Asked { delivery, logprobs, stop: stop.clone(), text_tools };
        let (owner, share) = (admitted.owner(), admitted.share());
        let task = |(index, input)| {
            let (bias, form, stop) = (bias.clone(), form.clone(), stop.clone());
            // Equal prompts get answers of their own, as the choices of one do.
            let sampling = Sampling { seed: sampling.seed.wrapping_add(index), ..sampling };
            let output = Output::Answer { max_tokens, sampling, bias, form, logprobs, stop };
            Task { owner, share, input, output, time }
        };
        (asked, Names { prompt, schema }, (0..).zip(inputs).map(task).collect())
    }

    /// Starts the backend.
    fn start(
        &self,
        Prompts { prompts, judges, choices, param }: Prompts,
        answer_id: &str,
        shapes: Vec<Shape>,
        admitted: Vec<Admitted>,
    ) -> Result<Started, ApiError> {
        let request_id = HeaderValue::try_from(answer_id).map_err(|_| ApiError::Failed)?;
        let (slots, grants): (Vec<_>, Vec<_>) =
            admitted.into_iter().map(|Admitted { slot, grant }| (slot, grant)).unzip();
        let (writers, mut reader) = stream::answer(shapes.into_iter().zip(slots).collect(), choices);
        if let (Some(Some(grant)), Some((_, keeper))) = (grants.first(), &self.control) {
            reader = reader.under(grant.permission(), keeper.clone(), answer_id.to_owned());
        }
        let mut judges = judges.into_iter();
        let sinks = writers.into_iter().zip(grants).map(|(writer, grant)| {
            let writer = writer.judged(judges.next());
            match (grant, &self.control) {
                (Some(grant), Some((_, keeper))) => writer.under(grant, keeper.clone(), answer_id.to_owned()),
                _ => writer,
            }
            .into_sink()
        });
        let mut sinks: VecDeque<Box<dyn Sink>> = sinks.collect();
        let mut running = Vec::with_capacity(sinks.len());
        for prepared in prompts {
            let sinks = sinks.drain(..choices.min(sinks.len())).collect();
            // If one is not taken, dropping the others cancels them.
            running.extend(prepared.start(sinks).map_err(|error| self.not_started(param, error))?);
        }
        Ok(Started { reader, running, request_id })
    }

    /// Makes the response that follows the backend.
    async fn follow(
        &self,
        Started { reader, running, request_id }: Started,
        delivery: Delivery,
    ) -> Result<Response, ApiError> {
        let ending = reader.ending();
        let is_stream = matches!(delivery, Delivery::Stream { .. });
        let (media_type, body) = match delivery {
            Delivery::Stream { .. } => {
                ("text/event-stream; charset=utf-8", Body::new(reader.into_body(self.traffic, running)))
            }
            Delivery::Whole => {
                let whole = reader.whole().await?;
                drop(running);
                ("application/json", Body::from(whole))
            }
        };
        let mut response = response(media_type, body);
        if is_stream {
            response.extensions_mut().insert(ending);
        }
        // Both clients show this to their users: `_request_id`.
        response.headers_mut().insert("request-id", request_id.clone());
        response.headers_mut().insert("x-request-id", request_id);
        Ok(response)
    }
}

/// Counts the prompt's tokens. Every choice reads the prompt.
fn count(admitted: &mut [Admitted], tokens: usize) -> Result<(), ApiError> {
    for grant in admitted.iter().filter_map(|admitted| admitted.grant.as_ref()) {
        grant.prompt(tokens).map_err(ApiError::Stopped)?;
    }
    Ok(())
}

/// A response that no cache keeps.
pub(super) fn response(media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
