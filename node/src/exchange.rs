//! Exchanges with disposable keys: an identity's part in them, with its keys in a cache.
//!
//! Everything that is decided is `onward-channels`'; here are the clock, the randomness, the vault that signs and the cache
//! that opens. What was sealed is verified before its key is used up, so that a forgery costs no key.
//!
//! Specification: docs/protocol.md §5.1 to §5.4.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use onward_channels::identity::{Identifier, Identity as History, Purpose};
use onward_channels::ok2cry::cache::{CacheRefusal, KeyLife, MadeKey, NewDisposableKey, Owner};
use onward_channels::ok2cry::{
    AttestedKey, Carrier, Demand, Direction, Event, ExchangeError, Expected, KeyBody, KeyObject, Opened,
    Policy, Received, Schema, Sealed, SealerTrust, Sealing, TrustMode, VerifiedKey, check_scope,
};
use onward_keys::audit::Watch;
use onward_keys::{KeyId, KeyUsage, PublicHalf, PublicKey, SignatureAlgorithm};
use rand_core::UnwrapErr;

use crate::cache::CacheClient;
use crate::channel::{Channels, unix_now};
use crate::error::NodeError;
use crate::identity::Identity;
use crate::node::Node;
use crate::state::StateDir;

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
    pub parent: Option<Parent<'a>>,
    /// Who else may use it, in a cache that knows who asks by their identities.
    pub delegates: &'a [Identifier],
    /// SHA-256 of the canonical JSON schema that the plaintext follows.
    pub schema: Option<[u8; 32]>,
}

/// The key of an exchange that has parts, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// What is said of the key.
    pub body: &'a KeyBody,
    /// Who made it, as was verified: what the parts bring is not for it.
    pub client: Identifier,
}

impl<'a> KeyWish<'a> {
    /// A STRONG key for an answer to the request `ctx`.
    #[must_use]
    pub fn answer(audience: &'a str, purpose: &'a str, ctx: [u8; 32]) -> Self {
        let (policy, direction) = (Policy::Strong, Direction::AnswerToMe);
        let (ttl, parent, delegates, schema) = (None, None, &[][..], None);
        Self { policy, direction, audience, purpose, ctx, ttl, parent, delegates, schema }
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
    /// The key again, from what its maker kept of it: [`OwnKey::made`], [`OwnKey::object`] and [`OwnKey::ctx`]. Whether
    /// it still lives, its cache knows.
    #[must_use]
    pub fn kept(made: MadeKey, object: KeyObject, ctx: [u8; 32]) -> Self {
        Self { made, object, ctx }
    }

    /// By what its owner finds it in the cache's log. No secret, and of no use to anybody else.
    #[must_use]
    pub fn made(&self) -> &MadeKey {
        &self.made
    }

    /// The request it belongs to.
    #[must_use]
    pub fn ctx(&self) -> &[u8; 32] {
        &self.ctx
    }

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
    state: Option<Arc<StateDir>>,
    identity: Identity,
    cache: CacheClient,
    /// Signs keys, and what is sealed.
    signing: Arc<PurposeKey>,
    /// Proves the sealer inside of what policy 2 seals. Made when it is first needed.
    sealing: Arc<PurposeKey>,
}

/// A key of the identity in the node's vault, for one purpose.
struct PurposeKey {
    usage: KeyUsage,
    /// Where the state directory has its name.
    file: String,
    attested: tokio::sync::Mutex<Option<Attested>>,
}

/// A key as it was attested last.
struct Attested {
    id: KeyId,
    public: PublicHalf,
    key: AttestedKey,
    /// The history that the attestation rests on.
    history: Arc<History>,
    /// Unix seconds.
    renew_at: u64,
}

impl PurposeKey {
    fn new(usage: KeyUsage, file: String) -> Arc<Self> {
        Arc::new(Self { usage, file, attested: tokio::sync::Mutex::default() })
    }
}

impl Node {
    /// Lets `identity` take part in exchanges, with its disposable keys in `cache`.
    ///
    /// A key that signs for it is made in the node's vault and attested, and so is one that seals with policy 2 when that is
    /// first done. Both are kept from then on if the node has a state directory.
    ///
    /// # Errors
    /// [`NodeError::Vault`], [`NodeError::State`], [`NodeError::Identity`].
    pub async fn exchanges(&self, identity: &Identity, cache: CacheClient) -> Result<Exchanges, NodeError> {
        let name = format!("exchanges/{}", identity.identifier());
        let exchanges = Exchanges {
            channels: Arc::clone(self.secure()),
            state: self.shared_state(),
            identity: identity.clone(),
            cache,
            sealing: PurposeKey::new(KeyUsage::Ok2cryStatic, format!("{name}-static")),
            signing: PurposeKey::new(KeyUsage::Ok2crySigning, name),
        };
        // What the vault does not allow is better known now than at the first exchange.
        exchanges.attested(&exchanges.signing).await?;
        Ok(exchanges)
    }
}

impl Exchanges {
    /// Makes a key and signs what is said of it.
    ///
    /// # Errors
    /// [`NodeError::Exchange`] with [`ExchangeError::Child`] when the maker of the parent could use the key;
    /// [`NodeError::Cache`], [`NodeError::Vault`]. No key was signed.
    ///
    /// # Cancel safety
    /// The cache may have made a key, which ends by itself.
    pub async fn new_key(&self, wish: KeyWish<'_>) -> Result<OwnKey, NodeError> {
        if let Some(parent) = &wish.parent {
            check_scope(&parent.client, &self.identity.identifier(), wish.delegates)?;
        }
        let signer = self.attested(&self.signing).await?;
        let parent = wish.parent.map(|parent| parent.body.encode());
        let new = NewDisposableKey {
            ttl: wish.ttl,
            binding: Some(wish.ctx),
            parent: parent.as_deref(),
            schema: wish.schema,
            delegates: wish.delegates.iter().map(Owner::from).collect(),
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
            policies: &Policy::ALL,
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

    /// Seals `plaintext` to a verified key and signs what was sealed; with policy 2 the sealer is shown inside instead.
    /// `children` are keys that were made for parts of it.
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
        let inside = key.body().policy.shows_sealer_inside();
        let own = if inside { &self.sealing } else { &self.signing };
        let signer = self.attested(own).await?;
        let sealing = Sealing { sealer: Some((&*self.channels.vault, &signer)), schema, children };
        let mut random = UnwrapErr(getrandom::SysRng);
        Ok(key.seal(plaintext, sealing, unix_now(), &mut random).await?)
    }

    /// Verifies what was sealed to `key`, opens it, and so ends the key.
    ///
    /// # Errors
    /// [`NodeError::Exchange`]: it is not from whom `trust` accepts, or for another request, or `schema` is not the one that
    /// the key names, and the key lives on; or what was in it does not follow the schema, or policy 2 shows another sealer,
    /// and the key is gone. [`NodeError::Cache`] when the key was gone before, or this does not open with it.
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
        if key.body().schema != schema.map(Schema::digest) {
            return Err(ExchangeError::OtherSchema.into());
        }
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
    /// [`NodeError::Cache`], also when the proof does not hold; [`NodeError::NoEnd`] when it shows no end within 20 s.
    pub async fn life(&self, key: &OwnKey, watch: &mut Watch) -> Result<KeyLife, NodeError> {
        let proved = async {
            loop {
                match self.cache.life(&key.made, watch).await {
                    Ok((life, _)) if life.ended.is_some() => return Ok(life),
                    Ok(_) => {}
                    Err(error) if error.refusal() == Some(CacheRefusal::Busy) => {}
                    Err(error) => return Err(error.into()),
                }
                tokio::time::sleep(HEAD_LOOK).await;
            }
        };
        let in_time = tokio::time::timeout(HEAD_PATIENCE, proved).await;
        in_time.unwrap_or_else(|_| Err(NodeError::NoEnd))
    }

    /// A key of the identity, made if need be and attested by the newest history.
    async fn attested(&self, own: &PurposeKey) -> Result<AttestedKey, NodeError> {
        let mut attested = own.attested.lock().await;
        let history = self.identity.history();
        if let Some(known) = &*attested
            && Arc::ptr_eq(&known.history, &history)
            && unix_now() < known.renew_at
        {
            return Ok(known.key.clone());
        }
        let (id, public) = match &*attested {
            Some(known) => (known.id, known.public.clone()),
            None => self.kept_or_new(own).await?,
        };
        let purpose = Purpose::new(own.usage).ok_or(NodeError::Misuse("no purpose of an attested key"))?;
        let made = self.channels.identities.attested(&history, purpose, public.as_bytes()).await?;
        let key = AttestedKey::new(id, made.payload)?;
        *attested = Some(Attested { id, public, key: key.clone(), history, renew_at: made.renew_at });
        Ok(key)
    }

    /// The key that the state directory names, as long as the vault has it; else a new one.
    async fn kept_or_new(&self, own: &PurposeKey) -> Result<(KeyId, PublicHalf), NodeError> {
        let vault = &self.channels.vault;
        let kept = self.state.as_ref().map(|state| state.read(&own.file)).transpose()?.flatten();
        if let Some(id) = kept.and_then(|bytes| Some(KeyId::from_bytes(bytes.try_into().ok()?))) {
            match vault.public(id).await {
                Ok(public) => return Ok((id, public)),
                Err(onward_keys::KeyError::NoSuchKey(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let id = vault.generate(own.usage).await?;
        if let Some(state) = &self.state {
            state.write(&own.file, id.as_bytes())?;
        }
        Ok((id, vault.public(id).await?))
    }
}

impl fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Exchanges").field(&self.identity).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::LocalCache;
    use onward_channels::ok2cry::cache::CacheLimits;
    use onward_channels::ok2cry::{Pins, context};

    const API: &str = "cards";

    async fn party(name: &str) -> (Node, Identity, Exchanges) {
        let node = Node::builder(name).start().await.unwrap();
        let identity = node.create_identity().await.unwrap();
        let exchanges = node.exchanges(&identity, cache()).await.unwrap();
        (node, identity, exchanges)
    }

    fn cache() -> CacheClient {
        CacheClient::new(LocalCache::start(CacheLimits::default(), Owner::of_user(0)).unwrap())
    }

    struct Anything;

    impl Schema for Anything {
        fn digest(&self) -> [u8; 32] {
            [0; 32]
        }

        fn admits(&self, _: &[u8]) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn what_is_sealed_with_each_policy_opens_for_whom_it_was_sealed_by_whom_it_says() {
        let (_app_node, app, asks) = party("app").await;
        let (_bank_node, bank, answers) = party("bank").await;
        let (app, bank) = (Pins::identifiers([app.identifier()]), Pins::identifiers([bank.identifier()]));
        let ctx = context("GET", "/pin", b"1");
        for policy in Policy::ALL {
            let wish = KeyWish { policy, ..KeyWish::answer(API, "pin", ctx) };
            let key = asks.new_key(wish).await.unwrap();
            let about = (Direction::AnswerToMe, API, ctx);
            let mode = TrustMode::Identity(&app);
            let verified = answers.verify(key.object().clone(), about, mode, None).unwrap();
            let sealed = answers.seal(verified, b"4711", None, &[]).await.unwrap();
            // A schema that the key does not name costs nothing.
            let other = asks.open(&key, &sealed, SealerTrust::Identity(&bank), Some(&Anything)).await;
            assert!(matches!(other, Err(NodeError::Exchange(ExchangeError::OtherSchema))), "{policy}");
            // What was kept of the key is enough to open with.
            let kept = OwnKey::kept(key.made().clone(), key.object().clone(), *key.ctx());
            let stranger = asks.open(&kept, &sealed, SealerTrust::Identity(&app), None).await;
            if policy.shows_sealer_inside() {
                // The sealer is shown inside: who it is comes out when the key is used up.
                assert!(matches!(stranger, Err(NodeError::Exchange(ExchangeError::Signer(_)))));
                continue;
            }
            assert!(matches!(stranger, Err(NodeError::Exchange(_))), "{policy}");
            let opened = asks.open(&kept, &sealed, SealerTrust::Identity(&bank), None).await.unwrap();
            assert_eq!((&opened.plaintext[..], opened.sealer.is_some()), (&b"4711"[..], true), "{policy}");
        }
        let wish = KeyWish { policy: Policy::Noise, ..KeyWish::answer(API, "pin", ctx) };
        let key = asks.new_key(wish).await.unwrap();
        let about = (Direction::AnswerToMe, API, ctx);
        let verified = answers.verify(key.object().clone(), about, TrustMode::Identity(&app), None).unwrap();
        let sealed = answers.seal(verified, b"4711", None, &[]).await.unwrap();
        let opened = asks.open(&key, &sealed, SealerTrust::Identity(&bank), None).await.unwrap();
        assert_eq!(opened.sealer, Some(answers.identity.identifier()));
    }

    #[tokio::test]
    async fn n5_8_a_key_that_its_parent_s_maker_could_use_is_not_made() {
        let (_app_node, app, asks) = party("app").await;
        let (_company_node, company, composes) = party("company").await;
        let (app, company) = (app.identifier(), company.identifier());
        let ctx = context("GET", "/card", b"1");
        let wish = KeyWish { ttl: Some(60), ..KeyWish::answer(API, "card", ctx) };
        let theirs = asks.new_key(wish).await.unwrap();
        let part = |client, delegates| {
            let parent = Some(Parent { body: theirs.body(), client });
            let wish = KeyWish { ttl: Some(30), parent, delegates, ..KeyWish::answer(API, "part", ctx) };
            composes.new_key(wish)
        };
        assert!(part(app, &[]).await.is_ok());
        for (client, delegates) in [(company, &[][..]), (app, &[app][..])] {
            let refused = part(client, delegates).await;
            assert!(matches!(refused, Err(NodeError::Exchange(ExchangeError::Child))), "{delegates:?}");
        }
    }

    #[tokio::test]
    async fn keys_of_an_identity_are_those_from_before_the_restart() {
        let home = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let node = Node::builder("app").state_dir(home.path()).start().await.unwrap();
            let identity = node.load_or_create_identity("app").await.unwrap();
            let exchanges = node.exchanges(&identity, cache()).await.unwrap();
            let (signing, sealing) = (&exchanges.signing, &exchanges.sealing);
            let ids = [signing, sealing].map(|own| async { exchanges.kept_or_new(own).await.unwrap().0 });
            let [signing, sealing] = ids;
            seen.push((signing.await, sealing.await));
            node.shutdown(Duration::from_secs(5)).await;
        }
        assert_eq!(seen[0], seen[1]);
        assert_ne!(seen[0].0, seen[0].1);
    }
}
