//! Keys of general use: which types there are, what each may be for, and by which schemes.
//!
//! Beside the keys of this project's own protocols ([`KeyUsage`](crate::KeyUsage)) the key service holds keys for
//! whatever an application has to sign, agree on, encrypt or wrap. A key has one type and one [`Family`] of
//! operations, both fixed when it is made; [`General::ALL`] has every pair there is, and nothing else can be asked
//! for. A key of general use never signs, agrees or attests for an identity.
//!
//! This file names things. What is computed with a private half is in the files below, each on its own noun, and only
//! in builds that hold keys (feature `store`). RSA, the NIST curves, secp256k1, AES and ML-DSA are AWS-LC's (feature
//! `accel`); [`General::is_offered`] says whether this build computes them.
//!
//! Specification: docs/protocol.md §7.2.

use std::fmt;

#[cfg(feature = "store")]
pub mod agreement;
#[cfg(feature = "store")]
pub mod cipher;
#[cfg(feature = "store")]
pub mod encapsulation;
#[cfg(feature = "store")]
pub mod hpke;
#[cfg(feature = "store")]
pub mod material;
pub mod request;
#[cfg(feature = "store")]
pub mod sealing;
#[cfg(feature = "store")]
pub mod signing;
pub mod wrapping;

/// Bytes of data in one operation, at most.
pub const DATA_BYTES_MAX: usize = 64_000;

/// Bytes that an encryption adds, at most: an initial vector, a block of padding and a tag of 32.
pub const SEAL_BYTES_MAX: usize = 64;

/// Bytes of associated data, or of the `info` of a derivation, at most.
pub const AAD_BYTES_MAX: usize = 1024;

/// Bytes that one derivation, or one draw of random bytes, yields at most.
pub const OUTPUT_BYTES_MAX: usize = 1024;

/// Bytes of a private half, at most: RSA-4096 in PKCS#8 takes about 2,400.
pub const MATERIAL_BYTES_MAX: usize = 4096;

/// Bytes of a public half, at most: ML-DSA-65 takes 1,952.
pub const PUBLIC_BYTES_MAX: usize = 2048;

/// Bytes of a signature, at most: ML-DSA-65 takes 3,309.
pub const SIGNATURE_BYTES_MAX: usize = 5000;

/// Bytes of a wrapped key, at most: a private half with what is publicly known of it.
pub const WRAPPED_BYTES_MAX: usize = 8192;

/// What a key is made of. The number is the one on the wire and in the store.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
#[non_exhaustive]
pub enum KeyType {
    /// Private: the seed, 32 bytes. Public: 32 bytes.
    Ed25519 = 1,
    /// Private: the scalar, 32 bytes. Public: 32 bytes.
    X25519 = 2,
    /// Private: the scalar, 32 bytes, big endian. Public: uncompressed SEC1, 65 bytes.
    P256 = 3,
    /// Private: 48 bytes. Public: 97.
    P384 = 4,
    /// Private: 66 bytes. Public: 133.
    P521 = 5,
    /// Private: 32 bytes. Public: 65.
    Secp256k1 = 6,
    /// Private: PKCS#8. Public: `RSAPublicKey` of RFC 8017. Both in DER.
    Rsa2048 = 7,
    /// As [`KeyType::Rsa2048`].
    Rsa3072 = 8,
    /// As [`KeyType::Rsa2048`].
    Rsa4096 = 9,
    /// 16 bytes. Like all symmetric keys known publicly by a fingerprint of 32 bytes.
    Aes128 = 10,
    /// 32 bytes.
    Aes256 = 11,
    /// 32 bytes when it is made here; 16 to 64 are taken in.
    HmacSha256 = 12,
    /// Private: the seed `d || z`, 64 bytes. Public: 1,184.
    MlKem768 = 13,
    /// Private: the seed `d || z`, 64 bytes. Public: 1,568.
    MlKem1024 = 14,
    /// Private: the seed, 32 bytes. Public: 1,952.
    MlDsa65 = 15,
    /// ML-KEM-768 and X25519 in one. Private: the seed, 32 bytes. Public: 1,216.
    XWing = 16,
}

impl KeyType {
    /// Whether making such a key takes seconds.
    #[must_use]
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }

    /// Whether there is no public half: a fingerprint stands in its place.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Aes128 | Self::Aes256 | Self::HmacSha256)
    }

    /// Whether this build computes with such keys.
    #[must_use]
    pub const fn is_offered(self) -> bool {
        cfg!(feature = "accel")
            || matches!(
                self,
                Self::Ed25519
                    | Self::X25519
                    | Self::HmacSha256
                    | Self::MlKem768
                    | Self::MlKem1024
                    | Self::XWing
            )
    }

    /// Whether a public half, or a fingerprint, may have this length.
    #[must_use]
    pub const fn has_public_of(self, bytes: usize) -> bool {
        match self {
            Self::Ed25519 | Self::X25519 | Self::Aes128 | Self::Aes256 | Self::HmacSha256 => bytes == 32,
            Self::P256 | Self::Secp256k1 => bytes == 65,
            Self::P384 => bytes == 97,
            Self::P521 => bytes == 133,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => bytes != 0 && bytes <= PUBLIC_BYTES_MAX,
            Self::MlKem768 => bytes == 1184,
            Self::MlKem1024 => bytes == 1568,
            Self::MlDsa65 => bytes == 1952,
            Self::XWing => bytes == 1216,
        }
    }
}

/// What a key may do: one family of operations.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Family {
    /// Signs bytes as they stand, and verifies.
    SignRaw = 1,
    /// Agrees, and derives from what was agreed.
    EcdhKdf = 2,
    /// Opens what was sealed to it.
    Hpke = 3,
    /// Wraps and unwraps other keys.
    Wrap = 4,
    /// Encrypts and decrypts with authentication.
    Aead = 5,
    /// Encrypts and decrypts with authentication, in AES-CBC for those who know nothing else.
    CbcLegacy = 6,
    /// Computes authentication codes.
    Mac = 7,
    /// Encapsulates and decapsulates.
    Kem = 8,
}

/// The type and the family of a key: one of [`General::ALL`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct General {
    kind: KeyType,
    family: Family,
    name: &'static str,
}

impl General {
    /// Every pair of type and family that there is.
    pub const ALL: [Self; 26] = [
        Self::new(KeyType::Ed25519, Family::SignRaw, "ed25519:sign-raw"),
        Self::new(KeyType::X25519, Family::EcdhKdf, "x25519:ecdh-kdf"),
        Self::new(KeyType::P256, Family::SignRaw, "p-256:sign-raw"),
        Self::new(KeyType::P256, Family::EcdhKdf, "p-256:ecdh-kdf"),
        Self::new(KeyType::P256, Family::Hpke, "p-256:hpke"),
        Self::new(KeyType::P384, Family::SignRaw, "p-384:sign-raw"),
        Self::new(KeyType::P384, Family::EcdhKdf, "p-384:ecdh-kdf"),
        Self::new(KeyType::P521, Family::SignRaw, "p-521:sign-raw"),
        Self::new(KeyType::P521, Family::EcdhKdf, "p-521:ecdh-kdf"),
        Self::new(KeyType::Secp256k1, Family::SignRaw, "secp256k1:sign-raw"),
        Self::new(KeyType::Rsa2048, Family::SignRaw, "rsa-2048:sign-raw"),
        Self::new(KeyType::Rsa2048, Family::Wrap, "rsa-2048:wrap"),
        Self::new(KeyType::Rsa3072, Family::SignRaw, "rsa-3072:sign-raw"),
        Self::new(KeyType::Rsa3072, Family::Wrap, "rsa-3072:wrap"),
        Self::new(KeyType::Rsa4096, Family::SignRaw, "rsa-4096:sign-raw"),
        Self::new(KeyType::Rsa4096, Family::Wrap, "rsa-4096:wrap"),
        Self::new(KeyType::Aes128, Family::Wrap, "aes-128:wrap"),
        Self::new(KeyType::Aes128, Family::Aead, "aes-128:aead"),
        Self::new(KeyType::Aes256, Family::Wrap, "aes-256:wrap"),
        Self::new(KeyType::Aes256, Family::Aead, "aes-256:aead"),
        Self::new(KeyType::Aes256, Family::CbcLegacy, "aes-256:cbc-legacy"),
        Self::new(KeyType::HmacSha256, Family::Mac, "hmac-sha256:mac"),
        Self::new(KeyType::MlKem768, Family::Kem, "ml-kem-768:kem"),
        Self::new(KeyType::MlKem1024, Family::Kem, "ml-kem-1024:kem"),
        Self::new(KeyType::MlDsa65, Family::SignRaw, "ml-dsa-65:sign-raw"),
        Self::new(KeyType::XWing, Family::Hpke, "x-wing:hpke"),
    ];

    const fn new(kind: KeyType, family: Family, name: &'static str) -> Self {
        Self { kind, family, name }
    }

    /// The pair of this type and family, if there is one.
    #[must_use]
    pub fn of(kind: KeyType, family: Family) -> Option<Self> {
        Self::ALL.into_iter().find(|it| (it.kind, it.family) == (kind, family))
    }

    /// What such a key is made of.
    #[must_use]
    pub const fn kind(self) -> KeyType {
        self.kind
    }

    /// What it may do.
    #[must_use]
    pub const fn family(self) -> Family {
        self.family
    }

    /// Whether this build computes with such keys.
    #[must_use]
    pub const fn is_offered(self) -> bool {
        self.kind.is_offered()
    }

    /// The family's number times 256, and the type's.
    #[must_use]
    pub const fn number(self) -> u16 {
        (self.family as u16) << 8 | self.kind as u16
    }

    /// The pair with this [`General::number`].
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.number() == number)
    }

    /// Its name, `TYPE:FAMILY`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The name of its type alone.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        self.name.split_once(':').map_or(self.name, |(kind, _)| kind)
    }

    /// The pair of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name == name)
    }
}

impl fmt::Display for General {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// How bytes are signed as they stand.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs)] // each is the scheme of its name
#[repr(u8)]
#[non_exhaustive]
pub enum Scheme {
    /// RFC 8032, verified strictly.
    Ed25519 = 1,
    /// FIPS 186-5, `r || s`, either `s`.
    EcdsaP256Sha256 = 2,
    EcdsaP384Sha384 = 3,
    EcdsaP521Sha512 = 4,
    EcdsaSecp256k1Sha256 = 5,
    /// RFC 8017, salt as long as the hash.
    RsaPssSha256 = 6,
    RsaPssSha384 = 7,
    RsaPssSha512 = 8,
    RsaPkcs1Sha256 = 9,
    RsaPkcs1Sha384 = 10,
    RsaPkcs1Sha512 = 11,
    /// FIPS 204, pure, with the empty context.
    MlDsa65 = 12,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 12] = [
        Self::Ed25519,
        Self::EcdsaP256Sha256,
        Self::EcdsaP384Sha384,
        Self::EcdsaP521Sha512,
        Self::EcdsaSecp256k1Sha256,
        Self::RsaPssSha256,
        Self::RsaPssSha384,
        Self::RsaPssSha512,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::MlDsa65,
    ];

    /// The scheme with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| *scheme as u8 == number)
    }

    /// Whether a key of this type signs so.
    #[must_use]
    pub const fn fits(self, kind: KeyType) -> bool {
        match self {
            Self::Ed25519 => matches!(kind, KeyType::Ed25519),
            Self::EcdsaP256Sha256 => matches!(kind, KeyType::P256),
            Self::EcdsaP384Sha384 => matches!(kind, KeyType::P384),
            Self::EcdsaP521Sha512 => matches!(kind, KeyType::P521),
            Self::EcdsaSecp256k1Sha256 => matches!(kind, KeyType::Secp256k1),
            Self::MlDsa65 => matches!(kind, KeyType::MlDsa65),
            _ => kind.is_rsa(),
        }
    }
}

/// How data is encrypted. The nonce is always the vault's choice, and stands in front of what it yields.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Mode {
    /// AES-GCM: nonce 12, ciphertext, tag 16. At most 2^32 messages under one key.
    Gcm = 1,
    /// AES-GCM-SIV, RFC 8452: nonce 12, ciphertext, tag 16.
    GcmSiv = 2,
    /// AES-256-CTR, then HMAC-SHA256, under two derived keys: initial counter 16, ciphertext, tag 32.
    CtrHmac = 3,
    /// A128CBC-HS256 of RFC 7518 §5.2.3: initial vector 16, padded ciphertext, tag 16.
    CbcHmac = 4,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Gcm, Self::GcmSiv, Self::CtrHmac, Self::CbcHmac];

    /// The mode with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| *mode as u8 == number)
    }

    /// Which keys encrypt so.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Gcm | Self::GcmSiv | Self::CtrHmac => Family::Aead,
            Self::CbcHmac => Family::CbcLegacy,
        }
    }
}

/// In what form a key leaves a store, wrapped by another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Form {
    /// This project's own, with what is known of the key: from store to store. AES keys wrap so.
    Sealed = 1,
    /// AES-KWP, RFC 5649, the private half alone: for foreign stores. AES keys wrap so.
    Kwp = 2,
    /// RSA-OAEP with SHA-256, the private half alone: for foreign stores. RSA keys wrap so.
    Oaep = 3,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Sealed, Self::Kwp, Self::Oaep];

    /// The form with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|form| *form as u8 == number)
    }

    /// Whether a wrapping key of this type wraps so.
    #[must_use]
    pub const fn fits(self, kind: KeyType) -> bool {
        match self {
            Self::Sealed | Self::Kwp => matches!(kind, KeyType::Aes128 | KeyType::Aes256),
            Self::Oaep => kind.is_rsa(),
        }
    }
}

/// Why nothing was computed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failed {
    /// This build has no implementation of it.
    #[error("this build does not offer it")]
    NotOffered,
    /// The key, or what was asked of it, is not of the kind that the operation takes.
    #[error("the arguments do not fit the operation")]
    Unfit,
    /// What a peer sent did not authenticate, decrypt or agree. Says no more on purpose.
    #[error("the operation failed")]
    Refused,
    /// The system gave no randomness or no memory.
    #[error("the system failed")]
    System,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_number_leads_back_to_its_pair() {
        for it in General::ALL {
            assert_eq!(General::parse(it.name()), Some(it));
            assert_eq!(General::from_number(it.number()), Some(it));
            assert_eq!(General::of(it.kind(), it.family()), Some(it));
            let (kind, family) = it.name().split_once(':').unwrap();
            assert!(!kind.is_empty() && !family.is_empty());
        }
        assert_eq!(General::of(KeyType::Ed25519, Family::Mac), None);
        assert_eq!(General::from_number(7), None, "the numbers of this project's own usages are others");
    }

    #[test]
    fn schemes_modes_and_forms_have_their_numbers() {
        for number in 0..=255 {
            assert!(Scheme::from_number(number).is_none_or(|scheme| scheme as u8 == number));
            assert!(Mode::from_number(number).is_none_or(|mode| mode as u8 == number));
            assert!(Form::from_number(number).is_none_or(|form| form as u8 == number));
        }
        let signers = General::ALL.into_iter().filter(|it| it.family() == Family::SignRaw);
        for it in signers {
            let schemes = Scheme::ALL.into_iter().filter(|scheme| scheme.fits(it.kind())).count();
            assert_eq!(schemes, if it.kind().is_rsa() { 6 } else { 1 }, "{it}");
        }
    }
}
