//! The key cache in its process: who is let in, what is on record, and what is left in memory.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use onward_channels::identity::PAYLOAD_BYTES_MAX;
use onward_channels::ok2cry::cache::{
    CacheCall, CacheRefusal, KeyLife, MadeKey, NewDisposableKey, OpenedBytes, seal_private,
};
use onward_channels::ok2cry::{
    Direction, DisposableKey, DisposableKeyId, KeyBody, Policy, Sealed, SignerProof, seal,
};
use onward_keys::audit::{Event, Evidence, Tree, Watch, verify};
use onward_keys::service::{Call, Refusal};
use onward_keys::{PublicKey, Signature, SignatureAlgorithm};
use onward_trials::{Row, size};
use rustix::process::Signal;

use crate::harness::{Client, Daemon, Not, PATIENCE, is_root};
use crate::host::known;
use crate::memory::{Core, crash_of_another};

const POLICY: &str = "version = 1\n[[cache]]\nname = \"tests\"\nrate = 1000000\n";
const CTX: [u8; 32] = [9; 32];

#[test]
fn a_key_opens_once_and_its_life_is_proved_and_on_record() {
    let mut daemon = Daemon::start(POLICY);
    let mut client = daemon.client();
    let status = client.cache(CacheCall::Status, |reply| reply.status()).unwrap().unwrap();
    let signer = PublicKey::new(SignatureAlgorithm::Ed25519, &status.signer).unwrap();
    let made = make(&mut client, plain());
    let (key, sealed) = sealed_to(&made, b"1234");
    assert_eq!(open(&mut client, key, &sealed).unwrap().plaintext[..], *b"1234");
    assert_eq!(open(&mut client, key, &sealed).unwrap_err(), CacheRefusal::NotFound);
    let mut watch = Watch::new(signer.clone());
    let life = wait_for(|| {
        let since = watch.latest().map(|head| head.size);
        let proof = client.cache(CacheCall::Proof { key, since }, |reply| reply.proof()).unwrap().ok()?;
        let leaves = Evidence::decode(&proof).unwrap().check(&mut watch).unwrap();
        Some(KeyLife::of(&leaves, &made).unwrap()).filter(|life| life.ended.is_some())
    });
    assert!(life.ended.unwrap().1 >= life.created_ms);
    assert_eq!(watch.latest().unwrap().log_id, status.log_id);
    daemon.stop();
    assert_eq!(
        events(&daemon),
        [Event::Start, Event::EpochCreated, Event::Created, Event::Used, Event::EpochDestroyed, Event::Stop]
    );
    let (log, heads) = (read(&daemon, "cache.log"), read(&daemon, "cache.heads"));
    assert_eq!(verify(&log[..], &heads[..], &signer).unwrap().signed, 6, "the end is signed for");
    assert!(!log.windows(16).any(|window| window == key.as_bytes()));
}

#[test]
fn whom_no_rule_lets_in_gets_nothing_and_a_locked_cache_has_nothing() {
    let daemon = Daemon::start("version = 1");
    let mut client = daemon.client();
    // The service's own user may see that there is a cache; it may make no key.
    assert!(client.cache(CacheCall::Status, |reply| reply.status()).unwrap().is_ok());
    let refused = client.cache(CacheCall::Generate(plain()), |reply| reply.made()).unwrap();
    assert_eq!(refused.unwrap_err(), CacheRefusal::Overload);
    let other = "version = 1\n[[cache]]\nname = \"x\"\nuid = [4242]";
    daemon.set_policy(other);
    let refused = client.cache(CacheCall::Generate(plain()), |reply| reply.made()).unwrap();
    assert_eq!(refused.unwrap_err(), CacheRefusal::Overload);
    daemon.set_policy(POLICY);
    let made = make(&mut client, plain());
    let (key, sealed) = sealed_to(&made, b"1234");
    let no_request = client.ask(Call::Cache(b"no request"), |reply| reply.cache().map(drop));
    assert_eq!(no_request, Err(Not::Refused(Refusal::BadArguments)));
    client.done(Call::Lock).unwrap();
    let locked = client.cache(CacheCall::Stat(key), |reply| reply.stat()).map(drop);
    assert_eq!(locked, Err(Not::Refused(Refusal::Locked)));
    client.unlock(crate::harness::PASSPHRASE).unwrap();
    assert_eq!(
        open(&mut client, key, &sealed).unwrap_err(),
        CacheRefusal::NotFound,
        "it ended with the lock"
    );
    let ends = events(&daemon).into_iter().filter(|event| *event == Event::Destroyed).count();
    assert_eq!(ends, 1);
}

#[test]
fn all_that_a_policy_carries_opens_here_too() {
    let daemon = Daemon::start(POLICY);
    let mut client = daemon.client();
    let made = make(&mut client, NewDisposableKey { policy: Policy::Strong, ..plain() });
    let longest = vec![7; Policy::Strong.ciphertext_bytes_max() - 16];
    let (key, sealed) = sealed_to(&made, &longest);
    // The longest payload of a signer goes into a request, too, whoever that is.
    let signature = Signature { algorithm: SignatureAlgorithm::Ed25519, bytes: vec![1; 64] };
    let signer = Some(SignerProof { signature, payload: vec![2; PAYLOAD_BYTES_MAX] });
    let signed = Sealed { signer, ..Sealed::decode(&sealed).unwrap() }.encode();
    assert!(signed.len() > (1 << 20) + PAYLOAD_BYTES_MAX);
    assert_eq!(open(&mut client, key, &signed).unwrap_err(), CacheRefusal::BadSealed);
    assert_eq!(open(&mut client, key, &sealed).unwrap().plaintext[..], longest);
}

#[test]
fn n5_6_a_request_that_a_stopped_process_finds_too_late_is_refused() {
    let daemon = Daemon::start(POLICY);
    let mut client = daemon.client();
    let made = make(&mut client, NewDisposableKey { ttl: Some(1), ..plain() });
    let at = Instant::now();
    let (key, sealed) = sealed_to(&made, b"1234");
    daemon.signal(Signal::STOP);
    let asking = std::thread::spawn(move || open(&mut client, key, &sealed).map(drop));
    // Time has to pass; how much more than the key's life does not matter.
    while at.elapsed() < Duration::from_millis(1200) {
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.signal(Signal::CONT);
    assert_eq!(asking.join().unwrap(), Err(CacheRefusal::NotFound));
}

/// In a core that is taken of the living process, and in none that the system dumps.
#[test]
fn r24_after_their_time_no_key_is_in_memory_and_each_has_one_beginning_and_one_end() {
    let row = Row::new("R24");
    let mut daemon = Daemon::start(POLICY);
    let mut client = daemon.client();
    let (count, ttl) = (size(300, 10_000) as u32, size(3, 60) as u16);
    let status = client.cache(CacheCall::Status, |reply| reply.status()).unwrap().unwrap();
    let mut keys = Vec::new();
    for at in 0..count {
        keys.push(put(&mut client, &status.replica, &status.put_key, at, ttl));
    }
    let last = Instant::now();
    for made in keys.iter().step_by(2) {
        let (key, sealed) = sealed_to(made, b"1234");
        // What came too late is over as it should be.
        let _ = open(&mut client, key, &sealed);
    }
    wait_for(|| (last.elapsed() > Duration::from_secs(u64::from(ttl) + 1)).then_some(()));
    // A machine that does other things besides sweeps later.
    let status = wait_for(|| {
        let status = client.cache(CacheCall::Status, |reply| reply.status()).unwrap().unwrap();
        (status.live == 0).then_some(status)
    });
    row.exactly("live keys after their time", status.live, 0);
    if is_root() {
        // A live key's audience is in memory, and is found.
        let needle = *b"a needle of thirty-two bytes, ok";
        let planted = NewDisposableKey { aud: std::str::from_utf8(&needle).unwrap(), ..plain() };
        let planted = KeyBody::decode(&make(&mut client, planted).body).unwrap();
        let core = Core::take(&daemon);
        row.exactly("planted needles found in a core", core.count(std::iter::once(needle)), 1);
        let reversed = |mut secret: [u8; 32]| {
            secret.reverse();
            secret
        };
        let secrets = (0..count).flat_map(|at| [private(at), reversed(private(at))]);
        row.exactly("private keys found in a core", core.count(secrets), 0);
        row.at_least("KiB of a core", core.bytes >> 10, 128);
        client.cache(CacheCall::Destroy(planted.key_id), |reply| reply.ended()).unwrap().unwrap();
        let crashed = daemon.crash();
        row.exactly("cores that the system dumped", usize::from(crashed.status.core_dumped()), 0);
        let others = crash_of_another().map(|other| other.status.core_dumped());
        let raised = crashed.was_raised;
        eprintln!("its limit of cores was raised: {raised}; another process left a core: {others:?}");
    } else {
        eprintln!("no core was taken: reading another process needs root");
        daemon.stop();
    }
    let log = read(&daemon, "cache.log");
    let (mut begun, mut ended) = (HashMap::new(), HashMap::new());
    Tree::read(&log[..], |leaf, _, _| {
        let lives = match leaf.entry.event {
            Event::Created => &mut begun,
            Event::Used | Event::Expired | Event::Destroyed => &mut ended,
            _ => return,
        };
        *lives.entry(leaf.entry.key).or_insert(0) += 1;
    })
    .unwrap();
    let once = |lives: &HashMap<_, i32>| lives.values().filter(|times| **times == 1).count();
    row.at_least("keys with one beginning", once(&begun), count as usize);
    assert!(begun.keys().all(|key| ended.contains_key(key)) && begun.len() == ended.len());
    assert_eq!((once(&begun), once(&ended)), (begun.len(), ended.len()));
    daemon.kill_and_restart();
    let mut client = daemon.client();
    let status = client.cache(CacheCall::Status, |reply| reply.status()).unwrap().unwrap();
    row.exactly("keys after a restart", status.records, 0);
}

#[test]
fn after_a_kill_the_epochs_that_were_open_are_lost_on_record() {
    let mut daemon = Daemon::start(POLICY);
    let made = make(&mut daemon.client(), plain());
    daemon.kill_and_restart();
    let mut client = daemon.client();
    let (key, sealed) = sealed_to(&made, b"1234");
    assert_eq!(open(&mut client, key, &sealed).unwrap_err(), CacheRefusal::NotFound);
    assert_eq!(
        events(&daemon),
        [Event::Start, Event::EpochCreated, Event::Created, Event::Start, Event::Lost]
    );
}

fn plain() -> NewDisposableKey<'static> {
    NewDisposableKey::new(Policy::NoiseAnonymous, Direction::AnswerToMe, "bank", "card-pin")
}

fn make(client: &mut Client, new: NewDisposableKey<'_>) -> MadeKey {
    client.cache(CacheCall::Generate(new), |reply| reply.made()).unwrap().unwrap()
}

fn open(client: &mut Client, key: DisposableKeyId, sealed: &[u8]) -> Result<OpenedBytes, CacheRefusal> {
    client.cache(CacheCall::Use { key, sealed, ctx: &CTX }, |reply| reply.opened()).unwrap()
}

fn sealed_to(made: &MadeKey, plaintext: &[u8]) -> (DisposableKeyId, Vec<u8>) {
    let body = KeyBody::decode(&made.body).unwrap();
    let terms = body.terms(None, CTX);
    let ciphertext = seal(&terms, &body.public, None, plaintext, &mut random()).unwrap();
    let sealed = Sealed { policy: body.policy, key_id: body.key_id, ciphertext, signer: None };
    (body.key_id, sealed.encode())
}

/// Puts the known key `at` in.
fn put(client: &mut Client, replica: &[u8; 16], put_key: &[u8], at: u32, ttl: u16) -> MadeKey {
    let mut private = private(at);
    let policy = if at.is_multiple_of(2) { Policy::Strong } else { Policy::NoiseAnonymous };
    let key = DisposableKey::from_private(policy, &private).unwrap();
    let mut id: [u8; 16] = std::array::from_fn(|byte| known(at + 1_000_000)[byte]);
    id[..4].copy_from_slice(&replica[..4]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let body = KeyBody {
        policy,
        key_id: DisposableKeyId::from_bytes(id),
        public: key.public().to_vec(),
        direction: Direction::AnswerToMe,
        // A second ahead, so that all of its life is left whatever part of this second is over.
        iat: now.as_secs() + 1,
        ttl,
        aud: "bank".to_owned(),
        purpose: "pin".to_owned(),
        binding: None,
        parent: None,
        schema: None,
    }
    .encode();
    let (enc, ct) = seal_private(put_key, &body, &private, &mut random()).unwrap();
    zeroize::Zeroize::zeroize(&mut private);
    let call = CacheCall::Put { body: &body, enc: &enc, ct: &ct };
    client.cache(call, |reply| reply.made()).unwrap().unwrap()
}

/// A private key that its number stands for, in the form that X25519 brings it into.
fn private(at: u32) -> [u8; 32] {
    let mut private = known(at);
    private[0] &= 248;
    private[31] = (private[31] & 127) | 64;
    private
}

fn random() -> impl onward_keys::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

fn events(daemon: &Daemon) -> Vec<Event> {
    let mut events = Vec::new();
    Tree::read(&read(daemon, "cache.log")[..], |leaf, _, _| events.push(leaf.entry.event)).unwrap();
    events
}

fn read(daemon: &Daemon, name: &str) -> Vec<u8> {
    std::fs::read(daemon.path().join(name)).unwrap()
}

/// Asks until there is an answer.
fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + 4 * PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "it does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
