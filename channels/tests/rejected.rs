//! What is rejected changes nothing: not what is accepted next, and not what is held in memory.
//!
//! One test, because the allocator counts for the whole process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests of handshakes and records")]
#[path = "pair/harness.rs"]
mod harness;

use std::alloc::System;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use onward_channels::{FirstMessage, HandshakeTable, Input, Mode, Now, Output, Session, Suite, Verdict};
use onward_trials::{Row, size};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use harness::{Dice, FLOW, Packet, Pair, open, seal};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NOW: Now = Now { mono: std::time::Duration::from_millis(1), unix: harness::UNIX };
/// Rejected inputs for each authentic record.
const REJECTED_PER_RECORD: usize = 10;

/// What came of the inputs that had to be rejected.
#[derive(Default)]
struct Outcome {
    rejected: usize,
    accepted: usize,
    /// State hashes that are others than before.
    changed: usize,
    /// Blocks and bytes that are held and were not before.
    held: [usize; 2],
}

impl Outcome {
    fn report(&self, row: Row, what: &str) {
        row.exactly(&format!("of {} bad {what}, accepted", self.rejected + self.accepted), self.accepted, 0);
        row.exactly(&format!("state hashes changed by bad {what}"), self.changed, 0);
        row.exactly(&format!("blocks of memory held after bad {what}"), self.held[0], 0);
        row.exactly(&format!("bytes of memory held after bad {what}"), self.held[1], 0);
    }
}

/// Gives `count` bad inputs and compares state and memory, after a hundred that may fill caches.
fn outcome(count: usize, subject: &mut dyn FnMut(Step) -> Option<u64>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut try_one = |outcome: &mut Outcome| {
        let before = subject(Step::Hash);
        match subject(Step::Try) {
            Some(_) => outcome.accepted += 1,
            None => outcome.rejected += 1,
        }
        outcome.changed += usize::from(subject(Step::Hash) != before);
    };
    (0..100).for_each(|_| try_one(&mut outcome));
    let region = Region::new(ALLOCATOR);
    (0..count).for_each(|_| try_one(&mut outcome));
    let change = region.change();
    outcome.held = [
        change.allocations.abs_diff(change.deallocations),
        change.bytes_allocated.abs_diff(change.bytes_deallocated),
    ];
    outcome
}

/// What a subject is asked to do.
enum Step {
    /// Take a bad input; something if it was accepted.
    Try,
    /// Tell its state.
    Hash,
}

/// The hash of what a handshake shows of itself: its state, and until when it waits.
fn hash(shown: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    shown.hash(&mut hasher);
    hasher.finish()
}

/// Any bytes at all, or `packet` changed, cut or extended; never `packet` itself.
fn spoiled(packet: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    match dice.below(4) {
        0 => bytes.truncate(dice.below(packet.len())),
        1 => bytes.push(dice.roll() as u8),
        2 => bytes = (0..dice.below(300)).map(|_| dice.roll() as u8).collect(),
        _ => {
            let bit = dice.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
    bytes
}

#[test]
fn a12_a36_what_is_rejected_changes_nothing() {
    let mut dice = Dice(12);
    records(size(50_000, 1_000_000), &mut dice);
    first_messages(size(20_000, 1_000_000), &mut dice);
    handshakes(size(20_000, 1_000_000), &mut dice);
}

/// Forged records mixed with authentic ones.
fn records(count: usize, dice: &mut Dice) {
    let row = Row::new("A12");
    let (mut alice, mut bob) = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 1).sessions();
    let (mut delivered, mut authentic) = (0, 0);
    let mut all = Outcome::default();
    while all.rejected + all.accepted < count {
        let next = seal(NOW, &mut alice, b"true");
        let own = seal(NOW, &mut bob, b"own");
        let last = seal(NOW, &mut alice, b"last");
        assert!(open(NOW, &mut bob, &last).is_ok());
        // The candidate keys of all epochs that can be named are computed once, and one more when an epoch ends.
        let far = forged_number(&next, ((number(&last) >> 16) + 64) << 16);
        assert!(open(NOW, &mut bob, &far).is_err());
        let bob = &mut bob;
        let part = outcome(REJECTED_PER_RECORD * 100, &mut |step| match step {
            Step::Hash => Some(bob.opener.state_hash()),
            Step::Try => {
                let bad = match dice.below(5) {
                    0 => last.clone(),
                    1 => own.clone(),
                    2 => forged_number(&next, 1 + dice.roll() % (66 << 16) + number(&next)),
                    3 => forged_number(&next, dice.roll()),
                    _ => spoiled(&next, dice),
                };
                open_any(bob, bad)
            }
        });
        all.rejected += part.rejected;
        all.accepted += part.accepted;
        all.changed += part.changed;
        all.held[0] += part.held[0];
        all.held[1] += part.held[1];
        authentic += 1;
        delivered += usize::from(open(NOW, bob, &next).is_ok_and(|body| body == b"true"));
        for _ in 1..100 {
            let record = seal(NOW, &mut alice, b"true");
            authentic += 1;
            delivered += usize::from(open(NOW, bob, &record).is_ok_and(|body| body == b"true"));
        }
    }
    all.report(row, "records");
    row.exactly("authentic records delivered among them", delivered, authentic);
}

fn open_any(to: &mut Session, mut record: Vec<u8>) -> Option<u64> {
    to.opener.open_in_place(NOW, &mut record).ok().map(|frame| frame.sequence.value())
}

fn number(record: &[u8]) -> u64 {
    u64::from_be_bytes(record[..8].try_into().unwrap())
}

fn forged_number(record: &[u8], number: u64) -> Vec<u8> {
    [&number.to_be_bytes()[..], &record[8..]].concat()
}

/// First messages that are none, and good ones at a flow that already holds as many as it may without a cookie.
fn first_messages(count: usize, dice: &mut Dice) {
    let mut pair = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 36);
    let Output::Transmit(_, first) = pair.initiator.poll() else {
        panic!("the first message is waiting");
    };
    let named = |number: u64| {
        let mut packet = first.clone();
        packet[7..15].copy_from_slice(&number.to_be_bytes());
        packet
    };
    let listener = &mut pair.listener;
    let mut held = Vec::new();
    for number in 0..16 {
        match receive(listener, &named(number), dice) {
            Verdict::Accept { responder, .. } => held.push(responder),
            other => panic!("{other:?}"),
        }
    }
    let objects = listener.half_open();
    let outcome = outcome(count, &mut |step| match step {
        Step::Hash => Some(listener.state_hash()),
        Step::Try => {
            let good = named(dice.roll());
            let bad = if dice.percent(20) { good } else { spoiled(&good, dice) };
            match receive(listener, &bad, dice) {
                Verdict::Drop | Verdict::Retry(_) => None,
                _ => Some(0),
            }
        }
    });
    let row = Row::new("A36");
    outcome.report(row, "first messages");
    row.exactly("half-open handshakes more than before", listener.half_open() - objects, 0);
}

fn receive(listener: &mut HandshakeTable, packet: &[u8], dice: &mut Dice) -> Verdict {
    listener.receive(NOW, FirstMessage { flow: FLOW, behind: b"", packet }, dice.bytes())
}

/// Packets that belong to no step of a handshake under way, at each of its states. What belongs to it and is bad
/// ends the attempt, as docs/protocol.md §3.4 has it, and is no part of this.
fn handshakes(count: usize, dice: &mut Dice) {
    let row = Row::new("A36");
    let mut pair = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 37);
    let mut other = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 38);
    other.run();
    let foreign: Vec<Vec<u8>> = other.sent.iter().map(|(_, packet)| packet.bytes().to_vec()).collect();
    pair.drain_initiator();
    let first = pair.link.pop_front().unwrap();
    let bad = |dice: &mut Dice, record: bool| {
        let packet = &foreign[dice.below(foreign.len())];
        let mut bad = if dice.percent(50) { packet.clone() } else { spoiled(packet, dice) };
        // A record that comes early is kept, as it must be: what is a record here is not authentic.
        if !record && bad.first() != Some(&0x89) {
            bad.insert(0, 0x89);
        }
        bad
    };
    let initiator = &mut pair.initiator;
    // The candidate keys of all epochs that a record can name are computed once.
    let far = forged_number(&[0; 64], 64 << 16);
    let at_initiator = |initiator: &mut onward_channels::Initiator, dice: &mut Dice| {
        initiator.handle(NOW, Input::Packet(&far));
        outcome(count / 3, &mut |step| match step {
            Step::Hash => Some(hash(&format!("{initiator:?} {:?}", initiator.poll()))),
            Step::Try => {
                initiator.handle(NOW, Input::Packet(&bad(dice, true)));
                match initiator.poll() {
                    Output::Wait { .. } => None,
                    _ => Some(0),
                }
            }
        })
    };
    at_initiator(initiator, dice).report(row, "packets at an initiator that waits for an answer");
    pair.deliver(first);
    pair.drain_responders();
    let responder = pair.responders.values_mut().next().unwrap();
    let at_responder = outcome(count / 3, &mut |step| match step {
        Step::Hash => Some(hash(&format!("{responder:?} {:?}", responder.poll()))),
        Step::Try => {
            responder.handle(NOW, Input::Packet(&bad(dice, false)));
            match responder.poll() {
                Output::Wait { .. } => None,
                _ => Some(0),
            }
        }
    });
    at_responder.report(row, "packets at a responder that waits for the third message");
    let second = pair.link.pop_front().unwrap();
    pair.deliver(second);
    pair.drain_initiator();
    at_initiator(&mut pair.initiator, dice).report(row, "packets at an initiator that waits to be confirmed");
    // After all of that the handshake goes on.
    pair.run();
    assert!(pair.initiator_end.unwrap().is_ok());
    assert_eq!(pair.sent.iter().filter(|(_, packet)| matches!(packet, Packet::First(_))).count(), 1);
}
