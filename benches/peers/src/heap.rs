//! What the process holds: heap allocations when counting is on, resident memory otherwise.
//!
//! The allocator is the system's. Counting costs two contended atomics per allocation, so it is
//! off unless this process was started to count; off, it costs one load of a flag.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use anyhow::Context;

/// Counts from here on; called first in a counting process.
pub fn count() {
    COUNTING.store(true, Relaxed);
}

/// Allocations and reallocations since [`count`]; 0 in a process that does not count.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Relaxed)
}

/// Bytes held now, and what they are: live heap when counting, resident memory otherwise.
///
/// # Errors
/// Without a readable `/proc/self/status`.
pub fn held() -> anyhow::Result<(&'static str, f64)> {
    if COUNTING.load(Relaxed) {
        return Ok(("B heap", LIVE.load(Relaxed) as f64));
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS in status")?;
    Ok(("B rss", kibibytes.parse::<f64>()? * 1024.0))
}

struct Counting;

// SAFETY: every call is passed on to the system allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: the caller's promise about `layout` is the one the system allocator needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as i64 - layout.size() as i64);
        // SAFETY: `block` came from the system allocator with `layout`; `size` is the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if COUNTING.load(Relaxed) {
            LIVE.fetch_sub(layout.size() as i64, Relaxed);
        }
        // SAFETY: `block` came from the system allocator with `layout`.
        unsafe { System.dealloc(block, layout) }
    }
}

fn note(bytes: i64) {
    if COUNTING.load(Relaxed) {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE.fetch_add(bytes, Relaxed);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
