//! The life of a key as its owner can prove it: made, ended, and the key that it was wrapped under wiped.
//!
//! The log names keys by what only it can compute. The owner knows its own by the commitment to its public half, and
//! follows the name in that leaf from there.
//!
//! Specification: docs/protocol.md §5.6.

use onward_keys::audit::{Event, Leaf};
use onward_keys::{Label, hash};

use super::super::KeyBody;
use super::epoch::Class;
use super::{DisposableKeyState, MadeKey};

/// What proved leaves say of one key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyLife {
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// How and when it ended.
    pub ended: Option<(DisposableKeyState, u64)>,
    /// When the key that it was wrapped under was wiped: from then on nothing can be read that was sealed to it.
    pub wiped_ms: Option<u64>,
}

impl KeyLife {
    /// What `leaves` say of the key `made`. That they are in the log is for
    /// [`Evidence::check`](onward_keys::audit::Evidence::check) to say, before.
    ///
    /// # Errors
    /// [`LifeError`]: the creation is not among them, or one of them is of another key.
    pub fn of(leaves: &[Leaf], made: &MadeKey) -> Result<Self, LifeError> {
        let body = KeyBody::decode(&made.body).map_err(|_| LifeError::NotCreated)?;
        let (created, rest) = leaves.split_first().ok_or(LifeError::NotCreated)?;
        let commitment = commit(&made.commitment, &body.public);
        let is_creation = created.entry.event == Event::Created
            && created.entry.key.is_some()
            && created.entry.public == Some(commitment)
            && created.entry.policy == body.policy.number();
        if !is_creation {
            return Err(LifeError::NotCreated);
        }
        let mut life = Self { created_ms: created.time_ms, ended: None, wiped_ms: None };
        for leaf in rest {
            let entry = &leaf.entry;
            let is_of_key = entry.key == created.entry.key && entry.owner == created.entry.owner;
            let is_of_epoch = entry.key.is_none() && entry.policy == Class::of(body.ttl).seconds();
            let end = match entry.event {
                Event::Used => DisposableKeyState::Used,
                Event::Expired => DisposableKeyState::Expired,
                Event::Destroyed => DisposableKeyState::Destroyed,
                Event::EpochDestroyed if is_of_epoch && fits(created, leaf) => {
                    life.wiped_ms = Some(leaf.time_ms);
                    continue;
                }
                _ => return Err(LifeError::Foreign { seq: leaf.seq }),
            };
            if !is_of_key || life.ended.is_some() || !fits(created, leaf) {
                return Err(LifeError::Foreign { seq: leaf.seq });
            }
            life.ended = Some((end, leaf.time_ms));
        }
        Ok(life)
    }
}

/// Whether `leaf` can be of the same life: later, and of the same epoch.
fn fits(created: &Leaf, leaf: &Leaf) -> bool {
    leaf.seq > created.seq && leaf.entry.epoch == created.entry.epoch
}

/// What the log has in the place of a public half: H(L("audit/pub", r, pub)).
pub(super) fn commit(r: &[u8; 16], public: &[u8]) -> [u8; 32] {
    hash(&Label::new("audit/pub").bytes(r).bytes(public).encode())
}

/// Why leaves do not tell the life of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LifeError {
    /// The first leaf is not the key's creation.
    #[error("the key's creation is not proved")]
    NotCreated,
    /// A leaf is not of this key, or not of its life.
    #[error("leaf {seq} is not of this key's life")]
    Foreign {
        /// Its place.
        seq: u64,
    },
}
