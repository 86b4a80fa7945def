//! A listener: accepts connections, counts them, and owns their tasks.
//!
//! One task holds the socket, the counts and every connection it accepted; closing it lets the
//! connections write what they have, within a deadline.
//!
//! Specification: docs/protocol.md §2.1.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use onward_routing::{FlowId, FlowKind};
use onward_workers::{Ingress, Router};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use crate::egress::{Egress, Registration};
use crate::limits::{Streams, source};
use crate::stream::{Halves, Lost, Reader, Writer, carry, greet};

/// The first and the longest pause after a failed accept, such as when file descriptors run out.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What a listener takes connections from.
pub(crate) trait Acceptor: Send + Sync + 'static {
    type Reader: Reader;
    type Writer: Writer;

    /// The next connection, and its peer's address where there is one.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, no connection is lost.
    fn accept(&self) -> impl Future<Output = io::Result<Arrival<Self::Reader, Self::Writer>>> + Send;
}

/// A connection as it arrives.
pub(crate) struct Arrival<R, W> {
    pub(crate) halves: Halves<R, W>,
    pub(crate) from: Option<IpAddr>,
}

/// A bound socket that accepts connections until it is closed.
///
/// Its flow is the parent of every connection's flow: what it exposes, they expose. Dropping it stops
/// accepting and ends its connections without draining them.
pub struct BoundListener {
    local: String,
    flow: FlowId,
    router: Arc<Router>,
    close: Mutex<Option<(oneshot::Sender<Instant>, JoinHandle<()>)>>,
}

impl BoundListener {
    pub(crate) fn start<A: Acceptor>(
        router: &Arc<Router>,
        streams: &Arc<Streams>,
        acceptor: A,
        local: String,
    ) -> Self {
        let flow = FlowId::new(router.random().to_be_bytes());
        let accepting = AcceptLoop {
            router: Arc::clone(router),
            streams: Arc::clone(streams),
            flow,
            tasks: JoinSet::new(),
            accepted: HashMap::new(),
            per_source: HashMap::new(),
            half_open: VecDeque::new(),
        };
        Self::serve(router, flow, local, |closed| accepting.run(acceptor, closed))
    }

    /// A listener with the fresh flow `flow`, served by a task until it is given a deadline to end by.
    pub(crate) fn serve<F: Future<Output = ()> + Send + 'static>(
        router: &Arc<Router>,
        flow: FlowId,
        local: String,
        serve: impl FnOnce(oneshot::Receiver<Instant>) -> F,
    ) -> Self {
        router.reach_mut().open_flow(flow, FlowKind::Transport, None);
        let (close, closed) = oneshot::channel();
        let task = tokio::spawn(serve(closed));
        Self { local, flow, router: Arc::clone(router), close: Mutex::new(Some((close, task))) }
    }

    /// Where it listens: `127.0.0.1:4000` with the port the system chose, or a socket's path.
    #[must_use]
    pub fn local_address(&self) -> &str {
        &self.local
    }

    /// The flow that exposures and dial rules for all its connections are given to.
    #[must_use]
    pub fn flow(&self) -> FlowId {
        self.flow
    }

    /// Stops accepting, lets every connection write what it has for at most `within`, and waits until
    /// all have ended. Further calls do nothing.
    pub async fn close(&self, within: Duration) {
        let running = self.close.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((close, task)) = running else { return };
        // Both fail only if the task has ended, which is what is wanted.
        let _ = close.send(Instant::now() + within);
        let _ = task.await;
        self.router.reach_mut().close_flow(self.flow);
    }
}

impl Drop for BoundListener {
    fn drop(&mut self) {
        let running = self.close.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((_, task)) = running {
            task.abort();
            self.router.reach_mut().close_flow(self.flow);
        }
    }
}

impl fmt::Debug for BoundListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundListener")
            .field("local", &self.local)
            .field("flow", &self.flow)
            .finish_non_exhaustive()
    }
}

/// The state of the accepting task.
struct AcceptLoop {
    router: Arc<Router>,
    streams: Arc<Streams>,
    flow: FlowId,
    tasks: JoinSet<()>,
    /// With the [`source`] of each.
    accepted: HashMap<Id, (Arc<Egress>, Option<IpAddr>)>,
    per_source: HashMap<IpAddr, usize>,
    /// Connections in the order they came, until it is noticed that their preface has come or they ended.
    half_open: VecDeque<(Arc<Egress>, AbortHandle)>,
}

impl AcceptLoop {
    async fn run<A: Acceptor>(mut self, acceptor: A, mut closed: oneshot::Receiver<Instant>) {
        let mut pause = ACCEPT_PAUSE.0;
        let deadline = loop {
            let has_place = self.tasks.len() < self.streams.limits.connections;
            tokio::select! {
                biased;
                deadline = &mut closed => break deadline,
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.forget(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                arrival = acceptor.accept(), if has_place => match arrival {
                    Ok(arrival) => {
                        pause = ACCEPT_PAUSE.0;
                        self.admit(arrival);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(pause).await;
                        pause = (pause * 2).min(ACCEPT_PAUSE.1);
                    }
                },
            }
        };
        drop(acceptor);
        for (egress, _) in self.accepted.values() {
            egress.drain();
        }
        let deadline = deadline.unwrap_or_else(|_| Instant::now());
        while let Ok(Some(_)) = timeout_at(deadline, self.tasks.join_next()).await {}
        self.tasks.shutdown().await;
    }

    fn admit<R: Reader, W: Writer>(&mut self, arrival: Arrival<R, W>) {
        let Arrival { halves, from } = arrival;
        let from = from.map(source);
        if let Some(ip) = from {
            let count = self.per_source.entry(ip).or_default();
            if *count >= self.streams.limits.connections_per_ip {
                tracing::debug!(%ip, "too many connections from one source");
                return;
            }
            *count += 1;
        }
        let send_bytes = self.streams.limits.send_bytes;
        let registration = match Registration::new(&self.router, Some(self.flow), send_bytes, usize::MAX) {
            Ok(registration) => registration,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be registered");
                self.uncount(from);
                return;
            }
        };
        let egress = Arc::clone(&registration.egress);
        let task = serve(halves, Arc::clone(&self.router), registration, Arc::clone(&self.streams));
        let task = self.tasks.spawn(task);
        self.accepted.insert(task.id(), (Arc::clone(&egress), from));
        self.half_open.push_back((egress, task));
        self.bound_half_open();
    }

    /// Ends the oldest half-open connection when there are too many, so that those who say nothing keep
    /// nobody out who does.
    fn bound_half_open(&mut self) {
        let half_open_max = self.streams.limits.half_open;
        if self.half_open.len() > half_open_max {
            self.half_open.retain(|(egress, task)| egress.is_waiting() && !task.is_finished());
        }
        if self.half_open.len() > half_open_max
            && let Some((egress, task)) = self.half_open.pop_front()
        {
            tracing::debug!(connection = %egress.address, "too many half-open connections");
            task.abort();
        }
    }

    fn forget(&mut self, id: Id) {
        if let Some((_, from)) = self.accepted.remove(&id) {
            self.uncount(from);
        }
    }

    fn uncount(&mut self, from: Option<IpAddr>) {
        if let Some(ip) = from
            && let Some(count) = self.per_source.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&ip);
            }
        }
    }
}

/// The task of an accepted connection.
async fn serve<R: Reader, W: Writer>(
    mut halves: Halves<R, W>,
    router: Arc<Router>,
    registration: Registration,
    streams: Arc<Streams>,
) {
    let egress = &registration.egress;
    let result: Result<(), Lost> = async {
        greet(&mut halves.0, &mut halves.1, &streams.limits).await?;
        egress.open(&router);
        let mut ingress = Ingress::new(Arc::clone(&router), egress.flow, egress.address.clone());
        carry(&mut halves, egress, &mut ingress, &streams).await
    }
    .await;
    if let Err(error) = result {
        tracing::debug!(connection = %egress.address, error = &error as &dyn std::error::Error, "connection lost");
    }
}
