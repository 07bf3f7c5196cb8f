//! `POST /v1/completions`: a text, continued.

use super::error::ApiError;
use super::json::Object;
use super::request::{Parameters, RequestLimits};
use super::secret::SecretString;
use super::shape::Wording;

/// The answer around its text.
pub(crate) const WORDING: Wording = Wording {
    id_prefix: "cmpl-",
    whole_object: "text_completion",
    whole: [r#"{"text":""#, r#"","index":0,"logprobs":null,"finish_reason":""#, r#""}"#],
    chunk_object: "text_completion",
    first: None,
    piece: [r#"{"text":""#, r#"","index":0,"logprobs":null,"finish_reason":null}"#],
    last: [r#"{"text":"","index":0,"logprobs":null,"finish_reason":""#, r#""}"#],
};

/// Tokens that this endpoint generates when the request does not say. OpenAI's default.
pub(crate) const DEFAULT_MAX_TOKENS: u32 = 16;

/// Defined by OpenAI for this endpoint and not implemented: the parameter, and the JSON values that mean the same as
/// leaving it out.
const UNSUPPORTED: &[(&str, &[&str])] =
    &[("best_of", &["1"]), ("echo", &["false"]), ("logprobs", &[]), ("suffix", &[r#""""#])];

/// A request that may be served.
pub(crate) struct CompletionRequest {
    pub(crate) parameters: Parameters,
    pub(crate) prompt: SecretString,
}

impl CompletionRequest {
    pub(crate) fn parse(body: &[u8], limits: &RequestLimits, default_seed: u64) -> Result<Self, ApiError> {
        let mut object = Object::from_body(body)?;
        for (name, accepts) in UNSUPPORTED {
            object.take_neutral(name, accepts)?;
        }
        let parameters = Parameters::take(&mut object, limits, default_seed)?;
        let prompt = object.require("prompt")?;
        object.finish()?;
        let prompt = if prompt.is_array() {
            // One request is one prompt; an array with another number of elements is refused as such.
            match prompt.array(1..=1)?.first() {
                Some(only) => only.string(limits.text_bytes)?,
                None => return Err(prompt.invalid("one prompt")),
            }
        } else {
            prompt.string(limits.text_bytes)?
        };
        Ok(Self { parameters, prompt })
    }
}
