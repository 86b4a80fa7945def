//! A key is over when its time is, whatever timers and wall clocks do.

use std::time::Duration;

use onward_channels::ok2cry::cache::{
    CacheLimits, CacheRefusal, DisposableKeyState, EVIDENCE_KEPT, NewDisposableKey, SWEEP_MAX,
};
use onward_keys::audit::Event;

use crate::harness::{Fixture, PIN, asker, leaves, plain};

const MS: Duration = Duration::from_millis(1);

#[test]
fn n5_6_a_key_opens_a_millisecond_before_its_end_and_not_at_it() {
    for (late, opens) in [(Duration::ZERO, true), (MS, false), (2 * MS, false)] {
        for ttl in [1, 15, 120, 900] {
            let mut cache = Fixture::new();
            let key = cache.key(ttl);
            // No timer ran meanwhile.
            cache.wait(Duration::from_secs(ttl.into()) - MS + late);
            let opened = cache.open(&asker(1), &key, &key.sealed());
            assert_eq!(opened.is_ok(), opens, "{ttl} s, {late:?}");
            let end = if opens { Event::Used } else { Event::Expired };
            let ends: Vec<_> = cache
                .into_leaves()
                .into_iter()
                .filter(|leaf| matches!(leaf.entry.event, Event::Used | Event::Expired | Event::Destroyed))
                .collect();
            assert_eq!(ends.iter().map(|leaf| leaf.entry.event).collect::<Vec<_>>(), [end]);
        }
    }
}

#[test]
fn n5_6_a_wall_clock_that_is_set_back_brings_nothing_back() {
    let mut cache = Fixture::new();
    let key = cache.key(15);
    cache.now.boot += Duration::from_secs(15);
    cache.now.unix_ms -= 3_600_000;
    assert_eq!(cache.open(&asker(1), &key, &key.sealed()), Err(CacheRefusal::NotFound));
    // Nor does one that jumps ahead end anything early.
    let key = cache.key(15);
    cache.now.unix_ms += 7_200_000;
    assert_eq!(cache.open(&asker(1), &key, &key.sealed()).unwrap(), PIN);
}

#[test]
fn n5_6_after_ten_minutes_without_a_timer_nothing_opens_and_one_sweep_ends_all() {
    let mut cache = Fixture::new();
    let keys: Vec<_> = (0..300).map(|_| cache.key(120)).collect();
    cache.wait(Duration::from_secs(600));
    assert_eq!(cache.open(&asker(1), &keys[0], &keys[0].sealed()), Err(CacheRefusal::NotFound));
    assert_eq!(cache.live(), 299, "no timer ran");
    cache.sweep();
    assert_eq!((cache.live(), cache.host.status().epochs), (0, 0));
    let expired = cache.into_leaves().into_iter().filter(|leaf| leaf.entry.event == Event::Expired).count();
    assert_eq!(expired, 300);
}

#[test]
fn a_turn_of_the_sweep_is_bounded_and_the_next_is_due_at_once() {
    let mut cache = Fixture::new();
    (0..3 * SWEEP_MAX).for_each(|_| drop(cache.key(15)));
    cache.wait(Duration::from_secs(16));
    let due = cache.host.tick(cache.now);
    assert_eq!(cache.live() as usize, 2 * SWEEP_MAX);
    assert!(due.unwrap() <= cache.now.boot);
    cache.sweep();
    assert_eq!(cache.live(), 0);
}

#[test]
fn the_key_of_an_epoch_is_wiped_five_seconds_after_its_last_key_can_live() {
    for (ttl, class) in [(1, 15), (15, 15), (16, 120), (121, 900), (900, 900)] {
        let mut cache = Fixture::new();
        let key = cache.key(ttl);
        let begun = cache.now.boot.as_secs() / 60 * 60;
        let end = Duration::from_secs(begun + 60 + class + 5);
        cache.wait(end - MS - cache.now.boot);
        cache.sweep();
        assert_eq!((cache.live(), cache.host.status().epochs), (0, 1), "{ttl}");
        cache.wait(MS);
        cache.sweep();
        assert_eq!(cache.host.status().epochs, 0, "{ttl}");
        // What became of the key is told for a while, and then forgotten.
        assert_eq!(cache.stat(&asker(1), &key), Err(CacheRefusal::NotFound));
        assert_eq!(cache.host.status().records, 1);
        cache.wait(EVIDENCE_KEPT);
        cache.sweep();
        assert_eq!(cache.host.status().records, 0);
        assert_eq!(cache.host.tick(cache.now), None, "nothing is ever due again");
        let epochs: Vec<_> = cache
            .into_leaves()
            .into_iter()
            .filter(|leaf| matches!(leaf.entry.event, Event::EpochCreated | Event::EpochDestroyed))
            .map(|leaf| (leaf.entry.policy, leaf.entry.epoch, leaf.entry.key))
            .collect();
        let epoch = (class as u16, (begun / 60) as u32, None);
        assert_eq!(epochs, [epoch, epoch]);
    }
}

#[test]
fn a_life_is_one_second_to_fifteen_minutes_and_two_minutes_if_nobody_says() {
    let mut cache = Fixture::new();
    for ttl in [0, 901, u16::MAX] {
        let made = cache.make(&asker(1), NewDisposableKey { ttl: Some(ttl), ..plain() });
        assert_eq!(made.map(drop).unwrap_err(), CacheRefusal::Policy);
    }
    let key = cache.make(&asker(1), plain()).unwrap();
    assert_eq!((key.body.ttl, key.body.iat), (120, cache.now.unix_ms / 1000));
    let stat = cache.stat(&asker(1), &key).unwrap();
    assert_eq!((stat.remaining_ms, stat.state), (120_000, DisposableKeyState::Live));
    assert_eq!(stat.body, Some(key.made.body));
}

#[test]
fn n5_8_a_part_ends_five_seconds_before_its_whole_or_is_not_made() {
    let mut cache = Fixture::new();
    let parent = cache.key(60).made.body;
    let mut child = |ttl| {
        let new = NewDisposableKey { ttl: Some(ttl), parent: Some(&parent), ..plain() };
        cache.make(&asker(1), new).map(|key| key.body.exp())
    };
    assert_eq!(child(56), Err(CacheRefusal::Policy));
    assert_eq!(child(60), Err(CacheRefusal::Policy));
    assert!(child(55).is_ok());
    let new = NewDisposableKey { parent: Some(b"no body"), ..plain() };
    assert_eq!(cache.make(&asker(1), new).map(drop).unwrap_err(), CacheRefusal::Policy);
}

#[test]
fn when_a_cache_ends_every_key_has_one_end_and_after_a_crash_its_epoch_has() {
    let mut cache = Fixture::new();
    let keys: Vec<_> = (0..10).map(|_| cache.key(120)).collect();
    cache.open(&asker(1), &keys[0], &keys[0].sealed()).unwrap();
    cache.write();
    let crashed = cache.host.medium().leaves().to_vec();
    let ended = cache.into_leaves();
    let count = |leaves: &[onward_keys::audit::Leaf], event| {
        leaves.iter().filter(|leaf| leaf.entry.event == event).count()
    };
    let counts = |leaves: &[_]| {
        use Event::{Created, Destroyed, EpochCreated, EpochDestroyed, Lost, Start, Stop, Used};
        [Start, Created, Used, Destroyed, EpochCreated, EpochDestroyed, Stop, Lost]
            .map(|event| count(leaves, event))
    };
    assert_eq!(counts(&ended), [1, 10, 1, 9, 1, 1, 1, 0]);
    let limits = CacheLimits::default();
    let medium = onward_channels::ok2cry::cache::MemoryLog::from_leaves(crashed.clone());
    let mut next = Fixture::after(limits.clone(), medium, Default::default(), &crashed);
    assert_eq!(next.open(&asker(1), &keys[1], &keys[1].sealed()), Err(CacheRefusal::NotFound));
    next.write();
    let crashed = next.host.medium().leaves().to_vec();
    assert_eq!(counts(&leaves(&crashed)), [2, 10, 1, 0, 1, 0, 0, 1]);
    // What is lost is lost once.
    let medium = onward_channels::ok2cry::cache::MemoryLog::from_leaves(crashed.clone());
    let third = Fixture::after(limits, medium, Default::default(), &crashed);
    assert_eq!(counts(&third.into_leaves()), [3, 10, 1, 0, 1, 0, 1, 1]);
}
