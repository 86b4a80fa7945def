//! Addresses, routes, messages and the rules of who may reach whom.
//!
//! A [`Message`] carries an *onward route* (where it still goes) and a *return route* (how an answer
//! comes back). Each hop takes itself off the first and puts itself on the second. Everything here is
//! a pure value: no sockets, no clock, no tasks; time is an argument.
//!
//! Routing gives no confidentiality, integrity or delivery guarantee; its one security duty is
//! reachability, kept by [`Reach`]: which local workers a message from outside may reach.
//!
//! Specification: docs/protocol.md §1.

mod address;
pub mod cbor;
mod flow;
mod link;
mod message;
mod reach;
mod report;
mod route;
mod wire;

pub use address::{Address, AddressError, AddressRef, Kind, RandomAddress};
pub use flow::{FlowId, PeerId};
pub use link::{Delivery, Link, LinkFaults, Rng};
pub use message::{HopError, INLINE_MAX, Message};
pub use reach::{Allowed, Denied, DialRule, FlowKind, GRANT_LIFETIME, PAIR_LIFETIME, Reach};
pub use report::{ErrorCode, ErrorReport};
pub use route::{Route, RouteError, RouteRef};
pub use wire::{DecodeError, LENGTH_HEAD};

/// Hops a message starts with unless its sender says otherwise. Source: docs/protocol.md §1.2.
pub const HOPS_DEFAULT: u8 = 32;
/// Most hops a message may have left; an ingress clamps to it.
pub const HOPS_MAX: u8 = 64;
/// Most addresses in one route.
pub const ROUTE_ADDRESSES_MAX: usize = 16;
/// Largest encoding of one route, with its array head, in bytes.
pub const ROUTE_BYTES_MAX: usize = 1024;
/// Largest header in bytes: a whole encoded message without its payload.
pub const HEADER_BYTES_MAX: usize = 3 * 1024;
/// Largest payload in bytes unless configured otherwise.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Largest payload in bytes that can be configured.
pub const PAYLOAD_BYTES_HARD_MAX: usize = 16 * 1024 * 1024;
/// Largest encoding of a message's meta map, in bytes.
pub const META_BYTES_MAX: usize = 256;
