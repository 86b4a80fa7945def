//! Channels over time: renewed while they are busy, opened again when the other end comes back.
//!
//! Ages and limits are turned down from hours to seconds. `ONWARD_SOAK_SECONDS` makes the soak tests longer.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::path::Path;
use std::time::{Duration, Instant};

use onward::{
    Address, AskError, Channel, ChannelOptions, Echo, HandshakeFailure, Identifier, Identity, IdentityError,
    Limits, LinkFaults, Listener, MemoryNetwork, Mode, Node, NodeError, NodeRoute, Peer, Profile, Raw, Route,
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
        suspected: millis(1_500),
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

/// Tries until it works: what a dropped node leaves is freed when its tasks have ended, a moment later.
async fn until_free<T, E: std::fmt::Debug>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A bank that can be restarted at the same port with the same identity.
async fn start_bank(
    state: &Path,
    at: &str,
    client: Identifier,
    limits: Limits,
) -> (Node, Listener, Identity) {
    let node =
        until_free(async || Node::builder("bank").state_dir(state).limits(limits.clone()).start().await)
            .await;
    node.start_worker("echo", Echo).unwrap();
    let bank = node.load_or_create_identity("bank").await.unwrap();
    node.accept_channels("bank", &bank, Trust::pinned([client])).unwrap().expose("echo").unwrap();
    let listener = until_free(async || node.listen_tcp(at).await).await;
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
async fn a_channel_outlives_a_listener_that_died_without_a_word() {
    let home = tempfile::tempdir().unwrap();
    let client = Node::builder("client").limits(steady()).start().await.unwrap();
    let alice = client.create_identity().await.unwrap();
    let (node, listener, bank) = start_bank(home.path(), "127.0.0.1:0", alice.identifier(), steady()).await;
    let at = listener.local_address().to_owned();
    let (channel, echo) = open(&client, &alice, &listener, &bank).await;
    echo.ask::<_, Raw>(&raw("before")).await.unwrap();
    // Without a shutdown nobody is told.
    drop((node, listener, bank));
    let (_node, ..) = start_bank(home.path(), &at, alice.identifier(), steady()).await;
    ask_until_healed(&echo).await;
    assert!(!channel.is_closed());
    assert_eq!(channel.renewals(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_makes_a_dead_peer_be_noticed_sooner() {
    let mut limits = steady();
    limits.channels.profile.unanswered = Duration::from_secs(3_600);
    let home = tempfile::tempdir().unwrap();
    let client = Node::builder("client").limits(limits).start().await.unwrap();
    let alice = client.create_identity().await.unwrap();
    let (node, listener, bank) = start_bank(home.path(), "127.0.0.1:0", alice.identifier(), steady()).await;
    let at = listener.local_address().to_owned();
    let (channel, echo) = open(&client, &alice, &listener, &bank).await;
    echo.ask::<_, Raw>(&raw("before")).await.unwrap();
    drop((node, listener, bank));
    let (_node, ..) = start_bank(home.path(), &at, alice.identifier(), steady()).await;
    ask_until_healed(&echo).await;
    assert_eq!(channel.renewals(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_was_closed_stays_closed() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attestation_is_renewed_before_it_runs_out() {
    let mut limits = hurried();
    limits.channels.attestation = Duration::from_secs(4);
    let home = tempfile::tempdir().unwrap();
    let client = Node::builder("client").limits(limits.clone()).start().await.unwrap();
    let alice = client.create_identity().await.unwrap();
    let (_node, listener, bank) = start_bank(home.path(), "127.0.0.1:0", alice.identifier(), limits).await;
    // Longer than any attestation that was made above lasts.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (_channel, echo) = open(&client, &alice, &listener, &bank).await;
    echo.ask::<_, Raw>(&raw("later")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_ends_with_what_its_peer_has_shown_and_returns_with_newer() {
    let mut short = steady();
    short.channels.attestation = Duration::from_secs(3);
    let home = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let client = Node::builder("client").limits(short).start().await.unwrap();
    let alice = client.create_identity().await.unwrap();
    let (_node, listener, bank) = start_bank(home.path(), "127.0.0.1:0", alice.identifier(), steady()).await;
    let (channel, echo) = open(&client, &alice, &listener, &bank).await;
    echo.ask::<_, Raw>(&raw("before")).await.unwrap();
    // The client shows its newest attestation in handshakes only, and the listener wants to see a valid one.
    while channel.renewals() == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "the listener keeps what has run out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2) && !channel.is_closed());
    echo.ask::<_, Raw>(&raw("after")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_identity_keeps_its_channels_and_is_accepted_in_new_ones() {
    let home = tempfile::tempdir().unwrap();
    let start = async |name: &str| {
        Node::builder(name).state_dir(home.path().join(name)).limits(steady()).start().await.unwrap()
    };
    let client = start("client").await;
    let alice = client.load_or_create_identity("alice").await.unwrap();
    let (node, listener, bank) =
        start_bank(&home.path().join("bank"), "127.0.0.1:0", alice.identifier(), steady()).await;
    let (_first, echo) = open(&client, &alice, &listener, &bank).await;
    echo.ask::<_, Raw>(&raw("before")).await.unwrap();
    let before = (alice.export(), bank.export());
    client.rotate_identity("alice").await.unwrap();
    node.rotate_identity("bank").await.unwrap();
    assert_ne!((alice.export(), bank.export()), before, "the handles in use show the new histories");
    echo.ask::<_, Raw>(&raw("live")).await.unwrap();
    let (second, again) = open(&client, &alice, &listener, &bank).await;
    again.ask::<_, Raw>(&raw("new")).await.unwrap();
    assert_eq!(second.peer(), bank.identifier());
    assert!(client.forked_identities().is_empty() && node.forked_identities().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_channel_is_renewed_in_the_mode_of_the_first() {
    let service = Node::builder("service").limits(hurried()).start().await.unwrap();
    service.start_worker("echo", Echo).unwrap();
    let bank = service.create_identity().await.unwrap();
    let client = Node::builder("client").limits(hurried()).start().await.unwrap();
    let alice = client.create_identity().await.unwrap();
    // No other mode is answered.
    let accepts = [Mode::ClassicalXx, Mode::Resumption].into_iter().flat_map(Mode::in_every_suite).collect();
    let options = ChannelOptions { accepts: Some(accepts), ..ChannelOptions::default() };
    let trust = Trust::pinned([alice.identifier()]);
    service.accept_channels_with("bank", &bank, trust, &options).unwrap().expose("echo").unwrap();
    let listener = service.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.expose("bank").unwrap();
    let open = async |mode: Mode, resumable: bool| {
        let route: Route = format!("{} => bank", listener.name()).parse().unwrap();
        let options = ChannelOptions { mode, resumable, ..ChannelOptions::default() };
        client.open_channel_with(&alice, route, Peer::Identity(bank.identifier()), options).await.unwrap()
    };
    open(Mode::ClassicalXx, true).await.close();
    let resumed = open(Mode::Resumption, false).await;
    let began = Instant::now();
    while resumed.renewals() == 0 {
        assert!(began.elapsed() < Duration::from_secs(15) && !resumed.is_closed(), "it is never renewed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let echo = client.route_along(resumed.route_to("echo").unwrap());
    assert_eq!(echo.ask::<_, Raw>(&raw("after")).await.unwrap(), raw("after"));
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forked_history_is_refused_and_raises_an_alarm() {
    let home = tempfile::tempdir().unwrap();
    let mut limits = steady();
    limits.channels.profile.handshake = Duration::from_secs(2);
    let start = async |name: &str| {
        let state = home.path().join(name);
        Node::builder(name).state_dir(state).limits(limits.clone()).start().await.unwrap()
    };
    let owner = start("owner").await;
    let alice = owner.load_or_create_identity("alice").await.unwrap();
    owner.shutdown(DRAIN).await;
    drop(owner);
    copy_folder(&home.path().join("owner"), &home.path().join("thief"));
    let (owner, thief) = (start("owner").await, start("thief").await);
    owner.load_identity("alice").await.unwrap();
    let ours = owner.rotate_identity("alice").await.unwrap();
    let stolen = thief.rotate_identity("alice").await.unwrap();
    assert_eq!((ours.identifier(), stolen.identifier()), (alice.identifier(), alice.identifier()));
    assert_ne!(ours.export(), stolen.export());

    let (bank_node, listener, bank) =
        start_bank(&home.path().join("bank"), "127.0.0.1:0", alice.identifier(), limits.clone()).await;
    let (_channel, echo) = open(&owner, &ours, &listener, &bank).await;
    let route = || format!("{} => bank", listener.name()).parse().unwrap();
    for _ in 0..2 {
        let refused = thief.open_channel(&stolen, route(), Peer::Identity(bank.identifier())).await;
        assert!(matches!(refused, Err(NodeError::Handshake(HandshakeFailure::TimedOut))), "{refused:?}");
    }
    assert_eq!(bank_node.forked_identities(), [alice.identifier()]);
    echo.ask::<_, Raw>(&raw("the owner's channel goes on")).await.unwrap();

    // The other way round, the initiator is told.
    let fork = thief.listen_tcp("127.0.0.1:0").await.unwrap();
    thief.accept_channels("bank", &stolen, Trust::pinned([bank.identifier()])).unwrap();
    fork.expose("bank").unwrap();
    let route = format!("{} => bank", fork.name()).parse().unwrap();
    let refused = bank_node.open_channel(&bank, route, Peer::Identity(alice.identifier())).await;
    let Err(NodeError::Handshake(HandshakeFailure::Untrusted(cause))) = refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(*cause, IdentityError::Forked(who) if who == alice.identifier()), "{cause}");
}

/// How long a soak test lasts: seconds from the environment, a few without.
fn soak() -> Duration {
    let seconds = std::env::var("ONWARD_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_channel_is_renewed_again_and_again_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let client = Node::builder("client").limits(hurried()).start().await.unwrap();
    let alice = client.create_identity().await.unwrap();
    let (_bank, listener, bank) = start_bank(home.path(), "127.0.0.1:0", alice.identifier(), hurried()).await;
    let (channel, echo) = open(&client, &alice, &listener, &bank).await;
    let until = Instant::now() + soak();
    let lanes: Vec<_> = (0..4u64)
        .map(|lane| {
            let echo = echo.clone();
            tokio::spawn(async move {
                let mut asked = 0u64;
                while Instant::now() < until {
                    let body = Raw(vec![lane as u8; 1 + (asked as usize * 997) % 4_000].into());
                    let answer: Raw = echo.ask(&body).await.unwrap();
                    assert_eq!(answer, body);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let mut asked = 0;
    for lane in lanes {
        asked += lane.await.unwrap();
    }
    println!("{asked} asks, {} renewals", channel.renewals());
    // Every two seconds or so by its age, more often by its bytes.
    assert!(channel.renewals() >= soak().as_secs() / 4, "{} renewals", channel.renewals());
    assert!(!channel.is_closed() && asked > 100);
    assert_eq!((client.channels(), _bank.channels()), (1, 1), "no session became a channel of its own");
}

/// Two nodes joined in memory by a link with faults, whose clock runs with the real one.
struct Memory {
    client: Node,
    bank: Node,
    /// To the bank.
    first: Address,
    clock: tokio::task::JoinHandle<()>,
}

impl Memory {
    async fn start(faults: LinkFaults, limits: &Limits) -> Self {
        let client = Node::builder("client").limits(limits.clone()).start().await.unwrap();
        let bank = Node::builder("bank").limits(limits.clone()).start().await.unwrap();
        let network = MemoryNetwork::new(7);
        let (there, back) = network.connect(client.router(), bank.router(), faults).await.unwrap();
        bank.router().reach_mut().expose(back.flow(), &"bank".parse().unwrap()).unwrap();
        let first = there.address().clone();
        let clock = tokio::spawn(async move {
            let _ends = (there, back);
            let began = Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let passed = network.now().await;
                network.advance(began.elapsed().saturating_sub(passed)).await;
            }
        });
        Self { client, bank, first, clock }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_outlives_a_link_that_loses_five_percent() {
    let faults = LinkFaults {
        loss: (65_536 / 20) as u16,
        reorder: 3_000,
        reorder_by: Duration::from_millis(5),
        jitter: Duration::from_millis(2),
        ..LinkFaults::default()
    };
    let network = Memory::start(faults, &hurried()).await;
    let alice = network.client.create_identity().await.unwrap();
    let bank = network.bank.create_identity().await.unwrap();
    network.bank.start_worker("echo", Echo).unwrap();
    let trust = Trust::pinned([alice.identifier()]);
    network.bank.accept_channels("bank", &bank, trust).unwrap().expose("echo").unwrap();
    let mut route = Route::from(network.first.clone());
    route.extend("bank".parse::<Route>().unwrap().as_ref()).unwrap();
    let peer = Peer::Identity(bank.identifier());
    let channel = network.client.open_channel(&alice, route, peer).await.unwrap();
    let echo = network.client.route_along(channel.route_to("echo").unwrap());
    let until = Instant::now() + soak();
    let (mut answered, mut lost) = (0u64, 0u64);
    while Instant::now() < until {
        match echo.ask_within::<_, Raw>(&raw("hi"), Duration::from_millis(100)).await {
            Ok(_) => answered += 1,
            Err(_) => lost += 1,
        }
        assert!(!channel.is_closed(), "after {answered} answers and {} renewals", channel.renewals());
    }
    println!("{answered} answers, {lost} lost, {} renewals", channel.renewals());
    assert!(channel.renewals() >= soak().as_secs() / 5, "{} renewals", channel.renewals());
    assert!(answered > lost * 4, "{answered} answers, {lost} lost");
    assert_eq!(network.client.channels(), 1);
    network.clock.abort();
}
