//! An outgoing connection: there at once, connected in the background, again after every loss.
//!
//! It keeps its address and flow id across reconnects. What is sent while it is not connected is held
//! up to its room for at most the connect deadline, then refused as unreachable. What was queued or
//! under way when a connection is lost is lost with it; requests among it fail at once.
//!
//! Specification: docs/protocol.md §1.3, §2.1.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use onward_routing::{Address, FlowId};
use onward_workers::{Ingress, Router, Step};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::egress::{Egress, Registration};
use crate::error::TransportError;
use crate::limits::{Retry, Streams};
use crate::stream::{Halves, Lost, Reader, Writer, carry, greet};

/// Idle time is measured in so many parts.
const IDLE_PARTS: u32 = 10;

/// What an outgoing connection rests on: a way to its peer, made again after every loss.
pub(crate) trait Carrier: Send + Sync + 'static {
    /// The way, from when the peer has answered.
    type Link: Send;

    /// Where it leads, for people.
    fn endpoint(&self) -> String;

    /// Reaches the peer once.
    fn connect(&self) -> impl Future<Output = Result<Self::Link, Lost>> + Send;

    /// Carries messages both ways until the way is lost or the egress has drained.
    fn carry(&mut self, link: Self::Link, egress: &Egress) -> impl Future<Output = Result<(), Lost>> + Send;
}

/// How a stream is opened.
pub(crate) trait Connector: Send + Sync + 'static {
    type Reader: Reader;
    type Writer: Writer;

    /// Where it leads, for people.
    fn endpoint(&self) -> String;

    /// Opens one stream.
    fn connect(&self) -> impl Future<Output = io::Result<Halves<Self::Reader, Self::Writer>>> + Send;
}

/// The carrier that opens streams.
struct Streaming<C> {
    connector: C,
    streams: Arc<Streams>,
    ingress: Ingress,
}

impl<C: Connector> Carrier for Streaming<C> {
    type Link = Halves<C::Reader, C::Writer>;

    fn endpoint(&self) -> String {
        self.connector.endpoint()
    }

    async fn connect(&self) -> Result<Self::Link, Lost> {
        let mut halves = self.connector.connect().await?;
        greet(&mut halves.0, &mut halves.1, &self.streams.limits).await?;
        Ok(halves)
    }

    async fn carry(&mut self, mut halves: Self::Link, egress: &Egress) -> Result<(), Lost> {
        carry(&mut halves, egress, &mut self.ingress, &self.streams).await
    }
}

/// A connection to another node, by its own random address. Dropping the last handle ends it without
/// draining.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    egress: Arc<Egress>,
    status: watch::Receiver<Status>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How a connection stands.
#[derive(Clone, Debug)]
enum Status {
    Connecting,
    Connected,
    Unreachable(TransportError),
}

impl Connection {
    /// Registers a connection over a stream and starts to connect; with `idle` it ends itself when nobody
    /// uses it.
    pub(crate) fn start<C: Connector>(
        router: &Arc<Router>,
        streams: &Arc<Streams>,
        connector: C,
        idle: Option<Duration>,
    ) -> Result<Self, TransportError> {
        let registration = Registration::new(router, None, streams.limits.send_bytes, usize::MAX)?;
        let egress = &registration.egress;
        let ingress = Ingress::new(Arc::clone(router), egress.flow, egress.address.clone());
        let carrier = Streaming { connector, streams: Arc::clone(streams), ingress };
        Ok(Self::keep(router, registration, carrier, streams.limits.retry(), idle))
    }

    /// Starts to connect by `carrier`; with `idle` the connection ends itself when nobody uses it.
    pub(crate) fn keep<C: Carrier>(
        router: &Arc<Router>,
        registration: Registration,
        carrier: C,
        retry: Retry,
        idle: Option<Duration>,
    ) -> Self {
        let egress = Arc::clone(&registration.egress);
        let (sender, status) = watch::channel(Status::Connecting);
        let keeping = Keeping { router: Arc::clone(router), carrier, registration, retry, status: sender };
        let task = tokio::spawn(keeping.run(idle));
        Self { inner: Arc::new(Inner { egress, status, task: Mutex::new(Some(task)) }) }
    }

    /// A connection that somebody else serves; `None` for its task means that it needs none.
    #[cfg(feature = "memory")]
    pub(crate) fn established(egress: Arc<Egress>) -> Self {
        let (_, status) = watch::channel(Status::Connected);
        Self { inner: Arc::new(Inner { egress, status, task: Mutex::new(None) }) }
    }

    /// A connection that `task` serves until its egress has drained.
    #[cfg(feature = "queue")]
    pub(crate) fn served(egress: Arc<Egress>, task: JoinHandle<()>) -> Self {
        let (_, status) = watch::channel(Status::Connected);
        Self { inner: Arc::new(Inner { egress, status, task: Mutex::new(Some(task)) }) }
    }

    /// The random address under which messages leave by it; the same across reconnects.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.inner.egress.address
    }

    /// The flow of the messages that come by it; the same across reconnects.
    #[must_use]
    pub fn flow(&self) -> FlowId {
        self.inner.egress.flow
    }

    /// Waits until the peer has answered.
    ///
    /// # Errors
    /// [`TransportError::Unreachable`] when it does not within the connect deadline (attempts go on),
    /// [`TransportError::Closed`].
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn connected(&self) -> Result<(), TransportError> {
        let mut status = self.inner.status.clone();
        let settled = status.wait_for(|status| !matches!(status, Status::Connecting)).await;
        match settled.as_deref() {
            _ if self.is_closed() => Err(TransportError::Closed),
            Ok(Status::Unreachable(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(TransportError::Closed),
        }
    }

    /// Whether it has ended for good.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.egress.is_draining()
    }

    /// Takes nothing more, writes what is queued for at most `within`, and ends. Further calls wait for
    /// nothing.
    pub async fn close(&self, within: Duration) {
        let can_drain = self.inner.egress.drain();
        let task = self.inner.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if !can_drain || timeout(within, &mut task).await.is_err() {
            task.abort();
            // Ended or cancelled, it is no more.
            let _ = task.await;
        }
    }

    /// Begins what [`Connection::close`] then waits for.
    pub(crate) fn begin_close(&self) {
        self.inner.egress.drain();
    }

    pub(crate) fn step(&self) -> Arc<dyn Step> {
        Arc::<Egress>::clone(&self.inner.egress)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("egress", &self.inner.egress)
            .field("status", &*self.inner.status.borrow())
            .finish_non_exhaustive()
    }
}

/// The state of the task that keeps a connection.
struct Keeping<C> {
    router: Arc<Router>,
    carrier: C,
    registration: Registration,
    retry: Retry,
    status: watch::Sender<Status>,
}

impl<C: Carrier> Keeping<C> {
    async fn run(mut self, idle: Option<Duration>) {
        let Some(idle) = idle else { return self.keep().await };
        let egress = Arc::clone(&self.registration.egress);
        let unused = async {
            let mut quiet_parts = 0;
            while quiet_parts < IDLE_PARTS {
                sleep(idle / IDLE_PARTS).await;
                quiet_parts = if egress.was_active() { 0 } else { quiet_parts + 1 };
            }
            // A live connection ends by draining; without one there is nothing to wait for.
            if egress.drain() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.keep() => {}
            () = unused => {}
        }
    }

    async fn keep(&mut self) {
        let egress = Arc::clone(&self.registration.egress);
        loop {
            let link = self.connect().await;
            egress.open(&self.router);
            self.status.send_replace(Status::Connected);
            let up = Instant::now();
            let result = self.carrier.carry(link, &egress).await;
            if let Err(error) = result {
                tracing::debug!(
                    to = self.carrier.endpoint(),
                    error = &error as &dyn std::error::Error,
                    "connection lost"
                );
            }
            if egress.is_draining() {
                return;
            }
            egress.lost(&self.router);
            self.status.send_replace(Status::Connecting);
            // A peer that accepts and closes at once must not be called in a tight loop.
            if up.elapsed() < self.retry.first {
                sleep(self.jitter(self.retry.first)).await;
            }
        }
    }

    /// Tries until a peer answers; says so when the connect deadline passes meanwhile.
    async fn connect(&self) -> C::Link {
        let Retry { connect, first, last } = self.retry;
        let failure = Mutex::new(None);
        let attempts = async {
            let mut pause = first;
            loop {
                let error = match timeout(connect, self.carrier.connect()).await {
                    Ok(Ok(link)) => return link,
                    Ok(Err(Lost::Io(error))) => error,
                    Ok(Err(lost)) => io::Error::other(lost),
                    Err(_) => io::ErrorKind::TimedOut.into(),
                };
                tracing::debug!(to = self.carrier.endpoint(), %error, "no connection yet");
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(error));
                sleep(self.jitter(pause)).await;
                pause = (pause * 2).min(last);
            }
        };
        let mut attempts = pin!(attempts);
        tokio::select! {
            biased;
            link = &mut attempts => return link,
            () = sleep_until(Instant::now() + connect) => {}
        }
        let source = failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let endpoint = self.carrier.endpoint();
        self.status.send_replace(Status::Unreachable(TransportError::Unreachable { endpoint, source }));
        self.registration.egress.give_up(&self.router);
        attempts.await
    }

    /// Half to one and a half times `pause`, so that many peers do not come back at once.
    fn jitter(&self, pause: Duration) -> Duration {
        let per_mille = 500 + (self.router.random() % 1001) as u32;
        pause * per_mille / 1000
    }
}
