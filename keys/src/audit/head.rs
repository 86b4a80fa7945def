//! Signed heads: how large a log is and which root it has at a time, and who watches that it never goes back.
//!
//! A head is `[v=1, log_id b32, size u64, t u64, root b32]`, signed as an `audit-sth`; with its signature it is
//! `[body, [[1, sig b64]]]`.
//!
//! Specification: docs/protocol.md §5.6.

use std::io::Read;

use minicbor::encode::Encoder;

use super::tree::extends;
use super::{AuditError, LEAF_BYTES_MAX, Records, Tree, Written, put_record};
use crate::strict::{self, Malformed};
use crate::{PublicKey, Signature, SignatureAlgorithm, SignatureType};

const VERSION: u8 = 1;

/// What a head states.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Which log.
    pub log_id: [u8; 32],
    /// Leaves in the tree.
    pub size: u64,
    /// When, Unix seconds.
    pub time: u64,
    /// The tree's root.
    pub root: [u8; 32],
}

impl Head {
    /// The head of `tree` at `time`, Unix seconds.
    #[must_use]
    pub fn of(tree: &Tree, log_id: [u8; 32], time: u64) -> Self {
        Self { log_id, size: tree.size(), time, root: tree.root() }
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(96);
        let mut e = Encoder::new(&mut body);
        let written = (|| -> Written {
            e.array(5)?
                .u8(VERSION)?
                .bytes(&self.log_id)?
                .u64(self.size)?
                .u64(self.time)?
                .bytes(&self.root)?
                .ok()
        })();
        debug_assert!(written.is_ok(), "encoding into memory failed");
        body
    }

    fn decode(body: &[u8]) -> Result<Self, Malformed> {
        strict::decode_once(body, LEAF_BYTES_MAX, |d| {
            strict::array(d, 5)?;
            strict::version(d, VERSION)?;
            let log_id = strict::bytes_exact(d)?;
            let (size, time) = (d.u64()?, d.u64()?);
            Ok(Self { log_id, size, time, root: strict::bytes_exact(d)? })
        })
    }
}

/// A head with the signature of its log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedHead {
    /// What it states.
    pub head: Head,
    /// The head as it was signed.
    body: Vec<u8>,
    signature: [u8; 64],
}

impl SignedHead {
    /// A head whose [`Head::encode`] has this signature.
    #[must_use]
    pub fn new(head: Head, signature: [u8; 64]) -> Self {
        Self { head, body: head.encode(), signature }
    }

    /// Reads a head. Its signature is not checked yet.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (body, signature) = strict::decode_once(bytes, LEAF_BYTES_MAX, |d| {
            strict::array(d, 2)?;
            let body = strict::bytes(d, LEAF_BYTES_MAX)?;
            strict::array(d, 1)?;
            strict::array(d, 2)?;
            strict::version(d, SignatureAlgorithm::Ed25519.number())?;
            Ok((body, strict::bytes_exact::<64>(d)?))
        })?;
        Ok(Self { head: Head::decode(body)?, body: body.to_vec(), signature })
    }

    /// The encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_record(&mut out);
        out.split_off(2)
    }

    /// Appends the head as the file of heads has it.
    pub fn put_record(&self, out: &mut Vec<u8>) {
        put_record(out, |e| {
            e.array(2)?.bytes(&self.body)?.array(1)?.array(2)?;
            e.u8(SignatureAlgorithm::Ed25519.number())?.bytes(&self.signature)?.ok()
        });
    }

    /// Whether the log's key signed it.
    fn is_by(&self, signer: &PublicKey) -> bool {
        let signature = Signature { algorithm: SignatureAlgorithm::Ed25519, bytes: self.signature.to_vec() };
        signer.verify(SignatureType::AuditSth, &self.body, &signature).is_ok()
    }
}

/// The last of a file of heads, whose signature is not checked, and the bytes of whole heads: what stands behind them was
/// not written whole and has to be cut off before another is appended.
///
/// # Errors
/// [`AuditError::Unreadable`], [`AuditError::BadHead`].
pub fn last_head(heads: impl Read) -> Result<(Option<Head>, u64), AuditError> {
    let (mut last, mut count, mut bytes) = (None, 0, 0);
    let mut records = Records::new(heads);
    while let Some(content) = records.next().map_err(AuditError::Unreadable)? {
        let signed = SignedHead::decode(content).map_err(|_| AuditError::BadHead(count))?;
        (last, count, bytes) = (Some(signed.head), count + 1, bytes + content.len() as u64 + 2);
    }
    Ok((last, bytes))
}

/// Reads heads in their order, each signed by `key`, of one log, and none older or smaller than the one before.
pub(super) fn read_all(heads: impl Read, key: &PublicKey) -> Result<Vec<Head>, AuditError> {
    let mut read: Vec<Head> = Vec::new();
    let mut records = Records::new(heads);
    while let Some(content) = records.next().map_err(AuditError::Unreadable)? {
        let at = read.len();
        let signed = SignedHead::decode(content).map_err(|_| AuditError::BadHead(at))?;
        let goes_back = read.last().is_some_and(|before| check_order(before, &signed.head).is_err());
        if goes_back || !signed.is_by(key) {
            return Err(AuditError::BadHead(at));
        }
        read.push(signed.head);
    }
    Ok(read)
}

/// The newest head of one log that somebody has seen: refuses heads that go back, and a log that splits.
///
/// Whoever compares what it holds with what others hold sees, too, whether all are shown one log.
#[derive(Clone, Debug)]
pub struct Watch {
    signer: PublicKey,
    latest: Option<Head>,
}

impl Watch {
    /// Watches the log whose heads `signer` signs; the first head decides which log that is.
    #[must_use]
    pub fn new(signer: PublicKey) -> Self {
        Self { signer, latest: None }
    }

    /// Goes on from a head that was seen before.
    #[must_use]
    pub fn from_head(signer: PublicKey, seen: Head) -> Self {
        Self { signer, latest: Some(seen) }
    }

    /// The newest head that was accepted.
    #[must_use]
    pub fn latest(&self) -> Option<&Head> {
        self.latest.as_ref()
    }

    /// Takes `next` as the newest head, if its log is the one watched, grown.
    ///
    /// `path` is the consistency proof from the newest head so far; it is needed when there is one of a smaller size.
    ///
    /// # Errors
    /// [`HeadError`]; the newest head stays what it was.
    pub fn advance(&mut self, next: &SignedHead, path: Option<&[[u8; 32]]>) -> Result<(), HeadError> {
        if !next.is_by(&self.signer) {
            return Err(HeadError::Unsigned);
        }
        let head = &next.head;
        if let Some(seen) = &self.latest {
            check_order(seen, head)?;
            let path = if seen.size == head.size { &[] } else { path.unwrap_or_default() };
            // Before the first leaf there is nothing to be consistent with.
            if seen.size > 0 && !extends(seen.size, head.size, &seen.root, &head.root, path) {
                return Err(HeadError::Forked { seen: seen.size, found: head.size });
            }
        }
        self.latest = Some(*head);
        Ok(())
    }
}

fn check_order(seen: &Head, head: &Head) -> Result<(), HeadError> {
    if head.log_id != seen.log_id {
        return Err(HeadError::OtherLog);
    }
    if head.size < seen.size {
        return Err(HeadError::Smaller { seen: seen.size, found: head.size });
    }
    if head.time < seen.time {
        return Err(HeadError::Older { seen: seen.time, found: head.time });
    }
    Ok(())
}

/// Why a head is not taken as the newest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The log's key did not sign it.
    #[error("the head is not signed by the log's key")]
    Unsigned,
    /// It is of another log.
    #[error("the head is of another log")]
    OtherLog,
    /// The log was larger.
    #[error("the log had {seen} leaves and now has {found}")]
    Smaller {
        /// Leaves that were seen.
        seen: u64,
        /// Leaves that the head states.
        found: u64,
    },
    /// It is older than what was seen, in Unix seconds.
    #[error("a head of {seen} was seen, this one is of {found}")]
    Older {
        /// The time that was seen.
        seen: u64,
        /// The time that the head states.
        found: u64,
    },
    /// The leaves that were seen are not the beginning of the log that it states.
    #[error("the log of {found} leaves does not continue the one of {seen} leaves that was seen")]
    Forked {
        /// Leaves that were seen.
        seen: u64,
        /// Leaves that the head states.
        found: u64,
    },
}
