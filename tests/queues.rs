//! Routes through queues: neither end listens where others can connect, and both need not run at once.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onward::queue::conformance::{body, fresh_mailbox, message};
use onward::queue::{Broker, EmbeddedQueue, Lane, PostLimits, QueueLimits, Subscription};
use onward::{Address, AskError, ErrorCode, Limits, Node, Peer, Raw, RemoteQueue, Trust};

/// How long anything may take that should happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

async fn node(name: &str) -> Node {
    Node::builder(name).start().await.unwrap()
}

async fn queue(folder: &Path) -> Arc<EmbeddedQueue> {
    Arc::new(EmbeddedQueue::open(folder, QueueLimits::default()).await.unwrap())
}

/// A node that uses `broker` under a name of its own.
async fn user(name: &str, queue: &str, broker: &Arc<EmbeddedQueue>) -> Node {
    let node = node(name).await;
    node.mount_queue(queue, Arc::clone(broker) as Arc<dyn Broker>).unwrap();
    node
}

async fn serve_upper(node: &Node, mailbox: &Address) {
    node.serve("upper", |text: String| async move { Ok(text.to_uppercase()) }).await.unwrap();
    node.listen_queue(mailbox).unwrap().expose("upper").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ask_and_its_answer_pass_a_queue_that_each_end_names_as_it_likes() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let service = user("service", "inbox", &broker).await;
    let mailbox = service.new_mailbox("inbox").unwrap();
    serve_upper(&service, &mailbox).await;
    let client = user("client", "cards", &broker).await;
    let there = mailbox.to_string().replace("inbox", "cards");
    let route = client.route(&format!("{there} => upper")).unwrap();
    for text in ["one", "two"] {
        let answer: String = route.ask_within(&text.to_owned(), PATIENCE).await.unwrap();
        assert_eq!(answer, text.to_uppercase());
    }
    client.shutdown(PATIENCE).await;
    service.shutdown(PATIENCE).await;
    let left: u64 = broker.mailboxes().await.unwrap().iter().map(|row| row.messages).sum();
    assert_eq!(left, 0, "everything was acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_while_nobody_listens_comes_when_somebody_does() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let client = user("client", "q", &broker).await;
    let mailbox = client.new_mailbox("q").unwrap();
    let route = client.route(&format!("{mailbox} => counter")).unwrap();
    for number in 0..100u64 {
        route.send(&number).await.unwrap();
    }
    client.shutdown(PATIENCE).await;
    drop(client);
    broker.close().await.unwrap();
    drop(broker);

    let broker = queue(&folder.path().join("q")).await;
    let service = user("service", "q", &broker).await;
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    service
        .serve("counter", move |number: u64| {
            let sender = sender.clone();
            async move {
                sender.send(number).unwrap();
                Ok(())
            }
        })
        .await
        .unwrap();
    service.listen_queue(&mailbox).unwrap().expose("counter").unwrap();
    for number in 0..100 {
        assert_eq!(tokio::time::timeout(PATIENCE, seen.recv()).await.unwrap(), Some(number));
    }
    service.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_runs_through_a_queue_with_large_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let service = user("service", "q", &broker).await;
    let mailbox = service.new_mailbox("q").unwrap();
    let bank = service.create_identity().await.unwrap();
    service.serve("echo", |Raw(bytes): Raw| async move { Ok(Raw(bytes)) }).await.unwrap();
    let channels = service.accept_channels("secure", &bank, Trust::dangerously_any()).unwrap();
    channels.expose("echo").unwrap();
    service.listen_queue(&mailbox).unwrap().expose("secure").unwrap();

    let client = user("client", "q", &broker).await;
    let identity = client.create_identity().await.unwrap();
    let route = format!("{mailbox} => secure").parse().unwrap();
    let channel = client.open_channel(&identity, route, Peer::Identity(bank.identifier())).await.unwrap();
    let route = client.route_along(channel.route_to("echo").unwrap());
    for size in [10, 100_000, 600_000] {
        let body = Raw(vec![7; size].into());
        let Raw(answer) = route.ask_within(&body, PATIENCE).await.unwrap();
        assert_eq!(answer, body.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_its_queue_to_ends_that_have_no_open_port() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let relay = user("relay", "cards", &broker).await;
    relay.serve_queue("queue.cards", "cards").unwrap();
    relay.start_hop("hop").unwrap();
    let listener = relay.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.expose("queue.cards").unwrap();
    listener.expose("hop").unwrap();
    listener.allow_dial("queue:cards/*").unwrap();
    let at = listener.name().to_owned();

    let service = node("service").await;
    let remote = RemoteQueue::new(service.route(&format!("{at} => queue.cards")).unwrap());
    service.mount_queue("cards", Arc::new(remote)).unwrap();
    let mailbox = service.new_mailbox("cards").unwrap();
    serve_upper(&service, &mailbox).await;

    // The client knows nothing of queues: the relay takes its message there and its answer back.
    let client = node("client").await;
    let route = client.route(&format!("{at} => hop => {mailbox} => upper")).unwrap();
    for _ in 0..3 {
        let answer: String = route.ask_within(&"hello".to_owned(), PATIENCE).await.unwrap();
        assert_eq!(answer, "HELLO");
    }
}

/// A relay that serves `broker` to others, and where it listens.
async fn serving(broker: &Arc<EmbeddedQueue>) -> (Node, String) {
    let relay = user("relay", "cards", broker).await;
    relay.serve_queue("queue.cards", "cards").unwrap();
    let listener = relay.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.expose("queue.cards").unwrap();
    (relay, format!("{} => queue.cards", listener.name()))
}

/// Subscribes to a mailbox in which one message waits; `None` when that does not come.
async fn subscribed(broker: &Arc<EmbeddedQueue>, remote: &RemoteQueue) -> Option<Subscription> {
    let subject = fresh_mailbox().lane(Lane::Messages);
    broker.publish(message(&subject, b"waiting")).await.unwrap();
    let mut subscription = remote.subscribe(subject, 1).await.unwrap();
    let first = tokio::time::timeout(Duration::from_secs(3), subscription.next()).await.ok()??;
    first.ack().await.unwrap();
    Some(subscription)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_all_subscriptions_of_a_served_queue() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let (_relay, route) = serving(&broker).await;
    let (greedy, modest) = (node("greedy").await, node("modest").await);
    let remote = RemoteQueue::new(greedy.route(&route).unwrap());
    let mut held = Vec::new();
    for number in 0..512 {
        held.push(subscribed(&broker, &remote).await.unwrap_or_else(|| panic!("{number} is refused")));
    }
    assert!(subscribed(&broker, &remote).await.is_none(), "one more than 512");
    let other = RemoteQueue::new(modest.route(&route).unwrap());
    assert!(subscribed(&broker, &other).await.is_some(), "nobody else's place is taken");
    held.truncate(511);
    let again = async { while subscribed(&broker, &remote).await.is_none() {} };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_subscriber_fetched_and_died_with_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let (_relay, route) = serving(&broker).await;
    let subject = fresh_mailbox().lane(Lane::Messages);
    broker.publish(message(&subject, b"once")).await.unwrap();
    // All of it stops without a word: nothing is extended, and nothing is left.
    let dying = tokio::runtime::Runtime::new().unwrap();
    let (from, there) = (route.clone(), subject.clone());
    let fetching = dying.spawn(async move {
        let node = node("dying").await;
        let remote = RemoteQueue::new(node.route(&from).unwrap());
        let mut subscription = remote.subscribe(there, 1).await.unwrap();
        let first = subscription.next().await.unwrap();
        (node, subscription, first.attempt(), first)
    });
    let (_node, _subscription, attempt, _first) = fetching.await.unwrap();
    dying.shutdown_background();
    assert_eq!(attempt, 1);
    let heir = node("heir").await;
    let remote = RemoteQueue::new(heir.route(&route).unwrap());
    let mut subscription = remote.subscribe(subject, 1).await.unwrap();
    let second = tokio::time::timeout(Duration::from_secs(90), subscription.next()).await.unwrap().unwrap();
    assert_eq!((second.attempt(), body(&second)), (2, b"once".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_takes_no_more_is_a_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let limits = QueueLimits { mailbox_messages: 2, ..QueueLimits::default() };
    let broker = Arc::new(EmbeddedQueue::open(&folder.path().join("q"), limits).await.unwrap());
    let client = user("client", "q", &broker).await;
    let mailbox = client.new_mailbox("q").unwrap();
    let route = client.route(&format!("{mailbox} => nobody")).unwrap();
    for _ in 0..2 {
        route.send(&1u64).await.unwrap();
    }
    let refused = route.ask_within::<u64, u64>(&1, PATIENCE).await.unwrap_err();
    assert!(matches!(refused, AskError::Reported { code: ErrorCode::Overloaded, .. }), "{refused:?}");
    let large = Raw(vec![0; 1024 * 1024].into());
    let refused = route.ask_within::<Raw, Raw>(&large, PATIENCE).await.unwrap_err();
    // Too big for any queue: it does not even leave.
    assert!(matches!(&refused, AskError::NotSent(error) if error.code() == ErrorCode::TooBig), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_reach_nothing_that_is_not_exposed_and_no_queue_that_is_not_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let service = user("service", "q", &broker).await;
    let mailbox = service.new_mailbox("q").unwrap();
    serve_upper(&service, &mailbox).await;
    service.serve("admin", |text: String| async move { Ok(text) }).await.unwrap();
    let client = user("client", "q", &broker).await;
    let hidden = client.route(&format!("{mailbox} => admin")).unwrap();
    let answer = hidden.ask_within::<_, String>(&"x".to_owned(), Duration::from_millis(500)).await;
    assert!(matches!(answer, Err(AskError::Deadline(_))), "{answer:?}");

    let listener = service.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.set_hop_errors(true);
    let stranger = node("stranger").await;
    let route = stranger.route(&format!("{} => {mailbox} => upper", listener.name())).unwrap();
    let answer = route.ask_within::<_, String>(&"x".to_owned(), PATIENCE).await;
    assert!(matches!(answer, Err(AskError::Reported { code: ErrorCode::Refused, .. })), "{answer:?}");
    assert!(service.listen_queue(&"queue:other/a".replace('a', &"a".repeat(32)).parse().unwrap()).is_err());
}

/// A node with other bounds of routes through queues, which uses `broker` as `q`.
async fn bounded_user(name: &str, broker: &Arc<EmbeddedQueue>, post: PostLimits) -> Node {
    let node = Node::builder(name).limits(Limits { post, ..Limits::default() }).start().await.unwrap();
    node.mount_queue("q", Arc::clone(broker) as Arc<dyn Broker>).unwrap();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn mailboxes_dialled_for_others_are_bounded_and_forgotten_when_nobody_uses_them() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let post = PostLimits { dialled: 2, idle: Duration::from_millis(300), ..PostLimits::default() };
    let relay = bounded_user("relay", &broker, post).await;
    let listener = relay.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.allow_dial("queue:q/*").unwrap();
    listener.set_hop_errors(true);
    let service = user("service", "q", &broker).await;
    service.serve("upper", |text: String| async move { Ok(text.to_uppercase()) }).await.unwrap();
    let client = node("client").await;
    let mut routes = Vec::new();
    for _ in 0..3 {
        let mailbox = service.new_mailbox("q").unwrap();
        service.listen_queue(&mailbox).unwrap().expose("upper").unwrap();
        routes.push(client.route(&format!("{} => {mailbox} => upper", listener.name())).unwrap());
    }
    let ask = async |number: usize| routes[number].ask_within::<_, String>(&"x".to_owned(), PATIENCE).await;
    // The third finds no place while the first two are in use.
    let third = async {
        loop {
            let (one, two, three) = tokio::join!(ask(0), ask(1), ask(2));
            if let Err(error) = three {
                assert_eq!((one.unwrap(), two.unwrap()), ("X".to_owned(), "X".to_owned()));
                break error;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, third).await.unwrap();
    assert!(matches!(refused, AskError::Reported { code: ErrorCode::Refused, .. }), "{refused:?}");
    let answered = async { while ask(2).await.is_err() {} };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_more_senders_than_are_remembered_the_one_silent_longest_is_not_answered() {
    for (correspondents, is_answered) in [(1, false), (2, true)] {
        let folder = tempfile::tempdir().unwrap();
        let broker = queue(&folder.path().join("q")).await;
        let post = PostLimits { correspondents, ..PostLimits::default() };
        let service = bounded_user("service", &broker, post).await;
        let mailbox = service.new_mailbox("q").unwrap();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let waiting = Arc::clone(&gate);
        service
            .serve("wait", move |_: String| {
                let waiting = Arc::clone(&waiting);
                async move { Ok(waiting.acquire().await.is_ok()) }
            })
            .await
            .unwrap();
        service.serve("upper", |text: String| async move { Ok(text.to_uppercase()) }).await.unwrap();
        let listener = service.listen_queue(&mailbox).unwrap();
        listener.expose("wait").unwrap();
        listener.expose("upper").unwrap();
        let (first, second) = (user("first", "q", &broker).await, user("second", "q", &broker).await);
        let patience = if is_answered { PATIENCE } else { Duration::from_secs(1) };
        let slow = first.route(&format!("{mailbox} => wait")).unwrap();
        let slow = tokio::spawn(async move { slow.ask_within::<_, bool>(&"x".to_owned(), patience).await });
        // One sender after the other.
        while broker.mailboxes().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let quick = second.route(&format!("{mailbox} => upper")).unwrap();
        let answer: String = quick.ask_within(&"x".to_owned(), PATIENCE).await.unwrap();
        assert_eq!(answer, "X");
        gate.add_permits(1);
        assert_eq!(slow.await.unwrap().is_ok(), is_answered, "{correspondents} are remembered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_its_worker_waits_for_it_in_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let service = user("service", "q", &broker).await;
    let mailbox = service.new_mailbox("q").unwrap();
    service.listen_queue(&mailbox).unwrap().expose("upper").unwrap();
    let client = user("client", "q", &broker).await;
    let route = client.route(&format!("{mailbox} => upper")).unwrap();
    let asking =
        tokio::spawn(async move { route.ask_within::<_, String>(&"early".to_owned(), PATIENCE).await });
    // It was handed out, and went back, before there is anybody for it.
    while broker.mailboxes().await.unwrap().iter().all(|row| row.unsettled == 0) {
        tokio::task::yield_now().await;
    }
    service.serve("upper", |text: String| async move { Ok(text.to_uppercase()) }).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap(), "EARLY");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_leaves_in_the_queue_what_it_has_not_taken() {
    const MESSAGES: u64 = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let broker = queue(&folder.path().join("q")).await;
    let client = user("client", "q", &broker).await;
    let mailbox = client.new_mailbox("q").unwrap();
    let route = client.route(&format!("{mailbox} => counter")).unwrap();
    for number in 0..MESSAGES {
        route.send(&number).await.unwrap();
    }
    client.shutdown(PATIENCE).await;

    let service = user("service", "q", &broker).await;
    let handled = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&handled);
    service
        .serve("counter", move |_: u64| {
            let count = Arc::clone(&count);
            async move {
                tokio::time::sleep(Duration::from_micros(100)).await;
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
        })
        .await
        .unwrap();
    service.listen_queue(&mailbox).unwrap().expose("counter").unwrap();
    let handled = || handled.load(std::sync::atomic::Ordering::Relaxed);
    while handled() < 10 {
        tokio::task::yield_now().await;
    }
    service.shutdown(PATIENCE).await;
    let left: u64 = broker
        .mailboxes()
        .await
        .unwrap()
        .iter()
        .filter(|row| mailbox.value().ends_with(row.subject.mailbox().as_str()))
        .map(|row| row.messages)
        .sum();
    assert_eq!(handled() + left, MESSAGES, "{left} are left");
    assert!(left > 0, "it was stopped in time");
}
