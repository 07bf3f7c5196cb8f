//! Embeddings, from texts to a response.

use axum::body::Body;
use axum::response::Response;
use cleanroom_backend::{Input, Output, Task};
use tokio::time::timeout;

use super::answer::response;
use super::embeddings::{Answer, Embedding, EmbeddingsRequest, Receiver};
use super::error::ApiError;
use super::json::ParameterName;
use super::judge::{Passed, Record};
use super::service::{Admitted, Service};

/// The parameter that holds the texts.
const INPUT: &str = "input";

impl Service {
    /// Embeds one input after the other, in the one slot that the request has.
    pub(super) async fn embed(
        &self,
        EmbeddingsRequest { inputs, encoding, dimensions, .. }: EmbeddingsRequest,
        mut admitted: Vec<Admitted>,
        record: &Record,
    ) -> Result<Response, ApiError> {
        let Some(slot) = admitted.first_mut() else { return Err(ApiError::Failed) };
        let width = self.abilities()?.embedding_width.ok_or(ApiError::NoEmbeddings)?;
        if dimensions.is_some_and(|dimensions| dimensions != width) {
            return Err(ApiError::InvalidValue {
                param: ParameterName::known("dimensions"),
                expected: format!("{width}, the model's own number, or none"),
            });
        }
        let Passed { inputs, unread, .. } = self.judge(inputs, 1, INPUT, record).await?;
        if let Some(unread) = unread {
            let passed = timeout(self.limits.request_time, self.classify(unread).passed());
            passed.await.map_err(|_| ApiError::RequestTime).flatten()?;
        }
        let (mut answer, mut tokens) = (Answer::new(encoding), 0);
        for input in inputs {
            let (embedding, count) = self.embed_one(input, slot).await?;
            tokens += count;
            answer.push(&embedding);
        }
        let body = answer.finish(self.model.id(), tokens).take();
        Ok(response("application/json", Body::from(body)))
    }

    /// One embedding, and the tokens of its text. It leaves only if it is still permitted once it is computed.
    async fn embed_one(&self, input: Input, slot: &mut Admitted) -> Result<(Embedding, u64), ApiError> {
        let (owner, share, time) = (slot.owner(), slot.share(), self.limits.request_time);
        let task = Task { owner, share, input, output: Output::Embedding, time };
        let prepared = self.prepare(task, INPUT, INPUT).await?;
        let tokens = prepared.prompt_tokens();
        if let Some(grant) = &mut slot.grant {
            grant.prompt(tokens).and_then(|()| grant.next_token()).map_err(ApiError::Stopped)?;
        }
        let (sink, embedding) = Receiver::new();
        let running = prepared.start(vec![Box::new(sink)]).map_err(|error| self.not_started(INPUT, error))?;
        let embedding = embedding.await;
        drop(running);
        if let Some(grant) = &mut slot.grant {
            grant.permission().still_permitted().map_err(ApiError::Stopped)?;
        }
        let embedding = embedding.map_err(|_| ApiError::Failed)?.ok_or(ApiError::RequestTime)?;
        Ok((embedding, tokens as u64))
    }
}
