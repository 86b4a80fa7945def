//! Channels between two ends, stepped by hand: no sockets, no sleeps, time moves when we say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "pair/attacks.rs"]
mod attacks;
#[path = "pair/handshake.rs"]
mod handshake;
#[path = "pair/harness.rs"]
mod harness;
#[path = "pair/listener.rs"]
mod listener;
#[path = "pair/records.rs"]
mod records;
#[path = "pair/renewal.rs"]
mod renewal;
#[path = "pair/replacement.rs"]
mod replacement;
#[path = "pair/resumption.rs"]
mod resumption;
