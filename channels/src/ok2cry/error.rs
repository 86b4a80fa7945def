//! Why an exchange failed.

use super::Policy;
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
