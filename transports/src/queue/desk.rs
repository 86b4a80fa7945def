//! The desk: what a subscription at somebody else's broker has handed out, until it is settled.
//!
//! Brokers differ in what they can be told: some know no pause, some no silence, some no dead letter. So all
//! of that is decided here, the same for all of them, and a broker is only asked for messages, told that one
//! is done with, and told that one is given back. Pauses and repetitions happen in the memory of this process; when
//! it ends, the broker hands out again whatever was not acknowledged.
//!
//! A desk never holds more than its subscriber asked for, what waits for the end of a pause included.
//!
//! Specification: docs/protocol.md §2.3.

use core::fmt;
use core::future::{Future, ready};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::server::{DEAD_LETTER_AGE, unix_millis};
use super::{
    BoxFuture, Broker, DeadLetter, Delivery, Lane, Mid, Publish, QueueError, Reason, Settle, Subject,
    Subscription, Verdict,
};

/// How long a subscriber may take to settle a message it took, and a broker hears nothing of it.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How often a broker is told that messages are still held here.
const RENEW: Duration = Duration::from_secs(10);
/// How often a subscriber may drop or sit on a message before that is a dead letter.
const UNANSWERED_MAX: u32 = 6;
/// How long a message waits that could not be handed out, or not be made a dead letter.
const AGAIN: Duration = Duration::from_millis(20);

/// Where the messages of one subscription come from.
pub(super) trait Source: Send + 'static {
    /// How the broker knows a message it handed out.
    type Slip: Slip;

    /// Waits for messages, at most `most`; connects again by itself.
    ///
    /// # Cancel safety
    /// No message is lost.
    fn fetch(&mut self, most: usize) -> impl Future<Output = Fetched<Self::Slip>> + Send;

    /// Fetches no more; what was fetched and not returned goes back to the broker.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// What can be said to a broker about a message. Whether it knows the message still is its own affair.
pub(super) trait Slip: Clone + Send + Sync + 'static {
    /// It is done with; returns when the broker has heard it.
    fn acknowledge(self) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// It is still held here.
    fn renew(self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// Another may have it.
    fn give_back(self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// What came of asking for messages.
pub(super) enum Fetched<S> {
    /// These.
    Messages(Vec<Arrival<S>>),
    /// The connection was lost, and all that came over it will come again: slips of it are void.
    #[cfg_attr(
        not(any(feature = "amqp", feature = "kafka", feature = "mqtt")),
        allow(dead_code, reason = "what others hand out outlives their connections")
    )]
    Lost,
}

/// A message as it comes from a broker.
pub(super) struct Arrival<S> {
    pub(super) bytes: Bytes,
    /// How often the broker handed it out, this time included.
    pub(super) attempt: u32,
    /// When it ends, in milliseconds since the Unix epoch, if its broker does not see to that.
    pub(super) expires: Option<u64>,
    pub(super) slip: S,
}

/// Begins a subscription that is served from `source`; dead letters are published at `broker`.
pub(super) fn open<T: Source>(
    broker: Arc<dyn Broker>,
    subject: Subject,
    source: T,
    prefetch: usize,
) -> Subscription {
    let prefetch = prefetch.max(1);
    let desk = Desk { broker, subject, state: Mutex::new(State::default()), changed: Notify::new() };
    let desk = Arc::new(desk);
    let counter: Arc<dyn Settle> = Arc::new(Counter(Arc::clone(&desk)));
    let (sender, taken, subscription) = Subscription::new(prefetch, Arc::clone(&counter));
    // It ends with the subscription, whose drop it is told of.
    tokio::spawn(Clerk { desk, counter, sender, taken, prefetch }.run(source));
    subscription
}

struct Desk<S> {
    broker: Arc<dyn Broker>,
    subject: Subject,
    state: Mutex<State<S>>,
    /// There is something to do: room where there was none, something due sooner, or the end.
    changed: Notify,
}

struct State<S> {
    held: HashMap<u64, Held<S>>,
    /// When something is to be done about which message.
    due: BTreeSet<(Instant, u64)>,
    last: u64,
    /// Deliveries that were put where the subscriber takes them.
    sent: u64,
    is_full: bool,
    is_over: bool,
}

impl<S> Default for State<S> {
    fn default() -> Self {
        let (held, due) = (HashMap::new(), BTreeSet::new());
        Self { held, due, last: 0, sent: 0, is_full: false, is_over: false }
    }
}

/// A message that is not settled.
struct Held<S> {
    slip: S,
    bytes: Bytes,
    attempt: u32,
    unanswered: u32,
    expires: Option<u64>,
    due: Instant,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    /// The subscriber has it, or will take it as its delivery of this number; until its lease ends.
    Out(u64),
    /// It is handed out again when its pause ends.
    Paused,
}

impl<S> State<S> {
    fn put(&mut self, tag: u64, held: Held<S>) {
        self.due.insert((held.due, tag));
        self.held.insert(tag, held);
    }

    fn take(&mut self, tag: u64) -> Option<Held<S>> {
        let held = self.held.remove(&tag)?;
        self.due.remove(&(held.due, tag));
        Some(held)
    }

    /// Puts a message back, to be handed out again after `pause`.
    fn pause(&mut self, tag: u64, held: Held<S>, pause: Duration) {
        self.put(tag, Held { due: Instant::now() + pause, phase: Phase::Paused, ..held });
    }
}

impl<S: Slip> Desk<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message out for good.
    fn release(&self, tag: u64) -> Option<Held<S>> {
        let mut state = self.lock();
        let held = state.take(tag)?;
        if core::mem::take(&mut state.is_full) {
            self.changed.notify_one();
        }
        Some(held)
    }

    /// Stores the dead letter of a message; one that is in their lane already needs none. Of a message that the broker
    /// takes no longer with a letter around it, or never took from here, the letter says that it was there.
    async fn write_letter(&self, held: &Held<S>, reason: Reason) -> Result<(), QueueError> {
        if self.subject.lane() == Lane::DeadLetters {
            return Ok(());
        }
        let letter = DeadLetter { reason, attempts: held.attempt, original: held.bytes.clone() };
        match self.send_letter(&letter).await {
            Err(QueueError::TooLarge { .. }) => {
                self.send_letter(&DeadLetter { original: Bytes::new(), ..letter }).await
            }
            said => said,
        }
    }

    async fn send_letter(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        let mut mid = [0; 16];
        getrandom::fill(&mut mid).map_err(|error| QueueError::Storage(Arc::new(error)))?;
        let subject = self.subject.dead_letters();
        let (ttl, bytes) = (DEAD_LETTER_AGE, letter.encode());
        self.broker.publish(Publish { subject, mid: Mid::new(mid), ttl, bytes }).await.map(drop)
    }

    /// Makes a message a dead letter. Without the letter it is held on to, or given back when the subscription is over;
    /// with it only the broker hands it out again, so that no acknowledgement that fails makes a second letter by itself.
    async fn bury(&self, tag: u64, held: Held<S>, reason: Reason) -> Result<(), QueueError> {
        if let Err(error) = self.write_letter(&held, reason).await {
            if let Some(held) = self.keep(tag, held) {
                held.slip.give_back().await;
            }
            return Err(error);
        }
        let acknowledged = held.slip.clone().acknowledge().await;
        if acknowledged.is_err() {
            held.slip.give_back().await;
        }
        acknowledged
    }

    /// Puts a message back; returns it when the subscription is over.
    fn keep(&self, tag: u64, held: Held<S>) -> Option<Held<S>> {
        let mut state = self.lock();
        if state.is_over {
            return Some(held);
        }
        state.pause(tag, held, AGAIN);
        self.changed.notify_one();
        None
    }
}

/// The subscriber's side.
struct Counter<S>(Arc<Desk<S>>);

impl<S: Slip> Settle for Counter<S> {
    fn settle(&self, tag: u64, verdict: Verdict) -> BoxFuture<'static, Result<(), QueueError>> {
        let Self(desk) = self;
        match verdict {
            Verdict::Ack => match desk.release(tag) {
                Some(held) => begin(held.slip.acknowledge()),
                None => Box::pin(ready(Ok(()))),
            },
            Verdict::Term(reason) => match desk.release(tag) {
                Some(held) => {
                    let desk = Arc::clone(desk);
                    begin(async move { desk.bury(tag, held, reason).await })
                }
                None => Box::pin(ready(Ok(()))),
            },
            Verdict::Nak(pause) => {
                let mut state = desk.lock();
                if let Some(mut held) = state.take(tag) {
                    held.attempt = held.attempt.saturating_add(1);
                    state.pause(tag, held, pause);
                    desk.changed.notify_one();
                }
                Box::pin(ready(Ok(())))
            }
            Verdict::Extend => {
                let mut state = desk.lock();
                if let Some(held) = state.take(tag) {
                    state.put(tag, Held { due: Instant::now() + LEASE, ..held });
                }
                Box::pin(ready(Ok(())))
            }
        }
    }

    fn abandon(&self, tag: u64, taken: bool) {
        let mut state = self.0.lock();
        if let Some(held) = state.take(tag) {
            let pause = if taken { Duration::ZERO } else { AGAIN };
            let count = u32::from(taken);
            let (attempt, unanswered) = (held.attempt.saturating_add(count), held.unanswered + count);
            state.pause(tag, Held { attempt, unanswered, ..held }, pause);
            self.0.changed.notify_one();
        }
    }

    fn unsubscribe(&self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_one();
    }
}

impl<S> fmt::Debug for Counter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("subject", &self.0.subject).finish_non_exhaustive()
    }
}

/// Begins to tell a broker something now, whoever waits for it.
fn begin(
    telling: impl Future<Output = Result<(), QueueError>> + Send + 'static,
) -> BoxFuture<'static, Result<(), QueueError>> {
    let told = tokio::spawn(telling);
    Box::pin(async move { told.await.unwrap_or(Err(QueueError::Closed)) })
}

/// The task of a subscription.
struct Clerk<S> {
    desk: Arc<Desk<S>>,
    counter: Arc<dyn Settle>,
    sender: mpsc::Sender<Delivery>,
    taken: Arc<AtomicU64>,
    prefetch: usize,
}

impl<S: Slip> Clerk<S> {
    async fn run(self, mut source: impl Source<Slip = S>) {
        let mut renewal = interval(RENEW);
        let mut renewing = None;
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (free, due, is_held) = {
                let mut state = self.desk.lock();
                if state.is_over {
                    break;
                }
                let free = self.prefetch.saturating_sub(state.held.len());
                state.is_full = free == 0;
                (free, state.due.first().map(|(due, _)| *due), !state.held.is_empty())
            };
            tokio::select! {
                () = self.desk.changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.look_after(),
                // One after the other: while the broker is away, each takes its time.
                _ = renewal.tick(), if is_held => {
                    if renewing.as_ref().is_none_or(JoinHandle::is_finished) {
                        renewing = Some(self.renew());
                    }
                }
                fetched = source.fetch(free), if free > 0 => match fetched {
                    Fetched::Messages(arrivals) => arrivals.into_iter().for_each(|arrival| self.take_in(arrival)),
                    Fetched::Lost => drop(self.forget()),
                },
            }
        }
        // First the source, so that nothing given back comes here again.
        source.close().await;
        for held in self.forget() {
            held.slip.give_back().await;
        }
    }

    fn take_in(&self, arrival: Arrival<S>) {
        let Arrival { bytes, attempt, expires, slip } = arrival;
        let (due, phase) = (Instant::now(), Phase::Paused);
        self.hand_out(Held { slip, bytes, attempt, unanswered: 0, expires, due, phase });
    }

    /// Puts a message where the subscriber takes it, unless it has expired.
    fn hand_out(&self, held: Held<S>) {
        if held.expires.is_some_and(|expires| expires <= unix_millis()) {
            drop(begin(held.slip.acknowledge()));
            return;
        }
        let (bytes, attempt) = (held.bytes.clone(), held.attempt);
        let mut state = self.desk.lock();
        state.last += 1;
        let tag = state.last;
        let phase = Phase::Out(state.sent);
        state.put(tag, Held { due: Instant::now() + LEASE, phase, ..held });
        let delivery = Delivery::new(bytes, attempt, tag, Arc::clone(&self.counter));
        let refused = self.sender.try_send(delivery).err();
        state.sent += u64::from(refused.is_none());
        drop(state);
        // Dropped where nothing is locked: it comes back by that, and is handed out later.
        drop(refused);
    }

    /// Hands out again what has paused long enough, and takes from a subscriber what it sits on.
    fn look_after(&self) {
        loop {
            let mut state = self.desk.lock();
            let now = Instant::now();
            let Some((_, tag)) = state.due.first().copied().filter(|(due, _)| *due <= now) else { return };
            let Some(mut held) = state.take(tag) else { return };
            if let Phase::Out(number) = held.phase {
                if number >= self.taken.load(Ordering::Relaxed) {
                    // Nobody took it yet.
                    state.put(tag, Held { due: now + LEASE, ..held });
                    continue;
                }
                held.attempt = held.attempt.saturating_add(1);
                held.unanswered += 1;
            }
            drop(state);
            if held.unanswered >= UNANSWERED_MAX {
                let desk = Arc::clone(&self.desk);
                drop(begin(async move { desk.bury(tag, held, Reason::Unanswered).await }));
            } else {
                self.hand_out(held);
            }
        }
    }

    fn renew(&self) -> JoinHandle<()> {
        let slips: Vec<S> = self.desk.lock().held.values().map(|held| held.slip.clone()).collect();
        tokio::spawn(async move {
            for slip in slips {
                slip.renew().await;
            }
        })
    }

    /// Lets go of everything.
    fn forget(&self) -> Vec<Held<S>> {
        let mut state = self.desk.lock();
        state.due.clear();
        state.held.drain().map(|(_, held)| held).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::queue::{Durability, Mailbox, Stored};

    /// A broker that never takes anything, after a while.
    #[derive(Debug)]
    struct Full;

    const WHILE: Duration = Duration::from_secs(3);

    impl Broker for Full {
        fn publish(&self, _: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
            Box::pin(async {
                sleep(WHILE).await;
                Err(QueueError::StorageFull)
            })
        }

        fn subscribe(&self, _: Subject, _: usize) -> BoxFuture<'_, Result<Subscription, QueueError>> {
            Box::pin(ready(Err(QueueError::Closed)))
        }
    }

    /// A broker that takes everything, and counts.
    #[derive(Debug, Default)]
    struct Taker(AtomicU64);

    impl Broker for Taker {
        fn publish(&self, _: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(ready(Ok(Stored { durability: Durability::Disk, is_duplicate: false })))
        }

        fn subscribe(&self, _: Subject, _: usize) -> BoxFuture<'_, Result<Subscription, QueueError>> {
            Box::pin(ready(Err(QueueError::Closed)))
        }
    }

    /// A broker that takes only what is no longer than a letter about nothing, and keeps it.
    #[derive(Debug, Default)]
    struct Narrow(Mutex<Vec<Bytes>>);

    impl Broker for Narrow {
        fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
            let (bytes, bytes_max) = (message.bytes.len(), 5);
            Box::pin(ready(if bytes > bytes_max {
                Err(QueueError::TooLarge { bytes, bytes_max })
            } else {
                self.0.lock().unwrap().push(message.bytes);
                Ok(Stored { durability: Durability::Disk, is_duplicate: false })
            }))
        }

        fn subscribe(&self, _: Subject, _: usize) -> BoxFuture<'_, Result<Subscription, QueueError>> {
            Box::pin(ready(Err(QueueError::Closed)))
        }
    }

    /// How often a broker was told what.
    #[derive(Clone, Default)]
    struct Told {
        is_gone: bool,
        renewed: Arc<AtomicU64>,
        given_back: Arc<AtomicU64>,
    }

    impl Slip for Told {
        async fn acknowledge(self) -> Result<(), QueueError> {
            if self.is_gone { Err(QueueError::Unknown) } else { Ok(()) }
        }

        async fn renew(self) {
            self.renewed.fetch_add(1, Ordering::Relaxed);
            core::future::pending().await
        }

        async fn give_back(self) {
            self.given_back.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One message, and no more.
    struct One(Option<Told>);

    impl Source for One {
        type Slip = Told;

        async fn fetch(&mut self, _: usize) -> Fetched<Told> {
            match self.0.take() {
                Some(slip) => {
                    let bytes = Bytes::from_static(b"one");
                    Fetched::Messages(vec![Arrival { bytes, attempt: 1, expires: None, slip }])
                }
                None => core::future::pending().await,
            }
        }

        async fn close(self) {}
    }

    fn one(told: &Told) -> Subscription {
        one_at(Arc::new(Full), told)
    }

    fn one_at(broker: Arc<dyn Broker>, told: &Told) -> Subscription {
        let mailbox: Mailbox = "desk".parse().unwrap();
        open(broker, mailbox.lane(Lane::Messages), One(Some(told.clone())), 1)
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_do_not_pile_up_while_a_broker_is_away() {
        let told = Told::default();
        let mut subscription = one(&told);
        let _held = subscription.next().await.unwrap();
        sleep(RENEW * 5 / 2).await;
        assert_eq!(told.renewed.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_dead_letter_at_the_end_is_given_back() {
        let told = Told::default();
        let mut subscription = one(&told);
        let ending = subscription.next().await.unwrap().term(Reason::Refused);
        drop(subscription);
        assert!(ending.await.is_err());
        assert_eq!(told.given_back.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_room_in_a_dead_letter_has_one_all_the_same() {
        let broker = Arc::new(Narrow::default());
        let mut subscription = one_at(Arc::clone(&broker) as Arc<dyn Broker>, &Told::default());
        subscription.next().await.unwrap().term(Reason::Malformed).await.unwrap();
        let letters = broker.0.lock().unwrap();
        assert_eq!(letters.len(), 1);
        let letter = DeadLetter { reason: Reason::Malformed, attempts: 1, original: Bytes::new() };
        assert_eq!(DeadLetter::decode(&letters[0]), Some(letter));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_cannot_be_acknowledged_has_one_dead_letter() {
        let (broker, told) = (Arc::new(Taker::default()), Told { is_gone: true, ..Told::default() });
        let mut subscription = one_at(Arc::clone(&broker) as Arc<dyn Broker>, &told);
        let ending = subscription.next().await.unwrap().term(Reason::Refused).await;
        assert!(ending.is_err(), "whoever ended it is told");
        sleep(AGAIN * 100).await;
        assert_eq!(broker.0.load(Ordering::Relaxed), 1);
        assert_eq!(told.given_back.load(Ordering::Relaxed), 1, "the broker may hand it out again");
    }
}
