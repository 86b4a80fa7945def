//! Epoch keys, under which private halves are wrapped: when one is wiped, whatever is left of its keys is worth nothing.
//!
//! There is a key for each minute and class of life. It lives until [`GRACE`] after the last key of its minute can.
//!
//! Specification: docs/protocol.md §5.4 ("Service stream").

use std::io;
use std::time::Duration;

use onward_keys::{Keep, Kept};

use super::super::DisposableKeyId;
use super::EVIDENCE_KEPT;
use super::pile::Pile;
use crate::random::SeededRandom;

/// How long keys are made under one epoch key.
pub(super) const EPOCH: Duration = Duration::from_secs(60);

/// How long an epoch key outlives its longest-lived keys.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Lives that are wiped together: up to so many seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Class(u16);

impl Class {
    const ALL: [Self; 3] = [Self(15), Self(120), Self(900)];

    /// The class of a life of `ttl` seconds, 1 to 900.
    pub(super) fn of(ttl: u16) -> Self {
        let [short, middle, long] = Self::ALL;
        [short, middle].into_iter().find(|class| ttl <= class.0).unwrap_or(long)
    }

    pub(super) const fn seconds(self) -> u16 {
        self.0
    }
}

/// An epoch of one class, and what was made in it.
pub(super) struct Epoch {
    class: Class,
    /// Whole minutes of the clock that its keys' lives are measured with.
    pub(super) number: u32,
    /// Until it is wiped.
    pub(super) key: Option<Kept>,
    /// The places in the log.
    pub(super) created: u64,
    pub(super) destroyed: Option<u64>,
    /// What is to be forgotten with it.
    pub(super) members: Pile,
}

impl Epoch {
    /// When its key is wiped.
    fn end(&self) -> Duration {
        EPOCH * (self.number + 1) + Duration::from_secs(self.class.0.into()) + GRACE
    }
}

/// The epochs whose keys are remembered, the oldest first.
pub(super) struct Epochs {
    keep: Keep,
    epochs: Vec<Epoch>,
}

impl Epochs {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, epochs: Vec::new() }
    }

    /// Epoch keys in memory.
    pub(super) fn keys(&self) -> usize {
        self.epochs.iter().filter(|epoch| epoch.key.is_some()).count()
    }

    /// The epoch of now, and whether it has just begun.
    ///
    /// # Errors
    /// When there is no place for its key.
    pub(super) fn current(
        &mut self,
        now: Duration,
        class: Class,
        random: &mut SeededRandom,
    ) -> io::Result<(&mut Epoch, bool)> {
        let number = (now.as_secs() / EPOCH.as_secs()) as u32;
        let known = self.epochs.iter().rposition(|epoch| (epoch.class, epoch.number) == (class, number));
        let at = match known {
            Some(at) => at,
            None => {
                let mut key = self.keep.take()?;
                random.fill(key.bytes_mut());
                let (created, destroyed, members) = (0, None, Pile::default());
                self.epochs.push(Epoch { class, number, key: Some(key), created, destroyed, members });
                self.epochs.len() - 1
            }
        };
        let epoch = self.epochs.get_mut(at).ok_or(io::ErrorKind::NotFound)?;
        Ok((epoch, known.is_none()))
    }

    pub(super) fn find(&self, class: Class, number: u32) -> Option<&Epoch> {
        self.epochs.iter().rfind(|epoch| (epoch.class, epoch.number) == (class, number))
    }

    /// Wipes the key of one epoch that is over, whose end is leaf `leaf` of the log.
    pub(super) fn wipe_one(&mut self, now: Duration, leaf: u64) -> Option<(Class, u32)> {
        let epoch = self.epochs.iter_mut().find(|epoch| epoch.key.is_some() && epoch.end() <= now)?;
        (epoch.key, epoch.destroyed) = (None, Some(leaf));
        Some((epoch.class, epoch.number))
    }

    /// A key that nobody needs to know of any more.
    pub(super) fn forget_one(&mut self, now: Duration) -> Option<DisposableKeyId> {
        loop {
            let is_past = |epoch: &Epoch| epoch.key.is_none() && epoch.end() + EVIDENCE_KEPT <= now;
            let at = self.epochs.iter().position(is_past)?;
            match self.epochs.get_mut(at)?.members.pop() {
                Some(key) => return Some(key),
                None => drop(self.epochs.remove(at)),
            }
        }
    }

    /// When the next key is to be wiped or forgotten.
    pub(super) fn due(&self) -> Option<Duration> {
        let due =
            |epoch: &Epoch| epoch.end() + if epoch.key.is_some() { Duration::ZERO } else { EVIDENCE_KEPT };
        self.epochs.iter().map(due).min()
    }
}
