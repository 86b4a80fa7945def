//! All bounds of a node, each owned by the crate that keeps it.

#[cfg(feature = "udp")]
use onward_transports::DatagramLimits;
use onward_transports::StreamLimits;

/// The bounds of a node.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Mailboxes, lanes, requests, payloads.
    pub workers: onward_workers::Limits,
    /// Connections over byte streams.
    pub streams: StreamLimits,
    /// Peers over UDP.
    #[cfg(feature = "udp")]
    pub datagrams: DatagramLimits,
    /// Routes through queues.
    #[cfg(feature = "queue")]
    pub post: onward_transports::queue::PostLimits,
    /// Secure channels.
    #[cfg(feature = "channels")]
    pub channels: ChannelLimits,
}

/// The bounds of secure channels.
#[cfg(feature = "channels")]
#[derive(Clone, Debug)]
pub struct ChannelLimits {
    /// Handshakes of one channel listener.
    pub listener: onward_channels::ListenerLimits,
    /// How long handshakes, keys and channels last; over queues, whose brokers delay, [`Profile::queue`](onward_channels::Profile::queue).
    pub profile: onward_channels::Profile,
    /// How long an identity's channel key is attested for, by default 30 days; it is attested again after half of that.
    pub attestation: std::time::Duration,
    /// Tickets of channels that can be resumed; those that end first give way.
    pub tickets: usize,
}

#[cfg(feature = "channels")]
impl Default for ChannelLimits {
    fn default() -> Self {
        Self {
            listener: onward_channels::ListenerLimits::default(),
            profile: onward_channels::Profile::live(),
            attestation: std::time::Duration::from_secs(30 * 24 * 3600),
            tickets: 10_000,
        }
    }
}

/// One bound, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LimitRow {
    /// Its name: crate and field.
    pub name: &'static str,
    /// Its value with the unit.
    pub value: String,
    /// What it bounds.
    pub bounds: &'static str,
}

impl Limits {
    /// Every bound with its value, in a fixed order.
    #[must_use]
    pub fn rows(&self) -> Vec<LimitRow> {
        let row = |name, value: String, bounds| LimitRow { name, value, bounds };
        let (workers, streams) = (&self.workers, &self.streams);
        let time = |time: std::time::Duration| format!("{time:?}");
        #[cfg_attr(
            not(any(feature = "channels", feature = "queue", feature = "udp")),
            expect(unused_mut, reason = "rows of features follow")
        )]
        let mut rows = vec![
            row("routing.addresses", onward_routing::ROUTE_ADDRESSES_MAX.to_string(), "addresses in a route"),
            row("routing.route", bytes(onward_routing::ROUTE_BYTES_MAX), "encoding of a route"),
            row("routing.header", bytes(onward_routing::HEADER_BYTES_MAX), "a message without its payload"),
            row("routing.hops", onward_routing::HOPS_MAX.to_string(), "hops a message may have left"),
            row("routing.meta", bytes(onward_routing::META_BYTES_MAX), "hints of a message"),
            row("workers.payload", bytes(workers.payload_bytes), "payload of a message"),
            row(
                "workers.mailbox",
                bytes(workers.mailbox_bytes),
                "a worker's mailbox (an entry counts 256 B at least)",
            ),
            row("workers.lane", bytes(workers.lane_bytes), "messages of one connection for one full target"),
            row("workers.lanes", bytes(workers.lanes_bytes), "messages of all connections for full targets"),
            row("workers.send_wait", time(workers.send_wait), "how long a send waits for room"),
            row(
                "workers.worker_pause",
                time(workers.worker_pause),
                "how long a reader pauses for a full worker",
            ),
            row(
                "workers.egress_pause",
                time(workers.egress_pause),
                "how long a reader pauses for a full egress",
            ),
            row("workers.asks", workers.asks.to_string(), "requests waiting for answers"),
            row("workers.ask_deadline", time(workers.ask_deadline), "how long an ask waits by default"),
            row("streams.preface", time(streams.preface), "a peer's preface"),
            row("streams.frame", time(streams.frame), "one frame, first byte to last"),
            row("streams.idle", time(streams.idle), "a silent connection"),
            row("streams.keepalive", time(streams.keepalive), "sending nothing"),
            row(
                "streams.connections_per_ip",
                streams.connections_per_ip.to_string(),
                "connections from one IPv4 address or IPv6 /64 network",
            ),
            row("streams.connections", streams.connections.to_string(), "connections of one listener"),
            row(
                "streams.half_open",
                streams.half_open.to_string(),
                "connections of one listener before their preface",
            ),
            row("streams.send", bytes(streams.send_bytes), "bytes waiting to be sent on one connection"),
            row(
                "streams.unfinished",
                bytes(streams.unfinished_bytes),
                "receive buffers of all connections together",
            ),
            row("streams.connect", time(streams.connect), "being unreachable before messages are refused"),
            row(
                "streams.reconnect_first",
                time(streams.reconnect_first),
                "first pause between attempts to connect (it doubles, ±50 %)",
            ),
            row("streams.reconnect_last", time(streams.reconnect_last), "longest such pause (±50 %)"),
            row(
                "streams.dialled_idle",
                time(streams.dialled_idle),
                "a connection dialled by messages without traffic",
            ),
            row("streams.dialled", streams.dialled.to_string(), "connections dialled by messages"),
        ];
        #[cfg(feature = "udp")]
        rows.extend(datagram_rows(&self.datagrams));
        #[cfg(feature = "queue")]
        {
            let post = &self.post;
            rows.extend([
                row("post.ttl", time(post.ttl), "a message in a queue, unless it says less"),
                row("post.send", bytes(post.send_bytes), "bytes waiting to be published to one mailbox"),
                row("post.prefetch", post.prefetch.to_string(), "unsettled deliveries of one mailbox"),
                row("post.remembered", post.remembered.to_string(), "identifiers that one mailbox remembers"),
                row("post.idle", time(post.idle), "a connection to a mailbox without traffic"),
                row("post.dialled", post.dialled.to_string(), "mailboxes dialled by messages"),
                row(
                    "post.correspondents",
                    post.correspondents.to_string(),
                    "senders that one mailbox answers",
                ),
                row(
                    "post.retry_first",
                    time(post.retry_first),
                    "first pause without a broker (it doubles, ±50 %)",
                ),
                row("post.retry_last", time(post.retry_last), "longest such pause (±50 %)"),
            ]);
        }
        #[cfg(feature = "channels")]
        rows.extend(self.channels.rows());
        rows
    }
}

fn bytes(bytes: usize) -> String {
    match bytes {
        whole if whole >= 1 << 20 && whole % (1 << 20) == 0 => format!("{} MiB", whole >> 20),
        whole if whole >= 1 << 10 && whole % (1 << 10) == 0 => format!("{} KiB", whole >> 10),
        bytes => format!("{bytes} B"),
    }
}

#[cfg(feature = "udp")]
fn datagram_rows(limits: &DatagramLimits) -> Vec<LimitRow> {
    let row = |name, value: String, bounds| LimitRow { name, value, bounds };
    let time = |time: std::time::Duration| format!("{time:?}");
    vec![
        row(
            "datagrams.message",
            bytes(onward_transports::UdpTransport::MESSAGE_BYTES_MAX),
            "an encoded message over UDP",
        ),
        row("datagrams.peers", limits.peers.to_string(), "accepted peers of one socket"),
        row(
            "datagrams.peers_per_ip",
            limits.peers_per_ip.to_string(),
            "those from one IPv4 address or IPv6 /64 network",
        ),
        row("datagrams.idle", time(limits.idle), "a silent accepted peer"),
        row("datagrams.keepalive", time(limits.keepalive), "sending or hearing nothing"),
        row("datagrams.probe", time(limits.probe), "sending unheard before the peer is asked"),
        row("datagrams.connect", time(limits.connect), "being unreachable before messages are refused"),
        row(
            "datagrams.reconnect_first",
            time(limits.reconnect_first),
            "first pause between attempts to connect (it doubles, ±50 %)",
        ),
        row("datagrams.reconnect_last", time(limits.reconnect_last), "longest such pause (±50 %)"),
        row(
            "datagrams.dialled_idle",
            time(limits.dialled_idle),
            "a connection dialled by messages without messages",
        ),
        row("datagrams.dialled", limits.dialled.to_string(), "connections dialled by messages"),
        row("datagrams.send", bytes(limits.send_bytes), "bytes waiting to be sent to one peer"),
        row("datagrams.reassembly", time(limits.reassembly), "the pieces of one message, first to last"),
        row(
            "datagrams.reassembly_peer",
            bytes(limits.reassembly_peer_bytes),
            "unfinished messages of one peer",
        ),
        row(
            "datagrams.reassembly_all",
            bytes(limits.reassembly_all_bytes),
            "unfinished messages of one socket's peers",
        ),
        row("datagrams.socket", bytes(limits.socket_bytes), "what the system is asked to buffer, each way"),
    ]
}

#[cfg(feature = "channels")]
impl ChannelLimits {
    fn rows(&self) -> Vec<LimitRow> {
        let row = |name, value: String, bounds| LimitRow { name, value, bounds };
        let time = |time: std::time::Duration| format!("{time:?}");
        let (listener, profile) = (&self.listener, &self.profile);
        vec![
            row("channels.half_open", listener.half_open_max.to_string(), "unfinished handshakes"),
            row(
                "channels.half_open_per_flow",
                listener.half_open_per_flow_max.to_string(),
                "unfinished handshakes of one flow",
            ),
            row(
                "channels.half_open_cookie",
                listener.half_open_cookie.to_string(),
                "unfinished handshakes from which on a cookie is asked for",
            ),
            row(
                "channels.half_open_per_flow_cookie",
                listener.half_open_per_flow_cookie.to_string(),
                "the same of one flow",
            ),
            row(
                "channels.new_per_second",
                listener.new_per_second.to_string(),
                "new handshakes of one flow without a cookie",
            ),
            row("channels.new_burst", listener.new_burst.to_string(), "the same at once"),
            row("channels.open", listener.open_max.to_string(), "channels that one listener has accepted"),
            row("channels.handshake", time(profile.handshake), "a handshake with its confirmation"),
            row(
                "channels.key_age",
                time(profile.key_age),
                "sending under one record key (65536 records at most)",
            ),
            row("channels.previous_key", time(profile.previous_key), "keeping a record key for late records"),
            row("channels.keepalive", time(profile.keepalive), "sending nothing in a channel"),
            row("channels.idle", time(profile.idle), "a channel that hears nothing authentic"),
            row(
                "channels.unanswered",
                time(profile.unanswered),
                "sending unheard before a channel is renewed",
            ),
            row(
                "channels.suspected",
                time(profile.suspected),
                "the same after the connection below was lost",
            ),
            row(
                "channels.renew_again",
                time(profile.renew_again),
                "time between attempts to renew a channel",
            ),
            row("channels.soft_age", time(profile.soft_age), "age at which a channel is renewed"),
            row(
                "channels.soft_bytes",
                format!("{} B", profile.soft_bytes),
                "bytes sent before a channel is renewed",
            ),
            row(
                "channels.hard_age",
                time(profile.hard_age),
                "age at which a channel that was not renewed closes",
            ),
            row(
                "channels.attestation",
                time(self.attestation),
                "showing peers one attestation of a channel key",
            ),
            row("channels.tickets", self.tickets.to_string(), "channels that can be resumed"),
            row("channels.drain", time(profile.drain), "a renewed channel still opens what was under way"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and fields may differ in the unit, or `max`, at the end.
    fn stem(name: &str) -> String {
        name.trim_end_matches("_bytes").trim_end_matches("_max").to_owned()
    }

    /// The names of a struct's own fields, as rows have them.
    fn fields(limits: &dyn std::fmt::Debug, crate_name: &str) -> Vec<String> {
        let shown = format!("{limits:#?}");
        let own = shown.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(':'));
        own.map(|(field, _)| field)
            .filter(|field| !field.starts_with(' '))
            .map(|field| stem(&format!("{crate_name}.{field}")))
            .collect()
    }

    #[test]
    fn every_bound_has_a_row_and_every_row_a_name_of_its_own() {
        let limits = Limits::default();
        let mut expected = fields(&limits.workers, "workers");
        expected.extend(fields(&limits.streams, "streams"));
        #[cfg(feature = "udp")]
        expected.extend(fields(&limits.datagrams, "datagrams"));
        #[cfg(feature = "queue")]
        expected.extend(fields(&limits.post, "post"));
        #[cfg(feature = "channels")]
        {
            let channels = &limits.channels;
            expected.extend(fields(&channels.listener, "channels"));
            expected.extend(fields(&channels.profile, "channels"));
            expected.extend(fields(channels, "channels"));
            // What they are made of, and what is no bound but a choice.
            expected.retain(|name| {
                !["channels.listener", "channels.profile", "channels.allowed"].contains(&name.as_str())
            });
            assert!(expected.len() > 40, "{expected:?}");
        }
        let rows = limits.rows();
        let mut named: Vec<_> = rows.iter().map(|row| stem(row.name)).collect();
        // Constants, which no struct has.
        named.retain(|name| !name.starts_with("routing.") && name != "datagrams.message");
        for list in [&mut expected, &mut named] {
            list.sort();
        }
        assert_eq!(named, expected);
        named.dedup();
        assert_eq!(named.len(), expected.len());
    }
}
