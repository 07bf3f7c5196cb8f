//! `cleanroom chat`: a conversation with a proven model.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use bytes::{Bytes, BytesMut};
use clap::Args;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::relying_party::{PartyArguments, runtime};
use crate::address::Address;
use crate::outcome::{Failure, Outcome, usage};
use crate::output::{Terminal, printable};
use crate::session::{Answer, SendError, Session, Sessions};
use crate::stream_end::{Ended, SignedEnd, UnprovenEnd};

const EXAMPLES: &str = "\
Examples:
  cleanroom chat cleanroom.example:8443
  cleanroom chat unix:/run/cleanroom.sock --prompt 'What is attestation?'

Answers are printed as they arrive. An answer that is cut off is an error,
never an end. When the clean room itself ends an answer, because an authority
halts the model or the lease lapses, it signs the reason. This program checks
the signature and shows the reason.";

/// The longest event of a stream, and the longest error body, in bytes.
const MAX_EVENT_BYTES: usize = 256 * 1024;

/// Talk to a model in a proven clean room
#[derive(Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub struct Chat {
    /// The clean room's host: HOST:PORT or unix:PATH
    address: Address,

    /// Ask this one question and end; without it, questions are read from standard input, one a line
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// The longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: u32,

    #[command(flatten)]
    party: PartyArguments,
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
    max_tokens: u32,
    temperature: f32,
}

/// One turn. No `Debug`, and gone from memory when dropped.
#[derive(Serialize, zeroize::ZeroizeOnDrop)]
struct Message {
    #[zeroize(skip)]
    role: &'static str,
    content: String,
}

impl Chat {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`] when the clean room is not proven, or an answer does not come whole.
    pub fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let (party, model) = self.party.load()?;
        let dialer = self.party.dialer(vec![self.address])?;
        let runtime = runtime()?;
        let sessions = Sessions::through(party, dialer);
        let mut history = Vec::new();
        let mut ask = |question: String| {
            history.push(Message { role: "user", content: question });
            let request = Question {
                model: model.as_str(),
                messages: &history,
                stream: true,
                max_tokens: self.max_tokens,
                temperature: 0.0,
            };
            let answer = runtime.block_on(stream(&sessions, &request, terminal))?;
            history.push(Message { role: "assistant", content: answer });
            Ok(())
        };
        if let Some(prompt) = self.prompt {
            ask(prompt)?;
            return Ok(Outcome::Pass);
        }
        let input = std::io::stdin();
        let interactive = input.is_terminal();
        let mut lines = input.lock().lines();
        loop {
            if interactive {
                // A prompt that nobody sees is no reason to end.
                let _ = std::io::stderr().write_all(b"> ");
            }
            match lines.next() {
                None => return Ok(Outcome::Pass),
                Some(Ok(line)) if line.trim().is_empty() => {}
                Some(Ok(line)) => ask(line)?,
                Some(Err(error)) => {
                    return Err(usage("input", format!("standard input could not be read: {error}")));
                }
            }
        }
    }
}

/// Sends a question and prints the answer as it arrives.
async fn stream(
    sessions: &Sessions,
    question: &Question<'_>,
    terminal: &mut Terminal,
) -> Result<String, Failure> {
    let body = serde_json::to_vec(question).map_err(|error| usage("question", error.to_string()))?;
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("https://cleanroom/v1/chat/completions");
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let Answer { response, session } = sessions.send(&request).await.map_err(|error| not_answered(&error))?;
    if response.status().is_success() {
        read_events(response.into_body(), terminal, &session).await
    } else {
        Err(refused(response).await)
    }
}

async fn read_events(
    mut body: Incoming,
    terminal: &mut Terminal,
    session: &Session,
) -> Result<String, Failure> {
    let mut pending = BytesMut::new();
    let mut stream = String::new();
    let mut answer = Zeroizing::new(String::new());
    loop {
        while let Some(event) = next_event(&mut pending) {
            if &*event == b"[DONE]" {
                terminal.text("\n")?;
                return Ok(std::mem::take(&mut *answer));
            }
            let mut chunk: Chunk = serde_json::from_slice(&event)
                .map_err(|_| broken("an event of the answer is not as expected".to_owned()))?;
            if let Some(end) = chunk.cleanroom_stream_end {
                terminal.text("\n")?;
                let key = session.evidence().evidence().public_key().unwrap_or_default();
                let end = end.verify(key, &session.transcript(), &stream);
                return Err(end.map_or_else(|unproven: UnprovenEnd| broken(unproven.to_string()), ended));
            }
            if stream.is_empty() {
                stream = std::mem::take(&mut chunk.id);
            }
            if chunk.error.is_some() {
                return Err(broken(
                    "the clean room reported an error in the middle of the answer".to_owned(),
                ));
            }
            for choice in &mut chunk.choices {
                if let Some(mut text) = choice.delta.content.take() {
                    terminal.text(&shown(&text))?;
                    answer.push_str(&text);
                    text.zeroize();
                }
            }
        }
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(_)) | None => return Err(cut_off(session)),
        };
        if let Some(data) = frame.data_ref() {
            if pending.len().saturating_add(data.len()) > MAX_EVENT_BYTES {
                return Err(broken(format!("expected events of at most {MAX_EVENT_BYTES} bytes")));
            }
            pending.extend_from_slice(data);
        }
    }
}

/// Line breaks and tabs are an answer's own; anything else that steers a terminal is shown as what it is.
fn shown(text: &str) -> String {
    text.split_inclusive(['\n', '\t'])
        .map(|piece| match piece.strip_suffix(['\n', '\t']) {
            Some(line) => printable(line) + piece.get(line.len()..).unwrap_or_default(),
            None => printable(piece),
        })
        .collect()
}

/// Cuts whole events off `pending` up to the first that has data, and returns the data (HTML standard, section 9.2). An event
/// without data is a comment, which keeps a connection alive or hides the length of an answer.
fn next_event(pending: &mut BytesMut) -> Option<Bytes> {
    loop {
        let end = pending.windows(2).position(|pair| pair == b"\n\n")?;
        let event = pending.split_to(end.saturating_add(2)).freeze();
        let data = event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data: "));
        if let Some(data) = data {
            return Some(event.slice_ref(data));
        }
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    id: String,
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<serde::de::IgnoredAny>,
    cleanroom_stream_end: Option<SignedEnd>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

async fn refused(response: Response<Incoming>) -> Failure {
    #[derive(Deserialize)]
    struct Body {
        error: Detail,
    }
    #[derive(Deserialize)]
    struct Detail {
        message: String,
    }
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_EVENT_BYTES).collect().await.ok();
    let detail = body.and_then(|body| serde_json::from_slice::<Body>(&body.to_bytes()).ok());
    let detail = detail.map_or_else(|| "no reason given".to_owned(), |body| body.error.message);
    Failure {
        outcome: Outcome::Refused,
        code: "request-refused",
        message: format!("the clean room answered {status}: {detail}"),
    }
}

/// The clean room itself ended the answer.
#[expect(clippy::needless_pass_by_value, reason = "an adapter for map_or_else")]
fn ended(end: Ended) -> Failure {
    let message = format!(
        "the clean room ended the answer at {}: {} [{}]. Its receipt key signed this, for this session and this answer",
        end.at,
        end.explanation(),
        end.reason
    );
    Failure { outcome: Outcome::Refused, code: end.code().unwrap_or("answer-ended"), message }
}

/// The request has no answer.
fn not_answered(error: &SendError) -> Failure {
    let outcome = if error.reason.is_refusal() { Outcome::Refused } else { Outcome::Unreachable };
    Failure { outcome, code: error.code(), message: error.to_string() }
}

/// The answer ended before it was whole: this program ended it, or somebody on the way did.
fn cut_off(session: &Session) -> Failure {
    session.why_cut().map_or_else(
        || broken("the answer was cut off".to_owned()),
        |cut| Failure {
            outcome: Outcome::Unreachable,
            code: cut.code,
            message: format!("the answer was cut off: {}", cut.reason),
        },
    )
}

fn broken(message: String) -> Failure {
    Failure { outcome: Outcome::Unreachable, code: "answer-broken", message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_events() {
        let mut pending = BytesMut::from(&b": filled\n\n:\ndata: {\"a\":1}\n\n: filled"[..]);
        assert_eq!(next_event(&mut pending).as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(next_event(&mut pending), None);
        pending.extend_from_slice(b"\n\nevent: error\ndata: {}\n\n");
        assert_eq!(next_event(&mut pending).as_deref(), Some(&b"{}"[..]));
    }

    #[test]
    fn events_are_cut_at_blank_lines_only() {
        let mut pending = BytesMut::from(&b"data: {\"a\":1}\n\ndata: [DO"[..]);
        assert_eq!(next_event(&mut pending).as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(next_event(&mut pending), None);
        pending.extend_from_slice(b"NE]\n\n");
        assert_eq!(next_event(&mut pending).as_deref(), Some(&b"[DONE]"[..]));
        assert!(pending.is_empty());
    }

    #[test]
    fn an_answer_cannot_steer_the_terminal() {
        assert_eq!(shown("one\ntwo\x1b[2J"), "one\ntwo\\u{1b}[2J");
    }
}
