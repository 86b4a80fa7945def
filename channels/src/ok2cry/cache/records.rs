//! The table of all keys. It grows in many small steps: one large table would stand still while it is moved.

use std::collections::HashMap;

use super::super::DisposableKeyId;
use super::Record;

/// Keys by their ids, in parts by the last byte, which is random.
pub(super) struct Records {
    parts: Vec<HashMap<DisposableKeyId, Box<Record>>>,
    len: u32,
}

/// As many as a byte has values.
const PARTS: usize = 256;

impl Records {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| HashMap::new()).collect(), len: 0 }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = DisposableKeyId> {
        self.parts.iter().flat_map(HashMap::keys).copied()
    }

    pub(super) fn get(&self, key: &DisposableKeyId) -> Option<&Record> {
        self.parts.get(part(key)).and_then(|part| part.get(key)).map(|record| &**record)
    }

    pub(super) fn get_mut(&mut self, key: &DisposableKeyId) -> Option<&mut Record> {
        self.parts.get_mut(part(key)).and_then(|part| part.get_mut(key)).map(|record| &mut **record)
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, key: DisposableKeyId, record: Box<Record>) {
        if let Some(part) = self.parts.get_mut(part(&key)) {
            let before = part.insert(key, record);
            self.len += u32::from(before.is_none());
        }
    }

    pub(super) fn remove(&mut self, key: &DisposableKeyId) -> Option<Box<Record>> {
        let removed = self.parts.get_mut(part(key)).and_then(|part| part.remove(key));
        self.len -= u32::from(removed.is_some());
        removed
    }
}

fn part(key: &DisposableKeyId) -> usize {
    let [.., last] = key.as_bytes();
    (*last).into()
}
