//! The Merkle tree of RFC 6962 section 2.1 with SHA-256: `SHA-256(0x00 ‖ entry)` for a leaf, `SHA-256(0x01 ‖ left ‖ right)` for a
//! node, and a tree of n leaves that splits at the largest power of two below n.

use crate::digest::Sha256Digest;

/// The hash of a leaf.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Sha256Digest {
    Sha256Digest::of(&[&[0], entry])
}

/// The hash of a node.
#[must_use]
pub fn node_hash(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    Sha256Digest::of(&[&[1], left.as_bytes(), right.as_bytes()])
}

/// A tree that only grows, kept as the roots of its whole subtrees: at most one for each bit of its size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of whole subtrees, the largest first, each with its height.
    subtrees: Vec<(u32, Sha256Digest)>,
}

impl Frontier {
    /// The empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, subtrees: Vec::new() }
    }

    /// How many leaves there are.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Sha256Digest) {
        let (mut root, mut height) = (leaf, 0_u32);
        while let Some((_, left)) = self.subtrees.pop_if(|(of, _)| *of == height) {
            root = node_hash(&left, &root);
            height = height.saturating_add(1);
        }
        self.subtrees.push((height, root));
        self.size = self.size.saturating_add(1);
    }

    /// The tree's root; for no leaves the hash of nothing, as RFC 6962 has it.
    #[must_use]
    pub fn root(&self) -> Sha256Digest {
        let mut roots = self.subtrees.iter().rev().map(|(_, root)| *root);
        match roots.next() {
            None => Sha256Digest::of(&[]),
            Some(last) => roots.fold(last, |right, left| node_hash(&left, &right)),
        }
    }
}

/// Where the hashes of whole subtrees are read from.
pub trait HashSource {
    /// The root of the whole subtree with `2^height` leaves that is the `index`th of its height from the left.
    fn hash(&self, height: u32, index: u64) -> Option<Sha256Digest>;
}

/// A hash that a proof needs is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hash of subtree {index} of height {height} is missing")]
pub struct MissingHash {
    /// The subtree's height.
    pub height: u32,
    /// Its place among those of its height.
    pub index: u64,
}

/// The root of the leaves from `start` to before `end`, which must be a subtree that a proof can name: whole, or the right edge.
///
/// # Errors
/// [`MissingHash`].
pub fn range_root(source: &impl HashSource, start: u64, end: u64) -> Result<Sha256Digest, MissingHash> {
    let length = end.saturating_sub(start);
    if length == 0 {
        return Ok(Sha256Digest::of(&[]));
    }
    if length.is_power_of_two() {
        let height = length.trailing_zeros();
        let index = start >> height;
        return source.hash(height, index).ok_or(MissingHash { height, index });
    }
    let middle = start.saturating_add(split(length));
    Ok(node_hash(&range_root(source, start, middle)?, &range_root(source, middle, end)?))
}

/// The inclusion proof of leaf `index` in the tree of `size` leaves (RFC 6962 section 2.1.1), from the leaf upwards.
///
/// # Errors
/// [`MissingHash`], also when there is no such leaf.
pub fn inclusion_path(
    source: &impl HashSource,
    index: u64,
    size: u64,
) -> Result<Vec<Sha256Digest>, MissingHash> {
    if index >= size {
        return Err(MissingHash { height: 0, index });
    }
    let (mut start, mut end) = (0_u64, size);
    let mut path = Vec::new();
    while end.saturating_sub(start) > 1 {
        let middle = start.saturating_add(split(end.saturating_sub(start)));
        if index < middle {
            path.push(range_root(source, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(source, start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `old` leaves is the beginning of that of `new` leaves (RFC 6962 section 2.1.2).
///
/// # Errors
/// [`MissingHash`].
pub fn consistency_path(
    source: &impl HashSource,
    old: u64,
    new: u64,
) -> Result<Vec<Sha256Digest>, MissingHash> {
    let mut path = Vec::new();
    if old == 0 || old >= new {
        return Ok(path);
    }
    let (mut start, mut end, mut is_known) = (0_u64, new, true);
    // `old` is inside the range, or its end.
    while old < end {
        let middle = start.saturating_add(split(end.saturating_sub(start)));
        if old <= middle {
            path.push(range_root(source, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(source, start, middle)?);
            (start, is_known) = (middle, false);
        }
    }
    if !is_known {
        path.push(range_root(source, start, end)?);
    }
    path.reverse();
    Ok(path)
}

/// The largest power of two below `length`, which is at least 2.
fn split(length: u64) -> u64 {
    1 << length.saturating_sub(1).checked_ilog2().unwrap_or(0)
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// There is no such leaf, or the older tree is the larger one.
    #[error("expected a leaf or a tree within {size} leaves, got {actual}")]
    Range {
        /// Leaves of the (newer) tree.
        size: u64,
        /// The leaf or the older size.
        actual: u64,
    },
    /// The proof has another number of hashes than the sizes need.
    #[error("the proof has the wrong number of hashes for these sizes")]
    Length,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// Checks an inclusion proof (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// [`ProofError`].
pub fn verify_inclusion(
    leaf: Sha256Digest,
    index: u64,
    size: u64,
    path: &[Sha256Digest],
    root: &Sha256Digest,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Range { size, actual: index });
    }
    let (mut node, mut last) = (index, size.saturating_sub(1));
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks a consistency proof (RFC 9162 section 2.1.4.2).
///
/// # Errors
/// [`ProofError`].
pub fn verify_consistency(
    old: (u64, &Sha256Digest),
    new: (u64, &Sha256Digest),
    path: &[Sha256Digest],
) -> Result<(), ProofError> {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size {
        return Err(ProofError::Range { size: new_size, actual: old_size });
    }
    if old_size == new_size || old_size == 0 {
        if !path.is_empty() {
            return Err(ProofError::Length);
        }
        return if old_size == 0 || old_root == new_root { Ok(()) } else { Err(ProofError::Root) };
    }
    let mut hashes = path.iter().copied();
    let (mut node, mut last) = (old_size.saturating_sub(1), new_size.saturating_sub(1));
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    // A whole old tree is its own first hash.
    let first = if old_size.is_power_of_two() { Some(*old_root) } else { hashes.next() };
    let first = first.ok_or(ProofError::Length)?;
    let (mut of_old, mut of_new) = (first, first);
    for hash in hashes {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            (of_old, of_new) = (node_hash(&hash, &of_old), node_hash(&hash, &of_new));
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            of_new = node_hash(&of_new, &hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if of_old == *old_root && of_new == *new_root { Ok(()) } else { Err(ProofError::Root) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<Sha256Digest> {
        (0..count).map(|index| leaf_hash(&index.to_be_bytes())).collect()
    }

    /// RFC 6962 section 2.1, word for word.
    fn recursive(leaves: &[Sha256Digest]) -> Sha256Digest {
        match leaves {
            [] => Sha256Digest::of(&[]),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&recursive(left), &recursive(right))
            }
        }
    }

    impl HashSource for Vec<Sha256Digest> {
        fn hash(&self, height: u32, index: u64) -> Option<Sha256Digest> {
            let width = 1_usize << height;
            let start = usize::try_from(index).ok()?.checked_mul(width)?;
            self.get(start..start.checked_add(width)?).map(recursive)
        }
    }

    #[test]
    fn a_frontier_has_the_root_that_the_recursive_definition_gives() {
        let leaves = leaves(70);
        let mut frontier = Frontier::new();
        for size in 0..=leaves.len() {
            assert_eq!(frontier.root(), recursive(&leaves[..size]), "{size} leaves");
            assert_eq!(frontier.size(), size as u64);
            assert!(frontier.subtrees.len() <= 7);
            frontier.push(*leaves.get(size).unwrap_or(&frontier.root()));
        }
    }

    #[test]
    fn every_inclusion_proof_holds_for_its_own_leaf_place_size_and_root_alone() {
        let leaves = leaves(40);
        for size in 1..=40_u64 {
            let root = recursive(&leaves[..size as usize]);
            for index in 0..size {
                let path = inclusion_path(&leaves, index, size).unwrap();
                let verify = |leaf: usize, index, size, path: &[Sha256Digest], root| {
                    verify_inclusion(leaves[leaf], index, size, path, root)
                };
                let own = index as usize;
                assert_eq!(verify(own, index, size, &path, &root), Ok(()), "{index} of {size}");
                assert!(verify(own, index, size, &path, &leaves[0]).is_err() || size == 1);
                let longer = [path.as_slice(), &[root]].concat();
                assert!(verify(own, index, size, &longer, &root).is_err());
                if size > 1 {
                    let shorter = &path[..path.len() - 1];
                    assert!(verify(own, index, size, shorter, &root).is_err());
                    assert!(verify((own + 1) % size as usize, index, size, &path, &root).is_err());
                    assert!(verify(own, (index + 1) % size, size, &path, &root).is_err());
                }
                assert_eq!(
                    verify(own, size, size, &path, &root),
                    Err(ProofError::Range { size, actual: size })
                );
            }
        }
    }

    #[test]
    fn every_consistency_proof_holds_for_its_own_two_trees_alone() {
        let leaves = leaves(40);
        for new in 1..=40_u64 {
            let new_root = recursive(&leaves[..new as usize]);
            for old in 0..=new {
                let old_root = recursive(&leaves[..old as usize]);
                let path = consistency_path(&leaves, old, new).unwrap();
                let verify = |old_root, new_root, path: &[Sha256Digest]| {
                    verify_consistency((old, old_root), (new, new_root), path)
                };
                assert_eq!(verify(&old_root, &new_root, &path), Ok(()), "{old} of {new}");
                let other = leaf_hash(b"other");
                assert!(old == 0 || verify(&other, &new_root, &path).is_err());
                assert!(old == 0 || verify(&old_root, &other, &path).is_err());
                let longer = [path.as_slice(), &[other]].concat();
                assert!(verify(&old_root, &new_root, &longer).is_err());
                if let [shorter @ .., _] = path.as_slice() {
                    assert!(verify(&old_root, &new_root, shorter).is_err());
                }
            }
        }
        let root = recursive(&leaves[..3]);
        assert!(verify_consistency((3, &root), (2, &root), &[]).is_err());
    }
}
