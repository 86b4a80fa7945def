//! Identity payloads: how a peer introduces itself inside a handshake, and how that is verified.
//!
//! The order of the checks is part of the protocol: what costs nothing comes before what costs a signature, and
//! nothing is stored or believed before the last check has passed.
//!
//! Specification: docs/protocol.md §3.1, `IdPayload`; §3.2, "Payloads".

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};

use super::known::AttestationHash;
use super::{
    Attestation, Credential, History, HistoryUpdate, Identifier, Identity, IdentityError, KeyAttest,
    KnownHistories, Misuse, PresentedCredential, Purpose, Trust, VerifiedHistory,
};
use crate::strict;

/// The longest encoded payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024;

/// The most signatures that one payload may make a verifier compute.
pub const SIGNATURES_MAX: usize = 64;

/// Verifies the payload `bytes` of a peer that proved the static key `noise_static` in a handshake.
///
/// `expected` is the identity that was meant, if one was; `now` is in Unix seconds. Costs at most one signature for
/// each change and attestation not seen before, and one per credential.
///
/// # Errors
/// As [`IdPayload::decode`] and [`IdPayload::verify`]. `known` learns nothing, but notes a fork.
///
/// Source: docs/protocol.md §3.2.
pub fn verify_payload(
    bytes: &[u8],
    noise_static: &[u8; 32],
    expected: Option<Identifier>,
    now: u64,
    trust: &Trust,
    known: &KnownHistories,
) -> Result<VerifiedPeer, IdentityError> {
    let payload = IdPayload::decode(bytes)?;
    payload.verify((Purpose::CHANNEL_STATIC, noise_static), expected, now, trust, known)
}

/// The payload by which `identity` introduces itself with an attested key, padded with `pad_bytes` zeros (0 for none).
///
/// Anyone may provoke a responder's payload, so credentials are given only where the peer may see them.
///
/// # Errors
/// [`Misuse::TooLong`] above [`CREDENTIALS_MAX`] credentials, [`PAD_BYTES_MAX`] or [`PAYLOAD_BYTES_MAX`].
pub fn channel_payload(
    identity: &Identity,
    attestation: &Attestation,
    credentials: &[PresentedCredential],
    params: &Params,
    pad_bytes: usize,
) -> Result<Vec<u8>, IdentityError> {
    let payload = IdPayload {
        history: identity.history().history().clone(),
        attestation: attestation.clone(),
        credentials: credentials.to_vec(),
        params: params.clone(),
        pad: (pad_bytes > 0).then(|| vec![0; pad_bytes]),
    };
    let bytes = strict::encode(&payload);
    let fits = credentials.len() as u64 <= CREDENTIALS_MAX && pad_bytes <= PAD_BYTES_MAX;
    if fits && bytes.len() <= PAYLOAD_BYTES_MAX {
        Ok(bytes)
    } else {
        Err(IdentityError::Misuse(Misuse::TooLong))
    }
}

/// A payload as it was presented, well-formed but not yet believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdPayload {
    history: History,
    attestation: Attestation,
    credentials: Vec<PresentedCredential>,
    params: Params,
    /// Ignored, but kept: what was decoded encodes to the same bytes.
    pad: Option<Vec<u8>>,
}

impl IdPayload {
    /// Decodes a payload of at most [`PAYLOAD_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`]; [`IdentityError::CriticalParam`].
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let payload: Self = strict::decode(bytes, PAYLOAD_BYTES_MAX)?;
        payload.params.check()?;
        Ok(payload)
    }

    /// The payload with which its owner asks to replace the channel with this binding (`hs_id`).
    #[must_use]
    pub fn replacing(self, hs_id: &[u8; 32]) -> Self {
        Self { params: Params::replacing(hs_id), ..self }
    }

    /// The strict encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        strict::encode(self)
    }

    /// The identity that the payload claims.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.history.identifier()
    }

    /// The attestation that the payload carries.
    #[must_use]
    pub fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    /// Verifies that the payload's identity attests the key in use for its purpose, and that `trust` accepts it.
    ///
    /// `in_use` is the purpose and the public key that the peer proved to hold; `expected` is the identity that was
    /// meant, if one was; `now` is in Unix seconds.
    ///
    /// # Errors
    /// In this order: [`IdentityError::OtherKey`], [`IdentityError::OtherSubject`], [`IdentityError::OtherPeer`] and
    /// [`IdentityError::TooManySignatures`] before any signature; then what is wrong with the history, the
    /// attestation, the credentials; at last [`IdentityError::Untrusted`].
    ///
    /// Source: docs/protocol.md §3.2.
    pub fn verify(
        self,
        in_use: (Purpose, &[u8]),
        expected: Option<Identifier>,
        now: u64,
        trust: &Trust,
        known: &KnownHistories,
    ) -> Result<VerifiedPeer, IdentityError> {
        self.check_claims(in_use.1, expected)?;
        let identifier = self.identifier();

        let history = known.judge(&self.history)?;
        let attestation = AttestationHash::of(&self.attestation);
        let attested = known.attested(&identifier, &attestation);
        self.attestation.verify_unless(attested, &history, in_use.0, now)?;
        let mut update = HistoryUpdate::default();
        update.learn(Arc::clone(&history), attestation);

        for presented in &self.credentials {
            let Credential { issuer, change, schema, .. } = presented.credential();
            // The subject must show the change itself, even where a longer history is known.
            if !self.history.contains(change) {
                return Err(IdentityError::UnknownChange);
            }
            let issuer_history = known.judge(presented.issuer())?;
            let attestation = AttestationHash::of(presented.attestation());
            let attested = known.attested(issuer, &attestation);
            presented.verify(attested, &issuer_history, &history, now)?;
            // Others are not worth remembering: a peer could invent issuers to push out real ones.
            if trust.asserts(issuer, schema) {
                update.learn(issuer_history, attestation);
            }
        }
        if !trust.accepts(&identifier, self.credentials.iter().map(PresentedCredential::credential)) {
            return Err(IdentityError::Untrusted(identifier));
        }
        Ok(VerifiedPeer {
            history,
            attestation: self.attestation,
            credentials: self.credentials,
            replaces: self.params.replaces(),
            update,
        })
    }

    /// Compares everything that can be compared without a signature.
    fn check_claims(&self, key: &[u8], expected: Option<Identifier>) -> Result<(), IdentityError> {
        let found = self.identifier();
        let attest = self.attestation.attest();
        if attest.key != key {
            return Err(IdentityError::OtherKey);
        }
        if attest.subject != found {
            return Err(IdentityError::OtherSubject(found));
        }
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(IdentityError::OtherPeer { expected, found });
        }
        let credentials: usize = self.credentials.iter().map(PresentedCredential::signatures).sum();
        let signatures =
            self.history.signatures() + self.attestation.signed().signatures().len() + credentials;
        if signatures > SIGNATURES_MAX {
            return Err(IdentityError::TooManySignatures(signatures));
        }
        Ok(())
    }
}

impl<C> Encode<C> for IdPayload {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(6)?.u8(VERSION)?.encode(&self.history)?.encode(&self.attestation)?;
        e.array(self.credentials.len() as u64)?;
        for credential in &self.credentials {
            e.encode(credential)?;
        }
        e.encode(&self.params)?;
        strict::put_optional_bytes(e, self.pad.as_ref())
    }
}

impl<'b, C> Decode<'b, C> for IdPayload {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 6)?;
        strict::version(d, VERSION)?;
        let history = d.decode()?;
        let attestation = d.decode()?;
        let credentials = strict::array_within(d, 0..=CREDENTIALS_MAX)?;
        let credentials = (0..credentials).map(|_| d.decode()).collect::<Result<_, _>>()?;
        let params = d.decode()?;
        let pad = strict::optional(d, |d| strict::bytes(d, PAD_BYTES_MAX))?.map(<[u8]>::to_vec);
        Ok(Self { history, attestation, credentials, params, pad })
    }
}

/// Extensions of a payload, by number: those below 128 may be ignored, the others must be understood.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Params(BTreeMap<u64, Vec<u8>>);

impl Params {
    /// The parameters of a handshake that replaces the channel with this binding (`hs_id`).
    #[must_use]
    pub fn replacing(hs_id: &[u8; 32]) -> Self {
        Self(BTreeMap::from([(REPLACES, strict::encode(&minicbor::bytes::ByteArray::from(*hs_id)))]))
    }

    /// The binding (`hs_id`) of the channel that is to be replaced, if one is named.
    #[must_use]
    pub fn replaces(&self) -> Option<[u8; 32]> {
        self.0.get(&REPLACES).and_then(|item| strict::bytes_exact(&mut Decoder::new(item)).ok())
    }

    fn check(&self) -> Result<(), IdentityError> {
        match self.0.range(CRITICAL..).next() {
            Some((number, _)) => Err(IdentityError::CriticalParam(*number)),
            None => Ok(()),
        }
    }
}

impl<C> Encode<C> for Params {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.map(self.0.len() as u64)?;
        for (number, item) in &self.0 {
            e.u64(*number)?.writer_mut().write_all(item).map_err(encode::Error::write)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Params {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let params = (0..strict::map(d, PARAMS_MAX)?).map(|_| {
            let number = d.u64()?;
            let item = strict::any(d, PARAMS_DEPTH)?;
            if number == REPLACES {
                strict::bytes_exact::<32>(&mut Decoder::new(item))?;
            }
            Ok((number, item.to_vec()))
        });
        Ok(Self(params.collect::<Result<_, decode::Error>>()?))
    }
}

/// A peer whose payload passed every check: the only proof of who is at the other end.
#[derive(Clone, Debug)]
pub struct VerifiedPeer {
    history: Arc<VerifiedHistory>,
    attestation: Attestation,
    credentials: Vec<PresentedCredential>,
    replaces: Option<[u8; 32]>,
    update: HistoryUpdate,
}

impl VerifiedPeer {
    /// Who the peer is.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.history.identifier()
    }

    /// The longest history known of the peer.
    #[must_use]
    pub fn history(&self) -> &VerifiedHistory {
        &self.history
    }

    /// The attestation of the key in use.
    #[must_use]
    pub fn attest(&self) -> &KeyAttest {
        self.attestation.attest()
    }

    /// The verified credentials. Whether their issuers may say so, [`Trust::asserts`] tells.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.iter().map(PresentedCredential::credential)
    }

    /// The binding (`hs_id`) of the channel that the peer asks to replace.
    #[must_use]
    pub fn replaces(&self) -> Option<[u8; 32]> {
        self.replaces
    }

    /// The peer's payload, to be kept and verified again later; at most [`PAYLOAD_BYTES_MAX`] bytes.
    #[must_use]
    pub fn introduction(&self) -> Vec<u8> {
        strict::encode(&IdPayload {
            history: self.history.history().clone(),
            attestation: self.attestation.clone(),
            credentials: self.credentials.clone(),
            params: Params::default(),
            pad: None,
        })
    }

    /// What to adopt into the [`KnownHistories`] once the peer passed all policy.
    pub fn update(&self) -> HistoryUpdate {
        self.update.clone()
    }

    /// When the first of the statements that the peer rests on ends, Unix seconds: check again then.
    #[must_use]
    pub fn valid_until(&self) -> u64 {
        let credentials = self.credentials.iter();
        let ends =
            credentials.map(|presented| presented.credential().exp.min(presented.attestation().attest().exp));
        ends.fold(self.attest().exp, u64::min)
    }

    /// Checks again, without signatures, what time and newly adopted histories may have ended: the peer itself, and
    /// each credential, which is dropped when it no longer holds.
    ///
    /// # Errors
    /// Why the attestation no longer holds, or [`IdentityError::Untrusted`] when too few credentials are left. What
    /// rests on the peer must end within 5 seconds.
    ///
    /// Source: docs/protocol.md §3.1.
    pub fn check_again(
        &mut self,
        now: u64,
        trust: &Trust,
        known: &KnownHistories,
    ) -> Result<(), IdentityError> {
        let newest = |known_to_us: &VerifiedHistory| known.history(&known_to_us.identifier()).cloned();
        self.history = newest(&self.history).unwrap_or_else(|| Arc::clone(&self.history));
        self.attestation.verify_unless(true, &self.history, self.attest().purpose, now)?;
        let history = &self.history;
        self.credentials.retain(|presented| presented.still_holds(known, history, now));
        let identifier = self.identifier();
        if trust.accepts(&identifier, self.credentials()) {
            Ok(())
        } else {
            Err(IdentityError::Untrusted(identifier))
        }
    }
}

/// The most credentials of one payload.
pub const CREDENTIALS_MAX: u64 = 8;

/// The most padding of one payload, in bytes.
pub const PAD_BYTES_MAX: usize = 1024;

const VERSION: u8 = 1;

/// The parameter that names the channel to be replaced.
const REPLACES: u64 = 0;

/// Parameters from this number on must be understood.
const CRITICAL: u64 = 128;

/// The most parameters of one payload: all that may be ignored, and then some that lead to refusal.
const PARAMS_MAX: u64 = 256;

/// The containers open around a parameter: the payload and the map.
const PARAMS_DEPTH: usize = 2;
