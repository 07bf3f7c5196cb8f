//! What comes of a request: an answer, a problem, and what was proven before.

use cleanroom_partner::client::package;
use cleanroom_partner::client::{self, Dialect};
use cleanroom_partner::session::Reach;
use napi::bindgen_prelude::{Either3, Env, Object, Result, Uint8Array};
use napi_derive::napi;

use crate::runtime::{promise, runtime};

/// The headers of HTTP as name, value, name, value. The clean room's are text.
fn headers(headers: &http::HeaderMap) -> Vec<String> {
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        [name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()]
    };
    headers.iter().flat_map(pair).collect()
}

/// What was proven before a request was sent, and its receipt once that is verified.
#[napi]
pub struct Proof(pub(crate) package::Proof);

#[napi]
impl Proof {
    /// What was proven, as JSON.
    #[napi]
    pub fn proven(&self) -> String {
        self.0.proven()
    }

    /// The verified receipt, as JSON; nothing as long as there is none.
    #[napi]
    pub fn receipt(&self) -> Option<String> {
        self.0.receipt()
    }
}

/// An answer. It is whole, or a stream of pieces.
#[napi]
pub struct Answer(pub(crate) package::Received);

#[napi]
impl Answer {
    #[napi(getter)]
    pub fn status(&self) -> u16 {
        self.0.status()
    }

    #[napi(getter)]
    pub fn headers(&self) -> Vec<String> {
        headers(self.0.headers())
    }

    /// The content, if the answer is no stream.
    #[napi(getter)]
    pub fn whole(&self) -> Option<Uint8Array> {
        self.0.whole().map(|bytes| bytes.to_vec().into())
    }

    #[napi(getter)]
    pub fn proof(&self) -> Proof {
        Proof(self.0.proof().clone())
    }

    /// The next piece of a stream: whole events, nothing at the end, or a `Problem`.
    #[napi]
    pub fn next<'e>(&self, env: &'e Env) -> Result<Object<'e>> {
        let next = self.0.next();
        promise(env, async move {
            match next.await {
                Some(Ok(bytes)) => Either3::A(Uint8Array::new(bytes.into())),
                Some(Err(problem)) => Either3::B(Problem(problem)),
                None => Either3::C(()),
            }
        })
    }

    /// Ends the answer. A generation that still runs ends with it.
    #[napi]
    pub fn close(&self) -> Result<()> {
        self.0.close(runtime()?.handle());
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// Why there is no answer, or not a whole one.
#[napi]
pub struct Problem(pub(crate) client::Problem);

#[napi]
impl Problem {
    #[napi(getter)]
    pub fn code(&self) -> &'static str {
        self.0.code()
    }

    #[napi(getter)]
    pub fn message(&self) -> &str {
        self.0.message()
    }

    /// The exit code of a program that ends with it.
    #[napi(getter)]
    pub fn exit_code(&self) -> u8 {
        self.0.outcome() as u8
    }

    /// How far the request got: `never-sent`, `may-have-been-sent` or `was-sent`.
    #[napi(getter)]
    pub fn reach(&self) -> &'static str {
        self.0.reach().name()
    }

    /// Whether the clean room was refused, in contrast to not being reached, and nothing was sent.
    #[napi(getter)]
    pub fn refused(&self) -> bool {
        self.0.is_refusal() && self.0.reach() == Reach::NeverSent
    }

    /// The verdict on evidence that was refused, as JSON.
    #[napi]
    pub fn verdict(&self) -> Option<String> {
        self.0.verdict().and_then(|verdict| serde_json::to_string(verdict).ok())
    }

    /// The response with which the local proxy says the same.
    #[napi]
    pub fn response(&self, path: String) -> Said {
        let (head, body) = self.0.to_response(Dialect::of(&path)).into_parts();
        let content = String::from_utf8_lossy(&body).into_owned();
        Said { status: head.status.as_u16(), headers: headers(&head.headers), content }
    }
}

/// A problem as a response of HTTP.
#[napi(object)]
pub struct Said {
    pub status: u16,
    pub headers: Vec<String>,
    pub content: String,
}
