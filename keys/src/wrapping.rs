//! Wrapping a secret under another: XChaCha20-Poly1305, whose nonces are long enough to be drawn at random.
//!
//! Specification: docs/protocol.md §5.4; draft-irtf-cfrg-xchacha-03.

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use zeroize::Zeroize as _;

use crate::aead::wipe_stack;
use crate::{TAG_BYTES, Unauthentic};

/// Bytes of a nonce.
pub const LONG_NONCE_BYTES: usize = 24;

/// Encrypts `buffer` in place under `key` and returns the tag over it and `ad`. A nonce must be random and fresh.
///
/// # Panics
/// When `buffer` is longer than 2^38 bytes.
#[must_use]
pub fn wrap(key: &[u8; 32], nonce: &[u8; LONG_NONCE_BYTES], ad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
    let bytes = buffer.len();
    #[cfg(feature = "witness")]
    if let Some(secret) = buffer.first_chunk() {
        crate::witness::note(crate::witness::Use::Wrapping, key);
        crate::witness::note(crate::witness::Use::Wrapped, secret);
    }
    let sealed =
        XChaCha20Poly1305::new(key.into()).encrypt_inout_detached(nonce.into(), ad, buffer.into()).ok();
    wipe_stack();
    match sealed {
        Some(tag) => tag.into(),
        None => panic!("wrapping more than an AEAD can take: {bytes} bytes"),
    }
}

/// Checks `tag` over `wrapped` and `ad`, and decrypts `wrapped` in place.
///
/// # Errors
/// [`Unauthentic`]; `wrapped` is then all zeros.
pub fn unwrap(
    key: &[u8; 32],
    nonce: &[u8; LONG_NONCE_BYTES],
    ad: &[u8],
    wrapped: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), Unauthentic> {
    let cipher = XChaCha20Poly1305::new(key.into());
    let opened = cipher.decrypt_inout_detached(nonce.into(), ad, (&mut *wrapped).into(), tag.into());
    drop(cipher);
    wipe_stack();
    opened.map_err(|_| {
        wrapped.zeroize();
        Unauthentic
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrapped_unwraps_and_anything_else_leaves_zeros() {
        let (key, nonce, secret) = ([1; 32], [2; 24], [7; 32]);
        let mut wrapped = secret;
        let tag = wrap(&key, &nonce, b"ad", &mut wrapped);
        assert_ne!(wrapped, secret);
        let mut opened = wrapped;
        assert_eq!(unwrap(&key, &nonce, b"ad", &mut opened, &tag), Ok(()));
        assert_eq!(opened, secret);
        for (key, nonce, ad, flip) in [
            ([9; 32], nonce, b"ad", 0),
            (key, [9; 24], b"ad", 0),
            (key, nonce, b"da", 0),
            (key, nonce, b"ad", 1),
        ] {
            let mut forged = wrapped;
            forged[3] ^= flip;
            assert_eq!(unwrap(&key, &nonce, ad, &mut forged, &tag), Err(Unauthentic));
            assert_eq!(forged, [0; 32]);
        }
    }
}
