//! The key cache in process: what an exchange with a fresh key costs beside the bare cryptography, what a million live
//! keys weigh, and how punctually keys are wiped. One core.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use onward::ok2cry::cache::{
    Asker, CacheCall, CacheHost, CacheLimits, CacheOutcome, CachePast, MemoryLog, Moment, NewDisposableKey,
    Owner, Quota,
};
use onward::ok2cry::{Direction, DisposableKeyId, KeyBody, Policy, Sealed, seal};
use onward_keys::audit::{Event, Log, Tree};
use onward_keys::{Backend, HpkeSuite, Keep, SignatureType, private};

use crate::measure::{RUN, RUNS, print};
use crate::pair::must;

/// What is sealed, in bytes: a PIN block.
const PLAINTEXT: &[u8] = &[7; 16];

const CTX: [u8; 32] = [9; 32];

/// Live keys of the large cache.
const MANY: usize = 1_000_000;

/// By when keys of 900 s are over, and by when their records are to be forgotten.
const OVER: Duration = Duration::from_secs(1000);
const FORGOTTEN: Duration = Duration::from_secs(2000);

/// Operations whose times are compared, with many live keys and with none.
const TIMED: usize = 10_000;

struct Host {
    host: CacheHost<MemoryLog>,
    started: Instant,
}

impl Host {
    fn new() -> Self {
        let keep = Keep::on_heap();
        let opened = Log::open(MemoryLog::default(), &[1; 32], io::empty(), |_| ());
        let (log, _) = must(opened);
        let log = (log, must(keep.hold(&mut [1; 32])), [0; 32]);
        let started = Instant::now();
        let limits = CacheLimits { keys_max: u32::MAX, records_max: u32::MAX, ..CacheLimits::default() };
        let host = must(CacheHost::new(limits, keep, log, CachePast::default(), moment(started), &seed()));
        Self { host, started }
    }

    fn ask(&mut self, call: &CacheCall<'_>) -> CacheOutcome {
        let now = moment(self.started);
        let outcome = must(self.host.handle(now, &asker(), call, &seed()));
        must(self.host.write(now, |body| Some(private::sign(&[5; 32], SignatureType::AuditSth, body))));
        outcome
    }

    fn generate(&mut self, policy: Policy, ttl: u16) -> KeyBody {
        let new = NewDisposableKey {
            ttl: Some(ttl),
            ..NewDisposableKey::new(policy, Direction::AnswerToMe, "bank", "card-pin")
        };
        match self.ask(&CacheCall::Generate(new)) {
            CacheOutcome::Made(made) => must(KeyBody::decode(&made.body)),
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, key: DisposableKeyId, sealed: &[u8]) {
        match self.ask(&CacheCall::Use { key, sealed, ctx: &CTX }) {
            CacheOutcome::Opened(opened) => assert_eq!(*opened.plaintext, PLAINTEXT),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn run(workers: usize) {
    let bare = rate(bare_hpke);
    print("ok2cry.bare.16", "exchanges/s", workers, &bare);
    let mut medians = Vec::new();
    for (name, policy) in [("strong", Policy::Strong), ("noise-anonymous", Policy::NoiseAnonymous)] {
        let mut host = Host::new();
        let samples = rate(|| {
            let body = host.generate(policy, 15);
            host.open(body.key_id, &sealed_to(&body));
            // As a host does, so that what is over is wiped and forgotten.
            host.host.tick(moment(host.started));
        });
        print(&format!("ok2cry.cache.{name}.16"), "exchanges/s", workers, &samples);
        medians.push(median(&samples));
    }
    print("ok2cry.cache.strong.16", "x bare", workers, &[medians[0] / median(&bare)]);
    print("ok2cry.cache.noise-anonymous.16", "x strong", workers, &[medians[1] / medians[0]]);
    punctual(workers);
    many(workers);
}

/// Key, encapsulation, decapsulation and the AEAD both ways: what no exchange of policy 1 can do without.
fn bare_hpke() {
    let (suite, backend, mut random) = (HpkeSuite::P256Aes256Gcm, Backend::best(), random());
    let key = suite.generate(&mut random);
    let public = must(suite.public_key(backend, key.as_bytes()));
    let sealed = must(suite.seal(backend, &public, (b"info", b"aad"), PLAINTEXT, &mut random));
    let opened = must(suite.open(backend, key.as_bytes(), &sealed.enc, (b"info", b"aad"), &sealed.ct));
    assert_eq!(*opened, PLAINTEXT);
}

/// How late keys of one second are wiped by a host that sleeps until something is due.
fn punctual(workers: usize) {
    const KEYS: usize = 5_000;
    let mut host = Host::new();
    for _ in 0..KEYS {
        host.generate(Policy::NoiseAnonymous, 1);
        host.host.tick(moment(host.started));
    }
    while host.host.status().live > 0 {
        let now = moment(host.started);
        if let Some(wait) = host.host.tick(now).map(|due| due.saturating_sub(now.boot)) {
            std::thread::sleep(wait);
        }
    }
    must(host.host.write(moment(host.started), |_| None));
    let (mut made, mut late) = (HashMap::new(), Vec::new());
    must(Tree::read(host.host.medium().leaves(), |leaf, _, _| match leaf.entry.event {
        Event::Created => drop(made.insert(leaf.entry.key, leaf.time_ms)),
        Event::Expired => {
            let due = made.get(&leaf.entry.key).map_or(0, |made| made + 1000);
            late.push(leaf.time_ms.saturating_sub(due) as f64);
        }
        _ => {}
    }));
    assert_eq!(late.len(), KEYS);
    print("ok2cry.cache.wipe", "ms late p99", workers, &[percentile(&mut late, 99)]);
}

/// What a million live keys weigh, whether they slow anything, and how long one turn of their sweep takes.
fn many(workers: usize) {
    let mut host = Host::new();
    let empty = timed(&mut host);
    let before = resident();
    let log = host.host.medium().leaves().len();
    for _ in 0..MANY {
        host.generate(Policy::Strong, 900);
    }
    let grown = resident() - before;
    let log = (host.host.medium().leaves().len() - log) as u64;
    let each = (grown.saturating_sub(log)) as f64 / MANY as f64;
    print("ok2cry.cache.memory", "B/key", workers, &[each]);
    let full = timed(&mut host);
    print("ok2cry.cache.many", "us p99 of generate and use", workers, &[full]);
    print("ok2cry.cache.many", "x p99 empty", workers, &[full / empty]);
    // All of them are over at once, and then forgotten at once: the worst that a sweep can find.
    let (mut turns, mut walls) = (Vec::new(), Vec::new());
    for later in [OVER, FORGOTTEN] {
        while host.host.status().live > 0 || later == FORGOTTEN && host.host.status().records > 0 {
            let now = moment(host.started);
            let (turn, wall) = (processor_time(), Instant::now());
            host.host.tick(Moment { boot: now.boot + later, ..now });
            walls.push(wall.elapsed().as_secs_f64() * 1e3);
            turns.push((processor_time() - turn).as_secs_f64() * 1e3);
            // As a host does after each turn, so that the leaves of a million ends do not pile up.
            must(host.host.write(now, |_| None));
        }
    }
    print("ok2cry.cache.sweep", "ms of the processor, turn p99", workers, &[percentile(&mut turns, 99)]);
    print("ok2cry.cache.sweep", "ms of the processor, longest turn", workers, &[percentile(&mut turns, 100)]);
    // Others that the processor is taken for are in these.
    print("ok2cry.cache.sweep", "ms, turn p99", workers, &[percentile(&mut walls, 99)]);
    print("ok2cry.cache.sweep", "ms, longest turn", workers, &[percentile(&mut walls, 100)]);
}

/// The 99th percentile of making and using a key, in µs.
fn timed(host: &mut Host) -> f64 {
    let mut laps = Vec::with_capacity(TIMED);
    for _ in 0..TIMED {
        let started = Instant::now();
        let body = host.generate(Policy::Strong, 900);
        let generated = started.elapsed();
        let sealed = sealed_to(&body);
        let started = Instant::now();
        host.open(body.key_id, &sealed);
        laps.push((generated + started.elapsed()).as_secs_f64() * 1e6);
    }
    percentile(&mut laps, 99)
}

fn sealed_to(body: &KeyBody) -> Vec<u8> {
    let terms = body.terms(None, CTX);
    let ciphertext = must(seal(&terms, &body.public, None, PLAINTEXT, &mut random()));
    Sealed { policy: body.policy, key_id: body.key_id, ciphertext, signer: None }.encode()
}

/// How often `once` can be done in a second, for each run but the first.
fn rate(mut once: impl FnMut()) -> Vec<f64> {
    let mut samples = Vec::new();
    for _ in 0..=RUNS {
        let (started, mut done) = (Instant::now(), 0_u64);
        while started.elapsed() < RUN {
            once();
            done += 1;
        }
        samples.push(done as f64 / started.elapsed().as_secs_f64());
    }
    samples.split_off(1)
}

fn asker() -> Asker {
    let quota = Quota { keys_max: u32::MAX, bytes_max: u64::MAX, generates_per_second: u32::MAX };
    Asker { owner: Owner::of_user(1), quota, may_take: false }
}

fn moment(started: Instant) -> Moment {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { boot: started.elapsed(), unix_ms: unix.as_millis() as u64 }
}

fn random() -> impl onward_keys::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    must(getrandom::fill(&mut seed));
    seed
}

/// Time that a processor has spent on this thread: what others do on the machine is not in it.
fn processor_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec.unsigned_abs() as u32)
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    onward_trials::Process::own().memory()
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or_default()
}

fn median(samples: &[f64]) -> f64 {
    percentile(&mut samples.to_vec(), 50)
}
