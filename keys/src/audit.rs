//! The audit log: a Merkle tree over what was done with which key, and signed statements of its size and root.
//!
//! A leaf holds no data and no key material, and names keys and owners only by MACs under a key of the log. Each leaf
//! repeats the hash of the one before, so that an edited, dropped or moved leaf shows at once; a signed head shows it
//! to whoever kept one, even if the whole log was written anew.
//!
//! Nothing here reads or writes files: the log is bytes, a sequence of `length u16 BE | leaf`, and so are the heads.
//!
//! Specification: docs/protocol.md §5.6; RFC 9162 §2.1.

use minicbor::decode::{self, Decoder};
use minicbor::encode::Encoder;
use sha2::{Digest as _, Sha256};

use crate::service::CallKind;
use crate::strict::{self, Malformed};
use crate::{KeyId, Label, PublicKey, Signature, SignatureAlgorithm, SignatureType, mac};

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Event {
    /// A key was made or taken in.
    Created = 1,
    /// A key was used.
    Used = 2,
    /// A key was destroyed on demand.
    Destroyed = 4,
    /// A use was refused or failed.
    FailedUse = 5,
    /// The service was unlocked.
    Start = 8,
    /// The service was locked or stopped.
    Stop = 9,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Used, Self::Destroyed, Self::FailedUse, Self::Start, Self::Stop];

    /// The event's name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Used => "used",
            Self::Destroyed => "destroyed",
            Self::FailedUse => "failed-use",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

/// What is noted, before it has a place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// What happened.
    pub event: Event,
    /// The operation.
    pub call: CallKind,
    /// The key, if one was named.
    pub key: Option<KeyId>,
    /// The number of the policy's rule, from 1; 0 for none.
    pub rule: u16,
    /// The system's number of the user who asked.
    pub user: u32,
}

/// A leaf of the log: `[v=1, seq, t_ms, event, key b32/null, pub null, rule, owner b32, op, prev b32]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// Its place, from 0.
    pub seq: u64,
    /// When, in milliseconds of Unix time.
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
    /// The key's name in this log.
    pub key: Option<[u8; 32]>,
    /// The number of the policy's rule; 0 for none.
    pub rule: u16,
    /// The user's name in this log.
    pub owner: [u8; 32],
    /// The operation.
    pub call: CallKind,
    /// The hash of the leaf before; zeros for the first.
    pub previous: [u8; 32],
}

impl Leaf {
    /// Reads a leaf.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        strict::decode_once(bytes, LEAF_BYTES_MAX, |d| {
            strict::array(d, 10)?;
            strict::version(d, VERSION)?;
            let (seq, time_ms, event) = (d.u64()?, d.u64()?, d.u8()?);
            let event = Event::ALL.into_iter().find(|known| *known as u8 == event);
            let event = event.ok_or_else(|| strict::refuse(d, "unknown event"))?;
            let key = strict::optional(d, strict::bytes_exact)?;
            d.null()?;
            let (rule, owner) = (d.u16()?, strict::bytes_exact(d)?);
            let call =
                CallKind::from_number(d.u8()?).ok_or_else(|| strict::refuse(d, "unknown operation"))?;
            Ok(Self { seq, time_ms, event, key, rule, owner, call, previous: strict::bytes_exact(d)? })
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut e = Encoder::new(out);
        let written = (|| -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            e.array(10)?.u8(VERSION)?.u64(self.seq)?.u64(self.time_ms)?.u8(self.event as u8)?;
            strict::put_optional_bytes(&mut e, self.key)?;
            e.null()?.u16(self.rule)?.bytes(&self.owner)?.u8(self.call.number())?.bytes(&self.previous)?.ok()
        })();
        debug_assert!(written.is_ok(), "encoding into memory failed");
    }
}

/// The log's end: enough to append to it and to state its root.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    size: u64,
    last: [u8; 32],
    /// The roots of the full subtrees from the left, the largest first: one for each bit of `size`.
    peaks: Vec<[u8; 32]>,
}

impl Tree {
    /// Leaves in the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
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

    /// Appends `note` as a leaf to the tree, and to `out` as the log has it.
    ///
    /// `log_key` gives keys and users the names that they have in this log.
    pub fn append(&mut self, log_key: &[u8; 32], time_ms: u64, note: &Note, out: &mut Vec<u8>) {
        let named = note.key.as_ref().map_or(&[][..], |key| key.as_bytes());
        let owner = Label::new("audit/owner").uint(note.user.into()).bytes(named).encode();
        let key = note.key.map(|key| mac(log_key, &Label::new("audit/key").bytes(key.as_bytes()).encode()));
        let leaf = Leaf {
            seq: self.size,
            time_ms,
            event: note.event,
            key,
            rule: note.rule,
            owner: mac(log_key, &owner),
            call: note.call,
            previous: self.last,
        };
        let start = out.len();
        out.extend_from_slice(&[0; 2]);
        leaf.put(out);
        let length = (out.len() - start - 2) as u16;
        out[start..start + 2].copy_from_slice(&length.to_be_bytes());
        let hash = leaf_hash(&out[start + 2..]);
        self.push(hash);
    }

    fn push(&mut self, leaf: [u8; 32]) {
        let mut hash = leaf;
        // Each low bit of the size that is set stands for a full subtree as large as what came so far.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
        self.last = leaf;
    }

    /// Reads a whole log back, calling `look` with each leaf and the tree up to it.
    ///
    /// A last leaf that was not written whole, as a killed writer leaves it, is not read; the returned number of bytes
    /// says where it begins.
    ///
    /// # Errors
    /// [`AuditError`]; the log was changed, or is none.
    pub fn read(log: &[u8], mut look: impl FnMut(&Leaf, &Self)) -> Result<(Self, usize), AuditError> {
        let mut tree = Self::default();
        let mut used = 0;
        while let Some((bytes, length)) = record(&log[used..]) {
            let seq = tree.size;
            let leaf = Leaf::decode(bytes).map_err(|source| AuditError::Malformed { seq, source })?;
            if leaf.seq != seq {
                return Err(AuditError::OutOfPlace { seq, found: leaf.seq });
            }
            if leaf.previous != tree.last {
                return Err(AuditError::Unchained { seq });
            }
            tree.push(leaf_hash(bytes));
            look(&leaf, &tree);
            used += length;
        }
        Ok((tree, used))
    }

    /// The body of a head: `[v=1, log_id b32, size u64, t u64, root b32]`, to be signed as an `audit-sth`.
    #[must_use]
    pub fn head(&self, log_id: &[u8; 32], time: u64) -> Vec<u8> {
        let mut body = Vec::with_capacity(96);
        let mut e = Encoder::new(&mut body);
        let written = (|| -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            e.array(5)?.u8(VERSION)?.bytes(log_id)?.u64(self.size)?.u64(time)?.bytes(&self.root())?.ok()
        })();
        debug_assert!(written.is_ok(), "encoding into memory failed");
        body
    }
}

/// Appends a head with its signature to `out`, as the file of heads has it: `length u16 BE | [body, [[1, sig]]]`.
pub fn put_head(out: &mut Vec<u8>, body: &[u8], signature: &[u8; 64]) {
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut e = Encoder::new(&mut *out);
    let written = (|| -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(2)?.bytes(body)?.array(1)?.array(2)?;
        e.u8(SignatureAlgorithm::Ed25519.number())?.bytes(signature)?.ok()
    })();
    debug_assert!(written.is_ok(), "encoding into memory failed");
    let length = (out.len() - start - 2) as u16;
    out[start..start + 2].copy_from_slice(&length.to_be_bytes());
}

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

/// What a verified log holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verified {
    /// Leaves in the log.
    pub leaves: u64,
    /// Signed heads that its tree has passed through.
    pub heads: u64,
    /// Leaves under the last head; later ones are chained but not yet signed for.
    pub signed: u64,
}

/// Checks a log against its heads: every leaf in its place, every head signed by `key` and passed through in order.
///
/// # Errors
/// [`AuditError`] names the first leaf or head that does not fit.
pub fn verify(log: &[u8], heads: &[u8], key: &PublicKey) -> Result<Verified, AuditError> {
    let heads = read_heads(heads, key)?;
    let mut next = heads.iter().enumerate().peekable();
    let mut wrong = None;
    let (tree, _) = Tree::read(log, |_, tree| {
        while let Some((at, head)) = next.next_if(|(_, head)| head.size == tree.size) {
            if head.root != tree.root() {
                wrong.get_or_insert(AuditError::OtherRoot { head: at, size: head.size });
            }
        }
    })?;
    if let Some(error) = wrong {
        return Err(error);
    }
    if let Some((_, head)) = next.next() {
        return Err(AuditError::Shortened { stated: head.size, found: tree.size });
    }
    let signed = heads.last().map_or(0, |head| head.size);
    Ok(Verified { leaves: tree.size, heads: heads.len() as u64, signed })
}

/// Reads heads in their order, each signed by `key`, of one log, and none older or smaller than the one before.
fn read_heads(mut bytes: &[u8], key: &PublicKey) -> Result<Vec<Head>, AuditError> {
    let mut heads: Vec<Head> = Vec::new();
    while let Some((content, length)) = record(bytes) {
        let at = heads.len();
        let head = read_head(content, key).map_err(|_| AuditError::BadHead(at))?;
        if let Some(before) = heads.last()
            && (head.log_id != before.log_id || head.size < before.size || head.time < before.time)
        {
            return Err(AuditError::BadHead(at));
        }
        heads.push(head);
        bytes = &bytes[length..];
    }
    Ok(heads)
}

fn read_head(content: &[u8], key: &PublicKey) -> Result<Head, decode::Error> {
    let refused = |_| decode::Error::message("head");
    let (body, signature) = strict::decode_once(content, LEAF_BYTES_MAX, |d| {
        strict::array(d, 2)?;
        let body = strict::bytes(d, LEAF_BYTES_MAX)?;
        strict::array(d, 1)?;
        strict::array(d, 2)?;
        strict::version(d, SignatureAlgorithm::Ed25519.number())?;
        Ok((body, strict::bytes_exact::<64>(d)?))
    })
    .map_err(refused)?;
    let signature = Signature { algorithm: SignatureAlgorithm::Ed25519, bytes: signature.to_vec() };
    key.verify(SignatureType::AuditSth, body, &signature).map_err(|_| decode::Error::message("signature"))?;
    strict::decode_once(body, LEAF_BYTES_MAX, |d: &mut Decoder<'_>| {
        strict::array(d, 5)?;
        strict::version(d, VERSION)?;
        let log_id = strict::bytes_exact(d)?;
        let (size, time) = (d.u64()?, d.u64()?);
        Ok(Head { log_id, size, time, root: strict::bytes_exact(d)? })
    })
    .map_err(refused)
}

/// The first whole record in `bytes`, and how many bytes it takes up.
fn record(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*head));
    rest.get(..length).map(|content| (content, length + 2))
}

fn leaf_hash(leaf: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Why a log is not what its heads say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A leaf cannot be read.
    #[error("leaf {seq} is malformed")]
    Malformed {
        /// Its place.
        seq: u64,
        /// What is wrong.
        #[source]
        source: Malformed,
    },
    /// Leaves were dropped, added or moved.
    #[error("in the place of leaf {seq} stands leaf {found}")]
    OutOfPlace {
        /// The place.
        seq: u64,
        /// What the leaf there says.
        found: u64,
    },
    /// A leaf does not follow from the one before: one of the two was changed.
    #[error("leaf {seq} does not follow from the one before")]
    Unchained {
        /// Its place.
        seq: u64,
    },
    /// The tree has another root than a head says.
    #[error("the first {size} leaves are not those of head {head}")]
    OtherRoot {
        /// The head's place.
        head: usize,
        /// The size it states.
        size: u64,
    },
    /// The log is shorter than a head says.
    #[error("{found} leaves where a head states {stated}")]
    Shortened {
        /// The head's size.
        stated: u64,
        /// What is there.
        found: u64,
    },
    /// A head is malformed, not signed by the log's key, or older or smaller than the one before.
    #[error("head {0} is not valid")]
    BadHead(usize),
}

const VERSION: u8 = 1;

/// More than any leaf or head has.
const LEAF_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::Signer as _;

    fn note(at: u8) -> Note {
        Note {
            event: Event::Used,
            call: CallKind::Sign,
            key: (!at.is_multiple_of(3)).then(|| KeyId::from_bytes([at; 16])),
            rule: at.into(),
            user: 1000,
        }
    }

    /// A log of `leaves` leaves with a head after every tenth, and the key of the heads.
    fn sample(leaves: u8) -> (Vec<Vec<u8>>, Vec<u8>, PublicKey) {
        let signer = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
        let (mut tree, mut log, mut heads) = (Tree::default(), Vec::new(), Vec::new());
        for at in 0..leaves {
            let mut leaf = Vec::new();
            tree.append(&[1; 32], 1000 + u64::from(at), &note(at), &mut leaf);
            log.push(leaf);
            if at % 10 == 9 {
                let body = tree.head(&[2; 32], u64::from(at));
                let signature = signer.sign(&crate::signed_bytes(SignatureType::AuditSth, &body));
                put_head(&mut heads, &body, &signature.to_bytes());
            }
        }
        (log, heads, PublicKey::ed25519(signer.verifying_key().to_bytes()))
    }

    /// RFC 9162 §2.1.1 as it is written there: by the largest power of two below the size.
    fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
        match leaves {
            [] => Sha256::digest(b"").into(),
            [one] => *one,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&root(left), &root(right))
            }
        }
    }

    #[test]
    fn the_root_is_that_of_rfc_9162_at_every_size() {
        let (log, _, _) = sample(70);
        let mut hashes = Vec::new();
        assert_eq!(Tree::default().root(), root(&[]));
        let (tree, used) = Tree::read(&log.concat(), |leaf, tree| {
            hashes.push(leaf_hash(&log[leaf.seq as usize][2..]));
            assert_eq!(tree.root(), root(&hashes), "{}", tree.size());
        })
        .unwrap();
        assert_eq!((tree.size(), used), (70, log.concat().len()));
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

    #[test]
    fn an_untouched_log_verifies_and_a_torn_last_leaf_is_left_out() {
        let (log, heads, key) = sample(35);
        let expected = Verified { leaves: 35, heads: 3, signed: 30 };
        assert_eq!(verify(&log.concat(), &heads, &key).unwrap(), expected);
        let torn = [log.concat(), log[0][..40].to_vec()].concat();
        assert_eq!(verify(&torn, &heads, &key).unwrap(), expected);
        assert_eq!(Tree::read(&torn, |_, _| ()).unwrap().1, log.concat().len());
    }

    #[test]
    fn an_edited_dropped_or_moved_leaf_is_found() {
        let (log, heads, key) = sample(35);
        for at in 0..34 {
            for byte in [2, 8, log[at].len() - 1] {
                let mut edited = log.clone();
                edited[at][byte] ^= 1;
                assert!(verify(&edited.concat(), &heads, &key).is_err(), "edited {at} {byte}");
            }
            let mut dropped = log.clone();
            dropped.remove(at);
            let error = verify(&dropped.concat(), &heads, &key).unwrap_err();
            assert!(matches!(error, AuditError::OutOfPlace { .. }), "{error}");
            let mut moved = log.clone();
            moved.swap(at, at + 1);
            assert!(verify(&moved.concat(), &heads, &key).is_err(), "moved {at}");
        }
        let shortened = verify(&log[..29].concat(), &heads, &key).unwrap_err();
        assert!(matches!(shortened, AuditError::Shortened { stated: 30, found: 29 }), "{shortened}");
    }

    #[test]
    fn a_log_written_anew_is_found_by_its_heads() {
        let (_, heads, key) = sample(35);
        let (mut tree, mut forged) = (Tree::default(), Vec::new());
        (0..35).for_each(|at| tree.append(&[1; 32], 5000, &note(at), &mut forged));
        let error = verify(&forged, &heads, &key).unwrap_err();
        assert!(matches!(error, AuditError::OtherRoot { head: 0, size: 10 }), "{error}");
    }

    #[test]
    fn heads_of_another_key_or_in_another_order_are_refused() {
        let (log, heads, key) = sample(35);
        let other = PublicKey::ed25519([0x58; 32]);
        assert!(matches!(verify(&log.concat(), &heads, &other), Err(AuditError::BadHead(0))));
        let each = heads.len() / 3;
        let turned = [&heads[each..2 * each], &heads[..each]].concat();
        assert!(matches!(verify(&log.concat(), &turned, &key), Err(AuditError::BadHead(1))));
    }
}
