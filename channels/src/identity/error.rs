//! Why an identity, what it signed or what it presented was refused.

use onward_keys::{KeyError, SignatureError, SignatureType};

use super::{Identifier, Purpose};
use crate::strict::Malformed;

/// Why an operation on identities failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    // The peer presented what cannot be accepted. Nothing was stored.
    /// The bytes are not the strict encoding of the structure.
    #[error("malformed identity structure")]
    Malformed(#[from] Malformed),
    /// A change breaks a rule of histories.
    #[error("change {seq} of the history {rule}")]
    BrokenHistory {
        /// The change's position, from 0.
        seq: usize,
        /// The rule it breaks.
        rule: HistoryRule,
    },
    /// A structure carries another number of signatures than its type demands.
    #[error("{kind} carries {found} signatures instead of {expected}")]
    SignatureCount {
        /// The structure's type.
        kind: SignatureType,
        /// The number it carries.
        found: usize,
        /// The number it must carry.
        expected: usize,
    },
    /// A signature does not verify under the key that had to make it.
    #[error("signature on a {kind} refused")]
    BadSignature {
        /// The structure's type.
        kind: SignatureType,
        /// What is wrong with it.
        #[source]
        source: SignatureError,
    },
    /// Checking the payload would cost more signatures than [`super::SIGNATURES_MAX`].
    #[error("payload with {0} signatures")]
    TooManySignatures(usize),
    /// The attested key is not the key that the handshake proved.
    #[error("attestation of another key than the one in use")]
    OtherKey,
    /// The attestation names another subject than the identity it comes with.
    #[error("attestation of another subject than {0}")]
    OtherSubject(Identifier),
    /// The peer is not the one that was meant.
    #[error("peer is {found}, not {expected}")]
    OtherPeer {
        /// The identity that was meant.
        expected: Identifier,
        /// The identity that answered.
        found: Identifier,
    },
    /// The key is attested for something else.
    #[error("key attested for {found} where {expected} is needed")]
    OtherPurpose {
        /// The purpose needed.
        expected: Purpose,
        /// The purpose attested.
        found: Purpose,
    },
    /// A statement names a change that the history does not contain.
    #[error("statement names a change unknown to the history")]
    UnknownChange,
    /// A statement names a change older than one that revoked everything before it.
    #[error("statement names a change that was revoked")]
    Revoked,
    /// The key that signed a statement could not sign at its `iat`: before its window, after it, or already rotated.
    #[error("signing key was not in force at {iat}")]
    KeyNotInForce {
        /// When the statement claims to have been made, Unix seconds.
        iat: u64,
    },
    /// The statement begins in the future.
    #[error("not valid before {iat}, now {now}")]
    NotYetValid {
        /// When it was made, Unix seconds.
        iat: u64,
        /// The verifier's time, Unix seconds.
        now: u64,
    },
    /// The statement has ended.
    #[error("expired at {exp}, now {now}")]
    Expired {
        /// When it ended, Unix seconds.
        exp: u64,
        /// The verifier's time, Unix seconds.
        now: u64,
    },
    /// The statement's validity ends before it begins, or lasts longer than verifiers allow.
    #[error("validity from {iat} to {exp} is not allowed")]
    BadPeriod {
        /// When it was made, Unix seconds.
        iat: u64,
        /// When it ends, Unix seconds.
        exp: u64,
    },
    /// A credential names another subject or issuer than those it is presented with.
    #[error("credential of another subject or issuer")]
    OtherCredential,
    /// The payload carries a parameter that must be understood and is not.
    #[error("unknown critical parameter {0}")]
    CriticalParam(u64),
    /// The peer's valid history contradicts the one seen before: somebody signed two successors of one change. An alarm.
    #[error("history of {0} forks from the one known")]
    Forked(Identifier),
    /// The peer proved an identity that the [`super::Trust`] does not accept.
    #[error("peer {0} is not trusted here")]
    Untrusted(Identifier),

    // The caller asked for what cannot be.
    /// The text is not an identifier or not an identity file.
    #[error("not an identity in text form: {0}")]
    Text(&'static str),
    /// The operation does not fit the identity or the limits. Nothing was changed.
    #[error("identity misused: {0}")]
    Misuse(Misuse),

    // The surroundings failed.
    /// The vault did not do its part. The identity is unchanged.
    #[error("the vault failed the identity")]
    KeyService(#[from] KeyError),
}

/// The rule of docs/protocol.md §3.1 that a history breaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryRule {
    /// `seq` is not the change's position.
    #[error("is out of sequence")]
    Sequence,
    /// `prev` is not the hash of the change before.
    #[error("does not name the change before it")]
    Previous,
    /// The key is not the one to which the change before committed, or that change was the last.
    #[error("has another key than its predecessor announced")]
    Commitment,
    /// `valid_until` is not after `valid_from`.
    #[error("has an empty window")]
    EmptyWindow,
    /// `valid_from` lies outside the window of the key that signed the change.
    #[error("begins outside the window of the key before it")]
    OutsideWindow,
}

/// What a caller did wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The identity's key may not sign at that time: its window has not begun or has ended.
    #[error("the identity's key is not in force at that time")]
    NotInForce,
    /// The identity announced no next key, so it can never be rotated again.
    #[error("the identity's last change is made")]
    LastChange,
    /// The period ends before it begins, or lasts longer than verifiers accept.
    #[error("the period is empty or too long")]
    BadPeriod,
    /// The key's length does not fit the purpose.
    #[error("the key does not fit the purpose")]
    KeyLength,
    /// The key in the vault is not of the kind needed, or the vault signs with another key than it shows.
    #[error("the vault's key is of another kind")]
    KeyKind,
    /// The structure would exceed its limits of length or count.
    #[error("the structure would be too long")]
    TooLong,
}
