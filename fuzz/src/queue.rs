//! F10 and F13: the file of a queue, whatever is in it and whenever power fails, and what brokers hand out.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use onward_routing::Rng;
use onward_transports::fuzzing::{beside, stream_entries};
use onward_transports::queue::conformance::{Change, MemoryMedium, after_power_cut, apply, body, message};
use onward_transports::queue::{
    Broker as _, DeadLetter, EmbeddedQueue, Lane, Mailbox, QueueLimits, QueueMessage, Reason, Subject,
    Subscription,
};
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = match Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
}

/// A file of a queue: by the first byte any bytes, a good file with patches, or what operations and power
/// cuts make of one. It can always be opened and used; no message is altered, and after operations and
/// power cuts, none that was promised is missing. Accepted is what the queue did not have to set aside.
pub fn f10_queue(data: &[u8]) -> bool {
    let Some((mode, rest)) = data.split_first() else {
        return false;
    };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            match mode {
                0 => any_file(rest).await,
                1 => patched_file(rest).await,
                _ => operations(rest).await,
            }
        })
    })
}

async fn any_file(bytes: &[u8]) -> bool {
    let queue = open(MemoryMedium::holding(bytes.to_vec()));
    assert!(numbers(&queue).await.is_empty(), "a message out of nothing");
    use_it(&queue).await;
    !bytes.is_empty() && !queue.opening().is_set_aside
}

/// Patches of a good file: offset (3 bytes, in steps of 8), length (1), bytes.
async fn patched_file(mut patches: &[u8]) -> bool {
    const MESSAGES: u32 = 20;
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    let mut bytes = match GOOD.get() {
        Some(good) => good.clone(),
        None => {
            let medium = MemoryMedium::default();
            let queue = open(medium.clone());
            for number in 0..MESSAGES {
                publish(&queue, number, number as usize * 40).await;
            }
            close(queue).await;
            GOOD.get_or_init(|| medium.bytes()).clone()
        }
    };
    while let Some(([a, b, c, length], rest)) = patches.split_first_chunk::<4>() {
        let at = u32::from_be_bytes([0, *a, *b, *c]) as usize * 8 % bytes.len();
        let (patch, behind) = rest.split_at(usize::from(*length).min(rest.len()));
        let end = (at + patch.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&patch[..end - at]);
        patches = behind;
    }
    let queue = open(MemoryMedium::holding(bytes));
    let found = numbers(&queue).await;
    assert!(found.iter().all(|number| *number < MESSAGES), "a message that was never stored");
    use_it(&queue).await;
    found.len() == MESSAGES as usize && !queue.opening().is_set_aside
}

/// One byte for each operation.
async fn operations(operations: &[u8]) -> bool {
    let mut medium = MemoryMedium::default();
    let mut queue = open(medium.clone());
    let (mut disk, mut next) = (medium.bytes(), 0);
    medium.record();
    let mut promised = BTreeSet::new();
    let mut subscription = subscribe(&queue).await;
    for operation in operations {
        let (what, how) = (operation & 7, operation >> 3);
        match what {
            0..=2 => {
                publish(&queue, next, usize::from(how) * 97).await;
                promised.insert(next);
                next += 1;
            }
            3..=5 => {
                // Whatever is on its way has come once the queue has answered something else.
                let _ = queue.mailboxes().await;
                let Some(delivery) = subscription.try_next() else { continue };
                let number = number(&body(&delivery));
                let settled = match what {
                    3 => delivery.ack(),
                    4 => delivery.term(Reason::Refused),
                    _ => delivery.nak(Duration::ZERO),
                };
                if settled.await.is_ok() && what == 3 {
                    promised.remove(&number);
                }
            }
            _ => {
                let state = if what == 6 {
                    drop(subscription);
                    close(queue).await;
                    medium.bytes()
                } else {
                    let history = medium.history();
                    let synced = history.iter().rposition(|change| *change == Change::Sync);
                    let (synced, unsynced) = history.split_at(synced.map_or(0, |last| last + 1));
                    apply(&mut disk, synced);
                    after_power_cut(&disk, unsynced, &mut Rng::new(u64::from(how)))
                };
                medium = MemoryMedium::holding(state);
                queue = open(medium.clone());
                disk = medium.bytes();
                medium.record();
                subscription = subscribe(&queue).await;
            }
        }
    }
    let is_good = !queue.opening().is_set_aside;
    close(queue).await;
    let queue = open(medium);
    let found = numbers(&queue).await;
    assert!(promised.is_subset(&found), "promised and lost: {:?}", promised.difference(&found));
    assert!(found.iter().all(|number| *number < next), "a message that was never stored");
    assert!(is_good, "a power cut is no damage");
    !operations.is_empty()
}

/// The numbers of all messages, those among the dead letters included.
async fn numbers(queue: &EmbeddedQueue) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::new();
    for row in queue.dead_letters(mailbox().lane(Lane::Messages).mailbox()).await.unwrap_or_default() {
        if row.letter.reason != Reason::Damaged {
            let message = QueueMessage::decode(&row.letter.original);
            numbers.extend(message.map(|message| number(&message.body)));
        }
    }
    let rows = queue.mailboxes().await.unwrap_or_default();
    let count = rows.iter().find(|row| row.subject == subject()).map_or(0, |row| row.messages);
    let mut subscription = subscribe(queue).await;
    for _ in 0..count {
        let delivery = tokio::time::timeout(Duration::from_secs(5), subscription.next()).await;
        match delivery {
            Ok(Some(delivery)) => numbers.insert(number(&body(&delivery))),
            // One that is damaged is counted until it is a dead letter.
            _ => break,
        };
    }
    numbers
}

/// Stores a message and gets one.
async fn use_it(queue: &EmbeddedQueue) {
    publish(queue, 0, 10).await;
    let mut subscription = subscribe(queue).await;
    let delivery = tokio::time::timeout(Duration::from_secs(5), subscription.next()).await;
    assert!(matches!(delivery, Ok(Some(_))), "nothing is handed out");
}

fn open(medium: MemoryMedium) -> EmbeddedQueue {
    let limits = QueueLimits { unanswered: u32::MAX, ..QueueLimits::default() };
    match EmbeddedQueue::open_on(Arc::new(medium), limits) {
        Ok(queue) => queue,
        Err(error) => panic!("cannot be opened: {error}"),
    }
}

async fn close(queue: EmbeddedQueue) {
    if let Err(error) = queue.close().await {
        panic!("cannot be closed: {error}");
    }
}

async fn publish(queue: &EmbeddedQueue, number: u32, bytes: usize) {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(4 + bytes, number as u8);
    if let Err(error) = queue.publish(message(&subject(), &body)).await {
        panic!("refused: {error}");
    }
}

async fn subscribe(queue: &EmbeddedQueue) -> Subscription {
    match queue.subscribe(subject(), 1000).await {
        Ok(subscription) => subscription,
        Err(error) => panic!("no subscription: {error}"),
    }
}

/// The number in a message that is as it was stored.
fn number(body: &[u8]) -> u32 {
    match body.split_first_chunk::<4>() {
        Some((number, rest)) => {
            let number = u32::from_be_bytes(*number);
            assert!(rest.iter().all(|byte| *byte == number as u8), "altered");
            number
        }
        None => panic!("altered"),
    }
}

fn mailbox() -> Mailbox {
    match "fuzz".parse() {
        Ok(mailbox) => mailbox,
        Err(error) => panic!("{error}"),
    }
}

fn subject() -> Subject {
    mailbox().lane(Lane::Messages)
}

/// What a broker carries beside a message: what is understood has one encoding.
pub fn f13_broker_head(data: &[u8]) -> bool {
    let understood = beside(&Bytes::copy_from_slice(data));
    for again in understood.iter().flatten() {
        assert_eq!(again, data);
    }
    understood.iter().any(Option::is_some)
}

/// What a Redis server answers, in both ways that entries are asked for: whatever else stands in it, what is understood
/// can be written as this project does, and is read from that again. Accepted when there was a message.
pub fn f13_stream_entries(data: &[u8]) -> bool {
    let [read, claimed] = stream_entries(data);
    for (found, is_claimed) in [(&read, false), (&claimed, true)] {
        let mut entries = Vec::new();
        put_head(&mut entries, '*', found.len());
        for (id, bytes, expires) in found {
            let expires = expires.map(|expires| expires.to_string());
            let mut fields = vec![&b"b"[..], bytes];
            fields.extend(expires.iter().flat_map(|expires| [&b"e"[..], expires.as_bytes()]));
            put_head(&mut entries, '*', 2);
            put_text(&mut entries, id.as_bytes());
            put_head(&mut entries, '*', fields.len());
            fields.into_iter().for_each(|field| put_text(&mut entries, field));
        }
        let around = if is_claimed { "*2\r\n$3\r\n0-0\r\n" } else { "*1\r\n*2\r\n$1\r\nk\r\n" };
        let again = [around.as_bytes(), &entries].concat();
        assert_eq!(
            &stream_entries(&again)[usize::from(is_claimed)],
            found,
            "entries are read as they are written"
        );
    }
    [read, claimed].iter().flatten().any(|(_, bytes, _)| !bytes.is_empty())
}

/// The head of an array or a text in the encoding of Redis.
fn put_head(out: &mut Vec<u8>, kind: char, length: usize) {
    out.extend_from_slice(format!("{kind}{length}\r\n").as_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_head(out, '$', text.len());
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// What a broker hands out, and the names it stores under: what is accepted has one encoding.
pub fn f13_queue_message(data: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(data);
    let message = QueueMessage::decode(&bytes).map(|message| assert_eq!(message.encode(), bytes));
    let letter = DeadLetter::decode(&bytes).map(|letter| assert_eq!(letter.encode(), bytes));
    let text = std::str::from_utf8(data).ok();
    let subject = text.and_then(|text| text.parse::<Subject>().ok()).map(|subject| {
        assert_eq!(Some(subject.to_string().as_str()), text);
        assert_eq!(Ok(subject.mailbox().clone()), subject.mailbox().as_str().parse());
    });
    message.or(letter).or(subject).is_some()
}

/// What a node that serves its queue is asked, and what it answers.
pub fn f13_served_queue(data: &[u8]) -> bool {
    onward_node::fuzzing::served_queue(data)
}
