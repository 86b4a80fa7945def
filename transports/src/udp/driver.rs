//! The task that serves one socket: datagrams in and out in batches, and the clock of its [`Endpoint`].
//!
//! It decides nothing of the protocol. Reading never waits for a worker: a message whose target and lane
//! are full is refused and counted, because one socket has many peers. Writing waits for the system, and
//! a peer's senders wait for its buffer.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use onward_routing::{DecodeError, FlowId, LENGTH_HEAD};
use onward_workers::{Blocked, Ingress, Router};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::counters::DatagramCounters;
use super::datagram::{Cid, MESSAGE_MAX, Piece};
use super::endpoint::{Endpoint, Output, Received};
use super::outgoing::Outgoing;
use super::socket::{Order, Progress, Socket};
use crate::egress::{Batch, Egress, Registration, Taken};
use crate::limits::DatagramLimits;

/// Buffers of one read, and the bytes of each: what the system gathers of one peer at once.
const READ_BUFFERS: usize = 8;
const READ_BYTES: usize = 65_536;
/// Batches of peers that are written between two reads.
const WRITES: usize = 16;
/// After so many bytes written others run first: they may have more to send.
const YIELD_BYTES: usize = 4 * 1024;
/// A worker handles about so many messages in one turn, before the runtime has others run.
const TURN_MESSAGES: usize = 64;
/// How long the task waits when the system fails to read for no reason that passes by itself.
const READ_PAUSE: Duration = Duration::from_millis(5);
/// The task looks at its timers at least this often.
const TICK_MAX: Duration = Duration::from_secs(60);

/// What serves a socket.
pub(crate) struct Driver {
    router: Arc<Router>,
    socket: Arc<Socket>,
    udp: UdpSocket,
    system: UdpSocketState,
    limits: DatagramLimits,
    counters: Arc<DatagramCounters>,
    endpoint: Endpoint,
    began: Instant,
    attached: HashMap<Cid, Attached, RandomState>,
    listening: Option<FlowId>,
    /// Peers that were accepted.
    accepted: usize,
    /// Dropped when no accepted peer is left.
    drained: Option<oneshot::Sender<()>>,
    /// Dropped when what was accepted has been ended.
    unlistened: Vec<oneshot::Sender<()>>,
    ready: VecDeque<Cid>,
    batch: Batch,
    outgoing: Outgoing,
    /// Whose batch is on its way out.
    writing: Option<Cid>,
    is_blocked: bool,
}

/// The connection over a peer.
struct Attached {
    egress: Arc<Egress>,
    ingress: Ingress,
    waker: Waker,
    /// The own address by which the peer's last message came, where the socket has several.
    by: Option<IpAddr>,
    owner: Owner,
}

/// Who made a connection and is told of its end.
enum Owner {
    Listener(#[expect(dead_code, reason = "held: its end is the connection's")] Registration),
    Caller(watch::Sender<Progress>),
}

impl Driver {
    /// What serves `udp`, of which `socket` is the handle.
    pub(crate) fn new(
        router: &Arc<Router>,
        socket: &Arc<Socket>,
        udp: UdpSocket,
        system: UdpSocketState,
        limits: &DatagramLimits,
        counters: &Arc<DatagramCounters>,
    ) -> Self {
        let mut random = || router.random();
        let endpoint = Endpoint::new(limits.clone(), Arc::clone(counters), Duration::ZERO, &mut random);
        let outgoing = Outgoing::new(system.max_gso_segments());
        Self {
            router: Arc::clone(router),
            socket: Arc::clone(socket),
            udp,
            system,
            limits: limits.clone(),
            counters: Arc::clone(counters),
            endpoint,
            began: Instant::now(),
            attached: HashMap::default(),
            listening: None,
            accepted: 0,
            drained: None,
            unlistened: Vec::new(),
            ready: VecDeque::new(),
            batch: Batch::default(),
            outgoing,
            writing: None,
            is_blocked: false,
        }
    }

    /// Serves the socket until nobody needs it.
    pub(crate) async fn run(mut self) {
        let mut buffers = Buffers::new();
        let mut timer = pin!(sleep_until(self.began));
        // A socket that is new to the runtime is not known to be writable, and its first datagram would
        // be lost.
        let _ = self.udp.writable().await;
        loop {
            self.obey();
            let now = self.now();
            if self.endpoint.due() <= now {
                self.tick(now);
            }
            let written = self.write();
            let read = match self.read(&mut buffers).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(%error, "a UDP socket cannot be read");
                    sleep(READ_PAUSE).await;
                    false
                }
            };
            if self.is_unused() && self.socket.close().is_ok() {
                break;
            }
            self.unlistened.clear();
            if read || written >= YIELD_BYTES {
                tokio::task::yield_now().await;
            }
            if read || !self.ready.is_empty() && !self.is_blocked {
                continue;
            }
            let due = self.began + self.endpoint.due().min(now + TICK_MAX);
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                () = poll_fn(|cx| self.socket.poll_called(cx)) => {}
                _ = self.udp.readable() => {}
                _ = self.udp.writable(), if self.is_blocked => {}
                () = &mut timer => {}
            }
        }
        // Before those are told who wait for it: the port is free then.
        drop(self.udp);
        drop(self.unlistened);
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn is_unused(&self) -> bool {
        self.listening.is_none() && self.attached.is_empty()
    }

    fn tick(&mut self, now: Duration) {
        self.endpoint.tick(now, &mut || self.router.random());
        self.follow(None);
        self.outgoing.shrink();
        self.batch = Batch::default();
        for attached in self.attached.values() {
            attached.egress.shrink();
        }
    }

    fn obey(&mut self) {
        let mut orders = Vec::new();
        self.socket.take(&mut orders, &mut self.ready);
        for order in orders {
            match order {
                Order::Listen(flow) => {
                    self.listening = Some(flow);
                    self.endpoint.listen(true);
                }
                Order::Drain(drained) => {
                    self.endpoint.listen(false);
                    self.drained = Some(drained);
                    for attached in self.attached.values().filter(|attached| attached.is_accepted()) {
                        attached.egress.drain();
                    }
                    self.note_drained();
                }
                Order::Unlisten(done) => {
                    self.endpoint.listen(false);
                    self.listening = None;
                    let accepted = self.attached.iter().filter(|(_, attached)| attached.is_accepted());
                    for cid in accepted.map(|(cid, _)| *cid).collect::<Vec<_>>() {
                        self.endpoint.close(cid);
                        self.detach(cid);
                    }
                    self.unlistened.extend(done);
                }
                Order::Dial { cid, address, egress, progress } => {
                    self.endpoint.dial(self.now(), cid, address);
                    self.attach(cid, egress, Owner::Caller(progress));
                }
                Order::HangUp(cid) => {
                    self.endpoint.close(cid);
                    self.detach(cid);
                }
            }
            self.follow(None);
        }
    }

    /// Does what the endpoint says; answers leave by the own address `by`.
    fn follow(&mut self, by: Option<IpAddr>) {
        while let Some(output) = self.endpoint.poll() {
            match output {
                Output::Transmit { to, bytes } => self.transmit(to, by, &bytes),
                Output::Accepted(cid) => self.accept(cid),
                Output::Connected(cid) => {
                    if let Some(Attached { owner: Owner::Caller(progress), .. }) = self.attached.get(&cid) {
                        progress.send_replace(Progress::Connected);
                    }
                }
                Output::Renewed(cid) => {
                    if let Some(attached) = self.attached.get(&cid) {
                        attached.egress.lost(&self.router);
                        attached.egress.open(&self.router);
                    }
                }
                Output::Gone(cid) => self.detach(cid),
            }
        }
    }

    /// Sends one datagram of the endpoint's own; one that the system does not take is lost, and all of
    /// them are sent again when nothing comes of them.
    fn transmit(&self, to: SocketAddr, by: Option<IpAddr>, bytes: &[u8]) {
        if let Err(error) = self.send(&self.transmit_of(to, by, bytes.len(), bytes)) {
            tracing::debug!(%to, %error, "a datagram was not sent");
        }
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.udp.try_io(Interest::WRITABLE, || self.system.send((&self.udp).into(), transmit))
    }

    /// What the system is given, in one call, of datagrams of `segment` bytes each.
    fn transmit_of<'a>(
        &self,
        to: SocketAddr,
        by: Option<IpAddr>,
        segment: usize,
        contents: &'a [u8],
    ) -> Transmit<'a> {
        let destination = match (self.socket.local, to.ip()) {
            // A socket for both families names IPv4 addresses in the manner of IPv6.
            (SocketAddr::V6(_), IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let segment_size = (contents.len() > segment).then_some(segment);
        Transmit { destination, ecn: None, contents, segment_size, src_ip: by }
    }

    fn accept(&mut self, cid: Cid) {
        let send_bytes = self.limits.send_bytes;
        match Registration::new(&self.router, self.listening, send_bytes, MESSAGE_MAX) {
            Ok(registration) if self.listening.is_some() => {
                let egress = Arc::clone(&registration.egress);
                egress.open(&self.router);
                self.accepted += 1;
                self.attach(cid, egress, Owner::Listener(registration));
            }
            Ok(_) => self.endpoint.forget(cid),
            Err(error) => {
                tracing::warn!(%error, "a peer could not be registered");
                self.endpoint.forget(cid);
            }
        }
    }

    fn attach(&mut self, cid: Cid, egress: Arc<Egress>, owner: Owner) {
        let ingress = Ingress::new(Arc::clone(&self.router), egress.flow, egress.address.clone());
        let waker = self.socket.waker_of(cid);
        self.attached.insert(cid, Attached { egress, ingress, waker, by: None, owner });
        // Looked at once, it has the waker.
        self.ready.push_back(cid);
    }

    fn detach(&mut self, cid: Cid) {
        match self.attached.remove(&cid).map(|attached| attached.owner) {
            Some(Owner::Caller(progress)) => {
                progress.send_replace(Progress::Gone);
            }
            Some(Owner::Listener(_)) => {
                self.accepted -= 1;
                self.note_drained();
            }
            None => {}
        }
    }

    fn note_drained(&mut self) {
        if self.accepted == 0 {
            self.drained = None;
        }
    }

    /// Writes what peers have, until the system takes no more; returns how many bytes there were.
    fn write(&mut self) -> usize {
        let mut bytes = 0;
        for _ in 0..WRITES {
            if !self.flush() {
                break;
            }
            let Some(cid) = self.ready.pop_front() else { break };
            bytes += self.encode(cid);
        }
        bytes
    }

    /// Takes what a peer has to send and cuts it into datagrams.
    fn encode(&mut self, cid: Cid) -> usize {
        let Some(attached) = self.attached.get(&cid) else { return 0 };
        match attached.egress.poll_take(&mut Context::from_waker(&attached.waker), &mut self.batch) {
            Poll::Pending => return 0,
            Poll::Ready(Taken::Drained) => {
                self.endpoint.close(cid);
                self.detach(cid);
                self.follow(None);
                return 0;
            }
            Poll::Ready(Taken::Batch) => {}
        }
        let joined: Vec<u8>;
        let mut frames = match self.batch.plain() {
            Some(frames) => frames,
            None => {
                joined = self.batch.pieces().iter().flat_map(|piece| piece.iter().copied()).collect();
                &joined
            }
        };
        // It turns out when the first ones are refused whether a network card takes so many at once.
        self.outgoing.limit(self.system.max_gso_segments());
        let (bytes, by, mut messages) = (frames.len(), attached.by, 0);
        let mut way = self.endpoint.send(self.began.elapsed(), cid);
        while let Some((head, rest)) = frames.split_first_chunk::<LENGTH_HEAD>() {
            let (message, behind) = rest.split_at(u32::from_be_bytes(*head) as usize);
            frames = behind;
            // Without a way the peer is gone: what was for it is lost with it.
            let Some(way) = &mut way else { break };
            for piece in Piece::cut(way.number(), message) {
                self.outgoing.put(way.address, by, way.cid, &piece);
            }
            messages += 1;
        }
        self.batch.clear();
        self.counters.sent.fetch_add(messages, Relaxed);
        self.writing = Some(cid);
        // There may be more by now, and if not, it needs its waker again.
        self.ready.push_back(cid);
        bytes
    }

    /// Hands the system what is on its way out; `false` when it takes no more for now.
    fn flush(&mut self) -> bool {
        while let Some((burst, contents)) = self.outgoing.first() {
            match self.send(&self.transmit_of(burst.to, burst.by, burst.segment, contents)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return false;
                }
                Err(error) => tracing::debug!(to = %burst.to, %error, "datagrams were not sent"),
                Ok(()) => {}
            }
            self.outgoing.left();
        }
        self.is_blocked = false;
        if let Some(attached) = self.writing.take().and_then(|cid| self.attached.get(&cid)) {
            attached.egress.written();
        }
        true
    }

    /// Reads what has come; returns whether anything had.
    async fn read(&mut self, buffers: &mut Buffers) -> io::Result<bool> {
        let Buffers { memory, metas } = buffers;
        let mut chunks = memory.chunks_exact_mut(READ_BYTES);
        let mut slices: [IoSliceMut<'_>; READ_BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let received =
            self.udp.try_io(Interest::READABLE, || self.system.recv((&self.udp).into(), &mut slices, metas));
        let count = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            received => received?,
        };
        let (now, mut turn) = (self.now(), 0);
        let has_several = self.socket.local.ip().is_unspecified();
        for (meta, buffer) in metas.iter().zip(memory.chunks_exact(READ_BYTES)).take(count) {
            let from = canonical(meta.addr);
            let by = meta.dst_ip.filter(|_| has_several);
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                // Whoever handles what was read gets as many turns as that takes.
                turn += 1;
                if turn % TURN_MESSAGES == 0 {
                    tokio::task::yield_now().await;
                }
                self.take_in(now, from, by, datagram);
            }
        }
        Ok(true)
    }

    fn take_in(&mut self, now: Duration, from: SocketAddr, by: Option<IpAddr>, datagram: &[u8]) {
        let received = self.endpoint.receive(now, from, datagram, &mut || self.router.random());
        self.follow(by);
        match received {
            Received::Nothing => {}
            Received::Message(cid, message) => {
                self.hand_on(cid, by, |ingress| ingress.accept(message));
            }
            Received::Whole(cid, message) => {
                let message = Bytes::from(message);
                self.hand_on(cid, by, |ingress| ingress.accept_shared(&message));
            }
        }
    }

    fn hand_on(
        &mut self,
        cid: Cid,
        by: Option<IpAddr>,
        accept: impl FnOnce(&mut Ingress) -> Result<Option<Blocked>, DecodeError>,
    ) {
        let Some(attached) = self.attached.get_mut(&cid) else { return };
        attached.by = by;
        match accept(&mut attached.ingress) {
            Ok(blocked) => {
                attached.egress.touch();
                self.counters.received.fetch_add(1, Relaxed);
                if let Some(blocked) = blocked {
                    self.counters.overflowed.fetch_add(1, Relaxed);
                    attached.ingress.refuse(blocked);
                }
            }
            // Anybody on the way may have written it: the peer is not left for it.
            Err(error) => {
                self.counters.malformed.fetch_add(1, Relaxed);
                tracing::debug!(connection = %attached.egress.address, %error, "a message was dropped");
            }
        }
    }
}

impl Attached {
    fn is_accepted(&self) -> bool {
        matches!(self.owner, Owner::Listener(_))
    }
}

/// What is read into.
struct Buffers {
    memory: Vec<u8>,
    metas: [RecvMeta; READ_BUFFERS],
}

impl Buffers {
    fn new() -> Self {
        Self { memory: vec![0; READ_BUFFERS * READ_BYTES], metas: [RecvMeta::default(); READ_BUFFERS] }
    }
}

/// An IPv4 address as such, also where it came to a socket for both.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
