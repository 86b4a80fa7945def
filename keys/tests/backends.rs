//! The two backends against each other: for every input both answer the same.

#![cfg(feature = "accel")]
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use onward_keys::Backend::{Accelerated, Portable};
use onward_keys::{Aead, AeadAlgorithm, Backend};
use proptest::prelude::*;

fn bytes(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=length)
}

fn algorithm() -> impl Strategy<Value = AeadAlgorithm> {
    prop_oneof![Just(AeadAlgorithm::ChaCha20Poly1305), Just(AeadAlgorithm::Aes256Gcm)]
}

fn seed() -> impl Strategy<Value = [u8; 64]> {
    [any::<[u8; 32]>(), any::<[u8; 32]>()]
        .prop_map(|halves| std::array::from_fn(|at| halves[at / 32][at % 32]))
}

proptest! {
    #[test]
    fn x25519_is_the_same(secret: [u8; 32], public: [u8; 32]) {
        prop_assert_eq!(Portable.x25519_public(&secret), Accelerated.x25519_public(&secret));
        let agreed = |backend: Backend| backend.x25519(&secret, &public).map(|it| *it.as_bytes());
        prop_assert_eq!(agreed(Portable), agreed(Accelerated));
    }

    #[test]
    fn what_one_backend_seals_the_other_opens(
        algorithm in algorithm(),
        key: [u8; 32],
        nonce: [u8; 12],
        ad in bytes(100),
        plaintext in bytes(2000),
    ) {
        let portable = Aead::new(Portable, algorithm, &key);
        let accelerated = Aead::new(Accelerated, algorithm, &key);
        let (mut one, mut other) = (plaintext.clone(), plaintext.clone());
        let tag = portable.seal_in_place(&nonce, &ad, &mut one);
        prop_assert_eq!(tag, accelerated.seal_in_place(&nonce, &ad, &mut other));
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(accelerated.open_in_place(&nonce, &ad, &mut one, &tag), Ok(()));
        prop_assert_eq!(portable.open_in_place(&nonce, &ad, &mut other, &tag), Ok(()));
        prop_assert_eq!(&one, &plaintext);
        prop_assert_eq!(&other, &plaintext);
    }

    #[test]
    fn a_kem_key_of_either_backend_works_with_the_other(seed in seed()) {
        let mut random = rand_core::UnwrapErr(getrandom::SysRng);
        for (ours, theirs) in [(Portable, Accelerated), (Accelerated, Portable)] {
            let (key, public) = ours.kem_generate(&mut random);
            let (ciphertext, secret) = theirs.encapsulate(&public, &mut random).unwrap();
            prop_assert_eq!(*key.decapsulate(&ciphertext).as_bytes(), *secret.as_bytes());

            let (key, public) = ours.kem_from_seed(&seed);
            let (same_key, same_public) = theirs.kem_from_seed(&seed);
            prop_assert_eq!(public, same_public);
            let (ciphertext, secret) = ours.encapsulate(&public, &mut random).unwrap();
            prop_assert_eq!(*key.decapsulate(&ciphertext).as_bytes(), *secret.as_bytes());
            prop_assert_eq!(*same_key.decapsulate(&ciphertext).as_bytes(), *secret.as_bytes());
        }
    }
}
