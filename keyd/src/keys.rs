//! Which key may be added to the store, and which may be used now, whatever it is for.
//!
//! Specification: docs/protocol.md §7.2.

use onward_keys::service::{KeyMeta, KeyState, NewKey, Outcome, Refusal};
use onward_keys::store::{Key, Store};
use onward_keys::{KeyError, KeyId};

use crate::service::Now;

/// What is to be known of a new key with this public half, if it may be added.
pub(crate) fn admit(
    store: &Store,
    now: Now,
    owner: u32,
    new: &NewKey<'_>,
    id: Option<KeyId>,
    public: Vec<u8>,
) -> Result<KeyMeta, Refusal> {
    // One key, one usage: the same secret under another name or usage would undo that. A tombstone counts.
    let is_known = |key: &Key| {
        let meta = &key.meta;
        meta.public == public || Some(meta.id) == id || is_named(meta, new.label)
    };
    let known = store.keys().any(is_known);
    let ended = new.expires.is_some_and(|expires| expires <= now.seconds());
    if known || ended {
        return Err(Refusal::BadArguments);
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Refusal::Backend)?;
    Ok(KeyMeta {
        id: id.unwrap_or(KeyId::from_bytes(random)),
        owner,
        created: now.seconds(),
        public,
        ..planned(new)
    })
}

/// A key as the policy sees it before it is made.
pub(crate) fn planned(new: &NewKey<'_>) -> KeyMeta {
    KeyMeta {
        id: KeyId::from_bytes([0; 16]),
        usage: new.usage,
        state: KeyState::Active,
        owner: 0,
        created: 0,
        expires: new.expires,
        label: new.label.to_owned(),
        public: Vec::new(),
        extractable: new.extractable,
    }
}

/// Whether a key in use has this label.
pub(crate) fn is_named(meta: &KeyMeta, label: &str) -> bool {
    meta.state == KeyState::Active && meta.label == label
}

pub(crate) fn is_usable(now: Now, meta: &KeyMeta) -> bool {
    meta.state == KeyState::Active && meta.expires.is_none_or(|expires| now.seconds() < expires)
}

/// The key, if it may be used now.
pub(crate) fn usable(store: &Store, now: Now, key: KeyId) -> Result<&Key, Refusal> {
    store.key(key).filter(|key| is_usable(now, &key.meta)).ok_or(Refusal::Denied)
}

/// What a change of the store comes to.
pub(crate) fn change(changed: Result<(), KeyError>) -> Result<Outcome, Refusal> {
    match changed {
        Ok(()) => Ok(Outcome::Done),
        Err(KeyError::NoSuchKey(_)) => Err(Refusal::Denied),
        Err(_) => Err(Refusal::Backend),
    }
}
