//! Messages that are sealed at one node, wait at a broker, and are opened and handled at another.
//!
//!     cargo bench -p onward --features nats --bench sealed -- [GROUP…]
//!
//! One JSON line. Beside it stands what the bare client of the same broker does, `queue.nats.1024.bare` of the bench
//! `brokers`. A server that is not installed is named and left out.

#[allow(dead_code, reason = "other benches use the rest")]
mod measure;

use std::sync::Arc;

use measure::{Counter, RUNS, Tally, body, flood, print, runtime};
use onward::{Identity, Node, NodeRoute, Peer, Trust, queue};
use onward_trials::{Server, ServerKind};

/// The figure.
const FIGURE: &str = "queue.nats.sealed.1024";
/// Bytes of a body.
const SIZE: usize = 1024;
/// Worker threads of the runtime.
const WORKERS: usize = 2;

fn main() {
    let mut groups = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    if groups.peek().is_some() && !groups.any(|group| FIGURE.starts_with(group.as_str())) {
        return;
    }
    let Some(server) = Server::start(ServerKind::Nats) else { return };
    let runtime = runtime(WORKERS);
    let samples = runtime.block_on(async {
        let tally = Tally::default();
        let ends = must(open(&server.url(), &tally).await);
        let mut samples = Vec::new();
        for run in 0..=RUNS {
            let body = body(SIZE);
            let (count, seconds) = flood(&tally, || ends.route.send(&body)).await;
            if run > 0 {
                samples.push(count as f64 / seconds);
            }
        }
        samples
    });
    print(FIGURE, "msg/s", WORKERS, &samples);
}

/// Two nodes, and how the first reaches the worker of the second.
struct Ends {
    route: NodeRoute,
    _nodes: [Node; 2],
    _identities: [Identity; 2],
}

async fn open(url: &str, tally: &Tally) -> Result<Ends, Box<dyn std::error::Error>> {
    let service = node("service", url).await?;
    let mailbox = service.new_mailbox("q")?;
    let bank = service.create_identity().await?;
    service.start_worker("count", Counter(tally.clone()))?;
    service.accept_channels("secure", &bank, Trust::dangerously_any())?.expose("count")?;
    service.listen_queue(&mailbox)?.expose("secure")?;
    let client = node("client", url).await?;
    let alice = client.create_identity().await?;
    let route = format!("{mailbox} => secure").parse()?;
    let channel = client.open_channel(&alice, route, Peer::Identity(bank.identifier())).await?;
    let route = client.route_along(channel.route_to("count")?);
    Ok(Ends { route, _nodes: [client, service], _identities: [alice, bank] })
}

/// A node with a queue `q` at the broker.
async fn node(name: &str, url: &str) -> Result<Node, Box<dyn std::error::Error>> {
    let node = Node::builder(name).start().await?;
    let broker: Arc<dyn queue::Broker> = queue::connect(&url.parse()?).await?;
    node.mount_queue("q", broker)?;
    Ok(node)
}

fn must<T>(result: Result<T, Box<dyn std::error::Error>>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
