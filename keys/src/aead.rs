//! Authenticated encryption: one keyed context, set up once and kept warm.
//!
//! A context never gives out nonces: whoever holds the counter must never repeat one under the same key. Nothing here
//! allocates after [`Aead::new`].
//!
//! Specification: docs/protocol.md §0, §3.3; RFC 8439; NIST SP 800-38D.

use std::fmt;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit as _};
use chacha20poly1305::ChaCha20Poly1305;
use zeroize::Zeroize as _;

use crate::Backend;

/// The length of an authentication tag.
pub const TAG_BYTES: usize = 16;

/// Which AEAD a context computes. Both take a 32-byte key, a 12-byte nonce and yield a 16-byte tag.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AeadAlgorithm {
    /// RFC 8439; the default everywhere.
    ChaCha20Poly1305,
    /// AES-256-GCM: faster where [`Backend::has_hardware_aes`].
    Aes256Gcm,
}

/// A ciphertext, or a MAC, did not authenticate. Says no more on purpose: detail here is an oracle.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("authentication failed")]
pub struct Unauthentic;

/// An AEAD under one key.
///
/// Not `Clone`: two owners of one key would repeat a nonce. At most 1 KiB with everything it owns, AWS-LC's part
/// included; the key lies in a box of its own and is wiped on drop.
pub struct Aead {
    algorithm: AeadAlgorithm,
    context: Context,
}

/// Boxed each, so that a move copies a pointer and four contexts of an idle channel stay small.
enum Context {
    ChaCha(Box<ChaCha20Poly1305>),
    Aes(Box<Aes256Gcm>),
    #[cfg(feature = "accel")]
    Accelerated(Box<aws_lc_rs::aead::LessSafeKey>),
}

impl Aead {
    /// Sets up `algorithm` under `key`, computed by `backend`.
    #[must_use]
    pub fn new(backend: Backend, algorithm: AeadAlgorithm, key: &[u8; 32]) -> Self {
        #[cfg(feature = "witness")]
        crate::witness::note(crate::witness::Use::Cipher, key);
        let context = match backend {
            Backend::Portable => portable(algorithm, key),
            // AWS-LC can only fail here for want of memory; the portable context computes the same.
            #[cfg(feature = "accel")]
            Backend::Accelerated => {
                accelerated::context(algorithm, key).unwrap_or_else(|| portable(algorithm, key))
            }
        };
        Self { algorithm, context }
    }

    /// Encrypts `buffer` in place and returns the tag over it and `ad`.
    ///
    /// # Panics
    /// When `buffer` is longer than 2^36 − 32 bytes, the bound of AES-GCM.
    #[must_use]
    pub fn seal_in_place(&self, nonce: &[u8; 12], ad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
        let sealed = match &self.context {
            Context::ChaCha(cipher) => portable_seal(cipher.as_ref(), nonce, ad, buffer),
            Context::Aes(cipher) => portable_seal(cipher.as_ref(), nonce, ad, buffer),
            #[cfg(feature = "accel")]
            Context::Accelerated(key) => accelerated::seal(key, nonce, ad, buffer),
        };
        match sealed {
            Some(tag) => tag,
            None => panic!("sealing more than an AEAD can take: {} bytes", buffer.len()),
        }
    }

    /// Checks `tag` over `ciphertext` and `ad`, and decrypts `ciphertext` in place.
    ///
    /// # Errors
    /// [`Unauthentic`]; `ciphertext` is then all zeros.
    pub fn open_in_place(
        &self,
        nonce: &[u8; 12],
        ad: &[u8],
        ciphertext: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), Unauthentic> {
        let opened = match &self.context {
            Context::ChaCha(cipher) => portable_open(cipher.as_ref(), nonce, ad, ciphertext, tag),
            Context::Aes(cipher) => portable_open(cipher.as_ref(), nonce, ad, ciphertext, tag),
            #[cfg(feature = "accel")]
            Context::Accelerated(key) => accelerated::open(key, nonce, ad, ciphertext, tag),
        };
        if opened.is_none() {
            ciphertext.zeroize();
            return Err(Unauthentic);
        }
        Ok(())
    }

    /// Which AEAD this is.
    #[must_use]
    pub fn algorithm(&self) -> AeadAlgorithm {
        self.algorithm
    }
}

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { algorithm, context: _ } = self;
        f.debug_struct("Aead").field("algorithm", algorithm).finish_non_exhaustive()
    }
}

fn portable(algorithm: AeadAlgorithm, key: &[u8; 32]) -> Context {
    let context = match algorithm {
        AeadAlgorithm::ChaCha20Poly1305 => Context::ChaCha(Box::new(ChaCha20Poly1305::new(key.into()))),
        AeadAlgorithm::Aes256Gcm => Context::Aes(Box::new(Aes256Gcm::new(key.into()))),
    };
    wipe_stack();
    context
}

/// Overwrites what the call before this one left on the stack: a cipher's state is its key, and the copies that it
/// works on are wiped by nobody else.
#[inline(never)]
pub(crate) fn wipe_stack() {
    /// More than the frames of the portable ciphers take.
    const FRAMES: usize = 4096;
    std::hint::black_box(&mut [0u8; FRAMES]);
}

/// Generic over the two ciphers, whose nonces and tags have the same sizes.
fn portable_seal<C>(cipher: &C, nonce: &[u8; 12], ad: &[u8], buffer: &mut [u8]) -> Option<[u8; 16]>
where
    C: AeadInOut,
    for<'a> &'a aes_gcm::aead::Nonce<C>: From<&'a [u8; 12]>,
    aes_gcm::aead::Tag<C>: Into<[u8; 16]>,
{
    let sealed = cipher.encrypt_inout_detached(nonce.into(), ad, buffer.into()).ok().map(Into::into);
    wipe_stack();
    sealed
}

fn portable_open<C>(cipher: &C, nonce: &[u8; 12], ad: &[u8], buffer: &mut [u8], tag: &[u8; 16]) -> Option<()>
where
    C: AeadInOut,
    for<'a> &'a aes_gcm::aead::Nonce<C>: From<&'a [u8; 12]>,
    for<'a> &'a aes_gcm::aead::Tag<C>: From<&'a [u8; 16]>,
{
    let opened = cipher.decrypt_inout_detached(nonce.into(), ad, buffer.into(), tag.into()).ok();
    wipe_stack();
    opened
}

#[cfg(feature = "accel")]
mod accelerated {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{AeadAlgorithm, Context};

    pub(super) fn context(algorithm: AeadAlgorithm, key: &[u8; 32]) -> Option<Context> {
        let algorithm = match algorithm {
            AeadAlgorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            AeadAlgorithm::Aes256Gcm => &AES_256_GCM,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(Context::Accelerated(Box::new(key)))
    }

    pub(super) fn seal(
        key: &LessSafeKey,
        nonce: &[u8; 12],
        ad: &[u8],
        buffer: &mut [u8],
    ) -> Option<[u8; 16]> {
        let nonce = Nonce::from(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(ad), buffer).ok()?;
        tag.as_ref().try_into().ok()
    }

    pub(super) fn open(
        key: &LessSafeKey,
        nonce: &[u8; 12],
        ad: &[u8],
        ciphertext: &mut [u8],
        tag: &[u8; 16],
    ) -> Option<()> {
        let nonce = Nonce::from(nonce);
        key.open_in_place_separate_tag(nonce, Aad::from(ad), tag, ciphertext).ok().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_backends_agree_with_rfc_8439_section_2_8_2() {
        let key = std::array::from_fn(|at| 0x80 + at as u8);
        let nonce = hex::decode("070000004041424344454647").unwrap();
        let nonce = nonce.try_into().unwrap();
        let ad = hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap();
        let plaintext = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
            the future, sunscreen would be it.";
        for &backend in Backend::available() {
            let aead = Aead::new(backend, AeadAlgorithm::ChaCha20Poly1305, &key);
            let mut buffer = plaintext.to_vec();
            let tag = aead.seal_in_place(&nonce, &ad, &mut buffer);
            assert_eq!(
                hex::encode(&buffer),
                "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da\
                 92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585\
                 808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116"
            );
            assert_eq!(hex::encode(tag), "1ae10b594f09e26a7e902ecbd0600691");
            aead.open_in_place(&nonce, &ad, &mut buffer, &tag).unwrap();
            assert_eq!(buffer, plaintext);
        }
    }

    #[test]
    fn a_failed_open_leaves_zeros() {
        let (nonce, ad) = ([3; 12], b"ad");
        for (backend, algorithm) in all() {
            let aead = Aead::new(backend, algorithm, &[1; 32]);
            let mut sealed = *b"some plaintext of more than one block of either cipher, to be sure";
            let tag = aead.seal_in_place(&nonce, ad, &mut sealed);
            let forgeries: [(&[u8; 12], &[u8], usize, usize); 4] = [
                (&[4; 12], ad, usize::MAX, usize::MAX),
                (&nonce, b"da", usize::MAX, usize::MAX),
                (&nonce, ad, 65, usize::MAX),
                (&nonce, ad, usize::MAX, 15),
            ];
            for (nonce, ad, flip_byte, flip_tag) in forgeries {
                let (mut buffer, mut tag) = (sealed, tag);
                if let Some(byte) = buffer.get_mut(flip_byte) {
                    *byte ^= 1;
                }
                if let Some(byte) = tag.get_mut(flip_tag) {
                    *byte ^= 1;
                }
                let opened = aead.open_in_place(nonce, ad, &mut buffer, &tag);
                assert_eq!(opened, Err(Unauthentic), "{backend:?} {algorithm:?}");
                assert_eq!(buffer, [0; 66], "{backend:?} {algorithm:?}");
            }
        }
    }

    #[test]
    fn nothing_is_sealed_and_opened_too() {
        for (backend, algorithm) in all() {
            let aead = Aead::new(backend, algorithm, &[1; 32]);
            let tag = aead.seal_in_place(&[0; 12], b"", &mut []);
            assert_eq!(aead.open_in_place(&[0; 12], b"", &mut [], &tag), Ok(()));
            assert_eq!(aead.open_in_place(&[0; 12], b"x", &mut [], &tag), Err(Unauthentic));
        }
    }

    #[test]
    fn a_context_takes_at_most_a_kibibyte() {
        let contexts = [size_of::<ChaCha20Poly1305>(), size_of::<Aes256Gcm>()];
        for context in contexts {
            assert!(size_of::<Aead>() + context <= 1024, "{context}");
        }
    }

    #[test]
    fn debug_names_the_algorithm_and_no_key() {
        for (backend, algorithm) in all() {
            let aead = Aead::new(backend, algorithm, &[0xab; 32]);
            let expected = format!("Aead {{ algorithm: {algorithm:?}, .. }}");
            assert_eq!(format!("{aead:?}"), expected);
        }
    }

    fn all() -> impl Iterator<Item = (Backend, AeadAlgorithm)> {
        Backend::available().iter().flat_map(|backend| {
            [AeadAlgorithm::ChaCha20Poly1305, AeadAlgorithm::Aes256Gcm].map(|it| (*backend, it))
        })
    }
}
