//! The log of this boot, as the enclave holds it: the hashes that its size needs, and the entries that the host has not stored yet.
//!
//! `docs/receipts.md` says what stands in it. The enclave has no disk, so the host keeps the entries. It fetches them over the control
//! connection and says how many it has stored. Nothing waits for that: whoever holds a receipt can show that the host lost it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    Checkpoint, CheckpointError, Entry, Frontier, NoteKey, SignedCheckpoint, boot_of, cose_to_be_signed,
    leaf_hash, origin,
};
use cleanroom_attestation::receipt::SignedReceipt;
use cleanroom_attestation::release::{BootMillis, Refusal, UnixMillis, WITNESS_SECONDS_LIMIT};
use cleanroom_guard::Clock;
use cleanroom_link::control::{Batch, MAX_BATCH_BYTES, batch_size};
use tokio::sync::watch;

use crate::receipt_key::ReceiptKey;

/// Bytes of entries that wait for the host. Then the oldest go, and the host can never have them: its log has a gap.
const MAX_WAITING_BYTES: usize = 4 << 20;
/// Partner keys that receipts are numbered for.
const MAX_PARTNERS: usize = 65_536;
/// How often refused sessions are counted into one entry for each reason.
const COUNT_REFUSALS_EVERY: u64 = 60_000;
/// How long the end waits for the host to fetch the last entries.
const LAST_FETCH: Duration = Duration::from_secs(3);

/// The least time between two sizes of the log that are remembered, in milliseconds.
const MARKS_APART_MS: u64 = 1000;
/// So many sizes are remembered. They reach back for as long as a release may let the log run ahead of its witnesses.
const MAX_MARKS: usize = WITNESS_SECONDS_LIMIT as usize + 1;

/// The log.
pub(super) struct Log {
    key: ReceiptKey,
    clock: Clock,
    boot: Sha256Digest,
    state: Mutex<State>,
    /// How many entries the host has stored, once it has asked.
    stored: watch::Sender<Option<u64>>,
}

#[derive(Default)]
struct State {
    /// The whole log.
    tip: Frontier,
    /// The log up to the first entry that waits.
    before: Frontier,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    partners: HashMap<Sha256Digest, (u64, Sha256Digest)>,
    refused: BTreeMap<&'static str, u64>,
    counted: Option<BootMillis>,
    /// How large the log was, and until when at least. Both rise.
    marks: VecDeque<(u64, BootMillis)>,
    /// How many entries witnesses have cosigned, as the releases demanded when they came.
    witnessed: u64,
}

/// Where a receipt stands.
pub(super) struct Place {
    pub(super) boot: Sha256Digest,
    pub(super) index: u64,
    pub(super) number: u64,
    pub(super) previous: Option<Sha256Digest>,
}

/// No further partner's receipts can be numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The host says that it has more entries than there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoSuchSize;

impl Log {
    /// An empty log.
    pub(super) fn new(key: ReceiptKey) -> Self {
        let boot = boot_of(key.subject_public_key_info());
        Self { key, clock: Clock::boot(), boot, state: Mutex::default(), stored: watch::Sender::new(None) }
    }

    /// The same log, by another clock than the machine's own.
    pub(super) fn timed_by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Appends an entry, and gives the log's size with it.
    pub(super) fn append(&self, entry: &Entry) -> u64 {
        let mut state = self.lock();
        state.push(entry.to_bytes(), self.clock.now());
        state.tip.size()
    }

    /// Whether the host has said that the first `size` entries are on its disk.
    pub(super) fn has_stored(&self, size: u64) -> bool {
        self.stored.borrow().is_some_and(|stored| stored >= size)
    }

    /// The releases' witnesses have cosigned the first `size` entries.
    pub(super) fn witness(&self, size: u64) {
        let mut state = self.lock();
        state.witnessed = state.witnessed.max(size);
    }

    /// Whether they have.
    pub(super) fn is_witnessed(&self, size: u64) -> bool {
        self.lock().witnessed >= size
    }

    /// The boot that it is of.
    pub(super) const fn boot(&self) -> Sha256Digest {
        self.boot
    }

    /// Counts a session that was refused.
    pub(super) fn refused(&self, refusal: Refusal) {
        *self.lock().refused.entry(refusal.code()).or_default() += 1;
    }

    /// Has `sign` make a receipt for its place, and appends it.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) fn receipt(
        &self,
        partner: Sha256Digest,
        sign: impl FnOnce(Place) -> Option<SignedReceipt>,
    ) -> Result<SignedReceipt, Full> {
        let mut state = self.lock();
        let last = state.partners.get(&partner).copied();
        if last.is_none() && state.partners.len() >= MAX_PARTNERS {
            return Err(Full);
        }
        let (number, previous) =
            last.map_or((1, None), |(number, last)| (number.saturating_add(1), Some(last)));
        let receipt =
            sign(Place { boot: self.boot, index: state.tip.size(), number, previous }).ok_or(Full)?;
        let sha256 = receipt.digest();
        state.partners.insert(partner, (number, sha256));
        state.push(Entry::Receipt { sha256 }.to_bytes(), self.clock.now());
        Ok(receipt)
    }

    /// The entries after the first `size`, which the host has stored, with a checkpoint of the log up to the last of them. Without
    /// a size, the newest checkpoint alone.
    ///
    /// # Errors
    /// [`NoSuchSize`].
    pub(super) fn batch(
        &self,
        size: Option<u64>,
        now: BootMillis,
        at: UnixMillis,
    ) -> Result<Batch, NoSuchSize> {
        let mut state = self.lock();
        let counted = *state.counted.get_or_insert(now);
        if now.0.saturating_sub(counted.0) >= COUNT_REFUSALS_EVERY {
            state.count_refused(at, now);
            state.counted = Some(now);
        }
        let Some(size) = size else {
            let (first, checkpoint) = (state.tip.size(), self.checkpoint(&state.tip));
            return Ok(Batch { first, entries: Vec::new(), checkpoint });
        };
        if size > state.tip.size() {
            return Err(NoSuchSize);
        }
        while state.before.size() < size && state.forget_first() {}
        self.stored.send_replace(Some(size));
        let first = state.before.size();
        let mut after = state.before.clone();
        let mut entries: Vec<Vec<u8>> = Vec::new();
        let mut bytes = batch_size(std::iter::empty());
        for entry in &state.waiting {
            bytes = bytes.saturating_add(entry.len()).saturating_add(4);
            if bytes > MAX_BATCH_BYTES {
                break;
            }
            after.push(leaf_hash(entry));
            entries.push(entry.clone());
        }
        Ok(Batch { first, entries, checkpoint: self.checkpoint(&after) })
    }

    /// Appends the last entry, and waits until the host has stored it, if it has ever stored any.
    pub(super) async fn end(&self, at: UnixMillis) {
        let size = {
            let mut state = self.lock();
            let now = self.clock.now();
            state.count_refused(at, now);
            state.push(Entry::Shutdown { at_ms: at.0 }.to_bytes(), now);
            state.tip.size()
        };
        let mut stored = self.stored.subscribe();
        if stored.borrow().is_none() {
            return;
        }
        let all = stored.wait_for(|stored| stored.is_some_and(|stored| stored >= size));
        // A host that does not come for it has a log without an end.
        let _ = tokio::time::timeout(LAST_FETCH, all).await;
    }

    /// Until when at least the log was no larger than `note` says, which this enclave signed. Every entry that the note does not
    /// count is younger. `None` when that is longer ago than any release permits.
    ///
    /// # Errors
    /// [`CheckpointError`]: the note is not of this log. The receipt key lives as long as the boot, and signs no other.
    pub(super) fn stood_until(&self, note: &SignedCheckpoint) -> Result<Option<BootMillis>, CheckpointError> {
        let key = NoteKey::of_boot(self.key.subject_public_key_info()).ok_or(CheckpointError::OtherLog)?;
        let size = note.verify(&key)?.size;
        let state = self.lock();
        if size == state.tip.size() {
            return Ok(Some(self.clock.now()));
        }
        let marks = state.marks.iter().rev();
        Ok(marks.into_iter().find(|(marked, _)| *marked <= size).map(|(_, until)| *until))
    }

    fn checkpoint(&self, tree: &Frontier) -> Vec<u8> {
        let checkpoint = Checkpoint { origin: origin(&self.boot), size: tree.size(), root: tree.root() };
        // The receipt key is Ed25519.
        let Some(key) = NoteKey::of_boot(self.key.subject_public_key_info()) else { return Vec::new() };
        let note = checkpoint.signed(&key, &self.key.sign(checkpoint.text().as_bytes()));
        let cose = self.key.sign(&cose_to_be_signed(&self.boot, &checkpoint.root));
        [note, key.cose_line(&cose).line().into_bytes()].concat()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole at every instruction that could unwind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, entry: Vec<u8>, now: BootMillis) {
        if self.marks.back().is_none_or(|(_, last)| now.0.saturating_sub(last.0) >= MARKS_APART_MS) {
            self.marks.push_back((self.tip.size(), now));
            if self.marks.len() > MAX_MARKS {
                self.marks.pop_front();
            }
        }
        self.tip.push(leaf_hash(&entry));
        self.waiting_bytes = self.waiting_bytes.saturating_add(entry.len());
        self.waiting.push_back(entry);
        while self.waiting_bytes > MAX_WAITING_BYTES && self.forget_first() {}
    }

    fn forget_first(&mut self) -> bool {
        let Some(entry) = self.waiting.pop_front() else { return false };
        self.waiting_bytes = self.waiting_bytes.saturating_sub(entry.len());
        self.before.push(leaf_hash(&entry));
        true
    }

    fn count_refused(&mut self, at: UnixMillis, now: BootMillis) {
        for (code, count) in std::mem::take(&mut self.refused) {
            self.push(Entry::Refused { code: code.to_owned(), count, at_ms: at.0 }.to_bytes(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::log::SignedCheckpoint;

    use super::*;

    fn batch(log: &Log, size: Option<u64>) -> Result<Batch, NoSuchSize> {
        log.batch(size, BootMillis(0), UnixMillis(1))
    }

    fn verify(log: &Log, batch: &Batch) -> Checkpoint {
        let note = SignedCheckpoint::parse(&batch.checkpoint).unwrap();
        let key = NoteKey::of_boot(log.key.subject_public_key_info()).unwrap();
        assert!(note.cose_signature(&key).is_some());
        note.verify(&key).unwrap().clone()
    }

    #[test]
    fn the_host_gets_what_it_lacks_and_a_checkpoint_of_exactly_that() {
        let log = Log::new(ReceiptKey::generate().unwrap());
        let mut all = Frontier::new();
        for at_ms in 0..10_000 {
            let entry = Entry::Shutdown { at_ms };
            all.push(leaf_hash(&entry.to_bytes()));
            log.append(&entry);
        }
        assert_eq!(verify(&log, &batch(&log, None).unwrap()).root, all.root());
        let (mut tree, mut batches) = (Frontier::new(), 0);
        loop {
            let next = batch(&log, Some(tree.size())).unwrap();
            assert_eq!(next.first, tree.size());
            assert!(next.encode().len() <= MAX_BATCH_BYTES);
            next.entries.iter().for_each(|entry| tree.push(leaf_hash(entry)));
            let checkpoint = verify(&log, &next);
            assert_eq!((checkpoint.size, checkpoint.root), (tree.size(), tree.root()));
            batches += 1;
            if next.entries.is_empty() {
                break;
            }
        }
        assert!(batches > 2, "more than one batch holds");
        assert_eq!(tree.root(), all.root());
        assert!(log.lock().waiting.is_empty(), "what the host has is forgotten");
        assert_eq!(batch(&log, Some(10_001)), Err(NoSuchSize));
    }

    #[test]
    fn a_host_that_fetches_nothing_costs_no_more_memory_than_the_bound() {
        let log = Log::new(ReceiptKey::generate().unwrap());
        for at_ms in 0..200_000 {
            log.append(&Entry::Shutdown { at_ms });
        }
        assert!(log.lock().waiting_bytes <= MAX_WAITING_BYTES);
        let late = batch(&log, Some(0)).unwrap();
        assert!(late.first > 0, "the first entries are gone");
        assert_eq!(verify(&log, &late).size, late.first + late.entries.len() as u64);
    }

    #[test]
    fn what_a_checkpoint_does_not_count_is_younger_than_the_time_that_it_is_given() {
        let now = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(5_000));
        let read = std::sync::Arc::clone(&now);
        let clock = Clock::from_fn(move || BootMillis(read.load(std::sync::atomic::Ordering::SeqCst)));
        let log = Log::new(ReceiptKey::generate().unwrap()).timed_by(clock);
        let at = |ms| now.store(ms, std::sync::atomic::Ordering::SeqCst);
        let newest = || SignedCheckpoint::parse(&batch(&log, None).unwrap().checkpoint).unwrap();
        let stood = |note: &SignedCheckpoint| log.stood_until(note).unwrap().map(|until| until.0);
        let mut notes = vec![newest()];
        // Entries come every 300 ms, and the sizes that are remembered are a second apart.
        for number in 0..20 {
            at(10_000 + number * 300);
            log.append(&Entry::Shutdown { at_ms: 1 });
            notes.push(newest());
        }
        at(60_000);
        // The log as it is was never left behind.
        assert_eq!(stood(notes.last().unwrap()), Some(60_000));
        for (size, note) in notes.iter().enumerate().take(20) {
            // The entry after the checkpoint came then, or up to a second before by what is remembered.
            let came = 10_000 + size as u64 * 300;
            let until = stood(note).unwrap();
            assert!((came.saturating_sub(1000)..=came).contains(&until), "{size}: {until}, {came}");
        }
        let other = Log::new(ReceiptKey::generate().unwrap());
        let other = SignedCheckpoint::parse(&batch(&other, None).unwrap().checkpoint).unwrap();
        assert_eq!(log.stood_until(&other), Err(CheckpointError::OtherLog));
        let mut forged = newest().unverified().clone();
        forged.size += 1;
        let key = NoteKey::of_boot(log.key.subject_public_key_info()).unwrap();
        let forged = SignedCheckpoint::parse(&forged.signed(&key, &[7; 64])).unwrap();
        assert_eq!(log.stood_until(&forged), Err(CheckpointError::Signature));
        // What is remembered has a bound, and what is forgotten counts as too old.
        for number in 0..4_000 {
            at(100_000 + number * 1_000);
            log.append(&Entry::Shutdown { at_ms: 1 });
        }
        assert_eq!(log.lock().marks.len(), MAX_MARKS);
        assert_eq!(stood(&notes[0]), None);
    }

    #[test]
    fn refused_sessions_are_counted_once_a_minute() {
        let log = Log::new(ReceiptKey::generate().unwrap());
        (0..1000).for_each(|_| log.refused(Refusal::NoLease));
        assert!(batch(&log, Some(0)).unwrap().entries.is_empty());
        let counted = log.batch(Some(0), BootMillis(COUNT_REFUSALS_EVERY), UnixMillis(7)).unwrap();
        let expected = Entry::Refused { code: "no-lease".to_owned(), count: 1000, at_ms: 7 };
        assert_eq!(counted.entries, [expected.to_bytes()]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_a_host_that_stores_and_not_for_one_that_never_did() {
        let log = std::sync::Arc::new(Log::new(ReceiptKey::generate().unwrap()));
        let begun = tokio::time::Instant::now();
        log.end(UnixMillis(1)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);

        batch(&log, Some(1)).unwrap();
        log.end(UnixMillis(2)).await;
        assert_eq!(begun.elapsed(), LAST_FETCH, "the host did not come");

        let ending = std::sync::Arc::clone(&log);
        let ending = tokio::spawn(async move { ending.end(UnixMillis(3)).await });
        tokio::task::yield_now().await;
        batch(&log, Some(3)).unwrap();
        ending.await.unwrap();
        assert_eq!(begun.elapsed(), LAST_FETCH);
    }
}
