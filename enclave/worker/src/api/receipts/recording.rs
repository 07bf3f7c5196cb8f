//! The record of one request: commitments and numbers.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use cleanroom_attestation::receipt::{AnswerText, Committer, Delivered, Finish, Part, ReceiptId, Salt};
use cleanroom_attestation::record::{MAX_EXCHANGE_BYTES, RecordError, RecordKey, RecordedExchange};
use cleanroom_attestation::release::{BootMillis, Keep};
use cleanroom_attestation::safeguard::SafeguardAction;
use cleanroom_protocol::{ReceiptQuestion, SealedExchange, SessionTicket};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::Receipts;
use crate::api::judge::Record;
use crate::api::secret::SecretBuffer;
use crate::session::{PartnerId, SessionIdentity};

/// The letters of ids: those that HPACK codes in five bits each (RFC 7541, appendix B), so that every id is as long on the wire.
const LETTERS: [char; 10] = ['0', '1', '2', 'a', 'c', 'e', 'i', 'o', 's', 't'];

/// A request that runs. One that is dropped before it was closed is told to the keeper as aborted.
pub(in crate::api) struct Recording {
    receipts: Arc<Receipts>,
    partner: PartnerId,
    session: SessionTicket,
    id: ReceiptId,
    salt: Salt,
    started: BootMillis,
    request: Arc<Mutex<Read>>,
    response: Committer,
    /// What is kept, if the release demands it: of which exchanges, and the response so far.
    keep: Option<(Keep, Kept)>,
    text: AnswerText,
    record: Record,
    is_closed: bool,
}

impl Recording {
    /// Begins. `None` when the system has no random bytes.
    pub(in crate::api) fn begin(
        receipts: &Arc<Receipts>,
        session: &SessionIdentity,
        keep: Option<Keep>,
    ) -> Option<Self> {
        let (mut salt, mut id) = ([0; Salt::LENGTH], [0; 32]);
        aws_lc_rs::rand::fill(&mut salt).ok()?;
        aws_lc_rs::rand::fill(&mut id).ok()?;
        let letters = id.iter().map(|byte| LETTERS.get(usize::from(byte % 10)).copied().unwrap_or('0'));
        let id = format!("req-{}", letters.collect::<String>()).parse().ok()?;
        let id: ReceiptId = id;
        let salt = Salt::from_bytes(salt);
        Some(Self {
            record: Record::of(id.clone()),
            started: receipts.clock.now(),
            receipts: Arc::clone(receipts),
            partner: session.partner,
            session: session.ticket(),
            id,
            request: Arc::new(Mutex::new(Read {
                committer: Committer::new(Part::Request, &salt),
                kept: keep.map(|_| Kept::default()),
            })),
            keep: keep.map(|keep| (keep, Kept::default())),
            response: Committer::new(Part::Response, &salt),
            salt,
            text: AnswerText::default(),
            is_closed: false,
        })
    }

    /// What the request's body is added to while it is read.
    pub(in crate::api) fn request(&self) -> Arc<Mutex<Read>> {
        Arc::clone(&self.request)
    }

    /// What the verdict of the safeguards goes into.
    pub(in crate::api) fn record(&self) -> Record {
        self.record.clone()
    }

    /// The request's id.
    pub(in crate::api) const fn id(&self) -> &ReceiptId {
        &self.id
    }

    /// The request's salt.
    pub(in crate::api) const fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Gives the request the id that its answer has.
    pub(in crate::api) fn name(&mut self, id: ReceiptId) {
        self.id = id;
    }

    /// A whole response leaves.
    pub(in crate::api) fn left(&mut self, bytes: &[u8]) {
        self.response.update(bytes);
        if let Some((_, kept)) = &mut self.keep {
            kept.add(bytes);
        }
    }

    /// A piece of a stream leaves. Bytes that only shape the stream do not count.
    pub(in crate::api) fn left_in_stream(&mut self, bytes: &[u8]) {
        let Self { text, response, keep, .. } = self;
        text.update(bytes, |part| {
            response.update(part);
            if let Some((_, kept)) = keep {
                kept.add(part);
            }
        });
    }

    /// Ends the recording and gets the receipt, as JSON with its salt. `None` when the keeper gives none.
    pub(in crate::api) async fn close(
        mut self,
        finish: Finish,
        code: Option<&'static str>,
    ) -> Option<String> {
        // If whoever waits for it goes, it is made all the same.
        let (sent, receipt) = oneshot::channel();
        self.close_to(finish, code, sent);
        drop(self);
        receipt.await.ok()
    }

    /// The same when nobody waits for the receipt.
    pub(in crate::api) fn close_unseen(&mut self, finish: Finish, code: Option<&'static str>) {
        if !self.is_closed {
            self.close_to(finish, code, oneshot::channel().0);
        }
    }

    fn close_to(&mut self, finish: Finish, code: Option<&'static str>, to: oneshot::Sender<String>) {
        self.is_closed = true;
        // What should be kept and cannot be has no receipt, and so its answer does not end in order.
        let Ok(exchange) = self.exchange(finish) else { return };
        let question = ReceiptQuestion {
            session: self.session,
            id: self.id.clone(),
            request: self.request.lock().unwrap_or_else(PoisonError::into_inner).committer.clone().finish(),
            response: self.response.clone().finish(),
            finish,
            code: code.map(str::to_owned),
            safeguard: self.record.verdict(),
            started: self.started,
            exchange,
        };
        let (receipts, partner, id, salt) =
            (Arc::clone(&self.receipts), self.partner, self.id.clone(), self.salt.clone());
        self.receipts.keeper.spawn(async move {
            let Ok(envelope) = receipts.keeper.receipt(question).await else { return };
            let delivered = Delivered { envelope, salt };
            let json = delivered.to_json();
            receipts.recent().keep(partner, id, delivered);
            let _ = to.send(json);
        });
    }
}

impl Recording {
    /// The exchange, encrypted, if it is one that is kept: by the rule of the release under which the request began. One that was
    /// refused before it was judged has nothing that a model read or said.
    fn exchange(&mut self, finish: Finish) -> Result<Option<Box<SealedExchange>>, RecordError> {
        let Some((keep, response)) = self.keep.take() else { return Ok(None) };
        let verdict = self.record.verdict();
        let is_flagged = verdict.as_ref().is_some_and(|verdict| verdict.action != SafeguardAction::Allow);
        let is_kept = match keep {
            Keep::All => finish != Finish::Refused || verdict.is_some(),
            Keep::Flagged => is_flagged,
        };
        if !is_kept {
            return Ok(None);
        }
        let request = self.request.lock().unwrap_or_else(PoisonError::into_inner).kept.take();
        let (request, response) = (request.ok_or(RecordError)?.whole()?, response.whole()?);
        let mut key = RecordKey::default();
        aws_lc_rs::rand::fill(key.as_mut_slice()).map_err(|_| RecordError)?;
        let body = RecordedExchange { request, response, verdict }.seal(&key)?;
        Ok(Some(Box::new(SealedExchange { key, body })))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.close_unseen(Finish::Aborted, None);
    }
}

/// A request's body as far as it was read: what is committed to, and where it is kept the bytes themselves.
pub(in crate::api) struct Read {
    committer: Committer,
    kept: Option<Kept>,
}

/// Bytes that are kept, up to the most that a record holds. It has no `Debug`, and is erased on drop.
#[derive(Default)]
struct Kept {
    bytes: SecretBuffer,
    is_too_long: bool,
}

impl Kept {
    fn add(&mut self, bytes: &[u8]) {
        if bytes.len() > MAX_EXCHANGE_BYTES.saturating_sub(self.bytes.len()) {
            self.is_too_long = true;
        } else {
            self.bytes.push(bytes);
        }
    }

    fn whole(self) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        if self.is_too_long { Err(RecordError) } else { Ok(self.bytes.into_vec()) }
    }
}

/// A request's body, which is committed to as it is read.
pub(in crate::api) struct Recorded {
    body: Body,
    read: Arc<Mutex<Read>>,
}

impl Recorded {
    pub(in crate::api) const fn new(body: Body, read: Arc<Mutex<Read>>) -> Self {
        Self { body, read }
    }
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.committer.update(data);
            if let Some(kept) = &mut read.kept {
                kept.add(data);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
