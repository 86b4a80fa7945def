//! Wrapped keys: a private half under another key of the store.
//!
//! From store to store a key travels with all that is publicly known of it, authenticated, so that it comes back as
//! what it was or as less ([`Form::Sealed`](super::Form)). Foreign stores know neither labels nor usages: they get, and
//! give, the private half alone, by AES-KWP or RSA-OAEP. Nothing here asks whether the key may leave.
//!
//! Specification: docs/protocol.md §7.2; RFC 5649, RFC 8017 §7.1.

use minicbor::Encoder;

use super::WRAPPED_BYTES_MAX;
use crate::service::KeyMeta;
use crate::strict::{self, Malformed};

/// A key in the form of this project: `[v=1, KeyMeta, sealed]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrappedKey<'a> {
    /// What was publicly known of the key in its store.
    pub meta: KeyMeta,
    /// Its private half, sealed.
    pub sealed: &'a [u8],
}

impl<'a> WrappedKey<'a> {
    /// Reads a wrapped key; whether it is authentic only the key that wrapped it tells.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        strict::decode_once(bytes, WRAPPED_BYTES_MAX, |d| {
            strict::array(d, 3)?;
            strict::version(d, VERSION)?;
            Ok(Self { meta: KeyMeta::read(d)?, sealed: strict::bytes(d, WRAPPED_BYTES_MAX)? })
        })
    }

    /// The encoding, with its own length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut encoded = Vec::new();
        let mut e = Encoder::new(&mut encoded);
        let written = (|| -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            e.array(3)?.u8(VERSION)?;
            self.meta.put(&mut e)?;
            e.bytes(self.sealed)?.ok()
        })();
        debug_assert!(written.is_ok(), "encoding into memory failed");
        encoded
    }
}

const VERSION: u8 = 1;

#[cfg(feature = "store")]
pub use under::{unwrap, unwrap_sealed, wrap};

#[cfg(feature = "store")]
mod under {
    use zeroize::Zeroizing;

    use super::super::{Failed, Form, KeyType, sealing};
    use super::{Encoder, KeyMeta, WrappedKey};
    use crate::Label;

    /// Wraps `secret`, the private half of the key `meta`, under a wrapping key of type `kind`.
    ///
    /// # Errors
    /// [`Failed::Unfit`] when the wrapping key does not wrap in this form, or the private half is too long for RSA.
    pub fn wrap(
        form: Form,
        kind: KeyType,
        wrapping: &[u8],
        meta: &KeyMeta,
        secret: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        if !form.fits(kind) {
            return Err(Failed::Unfit);
        }
        if form == Form::Sealed {
            let sealed = sealing::seal(wrapping, &purpose(), &known(meta), secret)?;
            return Ok(WrappedKey { meta: meta.clone(), sealed: &sealed }.encode());
        }
        #[cfg(feature = "accel")]
        return super::accelerated::wrap(form, wrapping, secret);
        #[cfg(not(feature = "accel"))]
        Err(Failed::NotOffered)
    }

    /// The private half of a key that came with what is known of it.
    ///
    /// # Errors
    /// [`Failed::Refused`] when any of it is not what was wrapped.
    pub fn unwrap_sealed(wrapping: &[u8], wrapped: &WrappedKey<'_>) -> Result<Zeroizing<Vec<u8>>, Failed> {
        sealing::open(wrapping, &purpose(), &known(&wrapped.meta), wrapped.sealed)
            .map_err(|_| Failed::Refused)
    }

    /// The private half that a foreign store wrapped.
    ///
    /// # Errors
    /// [`Failed::Refused`], whatever is wrong with it; [`Failed::Unfit`] when the wrapping key does not wrap so.
    pub fn unwrap(
        form: Form,
        kind: KeyType,
        wrapping: &[u8],
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        if form == Form::Sealed || !form.fits(kind) {
            return Err(Failed::Unfit);
        }
        #[cfg(feature = "accel")]
        return super::accelerated::unwrap(form, wrapping, wrapped);
        #[cfg(not(feature = "accel"))]
        {
            let _ = (wrapping, wrapped);
            Err(Failed::NotOffered)
        }
    }

    fn purpose() -> Label {
        Label::new("key/wrap")
    }

    fn known(meta: &KeyMeta) -> Vec<u8> {
        let mut encoded = Vec::new();
        let written = meta.put(&mut Encoder::new(&mut encoded));
        debug_assert!(written.is_ok(), "encoding into memory failed");
        encoded
    }
}

#[cfg(all(feature = "store", feature = "accel"))]
mod accelerated {
    use aws_lc_rs::key_wrap::{AES_128, AES_256, AesKek, KeyWrapPadded as _};
    use aws_lc_rs::rsa::{
        OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    };
    use zeroize::Zeroizing;

    use super::super::{Failed, Form};

    /// What AES-KWP adds: up to 7 bytes of padding, and a block of 8.
    const KWP_OVERHEAD: usize = 15;

    pub(super) fn wrap(form: Form, wrapping: &[u8], secret: &[u8]) -> Result<Vec<u8>, Failed> {
        if form == Form::Oaep {
            let key = PrivateDecryptingKey::from_pkcs8(wrapping).map_err(|_| Failed::Unfit)?;
            let key = OaepPublicEncryptingKey::new(key.public_key()).map_err(|_| Failed::Unfit)?;
            let mut wrapped = vec![0; key.ciphertext_size()];
            key.encrypt(&OAEP_SHA256_MGF1SHA256, secret, &mut wrapped, None).map_err(|_| Failed::Unfit)?;
            return Ok(wrapped);
        }
        let mut output = vec![0; secret.len() + KWP_OVERHEAD];
        let wrapped = kek(wrapping)?.wrap_with_padding(secret, &mut output).map_err(|_| Failed::Unfit)?;
        Ok(wrapped.to_vec())
    }

    pub(super) fn unwrap(form: Form, wrapping: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let mut output;
        let length = if form == Form::Oaep {
            let key = PrivateDecryptingKey::from_pkcs8(wrapping).map_err(|_| Failed::Unfit)?;
            let key = OaepPrivateDecryptingKey::new(key).map_err(|_| Failed::Unfit)?;
            output = Zeroizing::new(vec![0; key.min_output_size()]);
            let opened = key.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut output, None);
            opened.map_err(|_| Failed::Refused)?.len()
        } else {
            output = Zeroizing::new(vec![0; wrapped.len()]);
            let opened = kek(wrapping)?.unwrap_with_padding(wrapped, &mut output);
            opened.map_err(|_| Failed::Refused)?.len()
        };
        output.truncate(length);
        Ok(output)
    }

    fn kek(wrapping: &[u8]) -> Result<AesKek, Failed> {
        let cipher = match wrapping.len() {
            16 => &AES_128,
            32 => &AES_256,
            _ => return Err(Failed::Unfit),
        };
        AesKek::new(cipher, wrapping).map_err(|_| Failed::Unfit)
    }
}

#[cfg(all(test, feature = "store"))]
mod tests {
    #[cfg(feature = "accel")]
    use super::super::material;
    use super::super::{Failed, Form, General, KeyType};
    use super::*;
    use crate::service::KeyState;
    use crate::{KeyId, KeyUsage};

    fn meta() -> KeyMeta {
        KeyMeta {
            id: KeyId::from_bytes([1; 16]),
            usage: KeyUsage::General(General::parse("hmac-sha256:mac").unwrap()),
            state: KeyState::Active,
            owner: 7,
            created: 8,
            expires: None,
            label: "a".to_owned(),
            public: vec![3; 32],
            extractable: true,
        }
    }

    #[test]
    fn a_key_comes_back_only_with_all_that_was_known_of_it() {
        let wrapped = wrap(Form::Sealed, KeyType::Aes256, &[9; 32], &meta(), b"secret").unwrap();
        let read = WrappedKey::decode(&wrapped).unwrap();
        assert_eq!(read.encode(), wrapped);
        assert_eq!(unwrap_sealed(&[9; 32], &read).unwrap()[..], *b"secret");
        assert_eq!(unwrap_sealed(&[8; 32], &read), Err(Failed::Refused));
        let changed = [
            KeyMeta { label: "b".to_owned(), ..meta() },
            KeyMeta { expires: Some(1), ..meta() },
            KeyMeta { extractable: false, ..meta() },
            KeyMeta { owner: 0, ..meta() },
        ];
        for meta in changed {
            assert_eq!(unwrap_sealed(&[9; 32], &WrappedKey { meta, ..read.clone() }), Err(Failed::Refused));
        }
        for length in 0..wrapped.len() {
            assert!(WrappedKey::decode(&wrapped[..length]).is_err());
        }
    }

    #[cfg(feature = "accel")]
    #[test]
    fn foreign_forms_carry_the_private_half_alone() {
        let rsa = material::generate(KeyType::Rsa2048).unwrap();
        for (form, kind, wrapping) in [
            (Form::Kwp, KeyType::Aes128, &[9; 16][..]),
            (Form::Kwp, KeyType::Aes256, &[9; 32]),
            (Form::Oaep, KeyType::Rsa2048, &rsa),
        ] {
            let wrapped = wrap(form, kind, wrapping, &meta(), &[5; 33]).unwrap();
            assert_eq!(unwrap(form, kind, wrapping, &wrapped).unwrap()[..], [5; 33]);
            for at in 0..wrapped.len() {
                let mut changed = wrapped.clone();
                changed[at] ^= 1;
                assert_eq!(unwrap(form, kind, wrapping, &changed), Err(Failed::Refused), "{form:?} {at}");
            }
            assert_eq!(unwrap(form, kind, wrapping, b""), Err(Failed::Refused));
        }
        // RSA-OAEP takes what fits into the modulus.
        assert_eq!(wrap(Form::Oaep, KeyType::Rsa2048, &rsa, &meta(), &[5; 200]), Err(Failed::Unfit));
        assert_eq!(wrap(Form::Oaep, KeyType::Aes256, &[9; 32], &meta(), &[5; 32]), Err(Failed::Unfit));
        assert_eq!(unwrap(Form::Sealed, KeyType::Aes256, &[9; 32], b""), Err(Failed::Unfit));
    }
}
