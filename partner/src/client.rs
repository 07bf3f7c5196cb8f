//! One HTTP request to a proven clean room, and its answer with what proves it.
//!
//! ```text
//! Client::send ─► Sessions::send ─► Answer
//!  what may leave   only a proven     its body ends only when it is whole,
//!  of a request     session sends     and its receipt is verified before
//! ```
//!
//! The local proxy sends through [`Client`], and so does every program that links this library. So what leaves,
//! what comes back, and what counts as an answer are the same. Nothing is sent before the proof: a session is made of
//! [`crate::channel::Attested`] alone.
//!
//! ```no_run
//! use bytes::Bytes;
//! use cleanroom_partner::client::Client;
//! use cleanroom_partner::session::Sessions;
//! use cleanroom_partner::setup::Setup;
//! use http::Request;
//! use http_body_util::BodyExt as _;
//!
//! # async fn models() -> Result<(), Box<dyn std::error::Error>> {
//! let setup = Setup::new(vec!["cleanroom.example:8443".parse()?]);
//! let (party, _model) = setup.load()?;
//! let client = Client::new(Sessions::through(party, setup.dialer()?)).verify_receipts();
//! let request = Request::get("/v1/models").body(Bytes::new())?;
//! let answer = client.send(request).await?;
//! println!("proven: {}", answer.session.evidence().evidence().image());
//! let body = answer.response.into_body().collect().await?.to_bytes();
//! # drop(body);
//! # Ok(())
//! # }
//! ```

mod events;
pub mod package;
mod problem;
mod receipts;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Limited};

use self::events::{Events, answer_cut};
use self::receipts::{Keeper, Keeping, NoReceipt};
use crate::receipts::ReceiptFolder;
use crate::session::{self, Session, Sessions};

pub use self::events::AnswerBody;
pub use self::problem::{Dialect, Problem};
pub use self::receipts::{ReceiptSlot, VerifiedReceipt};

/// Bytes in the body of a request: well above what a clean room takes, so that the clean room says what it
/// takes.
pub const MAX_BODY: usize = 8 << 20;

/// Bytes in the body of a whole answer.
const MAX_ANSWER: usize = 64 << 20;

/// What goes to the clean room of a request's headers. An API key that a program sends is not among them: the
/// partner's key has already spoken.
const FORWARDED: [HeaderName; 4] =
    [ACCEPT, CONTENT_TYPE, CONTENT_LENGTH, HeaderName::from_static("anthropic-version")];

/// What comes back. The length is counted here.
const RETURNED: [HeaderName; 7] = [
    HeaderName::from_static("cleanroom-receipt"),
    CONTENT_TYPE,
    CACHE_CONTROL,
    RETRY_AFTER,
    HeaderName::from_static("request-id"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-should-retry"),
];

/// Sends requests to a proven clean room.
#[derive(Clone)]
pub struct Client {
    sessions: Sessions,
    /// Without it, receipts pass through.
    receipts: Option<Arc<Keeper>>,
}

/// An answer, and what it rests on.
pub struct Answer {
    /// What the clean room answers.
    pub response: Response<AnswerBody>,
    /// The session that it came on, with what was proven before the request was sent.
    pub session: Arc<Session>,
    /// Its receipt. If receipts are verified, it is there when the body has ended.
    pub receipt: ReceiptSlot,
}

impl Client {
    /// A client over these sessions, which passes receipts through as they come.
    #[must_use]
    pub const fn new(sessions: Sessions) -> Self {
        Self { sessions, receipts: None }
    }

    /// Verifies the receipt of each answer. An answer without a receipt of its own does not count then.
    #[must_use]
    pub fn verify_receipts(self) -> Self {
        self.with_receipts(None)
    }

    /// The same, and keeps each receipt in this folder before the answer counts.
    #[must_use]
    pub fn keep_receipts(self, folder: ReceiptFolder) -> Self {
        self.with_receipts(Some(folder))
    }

    fn with_receipts(mut self, folder: Option<ReceiptFolder>) -> Self {
        self.receipts = Some(Arc::new(Keeper { folder, sessions: self.sessions.clone() }));
        self
    }

    /// The sessions that it sends on.
    #[must_use]
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Sends a request to the clean room. Its path and query count, and those of its headers that mean
    /// something there; API keys stay here.
    ///
    /// The head of a stream comes at once. Any other answer comes when it is whole and its receipt is verified.
    /// Dropping the future, or the body of the answer, ends the generation.
    ///
    /// # Errors
    /// [`Problem`], which says how far the request got.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Answer, Problem> {
        let request = to_clean_room(request)?;
        match self.sessions.send(&request).await {
            Ok(answer) => {
                let keeper = self.receipts.as_ref().filter(|_| receipts::has_receipt(request.uri().path()));
                let keeper = keeper.filter(|_| request.method() == Method::POST);
                returned(answer, keeper.map(|keeper| (keeper, &request))).await
            }
            Err(error) => Err(Problem::from_send(&error)),
        }
    }
}

/// The request as it goes to the clean room.
fn to_clean_room(request: Request<Bytes>) -> Result<Request<Bytes>, Problem> {
    let (head, body) = request.into_parts();
    let uri = absolute(&head.uri).ok_or_else(Problem::bad_path)?;
    if body.len() > MAX_BODY {
        return Err(Problem::bad_body());
    }
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = only(&FORWARDED, &head.headers);
    Ok(request)
}

/// What the clean room answers, as the program gets it.
async fn returned(
    answer: session::Answer,
    receipt: Option<(&Arc<Keeper>, &Request<Bytes>)>,
) -> Result<Answer, Problem> {
    let session::Answer { response, session } = answer;
    let (head, body) = response.into_parts();
    let slot = ReceiptSlot::default();
    let body = if is_event_stream(&head.headers) {
        let receipt = receipt.map(|(keeper, request)| {
            let body = request.body().clone();
            let keeping = Keeping::begin(keeper, &session, &head.headers, body, slot.clone());
            keeping.ok_or_else(|| Problem::no_receipt(&NoReceipt::Missing))
        });
        AnswerBody::events(Events::new(body, session.clone(), receipt.transpose()?))
    } else {
        // Whole before a byte of it goes on, so that a part of it never looks like all of it.
        let whole = Limited::new(body, MAX_ANSWER).collect().await;
        let whole = whole.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => Problem::from_send(&answer_cut(*error, &session)),
            Err(_) => Problem::long_answer(),
        })?;
        let whole = whole.to_bytes();
        if let Some((keeper, request)) = receipt {
            let (sent, came) = (request.body().clone(), whole.clone());
            match keeper.whole(&session, &head.headers, sent, came, slot.clone()).await {
                Ok(()) => {}
                // Strangers are refused without a receipt.
                Err(NoReceipt::Missing) if head.status.is_client_error() => {
                    tracing::warn!("the clean room refused a request and gave no receipt");
                }
                Err(error) => return Err(Problem::no_receipt(&error)),
            }
        }
        AnswerBody::whole(whole)
    };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = only(&RETURNED, &head.headers);
    Ok(Answer { response, session: Arc::clone(&*session), receipt: slot })
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"text/event-stream")
}

fn only(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
    let picked = names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    picked.collect()
}

/// HTTP/2 wants a scheme and an authority. They name the protocol, not a slot.
fn absolute(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.clone();
    Uri::builder().scheme("https").authority("cleanroom").path_and_query(path).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_key_stays_here() {
        let request = Request::post("http://127.0.0.1:8080/v1/chat/completions?x=1")
            .header(http::header::AUTHORIZATION, "Bearer k")
            .header("x-api-key", "k")
            .header(CONTENT_TYPE, "application/json");
        let sent = to_clean_room(request.body(Bytes::new()).unwrap()).unwrap();
        assert_eq!(sent.uri(), "https://cleanroom/v1/chat/completions?x=1");
        assert_eq!(sent.headers().len(), 1);
        assert!(sent.headers().contains_key(CONTENT_TYPE));
    }

    #[test]
    fn a_body_that_is_too_long_is_not_sent() {
        let request = |length| Request::post("/v1/messages").body(Bytes::from(vec![0; length])).unwrap();
        assert!(to_clean_room(request(MAX_BODY)).is_ok());
        let problem = to_clean_room(request(MAX_BODY + 1)).unwrap_err();
        assert_eq!((problem.code(), problem.reach()), ("bad-body", session::Reach::NeverSent));
        assert_eq!(problem.outcome(), crate::outcome::Outcome::Usage);
    }
}
