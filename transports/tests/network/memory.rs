//! Chains of nodes on the network in memory, under a clock turned by hand.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onward_routing::{Address, LinkFaults, Message};
use onward_transports::{Connection, MemoryNetwork};
use onward_workers::{AskError, Echo, Relay, Router, start};

use crate::{ask, name, no_route, route, router, start_counter};

const CLEAN: LinkFaults = LinkFaults {
    loss: 0,
    duplicate: 0,
    reorder: 0,
    corrupt: 0,
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    reorder_by: Duration::ZERO,
};

/// Turns the clock until the future is ready.
async fn drive<T>(network: &MemoryNetwork, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..100_000 {
        tokio::select! {
            biased;
            value = &mut future => return value,
            () = network.advance(Duration::from_millis(1)) => tokio::task::yield_now().await,
        }
    }
    panic!("the future is not ready after 100 s of network time");
}

async fn link(network: &MemoryNetwork, one: &Arc<Router>, other: &Arc<Router>) -> (Connection, Connection) {
    network.connect(one, other, CLEAN).await.unwrap()
}

fn add_relay(node: &Arc<Router>, at: &str, to: &[&Address], reachable_by: &Connection) {
    node.add_step(&name(at), Arc::new(Relay::new(route(to.iter().copied())))).unwrap();
    node.reach_mut().expose(reachable_by.flow(), &name(at)).unwrap();
}

fn expose_echo(node: &Arc<Router>, reachable_by: &Connection) {
    start(node, &name("echo"), Echo).unwrap();
    node.reach_mut().expose(reachable_by.flow(), &name("echo")).unwrap();
}

fn denied(node: &Router) -> u64 {
    node.counters().denied.load(Ordering::Relaxed)
}

#[tokio::test]
async fn n1_5_two_relays_that_point_at_each_other_stop_after_the_hops() {
    let network = MemoryNetwork::new(1);
    let (one, other) = (router(), router());
    let (to_other, to_one) = link(&network, &one, &other).await;
    add_relay(&one, "loop", &[to_other.address(), &name("loop")], &to_other);
    add_relay(&other, "loop", &[to_one.address(), &name("loop")], &to_one);
    one.send(Message::new(route([&name("loop")]).as_ref(), no_route().as_ref(), b"round")).await.unwrap();
    network.advance(Duration::from_secs(1)).await;
    let crossed = || [&one, &other].map(|node| node.counters().forwarded.load(Ordering::Relaxed));
    // Of 32 hops each round of one relay and one connection takes two; the last is for nobody.
    assert_eq!(crossed().iter().sum::<u64>(), 15);
    network.advance(Duration::from_secs(1)).await;
    assert_eq!(crossed().iter().sum::<u64>(), 15, "nothing goes round any more");
}

#[tokio::test]
async fn n1_9_an_ask_passes_one_relay_and_a_third_peer_cannot_use_its_pair() {
    let network = MemoryNetwork::new(2);
    let (alice, middle, bob, eve) = (router(), router(), router(), router());
    let (alice_out, middle_to_alice) = link(&network, &alice, &middle).await;
    let (middle_to_bob, bob_in) = link(&network, &middle, &bob).await;
    let (eve_out, _) = link(&network, &eve, &middle).await;
    add_relay(&middle, "to_bob", &[middle_to_bob.address()], &middle_to_alice);
    expose_echo(&bob, &bob_in);
    let to_bob = route([alice_out.address(), &name("to_bob"), &name("echo")]);
    assert_eq!(drive(&network, ask(&alice, &to_bob, b"hi")).await.unwrap(), &b"hi"[..]);

    for target in [middle_to_alice.address(), middle_to_bob.address(), &name("to_bob")] {
        let before = denied(&middle);
        let onward = route([eve_out.address(), target, &name("echo")]);
        eve.send(Message::new(onward.as_ref(), no_route().as_ref(), b"in")).await.unwrap();
        network.advance(Duration::from_millis(1)).await;
        assert_eq!(denied(&middle), before + 1, "{target}");
    }
}

#[tokio::test]
async fn n1_9_an_ask_passes_two_relays() {
    let network = MemoryNetwork::new(3);
    let (alice, first, second, bob) = (router(), router(), router(), router());
    let (alice_out, first_in) = link(&network, &alice, &first).await;
    let (first_out, second_in) = link(&network, &first, &second).await;
    let (second_out, bob_in) = link(&network, &second, &bob).await;
    add_relay(&first, "on", &[first_out.address()], &first_in);
    add_relay(&second, "to_bob", &[second_out.address()], &second_in);
    expose_echo(&bob, &bob_in);
    let to_bob = route([alice_out.address(), &name("on"), &name("to_bob"), &name("echo")]);
    for payload in [&b"small"[..], &[9; 50_000]] {
        assert_eq!(drive(&network, ask(&alice, &to_bob, payload)).await.unwrap(), payload);
    }
}

#[tokio::test]
async fn a_link_loses_repeats_and_damages_as_its_seed_says() {
    let run = async |seed| {
        let network = MemoryNetwork::new(seed);
        let (one, other) = (router(), router());
        let faults = LinkFaults { loss: 6554, duplicate: 6554, corrupt: 6554, ..CLEAN };
        let (out, into) = network.connect(&one, &other, faults).await.unwrap();
        let got = start_counter(&other, &name("sink"));
        other.reach_mut().expose(into.flow(), &name("sink")).unwrap();
        let to = route([out.address(), &name("sink")]);
        for _ in 0..1000 {
            drive(&network, one.send(Message::new(to.as_ref(), no_route().as_ref(), &[0; 50])))
                .await
                .unwrap();
        }
        for _ in 0..3 {
            network.advance(Duration::from_millis(1)).await;
        }
        (got.load(Ordering::SeqCst), network.damaged().await)
    };
    let (got, damaged) = run(7).await;
    assert!((850..1100).contains(&got) && damaged > 10, "{got} arrived, {damaged} damaged");
    assert_eq!(run(7).await, (got, damaged));
    assert_ne!(run(8).await, (got, damaged));
}

#[tokio::test]
async fn nothing_arrives_before_its_time_or_over_a_cut_link() {
    let network = MemoryNetwork::new(4);
    let (one, other) = (router(), router());
    let faults = LinkFaults { delay: Duration::from_millis(50), ..CLEAN };
    let (out, into) = network.connect(&one, &other, faults).await.unwrap();
    other.reach_mut().expose(into.flow(), &name("sink")).unwrap();
    start_counter(&other, &name("sink"));
    let delivered = || other.counters().delivered.load(Ordering::Relaxed);
    let message = || Message::new(route([out.address(), &name("sink")]).as_ref(), no_route().as_ref(), b"");
    one.send(message()).await.unwrap();
    network.advance(Duration::from_millis(49)).await;
    assert_eq!(delivered(), 0);
    network.advance(Duration::from_millis(1)).await;
    assert_eq!((delivered(), network.now().await), (1, Duration::from_millis(50)));

    network.cut(&out, true).await;
    one.send(message()).await.unwrap();
    network.advance(Duration::from_secs(1)).await;
    assert_eq!(delivered(), 1);
    network.cut(&out, false).await;
    one.send(message()).await.unwrap();
    network.advance(Duration::from_secs(1)).await;
    assert_eq!(delivered(), 2);
}

#[tokio::test]
async fn closing_one_end_delivers_what_was_sent_and_fails_the_asks_of_the_other() {
    let network = MemoryNetwork::new(5);
    let (one, other) = (router(), router());
    let (out, into) = link(&network, &one, &other).await;
    let got = start_counter(&one, &name("sink"));
    one.reach_mut().expose(out.flow(), &name("sink")).unwrap();
    let to_sink = route([into.address(), &name("sink")]);
    other.send(Message::new(to_sink.as_ref(), no_route().as_ref(), b"last")).await.unwrap();
    into.close(Duration::ZERO).await;
    let unanswered = drive(&network, ask(&one, &route([out.address(), &name("echo")]), b"?")).await;
    assert!(matches!(unanswered, Err(AskError::ConnectionLost)), "{unanswered:?}");
    assert_eq!(got.load(Ordering::SeqCst), 1);
    assert!(!one.has(out.address()) && !other.has(into.address()));
    assert!(out.is_closed() && into.is_closed());
}
