//! The state of a lease service, and its conditions for a signature.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{
    Accepted, Envelope, LeaseRefusal, LeaseRequest, Payload as _, PayloadType, PublicKey, ReleaseError, Role,
    TrustedState,
};
use cleanroom_program::file;
use serde_json::{Value, json};

use crate::add;
use crate::chain::{self, Fingerprint, LOOK_AGAIN, RootArguments};
use crate::failure::Failure;
use crate::files;
use crate::metrics::Metrics;
use crate::signer::Signer;
use crate::status::{summary, would_lease};

/// Roots, release and denials in files, and the key that signs leases for them.
pub(crate) struct Issuer {
    roots: RootArguments,
    release: PathBuf,
    denials: PathBuf,
    /// One signature at a time: a device does no more, and strangers must not start a crowd of commands.
    signer: Mutex<Signer>,
    public: PublicKey,
    held: Mutex<Held>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether leases were given when one was asked for last, or the code of why not.
    leases: Mutex<Option<Result<(), &'static str>>>,
}

/// What was read from the files so far. It is only ever added to, so a file that is put back to an older
/// version or removed takes nothing back while the service runs.
struct Held {
    state: Arc<TrustedState>,
    fingerprint: Option<Fingerprint>,
    /// Why the files as they are now cannot be used. No lease is signed until that is repaired.
    problem: Option<Problem>,
    /// A denial came that its key may not have in force beside its others. While its file is there, no lease is signed.
    one_too_many: bool,
    roots_json: Bytes,
    release_json: Bytes,
    /// Every denial that was ever seen here, whether or not its file is still there.
    denials: BTreeMap<Sha256Digest, Value>,
    denials_json: Bytes,
    /// Denials that this service was sent and that are not on the disk yet. They are in force, and nobody was
    /// told that they are kept.
    unkept: BTreeMap<Sha256Digest, Vec<u8>>,
    /// Denials that are on the disk, as of the last look.
    kept: BTreeSet<Sha256Digest>,
}

/// Why the files cannot be used.
struct Problem {
    /// For the operator, with the names of files.
    full: String,
    /// For everybody who asks.
    public: String,
    /// The files that were looked at, and when.
    seen: Option<Fingerprint>,
    looked: Instant,
}

/// Why a request was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// A refusal.
pub(crate) fn refusal(kind: Kind, code: &'static str, message: &str) -> Refusal {
    Refusal { kind, code, message: message.to_owned() }
}

/// The kind of a refusal. It decides the status of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request itself is wrong.
    Malformed,
    /// The documents do not permit it.
    Forbidden,
    /// The asker holds other documents than this service.
    Outdated,
    /// This service cannot answer until its operator repairs something.
    Unusable,
}

impl Issuer {
    /// Reads everything, and refuses to begin with documents that cannot be used or a key that the root does
    /// not name.
    pub(crate) fn new(
        roots: RootArguments,
        release: PathBuf,
        denials: PathBuf,
        signer: &crate::signer::SignerArguments,
    ) -> Result<Self, Failure> {
        let state = roots.state_with(Some(&release), Some(&denials))?;
        let candidates: Vec<_> = state.root().keys_of(Role::Lease).collect();
        let (signer, _) = signer.find(&candidates)?;
        let held = Held {
            state: Arc::new(state),
            fingerprint: None,
            problem: None,
            one_too_many: false,
            roots_json: Bytes::new(),
            release_json: Bytes::new(),
            denials: BTreeMap::new(),
            denials_json: Bytes::from_static(b"[]"),
            unkept: BTreeMap::new(),
            kept: BTreeSet::new(),
        };
        let (public, signer) = (signer.public(), Mutex::new(signer));
        let issuer = Self {
            roots,
            release,
            denials,
            signer,
            public,
            held: Mutex::new(held),
            metrics: Arc::new(Metrics::new()),
            leases: Mutex::new(None),
        };
        let problem = issuer.current().problem.take();
        problem.map_or(Ok(issuer), |problem| Err(Failure::Environment(problem.full)))
    }

    /// The lease for a request's body, as JSON.
    pub(crate) fn lease(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let request =
            LeaseRequest::from_json(body).map_err(|error| Refusal::release(Kind::Malformed, &error))?;
        let state = self.usable()?;
        self.note_whether_leases_are_given(&state);
        if state.root().keys_of(Role::Lease).all(|issuer| issuer.spki != self.public) {
            return Err(Refusal {
                kind: Kind::Unusable,
                code: "not-an-issuer",
                message: "the newest root does not name this service's key for leases".to_owned(),
            });
        }
        let lease = state.draft_lease(&request, chain::now()).map_err(|refusal| Refusal {
            kind: match refusal.code() {
                "zero-nonce" => Kind::Malformed,
                "root-outdated" | "release-outdated" => Kind::Outdated,
                _ => Kind::Forbidden,
            },
            code: refusal.code(),
            message: refusal.to_string(),
        })?;
        let unusable = |error: &ReleaseError| Refusal::release(Kind::Unusable, error);
        let mut envelope =
            Envelope::unsigned(PayloadType::Lease, &lease.to_payload()).map_err(|error| unusable(&error))?;
        let signature =
            self.signer.lock().unwrap_or_else(PoisonError::into_inner).sign(envelope.pae()).map_err(
                |failure| {
                    tracing::error!(%failure, "cannot sign");
                    Refusal {
                        kind: Kind::Unusable,
                        code: "signer",
                        message: "the issuer's key cannot sign".to_owned(),
                    }
                },
            )?;
        envelope.attach(&self.public, &signature).map_err(|error| unusable(&error))?;
        Ok(envelope.to_json())
    }

    /// Says in the log when leases begin or cease to be given, by the documents and the time alone: what somebody asks changes
    /// nothing about it.
    fn note_whether_leases_are_given(&self, state: &TrustedState) {
        let now = would_lease(state, chain::now()).map_err(LeaseRefusal::code);
        let before = self.leases.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        if before != Some(now) {
            match now {
                Ok(()) => tracing::info!("leases are given"),
                Err(code) => tracing::warn!(code, "no leases are given"),
            }
        }
    }

    /// Takes a denial that somebody sent. It is on the disk when this returns `Ok`: a denial that is known
    /// but was never kept here is kept now, so sending it again after an error is always right.
    ///
    /// A denial that the disk does not take is in force all the same, until the service ends.
    ///
    /// One more than its key may have in force is refused and kept all the same. With its file in the folder this service
    /// gives no lease, so what it halts stops. Further ones are not kept: nothing more could stop.
    pub(crate) fn take_denial(&self, body: &[u8]) -> Result<Accepted, Refusal> {
        let mut held = self.current();
        let mut state = TrustedState::clone(&held.state);
        let forbidden = |error: ReleaseError| Refusal::release(Kind::Forbidden, &error);
        let accepted = match state.accept_denial(body) {
            Err(error @ ReleaseError::TooManyDenials { .. }) => {
                if !held.one_too_many {
                    held.one_too_many = true;
                    let envelope = Envelope::parse(body, PayloadType::Denial).map_err(forbidden)?;
                    held.unkept.insert(envelope.digest(), envelope.to_json());
                    if let Err(failure) = held.keep(&self.denials) {
                        tracing::error!(%failure, "no leases: a key has too many denials, and not all could be kept");
                    }
                }
                let mut refusal = forbidden(error);
                refusal.message += "; until then this service gives no leases";
                return Err(refusal);
            }
            other => other.map_err(forbidden)?,
        };
        let envelope = Envelope::parse(body, PayloadType::Denial).map_err(forbidden)?;
        let digest = envelope.digest();
        if !held.kept.contains(&digest) {
            held.unkept.insert(digest, envelope.to_json());
        }
        let kept = held.keep(&self.denials);
        held.list(&envelope);
        held.state = Arc::new(state);
        if accepted == Accepted::New {
            tracing::warn!(denial = %digest, "halted");
        }
        kept.map(|()| accepted).map_err(|failure| {
            tracing::error!(%failure, denial = %digest, "a denial is in force but could not be kept");
            Refusal {
                kind: Kind::Unusable,
                code: "not-kept",
                message: "the denial is in force but could not be stored; send it again".to_owned(),
            }
        })
    }

    /// The newest release, as an envelope.
    pub(crate) fn release(&self) -> Bytes {
        self.current().release_json.clone()
    }

    /// Every root, as a JSON array of envelopes.
    pub(crate) fn roots(&self) -> Bytes {
        self.current().roots_json.clone()
    }

    /// Every denial that was ever seen here, as a JSON array of envelopes.
    pub(crate) fn denials(&self) -> Bytes {
        self.current().denials_json.clone()
    }

    /// What is in force.
    pub(crate) fn status(&self) -> Value {
        let held = self.current();
        let mut status = summary(&held.state, chain::now());
        if !held.unkept.is_empty() {
            add(&mut status, "denials_not_kept", held.unkept.len());
        }
        if let Some(problem) = &held.problem {
            add(&mut status, "problem", problem.public.clone());
        }
        if !held.is_usable() {
            add(&mut status, "leases", "inputs-unusable");
        }
        status
    }

    /// The state, if the files can be used as they are.
    pub(crate) fn usable(&self) -> Result<Arc<TrustedState>, Refusal> {
        let held = self.current();
        if held.is_usable() {
            return Ok(Arc::clone(&held.state));
        }
        Err(Refusal {
            kind: Kind::Unusable,
            code: "inputs-unusable",
            message: "this issuer's documents cannot be used; its operator finds the reason in its log"
                .to_owned(),
        })
    }

    /// The documents, after reading the files again if they changed.
    fn current(&self) -> MutexGuard<'_, Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // A disk that was full may have room again. If not, the next look tries again.
        let _ = held.keep(&self.denials);
        let seen = self.roots.fingerprint(&self.release, &self.denials);
        if seen.as_ref().ok() == held.fingerprint.as_ref() && held.fingerprint.is_some() {
            return held;
        }
        if held.problem.as_ref().is_some_and(|problem| {
            problem.seen.as_ref() == seen.as_ref().ok() && problem.looked.elapsed() < LOOK_AGAIN
        }) {
            return held;
        }
        let looked_at = seen.as_ref().ok().cloned();
        let mut state = TrustedState::clone(&held.state);
        let kept = std::mem::take(&mut held.kept);
        // Good documents are taken even if others are bad: denials above all.
        let read = seen.and_then(|seen| {
            self.roots.update(&mut state, Some(&self.release), Some(&self.denials))?;
            held.roots_json = envelopes(&self.roots.files()?, PayloadType::Root)?;
            for path in files::json_files(&self.denials)? {
                let bytes = files::read(&path, PayloadType::Denial.envelope_limit())?;
                let envelope = Envelope::parse(&bytes, PayloadType::Denial);
                let envelope = envelope.map_err(|error| Failure::refused(&path.display(), &error))?;
                let digest = envelope.digest();
                // Another program wrote it, or this one before it was started again.
                if kept.contains(&digest) || file::sync(&path).is_ok() {
                    held.kept.insert(digest);
                }
                held.list(&envelope);
            }
            Ok(seen)
        });
        let release = state.release().map_or_else(Vec::new, |release| release.envelope().to_json());
        held.release_json = release.into();
        held.state = Arc::new(state);
        match read {
            Ok(seen) => {
                let release = held.state.release().map_or(0, |release| release.version);
                tracing::info!(root = held.state.root().version, release, "documents read");
                (held.fingerprint, held.problem) = (Some(seen), None);
                // It could be read, so the denial that was too many is gone or lifted; or it is not on the disk yet.
                held.one_too_many &= !held.unkept.is_empty();
            }
            Err(failure) => {
                let (full, public) = (failure.to_string(), failure.public());
                if held.problem.as_ref().is_none_or(|problem| problem.full != full) {
                    tracing::error!(problem = full, "no leases until this is repaired");
                }
                let problem = Problem { full, public, seen: looked_at, looked: Instant::now() };
                (held.fingerprint, held.problem) = (None, Some(problem));
            }
        }
        held
    }
}

impl Held {
    /// Whether leases may be signed for what is held.
    const fn is_usable(&self) -> bool {
        self.problem.is_none() && !self.one_too_many
    }

    /// Adds a denial to the list that everybody may have.
    fn list(&mut self, denial: &Envelope) {
        if let Entry::Vacant(entry) = self.denials.entry(denial.digest()) {
            tracing::info!(denial = %denial.digest(), "a denial was read");
            entry.insert(serde_json::from_slice(&denial.to_json()).unwrap_or_default());
            self.denials_json = Value::from_iter(self.denials.values().cloned()).to_string().into();
        }
    }

    /// Puts on the disk what is not there yet.
    fn keep(&mut self, folder: &Path) -> Result<(), Failure> {
        while let Some((digest, envelope)) = self.unkept.first_key_value() {
            let path = folder.join(format!("{digest}.json"));
            file::replace_if_changed(&path, envelope, file::PUBLIC)?;
            self.kept.insert(*digest);
            self.unkept.pop_first();
        }
        Ok(())
    }
}

/// Files of envelopes as one JSON array.
fn envelopes(paths: &[PathBuf], payload_type: PayloadType) -> Result<Bytes, Failure> {
    let read = |path: &PathBuf| -> Result<Value, Failure> {
        let bytes = files::read(path, payload_type.envelope_limit())?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Environment(format!("{}: {error}", path.display())))
    };
    let all = paths.iter().map(read).collect::<Result<Vec<Value>, _>>()?;
    Ok(Value::from(all).to_string().into())
}

impl Refusal {
    fn release(kind: Kind, error: &ReleaseError) -> Self {
        Self { kind, code: error.code(), message: error.to_string() }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "error": { "code": self.code, "message": self.message } })
    }
}
