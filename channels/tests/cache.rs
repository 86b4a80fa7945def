//! The key cache with its log, through its public interface: once, on time, for its owner, and on record.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[path = "cache/harness.rs"]
mod harness;
#[path = "cache/life.rs"]
mod life;
#[path = "cache/once.rs"]
mod once;
#[path = "cache/owners.rs"]
mod owners;
#[path = "cache/time.rs"]
mod time;
