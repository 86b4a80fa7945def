//! Brokers that others run: what every queue promises, against the real servers, which the tests start
//! themselves; and what is left of messages when these are killed.
#![allow(clippy::unwrap_used, reason = "unwrapping is how a test fails")]

mod away;
mod encrypted;
mod foreign;
#[cfg(feature = "kafka")]
mod kafka;
mod left;
mod names;
mod poison;
mod refused;
mod restart;

use std::sync::Arc;
use std::time::Duration;

use onward_transports::queue::conformance::{self, Abilities};
use onward_transports::queue::{self, Durability};
use onward_trials::{Server, ServerKind};

/// How long anything may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server of this kind and a connection to it, if it is installed.
async fn broker(kind: ServerKind) -> Option<(Server, Arc<dyn queue::Server>)> {
    let server = Server::start(kind)?;
    let broker = queue::connect(&server.url().parse().unwrap()).await.unwrap();
    println!("{}", broker.standing().software);
    Some((server, broker))
}

async fn passes(kind: ServerKind, durability: Durability) {
    let Some((_server, broker)) = broker(kind).await else { return };
    assert_eq!(broker.standing().durability, durability);
    documented(kind, durability);
    conformance::all(&*broker, abilities(kind)).await;
}

/// In what brokers differ, and may.
fn abilities(kind: ServerKind) -> Abilities {
    Abilities {
        recognises_repeats: kind == ServerKind::Nats,
        // Who makes a mailbox may get its first message, which then is not new to the next one.
        is_orderly: kind != ServerKind::Mosquitto,
        patience: Duration::from_millis(300),
    }
}

/// Holds docs/semantics.md to the class that was seen of a kind of server.
fn documented(kind: ServerKind, durability: Durability) {
    // As the tests start them: one server each, set to lose nothing.
    let (row, paragraph) = match kind {
        ServerKind::Nats => ("| NATS JetStream, one server |", "**NATS JetStream.**"),
        ServerKind::Redis => ("| Redis, `appendonly yes` and `appendfsync always` |", "**Redis Streams.**"),
        ServerKind::Mosquitto => ("| MQTT 5 |", "**MQTT 5.**"),
        ServerKind::RabbitMq => ("| RabbitMQ |", "**RabbitMQ.**"),
    };
    is_documented(row, paragraph, durability);
}

/// A row of its table with this class, and a paragraph of its own.
fn is_documented(row: &str, paragraph: &str, durability: Durability) {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/semantics.md")).unwrap();
    let row = page.lines().find(|line| line.starts_with(row)).expect("a row for each broker");
    assert!(row.contains(&format!("| `{durability}` |")), "{row}");
    assert!(page.lines().any(|line| line.starts_with(paragraph)), "{paragraph}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_passes_what_every_queue_has_to() {
    passes(ServerKind::Nats, Durability::BrokerMemory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_passes_what_every_queue_has_to() {
    passes(ServerKind::Redis, Durability::BrokerDisk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_passes_what_every_queue_has_to() {
    passes(ServerKind::RabbitMq, Durability::BrokerDisk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_passes_what_every_queue_has_to() {
    passes(ServerKind::Mosquitto, Durability::BrokerMemory).await;
}
