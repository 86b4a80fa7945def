//! What is left of disposable keys in memory once they are over: searched for, not believed.
//!
//! A child process makes, uses and ends keys, and takes a core of itself: all of its memory, in a file. Its parent looks
//! in there for every private half and epoch key that there was. Runs with the features `ok2cry` and `witness`, which
//! notes those secrets, masked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "only a part of it is needed here")]
#[path = "cache/harness.rs"]
mod harness;

use std::collections::HashSet;
use std::fs::{File, read_to_string};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use onward_channels::ok2cry::Policy;
use onward_channels::ok2cry::cache::NewDisposableKey;
use onward_keys::witness::{self, MASK, Use};
use onward_trials::{Row, size};

use crate::harness::{Fixture, Key, asker, plain};

/// Tells the process that it is the child, and where it leaves its cores.
const CHILD: &str = "ONWARD_FORGOTTEN_CHILD";

const TTL: u16 = 15;

#[test]
fn n5_7_a_core_holds_no_key_after_its_time_and_no_epoch_key_after_its_end() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return child(Path::new(&folder));
    }
    let row = Row::new("R24");
    let folder = tempfile::tempdir().unwrap();
    let test = "n5_7_a_core_holds_no_key_after_its_time_and_no_epoch_key_after_its_end";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| {
        let mut bytes = Vec::new();
        File::open(folder.path().join(name)).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let lists = |name| -> HashSet<[u8; 32]> {
        read(name).chunks(32).map(|masked| masked.try_into().unwrap()).collect()
    };
    let (private, epochs) = (lists("private"), lists("epochs"));
    let keys = size(500, 10_000);
    assert!(private.len() >= keys && !epochs.is_empty(), "{} and {}", private.len(), epochs.len());
    // While the epoch's key lives it is there to be found, and so is what was planted.
    let live = read("live");
    row.exactly("epoch keys found while they live", found(&live, &epochs), epochs.len());
    row.exactly("planted needles found", found(&live, &lists("needles")), 1);
    let over = read("over");
    row.exactly("private halves in a core a second after their time", found(&over, &private), 0);
    let wiped = read("wiped");
    row.exactly("private halves in a core after their epoch", found(&wiped, &private), 0);
    row.exactly("epoch keys in a core after their end", found(&wiped, &epochs), 0);
    row.at_least("KiB of a core", wiped.len() >> 10, 1024);
}

fn child(folder: &Path) {
    let mut cache = Fixture::new();
    witness::take();
    for at in 0..size(500, 10_000) {
        let policy = if at % 2 == 0 { Policy::Strong } else { Policy::NoiseAnonymous };
        let key = cache.make(&asker(1), NewDisposableKey { policy, ttl: Some(TTL), ..plain() }).unwrap();
        if at % 3 == 0 {
            used(&mut cache, &key);
        }
    }
    let noted = witness::take();
    let of = |used| noted.iter().filter(move |noted| noted.used == used).map(|noted| noted.masked);
    save(&folder.join("private"), of(Use::Wrapped));
    save(&folder.join("epochs"), of(Use::Wrapping).collect::<HashSet<_>>());
    let needle = std::hint::black_box(Box::new(*b"a needle of thirty-two bytes, ok"));
    save(&folder.join("needles"), [needle.map(|byte| byte ^ MASK)]);
    core(&folder.join("live"));
    cache.wait(Duration::from_secs(u64::from(TTL) + 1));
    cache.sweep();
    assert_eq!(cache.live(), 0);
    use_stack();
    core(&folder.join("over"));
    cache.wait(Duration::from_secs(60 + 5));
    cache.sweep();
    assert_eq!(cache.host.status().epochs, 0);
    use_stack();
    core(&folder.join("wiped"));
    drop(needle);
}

fn used(cache: &mut Fixture, key: &Key) {
    cache.open(&asker(1), key, &key.sealed()).unwrap();
}

/// Does what any later work of a thread does to its stack.
#[inline(never)]
fn use_stack() {
    std::hint::black_box([0u8; 512 * 1024]);
}

fn save(path: &Path, secrets: impl IntoIterator<Item = [u8; 32]>) {
    std::fs::write(path, secrets.into_iter().collect::<Vec<_>>().concat()).unwrap();
}

/// Writes all of this process's memory that can be written to into a file, masked.
fn core(path: &Path) {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut file = File::create(path).unwrap();
    let mut piece = vec![0; 1 << 20];
    let own = piece.as_ptr() as u64..piece.as_ptr() as u64 + piece.len() as u64;
    for line in read_to_string("/proc/self/maps").unwrap().lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [mut place, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        while rest.starts_with("rw") && place < end {
            let wanted = piece.len().min((end - place) as usize);
            let Ok(read) = memory.read_at(&mut piece[..wanted], place) else { break };
            // The piece itself holds what was masked before: masked again, it would look like a finding.
            for (byte, at) in piece[..read].iter_mut().zip(place..) {
                *byte = if own.contains(&at) { 0 } else { *byte ^ MASK };
            }
            file.write_all(&piece[..read]).unwrap();
            place += read as u64;
        }
    }
}

/// How many of the secrets are in the core; both are masked.
fn found(core: &[u8], secrets: &HashSet<[u8; 32]>) -> usize {
    // Most places are passed over by their first two bytes.
    let mut heads = vec![false; 1 << 16];
    for secret in secrets {
        heads[usize::from(u16::from_be_bytes([secret[0], secret[1]]))] = true;
    }
    let mut found = HashSet::new();
    for window in core.windows(32) {
        if heads[usize::from(u16::from_be_bytes([window[0], window[1]]))] && secrets.contains(window) {
            found.insert(window.to_vec());
        }
    }
    found.len()
}
