//! One epoch's key: the AEAD context of 65 536 numbers in one direction, and the step to the next.
//!
//! The context is set up once and holds the only copy of the key; the next key is computed from it when needed.
//!
//! Specification: docs/protocol.md §3.3; Noise rev. 34 §4.2 and §12.

use onward_keys::{Aead, AeadAlgorithm, Backend, SharedSecret, TAG_BYTES, Unauthentic};
use zeroize::Zeroize as _;

/// A direction's AEAD under the key of one epoch.
pub(crate) struct EpochKey {
    backend: Backend,
    aead: Aead,
}

impl EpochKey {
    pub(crate) fn new(backend: Backend, algorithm: AeadAlgorithm, key: &SharedSecret) -> Self {
        Self { backend, aead: Aead::new(backend, algorithm, key.as_bytes()) }
    }

    /// Noise REKEY: the first 32 bytes of sealing 32 zeros under the reserved nonce.
    pub(crate) fn next_secret(&self) -> SharedSecret {
        let mut key = [0; 32];
        let _tag = self.aead.seal_in_place(&self.nonce(u64::MAX), &[], &mut key);
        let secret = SharedSecret::new(&key);
        key.zeroize();
        secret
    }

    /// The context of the next epoch.
    pub(crate) fn next(&self) -> Self {
        self.with(&self.next_secret())
    }

    /// A context of the same algorithm and backend under another key.
    pub(crate) fn with(&self, key: &SharedSecret) -> Self {
        Self::new(self.backend, self.aead.algorithm(), key)
    }

    pub(crate) fn seal(&self, number: u64, plaintext: &mut [u8]) -> [u8; TAG_BYTES] {
        self.aead.seal_in_place(&self.nonce(number), &[], plaintext)
    }

    pub(crate) fn open(
        &self,
        number: u64,
        ciphertext: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), Unauthentic> {
        self.aead.open_in_place(&self.nonce(number), &[], ciphertext, tag)
    }

    fn nonce(&self, number: u64) -> [u8; 12] {
        nonce(self.aead.algorithm(), number)
    }
}

/// Noise's nonce: four zeros, then the number, little endian for ChaChaPoly and big endian for AESGCM.
pub(crate) fn nonce(algorithm: AeadAlgorithm, number: u64) -> [u8; 12] {
    let number = match algorithm {
        AeadAlgorithm::ChaCha20Poly1305 => number.to_le_bytes(),
        AeadAlgorithm::Aes256Gcm => number.to_be_bytes(),
    };
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number);
    nonce
}
