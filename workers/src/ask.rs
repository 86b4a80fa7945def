//! Requests that wait for an answer: one slot table per node instead of a mailbox per request.
//!
//! A slot's reply address is a random worker address whose low bits, masked with a node secret, lead
//! to the slot; the rest is compared. A slot is used up by its first answer, and only an answer that
//! comes by the flow the request left by (or from this node) is taken.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use onward_routing::{ErrorCode, ErrorReport, FlowId, Message};
use tokio::sync::Notify;

use crate::error::AskError;

/// Shards of the table, so that workers on different threads seldom meet. A power of two.
const SHARDS: usize = 8;
/// Deadlines are kept to this precision.
const SWEEP: Duration = Duration::from_millis(20);
/// Random bytes fetched from the system at a time, per shard.
const RANDOM_BATCH: usize = 4096;

/// The table of waiting requests.
#[derive(Debug)]
pub(crate) struct Asks {
    shards: [Mutex<Shard>; SHARDS],
    mask: u32,
    waiting: AtomicUsize,
    waiting_max: usize,
    next_shard: AtomicUsize,
    started: Notify,
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
    free: Vec<u32>,
    random: Random,
}

#[derive(Debug)]
struct Slot {
    id: u128,
    /// The flow the request left by; local until it does.
    flow: FlowId,
    deadline: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Waiting(Option<Waker>),
    Answered(Message),
    Failed(AskError),
}

/// A request in flight; its slot is freed when this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    asks: Arc<Asks>,
    id: u128,
    within: Duration,
    /// Whether the slot is still this request's.
    is_open: bool,
}

impl Asks {
    pub(crate) fn new(waiting_max: usize) -> Result<Arc<Self>, getrandom::Error> {
        Ok(Arc::new(Self {
            shards: Default::default(),
            mask: getrandom::u32()?,
            waiting: AtomicUsize::new(0),
            waiting_max,
            next_shard: AtomicUsize::new(0),
            started: Notify::new(),
        }))
    }

    /// Opens a slot that waits for an answer until `within` from now.
    pub(crate) fn open(self: &Arc<Self>, within: Duration) -> Result<Waiting, AskError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= self.waiting_max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(AskError::TooManyAsks);
        }
        if before == 0 {
            self.started.notify_one();
        }
        let now = Instant::now();
        let deadline = now.checked_add(within).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365));
        let number = self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut shard = self.shard(number);
        let random = shard.random.next();
        let index = shard.free.pop().unwrap_or(shard.slots.len() as u32);
        let place = (index * SHARDS as u32 + number as u32) ^ self.mask;
        let id = random << 32 | u128::from(place);
        let slot = Slot { id, flow: FlowId::LOCAL, deadline, state: State::Waiting(None) };
        match shard.slots.get_mut(index as usize) {
            Some(old) => *old = slot,
            None => shard.slots.push(slot),
        }
        Ok(Waiting { asks: Arc::clone(self), id, within, is_open: true })
    }

    /// Whether `id` is a waiting request's; if so it may be answered by `flow` only from now on.
    pub(crate) fn bind(&self, id: u128, flow: FlowId) -> bool {
        self.with_slot(id, |slot| slot.flow = flow).is_some()
    }

    /// Hands an answer to the request it is for; gives it back if there is none.
    pub(crate) fn answer(&self, id: u128, message: Message) -> Result<(), Message> {
        let mut answer = Some(message);
        let waker = self.with_slot(id, |slot| {
            let State::Waiting(waker) = &mut slot.state else { return None };
            let message =
                answer.take_if(|message| message.flow().is_local() || slot.flow == message.flow())?;
            let waker = waker.take();
            slot.state = if message.is_report() {
                State::Failed(reported(&message))
            } else {
                State::Answered(message)
            };
            waker
        });
        if let Some(waker) = waker.flatten() {
            waker.wake();
        }
        answer.map_or(Ok(()), Err)
    }

    /// Fails every request that left by `flow`, because it was lost.
    pub(crate) fn fail_flow(&self, flow: FlowId) {
        self.fail_where(|slot| (slot.flow == flow).then_some(AskError::ConnectionLost));
    }

    /// Fails requests as their deadlines pass; sleeps while there are none.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                self.started.notified().await;
            }
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            self.fail_where(|slot| (slot.deadline <= now).then_some(AskError::Deadline(Duration::ZERO)));
        }
    }

    fn fail_where(&self, failure: impl Fn(&Slot) -> Option<AskError>) {
        for number in 0..SHARDS {
            let mut wakers = Vec::new();
            for slot in &mut self.shard(number).slots {
                if let (State::Waiting(_), Some(error)) = (&slot.state, failure(slot))
                    && let State::Waiting(waker) = std::mem::replace(&mut slot.state, State::Failed(error))
                {
                    wakers.extend(waker);
                }
            }
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Takes the answer out of a slot and frees it, or has the task of `cx` woken when there is one.
    fn poll_answer(&self, id: u128, cx: &mut Context<'_>) -> Poll<Result<Message, AskError>> {
        let (number, index) = self.place(id);
        let mut shard = self.shard(number);
        let Some(slot) = shard.slots.get_mut(index).filter(|slot| slot.id == id) else {
            return Poll::Ready(Err(AskError::ConnectionLost));
        };
        if let State::Waiting(waker) = &mut slot.state {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        Poll::Ready(match self.free(&mut shard, index) {
            State::Answered(message) => Ok(message),
            State::Failed(error) => Err(error),
            State::Free | State::Waiting(_) => Err(AskError::ConnectionLost),
        })
    }

    /// Gives up a request that was not answered.
    fn close(&self, id: u128) {
        let (number, index) = self.place(id);
        let mut shard = self.shard(number);
        if shard.slots.get(index).is_some_and(|slot| slot.id == id) {
            self.free(&mut shard, index);
        }
    }

    /// Frees a slot that is in use and returns what was in it.
    fn free(&self, shard: &mut Shard, index: usize) -> State {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        shard.free.push(index as u32);
        let slot = &mut shard.slots[index];
        slot.id = 0;
        std::mem::replace(&mut slot.state, State::Free)
    }

    fn place(&self, id: u128) -> (usize, usize) {
        let place = (id as u32) ^ self.mask;
        (place as usize % SHARDS, place as usize / SHARDS)
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_slot<T>(&self, id: u128, act: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let (number, index) = self.place(id);
        let mut shard = self.shard(number);
        let slot = shard.slots.get_mut(index)?;
        (slot.id == id && !matches!(slot.state, State::Free)).then(|| act(slot))
    }
}

impl Waiting {
    /// The number of the reply address.
    pub(crate) fn id(&self) -> u128 {
        self.id
    }

    /// Waits for the answer. Cancel safe: nothing is lost until the answer is returned.
    pub(crate) async fn answer(&mut self) -> Result<Message, AskError> {
        let answer = poll_fn(|cx| {
            let answer = std::task::ready!(self.asks.poll_answer(self.id, cx));
            self.is_open = false;
            Poll::Ready(answer)
        });
        answer.await.map_err(|error| match error {
            AskError::Deadline(_) => AskError::Deadline(self.within),
            other => other,
        })
    }
}

/// What a report says; one that cannot be read still says that the request failed.
fn reported(message: &Message) -> AskError {
    let report = ErrorReport::decode(message.payload());
    let ErrorReport { code, at } = report.unwrap_or(ErrorReport { code: ErrorCode::Failed, at: None });
    AskError::Reported { code, at }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_open {
            self.asks.close(self.id);
        }
    }
}

/// System randomness, fetched in batches: one call for 256 numbers.
#[derive(Debug)]
pub(crate) struct Random {
    bytes: Box<[u8]>,
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        Self { bytes: Box::default(), used: RANDOM_BATCH }
    }
}

impl Random {
    /// The next 128 random bits.
    ///
    /// # Panics
    /// When the system has no randomness to give: no address can be made then, nothing could go on.
    pub(crate) fn next(&mut self) -> u128 {
        if self.used + 16 > RANDOM_BATCH {
            self.bytes = vec![0; RANDOM_BATCH].into();
            assert!(getrandom::fill(&mut self.bytes).is_ok(), "the system gives no randomness");
            self.used = 0;
        }
        let mut number = [0; 16];
        number.copy_from_slice(&self.bytes[self.used..self.used + 16]);
        // Used bytes do not stay: an old address must not be read out of memory and guessed on.
        self.bytes[self.used..self.used + 16].fill(0);
        self.used += 16;
        u128::from_be_bytes(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onward_routing::{Address, Route, RouteRef};

    fn answer_by(flow: FlowId) -> Message {
        let mut message = Message::new(Route::from(Address::random(1)).as_ref(), RouteRef::default(), b"yes");
        message.set_flow(flow);
        message
    }

    #[tokio::test]
    async fn n1_6_an_answer_is_taken_once_and_only_from_its_flow() {
        let asks = Asks::new(10).unwrap();
        let (mine, other) = (FlowId::from_number(5), FlowId::from_number(6));
        let mut waiting = asks.open(Duration::from_secs(9)).unwrap();
        assert!(asks.bind(waiting.id(), mine));
        assert!(asks.answer(waiting.id(), answer_by(other)).is_err(), "other flow");
        assert!(asks.answer(waiting.id() ^ 1 << 100, answer_by(mine)).is_err(), "wrong number");
        assert!(asks.answer(waiting.id(), answer_by(mine)).is_ok());
        assert!(asks.answer(waiting.id(), answer_by(mine)).is_err(), "used twice");
        assert_eq!(waiting.answer().await.unwrap().payload(), b"yes");
        let id = waiting.id();
        drop(waiting);
        assert!(!asks.bind(id, mine));
        assert!(asks.answer(id, answer_by(mine)).is_err(), "after its end");
    }

    #[tokio::test]
    async fn asks_are_bounded_and_lost_flows_fail_them_at_once() {
        let asks = Asks::new(2).unwrap();
        let mut one = asks.open(Duration::from_secs(9)).unwrap();
        let _two = asks.open(Duration::from_secs(9)).unwrap();
        assert!(matches!(asks.open(Duration::from_secs(9)), Err(AskError::TooManyAsks)));
        let flow = FlowId::from_number(5);
        asks.bind(one.id(), flow);
        asks.fail_flow(flow);
        assert!(matches!(one.answer().await, Err(AskError::ConnectionLost)));
    }

    #[tokio::test]
    async fn deadlines_pass() {
        let asks = Asks::new(2).unwrap();
        let sweeper = tokio::spawn(Arc::clone(&asks).sweep());
        let within = Duration::from_millis(30);
        let mut one = asks.open(within).unwrap();
        assert!(matches!(one.answer().await, Err(AskError::Deadline(after)) if after == within));
        sweeper.abort();
    }
}
