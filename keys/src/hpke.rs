//! HPKE, base mode, one message for each encapsulation: what disposable keys are sealed with.
//!
//! Only what is needed is here: two suites, no pre-shared keys, no authenticated modes, no export. A sealing makes its
//! own ephemeral key and uses the derived AEAD key once, with the first nonce, so there is no state that could
//! repeat one.
//!
//! Specification: docs/protocol.md §5.2; RFC 9180 §4, §5.1.

mod dhkem;
mod xwing;

use hkdf::HkdfExtract;
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Aead, AeadAlgorithm, Backend, SharedSecret, TAG_BYTES, Unauthentic};

/// The receiver's public key is none: of another length, or no point of the curve.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the public key is not valid")]
pub struct InvalidPublicKey;

/// A KEM, a KDF and an AEAD that are used together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HpkeSuite {
    /// DHKEM(P-256, HKDF-SHA256) 0x0010, HKDF-SHA256 0x0001, AES-256-GCM 0x0002.
    P256Aes256Gcm,
    /// X-Wing 0x647a, HKDF-SHA256 0x0001, ChaCha20-Poly1305 0x0003.
    XWingChaCha20Poly1305,
}

/// A sealed message: the encapsulated key, and the ciphertext with its tag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HpkeSealed {
    /// [`HpkeSuite::encapsulated_bytes`] bytes.
    pub enc: Vec<u8>,
    /// As long as the plaintext and [`TAG_BYTES`].
    pub ct: Vec<u8>,
}

impl HpkeSuite {
    /// The length of a public key: 65 (uncompressed SEC1) or 1216 (ML-KEM-768, then X25519) bytes.
    #[must_use]
    pub const fn public_key_bytes(self) -> usize {
        match self {
            Self::P256Aes256Gcm => dhkem::POINT_BYTES,
            Self::XWingChaCha20Poly1305 => xwing::PUBLIC_KEY_BYTES,
        }
    }

    /// The length of an encapsulated key: 65 or 1120 bytes.
    #[must_use]
    pub const fn encapsulated_bytes(self) -> usize {
        match self {
            Self::P256Aes256Gcm => dhkem::POINT_BYTES,
            Self::XWingChaCha20Poly1305 => xwing::CIPHERTEXT_BYTES,
        }
    }

    /// Makes a private key (32 bytes: a P-256 scalar, big endian, or the seed of X-Wing), from `random` alone.
    #[must_use]
    pub fn generate(self, random: &mut dyn CryptoRng) -> SharedSecret {
        match self {
            Self::P256Aes256Gcm => dhkem::generate(random),
            Self::XWingChaCha20Poly1305 => xwing::generate(random),
        }
    }

    /// The public key of `private`, [`HpkeSuite::public_key_bytes`] bytes.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] when `private` is no scalar of P-256; every 32 bytes are a seed of X-Wing.
    pub fn public_key(self, backend: Backend, private: &[u8; 32]) -> Result<Vec<u8>, InvalidPublicKey> {
        match self {
            Self::P256Aes256Gcm => Ok(dhkem::public_key(backend, private)?.to_vec()),
            Self::XWingChaCha20Poly1305 => Ok(xwing::public_key(backend, private)),
        }
    }

    /// Seals `plaintext` to the owner of `public`, for the purpose `info` and bound to `aad`.
    ///
    /// # Errors
    /// [`InvalidPublicKey`].
    ///
    /// # Panics
    /// As [`Aead::seal_in_place`], for what no message here is long enough.
    ///
    /// Source: RFC 9180 §6.1.
    pub fn seal(
        self,
        backend: Backend,
        public: &[u8],
        (info, aad): (&[u8], &[u8]),
        plaintext: &[u8],
        random: &mut dyn CryptoRng,
    ) -> Result<HpkeSealed, InvalidPublicKey> {
        let (shared, enc) = match self {
            Self::P256Aes256Gcm => dhkem::encapsulate(backend, public, random)?,
            Self::XWingChaCha20Poly1305 => xwing::encapsulate(backend, public, random)?,
        };
        let Schedule { key, base_nonce } = self.schedule(&shared, info);
        let aead = Aead::new(backend, self.aead(), &key);
        let mut ct = Vec::with_capacity(plaintext.len() + TAG_BYTES);
        ct.extend_from_slice(plaintext);
        let tag = aead.seal_in_place(&base_nonce, aad, &mut ct);
        ct.extend_from_slice(&tag);
        Ok(HpkeSealed { enc, ct })
    }

    /// Opens what was sealed to the public key of `private`.
    ///
    /// # Errors
    /// [`Unauthentic`], whatever the reason; nothing of a plaintext is left.
    ///
    /// Source: RFC 9180 §6.1.
    pub fn open(
        self,
        backend: Backend,
        private: &[u8; 32],
        enc: &[u8],
        (info, aad): (&[u8], &[u8]),
        ct: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        let (ciphertext, tag) = ct.split_last_chunk().ok_or(Unauthentic)?;
        let shared = match self {
            Self::P256Aes256Gcm => dhkem::decapsulate(backend, private, enc)?,
            Self::XWingChaCha20Poly1305 => xwing::decapsulate(backend, private, enc)?,
        };
        let Schedule { key, base_nonce } = self.schedule(&shared, info);
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        Aead::new(backend, self.aead(), &key).open_in_place(&base_nonce, aad, &mut plaintext, tag)?;
        Ok(plaintext)
    }

    fn aead(self) -> AeadAlgorithm {
        match self {
            Self::P256Aes256Gcm => AeadAlgorithm::Aes256Gcm,
            Self::XWingChaCha20Poly1305 => AeadAlgorithm::ChaCha20Poly1305,
        }
    }

    /// `"HPKE" || kem_id || kdf_id || aead_id`.
    fn id(self) -> &'static [u8] {
        match self {
            Self::P256Aes256Gcm => b"HPKE\x00\x10\x00\x01\x00\x02",
            Self::XWingChaCha20Poly1305 => b"HPKE\x64\x7a\x00\x01\x00\x03",
        }
    }

    /// KeySchedule of base mode.
    ///
    /// Source: RFC 9180 §5.1.
    fn schedule(self, shared: &SharedSecret, info: &[u8]) -> Schedule {
        let extracted = secret(self.id(), shared);
        let context = context(self.id(), info);
        let mut schedule = Schedule { key: Zeroizing::new([0; 32]), base_nonce: [0; 12] };
        labeled_expand(&extracted, self.id(), b"key", &context, schedule.key.as_mut());
        labeled_expand(&extracted, self.id(), b"base_nonce", &context, &mut schedule.base_nonce);
        schedule
    }
}

/// What one sealing is done with.
struct Schedule {
    key: Zeroizing<[u8; 32]>,
    base_nonce: [u8; 12],
}

/// The `secret` of the key schedule, without a pre-shared key.
fn secret(suite: &[u8], shared: &SharedSecret) -> SharedSecret {
    labeled_extract(shared.as_bytes(), suite, b"secret", b"")
}

/// The `key_schedule_context` of base mode.
fn context(suite: &[u8], info: &[u8]) -> [u8; 65] {
    let mut context = [0; 65];
    let psk_id_hash = labeled_extract(b"", suite, b"psk_id_hash", b"");
    let info_hash = labeled_extract(b"", suite, b"info_hash", info);
    context[1..33].copy_from_slice(psk_id_hash.as_bytes());
    context[33..].copy_from_slice(info_hash.as_bytes());
    context
}

/// LabeledExtract with HKDF-SHA256.
///
/// Source: RFC 9180 §4.
fn labeled_extract(salt: &[u8], suite: &[u8], label: &[u8], input: &[u8]) -> SharedSecret {
    let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
    for part in [VERSION, suite, label, input] {
        extract.input_ikm(part);
    }
    let (mut key, _) = extract.finalize();
    let secret = SharedSecret::new(key.as_ref());
    key.zeroize();
    secret
}

/// LabeledExpand with HKDF-SHA256, into at most 64 bytes.
///
/// Source: RFC 9180 §4.
fn labeled_expand(key: &SharedSecret, suite: &[u8], label: &[u8], info: &[u8], output: &mut [u8]) {
    let len = u16::try_from(output.len()).unwrap_or(u16::MAX).to_be_bytes();
    let expanded = hkdf::Hkdf::<Sha256>::from_prk(key.as_bytes())
        .map(|hkdf| hkdf.expand_multi_info(&[&len, VERSION, suite, label, info], output));
    // The key is exactly one hash long and the output at most two: the two reasons to fail.
    assert!(matches!(expanded, Ok(Ok(()))), "HKDF-Expand failed");
}

const VERSION: &[u8] = b"HPKE-v1";
