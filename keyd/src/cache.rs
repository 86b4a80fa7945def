//! The key cache of the service: its log on disk, its keys in the arena, its askers the users that the policy names.
//!
//! It lives while the service is unlocked: locking ends every disposable key, and a process that is killed takes them
//! with it. No file ever holds one.
//!
//! Specification: docs/protocol.md §5.4, §5.6.

use std::io;
use std::path::Path;
use std::time::Duration;

use onward_channels::ok2cry::cache::{
    Asker, CacheHost, CacheLimits, CachePast, CacheRequest, Owner, Quota, encode_answer,
};
use onward_keys::Keep;
use onward_keys::arena::{Arena, Secret};
use onward_keys::service::Refusal;
use zeroize::Zeroizing;

use crate::log::{CACHE_NAMES, LogFiles};
use crate::policy::CacheRule;
use crate::service::Now;

/// Places in the arena for epoch keys, for the cache's own key, and for a private half in use.
///
/// Lives of 15, 120 and 900 s have at most 2, 4 and 17 epoch keys at a time.
pub const CACHE_PLACES: usize = 32;

/// The cache of one unlocked period.
#[derive(Debug)]
pub struct ServiceCache(CacheHost<LogFiles>);

impl ServiceCache {
    /// Begins an empty cache, whose log in `directory` goes on where it ended. `signer` is the public key of its heads.
    ///
    /// # Errors
    /// Of the system, or [`io::ErrorKind::InvalidData`] when the log was changed.
    pub fn begin(
        now: Now,
        directory: &Path,
        arena: &Arena,
        log_key: Secret,
        signer: [u8; 32],
    ) -> io::Result<Self> {
        let mut past = CachePast::default();
        let log = LogFiles::open(directory, CACHE_NAMES, log_key.as_bytes(), |leaf| past.look(leaf))?;
        // Whether a key may be taken out is for the policy to say.
        let limits = CacheLimits { take: true, ..CacheLimits::default() };
        let log = (log, log_key.into(), signer);
        CacheHost::new(limits, Keep::in_arena(arena), log, past, now.moment(), &*seed()?)
            .map(Self)
            .map_err(io::Error::other)
    }

    /// Answers an encoded request of the user `uid`, for whom `rule` is. Whoever may operate the service may ask for the
    /// cache's state without a rule.
    ///
    /// # Errors
    /// [`Refusal::Denied`] without a rule, [`Refusal::BadArguments`] for what is no request, [`Refusal::Backend`].
    pub fn answer(
        &mut self,
        now: Now,
        uid: u32,
        rule: Option<&CacheRule>,
        request: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let CacheRequest { id, call } = CacheRequest::decode(request).map_err(|_| Refusal::BadArguments)?;
        let (quota, may_take) = rule.map_or((NOTHING, false), |rule| (rule.quota, rule.take));
        let asker = Asker { owner: Owner::of_user(uid), quota, may_take };
        let seed = seed().map_err(|_| Refusal::Backend)?;
        Ok(encode_answer(id, &self.0.handle(now.moment(), &asker, &call, &seed)))
    }

    /// Does what is due, and says when to come again.
    pub fn tick(&mut self, now: Now) -> Option<Duration> {
        self.0.tick(now.moment())
    }

    /// Writes down what was done, and a head signed by `sign` where one is due.
    ///
    /// # Errors
    /// Of the system.
    pub fn write(&mut self, now: Now, sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>) -> io::Result<()> {
        self.0.write(now.moment(), sign)
    }

    /// Ends every key.
    pub fn end(&mut self, now: Now) {
        self.0.close(now.moment());
    }
}

/// What somebody may have whom no rule is for.
const NOTHING: Quota = Quota { keys_max: 0, bytes_max: 0, generates_per_second: 0 };

/// Randomness for one request.
fn seed() -> io::Result<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(io::Error::other)?;
    Ok(seed)
}
