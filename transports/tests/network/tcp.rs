//! What a TCP connection carries, and what it does when a side is slow or there are too many.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use onward_transports::StreamLimits;
use onward_workers::{Echo, FnWorker, NoReply, Raw, start};
use tokio::sync::Semaphore;

use crate::{DEADLINE, Server, Wire, ask, name, no_route, route, router, transport, until};

#[tokio::test]
async fn a_thousand_messages_arrive_in_order() {
    let server = Server::start(StreamLimits::default());
    let got = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&got);
    let worker = FnWorker::new(move |number: u32| {
        log.lock().unwrap().push(number);
        async { Ok(NoReply) }
    });
    start(&server.router, &name("log"), worker).unwrap();
    server.expose(&name("log"));
    let client = router();
    let connection = transport().connect(&client, &server.endpoint()).unwrap();
    // The first ones are held until there is a connection, which changes no order.
    let to = route([connection.address(), &name("log")]);
    for number in 0..1000_u32 {
        client.tell(&to, &number).await.unwrap();
    }
    until("all have arrived", || got.lock().unwrap().len() == 1000).await;
    assert_eq!(*got.lock().unwrap(), (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn bodies_of_all_sizes_come_back_as_they_were() {
    let server = Server::start(StreamLimits::default());
    let client = router();
    let connection = transport().connect(&client, &server.endpoint()).unwrap();
    let to = route([connection.address(), &name("echo")]);
    let sizes = [0, 1, 4096, 4097, 16_384, 16_385, 65_536, 300_000, 1 << 20];
    let asks = sizes.map(|size| {
        let (client, to) = (Arc::clone(&client), to.clone());
        tokio::spawn(async move {
            let body: Vec<u8> = (0..size).map(|at| (at * 31 + size) as u8).collect();
            assert_eq!(ask(&client, &to, &body).await.unwrap(), body, "{size}");
        })
    });
    for ask in asks {
        ask.await.unwrap();
    }
    let long = client.ask::<Raw, Raw>(&to, &Raw(Bytes::from(vec![0; (1 << 20) + 1])), DEADLINE).await;
    assert!(long.is_err(), "a payload above the limit does not leave");
}

#[tokio::test]
async fn a_slow_worker_does_not_hold_up_another_route_of_its_connection() {
    let server = Server::start(StreamLimits::default());
    let gate = Arc::new(Semaphore::new(0));
    let handled = Arc::new(AtomicUsize::new(0));
    let (waits, counts) = (Arc::clone(&gate), Arc::clone(&handled));
    let slow = FnWorker::new(move |_: Raw| {
        let (gate, handled) = (Arc::clone(&waits), Arc::clone(&counts));
        async move {
            gate.acquire().await.unwrap().forget();
            handled.fetch_add(1, Ordering::SeqCst);
            Ok(NoReply)
        }
    });
    start(&server.router, &name("slow"), slow).unwrap();
    server.expose(&name("slow"));
    let mut peer = Wire::connect(&server).await;
    // The mailbox and the lane hold 256 KiB each; the rest is refused as overloaded.
    let count = 2 * 256 + 100;
    for _ in 0..count {
        peer.send(&route([&name("slow")]), &no_route(), &[0; 1024]).await;
    }
    peer.settle().await;
    let refused = server.router.counters().undeliverable.load(Ordering::Relaxed) as usize;
    assert!((1..count).contains(&refused), "{refused} refused");
    gate.add_permits(count);
    until("what was accepted is handled", || handled.load(Ordering::SeqCst) == count - refused).await;
}

#[tokio::test]
async fn a_peer_that_takes_no_answers_is_refused_and_holds_nobody_up() {
    let server = Server::start(StreamLimits::default());
    start(&server.router, &name("other"), Echo).unwrap();
    server.expose(&name("other"));
    let mut deaf = Wire::connect(&server).await;
    // The answers that nobody reads fill the socket, the send queue, the mailbox and the lane.
    let refused = || server.router.counters().undeliverable.load(Ordering::Relaxed);
    let flooding = async {
        while refused() == 0 {
            deaf.send(&route([&name("echo")]), &route([&name("me")]), &[0; 4096]).await;
        }
    };
    tokio::time::timeout(DEADLINE, flooding).await.unwrap();
    let mut peer = Wire::connect(&server).await;
    peer.send(&route([&name("other")]), &route([&name("me")]), b"!").await;
    assert_eq!(peer.receive().await.payload(), b"!");
}

#[tokio::test]
async fn connections_of_one_address_and_in_all_are_bounded() {
    let server = Server::start(StreamLimits { connections_per_ip: 2, ..StreamLimits::default() });
    let (mut one, _two) = (Wire::connect(&server).await, Wire::connect(&server).await);
    let third = tokio::net::TcpStream::connect(server.listener.local_address()).await.unwrap();
    Wire(third).closed().await;
    one.settle().await;
    // A place that gets free is given to the next.
    drop(one);
    let retrying = async {
        loop {
            let stream = tokio::net::TcpStream::connect(server.listener.local_address()).await.unwrap();
            let mut theirs = [0; 8];
            if tokio::io::AsyncReadExt::read_exact(&mut { stream }, &mut theirs).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, retrying).await.unwrap();

    let server = Server::start(StreamLimits { connections: 1, ..StreamLimits::default() });
    let mut one = Wire::connect(&server).await;
    one.settle().await;
    let waiting = Wire::connect(&server);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "accepting pauses");
    drop(one);
    waiting.await.settle().await;
}

#[tokio::test]
async fn closing_a_listener_sends_what_is_queued_and_ends_all_connections() {
    let server = Server::start(StreamLimits::default());
    let mut peer = Wire::connect(&server).await;
    peer.settle().await;
    for _ in 0..50 {
        peer.send(&route([&name("echo")]), &route([&name("me")]), &[1; 1000]).await;
    }
    until("all are handled", || server.router.counters().forwarded.load(Ordering::Relaxed) == 51).await;
    let reading = tokio::spawn(async move {
        for _ in 0..50 {
            assert_eq!(peer.receive().await.payload().len(), 1000);
        }
        peer.closed().await;
    });
    server.listener.close(DEADLINE).await;
    reading.await.unwrap();
    assert!(tokio::net::TcpStream::connect(server.listener.local_address()).await.is_err());
}
