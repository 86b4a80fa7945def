//! The Merkle tree over a log's leaves: its root at any size, and the paths that prove a leaf or an earlier root.
//!
//! Kept in memory are the roots of full subtrees of [`CHUNK_LEAVES`] leaves and more, about one byte for each leaf. What
//! lies below is computed again, for a proof, from the leaves of a few chunks, which the caller reads back.
//!
//! Specification: docs/protocol.md §5.6; RFC 9162 §2.1.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

/// Leaves that a proof reads back at a time.
pub const CHUNK_LEAVES: u64 = 1 << CHUNK_LEVEL;

const CHUNK_LEVEL: u32 = 6;

/// Hashes in a proof, at most: one for each bit of a size, and one more for consistency.
pub const PATH_MAX: usize = 65;

/// A tree that leaves are appended to.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    size: u64,
    last: [u8; 32],
    /// The roots of the full subtrees from the left, the largest first: one for each bit of `size`.
    peaks: Vec<[u8; 32]>,
    /// The roots of all full subtrees of 64 leaves, of 128, and so on, each from the left.
    large: Vec<Vec<[u8; 32]>>,
}

impl Tree {
    /// Leaves in the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hash of the last leaf; zeros when there is none.
    pub(super) fn last(&self) -> [u8; 32] {
        self.last
    }

    /// The Merkle tree hash over all leaves (RFC 9162 §2.1.1).
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Sha256::digest(b"").into();
        };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: [u8; 32]) {
        let mut hash = leaf;
        // Each low bit of the size that is set stands for a full subtree as large as what came so far.
        for level in 1..=self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
            let Some(row) = level.checked_sub(CHUNK_LEVEL).map(|row| row as usize) else { continue };
            if row == self.large.len() {
                self.large.push(Vec::new());
            }
            if let Some(roots) = self.large.get_mut(row) {
                roots.push(hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
        self.last = leaf;
    }

    /// The path that proves leaf `seq` in the tree of the first `size` leaves, from the leaf up (RFC 9162 §2.1.3.1).
    ///
    /// `chunk` reads back the hashes of the leaves of the chunk with the number it is given: [`CHUNK_LEAVES`] of them,
    /// or as many as there are.
    ///
    /// # Errors
    /// Those of `chunk`.
    ///
    /// # Panics
    /// Unless `seq < size <= self.size()`.
    pub fn inclusion<E>(&self, seq: u64, size: u64, chunk: Chunks<'_, E>) -> Result<Vec<[u8; 32]>, E> {
        assert!(seq < size && size <= self.size, "leaf {seq} of {size} in a tree of {}", self.size);
        let (mut leaves, mut path) = (0..size, Vec::new());
        let mut reader = Reader { tree: self, chunk, read: None };
        while leaves.end - leaves.start > 1 {
            let (left, right) = split(&leaves);
            let (inside, outside) = if seq < left.end { (left, right) } else { (right, left) };
            path.push(reader.root(outside)?);
            leaves = inside;
        }
        path.reverse();
        Ok(path)
    }

    /// The path that proves that the first `old` leaves are the beginning of the first `size` (RFC 9162 §2.1.4.1).
    ///
    /// # Errors
    /// Those of `chunk`, as for [`Tree::inclusion`].
    ///
    /// # Panics
    /// Unless `1 <= old <= size <= self.size()`.
    pub fn consistency<E>(&self, old: u64, size: u64, chunk: Chunks<'_, E>) -> Result<Vec<[u8; 32]>, E> {
        assert!((1..=size).contains(&old) && size <= self.size, "{old} of {size} in {}", self.size);
        let (mut leaves, mut path) = (0..size, Vec::new());
        let mut reader = Reader { tree: self, chunk, read: None };
        while leaves.end != old {
            let (left, right) = split(&leaves);
            let (inside, outside) = if old <= left.end { (left, right) } else { (right, left) };
            path.push(reader.root(outside)?);
            leaves = inside;
        }
        if leaves.start > 0 {
            // Not known to whoever holds the old root alone.
            path.push(reader.root(leaves)?);
        }
        path.reverse();
        Ok(path)
    }
}

/// Reads back the hashes of a chunk's leaves.
pub type Chunks<'a, E> = &'a mut dyn FnMut(u64) -> Result<Vec<[u8; 32]>, E>;

/// Roots of parts of a tree.
struct Reader<'a, E> {
    tree: &'a Tree,
    chunk: Chunks<'a, E>,
    /// The chunk that was read last.
    read: Option<(u64, Vec<[u8; 32]>)>,
}

impl<E> Reader<'_, E> {
    /// The root of the subtree over `leaves`, which begins where a full subtree of its depth would.
    fn root(&mut self, leaves: Range<u64>) -> Result<[u8; 32], E> {
        let count = leaves.end - leaves.start;
        if count.is_power_of_two() && count >= CHUNK_LEAVES {
            let row = (count.trailing_zeros() - CHUNK_LEVEL) as usize;
            let kept = self.tree.large.get(row).and_then(|roots| roots.get((leaves.start / count) as usize));
            if let Some(root) = kept {
                return Ok(*root);
            }
        }
        if count > CHUNK_LEAVES {
            let (left, right) = split(&leaves);
            let left = self.root(left)?;
            return Ok(node_hash(&left, &self.root(right)?));
        }
        let number = leaves.start / CHUNK_LEAVES;
        let hashes = match self.read.take() {
            Some((read, hashes)) if read == number => hashes,
            _ => (self.chunk)(number)?,
        };
        let first = (leaves.start % CHUNK_LEAVES) as usize;
        // A chunk that comes back too short yields a proof that proves nothing.
        let root = subtree(hashes.get(first..first + count as usize).unwrap_or_default());
        self.read = Some((number, hashes));
        Ok(root)
    }
}

/// The two parts of a tree: the larger power of two to the left.
fn split(leaves: &Range<u64>) -> (Range<u64>, Range<u64>) {
    let half = (leaves.end - leaves.start).next_power_of_two() / 2;
    let middle = leaves.start + half;
    (leaves.start..middle, middle..leaves.end)
}

/// The Merkle tree hash over a few leaves, as RFC 9162 §2.1.1 has it.
pub(super) fn subtree(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&subtree(left), &subtree(right))
        }
    }
}

/// Whether `path` proves the leaf with the hash `leaf` at place `seq` of the tree of `size` leaves with this root.
///
/// Source: RFC 9162 §2.1.3.2.
#[must_use]
pub fn includes(seq: u64, size: u64, leaf: &[u8; 32], path: &[[u8; 32]], root: &[u8; 32]) -> bool {
    if seq >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (seq, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            // A node without a right neighbour is the same on the next levels.
            while place & 1 == 0 && place != 0 {
                (place, last) = (place >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (place, last) = (place >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether `path` proves that the tree of `old` leaves is the beginning of the tree of `size` leaves, by their roots.
///
/// Source: RFC 9162 §2.1.4.2.
#[must_use]
pub fn extends(old: u64, size: u64, old_root: &[u8; 32], root: &[u8; 32], path: &[[u8; 32]]) -> bool {
    if old == 0 || old > size {
        return false;
    }
    if old == size {
        return path.is_empty() && old_root == root;
    }
    let mut path = path.iter();
    // The old tree's last full subtree: the old root itself if there is no other.
    let first = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut place, mut last) = (old - 1, size - 1);
    while place & 1 == 1 {
        (place, last) = (place >> 1, last >> 1);
    }
    let (mut before, mut after) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            before = node_hash(sibling, &before);
            after = node_hash(sibling, &after);
            while place & 1 == 0 && place != 0 {
                (place, last) = (place >> 1, last >> 1);
            }
        } else {
            after = node_hash(&after, sibling);
        }
        (place, last) = (place >> 1, last >> 1);
    }
    last == 0 && before == *old_root && after == *root
}

/// The hash of a leaf.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<[u8; 32]> {
        (0..count).map(|at| leaf_hash(&at.to_be_bytes())).collect()
    }

    fn chunk(leaves: &[[u8; 32]]) -> impl FnMut(u64) -> Result<Vec<[u8; 32]>, std::convert::Infallible> {
        move |number| {
            Ok(leaves.chunks(CHUNK_LEAVES as usize).nth(number as usize).unwrap_or_default().to_vec())
        }
    }

    #[test]
    fn every_leaf_and_every_earlier_root_is_proved_at_every_size() {
        const SIZES: u64 = 200;
        let leaves = leaves(SIZES);
        let (mut tree, mut roots) = (Tree::default(), vec![subtree(&[])]);
        for (at, leaf) in leaves.iter().enumerate() {
            tree.push(*leaf);
            roots.push(tree.root());
            assert_eq!(tree.root(), subtree(&leaves[..=at]));
        }
        for size in 1..=SIZES {
            let root = &roots[size as usize];
            // Every place near the edges of chunks, and some others.
            for seq in (0..size).filter(|seq| seq % 7 == 0 || seq % 64 < 2 || size - seq < 3) {
                let path = tree.inclusion(seq, size, &mut chunk(&leaves)).unwrap();
                assert!(includes(seq, size, &leaves[seq as usize], &path, root), "{seq} of {size}");
                assert!(!includes(seq, size, &leaves[seq as usize], &path, &[9; 32]));
                assert!(size == 1 || !includes(seq ^ 1, size, &leaves[seq as usize], &path, root));
                let old = seq + 1;
                let path = tree.consistency(old, size, &mut chunk(&leaves)).unwrap();
                assert!(extends(old, size, &roots[old as usize], root, &path), "{old} to {size}");
                assert!(!extends(old, size, &[9; 32], root, &path));
            }
        }
    }

    #[test]
    fn a_large_tree_reads_few_chunks_and_keeps_about_a_byte_for_each_leaf() {
        const SIZE: u64 = 100_003;
        let leaves = leaves(SIZE);
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        let kept: usize = tree.large.iter().map(Vec::len).sum();
        assert!(kept * 32 <= SIZE as usize, "{kept} hashes");
        for seq in [0, 63, 64, 50_000, SIZE - 1] {
            let (mut read, mut chunk) = (0, chunk(&leaves));
            let path = tree
                .inclusion(seq, SIZE, &mut |number| {
                    read += 1;
                    chunk(number)
                })
                .unwrap();
            assert!(includes(seq, SIZE, &leaves[seq as usize], &path, &tree.root()));
            assert!(read <= 2, "{read} chunks");
        }
    }

    /// The tree of RFC 6962's reference implementation: seven leaves and their root.
    #[test]
    fn the_root_agrees_with_the_published_test_tree() {
        let leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"];
        let mut tree = Tree::default();
        for leaf in leaves {
            tree.push(leaf_hash(&hex::decode(leaf).unwrap()));
        }
        assert_eq!(
            hex::encode(tree.root()),
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"
        );
    }
}
