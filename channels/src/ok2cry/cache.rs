//! The key cache: makes disposable keys, opens with each of them once, and ends every one of them on time.
//!
//! A private half never lies open in memory: it is wrapped under the key of its epoch until it is used, and is worth
//! nothing once that key is wiped. A key is used up by its first success, by [`FAILURES_MAX`] failures or by its time,
//! whichever comes first; time is asked for at every access, so that a late timer only wipes late and never answers
//! late. Every end is noted, once.
//!
//! [`Cache`] is a value: clock, randomness and identity of the asker are arguments. [`CacheHost`] adds the log.
//!
//! # Invariants
//! - What is somebody else's, is over, or never was is one answer.
//! - Nothing that lives gives way to anything new.
//! - A record of a key outlives it until its epoch's key is wiped: nothing that comes back resets what was used or failed.
//! - No turn of the sweep does more than [`SWEEP_MAX`] keys, and none leaves an allocator more to do: the memory of a key
//!   goes to the next, and none of it back.
//!
//! Specification: docs/protocol.md §5.4.

mod blocks;
mod epoch;
mod host;
mod life;
mod message;
mod owner;
mod pile;
mod records;
mod slab;
mod wheel;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use onward_keys::audit::Event;
use onward_keys::{Backend, CryptoRng, HpkeSuite, Keep, Kept, LONG_NONCE_BYTES, Label, hash, unwrap, wrap};
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use self::blocks::{Blocks, Chain};
use self::epoch::{Class, Epochs};
use self::host::Note;
use self::owner::Account;
use self::records::Records;
use self::wheel::Wheel;
use super::{
    CHILD_MARGIN_SECONDS, DisposableKey, DisposableKeyId, ExchangeError, KeyBody, Policy, Sealed,
    TTL_SECONDS_MAX, open, pem,
};
use crate::identity::IdPayload;
use crate::random::SeededRandom;

pub use host::{CacheHost, CachePast, MemoryLog};
pub use life::{KeyLife, LifeError};
pub use message::{
    CACHE_MESSAGE_BYTES_MAX, CacheCall, CacheOutcome, CacheRefusal, CacheReply, CacheReplyError,
    CacheRequest, CacheStatus, DELEGATES_MAX, DisposableKeyState, KeyStat, MadeKey, NewDisposableKey,
    OpenedBytes, encode_answer,
};
pub use owner::{Asker, Owner, Quota};

/// Failed uses that end a key.
pub const FAILURES_MAX: u8 = 8;

/// Keys that one turn of the sweep ends, and as many that it forgets, at most: well below a millisecond, so that no
/// request waits longer for it.
pub const SWEEP_MAX: usize = 32;

/// How long a key's record is kept after its epoch's key is wiped, for whoever asks for evidence of its end.
pub const EVIDENCE_KEPT: Duration = Duration::from_secs(300);

/// By how much the clock of who puts a key in may be ahead. Source: docs/protocol.md §5.3.
const CLOCK_SKEW_SECONDS: u64 = 60;

/// The clocks of the host at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moment {
    /// How long the machine has run, sleep included. Lives are measured with it.
    pub boot: Duration,
    /// Milliseconds since the Unix epoch. It is written down, and nothing hangs on it.
    pub unix_ms: u64,
}

/// What a cache holds at most, and what it does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheLimits {
    /// Live keys of all owners together.
    pub keys_max: u32,
    /// Keys that are remembered, live or over.
    pub records_max: u32,
    /// The life of a key whose maker asks for none, in seconds.
    pub ttl_default: u16,
    /// Whether any private key may be taken out.
    pub take: bool,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { keys_max: 1_000_000, records_max: 4_000_000, ttl_default: 120, take: false }
    }
}

/// Disposable keys and what became of them.
pub struct Cache {
    limits: CacheLimits,
    /// New with every start, so that a key of an earlier one is not taken for one that was used.
    replica: [u8; 16],
    keep: Keep,
    put_key: Kept,
    put_public: Vec<u8>,
    epochs: Epochs,
    records: Records,
    blocks: Blocks,
    accounts: HashMap<Owner, Account>,
    wheel: Wheel,
    live: u32,
    notes: Vec<Note>,
    /// The place in the log of the next note.
    leaves: u64,
}

/// A key and its life so far.
struct Record {
    owner: Owner,
    delegates: Chain,
    policy: Policy,
    class: Class,
    epoch: u32,
    state: DisposableKeyState,
    failures: u8,
    /// The places in the log of its creation and end.
    created: u64,
    ended: u64,
    live: Option<Live>,
}

/// What is there of a key only while it lives.
struct Live {
    expires: Duration,
    exportable: bool,
    body: Chain,
    wrapped: Wrapped,
}

/// A private half under the key of its epoch.
#[derive(ZeroizeOnDrop)]
struct Wrapped {
    nonce: [u8; LONG_NONCE_BYTES],
    secret: [u8; 32],
    tag: [u8; 16],
}

impl Cache {
    /// An empty cache whose first note is leaf `leaves` of its log. `seed` is used for nothing else.
    ///
    /// # Errors
    /// [`CacheRefusal::Busy`] when `keep` has no place.
    pub fn new(limits: CacheLimits, keep: Keep, seed: &[u8; 32], leaves: u64) -> Result<Self, CacheRefusal> {
        let mut random = SeededRandom::new(seed);
        let replica = random.bytes();
        let key = DisposableKey::generate(Policy::Strong, &mut random).map_err(|_| CacheRefusal::Busy)?;
        let mut put_key = keep.take().map_err(|_| CacheRefusal::Busy)?;
        put_key.bytes_mut().copy_from_slice(key.private());
        Ok(Self {
            limits,
            replica,
            put_key,
            put_public: key.public().to_vec(),
            epochs: Epochs::new(keep.clone()),
            keep,
            records: Records::new(),
            blocks: Blocks::new(),
            accounts: HashMap::new(),
            wheel: Wheel::default(),
            live: 0,
            notes: Vec::new(),
            leaves,
        })
    }

    /// Makes a key (GEN). `seed` is used for nothing else.
    ///
    /// # Errors
    /// [`CacheRefusal::Overload`] above a quota; [`CacheRefusal::Policy`] for a life out of range or one that does not
    /// end [`CHILD_MARGIN_SECONDS`] before the parent's; [`CacheRefusal::Busy`].
    pub fn generate(
        &mut self,
        now: Moment,
        asker: &Asker,
        new: &NewDisposableKey<'_>,
        seed: &[u8; 32],
    ) -> Result<MadeKey, CacheRefusal> {
        let ttl = new.ttl.unwrap_or(self.limits.ttl_default);
        let iat = now.unix_ms / 1000;
        let parent = new.parent.map(KeyBody::decode).transpose().map_err(|_| CacheRefusal::Policy)?;
        let outlives = |parent: &KeyBody| iat + u64::from(ttl) + CHILD_MARGIN_SECONDS > parent.exp();
        if !(1..=TTL_SECONDS_MAX).contains(&ttl) || parent.as_ref().is_some_and(outlives) {
            return Err(CacheRefusal::Policy);
        }
        let mut random = SeededRandom::new(seed);
        let [a, b, c, d, ..] = self.replica;
        let mut key_id: [u8; 16] = random.bytes();
        key_id[..4].copy_from_slice(&[a, b, c, d]);
        let mut body = KeyBody {
            policy: new.policy,
            key_id: DisposableKeyId::from_bytes(key_id),
            public: vec![0; new.policy.public_bytes()],
            direction: new.direction,
            iat,
            ttl,
            aud: new.aud.to_owned(),
            purpose: new.purpose.to_owned(),
            binding: new.binding,
            parent: parent.map(|parent| parent.key_id),
            schema: new.schema,
        };
        // Before any key is computed: a refused request must cost little.
        self.admit(now, asker, key_bytes(body.encode().len(), size_of_val(&new.delegates[..])))?;
        let key = DisposableKey::generate(new.policy, &mut random).map_err(|_| CacheRefusal::Busy)?;
        body.public = key.public().to_vec();
        let expires = now.boot + Duration::from_secs(ttl.into());
        let (exportable, delegates) = (new.exportable, &new.delegates[..]);
        self.insert(now, asker, &body, expires, (exportable, delegates), key.private(), &mut random)
    }

    /// Takes in a key that was made elsewhere, its private half sealed to the cache's own key (PUT).
    ///
    /// # Errors
    /// As [`Cache::generate`]; [`CacheRefusal::Policy`] also for a body of another cache, not of now, or known already,
    /// and [`CacheRefusal::BadSealed`] when the private half does not open or is not the body's.
    pub fn put(
        &mut self,
        now: Moment,
        asker: &Asker,
        body: &[u8],
        (enc, ct): (&[u8], &[u8]),
        seed: &[u8; 32],
    ) -> Result<MadeKey, CacheRefusal> {
        let info = put_info(body);
        let body = KeyBody::decode(body).map_err(|_| CacheRefusal::Policy)?;
        let is_of_now = body.iat <= now.unix_ms / 1000 + CLOCK_SKEW_SECONDS;
        let ttl = Duration::from_secs(body.ttl.into());
        let end = Duration::from_secs(body.exp());
        let left = end.saturating_sub(Duration::from_millis(now.unix_ms)).min(ttl);
        let is_ours = self.replica.starts_with(&body.key_id.replica());
        if !is_of_now || left.is_zero() || !is_ours || self.records.get(&body.key_id).is_some() {
            return Err(CacheRefusal::Policy);
        }
        self.admit(now, asker, key_bytes(body.encode().len(), 0))?;
        let opened = PUT_SUITE
            .open(Backend::best(), self.put_key.as_bytes(), enc, (&info, &[]), ct)
            .map_err(|_| CacheRefusal::BadSealed)?;
        let private = opened.first_chunk().filter(|_| opened.len() == 32).ok_or(CacheRefusal::BadSealed)?;
        let key = DisposableKey::from_private(body.policy, private).map_err(|_| CacheRefusal::BadSealed)?;
        if key.public() != body.public {
            return Err(CacheRefusal::BadSealed);
        }
        let expires = now.boot + left;
        self.insert(now, asker, &body, expires, (false, &[]), key.private(), &mut SeededRandom::new(seed))
    }

    /// Whether there may be one more key, which counts for `bytes`.
    fn admit(&self, now: Moment, asker: &Asker, bytes: u64) -> Result<(), CacheRefusal> {
        let is_full = self.live >= self.limits.keys_max || self.records.len() >= self.limits.records_max;
        let none = Account::default();
        let account = self.accounts.get(&asker.owner).unwrap_or(&none);
        if is_full || !account.has_room(now.boot, &asker.quota, bytes) {
            return Err(CacheRefusal::Overload);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // one place where a key begins, for both ways in
    fn insert(
        &mut self,
        now: Moment,
        asker: &Asker,
        body: &KeyBody,
        expires: Duration,
        (exportable, delegates): (bool, &[Owner]),
        private: &[u8; 32],
        random: &mut SeededRandom,
    ) -> Result<MadeKey, CacheRefusal> {
        let encoded = body.encode();
        let bytes = key_bytes(encoded.len(), size_of_val(delegates));
        let account = self.accounts.entry(asker.owner).or_default();
        if !account.take(now.boot, &asker.quota, bytes) {
            // Nobody who has no key takes up any room.
            if account.is_unused() {
                self.accounts.remove(&asker.owner);
            }
            return Err(CacheRefusal::Overload);
        }
        let class = Class::of(body.ttl);
        let made = self.epochs.current(now.boot, class, random).map_err(|_| CacheRefusal::Busy);
        let (epoch, is_new) = made.inspect_err(|_| account.give_back(bytes))?;
        if is_new {
            let leaf = note(
                &mut self.notes,
                &mut self.leaves,
                Note::of_epoch(Event::EpochCreated, class, epoch.number),
            );
            epoch.created = leaf;
        }
        let number = epoch.number;
        let ad = wrapping_ad(&self.replica, number, body, &asker.owner, expires);
        let mut wrapped = Wrapped { nonce: random.bytes(), secret: *private, tag: [0; 16] };
        let key = epoch.key.as_ref().ok_or(CacheRefusal::Busy)?;
        wrapped.tag = wrap(key.as_bytes(), &wrapped.nonce, &ad, &mut wrapped.secret);
        epoch.members.push(body.key_id);
        let commitment: [u8; 16] = random.bytes();
        let created = Note {
            event: Event::Created,
            key: Some(body.key_id),
            public: Some(life::commit(&commitment, &body.public)),
            policy: body.policy.number(),
            owner: Some(asker.owner),
            epoch: number,
        };
        let created = note(&mut self.notes, &mut self.leaves, created);
        let delegates: Vec<u8> = delegates.iter().flat_map(Owner::as_bytes).copied().collect();
        let record = Record {
            owner: asker.owner,
            delegates: self.blocks.put(&delegates),
            policy: body.policy,
            class,
            epoch: number,
            state: DisposableKeyState::Live,
            failures: 0,
            created,
            ended: 0,
            live: Some(Live { expires, exportable, body: self.blocks.put(&encoded), wrapped }),
        };
        self.records.insert(body.key_id, record);
        self.wheel.add(expires, body.key_id);
        self.live += 1;
        Ok(MadeKey { body: encoded, commitment })
    }

    /// Opens what was sealed to a key, and ends the key (USE). Who sealed it was checked before.
    ///
    /// # Errors
    /// [`CacheRefusal::NotFound`]; [`CacheRefusal::BadSealed`]: only what was sealed for this key counts as a failure.
    pub fn open(
        &mut self,
        now: Moment,
        asker: &Asker,
        key: DisposableKeyId,
        sealed: &[u8],
        ctx: &[u8; 32],
    ) -> Result<OpenedBytes, CacheRefusal> {
        self.expire(now, key);
        let (record, live) = self.reach_live(now, asker, key)?;
        let sealed = Sealed::decode(sealed).map_err(|_| CacheRefusal::BadSealed)?;
        let body = KeyBody::decode(&self.blocks.read(&live.body)).map_err(|_| CacheRefusal::BadSealed)?;
        let fits = sealed.key_id == key
            && sealed.policy == record.policy
            && body.binding.is_none_or(|binding| binding == *ctx);
        let signer = sealed.signer.as_ref().map(|signer| IdPayload::decode(&signer.payload));
        let signer = signer.transpose().map_err(|_| CacheRefusal::BadSealed)?;
        if !fits {
            return Err(CacheRefusal::BadSealed);
        }
        let terms = body.terms(signer.map(|payload| payload.identifier()), *ctx);
        let private = self.unwrap(record, live, &body)?;
        let ciphertext = &sealed.ciphertext;
        let opened = open(&terms, private.as_bytes(), ciphertext.enc.as_deref(), &ciphertext.ct);
        drop(private);
        match opened {
            Ok(opened) => {
                self.end(key, DisposableKeyState::Used);
                Ok(OpenedBytes { plaintext: opened.plaintext, sender: opened.sender })
            }
            Err(_) => {
                self.fail(key);
                Err(CacheRefusal::BadSealed)
            }
        }
    }

    /// Takes a private key out, and ends the key here (TAKE).
    ///
    /// # Errors
    /// [`CacheRefusal::NotFound`]; [`CacheRefusal::Denied`] unless cache, asker and key all allow it.
    pub fn take(
        &mut self,
        now: Moment,
        asker: &Asker,
        key: DisposableKeyId,
    ) -> Result<Zeroizing<[u8; 32]>, CacheRefusal> {
        self.expire(now, key);
        let (record, live) = self.reach_live(now, asker, key)?;
        if !(self.limits.take && asker.may_take && live.exportable) {
            return Err(CacheRefusal::Denied);
        }
        let body = KeyBody::decode(&self.blocks.read(&live.body)).map_err(|_| CacheRefusal::NotFound)?;
        let private = Zeroizing::new(*self.unwrap(record, live, &body)?.as_bytes());
        self.end(key, DisposableKeyState::Used);
        Ok(private)
    }

    /// Ends a key (DESTROY). Answers with the place in the log of its end.
    ///
    /// # Errors
    /// [`CacheRefusal::NotFound`].
    pub fn destroy(&mut self, now: Moment, asker: &Asker, key: DisposableKeyId) -> Result<u64, CacheRefusal> {
        self.expire(now, key);
        self.reach_live(now, asker, key)?;
        Ok(self.end(key, DisposableKeyState::Destroyed))
    }

    /// What is publicly known of a key (STAT).
    ///
    /// # Errors
    /// [`CacheRefusal::NotFound`]; so is a key whose time was over.
    pub fn stat(
        &mut self,
        now: Moment,
        asker: &Asker,
        key: DisposableKeyId,
    ) -> Result<KeyStat, CacheRefusal> {
        self.expire(now, key);
        let record = self.reach(asker, key)?;
        if record.state == DisposableKeyState::Expired {
            return Err(CacheRefusal::NotFound);
        }
        let left = record.live.as_ref().map_or(Duration::ZERO, |live| live.expires - now.boot);
        Ok(KeyStat {
            body: record.live.as_ref().map(|live| self.blocks.read(&live.body)),
            remaining_ms: left.as_millis() as u64,
            state: record.state,
        })
    }

    /// The places in the log of a key's creation and, as far as they have happened, of its end and of its epoch's.
    ///
    /// # Errors
    /// [`CacheRefusal::NotFound`], also [`EVIDENCE_KEPT`] after the end of its epoch.
    pub fn leaves_of(
        &mut self,
        now: Moment,
        asker: &Asker,
        key: DisposableKeyId,
    ) -> Result<Vec<u64>, CacheRefusal> {
        self.expire(now, key);
        let record = self.reach(asker, key)?;
        let mut leaves = vec![record.created];
        let (class, number) = (record.class, record.epoch);
        if record.live.is_none() {
            leaves.push(record.ended);
        }
        leaves.extend(self.epochs.find(class, number).and_then(|epoch| epoch.destroyed));
        Ok(leaves)
    }

    /// Does what is due, at most [`SWEEP_MAX`] keys of it, and says when to come again.
    pub fn tick(&mut self, now: Moment) -> Option<Duration> {
        for _ in 0..SWEEP_MAX {
            let Some(key) = self.wheel.pop(now.boot) else { break };
            self.expire(now, key);
        }
        while let Some((class, number)) = self.epochs.wipe_one(now.boot, self.leaves) {
            self.note(Note::of_epoch(Event::EpochDestroyed, class, number));
        }
        for _ in 0..SWEEP_MAX {
            let Some(key) = self.epochs.forget_one(now.boot) else { break };
            self.forget(now, key);
        }
        [self.wheel.due(), self.epochs.due()].into_iter().flatten().min()
    }

    /// Ends every key and wipes every epoch's. Nothing can be made afterwards but a new cache.
    pub fn close(&mut self) {
        let live: Vec<_> = self.records.keys().collect();
        for key in live {
            if self.records.get(&key).is_some_and(|record| record.live.is_some()) {
                self.end(key, DisposableKeyState::Destroyed);
            }
        }
        while let Some((class, number)) = self.epochs.wipe_one(Duration::MAX, self.leaves) {
            self.note(Note::of_epoch(Event::EpochDestroyed, class, number));
        }
        self.put_key.bytes_mut().zeroize();
        self.limits.keys_max = 0;
    }

    /// Adds a note, and answers with its place in the log.
    fn note(&mut self, new: Note) -> u64 {
        note(&mut self.notes, &mut self.leaves, new)
    }

    /// Live keys.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.live
    }

    /// The record of `key`, if `asker` may know of it.
    fn reach(&self, asker: &Asker, key: DisposableKeyId) -> Result<&Record, CacheRefusal> {
        let record = self.records.get(&key).ok_or(CacheRefusal::NotFound)?;
        let is_delegate = || {
            let delegates = self.blocks.read(&record.delegates);
            delegates.chunks(size_of::<Owner>()).any(|delegate| delegate == asker.owner.as_bytes())
        };
        if record.owner == asker.owner || is_delegate() { Ok(record) } else { Err(CacheRefusal::NotFound) }
    }

    fn reach_live(
        &self,
        now: Moment,
        asker: &Asker,
        key: DisposableKeyId,
    ) -> Result<(&Record, &Live), CacheRefusal> {
        let record = self.reach(asker, key)?;
        let live = record.live.as_ref().filter(|live| now.boot < live.expires);
        Ok((record, live.ok_or(CacheRefusal::NotFound)?))
    }

    /// Ends a key whose time is over.
    fn expire(&mut self, now: Moment, key: DisposableKeyId) {
        let live = self.records.get(&key).and_then(|record| record.live.as_ref());
        if live.is_some_and(|live| now.boot >= live.expires) {
            self.end(key, DisposableKeyState::Expired);
        }
    }

    /// The private half, in a place of its own for as long as it is used.
    fn unwrap(&self, record: &Record, live: &Live, body: &KeyBody) -> Result<Kept, CacheRefusal> {
        let epoch = self.epochs.find(record.class, record.epoch).and_then(|epoch| epoch.key.as_ref());
        let epoch = epoch.ok_or(CacheRefusal::NotFound)?;
        let ad = wrapping_ad(&self.replica, record.epoch, body, &record.owner, live.expires);
        let mut private = self.keep.take().map_err(|_| CacheRefusal::Busy)?;
        let Wrapped { nonce, secret, tag } = &live.wrapped;
        private.bytes_mut().copy_from_slice(secret);
        unwrap(epoch.as_bytes(), nonce, &ad, private.bytes_mut(), tag).map_err(|_| CacheRefusal::NotFound)?;
        Ok(private)
    }

    fn fail(&mut self, key: DisposableKeyId) {
        let Some(record) = self.records.get_mut(&key) else { return };
        record.failures += 1;
        let is_last = record.failures >= FAILURES_MAX;
        let failed = record.note(Event::FailedUse, key);
        note(&mut self.notes, &mut self.leaves, failed);
        if is_last {
            self.end(key, DisposableKeyState::Destroyed);
        }
    }

    /// Wipes a live key and notes why. Answers with the place in the log.
    fn end(&mut self, key: DisposableKeyId, state: DisposableKeyState) -> u64 {
        let Some(record) = self.records.get_mut(&key) else { return self.leaves };
        let Some(live) = &mut record.live else { return record.ended };
        let body = std::mem::take(&mut live.body);
        // Wiped where it is.
        record.live = None;
        record.state = state;
        let event = match state {
            DisposableKeyState::Used => Event::Used,
            DisposableKeyState::Expired => Event::Expired,
            _ => Event::Destroyed,
        };
        record.ended = note(&mut self.notes, &mut self.leaves, record.note(event, key));
        self.live -= 1;
        if let Some(account) = self.accounts.get_mut(&record.owner) {
            account.end(key_bytes(body.len(), record.delegates.len()));
        }
        let ended = record.ended;
        self.blocks.free(body);
        ended
    }

    fn forget(&mut self, now: Moment, key: DisposableKeyId) {
        self.expire(now, key);
        let Some(record) = self.records.get_mut(&key) else { return };
        if let Some(account) = self.accounts.get_mut(&record.owner)
            && account.forget()
        {
            self.accounts.remove(&record.owner);
        }
        self.blocks.free(std::mem::take(&mut record.delegates));
        self.records.remove(&key);
    }
}

impl Record {
    fn note(&self, event: Event, key: DisposableKeyId) -> Note {
        Note {
            event,
            key: Some(key),
            public: None,
            policy: self.policy.number(),
            owner: Some(self.owner),
            epoch: self.epoch,
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("live", &self.live).finish_non_exhaustive()
    }
}

/// Seals `private`, the private half of the key with this encoded body, to the own key of a cache, for
/// [`CacheCall::Put`]: `(enc, ct)`.
///
/// # Errors
/// [`ExchangeError::InvalidPublicKey`]: `put_key` is none.
pub fn seal_private(
    put_key: &[u8],
    body: &[u8],
    private: &[u8; 32],
    random: &mut dyn CryptoRng,
) -> Result<(Vec<u8>, Vec<u8>), ExchangeError> {
    let point = pem::decode(put_key).ok_or(ExchangeError::InvalidPublicKey)?;
    let sealed = PUT_SUITE.seal(Backend::best(), &point, (&put_info(body), &[]), private, random);
    let sealed = sealed.map_err(|_| ExchangeError::InvalidPublicKey)?;
    Ok((sealed.enc, sealed.ct))
}

/// With what private halves that are put in are sealed.
const PUT_SUITE: HpkeSuite = HpkeSuite::P256Aes256Gcm;

fn put_info(body: &[u8]) -> Vec<u8> {
    Label::new("ok2cry/put").bytes(&hash(body)).encode()
}

/// What a private half is wrapped for: in another place, under another key or with another end it does not unwrap.
fn wrapping_ad(replica: &[u8; 16], epoch: u32, body: &KeyBody, owner: &Owner, expires: Duration) -> Vec<u8> {
    let label = Label::new("ok2cry/wrap").bytes(replica).uint(epoch.into()).bytes(body.key_id.as_bytes());
    let label = label.uint(body.policy.number().into()).bytes(owner.as_bytes());
    label.uint(expires.as_millis() as u64).encode()
}

/// What a live key counts for in its owner's quota: the bytes that it takes up.
fn key_bytes(body_bytes: usize, delegates_bytes: usize) -> u64 {
    (KEY_BYTES + Blocks::room(body_bytes) + Blocks::room(delegates_bytes)) as u64
}

/// Bytes of a key beside its body and delegates: its record, and its places in the wheel and among the members of its
/// epoch.
const KEY_BYTES: usize = Records::RECORD_BYTES + 2 * size_of::<DisposableKeyId>();

/// Adds a note, and answers with its place in the log.
fn note(notes: &mut Vec<Note>, leaves: &mut u64, new: Note) -> u64 {
    notes.push(new);
    *leaves += 1;
    *leaves - 1
}

#[cfg(test)]
mod tests {
    use super::super::{Ciphertext, Direction, seal};
    use super::*;

    const NOW: Moment = Moment { boot: Duration::from_secs(1000), unix_ms: 1_700_000_000_000 };

    fn asker() -> Asker {
        Asker { owner: Owner::of_user(1), quota: Quota::default(), may_take: false }
    }

    /// A cache with two keys, and a message that was sealed to the first.
    fn sample() -> (Cache, [DisposableKeyId; 2], Vec<u8>) {
        let mut cache = Cache::new(CacheLimits::default(), Keep::on_heap(), &[1; 32], 0).unwrap();
        let mut bodies = Vec::new();
        for seed in [2, 3] {
            let (policy, direction) = (Policy::NoiseAnonymous, Direction::AnswerToMe);
            let new = NewDisposableKey::new(policy, direction, "bank", "pin");
            let made = cache.generate(NOW, &asker(), &new, &[seed; 32]).unwrap();
            bodies.push(KeyBody::decode(&made.body).unwrap());
        }
        let [first, second] = &bodies[..] else { panic!("two keys") };
        let terms = first.terms(None, [9; 32]);
        let Ciphertext { enc, ct } =
            seal(&terms, &first.public, None, b"1234", &mut SeededRandom::new(&[4; 32])).unwrap();
        let (policy, key_id) = (first.policy, first.key_id);
        let sealed = Sealed { policy, key_id, ciphertext: Ciphertext { enc, ct }, signer: None };
        (cache, [first.key_id, second.key_id], sealed.encode())
    }

    fn blob(cache: &mut Cache, key: DisposableKeyId) -> &mut Live {
        cache.records.get_mut(&key).unwrap().live.as_mut().unwrap()
    }

    #[test]
    fn n5_5_what_is_wrapped_opens_as_nothing_but_what_it_was_wrapped_as() {
        type Change<'a> = &'a dyn Fn(&mut Cache, DisposableKeyId, DisposableKeyId);
        let changes: [Change<'_>; 5] = [
            // Another key's, by nonce, bytes and tag.
            &|cache, key, other| {
                let Wrapped { nonce, secret, tag } = blob(cache, other).wrapped;
                blob(cache, key).wrapped = Wrapped { nonce, secret, tag };
            },
            &|cache, key, _| blob(cache, key).wrapped.secret[7] ^= 1,
            &|cache, key, _| blob(cache, key).expires += Duration::from_millis(1),
            &|cache, key, _| cache.records.get_mut(&key).unwrap().owner = Owner::of_user(2),
            &|cache, key, _| cache.records.get_mut(&key).unwrap().epoch += 1,
        ];
        for (at, change) in changes.iter().enumerate() {
            let (mut cache, [key, other], sealed) = sample();
            change(&mut cache, key, other);
            let owner = cache.records.get(&key).unwrap().owner;
            let asker = Asker { owner, ..asker() };
            let opened = cache.open(NOW, &asker, key, &sealed, &[9; 32]);
            assert_eq!(opened.unwrap_err(), CacheRefusal::NotFound, "{at}");
        }
        let (mut cache, [key, _], sealed) = sample();
        assert_eq!(cache.open(NOW, &asker(), key, &sealed, &[9; 32]).unwrap().plaintext[..], *b"1234");
    }

    #[test]
    fn n5_5_a_blob_that_comes_back_does_not_bring_its_key_back() {
        let (mut cache, [key, _], sealed) = sample();
        let body = cache.blocks.read(&cache.records.get(&key).unwrap().live.as_ref().unwrap().body);
        let Live { expires, exportable, body: _, wrapped } = blob(&mut cache, key);
        let (expires, exportable) = (*expires, *exportable);
        let wrapped = Wrapped { nonce: wrapped.nonce, secret: wrapped.secret, tag: wrapped.tag };
        cache.open(NOW, &asker(), key, &sealed, &[9; 32]).unwrap();
        let record = cache.records.get(&key).unwrap();
        assert_eq!((record.state, record.live.is_none()), (DisposableKeyState::Used, true));
        // Whoever keeps blobs cannot put one under a name that is taken; nor does one of another start unwrap.
        let mut fresh = Cache::new(CacheLimits::default(), Keep::on_heap(), &[7; 32], 0).unwrap();
        let live = Some(Live { expires, exportable, body: fresh.blocks.put(&body), wrapped });
        let Record { owner, policy, class, epoch, created, ended, .. } = *cache.records.get(&key).unwrap();
        let (state, failures) = (DisposableKeyState::Live, 0);
        let delegates = Chain::default();
        let record = Record { owner, delegates, policy, class, epoch, state, failures, created, ended, live };
        fresh.records.insert(key, record);
        assert_eq!(fresh.open(NOW, &asker(), key, &sealed, &[9; 32]).unwrap_err(), CacheRefusal::NotFound);
    }

    #[test]
    fn a_wrapped_half_is_wiped_with_its_record() {
        fn wiped<T: ZeroizeOnDrop>() -> bool {
            std::mem::needs_drop::<T>()
        }
        assert!(wiped::<Wrapped>());
    }
}
