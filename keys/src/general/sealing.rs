//! Sealing under a secret of the store: a fresh key for every sealing, derived with a random salt.
//!
//! What a key of general use is made of lies sealed so in the store, a wrapped key travels so, and a client's state
//! blobs are sealed so. The derived key is used once, so the nonce is constant and nothing can be counted wrong.
//!
//! Form: salt (32), ciphertext, tag (16). Specification: docs/protocol.md §7.2, §7.3.

use zeroize::Zeroizing;

use super::Failed;
use crate::{Aead, AeadAlgorithm, Backend, Label, TAG_BYTES, Unauthentic, hkdf_expand, hkdf_extract};

/// Bytes that a sealing adds.
pub const OVERHEAD: usize = SALT_BYTES + TAG_BYTES;

const SALT_BYTES: usize = 32;

/// Seals `plaintext` under `key` (any length) for the purpose named by `purpose`, with associated data.
///
/// # Errors
/// [`Failed::System`] when there is no randomness.
pub fn seal(key: &[u8], purpose: &Label, ad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|_| Failed::System)?;
    // Of its whole size at once: a buffer that moves would leave plaintext behind.
    let mut sealed = Vec::with_capacity(plaintext.len() + OVERHEAD);
    sealed.extend_from_slice(&salt);
    sealed.extend_from_slice(plaintext);
    let tag = cipher(key, purpose, &salt).seal_in_place(&[0; 12], ad, &mut sealed[SALT_BYTES..]);
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// Opens what [`seal`] made for the same key, purpose and associated data.
///
/// # Errors
/// [`Unauthentic`].
pub fn open(
    key: &[u8],
    purpose: &Label,
    ad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
    let (salt, rest) = sealed.split_first_chunk::<SALT_BYTES>().ok_or(Unauthentic)?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(Unauthentic)?;
    let mut opened = Zeroizing::new(ciphertext.to_vec());
    cipher(key, purpose, salt).open_in_place(&[0; 12], ad, &mut opened, tag)?;
    Ok(opened)
}

fn cipher(key: &[u8], purpose: &Label, salt: &[u8; SALT_BYTES]) -> Aead {
    let secret = hkdf_extract(salt, key);
    let mut derived = Zeroizing::new([0; 32]);
    hkdf_expand(secret.as_bytes(), purpose, derived.as_mut());
    Aead::new(Backend::best(), AeadAlgorithm::ChaCha20Poly1305, &derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_purpose_and_data_open_what_was_sealed() {
        let purpose = || Label::new("test/one");
        let sealed = seal(b"key", &purpose(), b"ad", b"plaintext").unwrap();
        assert_eq!(sealed.len(), 9 + OVERHEAD);
        assert_eq!(open(b"key", &purpose(), b"ad", &sealed).unwrap()[..], *b"plaintext");
        assert!(open(b"kez", &purpose(), b"ad", &sealed).is_err());
        assert!(open(b"key", &Label::new("test/two"), b"ad", &sealed).is_err());
        assert!(open(b"key", &purpose(), b"da", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(b"key", &purpose(), b"ad", &changed).is_err(), "{at}");
            assert!(open(b"key", &purpose(), b"ad", &sealed[..at]).is_err(), "{at}");
        }
        assert_ne!(sealed, seal(b"key", &purpose(), b"ad", b"plaintext").unwrap(), "a salt is used once");
    }
}
