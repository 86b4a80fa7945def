//! A network in memory: routers of one process, links with seeded faults, a clock turned by hand.
//!
//! Messages pass through the same encoding as on a stream; each is one packet that the link may lose,
//! repeat, delay, hold back or damage. Nothing moves unless the clock is turned, and equal seeds and
//! calls make equal runs as far as the workers themselves do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use onward_routing::{Delivery, Link, LinkFaults};
use onward_workers::{Ingress, Router};
use tokio::sync::{Mutex, MutexGuard};

use crate::connection::Connection;
use crate::egress::{Batch, Registration};
use crate::error::TransportError;
use crate::limits::StreamLimits;

/// Routers and the links between them.
pub struct MemoryNetwork {
    state: Mutex<State>,
}

struct State {
    seed: u64,
    now: Duration,
    /// The ends of link `n` are at `2n` and `2n + 1`; `None` once closed.
    ends: Vec<Option<End>>,
    /// Packets under way, by time of arrival and, for equal times, in the order they were sent.
    under_way: BTreeMap<(Duration, u64), Packet>,
    sent: u64,
    damaged: u64,
}

/// One end of a link; the other's index differs in the last bit.
struct End {
    registration: Registration,
    ingress: Ingress,
    /// From here to the other end.
    link: Link,
    batch: Batch,
}

struct Packet {
    to: usize,
    bytes: Vec<u8>,
}

impl MemoryNetwork {
    /// A network without links, at time zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            seed,
            now: Duration::ZERO,
            ends: Vec::new(),
            under_way: BTreeMap::new(),
            sent: 0,
            damaged: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Joins two routers by a link with these faults in both directions; the first connection is
    /// `one`'s, the second `other`'s. Closing one of them ends both, once what was sent has arrived, as
    /// the clock is turned; dropping them ends nothing.
    ///
    /// # Errors
    /// [`TransportError::NoAddress`].
    pub async fn connect(
        &self,
        one: &Arc<Router>,
        other: &Arc<Router>,
        faults: LinkFaults,
    ) -> Result<(Connection, Connection), TransportError> {
        let mut state = self.state().await;
        Ok((state.add_end(one, faults)?, state.add_end(other, faults)?))
    }

    /// The time on the network's clock.
    pub async fn now(&self) -> Duration {
        self.state().await.now
    }

    /// Packets that arrived as something that is no message.
    pub async fn damaged(&self) -> u64 {
        self.state().await.damaged
    }

    /// Cuts the link a connection belongs to, or mends it; packets under way still arrive.
    pub async fn cut(&self, connection: &Connection, cut: bool) {
        let mut state = self.state().await;
        let has_flow = |end: &End| end.registration.egress.flow == connection.flow();
        let found = state.ends.chunks_mut(2).find(|link| link.iter().flatten().any(has_flow));
        for end in found.into_iter().flatten().flatten() {
            end.link.cut(cut);
        }
    }

    /// Turns the clock on and delivers what is due, earliest first. Between two packets the workers get
    /// a turn; what they send starts at the time of the packet before.
    pub async fn advance(&self, by: Duration) {
        let mut state = self.state().await;
        let until = state.now + by;
        loop {
            state.collect();
            let Some(first) = state.under_way.first_entry().filter(|first| first.key().0 <= until) else {
                break;
            };
            let ((at, _), packet) = first.remove_entry();
            state.now = state.now.max(at);
            state.deliver(packet).await;
            tokio::task::yield_now().await;
        }
        state.now = until;
    }

    async fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().await
    }
}

impl State {
    fn add_end(&mut self, router: &Arc<Router>, faults: LinkFaults) -> Result<Connection, TransportError> {
        let registration = Registration::new(router, None, StreamLimits::default().send_bytes, usize::MAX)?;
        let egress = Arc::clone(&registration.egress);
        egress.open(router);
        let ingress = Ingress::new(Arc::clone(router), egress.flow, egress.address.clone());
        let link = Link::new(faults, self.seed.wrapping_add(self.ends.len() as u64));
        self.ends.push(Some(End { registration, ingress, link, batch: Batch::default() }));
        Ok(Connection::established(egress))
    }

    /// Puts what the routers have sent on its way.
    fn collect(&mut self) {
        for from in 0..self.ends.len() {
            let to = from ^ 1;
            let Some(end) = &mut self.ends[from] else { continue };
            // Asked before the last frames are taken: nothing is added to them once it is closing.
            let is_closing = end.registration.egress.is_draining();
            for delivery in end.send(self.now) {
                self.sent += 1;
                let packet = Packet { to, bytes: delivery.packet };
                self.under_way.insert((delivery.at, self.sent), packet);
            }
            let is_left = self.ends[to].is_none() && self.under_way.values().all(|packet| packet.to != from);
            if is_closing || is_left {
                self.ends[from] = None;
            }
        }
    }

    async fn deliver(&mut self, packet: Packet) {
        let Some(End { ingress, .. }) = &mut self.ends[packet.to] else { return };
        match ingress.accept(&packet.bytes) {
            Ok(None) => {}
            Ok(Some(blocked)) => ingress.pause(blocked).await,
            Err(_) => self.damaged += 1,
        }
    }
}

impl End {
    /// Takes the frames out of the egress and lets the link decide what becomes of each.
    fn send(&mut self, now: Duration) -> Vec<Delivery> {
        self.registration.egress.take(&mut self.batch);
        let frames = self.batch.frames();
        self.batch.clear();
        self.registration.egress.written();
        frames.iter().flat_map(|frame| self.link.send(now, frame)).collect()
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").finish_non_exhaustive()
    }
}
