//! The key cache as programs use it, in the key service or, for development, in this process.
//!
//! [`CacheClient`] is the same for both. Requests go out as they come; one that is not answered within
//! [`KEY_DEADLINE`](crate::KEY_DEADLINE) fails and is not sent again: whether its key was used up is not known then.
//!
//! Specification: docs/protocol.md §5.4.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use onward_channels::ok2cry::cache::{
    Asker, CACHE_MESSAGE_BYTES_MAX, CacheCall, CacheHost, CacheLimits, CachePast, CacheRefusal, CacheReply,
    CacheReplyError, CacheRequest, CacheStatus, KeyLife, KeyStat, MadeKey, MemoryLog, Moment,
    NewDisposableKey, OpenedBytes, Owner, Quota, encode_answer,
};
use onward_channels::ok2cry::{DisposableKeyId, KeyBody, SEALED_BYTES_MAX};
use onward_channels::strict::Malformed;
use onward_keys::audit::{Evidence, Log, Watch};
use onward_keys::service::Call;
use onward_keys::{Keep, Kept, KeyError, KeyUsage, SignatureType, private};
use rustix::time::ClockId;
use zeroize::Zeroizing;

use crate::keyd::KeyClient;

/// What a request to a cache comes to.
pub type CacheAnswer<'a> = Pin<Box<dyn Future<Output = Result<Zeroizing<Vec<u8>>, CacheError>> + Send + 'a>>;

/// Where a key cache is: answers encoded requests. Programs use it through [`CacheClient`].
pub trait KeyCache: Send + Sync {
    /// Answers an encoded [`CacheRequest`] with an encoded [`CacheReply`].
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it; what was asked may be done all the same.
    fn answer(&self, request: Vec<u8>) -> CacheAnswer<'_>;
}

/// Why a cache did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The cache refused.
    #[error("the key cache refused")]
    Refused(#[source] CacheRefusal),
    /// The key service is locked, denies the cache, or did not answer in time.
    #[error("the key service did not answer for its cache")]
    Service(#[source] KeyError),
    /// What came is no answer to what was asked.
    #[error("the key cache's answer is malformed")]
    Malformed(#[source] Malformed),
    /// The log does not prove what it should.
    #[error("the life of a key is not proved")]
    Unproved(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More than can be asked: a request has at most [`CACHE_MESSAGE_BYTES_MAX`] bytes, what was sealed at most
    /// [`SEALED_BYTES_MAX`].
    #[error("{0} bytes are more than the key cache takes")]
    TooLong(usize),
    /// This process could not host a cache: no randomness, or its log failed.
    #[error("the key cache of this process failed")]
    Host(#[source] io::Error),
}

impl CacheError {
    /// Why the cache refused, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<CacheRefusal> {
        if let Self::Refused(refusal) = self { Some(*refusal) } else { None }
    }
}

/// Disposable keys of one owner, in whatever cache. Cheap to clone.
#[derive(Clone)]
pub struct CacheClient(Arc<dyn KeyCache>);

impl CacheClient {
    /// A client of `cache`.
    #[must_use]
    pub fn new(cache: impl KeyCache + 'static) -> Self {
        Self(Arc::new(cache))
    }

    /// Makes a key (GEN).
    ///
    /// # Errors
    /// [`CacheError`], as of every call here. When the answer was lost, the call may have been done.
    ///
    /// # Cancel safety
    /// As for every call here: what was sent may be done all the same.
    pub async fn generate(&self, new: NewDisposableKey<'_>) -> Result<MadeKey, CacheError> {
        self.ask(CacheCall::Generate(new), |reply| reply.made()).await
    }

    /// Opens what was sealed to a key, and ends the key (USE). Who sealed it was checked before.
    ///
    /// # Errors
    /// [`CacheError::Refused`] with [`CacheRefusal::NotFound`] or [`CacheRefusal::BadSealed`]; [`CacheError::TooLong`] above
    /// [`SEALED_BYTES_MAX`].
    pub async fn open(
        &self,
        key: DisposableKeyId,
        sealed: &[u8],
        ctx: &[u8; 32],
    ) -> Result<OpenedBytes, CacheError> {
        if sealed.len() > SEALED_BYTES_MAX {
            return Err(CacheError::TooLong(sealed.len()));
        }
        self.ask(CacheCall::Use { key, sealed, ctx }, |reply| reply.opened()).await
    }

    /// Takes a private key out, and ends the key in the cache (TAKE).
    ///
    /// # Errors
    /// [`CacheError::Refused`] with [`CacheRefusal::Denied`] where that is not allowed, which is the rule.
    pub async fn take(&self, key: DisposableKeyId) -> Result<Zeroizing<[u8; 32]>, CacheError> {
        self.ask(CacheCall::Take(key), |reply| reply.private()).await
    }

    /// Puts a key in, its private half sealed by
    /// [`seal_private`](onward_channels::ok2cry::cache::seal_private) to the key in [`CacheStatus::put_key`] (PUT).
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn put(&self, body: &[u8], (enc, ct): (&[u8], &[u8])) -> Result<MadeKey, CacheError> {
        self.ask(CacheCall::Put { body, enc, ct }, |reply| reply.made()).await
    }

    /// Ends a key (DESTROY). Answers with the place in the log of its end.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn destroy(&self, key: DisposableKeyId) -> Result<u64, CacheError> {
        self.ask(CacheCall::Destroy(key), |reply| reply.ended()).await
    }

    /// What is publicly known of a key (STAT).
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn stat(&self, key: DisposableKeyId) -> Result<KeyStat, CacheError> {
        self.ask(CacheCall::Stat(key), |reply| reply.stat()).await
    }

    /// Evidence of a key's life, and that the log is the one whose head of `since` leaves was seen (PROOF).
    ///
    /// # Errors
    /// [`CacheError::Refused`] with [`CacheRefusal::Busy`] until a head covers the key's creation, a second at most.
    pub async fn proof(&self, key: DisposableKeyId, since: Option<u64>) -> Result<Evidence, CacheError> {
        let proof = self.ask(CacheCall::Proof { key, since }, |reply| reply.proof()).await?;
        Evidence::decode(&proof).map_err(CacheError::Malformed)
    }

    /// The life so far of the key `made`, as the cache's log proves it to `watch`, which then knows the newest head.
    ///
    /// # Errors
    /// As [`CacheClient::proof`]; [`CacheError::Unproved`] when the evidence does not hold.
    pub async fn life(&self, made: &MadeKey, watch: &mut Watch) -> Result<(KeyLife, Evidence), CacheError> {
        let body = KeyBody::decode(&made.body).map_err(|error| CacheError::Unproved(error.into()))?;
        let evidence = self.proof(body.key_id, watch.latest().map(|head| head.size)).await?;
        let leaves = evidence.check(watch).map_err(|error| CacheError::Unproved(error.into()))?;
        let life = KeyLife::of(&leaves, made).map_err(|error| CacheError::Unproved(error.into()))?;
        Ok((life, evidence))
    }

    /// What is publicly known of the cache.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn status(&self) -> Result<CacheStatus, CacheError> {
        self.ask(CacheCall::Status, |reply| reply.status()).await
    }

    async fn ask<T>(
        &self,
        call: CacheCall<'_>,
        read: impl FnOnce(&CacheReply<'_>) -> Result<T, CacheReplyError>,
    ) -> Result<T, CacheError> {
        // The connection knows its requests by numbers of its own.
        let request = CacheRequest { id: 0, call }.encode();
        if request.len() > CACHE_MESSAGE_BYTES_MAX {
            return Err(CacheError::TooLong(request.len()));
        }
        let answer = self.0.answer(request).await?;
        let reply = CacheReply::decode(&answer).map_err(CacheError::Malformed)?;
        read(&reply).map_err(|error| match error {
            CacheReplyError::Refused(refusal) => CacheError::Refused(refusal),
            CacheReplyError::Malformed(malformed) => CacheError::Malformed(malformed),
            // Nothing else can be wrong with an answer.
            _ => CacheError::Host(io::ErrorKind::InvalidData.into()),
        })
    }
}

impl fmt::Debug for CacheClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheClient").finish_non_exhaustive()
    }
}

impl KeyCache for KeyClient {
    fn answer(&self, request: Vec<u8>) -> CacheAnswer<'_> {
        Box::pin(async move {
            let copy = |answer: &[u8]| Zeroizing::new(answer.to_vec());
            let answered = self.ask(Call::Cache(&request), None, |reply| reply.cache().map(copy)).await;
            answered.map_err(CacheError::Service)
        })
    }
}

/// A key cache in this process, for development: its keys are wiped like the service's, but lie in memory that may be
/// swapped, dumped and read by the program. Its log is in memory, grows, and is gone with it.
///
/// Cheap to clone; it ends with the last clone.
#[derive(Clone)]
pub struct LocalCache {
    host: Arc<Host>,
    asker: Asker,
}

struct Host {
    cache: Mutex<CacheHost<MemoryLog>>,
    /// Signs the heads of the log.
    signer: Kept,
}

impl LocalCache {
    /// Starts a cache, whose keys through this handle are those of `owner`. To be called within a runtime of tokio.
    ///
    /// # Errors
    /// [`CacheError::Host`] without randomness.
    pub fn start(limits: CacheLimits, owner: Owner) -> Result<Self, CacheError> {
        let keep = Keep::on_heap();
        let signer = keep.hold(&mut *seed()?).map_err(CacheError::Host)?;
        let log_key = keep.hold(&mut *seed()?).map_err(CacheError::Host)?;
        let public = private::public_half(KeyUsage::AuditSigning, signer.as_bytes());
        let public = public.as_bytes().try_into().map_err(|_| host_failed("the signer's key"))?;
        let opened = Log::open(MemoryLog::default(), log_key.as_bytes(), io::empty(), |_| ());
        let (log, _) = opened.map_err(|error| CacheError::Host(io::Error::other(error)))?;
        let past = CachePast::default();
        let cache = CacheHost::new(limits, keep, (log, log_key, public), past, now(), &*seed()?);
        let cache = Mutex::new(cache.map_err(CacheError::Refused)?);
        let host = Arc::new(Host { cache, signer });
        host.write(&mut host.cache(), now())?;
        // Ends with the last handle.
        tokio::spawn(sweep(Arc::downgrade(&host)));
        Ok(Self { host, asker: Asker { owner, quota: Quota::default(), may_take: false } })
    }

    /// The same cache with the keys of another owner.
    #[must_use]
    pub fn of(&self, owner: Owner) -> Self {
        let asker = Asker { owner, ..self.asker };
        Self { host: Arc::clone(&self.host), asker }
    }

    /// The same cache with another quota for its owner.
    #[must_use]
    pub fn with_quota(&self, quota: Quota) -> Self {
        let asker = Asker { quota, ..self.asker };
        Self { host: Arc::clone(&self.host), asker }
    }
}

impl KeyCache for LocalCache {
    fn answer(&self, request: Vec<u8>) -> CacheAnswer<'_> {
        Box::pin(async move {
            let CacheRequest { id, call } = CacheRequest::decode(&request).map_err(CacheError::Malformed)?;
            let seed = seed()?;
            let mut cache = self.host.cache();
            // Read once the turn has come: whoever waited must not be answered as of before.
            let now = now();
            let answer = cache.handle(now, &self.asker, &call, &seed);
            self.host.write(&mut cache, now)?;
            drop(cache);
            Ok(encode_answer(id, &answer))
        })
    }
}

impl fmt::Debug for LocalCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache").field("asker", &self.asker).finish_non_exhaustive()
    }
}

impl Host {
    fn cache(&self) -> MutexGuard<'_, CacheHost<MemoryLog>> {
        // A request that panicked has ended its key or has not: either is a state of the cache.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, cache: &mut CacheHost<MemoryLog>, now: Moment) -> Result<(), CacheError> {
        let sign = |body: &[u8]| Some(private::sign(self.signer.as_bytes(), SignatureType::AuditSth, body));
        cache.write(now, sign).map_err(CacheError::Host)
    }
}

/// Ends what is over, every [`SWEEP_EVERY`] until the cache is gone.
async fn sweep(host: Weak<Host>) {
    loop {
        let Some(host) = host.upgrade() else { return };
        let (now, due) = {
            let mut cache = host.cache();
            let now = now();
            let due = cache.tick(now);
            // Memory takes every leaf.
            let _ = host.write(&mut cache, now);
            (now, due)
        };
        match due {
            // More is due than one turn does: others come first, then this goes on.
            Some(due) if due <= now.boot => tokio::task::yield_now().await,
            _ => {
                drop(host);
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        }
    }
}

/// How often keys whose time is over are looked for. Source: docs/protocol.md §5.4.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

fn now() -> Moment {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let boot = rustix::time::clock_gettime(CLOCK);
    let boot = Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32);
    Moment { boot, unix_ms: unix.as_millis() as u64 }
}

/// The clock that never steps and counts sleep.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

fn seed() -> Result<Zeroizing<[u8; 32]>, CacheError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|error| CacheError::Host(io::Error::other(error)))?;
    Ok(seed)
}

fn host_failed(what: &'static str) -> CacheError {
    CacheError::Host(io::Error::other(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use onward_channels::ok2cry::cache::DisposableKeyState;
    use onward_channels::ok2cry::{Direction, Policy, Sealed, seal};
    use onward_keys::{PublicKey, SignatureAlgorithm};

    const CTX: [u8; 32] = [7; 32];

    fn new(ttl: u16) -> NewDisposableKey<'static> {
        NewDisposableKey {
            ttl: Some(ttl),
            ..NewDisposableKey::new(Policy::Strong, Direction::RequestToMe, "bank", "pin")
        }
    }

    fn sealed_to(made: &MadeKey) -> (DisposableKeyId, Vec<u8>) {
        let body = KeyBody::decode(&made.body).unwrap();
        let terms = body.terms(None, CTX);
        let mut random = rand_core::UnwrapErr(getrandom::SysRng);
        let ciphertext = seal(&terms, &body.public, None, b"1234", &mut random).unwrap();
        let sealed = Sealed { policy: body.policy, key_id: body.key_id, ciphertext, signer: None };
        (body.key_id, sealed.encode())
    }

    #[tokio::test]
    async fn a_key_of_this_process_opens_once_for_its_owner_and_its_life_is_proved() {
        let local = LocalCache::start(CacheLimits::default(), Owner::of_user(1)).unwrap();
        let (ours, theirs) = (CacheClient::new(local.clone()), CacheClient::new(local.of(Owner::of_user(2))));
        let made = ours.generate(new(60)).await.unwrap();
        let (key, sealed) = sealed_to(&made);
        let refused = |error: CacheError| error.refusal();
        let stranger = theirs.open(key, &sealed, &CTX).await;
        assert_eq!(stranger.map(drop).map_err(refused), Err(Some(CacheRefusal::NotFound)));
        assert_eq!(ours.open(key, &sealed, &CTX).await.unwrap().plaintext[..], *b"1234");
        let again = ours.open(key, &sealed, &CTX).await;
        assert_eq!(again.map(drop).map_err(refused), Err(Some(CacheRefusal::NotFound)));
        let signer = ours.status().await.unwrap().signer;
        let mut watch = Watch::new(PublicKey::new(SignatureAlgorithm::Ed25519, &signer).unwrap());
        // The next head comes within a second.
        let life = loop {
            match ours.life(&made, &mut watch).await {
                Ok((life, _)) if life.ended.is_some() => break life,
                Ok(_) | Err(CacheError::Refused(CacheRefusal::Busy)) => tokio::time::sleep(SWEEP_EVERY).await,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(life.ended.map(|(state, _)| state), Some(DisposableKeyState::Used));
    }

    #[tokio::test]
    async fn what_is_longer_than_anything_sealed_is_refused_as_too_long() {
        let local = LocalCache::start(CacheLimits::default(), Owner::of_user(1)).unwrap();
        let client = CacheClient::new(local);
        let (key, _) = sealed_to(&client.generate(new(60)).await.unwrap());
        let longest = client.open(key, &vec![0; SEALED_BYTES_MAX], &CTX).await.unwrap_err();
        assert_eq!(longest.refusal(), Some(CacheRefusal::BadSealed));
        let longer = client.open(key, &vec![0; SEALED_BYTES_MAX + 1], &CTX).await.unwrap_err();
        assert!(matches!(longer, CacheError::TooLong(bytes) if bytes == SEALED_BYTES_MAX + 1));
    }

    #[tokio::test]
    async fn a_key_whose_time_is_over_is_swept_though_nobody_asks_for_it() {
        let local = LocalCache::start(CacheLimits::default(), Owner::of_user(1)).unwrap();
        let client = CacheClient::new(local);
        client.generate(new(1)).await.unwrap();
        assert_eq!(client.status().await.unwrap().live, 1);
        tokio::time::timeout(Duration::from_secs(60), async {
            while client.status().await.unwrap().live > 0 {
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        })
        .await
        .unwrap();
    }
}
