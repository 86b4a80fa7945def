//! The table of all keys. It grows in many small steps: one large table would stand still while it is moved.

use std::collections::HashMap;

use super::super::DisposableKeyId;
use super::Record;
use super::slab::{At, Slab};

/// Keys by their ids.
pub(super) struct Records {
    /// Where the record of each is, in parts by the last byte of the id, which is random.
    parts: Vec<HashMap<DisposableKeyId, At>>,
    places: Slab<Record>,
    len: u32,
}

/// As many as a byte has values.
const PARTS: usize = 256;

impl Records {
    /// Bytes that one record takes up, with its entry in a table that has just grown.
    pub(super) const RECORD_BYTES: usize =
        Slab::<Record>::PLACE_BYTES + 2 * (size_of::<(DisposableKeyId, At)>() + 1);

    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| HashMap::new()).collect(), places: Slab::new(), len: 0 }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = DisposableKeyId> {
        self.parts.iter().flat_map(HashMap::keys).copied()
    }

    pub(super) fn get(&self, key: &DisposableKeyId) -> Option<&Record> {
        self.places.get(*self.parts.get(part(key))?.get(key)?)
    }

    pub(super) fn get_mut(&mut self, key: &DisposableKeyId) -> Option<&mut Record> {
        self.places.get_mut(*self.parts.get(part(key))?.get(key)?)
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, key: DisposableKeyId, record: Record) {
        if let Some(part) = self.parts.get_mut(part(&key)) {
            part.entry(key).or_insert_with(|| {
                self.len += 1;
                self.places.put(record)
            });
        }
    }

    pub(super) fn remove(&mut self, key: &DisposableKeyId) {
        if let Some(at) = self.parts.get_mut(part(key)).and_then(|part| part.remove(key)) {
            self.places.free(at);
            self.len -= 1;
        }
    }
}

fn part(key: &DisposableKeyId) -> usize {
    let [.., last] = key.as_bytes();
    (*last).into()
}
