//! How many tokens a prompt has, before anything is asked of the model.

use cleanroom_backend::{Flavour, Input, PrepareError};
use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use crate::chunk::Text;
use crate::http::Exchange;
use crate::{Failure, Shared, request};

/// Most bytes of an answer that lists tokens.
const MAX_TOKENS_BODY: usize = 32 * 1024 * 1024;
/// Tokens that a template puts around each message, at most, where nobody can be asked.
const TOKENS_PER_MESSAGE: usize = 32;

/// The tokens of a prompt: the engine's own count, or for an engine that cannot be asked the most that they can be.
pub(crate) async fn tokens(shared: &Shared, input: &Input) -> Result<usize, PrepareError> {
    if let Input::Tokens(tokens) = input {
        return Ok(tokens.len());
    }
    match shared.facts.flavour {
        Flavour::Vllm => {
            #[derive(Deserialize)]
            struct Counted {
                count: usize,
            }
            let body = request::prompt_only(&shared.facts, input)?;
            let answer = ask(shared, "/tokenize", body).await?;
            Ok(read::<Counted>(shared, &answer)?.count)
        }
        Flavour::LlamaServer => {
            #[derive(Deserialize)]
            struct Applied {
                prompt: Text,
            }
            #[derive(Deserialize)]
            struct Listed {
                tokens: Vec<IgnoredAny>,
            }
            let body = match input {
                Input::Chat(_) => {
                    let body = request::prompt_only(&shared.facts, input)?;
                    let answer = ask(shared, "/apply-template", body).await?;
                    request::tokenize_text(read::<Applied>(shared, &answer)?.prompt.as_str())?
                }
                Input::Text(text) => request::tokenize_text(text.as_str())?,
                Input::Tokens(tokens) => return Ok(tokens.len()),
            };
            let answer = ask(shared, "/tokenize", body).await?;
            Ok(read::<Listed>(shared, &answer)?.tokens.len())
        }
        // No token stands for less than a byte, but for those that a template puts around messages.
        Flavour::OpenAi => {
            let (bytes, messages) = request::size(input);
            Ok(bytes.saturating_add(messages.saturating_mul(TOKENS_PER_MESSAGE)))
        }
    }
}

async fn ask(
    shared: &Shared,
    path: &'static str,
    body: Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>, PrepareError> {
    let asked = async {
        let silence = shared.facts.silence;
        Exchange::begin(shared.door.as_ref(), path, Some(body), silence).await?.whole(MAX_TOKENS_BODY).await
    };
    asked.await.map_err(|failure| match failure {
        // What the engine says may repeat the prompt.
        Failure::Status(400..=499) => {
            PrepareError::Prompt("the engine's template or tokenizer refuses the prompt".to_owned())
        }
        other => {
            (shared.report)(other);
            PrepareError::Unavailable
        }
    })
}

fn read<'a, T: Deserialize<'a>>(shared: &Shared, body: &'a [u8]) -> Result<T, PrepareError> {
    serde_json::from_slice(body).map_err(|_| {
        (shared.report)(Failure::Nonsense);
        PrepareError::Unavailable
    })
}
