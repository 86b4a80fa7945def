//! The command as people and scripts use it: real processes, sockets and state directories.

#![allow(clippy::unwrap_used, reason = "unwrapping is how a test fails")]

mod broker;
mod demo;
mod errors;
mod harness;
mod help;
mod keyd;
mod node;
mod ok2cry;
mod output;
mod queue;
mod serve;
mod trials;
