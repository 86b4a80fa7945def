//! What a router refuses changes nothing: no rule, no right, no address, and nothing that is held in memory.
//!
//! One test, because the allocator counts for the whole process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use onward_routing::{Address, FlowId, FlowKind, Message, Route};
use onward_trials::{Row, size};
use onward_workers::{Hop, Ingress, Limits, Router};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Splitmix64: enough to choose what is wrong.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }
}

/// The flow that attacks, and one that has rights of every kind.
const STRANGER: FlowId = FlowId::from_number(1);
const FRIEND: FlowId = FlowId::from_number(2);
const EGRESS: u128 = 11;
const GRANT: u128 = 12;
const SESSION: u128 = 13;

/// A router where the friend may do everything and the stranger may pass one hop.
fn router() -> Arc<Router> {
    let router = Router::new(Limits::default()).unwrap();
    for name in ["admin", "hop"] {
        router.add_step(&Address::local(name).unwrap(), Arc::new(Hop)).unwrap();
    }
    let admin = Address::local("admin").unwrap();
    let now = router.now();
    let mut reach = router.reach_mut();
    for flow in [STRANGER, FRIEND] {
        reach.open_flow(flow, FlowKind::Transport, None);
        reach.expose(flow, &Address::local("hop").unwrap()).unwrap();
    }
    reach.expose(FRIEND, &admin).unwrap();
    reach.set_egress(FRIEND, EGRESS);
    assert_eq!(reach.grant(FRIEND, &admin, GRANT, now), Ok(GRANT));
    reach.open_session(SESSION);
    assert!(reach.admit_session(SESSION, FRIEND));
    reach.allow_dial(FRIEND, "tcp:*:*".parse().unwrap());
    drop(reach);
    router
}

#[test]
fn a12_a_refused_message_changes_nothing_in_the_router() {
    let row = Row::new("A12");
    let inputs = size(50_000, 1_000_000);
    let router = router();
    let mut ingress = Ingress::new(Arc::clone(&router), STRANGER, Address::random(7));
    let beyond = ["admin", "nobody", "tcp:127.0.0.1:1 => x", "unix:socket => x"].map(str::to_owned);
    let random = [EGRESS, GRANT, SESSION, 99].map(|id| Address::random(id).to_string());
    let targets: Vec<String> = beyond.into_iter().chain(random).collect();
    let longest = Route::new(&vec![Address::local("hop").unwrap(); 16]).unwrap();
    let mut dice = Dice(12);
    let denied = || {
        let counters = router.counters();
        counters.denied.load(Ordering::Relaxed) + counters.undeliverable.load(Ordering::Relaxed)
    };
    let mut try_one = |changed: &mut usize| {
        let target = &targets[dice.below(targets.len())];
        let onward: Route = match dice.below(3) {
            0 => format!("hop => {target}").parse().unwrap(),
            _ => target.parse().unwrap(),
        };
        let ret = match dice.below(3) {
            0 => Route::empty(),
            1 => "admin".parse().unwrap(),
            _ => longest.clone(),
        };
        let payload = vec![0; dice.below(200)];
        let mut frame = Vec::new();
        Message::new(onward.as_ref(), ret.as_ref(), &payload).encode(&mut frame);
        if dice.below(4) == 0 {
            frame.truncate(dice.below(frame.len()));
        }
        let before = router.reach().state_hash();
        assert!(ingress.accept(&frame).ok().flatten().is_none(), "nothing waits for anything");
        *changed += usize::from(router.reach().state_hash() != before);
    };
    let mut changed = 0;
    (0..100).for_each(|_| try_one(&mut changed));
    let (refused, region) = (denied(), Region::new(ALLOCATOR));
    (0..inputs).for_each(|_| try_one(&mut changed));
    let change = region.change();
    row.exactly(&format!("of {inputs} refused messages, those that changed who may reach whom"), changed, 0);
    row.exactly("blocks of memory held afterwards", change.allocations.abs_diff(change.deallocations), 0);
    row.exactly(
        "bytes of memory held afterwards",
        change.bytes_allocated.abs_diff(change.bytes_deallocated),
        0,
    );
    row.at_least("messages counted as refused", denied() - refused, inputs as u64 / 2);
    let delivered = router.counters().delivered.load(Ordering::Relaxed);
    row.exactly("messages delivered", delivered, 0);
}
