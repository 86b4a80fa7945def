//! ok2cry: a disposable key for one exchange, through parties that must not read it.
//!
//! Whoever wants to be answered in secret, or asked in secret, makes a [`DisposableKey`] and shows its public half as a
//! [`KeyObject`]; the other party verifies it and answers with a [`Sealed`]. What was sealed and for what is in the
//! [`Terms`], of which both parties must have the same.
//!
//! # Invariants
//! - No clock, sockets or random source: time and randomness are arguments.
//! - No policy is negotiated and none falls back to another.
//! - Every failure to open is the same error.
//!
//! Specification: docs/protocol.md §5.1 to §5.3.

pub mod cache;
mod composition;
mod error;
mod exchange;
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod noise;
mod object;
mod pem;
mod policy;
mod schema;
#[cfg(feature = "ok2cry-json")]
mod token;
mod trust;

use onward_keys::{Backend, CryptoRng, Label};
use zeroize::Zeroizing;

pub use composition::{CHILD_MARGIN_SECONDS, check_child, check_scope};
pub use error::ExchangeError;
pub use exchange::{AttestedKey, Carrier, Demand, Expected, Received, Sealing, VerifiedKey};
pub use key::DisposableKey;
pub use noise::NoiseSender;
pub use object::{
    AUDIENCE_BYTES_MAX, BODY_BYTES_MAX, DisposableKeyId, EVIDENCE_BYTES_MAX, Evidence, Extensions,
    KEY_BYTES_MAX, KeyBody, KeyObject, OBJECT_BYTES_MAX, PURPOSE_BYTES_MAX, SEALED_BYTES_MAX, Sealed,
    SignerProof, TOKEN_BYTES_MAX, TTL_SECONDS_MAX,
};
pub use pem::PEM_BYTES;
pub use policy::{Direction, Policy};
pub use schema::Schema;
#[cfg(feature = "ok2cry-schema")]
pub use schema::{JsonSchema, SCHEMA_BYTES_MAX, SchemaError};
#[cfg(feature = "ok2cry-json")]
pub use schema::{canonical_json, schema_digest};
#[cfg(feature = "ok2cry-json")]
pub use token::{
    JWKS_BYTES_MAX, JWKS_SECONDS_MAX, Jwks, TokenClaims, TokenError, TokenVerifier, token_claim,
};
pub use trust::{Event, PinnedAttribute, Pins, SealerTrust, TrustMode, Voucher};

use crate::identity::Identifier;

/// What an exchange is about: both parties must have the same, or nothing opens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// With what it is sealed.
    pub policy: Policy,
    /// H of the key's body, [`KeyBody::hash`].
    pub body_hash: [u8; 32],
    /// Which way the secret goes.
    pub direction: Direction,
    /// Who seals, if it signs what it sealed.
    pub sealer: Option<Identifier>,
    /// The request that the exchange belongs to, see [`context`].
    pub ctx: [u8; 32],
    /// SHA-256 of the canonical JSON schema that the plaintext follows.
    pub schema: Option<[u8; 32]>,
}

/// The context of a request, from what identifies it: H(L("ok2cry/ctx", method, resource, request id)).
///
/// Source: docs/protocol.md §5.3.
#[must_use]
pub fn context(method: &str, resource: &str, request_id: &[u8]) -> [u8; 32] {
    onward_keys::hash(&Label::new("ok2cry/ctx").text(method).text(resource).bytes(request_id).encode())
}

/// What was sealed, without the rest of its [`Sealed`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ciphertext {
    /// The encapsulated key of an HPKE policy: 65 or 1120 bytes.
    pub enc: Option<Vec<u8>>,
    /// The ciphertext, or the whole Noise message.
    pub ct: Vec<u8>,
}

/// What was opened.
pub struct Opened {
    /// The plaintext, wiped on drop.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// In policy 2 the static key that the sealer proved to hold. Whose it is, its attestation inside must say.
    pub sender: Option<[u8; 32]>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { plaintext: _, sender } = self;
        f.debug_struct("Opened").field("sender", sender).finish_non_exhaustive()
    }
}

/// Seals `plaintext` to the disposable key `public`, whatever that key is worth: to be verified before.
///
/// `sender` is given for policy 2 alone.
///
/// # Errors
/// [`ExchangeError::TooLong`], [`ExchangeError::Sender`], [`ExchangeError::InvalidPublicKey`].
///
/// Source: docs/protocol.md §5.3.
pub fn seal(
    terms: &Terms,
    public: &[u8],
    sender: Option<NoiseSender>,
    plaintext: &[u8],
    random: &mut dyn CryptoRng,
) -> Result<Ciphertext, ExchangeError> {
    let policy = terms.policy;
    let bytes_max = policy.ciphertext_bytes_max() - policy.overhead_bytes();
    if plaintext.len() > bytes_max {
        return Err(ExchangeError::TooLong { policy, bytes: plaintext.len(), bytes_max });
    }
    if sender.is_some() != policy.shows_sealer_inside() {
        return Err(ExchangeError::Sender(policy));
    }
    let public = policy.decode_public(public).ok_or(ExchangeError::InvalidPublicKey)?;
    if let Some(suite) = policy.hpke() {
        let (info, aad) = terms.hpke();
        let sealed = suite.seal(Backend::best(), &public, (&info, &aad), plaintext, random);
        let sealed = sealed.map_err(|_| ExchangeError::InvalidPublicKey)?;
        return Ok(Ciphertext { enc: Some(sealed.enc), ct: sealed.ct });
    }
    let public = (&*public).try_into().map_err(|_| ExchangeError::InvalidPublicKey)?;
    let mut seed = Zeroizing::new([0; 32]);
    random.fill_bytes(seed.as_mut());
    let message = noise::seal(sender, public, &terms.prologue(), plaintext, &seed);
    Ok(Ciphertext { enc: None, ct: message.ok_or(ExchangeError::InvalidPublicKey)? })
}

/// Opens what was sealed under the same `terms` to the public half of `private`.
///
/// Who sealed it must be known before: see [`Sealed`].
///
/// # Errors
/// [`ExchangeError::Unauthentic`], whatever the reason.
///
/// Source: docs/protocol.md §5.3.
pub fn open(
    terms: &Terms,
    private: &[u8; 32],
    enc: Option<&[u8]>,
    ct: &[u8],
) -> Result<Opened, ExchangeError> {
    let opened = match (terms.policy.hpke(), enc) {
        (Some(suite), Some(enc)) => {
            let (info, aad) = terms.hpke();
            let plaintext = suite.open(Backend::best(), private, enc, (&info, &aad), ct).ok();
            plaintext.map(|plaintext| Opened { plaintext, sender: None })
        }
        (None, None) => noise::open(terms.policy.shows_sealer_inside(), private, &terms.prologue(), ct),
        _ => None,
    };
    opened.ok_or(ExchangeError::Unauthentic)
}

impl Terms {
    /// `info` and `aad` of HPKE.
    fn hpke(&self) -> (Vec<u8>, Vec<u8>) {
        let Self { policy, body_hash, direction: _, sealer: _, ctx: _, schema: _ } = self;
        let info = Label::new("ok2cry").uint(policy.number().into()).bytes(body_hash);
        (info.encode(), self.context(Label::new("ok2cry/aad")).encode())
    }

    /// The prologue of Noise.
    fn prologue(&self) -> Vec<u8> {
        let label = Label::new("ok2cry").uint(self.policy.number().into()).bytes(&self.body_hash);
        self.context(label).encode()
    }

    fn context(&self, label: Label) -> Label {
        let sealer = self.sealer.as_ref().map(|sealer| &sealer.as_bytes()[..]);
        let label = label.uint(self.direction.number().into()).optional_bytes(sealer).bytes(&self.ctx);
        label.optional_bytes(self.schema.as_ref().map(|schema| &schema[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    fn terms(policy: Policy) -> Terms {
        Terms {
            policy,
            body_hash: [1; 32],
            direction: Direction::AnswerToMe,
            sealer: Some(Identifier::from_bytes([2; 32])),
            ctx: context("GET", "/cards/1/pin", b"42"),
            schema: None,
        }
    }

    fn sender(key: &DisposableKey) -> Option<NoiseSender> {
        let (secret, public) = ([5; 32], key.public().try_into().ok()?);
        let agreement = Backend::best().x25519(&secret, public).ok()?;
        (key.policy() == Policy::Noise)
            .then(|| NoiseSender { public: Backend::best().x25519_public(&secret), agreement })
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_terms_alone() {
        let mut random = SeededRandom::new(&[9; 32]);
        for policy in Policy::ALL {
            let key = DisposableKey::generate(policy, &mut random).unwrap();
            let terms = terms(policy);
            let sealed = seal(&terms, key.public(), sender(&key), b"4711", &mut random).unwrap();
            assert_eq!(sealed.ct.len(), 4 + policy.overhead_bytes());
            let opens = |terms: &Terms| open(terms, key.private(), sealed.enc.as_deref(), &sealed.ct);
            let opened = opens(&terms).unwrap();
            assert_eq!(*opened.plaintext, b"4711");
            assert_eq!(opened.sender.is_some(), policy == Policy::Noise);
            let changes: [fn(&mut Terms); 5] = [
                |terms| terms.body_hash[0] ^= 1,
                |terms| terms.direction = Direction::RequestToMe,
                |terms| terms.sealer = None,
                |terms| terms.ctx[31] ^= 1,
                |terms| terms.schema = Some([0; 32]),
            ];
            for change in changes {
                let mut other = terms.clone();
                change(&mut other);
                assert!(matches!(opens(&other), Err(ExchangeError::Unauthentic)), "{policy}");
            }
            for other in Policy::ALL.into_iter().filter(|other| *other != policy) {
                assert!(opens(&Terms { policy: other, ..terms.clone() }).is_err(), "{policy} as {other}");
            }
        }
    }

    #[test]
    fn a_static_key_is_for_policy_2_alone() {
        let mut random = SeededRandom::new(&[9; 32]);
        let key = DisposableKey::generate(Policy::Noise, &mut random).unwrap();
        let refused = seal(&terms(Policy::Noise), key.public(), None, b"", &mut random);
        assert!(matches!(refused, Err(ExchangeError::Sender(Policy::Noise))));
        let anonymous = terms(Policy::NoiseAnonymous);
        let refused = seal(&anonymous, key.public(), sender(&key), b"", &mut random);
        assert!(matches!(refused, Err(ExchangeError::Sender(Policy::NoiseAnonymous))));
    }

    #[test]
    fn one_exchange_carries_what_its_policy_allows() {
        let mut random = SeededRandom::new(&[9; 32]);
        for policy in Policy::ALL {
            let key = DisposableKey::generate(policy, &mut random).unwrap();
            let terms = terms(policy);
            let longest = vec![0; policy.ciphertext_bytes_max() - policy.overhead_bytes()];
            let sealed = seal(&terms, key.public(), sender(&key), &longest, &mut random).unwrap();
            assert_eq!(sealed.ct.len(), policy.ciphertext_bytes_max());
            let longer = [&longest[..], &[0]].concat();
            let refused = seal(&terms, key.public(), sender(&key), &longer, &mut random);
            assert!(matches!(refused, Err(ExchangeError::TooLong { .. })), "{policy}");
        }
    }

    #[test]
    fn debug_shows_neither_key_nor_plaintext() {
        let mut random = SeededRandom::new(&[9; 32]);
        let key = DisposableKey::generate(Policy::NoiseAnonymous, &mut random).unwrap();
        assert_eq!(format!("{key:?}"), "DisposableKey { policy: NoiseAnonymous, .. }");
        let terms = terms(Policy::NoiseAnonymous);
        let sealed = seal(&terms, key.public(), None, b"4711", &mut random).unwrap();
        let opened = open(&terms, key.private(), None, &sealed.ct).unwrap();
        assert_eq!(format!("{opened:?}"), "Opened { sender: None, .. }");
    }
}
