//! Roots, releases and denials: fetched from each service and from files, and handed in once.
//!
//! Each source has a task of its own and a bound on its work, so that one that is stuck, slow or wrong delays
//! itself.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{
    Accepted, AuthorityDocument, DENIALS_LIMIT, Denial, Envelope, Payload as _, PayloadType, Release, Root,
};
use cleanroom_attestation::safeguard::{SAFEGUARD_CLASSIFIER_LIMIT, SAFEGUARD_POLICY_LIMIT};
use cleanroom_link::control::{ControlAnswer, ControlKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::TICK;
use super::complaint::Complaint;
use super::control::Control;
use super::service::Authority;
use crate::log_store::LogStore;

/// Documents of one source that the enclave may refuse at one look. More are not from an authority.
const REFUSALS: usize = 64;
/// Documents that are remembered as handed in. When there are more, all are forgotten and handed in again.
const REMEMBERED: usize = 65_536;
/// The longest pause before a source that sends rubbish is looked at again.
const RUBBISH_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause before a source that does not answer is looked at again.
const SILENCE_PAUSE: Duration = Duration::from_secs(10);

/// Documents that the enclave may not have yet.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) roots: Vec<Vec<u8>>,
    pub(super) denials: Vec<Vec<u8>>,
    pub(super) releases: Vec<Vec<u8>>,
    pub(super) safeguards: Vec<Vec<u8>>,
    pub(super) classifiers: Vec<PathBuf>,
    /// What is wrong with the rest.
    pub(super) fault: Option<Fault>,
}

/// What is wrong with a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not answer, or cannot be read.
    Silence(String),
    /// It has things that no authority sends.
    Rubbish(&'static str),
}

impl Fault {
    fn text(&self) -> &str {
        match self {
            Self::Silence(reason) => reason,
            Self::Rubbish(what) => what,
        }
    }

    const fn longest_pause(&self) -> Duration {
        match self {
            Self::Silence(_) => SILENCE_PAUSE,
            Self::Rubbish(_) => RUBBISH_PAUSE,
        }
    }
}

/// The documents that an operator gives by hand.
pub(super) struct Files {
    /// A release.
    pub(super) release: Option<PathBuf>,
    /// A folder of denials.
    pub(super) denials: Option<PathBuf>,
    /// Safeguard policies.
    pub(super) safeguards: Vec<PathBuf>,
    /// Their text classifiers.
    pub(super) classifiers: Vec<PathBuf>,
}

impl Files {
    async fn look(&self) -> Found {
        let mut found = Found { classifiers: self.classifiers.clone(), ..Found::default() };
        if let Some(folder) = self.denials.clone() {
            found.denials =
                tokio::task::spawn_blocking(move || read_folder(&folder)).await.unwrap_or_default();
        }
        if let Some(file) = &self.release {
            match tokio::fs::read(file).await {
                Ok(release) => found.releases.push(release),
                Err(error) => {
                    let reason = format!("the release `{}` cannot be read: {error}", file.display());
                    found.fault = Some(Fault::Silence(reason));
                }
            }
        }
        for file in &self.safeguards {
            match read_limited(file, SAFEGUARD_POLICY_LIMIT).await {
                Ok(policy) => found.safeguards.push(policy),
                Err(reason) => {
                    let reason = format!("the safeguard policy `{}` {reason}", file.display());
                    found.fault = Some(Fault::Silence(reason));
                }
            }
        }
        found
    }
}

/// A file of at most `limit` bytes, or what is wrong with it.
async fn read_limited(file: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let bytes = tokio::fs::metadata(file).await.map_err(unreadable)?.len();
    if bytes > limit as u64 {
        return Err(format!("has {bytes} bytes; expected at most {limit}"));
    }
    tokio::fs::read(file).await.map_err(unreadable)
}

/// Where documents come from.
pub(super) enum Source {
    /// A lease service.
    Service(Authority),
    /// The operator.
    Files(Files),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(authority) => authority.fmt(formatter),
            Self::Files(_) => formatter.write_str("files"),
        }
    }
}

/// Hands documents in. A copy does so for the same enclave.
pub(super) struct Delivery<S> {
    control: Arc<Control<S>>,
    handed: Arc<Mutex<HashSet<Sha256Digest>>>,
    /// Where what the enclave's log names is kept.
    kept: Option<LogStore>,
}

impl<S> Clone for Delivery<S> {
    fn clone(&self) -> Self {
        Self { control: Arc::clone(&self.control), handed: Arc::clone(&self.handed), kept: self.kept.clone() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Delivery<S> {
    pub(super) fn new(control: Arc<Control<S>>, kept: Option<LogStore>) -> Self {
        Self { control, handed: Arc::default(), kept }
    }

    /// Delivers what `source` has until the control connection ends, and gives its error.
    pub(super) async fn run(self, source: Source) -> io::Error {
        let mut complaint = Complaint::default();
        let mut pause = TICK;
        loop {
            let fault = match self.look(&source).await {
                Ok(fault) => fault,
                Err(error) => return error,
            };
            match fault {
                None => {
                    complaint.clear();
                    pause = TICK;
                }
                Some(fault) => {
                    if complaint.is_due(fault.text()) {
                        tracing::warn!(%source, reason = fault.text(), "left out for a while");
                    }
                    pause = (pause * 2).min(fault.longest_pause());
                }
            }
            sleep(pause).await;
        }
    }

    /// Looks once. An error is one of the control connection.
    pub(super) async fn look(&self, source: &Source) -> io::Result<Option<Fault>> {
        let state = Control::<S>::state(&self.control.ask(ControlKind::State, b"").await?)?;
        let found = match source {
            Source::Service(authority) => authority.look(&state).await,
            Source::Files(files) => files.look().await,
        };
        let roots = newer::<Root>(found.roots, |root| root.version, state.root_version);
        let releases = newer::<Release>(found.releases, |release| release.version, state.release_version);
        let mut refusals = 0;
        for (kind, documents) in [
            (AuthorityDocument::Root, roots),
            (AuthorityDocument::Denial, found.denials),
            (AuthorityDocument::Release, releases),
        ] {
            for document in documents {
                match self.hand_in(kind, &document).await? {
                    Handed::Accepted(Accepted::New) => {
                        tracing::info!(what = ?kind, "handed in");
                        if matches!(kind, AuthorityDocument::Root | AuthorityDocument::Release) {
                            // Under another root other keys count. Under another release there may be room for more
                            // denials. So the enclave may accept now what it refused before.
                            self.forget();
                        }
                    }
                    Handed::Accepted(_) | Handed::Before => {}
                    Handed::Refused(code) => {
                        tracing::debug!(what = ?kind, code, "the enclave refused");
                        refusals += 1;
                    }
                }
                if refusals > REFUSALS {
                    return Ok(Some(Fault::Rubbish("the enclave refuses what it sends")));
                }
            }
        }
        let (mut fault, mut is_new) = (found.fault, false);
        for policy in found.safeguards {
            is_new |= self.hand_in_policy(&policy).await?;
        }
        for file in found.classifiers {
            // Which one a new policy names is the enclave's to read, so it gets all of them again.
            if let Err(reason) = self.hand_in_classifier(&file, is_new).await? {
                fault = Some(Fault::Silence(format!("the classifier `{}` {reason}", file.display())));
            }
        }
        Ok(fault)
    }

    /// Hands a safeguard policy in, unless it was handed in before under this release. Whether the enclave has it now and
    /// had not before.
    async fn hand_in_policy(&self, policy: &[u8]) -> io::Result<bool> {
        let digest = Sha256Digest::of(&[policy]);
        if !self.remember(digest) {
            return Ok(false);
        }
        match self.control.ask(ControlKind::SafeguardPolicy, policy).await? {
            ControlAnswer::Accepted(Accepted::New) => {
                tracing::info!(sha256 = %digest, "safeguard policy handed in");
                return Ok(true);
            }
            ControlAnswer::Refused(code) => {
                tracing::debug!(sha256 = %digest, code, "the enclave refused a safeguard policy");
            }
            _ => {}
        }
        Ok(false)
    }

    /// Hands the file of a classifier in, unless it was handed in before under this release and `again` is false. The inner
    /// error says what is wrong with the file.
    async fn hand_in_classifier(&self, file: &Path, again: bool) -> io::Result<Result<(), String>> {
        let state = match tokio::fs::metadata(file).await {
            Ok(state) => state,
            Err(error) => return Ok(Err(format!("cannot be read: {error}"))),
        };
        let changed =
            state.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let known = format!("{}\0{}\0{}", file.display(), state.len(), changed.as_nanos());
        if !self.remember(Sha256Digest::of(&[known.as_bytes()])) && !again {
            return Ok(Ok(()));
        }
        let bytes = match read_limited(file, SAFEGUARD_CLASSIFIER_LIMIT).await {
            Ok(bytes) => bytes,
            Err(reason) => return Ok(Err(reason)),
        };
        match self.control.ask(ControlKind::SafeguardClassifier, &bytes).await? {
            ControlAnswer::Refused(code) => {
                tracing::debug!(file = %file.display(), code, "the enclave refused a classifier");
            }
            _ => tracing::info!(file = %file.display(), "classifier handed in"),
        }
        Ok(Ok(()))
    }

    /// Hands a document in, unless it was handed in before.
    async fn hand_in(&self, kind: AuthorityDocument, document: &[u8]) -> io::Result<Handed> {
        if !self.remember(Sha256Digest::of(&[document])) {
            return Ok(Handed::Before);
        }
        Ok(match self.control.ask(ControlKind::Document(kind), document).await? {
            ControlAnswer::Accepted(accepted) => {
                self.keep(kind, document).await;
                Handed::Accepted(accepted)
            }
            ControlAnswer::Refused(code) => Handed::Refused(code),
            _ => Handed::Refused(String::new()),
        })
    }

    /// Keeps a document that the enclave's log names.
    async fn keep(&self, kind: AuthorityDocument, document: &[u8]) {
        let (Some(store), Ok(envelope)) = (self.kept.clone(), Envelope::parse(document, kind.payload_type()))
        else {
            return;
        };
        let (sha256, document) = (envelope.digest(), document.to_vec());
        let kept = tokio::task::spawn_blocking(move || store.keep_document(&sha256, &document)).await;
        if let Ok(Err(error)) = kept {
            tracing::error!(%error, "a document that the log names cannot be kept");
        }
    }

    fn remember(&self, digest: Sha256Digest) -> bool {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        if handed.len() >= REMEMBERED {
            handed.clear();
        }
        handed.insert(digest)
    }

    fn forget(&self) {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

enum Handed {
    Accepted(Accepted),
    Refused(String),
    Before,
}

/// The documents of a version above `current`, the oldest first. What is no document is left out.
fn newer<D: Document>(documents: Vec<Vec<u8>>, version: impl Fn(&D) -> u64, current: u64) -> Vec<Vec<u8>> {
    let mut newer: Vec<(u64, Vec<u8>)> = documents
        .into_iter()
        .filter_map(|document| {
            let version = version(&parse(&document)?);
            (version > current).then_some((version, document))
        })
        .collect();
    newer.sort();
    newer.into_iter().map(|(_, document)| document).collect()
}

/// The payload of a document, **unverified**: it is what it should be, and says what it should say.
pub(super) fn parse<D: Document>(document: &[u8]) -> Option<D> {
    let envelope = Envelope::parse(document, D::TYPE).ok()?;
    D::read(envelope.payload())
}

/// A document that the host delivers.
pub(super) trait Document: Sized + 'static {
    /// The envelope's type.
    const TYPE: PayloadType;

    /// Reads a payload, **unverified**.
    fn read(payload: &[u8]) -> Option<Self>;
}

impl Document for Root {
    const TYPE: PayloadType = PayloadType::Root;

    fn read(payload: &[u8]) -> Option<Self> {
        Self::from_payload(payload).ok()
    }
}

impl Document for Release {
    const TYPE: PayloadType = PayloadType::Release;

    fn read(payload: &[u8]) -> Option<Self> {
        Self::from_payload(payload).ok()
    }
}

impl Document for Denial {
    const TYPE: PayloadType = PayloadType::Denial;

    fn read(payload: &[u8]) -> Option<Self> {
        Self::from_payload(payload).ok()
    }
}

/// The denials in a folder's files `*.json`, as many as an enclave can hold. Other files are left out.
pub(super) fn read_folder(folder: &Path) -> Vec<Vec<u8>> {
    let limit = PayloadType::Denial.envelope_limit() as u64;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
        .filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= limit))
        .filter_map(|file| std::fs::read(file.path()).ok())
        .filter(|document| parse::<Denial>(document).is_some())
        .take(DENIALS_LIMIT)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_denials_in_small_json_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let denial = super::super::tests::denial(1);
        std::fs::write(folder.path().join("a.json"), &denial).unwrap();
        std::fs::write(folder.path().join("b.txt"), &denial).unwrap();
        std::fs::write(folder.path().join("c.json"), vec![b' '; 1 << 20]).unwrap();
        std::fs::write(folder.path().join("d.json"), "{}").unwrap();
        assert_eq!(read_folder(folder.path()), [denial]);
        assert!(read_folder(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn what_is_no_document_is_not_handed_in_as_a_newer_one() {
        let junk = vec![b"{}".to_vec(), Vec::new()];
        assert!(newer::<Root>(junk, |root| root.version, 0).is_empty());
    }
}
