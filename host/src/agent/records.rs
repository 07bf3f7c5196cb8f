//! Sealed records: fetched from the enclave and kept on the disk. And openings: handed in, carried to the brokers, and what the
//! enclave gives for them.
//!
//! The host can read neither. It can keep a record from being stored, and then the enclave begins nothing new. It can keep an opening
//! from being logged, and then the enclave gives nothing for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::record::RecordHead;
use cleanroom_attestation::release::{Envelope, Opening, Payload as _, PayloadType};
use cleanroom_link::control::{ControlAnswer, ControlKind, OpeningMessage, ShareMessage};
use cleanroom_program::file;
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::TICK;
use super::complaint::Complaint;
use super::control::Control;
use super::shares::{ANSWER_LIMIT, Broker, refused};

/// How long a store that failed is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A folder of records, each in a file with its digest as its name.
#[derive(Debug, Clone)]
pub struct RecordStore(PathBuf);

impl RecordStore {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: PathBuf) -> Result<Self, file::FileError> {
        file::create_folder(&folder, 0o700)?;
        Ok(Self(folder))
    }

    fn path(&self, digest: &Sha256Digest) -> PathBuf {
        self.0.join(format!("{digest}.record"))
    }

    /// Stores a record, and gives its digest. It is on the disk when this returns.
    fn store(&self, record: &[u8]) -> Result<Sha256Digest, String> {
        let (head, _) = RecordHead::split(record).map_err(|error| error.to_string())?;
        let digest = head.digest();
        file::replace(&self.path(&digest), record, file::PRIVATE).map_err(|error| error.to_string())?;
        Ok(digest)
    }

    /// The head of a record.
    fn head(&self, digest: &Sha256Digest) -> io::Result<Vec<u8>> {
        let record = std::fs::read(self.path(digest))?;
        let (head, _) = RecordHead::split(&record).map_err(io::Error::other)?;
        Ok(head.to_bytes())
    }
}

/// Keeps records for as long as the control connection lasts, and gives its error.
pub(super) async fn keep<S>(control: &Control<S>, store: &RecordStore) -> io::Error
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut complaint = Complaint::default();
    let mut stored: Vec<u8> = Vec::new();
    loop {
        let record = match control.ask(ControlKind::Record, &stored).await {
            Ok(ControlAnswer::Record(record)) => record,
            Ok(ControlAnswer::Accepted(_)) => {
                stored.clear();
                continue;
            }
            // An enclave that waits for the key of its weights. The connection would be in the way of the one with the key.
            Ok(_) => return io::Error::other("the enclave has no records yet"),
            Err(error) => return error,
        };
        let to = store.clone();
        let done = tokio::task::spawn_blocking(move || to.store(&record)).await;
        match done.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(digest) => {
                complaint.clear();
                stored = digest.as_bytes().to_vec();
            }
            Err(reason) => {
                stored.clear();
                if complaint.is_due(&reason) {
                    tracing::error!(reason, "a record cannot be kept; the enclave stops until it is");
                }
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Carries openings out that lie in a folder.
pub(super) struct Openings<S> {
    control: Arc<Control<S>>,
    records: RecordStore,
    folder: PathBuf,
    brokers: Vec<Broker>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Openings<S> {
    pub(super) const fn new(
        control: Arc<Control<S>>,
        records: RecordStore,
        folder: PathBuf,
        brokers: Vec<Broker>,
    ) -> Self {
        Self { control, records, folder, brokers }
    }

    /// Carries out every opening `NAME.json` of the folder that has no `NAME.opened` yet, until the control connection ends, and
    /// gives its error.
    pub(super) async fn run(self) -> io::Error {
        let mut complaint = Complaint::default();
        loop {
            for path in self.waiting() {
                match self.look(&path).await {
                    Ok(Ok(())) => tracing::info!(opening = %path.display(), "a record was opened"),
                    Ok(Err(reason)) => {
                        let text = format!("{}: {reason}", path.display());
                        if complaint.is_due(&text) {
                            tracing::warn!(reason = text, "an opening is not carried out");
                        }
                    }
                    Err(error) => return error,
                }
            }
            sleep(TICK).await;
        }
    }

    fn waiting(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let is_opening = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.ends_with(".json")
                && !name.ends_with(".draft.json")
                && !path.with_extension("opened").exists()
        };
        paths.filter(is_opening).collect()
    }

    /// Carries one opening as far as it goes. The inner error is a reason to look at it again later.
    async fn look(&self, path: &Path) -> io::Result<Result<(), String>> {
        let (message, digest) = match self.message(path) {
            Ok(message) => message,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut state = match self.control.ask(ControlKind::Open, &message.encode()).await? {
            ControlAnswer::Shares(state) => state,
            other => return Ok(Err(refused(&other))),
        };
        let mut failed = String::new();
        for Broker { name, service } in &self.brokers {
            if state.needed == 0 || !state.missing.contains(name) {
                continue;
            }
            let named = |bytes| {
                let message = ShareMessage { broker: name.clone(), bytes };
                [digest.as_bytes().as_slice(), &message.encode()].concat()
            };
            let challenge = service.call(Method::POST, "/v1/challenge", Vec::new(), ANSWER_LIMIT).await;
            let challenge = match challenge {
                Ok(challenge) => challenge,
                Err(reason) => {
                    failed = format!("{name}: {reason}");
                    continue;
                }
            };
            let request = match self.control.ask(ControlKind::PartAsk, &named(challenge)).await? {
                ControlAnswer::ShareRequest(request) => request,
                other => return Ok(Err(refused(&other))),
            };
            match service.call(Method::POST, "/v1/retention", request, ANSWER_LIMIT).await {
                Ok(answer) => match self.control.ask(ControlKind::Part, &named(answer)).await? {
                    ControlAnswer::Shares(newer) => state = newer,
                    other => failed = format!("{name}: {}", refused(&other)),
                },
                Err(reason) => failed = format!("{name}: {reason}"),
            }
        }
        if state.needed > 0 {
            return Ok(Err(format!("{} more brokers are needed; {failed}", state.needed)));
        }
        match self.control.ask(ControlKind::Opened, digest.as_bytes()).await? {
            ControlAnswer::Opened(given) => {
                let to = path.with_extension("opened");
                Ok(file::replace(&to, &given, file::PUBLIC).map_err(|error| error.to_string()))
            }
            other => Ok(Err(refused(&other))),
        }
    }

    fn message(&self, path: &Path) -> Result<(OpeningMessage, Sha256Digest), String> {
        let limit = PayloadType::Opening.envelope_limit() as u64;
        let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if !metadata.is_file() || metadata.len() > limit {
            return Err("it is no opening".to_owned());
        }
        let opening = std::fs::read(path).map_err(|error| error.to_string())?;
        let envelope = Envelope::parse(&opening, PayloadType::Opening).map_err(|error| error.to_string())?;
        let record = Opening::from_payload(envelope.payload()).map_err(|error| error.to_string())?.record;
        let head = self.records.head(&record).map_err(|error| format!("its record: {error}"))?;
        Ok((OpeningMessage { head, opening }, envelope.digest()))
    }
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::channel::ModelId;
    use cleanroom_attestation::record::{PART_BYTES, RecordSubject, SealedPart};
    use cleanroom_attestation::release::Day;

    use super::*;

    fn record(body: &[u8]) -> (RecordHead, Vec<u8>) {
        let sha256 = Sha256Digest::of(&[b"x"]);
        let head = RecordHead {
            subject: RecordSubject {
                serial: [1; 32],
                room: "room".parse().unwrap(),
                model: ModelId::new("demo").unwrap(),
                model_sha256: sha256,
                boot: sha256,
                receipt: "req-1".parse().unwrap(),
                partner: sha256,
                day: Day(1),
                release: sha256,
                body: Sha256Digest::of(&[body]),
            },
            needed: 1,
            parts: vec![SealedPart { broker: "bank".parse().unwrap(), bytes: [7; PART_BYTES] }],
        };
        let record = head.record(body);
        (head, record)
    }

    #[test]
    fn a_record_is_kept_under_its_own_name_and_nothing_else_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = RecordStore::open(folder.path().join("records")).unwrap();
        let (head, bytes) = record(b"body");
        assert_eq!(store.store(&bytes), Ok(head.digest()));
        // The same again, after a connection that broke before the enclave heard of it.
        assert_eq!(store.store(&bytes), Ok(head.digest()));
        assert_eq!(store.head(&head.digest()).unwrap(), head.to_bytes());
        assert!(store.store(&bytes[..bytes.len() - 1]).is_err());
        assert!(store.head(&Sha256Digest::of(&[b"none"])).is_err());
        assert_eq!(std::fs::read_dir(folder.path().join("records")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_lies_in_the_folder_and_is_no_opening_is_said_and_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let records = RecordStore::open(folder.path().join("records")).unwrap();
        let (stream, _enclave) = tokio::io::duplex(64);
        let control = Arc::new(Control::new(stream));
        let openings = Openings::new(control, records, folder.path().to_owned(), Vec::new());
        for name in ["a.json", "b.draft.json", "c.txt", "d.json", "d.opened"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        std::fs::write(folder.path().join("long.json"), vec![b' '; 1 << 20]).unwrap();
        let mut waiting = openings.waiting();
        waiting.sort();
        assert_eq!(waiting, [folder.path().join("a.json"), folder.path().join("long.json")]);
        for path in waiting {
            // Nothing of it reaches the enclave, which does not answer here.
            assert!(openings.look(&path).await.unwrap().is_err());
        }
    }
}
