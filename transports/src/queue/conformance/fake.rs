//! A broker in memory that misbehaves as it is told, and the same again for the same seed and calls.
//!
//! It keeps its promise, or does what a broker can do to others: lose, repeat, hold back, bring back
//! what was acknowledged, hand out to whom it is not for, cut off and alter.

use core::future::ready;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use onward_routing::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::{
    BoxFuture, Broker, DeadLetter, Delivery, Durability, MESSAGE_BYTES_MAX, Publish, QueueError, Settle,
    Stored, Subject, Subscription, Verdict,
};

/// What goes wrong, each in so many of 65,536 messages; or how often it did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Faults<N = u16> {
    /// Confirmed and lost.
    pub drop: N,
    /// Handed out twice.
    pub duplicate: N,
    /// Handed out behind later ones.
    pub reorder: N,
    /// Handed out again although it was acknowledged.
    pub replay: N,
    /// Handed out to whom it is not for.
    pub swap: N,
    /// Cut off somewhere.
    pub truncate: N,
    /// With one bit flipped.
    pub flip: N,
    /// An acknowledgement that does not arrive.
    pub lose_ack: N,
}

impl Faults {
    /// What a broker may do that keeps its promise: at least once, in any order.
    #[must_use]
    pub const fn honest(rate: u16) -> Self {
        let (duplicate, reorder, lose_ack) = (rate, rate, rate);
        Self { drop: 0, duplicate, reorder, replay: 0, swap: 0, truncate: 0, flip: 0, lose_ack }
    }

    /// Everything, at one rate.
    #[must_use]
    pub const fn all(rate: u16) -> Self {
        Self { drop: rate, replay: rate, swap: rate, truncate: rate, flip: rate, ..Self::honest(rate) }
    }
}

/// The broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeBroker(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng,
    faults: Faults,
    done: Faults<u64>,
    queues: HashMap<Subject, VecDeque<Item>>,
    seats: BTreeMap<u64, Seat>,
    /// What is handed out and not settled, by tag.
    leases: HashMap<u64, Lease>,
    /// Messages that were seen, for handing them to whom they are not for.
    seen: VecDeque<(Subject, Bytes)>,
    last: u64,
}

#[derive(Clone, Debug)]
struct Item {
    bytes: Bytes,
    attempts: u32,
    end: Instant,
}

#[derive(Debug)]
struct Seat {
    subject: Subject,
    sender: mpsc::Sender<Delivery>,
    counter: Arc<dyn Settle>,
    credit: usize,
}

#[derive(Debug)]
struct Lease {
    seat: u64,
    subject: Subject,
    item: Item,
}

/// How many messages can be handed to whom they are not for.
const SEEN_MAX: usize = 64;

impl FakeBroker {
    /// A broker with these faults.
    #[must_use]
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: Rng::new(seed),
            faults,
            done: Faults::default(),
            queues: HashMap::new(),
            seats: BTreeMap::new(),
            leases: HashMap::new(),
            seen: VecDeque::new(),
            last: 0,
        })))
    }

    /// How often each fault happened so far.
    #[must_use]
    pub fn done(&self) -> Faults<u64> {
        lock(&self.0).done
    }

    /// Nothing goes wrong from now on.
    pub fn mend(&self) {
        lock(&self.0).faults = Faults::default();
    }
}

impl Broker for FakeBroker {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(ready(lock(&self.0).publish(message)))
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        let mut state = lock(&self.0);
        state.last += 1;
        let id = state.last;
        let counter: Arc<dyn Settle> = Arc::new(Counter { id, state: Arc::downgrade(&self.0) });
        let (sender, _, subscription) = Subscription::new(prefetch, Arc::clone(&counter));
        let seat = Seat { subject: subject.clone(), sender, counter, credit: prefetch.max(1) };
        state.seats.insert(id, seat);
        state.hand_out(&subject);
        Box::pin(ready(Ok(subscription)))
    }
}

impl State {
    fn publish(&mut self, message: Publish) -> Result<Stored, QueueError> {
        let Publish { subject, ttl, bytes, .. } = message;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(QueueError::TooLarge { bytes: bytes.len(), bytes_max: MESSAGE_BYTES_MAX });
        }
        if ttl.is_zero() {
            return Err(QueueError::Expired);
        }
        self.seen.push_back((subject.clone(), bytes.clone()));
        if self.seen.len() > SEEN_MAX {
            self.seen.pop_front();
        }
        if self.happens(|faults| faults.drop) {
            self.done.drop += 1;
        } else {
            self.put(&subject, Item { bytes, attempts: 0, end: Instant::now() + ttl });
        }
        Ok(Stored { durability: Durability::BrokerMemory, is_duplicate: false })
    }

    fn happens(&mut self, fault: impl Fn(&Faults) -> u16) -> bool {
        self.rng.below(65_536) < u64::from(fault(&self.faults))
    }

    fn put(&mut self, subject: &Subject, item: Item) {
        self.queues.entry(subject.clone()).or_default().push_back(item);
        self.hand_out(subject);
    }

    fn hand_out(&mut self, subject: &Subject) {
        loop {
            let takes = |seat: &Seat| seat.subject == *subject && seat.credit > 0;
            // In turn: whoever had one goes to the end.
            let free = self.seats.iter().filter(|(_, seat)| takes(seat)).map(|(id, seat)| (seat.credit, *id));
            let Some((_, id)) = free.max() else { return };
            let Some(mut item) = self.queues.get_mut(subject).and_then(VecDeque::pop_front) else { return };
            if item.end <= Instant::now() {
                continue;
            }
            let has_more = self.queues.get(subject).is_some_and(|queue| !queue.is_empty());
            if has_more && self.happens(|faults| faults.reorder) {
                self.done.reorder += 1;
                self.queues.entry(subject.clone()).or_default().push_back(item);
                continue;
            }
            item.attempts += 1;
            if self.happens(|faults| faults.duplicate) {
                self.done.duplicate += 1;
                self.queues.entry(subject.clone()).or_default().push_front(item.clone());
            }
            self.lease(id, subject, item);
        }
    }

    fn lease(&mut self, id: u64, subject: &Subject, item: Item) {
        let bytes = self.spoil(subject, &item.bytes);
        self.last += 1;
        let tag = self.last;
        let Some(seat) = self.seats.get_mut(&id) else { return };
        seat.credit -= 1;
        let delivery = Delivery::new(bytes, item.attempts, tag, Arc::clone(&seat.counter));
        self.leases.insert(tag, Lease { seat: id, subject: subject.clone(), item });
        if let Err(gone) = seat.sender.try_send(delivery) {
            // Its drop comes back here, where this is locked.
            tokio::spawn(async move { drop(gone) });
        }
    }

    /// The bytes as they are handed out.
    fn spoil(&mut self, subject: &Subject, bytes: &Bytes) -> Bytes {
        if self.happens(|faults| faults.swap) {
            let others: Vec<Bytes> = self
                .seen
                .iter()
                .filter(|(other, _)| other != subject)
                .map(|(_, bytes)| bytes.clone())
                .collect();
            if !others.is_empty() {
                self.done.swap += 1;
                return others[self.rng.below(others.len() as u64) as usize].clone();
            }
        }
        if self.happens(|faults| faults.truncate) {
            self.done.truncate += 1;
            return bytes.slice(..self.rng.below(bytes.len() as u64) as usize);
        }
        if self.happens(|faults| faults.flip) {
            self.done.flip += 1;
            let mut flipped = bytes.to_vec();
            let bit = self.rng.below(bytes.len() as u64 * 8) as usize;
            flipped[bit / 8] ^= 1 << (bit % 8);
            return flipped.into();
        }
        bytes.clone()
    }

    fn release(&mut self, tag: u64) -> Option<Lease> {
        let lease = self.leases.remove(&tag)?;
        if let Some(seat) = self.seats.get_mut(&lease.seat) {
            seat.credit += 1;
        }
        Some(lease)
    }
}

/// Where a subscription settles.
#[derive(Debug)]
struct Counter {
    id: u64,
    state: Weak<Mutex<State>>,
}

impl Settle for Counter {
    fn settle(&self, tag: u64, verdict: Verdict) -> BoxFuture<'static, Result<(), QueueError>> {
        let Some(state) = self.state.upgrade() else { return Box::pin(ready(Err(QueueError::Closed))) };
        let mut guard = lock(&state);
        if verdict == Verdict::Extend {
            return Box::pin(ready(Ok(())));
        }
        let Some(Lease { subject, item, .. }) = guard.release(tag) else { return Box::pin(ready(Ok(()))) };
        match verdict {
            Verdict::Ack if guard.happens(|faults| faults.lose_ack) => {
                guard.done.lose_ack += 1;
                guard.put(&subject, item);
            }
            Verdict::Ack if guard.happens(|faults| faults.replay) => {
                guard.done.replay += 1;
                guard.put(&subject, item);
            }
            Verdict::Ack | Verdict::Extend => {}
            Verdict::Nak(pause) => {
                let (state, subject) = (Weak::clone(&self.state), subject.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    if let Some(state) = state.upgrade() {
                        lock(&state).put(&subject, item);
                    }
                });
            }
            Verdict::Term(reason) => {
                let letter = DeadLetter { reason, attempts: item.attempts, original: item.bytes.clone() };
                guard.put(&subject.dead_letters(), Item { bytes: letter.encode(), attempts: 0, ..item });
            }
        }
        guard.hand_out(&subject);
        Box::pin(ready(Ok(())))
    }

    fn abandon(&self, tag: u64, _taken: bool) {
        if let Some(state) = self.state.upgrade() {
            let mut guard = lock(&state);
            if let Some(Lease { subject, item, .. }) = guard.release(tag) {
                guard.queues.entry(subject.clone()).or_default().push_front(item);
                guard.hand_out(&subject);
            }
        }
    }

    fn unsubscribe(&self) {
        if let Some(state) = self.state.upgrade() {
            let seat = lock(&state).seats.remove(&self.id);
            // What it holds is dropped where nothing is locked.
            drop(seat);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
