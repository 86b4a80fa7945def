//! The exchange: a key is signed and verified, something is sealed to it, and what was sealed is verified.
//!
//! What is only decoded and what is verified are different types: nothing can be sealed to a key before its trust mode
//! is satisfied, and one [`VerifiedKey`] seals once. Only the vault is awaited.
//!
//! Specification: docs/protocol.md §5.1, §5.3.

use minicbor::decode::{self, Decoder};
use minicbor::encode::Encoder;
use onward_keys::{CryptoRng, KeyId, Label, SharedSecret, SignatureType, Vault, hash};
use zeroize::Zeroizing;

use super::{
    Ciphertext, Direction, Event, ExchangeError, KeyBody, KeyObject, NoiseSender, Opened, Policy, Schema,
    Sealed, SealerTrust, SignerProof, Terms, TrustMode, Voucher, check_child,
};
use crate::identity::{
    IdPayload, Identifier, IdentityError, KnownHistories, PAYLOAD_BYTES_MAX, Purpose, Trust, VerifiedPeer,
};
use crate::signed::Signed;
use crate::strict;

/// A key of ours in a vault, and the payload in which our identity attests it: purpose 5 to sign, purpose 8 to seal
/// with policy 2.
#[derive(Clone, Debug)]
pub struct AttestedKey {
    key: KeyId,
    payload: Vec<u8>,
    identifier: Identifier,
    public: Vec<u8>,
}

impl AttestedKey {
    /// The vault's `key`, as the encoded `payload` attests it.
    ///
    /// # Errors
    /// [`ExchangeError::Signer`] when `payload` is none.
    pub fn new(key: KeyId, payload: Vec<u8>) -> Result<Self, ExchangeError> {
        let decoded = IdPayload::decode(&payload)?;
        let public = decoded.attestation().attest().key.clone();
        Ok(Self { key, payload, identifier: decoded.identifier(), public })
    }

    /// Whose key it is.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.identifier
    }

    async fn sign(
        &self,
        vault: &dyn Vault,
        kind: SignatureType,
        body: &[u8],
    ) -> Result<SignerProof, ExchangeError> {
        let signature = vault.sign(self.key, kind, body).await.map_err(IdentityError::KeyService)?;
        Ok(SignerProof { signature, payload: self.payload.clone() })
    }
}

/// The channel that an object came through.
#[derive(Clone, Copy, Debug)]
pub struct Carrier {
    /// Its peer, as the channel proved it.
    pub peer: Identifier,
    /// Its binding (`hs_id`).
    pub hs_id: [u8; 32],
}

/// What a party that seals demands of a key.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// Which policies are allowed. There is no negotiation: any other is refused.
    pub policies: &'a [Policy],
    /// The name that the API has for itself.
    pub aud: &'a str,
    /// Which way the secret is to go.
    pub direction: Direction,
    /// The request that this is about, see [`super::context`].
    pub ctx: [u8; 32],
    /// Now, Unix seconds.
    pub now: u64,
    /// The histories known here.
    pub known: &'a KnownHistories,
    /// The channel that the key came through, if it came through one.
    pub carrier: Option<Carrier>,
}

impl KeyObject {
    /// `body`, signed with a key of purpose 5.
    ///
    /// # Errors
    /// [`ExchangeError::Signer`].
    ///
    /// # Cancel safety
    /// Nothing is kept; a cancelled call may be repeated.
    pub async fn sign(body: KeyBody, vault: &dyn Vault, signer: &AttestedKey) -> Result<Self, ExchangeError> {
        let proof = signer.sign(vault, SignatureType::Ok2cryKey, &body.encode()).await?;
        let mut object = Self { body, extensions: super::Extensions::default() };
        object.extensions.signer = Some(proof);
        Ok(object)
    }

    /// Who signed the key, if somebody did, and the signature held when the key was made.
    ///
    /// For whoever looks at an object. Whether it is the one who should have signed, [`KeyObject::verify`] says, and
    /// nothing may be sealed on the strength of this.
    ///
    /// # Errors
    /// [`ExchangeError::Signer`], [`ExchangeError::Malformed`]: the signature, or what attests its key, does not hold.
    pub fn signed_by(&self) -> Result<Option<Identifier>, ExchangeError> {
        let Some(proof) = &self.extensions.signer else { return Ok(None) };
        let (kind, known) = (SignatureType::Ok2cryKey, KnownHistories::default());
        let body = |_: &Identifier| self.body.encode();
        let peer = verify_signer(proof, kind, body, SealerTrust::Anybody, &known, self.body.iat)?;
        Ok(Some(peer.identifier()))
    }

    /// Verifies the key by the rules of `mode`, and gives to `report` what has to be logged.
    ///
    /// # Errors
    /// In this order: [`ExchangeError::Policy`], [`ExchangeError::Audience`], [`ExchangeError::Direction`],
    /// [`ExchangeError::NotFresh`], [`ExchangeError::Context`]; then what the mode says: [`ExchangeError::Unsigned`] and
    /// [`ExchangeError::Signer`], or [`ExchangeError::Token`].
    ///
    /// Source: docs/protocol.md §5.1, §5.3.
    pub fn verify(
        self,
        demand: &Demand<'_>,
        mode: TrustMode<'_>,
        report: &mut dyn FnMut(Event),
    ) -> Result<VerifiedKey, ExchangeError> {
        let Self { body, extensions } = self;
        if !demand.policies.contains(&body.policy) {
            return Err(ExchangeError::Policy(body.policy));
        }
        if body.aud != demand.aud {
            return Err(ExchangeError::Audience);
        }
        if body.direction != demand.direction {
            return Err(ExchangeError::Direction);
        }
        check_fresh(&body, demand.now)?;
        check_binding(&body, &demand.ctx)?;
        let signed = matches!(mode, TrustMode::Identity(_));
        let voucher = match mode {
            TrustMode::Identity(pins) => match &extensions.signer {
                Some(proof) => {
                    let kind = SignatureType::Ok2cryKey;
                    let trust = SealerTrust::Identity(pins);
                    let peer =
                        verify_signer(proof, kind, |_| body.encode(), trust, demand.known, demand.now)?;
                    Voucher::Identity(peer.identifier())
                }
                // What nobody signed is the pinned end's only if it handed it over itself.
                None => match demand.carrier {
                    Some(carrier) if extensions.hs_id == Some(carrier.hs_id) && pins.names(&carrier.peer) => {
                        Voucher::Identity(carrier.peer)
                    }
                    _ => return Err(ExchangeError::Unsigned),
                },
            },
            #[cfg(feature = "ok2cry-json")]
            TrustMode::Bound { verifier, subject } => {
                let token = extensions.token.as_deref().ok_or(ExchangeError::Unsigned)?;
                let claims = verifier.verify(token, &body, subject, demand.now)?;
                Voucher::Token { issuer: claims.issuer, subject: claims.subject }
            }
            TrustMode::Transitive => {
                report(Event::Transitive { key_id: body.key_id, aud: body.aud.clone() });
                Voucher::Nobody
            }
        };
        Ok(VerifiedKey { body, ctx: demand.ctx, voucher, signed })
    }
}

/// A key that passed every check: the only thing that can be sealed to. Seals once.
#[derive(Debug)]
pub struct VerifiedKey {
    body: KeyBody,
    ctx: [u8; 32],
    voucher: Voucher,
    /// Whether the mode demands that what is sealed is signed.
    signed: bool,
}

/// What goes with a sealing beside the key and the plaintext.
#[derive(Clone, Copy, Default)]
pub struct Sealing<'a> {
    /// Who seals: with a key of purpose 8 for policy 2, else with one of purpose 5; none where the mode asks for none.
    pub sealer: Option<(&'a dyn Vault, &'a AttestedKey)>,
    /// The schema that the key names, if it names one.
    pub schema: Option<&'a dyn Schema>,
    /// The keys that were made for parts of this answer.
    pub children: &'a [KeyBody],
}

impl std::fmt::Debug for Sealing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealing").field("children", &self.children.len()).finish_non_exhaustive()
    }
}

impl VerifiedKey {
    /// What is said of the key.
    #[must_use]
    pub fn body(&self) -> &KeyBody {
        &self.body
    }

    /// Why the key was believed.
    #[must_use]
    pub fn voucher(&self) -> &Voucher {
        &self.voucher
    }

    /// Seals `plaintext` to the key, and signs what was sealed.
    ///
    /// # Errors
    /// [`ExchangeError::NotFresh`], [`ExchangeError::Child`], [`ExchangeError::OtherSchema`], [`ExchangeError::OffSchema`];
    /// [`ExchangeError::Unsigned`] when the mode or the policy demands a sealer; as [`super::seal`]; [`ExchangeError::Signer`].
    ///
    /// # Cancel safety
    /// A cancelled call sealed nothing that anybody has; the key has to be verified again.
    pub async fn seal(
        self,
        plaintext: &[u8],
        sealing: Sealing<'_>,
        now: u64,
        random: &mut (dyn CryptoRng + Send),
    ) -> Result<Sealed, ExchangeError> {
        let Self { body, ctx, voucher: _, signed } = self;
        check_fresh(&body, now)?;
        sealing.children.iter().try_for_each(|child| check_child(child, &body))?;
        check_schema(&body, sealing.schema, plaintext)?;
        let mut terms = body.terms(None, ctx);
        let policy = body.policy;
        if policy.shows_sealer_inside() {
            let (vault, key) = sealing.sealer.ok_or(ExchangeError::Unsigned)?;
            let peer = body.public.as_slice().try_into().map_err(|_| ExchangeError::InvalidPublicKey)?;
            let agreement: SharedSecret =
                vault.agree(key.key, peer).await.map_err(IdentityError::KeyService)?;
            let public = key.public.as_slice().try_into().map_err(|_| ExchangeError::Sender(policy))?;
            let introduced = introduce(&key.payload, plaintext);
            let sender = Some(NoiseSender { public, agreement });
            let ciphertext = super::seal(&terms, &body.public, sender, &introduced, random)?;
            return Ok(Sealed { policy, key_id: body.key_id, ciphertext, signer: None });
        }
        if signed && sealing.sealer.is_none() {
            return Err(ExchangeError::Unsigned);
        }
        terms.sealer = sealing.sealer.map(|(_, key)| key.identifier);
        let ciphertext = super::seal(&terms, &body.public, None, plaintext, random)?;
        let signer = match sealing.sealer {
            None => None,
            Some((vault, key)) => {
                let statement = statement(&ciphertext, &key.identifier, &terms.body_hash, &ctx);
                Some(key.sign(vault, SignatureType::Ok2crySealed, &statement).await?)
            }
        };
        Ok(Sealed { policy, key_id: body.key_id, ciphertext, signer })
    }
}

/// What whoever opens knows: its key, the request, and whom it believes.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The key that it was sealed to.
    pub body: &'a KeyBody,
    /// The request that this is about.
    pub ctx: [u8; 32],
    /// Of whom it is taken.
    pub trust: SealerTrust<'a>,
    /// Now, Unix seconds.
    pub now: u64,
    /// The histories known here.
    pub known: &'a KnownHistories,
}

/// What was received, and from whom.
pub struct Received {
    /// The plaintext, wiped on drop.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// Who sealed it, if that is known.
    pub sealer: Option<Identifier>,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { plaintext: _, sealer } = self;
        f.debug_struct("Received").field("sealer", sealer).finish_non_exhaustive()
    }
}

impl Expected<'_> {
    /// Verifies what was sealed, before the key is used up by opening it: the terms to open it under.
    ///
    /// # Errors
    /// [`ExchangeError::OtherKey`], [`ExchangeError::Context`], [`ExchangeError::Unsigned`],
    /// [`ExchangeError::Signer`]. The key is then not to be used.
    ///
    /// Source: docs/protocol.md §5.3.
    pub fn verify(&self, sealed: &Sealed) -> Result<Terms, ExchangeError> {
        let Self { body, ctx, trust, now, known } = *self;
        if sealed.key_id != body.key_id || sealed.policy != body.policy {
            return Err(ExchangeError::OtherKey);
        }
        check_binding(body, &ctx)?;
        let body_hash = body.hash();
        let sealer = match &sealed.signer {
            Some(proof) => {
                let signed = |sealer: &Identifier| statement(&sealed.ciphertext, sealer, &body_hash, &ctx);
                let kind = SignatureType::Ok2crySealed;
                Some(verify_signer(proof, kind, signed, trust, known, now)?.identifier())
            }
            None if body.policy.shows_sealer_inside() || matches!(trust, SealerTrust::Anybody) => None,
            None => return Err(ExchangeError::Unsigned),
        };
        Ok(body.terms(sealer, ctx))
    }

    /// Takes what was opened under `terms`: in policy 2 verifies who sealed it, and validates it by `schema`.
    ///
    /// # Errors
    /// [`ExchangeError::Malformed`], [`ExchangeError::Signer`], [`ExchangeError::OtherSchema`],
    /// [`ExchangeError::OffSchema`].
    pub fn receive(
        &self,
        terms: &Terms,
        opened: Opened,
        schema: Option<&dyn Schema>,
    ) -> Result<Received, ExchangeError> {
        let received = match opened.sender {
            None => Received { plaintext: opened.plaintext, sealer: terms.sealer },
            Some(sender) => {
                let (payload, plaintext) =
                    strict::decode_once(&opened.plaintext, opened.plaintext.len(), introduced)?;
                let payload = IdPayload::decode(payload)?;
                let in_use = (Purpose::OK2CRY_STATIC, &sender[..]);
                let peer = payload.verify(in_use, None, self.now, &trust(self.trust), self.known)?;
                let peer = accepted(peer, self.trust)?;
                Received { plaintext: Zeroizing::new(plaintext.to_vec()), sealer: Some(peer.identifier()) }
            }
        };
        check_schema(self.body, schema, &received.plaintext)?;
        Ok(received)
    }
}

/// Verifies that a key of purpose 5 of an identity that `trust` accepts signed what `signed` makes of that identity.
fn verify_signer(
    proof: &SignerProof,
    kind: SignatureType,
    signed: impl FnOnce(&Identifier) -> Vec<u8>,
    trusted: SealerTrust<'_>,
    known: &KnownHistories,
    now: u64,
) -> Result<VerifiedPeer, ExchangeError> {
    let payload = IdPayload::decode(&proof.payload)?;
    let key = payload.attestation().attest().key.clone();
    let statement = Signed::new(signed(&payload.identifier()), vec![proof.signature.clone()]);
    let peer = payload.verify((Purpose::OK2CRY_SIGNING, &key), None, now, &trust(trusted), known)?;
    let peer = accepted(peer, trusted)?;
    statement.verify_attested(kind, &key)?;
    Ok(peer)
}

fn trust(trust: SealerTrust<'_>) -> Trust {
    match trust {
        SealerTrust::Identity(pins) => pins.trust(),
        SealerTrust::Anybody => Trust::dangerously_any(),
    }
}

fn accepted(peer: VerifiedPeer, trust: SealerTrust<'_>) -> Result<VerifiedPeer, ExchangeError> {
    match trust {
        SealerTrust::Identity(pins) if !pins.accepts(&peer) => {
            Err(IdentityError::Untrusted(peer.identifier()).into())
        }
        _ => Ok(peer),
    }
}

/// What a sealer signs: L("ok2cry/s", sealer, H(body), H(enc)/null, H(ct), ctx).
fn statement(ciphertext: &Ciphertext, sealer: &Identifier, body_hash: &[u8; 32], ctx: &[u8; 32]) -> Vec<u8> {
    let enc = ciphertext.enc.as_ref().map(|enc| hash(enc));
    let label = Label::new("ok2cry/s").bytes(sealer.as_bytes()).bytes(body_hash);
    let label = label.optional_bytes(enc.as_ref().map(|enc| &enc[..]));
    label.bytes(&hash(&ciphertext.ct)).bytes(ctx).encode()
}

/// The plaintext of policy 2: `[idp, body]`.
fn introduce(payload: &[u8], plaintext: &[u8]) -> Zeroizing<Vec<u8>> {
    // Room for the heads, so that no second copy of the plaintext is made.
    let mut bytes = Zeroizing::new(Vec::with_capacity(payload.len() + plaintext.len() + HEADS_BYTES));
    // A Vec takes every write.
    let written =
        Encoder::new(&mut *bytes).array(2).and_then(|e| e.bytes(payload)?.bytes(plaintext)).map(|_| ());
    debug_assert!(written.is_ok(), "encoding into memory failed");
    bytes
}

fn introduced<'b>(d: &mut Decoder<'b>) -> Result<(&'b [u8], &'b [u8]), decode::Error> {
    strict::array(d, 2)?;
    Ok((strict::bytes(d, PAYLOAD_BYTES_MAX)?, d.bytes()?))
}

/// Fresh = iat − 60 s <= now < iat + ttl.
fn check_fresh(body: &KeyBody, now: u64) -> Result<(), ExchangeError> {
    let begun = body.iat <= now.saturating_add(CLOCK_SKEW_SECONDS);
    if begun && now < body.exp() {
        Ok(())
    } else {
        Err(ExchangeError::NotFresh { iat: body.iat, exp: body.exp(), now })
    }
}

fn check_binding(body: &KeyBody, ctx: &[u8; 32]) -> Result<(), ExchangeError> {
    if body.binding.is_none_or(|binding| binding == *ctx) { Ok(()) } else { Err(ExchangeError::Context) }
}

/// Checks that `schema` is the one that the key names, and `plaintext` follows it.
fn check_schema(body: &KeyBody, schema: Option<&dyn Schema>, plaintext: &[u8]) -> Result<(), ExchangeError> {
    if body.schema != schema.map(Schema::digest) {
        return Err(ExchangeError::OtherSchema);
    }
    if schema.is_none_or(|schema| schema.admits(plaintext)) { Ok(()) } else { Err(ExchangeError::OffSchema) }
}

/// How far ahead of ours the clock of a key's maker may run.
const CLOCK_SKEW_SECONDS: u64 = 60;

/// The heads of an array and of two byte strings, at most.
const HEADS_BYTES: usize = 16;
