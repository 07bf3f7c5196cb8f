//! Takes the checkpoints of the enclave's log to witnesses, and keeps what they cosign (C2SP `tlog-witness`).
//!
//! The host gains nothing by it and cannot fake it: whoever reads the log knows the witnesses' keys. A host that does not ask has
//! a log that auditors refuse, and an enclave whose release demands witnesses serves nobody there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{AddCheckpoint, MAX_CHECKPOINT_BYTES, NoteSignature, SignedCheckpoint};
use http::{Method, StatusCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::agent::Authority;
use crate::agent::complaint::Complaint;
use crate::agent::service::refusal;
use crate::log_store::LogStore;

/// How often the newest checkpoints are looked at.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before a witness that failed is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the end of a log waits for the witnesses.
const LAST_PASS: Duration = Duration::from_secs(5);
/// Boots that are looked at: the one that runs, and those before it whose end may not be witnessed yet.
const BOOTS: usize = 8;

/// The witnesses of a host, and how far each has come.
#[derive(Debug)]
pub struct Witnesses {
    store: LogStore,
    services: Vec<Witness>,
    /// The newest checkpoint of the boot that runs with all cosignatures that it got.
    cosigned: watch::Sender<Option<Vec<u8>>>,
}

/// One witness.
#[derive(Debug)]
struct Witness {
    service: Authority,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// The size of each boot's log that the witness cosigned last, as far as this host knows.
    cosigned: HashMap<Sha256Digest, u64>,
    complaint: Complaint,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Witnesses {
    /// The witnesses of the logs in `store`; none if there is no service.
    #[must_use]
    pub fn new(store: LogStore, services: &[Authority]) -> Option<Self> {
        let witness = |service: &Authority| Witness { service: service.clone(), progress: Mutex::default() };
        let services: Vec<Witness> = services.iter().map(witness).collect();
        (!services.is_empty()).then(|| Self { store, services, cosigned: watch::Sender::new(None) })
    }

    /// What the enclave is handed: the newest checkpoint of its log that witnesses have cosigned, with their lines.
    pub(crate) fn cosigned(&self) -> watch::Receiver<Option<Vec<u8>>> {
        self.cosigned.subscribe()
    }

    /// Keeps asking, for ever.
    pub(crate) async fn run(&self) {
        loop {
            self.pass().await;
            sleep(PAUSE).await;
        }
    }

    /// Has the end of the log cosigned, if the witnesses do not take long.
    pub(crate) async fn finish(&self) {
        for witness in &self.services {
            witness.progress().not_before = None;
        }
        if timeout(LAST_PASS, self.pass()).await.is_err() {
            tracing::warn!("the witnesses did not cosign the end of the log in time");
        }
    }

    async fn pass(&self) {
        let boots = look(&self.store, |store| store.newest_boots(BOOTS)).await.unwrap_or_default();
        for (age, boot) in boots.into_iter().enumerate() {
            let notes = look(&self.store, move |store| (store.checkpoint(&boot), store.witnessed(&boot)));
            let Some((Some(note), witnessed)) = notes.await else { continue };
            let kept = witnessed.as_ref().map_or((0, 0), sizes);
            if kept >= (note.unverified().size, self.services.len()) {
                self.hand_out(age, witnessed.as_ref());
                continue;
            }
            let asked = self.services.iter().map(|witness| witness.ask(&self.store, &boot, &note));
            let cosignatures = futures_util::future::join_all(asked).await.into_iter().flatten();
            let cosigned = cosignatures.fold(note, |note, line| note.with(line));
            self.hand_out(age, Some(&cosigned).filter(|note| sizes(note).1 > 0));
            if is_better(sizes(&cosigned), kept, self.services.len()) {
                let stored = look(&self.store, move |store| store.keep_witnessed(&boot, &cosigned));
                if let Some(Err(error)) = stored.await {
                    tracing::error!(%error, "what the witnesses cosigned cannot be kept");
                }
            }
        }
    }

    /// Hands out what the enclave is to get, if it is of the boot that began last. The enclave counts by its own rule: a newer note
    /// with fewer lines may be enough, or not.
    fn hand_out(&self, age: usize, note: Option<&SignedCheckpoint>) {
        if let Some(note) = note.filter(|_| age == 0) {
            let bytes = Some(note.to_bytes());
            self.cosigned.send_if_modified(|last| {
                let is_new = *last != bytes;
                *last = bytes;
                is_new
            });
        }
    }
}

/// What `work` finds in the store. A disk that is slow holds up no thread on which other work runs.
async fn look<T: Send + 'static>(
    store: &LogStore,
    work: impl FnOnce(&LogStore) -> T + Send + 'static,
) -> Option<T> {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(&store)).await.ok()
}

/// The cosignature in a witness's answer. A witness has one line in the note: the host does not know its key, and one that sent
/// many would count as many, or fill the note so that nobody could read the others' lines.
fn one_line(answer: &[u8]) -> Result<NoteSignature, String> {
    let mut lines = NoteSignature::parse_lines(answer).unwrap_or_default();
    let line = lines.pop().ok_or_else(|| "its answer is no cosignature".to_owned())?;
    if lines.is_empty() { Ok(line) } else { Err("its answer has more than one cosignature".to_owned()) }
}

/// The size of a log, and how many have cosigned it.
fn sizes(note: &SignedCheckpoint) -> (u64, usize) {
    (note.unverified().size, note.cosignatures().count())
}

/// Whether `new` takes the place of `old`: it has more cosignatures, or it is newer and has as many, or a majority.
fn is_better(new: (u64, usize), old: (u64, usize), witnesses: usize) -> bool {
    let ((new_size, new_count), (old_size, old_count)) = (new, old);
    let is_majority = new_count > witnesses / 2;
    new_count > old_count || (new_size > old_size && (new_count == old_count || is_majority) && new_count > 0)
}

impl Witness {
    /// The witness's cosignature of a checkpoint. `None` when it gave none, or is left alone for a while.
    async fn ask(
        &self,
        store: &LogStore,
        boot: &Sha256Digest,
        note: &SignedCheckpoint,
    ) -> Option<NoteSignature> {
        if self.progress().not_before.is_some_and(|then| Instant::now() < then) {
            return None;
        }
        let result = self.cosign(store, boot, note).await;
        let progress = &mut *self.progress();
        match result {
            Ok(line) => {
                progress.cosigned.insert(*boot, note.unverified().size);
                progress.complaint.clear();
                (progress.pause, progress.not_before) = (Duration::ZERO, None);
                Some(line)
            }
            Err(reason) => {
                if progress.complaint.is_due(&reason) {
                    tracing::warn!(witness = %self.service, reason, "no cosignature");
                }
                progress.pause = (progress.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
                progress.not_before = Instant::now().checked_add(progress.pause);
                None
            }
        }
    }

    async fn cosign(
        &self,
        store: &LogStore,
        boot: &Sha256Digest,
        note: &SignedCheckpoint,
    ) -> Result<NoteSignature, String> {
        let size = note.unverified().size;
        let mut old = self.progress().cosigned.get(boot).copied().unwrap_or(0);
        // It may not know the boot, and then another size than this host thinks.
        for _ in 0..3 {
            if old > size {
                return Err(format!("it cosigned a log of {old} entries, and this host has {size}"));
            }
            let of = *boot;
            let proof = look(store, move |store| store.consistency(&of, old, size)).await;
            let proof = match proof {
                Some(Ok(proof)) => proof,
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the log could not be read".to_owned()),
            };
            let body = AddCheckpoint { old, proof, checkpoint: note.clone() }.to_bytes();
            let answer =
                self.service.exchange(Method::POST, "/add-checkpoint", body, MAX_CHECKPOINT_BYTES).await?;
            match answer {
                (StatusCode::OK, lines) => return one_line(&lines),
                (StatusCode::NOT_FOUND, _) => self.introduce(store, boot, size).await?,
                (StatusCode::CONFLICT, body) => {
                    let told = String::from_utf8(body).ok().and_then(|size| size.trim_end().parse().ok());
                    let told: u64 =
                        told.ok_or_else(|| "it does not say which size it cosigned".to_owned())?;
                    if told == old {
                        return Err(format!("it cosigned another log of {old} entries"));
                    }
                    old = told;
                }
                (status, body) => return Err(refusal(status, &body)),
            }
        }
        Err("it does not say the same twice".to_owned())
    }

    /// Gives the witness the first entry of a log.
    async fn introduce(&self, store: &LogStore, boot: &Sha256Digest, size: u64) -> Result<(), String> {
        let of = *boot;
        let record = look(store, move |store| store.record(&of, size)).await.flatten();
        let record = record.ok_or_else(|| "the log has no first entry".to_owned())?;
        match self.service.exchange(Method::POST, "/v1/boots", record, MAX_CHECKPOINT_BYTES).await? {
            (StatusCode::OK | StatusCode::CREATED, _) => Ok(()),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_has_one_line() {
        let line = "\u{2014} one.example AAAAAAAA\n";
        assert_eq!(one_line(line.as_bytes()).unwrap().name, "one.example");
        for answer in
            [String::new(), line.repeat(2), line.repeat(31), line.repeat(40), "rubbish\n".to_owned()]
        {
            assert!(one_line(answer.as_bytes()).is_err(), "{answer}");
        }
    }

    #[test]
    fn a_newer_checkpoint_takes_the_place_of_one_that_more_have_cosigned_only_with_a_majority() {
        // (size, cosignatures) of three witnesses.
        assert!(is_better((5, 1), (0, 0), 3));
        assert!(is_better((5, 2), (5, 1), 3));
        assert!(is_better((9, 2), (5, 3), 3));
        assert!(is_better((9, 1), (5, 1), 3));
        assert!(!is_better((9, 1), (5, 2), 3));
        assert!(!is_better((9, 0), (0, 0), 3));
        assert!(!is_better((5, 2), (5, 2), 3));
        assert!(!is_better((5, 1), (5, 2), 3));
    }
}
