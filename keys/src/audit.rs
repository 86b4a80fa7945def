//! The audit log: a Merkle tree over what was done with which key, and signed statements of its size and root.
//!
//! A leaf holds no data and no key material, and names keys and owners only by MACs under a key of the log. Each leaf
//! repeats the hash of the one before, so that an edited, dropped or moved leaf shows at once; a signed head shows it
//! to whoever kept one, even if the whole log was written anew.
//!
//! Nothing here opens files or reads clocks: a [`Log`] is given a [`Medium`] and the time. The log is a sequence of
//! `length u16 BE | leaf`, and so are the heads. On disk it lies in segments, which are read one after the other.
//!
//! Specification: docs/protocol.md §5.6; RFC 9162 §2.1.

mod evidence;
mod head;
mod log;
mod tree;

use std::io::{self, Read};

use minicbor::encode::Encoder;

use crate::service::CallKind;
use crate::strict::{self, Malformed};
use crate::{KeyId, Label, PublicKey, mac};

pub use evidence::{EVIDENCE_BYTES_MAX, EVIDENCE_LEAVES_MAX, Evidence, EvidenceError, Proved};
pub use head::{Head, HeadError, SignedHead, Watch, last_head};
pub use log::{HEAD_EVERY, HEAD_LEAVES, Log, Medium};
pub use tree::{CHUNK_LEAVES, Chunks, PATH_MAX, Tree, extends, includes, leaf_hash};

/// Bytes of a leaf or of a head with its signature, at most.
pub const LEAF_BYTES_MAX: usize = 512;

/// The name of the file with segment `number`, from 0, of the log whose first file is `name`.
#[must_use]
pub fn segment_name(name: &str, number: u32) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}.{number}") }
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Event {
    /// A key was made or taken in.
    Created = 1,
    /// A key was used.
    Used = 2,
    /// A disposable key's time was over: it was destroyed.
    Expired = 3,
    /// A key was destroyed on demand, or after too many failed uses.
    Destroyed = 4,
    /// A use was refused or failed.
    FailedUse = 5,
    /// A key that wraps disposable keys was made.
    EpochCreated = 6,
    /// A key that wrapped disposable keys was wiped: whatever is left of them can be read no more.
    EpochDestroyed = 7,
    /// The service was unlocked, or the cache began.
    Start = 8,
    /// The service was locked or stopped, or the cache ended.
    Stop = 9,
    /// The disposable keys of an epoch were lost with the process that held them.
    Lost = 10,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Used,
        Self::Expired,
        Self::Destroyed,
        Self::FailedUse,
        Self::EpochCreated,
        Self::EpochDestroyed,
        Self::Start,
        Self::Stop,
        Self::Lost,
    ];

    /// The event's name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Destroyed => "destroyed",
            Self::FailedUse => "failed-use",
            Self::EpochCreated => "epoch-created",
            Self::EpochDestroyed => "epoch-destroyed",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Lost => "lost",
        }
    }
}

/// What is noted, before it has a place in a log: a leaf without place, time and predecessor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// The key's name in this log, see [`key_name`].
    pub key: Option<[u8; 32]>,
    /// A commitment to the key's public half.
    pub public: Option<[u8; 32]>,
    /// The policy of a disposable key, the class of an epoch, or the number of a rule; 0 for none.
    pub policy: u16,
    /// The owner's name in this log; zeros for none.
    pub owner: [u8; 32],
    /// The number of an epoch or of an operation; 0 for none.
    pub epoch: u32,
}

/// The name that a key has in the log with the key `log_key`.
#[must_use]
pub fn key_name(log_key: &[u8; 32], key: &[u8; 16]) -> [u8; 32] {
    mac(log_key, &Label::new("audit/key").bytes(key).encode())
}

/// What the key service notes of an operation.
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

impl Note {
    /// The note as the log with the key `log_key` has it: the rule in the place of the policy, the operation in that of
    /// the epoch.
    #[must_use]
    pub fn entry(&self, log_key: &[u8; 32]) -> Entry {
        let named = self.key.as_ref().map_or(&[][..], |key| key.as_bytes());
        let owner = Label::new("audit/owner").uint(self.user.into()).bytes(named).encode();
        Entry {
            event: self.event,
            key: self.key.map(|key| key_name(log_key, key.as_bytes())),
            public: None,
            policy: self.rule,
            owner: mac(log_key, &owner),
            epoch: self.call.number().into(),
        }
    }
}

/// A leaf of a log:
/// `[v=1, seq u64, t_ms u64, event u8, key b32/null, pub b32/null, policy u16, owner b32, epoch u32, prev b32]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// Its place, from 0.
    pub seq: u64,
    /// When, in milliseconds of Unix time.
    pub time_ms: u64,
    /// What happened, to which key.
    pub entry: Entry,
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
            let entry = Entry {
                event: event.ok_or_else(|| strict::refuse(d, "unknown event"))?,
                key: strict::optional(d, strict::bytes_exact)?,
                public: strict::optional(d, strict::bytes_exact)?,
                policy: d.u16()?,
                owner: strict::bytes_exact(d)?,
                epoch: d.u32()?,
            };
            Ok(Self { seq, time_ms, entry, previous: strict::bytes_exact(d)? })
        })
    }

    /// The operation, in the log of the key service.
    #[must_use]
    pub fn call(&self) -> Option<CallKind> {
        u8::try_from(self.entry.epoch).ok().and_then(CallKind::from_number)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let Self { seq, time_ms, entry, previous } = self;
        put_record(out, |e| {
            e.array(10)?.u8(VERSION)?.u64(*seq)?.u64(*time_ms)?.u8(entry.event as u8)?;
            strict::put_optional_bytes(e, entry.key)?;
            strict::put_optional_bytes(e, entry.public)?;
            e.u16(entry.policy)?.bytes(&entry.owner)?.u32(entry.epoch)?.bytes(previous)?.ok()
        });
    }
}

impl Tree {
    /// Appends `entry` as a leaf to the tree, and to `out` as the log has it.
    pub fn append(&mut self, time_ms: u64, entry: &Entry, out: &mut Vec<u8>) {
        let leaf = Leaf { seq: self.size(), time_ms, entry: *entry, previous: self.last() };
        let start = out.len();
        leaf.put(out);
        self.push(leaf_hash(&out[start + 2..]));
    }

    /// Reads a whole log back, calling `look` with each leaf, the tree up to it, and the number of bytes before the leaf.
    ///
    /// A last leaf that was not written whole, as a killed writer leaves it, is not read; the returned number of bytes
    /// says where it begins.
    ///
    /// # Errors
    /// [`AuditError`]; the log was changed, is none, or cannot be read.
    pub fn read(log: impl Read, mut look: impl FnMut(&Leaf, &Self, u64)) -> Result<(Self, u64), AuditError> {
        let (mut tree, mut used) = (Self::default(), 0);
        let mut records = Records::new(log);
        while let Some(bytes) = records.next().map_err(AuditError::Unreadable)? {
            let seq = tree.size();
            let leaf = Leaf::decode(bytes).map_err(|source| AuditError::Malformed { seq, source })?;
            if leaf.seq != seq {
                return Err(AuditError::OutOfPlace { seq, found: leaf.seq });
            }
            if leaf.previous != tree.last() {
                return Err(AuditError::Unchained { seq });
            }
            tree.push(leaf_hash(bytes));
            look(&leaf, &tree, used);
            used += bytes.len() as u64 + 2;
        }
        Ok((tree, used))
    }
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
pub fn verify(log: impl Read, heads: impl Read, key: &PublicKey) -> Result<Verified, AuditError> {
    let heads = head::read_all(heads, key)?;
    let mut next = heads.iter().enumerate().peekable();
    let mut wrong = None;
    let (tree, _) = Tree::read(log, |_, tree, _| {
        while let Some((at, head)) = next.next_if(|(_, head)| head.size == tree.size()) {
            if head.root != tree.root() {
                wrong.get_or_insert(AuditError::OtherRoot { head: at, size: head.size });
            }
        }
    })?;
    if let Some(error) = wrong {
        return Err(error);
    }
    if let Some((_, head)) = next.next() {
        return Err(AuditError::Shortened { stated: head.size, found: tree.size() });
    }
    let signed = heads.last().map_or(0, |head| head.size);
    Ok(Verified { leaves: tree.size(), heads: heads.len() as u64, signed })
}

/// The records of a log or of heads, one after the other.
struct Records<R> {
    input: R,
    record: Vec<u8>,
}

impl<R: Read> Records<R> {
    fn new(input: R) -> Self {
        Self { input, record: Vec::new() }
    }

    /// The next whole record; `None` at the end, or where the last one was not written whole.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let mut length = [0; 2];
        if !read_whole(&mut self.input, &mut length)? {
            return Ok(None);
        }
        self.record.resize(u16::from_be_bytes(length).into(), 0);
        Ok(read_whole(&mut self.input, &mut self.record)?.then_some(&self.record))
    }
}

/// Fills `out`; `false` when the input ended before.
fn read_whole(input: &mut impl Read, out: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(out) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Appends what `put` encodes as a record, `length u16 BE | item`, to `out`.
fn put_record(out: &mut Vec<u8>, put: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Written) {
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    let written = put(&mut Encoder::new(&mut *out));
    debug_assert!(written.is_ok(), "encoding into memory failed");
    let length = (out.len() - start - 2) as u16;
    out[start..start + 2].copy_from_slice(&length.to_be_bytes());
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// Why a log is not what its heads say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Unreadable(#[source] io::Error),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SignatureType;
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
            tree.append(1000 + u64::from(at), &note(at).entry(&[1; 32]), &mut leaf);
            log.push(leaf);
            if at % 10 == 9 {
                let head = Head::of(&tree, [2; 32], at.into());
                let signature = signer.sign(&crate::signed_bytes(SignatureType::AuditSth, &head.encode()));
                SignedHead::new(head, signature.to_bytes()).put_record(&mut heads);
            }
        }
        (log, heads, PublicKey::ed25519(signer.verifying_key().to_bytes()))
    }

    #[test]
    fn an_untouched_log_verifies_and_a_torn_last_leaf_is_left_out() {
        let (log, heads, key) = sample(35);
        let expected = Verified { leaves: 35, heads: 3, signed: 30 };
        assert_eq!(verify(&log.concat()[..], &heads[..], &key).unwrap(), expected);
        let torn = [log.concat(), log[0][..40].to_vec()].concat();
        assert_eq!(verify(&torn[..], &heads[..], &key).unwrap(), expected);
        assert_eq!(Tree::read(&torn[..], |_, _, _| ()).unwrap().1, log.concat().len() as u64);
    }

    #[test]
    fn n5_9_an_edited_dropped_or_moved_leaf_is_found() {
        let (log, heads, key) = sample(35);
        for at in 0..34 {
            for byte in [2, 8, log[at].len() - 1] {
                let mut edited = log.clone();
                edited[at][byte] ^= 1;
                assert!(verify(&edited.concat()[..], &heads[..], &key).is_err(), "edited {at} {byte}");
            }
            let mut dropped = log.clone();
            dropped.remove(at);
            let error = verify(&dropped.concat()[..], &heads[..], &key).unwrap_err();
            assert!(matches!(error, AuditError::OutOfPlace { .. }), "{error}");
            let mut moved = log.clone();
            moved.swap(at, at + 1);
            assert!(verify(&moved.concat()[..], &heads[..], &key).is_err(), "moved {at}");
        }
        let shortened = verify(&log[..29].concat()[..], &heads[..], &key).unwrap_err();
        assert!(matches!(shortened, AuditError::Shortened { stated: 30, found: 29 }), "{shortened}");
    }

    #[test]
    fn n5_9_a_log_written_anew_is_found_by_its_heads() {
        let (_, heads, key) = sample(35);
        let (mut tree, mut forged) = (Tree::default(), Vec::new());
        (0..35).for_each(|at| tree.append(5000, &note(at).entry(&[1; 32]), &mut forged));
        let error = verify(&forged[..], &heads[..], &key).unwrap_err();
        assert!(matches!(error, AuditError::OtherRoot { head: 0, size: 10 }), "{error}");
    }

    #[test]
    fn heads_of_another_key_or_in_another_order_are_refused() {
        let (log, heads, key) = sample(35);
        let other = PublicKey::ed25519([0x58; 32]);
        assert!(matches!(verify(&log.concat()[..], &heads[..], &other), Err(AuditError::BadHead(0))));
        let each = heads.len() / 3;
        let turned = [&heads[each..2 * each], &heads[..each]].concat();
        assert!(matches!(verify(&log.concat()[..], &turned[..], &key), Err(AuditError::BadHead(1))));
    }
}
