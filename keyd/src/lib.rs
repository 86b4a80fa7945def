//! The key service: a process of its own that computes with private keys for clients and never gives one out.
//!
//! # Invariants
//! - No private key leaves the process but one of general use that was made extractable, and that only wrapped by
//!   another: no message has a place for one as it is, and no file holds one that is not sealed.
//! - What no rule of the policy allows is denied, and a denied key is not told from one that does not exist.
//! - The passphrase comes over a connection or standard input; never by argument, environment or file.
//! - Nobody is answered whose process is not the one that connected.
//! - What was done is on record before it is answered.
//! - One thread; nothing waits for a client. No program is run, no socket made, once keys can be in memory.
//!
//! Specification: docs/protocol.md §5.6 and §7.

#![cfg_attr(test, allow(clippy::unwrap_used))] // a panic is how a test fails

pub mod cache;
pub mod files;
mod keys;
pub mod log;
pub mod operations;
pub mod peer;
pub mod policy;
pub mod program;
pub mod protocol_keys;
pub mod rates;
pub mod sandbox;
pub mod server;
pub mod service;
