//! ML-KEM-768 and ML-KEM-1024 with keys that stay: encapsulating to one's own public half, and decapsulating.
//!
//! A changed ciphertext yields an unrelated secret, never an error (implicit rejection).
//!
//! Specification: docs/protocol.md §7.2; FIPS 203.

use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::{DecapsulationKey1024, EncapsulationKey1024};
use zeroize::{Zeroize as _, Zeroizing};

use super::material::exactly;
use super::{Failed, KeyType};
use crate::{Backend, SharedSecret};

/// Encapsulates a fresh secret to this public half: the ciphertext (1,088 or 1,568 bytes) and the secret.
///
/// # Errors
/// [`Failed::Unfit`] when it is no public half of this type, [`Failed::System`] without randomness.
pub fn encapsulate(kind: KeyType, public: &[u8]) -> Result<(Vec<u8>, SharedSecret), Failed> {
    match kind {
        KeyType::MlKem768 => {
            let mut random = rand_core::UnwrapErr(getrandom::SysRng);
            let sealed = Backend::best().encapsulate(exactly(public)?, &mut random);
            let (ciphertext, secret) = sealed.map_err(|_| Failed::Unfit)?;
            Ok((ciphertext.to_vec(), secret))
        }
        KeyType::MlKem1024 => {
            let public = exactly::<1568>(public)?;
            let key = EncapsulationKey1024::new(public.into()).map_err(|_| Failed::Unfit)?;
            let mut message = Zeroizing::new([0; 32]);
            getrandom::fill(message.as_mut()).map_err(|_| Failed::System)?;
            let (ciphertext, mut shared) = key.encapsulate_deterministic((&*message).into());
            let secret = SharedSecret::new(shared.as_ref());
            shared.zeroize();
            Ok((ciphertext.to_vec(), secret))
        }
        _ => Err(Failed::Unfit),
    }
}

/// The secret in `ciphertext`.
///
/// # Errors
/// [`Failed::Unfit`] when the seed or the ciphertext is of another length.
pub fn decapsulate(kind: KeyType, seed: &[u8], ciphertext: &[u8]) -> Result<SharedSecret, Failed> {
    let seed = exactly::<64>(seed)?;
    match kind {
        KeyType::MlKem768 => {
            let (key, _) = Backend::best().kem_from_seed(seed);
            Ok(key.decapsulate(exactly(ciphertext)?))
        }
        KeyType::MlKem1024 => {
            let key = Box::new(DecapsulationKey1024::from_seed((*seed).into()));
            let mut shared = key.decapsulate(exactly::<1568>(ciphertext)?.into());
            let secret = SharedSecret::new(shared.as_ref());
            shared.zeroize();
            Ok(secret)
        }
        _ => Err(Failed::Unfit),
    }
}

pub(super) fn public(kind: KeyType, seed: &[u8]) -> Result<Vec<u8>, Failed> {
    let seed = exactly::<64>(seed)?;
    match kind {
        KeyType::MlKem768 => Ok(Backend::best().kem_from_seed(seed).1.to_vec()),
        KeyType::MlKem1024 => {
            let key = Box::new(DecapsulationKey1024::from_seed((*seed).into()));
            Ok(key.encapsulation_key().to_bytes().to_vec())
        }
        _ => Err(Failed::Unfit),
    }
}

#[cfg(test)]
mod tests {
    use super::super::material;
    use super::*;

    #[test]
    fn what_is_encapsulated_is_decapsulated_and_a_changed_ciphertext_yields_another_secret() {
        for kind in [KeyType::MlKem768, KeyType::MlKem1024] {
            let seed = material::generate(kind).unwrap();
            let public = material::public(kind, &seed).unwrap();
            let (mut ciphertext, secret) = encapsulate(kind, &public).unwrap();
            let opened = decapsulate(kind, &seed, &ciphertext).unwrap();
            assert_eq!(opened.as_bytes(), secret.as_bytes());
            ciphertext[7] ^= 1;
            let other = decapsulate(kind, &seed, &ciphertext).unwrap();
            assert_ne!(other.as_bytes(), secret.as_bytes());
            assert_eq!(decapsulate(kind, &seed, &ciphertext[1..]).unwrap_err(), Failed::Unfit);
            assert_eq!(encapsulate(kind, &vec![0xff; public.len()]).unwrap_err(), Failed::Unfit);
            assert_eq!(encapsulate(kind, &public[1..]).unwrap_err(), Failed::Unfit);
        }
        assert_eq!(encapsulate(KeyType::Aes128, &[1; 32]).unwrap_err(), Failed::Unfit);
    }
}
