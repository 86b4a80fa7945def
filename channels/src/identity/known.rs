//! Known histories: the longest history seen of each identity, so that an older one cannot be played back.
//!
//! A presented history is only judged; what was learned is adopted by a second call, after the whole payload passed
//! policy. Two valid histories of which neither continues the other are a fork: somebody signed two successors of one
//! change. A fork is refused, told of once, and never adopted.
//!
//! Specification: docs/protocol.md §3.1.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use onward_keys::hash;

use super::{Attestation, History, Identifier, IdentityError, VerifiedHistory};

/// The longest history seen per identity; the least recently used are forgotten first, pinned ones never.
#[derive(Debug)]
pub struct KnownHistories {
    entries: HashMap<Identifier, Entry>,
    /// When each entry that may be forgotten was last used, oldest first.
    uses: BTreeMap<u64, Identifier>,
    pinned: HashSet<Identifier>,
    capacity: usize,
    clock: u64,
    /// Identities whose histories were seen to fork, in the order it was noticed.
    forked: Mutex<Vec<Identifier>>,
}

impl KnownHistories {
    /// Remembers at most `capacity` histories besides the pinned ones.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            uses: BTreeMap::new(),
            pinned: HashSet::new(),
            capacity,
            clock: 0,
            forked: Mutex::default(),
        }
    }

    /// Never forgets the history of `identifier`, whether it is known already or not.
    pub fn pin(&mut self, identifier: Identifier) {
        self.pinned.insert(identifier);
        if let Some(entry) = self.entries.get(&identifier) {
            self.uses.remove(&entry.used);
        }
    }

    /// The longest history seen of `identifier`.
    #[must_use]
    pub fn history(&self, identifier: &Identifier) -> Option<&Arc<VerifiedHistory>> {
        self.entries.get(identifier).map(|entry| &entry.history)
    }

    /// All histories, in no order: to be stored, and adopted again after a restart.
    pub fn histories(&self) -> impl Iterator<Item = &Arc<VerifiedHistory>> {
        self.entries.values().map(|entry| &entry.history)
    }

    /// How many histories are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no history is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The identities of which contradicting histories were seen, oldest alarm first and each once; the first
    /// [`FORKED_MAX`] are told.
    #[must_use]
    pub fn forked(&self) -> Vec<Identifier> {
        self.forked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Verifies `presented` and returns the history to judge its owner by: the longer of it and the known one.
    ///
    /// Changes that are known byte for byte cost no signature.
    ///
    /// # Errors
    /// As [`History::verify`]; [`IdentityError::Forked`] for a valid history that contradicts the known one.
    pub fn judge(&self, presented: &History) -> Result<Arc<VerifiedHistory>, IdentityError> {
        let Some(known) = self.history(&presented.identifier()) else {
            return presented.clone().verify().map(Arc::new);
        };
        let verified = known.history().common_bytes(presented);
        if verified == presented.len() {
            return Ok(Arc::clone(known));
        }
        // Verified before compared: a forger could otherwise raise the alarm.
        let verified = presented.clone().verify_beyond(verified)?;
        self.longer(known, &Arc::new(verified))
    }

    /// Adopts what an accepted peer taught.
    ///
    /// # Errors
    /// [`IdentityError::Forked`] if another history was adopted since `update` was made; that one stays.
    pub fn adopt(&mut self, update: HistoryUpdate) -> Result<(), IdentityError> {
        for Learned { history, attestation } in update.learned {
            let identifier = history.identifier();
            let history = match self.history(&identifier) {
                Some(known) => self.longer(known, &history)?,
                None => history,
            };
            self.clock += 1;
            let entry = Entry { history, attestation, used: self.clock };
            if let Some(replaced) = self.entries.insert(identifier, entry) {
                self.uses.remove(&replaced.used);
            }
            if !self.pinned.contains(&identifier) {
                self.uses.insert(self.clock, identifier);
            }
        }
        while self.uses.len() > self.capacity {
            let Some((_, oldest)) = self.uses.pop_first() else {
                break;
            };
            self.entries.remove(&oldest);
        }
        Ok(())
    }

    /// Whether the attestation with this hash is the one last accepted of `identifier`.
    pub(super) fn attested(&self, identifier: &Identifier, attestation: &AttestationHash) -> bool {
        self.entries.get(identifier).is_some_and(|entry| entry.attestation.as_ref() == Some(attestation))
    }

    /// Whichever of two histories of one identity continues the other.
    fn longer(
        &self,
        known: &Arc<VerifiedHistory>,
        other: &Arc<VerifiedHistory>,
    ) -> Result<Arc<VerifiedHistory>, IdentityError> {
        let common = known.history().common_changes(other.history());
        if common == other.history().len() {
            Ok(Arc::clone(known))
        } else if common == known.history().len() {
            Ok(Arc::clone(other))
        } else {
            let identifier = known.identifier();
            let mut forked = self.forked.lock().unwrap_or_else(PoisonError::into_inner);
            if forked.len() < FORKED_MAX && !forked.contains(&identifier) {
                forked.push(identifier);
            }
            Err(IdentityError::Forked(identifier))
        }
    }
}

/// Most identities that [`KnownHistories::forked`] tells of.
pub const FORKED_MAX: usize = 1_024;

impl Default for KnownHistories {
    /// Remembers 100 000 histories.
    fn default() -> Self {
        Self::new(100_000)
    }
}

/// What an accepted payload teaches about its sender and the issuers trusted for it.
#[derive(Clone, Debug, Default)]
#[must_use = "a history that is not adopted can be played back in an older form"]
pub struct HistoryUpdate {
    learned: Vec<Learned>,
}

impl HistoryUpdate {
    /// An update from a history obtained otherwise, such as from a peer's file.
    pub fn from_history(history: VerifiedHistory) -> Self {
        Self { learned: vec![Learned { history: Arc::new(history), attestation: None }] }
    }

    pub(super) fn learn(&mut self, history: Arc<VerifiedHistory>, attestation: AttestationHash) {
        self.learned.push(Learned { history, attestation: Some(attestation) });
    }
}

/// The hash of an attestation with its signature, by which one that verified is recognised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct AttestationHash([u8; 32]);

impl AttestationHash {
    pub(super) fn of(attestation: &Attestation) -> Self {
        Self(hash(&attestation.encode()))
    }
}

#[derive(Clone, Debug)]
struct Learned {
    history: Arc<VerifiedHistory>,
    attestation: Option<AttestationHash>,
}

#[derive(Debug)]
struct Entry {
    history: Arc<VerifiedHistory>,
    /// The attestation whose signature verified last: a peer that comes back costs no signature.
    attestation: Option<AttestationHash>,
    used: u64,
}
