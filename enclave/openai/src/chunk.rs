//! One event of a stream: the members that mean something here, out of JSON that may say anything.

use cleanroom_backend::{ScoredToken, TokenScore};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::Failure;

/// Text of an answer: not printable, erased on drop.
#[derive(Default)]
pub(crate) struct Text(Zeroizing<String>);

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// What one event adds to an answer.
#[derive(Default)]
pub struct Chunk {
    pub(crate) text: Option<Text>,
    pub(crate) reasoning: Option<Text>,
    pub(crate) calls: Vec<CallPart>,
    /// Of the tokens whose text this is, if they were asked for.
    pub(crate) scores: Vec<ScoredToken>,
    pub(crate) finish: Option<Finish>,
    pub(crate) usage: Option<WireUsage>,
}

/// A part of a call.
#[derive(Deserialize)]
pub(crate) struct CallPart {
    #[serde(default)]
    pub(crate) index: u32,
    #[serde(default)]
    pub(crate) function: FunctionPart,
}

#[derive(Deserialize, Default)]
pub(crate) struct FunctionPart {
    pub(crate) name: Option<Text>,
    pub(crate) arguments: Option<Text>,
}

/// Why an engine says that it has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    Other,
}

/// Tokens so far, or of the whole answer.
#[derive(Deserialize, Clone, Copy)]
pub(crate) struct WireUsage {
    pub(crate) prompt_tokens: u32,
    #[serde(default)]
    pub(crate) completion_tokens: u32,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize, Clone, Copy)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

impl WireUsage {
    pub(crate) fn cached_tokens(self) -> u32 {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0)
    }
}

#[derive(Deserialize)]
struct RawChunk {
    #[serde(default)]
    choices: Vec<RawChoice>,
    usage: Option<WireUsage>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawChoice {
    /// Of a chat.
    delta: Option<RawDelta>,
    /// Of a completion.
    text: Option<Text>,
    logprobs: Option<RawScores>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct RawDelta {
    content: Option<Text>,
    reasoning_content: Option<Text>,
    reasoning: Option<Text>,
    tool_calls: Option<Vec<CallPart>>,
}

/// Both forms of probabilities: of chats, and of completions.
#[derive(Deserialize)]
struct RawScores {
    content: Option<Vec<RawScored>>,
    tokens: Option<Vec<Text>>,
    token_logprobs: Option<Vec<Option<f32>>>,
    top_logprobs: Option<Vec<Option<Tops>>>,
}

/// An object from tokens to their probabilities, in the order in which they come.
struct Tops(Vec<TokenScore>);

impl<'de> Deserialize<'de> for Tops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> serde::de::Visitor<'de> for Members {
            type Value = Tops;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object from tokens to numbers")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Tops, A::Error> {
                let mut tops = Vec::new();
                while let Some((token, logprob)) = map.next_entry::<Text, f32>()? {
                    tops.push(TokenScore::new(token.as_str().as_bytes(), true, logprob));
                }
                tops.sort_by(|left, right| right.logprob().total_cmp(&left.logprob()));
                Ok(Tops(tops))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[derive(Deserialize)]
struct RawScored {
    #[serde(flatten)]
    chosen: RawScore,
    #[serde(default)]
    top_logprobs: Vec<RawScore>,
}

#[derive(Deserialize)]
struct RawScore {
    token: Text,
    bytes: Option<Zeroizing<Vec<u8>>>,
    logprob: f32,
}

impl From<RawScore> for TokenScore {
    fn from(RawScore { token, bytes, logprob }: RawScore) -> Self {
        let bytes = bytes.as_deref().map_or(token.as_str().as_bytes(), Vec::as_slice);
        Self::new(bytes, true, logprob)
    }
}

impl RawScores {
    fn into_scores(self) -> Vec<ScoredToken> {
        if let Some(content) = self.content {
            let scored = |RawScored { chosen, top_logprobs }| ScoredToken {
                chosen: TokenScore::from(chosen),
                top: top_logprobs.into_iter().map(TokenScore::from).collect(),
            };
            return content.into_iter().map(scored).collect();
        }
        let mut tops = self.top_logprobs.unwrap_or_default().into_iter();
        let logprobs = self.token_logprobs.unwrap_or_default();
        let tokens = self.tokens.unwrap_or_default().into_iter().zip(logprobs);
        let scored = |(token, logprob): (Text, Option<f32>)| ScoredToken {
            chosen: TokenScore::new(token.as_str().as_bytes(), true, logprob.unwrap_or(0.0)),
            top: tops.next().flatten().map(|Tops(tops)| tops).unwrap_or_default(),
        };
        tokens.map(scored).collect()
    }
}

impl Chunk {
    /// Reads the data of one event, which is not `[DONE]`.
    ///
    /// # Errors
    /// [`Failure::Nonsense`] for what is not such JSON, [`Failure::Reported`] for an engine that says it failed.
    pub fn parse(data: &[u8]) -> Result<Self, Failure> {
        let RawChunk { choices, usage, error } =
            serde_json::from_slice(data).map_err(|_| Failure::Nonsense)?;
        if error.is_some() {
            return Err(Failure::Reported);
        }
        let mut chunk = Self { usage, ..Self::default() };
        let mut choices = choices.into_iter();
        let Some(RawChoice { delta, text, logprobs, finish_reason }) = choices.next() else {
            return Ok(chunk);
        };
        if choices.next().is_some() {
            // One was asked for.
            return Err(Failure::Nonsense);
        }
        chunk.text = text;
        if let Some(RawDelta { content, reasoning_content, reasoning, tool_calls }) = delta {
            (chunk.text, chunk.reasoning) = (content, reasoning_content.or(reasoning));
            chunk.calls = tool_calls.unwrap_or_default();
        }
        chunk.scores = logprobs.map(RawScores::into_scores).unwrap_or_default();
        chunk.finish = finish_reason.map(|reason| match reason.as_str() {
            "stop" | "tool_calls" => Finish::Stop,
            "length" => Finish::Length,
            _ => Finish::Other,
        });
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Chunk {
        Chunk::parse(text.as_bytes()).map_err(|failure| panic!("{failure}: {text}")).unwrap()
    }

    #[test]
    fn both_forms_of_probabilities_are_read() {
        let chat = parse(
            r#"{"choices":[{"delta":{"content":"é"},"logprobs":{"content":[
                {"token":"\\xc3","bytes":[195],"logprob":-0.5,
                 "top_logprobs":[{"token":"a","bytes":null,"logprob":-0.1}]}]}}]}"#,
        );
        let [score] = chat.scores.as_slice() else { panic!("{}", chat.scores.len()) };
        assert_eq!((score.chosen.bytes(), score.chosen.logprob()), (&[195][..], -0.5));
        assert_eq!((score.top[0].bytes(), score.top[0].logprob()), (&b"a"[..], -0.1));

        let completion = parse(
            r#"{"choices":[{"text":"ab","logprobs":{"tokens":["a","b"],"token_logprobs":[null,-2.0],
                "top_logprobs":[{"x":-3.0,"a":-1.0},null]}}]}"#,
        );
        let [first, second] = completion.scores.as_slice() else { panic!("two") };
        assert_eq!((first.top[0].bytes(), first.top[1].bytes()), (&b"a"[..], &b"x"[..]));
        assert_eq!((second.chosen.bytes(), second.chosen.logprob()), (&b"b"[..], -2.0));
    }

    #[test]
    fn what_is_not_such_json_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "{",
            r#"{"choices":{}}"#,
            r#"{"choices":[1]}"#,
            r#"{"choices":[{},{}]}"#,
            r#"{"choices":[{"text":1}]}"#,
            r#"{"choices":[{"delta":{"content":"\ud800"}}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":-1}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":4294967296}}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":"0"}]}}]}"#,
        ] {
            assert_eq!(Chunk::parse(text.as_bytes()).err(), Some(Failure::Nonsense), "{text}");
        }
        assert_eq!(Chunk::parse(b"\xff").err(), Some(Failure::Nonsense));
        let deep = [r#"{"x":"#, &"[".repeat(100_000)].concat();
        assert_eq!(Chunk::parse(deep.as_bytes()).err(), Some(Failure::Nonsense));
        let error = br#"{"error":{"message":"the prompt"}}"#;
        assert_eq!(Chunk::parse(error).err(), Some(Failure::Reported));
    }
}
