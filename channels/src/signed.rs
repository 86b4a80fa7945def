//! `Signed`: a body as it is carried, and the signatures over it.
//!
//! The body stays the bytes that were received and is never re-encoded: what is verified is what was signed. A
//! verifier names the type it expects and every key that must have signed, in order.
//!
//! Specification: docs/protocol.md §0, "Typed signatures".

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};
use onward_keys::{PublicKey, Signature, SignatureAlgorithm, SignatureError, SignatureType};

use crate::identity::IdentityError;
use crate::strict;

/// A body of 1 to 65 535 bytes with its signatures.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed {
    body: Vec<u8>,
    signatures: Vec<Signature>,
}

impl Signed {
    /// Puts `body` and the signatures made over it together.
    pub(crate) fn new(body: Vec<u8>, signatures: Vec<Signature>) -> Self {
        Self { body, signatures }
    }

    /// The signed bytes, not yet believed.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The signatures, in order, not yet believed.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Decodes a `Signed` that stands alone.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        Ok(strict::decode(bytes, SIGNED_BYTES_MAX)?)
    }

    /// The strict encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        strict::encode(self)
    }

    /// Checks that exactly `keys` signed the body as a `kind`, in their order.
    ///
    /// # Errors
    /// [`IdentityError::SignatureCount`] and [`IdentityError::BadSignature`].
    ///
    /// Source: docs/protocol.md §0.
    pub fn verify(&self, kind: SignatureType, keys: &[&PublicKey]) -> Result<(), IdentityError> {
        self.count(kind, keys.len())?;
        keys.iter().zip(&self.signatures).try_for_each(|(key, signature)| {
            key.verify(kind, &self.body, signature)
                .map_err(|source| IdentityError::BadSignature { kind, source })
        })
    }

    /// Checks that the key with these bytes, whose algorithm is stated nowhere, alone signed the body as a `kind`.
    ///
    /// # Errors
    /// As [`Signed::verify`]; the key's length must fit the signature's algorithm.
    pub fn verify_attested(&self, kind: SignatureType, key: &[u8]) -> Result<(), IdentityError> {
        self.count(kind, 1)?;
        self.signatures.iter().try_for_each(|signature| {
            PublicKey::new(signature.algorithm, key)
                .and_then(|key| key.verify(kind, &self.body, signature))
                .map_err(|source| IdentityError::BadSignature { kind, source })
        })
    }

    fn count(&self, kind: SignatureType, expected: usize) -> Result<(), IdentityError> {
        let found = self.signatures.len();
        if found == expected { Ok(()) } else { Err(IdentityError::SignatureCount { kind, found, expected }) }
    }
}

impl<C> Encode<C> for Signed {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.bytes(&self.body)?.array(self.signatures.len() as u64)?;
        for signature in &self.signatures {
            put_signature(e, signature)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Signed {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 2)?;
        let body = strict::bytes(d, BODY_BYTES_MAX)?.to_vec();
        let count = strict::array_within(d, 0..=SIGNATURES_MAX)?;
        let signatures = (0..count).map(|_| signature(d)).collect::<Result<_, _>>()?;
        Ok(Self { body, signatures })
    }
}

/// Writes one `[alg, sig]`.
pub(crate) fn put_signature<W: Write>(
    e: &mut Encoder<W>,
    signature: &Signature,
) -> Result<(), encode::Error<W::Error>> {
    e.array(2)?.u8(signature.algorithm.number())?.bytes(&signature.bytes)?.ok()
}

/// Reads one `[alg, sig]`.
pub(crate) fn signature(d: &mut Decoder<'_>) -> Result<Signature, decode::Error> {
    strict::array(d, 2)?;
    let algorithm = SignatureAlgorithm::try_from(d.u8()?)
        .map_err(|_: SignatureError| strict::refuse(d, "unknown algorithm"))?;
    let bytes = strict::bytes(d, algorithm.signature_bytes())?;
    if bytes.len() != algorithm.signature_bytes() {
        return Err(strict::refuse(d, "signature of another length"));
    }
    Ok(Signature { algorithm, bytes: bytes.to_vec() })
}

/// The longest body, in bytes.
pub const BODY_BYTES_MAX: usize = 65_535;

/// No structure asks for more signatures than this.
const SIGNATURES_MAX: u64 = 8;

/// The longest encoded [`Signed`]: body and signatures at their limits, with room for the heads.
const SIGNED_BYTES_MAX: usize = BODY_BYTES_MAX + 8 * 3_400;
