//! Why an exchange failed.

use super::Policy;
#[cfg(feature = "ok2cry-json")]
use super::TokenError;
use crate::identity::IdentityError;
use crate::strict::Malformed;

/// Why a key, a sealed message or a call was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    // The other party, or whoever lies between, sent what cannot be accepted.
    /// The bytes are not the strict encoding of the structure.
    #[error("malformed exchange structure")]
    Malformed(#[from] Malformed),
    /// The public key is none: no point of the curve, or of low order.
    #[error("the disposable key is not valid")]
    InvalidPublicKey,
    /// What was sealed does not open. Says no more on purpose: detail here is an oracle.
    #[error("what was sealed does not open")]
    Unauthentic,

    /// A policy that is not allowed here.
    #[error("policy {0} is not allowed here")]
    Policy(Policy),
    /// The key is for another API.
    #[error("the key is for another audience")]
    Audience,
    /// The key is for the other way.
    #[error("the key is for the other direction")]
    Direction,
    /// The key begins in the future, or has ended.
    #[error("the key lives from {iat} to {exp}, now {now}")]
    NotFresh {
        /// When it was made, Unix seconds.
        iat: u64,
        /// When it ends, Unix seconds.
        exp: u64,
        /// The verifier's time, Unix seconds.
        now: u64,
    },
    /// The key is bound to another request.
    #[error("the key is bound to another request")]
    Context,
    /// What was sealed is sealed to another key, or with another policy than the key's.
    #[error("sealed to another key")]
    OtherKey,
    /// Nothing vouches for the key, or for what was sealed, in the way that the trust mode demands.
    #[error("nothing vouches for it in the trust mode in use")]
    Unsigned,
    /// The token does not vouch for the key.
    #[cfg(feature = "ok2cry-json")]
    #[error("the token was refused")]
    Token(#[from] TokenError),
    /// The schema at hand is not the one that the key names; or there is only one of the two.
    #[error("the schema at hand is not the one that the key names")]
    OtherSchema,
    /// The plaintext does not follow the schema that the key names.
    #[error("the plaintext does not follow the key's schema")]
    OffSchema,
    /// A child key lives too long, belongs elsewhere, or can be used by the client.
    #[error("the child key does not keep the rules of composition")]
    Child,

    // The caller asked for what cannot be.
    /// More than one exchange can carry. Nothing was sealed.
    #[error("{bytes} bytes where an exchange of policy {policy} carries at most {bytes_max}")]
    TooLong {
        /// The policy in use.
        policy: Policy,
        /// The length of the plaintext.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// Policy 2 seals with a static key of the sealer, and no other policy does.
    #[error("policy {0} and the sealer's static key do not fit")]
    Sender(Policy),
    /// An identity, or the vault that signs for it, refused.
    #[error("the signer was refused")]
    Signer(#[from] IdentityError),
}
