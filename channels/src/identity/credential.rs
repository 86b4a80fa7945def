//! Credentials: what an issuer says of another identity, and the chain that proves who the issuer is.
//!
//! A credential that verifies proves only that its issuer said so; whether the issuer may is for [`super::Trust`].
//!
//! Specification: docs/protocol.md §3.1, `Credential`.

use std::collections::BTreeMap;

use minicbor::data::Type;
use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};
use onward_keys::{KeyId, SignatureType, Vault};

use super::attest::check_times;
use super::history::{History, VerifiedHistory, body};
use super::{Attestation, ChangeHash, Identifier, IdentityError, KnownHistories, Misuse, Purpose};
use crate::signed::Signed;
use crate::strict;

/// The longest life of a credential that verifiers accept: 30 days, in seconds.
pub const CREDENTIAL_SECONDS_MAX: u64 = 30 * 24 * 3600;

/// The body of a credential, as stated by whoever signed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// The credential's own name, random.
    pub id: [u8; 16],
    /// The identity that speaks.
    pub issuer: Identifier,
    /// The identity spoken of.
    pub subject: Identifier,
    /// The subject's newest change known to the issuer.
    pub change: ChangeHash,
    /// The meaning of the attributes: 1 to 64 bytes.
    pub schema: String,
    /// What is said.
    pub attributes: Attributes,
    /// When it was said, Unix seconds.
    pub iat: u64,
    /// When it ends, Unix seconds, excluded; at most [`CREDENTIAL_SECONDS_MAX`] after `iat`.
    pub exp: u64,
}

impl Credential {
    /// Signs the credential with the issuer's key `key`, which must be attested for
    /// [`Purpose::CREDENTIAL_SIGNING`], and puts the proof of the issuer beside it.
    ///
    /// # Errors
    /// [`IdentityError::Misuse`] for a schema or period out of bounds; [`IdentityError::KeyService`].
    ///
    /// # Cancel safety
    /// Nothing is kept; a cancelled call may be repeated.
    pub async fn sign(
        self,
        vault: &dyn Vault,
        key: KeyId,
        issuer: &VerifiedHistory,
        attestation: &Attestation,
    ) -> Result<PresentedCredential, IdentityError> {
        if self.exp <= self.iat || self.exp - self.iat > CREDENTIAL_SECONDS_MAX {
            return Err(IdentityError::Misuse(Misuse::BadPeriod));
        }
        if !(1..=SCHEMA_BYTES_MAX).contains(&self.schema.len()) {
            return Err(IdentityError::Misuse(Misuse::TooLong));
        }
        let body = strict::encode(&self);
        let signature = vault.sign(key, SignatureType::Credential, &body).await?;
        Ok(PresentedCredential {
            signed: Signed::new(body, vec![signature]),
            credential: self,
            issuer: issuer.history().clone(),
            attestation: attestation.clone(),
        })
    }
}

impl<C> Encode<C> for Credential {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(9)?.u8(VERSION)?.bytes(&self.id)?.bytes(self.issuer.as_bytes())?;
        e.bytes(self.subject.as_bytes())?.bytes(self.change.as_bytes())?.str(&self.schema)?;
        e.encode(&self.attributes)?.u64(self.iat)?.u64(self.exp)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Credential {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 9)?;
        strict::version(d, VERSION)?;
        Ok(Self {
            id: strict::bytes_exact(d)?,
            issuer: Identifier::from_bytes(strict::bytes_exact(d)?),
            subject: Identifier::from_bytes(strict::bytes_exact(d)?),
            change: ChangeHash::from_bytes(strict::bytes_exact(d)?),
            schema: strict::text(d, SCHEMA_BYTES_MAX)?.to_owned(),
            attributes: d.decode()?,
            iat: d.u64()?,
            exp: d.u64()?,
        })
    }
}

/// What a credential says: at most 32 names of 1 to 64 bytes, each with a value.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attributes(BTreeMap<Name, AttributeValue>);

impl Attributes {
    /// Takes `attributes`; of two with one name the later stays.
    ///
    /// # Errors
    /// [`Misuse::TooLong`] for a name, a text value or a number of attributes out of bounds, or an empty text.
    pub fn new(
        attributes: impl IntoIterator<Item = (String, AttributeValue)>,
    ) -> Result<Self, IdentityError> {
        let attributes: BTreeMap<_, _> =
            attributes.into_iter().map(|(name, value)| (Name(name.len(), name), value)).collect();
        let fits = |(name, value): (&Name, &AttributeValue)| {
            let value = if let AttributeValue::Text(text) = value { text.len() } else { 1 };
            (1..=NAME_BYTES_MAX).contains(&name.0) && (1..=VALUE_BYTES_MAX).contains(&value)
        };
        if attributes.len() as u64 > ATTRIBUTES_MAX || !attributes.iter().all(fits) {
            return Err(IdentityError::Misuse(Misuse::TooLong));
        }
        Ok(Self(attributes))
    }

    /// The value under `name`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&AttributeValue> {
        self.0.get(&Name(name.len(), name.to_owned()))
    }

    /// All names and values, shorter names first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AttributeValue)> {
        self.0.iter().map(|(name, value)| (name.1.as_str(), value))
    }
}

/// An attribute's name behind its length: ordered as encoded, where the length comes first.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Name(usize, String);

impl<C> Encode<C> for Attributes {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.map(self.0.len() as u64)?;
        for (Name(_, name), value) in &self.0 {
            e.str(name)?;
            match value {
                AttributeValue::Text(text) => e.str(text)?,
                AttributeValue::Integer(integer) => e.i64(*integer)?,
                AttributeValue::Bool(bool) => e.bool(*bool)?,
            };
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Attributes {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        // A name given twice, or out of order, does not survive the comparison with the encoding.
        let attributes = (0..strict::map(d, ATTRIBUTES_MAX)?).map(|_| {
            let name = strict::text(d, NAME_BYTES_MAX)?.to_owned();
            let value = match d.datatype()? {
                Type::String => AttributeValue::Text(strict::text(d, VALUE_BYTES_MAX)?.to_owned()),
                Type::Bool => AttributeValue::Bool(d.bool()?),
                _ => AttributeValue::Integer(d.i64()?),
            };
            Ok((Name(name.len(), name), value))
        });
        Ok(Self(attributes.collect::<Result<_, decode::Error>>()?))
    }
}

/// One value that a credential states.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AttributeValue {
    /// 1 to 256 bytes.
    Text(String),
    /// Any 64-bit integer.
    Integer(i64),
    /// True or false.
    Bool(bool),
}

/// A credential with the history of its issuer and the attestation of the key that signed it, not yet believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PresentedCredential {
    signed: Signed,
    credential: Credential,
    issuer: History,
    attestation: Attestation,
}

impl PresentedCredential {
    /// What is stated.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The history presented for the issuer.
    #[must_use]
    pub fn issuer(&self) -> &History {
        &self.issuer
    }

    /// The attestation presented for the issuer's key.
    #[must_use]
    pub fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    /// Checks the credential of `subject`, whose issuer's history is `issuer`; the attestation's own signature is
    /// skipped if exactly these bytes are known to be `attested` well.
    ///
    /// Every statement is checked at `now`, the issuer's attestation included: a signing key that is no longer
    /// attested vouches for nothing.
    ///
    /// Source: docs/protocol.md §3.1.
    pub(super) fn verify(
        &self,
        attested: bool,
        issuer: &VerifiedHistory,
        subject: &VerifiedHistory,
        now: u64,
    ) -> Result<(), IdentityError> {
        let credential = &self.credential;
        if credential.issuer != issuer.identifier() || credential.subject != subject.identifier() {
            return Err(IdentityError::OtherCredential);
        }
        subject.check_named(&credential.change)?;
        self.attestation.verify_unless(attested, issuer, Purpose::CREDENTIAL_SIGNING, now)?;
        let attest = self.attestation.attest();
        self.signed.verify_attested(SignatureType::Credential, &attest.key)?;
        let Credential { iat, exp, .. } = *credential;
        if !(attest.iat..attest.exp).contains(&iat) {
            return Err(IdentityError::KeyNotInForce { iat });
        }
        check_times(iat, exp, now)?;
        if exp - iat > CREDENTIAL_SECONDS_MAX {
            return Err(IdentityError::BadPeriod { iat, exp });
        }
        Ok(())
    }

    /// Whether a credential that once verified is still in force at `now`, as far as the newest histories tell.
    pub(super) fn still_holds(&self, known: &KnownHistories, subject: &VerifiedHistory, now: u64) -> bool {
        let attest = self.attestation.attest();
        let issuer = known.history(&self.credential.issuer);
        let attested = issuer.is_none_or(|issuer| issuer.signing_key(&attest.change, attest.iat).is_ok());
        attested
            && subject.check_named(&self.credential.change).is_ok()
            && check_times(attest.iat, attest.exp, now).is_ok()
            && check_times(self.credential.iat, self.credential.exp, now).is_ok()
    }

    /// The number of signatures that verifying from nothing computes.
    pub(super) fn signatures(&self) -> usize {
        self.signed.signatures().len()
            + self.issuer.signatures()
            + self.attestation.signed().signatures().len()
    }
}

impl<C> Encode<C> for PresentedCredential {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(3)?.encode(&self.signed)?.encode(&self.issuer)?.encode(&self.attestation)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PresentedCredential {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 3)?;
        let signed: Signed = d.decode()?;
        let credential = body(&signed)?;
        Ok(Self { signed, credential, issuer: d.decode()?, attestation: d.decode()? })
    }
}

const VERSION: u8 = 1;
const SCHEMA_BYTES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 256;
const ATTRIBUTES_MAX: u64 = 32;
