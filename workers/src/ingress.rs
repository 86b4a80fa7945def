//! Where messages from outside come in: one per connection or channel.
//!
//! An ingress marks what it takes in with its flow and writes its own address in front of the return
//! route, so that a reply can only go back the way the request came. Messages for a full target wait in
//! a lane of their own while other routes go on. Only for a lane that is full too the reader pauses,
//! which slows the sender down and loses nothing, as long as the target keeps up. It stops all routes of the
//! connection, so it is never for long: then the target is *slow*, and its messages are refused as overloaded
//! until half of the lane has drained.
//!
//! Specification: docs/protocol.md §1.2 (invariant R1), §1.3 *Limits*.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use onward_routing::{Address, DecodeError, ErrorCode, FlowId, Message};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::recent::Recent;
use crate::router::{Pending, Router, Target, Walk};

/// Lanes of one ingress at once; with all in use further full targets count as slow.
const LANES_MAX: usize = 64;
/// A pause is the back-pressure of a target that keeps up, and is not counted, up to here and as long as the
/// messages that the target took in it make it.
const PAUSE_SHORT: Duration = Duration::from_millis(5);
/// What a target may take for one message and still keep up.
const KEEPING_UP: Duration = Duration::from_millis(1);
/// Longer pauses for one target within this time count together.
const PAUSE_WINDOW: Duration = Duration::from_secs(1);
/// A pause is waited for in so many parts, one after the other. Where the whole machine stands still, the part
/// that it falls into ends late, and the target still has its turn in the others.
const PAUSE_PARTS: u32 = 5;

/// Takes in what one connection or channel receives.
pub struct Ingress {
    router: Arc<Router>,
    flow: FlowId,
    own: Address,
    lanes: HashMap<usize, Arc<Lane>, RandomState>,
    recent: Recent,
}

/// A message whose lane is full; the reader pauses with [`Ingress::pause`] or says so with [`Ingress::refuse`].
#[must_use = "the message is lost unless the ingress is paused or refuses it"]
pub struct Blocked(Box<Pending>);

struct Lane {
    state: Mutex<LaneState>,
    drained: Notify,
}

#[derive(Default)]
struct LaneState {
    waiting: VecDeque<Pending>,
    bytes: usize,
    slow: bool,
    /// Messages that the target took out of this lane.
    taken: u32,
    /// When the reader last began to be held up for this target, and for how long since; a pause for a
    /// target that keeps up does not count.
    paused: Option<(Instant, Duration)>,
    /// The task that drains the lane has ended; the next message starts another.
    idle: bool,
}

impl Ingress {
    /// The ingress of `flow`, whose egress worker has the address `own`.
    #[must_use]
    pub fn new(router: Arc<Router>, flow: FlowId, own: Address) -> Self {
        Self { router, flow, own, lanes: HashMap::default(), recent: Recent::default() }
    }

    /// The router this ingress feeds.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Decodes one frame and routes it; small payloads are copied out of the frame.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but a message in canonical form.
    pub fn accept(&mut self, frame: &[u8]) -> Result<Option<Blocked>, DecodeError> {
        let message = Message::decode(frame, self.router.limits.payload_bytes)?;
        Ok(self.take_in(message))
    }

    /// As [`Ingress::accept`]; a large payload shares the frame's memory.
    ///
    /// # Errors
    /// As [`Ingress::accept`].
    pub fn accept_shared(&mut self, frame: &Bytes) -> Result<Option<Blocked>, DecodeError> {
        let message = Message::decode_shared(frame, self.router.limits.payload_bytes)?;
        Ok(self.take_in(message))
    }

    /// Routes a message that this flow brought.
    pub fn take_in(&mut self, message: Message) -> Option<Blocked> {
        let (message, known) = match self.enter(message) {
            Ok(entered) => entered,
            Err((code, message)) => {
                self.router.report(message, code);
                return None;
            }
        };
        let lanes = &self.lanes;
        let held = |target: &Target| lanes.get(&target.key()).is_some_and(|lane| !lane.state().idle);
        let held: Option<&dyn Fn(&Target) -> bool> = if lanes.is_empty() { None } else { Some(&held) };
        match self.router.walk(message, known, held) {
            Walk::Done => None,
            Walk::Refused(code, message) => {
                self.router.report(message, code);
                None
            }
            Walk::Full(pending) => self.queue(pending),
        }
    }

    /// Marks a message with this flow and the way back, and finds its target if that is known already.
    fn enter(&mut self, mut message: Message) -> Result<(Message, Option<Target>), (ErrorCode, Message)> {
        message.set_flow(self.flow);
        message.clamp_hops();
        // A message that names no target or has no room for the way back could not be answered.
        if message.onward().is_empty() || message.prepend_return(self.own.as_ref()).is_err() {
            return Err((ErrorCode::HopLimit, message));
        }
        match self.recent.target(&self.router, &message).transpose() {
            Ok(known) => Ok((message, known)),
            Err(code) => Err((code, message)),
        }
    }

    /// Puts a message in its target's lane; gives it back when the reader should pause for it.
    fn queue(&mut self, pending: Pending) -> Option<Blocked> {
        let key = pending.target.key();
        if !self.lanes.contains_key(&key) {
            self.lanes.retain(|_, lane| !lane.state().idle);
            if self.lanes.len() >= LANES_MAX {
                self.router.report(pending.message, ErrorCode::Overloaded);
                return None;
            }
        }
        let lane = self.lanes.entry(key).or_insert_with(Lane::new);
        let mut state = lane.state();
        if state.slow {
            drop(state);
            self.router.report(pending.message, ErrorCode::Overloaded);
            return None;
        }
        let bytes = pending.bytes();
        if !state.waiting.is_empty() && state.bytes + bytes > self.router.limits.lane_bytes {
            return Some(Blocked(Box::new(pending)));
        }
        if !self.router.lanes.try_take(bytes) {
            drop(state);
            self.router.report(pending.message, ErrorCode::Overloaded);
            return None;
        }
        state.bytes += bytes;
        state.waiting.push_back(pending);
        if std::mem::take(&mut state.idle) {
            drop(state);
            tokio::spawn(Arc::clone(lane).drain(Arc::clone(&self.router)));
        }
        None
    }

    /// Refuses a blocked message as overloaded, for a reader that has many peers and pauses for none.
    pub fn refuse(&self, blocked: Blocked) {
        self.router.report(blocked.0.message, ErrorCode::Overloaded);
    }

    /// Waits for the lane of a blocked message, at most 50 ms for a worker and 5 s for an egress in a second; if
    /// that does not help, the target is slow from now on and the message is refused as overloaded.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the blocked message is lost.
    pub async fn pause(&mut self, blocked: Blocked) {
        let mut blocked = *blocked.0;
        let limits = &self.router.limits;
        let most = if blocked.target.is_mailbox() { limits.worker_pause } else { limits.egress_pause };
        let began = Instant::now();
        // The pauses of one second count together: a target that is always a little too slow must not
        // hold up the other routes of its connection.
        let Some(lane) = self.lanes.get(&blocked.target.key()).cloned() else {
            return self.router.report(blocked.message, ErrorCode::Overloaded);
        };
        let (used, taken) = lane.paused(began);
        let part = most.saturating_sub(used) / PAUSE_PARTS;
        let mut parts = if part.is_zero() { 0 } else { PAUSE_PARTS };
        let mut end = began + part;
        loop {
            let drained = lane.drained.notified();
            match self.queue(blocked) {
                None => return lane.add_pause(began.elapsed().saturating_sub(lane.keeping_up(taken))),
                Some(again) => blocked = *again.0,
            }
            if parts == 0 {
                lane.add_pause(began.elapsed());
                lane.state().slow = true;
                break;
            }
            if tokio::time::timeout_at(end, drained).await.is_err() {
                parts -= 1;
                end = Instant::now() + part;
            }
        }
        self.router.report(blocked.message, ErrorCode::Overloaded);
    }

    /// Hands a message to its target and waits for as long as that has no room: for a source that keeps what is not
    /// taken, as a queue does. Nothing waits in a lane, and nobody is told of a refusal.
    ///
    /// # Errors
    /// Why the message was refused, with the message.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message was not delivered.
    pub async fn deliver(&mut self, message: Message) -> Result<(), (ErrorCode, Message)> {
        let (message, known) = self.enter(message)?;
        let mut walk = self.router.walk(message, known, None);
        loop {
            match walk {
                Walk::Done => return Ok(()),
                Walk::Refused(code, message) => return Err((code, message)),
                Walk::Full(pending) => {
                    // A closed target refuses the message in `resume`.
                    let charge = pending.charge().await.ok();
                    walk = self.router.resume(pending, charge);
                }
            }
        }
    }
}

impl Lane {
    fn new() -> Arc<Self> {
        let state = LaneState { idle: true, ..LaneState::default() };
        Arc::new(Self { state: Mutex::new(state), drained: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the reader was held up for this target within the last second, and how many messages the target
    /// has taken.
    fn paused(&self, now: Instant) -> (Duration, u32) {
        let mut state = self.state();
        let paused = match state.paused {
            Some((since, paused)) if now.duration_since(since) < PAUSE_WINDOW => paused,
            _ => {
                state.paused = Some((now, Duration::ZERO));
                Duration::ZERO
            }
        };
        (paused, state.taken)
    }

    /// How long a target that keeps up may have needed for what it took since it had taken `before` messages.
    fn keeping_up(&self, before: u32) -> Duration {
        KEEPING_UP * self.state().taken.wrapping_sub(before)
    }

    fn add_pause(&self, more: Duration) {
        if let Some((_, paused)) = &mut self.state().paused
            && more > PAUSE_SHORT
        {
            *paused += more;
        }
    }

    /// Hands the lane's messages to their target as it gets room, in order; ends when none are left.
    async fn drain(self: Arc<Self>, router: Arc<Router>) {
        while let Some(pending) = self.take_first() {
            let bytes = pending.bytes();
            let mut walk = router.resume(pending, None);
            while let Walk::Full(pending) = walk {
                // A closed target refuses the message in `resume` and its sender is told.
                let charge = pending.charge().await.ok();
                walk = router.resume(pending, charge);
            }
            if let Walk::Refused(code, message) = walk {
                router.report(message, code);
            }
            router.lanes.give(bytes);
            self.release(bytes, router.limits.lane_bytes);
        }
    }

    fn take_first(&self) -> Option<Pending> {
        let mut state = self.state();
        let first = state.waiting.pop_front();
        if first.is_none() {
            state.idle = true;
            state.slow = false;
            state.bytes = 0;
            drop(state);
            self.drained.notify_waiters();
        }
        first
    }

    fn release(&self, bytes: usize, capacity: usize) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.taken = state.taken.wrapping_add(1);
        if state.bytes <= capacity / 2 {
            state.slow = false;
            drop(state);
            self.drained.notify_waiters();
        }
    }
}

impl fmt::Debug for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingress")
            .field("flow", &self.flow)
            .field("own", &self.own)
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blocked").field(&self.0.message).finish()
    }
}
