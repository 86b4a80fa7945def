//! Exchanges with disposable keys: an identity's part in them, with its keys in a cache.
//!
//! Everything that is decided is `onward-channels`'; here are the clock, the randomness, the vault that signs and the cache
//! that opens. What was sealed is verified before its key is used up, so that a forgery costs no key.
//!
//! Specification: docs/protocol.md §5.1 to §5.4.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use onward_channels::identity::{Identity as History, Purpose};
use onward_channels::ok2cry::cache::{KeyLife, MadeKey, NewDisposableKey};
use onward_channels::ok2cry::{
    AttestedKey, Carrier, Demand, Direction, Event, ExchangeError, Expected, KeyBody, KeyObject, Opened,
    Policy, Received, Schema, Sealed, SealerTrust, Sealing, TrustMode, VerifiedKey,
};
use onward_keys::audit::Watch;
use onward_keys::{KeyId, KeyUsage, PublicHalf, PublicKey, SignatureAlgorithm};
use rand_core::UnwrapErr;

use crate::cache::{CacheClient, CacheError};
use crate::channel::{Channels, unix_now};
use crate::error::NodeError;
use crate::identity::Identity;
use crate::node::Node;

/// How long the next signed head of a cache's log may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked for.
const HEAD_LOOK: Duration = Duration::from_millis(50);

/// What a key of ours is to be.
#[derive(Clone, Copy, Debug)]
pub struct KeyWish<'a> {
    /// With what is sealed to it.
    pub policy: Policy,
    /// Which way the secret goes.
    pub direction: Direction,
    /// The name that the API has for itself.
    pub audience: &'a str,
    /// What it is for.
    pub purpose: &'a str,
    /// The request it belongs to, see [`context`](onward_channels::ok2cry::context). It is bound to it.
    pub ctx: [u8; 32],
    /// How long it lives, in seconds; as the cache has it if none is given.
    pub ttl: Option<u16>,
    /// The key of the exchange that this one is a part of.
    pub parent: Option<&'a KeyBody>,
    /// SHA-256 of the canonical JSON schema that the plaintext follows.
    pub schema: Option<[u8; 32]>,
}

impl<'a> KeyWish<'a> {
    /// A STRONG key for an answer to the request `ctx`.
    #[must_use]
    pub fn answer(audience: &'a str, purpose: &'a str, ctx: [u8; 32]) -> Self {
        let (policy, direction) = (Policy::Strong, Direction::AnswerToMe);
        Self { policy, direction, audience, purpose, ctx, ttl: None, parent: None, schema: None }
    }

    /// A STRONG key for the secret part of the request `ctx`.
    #[must_use]
    pub fn request(audience: &'a str, purpose: &'a str, ctx: [u8; 32]) -> Self {
        Self { direction: Direction::RequestToMe, ..Self::answer(audience, purpose, ctx) }
    }
}

/// A key of ours for one exchange: its private half is in the cache.
#[derive(Debug)]
pub struct OwnKey {
    made: MadeKey,
    object: KeyObject,
    ctx: [u8; 32],
}

impl OwnKey {
    /// What the other party is shown.
    #[must_use]
    pub fn object(&self) -> &KeyObject {
        &self.object
    }

    /// What is said of the key.
    #[must_use]
    pub fn body(&self) -> &KeyBody {
        &self.object.body
    }

    /// Adds a JWT that names the key, for a party that trusts by [`TrustMode::Bound`].
    #[must_use]
    pub fn with_token(mut self, token: String) -> Self {
        self.object.extensions.token = Some(token);
        self
    }
}

/// An identity's part in exchanges. Cheap to clone; holds no secret.
#[derive(Clone)]
pub struct Exchanges {
    channels: Arc<Channels>,
    identity: Identity,
    cache: CacheClient,
    key: KeyId,
    public: Vec<u8>,
    signer: Arc<tokio::sync::Mutex<Option<Signer>>>,
}

/// The key that signs, as it was attested last.
struct Signer {
    key: AttestedKey,
    /// The history that the attestation rests on.
    history: Arc<History>,
    /// Unix seconds.
    renew_at: u64,
}

impl Node {
    /// Lets `identity` take part in exchanges, with its disposable keys in `cache`.
    ///
    /// A key that signs for it is made in the node's vault, and kept from then on if the node has a state directory.
    ///
    /// # Errors
    /// [`NodeError::Vault`], [`NodeError::State`].
    pub async fn exchanges(&self, identity: &Identity, cache: CacheClient) -> Result<Exchanges, NodeError> {
        let channels = Arc::clone(self.secure());
        let file = format!("exchanges/{}", identity.identifier());
        let kept = self.state().map(|state| state.read(&file)).transpose()?.flatten();
        let kept = kept.and_then(|bytes| Some(KeyId::from_bytes(bytes.try_into().ok()?)));
        let (key, public) = match kept {
            Some(key) => match channels.vault.public(key).await {
                Ok(public) => (key, public),
                Err(onward_keys::KeyError::NoSuchKey(_)) => self.new_signer(&file).await?,
                Err(error) => return Err(error.into()),
            },
            None => self.new_signer(&file).await?,
        };
        let PublicHalf::Verify(public) = public else {
            return Err(NodeError::Misuse("the key that signs exchanges is no signing key"));
        };
        let public = public.as_bytes().to_vec();
        Ok(Exchanges { channels, identity: identity.clone(), cache, key, public, signer: Arc::default() })
    }

    async fn new_signer(&self, file: &str) -> Result<(KeyId, PublicHalf), NodeError> {
        let vault = &self.secure().vault;
        let key = vault.generate(KeyUsage::Ok2crySigning).await?;
        if let Some(state) = self.state() {
            state.write(file, key.as_bytes())?;
        }
        Ok((key, vault.public(key).await?))
    }
}

impl Exchanges {
    /// Makes a key and signs what is said of it.
    ///
    /// # Errors
    /// [`NodeError::Cache`], [`NodeError::Exchange`], [`NodeError::Vault`].
    ///
    /// # Cancel safety
    /// The cache may have made a key, which ends by itself.
    pub async fn new_key(&self, wish: KeyWish<'_>) -> Result<OwnKey, NodeError> {
        let signer = self.signer().await?;
        let parent = wish.parent.map(KeyBody::encode);
        let new = NewDisposableKey {
            ttl: wish.ttl,
            binding: Some(wish.ctx),
            parent: parent.as_deref(),
            schema: wish.schema,
            ..NewDisposableKey::new(wish.policy, wish.direction, wish.audience, wish.purpose)
        };
        let made = self.cache.generate(new).await?;
        let body = KeyBody::decode(&made.body)?;
        let object = KeyObject::sign(body, &*self.channels.vault, &signer).await?;
        Ok(OwnKey { made, object, ctx: wish.ctx })
    }

    /// Verifies the key of another party by the rules of `mode`, for the request `ctx`. `carrier` is the channel it came
    /// through, if it came through one. What `mode` wants logged is logged.
    ///
    /// # Errors
    /// [`NodeError::Exchange`]: nothing may be sealed to it.
    pub fn verify(
        &self,
        object: KeyObject,
        (direction, audience, ctx): (Direction, &str, [u8; 32]),
        mode: TrustMode<'_>,
        carrier: Option<Carrier>,
    ) -> Result<VerifiedKey, NodeError> {
        let known = self.channels.known.read().unwrap_or_else(PoisonError::into_inner);
        let demand = Demand {
            policies: &ALLOWED,
            aud: audience,
            direction,
            ctx,
            now: unix_now(),
            known: &known,
            carrier,
        };
        let mut report = |event: Event| {
            if let Event::Transitive { key_id, aud } = event {
                tracing::warn!(key = %key_id, audience = %aud, "a disposable key is believed though nobody vouches for it");
            }
        };
        Ok(object.verify(&demand, mode, &mut report)?)
    }

    /// Seals `plaintext` to a verified key and signs what was sealed. `children` are keys that were made for parts of it.
    ///
    /// # Errors
    /// [`NodeError::Exchange`], [`NodeError::Vault`].
    pub async fn seal(
        &self,
        key: VerifiedKey,
        plaintext: &[u8],
        schema: Option<&dyn Schema>,
        children: &[KeyBody],
    ) -> Result<Sealed, NodeError> {
        let signer = self.signer().await?;
        let sealing = Sealing { sealer: Some((&*self.channels.vault, &signer)), schema, children };
        let mut random = UnwrapErr(getrandom::SysRng);
        Ok(key.seal(plaintext, sealing, unix_now(), &mut random).await?)
    }

    /// Verifies what was sealed to `key`, opens it, and so ends the key.
    ///
    /// # Errors
    /// [`NodeError::Exchange`]: it is not from whom `trust` accepts, or for another request, and the key lives on;
    /// [`NodeError::Cache`] when the key is gone, or this does not open with it.
    ///
    /// # Cancel safety
    /// Once it was sent to the cache, the key may be used up.
    pub async fn open(
        &self,
        key: &OwnKey,
        sealed: &Sealed,
        trust: SealerTrust<'_>,
        schema: Option<&dyn Schema>,
    ) -> Result<Received, NodeError> {
        let terms = self.expecting(key, trust, |expected| expected.verify(sealed))?;
        let opened = self.cache.open(key.body().key_id, &sealed.encode(), &key.ctx).await?;
        let opened = Opened { plaintext: opened.plaintext, sender: opened.sender };
        Ok(self.expecting(key, trust, |expected| expected.receive(&terms, opened, schema))?)
    }

    fn expecting<T>(
        &self,
        key: &OwnKey,
        trust: SealerTrust<'_>,
        then: impl FnOnce(Expected<'_>) -> Result<T, ExchangeError>,
    ) -> Result<T, ExchangeError> {
        let known = self.channels.known.read().unwrap_or_else(PoisonError::into_inner);
        then(Expected { body: key.body(), ctx: key.ctx, trust, now: unix_now(), known: &known })
    }

    /// Ends a key that is not needed any more.
    ///
    /// # Errors
    /// [`NodeError::Cache`].
    pub async fn destroy(&self, key: &OwnKey) -> Result<(), NodeError> {
        self.cache.destroy(key.body().key_id).await?;
        Ok(())
    }

    /// Who watches the log of the cache, beginning with what it says of itself now. To be kept: it notices a log that is
    /// rolled back or forked.
    ///
    /// # Errors
    /// [`NodeError::Cache`].
    pub async fn watch(&self) -> Result<Watch, NodeError> {
        let signer = self.cache.status().await?.signer;
        let signer = PublicKey::new(SignatureAlgorithm::Ed25519, &signer);
        Ok(Watch::new(signer.map_err(|_| NodeError::Misuse("a log's signer is an Ed25519 key"))?))
    }

    /// The life of a key that has ended, as the cache's log proves it to `watch`. Waits for the next signed head.
    ///
    /// # Errors
    /// [`NodeError::Cache`]; [`NodeError::Evidence`] when the proof does not hold, or shows no end within 20 s.
    pub async fn life(&self, key: &OwnKey, watch: &mut Watch) -> Result<KeyLife, NodeError> {
        let proved = async {
            loop {
                let since = watch.latest().map(|head| head.size);
                match self.cache.proof(key.body().key_id, since).await {
                    Ok(evidence) => {
                        let leaves =
                            evidence.check(watch).map_err(|error| NodeError::Evidence(error.into()))?;
                        let life = KeyLife::of(&leaves, &key.made);
                        let life = life.map_err(|error| NodeError::Evidence(error.into()))?;
                        if life.ended.is_some() {
                            return Ok(life);
                        }
                    }
                    Err(CacheError::Refused(onward_channels::ok2cry::cache::CacheRefusal::Busy)) => {}
                    Err(error) => return Err(error.into()),
                }
                tokio::time::sleep(HEAD_LOOK).await;
            }
        };
        let in_time = tokio::time::timeout(HEAD_PATIENCE, proved).await;
        in_time.unwrap_or_else(|_| Err(NodeError::Evidence("no head shows the key's end".into())))
    }

    /// The key that signs, attested by the newest history.
    async fn signer(&self) -> Result<AttestedKey, NodeError> {
        let mut signer = self.signer.lock().await;
        let history = self.identity.history();
        match &*signer {
            Some(known) if Arc::ptr_eq(&known.history, &history) && unix_now() < known.renew_at => {
                Ok(known.key.clone())
            }
            _ => {
                let attested = self
                    .channels
                    .identities
                    .attested(&history, Purpose::OK2CRY_SIGNING, &self.public)
                    .await?;
                let key = AttestedKey::new(self.key, attested.payload)?;
                *signer = Some(Signer { key: key.clone(), history, renew_at: attested.renew_at });
                Ok(key)
            }
        }
    }
}

impl fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Exchanges").field(&self.identity).finish()
    }
}

/// The policies that this end seals with. Policy 2 takes an attested key of purpose 8, which it has none of; policy 4 is
/// experimental.
const ALLOWED: [Policy; 2] = [Policy::Strong, Policy::NoiseAnonymous];
