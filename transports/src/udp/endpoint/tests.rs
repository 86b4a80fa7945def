//! Endpoints stepped by hand: what is lost, repeated or forged is chosen, and the clock is a number.

use onward_trials::{Row, size};

use super::*;
use crate::udp::datagram::DATAGRAM_MAX;

/// An endpoint and where it is.
struct End {
    endpoint: Endpoint,
    address: SocketAddr,
    counters: Arc<DatagramCounters>,
    random: u128,
    /// What the endpoint said besides what it sent.
    said: Vec<Output>,
}

impl End {
    fn new(address: &str, limits: DatagramLimits) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let mut random = u128::from(address.port()) | 1;
        let counters = Arc::new(DatagramCounters::default());
        let endpoint = Endpoint::new(limits, Arc::clone(&counters), at(0), &mut || next(&mut random));
        Self { endpoint, address, counters, random, said: Vec::new() }
    }

    /// Takes a datagram; returns the message that it completes.
    fn take(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let random = &mut self.random;
        match self.endpoint.receive(now, from, bytes, &mut || next(random)) {
            Received::Nothing => None,
            Received::Message(_, message) => Some(message.to_vec()),
            Received::Whole(_, message) => Some(message),
        }
    }

    fn tick(&mut self, now: Duration) {
        let random = &mut self.random;
        self.endpoint.tick(now, &mut || next(random));
    }

    /// What it has to send, with where to.
    fn sent(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(output) = self.endpoint.poll() {
            match output {
                Output::Transmit { to, bytes } => sent.push((to, bytes)),
                other => self.said.push(other),
            }
        }
        sent
    }

    fn said(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.said)
    }

    /// The datagrams of a message to a peer, and where they go.
    fn message(&mut self, now: Duration, cid: Cid, message: &[u8]) -> (SocketAddr, Vec<Vec<u8>>) {
        let mut way = self.endpoint.send(now, cid).unwrap();
        let pieces = Piece::cut(way.number(), message);
        let datagrams = pieces.map(|piece| Datagram::Data { to: way.cid, piece }.encode());
        (way.address, datagrams.collect())
    }

    fn count(&self, of: impl Fn(&DatagramCounters) -> &std::sync::atomic::AtomicU64) -> u64 {
        of(&self.counters).load(Relaxed)
    }
}

/// An initiator and a listener.
struct Pair {
    one: End,
    other: End,
    now: Duration,
}

const OWN: u64 = 0x1000;

impl Pair {
    fn new() -> Self {
        Self::with(DatagramLimits::default())
    }

    fn with(limits: DatagramLimits) -> Self {
        let mut other = End::new("10.0.0.2:2", limits.clone());
        other.endpoint.listen(true);
        Self { one: End::new("10.0.0.1:1", limits), other, now: at(0) }
    }

    /// Connected; returns the initiator's and the responder's id.
    fn connected() -> (Self, Cid, Cid) {
        let mut pair = Self::new();
        let (own, responder) = pair.connect();
        (pair, own, responder)
    }

    fn connect(&mut self) -> (Cid, Cid) {
        self.one.endpoint.dial(self.now, cid(OWN), self.other.address);
        self.exchange(|_| true);
        assert_eq!(self.one.said(), [Output::Connected(cid(OWN))]);
        let Some(Output::Accepted(responder)) = self.other.said().pop() else { panic!("nobody accepted") };
        (cid(OWN), responder)
    }

    /// Carries to and fro what there is until there is nothing, as far as `passes` lets it.
    fn exchange(&mut self, mut passes: impl FnMut(&[u8]) -> bool) {
        loop {
            let (mine, theirs) = (self.one.sent(), self.other.sent());
            if mine.is_empty() && theirs.is_empty() {
                return;
            }
            let (one, other) = (self.one.address, self.other.address);
            for (_, bytes) in mine.iter().filter(|(to, bytes)| *to == other && passes(bytes)) {
                self.other.take(self.now, one, bytes);
            }
            for (_, bytes) in theirs.iter().filter(|(to, bytes)| *to == one && passes(bytes)) {
                self.one.take(self.now, other, bytes);
            }
        }
    }

    /// Lets time pass in small steps while datagrams go to and fro.
    fn pass(&mut self, time: Duration, mut passes: impl FnMut(&[u8]) -> bool) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(50);
            for end in [&mut self.one, &mut self.other] {
                if end.endpoint.due() <= self.now {
                    end.tick(self.now);
                }
            }
            self.exchange(&mut passes);
        }
    }

    /// Sends a message from the initiator; returns whether it arrived.
    fn send(&mut self, own: Cid) -> bool {
        let (to, datagrams) = self.one.message(self.now, own, b"message");
        assert_eq!(to, self.other.address);
        self.other.take(self.now, self.one.address, &datagrams[0]) == Some(b"message".to_vec())
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn cid(number: u64) -> Cid {
    Cid::new(number).unwrap()
}

fn next(random: &mut u128) -> u128 {
    *random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).wrapping_add(1);
    *random ^ (*random >> 64)
}

fn kind(bytes: &[u8]) -> u8 {
    bytes[3]
}

#[test]
fn two_ends_become_peers_and_carry_messages_both_ways() {
    let (mut pair, own, responder) = Pair::connected();
    for length in [1, 1182, 1183, 18_912] {
        let message: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let (_, datagrams) = pair.one.message(at(0), own, &message);
        // In the other order: each piece says where it belongs.
        let from = pair.one.address;
        let got = datagrams.iter().rev().filter_map(|bytes| pair.other.take(at(0), from, bytes));
        assert_eq!(got.collect::<Vec<_>>(), std::slice::from_ref(&message));
        let (to, datagrams) = pair.other.message(at(0), responder, &message);
        assert_eq!(to, pair.one.address);
        let from = pair.other.address;
        let got = datagrams.iter().filter_map(|bytes| pair.one.take(at(0), from, bytes));
        assert_eq!(got.collect::<Vec<_>>(), [message]);
    }
}

#[test]
fn an_init_is_repeated_until_it_is_answered_and_any_loss_is_made_good() {
    for lost in 0..4 {
        let mut pair = Pair::new();
        pair.one.endpoint.dial(at(0), cid(OWN), pair.other.address);
        let mut seen = 0;
        pair.exchange(|_| {
            seen += 1;
            seen != lost + 1
        });
        assert!(pair.one.said().is_empty(), "datagram {lost} was lost");
        pair.pass(at(2), |_| true);
        assert_eq!(pair.one.said(), [Output::Connected(cid(OWN))], "datagram {lost} was lost");
        assert_eq!(pair.other.said().len(), 1, "one peer, however often it asks");
    }
    let mut alone = End::new("10.0.0.1:1", DatagramLimits::default());
    alone.endpoint.dial(at(0), cid(OWN), "10.0.0.2:2".parse().unwrap());
    let mut times = Vec::new();
    for tenth in 0..50_u32 {
        let now = Duration::from_millis(100) * tenth;
        if alone.endpoint.due() <= now {
            alone.tick(now);
        }
        times.extend(alone.sent().iter().map(|_| tenth));
    }
    assert_eq!(times, [0, 3, 8, 18, 28, 38, 48], "0.25 s, doubled to 1 s");
}

#[test]
fn n2_3_a_flood_of_inits_with_forged_sources_leaves_no_state_and_little_is_sent() {
    let mut listener = End::new("10.0.0.2:2", DatagramLimits::default());
    listener.endpoint.listen(true);
    let (mut bytes_in, mut bytes_out, mut ratio) = (0, 0, 0.0_f64);
    for number in 1..=20_000_u32 {
        let from = SocketAddr::from((number.to_be_bytes(), number as u16));
        let forged = [7; 40];
        let token = (number % 2 == 0).then_some(&forged);
        let init = Datagram::Init { initiator: cid(u64::from(number)), token }.encode();
        listener.take(at(u64::from(number / 1000)), from, &init);
        let sent: usize = listener.sent().iter().map(|(_, bytes)| bytes.len()).sum();
        bytes_in += init.len();
        bytes_out += sent;
        ratio = ratio.max(sent as f64 / init.len() as f64);
    }
    assert!(bytes_out <= 3 * bytes_in && ratio <= 0.05, "{bytes_out} for {bytes_in}, {ratio}");
    let endpoint = &listener.endpoint;
    assert!(endpoint.peers.is_empty() && endpoint.accepted.is_empty() && endpoint.per_ip.is_empty());
    assert!(endpoint.reassembly.is_empty() && endpoint.outputs.capacity() <= 4);
    assert_eq!(listener.count(|counters| &counters.refused_tokens), 10_000);
}

#[test]
fn a03_nobody_is_sent_more_than_what_came_for_it() {
    let row = Row::new("A03");
    let mut listener = End::new("10.0.0.2:2", DatagramLimits::default());
    listener.endpoint.listen(true);
    let live = SocketAddr::from(([10, 0, 0, 1], 1));
    let token = listener.endpoint.tokens.make(at(0), live, cid(1));
    listener.take(at(0), live, &Datagram::Init { initiator: cid(1), token: Some(&token) }.encode());
    listener.sent();
    let (mut bytes_in, mut bytes_out, mut ratio, mut seed) = (0, 0, 0.0_f64, 7);
    for number in 0..size(50_000, 1_000_000) as u32 {
        let mut random = || next(&mut seed) as usize;
        let from = SocketAddr::from((number.to_be_bytes(), random() as u16));
        let initiator = cid(random() as u64 | 1);
        let token: Token = std::array::from_fn(|_| random() as u8);
        let probe = [random() as u8; 8];
        let piece = Piece { message: random() as u32, index: 0, count: 1, bytes: &[7; 60] };
        let mut bytes = match random() % 6 {
            0 => Datagram::Init { initiator, token: None },
            1 => Datagram::Init { initiator, token: Some(&token) },
            2 => Datagram::Data { to: initiator, piece },
            3 => Datagram::PathChallenge { to: initiator, probe },
            4 => Datagram::Close { to: initiator },
            _ => Datagram::Accept { to: initiator, responder: initiator },
        }
        .encode();
        // As it is, with bits turned over, or cut short.
        for _ in 0..random() % 3 {
            let place = random() % bytes.len();
            bytes[place] ^= 1 << (random() % 8);
        }
        if random() % 4 == 0 {
            bytes.truncate(1 + random() % bytes.len());
        }
        listener.take(at(1), from, &bytes);
        let sent: usize = listener.sent().iter().map(|(_, bytes)| bytes.len()).sum();
        bytes_in += bytes.len();
        bytes_out += sent;
        ratio = ratio.max(sent as f64 / bytes.len() as f64);
    }
    row.at_least("first datagrams answered", listener.count(|counters| &counters.challenges), 1000);
    row.at_most("bytes out / bytes in", bytes_out as f64 / bytes_in as f64, 1.0);
    row.at_most("bytes out / bytes in, largest of one datagram", ratio, 1.0);
}

#[test]
fn n2_4_a_token_from_elsewhere_or_too_old_makes_no_peer() {
    let mut pair = Pair::new();
    pair.one.endpoint.dial(at(0), cid(OWN), pair.other.address);
    let mut with_token = Vec::new();
    pair.exchange(|bytes| {
        let is_it = kind(bytes) == 1 && bytes[20] == 40;
        if is_it {
            with_token = bytes.to_vec();
        }
        !is_it
    });
    let refused = |pair: &mut Pair, now, from: &str, bytes: &[u8]| {
        pair.other.take(now, from.parse().unwrap(), bytes);
        let sent = pair.other.sent();
        pair.other.said().is_empty() && matches!(&sent[..], [(_, bytes)] if kind(bytes) == 2)
    };
    assert!(refused(&mut pair, at(1), "10.0.0.9:1", &with_token), "other address");
    assert!(refused(&mut pair, at(1), "10.0.0.1:9", &with_token), "other port");
    let mut renamed = with_token.clone();
    renamed[19] ^= 1;
    assert!(refused(&mut pair, at(1), "10.0.0.1:1", &renamed), "other initiator");
    assert!(refused(&mut pair, at(31), "10.0.0.1:1", &with_token), "after 30 s");
    assert!(refused(&mut pair, at(250), "10.0.0.1:1", &with_token), "after two rotations");
    pair.other.take(at(29), pair.one.address, &with_token);
    assert_eq!(pair.other.said(), [], "an epoch that is over does not come back with the clock");
}

#[test]
fn n2_6_nothing_is_sent_to_a_new_address_before_it_has_answered() {
    let (mut pair, own, responder) = Pair::connected();
    let old = pair.one.address;
    let moved: SocketAddr = "10.0.0.7:7".parse().unwrap();
    let (_, datagrams) = pair.one.message(at(1), own, b"from elsewhere");
    assert!(pair.other.take(at(1), moved, &datagrams[0]).is_some(), "what it says is taken");
    let sent = pair.other.sent();
    let [(to, question)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((*to, kind(question)), (moved, 5));
    assert!(question.len() <= 3 * datagrams[0].len());
    let way = |pair: &mut Pair| pair.other.endpoint.send(at(1), responder).unwrap().address;
    assert_eq!(way(&mut pair), old);
    // Not another answer, not the right one from somebody else, not one from the old address.
    let Some(Datagram::PathChallenge { probe, .. }) = Datagram::decode(question) else { panic!() };
    let answer = |probe| Datagram::PathResponse { to: responder, probe }.encode();
    pair.other.take(at(1), moved, &answer([0; 8]));
    pair.other.take(at(1), "10.0.0.8:8".parse().unwrap(), &answer(probe));
    pair.other.take(at(1), old, &answer(probe));
    assert_eq!(way(&mut pair), old);
    pair.other.take(at(1), moved, &answer(probe));
    assert_eq!(way(&mut pair), moved);
    assert_eq!((pair.other.count(|counters| &counters.moves), pair.other.said()), (1, vec![]));
    // The same peer for an ACCEPT that was lost, from where it is now.
    pair.other.take(at(1), moved, &Datagram::Init { initiator: own, token: None }.encode());
    let expected = Datagram::Accept { to: own, responder }.encode();
    assert_eq!(pair.other.sent(), [(moved, expected)]);
}

#[test]
fn n2_6_what_was_under_way_moves_nobody_and_questions_are_bounded() {
    let (mut pair, own, responder) = Pair::connected();
    let late = pair.one.message(at(1), own, b"late").1;
    assert!(pair.send(own));
    let elsewhere: SocketAddr = "10.0.0.7:7".parse().unwrap();
    pair.other.take(at(1), elsewhere, &late[0]);
    assert_eq!(pair.other.sent(), [], "an old message from elsewhere is no move");
    // Whoever knows the id and never answers is asked now and then, and is sent less than it sent.
    let (mut bytes_in, mut bytes_out) = (0, 0);
    for number in 0..1000_u32 {
        let probe = Datagram::PathChallenge { to: responder, probe: [1; 8] }.encode();
        bytes_in += probe.len();
        pair.other.take(at(2) + Duration::from_millis(u64::from(number)), elsewhere, &probe);
        bytes_out += pair.other.sent().iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    assert!(bytes_out <= bytes_in + 5 * 20, "{bytes_out} for {bytes_in}");
    assert_eq!(pair.other.endpoint.send(at(3), responder).unwrap().address, pair.one.address);
}

#[test]
fn a_silent_accepted_peer_is_forgotten_after_60_s() {
    let (mut pair, _, responder) = Pair::connected();
    let silence = |pair: &mut Pair, time| pair.pass(time, |_| false);
    silence(&mut pair, at(59));
    assert_eq!(pair.other.said(), []);
    silence(&mut pair, at(2));
    assert_eq!(pair.other.said(), [Output::Gone(responder)]);
    let endpoint = &pair.other.endpoint;
    assert!(endpoint.peers.is_empty() && endpoint.accepted.is_empty() && endpoint.per_ip.is_empty());
}

#[test]
fn an_idle_connection_is_kept_with_little() {
    let (mut pair, own, responder) = Pair::connected();
    let mut bytes = 0;
    pair.pass(at(600), |datagram| {
        bytes += datagram.len();
        true
    });
    assert_eq!((pair.one.said(), pair.other.said()), (vec![], vec![]));
    assert!((29 * 40..=30 * 40).contains(&bytes), "{bytes}");
    // Also when only one end has something to say, however much.
    for _ in 0..1000 {
        assert!(pair.send(own));
        pair.pass(Duration::from_millis(100), |_| true);
    }
    for _ in 0..1000 {
        let (_, datagrams) = pair.other.message(pair.now, responder, b"message");
        let from = pair.other.address;
        assert!(pair.one.take(pair.now, from, &datagrams[0]).is_some());
        pair.pass(Duration::from_millis(100), |_| true);
    }
    assert_eq!((pair.one.said(), pair.other.said()), (vec![], vec![]));
}

#[test]
fn a_listener_that_restarted_is_noticed_when_nothing_comes_back() {
    let (mut pair, own, _) = Pair::connected();
    pair.pass(at(5), |_| true);
    let address = pair.other.address.to_string();
    pair.other = End::new(&address, DatagramLimits::default());
    pair.other.random ^= 0x5555;
    pair.other.endpoint.listen(true);
    assert!(!pair.send(own), "nobody knows it");
    assert_eq!(pair.other.sent(), [], "and nobody says so");
    pair.pass(at(5), |_| true);
    assert_eq!(pair.one.said(), [Output::Renewed(own)]);
    assert!(matches!(pair.other.said()[..], [Output::Accepted(_)]));
    assert!(pair.send(own));
}

#[test]
fn a_silence_that_ends_changes_nothing() {
    let (mut pair, own, _) = Pair::connected();
    assert!(pair.send(own));
    pair.pass(at(6), |_| false);
    assert_eq!(pair.one.said(), [], "it asks");
    pair.pass(at(2), |_| true);
    assert_eq!((pair.one.said(), pair.other.said()), (vec![], vec![]), "the answer is the one it had");
    assert!(pair.send(own));
    // Once it has asked for 5 s it is gone; asked for again, it is the peer that it was.
    pair.pass(at(9), |_| false);
    assert_eq!(pair.one.said(), [Output::Gone(own)]);
    pair.one.endpoint.dial(pair.now, own, pair.other.address);
    pair.exchange(|_| true);
    assert_eq!((pair.one.said(), pair.other.said()), (vec![Output::Connected(own)], vec![]));
}

#[test]
fn a_close_is_believed_after_3_s_of_silence() {
    let (mut pair, own, responder) = Pair::connected();
    let close = Datagram::Close { to: responder }.encode();
    let from = pair.one.address;
    pair.other.take(at(1), "10.0.0.9:9".parse().unwrap(), &close);
    pair.pass(at(5), |_| true);
    assert_eq!(pair.other.said(), [], "from elsewhere it means nothing");
    pair.other.take(pair.now, from, &close);
    pair.pass(at(2), |_| true);
    assert!(pair.send(own), "it lives");
    pair.pass(at(5), |_| true);
    assert_eq!(pair.other.said(), []);
    pair.one.endpoint.close(own);
    pair.exchange(|_| true);
    pair.pass(Duration::from_millis(2900), |_| true);
    assert_eq!(pair.other.said(), []);
    pair.pass(Duration::from_millis(200), |_| true);
    assert_eq!(pair.other.said(), [Output::Gone(responder)]);
}

#[test]
fn invented_challenges_multiply_nothing() {
    let mut pair = Pair::new();
    pair.one.endpoint.dial(at(0), cid(OWN), pair.other.address);
    assert_eq!(pair.one.sent().len(), 1);
    let from = pair.other.address;
    for token in 0..100 {
        let challenge = Datagram::Challenge { to: cid(OWN), token: &[token; 40] }.encode();
        pair.one.take(at(0), "10.0.0.9:9".parse().unwrap(), &challenge);
        pair.one.take(at(0), from, &challenge);
    }
    assert_eq!(pair.one.sent().len(), 1);
    // It asks for another token when the one it took leads nowhere.
    pair.pass(at(5), |_| true);
    assert_eq!(pair.one.said(), [Output::Connected(cid(OWN))]);
}

#[test]
fn peers_are_bounded_in_all_and_for_each_address() {
    let mut limits = DatagramLimits { peers: 3, peers_per_ip: 2, ..DatagramLimits::default() };
    for (same_address, most) in [(true, 2), (false, 3)] {
        let mut listener = End::new("10.0.0.2:2", limits.clone());
        listener.endpoint.listen(true);
        for number in 1..=5_u8 {
            let ip = if same_address { [10, 0, 0, 1] } else { [10, 0, 1, number] };
            let from = SocketAddr::from((ip, u16::from(number)));
            let token = listener.endpoint.tokens.make(at(0), from, cid(1));
            listener.take(at(0), from, &Datagram::Init { initiator: cid(1), token: Some(&token) }.encode());
        }
        listener.sent();
        let said = listener.said();
        assert_eq!(said.len(), most);
        assert_eq!(listener.count(|counters| &counters.refused_peers), 5 - most as u64);
        // A place that gets free is given to the next.
        let Output::Accepted(first) = said[0] else { panic!() };
        listener.endpoint.forget(first);
        let from = SocketAddr::from(([10, 0, 0, 1], 9));
        let token = listener.endpoint.tokens.make(at(0), from, cid(1));
        listener.take(at(0), from, &Datagram::Init { initiator: cid(1), token: Some(&token) }.encode());
        listener.sent();
        assert_eq!(listener.said().len(), 1);
        limits.peers_per_ip = 5;
    }
}

#[test]
fn an_ipv6_network_of_64_bits_counts_as_one_address() {
    let limits = DatagramLimits { peers_per_ip: 2, ..DatagramLimits::default() };
    let mut listener = End::new("[2001:db8::1]:2", limits);
    listener.endpoint.listen(true);
    let hosts =
        ["[2001:db8:1:1::1]:1", "[2001:db8:1:1::2]:1", "[2001:db8:1:1:9::3]:1", "[2001:db8:1:2::1]:1"];
    let accepted = hosts.map(|from| {
        let from: SocketAddr = from.parse().unwrap();
        let token = listener.endpoint.tokens.make(at(0), from, cid(1));
        listener.take(at(0), from, &Datagram::Init { initiator: cid(1), token: Some(&token) }.encode());
        listener.sent();
        listener.said().len()
    });
    assert_eq!(accepted, [1, 1, 0, 1]);
}

#[test]
fn who_does_not_listen_answers_no_init() {
    let mut end = End::new("10.0.0.2:2", DatagramLimits::default());
    let init = Datagram::Init { initiator: cid(1), token: None }.encode();
    assert_eq!(init.len(), DATAGRAM_MAX);
    end.take(at(0), "10.0.0.1:1".parse().unwrap(), &init);
    assert_eq!(end.sent(), []);
}

#[test]
fn datagrams_of_no_peer_and_of_no_form_are_counted_and_forgotten() {
    let (mut pair, _, _) = Pair::connected();
    let from = pair.one.address;
    let stranger = cid(99);
    let piece = Piece { message: 0, index: 0, count: 1, bytes: b"x" };
    for datagram in [
        Datagram::Data { to: stranger, piece },
        Datagram::PathChallenge { to: stranger, probe: [1; 8] },
        Datagram::PathResponse { to: stranger, probe: [1; 8] },
        Datagram::Challenge { to: stranger, token: &[1; 40] },
        Datagram::Accept { to: stranger, responder: stranger },
        Datagram::Close { to: stranger },
    ] {
        assert_eq!(pair.other.take(at(0), from, &datagram.encode()), None);
    }
    pair.other.take(at(0), from, b"OW");
    assert_eq!((pair.other.sent(), pair.other.said()), (vec![], vec![]));
    let counts =
        [pair.other.count(|counters| &counters.unknown), pair.other.count(|counters| &counters.malformed)];
    assert_eq!(counts, [6, 1]);
}
