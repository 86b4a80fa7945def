//! Signatures of tokens that others issue: EdDSA, ES256 and RS256, as JOSE defines them.
//!
//! Only verified, never made, and never used for what this project signs itself. An ES256 signature is taken with either
//! half of S, since issuers write both and nothing here is named by a signature.
//!
//! Specification: docs/protocol.md §5.3; RFC 7518 §3, RFC 8037.

use crate::{PublicKey, Signature, SignatureAlgorithm, SignatureError};

/// A public key of an issuer of tokens. Each verifies with one algorithm and no other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum JoseKey {
    /// EdDSA with Ed25519: 32 bytes.
    EdDsa([u8; 32]),
    /// ES256: the coordinates x and y, 32 bytes each, big endian.
    Es256([u8; 32], [u8; 32]),
    /// RS256: modulus and exponent, big endian without leading zeros; 2048 to 8192 bits.
    Rs256(Vec<u8>, Vec<u8>),
}

impl JoseKey {
    /// The algorithm's name in JOSE.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::EdDsa(_) => "EdDSA",
            Self::Es256(..) => "ES256",
            Self::Rs256(..) => "RS256",
        }
    }

    /// Checks that this key signed `message`.
    ///
    /// # Errors
    /// [`SignatureError::MalformedKey`] or [`SignatureError::NotValid`]; [`SignatureError::Unsupported`] for RS256 in a
    /// build without `accel`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        match self {
            Self::EdDsa(key) => {
                let algorithm = SignatureAlgorithm::Ed25519;
                let signature = Signature { algorithm, bytes: signature.to_vec() };
                PublicKey::new(algorithm, key)?.verify_message(message, &signature)
            }
            Self::Es256(x, y) => {
                use p256::ecdsa::signature::Verifier as _;
                let point = [&[UNCOMPRESSED][..], x, y].concat();
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point)
                    .map_err(|_| SignatureError::MalformedKey)?;
                let signature =
                    p256::ecdsa::Signature::from_slice(signature).map_err(|_| SignatureError::NotValid)?;
                key.verify(message, &signature).map_err(|_| SignatureError::NotValid)
            }
            #[cfg(feature = "accel")]
            Self::Rs256(n, e) => {
                let key = aws_lc_rs::signature::RsaPublicKeyComponents { n, e };
                key.verify(&aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .map_err(|_| SignatureError::NotValid)
            }
            #[cfg(not(feature = "accel"))]
            Self::Rs256(..) => Err(SignatureError::Unsupported),
        }
    }
}

/// What an uncompressed point begins with.
const UNCOMPRESSED: u8 = 4;
