//! What others put into a mailbox who know nothing of its form.

use std::time::Duration;

use onward_transports::queue::conformance::{body, fresh_mailbox, message};
use onward_transports::queue::{DeadLetter, Lane, MESSAGE_BYTES_MAX, QueueMessage, Reason};
use onward_trials::ServerKind;
use redis::cmd;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_of_redis_stays_because_it_is_not_ours() {
    let Some((server, broker)) = crate::broker(ServerKind::Redis).await else { return };
    let mailbox = fresh_mailbox();
    let subject = mailbox.lane(Lane::Messages);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let ours = message(&subject, b"ours").bytes;
    // More than any dead letter has room for.
    let huge = vec![7; 2 * MESSAGE_BYTES_MAX];
    let entries: [&[&[u8]]; 6] = [
        &[b"e", b"1"],
        &[b"\xff\xfe", b"x"],
        &[b"b", b"", b"b", &ours],
        &[b"b", b"nothing that is read"],
        &[b"b", &huge],
        &[b"\xff", b"\0", b"e", b"18446744073709551615", b"b", &ours],
    ];
    for fields in entries {
        let mut add = cmd("XADD");
        add.arg(subject.to_string()).arg("*").arg(fields);
        add.query_async::<String>(&mut connection).await.unwrap();
    }
    let mut subscription = broker.subscribe(subject.clone(), entries.len()).await.unwrap();
    let mut read = Vec::new();
    // The first has expired, and is not handed out.
    for _ in 1..entries.len() {
        let delivery = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
        match QueueMessage::decode(delivery.bytes()) {
            Some(_) => {
                read.push(body(&delivery).to_vec());
                delivery.ack().await.unwrap();
            }
            None => delivery.term(Reason::Malformed).await.unwrap(),
        }
    }
    assert_eq!(read, [b"ours"]);
    let mut dead = broker.subscribe(mailbox.lane(Lane::DeadLetters), entries.len()).await.unwrap();
    let mut originals = Vec::new();
    for _ in 2..entries.len() {
        let letter = timeout(PATIENCE, dead.next()).await.unwrap().unwrap();
        originals.push(DeadLetter::decode(letter.bytes()).unwrap().original);
        letter.ack().await.unwrap();
    }
    originals.sort();
    assert_eq!(originals, [&b""[..], b"", b"", b"nothing that is read"]);
    for lane in [Lane::Messages, Lane::DeadLetters] {
        let emptied = async {
            loop {
                let mut count = cmd("XLEN");
                count.arg(mailbox.lane(lane).to_string());
                if count.query_async::<u64>(&mut connection).await.unwrap() == 0 {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, emptied).await.unwrap();
    }
}
