//! Ockam: workers, TCP, secure channels, one hop node; several nodes on one runtime.
//!
//! Asks are `send_and_receive`, one-way messages `send` in a loop: the back-pressure is Ockam's own.

use std::sync::Arc;

use ::ockam::flow_control::FlowControlId;
use ::ockam::identity::models::Identifier;
use ::ockam::identity::{
    SecureChannel, SecureChannelListenerOptions, SecureChannelOptions, SecureChannels, TrustIdentifierPolicy,
    secure_channels,
};
use ::ockam::tcp::{TcpConnection, TcpConnectionOptions, TcpListenerOptions, TcpTransport};
use ::ockam::{Any, Context, Executor, NodeBuilder, Result, Route, Routed, Worker, route};
use ockam_core::NeutralMessage;
use tokio::runtime::Runtime;

use crate::heap;
use crate::measure::{Flood, Flooded, HANDSHAKES, Laps, Plan, Series, Tally, asked, concurrently};

/// `local.oneway.64` and `local.ask.64`: both ends in one node.
pub async fn local(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    let path = Path::local(Node::start(runtime)?, route![]);
    let mut series = one_way("local", &[64], &path, plan).await?;
    series.extend(ask("local.ask.64", &path, plan).await?);
    Ok(series)
}

/// `hops4.oneway.64`: four workers of the same node pass the message on.
pub async fn hops(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    let node = Node::start(runtime)?;
    let hops = ["hop1", "hop2", "hop3", "hop4"];
    for hop in hops {
        node.context.start_worker(hop, Hop)?;
    }
    let path = Path::local(node, Route::create(hops.to_vec()));
    Ok(one_way("hops4", &[64], &path, plan).await?)
}

/// `tcp.oneway.*` and `tcp.ask.64`.
pub async fn tcp(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    let path = Path::tcp(runtime).await?;
    let mut series = one_way("tcp", &[64, 1024, 32_768], &path, plan).await?;
    series.extend(ask("tcp.ask.64", &path, plan).await?);
    Ok(series)
}

/// `channel.oneway.*`: a secure channel over one TCP connection.
pub async fn channel(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    let path = ChannelEnds::start(runtime).await?.path().await?;
    Ok(one_way("channel", &CHANNEL_SIZES, &path, plan).await?)
}

/// `channel.hop.oneway.*`: a secure channel through a hop node over two TCP connections.
pub async fn channel_through_hop(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    let path = ChannelEnds::start_around_hop(runtime).await?.path().await?;
    Ok(one_way("channel.hop", &CHANNEL_SIZES, &path, plan).await?)
}

/// `channel.ask.64`.
pub async fn channel_ask(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    let path = ChannelEnds::start(runtime).await?.path().await?;
    Ok(ask("channel.ask.64", &path, plan).await?)
}

/// `channel.idle1000.1024`: one busy channel beside 1,000 idle ones on its connection, as a rate
/// and as a share of the median rate of the same channel alone.
pub async fn beside_idle_channels(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    const FIGURE: &str = "channel.idle1000.1024";
    let ends = ChannelEnds::start(runtime).await?;
    let path = ends.path().await?;
    let mut alone = floods(&path, 1024, plan).await?.split_off(1);
    alone.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let alone = alone[alone.len() / 2].rate;
    for _ in 0..IDLE_CHANNELS {
        ends.connect().await?;
    }
    let beside = floods(&path, 1024, plan).await?;
    Ok(vec![
        Series::timed(FIGURE, "msg/s", beside.iter().map(|flood| flood.rate)),
        Series::timed(FIGURE, "x alone", beside.iter().map(|flood| flood.rate / alone)),
    ])
}

/// `handshake.64`: 64 tasks make channels over one connection and close each at once.
///
/// Each side verifies the other's identity chain and accepts only that identity.
pub async fn handshakes(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    let ends = Arc::new(ChannelEnds::start(runtime).await?);
    // An identity's first handshake makes its purpose key if none is found, which nothing guards:
    // begun with all tasks at once, some runs ended with a handshake that timed out.
    ends.connect().await?;
    let mut rates = Vec::new();
    for _ in plan.all_runs() {
        let ends = Arc::clone(&ends);
        let once = move || {
            let ends = Arc::clone(&ends);
            async move {
                // Left open, the channels would slow each other down; see `beside_idle_channels`.
                let channel = ends.connect().await?;
                Ok(ends.initiator.context.stop_address(channel.encryptor_address())?)
            }
        };
        rates.push(concurrently(plan, HANDSHAKES, once).await?);
    }
    Ok(vec![Series::timed("handshake.64", "handshakes/s", rates)])
}

/// `memory.worker`: what one idle worker holds.
pub async fn worker_memory(runtime: &Arc<Runtime>) -> anyhow::Result<Vec<Series>> {
    let node = Node::start(runtime)?;
    let started = Arc::new(Tally::default());
    let (unit, before) = heap::held()?;
    for _ in 0..IDLE_WORKERS {
        node.context.start_worker(::ockam::Address::random_local(), Idle(Arc::clone(&started)))?;
    }
    started.reach(IDLE_WORKERS).await;
    let (_, after) = heap::held()?;
    Ok(vec![Series::new("memory.worker", unit, vec![(after - before) / IDLE_WORKERS as f64])])
}

/// `memory.channel`: what one idle secure channel holds, both ends together.
pub async fn channel_memory(runtime: &Arc<Runtime>) -> anyhow::Result<Vec<Series>> {
    let ends = ChannelEnds::start(runtime).await?;
    // The first handshake also fills what all channels share.
    ends.connect().await?;
    let (unit, before) = heap::held()?;
    for _ in 0..IDLE_CHANNELS {
        ends.connect().await?;
    }
    let (_, after) = heap::held()?;
    Ok(vec![Series::new("memory.channel", unit, vec![(after - before) / IDLE_CHANNELS as f64])])
}

/// `alloc.*.64`: heap allocations of both ends, and of the hop node, per one-way message.
pub async fn allocations(runtime: &Arc<Runtime>, plan: Plan) -> anyhow::Result<Vec<Series>> {
    let mut series = Vec::new();
    for (figure, path) in [
        ("alloc.local.64", Path::local(Node::start(runtime)?, route![])),
        ("alloc.tcp.64", Path::tcp(runtime).await?),
        ("alloc.channel-hop.64", ChannelEnds::start_around_hop(runtime).await?.path().await?),
    ] {
        let floods = floods(&path, 64, plan).await?;
        series.push(Series::timed(figure, "allocations/msg", floods.iter().map(|flood| flood.allocations)));
    }
    Ok(series)
}

/// One-way messages of each size along `path`: `<prefix>.oneway.<size>`.
async fn one_way(prefix: &str, sizes: &[usize], path: &Path, plan: Plan) -> Result<Vec<Series>> {
    let mut series = Vec::new();
    for &size in sizes {
        let figure = format!("{prefix}.oneway.{size}");
        let floods = floods(path, size, plan).await?;
        series.push(Series::timed(&figure, "msg/s", floods.iter().map(|flood| flood.rate)));
        if prefix.starts_with("channel") {
            let megabytes = floods.iter().map(|flood| flood.rate * size as f64 / 1e6);
            series.push(Series::timed(&figure, "MB/s", megabytes));
        }
    }
    Ok(series)
}

async fn floods(path: &Path, size: usize, plan: Plan) -> Result<Vec<Flooded>> {
    let tally = Arc::new(Tally::default());
    let route = path.serve(Counter(Arc::clone(&tally)))?;
    let mut floods = Vec::new();
    for _ in plan.all_runs() {
        let mut flood = Flood::start(plan, &tally);
        while flood.next() {
            path.initiator.context.send(route.clone(), payload(size)).await?;
        }
        floods.push(flood.finish().await);
    }
    Ok(floods)
}

async fn ask(figure: &str, path: &Path, plan: Plan) -> Result<Vec<Series>> {
    let route = path.serve(Echo)?;
    let mut runs = Vec::new();
    for _ in plan.all_runs() {
        let mut laps = Laps::start(plan);
        while laps.next() {
            let _: NeutralMessage =
                path.initiator.context.send_and_receive(route.clone(), payload(64)).await?;
        }
        runs.push(laps.finish());
    }
    Ok(asked(figure, &runs))
}

/// A message that Ockam does not encode again.
fn payload(size: usize) -> NeutralMessage {
    NeutralMessage::from(vec![0x5a; size])
}

/// A node with its router, which lives as long as its executor.
struct Node {
    context: Context,
    _executor: Executor,
}

impl Node {
    fn start(runtime: &Arc<Runtime>) -> Result<Arc<Self>> {
        let builder = NodeBuilder::new().no_logging().no_exit_on_panic();
        let (context, executor) = builder.with_runtime(Arc::clone(runtime)).build();
        Ok(Arc::new(Self { context, _executor: executor }))
    }

    /// Listens on a free port. Returns its address and the permission of what arrives there.
    async fn listen(&self) -> Result<(String, FlowControlId)> {
        let tcp = TcpTransport::get_or_create(&self.context)?;
        let listener = tcp.listen("127.0.0.1:0", TcpListenerOptions::new()).await?;
        Ok((listener.socket_string(), listener.flow_control_id().clone()))
    }

    async fn connect(&self, to: String, options: TcpConnectionOptions) -> Result<TcpConnection> {
        TcpTransport::get_or_create(&self.context)?.connect(to, options).await
    }
}

/// A way from the initiator's node to the workers of the responder's.
struct Path {
    initiator: Arc<Node>,
    _hop: Option<Arc<Node>>,
    responder: Arc<Node>,
    route: Route,
    /// Workers may receive only what this permission covers; within one node none is needed.
    permission: Option<FlowControlId>,
}

impl Path {
    /// Starts `worker` at the responder and returns the route to it.
    fn serve(&self, worker: impl Worker<Context = Context>) -> Result<Route> {
        let address = ::ockam::Address::random_local();
        if let Some(permission) = &self.permission {
            self.responder.context.flow_controls().add_consumer(&address, permission);
        }
        self.responder.context.start_worker(address.clone(), worker)?;
        Ok(self.route.clone() + address)
    }

    fn local(node: Arc<Node>, route: Route) -> Self {
        Self { initiator: Arc::clone(&node), _hop: None, responder: node, route, permission: None }
    }

    async fn tcp(runtime: &Arc<Runtime>) -> Result<Self> {
        let (initiator, responder) = (Node::start(runtime)?, Node::start(runtime)?);
        let (to, permission) = responder.listen().await?;
        let connection = initiator.connect(to, TcpConnectionOptions::new()).await?;
        Ok(Self { initiator, _hop: None, responder, route: route![connection], permission: Some(permission) })
    }
}

/// Two nodes, an identity in each, and a way from the initiator to the responder's channel listener.
struct ChannelEnds {
    initiator: Arc<Node>,
    hop: Option<Arc<Node>>,
    responder: Arc<Node>,
    channels: Arc<SecureChannels>,
    identity: Identifier,
    peer: Identifier,
    listener: Route,
    permission: FlowControlId,
}

impl ChannelEnds {
    /// Over one TCP connection.
    async fn start(runtime: &Arc<Runtime>) -> Result<Self> {
        let (initiator, responder) = (Node::start(runtime)?, Node::start(runtime)?);
        let (to, permission) = responder.listen().await?;
        let connection = initiator.connect(to, TcpConnectionOptions::new()).await?;
        Self::with_listener(initiator, None, responder, route![connection], &permission).await
    }

    /// Over two TCP connections that meet in a hop node, which only passes on from one to the other.
    async fn start_around_hop(runtime: &Arc<Runtime>) -> Result<Self> {
        let (initiator, hop, responder) =
            (Node::start(runtime)?, Node::start(runtime)?, Node::start(runtime)?);
        let (to_responder, permission) = responder.listen().await?;
        let (to_hop, hop_permission) = hop.listen().await?;
        let onward =
            hop.connect(to_responder, TcpConnectionOptions::new().as_consumer(&hop_permission)).await?;
        let connection = initiator.connect(to_hop, TcpConnectionOptions::new()).await?;

        // Replies may go from the onward connection to the accepted one, once it is there.
        let registry = TcpTransport::get_or_create(&hop.context)?;
        let accepted = loop {
            let senders = registry.registry().get_all_sender_workers();
            match senders.into_iter().find(|sender| sender.address() != onward.sender_address()) {
                Some(accepted) => break accepted,
                None => tokio::task::yield_now().await,
            }
        };
        hop.context.flow_controls().add_consumer(accepted.address(), onward.flow_control_id());

        Self::with_listener(initiator, Some(hop), responder, route![connection, onward], &permission).await
    }

    async fn with_listener(
        initiator: Arc<Node>,
        hop: Option<Arc<Node>>,
        responder: Arc<Node>,
        to_responder: Route,
        permission: &FlowControlId,
    ) -> Result<Self> {
        let (channels, peer_channels) = (secure_channels().await?, secure_channels().await?);
        let identity = channels.identities().identities_creation().create_identity().await?;
        let peer = peer_channels.identities().identities_creation().create_identity().await?;
        let options = SecureChannelListenerOptions::new()
            .as_consumer(permission)
            .with_trust_policy(TrustIdentifierPolicy::new(identity.clone()));
        let listener =
            peer_channels.create_secure_channel_listener(&responder.context, &peer, "listener", options)?;
        Ok(Self {
            initiator,
            hop,
            responder,
            channels,
            identity,
            peer,
            listener: to_responder + "listener",
            permission: listener.flow_control_id().clone(),
        })
    }

    /// Makes one more channel.
    async fn connect(&self) -> Result<SecureChannel> {
        let trust = TrustIdentifierPolicy::new(self.peer.clone());
        let options = SecureChannelOptions::new().with_trust_policy(trust);
        let context = &self.initiator.context;
        self.channels.create_secure_channel(context, &self.identity, self.listener.clone(), options).await
    }

    /// The way to the responder's workers through a new channel.
    async fn path(&self) -> Result<Path> {
        let channel = self.connect().await?;
        Ok(Path {
            initiator: Arc::clone(&self.initiator),
            _hop: self.hop.clone(),
            responder: Arc::clone(&self.responder),
            route: route![channel],
            permission: Some(self.permission.clone()),
        })
    }
}

/// Counts what arrives.
struct Counter(Arc<Tally>);

#[::ockam::worker]
impl Worker for Counter {
    type Context = Context;
    type Message = Any;

    async fn handle_message(&mut self, _context: &mut Context, _message: Routed<Any>) -> Result<()> {
        self.0.count(1);
        Ok(())
    }
}

/// Sends every payload back.
struct Echo;

#[::ockam::worker]
impl Worker for Echo {
    type Context = Context;
    type Message = Any;

    async fn handle_message(&mut self, context: &mut Context, message: Routed<Any>) -> Result<()> {
        let route = message.return_route().clone();
        context.send(route, NeutralMessage::from(message.into_payload())).await
    }
}

/// Passes every message on to the next address of its route.
struct Hop;

#[::ockam::worker]
impl Worker for Hop {
    type Context = Context;
    type Message = Any;

    async fn handle_message(&mut self, context: &mut Context, message: Routed<Any>) -> Result<()> {
        let message = message.into_local_message().step_forward(context.primary_address().clone())?;
        context.forward(message).await
    }
}

/// Counts its own start and then does nothing.
struct Idle(Arc<Tally>);

#[::ockam::worker]
impl Worker for Idle {
    type Context = Context;
    type Message = Any;

    async fn initialize(&mut self, _context: &mut Context) -> Result<()> {
        self.0.count(1);
        Ok(())
    }
}

const CHANNEL_SIZES: [usize; 4] = [64, 1024, 16_384, 61_440];
const IDLE_CHANNELS: usize = 1_000;
const IDLE_WORKERS: u64 = 100_000;
