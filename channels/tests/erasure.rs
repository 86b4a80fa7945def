//! What is left of a channel's secrets in memory once it is closed: searched for, not believed.
//!
//! A child process opens, uses and closes 1,000 channels, and then reads all of its own memory, looking for every
//! secret that was in use. Runs with the feature `witness`, which notes those secrets, masked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "only a part of it is needed here")]
#[path = "pair/harness.rs"]
mod harness;

use std::collections::{HashMap, HashSet};
use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::Arc;

use onward_channels::{Basis, HandshakeTable, Initiator, ListenerLimits, Mode, Opening, Psk, Session, Suite};
use onward_keys::SharedSecret;
use onward_keys::witness::{self, MASK, Noted, Use};

use crate::harness::{Pair, SUITES, at, open, seal};

const CHANNELS: u64 = 1_000;
/// Tells the process that it is the child.
const CHILD: &str = "ONWARD_ERASURE_CHILD";

#[test]
fn closed_channels_leave_none_of_their_keys_in_memory() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let program = std::env::current_exe().unwrap();
    let test = "closed_channels_leave_none_of_their_keys_in_memory";
    let output =
        Command::new(program).args(["--exact", test, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("channels closed"), "the child ran another test, or none");
}

fn child() {
    let live = used_channel(Mode::HybridXx, Suite::ChaChaPoly, 0);
    let found = search(&Secrets::noted(HashSet::new()));
    assert!(found.get(&Kind::RecordKey) > Some(&0), "the search does not find keys that are in use");
    drop(live);

    let mut psks = HashSet::new();
    for number in 1..=CHANNELS {
        let mode = [Mode::HybridXx, Mode::ClassicalXx, Mode::HybridXxPsk, Mode::ClassicalXxPsk]
            [(number % 4) as usize];
        let (alice, bob, psk) = used_channel(mode, SUITES[(number / 4 % 2) as usize], number);
        psks.extend(psk);
        drop((alice, bob));
    }
    let secrets = Secrets::noted(psks);
    // Calls that are over leave what they held on the stack until other calls use it.
    let at_once = search(&secrets);
    use_stack();
    let found = search(&secrets);
    let count = secrets.kinds.len();
    println!("{CHANNELS} channels closed, {count} secrets were in use; found {at_once:?}, then {found:?}");
    let left = |kind| found.get(&kind).copied().unwrap_or_default();
    assert_eq!([Kind::Ephemeral, Kind::RecordKey, Kind::PreShared].map(left), [0; 3], "{found:?}");
    assert!(left(Kind::Other) <= OTHERS_MAX, "{found:?}");
}

/// What a secret was.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Kind {
    /// A key of records, of any epoch.
    RecordKey,
    /// The private half of an X25519 key.
    Ephemeral,
    /// A pre-shared key.
    PreShared,
    /// What agreements and derivations yielded inside of a handshake, and handshake keys: snow has copies of these
    /// that nobody wipes.
    Other,
}

/// Secrets that were in use, masked, by what they were.
struct Secrets {
    kinds: HashMap<[u8; 32], Kind>,
}

impl Secrets {
    /// All that were noted since the last call.
    fn noted(psks: HashSet<[u8; 32]>) -> Self {
        let mut uses: HashMap<[u8; 32], HashSet<Use>> = HashMap::new();
        for Noted { used, masked } in witness::take() {
            uses.entry(masked).or_default().insert(used);
        }
        // What stands for "no key yet" is no secret.
        uses.remove(&[MASK; 32]);
        let kind = |(masked, uses): ([u8; 32], HashSet<Use>)| {
            let kind = if psks.contains(&masked) {
                Kind::PreShared
            } else if uses.contains(&Use::Agreement) {
                Kind::Ephemeral
            } else if uses.contains(&Use::Shared) && uses.contains(&Use::Cipher) {
                Kind::RecordKey
            } else {
                Kind::Other
            };
            (masked, kind)
        };
        Self { kinds: uses.into_iter().map(kind).collect() }
    }
}

/// A channel that has sent and rekeyed both ways, and the masked key that was shared before it.
fn used_channel(mode: Mode, suite: Suite, seed: u64) -> (Session, Session, Option<[u8; 32]>) {
    // The first initiator is replaced where the mode needs a key.
    let mut pair = Pair::new(Mode::ClassicalXx, suite, seed);
    let to = Some(pair.bob.identifier());
    let mut opening = Opening::new(mode, suite, to);
    let (mut ours, mut theirs) = (pair.alice.config(&pair.bob), pair.bob.config(&pair.alice));
    let mut masked = None;
    if mode.has_psk() {
        let secret = pair.dice.bytes();
        masked = Some(secret.map(|byte| byte ^ MASK));
        let psk = Arc::new(Psk::new(SharedSecret::new(&secret)));
        theirs.bases.psks.push(Arc::clone(&psk));
        ours.bases.psks.push(Arc::clone(&psk));
        opening.basis = Basis::Psk(psk);
    }
    let limits = ListenerLimits { allowed: [(mode, suite)].into(), ..ListenerLimits::default() };
    pair.listener = HandshakeTable::new(Arc::new(theirs), limits).unwrap();
    pair.initiator = Initiator::new(at(0), Arc::new(ours), opening, pair.dice.bytes()).unwrap();
    let (mut alice, mut bob) = pair.sessions();
    for milliseconds in [1, 130_000, 260_000] {
        let now = at(milliseconds);
        let there = seal(now, &mut alice, b"there");
        assert_eq!(open(now, &mut bob, &there).unwrap(), b"there");
        let back = seal(now, &mut bob, b"back");
        assert_eq!(open(now, &mut alice, &back).unwrap(), b"back");
    }
    (alice, bob, masked)
}

/// Does what any later work of a thread does to its stack.
#[inline(never)]
fn use_stack() {
    std::hint::black_box([0u8; 512 * 1024]);
}

/// How many of the secrets lie somewhere in this process's memory.
fn search(secrets: &Secrets) -> HashMap<Kind, usize> {
    // Most places are passed over by their first two bytes.
    let mut heads = vec![false; 1 << 16];
    for masked in secrets.kinds.keys() {
        heads[usize::from(u16::from_be_bytes([masked[0], masked[1]]))] = true;
    }
    let memory = File::open("/proc/self/mem").unwrap();
    let mut piece = vec![0; PIECE + 31];
    let own = piece.as_ptr() as u64..piece.as_ptr() as u64 + piece.len() as u64;
    let mut found: HashSet<[u8; 32]> = HashSet::new();
    for line in read_to_string("/proc/self/maps").unwrap().lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        if !rest.starts_with("rw") {
            continue;
        }
        let mut place = start;
        while place < end {
            let wanted = piece.len().min((end - place) as usize);
            let Ok(read) = memory.read_at(&mut piece[..wanted], place) else { break };
            for byte in &mut piece[..read] {
                *byte ^= MASK;
            }
            for offset in 0..read.saturating_sub(31) {
                let window: [u8; 32] = *piece[offset..].first_chunk().unwrap();
                if heads[usize::from(u16::from_be_bytes([window[0], window[1]]))]
                    && !own.contains(&(place + offset as u64))
                    && secrets.kinds.contains_key(&window)
                {
                    found.insert(window);
                }
            }
            place += PIECE as u64;
        }
    }
    let mut by_kind = HashMap::new();
    for masked in found {
        *by_kind.entry(secrets.kinds[&masked]).or_insert(0) += 1;
    }
    by_kind
}

/// Of the tens of thousands of [`Kind::Other`], so many may be left in memory that snow has freed.
const OTHERS_MAX: usize = 16;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;
