//! Whole nodes through the facade: real sockets, channels through hops, lost hops, full workers.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::time::{Duration, Instant};

use onward::{
    Address, AskError, ChannelOptions, CloseCode, Echo, EndReason, ErrorCode, Failure, FnWorker,
    HandshakeFailure, Limits, Listener, Mode, NoReply, Node, NodeError, Peer, Raw, Restart, Route, Strategy,
    Suite, Supervisor, Trust,
};
use onward_trials::Row;

const DRAIN: Duration = Duration::from_secs(2);

async fn node(name: &str) -> Node {
    Node::builder(name).start().await.unwrap()
}

fn raw(text: &str) -> Raw {
    Raw(text.to_owned().into())
}

/// A service behind a hop, as two nodes; returns the hop's and the service's addresses.
struct Chain {
    hop: Node,
    service: Node,
    at_service: Listener,
    hop_at: String,
    service_at: String,
}

impl Chain {
    async fn start() -> Self {
        let mut limits = Limits::default();
        limits
            .channels
            .listener
            .allowed
            .extend([(Mode::ClassicalXx, Suite::ChaChaPoly), (Mode::ClassicalXx, Suite::AesGcm)]);
        let service = Node::builder("service").limits(limits).start().await.unwrap();
        service.start_worker("echo", Echo).unwrap();
        service.start_worker("open", Echo).unwrap();
        let at_service = service.listen_tcp("127.0.0.1:0").await.unwrap();
        at_service.expose("bank").unwrap();
        at_service.expose("open").unwrap();
        let service_at = at_service.name().to_owned();
        let hop = node("hop").await;
        let hop_at = start_hop(&hop, "127.0.0.1:0", &service_at).await;
        Self { hop, service, at_service, hop_at, service_at }
    }

    fn route(&self, last: &str) -> Route {
        format!("{} => hop => {} => {last}", self.hop_at, self.service_at).parse().unwrap()
    }
}

async fn start_hop(hop: &Node, at: &str, to: &str) -> String {
    hop.start_hop("hop").unwrap();
    let listener = hop.listen_tcp(at).await.unwrap();
    listener.expose("hop").unwrap();
    listener.allow_dial(to).unwrap();
    listener.name().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_request_passes_a_hop_and_comes_back() {
    let chain = Chain::start().await;
    let client = node("client").await;
    let answer: Raw = client.route_along(chain.route("open")).ask(&raw("hi")).await.unwrap();
    assert_eq!(answer, raw("hi"));
    let error = client
        .route_along(chain.route("echo"))
        .ask_within::<_, Raw>(&raw("hi"), Duration::from_millis(200))
        .await;
    assert!(
        matches!(error, Err(AskError::Deadline(_))),
        "not exposed, and a transport is told nothing: {error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_of_every_mode_and_suite_pass_a_hop() {
    let chain = Chain::start().await;
    let client = node("client").await;
    let (alice, bank) =
        (client.create_identity().await.unwrap(), chain.service.create_identity().await.unwrap());
    let listener_node = &chain.service;
    for mode in [Mode::HybridXx, Mode::ClassicalXx] {
        for suite in [Suite::ChaChaPoly, Suite::AesGcm] {
            for backend in onward::Backend::available() {
                let options = ChannelOptions { mode, suite, backend: *backend, ..ChannelOptions::default() };
                let name = format!("bank-{mode:?}-{suite:?}-{backend:?}");
                let accepting = listener_node
                    .accept_channels_with(&name, &bank, Trust::pinned([alice.identifier()]), &options)
                    .unwrap();
                accepting.expose("echo").unwrap();
                chain.at_service.expose(&name).unwrap();
                let route = chain.route(&name);
                let channel = client
                    .open_channel_with(&alice, route, Peer::Identity(bank.identifier()), options)
                    .await
                    .unwrap();
                assert_eq!(channel.peer(), bank.identifier());
                let to = client.route_along(channel.route_to("echo").unwrap());
                for size in [0, 5, 4096, 20_000, 61_440, 65_536, 1_000_000] {
                    let body = Raw(vec![7; size].into());
                    let answer: Raw = to.ask(&body).await.unwrap();
                    assert_eq!(answer, body);
                }
                channel.close();
                assert!(matches!(to.ask::<_, Raw>(&raw("x")).await, Err(AskError::NotSent(_))));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_wrong_peers_get_no_channel() {
    let chain = Chain::start().await;
    let client = node("client").await;
    let (alice, bank) =
        (client.create_identity().await.unwrap(), chain.service.create_identity().await.unwrap());
    let accepting = chain.service.accept_channels("bank", &bank, Trust::pinned([bank.identifier()])).unwrap();
    accepting.expose("echo").unwrap();
    for peer in
        [Peer::Identity(bank.identifier()), Peer::Any(Trust::default()), Peer::Identity(alice.identifier())]
    {
        let opening = client.open_channel(&alice, chain.route("bank"), peer);
        match tokio::time::timeout(Duration::from_secs(3), opening).await {
            Err(_) | Ok(Err(NodeError::Handshake(_) | NodeError::Channel(_))) => {}
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((client.channels(), chain.service.channels()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_hop_gives_a_typed_error_and_its_return_heals_the_channel() {
    let chain = Chain::start().await;
    let client = node("client").await;
    let (alice, bank) =
        (client.create_identity().await.unwrap(), chain.service.create_identity().await.unwrap());
    let accepting =
        chain.service.accept_channels("bank", &bank, Trust::pinned([alice.identifier()])).unwrap();
    accepting.expose("echo").unwrap();
    let channel =
        client.open_channel(&alice, chain.route("bank"), Peer::Identity(bank.identifier())).await.unwrap();
    let to = client.route_along(channel.route_to("echo").unwrap());
    to.ask::<_, Raw>(&raw("before")).await.unwrap();
    chain.hop.shutdown(DRAIN).await;
    let began = Instant::now();
    let within = Duration::from_secs(2);
    let error = to.ask_within::<_, Raw>(&raw("lost"), within).await.unwrap_err();
    assert!(began.elapsed() < within + Duration::from_secs(10), "{error}");
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
    let again = node("hop").await;
    start_hop(&again, chain.hop_at.trim_start_matches("tcp:"), &chain.service_at).await;
    let healed =
        async { while to.ask_within::<_, Raw>(&raw("after"), Duration::from_millis(500)).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), healed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_worker_leaves_another_route_of_the_same_connection_alone() {
    let service = node("service").await;
    service.start_worker("fast", Echo).unwrap();
    let stuck = |_: Raw| async { Ok::<_, Failure>(std::future::pending::<NoReply>().await) };
    service.serve("slow", stuck).await.unwrap();
    let listener = service.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.expose("fast").unwrap();
    listener.expose("slow").unwrap();
    listener.set_hop_errors(true);
    let client = node("client").await;
    let connection = client.connect_tcp(listener.local_address()).await.unwrap();
    let (fast, slow) = (connection.route_to("fast").unwrap(), connection.route_to("slow").unwrap());
    let flood = {
        let slow = slow.clone();
        tokio::spawn(async move {
            for _ in 0..20_000 {
                slow.send(&Raw(vec![1; 1024].into())).await.unwrap();
            }
        })
    };
    for _ in 0..200 {
        fast.ask_within::<_, Raw>(&raw("hi"), Duration::from_secs(5)).await.unwrap();
    }
    flood.await.unwrap();
    let refused = slow.ask_within::<_, Raw>(&raw("x"), Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(refused, AskError::Reported { code: ErrorCode::Refused, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_node_gives_its_connections_back() {
    let mut limits = Limits::default();
    limits.streams.connections_per_ip = 1;
    let service = Node::builder("service").limits(limits).start().await.unwrap();
    service.start_worker("echo", Echo).unwrap();
    let listener = service.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.expose("echo").unwrap();
    let ask = async || {
        let client = node("client").await;
        let route = client.route(&format!("{} => echo", listener.name())).unwrap();
        route.ask_within::<_, Raw>(&raw("hi"), DRAIN).await
    };
    ask().await.unwrap();
    let again = async { while ask().await.is_err() {} };
    tokio::time::timeout(DRAIN * 10, again).await.unwrap();
}

#[tokio::test]
async fn identities_survive_a_restart_and_a_rotation() {
    let home = tempfile::tempdir().unwrap();
    let start = async || Node::builder("n").state_dir(home.path().join("state")).start().await.unwrap();
    let first = start().await;
    let made = first.load_or_create_identity("alice").await.unwrap();
    assert!(matches!(
        Node::builder("n").state_dir(home.path().join("state")).start().await,
        Err(NodeError::StateInUse(_))
    ));
    first.shutdown(DRAIN).await;
    drop(first);
    let second = start().await;
    let loaded = second.load_or_create_identity("alice").await.unwrap();
    assert_eq!(loaded.identifier(), made.identifier());
    let rotated = second.rotate_identity("alice").await.unwrap();
    assert_eq!(rotated.identifier(), made.identifier());
    assert_ne!(rotated.export(), made.export());
    assert_eq!(second.identities().unwrap(), ["alice"]);
    second.shutdown(DRAIN).await;
}

#[tokio::test]
async fn shutdown_finishes_what_was_accepted() {
    let node = node("n").await;
    node.serve("slow", |n: u64| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(n)
    })
    .await
    .unwrap();
    let asks: Vec<_> = (0..5u64)
        .map(|n| {
            let route = node.route("slow").unwrap();
            tokio::spawn(async move { route.ask::<_, u64>(&n).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let report = node.shutdown(Duration::from_secs(5)).await;
    assert_eq!((report.drained, report.cut_off), (1, 0));
    for (n, ask) in asks.into_iter().enumerate() {
        assert_eq!(ask.await.unwrap().unwrap(), n as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_lets_supervised_workers_finish_too_and_cuts_off_who_does_not() {
    let slow = || {
        FnWorker::new(|n: u64| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(n)
        })
    };
    let stuck = || {
        FnWorker::new(|n: u64| async move {
            std::future::pending::<()>().await;
            Ok(n)
        })
    };
    let node = node("n").await;
    let address = |name: &str| Address::local(name).unwrap();
    // Started first, it is told last: it takes all the time there is.
    let other = Supervisor::new(Strategy::OneForOne).child(address("stuck"), Restart::Permanent, stuck);
    let other = node.supervise("other", other).unwrap();
    let below = Supervisor::new(Strategy::OneForOne).child(address("below"), Restart::Permanent, slow);
    let tree = Supervisor::new(Strategy::OneForOne)
        .child(address("first"), Restart::Permanent, slow)
        .supervisor(address("branch"), Restart::Permanent, below);
    node.supervise("tree", tree).unwrap();
    // The branch starts its children in its own time.
    while !node.router().has(&address("below")) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ask = |name: &str, n: u64| {
        let route = node.route(name).unwrap();
        tokio::spawn(async move { route.ask::<_, u64>(&n).await })
    };
    let asks: Vec<_> = (0..5).flat_map(|n| [ask("first", n), ask("below", n)]).collect();
    let never = ask("stuck", 0);
    // All of them are in their mailboxes: what comes later would be refused.
    while node.router().counters().delivered.load(std::sync::atomic::Ordering::Relaxed) < 11 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stopping = node.clone();
    let report = tokio::spawn(async move { stopping.shutdown(Duration::from_secs(2)).await });
    for ask in asks {
        ask.await.unwrap().unwrap();
    }
    let report = report.await.unwrap();
    assert_eq!((report.drained, report.cut_off), (2, 1));
    assert!(never.await.unwrap().is_err(), "its asker is told");
    assert_eq!(other.ended().await, EndReason::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a17_a_close_is_seen_at_the_far_end_of_five_hops() {
    let chain = Chain::start().await;
    let identity = chain.service.create_identity().await.unwrap();
    chain
        .service
        .accept_channels("bank", &identity, Trust::dangerously_any())
        .unwrap()
        .expose("echo")
        .unwrap();
    let mut hops = Vec::new();
    let (mut next, mut route) = (chain.service_at.clone(), format!("{} => bank", chain.service_at));
    for number in 0..5 {
        let hop = node(&format!("hop {number}")).await;
        next = start_hop(&hop, "127.0.0.1:0", &next).await;
        route = format!("{next} => hop => {route}");
        hops.push(hop);
    }
    let client = node("client").await;
    let own = client.create_identity().await.unwrap();
    let peer = Peer::Identity(identity.identifier());
    let channel = client.open_channel(&own, route.parse().unwrap(), peer).await.unwrap();
    let through = client.route_along(channel.route_to("echo").unwrap());
    assert_eq!(through.ask::<_, Raw>(&raw("hi")).await.unwrap(), raw("hi"));
    assert_eq!(chain.service.channels(), 1);
    let began = Instant::now();
    channel.close();
    let seen = async {
        while chain.service.channels() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed().as_secs_f64()
    };
    let seen = tokio::time::timeout(DRAIN * 5, seen).await.unwrap();
    let row = Row::new("A17");
    row.takes_at_most("seconds until a close is seen behind five hops", seen, 1.0);
    let after = through.ask::<_, Raw>(&raw("anybody")).await;
    row.exactly("asks answered through a closed channel", u8::from(after.is_ok()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_listener_tells_whoever_wants_another_channel_and_keeps_those_it_has() {
    let mut limits = Limits::default();
    limits.channels.listener.open_max = 1;
    let service = Node::builder("service").limits(limits).start().await.unwrap();
    service.start_worker("echo", Echo).unwrap();
    let identity = service.create_identity().await.unwrap();
    let channels = service.accept_channels("bank", &identity, Trust::dangerously_any()).unwrap();
    channels.expose("echo").unwrap();
    let listener = service.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.expose("bank").unwrap();
    let client = node("client").await;
    let own = client.create_identity().await.unwrap();
    let open = async || {
        let route: Route = format!("{} => bank", listener.name()).parse().unwrap();
        client.open_channel(&own, route, Peer::Identity(identity.identifier())).await
    };
    let first = open().await.unwrap();
    for refused in 1..=2 {
        let told = open().await.unwrap_err();
        assert!(
            matches!(told, NodeError::Handshake(HandshakeFailure::Closed(CloseCode::Full))),
            "refused at once: {told}"
        );
        assert_eq!((channels.refused(), channels.half_open(), service.channels()), (refused, 0, 1));
    }
    let through = client.route_along(first.route_to("echo").unwrap());
    assert_eq!(through.ask::<_, Raw>(&raw("still")).await.unwrap(), raw("still"));
    first.close();
    while service.channels() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    open().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_is_seen_at_the_far_end_when_it_comes_and_not_at_the_next_look() {
    let chain = Chain::start().await;
    let identity = chain.service.create_identity().await.unwrap();
    chain.service.accept_channels("bank", &identity, Trust::dangerously_any()).unwrap();
    let client = node("client").await;
    let own = client.create_identity().await.unwrap();
    let mut waited = Duration::ZERO;
    for _ in 0..6 {
        let peer = Peer::Identity(identity.identifier());
        let channel = client.open_channel(&own, chain.route("bank"), peer).await.unwrap();
        while chain.service.channels() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let began = Instant::now();
        channel.close();
        while chain.service.channels() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        waited += began.elapsed();
    }
    // A look once a second would make it six seconds or so.
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_is_closed_once_and_leaves_nothing_when_it_could_not_begin() {
    let node = node("n").await;
    let identity = node.create_identity().await.unwrap();
    let accept = || node.accept_channels("bank", &identity, Trust::dangerously_any());
    let before = node.router().reach().state_hash();
    let (first, second) = (accept().unwrap(), accept());
    assert!(matches!(second, Err(NodeError::Start(_))), "the address is taken");
    let other_handle = first.clone();
    first.close();
    node.start_worker("bank", Echo).unwrap();
    other_handle.close();
    let answer: Raw = node.route("bank").unwrap().ask(&raw("later")).await.unwrap();
    assert_eq!(answer, raw("later"), "another worker's address by now");
    drop((first, other_handle));
    assert_eq!(node.router().reach().state_hash(), before, "no flow is left");
}
