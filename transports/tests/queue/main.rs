//! Queues: what all of them promise, and what the embedded one keeps through crashes, power cuts, full
//! disks and damage.
#![allow(clippy::unwrap_used, reason = "unwrapping is how a test fails")]

mod embedded;
