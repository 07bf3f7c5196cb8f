//! The host's part for an enclave's log: fetched over the control connection and laid out as tiles.

use std::path::{Path, PathBuf};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{Edge, Entry, SignedCheckpoint, Tile, entries_of_bundle};
use cleanroom_link::control::{Batch, ControlAnswer, ControlKind};

use crate::clean_room::Control;

/// A host that keeps the log.
pub struct LogKeeper {
    store: PathBuf,
    edge: Edge,
    /// Every entry so far.
    pub entries: Vec<Vec<u8>>,
}

impl LogKeeper {
    /// Nothing is kept yet. The store is made in `store`.
    #[must_use]
    pub fn new(store: &Path) -> Self {
        Self { store: store.to_owned(), edge: Edge::default(), entries: Vec::new() }
    }

    /// Fetches everything that there is, and gives the folder of the boot.
    pub async fn fetch(&mut self, control: &mut Control) -> PathBuf {
        loop {
            let batch = ask(control, self.edge.size()).await;
            let checkpoint = SignedCheckpoint::parse(&batch.checkpoint).unwrap().unverified().clone();
            let boot = self.store.join(checkpoint.boot().unwrap().to_string());
            let files = self.edge.append(&batch.entries);
            assert_eq!((self.edge.size(), self.edge.root()), (checkpoint.size, checkpoint.root));
            for (tile, bytes) in files {
                write(&boot.join(tile.to_string()), &bytes);
            }
            write(&boot.join("checkpoint"), &batch.checkpoint);
            let is_all = batch.entries.is_empty();
            self.entries.extend(batch.entries);
            if is_all {
                return boot;
            }
        }
    }

    /// What the entries say.
    #[must_use]
    pub fn said(&self) -> Vec<Entry> {
        self.entries.iter().map(|entry| Entry::parse(entry).unwrap()).collect()
    }
}

/// The receipts that the logs in a host's store name, boot by boot.
#[must_use]
pub fn receipts_in(store: &Path) -> Vec<Sha256Digest> {
    let mut receipts = Vec::new();
    for boot in std::fs::read_dir(store).unwrap() {
        let boot = boot.unwrap().path();
        let Ok(checkpoint) = std::fs::read(boot.join("checkpoint")) else { continue };
        let size = SignedCheckpoint::parse(&checkpoint).unwrap().unverified().size;
        for tile in Tile::all(None, size) {
            let bundle = std::fs::read(boot.join(tile.to_string())).unwrap();
            for entry in entries_of_bundle(&bundle, tile.width).unwrap() {
                if let Entry::Receipt { sha256 } = Entry::parse(entry).unwrap() {
                    receipts.push(sha256);
                }
            }
        }
    }
    receipts
}

async fn ask(control: &mut Control, size: u64) -> Batch {
    match control.send(ControlKind::Log, &size.to_be_bytes()).await {
        ControlAnswer::Log(batch) => batch,
        other => panic!("expected the log, got {other:?}"),
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}
