//! Who owns keys, how many each may have, and how fast each may make them.
//!
//! Specification: docs/protocol.md §5.4.

use std::time::Duration;

use onward_keys::{Label, hash};

use crate::identity::Identifier;

/// Whoever makes keys and may use them: an identity behind a channel, or a user of the machine behind a socket.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Owner([u8; 32]);

impl Owner {
    /// The owner with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The owner's 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A user of the machine that the cache runs on, by the system's number: H(L("ok2cry/user", uid)).
    #[must_use]
    pub fn of_user(uid: u32) -> Self {
        Self(hash(&Label::new("ok2cry/user").uint(uid.into()).encode()))
    }
}

impl From<&Identifier> for Owner {
    fn from(identifier: &Identifier) -> Self {
        Self(*identifier.as_bytes())
    }
}

/// Who asks, and what the host allows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asker {
    /// Whose keys it makes and reaches.
    pub owner: Owner,
    /// How many.
    pub quota: Quota,
    /// Whether it may take keys out that allow it.
    pub may_take: bool,
}

/// What one owner may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    /// Live keys.
    pub keys_max: u32,
    /// Bytes that live keys take up.
    pub bytes_max: u64,
    /// Keys made in a second.
    pub generates_per_second: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { keys_max: 1_000_000, bytes_max: 1 << 30, generates_per_second: 200 }
    }
}

/// What one owner has.
#[derive(Debug, Default)]
pub(super) struct Account {
    live: u32,
    bytes: u64,
    /// Keys that are remembered, the live ones included.
    records: u32,
    /// When keys were made last, and how many more could have been made at once.
    rate: Option<(Duration, f64)>,
}

impl Account {
    /// Whether the quota has room for one more key of so many bytes.
    pub(super) fn has_room(&self, now: Duration, quota: &Quota, bytes: u64) -> bool {
        self.live < quota.keys_max
            && self.bytes.saturating_add(bytes) <= quota.bytes_max
            && self.left(now, quota) >= 1.0
    }

    /// Counts a new key of so many bytes, if the quota has room for it.
    pub(super) fn take(&mut self, now: Duration, quota: &Quota, bytes: u64) -> bool {
        if !self.has_room(now, quota, bytes) {
            return false;
        }
        self.rate = Some((now, self.left(now, quota) - 1.0));
        self.live += 1;
        self.records += 1;
        self.bytes += bytes;
        true
    }

    /// How many keys may be made at once: what is not used comes back within a second.
    fn left(&self, now: Duration, quota: &Quota) -> f64 {
        let full = f64::from(quota.generates_per_second);
        self.rate
            .map_or(full, |(then, left)| (left + now.saturating_sub(then).as_secs_f64() * full).min(full))
    }

    /// Whether nothing is kept of any key of the owner.
    pub(super) fn is_unused(&self) -> bool {
        self.records == 0
    }

    /// Undoes a [`Account::take`] whose key was not made.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.end(bytes);
        self.records -= 1;
    }

    /// A key ended.
    pub(super) fn end(&mut self, bytes: u64) {
        self.live -= 1;
        self.bytes -= bytes;
    }

    /// A key is forgotten; whether it was the last one.
    pub(super) fn forget(&mut self) -> bool {
        self.records -= 1;
        self.records == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_bytes_and_rate_are_each_bounded() {
        let quota = Quota { keys_max: 3, bytes_max: 1000, generates_per_second: 2 };
        let second = Duration::from_secs(1);
        let mut account = Account::default();
        assert!(account.take(second, &quota, 100) && account.take(second, &quota, 100));
        assert!(!account.take(second, &quota, 100), "two a second");
        assert!(account.take(2 * second, &quota, 100));
        assert!(!account.take(9 * second, &quota, 100), "three keys");
        account.end(100);
        assert!(!account.take(9 * second, &quota, 801), "a thousand bytes");
        assert!(account.take(9 * second, &quota, 800));
        (0..3).for_each(|_| assert!(!account.forget()));
        assert!(account.forget());
    }

    #[test]
    fn users_and_identities_are_owners_of_their_own() {
        assert_ne!(Owner::of_user(0), Owner::of_user(1));
    }
}
