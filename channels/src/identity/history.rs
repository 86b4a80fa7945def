//! An identity's history: its changes from the first on, and who may say what in its name.
//!
//! A [`History`] is only decoded; a [`VerifiedHistory`] obeys every rule and carries every signature. Nothing may be
//! believed of an identity without the latter. Time does not enter here: which key was in force when is answered,
//! what "now" is belongs to the caller.
//!
//! Specification: docs/protocol.md §3.1.

use std::iter;

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};
use onward_keys::{PublicKey, SignatureType};

use super::change::IdentityChange;
use super::{ChangeHash, Commitment, HistoryRule, Identifier, IdentityError};
use crate::signed::{BODY_BYTES_MAX, Signed};
use crate::strict::{self, Malformed};

/// The longest history, in changes.
pub const CHANGES_MAX: u64 = 32;

/// The longest encoded history, in bytes.
pub const HISTORY_BYTES_MAX: usize = 16 * 1024;

/// A history as it was presented: well-formed, but neither consistent nor signed as far as anybody knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct History {
    identifier: Identifier,
    first: SignedChange,
    later: Vec<SignedChange>,
}

impl History {
    /// Decodes a history of 1 to [`CHANGES_MAX`] changes and at most [`HISTORY_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        Ok(strict::decode(bytes, HISTORY_BYTES_MAX)?)
    }

    /// The strict encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        strict::encode(self)
    }

    /// The identity that this is, or claims to be, the history of.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.identifier
    }

    /// The number of changes, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a history is never empty")]
    pub fn len(&self) -> usize {
        1 + self.later.len()
    }

    /// The changes, oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &IdentityChange> {
        self.signed_changes().map(|change| &change.change)
    }

    /// Whether one of the changes has this hash.
    #[must_use]
    pub fn contains(&self, change: &ChangeHash) -> bool {
        self.signed_changes().any(|known| known.hash == *change)
    }

    /// Checks every rule and every signature: one or two per change.
    ///
    /// # Errors
    /// [`IdentityError::BrokenHistory`] before any signature is computed, then [`IdentityError::SignatureCount`] and
    /// [`IdentityError::BadSignature`].
    ///
    /// Source: docs/protocol.md §3.1.
    pub fn verify(self) -> Result<VerifiedHistory, IdentityError> {
        self.verify_beyond(0)
    }

    /// As [`History::verify`], computing no signature of the first `verified` changes, which are known byte for byte.
    pub(super) fn verify_beyond(self, verified: usize) -> Result<VerifiedHistory, IdentityError> {
        for (seq, (before, change)) in self.steps().enumerate() {
            change.follows(before, seq).map_err(|rule| IdentityError::BrokenHistory { seq, rule })?;
        }
        for (before, change) in self.steps().skip(verified) {
            let own = Some(&change.change.key);
            let keys: Vec<&PublicKey> =
                own.into_iter().chain(before.map(|before| &before.change.key)).collect();
            change.signed.verify(SignatureType::IdentityChange, &keys)?;
        }
        Ok(VerifiedHistory(self))
    }

    /// The number of signatures that verifying from nothing computes.
    pub(super) fn signatures(&self) -> usize {
        self.signed_changes().map(|change| change.signed.signatures().len()).sum()
    }

    /// How many changes from the first on are the same in both, signatures included.
    pub(super) fn common_bytes(&self, other: &Self) -> usize {
        iter::zip(self.signed_changes(), other.signed_changes())
            .take_while(|(a, b)| a.signed == b.signed)
            .count()
    }

    /// How many changes from the first on state the same in both.
    pub(super) fn common_changes(&self, other: &Self) -> usize {
        iter::zip(self.signed_changes(), other.signed_changes()).take_while(|(a, b)| a.hash == b.hash).count()
    }

    /// Reads a history from signed changes made here, oldest first.
    pub(super) fn from_changes(changes: &[Signed]) -> Result<Self, IdentityError> {
        let mut encoder = Encoder::new(Vec::new());
        let written = encoder.encode(changes).map(|_| ());
        debug_assert!(written.is_ok(), "encoding into memory failed");
        Self::decode(encoder.writer())
    }

    /// The changes as they were signed, oldest first.
    pub(super) fn signed(&self) -> impl Iterator<Item = &Signed> {
        self.signed_changes().map(|change| &change.signed)
    }

    fn signed_changes(&self) -> impl Iterator<Item = &SignedChange> {
        iter::once(&self.first).chain(&self.later)
    }

    /// Each change with the one before it.
    fn steps(&self) -> impl Iterator<Item = (Option<&SignedChange>, &SignedChange)> {
        iter::zip(iter::once(None).chain(self.signed_changes().map(Some)), self.signed_changes())
    }

    fn newest(&self) -> &SignedChange {
        self.later.last().unwrap_or(&self.first)
    }
}

impl<C> Encode<C> for History {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(self.len() as u64)?;
        self.signed().try_for_each(|change| e.encode(change).map(|_| ()))
    }
}

impl<'b, C> Decode<'b, C> for History {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let start = d.position();
        let later = strict::array_within(d, 1..=CHANGES_MAX)? - 1;
        let first = signed_change(d)?;
        let later = (0..later).map(|_| signed_change(d)).collect::<Result<_, _>>()?;
        if d.position() - start > HISTORY_BYTES_MAX {
            return Err(strict::refuse(d, "history too long"));
        }
        Ok(Self { identifier: Identifier::of(first.signed.body()), first, later })
    }
}

/// A history that obeys every rule, signed by every key that had to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedHistory(History);

impl VerifiedHistory {
    /// The history itself.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.0
    }

    /// Whose history this is.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.0.identifier
    }

    /// The newest change.
    #[must_use]
    pub fn newest(&self) -> &IdentityChange {
        &self.0.newest().change
    }

    /// The newest change's hash, which statements made now name.
    #[must_use]
    pub fn newest_hash(&self) -> ChangeHash {
        self.0.newest().hash
    }

    /// The key of the change named `change`, if it could sign a statement at `iat` (Unix seconds).
    ///
    /// # Errors
    /// [`IdentityError::UnknownChange`]; [`IdentityError::Revoked`] if a later change revoked all before it;
    /// [`IdentityError::KeyNotInForce`] if `iat` is outside the change's window or not before the next change.
    ///
    /// Source: docs/protocol.md §3.1 (TOB-OCK-3 and 4 of the review named there).
    pub fn signing_key(&self, change: &ChangeHash, iat: u64) -> Result<&PublicKey, IdentityError> {
        let found = self.in_force(change)?;
        let next = self.0.changes().nth(found.change.seq as usize + 1);
        let rotated = next.is_some_and(|next| next.valid_from <= iat);
        if found.change.is_in_force(iat) && !rotated {
            Ok(&found.change.key)
        } else {
            Err(IdentityError::KeyNotInForce { iat })
        }
    }

    /// Whether statements that name `change` are still worth something, whenever they were made.
    ///
    /// # Errors
    /// [`IdentityError::UnknownChange`] and [`IdentityError::Revoked`].
    pub fn check_named(&self, change: &ChangeHash) -> Result<(), IdentityError> {
        self.in_force(change).map(|_| ())
    }

    /// The change named `change`, unless a later one revoked it.
    fn in_force(&self, change: &ChangeHash) -> Result<&SignedChange, IdentityError> {
        let mut named = None;
        for candidate in self.0.signed_changes() {
            if named.is_some() && candidate.change.revoke_all {
                return Err(IdentityError::Revoked);
            }
            if candidate.hash == *change {
                named = Some(candidate);
            }
        }
        named.ok_or(IdentityError::UnknownChange)
    }
}

/// One change with its signatures and its hash.
#[derive(Clone, Debug, Eq, PartialEq)]
struct SignedChange {
    signed: Signed,
    change: IdentityChange,
    hash: ChangeHash,
}

impl SignedChange {
    /// Checks all that needs no signature of a change at position `seq` after `before`.
    fn follows(&self, before: Option<&Self>, seq: usize) -> Result<(), HistoryRule> {
        let change = &self.change;
        if usize::try_from(change.seq) != Ok(seq) {
            return Err(HistoryRule::Sequence);
        }
        if change.previous != before.map(|before| before.hash) {
            return Err(HistoryRule::Previous);
        }
        if change.valid_from >= change.valid_until {
            return Err(HistoryRule::EmptyWindow);
        }
        let Some(before) = before else { return Ok(()) };
        if before.change.next != Some(Commitment::to(&change.key)) {
            return Err(HistoryRule::Commitment);
        }
        if !before.change.is_in_force(change.valid_from) {
            return Err(HistoryRule::OutsideWindow);
        }
        Ok(())
    }
}

fn signed_change(d: &mut Decoder<'_>) -> Result<SignedChange, decode::Error> {
    let signed: Signed = d.decode()?;
    let change = body(&signed)?;
    let hash = ChangeHash::of(signed.body());
    Ok(SignedChange { signed, change, hash })
}

/// Decodes the body of `signed` inside another structure.
pub(super) fn body<'b, T: Decode<'b, ()> + Encode<()>>(signed: &'b Signed) -> Result<T, decode::Error> {
    strict::decode(signed.body(), BODY_BYTES_MAX)
        .map_err(|malformed: Malformed| decode::Error::custom(malformed))
}
