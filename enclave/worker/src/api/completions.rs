//! `POST /v1/completions`: a text, continued.

use cleanroom_backend::Input;

use super::embeddings::inputs;
use super::error::ApiError;
use super::json::Object;
use super::request::{Parameters, RequestLimits, top_logprobs};
use super::scores::ScoresForm;
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
    is_chat: false,
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
    /// At least one: texts, or tokens.
    pub(crate) prompts: Vec<Input>,
}

impl CompletionRequest {
    pub(crate) fn parse(body: &[u8], limits: &RequestLimits, default_seed: u64) -> Result<Self, ApiError> {
        let mut object = Object::from_body(body)?;
        object.take_all_neutral(UNSUPPORTED)?;
        let says_how_many = object.has("max_tokens");
        let mut parameters = Parameters::take(&mut object, limits, default_seed)?;
        if !says_how_many {
            parameters.max_tokens = Some(DEFAULT_MAX_TOKENS);
        }
        let logprobs = object.take("logprobs");
        parameters.logprobs = logprobs.map(|field| top_logprobs(&field, MAX_LOGPROBS)).transpose()?;
        parameters.limit_scores()?;
        let prompt = object.require("prompt")?;
        object.finish()?;
        // Each prompt takes as much as a choice does.
        let prompts = inputs(&prompt, limits, limits.choices as usize)?;
        Ok(Self { parameters, prompts })
    }
}
