//! A queue that other nodes use: the worker that serves it, and the broker that asks such a worker.
//!
//! What travels between the two is a request and its answer, over whatever route there is. The one who
//! fetches holds a lease: what it does not settle in [`LEASE`] comes again.
//!
//! Specification: docs/protocol.md §2.3 *Served queues*.

mod remote;
mod service;
pub(crate) mod wire;

pub use remote::RemoteQueue;
pub(crate) use service::QueueService;

use std::time::Duration;

/// How long a delivery that was fetched may stay unsettled, and how much longer after each extension.
const LEASE: Duration = Duration::from_secs(30);
/// How long a fetch waits for a first message.
const FETCH: Duration = Duration::from_secs(20);
/// A subscription that nobody fetches from ends after this long.
const ABANDONED: Duration = Duration::from_secs(60);
/// Bytes of one answer to a fetch, unless its first message alone has more.
const FETCH_BYTES: usize = 256 * 1024;
