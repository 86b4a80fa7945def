//! Transports: how messages travel between adjacent nodes.
//!
//! [`TcpTransport`] and [`UnixTransport`] carry frames over byte streams, [`UdpTransport`] messages in
//! datagrams, [`MemoryNetwork`] packets between routers of one process over links with seeded faults.
//! What comes in goes to an ingress, what goes out is encoded by a step into a buffer that the
//! connection writes.
//!
//! A transport never looks into a payload, never decides who may reach whom, and authenticates
//! nobody: that is the work of the channels that run through it.
//!
//! Specification: docs/protocol.md §2.

#![cfg_attr(
    not(any(feature = "tcp", feature = "unix")),
    allow(dead_code, reason = "streams serve TCP and Unix sockets alone")
)]

mod connection;
mod dial;
mod egress;
mod error;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod listener;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "queue")]
pub mod queue;
mod stream;
#[cfg(feature = "tcp")]
mod tcp;
#[cfg(feature = "udp")]
mod udp;
#[cfg(feature = "unix")]
mod unix;

pub use connection::Connection;
pub use dial::Dialers;
pub use error::TransportError;
#[cfg(feature = "udp")]
pub use limits::DatagramLimits;
pub use limits::{StreamLimits, Streams};
pub use listener::BoundListener;
#[cfg(feature = "memory")]
pub use memory::MemoryNetwork;
#[cfg(feature = "tcp")]
pub use tcp::{TcpOptions, TcpTransport};
#[cfg(feature = "udp")]
pub use udp::{DatagramCounters, UdpTransport};
#[cfg(feature = "unix")]
pub use unix::{UnixOptions, UnixTransport};
