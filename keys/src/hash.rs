//! Hash, MAC and key derivation: BLAKE2s-256 in its three forms.
//!
//! There is one implementation for all backends: AWS-LC has no keyed BLAKE2s, and these run on handshakes and
//! structures, not on bulk data.
//!
//! Specification: docs/protocol.md §0 (primitives); RFC 7693, RFC 5869.

use blake2::digest::{FixedOutput as _, KeyInit as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac256, Digest as _};
use hkdf::SimpleHkdf;
use zeroize::Zeroizing;

use crate::{Label, Unauthentic};

/// H: BLAKE2s-256 of `message`.
#[must_use]
pub fn hash(message: &[u8]) -> [u8; 32] {
    Blake2s256::digest(message).into()
}

/// MAC: keyed BLAKE2s-256 of `message`, 32 bytes.
#[must_use]
pub fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    keyed(key, message).finalize_fixed().into()
}

/// Checks the MAC of `message` in constant time.
///
/// # Errors
/// [`Unauthentic`] when `tag` is not [`mac`] of `message` under `key`.
pub fn mac_verify(key: &[u8; 32], message: &[u8], tag: &[u8; 32]) -> Result<(), Unauthentic> {
    keyed(key, message)
        .verify(tag.into())
        .map_err(|_| Unauthentic)
}

/// HKDF-Extract over HMAC-BLAKE2s-256: the pseudorandom key of `input` under `salt` (any lengths).
#[must_use]
pub fn hkdf_extract(salt: &[u8], input: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(
        SimpleHkdf::<Blake2s256>::extract(Some(salt), input)
            .0
            .into(),
    )
}

/// HKDF-Expand over HMAC-BLAKE2s-256: fills `output` from `key` for the purpose named by `info`.
///
/// # Panics
/// When `output` is longer than 8 160 bytes (255 blocks), which RFC 5869 does not define.
pub fn hkdf_expand(key: &[u8; 32], info: &Label, output: &mut [u8]) {
    expand(key, &info.encode(), output);
}

fn keyed(key: &[u8; 32], message: &[u8]) -> Blake2sMac256 {
    let mut mac = Blake2sMac256::new(key.into());
    mac.update(message);
    mac
}

fn expand(key: &[u8; 32], info: &[u8], output: &mut [u8]) {
    assert!(
        output.len() <= EXPAND_BYTES_MAX,
        "HKDF-Expand of more than {EXPAND_BYTES_MAX} bytes"
    );
    let expanded = SimpleHkdf::<Blake2s256>::from_prk(key).map(|hkdf| hkdf.expand(info, output));
    // The key is exactly one hash long and the length is checked above: the two reasons to fail.
    assert!(matches!(expanded, Ok(Ok(()))), "HKDF-Expand failed");
}

/// 255 blocks of 32 bytes (RFC 5869 §2.3).
const EXPAND_BYTES_MAX: usize = 255 * 32;
