//! What a witness knows of each log, on the disk and in memory.
//!
//! ```text
//! FOLDER/boots             every boot that was ever taken, one in each line
//! FOLDER/BOOT/record       the first entry of its log
//! FOLDER/BOOT/checkpoint   the newest checkpoint that was cosigned, with the cosignature
//! ```
//!
//! The host's store of logs has its lists and checkpoints in the same places, so an auditor reads both alike.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    AddCheckpoint, BootRecord, Entry, Frontier, MAX_CHECKPOINT_BYTES, MAX_ENTRY_BYTES, NoteKey,
    SignedCheckpoint, WitnessKey, boot_of, verify_consistency,
};
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::UnixMillis;
use cleanroom_attestation::verdict::Verdict;
use cleanroom_program::file::{FileError, PUBLIC, create_folder, replace};

use crate::chain::RootArguments;
use crate::failure::Failure;
use crate::files;
use crate::serve::whether_another;
use crate::signer::Signer;

/// Permissions of the folders. Nothing in them is secret.
const FOLDER: u32 = 0o755;
/// Boots that a witness takes in its life. The list of them stays below the length that auditors read.
const MAX_BOOTS: usize = 15_000;
/// The longest list of boots, in bytes.
const MAX_LIST: usize = 1 << 20;

/// The key that cosigns.
pub(super) struct Cosigner {
    signer: Signer,
    public: WitnessKey,
}

impl Cosigner {
    /// The key in a file, under the witness's name.
    pub(super) fn new(signer: Signer, name: &str) -> Result<Self, Failure> {
        let public = WitnessKey::new(name, signer.public()).map_err(|_| {
            Failure::usage(
                "a witness needs an Ed25519 key, and a name of at most 256 bytes without spaces, plus signs and \
                 control characters",
            )
        })?;
        Ok(Self { signer, public })
    }

    pub(super) const fn public(&self) -> &WitnessKey {
        &self.public
    }

    /// The note with this witness's cosignature, which is its last line.
    fn cosign(&self, note: &SignedCheckpoint, now: UnixMillis) -> Result<SignedCheckpoint, Failure> {
        let seconds = now.0 / 1000;
        let signature = self.signer.sign(&WitnessKey::message(note, seconds))?;
        Ok(note.with(self.public.cosignature(seconds, &signature)))
    }
}

/// The answer to a request that is not granted, after C2SP `tlog-witness`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// 400: not of the form.
    Malformed(&'static str),
    /// 404: the log's first entry was not given yet.
    UnknownLog,
    /// 403: the log's own key did not sign the checkpoint.
    NotSigned,
    /// 409: the newest checkpoint that was cosigned has this size, or at the same size another root.
    Conflict(u64),
    /// 422: the proof does not show that the log contains what was cosigned before.
    Proof,
    /// 403: the boot's evidence is not that of an enclave that the policy accepts. The code says why.
    Evidence(&'static str),
    /// 503: there are as many boots as a witness takes.
    Full,
    /// 503: the witness's own documents cannot be used.
    Unusable,
    /// 503: the disk did not take it, so it does not count.
    NotKept,
}

/// Which enclaves' logs are witnessed.
pub(super) struct Judge {
    path: PathBuf,
    in_force: RwLock<Policy>,
    root: RootArguments,
    release: Option<PathBuf>,
}

impl Judge {
    /// Reads the policy at `path`.
    pub(super) fn read(
        path: PathBuf,
        root: RootArguments,
        release: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let in_force = RwLock::new(files::policy(&path)?);
        Ok(Self { path, in_force, root, release })
    }

    /// Reads the policy again, and says whether it is another one.
    fn read_again(&self) -> Result<String, Failure> {
        let new = files::policy(&self.path)?;
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        let is_another = *in_force != new;
        *in_force = new;
        Ok(format!("policy: {}; root and release are read for each new log", whether_another(is_another)))
    }

    /// The policy, with the images of the release in force if there is one.
    pub(super) fn policy(&self) -> Result<Policy, Failure> {
        let policy = self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(path) = &self.release else { return Ok(policy) };
        let state = self.root.state_with(Some(path), None)?;
        Ok(state.release().map_or_else(|| policy.clone(), |release| policy.with_release(release)))
    }
}

/// One log.
struct Log {
    key: NoteKey,
    /// The newest checkpoint that was cosigned.
    size: u64,
    root: Sha256Digest,
    /// It as a note; none before the first.
    note: Option<Vec<u8>>,
}

/// All logs.
pub(super) struct Logs {
    folder: PathBuf,
    cosigner: Cosigner,
    judge: Judge,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    logs: HashMap<Sha256Digest, Log>,
    /// The list as it is on the disk.
    list: String,
}

impl Logs {
    /// Reads the state of earlier runs, or begins with none. A state that cannot be read whole is refused: a witness that forgot
    /// one checkpoint could be shown a log that was rolled back.
    pub(super) fn open(folder: PathBuf, cosigner: Cosigner, judge: Judge) -> Result<Self, Failure> {
        create_folder(&folder, FOLDER)?;
        let list_path = folder.join("boots");
        let mut state = State::default();
        if list_path.exists() {
            let bytes = files::read(&list_path, MAX_LIST)?;
            state.list = String::from_utf8(bytes).map_err(|_| damaged(&list_path, "it is not UTF-8"))?;
        }
        for line in state.list.lines() {
            let boot: Sha256Digest =
                line.parse().map_err(|_| damaged(&list_path, "a line of it names no boot"))?;
            state.logs.insert(boot, read_log(&folder.join(line), &boot, &cosigner.public)?);
        }
        Ok(Self { folder, cosigner, judge, state: Mutex::new(state) })
    }

    /// Reads the policy again, and says whether it is another one.
    pub(super) fn read_again(&self) -> Result<String, Failure> {
        self.judge.read_again()
    }

    /// Takes a boot by the first entry of its log. Gives whether it is new.
    pub(super) fn take_boot(&self, entry: &[u8]) -> Result<bool, Refused> {
        let Ok(Entry::Boot(record)) = Entry::parse(entry) else {
            return Err(Refused::Malformed("expected the first entry of a log"));
        };
        let (boot, key) = names(&record).ok_or(Refused::Malformed("the receipt key is not Ed25519"))?;
        if self.state().logs.contains_key(&boot) {
            return Ok(false);
        }
        // Outside of the lock: a verification takes a millisecond, and anybody can ask for one.
        let policy = self.judge.policy().map_err(|failure| {
            tracing::error!(%failure, "no boot is taken until this is repaired");
            Refused::Unusable
        })?;
        match record.appraise(&policy).as_ref().map(Verdict::accepted) {
            Some(Ok(_)) => {}
            Some(Err(rejection)) => return Err(Refused::Evidence(rejection.code())),
            None => return Err(Refused::Evidence("document")),
        }
        let mut state = self.state();
        if state.logs.contains_key(&boot) {
            return Ok(false);
        }
        if state.logs.len() >= MAX_BOOTS {
            return Err(Refused::Full);
        }
        let list = format!("{}{boot}\n", state.list);
        self.keep_boot(&boot, entry, &list).map_err(|error| not_kept(&error))?;
        state.list = list;
        state.logs.insert(boot, Log { key, size: 0, root: Frontier::new().root(), note: None });
        tracing::info!(%boot, "a boot was taken");
        Ok(true)
    }

    fn keep_boot(&self, boot: &Sha256Digest, entry: &[u8], list: &str) -> Result<(), FileError> {
        let folder = self.folder.join(boot.to_string());
        create_folder(&folder, FOLDER)?;
        replace(&folder.join("record"), entry, PUBLIC)?;
        replace(&self.folder.join("boots"), list.as_bytes(), PUBLIC)
    }

    /// Cosigns a checkpoint, and gives the line of the cosignature. The checkpoint is on the disk when this returns `Ok`.
    pub(super) fn add_checkpoint(&self, body: &[u8], now: UnixMillis) -> Result<Vec<u8>, Refused> {
        let Some(AddCheckpoint { old, proof, checkpoint: note }) = AddCheckpoint::parse(body) else {
            return Err(Refused::Malformed(
                "expected the body of C2SP tlog-witness: old size, proof, checkpoint",
            ));
        };
        let boot = note.unverified().boot().ok_or(Refused::UnknownLog)?;
        let mut state = self.state();
        let log = state.logs.get_mut(&boot).ok_or(Refused::UnknownLog)?;
        let checkpoint = note.verify(&log.key).map_err(|_| Refused::NotSigned)?;
        if old > checkpoint.size {
            return Err(Refused::Malformed("the old size is larger than the checkpoint's"));
        }
        let (size, root) = (checkpoint.size, checkpoint.root);
        if old != log.size || (size == old && root != log.root) {
            return Err(Refused::Conflict(log.size));
        }
        verify_consistency((old, &log.root), (size, &root), &proof).map_err(|_| Refused::Proof)?;
        // Only the log's own signature is kept beside ours: the asker may have added any others.
        let cosigned = note.signed_by(&log.key).and_then(|note| self.cosigner.cosign(&note, now).ok());
        let cosigned = cosigned.ok_or(Refused::NotKept)?;
        let bytes = cosigned.to_bytes();
        let path = self.folder.join(boot.to_string()).join("checkpoint");
        replace(&path, &bytes, PUBLIC).map_err(|error| not_kept(&error))?;
        *log = Log { key: log.key.clone(), size, root, note: Some(bytes) };
        Ok(cosigned.signatures().last().map(|line| line.line().into_bytes()).unwrap_or_default())
    }

    /// The list of boots.
    pub(super) fn list(&self) -> String {
        self.state().list.clone()
    }

    /// The newest checkpoint of a boot that was cosigned.
    pub(super) fn note(&self, boot: &Sha256Digest) -> Option<Vec<u8>> {
        self.state().logs.get(boot)?.note.clone()
    }

    /// How many boots there are.
    pub(super) fn count(&self) -> usize {
        self.state().logs.len()
    }

    pub(super) const fn key(&self) -> &WitnessKey {
        self.cosigner.public()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole at every instruction that could unwind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The boot that a record is of, and the key of its log.
fn names(record: &BootRecord) -> Option<(Sha256Digest, NoteKey)> {
    let key = record.receipt_key().ok()?;
    Some((boot_of(&key), NoteKey::of_boot(&key)?))
}

/// What an earlier run kept of one log.
fn read_log(folder: &Path, boot: &Sha256Digest, witness: &WitnessKey) -> Result<Log, Failure> {
    let record_path = folder.join("record");
    let record = match Entry::parse(&files::read(&record_path, MAX_ENTRY_BYTES)?) {
        Ok(Entry::Boot(record)) => record,
        _ => return Err(damaged(&record_path, "it is no boot record")),
    };
    let named = names(&record).filter(|(named, _)| named == boot);
    let (_, key) = named.ok_or_else(|| damaged(&record_path, "it is another boot's"))?;
    let path = folder.join("checkpoint");
    if !path.exists() {
        return Ok(Log { key, size: 0, root: Frontier::new().root(), note: None });
    }
    let bytes = files::read(&path, MAX_CHECKPOINT_BYTES)?;
    let note = SignedCheckpoint::parse(&bytes).map_err(|error| damaged(&path, &error.to_string()))?;
    if witness.cosigned(&note).is_none() {
        return Err(damaged(&path, "this witness's key did not cosign it under this name"));
    }
    let checkpoint = note.verify(&key).map_err(|error| damaged(&path, &error.to_string()))?;
    Ok(Log { key, size: checkpoint.size, root: checkpoint.root, note: Some(bytes) })
}

fn damaged(path: &Path, problem: &str) -> Failure {
    Failure::Refused {
        what: path.display().to_string(),
        code: "state",
        problem: format!("{problem}; bring the folder back from a copy, or begin again with another key"),
    }
}

fn not_kept(error: &FileError) -> Refused {
    tracing::error!(%error, "nothing is cosigned until this is repaired");
    Refused::NotKept
}
