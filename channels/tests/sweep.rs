//! What one turn of the sweep does, counted: keys, and pieces of memory that it gives back.
//!
//! An allocator may put off what giving back costs, and do it for a million pieces at once in a later request. So the
//! number of pieces is what bounds the longest turn. One test, because the allocator counts for the whole process.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[allow(dead_code, reason = "only a part of it is needed here")]
#[path = "cache/harness.rs"]
mod harness;

use std::alloc::System;
use std::time::Duration;

use onward_channels::ok2cry::cache::{CacheLimits, EVIDENCE_KEPT, NewDisposableKey, Owner, SWEEP_MAX};
use onward_trials::size;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use crate::harness::{Fixture, asker, plain};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Of the lists of keys: the end of one, with what it was in.
const PIECES_MAX: usize = 8;

#[test]
fn a_turn_does_a_bounded_number_of_keys_and_gives_hardly_any_memory_back() {
    let keys = size(20_000, 1_000_000);
    let mut cache = Fixture::with(CacheLimits::default());
    for at in 0..keys {
        let delegates = if at % 2 == 0 { Vec::new() } else { vec![Owner::of_user(2); 3] };
        cache.make(&asker(1), NewDisposableKey { ttl: Some(900), delegates, ..plain() }).unwrap();
        cache.write();
    }
    // All end at once, and later all are forgotten at once.
    let (mut turns, mut given_back) = (0, 0);
    for wait in [Duration::from_secs(900 + 65), EVIDENCE_KEPT] {
        cache.wait(wait);
        loop {
            let before = (cache.live(), cache.host.status().records);
            let region = Region::new(ALLOCATOR);
            let due = cache.host.tick(cache.now);
            let change = region.change();
            given_back = given_back.max(change.deallocations.saturating_sub(change.allocations));
            let after = (cache.live(), cache.host.status().records);
            assert!((before.0 - after.0) as usize <= SWEEP_MAX && (before.1 - after.1) as usize <= SWEEP_MAX);
            turns += 1;
            cache.write();
            if due.is_none_or(|due| due > cache.now.boot) {
                break;
            }
        }
    }
    assert_eq!((cache.live(), cache.host.status().records), (0, 0));
    assert!(turns >= 2 * keys / SWEEP_MAX, "{turns}");
    assert!(given_back <= PIECES_MAX, "{given_back} pieces of memory in one turn");
}
