//! Disposable keys: made for one exchange.
//!
//! Specification: docs/protocol.md §5.2.

use std::fmt;

use onward_keys::{Backend, CryptoRng, SharedSecret};
use zeroize::Zeroizing;

use super::{ExchangeError, Policy};

/// Both halves of a key for one exchange. Not `Clone`: its private half is wiped with it.
pub struct DisposableKey {
    policy: Policy,
    public: Vec<u8>,
    /// Boxed, so that a move copies a pointer and leaves no second secret on the stack.
    private: Box<Zeroizing<[u8; 32]>>,
}

impl DisposableKey {
    /// Makes a key for `policy`. Takes all its randomness from `random`.
    ///
    /// # Errors
    /// None that can be caused: [`ExchangeError::InvalidPublicKey`] would be a fault of the backend.
    pub fn generate(policy: Policy, random: &mut dyn CryptoRng) -> Result<Self, ExchangeError> {
        let private = match policy.hpke() {
            Some(suite) => suite.generate(random),
            None => {
                let mut scalar = Zeroizing::new([0; 32]);
                random.fill_bytes(scalar.as_mut());
                SharedSecret::new(&scalar)
            }
        };
        Self::from_private(policy, private.as_bytes())
    }

    /// The key of `policy` with this private half.
    ///
    /// # Errors
    /// [`ExchangeError::InvalidPublicKey`] when it is no private key of the policy.
    pub fn from_private(policy: Policy, private: &[u8; 32]) -> Result<Self, ExchangeError> {
        let backend = Backend::best();
        let public = match policy.hpke() {
            None => backend.x25519_public(private).to_vec(),
            Some(suite) => suite.public_key(backend, private).map_err(|_| ExchangeError::InvalidPublicKey)?,
        };
        let public = policy.encode_public(public);
        let mut boxed = Box::new(Zeroizing::new([0; 32]));
        boxed.copy_from_slice(private);
        Ok(Self { policy, public, private: boxed })
    }

    /// With what the key's exchange is sealed.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The public half in the policy's form: PEM of 178 bytes, 32 bytes, or 1216 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The private half: to open with, or to wrap. Never for logs or the wire.
    #[must_use]
    pub fn private(&self) -> &[u8; 32] {
        &self.private
    }
}

impl fmt::Debug for DisposableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, public: _, private: _ } = self;
        f.debug_struct("DisposableKey").field("policy", policy).finish_non_exhaustive()
    }
}
