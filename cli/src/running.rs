//! A node that runs as a process of its own: what `node start` and `serve --listen` keep running.
//!
//! It holds the lock of its directory, listens there for the command line, and ends after SIGTERM,
//! Ctrl-C or a request to stop, having finished what it had in hand.

use std::sync::Arc;
use std::time::Duration;

use onward::{Identifier, Identity, Listener, Node, NodeError, ShutdownReport};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::client;
use crate::config::NodePlan;
use crate::control::{CONTROL, Control};
use crate::error::{CliError, Code};
use crate::queues::Queues;
use crate::state::{NodeLock, State};

/// A node with its listeners and its lock.
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) listeners: Arc<Vec<Listener>>,
    pub(crate) identifier: Option<Identifier>,
    pub(crate) queues: Queues,
    stop: watch::Receiver<Option<Duration>>,
    pub(crate) signals: Termination,
    _lock: NodeLock,
}

impl Running {
    /// Starts a node as planned; its control socket comes last, so whoever reaches it finds it ready.
    pub(crate) async fn start(state: &State, name: &str, plan: &NodePlan) -> Result<Self, CliError> {
        // Before anything is said: whoever reads that the node runs may end it.
        let signals = Termination::new()?;
        let lock = state.lock_node(name)?;
        let trust = match &plan.channels {
            Some(_) => Some(client::trust(state, &plan.trust, plan.trust_any)?),
            None => None,
        };
        let identity_name = plan.identity.as_deref().unwrap_or(name);
        let node = match &trust {
            Some(_) => client::start_node_with(state, name, identity_name).await?,
            None => client::start_node(name).await?,
        };

        for hop in &plan.hop {
            node.start_hop(hop).map_err(|error| worker_failed(hop, error))?;
        }
        let mut identifier = None;
        if let (Some(address), Some(trust)) = (&plan.channels, trust) {
            let identity: Identity = client::identity(state, &node, identity_name).await?;
            let listener = node
                .accept_channels_with(address, &identity, trust, &plan.handshake.options()?)
                .map_err(|error| worker_failed(address, error))?;
            for worker in &plan.channel_expose {
                listener.expose(worker).map_err(|error| worker_failed(worker, error))?;
            }
            identifier = Some(identity.identifier());
        }
        let (queues, served) = Queues::mount(&node, &plan.queue).await?;
        let mut listeners = Vec::new();
        for endpoint in &plan.listen {
            listeners.push(listen(&node, endpoint, plan, &served).await?);
        }
        let socket = state.control_socket(name);
        let control = node.listen_unix(&socket).await;
        let control = control.map_err(|error| {
            CliError::node(Code::Listen, format!("cannot listen on {}", socket.display()), error)
                .help("a socket's path has at most 107 bytes: set ONWARD_HOME to a shorter one")
        })?;
        expose(&control, plan, &[CONTROL])?;
        listeners.push(control);

        let listeners = Arc::new(listeners);
        let (stop_sender, stop) = watch::channel(None);
        let shown = identifier.map(|identifier| identifier.to_string());
        let worker = Control::new(node.clone(), Arc::clone(&listeners), shown, queues.clone(), stop_sender);
        node.start_worker(CONTROL, worker).map_err(|error| worker_failed(CONTROL, error))?;
        Ok(Self { node, listeners, identifier, queues, stop, signals, _lock: lock })
    }

    /// The endpoints that others can connect to.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let names = self.listeners.iter().map(|listener| listener.name().to_owned());
        names.filter(|name| is_endpoint(name)).collect()
    }

    /// Stops the node, which finishes what it has in hand, and closes its queues; at once if another
    /// signal asks for that.
    pub(crate) async fn stop(&mut self, drain: Duration) -> Option<ShutdownReport> {
        let Self { node, queues, signals, .. } = self;
        let stopping = async {
            let report = node.shutdown(drain).await;
            queues.close().await;
            report
        };
        signals.unless_again(stopping).await
    }

    /// Waits for a signal or a request to stop; returns how long finishing may take.
    pub(crate) async fn until_stopped(&mut self, drain: Duration) -> Result<Duration, CliError> {
        tokio::select! {
            () = self.signals.received() => Ok(drain),
            asked = self.stop.wait_for(Option::is_some) => {
                Ok(asked.ok().and_then(|asked| *asked).unwrap_or(drain))
            }
        }
    }
}

/// SIGTERM and Ctrl-C, from the moment it is made: a signal that comes before anybody waits counts.
pub(crate) struct Termination {
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    pub(crate) fn new() -> Result<Self, CliError> {
        let failed = |error| CliError::new(Code::Internal, "signals cannot be received").because(error);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Lets `finishing` come to its end unless another signal says that nobody will wait for it.
    pub(crate) async fn unless_again<T>(&mut self, finishing: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = finishing => Some(done),
            () = self.received() => None,
        }
    }
}

/// Whether a listener's name is one that others can route to.
pub(crate) fn is_endpoint(name: &str) -> bool {
    ["tcp:", "udp:", "queue:"].iter().any(|kind| name.starts_with(kind))
}

async fn listen(
    node: &Node,
    endpoint: &str,
    plan: &NodePlan,
    served: &[String],
) -> Result<Listener, CliError> {
    let failed = |error| CliError::node(Code::Listen, format!("cannot listen on {endpoint}"), error);
    let listener = match endpoint.split_once(':') {
        Some(("tcp", address)) => node.listen_tcp(address).await.map_err(failed)?,
        Some(("udp", address)) => node.listen_udp(address).await.map_err(failed)?,
        Some(("queue", queue)) => {
            let mailbox = match queue.contains('/') {
                true => endpoint.parse().map_err(|error| failed(NodeError::Address(error)))?,
                false => node.new_mailbox(queue).map_err(failed)?,
            };
            node.listen_queue(&mailbox).map_err(failed)?
        }
        _ => {
            return Err(CliError::new(Code::Usage, format!("`{endpoint}` is no endpoint to listen on"))
                .help(
                    "write it as tcp:127.0.0.1:4000 or udp:127.0.0.1:4000, or as queue:NAME for a mailbox",
                ));
        }
    };
    let served: Vec<&str> = served.iter().map(String::as_str).collect();
    expose(&listener, plan, &served)?;
    for rule in &plan.allow {
        listener.allow_dial(rule).map_err(|error| {
            CliError::node(Code::Usage, format!("`{rule}` cannot be allowed"), error)
                .help("write it as tcp:HOST:PORT or udp:HOST:PORT; HOST or PORT may be `*`")
        })?;
    }
    Ok(listener)
}

fn expose(listener: &Listener, plan: &NodePlan, more: &[&str]) -> Result<(), CliError> {
    let names = plan.expose.iter().chain(&plan.hop).chain(&plan.channels).map(String::as_str);
    names
        .chain(more.iter().copied())
        .try_for_each(|worker| listener.expose(worker).map_err(|error| worker_failed(worker, error)))
}

fn worker_failed(name: &str, error: NodeError) -> CliError {
    CliError::node(Code::AttachRefused, format!("`{name}` cannot be started or exposed"), error)
}
