//! A cache with its log: what was done is noted before it is answered, and evidence comes from the same place.
//!
//! Still a value: whoever hosts it gives it clocks, randomness, requests and the signature of the log's heads.
//!
//! Specification: docs/protocol.md §5.4, §5.6.

use std::fmt;
use std::io;
use std::time::Duration;

use onward_keys::audit::{Entry, Event, HEAD_EVERY, Leaf, Log, Medium, key_name};
use onward_keys::{Keep, Kept, Label, mac};
use zeroize::Zeroizing;

use super::super::DisposableKeyId;
use super::epoch::Class;
use super::message::{CacheCall, CacheOutcome, CacheRefusal, CacheRequest, CacheStatus, encode_answer};
use super::{Asker, Cache, CacheLimits, Moment, Owner};
use crate::strict::Malformed;

/// What the cache notes: a leaf in the making.
pub(super) struct Note {
    pub(super) event: Event,
    pub(super) key: Option<DisposableKeyId>,
    pub(super) public: Option<[u8; 32]>,
    pub(super) policy: u16,
    pub(super) owner: Option<Owner>,
    pub(super) epoch: u32,
}

impl Note {
    /// The beginning or end of an epoch key: its class is in the place of the policy.
    pub(super) fn of_epoch(event: Event, class: Class, number: u32) -> Self {
        Self { event, key: None, public: None, policy: class.seconds(), owner: None, epoch: number }
    }

    fn of_process(event: Event) -> Self {
        Self { event, key: None, public: None, policy: 0, owner: None, epoch: 0 }
    }

    fn entry(&self, log_key: &[u8; 32]) -> Entry {
        let key = self.key.as_ref().map(DisposableKeyId::as_bytes);
        let owner = self.owner.zip(key).map_or([0; 32], |(owner, key)| {
            mac(log_key, &Label::new("audit/owner").bytes(owner.as_bytes()).bytes(key).encode())
        });
        Entry {
            event: self.event,
            key: key.map(|key| key_name(log_key, key)),
            public: self.public,
            policy: self.policy,
            owner,
            epoch: self.epoch,
        }
    }
}

/// What a log that is read back says of the processes before this one: which epoch keys ended with them.
#[derive(Debug, Default)]
pub struct CachePast {
    open: Vec<Entry>,
}

impl CachePast {
    /// Takes the next leaf in.
    pub fn look(&mut self, leaf: &Leaf) {
        let entry = leaf.entry;
        match entry.event {
            Event::EpochCreated => self.open.push(entry),
            Event::EpochDestroyed | Event::Lost => {
                self.open.retain(|open| (open.policy, open.epoch) != (entry.policy, entry.epoch));
            }
            _ => {}
        }
    }
}

/// A cache, and the log of it.
pub struct CacheHost<M> {
    cache: Cache,
    log: Log<M>,
    /// Gives keys and owners their names in the log.
    log_key: Kept,
    /// The public key of the log's heads.
    signer: [u8; 32],
}

impl<M: Medium> CacheHost<M> {
    /// Begins an empty cache, and notes that it did and what `past` left open.
    ///
    /// `signer` is the public half of the Ed25519 key that signs the heads of `log`, `log_key` the key of the log, and
    /// `seed` is used for nothing else.
    ///
    /// # Errors
    /// [`CacheRefusal::Busy`] when `keep` has no place.
    pub fn new(
        limits: CacheLimits,
        keep: Keep,
        (log, log_key, signer): (Log<M>, Kept, [u8; 32]),
        past: CachePast,
        now: Moment,
        seed: &[u8; 32],
    ) -> Result<Self, CacheRefusal> {
        let mut cache = Cache::new(limits, keep, seed, log.size())?;
        cache.note(Note::of_process(Event::Start));
        for Entry { policy, epoch, .. } in past.open {
            cache.note(Note { policy, epoch, ..Note::of_process(Event::Lost) });
        }
        let mut host = Self { cache, log, log_key, signer };
        host.log_notes(now);
        Ok(host)
    }

    /// Answers an encoded [`CacheRequest`] of `asker`. `seed` is used for nothing else.
    ///
    /// What was done is in the log, and has to be written by [`CacheHost::write`] before the answer leaves.
    ///
    /// # Errors
    /// [`Malformed`]: whoever does not speak the protocol is not answered.
    pub fn answer(
        &mut self,
        now: Moment,
        asker: &Asker,
        request: &[u8],
        seed: &[u8; 32],
    ) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let CacheRequest { id, call } = CacheRequest::decode(request)?;
        Ok(encode_answer(id, &self.handle(now, asker, &call, seed)))
    }

    /// Does what `asker` asks, or says why not.
    ///
    /// # Errors
    /// [`CacheRefusal`].
    pub fn handle(
        &mut self,
        now: Moment,
        asker: &Asker,
        call: &CacheCall<'_>,
        seed: &[u8; 32],
    ) -> Result<CacheOutcome, CacheRefusal> {
        let cache = &mut self.cache;
        let outcome = match *call {
            CacheCall::Generate(ref new) => cache.generate(now, asker, new, seed).map(CacheOutcome::Made),
            CacheCall::Use { key, sealed, ctx } => {
                cache.open(now, asker, key, sealed, ctx).map(CacheOutcome::Opened)
            }
            CacheCall::Take(key) => cache.take(now, asker, key).map(CacheOutcome::Private),
            CacheCall::Put { body, enc, ct } => {
                cache.put(now, asker, body, (enc, ct), seed).map(CacheOutcome::Made)
            }
            CacheCall::Destroy(key) => cache.destroy(now, asker, key).map(CacheOutcome::Ended),
            CacheCall::Stat(key) => cache.stat(now, asker, key).map(CacheOutcome::Stat),
            CacheCall::Proof { key, since } => self.prove(now, asker, key, since),
            CacheCall::Status => Ok(CacheOutcome::Status(self.status())),
        };
        self.log_notes(now);
        outcome
    }

    /// Does what is due, a little of it, and says when to come again.
    pub fn tick(&mut self, now: Moment) -> Option<Duration> {
        let due = self.cache.tick(now);
        self.log_notes(now);
        // A head is due at most so long after a leaf.
        let head = self.log.is_ahead().then(|| now.boot + HEAD_EVERY);
        [due, head].into_iter().flatten().min()
    }

    /// Writes down what was done, and a head signed by `sign` where one is due.
    ///
    /// # Errors
    /// Of the medium. What was answered is then not on record, and nothing more may be asked.
    pub fn write(&mut self, now: Moment, sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>) -> io::Result<()> {
        self.log.write(now.unix_ms, now.boot, sign)
    }

    /// Ends every key, and the log of this process. What was noted has to be written once more.
    pub fn close(&mut self, now: Moment) {
        self.cache.close();
        self.cache.note(Note::of_process(Event::Stop));
        self.log_notes(now);
        self.log.end();
    }

    /// Where the log is written.
    #[must_use]
    pub fn medium(&self) -> &M {
        self.log.medium()
    }

    /// What is publicly known of the cache.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        let Self { cache, log, log_key: _, signer } = self;
        CacheStatus {
            replica: cache.replica,
            put_key: cache.put_public.clone(),
            log_id: log.id(),
            signer: *signer,
            live: cache.live(),
            records: cache.records.len(),
            epochs: cache.epochs.keys() as u32,
            leaves: log.size(),
        }
    }

    fn prove(
        &mut self,
        now: Moment,
        asker: &Asker,
        key: DisposableKeyId,
        since: Option<u64>,
    ) -> Result<CacheOutcome, CacheRefusal> {
        let leaves = self.cache.leaves_of(now, asker, key)?;
        // Until the medium or the next head is there.
        let evidence = self.log.evidence(&leaves, since).ok().flatten().ok_or(CacheRefusal::Busy)?;
        if evidence.leaves.is_empty() {
            return Err(CacheRefusal::Busy);
        }
        Ok(CacheOutcome::Proof(evidence.encode()))
    }

    fn log_notes(&mut self, now: Moment) {
        for note in self.cache.notes.drain(..) {
            self.log.note(now.unix_ms, &note.entry(self.log_key.as_bytes()));
        }
    }
}

impl<M> fmt::Debug for CacheHost<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHost").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// A log in memory, for development: it grows, and is gone with its process.
#[derive(Debug, Default)]
pub struct MemoryLog {
    leaves: Vec<u8>,
    heads: Vec<u8>,
}

impl MemoryLog {
    /// A log that goes on after these leaves.
    #[must_use]
    pub fn from_leaves(leaves: Vec<u8>) -> Self {
        Self { leaves, heads: Vec::new() }
    }

    /// The leaves, as a log on disk has them.
    #[must_use]
    pub fn leaves(&self) -> &[u8] {
        &self.leaves
    }

    /// The heads, as a log on disk has them.
    #[must_use]
    pub fn heads(&self) -> &[u8] {
        &self.heads
    }
}

impl Medium for MemoryLog {
    fn append_leaves(&mut self, leaves: &[u8]) -> io::Result<()> {
        self.leaves.extend_from_slice(leaves);
        Ok(())
    }

    fn append_head(&mut self, head: &[u8]) -> io::Result<()> {
        self.heads.extend_from_slice(head);
        Ok(())
    }

    fn read_leaves(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.leaves.get(at..)).unwrap_or_default();
        out.copy_from_slice(from.get(..out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
