//! What travels: a disposable key with what vouches for it, and what was sealed to one.
//!
//! Decoded only strictly, and never believed here. Since only one encoding is taken, the encoding of what was decoded
//! is what came: hashes and signatures are computed over it.
//!
//! Specification: docs/protocol.md §5.3.

use std::collections::BTreeMap;
use std::fmt;

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};
use onward_keys::{Signature, hash};

use super::{Ciphertext, Direction, ExchangeError, Policy, Terms};
use crate::identity::{IdPayload, Identifier, PAYLOAD_BYTES_MAX};
use crate::signed;
use crate::strict;

/// Names a disposable key: the tag of the replica that made it (4 bytes), and 12 random bytes.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DisposableKeyId([u8; 16]);

impl DisposableKeyId {
    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id's 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The first four bytes of the name of the replica that holds the key.
    #[must_use]
    pub fn replica(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

impl fmt::Display for DisposableKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DisposableKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DisposableKeyId({self})")
    }
}

/// What is said of a disposable key by whoever made it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyBody {
    /// With what is sealed to it.
    pub policy: Policy,
    /// Its name.
    pub key_id: DisposableKeyId,
    /// Its public half, in the policy's form.
    pub public: Vec<u8>,
    /// Which way the secret goes.
    pub direction: Direction,
    /// When it was made, Unix seconds.
    pub iat: u64,
    /// How long it lives, 1 to [`TTL_SECONDS_MAX`] seconds.
    pub ttl: u16,
    /// For whom it is: the API, by the name that API has for itself.
    pub aud: String,
    /// What it is for.
    pub purpose: String,
    /// The one request it may be used for, if it is bound to one.
    pub binding: Option<[u8; 32]>,
    /// The key of the exchange that this one is a part of.
    pub parent: Option<DisposableKeyId>,
    /// SHA-256 of the canonical JSON schema that the plaintext follows.
    pub schema: Option<[u8; 32]>,
}

impl KeyBody {
    /// Decodes a body of at most [`BODY_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`ExchangeError::Malformed`]; so is an unknown policy, and a public key that has not the policy's form.
    pub fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
        Ok(strict::decode(bytes, BODY_BYTES_MAX)?)
    }

    /// The strict encoding: of a decoded body, the bytes that came.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        strict::encode(self)
    }

    /// What an exchange with this key is about: the request `ctx`, and `sealer` if it signs what it seals.
    #[must_use]
    pub fn terms(&self, sealer: Option<Identifier>, ctx: [u8; 32]) -> Terms {
        let Self { policy, direction, schema, .. } = *self;
        Terms { policy, body_hash: self.hash(), direction, sealer, ctx, schema }
    }

    /// H of the body's bytes, by which exchanges name it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.encode())
    }

    /// When the key ends, Unix seconds, excluded.
    #[must_use]
    pub fn exp(&self) -> u64 {
        self.iat.saturating_add(self.ttl.into())
    }
}

impl<C> Encode<C> for KeyBody {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(12)?.u8(VERSION)?.u16(self.policy.number())?.bytes(self.key_id.as_bytes())?;
        e.bytes(&self.public)?.u8(self.direction.number())?.u64(self.iat)?.u16(self.ttl)?;
        e.str(&self.aud)?.str(&self.purpose)?;
        strict::put_optional_bytes(e, self.binding)?;
        strict::put_optional_bytes(e, self.parent.as_ref().map(DisposableKeyId::as_bytes))?;
        strict::put_optional_bytes(e, self.schema)
    }
}

impl<'b, C> Decode<'b, C> for KeyBody {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 12)?;
        strict::version(d, VERSION)?;
        let policy = policy(d)?;
        let key_id = DisposableKeyId(strict::bytes_exact(d)?);
        let public = strict::bytes(d, KEY_BYTES_MAX)?.to_vec();
        if policy.decode_public(&public).is_none() {
            return Err(strict::refuse(d, "public key not in the policy's form"));
        }
        let direction = Direction::from_number(d.u8()?);
        let direction = direction.ok_or_else(|| strict::refuse(d, "unknown direction"))?;
        let iat = d.u64()?;
        let ttl = d.u16()?;
        if !(1..=TTL_SECONDS_MAX).contains(&ttl) {
            return Err(strict::refuse(d, "time to live out of range"));
        }
        let aud = strict::text(d, AUDIENCE_BYTES_MAX)?.to_owned();
        let purpose = strict::text(d, PURPOSE_BYTES_MAX)?.to_owned();
        let binding = strict::optional(d, strict::bytes_exact)?;
        let parent = strict::optional(d, strict::bytes_exact)?.map(DisposableKeyId);
        let schema = strict::optional(d, strict::bytes_exact)?;
        Ok(Self { policy, key_id, public, direction, iat, ttl, aud, purpose, binding, parent, schema })
    }
}

/// A key's body with what vouches for it, not yet believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyObject {
    /// What is said of the key.
    pub body: KeyBody,
    /// What vouches for it.
    pub extensions: Extensions,
}

/// What can come with a [`KeyObject`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Extensions {
    /// 1: who signed the body, and the signature.
    pub signer: Option<SignerProof>,
    /// 2: a JWT that names the key, at most [`TOKEN_BYTES_MAX`] bytes.
    pub token: Option<String>,
    /// 3: what attests the process that holds the key.
    pub evidence: Option<Evidence>,
    /// 4: the handshake of the channel that the key came through.
    pub hs_id: Option<[u8; 32]>,
    /// Those that may be ignored, by number, each one encoded item.
    others: BTreeMap<u64, Vec<u8>>,
}

/// Evidence of the process that holds a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// Of which type it is.
    pub kind: u16,
    /// The evidence, at most [`EVIDENCE_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
}

impl KeyObject {
    /// Decodes an object of at most [`OBJECT_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`ExchangeError::Malformed`], also for an unknown extension that must be understood.
    pub fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
        Ok(strict::decode(bytes, OBJECT_BYTES_MAX)?)
    }

    /// The strict encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        strict::encode(self)
    }
}

impl<C> Encode<C> for KeyObject {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.bytes(&self.body.encode())?.encode(&self.extensions)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for KeyObject {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 2)?;
        let body = strict::bytes(d, BODY_BYTES_MAX)?;
        let body =
            strict::decode(body, BODY_BYTES_MAX).map_err(|_| strict::refuse(d, "not the body of a key"))?;
        Ok(Self { body, extensions: d.decode()? })
    }
}

impl<C> Encode<C> for Extensions {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let Self { signer, token, evidence, hs_id, others } = self;
        let known = [signer.is_some(), token.is_some(), evidence.is_some(), hs_id.is_some()];
        let known = known.into_iter().filter(|there| *there).count();
        e.map((known + others.len()) as u64)?;
        // Extension 0 means nothing, and comes before those that do.
        let first = others.get_key_value(&0);
        for (number, item) in first.into_iter() {
            e.u64(*number)?.writer_mut().write_all(item).map_err(encode::Error::write)?;
        }
        if let Some(signer) = signer {
            e.u64(SIGNER)?.encode(signer)?;
        }
        if let Some(token) = token {
            e.u64(TOKEN)?.str(token)?;
        }
        if let Some(Evidence { kind, bytes }) = evidence {
            e.u64(EVIDENCE)?.array(2)?.u16(*kind)?.bytes(bytes)?;
        }
        if let Some(hs_id) = hs_id {
            e.u64(HS_ID)?.bytes(hs_id)?;
        }
        for (number, item) in others.range(1..) {
            e.u64(*number)?.writer_mut().write_all(item).map_err(encode::Error::write)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Extensions {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let mut extensions = Self::default();
        let Extensions { signer, token, evidence, hs_id, others } = &mut extensions;
        for _ in 0..strict::map(d, EXTENSIONS_MAX)? {
            match d.u64()? {
                SIGNER => *signer = Some(d.decode()?),
                TOKEN => *token = Some(strict::text(d, TOKEN_BYTES_MAX)?.to_owned()),
                EVIDENCE => {
                    strict::array(d, 2)?;
                    let kind = d.u16()?;
                    *evidence =
                        Some(Evidence { kind, bytes: strict::bytes(d, EVIDENCE_BYTES_MAX)?.to_vec() });
                }
                HS_ID => *hs_id = Some(strict::bytes_exact(d)?),
                CRITICAL.. => return Err(strict::refuse(d, "unknown critical extension")),
                number => {
                    others.insert(number, strict::any(d, EXTENSION_DEPTH)?.to_vec());
                }
            }
        }
        Ok(extensions)
    }
}

/// Who signed, as `[[[alg, sig]], idp]`: one signature, and the signer's payload, which attests a key of purpose 5.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignerProof {
    /// The signature.
    pub signature: Signature,
    /// The signer's encoded `IdPayload`, at most 32 768 bytes.
    pub payload: Vec<u8>,
}

impl SignerProof {
    /// Who it says signed. Nothing is verified.
    ///
    /// # Errors
    /// [`ExchangeError::Signer`] when the payload is none.
    pub fn claims(&self) -> Result<Identifier, ExchangeError> {
        Ok(IdPayload::decode(&self.payload)?.identifier())
    }
}

impl<C> Encode<C> for SignerProof {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.array(1)?;
        signed::put_signature(e, &self.signature)?;
        e.bytes(&self.payload)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for SignerProof {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 2)?;
        strict::array(d, 1)?;
        let signature = signed::signature(d)?;
        let payload = strict::bytes(d, PAYLOAD_BYTES_MAX)?.to_vec();
        Ok(Self { signature, payload })
    }
}

/// What was sealed to a disposable key, not yet believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sealed {
    /// With what it was sealed.
    pub policy: Policy,
    /// To which key.
    pub key_id: DisposableKeyId,
    /// The ciphertext.
    pub ciphertext: Ciphertext,
    /// 1: who sealed it, and the signature over its ciphertext and what it is for.
    pub signer: Option<SignerProof>,
}

impl Sealed {
    /// Decodes at most [`SEALED_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`ExchangeError::Malformed`]; so is an `enc` that does not fit the policy.
    pub fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
        Ok(strict::decode(bytes, SEALED_BYTES_MAX)?)
    }

    /// The strict encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        strict::encode(self)
    }
}

impl<C> Encode<C> for Sealed {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(6)?.u8(VERSION)?.u16(self.policy.number())?.bytes(self.key_id.as_bytes())?;
        strict::put_optional_bytes(e, self.ciphertext.enc.as_ref())?;
        e.bytes(&self.ciphertext.ct)?.map(self.signer.is_some().into())?;
        match &self.signer {
            Some(signer) => e.u64(SIGNER)?.encode(signer)?.ok(),
            None => Ok(()),
        }
    }
}

impl<'b, C> Decode<'b, C> for Sealed {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 6)?;
        strict::version(d, VERSION)?;
        let policy = policy(d)?;
        let key_id = DisposableKeyId(strict::bytes_exact(d)?);
        let enc = strict::optional(d, |d| strict::bytes(d, ENC_BYTES_MAX))?.map(<[u8]>::to_vec);
        if enc.as_ref().map(Vec::len) != policy.encapsulated_bytes() {
            return Err(strict::refuse(d, "encapsulated key that does not fit the policy"));
        }
        let ct = strict::bytes(d, policy.ciphertext_bytes_max())?.to_vec();
        let signer = match strict::map(d, 1)? {
            0 => None,
            _ if d.u64()? == SIGNER => Some(d.decode()?),
            _ => return Err(strict::refuse(d, "unknown extension")),
        };
        Ok(Self { policy, key_id, ciphertext: Ciphertext { enc, ct }, signer })
    }
}

fn policy(d: &mut Decoder<'_>) -> Result<Policy, decode::Error> {
    Policy::from_number(d.u16()?).ok_or_else(|| strict::refuse(d, "unknown policy"))
}

/// The longest life of a key, in seconds.
pub const TTL_SECONDS_MAX: u16 = 900;

/// The longest public key, in bytes.
pub const KEY_BYTES_MAX: usize = 1300;

/// The longest audience, in bytes.
pub const AUDIENCE_BYTES_MAX: usize = 255;

/// The longest purpose, in bytes.
pub const PURPOSE_BYTES_MAX: usize = 64;

/// The longest encoded [`KeyBody`], in bytes: every part at its limit, with room for the heads.
pub const BODY_BYTES_MAX: usize = 2048;

/// The longest JWT, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8192;

/// The longest evidence, in bytes.
pub const EVIDENCE_BYTES_MAX: usize = 32_768;

/// The longest encoded [`KeyObject`], in bytes.
pub const OBJECT_BYTES_MAX: usize = 64 * 1024;

/// The longest encoded [`Sealed`], in bytes: every part at its limit, with room for the heads.
pub const SEALED_BYTES_MAX: usize = 1024 * 1024 + ENC_BYTES_MAX + PAYLOAD_BYTES_MAX + 4096;

/// The longest encapsulated key, in bytes.
const ENC_BYTES_MAX: usize = 1200;

/// The most extensions of one object: all that may be ignored.
const EXTENSIONS_MAX: u64 = CRITICAL;

/// The containers open around an extension: the object and the map.
const EXTENSION_DEPTH: usize = 2;

const SIGNER: u64 = 1;
const TOKEN: u64 = 2;
const EVIDENCE: u64 = 3;
const HS_ID: u64 = 4;

/// Extensions from this number on must be understood.
const CRITICAL: u64 = 128;

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> KeyBody {
        KeyBody {
            policy: Policy::NoiseAnonymous,
            key_id: DisposableKeyId([7; 16]),
            public: vec![9; 32],
            direction: Direction::AnswerToMe,
            iat: 1_800_000_000,
            ttl: 120,
            aud: "https://api.example".into(),
            purpose: "card-pin".into(),
            binding: None,
            parent: Some(DisposableKeyId([8; 16])),
            schema: Some([3; 32]),
        }
    }

    #[test]
    fn a_body_is_read_as_it_is_written_and_its_hash_is_of_its_bytes() {
        let bytes = body().encode();
        assert_eq!(KeyBody::decode(&bytes).unwrap(), body());
        assert_eq!(body().hash(), hash(&bytes));
        for cut in 0..bytes.len() {
            assert!(KeyBody::decode(&bytes[..cut]).is_err());
        }
        assert!(KeyBody::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_body_out_of_range_is_refused() {
        let changes: [fn(&mut KeyBody); 7] = [
            |body| body.ttl = 0,
            |body| body.ttl = TTL_SECONDS_MAX + 1,
            |body| body.public = vec![9; 33],
            |body| body.policy = Policy::Strong,
            |body| body.aud.clear(),
            |body| body.aud = "a".repeat(AUDIENCE_BYTES_MAX + 1),
            |body| body.purpose = "a".repeat(PURPOSE_BYTES_MAX + 1),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut changed = body();
            change(&mut changed);
            assert!(KeyBody::decode(&changed.encode()).is_err(), "change {at}");
        }
    }

    #[test]
    fn an_extension_is_ignored_below_128_and_refused_from_there() {
        let object = KeyObject { body: body(), extensions: Extensions::default() };
        let plain = object.encode();
        assert_eq!(KeyObject::decode(&plain).unwrap(), object);
        let with = |number: &[u8]| {
            let mut bytes = plain[..plain.len() - 1].to_vec();
            bytes.push(0xa1);
            bytes.extend_from_slice(number);
            bytes.push(0xf5);
            bytes
        };
        for number in [&[0x00][..], &[0x05], &[0x18, 0x7f]] {
            let bytes = with(number);
            assert_eq!(KeyObject::decode(&bytes).unwrap().encode(), bytes);
        }
        for number in [&[0x18, 0x80][..], &[0x19, 0x01, 0x00]] {
            assert!(KeyObject::decode(&with(number)).is_err());
        }
    }

    #[test]
    fn every_extension_is_read_as_it_is_written() {
        let signature = Signature { algorithm: onward_keys::SignatureAlgorithm::Ed25519, bytes: vec![1; 64] };
        let signer = Some(SignerProof { signature, payload: vec![2; 10] });
        let extensions = Extensions {
            signer: signer.clone(),
            token: Some("a.b.c".into()),
            evidence: Some(Evidence { kind: 2, bytes: vec![3; 4] }),
            hs_id: Some([5; 32]),
            others: BTreeMap::new(),
        };
        let object = KeyObject { body: body(), extensions };
        assert_eq!(KeyObject::decode(&object.encode()).unwrap(), object);
        let ciphertext = Ciphertext { enc: None, ct: vec![4; 64] };
        let mut sealed =
            Sealed { policy: Policy::Noise, key_id: DisposableKeyId([7; 16]), ciphertext, signer };
        assert_eq!(Sealed::decode(&sealed.encode()).unwrap(), sealed);
        sealed.policy = Policy::Strong;
        assert!(Sealed::decode(&sealed.encode()).is_err(), "HPKE without an encapsulated key");
    }
}
