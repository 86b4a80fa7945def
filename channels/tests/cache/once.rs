//! A key opens once, whoever asks how often.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use onward_channels::ok2cry::cache::{
    Asker, CacheCall, CacheLimits, CacheOutcome, CacheRefusal, DisposableKeyState, NewDisposableKey,
    seal_private,
};
use onward_channels::ok2cry::{Direction, DisposableKey, DisposableKeyId, KeyBody, Policy};
use onward_keys::audit::Event;
use onward_trials::{Row, size};

use crate::harness::{Fixture, Key, PIN, asker, plain};

#[test]
fn n5_5_a_second_use_is_refused_with_every_policy() {
    for policy in [Policy::Strong, Policy::NoiseAnonymous, Policy::StrongPq] {
        let mut cache = Fixture::new();
        let new = NewDisposableKey { policy, ..plain() };
        let key = cache.make(&asker(1), new).unwrap();
        let sealed = key.sealed();
        assert_eq!(cache.open(&asker(1), &key, &sealed).unwrap(), PIN);
        assert_eq!(cache.open(&asker(1), &key, &sealed), Err(CacheRefusal::NotFound), "{policy}");
        assert_eq!(cache.stat(&asker(1), &key).unwrap().state, DisposableKeyState::Used);
        assert_eq!(cache.live(), 0);
    }
}

#[test]
fn n5_5_a_thousand_uses_at_once_yield_one_plaintext() {
    let mut fixture = Fixture::new();
    let key = fixture.key(60);
    assert_eq!(race(&Mutex::new(fixture), &[key], 10, 100), [1]);
}

#[test]
fn a45_of_two_who_open_one_key_one_does() {
    const BATCH: usize = 1000;
    let row = Row::new("A45");
    let races = size(2 * BATCH, 1_000_000);
    let mut fixture = Fixture::with(CacheLimits { records_max: u32::MAX, ..CacheLimits::default() });
    let mut wrong = 0;
    for _ in 0..races / BATCH {
        let keys: Vec<Key> = (0..BATCH).map(|_| fixture.key(900)).collect();
        let shared = Mutex::new(fixture);
        wrong += race(&shared, &keys, 2, 1).into_iter().filter(|opened| *opened != 1).count();
        fixture = shared.into_inner().unwrap();
        fixture.write();
    }
    row.exactly("races", races / BATCH * BATCH, races);
    row.exactly("races with another number of successes than one", wrong, 0);
}

/// How often each of `keys` was opened by `threads` threads that each try every key `times` times.
fn race(cache: &Mutex<Fixture>, keys: &[Key], threads: usize, times: usize) -> Vec<usize> {
    let sealed: Vec<Vec<u8>> = keys.iter().map(Key::sealed).collect();
    let opened: Vec<AtomicUsize> = keys.iter().map(|_| AtomicUsize::new(0)).collect();
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                start.wait();
                for ((key, sealed), opened) in keys.iter().zip(&sealed).zip(&opened) {
                    for _ in 0..times {
                        match cache.lock().unwrap().open(&asker(1), key, sealed) {
                            Ok(plaintext) => {
                                assert_eq!(plaintext, PIN);
                                opened.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(refusal) => assert_eq!(refusal, CacheRefusal::NotFound),
                        }
                    }
                }
            });
        }
    });
    opened.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn eight_failures_end_a_key_and_what_was_not_sealed_to_it_is_none() {
    let mut cache = Fixture::new();
    let (key, other) = (cache.key(60), cache.key(60));
    // None of these reaches the private half.
    for foreign in [&other.sealed()[..], b"", b"no object"] {
        for _ in 0..20 {
            assert_eq!(cache.open(&asker(1), &key, foreign), Err(CacheRefusal::BadSealed));
        }
    }
    let mut forged = key.sealed();
    let last = forged.len() - 5;
    forged[last] ^= 1;
    for _ in 0..7 {
        assert_eq!(cache.open(&asker(1), &key, &forged), Err(CacheRefusal::BadSealed));
    }
    assert_eq!(cache.stat(&asker(1), &key).unwrap().state, DisposableKeyState::Live);
    assert_eq!(cache.open(&asker(1), &key, &key.sealed_for(&[8; 32])), Err(CacheRefusal::BadSealed));
    assert_eq!(cache.open(&asker(1), &key, &key.sealed()), Err(CacheRefusal::NotFound));
    assert_eq!(cache.stat(&asker(1), &key).unwrap().state, DisposableKeyState::Destroyed);
    assert_eq!(cache.open(&asker(1), &other, &other.sealed()).unwrap(), PIN);
    let failed = cache.into_leaves().into_iter().filter(|leaf| leaf.entry.event == Event::FailedUse).count();
    assert_eq!(failed, 8, "what does not count is not noted");
}

#[test]
fn a_bound_key_opens_for_its_request_alone() {
    let mut cache = Fixture::new();
    let new = NewDisposableKey { binding: Some([3; 32]), ..plain() };
    let key = cache.make(&asker(1), new).unwrap();
    let sealed = key.sealed();
    assert_eq!(cache.open(&asker(1), &key, &sealed), Err(CacheRefusal::BadSealed));
    let sealed = key.sealed_for(&[3; 32]);
    let call = CacheCall::Use { key: key.id(), sealed: &sealed, ctx: &[3; 32] };
    assert!(
        matches!(cache.handle(&asker(1), &call), Ok(CacheOutcome::Opened(opened)) if *opened.plaintext == PIN)
    );
}

#[test]
fn a_private_key_is_taken_out_once_where_all_three_allow_it() {
    for (cache_may, asker_may, key_may) in
        [(true, true, true), (false, true, true), (true, false, true), (true, true, false)]
    {
        let mut cache = Fixture::with(CacheLimits { take: cache_may, ..CacheLimits::default() });
        let asker = Asker { may_take: asker_may, ..asker(1) };
        let new = NewDisposableKey { exportable: key_may, ..plain() };
        let key = cache.make(&asker, new).unwrap();
        match cache.handle(&asker, &CacheCall::Take(key.id())) {
            Ok(CacheOutcome::Private(private)) => {
                assert!(cache_may && asker_may && key_may);
                let again = DisposableKey::from_private(key.body.policy, &private);
                assert_eq!(again.unwrap().public(), key.body.public);
                assert_eq!(cache.open(&asker, &key, &key.sealed()), Err(CacheRefusal::NotFound));
            }
            Err(CacheRefusal::Denied) => assert!(!(cache_may && asker_may && key_may)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_key_that_was_made_elsewhere_is_put_in_sealed_to_the_cache_alone() {
    let mut cache = Fixture::new();
    let status = cache.host.status();
    let mut random = crate::harness::Seeded(77);
    let key = DisposableKey::generate(Policy::Strong, &mut random).unwrap();
    let mut id = [7; 16];
    id[..4].copy_from_slice(&status.replica[..4]);
    let body = |id, iat| KeyBody {
        policy: Policy::Strong,
        key_id: DisposableKeyId::from_bytes(id),
        public: key.public().to_vec(),
        direction: Direction::AnswerToMe,
        iat,
        ttl: 60,
        aud: "bank".to_owned(),
        purpose: "pin".to_owned(),
        binding: None,
        parent: None,
        schema: None,
    };
    let now = cache.now.unix_ms / 1000;
    let mut put = |cache: &mut Fixture, body: &KeyBody, private: &[u8; 32]| {
        let encoded = body.encode();
        let (enc, ct) = seal_private(&status.put_key, &encoded, private, &mut random).unwrap();
        let call = CacheCall::Put { body: &encoded, enc: &enc, ct: &ct };
        match cache.handle(&asker(1), &call)? {
            CacheOutcome::Made(made) => Ok(Key { body: body.clone(), made }),
            other => panic!("{other:?}"),
        }
    };
    let refused = |put: Result<Key, CacheRefusal>| put.map(drop).unwrap_err();
    assert_eq!(
        refused(put(&mut cache, &body([7; 16], now), key.private())),
        CacheRefusal::Policy,
        "another replica"
    );
    assert_eq!(refused(put(&mut cache, &body(id, now - 60), key.private())), CacheRefusal::Policy, "over");
    assert_eq!(refused(put(&mut cache, &body(id, now + 61), key.private())), CacheRefusal::Policy, "to come");
    assert_eq!(refused(put(&mut cache, &body(id, now), &[5; 32])), CacheRefusal::BadSealed, "another half");
    let put_in = put(&mut cache, &body(id, now - 10), key.private()).unwrap();
    assert_eq!(
        refused(put(&mut cache, &body(id, now), key.private())),
        CacheRefusal::Policy,
        "known already"
    );
    assert_eq!(cache.stat(&asker(1), &put_in).unwrap().remaining_ms, 50_000);
    assert_eq!(cache.open(&asker(1), &put_in, &put_in.sealed()).unwrap(), PIN);
}
