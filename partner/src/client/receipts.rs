//! Receipts: an answer counts only with its own receipt, verified, and on the disk if it is to be kept.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cleanroom_attestation::receipt::{
    AnswerText, Committer, Delivered, Part, ReceiptError, ReceiptId, Salt, SignedReceipt, whole_answer,
};
use cleanroom_program::file::FileError;
use http::header::{HeaderMap, HeaderName};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Limited};
use tokio::task::JoinHandle;

use crate::receipts::ReceiptFolder;
use crate::session::{Session, Sessions};

/// The receipt of a whole response, base64.
const HEADER: HeaderName = HeaderName::from_static("cleanroom-receipt");
/// The salt of a streamed one, base64.
const SALT_HEADER: HeaderName = HeaderName::from_static("cleanroom-receipt-salt");
/// The response's id.
const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// How the comment begins that follows a stream's last event.
const RECEIPT: &[u8] = b": {\"receipt\":";
/// How often, and after which pause, a receipt is asked for whose answer was cut.
const FETCHES: u32 = 5;
const FETCH_PAUSE: Duration = Duration::from_millis(300);
/// The longest receipt that is fetched, in bytes.
const MAX_FETCHED: usize = 64 << 10;

/// The paths whose requests get receipts.
pub(crate) fn has_receipt(path: &str) -> bool {
    matches!(
        path,
        "/v1/chat/completions"
            | "/v1/completions"
            | "/v1/embeddings"
            | "/v1/messages"
            | "/v1/messages/count_tokens"
            | "/v1/responses"
    )
}

/// Why an answer has no receipt.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NoReceipt {
    /// None came.
    #[error("the clean room gave no receipt")]
    Missing,
    /// Another came.
    #[error("{0}")]
    Wrong(#[from] ReceiptError),
    /// It could not be kept.
    #[error("the receipt could not be kept: {0}")]
    NotKept(String),
}

/// The receipt of an answer, verified against the session, the request and the answer itself.
#[derive(Debug, Clone)]
pub struct VerifiedReceipt {
    /// The receipt, which the receipt key of the session signed.
    pub signed: SignedReceipt,
    /// The salt of its commitments, a secret of the partner.
    pub salt: Salt,
    /// The file that it is kept in, if it is kept.
    pub path: Option<PathBuf>,
}

/// The place of an answer's receipt. It is filled once the receipt is verified. Clones are the same place.
#[derive(Debug, Clone, Default)]
pub struct ReceiptSlot(Arc<OnceLock<VerifiedReceipt>>);

impl ReceiptSlot {
    /// The receipt, if it is there already.
    #[must_use]
    pub fn get(&self) -> Option<&VerifiedReceipt> {
        self.0.get()
    }
}

/// Verifies receipts, keeps them if there is a folder, and asks for those that were missed.
pub(crate) struct Keeper {
    pub(crate) folder: Option<ReceiptFolder>,
    pub(crate) sessions: Sessions,
}

impl Keeper {
    /// Verifies a receipt of a request on `session`, keeps it if there is a folder, and puts it into its place.
    async fn keep(&self, session: &Session, delivered: Delivered, check: Check) -> Result<(), NoReceipt> {
        let Delivered { envelope, salt } = delivered;
        let key = session.receipt_key().to_vec();
        let signed = SignedReceipt::verify(&envelope, &key)?;
        let receipt = signed.receipt();
        for (what, is_so) in [
            ("session", receipt.session == session.transcript()),
            ("partner", receipt.partner == self.sessions.partner()),
            ("model", receipt.model_sha256 == session.model_digest()),
            ("id", check.id.as_ref().is_none_or(|id| *id == receipt.id)),
        ] {
            if !is_so {
                return Err(ReceiptError::Other(what).into());
            }
        }
        if let Some(request) = &check.request {
            signed.opens(Part::Request, request, &salt)?;
        }
        if let Some((response_salt, response)) = check.response {
            if response_salt.is_some_and(|other| other != salt) {
                return Err(ReceiptError::Response.into());
            }
            match response {
                Response::Whole(bytes) => signed.opens(Part::Response, whole_answer(&bytes), &salt)?,
                Response::Stream(committer) => signed.matches(Part::Response, &committer.finish())?,
            }
        }
        let verified = VerifiedReceipt { signed, salt, path: None };
        let verified = match self.folder.clone() {
            Some(folder) => store(folder, verified, key).await?,
            None => verified,
        };
        let _ = check.slot.0.set(verified);
        Ok(())
    }

    /// Keeps the receipt of a whole response.
    ///
    /// # Errors
    /// [`NoReceipt`].
    pub(crate) async fn whole(
        &self,
        session: &Session,
        headers: &HeaderMap,
        request: Bytes,
        response: Bytes,
        slot: ReceiptSlot,
    ) -> Result<(), NoReceipt> {
        let id = id(headers);
        let bytes = match (headers.get(HEADER), &id) {
            (Some(header), _) => STANDARD.decode(header.as_bytes()).map_err(|_| ReceiptError::Form)?,
            // Where traffic has a shape, heads carry none.
            (None, Some(id)) => self.ask(session, id).await.ok_or(NoReceipt::Missing)?,
            (None, None) => return Err(NoReceipt::Missing),
        };
        // A request that was refused before its body was read has a receipt that says so.
        let refused = SignedReceipt::verify(&Delivered::parse(&bytes)?.envelope, session.receipt_key())?;
        let read = refused.receipt().request.bytes > 0 || request.is_empty();
        let response = Some((None, Response::Whole(response)));
        let check = Check { slot, id, request: read.then_some(request), response };
        self.keep(session, Delivered::parse(&bytes)?, check).await
    }

    /// Asks the clean room of `session` for a receipt. No other one has it.
    async fn ask(&self, session: &Session, id: &ReceiptId) -> Option<Vec<u8>> {
        let mut question = Request::new(Bytes::new());
        *question.uri_mut() = Uri::try_from(format!("https://cleanroom/v1/receipts/{id}")).ok()?;
        let answer = self.sessions.send_to(session, &question).await.ok()?;
        if !answer.response.status().is_success() {
            return None;
        }
        let body = Limited::new(answer.response.into_body(), MAX_FETCHED).collect().await.ok()?;
        Some(body.to_bytes().trim_ascii_end().to_vec())
    }

    /// Fetches a receipt that did not come with its answer.
    async fn fetch(&self, session: &Session, id: ReceiptId, request: Bytes, slot: ReceiptSlot) {
        for _ in 0..FETCHES {
            tokio::time::sleep(FETCH_PAUSE).await;
            let Some(bytes) = self.ask(session, &id).await else { continue };
            let Ok(delivered) = Delivered::parse(&bytes) else { continue };
            let check = Check { slot, id: Some(id.clone()), request: Some(request), response: None };
            match self.keep(session, delivered, check).await {
                Ok(()) => tracing::info!(%id, "the receipt of an answer that was cut is there"),
                Err(error) => {
                    tracing::warn!(%id, "the receipt of an answer that was cut is missing: {error}");
                }
            }
            return;
        }
        tracing::warn!(%id, "the clean room has no receipt of an answer that was cut");
    }
}

/// Writes a receipt to the disk.
async fn store(
    folder: ReceiptFolder,
    verified: VerifiedReceipt,
    key: Vec<u8>,
) -> Result<VerifiedReceipt, NoReceipt> {
    let stored = tokio::task::spawn_blocking(move || {
        let path = folder.keep(&verified.signed, &verified.salt, &key)?;
        Ok::<_, FileError>(VerifiedReceipt { path: Some(path), ..verified })
    });
    match stored.await {
        Ok(Ok(verified)) => Ok(verified),
        Ok(Err(error)) => Err(NoReceipt::NotKept(error.to_string())),
        Err(_) => Err(NoReceipt::NotKept("the program is ending".to_owned())),
    }
}

/// What a receipt is compared with, and where it goes.
struct Check {
    slot: ReceiptSlot,
    id: Option<ReceiptId>,
    request: Option<Bytes>,
    response: Option<(Option<Salt>, Response)>,
}

enum Response {
    Whole(Bytes),
    Stream(Committer),
}

fn id(headers: &HeaderMap) -> Option<ReceiptId> {
    headers.get(ID_HEADER)?.to_str().ok()?.parse().ok()
}

/// The receipt of one stream, in the making. If it is dropped before the receipt is kept, the receipt is fetched.
pub(crate) struct Keeping {
    keeper: Arc<Keeper>,
    session: Arc<Session>,
    id: Option<ReceiptId>,
    request: Bytes,
    slot: ReceiptSlot,
    salt: Salt,
    text: AnswerText,
    committer: Committer,
    is_done: bool,
}

impl Keeping {
    /// Begins with the head of the response. `None` when it announces no receipt.
    pub(crate) fn begin(
        keeper: &Arc<Keeper>,
        session: &Arc<Session>,
        headers: &HeaderMap,
        request: Bytes,
        slot: ReceiptSlot,
    ) -> Option<Self> {
        let salt = STANDARD.decode(headers.get(SALT_HEADER)?.as_bytes()).ok()?;
        let salt = Salt::from_bytes(salt.as_slice().try_into().ok()?);
        Some(Self {
            keeper: Arc::clone(keeper),
            session: Arc::clone(session),
            id: id(headers),
            request,
            slot,
            committer: Committer::new(Part::Response, &salt),
            salt,
            text: AnswerText::default(),
            is_done: false,
        })
    }

    /// One event of the stream, as it came.
    pub(crate) fn event(&mut self, event: &[u8]) -> Event {
        let said = match Said::of(event) {
            Ok(Some(said)) => said,
            Ok(None) => {
                return match receipt_in(event) {
                    Some(receipt) => Event::Receipt(self.keep(Delivered::parse(receipt))),
                    None => Event::Other,
                };
            }
            Err(Unusual) => return Event::Foreign,
        };
        let Self { text, committer, .. } = self;
        text.update(event, |part| committer.update(part));
        // What tells a client that its answer is whole waits for the receipt.
        if said.is_end() { Event::End } else { Event::Other }
    }

    fn keep(&mut self, delivered: Result<Delivered, ReceiptError>) -> JoinHandle<Result<(), NoReceipt>> {
        self.is_done = true;
        let (keeper, session, check) = (Arc::clone(&self.keeper), Arc::clone(&self.session), self.check());
        tokio::spawn(async move { keeper.keep(&session, delivered?, check).await })
    }

    /// What the receipt of the stream so far is compared with.
    fn check(&self) -> Check {
        Check {
            slot: self.slot.clone(),
            id: self.id.clone(),
            request: Some(self.request.clone()),
            response: Some((Some(self.salt.clone()), Response::Stream(self.committer.clone()))),
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        let (false, Some(id)) = (self.is_done, self.id.take()) else { return };
        let (keeper, session) = (Arc::clone(&self.keeper), Arc::clone(&self.session));
        let (request, slot) = (self.request.clone(), self.slot.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { keeper.fetch(&session, id, request, slot).await });
        }
    }
}

/// What an event says to a client.
struct Said<'e> {
    name: Option<&'e str>,
    data: &'e [u8],
}

/// An event has another form than those that a clean room writes. Clients are not at one about what such an event says.
struct Unusual;

impl<'e> Said<'e> {
    /// Reads an event: a line with a name or none, one line of data, and comments. `None` for comments alone.
    ///
    /// The specification of server-sent events permits much more (HTML standard, section 9.2.6). A worker that was taken over could
    /// write with it what one client takes for the end of its answer and this code does not. So data is a JSON object whose `type` is the
    /// event's name, if it has one, or the text `[DONE]`.
    fn of(event: &'e [u8]) -> Result<Option<Self>, Unusual> {
        // A client ends lines there, and what a receipt commits to does not.
        if event.contains(&b'\r') {
            return Err(Unusual);
        }
        let mut lines =
            event.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b":"));
        let Some(mut line) = lines.next() else { return Ok(None) };
        let name = line
            .strip_prefix(b"event: ")
            .map(|name| str::from_utf8(name).map_err(|_| Unusual))
            .transpose()?;
        if name.is_some() {
            line = lines.next().ok_or(Unusual)?;
        }
        let data = line.strip_prefix(b"data: ").ok_or(Unusual)?;
        if lines.next().is_some() {
            return Err(Unusual);
        }
        let said = Self { name, data };
        if name.is_none() && data == DONE {
            return Ok(Some(said));
        }
        let typed = serde_json::from_slice::<Typed<'_>>(data).map_err(|_| Unusual)?;
        let is_named_so = name.is_none_or(|name| typed.kind.is_some_and(|kind| kind == name));
        if is_named_so { Ok(Some(said)) } else { Err(Unusual) }
    }

    /// Whether it tells the client that its answer is whole.
    fn is_end(&self) -> bool {
        self.data == DONE || self.name.is_some_and(|name| ENDS.contains(&name))
    }
}

/// The last event of OpenAI's streams.
const DONE: &[u8] = b"[DONE]";
/// The names of the last events of the other ones.
const ENDS: [&str; 4] = ["message_stop", "response.completed", "response.incomplete", "response.failed"];

/// The member of an event's data that stands for its name. Twice the same member is an error.
#[derive(serde::Deserialize)]
struct Typed<'d> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<std::borrow::Cow<'d, str>>,
}

/// The receipt in comments that follow an event.
fn receipt_in(comments: &[u8]) -> Option<&[u8]> {
    let mut lines = comments.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.starts_with(RECEIPT))?;
    line.get(2..)
}

/// Whether bytes are comments and empty lines alone, which keep a stream's shape and tell a client nothing.
pub(crate) fn is_shape(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    !bytes.contains(&b'\r') && lines.all(|line| line.is_empty() || line.starts_with(b":"))
}

/// What an event of a stream is.
pub(crate) enum Event {
    /// A part of the answer.
    Other,
    /// What tells the client that the answer is whole.
    End,
    /// One that no clean room writes.
    Foreign,
    /// The receipt, which is being kept.
    Receipt(JoinHandle<Result<(), NoReceipt>>),
}
