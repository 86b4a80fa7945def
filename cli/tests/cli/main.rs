//! The command as people and scripts use it: real processes, sockets and state directories.

mod demo;
mod errors;
mod harness;
mod help;
mod node;
mod output;
mod serve;
