//! Authenticated encryption and authentication codes with keys that stay.
//!
//! The nonce is drawn here for every message and stands in front of the ciphertext; nobody can ask for one. What does
//! not authenticate fails in one way, before any padding is looked at, and yields nothing.
//!
//! Specification: docs/protocol.md §7.2; SP 800-38D, RFC 8452, SP 800-38A, RFC 7518 §5.2.3, RFC 2104.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Failed, Mode};

#[cfg(feature = "accel")]
mod modes;

/// HMAC-SHA256 of `data`, 32 bytes.
///
/// # Errors
/// None for a key of a length that [`material`](super::material) takes.
pub fn mac(secret: &[u8], data: &[u8]) -> Result<[u8; 32], Failed> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| Failed::Unfit)?;
    mac.update(data);
    Ok(mac.finalize().into_bytes().into())
}

/// Encrypts `data` with a fresh nonce: nonce, ciphertext and tag, as [`Mode`] says.
///
/// # Errors
/// [`Failed::Unfit`] for a key of another length, [`Failed::System`] without randomness, [`Failed::NotOffered`].
pub fn encrypt(mode: Mode, secret: &[u8], aad: &[u8], data: &[u8]) -> Result<Vec<u8>, Failed> {
    #[cfg(feature = "accel")]
    return modes::encrypt(mode, secret, aad, data);
    #[cfg(not(feature = "accel"))]
    {
        let _ = (mode, secret, aad, data);
        Err(Failed::NotOffered)
    }
}

/// Decrypts what [`encrypt`] made, or another implementation of the mode.
///
/// # Errors
/// [`Failed::Refused`] for all that is not authentic, whatever is wrong with it; [`Failed::Unfit`] for a key of another
/// length, [`Failed::NotOffered`].
pub fn decrypt(mode: Mode, secret: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
    #[cfg(feature = "accel")]
    return modes::decrypt(mode, secret, aad, sealed);
    #[cfg(not(feature = "accel"))]
    {
        let _ = (mode, secret, aad, sealed);
        Err(Failed::NotOffered)
    }
}

#[cfg(all(test, feature = "accel"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_is_decrypted_and_no_changed_bit_is() {
        for mode in Mode::ALL {
            for secret in [&[7; 32][..], &[7; 16]] {
                if mode == Mode::CbcHmac && secret.len() == 16 {
                    assert_eq!(encrypt(mode, secret, b"", b""), Err(Failed::Unfit));
                    continue;
                }
                for length in [0, 1, 15, 16, 17, 33] {
                    let data = vec![5; length];
                    let sealed = encrypt(mode, secret, b"ad", &data).unwrap();
                    assert!(sealed.len() <= length + super::super::SEAL_BYTES_MAX);
                    assert_ne!(sealed, encrypt(mode, secret, b"ad", &data).unwrap(), "{mode:?}");
                    assert_eq!(decrypt(mode, secret, b"ad", &sealed).unwrap()[..], data[..]);
                    assert_eq!(decrypt(mode, secret, b"da", &sealed), Err(Failed::Refused));
                    for at in 0..sealed.len() {
                        let mut changed = sealed.clone();
                        changed[at] ^= 0x80;
                        let refused = decrypt(mode, secret, b"ad", &changed);
                        assert_eq!(refused, Err(Failed::Refused), "{mode:?} {at}");
                        let refused = decrypt(mode, secret, b"ad", &sealed[..at]);
                        assert_eq!(refused, Err(Failed::Refused), "{mode:?} {at}");
                    }
                }
            }
            assert_eq!(encrypt(mode, &[1; 24], b"", b"").is_ok(), mode == Mode::CtrHmac);
        }
    }

    /// RFC 7518 appendix B.1.
    #[test]
    fn the_cbc_mode_agrees_with_rfc_7518() {
        let secret: [u8; 32] = std::array::from_fn(|at| at as u8);
        let plaintext =
            b"A cipher system must not be required to be secret, and it must be able to fall into the \
                          hands of the enemy without inconvenience";
        let sealed = hex::decode(
            "1af38c2dc2b96ffdd86694092341bc04\
             c80edfa32ddf39d5ef00c0b468834279a2e46a1b8049f792f76bfe54b903a9c9a94ac9b47ad2655c5f10f9aef71427e2\
             fc6f9b3f399a221489f16362c703233609d45ac69864e3321cf82935ac4096c86e133314c54019e8ca7980dfa4b9cf1b\
             384c486f3a54c51078158ee5d79de59fbd34d848b3d69550a67646344427ade54b8851ffb598f7f80074b9473c82e2db\
             652c3fa36b0a7c5b3219fab3a30bc1c4",
        );
        let aad = b"The second principle of Auguste Kerckhoffs";
        let opened = decrypt(Mode::CbcHmac, &secret, aad, &sealed.unwrap()).unwrap();
        assert_eq!(opened[..], plaintext[..]);
    }

    /// RFC 4231, test cases 1 and 3.
    #[test]
    fn the_code_agrees_with_rfc_4231() {
        let tag = mac(&[0x0b; 20], b"Hi There").unwrap();
        assert_eq!(hex::encode(tag), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        let tag = mac(&[0xaa; 20], &[0xdd; 50]).unwrap();
        assert_eq!(hex::encode(tag), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    }
}
