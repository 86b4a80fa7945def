//! One process of the demonstration: the client, a hop or the service.
//!
//! It is told what to do by lines on its standard input and answers in lines, all JSON; so the text is
//! in no argument and no environment. When the input ends, or the parent does, it ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use onward::{Failure, Listener, Node, Peer, Raw, Trust};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, Stdin};

use super::tap::{self, Record};
use crate::args::DemoPart;
use crate::client::start_node;
use crate::error::{CliError, Code};
use crate::output::{Format, Output};

/// The worker that the client asks.
pub(super) const WORKER: &str = "card-pin";
/// The address of the service's channel listener.
pub(super) const CHANNELS: &str = "bank";

/// What a part is told first.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Orders {
    /// A hop's name.
    pub(super) name: String,
    /// The endpoint that a hop may pass messages on to.
    pub(super) next: String,
    /// Who may ask the service.
    pub(super) trust: String,
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
    let node = start_node("client", None).await?;
    let identity = node.create_identity().await.map_err(|error| failed("has no identity").because(error))?;
    answer(&Ready { identifier: identity.identifier().to_string(), endpoint: String::new() })?;
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
    let text = Raw(errand.text.clone().into());
    let asked: Result<Raw, _> = node.route_along(route).ask_within(&text, Duration::from_secs(10)).await;
    let Raw(bytes) = asked.map_err(|error| failed("got no answer").because(error))?;
    let journey_ms = milliseconds(began);
    answer(&Answered { answer: String::from_utf8_lossy(&bytes).into_owned(), channel_ms, journey_ms })?;
    lines.until_end().await;
    // Held until here: the search must find it.
    drop(errand);
    Ok(())
}

async fn hop(lines: &mut Lines) -> Result<(), CliError> {
    let Some(orders) = lines.next::<Orders>().await? else { return Ok(()) };
    let node = start_node(&orders.name, None).await?;
    node.start_hop(&orders.name).map_err(|error| failed("cannot start its hop").because(error))?;
    let (listener, endpoint, record) = listen(&node, &orders.name).await?;
    listener.allow_dial(&orders.next).map_err(|error| failed("cannot allow the next").because(error))?;
    answer(&Ready { identifier: String::new(), endpoint })?;
    report(lines, &node, &record).await
}

async fn service(lines: &mut Lines) -> Result<(), CliError> {
    let Some(orders) = lines.next::<Orders>().await? else { return Ok(()) };
    let node = start_node("service", None).await?;
    let identity = node.create_identity().await.map_err(|error| failed("has no identity").because(error))?;
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
    let (_listener, endpoint, record) = listen(&node, CHANNELS).await?;
    answer(&Ready { identifier: identity.identifier().to_string(), endpoint })?;
    report(lines, &node, &record).await?;
    // Held until here: the search must find it.
    drop(received);
    Ok(())
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

/// Waits to be asked what it saw, tells it, and waits for the end.
async fn report(lines: &mut Lines, node: &Node, record: &Record) -> Result<(), CliError> {
    while lines.next::<String>().await?.is_some() {
        let forwarded = crate::control::Counts::of(node).forwarded;
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        answer(&Seen { forwarded, streams: record.streams().into_iter().map(hex).collect() })?;
    }
    Ok(())
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
