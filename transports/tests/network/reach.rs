//! Who reaches whom over TCP. Specification: docs/protocol.md §1.3, negative tests N1.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onward_routing::{Address, ErrorCode, Message};
use onward_transports::{StreamLimits, Streams, TcpOptions, TcpTransport};
use onward_workers::{Hop, SendError};
use tokio::net::TcpListener;

use crate::{Server, Wire, name, no_route, route, router, start_counter, transport, until};

#[tokio::test]
async fn n1_2_a_worker_that_is_not_exposed_is_not_reached_even_behind_a_hop() {
    let server = Server::start(StreamLimits::default());
    let admin = start_counter(&server.router, &name("admin"));
    server.router.add_step(&name("hop"), Arc::new(Hop)).unwrap();
    server.expose(&name("hop"));
    let mut peer = Wire::connect(&server).await;
    peer.send(&route([&name("admin")]), &no_route(), b"x").await;
    peer.send(&route([&name("hop"), &name("admin")]), &no_route(), b"x").await;
    peer.settle().await;
    assert_eq!((server.denied(), admin.load(Ordering::SeqCst)), (2, 0));

    server.expose(&name("admin"));
    peer.send(&route([&name("hop"), &name("admin")]), &no_route(), b"x").await;
    until("the exposed worker is reached", || admin.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn n1_3_an_answer_goes_to_the_wire_whatever_the_peer_wrote_as_return_route() {
    let server = Server::start(StreamLimits::default());
    let admin = start_counter(&server.router, &name("admin"));
    let mut peer = Wire::connect(&server).await;
    peer.send(&route([&name("echo")]), &route([&name("admin")]), b"boo").await;
    let answer = peer.receive().await;
    assert_eq!((answer.onward().first(), answer.payload()), (Some(name("admin").as_ref()), &b"boo"[..]));
    assert_eq!(admin.load(Ordering::SeqCst), 0);
}

/// A server that dials, and a peer that has asked it to dial a socket of this machine.
async fn asked_to_dial(rule: Option<&str>) -> (Server, std::net::TcpListener) {
    let victim = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    victim.set_nonblocking(true).unwrap();
    let limits = StreamLimits { connect: Duration::from_millis(100), ..StreamLimits::default() };
    let server = Server::start(limits.clone());
    server.router.set_dialer(TcpTransport::new(Streams::new(limits), TcpOptions::default()));
    if let Some(rule) = rule {
        server.router.reach_mut().allow_dial(server.listener.flow(), rule.parse().unwrap());
    }
    let endpoint: Address = format!("tcp:{}", victim.local_addr().unwrap()).parse().unwrap();
    let mut peer = Wire::connect(&server).await;
    peer.send(&route([&endpoint, &name("x")]), &no_route(), b"x").await;
    peer.settle().await;
    (server, victim)
}

#[tokio::test]
async fn n1_4_an_endpoint_named_by_a_peer_is_not_dialled() {
    let (server, victim) = asked_to_dial(None).await;
    assert_eq!(server.denied(), 1);
    assert!(victim.accept().is_err());

    // A rule for any host covers no private address: the name is looked up, the address refused.
    let (server, victim) = asked_to_dial(Some("tcp:*:*")).await;
    let undeliverable = || server.router.counters().undeliverable.load(Ordering::Relaxed);
    until("the message is refused", || undeliverable() == 1).await;
    assert!(victim.accept().is_err());

    // The rule that names the host itself does.
    let (_server, victim) = asked_to_dial(Some("tcp:127.0.0.1:*")).await;
    until("the named host is dialled", || victim.accept().is_ok()).await;
}

#[tokio::test]
async fn n1_6_a_grant_serves_its_flow_alone_and_never_the_name() {
    let node = router();
    let got = start_counter(&node, &name("worker"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    let tcp = transport();
    let one = tcp.connect(&node, &endpoint).unwrap();
    let mut peer = Wire::accept(&listener).await;
    let other = tcp.connect(&node, &endpoint).unwrap();
    let mut stranger = Wire::accept(&listener).await;
    one.connected().await.unwrap();
    other.connected().await.unwrap();

    let from_worker =
        |to: &Address| Message::new(route([to, &name("x")]).as_ref(), route([&name("worker")]).as_ref(), b"");
    node.send(from_worker(one.address())).await.unwrap();
    let grant = peer.receive().await.ret().to_owned();
    assert!(grant.iter().all(|address| address.random_id().is_some()), "no name leaves: {grant:?}");
    peer.send(&grant, &no_route(), b"granted").await;
    until("the grant is used", || got.load(Ordering::SeqCst) == 1).await;

    let denied = || node.counters().denied.load(Ordering::Relaxed);
    peer.send(&route([&name("worker")]), &no_route(), b"by name").await;
    until("the name is denied", || denied() == 1).await;
    stranger.send(&grant, &no_route(), b"other flow").await;
    until("the other flow is denied", || denied() == 2).await;
    node.remove(&name("worker"));
    peer.send(&grant, &no_route(), b"the worker stopped").await;
    until("the revoked grant is denied", || denied() == 3).await;
    assert_eq!(got.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn n1_6_an_asks_address_is_used_up_by_its_first_answer() {
    let node = router();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    let connection = transport().connect(&node, &endpoint).unwrap();
    let mut peer = Wire::accept(&listener).await;
    let to = route([connection.address(), &name("x")]);
    let asking = tokio::spawn({
        let node = Arc::clone(&node);
        async move { crate::ask(&node, &to, b"?").await }
    });
    let ret = peer.receive().await.ret().to_owned();
    peer.send(&ret, &no_route(), b"first").await;
    peer.send(&ret, &no_route(), b"second").await;
    assert_eq!(asking.await.unwrap().unwrap(), &b"first"[..]);
    until("the second answer is denied", || node.counters().denied.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn n1_6_a_secure_only_worker_sends_nothing_on_a_transport_flow() {
    let server = Server::start(StreamLimits::default());
    let node = router();
    let connection = transport().connect(&node, &server.endpoint()).unwrap();
    connection.connected().await.unwrap();
    node.reach_mut().secure_only(&name("careful")).unwrap();
    let message = Message::new(
        route([connection.address(), &name("echo")]).as_ref(),
        route([&name("careful")]).as_ref(),
        b"",
    );
    let refused = node.send(message).await.unwrap_err();
    assert!(matches!(refused, SendError::Refused { code: ErrorCode::Refused, .. }), "{refused:?}");
}

#[tokio::test]
async fn n1_7_a_peer_does_not_reach_another_peers_connection() {
    let server = Server::start(StreamLimits::default());
    let third = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Address = format!("tcp:{}", third.local_addr().unwrap()).parse().unwrap();
    let connection = transport().connect(&server.router, &endpoint).unwrap();
    let mut other = Wire::accept(&third).await;
    connection.connected().await.unwrap();
    let mut peer = Wire::connect(&server).await;
    peer.send(&route([connection.address(), &name("x")]), &no_route(), b"through").await;
    peer.settle().await;
    assert_eq!(server.denied(), 1);
    // The first thing the other peer receives is what the node itself sends.
    let own = route([connection.address(), &name("x")]);
    server.router.send(Message::new(own.as_ref(), no_route().as_ref(), b"own")).await.unwrap();
    assert_eq!(other.receive().await.payload(), b"own");
}

#[tokio::test]
async fn n1_8_a_payload_one_byte_above_the_limit_is_dropped_and_the_next_message_is_not() {
    let server = Server::start(StreamLimits::default());
    let sink = start_counter(&server.router, &name("sink"));
    server.expose(&name("sink"));
    let mut peer = Wire::connect(&server).await;
    peer.send(&route([&name("sink")]), &no_route(), &vec![0; (1 << 20) + 1]).await;
    peer.settle().await;
    assert_eq!(sink.load(Ordering::SeqCst), 0);
    peer.send(&route([&name("sink")]), &no_route(), &vec![0; 1 << 20]).await;
    until("a payload of the limit arrives", || sink.load(Ordering::SeqCst) == 1).await;
}
