//! The log of one boot of an enclave, as a Merkle tree that nobody can change unnoticed.
//!
//! `docs/receipts.md` is the specification. The tree is that of RFC 6962 with SHA-256. Its [`Checkpoint`]s are C2SP
//! `tlog-checkpoint` notes, signed by the receipt key. A host keeps its leaves as C2SP `tlog-tiles`. The enclave itself keeps a
//! [`Frontier`], which grows with the logarithm of the log.
//!
//! * `merkle`: the tree, inclusion and consistency proofs.
//! * `checkpoint`: the signed statement about a size and a root.
//! * `cose`: what of it is signed once more, for COSE receipts.
//! * `tiles`: where the leaves and hashes of a log lie.
//! * `entry`: what the leaves say.
//! * `cosignature`, `add_checkpoint`: what witnesses sign, and what they are asked.
//! * `witness_rule`: what a release demands of them.
//! * `evidence`: whether the boot record proves an enclave.

mod add_checkpoint;
mod checkpoint;
mod cose;
mod cosignature;
mod entry;
mod evidence;
mod merkle;
mod tiles;
mod witness_rule;

pub use add_checkpoint::AddCheckpoint;
pub use checkpoint::{
    Checkpoint, CheckpointError, MAX_CHECKPOINT_BYTES, NoteKey, NoteSignature, SignedCheckpoint, boot_of,
    origin,
};
pub use cose::{cose_protected, cose_to_be_signed};
pub use cosignature::{WitnessKey, WitnessKeyError};
pub use entry::{BootRecord, Entry, EntryError, MAX_ENTRY_BYTES};
pub use merkle::{
    Frontier, HashSource, MissingHash, ProofError, consistency_path, inclusion_path, leaf_hash, node_hash,
    range_root, verify_consistency, verify_inclusion,
};
pub use tiles::{
    BundleError, Edge, StoredTiles, TILE_WIDTH, Tile, TileFile, bundle, entries_of_bundle, hashes_of_tile,
};
pub use witness_rule::WitnessRule;

#[cfg(test)]
pub(crate) use checkpoint::tests::Signer;
