//! The depot with a clock turned by hand.

use std::sync::{Mutex, PoisonError};

use super::*;
use crate::queue::conformance::{MemoryMedium, body, fresh_mailbox, message};
use crate::queue::{BoxFuture, Lane, Subscription, transient_pause};

/// A depot, its clock, and what its subscribers have said since the last turn.
struct Bench {
    depot: Depot,
    medium: MemoryMedium,
    now: Now,
    said: Arc<Said>,
    subscriptions: u64,
}

#[derive(Debug, Default)]
struct Said(Mutex<Vec<Request>>);

impl Said {
    fn push(&self, request: Request) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }
}

impl Settle for Said {
    fn settle(&self, tag: u64, verdict: Verdict) -> BoxFuture<'static, Result<(), QueueError>> {
        let (reply, answer) = oneshot::channel();
        self.push(Request::Settle { tag, verdict, reply });
        Box::pin(async { answer.await.unwrap_or(Err(QueueError::Closed)) })
    }

    fn abandon(&self, tag: u64, taken: bool) {
        self.push(Request::Abandon { tag, taken });
    }
}

impl Bench {
    fn new(limits: QueueLimits) -> Self {
        let medium = MemoryMedium::default();
        let (depot, _) = Depot::open(Arc::new(medium.clone()), limits).unwrap();
        let now = Now { steady: Duration::ZERO, unix: 1_800_000_000 };
        Self { depot, medium, now, said: Arc::default(), subscriptions: 0 }
    }

    fn turn(&mut self, requests: Vec<Request>) {
        let mut said = std::mem::take(&mut *self.said.0.lock().unwrap());
        said.extend(requests);
        self.depot.turn(said, self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now.steady += Duration::from_secs(seconds);
        self.now.unix += seconds;
        self.turn(Vec::new());
    }

    fn publish(&mut self, message: Publish) -> Result<Stored, QueueError> {
        let (reply, mut answer) = oneshot::channel();
        self.turn(vec![Request::Publish { message, charge: None, reply }]);
        answer.try_recv().unwrap()
    }

    fn subscribe(&mut self, subject: &Subject, prefetch: usize) -> Subscription {
        self.subscriptions += 1;
        let broker: Arc<dyn Settle> = Arc::clone(&self.said) as Arc<dyn Settle>;
        let (sender, taken, subscription) = Subscription::new(prefetch, Arc::clone(&broker));
        let seat = Seat { sender, taken, broker, credit: prefetch };
        self.turn(vec![Request::Subscribe { id: self.subscriptions, subject: subject.clone(), seat }]);
        // What was stored before is handed out when the file says so.
        self.turn(Vec::new());
        subscription
    }

    fn count(&mut self, subject: &Subject) -> u64 {
        let rows = self.depot.list().unwrap();
        rows.iter().find(|row| row.subject == *subject).map_or(0, |row| row.messages)
    }
}

#[test]
fn n2_10_ten_minutes_of_transient_failures_end_in_no_dead_letter() {
    let mut bench = Bench::new(QueueLimits::default());
    let subject = fresh_mailbox().lane(Lane::Messages);
    for number in 0..10_u8 {
        bench.publish(message(&subject, &[number])).unwrap();
    }
    let mut subscription = bench.subscribe(&subject, 10);
    let mut failures = 0;
    for _ in 0..600 {
        while let Some(delivery) = subscription.try_next() {
            failures += 1;
            let pause = transient_pause(delivery.attempt());
            drop(delivery.nak(pause));
        }
        bench.pass(1);
    }
    // 1, 5, 30 and then every 120 s.
    assert_eq!(failures, 10 * 8);
    assert_eq!(bench.count(&subject.dead_letters()), 0);
    let mut came = Vec::new();
    while came.len() < 10 {
        bench.pass(1);
        while let Some(delivery) = subscription.try_next() {
            came.push(body(&delivery)[0]);
            drop(delivery.ack());
        }
    }
    came.sort_unstable();
    assert_eq!(came, (0..10).collect::<Vec<_>>());
    bench.pass(1);
    assert_eq!(bench.count(&subject), 0);
}

#[test]
fn a_silent_subscriber_loses_the_message_after_its_time_and_not_before() {
    let mut bench = Bench::new(QueueLimits::default());
    let subject = fresh_mailbox().lane(Lane::Messages);
    bench.publish(message(&subject, b"x")).unwrap();
    let mut subscription = bench.subscribe(&subject, 1);
    // For half an hour nobody takes it, and it is nobody's fault.
    bench.pass(1800);
    let mut held = vec![subscription.try_next().unwrap()];
    let limits = QueueLimits::default();
    for attempt in 2..=limits.unanswered {
        bench.pass(30);
        bench.pass(29);
        assert!(subscription.try_next().is_none());
        bench.pass(1);
        let again = subscription.try_next().unwrap();
        assert_eq!(again.attempt(), attempt);
        held.push(again);
    }
    bench.pass(30);
    bench.pass(30);
    assert!(subscription.try_next().is_none());
    bench.pass(1);
    assert_eq!((bench.count(&subject), bench.count(&subject.dead_letters())), (0, 1));
}

#[test]
fn what_has_expired_leaves_by_itself_and_then_nothing_is_due() {
    let mut bench = Bench::new(QueueLimits::default());
    let subject = fresh_mailbox().lane(Lane::Messages);
    for seconds in [10, 100, 100_000] {
        let ttl = Duration::from_secs(seconds);
        bench.publish(Publish { ttl, ..message(&subject, b"x") }).unwrap();
    }
    assert_eq!(bench.count(&subject), 3);
    for (pass, left) in [(75, 2), (90, 1), (100_000, 0)] {
        bench.pass(pass);
        bench.pass(1);
        assert_eq!(bench.count(&subject), left);
    }
    let subscription = bench.subscribe(&subject, 4);
    assert_eq!(bench.depot.due(bench.now), None, "an idle subscription wakes nothing up");
    drop(subscription);
}

#[test]
fn dead_letters_go_after_a_week() {
    let mut bench = Bench::new(QueueLimits::default());
    let subject = fresh_mailbox().lane(Lane::Messages);
    bench.publish(message(&subject, b"x")).unwrap();
    let mut subscription = bench.subscribe(&subject, 1);
    drop(subscription.try_next().unwrap().term(Reason::Malformed));
    bench.pass(1);
    bench.pass(1);
    assert_eq!(bench.count(&subject.dead_letters()), 1);
    bench.pass(7 * 24 * 3600 - 10);
    assert_eq!(bench.count(&subject.dead_letters()), 1);
    bench.pass(80);
    bench.pass(1);
    assert_eq!(bench.count(&subject.dead_letters()), 0);
}

#[test]
fn a_repeat_is_recognised_for_two_minutes() {
    let mut bench = Bench::new(QueueLimits::default());
    let subject = fresh_mailbox().lane(Lane::Messages);
    let once = message(&subject, b"once");
    assert!(!bench.publish(once.clone()).unwrap().is_duplicate);
    bench.pass(60);
    assert!(bench.publish(once.clone()).unwrap().is_duplicate);
    bench.pass(120);
    // The window moves with what is stored.
    bench.publish(message(&subject, b"other")).unwrap();
    assert!(!bench.publish(once).unwrap().is_duplicate);
}

#[test]
fn what_a_failed_commit_left_behind_is_not_handed_out() {
    let mut bench = Bench::new(QueueLimits::default());
    let subject = fresh_mailbox().lane(Lane::Messages);
    bench.publish(message(&subject, b"before")).unwrap();
    bench.medium.keep_silent();
    let length = bench.medium.bytes().len() as u64;
    bench.medium.set_capacity(Some(length));
    let mut refused = 0;
    while bench.publish(message(&subject, &[7; 100_000])).is_ok() {
        assert!(refused == 0);
    }
    for _ in 0..5 {
        refused += u32::from(bench.publish(message(&subject, &[7; 100_000])).is_err());
    }
    assert_eq!(refused, 5);
    bench.medium.set_capacity(None);
    bench.pass(1);
    let whole = bench.count(&subject);
    bench.publish(message(&subject, b"after")).unwrap();
    assert_eq!(bench.count(&subject), whole + 1);
    let mut subscription = bench.subscribe(&subject, 1000);
    let mut bodies = Vec::new();
    while let Some(delivery) = subscription.try_next() {
        bodies.push(body(&delivery));
        drop(delivery.ack());
    }
    assert_eq!(bodies.len() as u64, whole + 1);
    assert_eq!(
        (bodies.first().unwrap().as_slice(), bodies.last().unwrap().as_slice()),
        (&b"before"[..], &b"after"[..])
    );
    bench.pass(1);
    assert_eq!(bench.count(&subject), 0);
}
