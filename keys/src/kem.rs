//! ML-KEM-768 key encapsulation.
//!
//! An encapsulation key comes from a peer and is checked before use. Decapsulation never fails for a ciphertext of
//! the right length: a changed one yields an unrelated secret (implicit rejection), and the handshake then fails.
//!
//! Specification: docs/protocol.md §3.2; FIPS 203.

use std::fmt;

use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::{DecapsulationKey768, EncapsulationKey768};
use rand_core::CryptoRng;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Backend, SharedSecret};

/// The length of an encapsulation key.
pub const ENCAPSULATION_KEY_BYTES: usize = 1184;
/// The length of a ciphertext.
pub const CIPHERTEXT_BYTES: usize = 1088;

/// The peer's encapsulation key fails the modulus check of FIPS 203 §7.2.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the encapsulation key is not a valid ML-KEM-768 key")]
pub struct InvalidEncapsulationKey;

/// A private ML-KEM-768 key; wiped on drop.
pub struct DecapsulationKey(Key);

/// Boxed, so that a move copies a pointer.
enum Key {
    Portable(Box<DecapsulationKey768>),
    #[cfg(feature = "accel")]
    Accelerated(Box<aws_lc_rs::kem::DecapsulationKey>),
}

impl Backend {
    /// Makes a key pair for one exchange.
    ///
    /// The portable backend draws 64 bytes (`d || z`) from `random`. The accelerated one cannot be given randomness:
    /// it draws from AWS-LC's own generator and leaves `random` alone.
    pub fn kem_generate(
        self,
        random: &mut dyn CryptoRng,
    ) -> (DecapsulationKey, [u8; ENCAPSULATION_KEY_BYTES]) {
        #[cfg(feature = "accel")]
        // AWS-LC can only fail here for want of memory or entropy; the portable way is as good.
        if self == Self::Accelerated
            && let Some((key, public)) = accelerated::generate()
        {
            return (DecapsulationKey(Key::Accelerated(Box::new(key))), public);
        }
        let mut seed = Zeroizing::new([0; 64]);
        random.fill_bytes(seed.as_mut());
        Self::Portable.kem_from_seed(&seed)
    }

    /// The key pair of `seed` (`d || z`, FIPS 203 §7.1), which is the form to store a key in.
    #[must_use]
    pub fn kem_from_seed(self, seed: &[u8; 64]) -> (DecapsulationKey, [u8; ENCAPSULATION_KEY_BYTES]) {
        let key = Box::new(DecapsulationKey768::from_seed((*seed).into()));
        let public = key.encapsulation_key().to_bytes().into();
        #[cfg(feature = "accel")]
        if self == Self::Accelerated
            && let Some(key) = accelerated::from_portable(&key)
        {
            return (DecapsulationKey(Key::Accelerated(Box::new(key))), public);
        }
        (DecapsulationKey(Key::Portable(key)), public)
    }

    /// Encapsulates a fresh secret to the owner of `key`; returns the ciphertext to send, and the secret.
    ///
    /// The portable backend draws 32 bytes from `random`; the accelerated one uses AWS-LC's own generator and leaves
    /// `random` alone, unless it refuses `key`: then the portable code decides.
    ///
    /// # Errors
    /// [`InvalidEncapsulationKey`] when `key` fails the check of FIPS 203 §7.2.
    pub fn encapsulate(
        self,
        key: &[u8; ENCAPSULATION_KEY_BYTES],
        random: &mut dyn CryptoRng,
    ) -> Result<([u8; CIPHERTEXT_BYTES], SharedSecret), InvalidEncapsulationKey> {
        #[cfg(feature = "accel")]
        if self == Self::Accelerated
            && let Some(encapsulated) = accelerated::encapsulate(key)
        {
            return Ok(encapsulated);
        }
        let mut message = Zeroizing::new([0; 32]);
        random.fill_bytes(message.as_mut());
        encapsulate_portable(key, &message)
    }
}

impl DecapsulationKey {
    /// The secret inside `ciphertext`, or an unrelated one when the ciphertext was not made for this key.
    ///
    /// # Panics
    /// When AWS-LC cannot allocate.
    #[must_use]
    pub fn decapsulate(&self, ciphertext: &[u8; CIPHERTEXT_BYTES]) -> SharedSecret {
        match &self.0 {
            Key::Portable(key) => {
                let mut shared = key.decapsulate(ciphertext.into());
                let secret = copy(&shared);
                shared.zeroize();
                secret
            }
            #[cfg(feature = "accel")]
            Key::Accelerated(key) => match accelerated::decapsulate(key, ciphertext) {
                Some(secret) => secret,
                // A key made here is valid and a ciphertext of this length is always accepted.
                None => panic!("out of memory in ML-KEM-768 decapsulation"),
            },
        }
    }
}

impl fmt::Debug for DecapsulationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(_) = self;
        f.debug_struct("DecapsulationKey").finish_non_exhaustive()
    }
}

fn encapsulate_portable(
    key: &[u8; ENCAPSULATION_KEY_BYTES],
    message: &[u8; 32],
) -> Result<([u8; CIPHERTEXT_BYTES], SharedSecret), InvalidEncapsulationKey> {
    let key = EncapsulationKey768::new(key.into()).map_err(|_| InvalidEncapsulationKey)?;
    let (ciphertext, mut shared) = key.encapsulate_deterministic(message.into());
    let secret = copy(&shared);
    shared.zeroize();
    Ok((ciphertext.into(), secret))
}

fn copy(shared: &ml_kem::SharedKey) -> SharedSecret {
    let shared: &[u8; 32] = shared.as_ref();
    SharedSecret::new(shared)
}

#[cfg(feature = "accel")]
mod accelerated {
    use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
    use ml_kem::DecapsulationKey768;
    use zeroize::Zeroize as _;

    use super::{CIPHERTEXT_BYTES, ENCAPSULATION_KEY_BYTES, SharedSecret};

    pub(super) fn generate() -> Option<(DecapsulationKey, [u8; ENCAPSULATION_KEY_BYTES])> {
        let key = DecapsulationKey::generate(&ML_KEM_768).ok()?;
        let public = key.encapsulation_key().ok()?.key_bytes().ok()?;
        let public = public.as_ref().try_into().ok()?;
        Some((key, public))
    }

    /// AWS-LC takes no seed, only the expanded key, which is why the portable code expands it.
    #[allow(deprecated)]
    pub(super) fn from_portable(key: &DecapsulationKey768) -> Option<DecapsulationKey> {
        use ml_kem::ExpandedKeyEncoding as _;
        let mut expanded = key.to_expanded_bytes();
        let loaded = DecapsulationKey::new(&ML_KEM_768, &expanded).ok();
        expanded.zeroize();
        loaded
    }

    pub(super) fn encapsulate(
        key: &[u8; ENCAPSULATION_KEY_BYTES],
    ) -> Option<([u8; CIPHERTEXT_BYTES], SharedSecret)> {
        let key = EncapsulationKey::new(&ML_KEM_768, key).ok()?;
        let (ciphertext, shared) = key.encapsulate().ok()?;
        let ciphertext = ciphertext.as_ref().try_into().ok()?;
        Some((ciphertext, SharedSecret::new(shared.as_ref().try_into().ok()?)))
    }

    pub(super) fn decapsulate(
        key: &DecapsulationKey,
        ciphertext: &[u8; CIPHERTEXT_BYTES],
    ) -> Option<SharedSecret> {
        let shared = key.decapsulate(Ciphertext::from(&ciphertext[..])).ok()?;
        Some(SharedSecret::new(shared.as_ref().try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_ciphertext_yields_the_same_unrelated_secret_on_every_backend() {
        let seed = [7; 64];
        let (key, public) = Backend::Portable.kem_from_seed(&seed);
        let (mut ciphertext, secret) = encapsulate_portable(&public, &[1; 32]).unwrap();
        assert_eq!(key.decapsulate(&ciphertext).as_bytes(), secret.as_bytes());
        ciphertext[0] ^= 1;
        let rejected = *key.decapsulate(&ciphertext).as_bytes();
        assert_ne!(&rejected, secret.as_bytes());
        for &backend in Backend::available() {
            let (key, _) = backend.kem_from_seed(&seed);
            assert_eq!(key.decapsulate(&ciphertext).as_bytes(), &rejected);
        }
    }

    /// Twelve bits that say q = 3329 where only 0 to 3328 may stand.
    #[test]
    fn an_encapsulation_key_that_is_not_reduced_is_refused() {
        let (_, mut public) = Backend::Portable.kem_from_seed(&[7; 64]);
        public[0] = 0x01;
        public[1] = public[1] & 0xf0 | 0x0d;
        for &backend in Backend::available() {
            let refused = backend.encapsulate(&public, &mut Zeros);
            assert_eq!(refused.unwrap_err(), InvalidEncapsulationKey, "{backend:?}");
        }
    }

    #[cfg(feature = "accel")]
    #[test]
    fn the_accelerated_backend_leaves_the_callers_randomness_alone() {
        let (key, public) = Backend::Accelerated.kem_generate(&mut Untouched);
        let (ciphertext, secret) = Backend::Accelerated.encapsulate(&public, &mut Untouched).unwrap();
        assert_eq!(key.decapsulate(&ciphertext).as_bytes(), secret.as_bytes());
        let (_, another) = Backend::Accelerated.kem_generate(&mut Untouched);
        assert_ne!(public, another);
    }

    #[test]
    fn debug_shows_nothing_of_the_key() {
        for &backend in Backend::available() {
            let (key, _) = backend.kem_from_seed(&[0xab; 64]);
            assert_eq!(format!("{key:?}"), "DecapsulationKey { .. }");
        }
    }

    #[cfg(feature = "accel")]
    struct Untouched;

    #[cfg(feature = "accel")]
    impl rand_core::TryRng for Untouched {
        type Error = std::convert::Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            panic!("randomness was drawn")
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            panic!("randomness was drawn")
        }

        fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Self::Error> {
            panic!("randomness was drawn")
        }
    }

    #[cfg(feature = "accel")]
    impl rand_core::TryCryptoRng for Untouched {}

    struct Zeros;

    impl rand_core::TryRng for Zeros {
        type Error = std::convert::Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok(0)
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok(0)
        }

        fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Self::Error> {
            output.fill(0);
            Ok(())
        }
    }

    impl rand_core::TryCryptoRng for Zeros {}
}
