//! Whole nodes over UDP, through paths that lose, repeat, reorder and move: docs/protocol.md §2.2, §3.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::{
    AskError, Channel, DatagramCounters, Echo, ErrorCode, Identity, Limits, Listener, Node, NodeRoute, Peer,
    Raw, Trust, UdpTransport,
};
use onward_trials::{PathFaults, UdpPath};

/// No condition a test waits for takes this long unless something is broken.
const DEADLINE: Duration = Duration::from_secs(40);

/// A client and a service, with a path between them.
struct Pair {
    client: Node,
    service: Node,
    at: Listener,
    path: UdpPath,
    alice: Identity,
    bank: Identity,
}

/// Limits under which what is silent is noticed sooner.
fn quick() -> Limits {
    let mut limits = Limits::default();
    limits.datagrams.keepalive = Duration::from_millis(300);
    limits.datagrams.probe = Duration::from_millis(100);
    limits.datagrams.connect = Duration::from_secs(1);
    limits.datagrams.reconnect_last = Duration::from_millis(500);
    limits.channels.profile.keepalive = Duration::from_millis(500);
    limits
}

impl Pair {
    async fn start(limits: Limits) -> Self {
        let client = Node::builder("client").limits(limits.clone()).start().await.unwrap();
        let service = Node::builder("service").limits(limits).start().await.unwrap();
        service.start_worker("echo", Echo).unwrap();
        let at = service.listen_udp("127.0.0.1:0").await.unwrap();
        let (alice, bank) =
            (client.create_identity().await.unwrap(), service.create_identity().await.unwrap());
        let accepting = service.accept_channels("bank", &bank, Trust::pinned([alice.identifier()])).unwrap();
        accepting.expose("echo").unwrap();
        for exposed in ["bank", "echo"] {
            at.expose(exposed).unwrap();
        }
        let path = UdpPath::new(at.local_address().parse().unwrap(), 3).unwrap();
        Self { client, service, at, path, alice, bank }
    }

    async fn channel(&self) -> Channel {
        let route = format!("udp:{} => bank", self.path.address().unwrap()).parse().unwrap();
        let peer = Peer::Identity(self.bank.identifier());
        self.client.open_channel(&self.alice, route, peer).await.unwrap()
    }

    fn echo(&self, channel: &Channel) -> NodeRoute {
        self.client.route_along(channel.route_to("echo").unwrap())
    }

    fn count(&self, of: impl Fn(&DatagramCounters) -> &AtomicU64) -> u64 {
        of(self.service.datagrams()).load(Ordering::Relaxed)
    }
}

/// Asks until an answer comes; what is lost is asked again.
async fn ask(route: &NodeRoute, size: usize) -> u32 {
    let body = Raw((0..size).map(|at| (at * 7 + size) as u8).collect::<Vec<_>>().into());
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        match route.ask_within::<_, Raw>(&body, Duration::from_millis(150)).await {
            Ok(answer) => {
                assert!(answer == body);
                return tries;
            }
            Err(error) => assert!(began.elapsed() < DEADLINE, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hybrid_channel_comes_up_and_lives_on_a_path_that_loses_repeats_and_reorders() {
    let pair = Pair::start(Limits::default()).await;
    pair.path.set_faults(PathFaults { loss: 30, duplication: 20, reordering: 20 });
    let route = format!("udp:{} => bank", pair.path.address().unwrap());
    let began = Instant::now();
    // A handshake of 2.3 KiB in pieces has its 30 s; on such a path that may be too short once.
    let channel = loop {
        let peer = Peer::Identity(pair.bank.identifier());
        match pair.client.open_channel(&pair.alice, route.parse().unwrap(), peer).await {
            Ok(channel) => break channel,
            Err(error) => assert!(began.elapsed() < 2 * DEADLINE, "{error}"),
        }
    };
    let echo = pair.echo(&channel);
    let mut tries = 0;
    for size in [0, 64, 1000, 1200, 2400] {
        tries += ask(&echo, size).await;
    }
    assert!(tries > 5 && pair.path.lost() > 5, "{tries} tries, {} lost", pair.path.lost());
    assert_eq!(pair.client.channels(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_outlives_a_silence_longer_than_its_keepalive() {
    let pair = Pair::start(quick()).await;
    let channel = pair.channel().await;
    let echo = pair.echo(&channel);
    ask(&echo, 64).await;
    pair.path.cut(true);
    // Longer than the channel's keepalive, and than it takes to give the peer up.
    let lost = echo.ask_within::<_, Raw>(&Raw("lost".into()), Duration::from_secs(4)).await;
    assert!(lost.is_err(), "{lost:?}");
    pair.path.cut(false);
    ask(&echo, 64).await;
    assert_eq!((pair.client.channels(), pair.service.channels()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_goes_on_when_the_port_of_its_peer_changes() {
    let pair = Pair::start(Limits::default()).await;
    let channel = pair.channel().await;
    let echo = pair.echo(&channel);
    ask(&echo, 64).await;
    let challenges = pair.count(|counters| &counters.challenges);
    for change in 1..=20 {
        pair.path.rebind().unwrap();
        ask(&echo, 2000).await;
        assert_eq!(pair.count(|counters| &counters.moves), change);
    }
    assert_eq!(pair.count(|counters| &counters.challenges), challenges, "no handshake of UDP");
    assert_eq!((pair.client.channels(), pair.service.channels()), (1, 1), "and none of a channel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_goes_on_after_a_hundred_thousand_records_were_lost() {
    let pair = Pair::start(Limits::default()).await;
    let channel = pair.channel().await;
    let echo = pair.echo(&channel);
    ask(&echo, 64).await;
    let before = pair.path.lost();
    pair.path.lose(100_000);
    let losing = async {
        while pair.path.lost() < before + 100_000 {
            for _ in 0..100 {
                echo.send(&Raw("lost".into())).await.unwrap();
            }
        }
    };
    tokio::time::timeout(2 * DEADLINE, losing).await.unwrap();
    ask(&echo, 64).await;
    assert_eq!((pair.client.channels(), pair.service.channels()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_datagrams_carry_is_too_big_and_a_channel_cuts_it_into_records() {
    let pair = Pair::start(Limits::default()).await;
    let endpoint = format!("udp:{}", pair.path.address().unwrap());
    let plain = pair.client.route(&format!("{endpoint} => echo")).unwrap();
    ask(&plain, 64).await;
    let fits = UdpTransport::MESSAGE_BYTES_MAX - 3 * 1024;
    ask(&plain, fits).await;
    for size in [UdpTransport::MESSAGE_BYTES_MAX, 1 << 20] {
        let refused = plain.ask::<_, Raw>(&Raw(vec![0; size].into())).await;
        let code = match &refused {
            Err(AskError::NotSent(error)) => Some(error.code()),
            Err(AskError::Reported { code, .. }) => Some(*code),
            _ => None,
        };
        assert_eq!(code, Some(ErrorCode::TooBig), "{refused:?}");
    }
    // Every record fits in what datagrams carry, however large the message is.
    let echo = pair.echo(&pair.channel().await);
    for size in [fits, 18_700, 18_800, 18_900, 19_000, 60_000] {
        ask(&echo, size).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_answers_what_was_asked_and_frees_the_port() {
    let pair = Pair::start(Limits::default()).await;
    let connection = pair.client.connect_udp(pair.at.local_address()).await.unwrap();
    let echo = connection.route_to("echo").unwrap();
    assert_eq!(ask(&echo, 100).await, 1);
    assert_eq!(pair.service.listeners().len(), 1);
    let asks: Vec<_> = (0..20_u8)
        .map(|number| {
            let echo = echo.clone();
            tokio::spawn(async move { echo.ask::<_, Raw>(&Raw(vec![number].into())).await })
        })
        .collect();
    let handled = || pair.service.router().counters().forwarded.load(Ordering::Relaxed) >= 21;
    while !handled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pair.service.shutdown(Duration::from_secs(5)).await;
    for (number, asking) in asks.into_iter().enumerate() {
        assert_eq!(asking.await.unwrap().unwrap().0[..], [number as u8]);
    }
    std::net::UdpSocket::bind(pair.at.local_address()).unwrap();
    pair.client.shutdown(Duration::from_secs(1)).await;
}
