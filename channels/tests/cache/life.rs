//! What an owner can prove of the life of its key.

use std::time::Duration;

use onward_channels::ok2cry::cache::{
    CacheCall, CacheRefusal, DisposableKeyState, KeyLife, LifeError, NewDisposableKey,
};
use onward_keys::audit::Event;

use crate::harness::{Fixture, asker, plain, watch};

#[test]
fn creation_end_and_the_end_of_the_epoch_are_proved_to_one_watch() {
    for (end, event) in [
        (DisposableKeyState::Used, Event::Used),
        (DisposableKeyState::Expired, Event::Expired),
        (DisposableKeyState::Destroyed, Event::Destroyed),
    ] {
        let (mut cache, mut watch) = (Fixture::new(), watch());
        (0..100).for_each(|_| drop(cache.key(60)));
        let key = cache.key(15);
        let life = |cache: &mut Fixture, watch: &mut _| {
            // A head is due a second after the leaves.
            cache.wait(Duration::from_secs(1));
            cache.sweep();
            cache.proof(&key, watch).map(|leaves| KeyLife::of(&leaves, &key.made).unwrap())
        };
        assert_eq!(cache.proof(&key, &mut watch), Err(CacheRefusal::Busy), "no head yet");
        let made = life(&mut cache, &mut watch).unwrap();
        assert_eq!((made.ended, made.wiped_ms), (None, None));
        match end {
            DisposableKeyState::Used => drop(cache.open(&asker(1), &key, &key.sealed()).unwrap()),
            DisposableKeyState::Expired => cache.wait(Duration::from_secs(14)),
            _ => drop(cache.handle(&asker(1), &CacheCall::Destroy(key.id())).unwrap()),
        }
        let ended = life(&mut cache, &mut watch).unwrap();
        assert_eq!(ended.ended.map(|(state, _)| state), Some(end), "{event:?}");
        assert!(ended.ended.unwrap().1 >= made.created_ms && ended.wiped_ms.is_none());
        cache.wait(Duration::from_secs(80));
        let wiped = life(&mut cache, &mut watch).unwrap();
        assert!(wiped.wiped_ms.unwrap() > ended.ended.unwrap().1);
        assert_eq!(watch.latest().unwrap().size, cache.host.status().leaves);
    }
}

#[test]
fn leaves_of_another_key_tell_no_life() {
    let (mut cache, mut watch) = (Fixture::new(), watch());
    let (one, other) = (cache.key(15), cache.key(15));
    for key in [&one, &other] {
        cache.open(&asker(1), key, &key.sealed()).unwrap();
    }
    cache.wait(Duration::from_secs(90));
    cache.sweep();
    cache.wait(Duration::from_secs(1));
    cache.sweep();
    let ours = cache.proof(&one, &mut watch).unwrap();
    let theirs = cache.proof(&other, &mut watch).unwrap();
    assert_eq!((ours.len(), theirs.len()), (3, 3));
    assert!(KeyLife::of(&ours, &one.made).is_ok());
    assert_eq!(KeyLife::of(&theirs, &one.made), Err(LifeError::NotCreated));
    assert_eq!(KeyLife::of(&[], &one.made), Err(LifeError::NotCreated));
    let mixed = [ours[0].clone(), theirs[1].clone()];
    assert_eq!(KeyLife::of(&mixed, &one.made), Err(LifeError::Foreign { seq: theirs[1].seq }));
    // An end before the beginning, and two ends.
    let mut early = ours.clone();
    early[1].seq = 0;
    assert_eq!(KeyLife::of(&early, &one.made), Err(LifeError::Foreign { seq: 0 }));
    let twice = [ours[0].clone(), ours[1].clone(), ours[1].clone()];
    assert_eq!(KeyLife::of(&twice, &one.made), Err(LifeError::Foreign { seq: ours[1].seq }));
    // The end of an epoch of another class.
    let mut class = ours.clone();
    class[2].entry.policy = 120;
    assert_eq!(KeyLife::of(&class, &one.made), Err(LifeError::Foreign { seq: ours[2].seq }));
}

#[test]
fn the_log_says_neither_what_was_sealed_nor_to_which_key() {
    let mut cache = Fixture::new();
    let new = NewDisposableKey { policy: onward_channels::ok2cry::Policy::Strong, ..plain() };
    let key = cache.make(&asker(1), new).unwrap();
    cache.open(&asker(1), &key, &key.sealed()).unwrap();
    cache.write();
    let log = cache.host.medium().leaves();
    let owner = asker(1).owner;
    for needle in [&key.id().as_bytes()[..], &key.body.public[30..60], owner.as_bytes(), b"1234"] {
        assert!(!log.windows(needle.len()).any(|window| window == needle));
    }
    // Each key has its owner under a name of its own.
    let second = cache.key(60);
    assert_ne!(second.id(), key.id());
    let owners: Vec<_> = cache
        .into_leaves()
        .into_iter()
        .filter(|leaf| leaf.entry.event == Event::Created)
        .map(|leaf| leaf.entry.owner)
        .collect();
    assert_eq!(owners.len(), 2);
    assert_ne!(owners[0], owners[1]);
}
