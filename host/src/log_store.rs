//! The enclave's log on the host's disk, as C2SP `tlog-tiles` (`docs/receipts.md`).
//!
//! ```text
//! FOLDER/boots                     the boots, one in each line, for readers over the network
//! FOLDER/BOOT/checkpoint           the newest checkpoint whose leaves are all there
//! FOLDER/BOOT/witnessed            the newest checkpoint that witnesses have cosigned
//! FOLDER/BOOT/tile/...             hashes and entries
//! FOLDER/documents/SHA256.json     roots, releases and denials that the entries name
//! ```
//!
//! The host is not trusted with the log: whoever reads it checks all of it. What the store promises is to its operator. Everything
//! that was acknowledged to the enclave is on the disk, file and folder, whenever the power fails. Leaves are written before the
//! checkpoint that counts them, so a store that was cut off in the middle is the log as it was before.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    CheckpointError, Edge, MAX_CHECKPOINT_BYTES, MissingHash, SignedCheckpoint, StoredTiles, Tile,
    consistency_path, entries_of_bundle,
};
use cleanroom_link::control::Batch;
use cleanroom_program::file::{FileError, PUBLIC, create_folder, replace, replace_if_changed};

/// Permissions of the store's folders. Nothing in it is secret.
const FOLDER: u32 = 0o755;
/// The longest tile or bundle that is read back, in bytes.
const MAX_TILE_BYTES: u64 = 16 << 20;
/// The longest list of boots that is read back, in bytes.
const MAX_LIST_BYTES: u64 = 1 << 20;

/// The logs of all boots.
#[derive(Debug, Clone)]
pub struct LogStore {
    folder: PathBuf,
}

/// The log of one boot, which grows.
#[derive(Debug)]
pub struct BootLog {
    folder: PathBuf,
    edge: Edge,
}

/// Why entries could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refuses.
    #[error(transparent)]
    File(#[from] FileError),
    /// The enclave sent no log.
    #[error("the enclave sent no log: {0}")]
    Log(#[from] CheckpointError),
    /// The enclave no longer has entries that the store lacks.
    #[error(
        "the store has {have} entries, and the enclave has none before number {first}: the log has a gap"
    )]
    Gap {
        /// Entries in the store.
        have: u64,
        /// The first entry that the enclave still has.
        first: u64,
    },
    /// The entries do not lead to the checkpoint's root.
    #[error("the entries do not lead to the root of the checkpoint")]
    Root,
    /// What the store has is not whole.
    #[error("the log in {} is not whole", .0.display())]
    Damaged(PathBuf),
}

impl LogStore {
    /// The store in `folder`, which is made.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(folder: PathBuf) -> Result<Self, FileError> {
        create_folder(&folder, FOLDER)?;
        Ok(Self { folder })
    }

    /// The log that a checkpoint of the enclave is of: what the store has of it, or nothing yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn boot(&self, checkpoint: &[u8]) -> Result<BootLog, StoreError> {
        let checkpoint = SignedCheckpoint::parse(checkpoint)?;
        // The name of a folder: hexadecimal digits and nothing else.
        let boot = checkpoint.unverified().boot().ok_or(CheckpointError::OtherLog)?;
        let folder = self.folder.join(boot.to_string());
        self.list(&boot)?;
        let edge = match read(&folder.join("checkpoint"), MAX_CHECKPOINT_BYTES as u64) {
            None => Edge::default(),
            Some(kept) => {
                let kept = SignedCheckpoint::parse(&kept)?.unverified().clone();
                let edge =
                    Edge::resume(kept.size, |tile| read(&folder.join(tile.to_string()), MAX_TILE_BYTES));
                edge.filter(|edge| edge.root() == kept.root)
                    .ok_or_else(|| StoreError::Damaged(folder.clone()))?
            }
        };
        Ok(BootLog { folder, edge })
    }

    /// Names the boot in the list that readers over the network begin with.
    fn list(&self, boot: &Sha256Digest) -> Result<(), FileError> {
        let path = self.folder.join("boots");
        let listed = read(&path, MAX_LIST_BYTES).unwrap_or_default();
        let line = format!("{boot}\n");
        if listed.windows(line.len()).any(|window| window == line.as_bytes()) {
            return Ok(());
        }
        replace(&path, &[listed.as_slice(), line.as_bytes()].concat(), PUBLIC)
    }

    /// The boots that began last, the newest first.
    pub(crate) fn newest_boots(&self, most: usize) -> Vec<Sha256Digest> {
        let listed = read(&self.folder.join("boots"), MAX_LIST_BYTES).unwrap_or_default();
        let lines = String::from_utf8(listed).unwrap_or_default();
        lines.lines().rev().filter_map(|line| line.parse().ok()).take(most).collect()
    }

    /// The newest checkpoint of a boot, as the enclave signed it.
    pub(crate) fn checkpoint(&self, boot: &Sha256Digest) -> Option<SignedCheckpoint> {
        self.note(boot, "checkpoint")
    }

    /// The newest checkpoint of a boot that witnesses have cosigned.
    pub(crate) fn witnessed(&self, boot: &Sha256Digest) -> Option<SignedCheckpoint> {
        self.note(boot, "witnessed")
    }

    /// Keeps a checkpoint with its cosignatures.
    pub(crate) fn keep_witnessed(
        &self,
        boot: &Sha256Digest,
        note: &SignedCheckpoint,
    ) -> Result<(), FileError> {
        replace(&self.folder.join(boot.to_string()).join("witnessed"), &note.to_bytes(), PUBLIC)
    }

    fn note(&self, boot: &Sha256Digest, name: &str) -> Option<SignedCheckpoint> {
        let bytes = read(&self.folder.join(boot.to_string()).join(name), MAX_CHECKPOINT_BYTES as u64)?;
        SignedCheckpoint::parse(&bytes).ok()
    }

    /// The first entry of a boot's log that has `size` entries: its record.
    pub(crate) fn record(&self, boot: &Sha256Digest, size: u64) -> Option<Vec<u8>> {
        let first = Tile::all(None, size).next()?;
        let bundle = read(&self.folder.join(boot.to_string()).join(first.to_string()), MAX_TILE_BYTES)?;
        entries_of_bundle(&bundle, first.width).ok()?.first().map(|entry| entry.to_vec())
    }

    /// The proof that a boot's log of `old` entries is the beginning of its log of `size`.
    pub(crate) fn consistency(
        &self,
        boot: &Sha256Digest,
        old: u64,
        size: u64,
    ) -> Result<Vec<Sha256Digest>, MissingHash> {
        let folder = self.folder.join(boot.to_string());
        let tiles =
            StoredTiles { size, read: |tile: Tile| read(&folder.join(tile.to_string()), MAX_TILE_BYTES) };
        consistency_path(&tiles, old, size)
    }

    /// Keeps a root, release or denial under the digest of its payload.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep_document(&self, payload_sha256: &Sha256Digest, envelope: &[u8]) -> Result<(), FileError> {
        let folder = self.folder.join("documents");
        create_folder(&folder, FOLDER)?;
        replace_if_changed(&folder.join(format!("{payload_sha256}.json")), envelope, PUBLIC).map(|_| ())
    }
}

impl BootLog {
    /// How many entries are on the disk.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Appends a batch of the enclave. When it returns, all of it is on the disk. After an error the log on the disk is as it was,
    /// and the value must not be used any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let have = self.edge.size();
        if batch.first != have {
            return Err(StoreError::Gap { have, first: batch.first });
        }
        if batch.entries.is_empty() {
            return Ok(());
        }
        let files = self.edge.append(&batch.entries);
        if SignedCheckpoint::parse(&batch.checkpoint)?.unverified().root != self.edge.root() {
            return Err(StoreError::Root);
        }
        for (tile, bytes) in &files {
            let path = self.folder.join(tile.to_string());
            create_folder(path.parent().unwrap_or(&self.folder), FOLDER)?;
            replace(&path, bytes, PUBLIC)?;
        }
        replace(&self.folder.join("checkpoint"), &batch.checkpoint, PUBLIC)?;
        // Readers of an older checkpoint find a partial tile until its whole one is there.
        for (tile, _) in files.iter().filter(|(tile, _)| tile.is_whole()) {
            remove_partial(&self.folder, tile);
        }
        Ok(())
    }
}

/// What a whole tile takes the place of. If it stays, nothing is wrong with the log.
fn remove_partial(folder: &Path, tile: &Tile) {
    let mut name = folder.join(tile.to_string()).into_os_string();
    name.push(".p");
    let _ = fs::remove_dir_all(name);
}

fn read(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
