//! Shared secrets: what key agreement, key encapsulation and key derivation yield.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 32-byte secret that two parties share; zeroed on drop.
///
/// Boxed, so that a move copies a pointer and leaves no second secret on the stack.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret(Box<[u8; 32]>);

impl SharedSecret {
    /// Copies `bytes` into a box of its own. The caller wipes the original.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        #[cfg(feature = "witness")]
        crate::witness::note(crate::witness::Use::Shared, bytes);
        let mut boxed = Box::new([0; 32]);
        boxed.copy_from_slice(bytes);
        Self(boxed)
    }

    /// The secret itself: for key derivation only, never for comparison, logs or the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(_) = self;
        f.debug_struct("SharedSecret").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_secret() {
        let secret = SharedSecret::new(&[0xab; 32]);
        assert_eq!(format!("{secret:?}"), "SharedSecret { .. }");
    }

    /// Several of these crates wipe only with a feature that is off by default; without it this does not compile.
    #[test]
    fn every_type_that_holds_a_key_is_wiped_on_drop() {
        fn wiped<T: ZeroizeOnDrop>() -> bool {
            std::mem::needs_drop::<T>()
        }
        assert!(wiped::<SharedSecret>());
        assert!(wiped::<aes_gcm::Aes256Gcm>());
        assert!(wiped::<chacha20poly1305::ChaCha20Poly1305>());
        assert!(wiped::<ed25519_dalek::SigningKey>());
        assert!(wiped::<ml_kem::DecapsulationKey768>());
        assert!(wiped::<x25519_dalek::StaticSecret>());
    }

    #[test]
    fn zeroize_wipes_the_box() {
        let mut secret = SharedSecret::new(&[0xab; 32]);
        secret.zeroize();
        assert_eq!(secret.as_bytes(), &[0; 32]);
    }
}
