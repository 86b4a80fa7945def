//! HPKE in base mode, with keys that stay: opening what was sealed to the public half.
//!
//! The suite follows from the key's type. Sealing takes no private key, and is the sender's part
//! ([`HpkeSuite::seal`]).
//!
//! Specification: docs/protocol.md §5.2, §7.2; RFC 9180.

use zeroize::Zeroizing;

use super::material::exactly;
use super::{Failed, KeyType};
use crate::{Backend, HpkeSuite};

/// Opens what was sealed for the purpose `info` and bound to `aad`.
///
/// # Errors
/// [`Failed::Refused`], whatever is wrong with it; [`Failed::Unfit`] for a key of another type.
pub fn open(
    kind: KeyType,
    secret: &[u8],
    enc: &[u8],
    (info, aad): (&[u8], &[u8]),
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let suite = suite(kind).ok_or(Failed::Unfit)?;
    let opened = suite.open(Backend::best(), exactly(secret)?, enc, (info, aad), ciphertext);
    opened.map_err(|_| Failed::Refused)
}

/// The suite of a key's type.
#[must_use]
pub const fn suite(kind: KeyType) -> Option<HpkeSuite> {
    match kind {
        KeyType::P256 => Some(HpkeSuite::P256Aes256Gcm),
        KeyType::XWing => Some(HpkeSuite::XWingChaCha20Poly1305),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::material;
    use super::*;

    #[test]
    fn what_is_sealed_to_a_key_is_opened_by_it_for_the_same_purpose_alone() {
        for kind in [KeyType::P256, KeyType::XWing] {
            let suite = suite(kind).unwrap();
            let mut random = rand_core::UnwrapErr(getrandom::SysRng);
            let secret = suite.generate(&mut random);
            let secret = secret.as_bytes();
            let public = suite.public_key(Backend::best(), secret).unwrap();
            if kind.is_offered() {
                assert_eq!(material::public(kind, secret).unwrap(), public);
            }
            let sealed =
                suite.seal(Backend::best(), &public, (b"info", b"aad"), b"data", &mut random).unwrap();
            let opens = |enc: &[u8], info: &[u8], aad: &[u8]| {
                open(kind, secret, enc, (info, aad), &sealed.ct).map(|opened| opened.to_vec())
            };
            assert_eq!(opens(&sealed.enc, b"info", b"aad"), Ok(b"data".to_vec()));
            assert_eq!(opens(&sealed.enc, b"other", b"aad"), Err(Failed::Refused));
            assert_eq!(opens(&sealed.enc, b"info", b"other"), Err(Failed::Refused));
            assert_eq!(opens(&sealed.enc[1..], b"info", b"aad"), Err(Failed::Refused));
        }
        assert_eq!(open(KeyType::P384, &[1; 48], &[], (b"", b""), &[]), Err(Failed::Unfit));
    }
}
