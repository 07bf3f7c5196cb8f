//! Facts about certificates after validation.

use super::window::Window;
use crate::crypto::Es384Key;
use crate::digest::Sha256Digest;
use crate::time::Timestamp;

/// The certificates of a document: what a validation is about, and how a cache finds it again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Certificates<'a> {
    /// The DER of the certificates above the leaf, root first.
    pub(crate) bundle: &'a [&'a [u8]],
    /// The leaf's DER.
    pub(crate) leaf: &'a [u8],
}

/// The certificates above a leaf, validated together.
#[derive(Debug, Clone)]
pub(super) struct Authorities {
    /// The SHA-256 of the root certificate.
    pub(super) root: Sha256Digest,
    /// When all of them are valid.
    pub(super) window: Window,
}

/// A validated chain: what of it the appraisal needs.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    /// The SHA-256 of the root certificate.
    pub(crate) root: Sha256Digest,
    /// The SHA-256 of the leaf certificate.
    pub(crate) leaf: Sha256Digest,
    /// When all certificates are valid.
    pub(super) window: Window,
    pub(super) leaf_window: Window,
    /// The leaf's key; `None` when its point is not on the curve, so that it can have signed nothing.
    pub(crate) key: Option<Es384Key>,
    /// The leaf subject's common name, if it has exactly one.
    pub(crate) common_name: Option<String>,
}

impl Chain {
    /// The first and last second in which the leaf is valid.
    pub(crate) const fn leaf_window(&self) -> (Timestamp, Timestamp) {
        (self.leaf_window.not_before, self.leaf_window.not_after)
    }

    /// Whether the leaf is valid at a time, without any tolerance.
    pub(crate) const fn leaf_is_valid_at(&self, at: Timestamp) -> bool {
        self.leaf_window.contains(at)
    }

    /// The last second in which every certificate is valid.
    pub(crate) const fn not_after(&self) -> Timestamp {
        self.window.not_after
    }
}
