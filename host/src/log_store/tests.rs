use cleanroom_attestation::log::{Checkpoint, Frontier, leaf_hash};
use cleanroom_program::file::fault;

use super::*;

const BOOT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// An enclave's end: entries, and checkpoints that nobody here verifies.
struct Enclave {
    entries: Vec<Vec<u8>>,
}

impl Enclave {
    fn new(count: u32) -> Self {
        Self { entries: (0..count).map(|n| format!("entry {n}").into_bytes()).collect() }
    }

    fn batch(&self, from: u64, to: u64) -> Batch {
        let mut tree = Frontier::new();
        self.entries[..to as usize].iter().for_each(|entry| tree.push(leaf_hash(entry)));
        let origin = cleanroom_attestation::log::origin(&BOOT.parse().unwrap());
        let checkpoint = Checkpoint { origin, size: to, root: tree.root() };
        let note = format!("{}\n\u{2014} {} AAAAAAAA\n", checkpoint.text(), checkpoint.origin);
        let entries = self.entries[from as usize..to as usize].to_vec();
        Batch { first: from, entries, checkpoint: note.into_bytes() }
    }
}

fn open(folder: &Path, enclave: &Enclave) -> Result<BootLog, StoreError> {
    LogStore::open(folder.to_owned())?.boot(&enclave.batch(0, 0).checkpoint)
}

#[test]
fn a_log_that_is_opened_again_goes_on_where_it_was() {
    let (folder, enclave) = (tempfile::tempdir().unwrap(), Enclave::new(700));
    for (from, to) in [(0, 1), (1, 255), (255, 256), (256, 600), (600, 700)] {
        let mut log = open(folder.path(), &enclave).unwrap();
        assert_eq!(log.size(), from);
        log.append(&enclave.batch(from, to)).unwrap();
        assert_eq!(log.size(), to);
    }
    assert_eq!(fs::read_to_string(folder.path().join("boots")).unwrap(), format!("{BOOT}\n"));
    let boot = folder.path().join(BOOT);
    assert!(boot.join("tile/0/000").is_file() && !boot.join("tile/0/000.p").exists());
    assert!(boot.join("tile/entries/002.p/188").is_file() && boot.join("tile/1/000.p/2").is_file());
}

#[test]
fn what_does_not_follow_or_leads_elsewhere_is_not_stored() {
    let (folder, enclave) = (tempfile::tempdir().unwrap(), Enclave::new(20));
    open(folder.path(), &enclave).unwrap().append(&enclave.batch(0, 5)).unwrap();
    let stored = || open(folder.path(), &enclave).unwrap();
    for (from, to) in [(6, 10), (4, 10)] {
        assert!(matches!(stored().append(&enclave.batch(from, to)), Err(StoreError::Gap { have: 5, .. })));
    }
    let mut other = enclave.batch(5, 10);
    other.entries[0] = b"other".to_vec();
    assert!(matches!(stored().append(&other), Err(StoreError::Root)));
    assert_eq!(stored().size(), 5);

    let mut evil = enclave.batch(0, 0);
    evil.checkpoint = String::from_utf8(evil.checkpoint).unwrap().replace(BOOT, "../../../etc").into_bytes();
    let store = LogStore::open(folder.path().to_owned()).unwrap();
    assert!(matches!(store.boot(&evil.checkpoint), Err(StoreError::Log(CheckpointError::OtherLog))));

    fs::remove_file(folder.path().join(BOOT).join("tile/0/000.p/5")).unwrap();
    assert!(matches!(open(folder.path(), &enclave), Err(StoreError::Damaged(_))));
}

#[test]
fn a_fault_at_any_write_loses_nothing_that_was_acknowledged() {
    let enclave = Enclave::new(600);
    let steps = [(0, 3), (3, 250), (250, 260), (260, 600)];
    for until_power_is_back in [false, true] {
        let mut faults = 0;
        for number in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let mut acknowledged = 0;
            let work = || {
                for (from, to) in steps {
                    let Ok(mut log) = open(folder.path(), &enclave) else { return };
                    if log.append(&enclave.batch(from, to)).is_err() {
                        return;
                    }
                    acknowledged = to;
                }
            };
            let ((), met) =
                if until_power_is_back { fault::from(number, work) } else { fault::at(number, work) };
            // The machine is back: the store has everything that was acknowledged, and goes on.
            let log = open(folder.path(), &enclave).unwrap();
            assert!(log.size() >= acknowledged, "fault {number}: {} of {acknowledged}", log.size());
            for (_, to) in steps {
                let mut log = open(folder.path(), &enclave).unwrap();
                let size = log.size();
                if size < to {
                    log.append(&enclave.batch(size, to)).unwrap();
                }
            }
            assert_eq!(open(folder.path(), &enclave).unwrap().size(), 600);
            if !met {
                break;
            }
            faults += 1;
        }
        assert!(faults > 30, "a fault was met at {faults} operations");
    }
}

#[test]
fn documents_are_kept_under_their_digests() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path().to_owned()).unwrap();
    let sha256 = Sha256Digest::of(&[b"payload"]);
    store.keep_document(&sha256, b"{}").unwrap();
    store.keep_document(&sha256, b"{}").unwrap();
    assert_eq!(fs::read(folder.path().join(format!("documents/{sha256}.json"))).unwrap(), b"{}");
}
