//! Whose a key is, and what one owner can take from another.

use std::time::Duration;

use onward_channels::ok2cry::cache::{
    Asker, CacheCall, CacheLimits, CacheRefusal, NewDisposableKey, Owner, Quota,
};
use onward_trials::{Process, Row, size};

use crate::harness::{CTX, Fixture, Key, PIN, asker, plain};

#[test]
fn n5_11_somebody_elses_key_is_not_told_from_one_that_is_over_or_never_was() {
    let mut cache = Fixture::new();
    let (theirs, over) = (cache.key(60), cache.key(15));
    cache.wait(Duration::from_secs(15));
    let mut never = cache.key(60);
    never.body.key_id = onward_channels::ok2cry::DisposableKeyId::from_bytes([3; 16]);
    let notes = cache.host.status().leaves;
    let mut answers = Vec::new();
    for (key, stranger) in [(&theirs, asker(2)), (&over, asker(1)), (&never, asker(1))] {
        let sealed = key.sealed();
        let calls = [
            CacheCall::Use { key: key.id(), sealed: &sealed, ctx: &CTX },
            CacheCall::Use { key: key.id(), sealed: b"no object", ctx: &CTX },
            CacheCall::Stat(key.id()),
            CacheCall::Destroy(key.id()),
            CacheCall::Take(key.id()),
        ];
        for call in calls {
            answers.push(cache.handle(&stranger, &call).unwrap_err());
        }
    }
    assert_eq!(answers, [CacheRefusal::NotFound; 15]);
    // Nor does a stranger see evidence, or leave a trace; that the other key is over is noted once.
    let proof = CacheCall::Proof { key: theirs.id(), since: None };
    assert_eq!(cache.handle(&asker(2), &proof).unwrap_err(), CacheRefusal::NotFound);
    assert_eq!(cache.host.status().leaves, notes + 1);
    assert_eq!(cache.open(&asker(1), &theirs, &theirs.sealed()).unwrap(), PIN);
}

#[test]
fn a_delegate_may_use_a_key_and_nobody_else() {
    let mut cache = Fixture::new();
    let new = NewDisposableKey { delegates: vec![Owner::of_user(2)], ..plain() };
    let key = cache.make(&asker(1), new).unwrap();
    assert_eq!(cache.open(&asker(3), &key, &key.sealed()), Err(CacheRefusal::NotFound));
    assert!(cache.stat(&asker(2), &key).is_ok());
    assert_eq!(cache.open(&asker(2), &key, &key.sealed()).unwrap(), PIN);
}

#[test]
fn a46_one_client_that_asks_for_everything_takes_its_quota_and_no_more() {
    let row = Row::new("A46");
    let mut cache = Fixture::new();
    let bytes_max = size(4 << 20, 256 << 20) as u64;
    let quota = Quota { bytes_max, ..asker(1).quota };
    let greedy = Asker { quota, ..asker(1) };
    let kept = cache.key(900);
    let before = Process::own().memory();
    let (mut made, mut refused, mut others, mut failed) = (0, 0, 0, 0);
    for at in 0..size(20_000, 10_000_000) {
        let new = NewDisposableKey { ttl: Some(900), ..plain() };
        match cache.make(&greedy, new) {
            Ok(_) => made += 1,
            Err(CacheRefusal::Overload) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        if at % 1000 == 0 {
            let key = cache.make(&asker(2), plain()).unwrap();
            failed += usize::from(cache.open(&asker(2), &key, &key.sealed()).is_err());
            others += 1;
        }
        // The log is somewhere else in real use.
        cache.write();
    }
    let log = (cache.host.medium().leaves().len() + cache.host.medium().heads().len()) as u64;
    let grown = Process::own().memory().saturating_sub(before).saturating_sub(2 * log);
    row.at_least("requests refused", refused, 1);
    row.at_most("KiB of memory for the quota's", grown >> 10, (bytes_max + bytes_max / 10) >> 10);
    row.exactly("requests of another client that failed", failed, 0);
    row.exactly("requests of another client", others, size(20, 10_000));
    // Nothing that lives gave way.
    assert_eq!(cache.live(), made + 1);
    assert_eq!(cache.open(&asker(1), &kept, &kept.sealed()).unwrap(), PIN);
}

#[test]
fn a_quota_in_bytes_is_met_to_the_byte() {
    let mut cache = Fixture::new();
    let with = |bytes_max| Asker { quota: Quota { bytes_max, ..asker(1).quota }, ..asker(1) };
    let one = (1..4096).find(|bytes| cache.make(&with(*bytes), plain()).is_ok()).unwrap();
    // What was refused has left nothing.
    assert_eq!(cache.host.status().records, 1);
    let refused = cache.make(&with(2 * one - 1), plain()).map(drop);
    assert_eq!(refused, Err(CacheRefusal::Overload));
    assert!(cache.make(&with(2 * one), plain()).is_ok());
}

#[test]
fn a_rate_and_a_number_of_keys_bound_each_owner_and_all_together() {
    let limits = CacheLimits { keys_max: 5, ..CacheLimits::default() };
    let mut cache = Fixture::with(limits);
    let slow = Asker { quota: Quota { generates_per_second: 2, ..Quota::default() }, ..asker(1) };
    let few = Asker { quota: Quota { keys_max: 1, ..asker(2).quota }, ..asker(2) };
    let make = |cache: &mut Fixture, asker: &Asker| cache.make(asker, plain()).map(|key| Key { ..key });
    assert!(make(&mut cache, &slow).is_ok() && make(&mut cache, &slow).is_ok());
    assert_eq!(make(&mut cache, &slow).map(drop), Err(CacheRefusal::Overload));
    cache.wait(Duration::from_millis(500));
    assert!(make(&mut cache, &slow).is_ok(), "half a second, one key");
    let only = make(&mut cache, &few).unwrap();
    assert_eq!(make(&mut cache, &few).map(drop), Err(CacheRefusal::Overload));
    cache.open(&few, &only, &only.sealed()).unwrap();
    assert!(make(&mut cache, &few).is_ok(), "its key is over");
    assert!(make(&mut cache, &asker(3)).is_ok());
    assert_eq!(make(&mut cache, &asker(4)).map(drop), Err(CacheRefusal::Overload), "five in all");
}
