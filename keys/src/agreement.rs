//! X25519 key agreement.
//!
//! Never returns an all-zero result: a peer who sends a point of low order would otherwise choose the secret.
//!
//! Specification: docs/protocol.md §0; RFC 7748.

use zeroize::Zeroizing;

use crate::{Backend, SharedSecret};

/// The peer's public key adds nothing to the secret: the result is all zeros.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the peer's public key is of low order")]
pub struct NonContributory;

impl Backend {
    /// The public key (32 bytes, little endian u-coordinate) of `secret` (32 bytes, clamped here).
    #[must_use]
    pub fn x25519_public(self, secret: &[u8; 32]) -> [u8; 32] {
        match self {
            Self::Portable => portable_public(secret),
            // AWS-LC can only fail here for want of memory; the portable result is the same.
            #[cfg(feature = "accel")]
            Self::Accelerated => {
                accelerated::public(secret).unwrap_or_else(|| portable_public(secret))
            }
        }
    }

    /// Agrees on a secret with the owner of `public` (32 bytes; the top bit is ignored, as RFC 7748 §5 says).
    ///
    /// # Errors
    /// [`NonContributory`] when the result is all zeros.
    pub fn x25519(
        self,
        secret: &[u8; 32],
        public: &[u8; 32],
    ) -> Result<SharedSecret, NonContributory> {
        match self {
            Self::Portable => portable(secret, public),
            #[cfg(feature = "accel")]
            Self::Accelerated => accelerated::agree(secret, public),
        }
    }
}

fn portable_public(secret: &[u8; 32]) -> [u8; 32] {
    let secret = x25519_dalek::StaticSecret::from(*secret);
    x25519_dalek::PublicKey::from(&secret).to_bytes()
}

fn portable(secret: &[u8; 32], public: &[u8; 32]) -> Result<SharedSecret, NonContributory> {
    let secret = x25519_dalek::StaticSecret::from(*secret);
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*public));
    contributory(shared.as_bytes())
}

fn contributory(shared: &[u8; 32]) -> Result<SharedSecret, NonContributory> {
    use subtle::ConstantTimeEq as _;
    if bool::from(shared.ct_eq(&[0; 32])) {
        return Err(NonContributory);
    }
    Ok(SharedSecret::new(shared))
}

#[cfg(feature = "accel")]
mod accelerated {
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree as aws_agree};

    use super::{NonContributory, SharedSecret, Zeroizing, contributory};

    pub(super) fn public(secret: &[u8; 32]) -> Option<[u8; 32]> {
        let key = PrivateKey::from_private_key(&X25519, secret).ok()?;
        key.compute_public_key().ok()?.as_ref().try_into().ok()
    }

    /// AWS-LC refuses an all-zero result itself; the check is repeated so that it does not rest on that.
    pub(super) fn agree(
        secret: &[u8; 32],
        public: &[u8; 32],
    ) -> Result<SharedSecret, NonContributory> {
        let key = PrivateKey::from_private_key(&X25519, secret).map_err(|_| NonContributory)?;
        let peer = UnparsedPublicKey::new(&X25519, public);
        aws_agree(&key, peer, NonContributory, |shared| {
            let shared = Zeroizing::new(<[u8; 32]>::try_from(shared).map_err(|_| NonContributory)?);
            contributory(&shared)
        })
    }
}
