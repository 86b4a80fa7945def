//! The key service as a process: what it answers, to whom, and what it keeps from everybody.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod activation;
mod audit;
mod cache;
mod crash;
mod general;
mod harness;
mod host;
mod memory;
mod node;
mod oracle;
mod peer;
mod policy;
mod vectors;
