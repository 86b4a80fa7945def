//! A node that runs as a process of its own: what `node start` and `serve --listen` keep running.
//!
//! It holds the lock of its directory, listens there for the command line, and ends after SIGTERM,
//! Ctrl-C or a request to stop, having finished what it had in hand.

use std::sync::Arc;
use std::time::Duration;

use onward::{Identifier, Identity, Listener, Node};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::client;
use crate::config::NodePlan;
use crate::control::{CONTROL, Control};
use crate::error::{CliError, Code};
use crate::state::{NodeLock, State};

/// A node with its listeners and its lock.
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) listeners: Arc<Vec<Listener>>,
    pub(crate) identifier: Option<Identifier>,
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
        let state_dir = trust.as_ref().map(|_| state.identity_dir(identity_name)).transpose()?;
        let node = client::start_node(name, state_dir).await?;

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
        let mut listeners = Vec::new();
        for endpoint in &plan.listen {
            listeners.push(listen(&node, endpoint, plan).await?);
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
        let worker = Control::new(node.clone(), Arc::clone(&listeners), shown, stop_sender);
        node.start_worker(CONTROL, worker).map_err(|error| worker_failed(CONTROL, error))?;
        Ok(Self { node, listeners, identifier, stop, signals, _lock: lock })
    }

    /// The endpoints that others can connect to.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let names = self.listeners.iter().map(|listener| listener.name().to_owned());
        names.filter(|name| is_endpoint(name)).collect()
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

/// Whether a listener's name is one that other machines can route to.
pub(crate) fn is_endpoint(name: &str) -> bool {
    ["tcp:", "udp:"].iter().any(|kind| name.starts_with(kind))
}

async fn listen(node: &Node, endpoint: &str, plan: &NodePlan) -> Result<Listener, CliError> {
    let listener = match endpoint.split_once(':') {
        Some(("tcp", address)) => node.listen_tcp(address).await,
        Some(("udp", address)) => node.listen_udp(address).await,
        _ => {
            let sentence = format!("`{endpoint}` is no endpoint to listen on");
            return Err(CliError::new(Code::Usage, sentence)
                .help("write it as tcp:127.0.0.1:4000 or udp:127.0.0.1:4000"));
        }
    };
    let listener = listener
        .map_err(|error| CliError::node(Code::Listen, format!("cannot listen on {endpoint}"), error))?;
    expose(&listener, plan, &[])?;
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

fn worker_failed(name: &str, error: onward::NodeError) -> CliError {
    CliError::node(Code::AttachRefused, format!("`{name}` cannot be started or exposed"), error)
}
