//! Measured claims about what strangers and peers make a UDP listener do. Specification: docs/protocol.md
//! §2.2.
//!
//! A program of its own, because its allocator counts for the whole process; one trial runs at a time.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::alloc::System;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use onward_routing::{Address, Route};
use onward_transports::{BoundListener, DatagramCounters, DatagramLimits, UdpTransport};
use onward_trials::{Row, Sample, alone, is_full, size};
use onward_workers::{AskError, Echo, Limits, Raw, Router, start};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// No condition a test waits for takes this long unless something is broken.
const DEADLINE: Duration = Duration::from_secs(30);
const INIT: u8 = 1;
const CHALLENGE: u8 = 2;
const ACCEPT: u8 = 3;
const DATA: u8 = 4;
const PATH_CHALLENGE: u8 = 5;
const PATH_RESPONSE: u8 = 6;

/// A node with an echo worker exposed on its UDP listener.
struct Server {
    udp: Arc<UdpTransport>,
    listener: BoundListener,
    _router: Arc<Router>,
}

impl Server {
    fn start() -> Self {
        let (router, udp) = (router(), UdpTransport::new(DatagramLimits::default()));
        let listener = udp.listen(&router, "127.0.0.1:0".parse().unwrap()).unwrap();
        let echo = Address::local("echo").unwrap();
        start(&router, &echo, Echo).unwrap();
        router.reach_mut().expose(listener.flow(), &echo).unwrap();
        Self { udp, listener, _router: router }
    }

    fn at(&self) -> SocketAddr {
        self.listener.local_address().parse().unwrap()
    }

    fn count(&self, of: impl Fn(&DatagramCounters) -> &AtomicU64) -> u64 {
        of(self.udp.counters()).load(Ordering::Relaxed)
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn router() -> Arc<Router> {
    let router = Router::new(Limits::default()).unwrap();
    tokio::spawn(Arc::clone(&router).run());
    router
}

async fn ask(router: &Arc<Router>, route: &Route) -> Result<(), AskError> {
    router.ask::<Raw, Raw>(route, &Raw(Bytes::from("?")), DEADLINE).await.map(drop)
}

/// The way of a fresh node to the echo worker at `at`, which it dials when something is sent.
fn newcomer(at: SocketAddr) -> (Arc<Router>, Arc<UdpTransport>, Route) {
    let (router, udp) = (router(), UdpTransport::new(DatagramLimits::default()));
    router.set_dialer(udp.clone());
    (router, udp, format!("udp:{at} => echo").parse().unwrap())
}

/// How long each of `count` fresh nodes takes to get an answer, and how many get none.
async fn newcomers(count: usize, at: SocketAddr) -> (Sample, usize) {
    let (mut times, mut refused) = (Sample::default(), 0);
    for _ in 0..count {
        let (router, udp, route) = newcomer(at);
        let began = Instant::now();
        match ask(&router, &route).await {
            Ok(()) => times.add(began.elapsed()),
            Err(_) => refused += 1,
        }
        udp.end();
    }
    (times, refused)
}

/// A socket from an address of this machine's own, of which there are 2^24.
fn socket_from(number: usize) -> UdpSocket {
    let [_, _, high, low] = (number as u32 + 1).to_be_bytes();
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 2, high, low), 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn init(initiator: u64, token: &[u8]) -> Vec<u8> {
    let mut bytes = datagram(INIT, 0, &initiator.to_be_bytes());
    bytes.push(token.len() as u8);
    bytes.extend_from_slice(token);
    bytes.resize(1200, 0);
    bytes
}

fn datagram(kind: u8, to: u64, body: &[u8]) -> Vec<u8> {
    [&[0x4f, 0x57, 1, kind], &to.to_be_bytes()[..], body].concat()
}

/// Reads until a datagram of this kind comes; returns its body.
fn receive(socket: &UdpSocket, kind: u8) -> Vec<u8> {
    let mut bytes = [0; 2000];
    loop {
        let length = socket.recv(&mut bytes).unwrap();
        if bytes[3] == kind {
            return bytes[12..length].to_vec();
        }
    }
}

/// Becomes a peer of `at` as `initiator`; returns the INIT that was accepted, and the peer's id.
fn handshake(socket: &UdpSocket, at: SocketAddr, initiator: u64) -> (Vec<u8>, u64) {
    socket.send_to(&init(initiator, &[]), at).unwrap();
    let accepted = init(initiator, &receive(socket, CHALLENGE));
    socket.send_to(&accepted, at).unwrap();
    (accepted, u64::from_be_bytes(receive(socket, ACCEPT).try_into().unwrap()))
}

/// Floods `at` with first datagrams of ever new strangers, `rate` a second from many addresses.
fn flood(at: SocketAddr, rate: u64, over: &AtomicBool) -> u64 {
    let sockets: Vec<_> = (0..200).map(socket_from).collect();
    let (began, mut sent) = (Instant::now(), 0);
    let mut bytes = init(1, &[]);
    while !over.load(Ordering::Relaxed) {
        let due = began.elapsed().as_micros() as u64 * rate / 1_000_000;
        while sent < due {
            sent += 1;
            bytes[12..20].copy_from_slice(&sent.to_be_bytes());
            // What the system does not take was not sent, and is not missed.
            let _ = sockets[sent as usize % sockets.len()].send_to(&bytes, at);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

#[test]
fn a02_a_flood_of_first_datagrams_keeps_nobody_out_and_takes_no_memory() {
    let _alone = alone();
    let (rate, legitimate) = (size(4_000, 20_000) as u64, size(40, 2_000));
    let row = Row::new("A02");
    runtime().block_on(async {
        let server = Server::start();
        let at = server.at();
        // What is set up once does not count, nor what the first newcomers leave behind for the next.
        let (before, _) = newcomers(legitimate, at).await;
        let over = Arc::new(AtomicBool::new(false));
        let attack = {
            let over = Arc::clone(&over);
            tokio::task::spawn_blocking(move || flood(at, rate, &over))
        };
        let (during, refused) = newcomers(legitimate, at).await;
        let answered = server.count(|counters| &counters.challenges);
        let region = Region::new(ALLOCATOR);
        tokio::time::sleep(Duration::from_secs(size(1, 30) as u64)).await;
        let strangers = || server.count(|counters| &counters.challenges) - answered;
        // A machine that does other things besides answers more slowly.
        while strangers() < rate / 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let strangers = strangers();
        let change = region.change();
        let kept = change.bytes_allocated.saturating_sub(change.bytes_deallocated);
        over.store(true, Ordering::Relaxed);
        let sent = attack.await.unwrap();
        row.at_least("strangers answered while memory was watched", strangers, rate / 4);
        row.exactly("bytes kept for each of them", kept as u64 / strangers, 0);
        row.exactly("newcomers refused", refused, 0);
        let accepted = server.count(|counters| &counters.accepted);
        row.exactly("strangers that became peers", accepted - 2 * legitimate as u64, 0);
        row.takes_at_most("newcomer p99 ms", during.percentile_ms(99), 250.0);
        if is_full() {
            row.at_least("initiations per second", sent / 30, rate);
            let factor = during.percentile_ms(99) / before.percentile_ms(99);
            row.takes_at_most("newcomer p99 during / before", factor, 2.0);
        }
    });
}

#[test]
fn a04_repeated_first_datagrams_make_no_peer_and_cost_a_live_one_nothing() {
    let _alone = alone();
    let repetitions = size(1_000, 10_000) as u64;
    let row = Row::new("A04");
    runtime().block_on(async {
        let server = Server::start();
        let at = server.at();
        let (router, _udp, route) = newcomer(at);
        ask(&router, &route).await.unwrap();
        let initiator = socket_from(1);
        let (captured, own) = handshake(&initiator, at, 7);
        let accepted = server.count(|counters| &counters.accepted);
        let thief = socket_from(2);
        let mut lost = 0;
        for number in 0..repetitions {
            // From elsewhere, as captured: it is answered like any stranger.
            thief.send_to(&captured, at).unwrap();
            receive(&thief, CHALLENGE);
            // From where it came, as whoever forges that address would.
            initiator.send_to(&captured, at).unwrap();
            let same = u64::from_be_bytes(receive(&initiator, ACCEPT).try_into().unwrap());
            assert_eq!(same, own, "it is the peer that it was");
            if number % 10 == 0 {
                lost += u64::from(ask(&router, &route).await.is_err());
            }
        }
        row.exactly("peers made", server.count(|counters| &counters.accepted) - accepted, 0);
        row.exactly("messages lost on a live connection", lost, 0);
        let refused = server.count(|counters| &counters.refused_tokens);
        row.exactly("repetitions counted", refused, repetitions);
    });
}

#[test]
fn a30_pieces_of_messages_that_are_never_whole_take_no_more_than_their_bounds() {
    let _alone = alone();
    let pieces = size(50_000, 1_000_000) as u32;
    let row = Row::new("A30");
    runtime().block_on(async {
        let server = Server::start();
        let at = server.at();
        let peer = socket_from(3);
        let (_, own) = handshake(&peer, at, 7);
        // Once everything is as large as it gets.
        let mut watched = None;
        let mut most = 0;
        for number in 0..pieces {
            // Every other piece of a message, in turn over more messages than may be unfinished.
            let (message, index) = (number % 1000, (number / 1000 * 2 % 16) as u8);
            let body = [&message.to_be_bytes()[..], &[index, 16], b"x"].concat();
            peer.send_to(&datagram(DATA, own, &body), at).unwrap();
            if number % 50 == 49 {
                // It has read all when it has answered this.
                peer.send_to(&datagram(PATH_CHALLENGE, own, &[7; 8]), at).unwrap();
                receive(&peer, PATH_RESPONSE);
                let region = watched.get_or_insert_with(|| Region::new(ALLOCATOR));
                let change = region.change();
                most = most.max(change.bytes_allocated.saturating_sub(change.bytes_deallocated));
            }
        }
        row.at_most("KiB held for unfinished messages", most / 1024, 2 * 256);
        // And large ones.
        let body = |message: u32, index: u8| [&message.to_be_bytes()[..], &[index, 16], &[7; 1182]].concat();
        for message in 0..size(500, 5_000) as u32 {
            for index in 0..15 {
                peer.send_to(&datagram(DATA, own, &body(1 << 20 | message, index)), at).unwrap();
            }
            peer.send_to(&datagram(PATH_CHALLENGE, own, &[7; 8]), at).unwrap();
            receive(&peer, PATH_RESPONSE);
            let change = watched.get_or_insert_with(|| Region::new(ALLOCATOR)).change();
            most = most.max(change.bytes_allocated.saturating_sub(change.bytes_deallocated));
        }
        row.at_most("KiB held for unfinished messages of 17 KiB", most / 1024, 2 * 256);
        assert_eq!(server.count(|counters| &counters.malformed), 0);
    });
}
