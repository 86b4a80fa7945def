//! UDP beside a bare socket: what arrives of a flood, and how long an ask takes.
//!
//! Both sides of a comparison run in turn in one process, send datagrams of one size, and gather them by
//! the same means: GSO and GRO, through `quinn-udp`. What was lost is said beside each rate.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::NodeRoute;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

use crate::measure::{Body, Counter, RUN, RUNS, Tally, body, print, runtime};
use crate::pair::{Pair, must, nodes};
use crate::{ask_laps, laps};

/// Bytes of a datagram around a message's body: its head, and the message's own to a worker `count…`.
const AROUND: usize = 18 + 25;
/// What is under way has arrived when nothing did for this long.
const QUIET: Duration = Duration::from_millis(20);
const READ_BUFFERS: usize = 8;
const READ_BYTES: usize = 65_536;

impl Pair {
    /// Connected over UDP, with a secure channel if `secured`.
    async fn udp(secured: bool) -> Self {
        let (client, server) = nodes().await;
        let listener = must(server.listen_udp("127.0.0.1:0").await);
        let connection = must(client.connect_udp(listener.local_address()).await);
        if !secured {
            must(listener.expose("echo"));
            return Self::plain(client, server, connection, listener);
        }
        must(listener.expose("bank"));
        let route = must(connection.route_to("bank")).route().clone();
        Self::secured(client, server, route, listener, None).await
    }
}

/// Messages that were sent, and that arrived, and for how long.
struct Flood {
    sent: u64,
    arrived: u64,
    seconds: f64,
}

pub(crate) fn oneway(workers: usize) {
    let runtime = runtime(workers);
    for size in [64, 1024] {
        let pair = runtime.block_on(Pair::udp(false));
        let tally = Tally::default();
        let name = format!("count{size}");
        runtime.block_on(async { must(pair.server.start_worker(&name, Counter(tally.clone()))) });
        let (route, bare) = (Arc::new(pair.open(&name)), runtime.block_on(Bare::new(size + AROUND)));
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for _ in 0..=RUNS {
            raw.push(bare.flood(&runtime));
            ours.push(flood(&runtime, &tally, &route, size));
        }
        report(&format!("udp.raw.oneway.{size}"), workers, &raw[1..]);
        report(&format!("udp.oneway.{size}"), workers, &ours[1..]);
    }
}

pub(crate) fn ask(workers: usize) {
    let runtime = runtime(workers);
    let plain = runtime.block_on(Pair::udp(false));
    let secured = runtime.block_on(Pair::udp(true));
    let (plain, secured) = (plain.open("echo"), secured.open("echo"));
    let mut runs: [Vec<(f64, f64)>; 3] = Default::default();
    for _ in 0..=RUNS {
        runs[0].push(raw_laps(&runtime));
        runs[1].push(ask_laps(&runtime, &plain));
        runs[2].push(ask_laps(&runtime, &secured));
    }
    for (figure, runs) in ["udp.raw.ask.64", "udp.ask.64", "udp.channel.ask.64"].iter().zip(&runs) {
        print(figure, "us p50", workers, &runs.iter().skip(1).map(|run| run.0).collect::<Vec<_>>());
        print(figure, "ask/s", workers, &runs.iter().skip(1).map(|run| run.1).collect::<Vec<_>>());
    }
}

fn report(figure: &str, workers: usize, floods: &[Flood]) {
    let of = |value: fn(&Flood) -> f64| floods.iter().map(value).collect::<Vec<_>>();
    print(figure, "msg/s", workers, &of(|flood| flood.arrived as f64 / flood.seconds));
    print(figure, "% lost", workers, &of(|flood| 100.0 - 100.0 * flood.arrived as f64 / flood.sent as f64));
}

/// Sends messages for one run as fast as the connection takes them.
fn flood(runtime: &Runtime, tally: &Tally, route: &Arc<NodeRoute>, size: usize) -> Flood {
    let (route, body): (_, Body) = (Arc::clone(route), body(size));
    let before = tally.counted();
    let run = runtime.spawn(async move {
        let started = Instant::now();
        let mut sent = 0;
        while sent % 64 != 0 || started.elapsed() < RUN {
            must(route.send(&body).await);
            sent += 1;
        }
        (sent, started)
    });
    let (sent, started) = must(runtime.block_on(run));
    let seconds = settle(started, || tally.counted());
    Flood { sent, arrived: tally.counted() - before, seconds }
}

/// Waits until nothing arrives any more; returns the time from `started` to the last arrival.
fn settle(started: Instant, arrived: impl Fn() -> u64) -> f64 {
    let (mut last, mut since) = (arrived(), Instant::now());
    while since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(1));
        let now = arrived();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    (since - started).as_secs_f64()
}

/// A socket that sends datagrams of one size, and one whose task counts them.
struct Bare {
    from: Arc<Socket>,
    to: SocketAddr,
    datagram: usize,
    arrived: Arc<AtomicU64>,
}

struct Socket {
    udp: UdpSocket,
    system: UdpSocketState,
}

impl Socket {
    async fn new() -> Arc<Self> {
        let udp = must(UdpSocket::bind("127.0.0.1:0").await);
        let system = must(UdpSocketState::new((&udp).into()));
        for set in [UdpSocketState::set_recv_buffer_size, UdpSocketState::set_send_buffer_size] {
            must(set(&system, (&udp).into(), 4 << 20));
        }
        Arc::new(Self { udp, system })
    }

    async fn read(&self, memory: &mut [u8], metas: &mut [RecvMeta; READ_BUFFERS]) -> usize {
        let read = self.udp.async_io(Interest::READABLE, || {
            let mut chunks = memory.chunks_exact_mut(READ_BYTES);
            let mut slices: [IoSliceMut<'_>; READ_BUFFERS] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            self.system.recv((&self.udp).into(), &mut slices, metas)
        });
        must(read.await)
    }
}

impl Bare {
    async fn new(datagram: usize) -> Self {
        let (from, reader) = (Socket::new().await, Socket::new().await);
        let (to, arrived) = (must(reader.udp.local_addr()), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&arrived);
        tokio::spawn(async move {
            let mut memory = vec![0; READ_BUFFERS * READ_BYTES];
            let mut metas = [RecvMeta::default(); READ_BUFFERS];
            loop {
                let count = reader.read(&mut memory, &mut metas).await;
                for (meta, buffer) in metas.iter().zip(memory.chunks_exact(READ_BYTES)).take(count) {
                    let datagrams = buffer[..meta.len].chunks(meta.stride);
                    counter.fetch_add(
                        datagrams.inspect(|it| _ = std::hint::black_box(it)).count() as u64,
                        Ordering::SeqCst,
                    );
                }
                tokio::task::yield_now().await;
            }
        });
        Self { from, to, datagram, arrived }
    }

    fn flood(&self, runtime: &Runtime) -> Flood {
        let (from, to, datagram) = (Arc::clone(&self.from), self.to, self.datagram);
        let before = self.arrived.load(Ordering::SeqCst);
        let run = runtime.spawn(async move {
            let batch = from.system.max_gso_segments().min(65_000 / datagram);
            let contents = vec![7; batch * datagram];
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: &contents,
                segment_size: Some(datagram),
                src_ip: None,
            };
            let started = Instant::now();
            let mut sent = 0;
            while started.elapsed() < RUN {
                let send = || from.system.send((&from.udp).into(), &transmit);
                let result: io::Result<()> = from.udp.async_io(Interest::WRITABLE, send).await;
                must(result);
                sent += batch as u64;
                tokio::task::yield_now().await;
            }
            (sent, started)
        });
        let (sent, started) = must(runtime.block_on(run));
        let seconds = settle(started, || self.arrived.load(Ordering::SeqCst));
        Flood { sent, arrived: self.arrived.load(Ordering::SeqCst) - before, seconds }
    }
}

/// A ping-pong of 64 bytes between two sockets and two tasks.
fn raw_laps(runtime: &Runtime) -> (f64, f64) {
    let run = runtime.spawn(async move {
        let one = must(UdpSocket::bind("127.0.0.1:0").await);
        let other = must(UdpSocket::bind("127.0.0.1:0").await);
        must(one.connect(must(other.local_addr())).await);
        must(other.connect(must(one.local_addr())).await);
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let length = must(other.recv(&mut buffer).await);
                must(other.send(&buffer[..length]).await);
            }
        });
        let one = &one;
        let result = laps(|| async move {
            must(one.send(&[7; 64]).await);
            must(one.recv(&mut [0; 2048]).await)
        })
        .await;
        answering.abort();
        result
    });
    must(runtime.block_on(run))
}
