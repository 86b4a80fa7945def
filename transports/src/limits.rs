//! The bounds of transports, and what all stream connections of a node share.
//!
//! Specification: docs/protocol.md §2.1, §2.2.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use onward_workers::Room;

/// The bounds of stream connections; each is documented with its default.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamLimits {
    /// How long a peer may take for its preface, by default 5 s.
    pub preface: Duration,
    /// How long one frame may take from its first byte to its last, by default 20 s.
    pub frame: Duration,
    /// A connection that receives nothing, not even a keepalive, for this long is closed; by default
    /// 120 s. As long may one write make no progress.
    pub idle: Duration,
    /// A keepalive is sent after this long without sending, by default 40 s.
    pub keepalive: Duration,
    /// Connections accepted from one source at once, by default 64; further ones are dropped. A source is an IPv4
    /// address or an IPv6 /64 network.
    pub connections_per_ip: usize,
    /// Connections of one listener at once, by default 4,096; accepting pauses there.
    pub connections: usize,
    /// Accepted connections of one listener whose preface has not come, by default 1,024; one more ends
    /// the oldest of them.
    pub half_open: usize,
    /// Bytes that wait to be sent on one connection, by default 256 KiB; a larger frame enters an
    /// empty queue.
    pub send_bytes: usize,
    /// Bytes of receive buffers of all connections together beyond the first 4 KiB of each, by default
    /// 48 MiB: with 4,096 connections all unfinished frames stay at 64 MiB.
    pub unfinished_bytes: usize,
    /// How long an outgoing connection may be down before messages for it are refused as unreachable,
    /// and how long one attempt may take; by default 5 s.
    pub connect: Duration,
    /// The first pause between attempts to connect, by default 0.25 s; it doubles, ±50 % jitter.
    pub reconnect_first: Duration,
    /// The longest such pause, by default 30 s before jitter.
    pub reconnect_last: Duration,
    /// A connection that messages had dialled is closed after this long without traffic, by default
    /// 10 min (to a tenth more).
    pub dialled_idle: Duration,
    /// Connections that messages may have dialled at once, by default 1,024.
    pub dialled: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            preface: Duration::from_secs(5),
            frame: Duration::from_secs(20),
            idle: Duration::from_secs(120),
            keepalive: Duration::from_secs(40),
            connections_per_ip: 64,
            connections: 4096,
            half_open: 1024,
            send_bytes: 256 * 1024,
            unfinished_bytes: 48 * 1024 * 1024,
            connect: Duration::from_secs(5),
            reconnect_first: Duration::from_millis(250),
            reconnect_last: Duration::from_secs(30),
            dialled_idle: Duration::from_secs(600),
            dialled: 1024,
        }
    }
}

impl StreamLimits {
    pub(crate) fn retry(&self) -> Retry {
        Retry { connect: self.connect, first: self.reconnect_first, last: self.reconnect_last }
    }
}

/// How an outgoing connection is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    /// The time for one attempt, and until messages are refused.
    pub(crate) connect: Duration,
    /// The first pause between attempts, and the longest.
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

/// The bounds of peers over UDP; each is documented with its default. Those of one socket hold for each
/// socket: a node has one for each address it listens on, and dials by them where it can.
#[cfg(feature = "udp")]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DatagramLimits {
    /// Accepted peers of one socket, by default 16,384; further ones get no answer.
    pub peers: usize,
    /// Accepted peers of one socket from one source, an IPv4 address or an IPv6 /64 network, by default 1,024.
    pub peers_per_ip: usize,
    /// A peer that was accepted is forgotten after this long without a datagram, by default 60 s.
    pub idle: Duration,
    /// A peer that was dialled is asked whether it is there after this long without a datagram to or
    /// from it, by default 20 s; so its network keeps the way back open, too.
    pub keepalive: Duration,
    /// It is asked this long after a message that nothing came after, by default 1 s.
    pub probe: Duration,
    /// How long an outgoing connection may be down before messages for it are refused as unreachable,
    /// and how long one attempt may take; by default 5 s.
    pub connect: Duration,
    /// The first pause between attempts to connect, by default 0.25 s; it doubles, ±50 % jitter.
    pub reconnect_first: Duration,
    /// The longest such pause, by default 30 s before jitter.
    pub reconnect_last: Duration,
    /// A connection that messages had dialled is closed after this long without messages, by default
    /// 10 min (to a tenth more).
    pub dialled_idle: Duration,
    /// Connections that messages may have dialled at once, by default 1,024.
    pub dialled: usize,
    /// Bytes that wait to be sent to one peer, by default 256 KiB.
    pub send_bytes: usize,
    /// How long the pieces of one message may take, by default 5 s.
    pub reassembly: Duration,
    /// Bytes of unfinished messages of one peer, with what keeping them costs, by default 256 KiB.
    pub reassembly_peer_bytes: usize,
    /// Bytes of unfinished messages of all peers of one socket, by default 64 MiB.
    pub reassembly_all_bytes: usize,
    /// Bytes that the system is asked to buffer for a socket each way, by default 4 MiB; it may give
    /// less. What comes while the buffer is full is lost.
    pub socket_bytes: usize,
}

#[cfg(feature = "udp")]
impl Default for DatagramLimits {
    fn default() -> Self {
        Self {
            peers: 16_384,
            peers_per_ip: 1024,
            idle: Duration::from_secs(60),
            keepalive: Duration::from_secs(20),
            probe: Duration::from_secs(1),
            connect: Duration::from_secs(5),
            reconnect_first: Duration::from_millis(250),
            reconnect_last: Duration::from_secs(30),
            dialled_idle: Duration::from_secs(600),
            dialled: 1024,
            send_bytes: 256 * 1024,
            reassembly: Duration::from_secs(5),
            reassembly_peer_bytes: 256 * 1024,
            reassembly_all_bytes: 64 * 1024 * 1024,
            socket_bytes: 4 * 1024 * 1024,
        }
    }
}

#[cfg(feature = "udp")]
impl DatagramLimits {
    pub(crate) fn retry(&self) -> Retry {
        Retry { connect: self.connect, first: self.reconnect_first, last: self.reconnect_last }
    }
}

/// What all stream connections of a node share: their limits and the memory for unfinished frames.
#[derive(Debug)]
pub struct Streams {
    pub(crate) limits: StreamLimits,
    pub(crate) unfinished: Arc<Room>,
}

impl Streams {
    /// Shared state with these limits; a node needs one, for TCP and Unix sockets together.
    #[must_use]
    pub fn new(limits: StreamLimits) -> Arc<Self> {
        Arc::new(Self { unfinished: Arc::new(Room::new(limits.unfinished_bytes)), limits })
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &StreamLimits {
        &self.limits
    }
}

/// What counts as one source: an IPv4 address, or the /64 network of an IPv6 address, all of which is one host's.
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let of = |text: &str| source(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2:ffff::1"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
