//! Shared secrets: the outputs of key agreement and key encapsulation.

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
