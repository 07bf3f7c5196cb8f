//! `POST /v1/embeddings`: the direction of a text, from models whose files say that they are made for it.

use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_backend::{Event, Input, Sink};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::error::ApiError;
use super::json::{Field, Object};
use super::request::{MAX_MODEL, MAX_USER, RequestLimits};
use super::secret::{SecretBuffer, SecretString};

/// A request that may be served.
pub(crate) struct EmbeddingsRequest {
    pub(crate) model: SecretString,
    /// At least one.
    pub(crate) inputs: Vec<Input>,
    pub(crate) encoding: Encoding,
    /// How many numbers each embedding is to have, where the request says.
    pub(crate) dimensions: Option<u32>,
}

/// How the numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As JSON numbers.
    Float,
    /// Four bytes each, little-endian, in base64.
    Base64,
}

/// Longest `encoding_format` that is read (bytes).
const MAX_ENCODING: usize = 32;
/// Most tokens of one input that are read; the model's context is the real limit.
const MAX_TOKENS: usize = 4096;

impl EmbeddingsRequest {
    pub(crate) fn parse(body: &[u8], limits: &RequestLimits) -> Result<Self, ApiError> {
        let mut object = Object::from_body(body)?;
        if let Some(user) = object.take("user") {
            user.string(MAX_USER)?;
        }
        let model = object.require("model")?.string(MAX_MODEL)?;
        let encoding =
            object.take("encoding_format").map_or(Ok(Encoding::Float), |field| encoding(&field))?;
        let dimensions = object.take("dimensions").map(|field| dimensions(&field)).transpose()?;
        let inputs = inputs(&object.require("input")?, limits, limits.inputs)?;
        object.finish()?;
        Ok(Self { model, inputs, encoding, dimensions })
    }
}

fn encoding(field: &Field<'_>) -> Result<Encoding, ApiError> {
    const KINDS: &str = "'float' or 'base64'";
    match field.string(MAX_ENCODING).map_err(|_| field.invalid(KINDS))?.as_str() {
        "float" => Ok(Encoding::Float),
        "base64" => Ok(Encoding::Base64),
        _ => Err(field.invalid(KINDS)),
    }
}

fn dimensions(field: &Field<'_>) -> Result<u32, ApiError> {
    let value = field.integer(1..=i64::from(u32::MAX))?;
    u32::try_from(value).map_err(|_| field.invalid("a number of dimensions"))
}

/// A text, tokens, or up to `most` of either.
pub(crate) fn inputs(field: &Field<'_>, limits: &RequestLimits, most: usize) -> Result<Vec<Input>, ApiError> {
    if field.is_string() {
        return Ok(vec![Input::Text(field.string(limits.text_bytes)?)]);
    }
    if !field.is_array() {
        return Err(field.invalid("a string, an array of strings, or an array of tokens"));
    }
    let elements = field.array(1..=MAX_TOKENS)?;
    if !elements.iter().any(|element| element.is_string() || element.is_array()) {
        return Ok(vec![tokens(&elements)?]);
    }
    if elements.len() > most {
        return Err(field.invalid(format!("at most {most} texts")));
    }
    let input = |element: &Field<'_>| {
        if element.is_array() {
            tokens(&element.array(1..=MAX_TOKENS)?)
        } else {
            element.string(limits.text_bytes).map(Input::Text)
        }
    };
    elements.iter().map(input).collect()
}

fn tokens(elements: &[Field<'_>]) -> Result<Input, ApiError> {
    let mut tokens = Zeroizing::new(Vec::with_capacity(elements.len()));
    for element in elements {
        let token = element.integer(0..=i64::from(u32::MAX))?;
        tokens.push(u32::try_from(token).map_err(|_| element.invalid("a token"))?);
    }
    Ok(Input::Tokens(tokens))
}

/// Hands one embedding from the backend's thread to the request that waits for it, or nothing if the time is over.
pub(crate) struct Receiver(Option<oneshot::Sender<Option<Embedding>>>);

/// The numbers of one embedding. They tell much of the text, so they are erased like it.
pub(crate) type Embedding = Zeroizing<Vec<f32>>;

impl Receiver {
    pub(crate) fn new() -> (Self, oneshot::Receiver<Option<Embedding>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }
}

impl Sink for Receiver {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let embedding = match event {
            Event::Text(_) | Event::Reasoning(_) | Event::Call(_) | Event::Arguments(_) => {
                return ControlFlow::Continue(());
            }
            Event::Embedding(embedding) => Some(Zeroizing::new(embedding.to_vec())),
            Event::Finished { .. } => None,
        };
        match self.0.take().map(|sender| sender.send(embedding)) {
            Some(Err(_)) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The answer, written as the embeddings come.
pub(crate) struct Answer {
    out: SecretBuffer,
    encoding: Encoding,
    count: usize,
}

impl Answer {
    pub(crate) fn new(encoding: Encoding) -> Self {
        let mut out = SecretBuffer::default();
        out.push(b"{\"object\":\"list\",\"data\":[");
        Self { out, encoding, count: 0 }
    }

    pub(crate) fn push(&mut self, numbers: &[f32]) {
        if self.count > 0 {
            self.out.push(b",");
        }
        let head = format!("{{\"object\":\"embedding\",\"index\":{},\"embedding\":", self.count);
        self.out.push(head.as_bytes());
        match self.encoding {
            Encoding::Float => {
                self.out.push(b"[");
                for (index, number) in numbers.iter().enumerate() {
                    if index > 0 {
                        self.out.push(b",");
                    }
                    // What is no number has no form in JSON.
                    let number = if number.is_finite() { *number } else { 0.0 };
                    self.out.push(Zeroizing::new(number.to_string()).as_bytes());
                }
                self.out.push(b"]");
            }
            Encoding::Base64 => {
                let bytes: Zeroizing<Vec<u8>> =
                    Zeroizing::new(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
                self.out.push(b"\"");
                self.out.push(Zeroizing::new(STANDARD.encode(&*bytes)).as_bytes());
                self.out.push(b"\"");
            }
        }
        self.out.push(b"}");
        self.count += 1;
    }

    /// `model` needs no escaping in JSON.
    pub(crate) fn finish(mut self, model: &str, tokens: u64) -> SecretBuffer {
        let end = format!(
            "],\"model\":\"{model}\",\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}}}"
        );
        self.out.push(end.as_bytes());
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &str, extra: &str) -> Result<EmbeddingsRequest, (&'static str, String)> {
        let body = format!(r#"{{"model":"m","input":{input}{extra}}}"#);
        EmbeddingsRequest::parse(body.as_bytes(), &RequestLimits::default())
            .map_err(|error| (error.code(), error.param().unwrap_or_default().to_owned()))
    }

    #[test]
    fn texts_and_tokens_arrive() {
        for (input, count) in
            [(r#""a""#, 1), (r#"["a","b"]"#, 2), ("[1,2,3]", 1), ("[[1],[2,3]]", 2), (r#"["a",[1]]"#, 2)]
        {
            assert_eq!(parse(input, "").map(|request| request.inputs.len()), Ok(count), "{input}");
        }
        let request = parse("[7]", r#","encoding_format":"base64","dimensions":8,"user":"u""#).ok().unwrap();
        assert!(matches!(&request.inputs[..], [Input::Tokens(tokens)] if **tokens == [7]));
        assert_eq!((request.encoding, request.dimensions), (Encoding::Base64, Some(8)));
    }

    #[test]
    fn wrong_inputs_are_refused_with_their_place() {
        let many = format!("[{}1]", "[1],".repeat(RequestLimits::default().inputs));
        for (input, extra, code, param) in [
            ("7", "", "invalid_value", "input"),
            ("[]", "", "invalid_value", "input"),
            (r#"["a",7]"#, "", "invalid_value", "input[1]"),
            ("[[]]", "", "invalid_value", "input[0]"),
            ("[-1]", "", "invalid_value", "input[0]"),
            ("[1.5]", "", "invalid_value", "input[0]"),
            (many.as_str(), "", "invalid_value", "input"),
            (r#""a""#, r#","dimensions":0"#, "invalid_value", "dimensions"),
            (r#""a""#, r#","encoding_format":"hex""#, "invalid_value", "encoding_format"),
            (r#""a""#, r#","pooling":"cls""#, "unknown_parameter", "pooling"),
        ] {
            assert_eq!(parse(input, extra).err(), Some((code, param.to_owned())), "{input}{extra}");
        }
    }

    #[test]
    fn numbers_are_written_in_either_encoding() {
        let written = |encoding| {
            let mut answer = Answer::new(encoding);
            answer.push(&[0.5, -1e-7, f32::NAN]);
            answer.push(&[1.0]);
            let bytes = answer.finish("m", 3).take();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        };
        let floats = written(Encoding::Float);
        let floats_back: Vec<f32> = serde_json::from_value(floats["data"][0]["embedding"].clone()).unwrap();
        assert_eq!(floats_back, [0.5, -1e-7, 0.0]);
        assert_eq!((&floats["data"][1]["index"], &floats["usage"]["total_tokens"]), (&1.into(), &3.into()));
        assert_eq!(written(Encoding::Base64)["data"][1]["embedding"], "AACAPw==");
    }
}
