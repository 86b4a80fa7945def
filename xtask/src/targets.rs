//! The targets that the project's figures are held to, as data, in this one place.
//!
//! A factor compares with a peer measured in the same run, so it holds on any machine; a limit is
//! an absolute number, and only for what a machine hardly changes: bytes, allocations, added time.

/// One target for one figure. A figure may have several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The figure it is for, in the words of the bench.
    pub(crate) figure: &'static str,
    /// The unit it is for, since one figure may be printed in several.
    pub(crate) unit: &'static str,
    /// Worker threads that it is for; any number when none is given.
    pub(crate) workers: Option<u64>,
    pub(crate) reference: Reference,
    pub(crate) bound: Bound,
}

/// What a figure is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reference {
    /// The same figure of a peer.
    Peer(&'static str),
    /// The best of the same figure of several peers, all of which must have been measured.
    Best(&'static [&'static str]),
    /// Another figure of this project, in the same run.
    Own(&'static str),
    /// An absolute number, in the unit of the target.
    Limit(f64),
    /// An absolute number of nanoseconds for each of `hops`, which the figure has and `base` has not.
    PerHop { base: &'static str, hops: u32, nanoseconds: f64 },
}

/// Which side of the reference a figure has to be on; the factor multiplies the reference.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};
use Reference::{Best, Limit, Own, Peer, PerHop};

const fn target(figure: &'static str, unit: &'static str, reference: Reference, bound: Bound) -> Target {
    Target { figure, unit, workers: None, reference, bound }
}

/// As [`target`], for runs with `workers` threads only.
const fn with(workers: u64, target: Target) -> Target {
    Target { workers: Some(workers), ..target }
}

/// The table. Figures are named `group.what.bytes`.
pub(crate) const TARGETS: &[Target] = &[
    // Between workers of one node.
    target("local.oneway.64", "msg/s", Peer("ockam"), AtLeast(5.0)),
    target("local.oneway.64", "msg/s", Best(&["ractor", "kameo"]), AtLeast(1.0)),
    target("local.ask.64", "ask/s", Peer("ockam"), AtLeast(6.0)),
    target("local.ask.64", "ask/s", Peer("ractor"), AtLeast(0.9)),
    target("hops4.oneway.64", "msg/s", Peer("ockam"), AtLeast(15.0)),
    target(
        "hops4.oneway.64",
        "msg/s",
        PerHop { base: "local.oneway.64", hops: 4, nanoseconds: 150.0 },
        AtMost(1.0),
    ),
    // Between two nodes, over TCP.
    target("tcp.oneway.64", "msg/s", Peer("ockam"), AtLeast(10.0)),
    target("tcp.oneway.1024", "msg/s", Peer("ockam"), AtLeast(5.0)),
    target("tcp.oneway.32768", "msg/s", Peer("ockam"), AtLeast(1.0)),
    target("tcp.ask.64", "us p50", Peer("raw"), AtMost(1.5)),
    // Over UDP, beside a socket that sends and reads datagrams of the same size in batches, and nothing else.
    with(2, target("udp.oneway.64", "msg/s", Own("udp.raw.oneway.64"), AtLeast(0.8))),
    with(2, target("udp.oneway.1024", "msg/s", Own("udp.raw.oneway.1024"), AtLeast(0.8))),
    with(1, target("udp.channel.ask.64", "us p50", Own("udp.raw.ask.64"), AtMost(2.0))),
    // Through a secure channel over TCP.
    target("channel.oneway.64", "msg/s", Peer("ockam"), AtLeast(12.0)),
    target("channel.oneway.1024", "msg/s", Peer("ockam"), AtLeast(9.0)),
    target("channel.oneway.16384", "msg/s", Peer("ockam"), AtLeast(2.5)),
    target("channel.oneway.16384", "MB/s", Peer("rustls"), AtLeast(1.0)),
    target("channel.oneway.61440", "msg/s", Peer("ockam"), AtLeast(2.0)),
    target("channel.hop.oneway.64", "msg/s", Own("channel.oneway.64"), AtLeast(0.6)),
    target("channel.hop.oneway.1024", "msg/s", Own("channel.oneway.1024"), AtLeast(0.6)),
    target("channel.hop.oneway.16384", "msg/s", Own("channel.oneway.16384"), AtLeast(0.6)),
    target("channel.hop.oneway.61440", "msg/s", Own("channel.oneway.61440"), AtLeast(0.6)),
    with(1, target("channel.ask.64", "us p50", Peer("ockam"), AtMost(0.5))),
    with(2, target("channel.ask.64", "us p50", Peer("ockam"), AtMost(0.25))),
    target("channel.ask.64", "us p50", Peer("rustls"), AtMost(1.8)),
    target("channel.idle1000.1024", "x alone", Limit(1.0), AtLeast(0.95)),
    target("handshake.64", "handshakes/s", Peer("ockam"), AtLeast(3.0)),
    // A slow worker on one route of a connection, and the asks on another.
    target("slow.route.64", "x p99 alone", Limit(1.0), AtMost(2.0)),
    // Keys in a process of their own, beside keys in this one.
    target("keyd.sign.64", "x in-process", Limit(1.0), AtLeast(0.7)),
    target("keyd.one", "x bare and operation", Limit(1.0), AtMost(2.0)),
    target("keyd.handshake.64", "x in-process", Limit(1.0), AtLeast(0.8)),
    target("keyd.fair.100", "x p99 alone", Limit(1.0), AtMost(2.0)),
    // A fresh key for every exchange, beside the bare cryptography; a million live keys; how late a key is wiped.
    target("ok2cry.cache.strong.16", "x bare", Limit(1.0), AtLeast(0.6)),
    target("ok2cry.cache.noise-anonymous.16", "x strong", Limit(1.0), AtLeast(1.5)),
    target("ok2cry.cache.memory", "B/key", Limit(1024.0), AtMost(1.0)),
    target("ok2cry.cache.many", "x p99 empty", Limit(1.0), AtMost(2.0)),
    target("ok2cry.cache.sweep", "ms of the processor, longest turn", Limit(1.0), AtMost(1.0)),
    target("ok2cry.cache.wipe", "ms late p99", Limit(150.0), AtMost(1.0)),
    // The queue on disk, beside the bare database, a plain file, and one wait for the disk.
    target("queue.durable.1024", "x database", Limit(1.0), AtLeast(0.9)),
    target("queue.durable.1024", "x file", Limit(1.0), AtLeast(0.8)),
    target("queue.receipt.1024", "x sync", Limit(1.0), AtMost(1.5)),
    target("queue.idle", "wake-ups/s", Limit(1.0), AtMost(0.0)),
    // Queues at brokers, beside the bare clients.
    target("queue.nats.1024", "x bare", Limit(1.0), AtLeast(0.85)),
    target("queue.redis.1024", "x bare", Limit(1.0), AtLeast(0.85)),
    target("queue.mosquitto.1024", "x bare", Limit(1.0), AtLeast(0.85)),
    target("queue.rabbitmq.1024", "x bare", Limit(1.0), AtLeast(0.85)),
    // Sealed end to end, through two nodes and a broker, beside the bare client.
    target("queue.nats.sealed.1024", "msg/s", Own("queue.nats.1024.bare"), AtLeast(0.7)),
    // What one idle worker, and both ends of one idle channel, keep in memory.
    target("memory.worker", "B heap", Limit(1536.0), AtMost(1.0)),
    target("memory.worker", "B rss", Limit(1536.0), AtMost(1.0)),
    target("memory.channel", "B heap", Limit(8192.0), AtMost(1.0)),
    target("memory.channel", "B rss", Limit(8192.0), AtMost(1.0)),
    // Allocations for each message.
    target("alloc.local.64", "allocations/msg", Limit(1.1), AtMost(1.0)),
    target("alloc.tcp.64", "allocations/msg", Limit(3.0), AtMost(1.0)),
    target("alloc.channel-hop.64", "allocations/msg", Limit(6.0), AtMost(1.0)),
];
