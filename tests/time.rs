//! Channels over time: renewed while they are busy, opened again when the other end comes back.
//!
//! Ages and limits are turned down from hours to seconds. `ONWARD_SOAK_SECONDS` makes the soak tests longer.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::path::Path;
use std::time::{Duration, Instant};

use onward::{
    AskError, Channel, Echo, Identifier, Identity, Limits, Listener, Node, NodeRoute, Peer, Profile, Raw,
    Trust,
};

const DRAIN: Duration = Duration::from_secs(2);

/// Times of a channel that lives in seconds what others live in hours.
fn hurried() -> Limits {
    let millis = Duration::from_millis;
    let mut limits = Limits::default();
    limits.channels.profile = Profile {
        handshake: millis(5_000),
        key_age: millis(500),
        previous_key: millis(1_000),
        keepalive: millis(500),
        idle: millis(30_000),
        unanswered: millis(1_500),
        renew_again: millis(1_000),
        soft_age: millis(1_500),
        soft_bytes: 1 << 20,
        hard_age: millis(20_000),
        drain: millis(3_000),
    };
    limits
}

/// As [`hurried`], but never renewed for its age.
fn steady() -> Limits {
    let mut limits = hurried();
    limits.channels.profile.soft_age = Duration::from_secs(3_600);
    limits.channels.profile.hard_age = Duration::from_secs(7_200);
    limits
}

fn raw(text: &str) -> Raw {
    Raw(text.to_owned().into())
}

/// A bank that can be restarted at the same port with the same identity.
async fn start_bank(
    state: &Path,
    at: &str,
    client: Identifier,
    limits: Limits,
) -> (Node, Listener, Identity) {
    let node = Node::builder("bank").state_dir(state).limits(limits).start().await.unwrap();
    node.start_worker("echo", Echo).unwrap();
    let bank = node.load_or_create_identity("bank").await.unwrap();
    node.accept_channels("bank", &bank, Trust::pinned([client])).unwrap().expose("echo").unwrap();
    let listener = node.listen_tcp(at).await.unwrap();
    listener.expose("bank").unwrap();
    (node, listener, bank)
}

async fn open(client: &Node, alice: &Identity, at: &Listener, bank: &Identity) -> (Channel, NodeRoute) {
    let route = format!("{} => bank", at.name()).parse().unwrap();
    let channel = client.open_channel(alice, route, Peer::Identity(bank.identifier())).await.unwrap();
    let echo = client.route_along(channel.route_to("echo").unwrap());
    (channel, echo)
}

/// Asks until an answer comes; every error on the way has to be one that a lost peer may cause.
async fn ask_until_healed(echo: &NodeRoute) {
    let began = Instant::now();
    while let Err(error) = echo.ask_within::<_, Raw>(&raw("again"), Duration::from_millis(500)).await {
        assert!(
            matches!(
                error,
                AskError::Deadline(_)
                    | AskError::ConnectionLost
                    | AskError::NotSent(_)
                    | AskError::Reported { .. }
            ),
            "{error}"
        );
        assert!(began.elapsed() < Duration::from_secs(60), "never healed: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_outlives_a_restart_of_its_listener() {
    let home = tempfile::tempdir().unwrap();
    let client = Node::builder("client").limits(steady()).start().await.unwrap();
    let alice = client.create_identity().await.unwrap();
    let (node, listener, bank) = start_bank(home.path(), "127.0.0.1:0", alice.identifier(), steady()).await;
    let at = listener.local_address().to_owned();
    let (channel, echo) = open(&client, &alice, &listener, &bank).await;
    echo.ask::<_, Raw>(&raw("before")).await.unwrap();
    node.shutdown(DRAIN).await;
    drop((node, listener, bank));
    let (_node, ..) = start_bank(home.path(), &at, alice.identifier(), steady()).await;
    ask_until_healed(&echo).await;
    assert!(!channel.is_closed());
    assert_eq!(channel.renewals(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_its_peer_closes_stays_closed() {
    let home = tempfile::tempdir().unwrap();
    let client = Node::builder("client").limits(steady()).start().await.unwrap();
    let alice = client.create_identity().await.unwrap();
    let (_node, listener, bank) = start_bank(home.path(), "127.0.0.1:0", alice.identifier(), steady()).await;
    let (channel, echo) = open(&client, &alice, &listener, &bank).await;
    echo.ask::<_, Raw>(&raw("before")).await.unwrap();
    channel.close();
    assert!(channel.is_closed());
    assert!(matches!(echo.ask::<_, Raw>(&raw("x")).await, Err(AskError::NotSent(_))));
    assert_eq!(client.channels(), 0);
}
