//! The decoder of messages under attack: what it refuses, what that takes, and what it allocates.
//!
//! One test, because the allocator counts for the whole process. Specification: docs/protocol.md §0, §1.1, §1.3.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::time::{Duration, Instant};

use onward_routing::{DecodeError, Message, PAYLOAD_BYTES_MAX, Route};
use onward_trials::{Row, size};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a decoder may allocate beyond twice its input.
const ALLOCATED_BEYOND: usize = 4096;

/// Splitmix64: enough to choose what is wrong with a frame.
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

#[test]
fn a22_a31_a32_bad_frames_are_refused_at_once_and_allocate_little() {
    long_routes();
    deep_nesting();
    mutated_frames();
}

fn decode(frame: &[u8]) -> Result<Message, DecodeError> {
    Message::decode(frame, PAYLOAD_BYTES_MAX)
}

/// A message with these encoded routes and nothing else.
fn frame(onward: &[u8], ret: &[u8]) -> Vec<u8> {
    [&[0x87, 1, 0, 0x18, 32], onward, ret, &[0x40, 0xf6]].concat()
}

/// The head of an array (`major` 0x80) or of bytes (0x40).
fn head(major: u8, length: usize) -> Vec<u8> {
    match length {
        0..24 => vec![major | length as u8],
        24..0x100 => vec![major | 24, length as u8],
        0x100..0x1_0000 => [&[major | 25][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[major | 26][..], &(length as u32).to_be_bytes()].concat(),
    }
}

fn address(value: &[u8]) -> Vec<u8> {
    [&[0x82, 0][..], &head(0x40, value.len()), value].concat()
}

fn route(addresses: &[Vec<u8>]) -> Vec<u8> {
    [head(0x80, addresses.len()), addresses.concat()].concat()
}

/// Routes of 17 to 1,000 addresses, addresses of up to 64 KiB, empty addresses: in either place.
fn long_routes() {
    let row = Row::new("A22");
    let frames = size(30_000, 1_000_000);
    let mut dice = Dice(22);
    let (mut accepted, mut beyond, mut took) = (0, 0, Duration::ZERO);
    assert!(decode(&frame(&route(&[address(b"a")]), &route(&[]))).is_ok());
    for _ in 0..frames {
        let bad = match dice.below(3) {
            0 => route(&vec![address(b"hop"); 17 + dice.below(984)]),
            1 => route(&[address(b"hop"), address(&vec![b'a'; 256 + dice.below(65_281)])]),
            _ => route(&[address(b"hop"), address(b"")]),
        };
        let good = route(&[address(b"hop")]);
        let frame = if dice.below(2) == 0 { frame(&bad, &good) } else { frame(&good, &bad) };
        let region = Region::new(ALLOCATOR);
        #[expect(clippy::disallowed_methods, reason = "what it takes is what is measured")]
        let began = Instant::now();
        let decoded = decode(&frame);
        took += began.elapsed();
        beyond += usize::from(region.change().bytes_allocated > frame.len());
        accepted += usize::from(decoded.is_ok());
    }
    row.exactly(&format!("of {frames} frames, those accepted"), accepted, 0);
    row.exactly("frames for which more was allocated than they are long", beyond, 0);
    row.takes_at_most("mean time to refuse one, microseconds", took.as_secs_f64() * 1e6 / frames as f64, 5.0);
}

/// Arrays in arrays in the meta map, 100,000 deep, on a stack of 64 KiB.
fn deep_nesting() {
    let row = Row::new("A31");
    let with_meta =
        |meta: Vec<u8>| [&[0x87, 1, 0, 0x18, 32, 0x80, 0x80, 0x40, 0xa1, 0x02][..], &meta].concat();
    for (kind, open) in [("arrays", 0x81), ("maps", 0xa1), ("arrays without end", 0x9f), ("tags", 0xc1)] {
        let frame = with_meta(vec![open; 100_000]);
        let small = std::thread::Builder::new().stack_size(64 * 1024);
        let refused = small.spawn(move || {
            #[expect(clippy::disallowed_methods, reason = "what it takes is what is measured")]
            let began = Instant::now();
            (decode(&frame).is_err(), began.elapsed().as_secs_f64() * 1e3)
        });
        let (refused, took) = refused.unwrap().join().unwrap();
        row.exactly(&format!("messages refused with {kind} 100,000 deep"), u8::from(refused), 1);
        row.takes_at_most(&format!("time to refuse {kind} 100,000 deep, ms"), took, 1.0);
    }
    let nested = |depth: usize| with_meta([vec![0x81; depth - 1], vec![0x80]].concat());
    let deepest = (1..20).filter(|depth| decode(&nested(*depth)).is_ok()).count();
    // The message's array and the map are open too.
    row.exactly("deepest nesting accepted", deepest + 2, 8);
}

/// Frames that were right before something in them was changed: lengths above all.
fn mutated_frames() {
    let row = Row::new("A32");
    let inputs = size(100_000, 100_000_000);
    let mut dice = Dice(32);
    let long: Route = "tcp:relay.example:4000 => #0123456789abcdef0123456789abcdef => hop".parse().unwrap();
    let seeds: Vec<Vec<u8>> = [(&b""[..], &Route::empty()), (b"some payload", &long), (&[7; 5000], &long)]
        .into_iter()
        .map(|(payload, ret)| {
            let mut bytes = Vec::new();
            Message::new(long.as_ref(), ret.as_ref(), payload).encode(&mut bytes);
            bytes
        })
        .collect();
    let (mut violations, mut accepted) = (0, 0);
    for _ in 0..inputs {
        let mut frame = seeds[dice.below(seeds.len())].clone();
        for _ in 0..=dice.below(3) {
            let place = dice.below(frame.len());
            match dice.below(4) {
                0 => frame[place] = [0x1b, 0x5b, 0x5a, 0x9b, 0x9a, 0xbb, 0xff][dice.below(7)],
                1 => frame.truncate(place.max(1)),
                2 => frame[place] ^= 1 << dice.below(8),
                _ => frame.insert(place, dice.roll() as u8),
            }
        }
        let region = Region::new(ALLOCATOR);
        let decoded = decode(&frame);
        let allocated = region.change().bytes_allocated;
        violations += usize::from(allocated > 2 * frame.len() + ALLOCATED_BEYOND);
        accepted += usize::from(decoded.is_ok());
    }
    row.exactly(&format!("of {inputs} frames, those for which too much was allocated"), violations, 0);
    row.at_least("frames that were still right, which allocate too", accepted, inputs / 100);
}
