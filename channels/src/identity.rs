//! Identities: who is at the other end, proved by a history of signed changes of one key.
//!
//! An [`Identity`] is ours: its public history, and the names of its keys in a [`Vault`]; it never holds a secret. A
//! peer shows a [`History`], an [`Attestation`] of the key it uses and perhaps credentials, together an
//! [`IdPayload`]; [`verify_payload`] makes a [`VerifiedPeer`] of it or refuses.
//!
//! # Invariants
//! - What is signed is decoded strictly and never re-encoded; bytes from a peer never cause a panic.
//! - Nothing is believed before it is verified: what is only decoded and what is verified are different types.
//! - Nobody is trusted by default: [`Trust`] is always an argument, and the empty one accepts nobody.
//! - Nothing is remembered of a peer before it passed policy ([`KnownHistories::adopt`]).
//! - No clock: the time is an argument, in Unix seconds. Only the vault is awaited.
//!
//! Specification: docs/protocol.md §0, §3.1, §3.2.

mod attest;
mod change;
mod credential;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod identifier;
mod known;
mod payload;
mod text;
mod trust;

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};
use onward_keys::{KeyId, KeyUsage, PublicHalf, PublicKey, SignatureType, Vault};

pub use attest::{Attestation, KeyAttest, Purpose};
pub use change::IdentityChange;
pub use credential::{AttributeValue, Attributes, CREDENTIAL_SECONDS_MAX, Credential, PresentedCredential};
pub use error::{HistoryRule, IdentityError, Misuse};
pub use history::{CHANGES_MAX, HISTORY_BYTES_MAX, History, VerifiedHistory};
pub use identifier::{ChangeHash, Commitment, Identifier};
pub use known::{FORKED_MAX, HistoryUpdate, KnownHistories};
pub use payload::{
    CREDENTIALS_MAX, IdPayload, PAD_BYTES_MAX, PAYLOAD_BYTES_MAX, Params, SIGNATURES_MAX, VerifiedPeer,
    channel_payload, verify_payload,
};
pub use trust::Trust;

use crate::signed::Signed;
use crate::strict;

/// An identity of ours: its history, and the names of its current and its next key in a vault.
///
/// The next key is made in advance, because each change commits to the one that may follow; whoever steals the
/// current key can therefore not rotate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    history: VerifiedHistory,
    key: KeyId,
    next: Option<KeyId>,
}

impl Identity {
    /// Makes a new identity, whose first key is in force from `now` (Unix seconds) for `valid_seconds`.
    ///
    /// # Errors
    /// [`Misuse::BadPeriod`] if the window is empty or ends after 2^64 − 1; [`IdentityError::KeyService`].
    ///
    /// # Cancel safety
    /// A cancelled or failed call may leave one or two unused keys in the vault.
    pub async fn create(vault: &dyn Vault, now: u64, valid_seconds: u64) -> Result<Self, IdentityError> {
        let window = window(now, valid_seconds)?;
        let key = vault.generate(KeyUsage::Identity).await?;
        Self::change(vault, None, key, window, false).await
    }

    /// The identity after a change to its next key, in force from `now` (Unix seconds) for `valid_seconds`.
    ///
    /// The old key attests nothing made later, but what it attested before stays valid. `self` is unchanged: store
    /// the result before using it, then delete the old [`Identity::key`] from the vault.
    ///
    /// # Errors
    /// [`Misuse::NotInForce`] if the current key's window has ended; [`Misuse::LastChange`]; as [`Identity::create`].
    ///
    /// # Cancel safety
    /// A cancelled or failed call may leave an unused key in the vault.
    pub async fn rotate(
        &self,
        vault: &dyn Vault,
        now: u64,
        valid_seconds: u64,
    ) -> Result<Self, IdentityError> {
        self.succeed(vault, now, valid_seconds, false).await
    }

    /// As [`Identity::rotate`], and voids everything that names an older change: attestations and credentials.
    ///
    /// # Errors
    /// As [`Identity::rotate`].
    ///
    /// # Cancel safety
    /// As [`Identity::rotate`].
    pub async fn revoke(
        &self,
        vault: &dyn Vault,
        now: u64,
        valid_seconds: u64,
    ) -> Result<Self, IdentityError> {
        self.succeed(vault, now, valid_seconds, true).await
    }

    /// Attests the public key `key` for `purpose` from `iat` until `exp` (Unix seconds).
    ///
    /// # Errors
    /// [`Misuse::BadPeriod`], [`Misuse::NotInForce`] and [`Misuse::KeyLength`] for what no verifier would accept;
    /// [`IdentityError::KeyService`].
    ///
    /// # Cancel safety
    /// Nothing is kept; a cancelled call may be repeated.
    pub async fn attest(
        &self,
        vault: &dyn Vault,
        purpose: Purpose,
        key: &[u8],
        iat: u64,
        exp: u64,
    ) -> Result<Attestation, IdentityError> {
        let refuse = |misuse| Err(IdentityError::Misuse(misuse));
        if iat >= exp {
            return refuse(Misuse::BadPeriod);
        }
        if !self.history.newest().is_in_force(iat) {
            return refuse(Misuse::NotInForce);
        }
        if !purpose.fits(key.len()) {
            return refuse(Misuse::KeyLength);
        }
        let change = self.history.newest_hash();
        let attest = KeyAttest { subject: self.identifier(), change, purpose, key: key.to_vec(), iat, exp };
        let body = strict::encode(&attest);
        let signature = vault.sign(self.key, SignatureType::KeyAttest, &body).await?;
        Attestation::new(Signed::new(body, vec![signature]))
    }

    /// Who this is.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.history.identifier()
    }

    /// The public history.
    #[must_use]
    pub fn history(&self) -> &VerifiedHistory {
        &self.history
    }

    /// The vault's name of the current key.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// The vault's name of the key that comes next; `None` after the last change.
    #[must_use]
    pub fn next_key(&self) -> Option<KeyId> {
        self.next
    }

    /// Reads and verifies an identity that was stored by [`Identity::encode`].
    ///
    /// # Errors
    /// [`IdentityError::Malformed`], and as [`History::verify`].
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let Stored { history, key, next } = strict::decode(bytes, HISTORY_BYTES_MAX + STORED_BYTES)?;
        Ok(Self { history: history.verify()?, key, next })
    }

    /// The identity as bytes to store: `[v=1, history, key b16, next b16/null]`, deterministic CBOR, no secrets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        strict::encode(&Stored { history: self.history.history().clone(), key: self.key, next: self.next })
    }

    async fn succeed(
        &self,
        vault: &dyn Vault,
        now: u64,
        valid_seconds: u64,
        revoke_all: bool,
    ) -> Result<Self, IdentityError> {
        let window = window(now, valid_seconds)?;
        let key = self.next.ok_or(IdentityError::Misuse(Misuse::LastChange))?;
        if !self.history.newest().is_in_force(now) {
            return Err(IdentityError::Misuse(Misuse::NotInForce));
        }
        Self::change(vault, Some(self), key, window, revoke_all).await
    }

    /// Makes `key` the key of the identity `before`, or of a new one.
    async fn change(
        vault: &dyn Vault,
        before: Option<&Self>,
        key: KeyId,
        (valid_from, valid_until): (u64, u64),
        revoke_all: bool,
    ) -> Result<Self, IdentityError> {
        let seq = before.map_or(0, |before| before.history.newest().seq + 1);
        // The last change that a history has room for announces no successor.
        let next = if u64::from(seq) + 1 < CHANGES_MAX {
            Some(vault.generate(KeyUsage::Identity).await?)
        } else {
            None
        };
        let commitment = match next {
            Some(next) => Some(Commitment::to(&public_key(vault, next).await?)),
            None => None,
        };
        let body = strict::encode(&IdentityChange {
            seq,
            previous: before.map(|before| before.history.newest_hash()),
            key: public_key(vault, key).await?,
            next: commitment,
            valid_from,
            valid_until,
            revoke_all,
        });
        let mut signatures = Vec::with_capacity(2);
        for signer in [Some(key), before.map(|before| before.key)].into_iter().flatten() {
            signatures.push(vault.sign(signer, SignatureType::IdentityChange, &body).await?);
        }
        let mut changes: Vec<Signed> =
            before.map_or_else(Vec::new, |before| before.history.history().signed().cloned().collect());
        changes.push(Signed::new(body, signatures));
        // Verified like a stranger's: what the vault answered is not taken for granted.
        let history = History::from_changes(&changes)?.verify()?;
        Ok(Self { history, key, next })
    }
}

/// An identity as it is stored, its history not yet verified.
struct Stored {
    history: History,
    key: KeyId,
    next: Option<KeyId>,
}

impl<C> Encode<C> for Stored {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(4)?.u8(VERSION)?.encode(&self.history)?.bytes(self.key.as_bytes())?;
        strict::put_optional_bytes(e, self.next.as_ref().map(KeyId::as_bytes))
    }
}

impl<'b, C> Decode<'b, C> for Stored {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 4)?;
        strict::version(d, VERSION)?;
        let history = d.decode()?;
        let key = KeyId::from_bytes(strict::bytes_exact(d)?);
        let next = strict::optional(d, strict::bytes_exact)?.map(KeyId::from_bytes);
        Ok(Self { history, key, next })
    }
}

/// The window of `seconds` from `now` on.
fn window(now: u64, seconds: u64) -> Result<(u64, u64), IdentityError> {
    match now.checked_add(seconds) {
        Some(end) if end > now => Ok((now, end)),
        _ => Err(IdentityError::Misuse(Misuse::BadPeriod)),
    }
}

async fn public_key(vault: &dyn Vault, key: KeyId) -> Result<PublicKey, IdentityError> {
    match vault.public(key).await? {
        PublicHalf::Verify(key) => Ok(key),
        PublicHalf::Agree(_) | PublicHalf::General(_) => Err(IdentityError::Misuse(Misuse::KeyKind)),
    }
}

const VERSION: u8 = 1;

/// What a stored identity has beside its history, at most, in bytes.
const STORED_BYTES: usize = 64;
