//! The embedded queue in a folder: who may open it, what it bounds, and how it is looked after.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use onward_transports::queue::conformance::{MemoryMedium, body, fresh_mailbox, message};
use onward_transports::queue::{
    Broker as _, Durability, EmbeddedQueue, Lane, Publish, QueueError, QueueLimits, Reason, Stored,
};
use std::sync::Arc;

use crate::open;

#[tokio::test]
async fn a_folder_is_private_and_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    let path = folder.path().join("queue");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2 && files.iter().all(|file| mode(file) == 0o600), "{files:?}");

    let second = EmbeddedQueue::open(&path, QueueLimits::default()).await;
    assert!(matches!(second, Err(QueueError::InUse(at)) if at == path));
    queue.close().await.unwrap();
    open(folder.path()).await.close().await.unwrap();

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
    let third = EmbeddedQueue::open(&path, QueueLimits::default()).await;
    assert!(matches!(third, Err(QueueError::NotPrivate(at)) if at == path));
}

#[tokio::test]
async fn a_receipt_says_what_is_so_and_a_closed_queue_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    let once = message(&fresh_mailbox().lane(Lane::Messages), b"x");
    let stored = queue.publish(once.clone()).await.unwrap();
    assert_eq!(stored, Stored { durability: Durability::Disk, is_duplicate: false });
    assert_eq!(stored.durability.to_string(), "disk");
    queue.close().await.unwrap();
    assert!(matches!(queue.publish(once.clone()).await, Err(QueueError::Closed)));
    assert!(matches!(queue.subscribe(once.subject.clone(), 1).await, Err(QueueError::Closed)));
    assert!(matches!(queue.close().await, Err(QueueError::Closed)));
    // A repeat is recognised after a restart, too.
    let again = open(folder.path()).await;
    assert!(again.publish(once).await.unwrap().is_duplicate);
}

#[tokio::test]
async fn messages_survive_a_restart_in_their_order_and_unhandled_ones_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let queue = open(folder.path()).await;
    for number in 0..30_u8 {
        queue.publish(message(&subject, &[number])).await.unwrap();
    }
    let mut subscription = queue.subscribe(subject.clone(), 4).await.unwrap();
    for number in 0..10 {
        let delivery = subscription.next().await.unwrap();
        assert_eq!((body(&delivery), delivery.attempt()), (vec![number], 1));
        delivery.ack().await.unwrap();
    }
    let held = subscription.next().await.unwrap();
    queue.close().await.unwrap();
    assert!(held.ack().await.is_err());

    let queue = open(folder.path()).await;
    let mut subscription = queue.subscribe(subject, 4).await.unwrap();
    for number in 10..30 {
        let delivery = subscription.next().await.unwrap();
        assert_eq!(body(&delivery), [number]);
        // Number 10 was handed out; 11 to 13 were on their way to the subscriber.
        assert_eq!(delivery.attempt() > 1, number <= 13, "{number}");
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn quotas_are_refused_at_once_and_room_counts_at_once() {
    let limits = QueueLimits { mailbox_messages: 10, messages: 15, mailboxes: 2, ..QueueLimits::default() };
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), limits).unwrap();
    let subjects = [(); 3].map(|()| fresh_mailbox().lane(Lane::Messages));
    let fill = async |subject, count| {
        for _ in 0..count {
            queue.publish(message(subject, b"x")).await.unwrap();
        }
    };
    fill(&subjects[0], 10).await;
    let refused = async |subject| {
        let refused = queue.publish(message(subject, b"x")).await;
        let Err(QueueError::QuotaExceeded { quota, limit }) = refused else { panic!("{refused:?}") };
        (quota, limit)
    };
    assert_eq!(refused(&subjects[0]).await, ("mailbox_messages", 10));
    fill(&subjects[1], 5).await;
    assert_eq!(refused(&subjects[1]).await, ("messages", 15));
    assert_eq!(refused(&subjects[2]).await, ("mailboxes", 2));

    let mut subscription = queue.subscribe(subjects[0].clone(), 1).await.unwrap();
    subscription.next().await.unwrap().ack().await.unwrap();
    fill(&subjects[0], 1).await;
    assert_eq!(queue.purge(&subjects[1]).await.unwrap(), 5);
    // The emptied mailbox gives way to another one.
    fill(&subjects[2], 5).await;
}

#[tokio::test]
async fn quotas_count_bytes() {
    let limits = QueueLimits { mailbox_bytes: 5000, bytes: 8000, ..QueueLimits::default() };
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), limits).unwrap();
    let subjects = [(); 2].map(|()| fresh_mailbox().lane(Lane::Messages));
    let stored = async |subject, bytes| match queue.publish(message(subject, &vec![1; bytes])).await {
        Ok(_) => "stored",
        Err(QueueError::QuotaExceeded { quota, .. }) => quota,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(stored(&subjects[0], 4000).await, "stored");
    assert_eq!(stored(&subjects[0], 1000).await, "mailbox_bytes");
    assert_eq!(stored(&subjects[1], 4000).await, "bytes");
    assert_eq!(stored(&subjects[1], 3000).await, "stored");
}

#[tokio::test]
async fn mailboxes_are_listed_dead_letters_shown_redelivered_and_purged() {
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), QueueLimits::default()).unwrap();
    let mailbox = fresh_mailbox();
    let subject = mailbox.lane(Lane::Messages);
    let sent = message(&subject, b"poison");
    queue.publish(sent.clone()).await.unwrap();
    queue.publish(message(&subject, b"good")).await.unwrap();
    let mut subscription = queue.subscribe(subject.clone(), 1).await.unwrap();
    subscription.next().await.unwrap().nak(Duration::ZERO).await.unwrap();
    subscription.next().await.unwrap().term(Reason::UnknownKey).await.unwrap();

    let dead = queue.dead_letters(&mailbox).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(
        (dead[0].mid, dead[0].letter.reason, dead[0].letter.attempts),
        (sent.mid, Reason::UnknownKey, 2)
    );
    assert_eq!(dead[0].letter.original, sent.bytes);
    let rows = queue.mailboxes().await.unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (row.subject.clone(), row.messages, row.unsettled)).collect();
    assert_eq!(shown, [(subject.clone(), 1, 1), (subject.dead_letters(), 1, 0)]);
    assert!(rows.iter().all(|row| row.oldest.is_some() && row.bytes > 0));

    assert_eq!(queue.redeliver(&mailbox).await.unwrap(), 1);
    assert!(queue.dead_letters(&mailbox).await.unwrap().is_empty());
    subscription.next().await.unwrap().ack().await.unwrap();
    let again = subscription.next().await.unwrap();
    assert_eq!((again.bytes(), again.attempt()), (&sent.bytes, 1));
    assert_eq!(queue.purge(&subject).await.unwrap(), 1);
    // It was purged in the hand of its subscriber, whose verdict changes nothing any more.
    again.term(Reason::Refused).await.unwrap();
    assert!(queue.dead_letters(&mailbox).await.unwrap().is_empty());
    assert_eq!(queue.mailboxes().await.unwrap()[0].messages, 0);
}

#[tokio::test]
async fn the_oldest_dead_letters_give_way() {
    let limits = QueueLimits { dead_letters: 3, ..QueueLimits::default() };
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), limits).unwrap();
    let mailbox = fresh_mailbox();
    let mut sent = Vec::new();
    for number in 0..5_u8 {
        let message = message(&mailbox.lane(Lane::Messages), &[number]);
        sent.push(message.mid);
        queue.publish(message).await.unwrap();
    }
    let mut subscription = queue.subscribe(mailbox.lane(Lane::Messages), 5).await.unwrap();
    for _ in 0..5 {
        subscription.next().await.unwrap().term(Reason::Refused).await.unwrap();
    }
    let dead: Vec<_> = queue.dead_letters(&mailbox).await.unwrap().iter().map(|row| row.mid).collect();
    assert_eq!(dead, sent[2..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_that_store_together_share_commits() {
    let medium = MemoryMedium::default();
    let queue = EmbeddedQueue::open_on(Arc::new(medium.clone()), QueueLimits::default()).unwrap();
    medium.record();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let publish = |number: u32| {
        let (queue, message) = (queue.clone(), message(&subject, &number.to_be_bytes()));
        tokio::spawn(async move { queue.publish(message).await })
    };
    let stored: Vec<_> = (0..400).map(publish).collect();
    for stored in stored {
        stored.await.unwrap().unwrap();
    }
    let syncs = medium.history().iter().filter(|change| **change == conformance_sync()).count();
    assert!(syncs < 100, "{syncs} syncs for 400 messages");
}

fn conformance_sync() -> onward_transports::queue::conformance::Change {
    onward_transports::queue::conformance::Change::Sync
}

#[tokio::test]
async fn a_message_lives_no_longer_than_its_sender_and_the_limits_say() {
    let limits = QueueLimits { lifetime: Duration::from_secs(1), ..QueueLimits::default() };
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), limits).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    queue.publish(Publish { ttl: Duration::MAX, ..message(&subject, b"x") }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let mut subscription = queue.subscribe(subject, 1).await.unwrap();
    assert!(subscription.try_next().is_none());
    queue.mailboxes().await.unwrap();
    assert!(subscription.try_next().is_none());
}

#[tokio::test]
async fn bytes_in_the_hands_of_all_subscribers_are_bounded() {
    let limits = QueueLimits { unsettled_bytes: 3_000, ..QueueLimits::default() };
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), limits).unwrap();
    let subjects = [fresh_mailbox().lane(Lane::Messages), fresh_mailbox().lane(Lane::Messages)];
    let (mut subscriptions, mut held) = (Vec::new(), Vec::new());
    for subject in &subjects {
        for _ in 0..4 {
            queue.publish(message(subject, &[1; 1_000])).await.unwrap();
        }
        subscriptions.push(queue.subscribe(subject.clone(), 8).await.unwrap());
    }
    for _ in 0..3 {
        held.push(subscriptions[0].next().await.unwrap());
    }
    let nothing = tokio::time::timeout(Duration::from_millis(50), subscriptions[1].next()).await;
    assert!(nothing.is_err(), "the first mailbox has all that may be handed out");
    for _ in 3..8 {
        held.remove(0).ack().await.unwrap();
        let [first, second] = &mut subscriptions[..] else { panic!("two") };
        let next = tokio::time::timeout(Duration::from_secs(10), async {
            tokio::select! {
                next = first.next() => next,
                next = second.next() => next,
            }
        });
        held.push(next.await.unwrap().unwrap());
    }
    assert_eq!(held.len(), 3);
}
