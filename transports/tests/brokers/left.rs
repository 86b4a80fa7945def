//! What somebody left at a broker who is gone.

use std::time::Duration;

use mqtt5::{AsyncClient, Event, MqttOptions, Packet};
use onward_transports::queue::Lane;
use onward_transports::queue::conformance::{body, fresh_mailbox, message};
use onward_trials::ServerKind;
use redis::cmd;
use tokio::time::timeout;

use crate::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_had_is_found_behind_what_others_hold_in_redis() {
    /// More than one look passes.
    const HELD: usize = 1000;
    let Some((server, broker)) = crate::broker(ServerKind::Redis).await else { return };
    let subject = fresh_mailbox().lane(Lane::Messages);
    let mut holding = broker.subscribe(subject.clone(), HELD).await.unwrap();
    let mut held = Vec::new();
    for number in 0..HELD {
        broker.publish(message(&subject, &number.to_be_bytes())).await.unwrap();
        held.push(timeout(PATIENCE, holding.next()).await.unwrap().unwrap());
    }
    // One more, which somebody else had long ago.
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (key, bytes) = (subject.to_string(), message(&subject, b"left").bytes);
    let mut add = cmd("XADD");
    add.arg(&key).arg("*").arg("b").arg(&bytes[..]).arg("e").arg(u64::MAX);
    let id: String = add.query_async(&mut connection).await.unwrap();
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg("onward").arg("onward").arg("STREAMS").arg(&key).arg(">");
    read.query_async::<redis::Value>(&mut connection).await.unwrap();
    let mut claim = cmd("XCLAIM");
    claim.arg(&key).arg("onward").arg("onward").arg(0).arg(&id).arg("IDLE").arg(60_000).arg("JUSTID");
    claim.query_async::<redis::Value>(&mut connection).await.unwrap();
    let mut other = broker.subscribe(subject, 64).await.unwrap();
    let delivery = timeout(PATIENCE, other.next()).await.unwrap().unwrap();
    assert_eq!(body(&delivery), b"left");
    assert!(delivery.attempt() >= 2);
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_maker_never_subscribed_is_not_deaf_in_mosquitto() {
    let Some((server, broker)) = crate::broker(ServerKind::Mosquitto).await else { return };
    let subject = fresh_mailbox().lane(Lane::Messages);
    let url = server.url();
    let (host, port) = url.split_once("//").unwrap().1.split_once(':').unwrap();
    let place = mqtt5::Broker::tcp(host, port.parse().unwrap());
    let mut options = MqttOptions::new(subject.to_string(), place);
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(3600));
    let (_client, mut events) = AsyncClient::builder(options).capacity(16).build();
    while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::ConnAck(_))) {}
    drop(events);

    let mut subscription = broker.subscribe(subject.clone(), 4).await.unwrap();
    // Until the broker has noted the subscription, it says that there is none.
    let publishing = async {
        while broker.publish(message(&subject, b"heard")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, publishing).await.unwrap();
    let delivery = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
    assert_eq!(body(&delivery), b"heard");
    delivery.ack().await.unwrap();
}
