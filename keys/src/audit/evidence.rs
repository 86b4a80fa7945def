//! Evidence: leaves with their paths to a signed head, and the way there from a head seen before.
//!
//! `[v=1, head b<=512, [[leaf b<=512, [b32…]]…], [b32…]/null]`. It proves that something is in a log that was signed
//! for; what the log does not say it does not prove.
//!
//! Specification: docs/protocol.md §5.6.

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder};

use super::tree::{PATH_MAX, includes, leaf_hash};
use super::{HeadError, LEAF_BYTES_MAX, Leaf, SignedHead, Watch};
use crate::strict::{self, Malformed};

/// Leaves that one piece of evidence proves, at most.
pub const EVIDENCE_LEAVES_MAX: usize = 16;

/// Bytes of evidence, at most.
pub const EVIDENCE_BYTES_MAX: usize = 65_535;

const VERSION: u8 = 1;

/// A leaf with its path to the root of a head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proved {
    /// The leaf as the log has it.
    pub leaf: Vec<u8>,
    /// From the leaf up.
    pub path: Vec<[u8; 32]>,
}

/// Leaves of a log, proved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// What the paths lead to.
    pub head: SignedHead,
    /// The leaves.
    pub leaves: Vec<Proved>,
    /// That the log is the one of the head that the asker had seen.
    pub consistency: Option<Vec<[u8; 32]>>,
}

impl Evidence {
    /// Reads evidence; nothing is believed yet.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut head: &[u8] = &[];
        let (leaves, consistency) = strict::decode_once(bytes, EVIDENCE_BYTES_MAX, |d| {
            strict::array(d, 4)?;
            strict::version(d, VERSION)?;
            head = strict::bytes(d, LEAF_BYTES_MAX)?;
            let count = strict::array_within(d, 0..=EVIDENCE_LEAVES_MAX as u64)?;
            let leaves: Result<Vec<_>, _> = (0..count)
                .map(|_| {
                    strict::array(d, 2)?;
                    Ok(Proved { leaf: strict::bytes(d, LEAF_BYTES_MAX)?.to_vec(), path: path(d)? })
                })
                .collect();
            Ok((leaves?, strict::optional(d, path)?))
        })?;
        Ok(Self { head: SignedHead::decode(head)?, leaves, consistency })
    }

    /// The encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let written = self.put(&mut Encoder::new(&mut out));
        debug_assert!(written.is_ok(), "encoding into memory failed");
        out
    }

    fn put(&self, e: &mut Encoder<&mut Vec<u8>>) -> super::Written {
        e.array(4)?.u8(VERSION)?.bytes(&self.head.encode())?.array(self.leaves.len() as u64)?;
        for Proved { leaf, path } in &self.leaves {
            e.array(2)?.bytes(leaf)?;
            put_path(e, path)?;
        }
        match &self.consistency {
            Some(path) => put_path(e, path),
            None => e.null()?.ok(),
        }
    }

    /// Checks everything, advances `watch` to the head, and answers with the leaves.
    ///
    /// # Errors
    /// [`EvidenceError`]; `watch` stays where it was.
    pub fn check(&self, watch: &mut Watch) -> Result<Vec<Leaf>, EvidenceError> {
        let mut advanced = watch.clone();
        advanced.advance(&self.head, self.consistency.as_deref()).map_err(EvidenceError::Head)?;
        let head = &self.head.head;
        let mut leaves = Vec::with_capacity(self.leaves.len());
        for (at, Proved { leaf, path }) in self.leaves.iter().enumerate() {
            let hash = leaf_hash(leaf);
            let leaf = Leaf::decode(leaf).map_err(|_| EvidenceError::Unproved(at))?;
            if !includes(leaf.seq, head.size, &hash, path, &head.root) {
                return Err(EvidenceError::Unproved(at));
            }
            leaves.push(leaf);
        }
        *watch = advanced;
        Ok(leaves)
    }
}

fn path(d: &mut Decoder<'_>) -> Result<Vec<[u8; 32]>, decode::Error> {
    let count = strict::array_within(d, 0..=PATH_MAX as u64)?;
    (0..count).map(|_| strict::bytes_exact(d)).collect()
}

fn put_path<W: encode::Write>(e: &mut Encoder<W>, path: &[[u8; 32]]) -> Result<(), encode::Error<W::Error>> {
    e.array(path.len() as u64)?;
    path.iter().try_for_each(|hash| e.bytes(hash)?.ok())
}

/// Why evidence proves nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Its head is not one to build on.
    #[error("the head of the log is refused")]
    Head(#[source] HeadError),
    /// A leaf is none, or is not in the tree at its place.
    #[error("leaf {0} of the evidence is not in the log")]
    Unproved(usize),
}
