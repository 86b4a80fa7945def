//! F8: what travels to and from the key cache, and what becomes of keys under any sequence of operations.

use std::io;
use std::time::Duration;

use onward_channels::ok2cry::cache::{
    Asker, CacheCall, CacheHost, CacheLimits, CacheOutcome, CachePast, CacheRefusal, CacheReply,
    CacheRequest, FAILURES_MAX, MemoryLog, Moment, NewDisposableKey, Owner, Quota,
};
use onward_channels::ok2cry::{Direction, DisposableKeyId, KeyBody, Policy, Sealed, seal};
use onward_keys::Keep;
use onward_keys::audit::{Evidence, Log};

/// Requests, answers and evidence: what is read has one encoding, and an answer is read without harm.
pub fn f8_cache_message(data: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(request) = CacheRequest::decode(data) {
        assert_eq!(request.encode(), data, "a request has one encoding");
        accepted = true;
    }
    if let Ok(reply) = CacheReply::decode(data) {
        let read = [
            reply.made().is_ok(),
            reply.opened().is_ok(),
            reply.ended().is_ok(),
            reply.stat().is_ok(),
            reply.status().is_ok(),
        ];
        // A made key and an opened text may look alike; nothing else does.
        assert!(read.iter().filter(|read| **read).count() <= 2, "one answer has one meaning");
        let _ = (reply.private(), reply.proof());
        accepted = true;
    }
    if let Ok(evidence) = Evidence::decode(data) {
        assert_eq!(evidence.encode(), data, "evidence has one encoding");
        accepted = true;
    }
    accepted
}

/// Operations of three bytes each on a cache, beside a model that knows of each key only its end and its failures.
/// Accepted when there was any.
pub fn f8_cache(data: &[u8]) -> bool {
    let mut cache = Fuzzed::new();
    for (step, operation) in data.chunks_exact(3).take(STEPS_MAX).enumerate() {
        let &[kind, which, arg] = operation else { break };
        cache.step(step as u64, kind % 8, which.into(), arg);
    }
    data.len() >= 3
}

/// A cache and its model.
struct Fuzzed {
    host: CacheHost<MemoryLog>,
    now: Moment,
    keys: Vec<Model>,
}

struct Model {
    body: KeyBody,
    expires: Duration,
    is_over: bool,
    failures: u8,
}

impl Fuzzed {
    fn new() -> Self {
        let keep = Keep::on_heap();
        let now = Moment { boot: Duration::from_secs(7), unix_ms: 1_700_000_000_000 };
        let opened = Log::open(MemoryLog::default(), &[1; 32], io::empty(), |_| ());
        let Ok((log, _)) = opened else { panic!("an empty log opens") };
        let Ok(log_key) = keep.hold(&mut [1; 32]) else { panic!("there is room") };
        let (limits, past) = (CacheLimits::default(), CachePast::default());
        let Ok(host) = CacheHost::new(limits, keep, (log, log_key, [0; 32]), past, now, &[2; 32]) else {
            panic!("there is room");
        };
        Self { host, now, keys: Vec::new() }
    }

    fn step(&mut self, step: u64, kind: u8, which: usize, arg: u8) {
        match kind {
            0 => self.make(step, u16::from(arg)),
            1 => self.now.boot += Duration::from_millis(100 * u64::from(arg)),
            2 => {
                // Whatever the wall clock does, nothing hangs on it.
                self.now.unix_ms = 1_700_000_000_000 + 1000 * u64::from(arg);
            }
            3 => drop(self.host.tick(self.now)),
            _ if self.keys.is_empty() => {}
            _ => self.ask(kind, which % self.keys.len(), arg),
        }
        let live = self.keys.iter().filter(|key| !key.is_over && self.now.boot < key.expires).count();
        // What is over and was not looked at yet may still be counted.
        assert!(self.host.status().live as usize >= live, "a live key was lost");
    }

    fn make(&mut self, step: u64, ttl: u16) {
        let new = NewDisposableKey {
            ttl: Some(ttl),
            ..NewDisposableKey::new(Policy::NoiseAnonymous, Direction::AnswerToMe, "a", "p")
        };
        let seed = onward_keys::hash(&step.to_be_bytes());
        match self.host.handle(self.now, &asker(1), &CacheCall::Generate(new), &seed) {
            Ok(CacheOutcome::Made(made)) => {
                let Ok(body) = KeyBody::decode(&made.body) else { panic!("a body decodes") };
                let expires = self.now.boot + Duration::from_secs(ttl.into());
                self.keys.push(Model { body, expires, is_over: false, failures: 0 });
            }
            Err(CacheRefusal::Policy) => assert_eq!(ttl, 0),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, kind: u8, which: usize, arg: u8) {
        let Some(key) = self.keys.get_mut(which) else { return };
        let id = key.body.key_id;
        let is_live = !key.is_over && self.now.boot < key.expires;
        let mut sealed = sealed_to(&key.body);
        let (asker, call) = match kind {
            4 => (asker(1), CacheCall::Use { key: id, sealed: &sealed, ctx: &CTX }),
            5 => {
                if let Some(byte) = sealed.iter_mut().rev().nth(1) {
                    *byte ^= 1 | arg;
                }
                (asker(1), CacheCall::Use { key: id, sealed: &sealed, ctx: &CTX })
            }
            6 => (asker(1), CacheCall::Destroy(id)),
            _ => (asker(2), CacheCall::Use { key: id, sealed: &sealed, ctx: &CTX }),
        };
        let answer = self.host.handle(self.now, &asker, &call, &[0; 32]);
        match (kind, is_live) {
            (4, true) => {
                assert!(matches!(answer, Ok(CacheOutcome::Opened(opened)) if *opened.plaintext == b"text"));
                key.is_over = true;
            }
            (5, true) => {
                assert!(matches!(answer, Err(CacheRefusal::BadSealed)));
                key.failures += 1;
                key.is_over = key.failures == FAILURES_MAX;
            }
            (6, true) => {
                assert!(matches!(answer, Ok(CacheOutcome::Ended(_))));
                key.is_over = true;
            }
            _ => assert!(matches!(answer, Err(CacheRefusal::NotFound)), "{answer:?}"),
        }
    }
}

fn sealed_to(body: &KeyBody) -> Vec<u8> {
    let terms = body.terms(None, CTX);
    let Ok(ciphertext) = seal(&terms, &body.public, None, b"text", &mut Constant) else { panic!("it seals") };
    let key_id = DisposableKeyId::from_bytes(*body.key_id.as_bytes());
    Sealed { policy: body.policy, key_id, ciphertext, signer: None }.encode()
}

/// No randomness at all, so that an input does the same each time: what is sealed here is no secret.
struct Constant;

impl rand_core::TryRng for Constant {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(7)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(7)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.fill(7);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Constant {}

fn asker(uid: u32) -> Asker {
    let quota = Quota { generates_per_second: u32::MAX, ..Quota::default() };
    Asker { owner: Owner::of_user(uid), quota, may_take: false }
}

const CTX: [u8; 32] = [9; 32];

/// Operations of one input, at most.
const STEPS_MAX: usize = 64;
