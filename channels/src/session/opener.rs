//! The receiving half of a channel: which records are accepted, under which epoch's key.
//!
//! The order of the steps is the security: read the number; ask the window without changing it; find the key; open;
//! and only then mark the number, move the epoch on and erase old keys. A record that fails anywhere leaves the
//! window and the epoch as they were. What may remain is a memoised candidate key, so that forged far numbers
//! cost nothing twice.
//!
//! Specification: docs/protocol.md §3.3, "Receive algorithm".

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use onward_keys::{AeadAlgorithm, Backend, SharedSecret, TAG_BYTES};

use crate::epoch::EpochKey;
use crate::record::{Content, Frame, HEAD_BYTES, OVERHEAD, Sequence};
use crate::replay::ReplayWindow;
use crate::session::Pulse;
use crate::{ChannelError, Now};

/// Opens what one end of a channel receives.
///
/// Holds one AEAD context and window when idle; the previous epoch's only while it is kept.
pub struct Opener {
    epoch: u64,
    current: Keyed,
    previous: Option<Box<Previous>>,
    ahead: Option<Box<Ahead>>,
    far: Far,
    pulse: Arc<Pulse>,
}

/// An epoch's key with the numbers accepted under it.
struct Keyed {
    key: EpochKey,
    window: ReplayWindow,
}

/// The epoch before the current one.
struct Previous {
    keyed: Keyed,
    until: Duration,
}

/// Keys of epochs that no authentic record has reached yet, so that a forged number costs its derivation once.
struct Ahead {
    /// Keys of the epochs after the current one, in order; at most [`EPOCH_JUMP`].
    secrets: Vec<SharedSecret>,
    /// The context last set up, and its epoch.
    candidate: Option<(u64, EpochKey)>,
}

/// How many records too far ahead came lately: a peer that lost its state, or forgeries.
#[derive(Default)]
struct Far {
    since: Duration,
    count: u8,
}

impl Opener {
    pub(super) fn new(
        backend: Backend,
        algorithm: AeadAlgorithm,
        key: &SharedSecret,
        pulse: Arc<Pulse>,
    ) -> Self {
        let key = EpochKey::new(backend, algorithm, key);
        Self {
            epoch: 0,
            current: Keyed { key, window: ReplayWindow::new() },
            previous: None,
            ahead: None,
            far: Far::default(),
            pulse,
        }
    }

    /// Opens `record` in place and returns its frame, whose body lies in `record`. Allocates only when an epoch
    /// begins.
    ///
    /// # Errors
    /// [`ChannelError::Malformed`], [`ChannelError::Replayed`], [`ChannelError::TooFarAhead`] or
    /// [`ChannelError::Unauthentic`]: drop the record, nothing has changed, and its bytes may be overwritten.
    /// After authentication, [`ChannelError::Malformed`] and [`ChannelError::UnknownFrame`]: drop it, its number
    /// is used up.
    pub fn open_in_place<'a>(&mut self, now: Now, record: &'a mut [u8]) -> Result<Frame<'a>, ChannelError> {
        let (sequence, plaintext) = self.authenticate(now, record)?;
        let newest = self.accept(now, sequence);
        Ok(Frame { sequence, newest, content: Content::parse(plaintext)? })
    }

    /// What `record` says, without accepting it: it can still be opened later. `record` is overwritten.
    pub(crate) fn peek<'a>(&mut self, now: Now, record: &'a mut [u8]) -> Result<Content<'a>, ChannelError> {
        let (_, plaintext) = self.authenticate(now, record)?;
        Content::parse(plaintext)
    }

    /// Erases the previous epoch's key once its time is over. [`Self::open_in_place`] never uses it after that
    /// time; this is for a channel on which nothing arrives.
    pub fn erase_expired(&mut self, now: Now) {
        if self.previous.as_ref().is_some_and(|previous| now.mono >= previous.until) {
            self.previous = None;
        }
    }

    /// When [`Self::erase_expired`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.previous.as_ref().map(|previous| previous.until)
    }

    /// A hash of what decides which records are accepted, for tests: a refused record must leave it as it was. The
    /// memoised candidate keys and the count of records too far ahead are not in it.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let previous = self.previous.as_ref().map(|previous| (previous.until, &previous.keyed.window));
        let mut hasher = DefaultHasher::new();
        (self.epoch, &self.current.window, previous, self.pulse.heard()).hash(&mut hasher);
        hasher.finish()
    }

    #[cfg(test)]
    pub(super) fn memoised_keys(&self) -> usize {
        self.ahead.as_ref().map_or(0, |ahead| ahead.secrets.len())
    }

    /// Steps 1 to 4: changes nothing but memoised candidates.
    fn authenticate<'a>(
        &mut self,
        now: Now,
        record: &'a mut [u8],
    ) -> Result<(Sequence, &'a [u8]), ChannelError> {
        if record.len() < OVERHEAD {
            return Err(ChannelError::Malformed("record shorter than an empty one"));
        }
        let Some((head, rest)) = record.split_first_chunk_mut::<HEAD_BYTES>() else {
            return Err(ChannelError::Malformed("record shorter than its number"));
        };
        let Some((ciphertext, tag)) = rest.split_last_chunk_mut::<TAG_BYTES>() else {
            return Err(ChannelError::Malformed("record shorter than its tag"));
        };
        let sequence = Sequence::new(u64::from_be_bytes(*head));
        self.erase_expired(now);
        let key = self.key_for(now, sequence)?;
        key.open(sequence.value(), ciphertext, tag).map_err(|_| ChannelError::Unauthentic)?;
        Ok((sequence, ciphertext))
    }

    /// Steps 2 and 3: the key under which `sequence` may be accepted.
    fn key_for(&mut self, now: Now, sequence: Sequence) -> Result<&EpochKey, ChannelError> {
        let epoch = sequence.epoch();
        if epoch > self.epoch {
            if epoch - self.epoch > EPOCH_JUMP {
                self.count_far(now);
                return Err(ChannelError::TooFarAhead(sequence));
            }
            return Ok(self.candidate(epoch));
        }
        let keyed = match &self.previous {
            _ if epoch == self.epoch => &self.current,
            Some(previous) if epoch + 1 == self.epoch => &previous.keyed,
            _ => return Err(ChannelError::Replayed(sequence)),
        };
        if !keyed.window.accepts(sequence) {
            return Err(ChannelError::Replayed(sequence));
        }
        Ok(&keyed.key)
    }

    /// The key of a later epoch, at most [`EPOCH_JUMP`] ahead.
    fn candidate(&mut self, epoch: u64) -> &EpochKey {
        let current = &self.current.key;
        let ahead =
            self.ahead.get_or_insert_with(|| Box::new(Ahead { secrets: Vec::new(), candidate: None }));
        let steps = usize::try_from(epoch - self.epoch).unwrap_or(usize::MAX);
        while ahead.secrets.len() < steps {
            let next = match ahead.secrets.last() {
                None => current.next_secret(),
                Some(last) => current.with(last).next_secret(),
            };
            ahead.secrets.push(next);
        }
        if ahead.candidate.as_ref().is_none_or(|(of, _)| *of != epoch) {
            ahead.candidate = None;
        }
        let (_, key) =
            ahead.candidate.get_or_insert_with(|| (epoch, current.with(&ahead.secrets[steps - 1])));
        key
    }

    /// Step 5: the record is authentic. Returns whether its number is the highest so far.
    fn accept(&mut self, now: Now, sequence: Sequence) -> bool {
        self.pulse.hear(now);
        let epoch = sequence.epoch();
        if epoch > self.epoch {
            self.advance(now, epoch);
        }
        if epoch == self.epoch {
            return self.current.window.mark(sequence);
        }
        if let Some(previous) = &mut self.previous {
            previous.keyed.window.mark(sequence);
        }
        false
    }

    /// Makes `epoch` the current one. The one before it is kept for a while, every older key is erased.
    fn advance(&mut self, now: Now, epoch: u64) {
        let key = self.ahead.as_mut().and_then(|ahead| ahead.candidate.take());
        let Some((_, key)) = key.filter(|(of, _)| *of == epoch) else {
            return;
        };
        let Some(mut ahead) = self.ahead.take() else {
            return;
        };
        let steps = usize::try_from(epoch - self.epoch).unwrap_or(usize::MAX).min(ahead.secrets.len());
        let skipped = steps.checked_sub(2).map(|before| key.with(&ahead.secrets[before]));
        ahead.secrets.drain(..steps);
        let left = std::mem::replace(&mut self.current, Keyed { key, window: ReplayWindow::new() });
        let keyed = match skipped {
            None => left,
            Some(key) => Keyed { key, window: ReplayWindow::new() },
        };
        self.previous = Some(Box::new(Previous { keyed, until: now.mono + self.pulse.profile.previous_key }));
        self.epoch = epoch;
        if !ahead.secrets.is_empty() {
            self.ahead = Some(ahead);
        }
    }

    fn count_far(&mut self, now: Now) {
        if now.mono.saturating_sub(self.far.since) > FAR_TIME || self.far.count == 0 {
            self.far = Far { since: now.mono, count: 0 };
        }
        self.far.count = self.far.count.saturating_add(1);
        if self.far.count >= FAR_RECORDS {
            self.far.count = 0;
            self.pulse.want_renewal();
        }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// How many epochs ahead of the current one a record may be.
const EPOCH_JUMP: u64 = 64;
const FAR_RECORDS: u8 = 16;
const FAR_TIME: Duration = Duration::from_secs(5);
