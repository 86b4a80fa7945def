//! A cache of one's own, whose clocks move when the test says so.

use std::time::Duration;

use onward_channels::ok2cry::cache::{
    Asker, CacheCall, CacheHost, CacheLimits, CacheOutcome, CachePast, CacheRefusal, KeyStat, MadeKey,
    MemoryLog, Moment, NewDisposableKey, Owner, Quota,
};
use onward_channels::ok2cry::{Direction, DisposableKeyId, KeyBody, Policy, Sealed, seal};
use onward_keys::audit::{Evidence, Leaf, Log, Tree, Watch};
use onward_keys::{Keep, KeyUsage, PublicKey, SignatureAlgorithm, SignatureType, private};

/// The request that exchanges belong to here.
pub(crate) const CTX: [u8; 32] = [9; 32];

/// What is sealed here.
pub(crate) const PIN: &[u8] = b"1234";

const SIGNER: [u8; 32] = [5; 32];

pub(crate) struct Fixture {
    pub(crate) host: CacheHost<MemoryLog>,
    pub(crate) now: Moment,
    seeds: u64,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(CacheLimits::default())
    }

    pub(crate) fn with(limits: CacheLimits) -> Self {
        Self::after(limits, MemoryLog::default(), CachePast::default(), &[])
    }

    /// A cache that goes on with a log.
    pub(crate) fn after(limits: CacheLimits, medium: MemoryLog, mut past: CachePast, leaves: &[u8]) -> Self {
        let now = Moment { boot: Duration::from_secs(1000), unix_ms: 1_700_000_000_000 };
        let (log, _) = Log::open(medium, &[1; 32], leaves, |leaf| past.look(leaf)).unwrap();
        let log_key = Keep::on_heap().hold(&mut [1; 32]).unwrap();
        let signer = private::public_half(KeyUsage::AuditSigning, &SIGNER).as_bytes().try_into().unwrap();
        let log = (log, log_key, signer);
        let host = CacheHost::new(limits, Keep::on_heap(), log, past, now, &[8; 32]).unwrap();
        let mut fixture = Self { host, now, seeds: 0 };
        fixture.write();
        fixture
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now.boot += time;
        self.now.unix_ms += time.as_millis() as u64;
    }

    /// What is due is done, until nothing is.
    pub(crate) fn sweep(&mut self) {
        while self.host.tick(self.now).is_some_and(|due| due <= self.now.boot) {}
        self.write();
    }

    pub(crate) fn write(&mut self) {
        self.host.write(self.now, sign).unwrap();
    }

    pub(crate) fn handle(
        &mut self,
        asker: &Asker,
        call: &CacheCall<'_>,
    ) -> Result<CacheOutcome, CacheRefusal> {
        self.seeds += 1;
        let seed = onward_keys::hash(&self.seeds.to_be_bytes());
        self.host.handle(self.now, asker, call, &seed)
    }

    pub(crate) fn make(&mut self, asker: &Asker, new: NewDisposableKey<'_>) -> Result<Key, CacheRefusal> {
        match self.handle(asker, &CacheCall::Generate(new))? {
            CacheOutcome::Made(made) => Ok(Key { body: KeyBody::decode(&made.body).unwrap(), made }),
            other => panic!("{other:?}"),
        }
    }

    /// A key with a life of `ttl` seconds.
    pub(crate) fn key(&mut self, ttl: u16) -> Key {
        self.make(&asker(1), NewDisposableKey { ttl: Some(ttl), ..plain() }).unwrap()
    }

    pub(crate) fn open(&mut self, asker: &Asker, key: &Key, sealed: &[u8]) -> Result<Vec<u8>, CacheRefusal> {
        match self.handle(asker, &CacheCall::Use { key: key.id(), sealed, ctx: &CTX })? {
            CacheOutcome::Opened(opened) => Ok(opened.plaintext.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn stat(&mut self, asker: &Asker, key: &Key) -> Result<KeyStat, CacheRefusal> {
        match self.handle(asker, &CacheCall::Stat(key.id()))? {
            CacheOutcome::Stat(stat) => Ok(stat),
            other => panic!("{other:?}"),
        }
    }

    /// What is proved of a key, checked against what `watch` has seen.
    pub(crate) fn proof(&mut self, key: &Key, watch: &mut Watch) -> Result<Vec<Leaf>, CacheRefusal> {
        let since = watch.latest().map(|head| head.size);
        match self.handle(&asker(1), &CacheCall::Proof { key: key.id(), since })? {
            CacheOutcome::Proof(bytes) => Ok(Evidence::decode(&bytes).unwrap().check(watch).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn live(&self) -> u32 {
        self.host.status().live
    }

    /// Ends the cache, and answers with its log.
    pub(crate) fn into_leaves(mut self) -> Vec<Leaf> {
        self.host.close(self.now);
        self.write();
        leaves(self.host.medium().leaves())
    }
}

pub(crate) fn leaves(log: &[u8]) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    Tree::read(log, |leaf, _, _| leaves.push(leaf.clone())).unwrap();
    leaves
}

pub(crate) fn watch() -> Watch {
    let signer = private::public_half(KeyUsage::AuditSigning, &SIGNER);
    Watch::new(PublicKey::new(SignatureAlgorithm::Ed25519, signer.as_bytes()).unwrap())
}

fn sign(body: &[u8]) -> Option<[u8; 64]> {
    Some(private::sign(&SIGNER, SignatureType::AuditSth, body))
}

/// A key, and what only its maker has.
pub(crate) struct Key {
    pub(crate) body: KeyBody,
    pub(crate) made: MadeKey,
}

impl Key {
    pub(crate) fn id(&self) -> DisposableKeyId {
        self.body.key_id
    }

    /// [`PIN`], sealed to the key.
    pub(crate) fn sealed(&self) -> Vec<u8> {
        self.sealed_for(&CTX)
    }

    pub(crate) fn sealed_for(&self, ctx: &[u8; 32]) -> Vec<u8> {
        let body = &self.body;
        let terms = body.terms(None, *ctx);
        let ciphertext = seal(&terms, &body.public, None, PIN, &mut Seeded(0)).unwrap();
        Sealed { policy: body.policy, key_id: body.key_id, ciphertext, signer: None }.encode()
    }
}

/// A key that asks for nothing in particular.
pub(crate) fn plain() -> NewDisposableKey<'static> {
    NewDisposableKey::new(Policy::NoiseAnonymous, Direction::AnswerToMe, "bank", "card-pin")
}

/// User `uid`, whom no rate holds up.
pub(crate) fn asker(uid: u32) -> Asker {
    let quota = Quota { generates_per_second: u32::MAX, ..Quota::default() };
    Asker { owner: Owner::of_user(uid), quota, may_take: false }
}

/// Randomness for whoever seals here: what it is does not matter to the cache.
pub(crate) struct Seeded(pub(crate) u64);

impl rand_core::TryRng for Seeded {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in out.chunks_mut(32) {
            self.0 += 1;
            chunk.copy_from_slice(&onward_keys::hash(&self.0.to_be_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Seeded {}
