//! One document that answers many challenges at once.
//!
//! The nonces are the leaves of a binary tree of SHA-256, and the document's own nonce is its root. A leaf hashes as
//! `SHA-256(0x00 ‖ nonce)`, an inner node as `SHA-256(0x01 ‖ left ‖ right)`. The tree is filled up to a power of two with
//! leaves of 32 zero bytes, so that every path has the same length. Who finds the root from their own nonce knows that the
//! document is younger than the nonce, as if it had been made for them alone.

use super::Nonce;
use crate::digest::Sha256Digest;

/// The challenges that one document answers.
pub struct SharedNonces {
    /// The leaves first, the root last. Each level is half as long as the one before it.
    levels: Vec<Vec<Sha256Digest>>,
}

impl SharedNonces {
    /// The tree over `nonces`, in their order.
    #[must_use]
    pub fn of(nonces: &[Nonce]) -> Self {
        let mut level: Vec<_> = nonces.iter().map(leaf).collect();
        level.resize(nonces.len().next_power_of_two(), FILLING);
        let mut levels = Vec::new();
        while level.len() > 1 {
            let above = level.chunks_exact(2).map(|pair| match pair {
                [left, right] => node(left, right),
                _ => FILLING,
            });
            let above = above.collect();
            levels.push(core::mem::replace(&mut level, above));
        }
        levels.push(level);
        Self { levels }
    }

    /// The nonce of the document.
    #[must_use]
    pub fn root(&self) -> Nonce {
        let root = self.levels.last().and_then(|level| level.first()).unwrap_or(&FILLING);
        Nonce::from_bytes(*root.as_bytes())
    }

    /// The way from the nonce at `index` to the root. `None` when there is no such nonce.
    #[must_use]
    pub fn path(&self, index: usize) -> Option<NoncePath> {
        let (_, below) = self.levels.split_last()?;
        let siblings: Option<Vec<_>> = below
            .iter()
            .enumerate()
            .map(|(height, level)| level.get(index.checked_shr(u32::try_from(height).ok()?)? ^ 1).copied())
            .collect();
        let path = NoncePath { index: u64::try_from(index).ok()?, siblings: siblings? };
        path.fits().then_some(path)
    }
}

/// The way from one nonce to the nonce of the document that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoncePath {
    /// The place of the nonce among the leaves, from 0. Bit *n* says on which side the path is at height *n*: 0 is left.
    pub index: u64,
    /// The neighbours of the path's nodes, from the leaf upwards.
    pub siblings: Vec<Sha256Digest>,
}

impl NoncePath {
    /// The longest path that is followed: far more nonces than a clean room has sessions.
    pub const MAX_SIBLINGS: usize = 32;

    /// The nonce that a document has to have to answer `nonce`. `None` when this is no path: it is too long, or the place is
    /// outside the tree.
    #[must_use]
    pub fn root(&self, nonce: &Nonce) -> Option<Nonce> {
        if !self.fits() {
            return None;
        }
        let mut place = self.index;
        let root = self.siblings.iter().fold(leaf(nonce), |own, sibling| {
            let is_right = place & 1 == 1;
            place >>= 1;
            if is_right { node(sibling, &own) } else { node(&own, sibling) }
        });
        Some(Nonce::from_bytes(*root.as_bytes()))
    }

    fn fits(&self) -> bool {
        self.siblings.len() <= Self::MAX_SIBLINGS && self.index >> self.siblings.len() == 0
    }
}

/// What stands where no nonce is.
const FILLING: Sha256Digest = Sha256Digest::from_bytes([0; Sha256Digest::LENGTH]);

fn leaf(nonce: &Nonce) -> Sha256Digest {
    Sha256Digest::of(&[&[0], nonce.as_bytes()])
}

fn node(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    Sha256Digest::of(&[&[1], left.as_bytes(), right.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonces(count: u8) -> Vec<Nonce> {
        (0..count).map(|byte| Nonce::from_bytes([byte; Nonce::LENGTH])).collect()
    }

    #[test]
    fn every_nonce_finds_the_root_and_no_other_does() {
        for count in 1..=9 {
            let nonces = nonces(count);
            let tree = SharedNonces::of(&nonces);
            for (index, nonce) in nonces.iter().enumerate() {
                let path = tree.path(index).unwrap();
                assert_eq!(path.siblings.len(), usize::from(count).next_power_of_two().ilog2() as usize);
                assert_eq!(path.root(nonce), Some(tree.root()), "{index} of {count}");
                let other = Nonce::from_bytes([0xFF; Nonce::LENGTH]);
                assert_ne!(path.root(&other), Some(tree.root()));
                let elsewhere = NoncePath { index: path.index ^ 1, ..path.clone() };
                assert_ne!(elsewhere.root(nonce), Some(tree.root()), "{index} of {count}");
            }
            assert_eq!(tree.path(usize::from(count).next_power_of_two()), None);
        }
    }

    #[test]
    fn the_root_of_three_is_what_the_page_says() {
        let nonces = nonces(3);
        let [a, b, c] = nonces.as_slice() else { panic!("there are three") };
        let root = node(&node(&leaf(a), &leaf(b)), &node(&leaf(c), &FILLING));
        assert_eq!(SharedNonces::of(&nonces).root().as_bytes(), root.as_bytes());
    }

    #[test]
    fn what_is_no_path_leads_nowhere() {
        let nonce = Nonce::from_bytes([7; Nonce::LENGTH]);
        assert_eq!(NoncePath { index: 1, siblings: Vec::new() }.root(&nonce), None);
        let long = vec![FILLING; NoncePath::MAX_SIBLINGS + 1];
        assert_eq!(NoncePath { index: 0, siblings: long }.root(&nonce), None);
        // The root of one nonce is its leaf, and never the nonce itself.
        let own = NoncePath { index: 0, siblings: Vec::new() }.root(&nonce).unwrap();
        assert_eq!(own.as_bytes(), leaf(&nonce).as_bytes());
    }
}
