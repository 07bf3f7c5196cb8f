//! The audit of one boot's log.

use std::collections::BTreeMap;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    BootRecord, Checkpoint, Entry, EntryError, Frontier, MAX_CHECKPOINT_BYTES, NoteKey, SignedCheckpoint,
    TILE_WIDTH, Tile, boot_of, entries_of_bundle, hashes_of_tile, leaf_hash,
};
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::PayloadType;
use cleanroom_attestation::verdict::Verdict;

use super::Against;
use super::history::History;
use super::report::{BootReport, BootStatus, Opened};
use super::store::Store;
use super::view::{View, read};
use super::witnessed::{self, Told};
use crate::receipts::KeptReceipt;

/// The longest bundle that is read, in bytes: 256 entries of 32 KiB with their lengths.
const MAX_BUNDLE: u64 = 256 * (32 * 1024 + 2);
/// Bundles that are missing, entries and hashes, before the rest of a log is not read any more. A boot that nobody proved may
/// claim any number of entries.
const MAX_CUT: usize = 20;

/// The size that a boot's checkpoint claims, for the progress bar.
pub(super) fn claimed_size(store: &Store, boot: &Sha256Digest) -> u64 {
    let checkpoint = store.read(&format!("{boot}/checkpoint"), MAX_CHECKPOINT_BYTES as u64).ok().flatten();
    let checkpoint = checkpoint.and_then(|bytes| SignedCheckpoint::parse(&bytes).ok());
    checkpoint.map_or(0, |note| note.unverified().size)
}

/// Audits the log of `boot`. `progress` hears how many entries were read.
pub(super) fn audit(
    store: &Store,
    boot: &Sha256Digest,
    against: &Against<'_>,
    told: &Told,
    mut progress: impl FnMut(u64),
) -> BootReport {
    let mut report = BootReport::new(*boot);
    let Some((checkpoint, key, record)) = open(store, &mut report) else { return report };
    report.size = checkpoint.size;
    report.root = Some(checkpoint.root);
    report.model = Some(record.model.to_string());
    report.model_sha256 = Some(record.model_sha256);
    report.began_ms = Some(record.at_ms);

    let mut views: Vec<View> = against.seen.get(boot).map(View::seen).into_iter().collect();
    if let Some(witnesses) = against.witnesses {
        views.extend(witnessed::kept(store, &mut report, &key, witnesses));
        views.extend(told.views(&mut report, &key));
    }
    let mut walk = Walk::new(store, &checkpoint, against, *boot, views);
    for tile in Tile::all(None, checkpoint.size) {
        walk.bundle(&mut report, tile);
        progress(walk.tree.size());
        if walk.cut >= MAX_CUT {
            let problem = "too much of the log is missing; what follows was not read";
            report.problem("entries-unread", &tile.to_string(), problem);
            break;
        }
    }
    walk.finish(&mut report);
    report.terms = walk.history.terms();
    judge(&mut report, &record, against.policy, &walk.history);
    if let Some(other) = against.other {
        compare(store, other, &checkpoint, &key, &mut report);
    }
    report.close();
    report
}

/// The checkpoint, once the key of the boot record signed it, and the boot record, once its key is the boot's.
fn open(store: &Store, report: &mut BootReport) -> Option<(Checkpoint, NoteKey, BootRecord)> {
    let note = read(store, report, "checkpoint", MAX_CHECKPOINT_BYTES as u64, "checkpoint-missing")?;
    let note = match SignedCheckpoint::parse(&note) {
        Ok(note) => note,
        Err(error) => {
            report.problem("checkpoint-form", "checkpoint", error.to_string());
            return None;
        }
    };
    let size = note.unverified().size;
    let width = usize::try_from(size).unwrap_or(TILE_WIDTH).min(TILE_WIDTH);
    let first = Tile { level: None, index: 0, width };
    let bundle = read(store, report, &first.to_string(), MAX_BUNDLE, "entries-missing")?;
    let entries = match entries_of_bundle(&bundle, width) {
        Ok(entries) => entries,
        Err(error) => {
            report.problem("entries-form", &first.to_string(), error.to_string());
            return None;
        }
    };
    let entry = entries.first().and_then(|entry| Entry::parse(entry).ok());
    let Some(Entry::Boot(record)) = entry else {
        report.problem("boot-record", "entry 0", "expected the boot record");
        return None;
    };
    let key = record.receipt_key().unwrap_or_default();
    let note_key = NoteKey::of_boot(&key).filter(|_| boot_of(&key) == report.boot);
    let Some(note_key) = note_key else {
        report.problem(
            "boot-record",
            "entry 0",
            "the boot record is another boot's: its receipt key is not this boot's",
        );
        return None;
    };
    match note.verify(&note_key) {
        Ok(checkpoint) => Some((checkpoint.clone(), note_key, record)),
        Err(error) => {
            report.problem("checkpoint-signature", "checkpoint", error.to_string());
            None
        }
    }
}

/// One reading of every entry and every hash.
struct Walk<'a> {
    store: &'a Store,
    checkpoint: &'a Checkpoint,
    history: History<'a>,
    /// Over the entries, or over their stored hashes where entries are missing.
    tree: Frontier,
    /// Over the stored hashes alone.
    stored: Frontier,
    /// Roots of whole tiles of leaves, of entries and of stored hashes, for the levels above.
    tiles: Vec<(Sha256Digest, Sha256Digest)>,
    /// What others saw before, each with both roots of as many leaves, once they are computed.
    views: Vec<(View, Option<(Sha256Digest, Sha256Digest)>)>,
    /// Entries that do not have their stored hash.
    differ: Vec<u64>,
    /// How many bundles have neither entries nor stored hashes.
    cut: usize,
    receipts: BTreeMap<u64, Vec<&'a KeptReceipt>>,
    /// The partner's own records, of any boot, each with the receipt of its request.
    own_records: BTreeMap<Sha256Digest, String>,
    /// Entries that an earlier audit saw.
    seen_entries: u64,
    at_ms: u64,
    has_ended: bool,
}

impl<'a> Walk<'a> {
    fn new(
        store: &'a Store,
        checkpoint: &'a Checkpoint,
        against: &Against<'a>,
        boot: Sha256Digest,
        views: Vec<View>,
    ) -> Self {
        let mut receipts: BTreeMap<u64, Vec<&KeptReceipt>> = BTreeMap::new();
        for kept in against.receipts.iter().filter(|kept| kept.signed.receipt().boot == boot) {
            receipts.entry(kept.signed.receipt().index).or_default().push(kept);
        }
        Self {
            store,
            checkpoint,
            history: History::new(store, against.policy),
            tree: Frontier::new(),
            stored: Frontier::new(),
            tiles: Vec::new(),
            views: views.into_iter().map(|view| (view, None)).collect(),
            differ: Vec::new(),
            cut: 0,
            receipts,
            own_records: (against.receipts.iter())
                .filter_map(|kept| {
                    let receipt = kept.signed.receipt();
                    Some((receipt.record_sha256?, receipt.id.to_string()))
                })
                .collect(),
            seen_entries: against.seen.get(&boot).map_or(0, |seen| seen.size),
            at_ms: 0,
            has_ended: false,
        }
    }

    /// Reads the entries of a bundle and their stored hashes.
    fn bundle(&mut self, report: &mut BootReport, bundle: Tile) {
        let first = bundle.index.saturating_mul(TILE_WIDTH as u64);
        let (entries_path, tile) = (bundle.to_string(), Tile { level: Some(0), ..bundle });
        let bytes = read(self.store, report, &entries_path, MAX_BUNDLE, "entries-missing");
        let entries = bytes.as_deref().map(|bytes| entries_of_bundle(bytes, bundle.width));
        let entries = match entries {
            Some(Err(error)) => {
                report.problem("entries-form", &entries_path, error.to_string());
                None
            }
            Some(Ok(entries)) => Some(entries),
            None => None,
        };
        let tile_bytes = read(self.store, report, &tile.to_string(), MAX_BUNDLE, "tile-missing");
        let stored = tile_bytes.as_deref().map(|bytes| hashes_of_tile(bytes, bundle.width));
        let stored = match stored {
            Some(Err(error)) => {
                report.problem("tile-form", &tile.to_string(), error.to_string());
                None
            }
            Some(Ok(hashes)) => Some(hashes),
            None => None,
        };
        let computed: Option<Vec<Sha256Digest>> =
            entries.as_ref().map(|entries| entries.iter().map(|entry| leaf_hash(entry)).collect());
        if let Some(entries) = &entries {
            for (index, entry) in (first..).zip(entries) {
                self.entry(report, index, entry);
            }
        }
        if let (Some(computed), Some(stored)) = (&computed, &stored) {
            let pairs = (first..).zip(computed.iter().zip(stored));
            self.differ
                .extend(pairs.filter(|(_, (computed, stored))| computed != stored).map(|(index, _)| index));
        }
        let (Some(hashes), Some(stored)) =
            (computed.as_ref().or(stored.as_ref()), stored.as_ref().or(computed.as_ref()))
        else {
            self.cut = self.cut.saturating_add(1);
            return;
        };
        for (hash, stored) in hashes.iter().zip(stored) {
            self.tree.push(*hash);
            self.stored.push(*stored);
            let size = self.tree.size();
            for (_, then) in self.views.iter_mut().filter(|(view, _)| view.size == size && self.cut == 0) {
                *then = Some((self.tree.root(), self.stored.root()));
            }
        }
        if bundle.is_whole() {
            self.tiles.push((root_of(hashes), root_of(stored)));
        }
    }

    /// What others saw must be the beginning of this log.
    fn compare_with_views(&self, report: &mut BootReport, entries_lead: bool) {
        for (view, then) in &self.views {
            let Some((entries, stored)) = then else { continue };
            let root = if entries_lead { entries } else { stored };
            if view.root != *root {
                let problem = format!(
                    "{} other entries before entry {}: their root was {}, and is {root} now",
                    view.whose, view.size, view.root
                );
                report.problem(view.other, "", problem);
            }
        }
    }

    fn entry(&mut self, report: &mut BootReport, index: u64, bytes: &[u8]) {
        let place = format!("entry {index}");
        let found = Entry::parse(bytes);
        self.compare_receipts(report, index, &found);
        let Ok(entry) = found else {
            return report.problem("entry-form", &place, "expected an entry of a log");
        };
        if self.has_ended {
            report.problem("after-end", &place, "an entry follows the shutdown");
        }
        *report.entries.entry(entry.kind()).or_default() += 1;
        let at_ms = match entry {
            Entry::Receipt { .. } => None,
            Entry::Boot(record) => {
                if index > 0 {
                    report.problem("boot-twice", &place, "a boot record stands in the middle of the log");
                }
                Some(record.at_ms)
            }
            Entry::Root { sha256, at_ms } => {
                self.history.take(report, index, PayloadType::Root, sha256, at_ms);
                Some(at_ms)
            }
            Entry::Release { sha256, at_ms } => {
                self.history.take(report, index, PayloadType::Release, sha256, at_ms);
                Some(at_ms)
            }
            Entry::Denial { sha256, at_ms } => {
                self.history.take(report, index, PayloadType::Denial, sha256, at_ms);
                Some(at_ms)
            }
            Entry::Lease { at_ms, .. } | Entry::Policy { at_ms, .. } => Some(at_ms),
            Entry::Hold { limit, at_ms, receipt_sha256: _ } => {
                let sum = report.held.entry(limit).or_default();
                *sum = sum.saturating_add(1);
                Some(at_ms)
            }
            Entry::Record { at_ms, .. } => Some(at_ms),
            Entry::Opening { sha256: _, record_sha256, reason, text, at_ms } => {
                let receipt = self.own_records.get(&record_sha256).cloned();
                let is_new = index >= self.seen_entries;
                report.openings.push(Opened { index, record_sha256, receipt, reason, text, at_ms, is_new });
                Some(at_ms)
            }
            Entry::Refused { code, count, at_ms } => {
                let sum = report.refused.entry(code).or_default();
                *sum = sum.saturating_add(count);
                Some(at_ms)
            }
            Entry::Shutdown { at_ms } => {
                self.has_ended = true;
                report.status = BootStatus::Ended;
                report.ended_ms = Some(at_ms);
                Some(at_ms)
            }
        };
        if let Some(at_ms) = at_ms {
            self.follow_clock(report, &place, at_ms);
        }
    }

    /// Compares the receipts that say that they stand at `index` with the entry that does.
    fn compare_receipts(&mut self, report: &mut BootReport, index: u64, found: &Result<Entry, EntryError>) {
        for kept in self.receipts.remove(&index).unwrap_or_default() {
            if *found == Ok(Entry::Receipt { sha256: kept.signed.digest() }) {
                report.receipts_found = report.receipts_found.saturating_add(1);
            } else {
                let problem = format!(
                    "the receipt {} says that it stands here, and it does not",
                    kept.signed.receipt().id
                );
                report.problem("receipt-not-in-log", &format!("entry {index}"), problem);
            }
        }
    }

    fn follow_clock(&mut self, report: &mut BootReport, place: &str, at_ms: u64) {
        // The security module's clock is read anew from time to time, so that times may step back by a little.
        const STEP_BACK_MS: u64 = 60_000;
        if at_ms.saturating_add(STEP_BACK_MS) < self.at_ms {
            report.problem("time-back", place, "it is earlier than the entry before it");
        }
        self.at_ms = self.at_ms.max(at_ms);
    }

    /// Reports the faults that only the whole log shows.
    fn finish(&mut self, report: &mut BootReport) {
        let Checkpoint { size, root, .. } = self.checkpoint;
        for (view, _) in self.views.iter().filter(|(view, _)| view.size > *size) {
            let problem = format!("{} {} entries, and the log has {size} now", view.whose, view.size);
            report.problem(view.longer, "checkpoint", problem);
        }
        // Of a log that has ended nothing is left to cosign.
        let ended = report.status == BootStatus::Ended;
        if let Some(cosigned) = report.cosigned.as_ref().filter(|cosigned| ended && cosigned.size < *size) {
            let problem =
                format!("witnesses cosigned {} entries, and the log ended with {size}", cosigned.size);
            report.problem("witness-behind", "witnessed", problem);
        }
        for (index, receipts) in &self.receipts {
            for kept in receipts {
                let problem = if index >= size {
                    format!(
                        "the receipt {} stands at place {index}, and the log ends before it",
                        kept.signed.receipt().id
                    )
                } else {
                    format!(
                        "the receipt {} stands at place {index}, which is missing",
                        kept.signed.receipt().id
                    )
                };
                report.problem("receipt-not-in-log", &format!("entry {index}"), problem);
            }
        }
        if self.cut > 0 {
            return report.problem(
                "root",
                "checkpoint",
                "entries are missing, so the root cannot be computed",
            );
        }
        let (entries_lead, hashes_lead) = (self.tree.root() == *root, self.stored.root() == *root);
        // What leads to the checkpoint is right, and everything else is compared with it.
        self.compare_with_views(report, entries_lead);
        self.levels(report, entries_lead);
        let (code, problem) = match (entries_lead, hashes_lead) {
            (true, _) => ("tile-changed", "the stored hash is not the entry's"),
            (false, true) => ("entry-changed", "the entry is not the one that the checkpoint counts"),
            (false, false) => {
                ("entry-changed", "the entry and its stored hash differ, and neither leads to the checkpoint")
            }
        };
        for index in &self.differ {
            report.problem(code, &format!("entry {index}"), problem);
        }
        if !entries_lead && !hashes_lead {
            report.problem("root", "checkpoint", "the entries lead to another root than the checkpoint has");
        }
    }

    /// The tiles above the leaves.
    fn levels(&mut self, report: &mut BootReport, entries_lead: bool) {
        let tiles = std::mem::take(&mut self.tiles).into_iter();
        let mut hashes: Vec<Sha256Digest> =
            tiles.map(|(entries, stored)| if entries_lead { entries } else { stored }).collect();
        for level in 1..8 {
            let mut above = Vec::new();
            for tile in Tile::all(Some(level), self.checkpoint.size) {
                let start = usize::try_from(tile.index).unwrap_or(usize::MAX).saturating_mul(TILE_WIDTH);
                let computed = hashes.get(start..start.saturating_add(tile.width)).unwrap_or_default();
                let bytes = read(self.store, report, &tile.to_string(), MAX_BUNDLE, "tile-missing");
                let stored = bytes.and_then(|bytes| hashes_of_tile(&bytes, tile.width).ok());
                if let Some(stored) = stored.filter(|stored| stored != computed) {
                    let at = stored.iter().zip(computed).position(|(stored, computed)| stored != computed);
                    let below = Tile {
                        level: Some(level - 1),
                        index: u64::try_from(start.saturating_add(at.unwrap_or(0))).unwrap_or(u64::MAX),
                        width: TILE_WIDTH,
                    };
                    let problem = format!(
                        "one of its hashes differs from the hash of {below}: one of the two files was changed"
                    );
                    report.problem("tile-changed", &tile.to_string(), problem);
                }
                if tile.is_whole() {
                    let mut tree = Frontier::new();
                    computed.iter().for_each(|hash| tree.push(*hash));
                    above.push(tree.root());
                }
            }
            hashes = above;
        }
    }
}

/// Whether the boot record's document proves an enclave that the policy accepts, with this receipt key and model.
fn judge(report: &mut BootReport, record: &BootRecord, policy: Option<&Policy>, history: &History<'_>) {
    let Some(policy) = policy else { return };
    let with_release;
    let policy = match (history.has_root(), history.first_release()) {
        (false, _) => policy,
        (true, Some(release)) => {
            with_release = policy.with_release(release);
            &with_release
        }
        // Without a release an enclave serves nobody, and nothing says which image it had to be.
        (true, None) => {
            if report.entries.contains_key("receipt") {
                let problem =
                    "the log has receipts and names no release, under which an enclave could have served";
                report.problem("boot-evidence", "entry 0", problem);
            }
            return;
        }
    };
    let refused =
        |report: &mut BootReport, problem: String| report.problem("boot-evidence", "entry 0", problem);
    match record.appraise(policy).as_ref().map(Verdict::accepted) {
        None => refused(report, "the attestation document cannot be read".to_owned()),
        Some(Ok(evidence)) => report.image = Some(evidence.image().to_owned()),
        Some(Err(rejection)) => refused(report, rejection.to_string()),
    }
}

/// Whether another view of the log is the same log, longer or shorter.
fn compare(store: &Store, other: &Store, ours: &Checkpoint, key: &NoteKey, report: &mut BootReport) {
    let path = format!("{}/checkpoint", report.boot);
    let note = match other.read(&path, MAX_CHECKPOINT_BYTES as u64) {
        Ok(Some(note)) => note,
        Ok(None) => return report.problem("view-missing", "", format!("{other} has no log of this boot")),
        Err(error) => return report.problem("unreadable", "", error.to_string()),
    };
    let note = SignedCheckpoint::parse(&note);
    let theirs = match note.as_ref().map_err(|error| *error).and_then(|note| note.verify(key)) {
        Ok(theirs) => theirs,
        Err(error) => return report.problem("view-signature", "checkpoint", format!("{other}: {error}")),
    };
    let mut tree = Frontier::new();
    let mut different = None;
    for tile in Tile::all(Some(0), theirs.size) {
        let Some(their_hashes) = leaves(other, report.boot, tile) else { break };
        let first = tree.size();
        their_hashes.iter().for_each(|hash| tree.push(*hash));
        if different.is_none() {
            let width = usize::try_from(ours.size.saturating_sub(first)).unwrap_or(TILE_WIDTH);
            let our_tile = Tile { width: width.min(TILE_WIDTH), ..tile };
            // What is wrong with ours is said elsewhere.
            let our_hashes = leaves(store, report.boot, our_tile).unwrap_or_default();
            let pairs = (first..).zip(our_hashes.iter().zip(&their_hashes));
            different = pairs.into_iter().find(|(_, (ours, theirs))| ours != theirs).map(|(index, _)| index);
        }
    }
    if tree.size() != theirs.size || tree.root() != theirs.root {
        return report.problem(
            "view-changed",
            "",
            format!("{other} has other hashes than its checkpoint counts"),
        );
    }
    if let Some(index) = different {
        let problem = format!("both views are signed, and from here on {other} has other entries");
        report.problem("two-views", &format!("entry {index}"), problem);
    } else if ours.size == theirs.size && ours.root != theirs.root {
        report.problem("two-views", "checkpoint", format!("{other} has another root for as many entries"));
    }
}

fn root_of(leaves: &[Sha256Digest]) -> Sha256Digest {
    let mut tree = Frontier::new();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

/// The stored hashes of a tile.
fn leaves(store: &Store, boot: Sha256Digest, tile: Tile) -> Option<Vec<Sha256Digest>> {
    let bytes = store.read(&format!("{boot}/{tile}"), MAX_BUNDLE).ok()??;
    hashes_of_tile(&bytes, tile.width).ok()
}
