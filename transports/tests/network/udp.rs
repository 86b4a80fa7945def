//! What UDP carries over real sockets, and what it does when the network or a side does not.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use onward_routing::{Address, ErrorCode};
use onward_transports::{
    BoundListener, Connection, DatagramCounters, DatagramLimits, TransportError, UdpTransport,
};
use onward_trials::{PathFaults, UdpPath};
use onward_workers::{AskError, Echo, FnWorker, NoReply, Raw, Router, start};

use crate::{DEADLINE, ask, name, route, router, start_counter, until};

/// A node with an echo worker exposed on its UDP listener.
pub(crate) struct Server {
    pub(crate) router: Arc<Router>,
    pub(crate) udp: Arc<UdpTransport>,
    pub(crate) listener: BoundListener,
}

impl Server {
    pub(crate) fn start(limits: DatagramLimits) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), limits)
    }

    fn start_at(at: SocketAddr, limits: DatagramLimits) -> Self {
        let (router, udp) = (router(), UdpTransport::new(limits));
        let listener = udp.listen(&router, at).unwrap();
        start(&router, &name("echo"), Echo).unwrap();
        let server = Self { router, udp, listener };
        server.expose(&name("echo"));
        server
    }

    pub(crate) fn expose(&self, worker: &Address) {
        self.router.reach_mut().expose(self.listener.flow(), worker).unwrap();
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.listener.local_address().parse().unwrap()
    }

    pub(crate) fn count(&self, of: impl Fn(&DatagramCounters) -> &AtomicU64) -> u64 {
        of(self.udp.counters()).load(Ordering::Relaxed)
    }
}

pub(crate) fn endpoint(at: SocketAddr) -> Address {
    format!("udp:{at}").parse().unwrap()
}

/// A node, its transport and a connection to `at`.
fn client(at: SocketAddr, limits: DatagramLimits) -> (Arc<Router>, Arc<UdpTransport>, Connection) {
    let (node, udp) = (router(), UdpTransport::new(limits));
    let connection = udp.connect(&node, &endpoint(at)).unwrap();
    (node, udp, connection)
}

/// Limits under which what is silent is noticed sooner.
fn quick() -> DatagramLimits {
    DatagramLimits {
        keepalive: Duration::from_millis(300),
        probe: Duration::from_millis(100),
        connect: Duration::from_secs(1),
        reconnect_last: Duration::from_millis(500),
        ..DatagramLimits::default()
    }
}

#[tokio::test]
async fn a_thousand_messages_arrive_in_order() {
    let server = Server::start(DatagramLimits::default());
    let got = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&got);
    let worker = FnWorker::new(move |number: u32| {
        log.lock().unwrap().push(number);
        async { Ok(NoReply) }
    });
    start(&server.router, &name("log"), worker).unwrap();
    server.expose(&name("log"));
    let (node, _udp, connection) = client(server.at(), DatagramLimits::default());
    // The first ones are held until there is a peer, which changes no order.
    let to = route([connection.address(), &name("log")]);
    for number in 0..1000_u32 {
        node.tell(&to, &number).await.unwrap();
    }
    until("all have arrived", || got.lock().unwrap().len() == 1000).await;
    assert_eq!(*got.lock().unwrap(), (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn bodies_come_back_as_they_were_up_to_what_fits_and_larger_ones_are_too_big() {
    let server = Server::start(DatagramLimits::default());
    let (node, _udp, connection) = client(server.at(), DatagramLimits::default());
    let to = route([connection.address(), &name("echo")]);
    let header_max = 3 * 1024;
    for size in [0, 1, 1100, 1200, 4096, 4097, 15_000, UdpTransport::MESSAGE_BYTES_MAX - header_max, 18_700] {
        let body: Vec<u8> = (0..size).map(|at| (at * 31 + size) as u8).collect();
        assert_eq!(ask(&node, &to, &body).await.unwrap(), body, "{size}");
    }
    for size in [UdpTransport::MESSAGE_BYTES_MAX, 1 << 20] {
        let refused = node.ask::<Raw, Raw>(&to, &Raw(Bytes::from(vec![0; size])), DEADLINE).await;
        assert!(
            matches!(&refused, Err(AskError::NotSent(error)) if error.code() == ErrorCode::TooBig),
            "{refused:?}"
        );
    }
    assert_eq!(ask(&node, &to, b"and on").await.unwrap(), &b"and on"[..]);
}

#[tokio::test]
async fn an_endpoint_in_a_route_is_dialled_once_and_closed_when_idle() {
    let server = Server::start(DatagramLimits::default());
    let limits = DatagramLimits { dialled_idle: Duration::from_millis(300), ..DatagramLimits::default() };
    let (node, udp) = (router(), UdpTransport::new(limits));
    node.set_dialer(udp.clone());
    let endpoint = endpoint(server.at());
    let to = route([&endpoint, &name("echo")]);
    for _ in 0..3 {
        assert_eq!(ask(&node, &to, b"hi").await.unwrap(), &b"hi"[..]);
    }
    let live = || node.sink(endpoint.as_ref()).and_then(|step| step.as_sink().map(|sink| sink.flow()));
    let flow = live().unwrap();
    assert_eq!(live(), Some(flow), "the same connection");
    until("the idle connection is closed", || live() != Some(flow)).await;
    assert_eq!(ask(&node, &to, b"again").await.unwrap(), &b"again"[..]);
    udp.close(DEADLINE).await;
}

#[tokio::test]
async fn what_is_dialled_leaves_by_the_socket_that_listens() {
    let (one, other) = (Server::start(DatagramLimits::default()), UdpSocket::bind("127.0.0.1:0").unwrap());
    other.set_nonblocking(true).unwrap();
    let connection = one.udp.connect(&one.router, &endpoint(other.local_addr().unwrap())).unwrap();
    let from = std::cell::Cell::new(None);
    until("it asks", || {
        let received = other.recv_from(&mut [0; 2000]).ok();
        from.set(received.map(|(_, from)| from));
        received.is_some()
    })
    .await;
    assert_eq!(from.get(), Some(one.at()));
    connection.close(Duration::ZERO).await;
    // A node reaches itself, too.
    let connection = one.udp.connect(&one.router, &endpoint(one.at())).unwrap();
    let to = route([connection.address(), &name("echo")]);
    assert_eq!(ask(&one.router, &to, b"self").await.unwrap(), &b"self"[..]);
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_to_be_unreachable() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let limits = DatagramLimits { connect: Duration::from_millis(300), ..DatagramLimits::default() };
    let (node, _udp, connection) = client(silent.local_addr().unwrap(), limits);
    let to = route([connection.address(), &name("x")]);
    let held = ask(&node, &to, b"held").await;
    assert!(matches!(held, Err(AskError::Reported { code: ErrorCode::Unreachable, .. })), "{held:?}");
    assert!(matches!(connection.connected().await, Err(TransportError::Unreachable { .. })));
    let late = ask(&node, &to, b"late").await;
    assert!(matches!(late, Err(AskError::NotSent(error)) if error.code() == ErrorCode::Unreachable));
}

#[tokio::test]
async fn a_listener_that_restarted_is_found_again_at_the_same_address() {
    let server = Server::start(quick());
    let at = server.at();
    let (node, _udp, connection) = client(at, quick());
    let to = route([connection.address(), &name("echo")]);
    assert_eq!(ask(&node, &to, b"one").await.unwrap(), &b"one"[..]);
    // It goes without a word: the port is free as soon as its task is over.
    let Server { udp, listener, .. } = server;
    drop(listener);
    udp.close(DEADLINE).await;
    let silent = UdpSocket::bind(at).unwrap();
    let lost = ask(&node, &to, b"lost").await;
    assert!(matches!(lost, Err(AskError::ConnectionLost | AskError::Reported { .. })), "{lost:?}");
    drop(silent);
    let _server = Server::start_at(at, quick());
    let again = async {
        while ask(&node, &to, b"again").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn a_client_whose_port_changes_keeps_its_peer() {
    let server = Server::start(DatagramLimits::default());
    let path = UdpPath::new(server.at(), 1).unwrap();
    let (node, _udp, connection) = client(path.address().unwrap(), DatagramLimits::default());
    let to = route([connection.address(), &name("echo")]);
    for change in 0..10 {
        // The answer to what comes first from a new port goes to the old one, and is lost.
        let asking = async {
            while node.ask::<Raw, Raw>(&to, &Raw(Bytes::from("?")), Duration::from_millis(200)).await.is_err()
            {
            }
        };
        tokio::time::timeout(DEADLINE, asking).await.unwrap();
        assert_eq!(server.count(|counters| &counters.moves), change);
        path.rebind().unwrap();
    }
    let challenges = server.count(|counters| &counters.challenges);
    assert!(challenges <= 2, "{challenges}: there was one handshake, with one repetition at most");
}

#[tokio::test]
async fn a_silence_longer_than_a_keepalive_ends_no_connection() {
    let server = Server::start(quick());
    let path = UdpPath::new(server.at(), 1).unwrap();
    let (node, _udp, connection) = client(path.address().unwrap(), quick());
    let to = route([connection.address(), &name("echo")]);
    let flow = connection.flow();
    assert_eq!(ask(&node, &to, b"one").await.unwrap(), &b"one"[..]);
    path.cut(true);
    // Longer than it takes to give the peer up.
    let lost = ask(&node, &to, b"lost").await;
    assert!(lost.is_err(), "{lost:?}");
    path.cut(false);
    let again = async {
        while ask(&node, &to, b"again").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
    assert_eq!(connection.flow(), flow);
    assert_eq!(server.count(|counters| &counters.refused_peers), 0);
}

#[tokio::test]
async fn asks_get_through_a_network_that_loses_repeats_and_reorders() {
    let server = Server::start(DatagramLimits::default());
    let path = UdpPath::new(server.at(), 5).unwrap();
    path.set_faults(PathFaults { loss: 30, duplication: 20, reordering: 20 });
    let (node, _udp, connection) = client(path.address().unwrap(), DatagramLimits::default());
    let to = route([connection.address(), &name("echo")]);
    let (mut answered, mut tries) = (0, 0);
    let asking = async {
        while answered < 30 {
            let body = Bytes::from(vec![answered as u8; 100 + 50 * answered]);
            let answer = node.ask::<Raw, Raw>(&to, &Raw(body.clone()), Duration::from_millis(50)).await;
            tries += 1;
            if let Ok(answer) = answer {
                assert_eq!(answer.0, body);
                answered += 1;
            }
        }
    };
    tokio::time::timeout(2 * DEADLINE, asking).await.unwrap();
    assert!(tries > 40 && path.lost() > 20, "{tries} tries, {} lost", path.lost());
}

#[tokio::test]
async fn a_worker_that_takes_nothing_costs_its_messages_and_holds_nobody_up() {
    let server = Server::start(DatagramLimits::default());
    let stuck = FnWorker::new(|_: Raw| async {
        std::future::pending::<()>().await;
        Ok(NoReply)
    });
    start(&server.router, &name("stuck"), stuck).unwrap();
    server.expose(&name("stuck"));
    let (node, _udp, connection) = client(server.at(), DatagramLimits::default());
    connection.connected().await.unwrap();
    let to = route([connection.address(), &name("stuck")]);
    let overflowed = || server.count(|counters| &counters.overflowed);
    let flooding = async {
        while overflowed() == 0 {
            node.tell(&to, &Raw(Bytes::from(vec![0; 1000]))).await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, flooding).await.unwrap();
    let echo = route([connection.address(), &name("echo")]);
    assert_eq!(ask(&node, &echo, b"!").await.unwrap(), &b"!"[..]);
}

#[tokio::test]
async fn closing_a_listener_sends_what_is_queued_frees_its_port_and_says_so() {
    let server = Server::start(DatagramLimits::default());
    let at = server.at();
    let limits = DatagramLimits { connect: Duration::from_secs(1), ..DatagramLimits::default() };
    let (node, _udp, connection) = client(at, limits);
    let to = route([connection.address(), &name("echo")]);
    let asks: Vec<_> = (0..50_u8)
        .map(|number| {
            let (node, to) = (Arc::clone(&node), to.clone());
            tokio::spawn(async move { ask(&node, &to, &[number; 1000]).await.map(|answer| answer[0]) })
        })
        .collect();
    until("all are handled", || server.router.counters().forwarded.load(Ordering::Relaxed) == 50).await;
    server.listener.close(DEADLINE).await;
    for (number, asking) in asks.into_iter().enumerate() {
        assert_eq!(asking.await.unwrap().unwrap(), number as u8);
    }
    let _again = UdpSocket::bind(at).unwrap();
    // The peer believes the CLOSE after a while, and nothing else comes.
    let late = ask(&node, &to, b"late").await;
    assert!(late.is_err(), "{late:?}");
}

#[tokio::test]
async fn n1_4_an_endpoint_named_by_a_peer_is_not_dialled() {
    for (rule, is_dialled) in [(None, false), (Some("udp:*:*"), false), (Some("udp:127.0.0.1:*"), true)] {
        let victim = UdpSocket::bind("127.0.0.1:0").unwrap();
        victim.set_nonblocking(true).unwrap();
        let limits = DatagramLimits { connect: Duration::from_millis(100), ..DatagramLimits::default() };
        let server = Server::start(limits);
        server.router.set_dialer(server.udp.clone());
        if let Some(rule) = rule {
            server.router.reach_mut().allow_dial(server.listener.flow(), rule.parse().unwrap());
        }
        let (node, _udp, connection) = client(server.at(), DatagramLimits::default());
        let endpoint = endpoint(victim.local_addr().unwrap());
        node.tell(&route([connection.address(), &endpoint, &name("x")]), &1_u32).await.unwrap();
        let undeliverable = || server.router.counters().undeliverable.load(Ordering::Relaxed);
        until("it is refused in the end", || undeliverable() == 1).await;
        assert_eq!(victim.recv(&mut [0; 2000]).is_ok(), is_dialled, "{rule:?}");
    }
}

#[tokio::test]
async fn strangers_and_nonsense_are_counted_and_answered_with_nothing() {
    let server = Server::start(DatagramLimits::default());
    let sink = start_counter(&server.router, &name("sink"));
    server.expose(&name("sink"));
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_nonblocking(true).unwrap();
    stranger.connect(server.at()).unwrap();
    stranger.send(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stranger.send(&[b"OW\x01\x04".as_slice(), &[7; 8], &[0, 0, 0, 1, 0, 1], b"message"].concat()).unwrap();
    let counts =
        || (server.count(|counters| &counters.malformed), server.count(|counters| &counters.unknown));
    until("both are counted", || counts() == (1, 1)).await;
    let (node, _udp, connection) = client(server.at(), DatagramLimits::default());
    assert_eq!(ask(&node, &route([connection.address(), &name("echo")]), b"!").await.unwrap(), &b"!"[..]);
    assert!(stranger.recv(&mut [0; 2000]).is_err(), "nothing came");
    assert_eq!(sink.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_listener_on_all_addresses_of_both_families_is_reached_by_each() {
    let Ok(probe) = UdpSocket::bind("[::1]:0") else { return };
    drop(probe);
    let server = Server::start_at("[::]:0".parse().unwrap(), DatagramLimits::default());
    let got = AtomicUsize::new(0);
    for ip in ["127.0.0.1", "127.0.0.2", "[::1]"] {
        let at = format!("{ip}:{}", server.at().port()).parse().unwrap();
        let (node, _udp, connection) = client(at, DatagramLimits::default());
        let to = route([connection.address(), &name("echo")]);
        // From 127.0.0.2 as well: what answers leaves by the address that was asked.
        assert_eq!(ask(&node, &to, &[7; 5000]).await.unwrap(), &[7; 5000][..], "{ip}");
        got.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(got.into_inner(), 3);
}
