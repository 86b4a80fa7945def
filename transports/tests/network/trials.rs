//! Measured claims about adjacent nodes: loops over the wire, and what bouncing multiplies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onward_routing::{Address, Message, Route};
use onward_transports::StreamLimits;
use onward_trials::{Row, size};
use onward_workers::Relay;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Server, Wire, frame, name, no_route, route, transport, until};

/// Two nodes whose messages for each other pass wires that count the bytes of frames.
struct Neighbours {
    one: Server,
    other: Server,
    to_one: Address,
    to_other: Address,
    carried: Arc<AtomicU64>,
}

impl Neighbours {
    /// With `transit`, a peer of either node may have the other dialled.
    async fn start(transit: bool) -> Self {
        let carried = Arc::new(AtomicU64::new(0));
        let [one, other] = [(), ()].map(|()| Server::start(StreamLimits::default()));
        let to_one = wire(&one, &carried).await;
        let to_other = wire(&other, &carried).await;
        for (server, to) in [(&one, &to_other), (&other, &to_one)] {
            server.router.set_dialer(transport());
            if transit {
                let rule = to.to_string().parse().unwrap();
                server.router.reach_mut().allow_dial(server.listener.flow(), rule);
            }
        }
        Self { one, other, to_one, to_other, carried }
    }

    fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    fn undeliverable(&self) -> u64 {
        let count = |server: &Server| server.router.counters().undeliverable.load(Ordering::Relaxed);
        count(&self.one) + count(&self.other)
    }
}

/// Passes bytes on to a server and counts those of frames in that direction.
async fn wire(server: &Server, carried: &Arc<AtomicU64>) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    let (to, carried) = (server.listener.local_address().to_owned(), Arc::clone(carried));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(&to).await.unwrap();
            let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
                (near.into_split(), far.into_split());
            let carried = Arc::clone(&carried);
            tokio::spawn(async move {
                let (mut bytes, mut preface) = ([0; 65_536], 8);
                while let Ok(length @ 1..) = from_near.read(&mut bytes).await {
                    carried.fetch_add(length.saturating_sub(preface) as u64, Ordering::Relaxed);
                    preface = preface.saturating_sub(length);
                    if to_far.write_all(&bytes[..length]).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
        }
    });
    at
}

#[tokio::test]
async fn a20_a_loop_over_the_wire_ends_and_leaves_the_wire_idle() {
    let count = size(2_000, 10_000) as u64;
    let nodes = Neighbours::start(true).await;
    // Each node's relay leads to the other's: a message that enters one goes round and round.
    for (server, to) in [(&nodes.one, &nodes.to_other), (&nodes.other, &nodes.to_one)] {
        let relay = Relay::new(route([to, &name("round")]));
        server.router.add_step(&name("round"), Arc::new(relay)).unwrap();
        server.expose(&name("round"));
    }
    let mut peer = Wire::connect(&nodes.one).await;
    for _ in 0..count {
        peer.send(&route([&name("round")]), &no_route(), b"x").await;
    }
    until("all have ended", || nodes.undeliverable() >= count).await;
    let forwards = |server: &Server| server.router.counters().forwarded.load(Ordering::Relaxed);
    let row = Row::new("A20");
    row.at_most(
        "forwards over the wire for each looping message",
        (forwards(&nodes.one) + forwards(&nodes.other)) / count,
        32,
    );
    row.exactly("messages over the wire that did not end once", nodes.undeliverable() - count, 0);
    let before = nodes.carried();
    tokio::time::sleep(Duration::from_millis(500)).await;
    row.exactly("bytes carried afterwards", nodes.carried() - before, 0);
}

#[tokio::test]
async fn a21_a_message_is_multiplied_by_its_hops_and_not_at_all_without_transit() {
    let row = Row::new("A21");
    let count = size(50, 1_000) as u64;
    for (transit, payload, figure, most) in [
        (true, 4_096, "bytes carried / injected, 4 KiB, transit on", 16.0),
        (false, 4_096, "bytes carried / injected, transit off", 1.0),
    ] {
        let nodes = Neighbours::start(transit).await;
        // To and fro as often as a route can say, and then to nobody.
        let mut bouncing = Route::empty();
        for step in 0..15 {
            bouncing.push(if step % 2 == 0 { &nodes.to_other } else { &nodes.to_one }).unwrap();
        }
        bouncing.push(&name("nobody")).unwrap();
        let mut peer = Wire::connect(&nodes.one).await;
        let message = Message::new(bouncing.as_ref(), no_route().as_ref(), &vec![0; payload]);
        let injected = frame(&message).len() as u64 * count;
        for _ in 0..count {
            peer.send(&bouncing, &no_route(), &vec![0; payload]).await;
        }
        until("all have ended", || nodes.undeliverable() >= count).await;
        row.at_most(figure, nodes.carried() as f64 / injected as f64, most);
    }
}
