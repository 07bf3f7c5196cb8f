//! `POST /v1/completions`: a text, continued.

use super::error::ApiError;
use super::json::Object;
use super::request::{Parameters, RequestLimits, top_logprobs};
use super::scores::ScoresForm;
use super::secret::SecretString;
use super::shape::Wording;

/// The answer around its text.
pub(crate) const WORDING: Wording = Wording {
    id_prefix: "cmpl-",
    whole_object: "text_completion",
    whole: [r#","text":""#, r#"","logprobs":"#],
    chunk_object: "text_completion",
    first: None,
    piece: [r#","text":""#, r#"","logprobs":"#],
    last: r#","text":"""#,
    scores: ScoresForm::Columns,
};

/// Most likelier tokens that this endpoint tells. OpenAI's number.
const MAX_LOGPROBS: u8 = 5;

/// Tokens that this endpoint generates when the request does not say. OpenAI's default.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Defined by OpenAI for this endpoint and not implemented: the parameter, and the JSON values that mean the same as
/// leaving it out.
const UNSUPPORTED: &[(&str, &[&str])] = &[("best_of", &["1"]), ("echo", &["false"]), ("suffix", &[r#""""#])];

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
        let mut parameters = Parameters::take(&mut object, limits, default_seed)?;
        parameters.max_tokens = Some(parameters.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
        let logprobs = object.take("logprobs");
        parameters.logprobs = logprobs.map(|field| top_logprobs(&field, MAX_LOGPROBS)).transpose()?;
        parameters.limit_scores()?;
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
