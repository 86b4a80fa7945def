//! One process of the demonstration: the client, a hop or the service.
//!
//! It is told what to do by lines on its standard input and answers in lines, all JSON; so the text is
//! in no argument and no environment. When the input ends, or the parent does, it ends.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use onward::queue::{EmbeddedQueue, QueueLimits};
use onward::{
    Context, Failure, Identity, Listener, NoReply, Node, Peer, Raw, RemoteQueue, Route, Trust, Worker,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, Stdin};
use tokio::sync::watch;

use super::attack;
use super::keys::KeysAt;
use super::tap::{self, Record};
use crate::args::DemoPart;
use crate::client::start_node;
use crate::error::{CliError, Code};
use crate::output::{Format, Output};

/// The worker that the client asks.
pub(super) const WORKER: &str = "card-pin";
/// The address of the service's channel listener.
pub(super) const CHANNELS: &str = "bank";
/// The queue between the last hop and the service.
const QUEUE: &str = "cards";
/// The hop's worker by which the service uses the queue.
pub(super) const QUEUE_WORKER: &str = "queue.cards";
/// A worker at both ends that nobody exposes.
pub(super) const CANARY: &str = "admin";
/// The client's worker that sends orders, one after the other, and keeps what is answered.
const SHOPPER: &str = "shopper";
/// Orders under way at once.
const ORDERS_OPEN: u64 = 16;
/// An order that is not answered for this long is lost.
const ORDER_PATIENCE: Duration = Duration::from_secs(10);

/// What a part is told first.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Orders {
    /// A hop's name.
    pub(super) name: String,
    /// The endpoint that a hop may pass messages on to.
    pub(super) next: String,
    /// Whether a hop is to turn against those whose messages it carries.
    pub(super) attacks: bool,
    /// Who may ask the service.
    pub(super) trust: String,
    /// Where the client's or the service's keys are, if not in its own process.
    pub(super) keys: Option<KeysAt>,
    /// Whether a hop listens for datagrams.
    pub(super) udp: bool,
    /// Where a hop keeps a queue, a folder; or where the service finds it, a route. Empty for none.
    pub(super) queue: String,
    /// The broker whose queue a hop and the service use in place of one on disk. Empty for none.
    pub(super) broker: String,
}

/// What the client is told to send.
#[derive(Deserialize, Serialize)]
pub(super) struct Errand {
    pub(super) route: String,
    pub(super) peer: String,
    pub(super) text: String,
}

/// A part is ready.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Ready {
    /// The client's or the service's.
    pub(super) identifier: String,
    /// Where a hop or the service can be reached, through its tap.
    pub(super) endpoint: String,
    /// Where a hop passes messages on to: the endpoint it was told, or where it attacks what goes there.
    pub(super) next: String,
}

/// What a part is told to do next.
#[derive(Deserialize, Serialize)]
pub(super) enum Request {
    /// A hop or the service: stop listening in and answer with [`Seen`].
    Report,
    /// A hop that attacks: make so many attacks; answered with what it has done so far, [`attack::Counts`].
    Attack(u64),
    /// The client: send so many [`order`]s; answered with [`Arrived`].
    Shop(u64),
    /// The service: answer with [`Arrived`].
    Count,
}

/// What arrived at an end of the channel.
#[derive(Deserialize, Serialize)]
pub(super) struct Arrived {
    /// Texts from the other end, in their order.
    pub(super) texts: Vec<String>,
    /// Messages that reached [`CANARY`].
    pub(super) unexposed: u64,
}

/// What the client got.
#[derive(Deserialize, Serialize)]
pub(super) struct Answered {
    pub(super) answer: String,
    pub(super) channel_ms: f64,
    pub(super) journey_ms: f64,
}

/// What a part saw.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Seen {
    /// Messages handed on to another node.
    pub(super) forwarded: u64,
    /// Every byte that passed its tap, in hexadecimal, by connection and direction.
    pub(super) streams: Vec<String>,
}

/// Runs a part until its input ends.
pub(super) async fn run(part: DemoPart) -> Result<(), CliError> {
    // The other half of dying with the parent; the end of the input is the first.
    let signal = rustix::process::Signal::KILL;
    rustix::process::set_parent_process_death_signal(Some(signal))
        .map_err(|error| failed("cannot be bound to its parent").because(error))?;
    let mut lines = Lines { input: BufReader::new(tokio::io::stdin()) };
    match part {
        DemoPart::Client => client(&mut lines).await,
        DemoPart::Hop => hop(&mut lines).await,
        DemoPart::Service => service(&mut lines).await,
    }
}

async fn client(lines: &mut Lines) -> Result<(), CliError> {
    let Some(orders) = lines.next::<Orders>().await? else { return Ok(()) };
    let (node, identity) = start_end("client", orders.keys.as_ref()).await?;
    let canary = Canary::start(&node).await?;
    answer(&Ready { identifier: identity.identifier().to_string(), ..Ready::default() })?;
    let Some(errand) = lines.next::<Errand>().await? else { return Ok(()) };
    let route = errand.route.parse().map_err(|error| failed("has no route").because(error))?;
    let peer: onward::Identifier =
        errand.peer.parse().map_err(|error| failed("has no peer").because(error))?;
    let began = Instant::now();
    let channel = node
        .open_channel(&identity, route, Peer::Identity(peer))
        .await
        .map_err(|error| failed("got no channel").because(error))?;
    let channel_ms = milliseconds(began);
    let began = Instant::now();
    let route = channel.route_to(WORKER).map_err(|error| failed("has no route").because(error))?;
    let bytes =
        ask(&node, &route, &errand.text).await.map_err(|error| failed("got no answer").because(error))?;
    let journey_ms = milliseconds(began);
    answer(&Answered { answer: String::from_utf8_lossy(&bytes).into_owned(), channel_ms, journey_ms })?;
    while let Some(Request::Shop(orders)) = lines.next().await? {
        let texts = shop(&node, &route, orders).await?;
        answer(&Arrived { texts, unexposed: canary.reached() })?;
    }
    lines.until_end().await;
    // Held until here: the search must find it.
    drop(errand);
    Ok(())
}

/// A node at an end of the channel, with its identity.
async fn start_end(name: &str, keys: Option<&KeysAt>) -> Result<(Node, Identity), CliError> {
    if let Some(keys) = keys {
        return keys.start_node(name).await;
    }
    let node = start_node(name).await?;
    let identity = node.create_identity().await.map_err(|error| failed("has no identity").because(error))?;
    Ok((node, identity))
}

async fn ask(node: &Node, route: &Route, text: &str) -> Result<Vec<u8>, onward::AskError> {
    let text = Raw(text.to_owned().into());
    let asked: Result<Raw, _> =
        node.route_along(route.clone()).ask_within(&text, Duration::from_secs(10)).await;
    asked.map(|Raw(bytes)| bytes.to_vec())
}

/// Sends `orders` orders and returns everything that came back, whether it was asked for or not. The last order
/// is sent when all others were answered.
async fn shop(node: &Node, route: &Route, orders: u64) -> Result<Vec<String>, CliError> {
    let (arrived, mut seen) = watch::channel(Vec::new());
    let last = orders.saturating_sub(1);
    let shopper = Shopper { route: route.clone(), next: 0, end: last, arrived };
    let shopper =
        node.start_worker(SHOPPER, shopper).map_err(|error| failed("cannot order").because(error))?;
    while (seen.borrow_and_update().len() as u64) < last {
        if !matches!(tokio::time::timeout(ORDER_PATIENCE, seen.changed()).await, Ok(Ok(()))) {
            break;
        }
    }
    let after = ask(node, route, &order(last)).await;
    // What came unasked behind the last answer is counted too.
    shopper.drain().await;
    let mut texts = seen.borrow().clone();
    texts.extend(after.ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    Ok(texts)
}

/// The text of an order.
pub(super) fn order(number: u64) -> String {
    format!("order {number}")
}

/// Keeps a number of orders under way and everything that is answered.
struct Shopper {
    route: Route,
    next: u64,
    end: u64,
    arrived: watch::Sender<Vec<String>>,
}

impl Shopper {
    async fn send_next(&mut self, context: &Context) -> Result<(), Failure> {
        if self.next < self.end {
            context.send(&self.route, &Raw(order(self.next).into())).await?;
            self.next += 1;
        }
        Ok(())
    }
}

impl Worker for Shopper {
    type Request = Raw;
    type Reply = NoReply;

    async fn started(&mut self, context: &mut Context) -> Result<(), Failure> {
        for _ in 0..ORDERS_OPEN {
            self.send_next(context).await?;
        }
        Ok(())
    }

    async fn handle(&mut self, context: &mut Context, Raw(text): Raw) -> Result<NoReply, Failure> {
        self.arrived.send_modify(|texts| texts.push(String::from_utf8_lossy(&text).into_owned()));
        self.send_next(context).await?;
        Ok(NoReply)
    }
}

async fn hop(lines: &mut Lines) -> Result<(), CliError> {
    let Some(orders) = lines.next::<Orders>().await? else { return Ok(()) };
    let node = start_node(&orders.name).await?;
    node.start_hop(&orders.name).map_err(|error| failed("cannot start its hop").because(error))?;
    let (listener, endpoint, record) = match orders.udp {
        true => listen_udp(&node, &orders.name).await?,
        false => listen(&node, &orders.name).await?,
    };
    let (mut next, mut attacker) = (orders.next, None);
    if !orders.queue.is_empty() {
        let queue = EmbeddedQueue::open(Path::new(&orders.queue), QueueLimits::default()).await;
        let queue = queue.map_err(|error| failed("cannot open its queue").because(error))?;
        node.mount_queue(QUEUE, Arc::new(queue))
            .and_then(|()| node.serve_queue(QUEUE_WORKER, QUEUE))
            .and_then(|_| listener.expose(QUEUE_WORKER))
            .map_err(|error| failed("cannot serve its queue").because(error))?;
        next = format!("queue:{QUEUE}/*");
    }
    if !orders.broker.is_empty() {
        mount_broker(&node, &orders.broker).await?;
        next = format!("queue:{QUEUE}/*");
    }
    if orders.attacks {
        let target = next.trim_start_matches("tcp:").parse();
        let target: SocketAddr = target.map_err(|error| failed("has no next").because(error))?;
        let started = attack::start(target, ATTACK_SEED).await;
        let (address, shared) = started.map_err(|error| failed("cannot attack").because(error))?;
        next = format!("tcp:{address}");
        attacker = Some(shared);
    }
    listener.allow_dial(&next).map_err(|error| failed("cannot allow the next").because(error))?;
    answer(&Ready { endpoint, next, ..Ready::default() })?;
    while let Some(request) = lines.next().await? {
        match (request, &attacker) {
            (Request::Report, _) => report(&node, &record)?,
            (Request::Attack(attacks), Some(attacker)) => {
                let counts = attack::lock(attacker).begin(attacks);
                answer(&counts)?;
            }
            _ => return Err(failed("cannot do that")),
        }
    }
    Ok(())
}

async fn service(lines: &mut Lines) -> Result<(), CliError> {
    let Some(orders) = lines.next::<Orders>().await? else { return Ok(()) };
    let (node, identity) = start_end("service", orders.keys.as_ref()).await?;
    let canary = Canary::start(&node).await?;
    let client: onward::Identifier =
        orders.trust.parse().map_err(|error| failed("has no peer").because(error))?;
    let received = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&received);
    node.serve(WORKER, move |Raw(text): Raw| {
        keep.lock().unwrap_or_else(PoisonError::into_inner).push(text.clone());
        async move { Ok::<_, Failure>(Raw(confirmation(&text).into())) }
    })
    .await
    .map_err(|error| failed("cannot serve").because(error))?;
    let channels = node
        .accept_channels(CHANNELS, &identity, Trust::pinned([client]))
        .map_err(|error| failed("cannot accept channels").because(error))?;
    channels.expose(WORKER).map_err(|error| failed("cannot expose its worker").because(error))?;
    let (_listener, endpoint, record) = if !orders.broker.is_empty() {
        mount_broker(&node, &orders.broker).await?;
        listen_at_mailbox(&node, CHANNELS)?
    } else if !orders.queue.is_empty() {
        mount_remote(&node, &orders.queue)?;
        listen_at_mailbox(&node, CHANNELS)?
    } else {
        listen(&node, CHANNELS).await?
    };
    answer(&Ready { identifier: identity.identifier().to_string(), endpoint, ..Ready::default() })?;
    while let Some(request) = lines.next().await? {
        match request {
            Request::Report => report(&node, &record)?,
            Request::Count => {
                let received = received.lock().unwrap_or_else(PoisonError::into_inner);
                let texts = received.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
                answer(&Arrived { texts, unexposed: canary.reached() })?;
            }
            Request::Attack(_) | Request::Shop(_) => return Err(failed("cannot do that")),
        }
    }
    // Held until here: the search must find it.
    drop(received);
    Ok(())
}

/// The worker [`CANARY`], and how many messages reached it.
struct Canary(Arc<AtomicU64>);

impl Canary {
    async fn start(node: &Node) -> Result<Self, CliError> {
        let reached = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&reached);
        node.serve(CANARY, move |_: Raw| {
            count.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, Failure>(NoReply) }
        })
        .await
        .map_err(|error| failed("cannot serve").because(error))?;
        Ok(Self(reached))
    }

    fn reached(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the service answers to a text: the text is in it, so that its way back is searched too.
pub(super) fn confirmation(text: &[u8]) -> Vec<u8> {
    [b"confirmed: ".as_slice(), text].concat()
}

/// Listens behind a tap and exposes `worker`; returns the endpoint of the tap.
async fn listen(node: &Node, worker: &str) -> Result<(Listener, String, Record), CliError> {
    let listener =
        node.listen_tcp("127.0.0.1:0").await.map_err(|error| failed("cannot listen").because(error))?;
    listener.expose(worker).map_err(|error| failed("cannot expose its worker").because(error))?;
    let target: SocketAddr =
        listener.local_address().parse().map_err(|error| failed("has no address").because(error))?;
    let (address, record) = tap::start(target).await.map_err(|error| failed("has no tap").because(error))?;
    Ok((listener, format!("tcp:{address}"), record))
}

/// As [`listen`], for datagrams.
async fn listen_udp(node: &Node, worker: &str) -> Result<(Listener, String, Record), CliError> {
    let listener =
        node.listen_udp("127.0.0.1:0").await.map_err(|error| failed("cannot listen").because(error))?;
    listener.expose(worker).map_err(|error| failed("cannot expose its worker").because(error))?;
    let target: SocketAddr =
        listener.local_address().parse().map_err(|error| failed("has no address").because(error))?;
    let tapped = tap::start_udp(target).await;
    let (address, record) = tapped.map_err(|error| failed("has no tap").because(error))?;
    Ok((listener, format!("udp:{address}"), record))
}

/// Uses the queue of a broker.
async fn mount_broker(node: &Node, broker: &str) -> Result<(), CliError> {
    let address = broker.parse().map_err(|error| failed("has no broker").because(error))?;
    let queue = crate::queues::connect(QUEUE, &address).await?;
    node.mount_queue(QUEUE, queue).map_err(|error| failed("cannot use the broker").because(error))
}

/// Uses the queue that is served at the end of `route`.
fn mount_remote(node: &Node, route: &str) -> Result<(), CliError> {
    let cannot = |error| failed("cannot use the queue").because(error);
    let queue = RemoteQueue::new(node.route(route).map_err(cannot)?);
    node.mount_queue(QUEUE, Arc::new(queue)).map_err(cannot)
}

/// Receives from a mailbox of the queue that is mounted; there is no port, and no tap.
fn listen_at_mailbox(node: &Node, worker: &str) -> Result<(Listener, String, Record), CliError> {
    let cannot = |error| failed("cannot use the queue").because(error);
    let mailbox = node.new_mailbox(QUEUE).map_err(cannot)?;
    let listener = node.listen_queue(&mailbox).map_err(cannot)?;
    listener.expose(worker).map_err(cannot)?;
    Ok((listener, mailbox.to_string(), Record::default()))
}

/// Tells what it saw so far, and looks no further.
fn report(node: &Node, record: &Record) -> Result<(), CliError> {
    let forwarded = crate::control::Counts::of(node).forwarded;
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    answer(&Seen { forwarded, streams: record.finish().into_iter().map(hex).collect() })
}

/// Lines of JSON on standard input.
struct Lines {
    input: BufReader<Stdin>,
}

impl Lines {
    async fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, CliError> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line).await;
        match read.map_err(|error| failed("cannot read its orders").because(error))? {
            0 => Ok(None),
            _ => serde_json::from_str(&line)
                .map(Some)
                .map_err(|error| failed("does not understand its orders").because(error)),
        }
    }

    async fn until_end(&mut self) {
        let mut line = String::new();
        while matches!(self.input.read_line(&mut line).await, Ok(read) if read > 0) {}
    }
}

fn answer(value: &impl Serialize) -> Result<(), CliError> {
    let line = serde_json::to_string(value).map_err(|error| failed("cannot answer").because(error))?;
    Output { format: Format::Plain, quiet: true }.write(format!("{line}\n").as_bytes())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn failed(what: &str) -> CliError {
    CliError::new(Code::DemoFailed, format!("a part of the demonstration {what}"))
}

/// The attacks are the same in every run.
const ATTACK_SEED: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_that_reaches_the_unexposed_worker_is_counted() {
        let (node, peer) = (start_node("one").await.unwrap(), start_node("two").await.unwrap());
        let canary = Canary::start(&node).await.unwrap();
        let listener = node.listen_tcp("127.0.0.1:0").await.unwrap();
        let route = || peer.route(&format!("{} => {CANARY}", listener.name())).unwrap();
        let wait = Duration::from_millis(100);
        assert!(route().ask_within::<_, Raw>(&Raw("x".into()), wait).await.is_err());
        assert_eq!(canary.reached(), 0, "not exposed");
        listener.expose(CANARY).unwrap();
        assert!(route().ask_within::<_, Raw>(&Raw("x".into()), wait).await.is_err(), "it never answers");
        assert_eq!(canary.reached(), 1);
    }
}
