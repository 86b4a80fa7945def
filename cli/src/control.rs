//! How the command line talks to a running node: a worker named `control` on a socket in its directory.
//!
//! The socket's transport, routes and payloads are the ordinary ones; only the owner of the state
//! directory may connect to it, and no other listener exposes the worker. A served program joins the
//! same way: it connects here, and the node gets a relay that leads back along this very connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use minicbor::{Decode, Encode};
use onward::queue::Mailbox;
use onward::{Address, Connection, Context, Failure, Listener, Node, Route, Worker};
use tokio::sync::watch;

use crate::error::{CliError, Code};
use crate::queues::{LetterRow, QueueRow, Queues};
use crate::running::is_endpoint;
use crate::state::State;

/// The address of the control worker.
pub(crate) const CONTROL: &str = "control";

/// What a running node can be asked to do.
#[derive(Clone, Debug, Decode, Encode)]
pub(crate) enum Request {
    /// Says what it does.
    #[n(0)]
    Status,
    /// Shuts down, finishing within this many milliseconds.
    #[n(1)]
    Stop(#[n(0)] u64),
    /// Lets the peers of its listeners reach a worker.
    #[n(2)]
    Expose(#[n(0)] String),
    /// Passes what comes for this name on along the connection that the request came by.
    #[n(3)]
    Attach(#[n(0)] String),
    /// Ends that.
    #[n(4)]
    Detach(#[n(0)] String),
    /// Lists its queues.
    #[n(5)]
    Queues,
    /// Lists the dead letters of a queue's mailbox.
    #[n(6)]
    QueueDead(#[n(0)] String, #[n(1)] String),
    /// Removes the messages of a queue's mailbox, or its dead letters.
    #[n(7)]
    QueuePurge(#[n(0)] String, #[n(1)] String, #[n(2)] bool),
    /// Gives the dead letters of a queue's mailbox back to it.
    #[n(8)]
    QueueRedeliver(#[n(0)] String, #[n(1)] String),
}

/// What the node says to it.
#[derive(Clone, Debug, Decode, Encode)]
pub(crate) enum Answer {
    /// It is done.
    #[n(0)]
    Done,
    /// What the node does.
    #[n(1)]
    Status(#[n(0)] Status),
    /// The name is passed on; these are the node's listeners.
    #[n(2)]
    Attached(#[n(0)] Vec<String>),
    /// The name is taken.
    #[n(3)]
    Taken,
    /// It did not work; the reason.
    #[n(4)]
    Failed(#[n(0)] String),
    /// The node's queues.
    #[n(5)]
    Queues(#[n(0)] Vec<QueueRow>),
    /// Dead letters.
    #[n(6)]
    Letters(#[n(0)] Vec<LetterRow>),
    /// So many.
    #[n(7)]
    Counted(#[n(0)] u64),
}

/// What a node does, for `onward status`.
#[derive(Clone, Debug, Decode, Default, Encode)]
pub(crate) struct Status {
    #[n(0)]
    pub(crate) name: String,
    #[n(1)]
    pub(crate) pid: u32,
    #[n(2)]
    pub(crate) uptime_ms: u64,
    #[n(3)]
    pub(crate) listeners: Vec<ListenerStatus>,
    #[n(4)]
    pub(crate) workers: Vec<String>,
    #[n(5)]
    pub(crate) attached: Vec<String>,
    #[n(6)]
    pub(crate) counters: Counts,
    #[n(7)]
    pub(crate) identifier: Option<String>,
}

/// One listener of a node.
#[derive(Clone, Debug, Decode, Default, Encode)]
pub(crate) struct ListenerStatus {
    #[n(0)]
    pub(crate) address: String,
    #[n(1)]
    pub(crate) exposed: Vec<String>,
}

/// What happened to messages since the node started.
#[derive(Clone, Copy, Debug, Decode, Default, Encode)]
pub(crate) struct Counts {
    #[n(0)]
    pub(crate) delivered: u64,
    #[n(1)]
    pub(crate) forwarded: u64,
    #[n(2)]
    pub(crate) denied: u64,
    #[n(3)]
    pub(crate) undeliverable: u64,
    #[n(4)]
    pub(crate) reports: u64,
}

impl Counts {
    /// The counts of a node, now.
    pub(crate) fn of(node: &Node) -> Self {
        let counters = node.router().counters();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            delivered: read(&counters.delivered),
            forwarded: read(&counters.forwarded),
            denied: read(&counters.denied),
            undeliverable: read(&counters.undeliverable),
            reports: read(&counters.reports),
        }
    }
}

/// The worker behind [`CONTROL`].
pub(crate) struct Control {
    node: Node,
    listeners: Arc<Vec<Listener>>,
    identifier: Option<String>,
    attached: BTreeMap<String, Address>,
    queues: Queues,
    stop: watch::Sender<Option<Duration>>,
    began: Instant,
}

impl Control {
    /// A control worker for `node`, which sets `stop` when it is told to shut down.
    pub(crate) fn new(
        node: Node,
        listeners: Arc<Vec<Listener>>,
        identifier: Option<String>,
        queues: Queues,
        stop: watch::Sender<Option<Duration>>,
    ) -> Self {
        Self { node, listeners, identifier, attached: BTreeMap::new(), queues, stop, began: Instant::now() }
    }

    fn status(&mut self) -> Status {
        self.forget_gone();
        let listeners = self.node.listeners().into_iter();
        let listeners = listeners.map(|info| ListenerStatus { address: info.name, exposed: info.exposed });
        Status {
            name: self.node.name().to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            listeners: listeners.collect(),
            workers: self.node.router().names().iter().map(ToString::to_string).collect(),
            attached: self.attached.keys().cloned().collect(),
            counters: Counts::of(&self.node),
            identifier: self.identifier.clone(),
        }
    }

    fn expose(&self, worker: &str) -> Answer {
        match self.listeners.iter().try_for_each(|listener| listener.expose(worker)) {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    /// Starts a relay from `name` to the connection that the request came by.
    fn attach(&mut self, name: String, return_route: &Route) -> Answer {
        self.forget_gone();
        let Some(connection) = return_route.iter().next().map(|address| address.to_owned()) else {
            return Answer::Failed("the request has no return route".to_owned());
        };
        let Ok(address) = Address::local(&name) else { return Answer::Failed("no name".to_owned()) };
        if self.attached.get(&name) == Some(&connection) {
            return Answer::Attached(self.endpoints());
        }
        if self.node.router().has(&address) {
            return Answer::Taken;
        }
        if let Err(error) = self.node.start_relay(&name, Route::from(connection.clone())) {
            return Answer::Failed(error.to_string());
        }
        if let Answer::Failed(reason) = self.expose(&name) {
            self.node.router().remove(&address);
            return Answer::Failed(reason);
        }
        self.attached.insert(name, connection);
        Answer::Attached(self.endpoints())
    }

    /// Where others can connect to; the control listener is no way in for them.
    fn endpoints(&self) -> Vec<String> {
        let names = self.listeners.iter().map(|listener| listener.name().to_owned());
        names.filter(|name| is_endpoint(name)).collect()
    }

    fn detach(&mut self, name: &str) {
        if self.attached.remove(name).is_some()
            && let Ok(address) = Address::local(name)
        {
            self.node.router().remove(&address);
        }
    }

    /// Does what is asked of a queue.
    async fn queue(&self, request: Request) -> Answer {
        let mailbox = |text: &str| text.parse::<Mailbox>().ok();
        let answer = match &request {
            Request::QueueDead(queue, text) => match mailbox(text) {
                Some(mailbox) => {
                    self.queues.dead(queue, &mailbox).await.map(|dead| dead.map(Answer::Letters))
                }
                None => None,
            },
            Request::QueuePurge(queue, text, dead) => match mailbox(text) {
                Some(mailbox) => {
                    self.queues.purge(queue, &mailbox, *dead).await.map(|count| count.map(Answer::Counted))
                }
                None => None,
            },
            Request::QueueRedeliver(queue, text) => match mailbox(text) {
                Some(mailbox) => {
                    self.queues.redeliver(queue, &mailbox).await.map(|count| count.map(Answer::Counted))
                }
                None => None,
            },
            _ => Some(self.queues.list().await.map(Answer::Queues)),
        };
        match answer {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => Answer::Failed(error.to_string()),
            None => Answer::Failed("it keeps no such queue".to_owned()),
        }
    }

    /// Detaches the programs whose connection is gone.
    fn forget_gone(&mut self) {
        let gone = |(name, connection): (&String, &Address)| {
            (!self.node.router().has(connection)).then(|| name.clone())
        };
        let names: Vec<String> = self.attached.iter().filter_map(gone).collect();
        names.iter().for_each(|name| self.detach(name));
    }
}

impl Worker for Control {
    type Request = Request;
    type Reply = Answer;

    async fn handle(&mut self, context: &mut Context, request: Request) -> Result<Answer, Failure> {
        Ok(match request {
            Request::Status => Answer::Status(self.status()),
            Request::Expose(worker) => self.expose(&worker),
            Request::Attach(name) => self.attach(name, &context.return_route()),
            Request::Detach(name) => {
                self.detach(&name);
                Answer::Done
            }
            queue @ (Request::Queues
            | Request::QueueDead(..)
            | Request::QueuePurge(..)
            | Request::QueueRedeliver(..)) => self.queue(queue).await,
            Request::Stop(milliseconds) => {
                self.stop.send_replace(Some(Duration::from_millis(milliseconds)));
                Answer::Done
            }
        })
    }
}

/// A connection to a running node's control worker.
pub(crate) struct ControlClient {
    pub(crate) node: Node,
    pub(crate) connection: Connection,
    name: String,
}

impl ControlClient {
    /// Connects to the node `name`, or to the only one that runs.
    ///
    /// # Errors
    /// [`Code::NoNode`], [`Code::WhichNode`] and [`Code::Control`].
    pub(crate) async fn connect(state: &State, name: Option<&str>) -> Result<Self, CliError> {
        let node = crate::client::start_node("cli").await?;
        Self::connect_from(node, state, name).await
    }

    /// As [`ControlClient::connect`], from a node that exists already.
    pub(crate) async fn connect_from(
        node: Node,
        state: &State,
        name: Option<&str>,
    ) -> Result<Self, CliError> {
        let name = which_node(state, name)?;
        let failed = |name: &str| CliError::new(Code::Control, format!("node `{name}` does not answer"));
        let path = state.control_socket(&name);
        let connecting = tokio::time::timeout(PATIENCE, node.connect_unix(&path));
        let connection = match connecting.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(failed(&name).because(error)),
            Err(error) => return Err(failed(&name).because(error)),
        };
        Ok(Self { node, connection, name })
    }

    /// The node's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Asks the node.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, CliError> {
        let route = self.connection.route_to(CONTROL);
        let route = route.map_err(|error| CliError::node(Code::Internal, "no route to the node", error))?;
        match route.ask_within(&request, PATIENCE).await {
            Ok(Answer::Failed(reason)) => {
                Err(CliError::new(Code::Control, format!("node `{}`: {reason}", self.name)))
            }
            Ok(answer) => Ok(answer),
            Err(error) => {
                Err(CliError::new(Code::Control, format!("node `{}` does not answer", self.name))
                    .because(error))
            }
        }
    }

    /// The node's status.
    pub(crate) async fn status(&self) -> Result<Status, CliError> {
        match self.ask(Request::Status).await? {
            Answer::Status(status) => Ok(status),
            _ => Err(CliError::new(Code::Control, "the node answered something else")),
        }
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        self.node.shutdown(Duration::from_secs(1)).await;
    }
}

/// How long a running node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The node that is meant: the named one, or the only one that runs.
fn which_node(state: &State, name: Option<&str>) -> Result<String, CliError> {
    let running = state.running_nodes();
    match (name, &running[..]) {
        (Some(name), _) if running.iter().any(|other| other == name) => Ok(name.to_owned()),
        (Some(name), _) => Err(CliError::new(Code::NoNode, format!("no node named `{name}` runs"))),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(CliError::new(Code::NoNode, "no node runs")),
        (None, several) => {
            Err(CliError::new(Code::WhichNode, format!("several nodes run: {}", several.join(", "))))
        }
    }
}
