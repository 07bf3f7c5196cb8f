//! The parameters that chat and text completions share, read into types that cannot hold a wrong value.
//!
//! Three kinds of parameter: those we implement; those OpenAI defines and we do not, which may only have a value that means
//! nothing; and all others, which are refused as unknown. Nothing is ignored, except [`LABELS`], which
//! OpenAI defines as labels without effect on the answer.

use cleanroom_backend::{Bias, Sampling};

pub(crate) use super::delivery::Delivery;
use super::error::ApiError;
use super::json::{Field, Object, ParameterName};
use super::secret::SecretString;

/// How much a request may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Messages in a conversation.
    pub messages: usize,
    /// Text parts in one message.
    pub parts: usize,
    /// Bytes of UTF-8 in one text: a message's part, or a prompt.
    pub text_bytes: usize,
    /// Bytes of UTF-8 in one stop sequence.
    pub stop_bytes: usize,
    /// Bytes of one JSON Schema.
    pub schema_bytes: usize,
    /// Tools that one request may offer, and calls that one message may have.
    pub tools: usize,
    /// Choices that one request may ask for (`n`).
    pub choices: u32,
    /// Texts that one request may have embedded.
    pub inputs: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            messages: 1024,
            parts: 64,
            text_bytes: 512 * 1024,
            stop_bytes: 256,
            schema_bytes: 64 * 1024,
            tools: 128,
            choices: 8,
            inputs: 64,
        }
    }
}

/// Longest model id that is read (bytes).
pub(crate) const MAX_MODEL: usize = 256;
/// Parameters that say who asks, for a provider's own statistics and caches.
const LABELS: [&str; 3] = ["user", "safety_identifier", "prompt_cache_key"];
/// Longest label (bytes).
pub(crate) const MAX_USER: usize = 512;
/// Most stop sequences (OpenAI's number).
const MAX_STOP: usize = 4;
/// What a client may ask for; the model's context is the real limit.
const MAX_TOKENS: i64 = u32::MAX as i64;

/// What to generate, apart from the prompt.
pub(crate) struct Parameters {
    pub(crate) model: SecretString,
    /// `None` when the request does not say.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) sampling: Sampling,
    /// What is added to the scores of some tokens.
    pub(crate) bias: Bias,
    /// At most four, none of them empty.
    pub(crate) stop: Vec<SecretString>,
    pub(crate) form: Form,
    /// How many answers, each with a generator of its own.
    pub(crate) choices: u32,
    /// Whether probabilities are told, and of how many likelier tokens for each.
    pub(crate) logprobs: Option<u8>,
    pub(crate) delivery: Delivery,
    /// Names of the tools whose input is a text, and no object.
    pub(crate) text_tools: Vec<SecretString>,
}

/// What form the answer must have.
pub(crate) enum Form {
    Text,
    JsonObject,
    /// JSON that is valid for a schema.
    JsonSchema {
        schema: SecretString,
        /// The parameter that holds it.
        param: &'static str,
    },
}

impl Parameters {
    /// Takes the shared members out of `object`. `default_seed` is used when the request names none.
    pub(crate) fn take(
        object: &mut Object<'_>,
        limits: &RequestLimits,
        default_seed: u64,
    ) -> Result<Self, ApiError> {
        for label in LABELS {
            if let Some(label) = object.take(label) {
                label.string(MAX_USER)?;
            }
        }
        Ok(Self {
            model: object.require("model")?.string(MAX_MODEL)?,
            max_tokens: object.take("max_tokens").map_or(Ok(None), |field| limit(&field))?,
            sampling: sampling(object, default_seed)?,
            bias: bias(object)?,
            stop: stop(object, limits)?,
            form: Form::Text,
            choices: object.take("n").map_or(Ok(1), |field| choices(&field, limits))?,
            text_tools: Vec::new(),
            logprobs: None,
            delivery: delivery(object)?,
        })
    }
}

impl Parameters {
    /// Bounds the memory for probabilities, which take some hundred times as much as the text: an answer has so many of them at most, each
    /// token's own and its alternatives' together.
    pub(crate) fn limit_scores(&mut self) -> Result<(), ApiError> {
        const MOST: u32 = 65_536;
        let Some(top) = self.logprobs else { return Ok(()) };
        let limit = MOST / (1 + u32::from(top)) / self.choices.max(1);
        match self.max_tokens {
            Some(tokens) if tokens > limit => Err(ApiError::InvalidValue {
                param: ParameterName::known("max_tokens"),
                expected: format!("at most {limit}, because probabilities are to be told"),
            }),
            Some(_) => Ok(()),
            None => {
                self.max_tokens = Some(limit);
                Ok(())
            }
        }
    }
}

fn choices(field: &Field<'_>, limits: &RequestLimits) -> Result<u32, ApiError> {
    let value = field.integer(1..=i64::from(limits.choices))?;
    u32::try_from(value).map_err(|_| field.invalid("a number of choices"))
}

/// A number of likelier tokens to tell.
pub(crate) fn top_logprobs(field: &Field<'_>, most: u8) -> Result<u8, ApiError> {
    let value = field.integer(0..=i64::from(most))?;
    u8::try_from(value).map_err(|_| field.invalid("a number of tokens"))
}

/// A number of tokens to generate at most; none for -1, which older clients send for it.
pub(crate) fn limit(field: &Field<'_>) -> Result<Option<u32>, ApiError> {
    if field.is("-1") { Ok(None) } else { tokens(field).map(Some) }
}

/// A number of tokens to generate at most.
pub(crate) fn tokens(field: &Field<'_>) -> Result<u32, ApiError> {
    let value = field.integer(1..=MAX_TOKENS)?;
    u32::try_from(value).map_err(|_| field.invalid("a number of tokens"))
}

fn sampling(object: &mut Object<'_>, default_seed: u64) -> Result<Sampling, ApiError> {
    let temperature = object.take("temperature").map_or(Ok(1.0), |field| field.number(0.0..=2.0))?;
    let top_p = object.take("top_p").map_or(Ok(1.0), |field| field.number(0.0..=1.0))?;
    let seed = match object.take("seed") {
        // Any 64 bits make a seed; negative ones are taken as they are in two's complement.
        Some(field) => field.integer(i64::MIN..=i64::MAX)?.cast_unsigned(),
        None => default_seed,
    };
    let penalty = |field: Option<Field<'_>>| field.map_or(Ok(0.0), |field| field.number(-2.0..=2.0));
    let (presence, frequency) =
        (penalty(object.take("presence_penalty"))?, penalty(object.take("frequency_penalty"))?);
    // Not OpenAI's: its clients send both as extra members to servers that have them.
    let top_k = object.take("top_k").map_or(Ok(0), |field| top_k(&field))?;
    let min_p = object.take("min_p").map_or(Ok(0.0), |field| field.number(0.0..=1.0))?;
    #[expect(clippy::cast_possible_truncation, reason = "all are at most 2, and rounding them is harmless")]
    let (presence, frequency, min_p) = (presence as f32, frequency as f32, min_p as f32);
    Ok(Sampling { top_k, min_p, presence, frequency, ..new_sampling(temperature, top_p, seed) })
}

/// How many of the most likely tokens are chosen from; 0 is no limit.
pub(crate) fn top_k(field: &Field<'_>) -> Result<u32, ApiError> {
    let value = field.integer(0..=i64::from(u32::MAX))?;
    u32::try_from(value).map_err(|_| field.invalid("a number of tokens"))
}

fn bias(object: &mut Object<'_>) -> Result<Bias, ApiError> {
    let Some(field) = object.take("logit_bias") else { return Ok(Bias::default()) };
    let mut bias = Bias::default();
    for (token, value) in field.object()?.into_members() {
        // One spelling for each token, so that none comes twice; and no refusal says which tokens were named.
        let invalid = || field.invalid("token ids and numbers from -100 to 100, such as {\"50\": -100}");
        let id = token.parse::<u32>().ok().filter(|id| id.to_string() == *token).ok_or_else(invalid)?;
        let value = value.number(-100.0..=100.0).map_err(|_| invalid())?;
        #[expect(clippy::cast_possible_truncation, reason = "rounding it is harmless")]
        bias.push((id, value as f32));
    }
    Ok(bias)
}

/// Sampling from numbers that are in range.
pub(crate) fn new_sampling(temperature: f64, top_p: f64, seed: u64) -> Sampling {
    #[expect(clippy::cast_possible_truncation, reason = "both are at most 2, and rounding them is harmless")]
    let (temperature, top_p) = (temperature as f32, top_p as f32);
    if top_p <= 0.0 {
        // A nucleus without mass still holds its first token.
        return Sampling::GREEDY;
    }
    Sampling { temperature, top_p, seed, ..Sampling::GREEDY }
}

/// A form other than text, with what may not stand beside it. `stop` names the stop strings' parameter.
pub(crate) fn without_stop(
    form: Form,
    parameters: &Parameters,
    stop: &'static str,
) -> Result<Form, ApiError> {
    // An answer that a stop string cut off would look complete and not have the form.
    match form {
        Form::JsonObject | Form::JsonSchema { .. } if !parameters.stop.is_empty() => {
            Err(ApiError::InvalidValue {
                param: ParameterName::known(stop),
                expected: "no stop sequences, because the answer is to be whole JSON".to_owned(),
            })
        }
        form => Ok(form),
    }
}

fn stop(object: &mut Object<'_>, limits: &RequestLimits) -> Result<Vec<SecretString>, ApiError> {
    match object.take("stop") {
        None => Ok(Vec::new()),
        Some(field) if field.is_array() => stop_strings(&field, limits),
        Some(field) => Ok(vec![stop_string(&field, limits)?]),
    }
}

/// An array of stop strings.
pub(crate) fn stop_strings(field: &Field<'_>, limits: &RequestLimits) -> Result<Vec<SecretString>, ApiError> {
    field.array(0..=MAX_STOP)?.iter().map(|sequence| stop_string(sequence, limits)).collect()
}

fn stop_string(field: &Field<'_>, limits: &RequestLimits) -> Result<SecretString, ApiError> {
    let text = field.string(limits.stop_bytes)?;
    if text.as_str().is_empty() { Err(field.invalid("a string that is not empty")) } else { Ok(text) }
}

fn delivery(object: &mut Object<'_>) -> Result<Delivery, ApiError> {
    let stream = object.take("stream").map_or(Ok(false), |field| field.boolean())?;
    let options = object.take("stream_options");
    if !stream {
        return match options {
            Some(field) => Err(field.invalid("no stream_options, because stream is not true")),
            None => Ok(Delivery::Whole),
        };
    }
    let (mut include_usage, mut include_obfuscation) = (false, true);
    if let Some(field) = options {
        let mut options = field.object()?;
        let mut take = |name, default| options.take(name).map_or(Ok(default), |field| field.boolean());
        include_usage = take("include_usage", false)?;
        include_obfuscation = take("include_obfuscation", true)?;
        options.finish()?;
    }
    Ok(Delivery::Stream { include_usage, include_obfuscation })
}
