//! The node itself: what an application holds.

use std::fmt;
use std::future::Future;
#[cfg(feature = "unix")]
use std::path::Path;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onward_routing::{Address, DialRule, FlowId, Route};
use onward_transports as transports;
use onward_workers::{
    AskError, Dialer, Failure, FnWorker, Hop, Payload, Relay, Reply, Router, Supervisor, SupervisorHandle,
    Worker, WorkerHandle,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[cfg(feature = "channels")]
use crate::channel::{Channel, ChannelListener, ChannelOptions, Channels, Peer};
use crate::error::NodeError;
#[cfg(feature = "channels")]
use crate::identity::Identity;
use crate::limits::Limits;
use crate::state::StateDir;

/// How often learned identity histories are stored.
#[cfg(feature = "channels")]
const STORE: Duration = Duration::from_secs(5);

/// How a node is set up.
#[derive(Debug)]
pub struct NodeBuilder {
    name: String,
    limits: Limits,
    state: Option<PathBuf>,
    #[cfg(feature = "tcp")]
    tcp: transports::TcpOptions,
    #[cfg(feature = "channels")]
    vault: Option<Arc<dyn onward_keys::Vault>>,
}

impl NodeBuilder {
    /// Bounds other than the default ones.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where identities, keys and seen histories are kept; without it all of them end with the node.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = Some(path.into());
        self
    }

    /// Options of TCP sockets other than the default ones.
    #[cfg(feature = "tcp")]
    #[must_use]
    pub fn tcp(mut self, options: transports::TcpOptions) -> Self {
        self.tcp = options;
        self
    }

    /// Keeps private keys elsewhere than in the software vault, which is for development.
    #[cfg(feature = "channels")]
    #[must_use]
    pub fn vault(mut self, vault: Arc<dyn onward_keys::Vault>) -> Self {
        self.vault = Some(vault);
        self
    }

    /// Starts the node on the caller's tokio runtime.
    ///
    /// # Errors
    /// [`NodeError::StateInUse`], [`NodeError::State`], [`NodeError::System`].
    pub async fn start(self) -> Result<Node, NodeError> {
        let router = Router::new(self.limits.workers.clone())?;
        let state = self.state.as_deref().map(StateDir::open).transpose()?.map(Arc::new);
        #[cfg(any(feature = "tcp", feature = "unix"))]
        let streams = transports::Streams::new(self.limits.streams.clone());
        #[cfg(feature = "tcp")]
        let tcp = transports::TcpTransport::new(Arc::clone(&streams), self.tcp);
        #[cfg(feature = "udp")]
        let udp = transports::UdpTransport::new(self.limits.datagrams.clone());
        #[cfg(feature = "queue")]
        let queues = transports::queue::QueueTransport::new(self.limits.post.clone());
        let dialers: Vec<Arc<dyn Dialer>> = vec![
            #[cfg(feature = "tcp")]
            (Arc::clone(&tcp) as Arc<dyn Dialer>),
            #[cfg(feature = "udp")]
            (Arc::clone(&udp) as Arc<dyn Dialer>),
            #[cfg(feature = "queue")]
            (Arc::clone(&queues) as Arc<dyn Dialer>),
        ];
        router.set_dialer(Arc::new(transports::Dialers::new(dialers)));
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&router).run());
        #[cfg(feature = "channels")]
        let channels = {
            let vault = match (self.vault, &state) {
                (Some(vault), _) => vault,
                (None, Some(state)) => {
                    Arc::new(onward_keys::SoftwareVault::open(&state.path().join("keys"))?)
                }
                (None, None) => Arc::new(onward_keys::SoftwareVault::ephemeral()),
            };
            let known = load_histories(state.as_deref())?;
            let channels = Channels::new(
                Arc::clone(&router),
                vault,
                known,
                self.limits.channels.clone(),
                state.as_ref(),
            )?;
            tasks.spawn(Arc::clone(&channels).run());
            channels
        };
        let inner = Arc::new(Inner {
            name: self.name,
            limits: self.limits,
            router,
            #[cfg(feature = "unix")]
            streams,
            #[cfg(feature = "tcp")]
            tcp,
            #[cfg(feature = "udp")]
            udp,
            #[cfg(feature = "queue")]
            queues,
            #[cfg(feature = "channels")]
            channels,
            state,
            #[cfg(feature = "channels")]
            stored: std::sync::atomic::AtomicU64::new(0),
            tasks: Mutex::new(tasks),
            workers: Mutex::default(),
            supervisors: Mutex::default(),
            listeners: Mutex::default(),
            connections: Mutex::default(),
        });
        #[cfg(feature = "channels")]
        if inner.state.is_some() {
            let weak = Arc::downgrade(&inner);
            lock(&inner.tasks).spawn(async move {
                loop {
                    tokio::time::sleep(STORE).await;
                    let Some(inner) = weak.upgrade() else { return };
                    inner.store_histories();
                }
            });
        }
        Ok(Node { inner })
    }
}

/// A running node. Cheap to clone; ends with [`Node::shutdown`] or with its last clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    limits: Limits,
    router: Arc<Router>,
    #[cfg(feature = "unix")]
    streams: Arc<transports::Streams>,
    #[cfg(feature = "tcp")]
    tcp: Arc<transports::TcpTransport>,
    #[cfg(feature = "udp")]
    udp: Arc<transports::UdpTransport>,
    #[cfg(feature = "queue")]
    queues: Arc<transports::queue::QueueTransport>,
    #[cfg(feature = "channels")]
    channels: Arc<Channels>,
    state: Option<Arc<StateDir>>,
    /// As many of [`Channels::learned`] as were stored.
    #[cfg(feature = "channels")]
    stored: std::sync::atomic::AtomicU64,
    tasks: Mutex<JoinSet<()>>,
    workers: Mutex<Vec<WorkerHandle>>,
    supervisors: Mutex<Vec<SupervisorHandle>>,
    listeners: Mutex<Vec<Listener>>,
    connections: Mutex<Vec<Connection>>,
}

impl Drop for Inner {
    /// The last clone is gone: what would go on by itself ends where it stands.
    fn drop(&mut self) {
        for supervisor in lock(&self.supervisors).drain(..) {
            supervisor.abort();
        }
        for worker in lock(&self.workers).drain(..) {
            worker.abort();
        }
        #[cfg(feature = "tcp")]
        self.tcp.end();
        #[cfg(feature = "udp")]
        self.udp.end();
        #[cfg(feature = "queue")]
        self.queues.end();
    }
}

/// What a shutdown achieved.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ShutdownReport {
    /// Workers that handled everything they had accepted.
    pub drained: usize,
    /// Workers that were stopped at the deadline; the senders of what they had left were told.
    pub cut_off: usize,
}

/// A listener and what it lets its peers do.
#[derive(Clone, Debug)]
pub struct Listener {
    router: Arc<Router>,
    listener: Arc<transports::BoundListener>,
    name: String,
}

/// A listener, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListenerInfo {
    /// Where it listens: `tcp:127.0.0.1:4000`.
    pub name: String,
    /// The workers its peers reach.
    pub exposed: Vec<String>,
}

/// An outgoing connection, kept up until it is closed.
#[derive(Clone, Debug)]
pub struct Connection {
    router: Arc<Router>,
    connection: transports::Connection,
}

/// A route of a node, to send along.
#[derive(Clone, Debug)]
pub struct NodeRoute {
    router: Arc<Router>,
    route: Route,
}

impl Node {
    /// A node of this name, to be set up and started. The name is for people and logs only.
    #[must_use]
    pub fn builder(name: &str) -> NodeBuilder {
        NodeBuilder {
            name: name.to_owned(),
            limits: Limits::default(),
            state: None,
            #[cfg(feature = "tcp")]
            tcp: transports::TcpOptions::default(),
            #[cfg(feature = "channels")]
            vault: None,
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The node's bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The node's router, for what the methods here do not cover.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.inner.router
    }

    /// The state directory, if the node has one.
    #[must_use]
    pub fn state(&self) -> Option<&StateDir> {
        self.inner.state.as_deref()
    }

    /// Starts a worker that answers each request with what `function` returns.
    ///
    /// # Errors
    /// [`NodeError::Address`] for a malformed name, [`NodeError::Start`] for a taken one.
    pub async fn serve<Q, R, A>(
        &self,
        name: &str,
        function: impl FnMut(Q) -> A + Send + 'static,
    ) -> Result<WorkerHandle, NodeError>
    where
        Q: Payload,
        R: Reply,
        A: Future<Output = Result<R, Failure>> + Send + 'static,
    {
        self.start_worker(name, FnWorker::new(function))
    }

    /// Starts a worker.
    ///
    /// # Errors
    /// As [`Node::serve`].
    pub fn start_worker<W: Worker>(&self, name: &str, worker: W) -> Result<WorkerHandle, NodeError> {
        let handle = onward_workers::start(&self.inner.router, &Address::local(name)?, worker)?;
        let mut workers = lock(&self.inner.workers);
        // Only before it would grow, so that many starts do not look at all workers each time.
        if workers.len() == workers.capacity() {
            workers.retain(|worker| !worker.has_ended());
        }
        workers.push(handle.clone());
        Ok(handle)
    }

    /// Starts a supervisor with its workers; `name` appears in logs only.
    ///
    /// # Errors
    /// As [`Node::serve`], for each of its workers.
    pub fn supervise(&self, name: &str, supervisor: Supervisor) -> Result<SupervisorHandle, NodeError> {
        let handle = supervisor.start(&self.inner.router, &Address::local(name)?)?;
        lock(&self.inner.supervisors).push(handle.clone());
        Ok(handle)
    }

    /// Starts a hop: it passes messages on and can be part of routes.
    ///
    /// # Errors
    /// As [`Node::serve`].
    pub fn start_hop(&self, name: &str) -> Result<(), NodeError> {
        Ok(self.inner.router.add_step(&Address::local(name)?, Arc::new(Hop))?)
    }

    /// Starts a relay: it passes messages on along `route`, which it puts in its own place.
    ///
    /// # Errors
    /// As [`Node::serve`].
    pub fn start_relay(&self, name: &str, route: Route) -> Result<(), NodeError> {
        Ok(self.inner.router.add_step(&Address::local(name)?, Arc::new(Relay::new(route)))?)
    }

    /// Listens for TCP connections at `address`, for example `127.0.0.1:0`. Its peers reach nothing
    /// until it is exposed.
    ///
    /// # Errors
    /// [`NodeError::Resolve`], [`NodeError::Transport`].
    #[cfg(feature = "tcp")]
    pub async fn listen_tcp(&self, address: &str) -> Result<Listener, NodeError> {
        let listener = self.inner.tcp.listen(&self.inner.router, resolve(address).await?)?;
        Ok(self.keep_listener("tcp", listener))
    }

    /// Listens for UDP peers at `address`, for example `127.0.0.1:0`. They reach nothing until it is
    /// exposed. What the node dials over UDP leaves by the same socket where that can reach it.
    ///
    /// # Errors
    /// As [`Node::listen_tcp`].
    #[cfg(feature = "udp")]
    pub async fn listen_udp(&self, address: &str) -> Result<Listener, NodeError> {
        let listener = self.inner.udp.listen(&self.inner.router, resolve(address).await?)?;
        Ok(self.keep_listener("udp", listener))
    }

    /// Listens on the Unix socket `path`, whose folder must be private (made with mode 0700 if
    /// missing). Only processes of this process's user may connect.
    ///
    /// # Errors
    /// [`NodeError::Address`] if the file name is no address name, [`NodeError::Transport`].
    #[cfg(feature = "unix")]
    pub async fn listen_unix(&self, path: &Path) -> Result<Listener, NodeError> {
        let (transport, name) = self.unix(path)?;
        let listener = transport.listen(&self.inner.router, &name).await?;
        Ok(self.keep_listener("unix", listener))
    }

    /// Makes a queue known to this node as `name`: `queue:NAME/MAILBOX` then leads to its mailboxes. A
    /// queue that had the name before is replaced for connections to come.
    ///
    /// # Errors
    /// [`NodeError::Transport`] for a name that no address can have.
    #[cfg(feature = "queue")]
    pub fn mount_queue(
        &self,
        name: &str,
        queue: Arc<dyn transports::queue::Broker>,
    ) -> Result<(), NodeError> {
        Ok(self.inner.queues.mount(name, queue)?)
    }

    /// A fresh address `queue:NAME/MAILBOX` with a random mailbox. Who knows it can fill the mailbox, and
    /// who also reaches the queue can empty it: it is told to those who are to send, and replaced at will.
    ///
    /// # Errors
    /// As [`Node::mount_queue`].
    #[cfg(feature = "queue")]
    pub fn new_mailbox(&self, name: &str) -> Result<Address, NodeError> {
        Ok(transports::queue::random_mailbox(name, &self.inner.router)?)
    }

    /// Receives what is sent to `mailbox`, a `queue:NAME/MAILBOX` of a queue that is mounted; what was
    /// sent while nobody listened comes too. Senders reach nothing until it is exposed.
    ///
    /// # Errors
    /// [`NodeError::Transport`].
    #[cfg(feature = "queue")]
    pub fn listen_queue(&self, mailbox: &Address) -> Result<Listener, NodeError> {
        let listener = self.inner.queues.listen(&self.inner.router, mailbox)?;
        Ok(self.keep_listener("queue", listener))
    }

    /// Starts a worker through which other nodes use a queue that is mounted here, each by a
    /// [`RemoteQueue`](crate::RemoteQueue).
    ///
    /// # Errors
    /// [`NodeError::Transport`] if no queue of this name is mounted, and as [`Node::serve`].
    #[cfg(feature = "queue")]
    pub fn serve_queue(&self, worker: &str, queue: &str) -> Result<WorkerHandle, NodeError> {
        let broker = self
            .inner
            .queues
            .mounted(queue)
            .ok_or_else(|| transports::TransportError::NoQueue(queue.to_owned()))?;
        self.start_worker(worker, crate::served::QueueService::new(broker))
    }

    #[cfg(any(feature = "queue", feature = "tcp", feature = "udp", feature = "unix"))]
    fn keep_listener(&self, kind: &str, listener: transports::BoundListener) -> Listener {
        let name = format!("{kind}:{}", listener.local_address().trim_start_matches(&format!("{kind}:")));
        let listener =
            Listener { router: Arc::clone(&self.inner.router), listener: Arc::new(listener), name };
        lock(&self.inner.listeners).push(listener.clone());
        listener
    }

    /// Connects to a TCP endpoint, for example `bank.example:4000`, and waits until it is reached. The
    /// connection is kept up, and keeps its address, until it is closed.
    ///
    /// # Errors
    /// [`NodeError::Address`] for a malformed endpoint, [`NodeError::Transport`].
    #[cfg(feature = "tcp")]
    pub async fn connect_tcp(&self, endpoint: &str) -> Result<Connection, NodeError> {
        let endpoint: Address = format!("tcp:{endpoint}").parse()?;
        let connection = self.inner.tcp.connect(&self.inner.router, &endpoint)?;
        connection.connected().await?;
        Ok(self.keep_connection(connection))
    }

    /// Connects to the Unix socket `path` and waits until it is reached.
    ///
    /// # Errors
    /// As [`Node::listen_unix`].
    #[cfg(feature = "unix")]
    pub async fn connect_unix(&self, path: &Path) -> Result<Connection, NodeError> {
        let (transport, name) = self.unix(path)?;
        let connection = transport.connect(&self.inner.router, &name)?;
        connection.connected().await?;
        Ok(self.keep_connection(connection))
    }

    /// Connects to a UDP endpoint, for example `bank.example:4000`, and waits until it is reached. The
    /// connection is kept, and keeps its address, until it is closed. Messages over it may be lost, and
    /// have at most [`UdpTransport::MESSAGE_BYTES_MAX`](transports::UdpTransport::MESSAGE_BYTES_MAX) bytes.
    ///
    /// # Errors
    /// As [`Node::connect_tcp`].
    #[cfg(feature = "udp")]
    pub async fn connect_udp(&self, endpoint: &str) -> Result<Connection, NodeError> {
        let endpoint: Address = format!("udp:{endpoint}").parse()?;
        let connection = self.inner.udp.connect(&self.inner.router, &endpoint)?;
        connection.connected().await?;
        Ok(self.keep_connection(connection))
    }

    /// What became of datagrams so far.
    #[cfg(feature = "udp")]
    #[must_use]
    pub fn datagrams(&self) -> &transports::DatagramCounters {
        self.inner.udp.counters()
    }

    #[cfg(any(feature = "tcp", feature = "udp", feature = "unix"))]
    fn keep_connection(&self, connection: transports::Connection) -> Connection {
        let connection = Connection { router: Arc::clone(&self.inner.router), connection };
        let mut connections = lock(&self.inner.connections);
        connections.retain(|kept| !kept.connection.is_closed());
        connections.push(connection.clone());
        connection
    }

    #[cfg(feature = "unix")]
    fn unix(&self, path: &Path) -> Result<(Arc<transports::UnixTransport>, Address), NodeError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name: Address = format!("unix:{name}").parse()?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let options = transports::UnixOptions::new(directory);
        Ok((transports::UnixTransport::new(Arc::clone(&self.inner.streams), options), name))
    }

    /// The node's listeners and what they expose.
    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerInfo> {
        let reach = self.inner.router.reach();
        let info = |listener: &Listener| {
            let mut exposed: Vec<_> =
                reach.exposed(listener.flow()).map(|worker| worker.value().to_owned()).collect();
            exposed.sort();
            ListenerInfo { name: listener.name.clone(), exposed }
        };
        lock(&self.inner.listeners).iter().map(info).collect()
    }

    /// A route of this node, for example `"tcp:bank.example:4000 => pin"`.
    ///
    /// # Errors
    /// [`NodeError::Route`].
    pub fn route(&self, text: &str) -> Result<NodeRoute, NodeError> {
        Ok(self.route_along(text.parse()?))
    }

    /// As [`Node::route`], for a route that is parsed already.
    #[must_use]
    pub fn route_along(&self, route: Route) -> NodeRoute {
        NodeRoute { router: Arc::clone(&self.inner.router), route }
    }

    /// Stops listening, lets workers finish what they accepted until the deadline, closes channels and
    /// connections, and ends.
    pub async fn shutdown(&self, drain: Duration) -> ShutdownReport {
        let until = Instant::now() + drain;
        let mut report = ShutdownReport::default();
        let supervisors = std::mem::take(&mut *lock(&self.inner.supervisors));
        for supervisor in supervisors.iter().rev() {
            let has = |worker: &&Address| self.inner.router.has(worker);
            let running = || supervisor.workers().iter().filter(has).count();
            let before = running();
            let drained = tokio::time::timeout_at(until, supervisor.drain()).await;
            let left = running();
            if drained.is_err() {
                supervisor.abort();
            }
            report.drained += before - left;
            report.cut_off += left;
        }
        // Last started first: what was started later may still need what was there before.
        let workers = std::mem::take(&mut *lock(&self.inner.workers));
        for worker in workers.iter().rev() {
            match tokio::time::timeout_at(until, worker.drain()).await {
                Ok(_) => report.drained += 1,
                Err(_) => {
                    worker.abort();
                    report.cut_off += 1;
                }
            }
        }
        #[cfg(feature = "channels")]
        {
            self.inner.channels.close_all();
            self.inner.store_histories();
        }
        // What is queued may still be written, however late it is.
        let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(200));
        let listeners = std::mem::take(&mut *lock(&self.inner.listeners));
        for listener in listeners {
            listener.listener.close(left()).await;
        }
        let connections = std::mem::take(&mut *lock(&self.inner.connections));
        for connection in connections {
            connection.connection.close(left()).await;
        }
        #[cfg(feature = "tcp")]
        self.inner.tcp.close(left()).await;
        #[cfg(feature = "udp")]
        self.inner.udp.close(left()).await;
        #[cfg(feature = "queue")]
        self.inner.queues.close(left()).await;
        let mut tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        tasks.shutdown().await;
        report
    }
}

#[cfg(feature = "channels")]
impl Node {
    /// Makes a new identity in the node's vault, valid for ten years.
    ///
    /// # Errors
    /// [`NodeError::Identity`], [`NodeError::Vault`].
    pub async fn create_identity(&self) -> Result<Identity, NodeError> {
        let history = self.new_history().await?;
        self.inner.channels.identities.prepare(history, None).await
    }

    #[cfg(feature = "ok2cry")]
    pub(crate) fn shared_state(&self) -> Option<Arc<StateDir>> {
        self.inner.state.clone()
    }

    #[cfg(feature = "ok2cry")]
    pub(crate) fn secure(&self) -> &Arc<Channels> {
        &self.inner.channels
    }

    async fn new_history(&self) -> Result<onward_channels::identity::Identity, NodeError> {
        let now = crate::channel::unix_now();
        Ok(onward_channels::identity::Identity::create(&*self.inner.channels.vault, now, IDENTITY_SECONDS)
            .await?)
    }

    /// The identity kept under `name` in the state directory; made if there is none.
    ///
    /// # Errors
    /// [`NodeError::Misuse`] without a state directory, [`NodeError::State`], [`NodeError::Identity`].
    pub async fn load_or_create_identity(&self, name: &str) -> Result<Identity, NodeError> {
        match self.load_identity(name).await? {
            Some(identity) => Ok(identity),
            None => {
                let history = self.new_history().await?;
                self.keep_identity(name, history, None).await
            }
        }
    }

    /// The identity kept under `name`, if there is one.
    ///
    /// # Errors
    /// As [`Node::load_or_create_identity`].
    pub async fn load_identity(&self, name: &str) -> Result<Option<Identity>, NodeError> {
        let state = self.state().ok_or(NodeError::Misuse("a kept identity needs a state directory"))?;
        let Some(bytes) = state.read(&identity_file(name)?)? else { return Ok(None) };
        let split =
            bytes.len().checked_sub(STATIC_KEY_BYTES).ok_or(NodeError::Misuse("a damaged identity file"))?;
        let (history, key) = bytes.split_at(split);
        let history = onward_channels::identity::Identity::decode(history)?;
        let key = onward_keys::KeyId::from_bytes(key.try_into().unwrap_or_default());
        self.inner.channels.identities.prepare(history, Some(key)).await.map(Some)
    }

    /// Replaces the key of the identity kept under `name` by the one it committed to.
    ///
    /// Channels that are open stay open; handshakes that begin from now on, also of listeners and for channels that
    /// are renewed, show the new history.
    ///
    /// # Errors
    /// As [`Node::load_or_create_identity`]; [`NodeError::Misuse`] if there is none.
    pub async fn rotate_identity(&self, name: &str) -> Result<Identity, NodeError> {
        let identity =
            self.load_identity(name).await?.ok_or(NodeError::Misuse("there is no such identity"))?;
        let vault = &*self.inner.channels.vault;
        let history = identity.history();
        let rotated = history.rotate(vault, crate::channel::unix_now(), IDENTITY_SECONDS).await?;
        let old = history.key();
        let kept = self.keep_identity(name, rotated, Some(identity.local().static_key)).await?;
        vault.delete(old).await?;
        Ok(kept)
    }

    /// The names of the identities kept, sorted.
    ///
    /// # Errors
    /// As [`Node::load_or_create_identity`].
    pub fn identities(&self) -> Result<Vec<String>, NodeError> {
        self.state().ok_or(NodeError::Misuse("a kept identity needs a state directory"))?.list("identities")
    }

    async fn keep_identity(
        &self,
        name: &str,
        history: onward_channels::identity::Identity,
        key: Option<onward_keys::KeyId>,
    ) -> Result<Identity, NodeError> {
        let state = self.state().ok_or(NodeError::Misuse("a kept identity needs a state directory"))?;
        let identity = self.inner.channels.identities.prepare(history, key).await?;
        let mut bytes = identity.history().encode();
        bytes.extend_from_slice(identity.local().static_key.as_bytes());
        state.write(&identity_file(name)?, &bytes)?;
        Ok(identity)
    }

    /// Accepts secure channels at the worker address `name`, from peers that `trust` accepts. The
    /// address itself must be exposed on a listener to be reached, and workers on what is returned.
    ///
    /// # Errors
    /// [`NodeError::Address`], [`NodeError::Start`], [`NodeError::Channel`].
    pub fn accept_channels(
        &self,
        name: &str,
        identity: &Identity,
        trust: onward_channels::identity::Trust,
    ) -> Result<ChannelListener, NodeError> {
        self.accept_channels_with(name, identity, trust, &ChannelOptions::default())
    }

    /// As [`Node::accept_channels`], with options.
    ///
    /// # Errors
    /// As [`Node::accept_channels`].
    pub fn accept_channels_with(
        &self,
        name: &str,
        identity: &Identity,
        trust: onward_channels::identity::Trust,
        options: &ChannelOptions,
    ) -> Result<ChannelListener, NodeError> {
        self.inner.channels.accept(Address::local(name)?, identity, trust, options)
    }

    /// Opens a secure channel along `route`, whose last address is the peer's channel listener.
    ///
    /// # Errors
    /// [`NodeError::Handshake`] when nobody answers within 30 s, the answer is not the peer's, or the peer has as many
    /// channels as it may have.
    ///
    /// # Cancel safety
    /// Dropped during the handshake, no channel is left behind here.
    pub async fn open_channel(
        &self,
        identity: &Identity,
        route: Route,
        peer: Peer,
    ) -> Result<Channel, NodeError> {
        self.open_channel_with(identity, route, peer, ChannelOptions::default()).await
    }

    /// As [`Node::open_channel`], with options.
    ///
    /// # Errors
    /// As [`Node::open_channel`]; [`NodeError::Misuse`] for a mode without what it rests on, and
    /// [`NodeError::NoTicket`] where there is nothing to resume.
    pub async fn open_channel_with(
        &self,
        identity: &Identity,
        route: Route,
        peer: Peer,
        options: ChannelOptions,
    ) -> Result<Channel, NodeError> {
        self.inner.channels.connect(identity, route, peer, options).await
    }

    /// Identities of which two histories that contradict each other were presented since the node started: an alarm,
    /// since somebody besides the owner has signed with a key of theirs. Channels to them are refused.
    #[must_use]
    pub fn forked_identities(&self) -> Vec<onward_channels::identity::Identifier> {
        self.inner.channels.forked()
    }

    /// Channels that are open now.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.inner.channels.count()
    }
}

#[cfg(feature = "channels")]
impl Inner {
    fn store_histories(&self) {
        use std::sync::atomic::Ordering;
        let Some(state) = &self.state else { return };
        let learned = self.channels.learned.load(Ordering::Relaxed);
        if self.stored.swap(learned, Ordering::Relaxed) == learned {
            return;
        }
        for history in self.channels.histories() {
            let name = format!("histories/{}", history.identifier());
            let text = history.to_text();
            if matches!(state.read(&name), Ok(Some(stored)) if stored == text.as_bytes()) {
                continue;
            }
            if let Err(error) = state.write(&name, text.as_bytes()) {
                tracing::warn!(%error, "an identity history was not stored");
                self.stored.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// How long a new identity key may be used: ten years.
#[cfg(feature = "channels")]
const IDENTITY_SECONDS: u64 = 10 * 365 * 24 * 3600;
/// The static key's name stands behind an identity in its file.
#[cfg(feature = "channels")]
const STATIC_KEY_BYTES: usize = 16;

#[cfg(feature = "channels")]
fn identity_file(name: &str) -> Result<String, NodeError> {
    // The alphabet of names has no path separators; a leading dot would hide the file.
    let name = Address::local(name)?;
    if name.value().starts_with(['.', '#']) {
        return Err(NodeError::Misuse("an identity's name begins with a letter or digit"));
    }
    Ok(format!("identities/{}", name.value()))
}

#[cfg(feature = "channels")]
fn load_histories(state: Option<&StateDir>) -> Result<onward_channels::identity::KnownHistories, NodeError> {
    use onward_channels::identity::{HistoryUpdate, KnownHistories, VerifiedHistory};
    let mut known = KnownHistories::default();
    let Some(state) = state else { return Ok(known) };
    for name in state.list("histories")? {
        let bytes = state.read(&format!("histories/{name}"))?.unwrap_or_default();
        match VerifiedHistory::from_text(&String::from_utf8_lossy(&bytes)) {
            Ok(history) => known.adopt(HistoryUpdate::from_history(history))?,
            Err(error) => tracing::warn!(%name, %error, "a stored identity history is damaged and not used"),
        }
    }
    Ok(known)
}

impl Listener {
    /// Where it listens: `127.0.0.1:4000`, or a socket's path.
    #[must_use]
    pub fn local_address(&self) -> &str {
        self.listener.local_address()
    }

    /// The address that others route to: `tcp:127.0.0.1:4000`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The flow of all its connections.
    #[must_use]
    pub fn flow(&self) -> FlowId {
        self.listener.flow()
    }

    /// Lets its peers reach a worker, hop or channel listener.
    ///
    /// # Errors
    /// [`NodeError::Address`]; [`NodeError::SecureOnly`] for a worker that answers only in channels.
    pub fn expose(&self, worker: &str) -> Result<(), NodeError> {
        let worker = Address::local(worker)?;
        self.router.reach_mut().expose(self.flow(), &worker).map_err(|_| NodeError::SecureOnly(worker))
    }

    /// Lets messages of its peers have endpoints dialled: `tcp:bank.example:4000`, `tcp:*.example:*`.
    ///
    /// # Errors
    /// [`NodeError::Address`].
    pub fn allow_dial(&self, rule: &str) -> Result<(), NodeError> {
        let rule: DialRule = rule.parse()?;
        self.router.reach_mut().allow_dial(self.flow(), rule);
        Ok(())
    }

    /// Tells its peers of messages that could not be delivered, as no more than "refused".
    pub fn set_hop_errors(&self, on: bool) {
        self.router.reach_mut().set_hop_errors(self.flow(), on);
    }

    /// Stops listening and closes its connections, which may write what they have until the deadline.
    pub async fn close(&self, within: Duration) {
        self.listener.close(within).await;
    }
}

impl Connection {
    /// The address that messages for the peer go to first.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.connection.address()
    }

    /// The flow of what the peer sends.
    #[must_use]
    pub fn flow(&self) -> FlowId {
        self.connection.flow()
    }

    /// The route to `inner` at the peer.
    ///
    /// # Errors
    /// [`NodeError::Route`].
    pub fn route_to(&self, inner: &str) -> Result<NodeRoute, NodeError> {
        let mut route = Route::from(self.address().clone());
        route.extend(inner.parse::<Route>()?.as_ref())?;
        Ok(NodeRoute { router: Arc::clone(&self.router), route })
    }

    /// Lets the peer reach a worker.
    ///
    /// # Errors
    /// As [`Listener::expose`].
    pub fn expose(&self, worker: &str) -> Result<(), NodeError> {
        let worker = Address::local(worker)?;
        self.router.reach_mut().expose(self.flow(), &worker).map_err(|_| NodeError::SecureOnly(worker))
    }

    /// Closes the connection, which may write what it has until the deadline.
    pub async fn close(&self, within: Duration) {
        self.connection.close(within).await;
    }
}

impl NodeRoute {
    /// The route itself.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    #[cfg(feature = "queue")]
    pub(crate) fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Sends a value and waits for the answer until the node's default deadline.
    ///
    /// # Errors
    /// [`AskError`]; it says whether the request left this node and whether the outcome is known.
    pub async fn ask<Q: Payload, R: Payload>(&self, request: &Q) -> Result<R, AskError> {
        self.ask_within(request, self.router.limits().ask_deadline).await
    }

    /// As [`NodeRoute::ask`], with a deadline of its own.
    ///
    /// # Errors
    /// As [`NodeRoute::ask`].
    pub async fn ask_within<Q: Payload, R: Payload>(
        &self,
        request: &Q,
        within: Duration,
    ) -> Result<R, AskError> {
        self.router.ask(&self.route, request, within).await
    }

    /// Sends a value; no answer is wanted.
    ///
    /// # Errors
    /// [`AskError::NotSent`] gives the message back.
    pub async fn send<T: Payload>(&self, value: &T) -> Result<(), AskError> {
        self.router.tell(&self.route, value).await
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// The first address of `host:port`.
#[cfg(any(feature = "tcp", feature = "udp"))]
async fn resolve(address: &str) -> Result<std::net::SocketAddr, NodeError> {
    let mut found = tokio::net::lookup_host(address)
        .await
        .map_err(|error| NodeError::Resolve(address.to_owned(), error))?;
    let none = || NodeError::Resolve(address.to_owned(), std::io::ErrorKind::NotFound.into());
    found.next().ok_or_else(none)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
