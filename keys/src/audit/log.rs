//! A log as whoever writes it has it: leaves as they happen, a signed head when one is due, evidence for who asks.
//!
//! What was noted is written before the answer leaves. A head is stated only of leaves that are written, so that none
//! speaks of leaves that a power failure took. Leaves are not kept in memory: a proof reads those near it back.
//!
//! Specification: docs/protocol.md §5.6.

use std::io::{self, Read};
use std::time::Duration;

use super::evidence::{Evidence, Proved};
use super::{AuditError, CHUNK_LEAVES, Entry, Head, Leaf, Records, SignedHead, Tree, leaf_hash};
use crate::{Label, hash};

/// A head is due this long after the last one.
pub const HEAD_EVERY: Duration = Duration::from_secs(1);

/// A head is due after this many leaves, too.
pub const HEAD_LEAVES: u64 = 1000;

/// Where a log is written.
pub trait Medium {
    /// Appends to the leaves.
    ///
    /// # Errors
    /// Of the system, as of every method here.
    fn append_leaves(&mut self, leaves: &[u8]) -> io::Result<()>;

    /// Makes the leaves durable, then appends to the heads and makes these durable.
    ///
    /// # Errors
    /// Of the system.
    fn append_head(&mut self, head: &[u8]) -> io::Result<()>;

    /// Reads leaves back, from the byte `at` on.
    ///
    /// # Errors
    /// Of the system; [`io::ErrorKind::UnexpectedEof`] beyond the end.
    fn read_leaves(&self, at: u64, out: &mut [u8]) -> io::Result<()>;
}

/// The open log of one process.
#[derive(Debug)]
pub struct Log<M> {
    medium: M,
    id: [u8; 32],
    tree: Tree,
    /// Where every 64th leaf begins.
    starts: Vec<u64>,
    /// Bytes of leaves, the pending ones included.
    bytes: u64,
    /// Leaves that are not written yet.
    pending: Vec<u8>,
    /// The last head of this process, and when it was stated.
    head: Option<SignedHead>,
    head_at: Option<Duration>,
    /// No head states an earlier time, Unix seconds.
    not_before: u64,
    /// Leaves under the last head, or when the log was opened.
    headed: u64,
    ends: bool,
}

impl<M: Medium> Log<M> {
    /// Goes on with the log of `medium`, whose `leaves` are read from their beginning; `look` sees each.
    ///
    /// `key` names the log, without being told by the name. Answers also with the number of bytes of whole leaves: what
    /// stands behind them was not written whole and has to be cut off before anything is appended.
    ///
    /// # Errors
    /// [`AuditError`]; the log was changed and is not continued.
    pub fn open(
        medium: M,
        key: &[u8; 32],
        leaves: impl Read,
        mut look: impl FnMut(&Leaf),
    ) -> Result<(Self, u64), AuditError> {
        let mut starts = Vec::new();
        let (tree, bytes) = Tree::read(leaves, |leaf, _, start| {
            if leaf.seq.is_multiple_of(CHUNK_LEAVES) {
                starts.push(start);
            }
            look(leaf);
        })?;
        let id = hash(&Label::new("audit/id").bytes(&hash(key)).encode());
        let headed = tree.size();
        let (pending, head, head_at) = (Vec::new(), None, None);
        let (not_before, ends) = (0, false);
        let log = Self { medium, id, tree, starts, bytes, pending, head, head_at, not_before, headed, ends };
        Ok((log, bytes))
    }

    /// Names the log without naming its key.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    /// Where the log is written.
    #[must_use]
    pub fn medium(&self) -> &M {
        &self.medium
    }

    /// Leaves in the log, the pending ones included: the place of the next.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Whether there are leaves under no head yet.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.tree.size() > self.headed
    }

    /// The last head of this process.
    #[must_use]
    pub fn head(&self) -> Option<&SignedHead> {
        self.head.as_ref()
    }

    /// Notes what happened at `time_ms`, Unix milliseconds; [`Log::write`] writes it down.
    pub fn note(&mut self, time_ms: u64, entry: &Entry) {
        if self.tree.size().is_multiple_of(CHUNK_LEAVES) {
            self.starts.push(self.bytes);
        }
        let before = self.pending.len();
        self.tree.append(time_ms, entry, &mut self.pending);
        self.bytes += (self.pending.len() - before) as u64;
    }

    /// Has no head state a time before that of `last`, the last one of the processes before this.
    pub fn continue_after(&mut self, last: &Head) {
        self.not_before = self.not_before.max(last.time);
    }

    /// Makes a head due now: nothing follows for a while.
    pub fn end(&mut self) {
        self.ends = true;
    }

    /// Writes down what was noted, and a head signed by `sign` where one is due. `steady` is a clock that never steps.
    ///
    /// # Errors
    /// Of the medium.
    pub fn write(
        &mut self,
        time_ms: u64,
        steady: Duration,
        sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>,
    ) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.medium.append_leaves(&self.pending)?;
            self.pending.clear();
        }
        let last = *self.head_at.get_or_insert(steady);
        let new = self.tree.size() - self.headed;
        let old_enough = steady.saturating_sub(last) >= HEAD_EVERY;
        if new == 0 || !(old_enough || self.ends || new >= HEAD_LEAVES) {
            return Ok(());
        }
        // A wall clock that was set back must not make the log look as if it had been.
        let time = self.not_before.max(time_ms / 1000);
        self.not_before = time;
        let head = Head::of(&self.tree, self.id, time);
        if let Some(signature) = sign(&head.encode()) {
            let head = SignedHead::new(head, signature);
            let mut record = Vec::new();
            head.put_record(&mut record);
            self.medium.append_head(&record)?;
            self.head = Some(head);
        }
        (self.headed, self.head_at) = (self.tree.size(), Some(steady));
        Ok(())
    }

    /// Proves those of the leaves `seqs` that the last head covers, and, to whoever has seen a head of `since` leaves,
    /// that the log is still the same. `None` before the first head of this process.
    ///
    /// # Errors
    /// Of the medium.
    pub fn evidence(&self, seqs: &[u64], since: Option<u64>) -> io::Result<Option<Evidence>> {
        let Some(signed) = &self.head else { return Ok(None) };
        let size = signed.head.size;
        let mut read =
            |number| self.chunk(number).map(|leaves| leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
        let mut leaves = Vec::new();
        for seq in seqs.iter().copied().filter(|seq| *seq < size) {
            let path = self.tree.inclusion(seq, size, &mut read)?;
            let chunk = self.chunk(seq / CHUNK_LEAVES)?;
            let leaf =
                chunk.into_iter().nth((seq % CHUNK_LEAVES) as usize).ok_or(io::ErrorKind::InvalidData)?;
            leaves.push(Proved { leaf, path });
        }
        let known = since.filter(|since| (1..=size).contains(since));
        let consistency = known.map(|since| self.tree.consistency(since, size, &mut read)).transpose()?;
        Ok(Some(Evidence { head: signed.clone(), leaves, consistency }))
    }

    /// The written leaves of a chunk.
    fn chunk(&self, number: u64) -> io::Result<Vec<Vec<u8>>> {
        let start = self.starts.get(number as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
        let written = self.bytes - self.pending.len() as u64;
        let end = self.starts.get(number as usize + 1).copied().unwrap_or(written).min(written);
        let mut bytes = vec![0; end.saturating_sub(*start) as usize];
        self.medium.read_leaves(*start, &mut bytes)?;
        let (mut records, mut leaves) = (Records::new(&bytes[..]), Vec::new());
        while let Some(leaf) = records.next()? {
            leaves.push(leaf.to_vec());
        }
        Ok(leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Event, HeadError, Watch};
    use crate::{PublicKey, SignatureType, signed_bytes};
    use ed25519_dalek::Signer as _;

    #[derive(Debug, Default)]
    struct Memory(Vec<u8>, Vec<u8>);

    impl Medium for Memory {
        fn append_leaves(&mut self, leaves: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(leaves);
            Ok(())
        }

        fn append_head(&mut self, head: &[u8]) -> io::Result<()> {
            self.1.extend_from_slice(head);
            Ok(())
        }

        fn read_leaves(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
            let from = self.0.get(at as usize..).unwrap_or_default();
            out.copy_from_slice(from.get(..out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn entry(at: u64) -> Entry {
        Entry {
            event: Event::Created,
            key: Some([at as u8; 32]),
            public: at.is_multiple_of(2).then_some([7; 32]),
            policy: 1,
            owner: [3; 32],
            epoch: at as u32,
        }
    }

    fn signer() -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[5; 32])
    }

    fn sign(body: &[u8]) -> Option<[u8; 64]> {
        Some(signer().sign(&signed_bytes(SignatureType::AuditSth, body)).to_bytes())
    }

    fn watch() -> Watch {
        Watch::new(PublicKey::ed25519(signer().verifying_key().to_bytes()))
    }

    fn log() -> Log<Memory> {
        Log::open(Memory::default(), &[1; 32], io::empty(), |_| ()).unwrap().0
    }

    /// Adds `count` leaves that differ by `twist` from those of another log, and a head.
    fn grow(log: &mut Log<Memory>, count: u64, twist: u64) {
        for _ in 0..count {
            log.note(5000, &entry(log.size() + twist));
        }
        log.end();
        log.write(5000, Duration::ZERO, sign).unwrap();
    }

    #[test]
    fn a_head_is_due_after_a_second_or_a_thousand_leaves_if_there_are_new_ones() {
        let mut log = log();
        let heads = |log: &mut Log<Memory>, ms| {
            log.write(ms, Duration::from_millis(ms), sign).unwrap();
            log.head().map(|head| head.head.size)
        };
        assert_eq!(heads(&mut log, 0), None);
        log.note(0, &entry(0));
        assert_eq!(heads(&mut log, 999), None);
        assert_eq!(heads(&mut log, 1000), Some(1));
        assert_eq!(heads(&mut log, 9000), Some(1), "nothing is new");
        (0..HEAD_LEAVES).for_each(|at| log.note(0, &entry(at)));
        assert_eq!(heads(&mut log, 9001), Some(HEAD_LEAVES + 1));
        // The wall clock goes back; the log does not.
        log.note(0, &entry(0));
        log.end();
        log.write(0, Duration::from_secs(60), sign).unwrap();
        assert_eq!(log.head().unwrap().head.time, 9);
    }

    #[test]
    fn a_log_goes_on_where_it_was_left_and_its_proofs_hold() {
        let mut first = log();
        grow(&mut first, 150, 0);
        let (mut watch, seen) = (watch(), first.size());
        first.evidence(&[3], None).unwrap().unwrap().check(&mut watch).unwrap();
        // The last leaf was not written whole.
        let whole = first.medium.0.len() as u64;
        let torn = [&first.medium.0[..], &[0, 99, 1]].concat();
        let mut looked = 0;
        let medium = Memory(first.medium.0.clone(), Vec::new());
        let (mut second, used) = Log::open(medium, &[1; 32], &torn[..], |_| looked += 1).unwrap();
        assert_eq!((used, looked, second.size()), (whole, 150, 150));
        assert!(second.evidence(&[3], None).unwrap().is_none(), "no head yet");
        grow(&mut second, 50, 0);
        let leaves = [0, 63, 64, 149, 199, 200].as_slice();
        let evidence = second.evidence(leaves, Some(seen)).unwrap().unwrap();
        let read = evidence.check(&mut watch).unwrap();
        let places: Vec<u64> = read.iter().map(|leaf| leaf.seq).collect();
        assert_eq!(places, [0, 63, 64, 149, 199], "what no head covers is not proved");
        assert!(read.iter().all(|leaf| leaf.entry == entry(leaf.seq)));
        assert_eq!(watch.latest().unwrap().size, 200);
    }

    #[test]
    fn n5_9_a_head_that_goes_back_is_refused() {
        let (mut log, mut watch) = (log(), watch());
        grow(&mut log, 10, 0);
        let early = log.head().unwrap().clone();
        grow(&mut log, 10, 0);
        let evidence = log.evidence(&[], None).unwrap().unwrap();
        watch.advance(&evidence.head, None).unwrap();
        let late = *watch.latest().unwrap();
        assert_eq!(watch.advance(&early, None), Err(HeadError::Smaller { seen: 20, found: 10 }));
        let older = Head { time: late.time - 1, ..late };
        let signed = |head: Head| SignedHead::new(head, sign(&head.encode()).unwrap());
        assert_eq!(watch.advance(&signed(older), None), Err(HeadError::Older { seen: 5, found: 4 }));
        let other = Head { log_id: [9; 32], ..late };
        assert_eq!(watch.advance(&signed(other), None), Err(HeadError::OtherLog));
        assert_eq!(watch.advance(&SignedHead::new(late, [0; 64]), None), Err(HeadError::Unsigned));
        assert_eq!(watch.latest(), Some(&late));
        assert_eq!(watch.advance(&evidence.head, None), Ok(()), "the same head again is fine");
    }

    #[test]
    fn n5_9_a_log_that_was_edited_cut_reordered_or_forked_is_refused() {
        let (mut honest, mut watch) = (log(), watch());
        grow(&mut honest, 100, 0);
        let seen = honest.size();
        watch.advance(honest.head().unwrap(), None).unwrap();
        // Written anew from the first leaf on, from the middle on, without one, or with two of them swapped.
        type Write<'a> = &'a dyn Fn(&mut Log<Memory>);
        let anew: [Write<'_>; 4] = [
            &|log| grow(log, 130, 1),
            &|log| {
                (0..50).for_each(|at| log.note(5000, &entry(at)));
                grow(log, 80, 1);
            },
            &|log| {
                (0..131).filter(|at| *at != 70).for_each(|at| log.note(5000, &entry(at)));
                grow(log, 0, 0);
            },
            &|log| {
                let swapped = (0..130).map(|at| {
                    if at == 98 {
                        99
                    } else if at == 99 {
                        98
                    } else {
                        at
                    }
                });
                swapped.for_each(|at| log.note(5000, &entry(at)));
                grow(log, 0, 0);
            },
        ];
        for write in anew {
            let mut forked = log();
            write(&mut forked);
            let evidence = forked.evidence(&[1], Some(seen)).unwrap().unwrap();
            let refused = evidence.check(&mut watch).unwrap_err().to_string();
            assert!(refused.contains("head"), "{refused}");
            assert_eq!(watch.latest().unwrap().size, seen);
        }
        // An edited leaf in a log that is otherwise the same has no proof.
        grow(&mut honest, 30, 0);
        let mut evidence = honest.evidence(&[7], Some(seen)).unwrap().unwrap();
        let leaf = &mut evidence.leaves[0].leaf;
        let last = leaf.len() - 1;
        leaf[last] ^= 1;
        assert!(evidence.check(&mut watch.clone()).is_err());
        evidence.leaves[0].leaf[last] ^= 1;
        evidence.check(&mut watch).unwrap();
    }
}
