//! Outgoing connections: there at once, back after a loss, honest about what cannot be reached.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onward_routing::{Address, ErrorCode, Message};
use onward_transports::{StreamLimits, Streams, TcpOptions, TcpTransport, TransportError};
use onward_workers::{AskError, Closed};
use tokio::net::TcpListener;

use crate::{DEADLINE, Server, Wire, ask, name, no_route, route, router, transport, until};

/// A port on which nobody listens: it was free a moment ago and is held without listening.
fn dead_end() -> (socket2::Socket, Address) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let local = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, format!("tcp:{local}").parse().unwrap())
}

#[tokio::test]
async fn a_connection_keeps_its_address_across_a_loss_which_fails_asks_at_once() {
    let node = router();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    let connection = transport().connect(&node, &endpoint).unwrap();
    let (address, flow) = (connection.address().clone(), connection.flow());
    let mut peer = Wire::accept(&listener).await;
    let to = route([&address, &name("x")]);
    let asking = tokio::spawn({
        let (node, to) = (Arc::clone(&node), to.clone());
        async move { ask(&node, &to, b"lost").await }
    });
    peer.receive().await;
    drop(peer);
    let lost = tokio::time::timeout(DEADLINE / 2, asking).await.unwrap().unwrap();
    assert!(matches!(lost, Err(AskError::ConnectionLost)), "{lost:?}");

    let asking = tokio::spawn({
        let node = Arc::clone(&node);
        async move { ask(&node, &to, b"again").await }
    });
    let mut peer = Wire::accept(&listener).await;
    let request = peer.receive().await;
    assert_eq!(request.payload(), b"again");
    peer.send(&request.ret().to_owned(), &no_route(), b"back").await;
    assert_eq!(asking.await.unwrap().unwrap(), &b"back"[..]);
    assert_eq!((connection.address(), connection.flow()), (&address, flow));
    connection.close(Duration::ZERO).await;
    assert!(connection.is_closed() && !node.has(&address));
    assert!(matches!(connection.connected().await, Err(TransportError::Closed)));
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_to_be_unreachable() {
    let (_held, endpoint) = dead_end();
    let limits = StreamLimits { connect: Duration::from_millis(300), ..StreamLimits::default() };
    let tcp = TcpTransport::new(Streams::new(limits), TcpOptions::default());
    let node = router();
    let connection = tcp.connect(&node, &endpoint).unwrap();
    let to = route([connection.address(), &name("x")]);
    let held = ask(&node, &to, b"held").await;
    assert!(matches!(held, Err(AskError::Reported { code: ErrorCode::Unreachable, .. })), "{held:?}");
    assert!(matches!(connection.connected().await, Err(TransportError::Unreachable { source: Some(_), .. })));
    let late = ask(&node, &to, b"late").await;
    assert!(matches!(late, Err(AskError::NotSent(error)) if error.code() == ErrorCode::Unreachable));
    let step = node.sink(connection.address().as_ref()).unwrap();
    let sink = step.as_sink().unwrap();
    assert!(sink.room().try_take(100));
    assert_eq!(sink.append(100, &mut |_| panic!("not called")), Err(Closed));
}

#[tokio::test]
async fn what_waited_for_a_connection_longer_than_its_time_to_live_does_not_leave() {
    let (socket, endpoint) = dead_end();
    let node = router();
    let connection = transport().connect(&node, &endpoint).unwrap();
    let to = route([connection.address(), &name("x")]);
    for (payload, ttl_ms) in [(b"late", Some(1)), (b"kept", Some(3_600_000)), (b"last", None)] {
        let mut message = Message::new(to.as_ref(), no_route().as_ref(), payload);
        if let Some(ttl_ms) = ttl_ms {
            message.set_ttl_ms(ttl_ms);
        }
        node.send(message).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    socket.listen(1).unwrap();
    socket.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(socket.into()).unwrap();
    let mut peer = Wire::accept(&listener).await;
    let kept = peer.receive().await;
    assert_eq!((kept.payload(), kept.ttl_ms()), (&b"kept"[..], Some(3_600_000)), "the hint as it came");
    assert_eq!(peer.receive().await.payload(), b"last");
    assert_eq!(node.counters().undeliverable.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_peer_of_another_protocol_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    let other = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n").await;
        }
    });
    let limits = StreamLimits { connect: Duration::from_millis(300), ..StreamLimits::default() };
    let tcp = TcpTransport::new(Streams::new(limits), TcpOptions::default());
    let node = router();
    let connection = tcp.connect(&node, &endpoint).unwrap();
    assert!(matches!(connection.connected().await, Err(TransportError::Unreachable { .. })));
    other.abort();
}

#[tokio::test]
async fn an_endpoint_in_a_route_is_dialled_once_and_closed_when_idle() {
    let server = Server::start(StreamLimits::default());
    let limits = StreamLimits { dialled_idle: Duration::from_millis(300), ..StreamLimits::default() };
    let tcp = TcpTransport::new(Streams::new(limits), TcpOptions::default());
    let node = router();
    node.set_dialer(tcp.clone());
    let endpoint = server.endpoint();
    let to = route([&endpoint, &name("echo")]);
    for _ in 0..3 {
        assert_eq!(ask(&node, &to, b"hi").await.unwrap(), &b"hi"[..]);
    }
    let live = || node.sink(endpoint.as_ref()).and_then(|step| step.as_sink().map(|sink| sink.flow()));
    let flow = live().unwrap();
    assert_eq!(live(), Some(flow), "the same connection");
    // Looking for the sink is no traffic; one that ended is replaced by a fresh one.
    until("the idle connection is closed", || live() != Some(flow)).await;
    assert_eq!(ask(&node, &to, b"again").await.unwrap(), &b"again"[..]);
    tcp.close(DEADLINE).await;
}

#[tokio::test]
async fn records_are_written_in_place_and_leave_in_order() {
    let node = router();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    let connection = transport().connect(&node, &endpoint).unwrap();
    let mut peer = Wire::accept(&listener).await;
    connection.connected().await.unwrap();
    let step = node.sink(connection.address().as_ref()).unwrap();
    let sink = step.as_sink().unwrap();
    assert_eq!(sink.flow(), connection.flow());
    let message = |payload: &[u8]| Message::new(route([&name("x")]).as_ref(), no_route().as_ref(), payload);
    let append = |payload: &[u8]| {
        let message = message(payload);
        let size = message.encoded_len() + 4;
        assert!(sink.room().try_take(size));
        sink.append(size, &mut |buffer| message.encode(buffer)).unwrap();
    };
    append(b"one");
    let body = vec![5; 60_000];
    append(&body);
    assert!(sink.room().try_take(300));
    assert_eq!(sink.append(300, &mut |_| {}), Err(Closed), "an empty frame would be a keepalive");
    append(b"three");
    for expected in [&b"one"[..], &body, b"three"] {
        assert_eq!(peer.receive().await.payload(), expected);
    }
    // All room has come back: one entry of everything fits.
    until("the room is free", || sink.room().try_take(256 * 1024)).await;
    assert_eq!(node.counters().undeliverable.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn closing_a_connection_sends_what_is_queued() {
    let node = router();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    let connection = transport().connect(&node, &endpoint).unwrap();
    let mut peer = Wire::accept(&listener).await;
    connection.connected().await.unwrap();
    let to = route([connection.address(), &name("x")]);
    for number in 0..100_u32 {
        node.tell(&to, &number).await.unwrap();
    }
    let closing = tokio::spawn(async move { connection.close(DEADLINE).await });
    for number in 0..100_u32 {
        assert_eq!(minicbor::decode::<u32>(peer.receive().await.payload()).unwrap(), number);
    }
    peer.closed().await;
    closing.await.unwrap();
}
