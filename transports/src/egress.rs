//! The way out of a connection: one buffer under a lock that senders encode into.
//!
//! Senders take room, then append whole frames; the connection's task swaps the buffer out and writes
//! it at once. Large bodies are not copied: they wait beside the buffer with the place they belong to.
//! While there is no connection yet, messages are held unencoded, so that their senders can be told
//! when there will be none. Nothing here waits or does I/O.
//!
//! Specification: docs/protocol.md §1.2 *Transport sender*, §2.1.

use std::fmt;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use onward_routing::{Address, ErrorCode, FlowId, FlowKind, LENGTH_HEAD, Message};
use onward_workers::{Charge, Closed, FrameSink, Next, Room, Router, Step};

use crate::error::TransportError;

/// Payloads of more bytes than this are not copied into the buffer.
pub(crate) const SHARED_MIN: usize = 16 * 1024;
/// A grant may make a message this much longer than it was when it was looked at.
const GRANT_GROWTH: usize = 37;

/// The step under a connection's address.
pub(crate) struct Egress {
    pub(crate) address: Address,
    pub(crate) flow: FlowId,
    room: Arc<Room>,
    payload_max: usize,
    /// Bytes of the longest encoded message that can leave by it.
    frame_max: usize,
    active: AtomicBool,
    losses: AtomicU64,
    state: Mutex<State>,
}

struct State {
    mode: Mode,
    batch: Batch,
    /// Cost of the batch that is being written.
    in_flight: usize,
    held: Vec<Held>,
    waker: Option<Waker>,
}

/// A message that waits for a connection.
struct Held {
    message: Message,
    cost: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    /// No connection yet: messages are held.
    Waiting,
    Open,
    /// No connection for too long: messages are refused.
    Unreachable,
    /// What is queued still leaves, nothing more is taken.
    Draining,
    Closed,
}

/// Whole frames in the order they go on the wire.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Large bodies, each with the offset in `bytes` it is to be written at.
    bodies: Vec<(usize, Bytes)>,
    cost: usize,
}

/// What the writer does next.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Taken {
    Batch,
    /// Nothing is left and nothing will come.
    Drained,
}

/// Keeps a connection's flow and address registered; its end takes them out again.
pub(crate) struct Registration {
    router: Arc<Router>,
    pub(crate) egress: Arc<Egress>,
}

impl Registration {
    /// Registers a fresh flow, child of `parent` if it was accepted there, with a fresh address. At most
    /// `send_bytes` wait to be sent, in messages of at most `frame_max` encoded bytes.
    pub(crate) fn new(
        router: &Arc<Router>,
        parent: Option<FlowId>,
        send_bytes: usize,
        frame_max: usize,
    ) -> Result<Self, TransportError> {
        let id = router.random();
        let flow = FlowId::new(router.random().to_be_bytes());
        let state = State {
            mode: Mode::Waiting,
            batch: Batch::default(),
            in_flight: 0,
            held: Vec::new(),
            waker: None,
        };
        let egress = Arc::new(Egress {
            address: Address::random(id),
            flow,
            room: Arc::new(Room::new(send_bytes)),
            payload_max: router.limits().payload_bytes,
            frame_max,
            active: AtomicBool::new(true),
            losses: AtomicU64::new(0),
            state: Mutex::new(state),
        });
        let step: Arc<dyn Step> = Arc::<Egress>::clone(&egress);
        router.add_step(&egress.address, step).map_err(|_| TransportError::NoAddress)?;
        let mut reach = router.reach_mut();
        reach.open_flow(flow, FlowKind::Transport, parent);
        reach.set_egress(flow, id);
        drop(reach);
        Ok(Self { router: Arc::clone(router), egress })
    }
}

impl Drop for Registration {
    /// In this order: once nothing more is taken, whoever still waits for an answer by this flow is told.
    fn drop(&mut self) {
        self.egress.close(&self.router);
        self.router.remove(&self.egress.address);
        self.router.flow_lost(self.egress.flow, true);
    }
}

impl Egress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is there: what was held is encoded, and from now on everything at once.
    pub(crate) fn open(&self, router: &Arc<Router>) {
        let mut refused = Vec::new();
        let mut state = self.state();
        if !matches!(state.mode, Mode::Waiting | Mode::Unreachable) {
            return;
        }
        state.mode = Mode::Open;
        for mut held in std::mem::take(&mut state.held) {
            let is_late = held.message.has_expired(|| router.now());
            let departs =
                if is_late { Err(ErrorCode::Expired) } else { router.depart(&mut held.message, self.flow) };
            match departs {
                Ok(()) => {
                    state.batch.put(&held.message, held.cost);
                }
                Err(code) => {
                    self.room.give_cost(held.cost);
                    refused.push((held.message, code));
                }
            }
        }
        wake(state);
        for (message, code) in refused {
            router.report(message, code);
        }
    }

    /// The connection was lost with everything that was not written; another may follow.
    pub(crate) fn lost(&self, router: &Arc<Router>) {
        let mut state = self.state();
        if state.mode == Mode::Open {
            state.mode = Mode::Waiting;
        }
        let cost = state.forget();
        drop(state);
        self.losses.fetch_add(1, Ordering::Relaxed);
        self.room.give_cost(cost);
        router.flow_lost(self.flow, false);
    }

    /// There is no connection for too long: what is held is refused, and what comes from now on.
    pub(crate) fn give_up(&self, router: &Arc<Router>) {
        let mut state = self.state();
        if state.mode != Mode::Waiting {
            return;
        }
        state.mode = Mode::Unreachable;
        self.refuse_held(state, router);
    }

    /// Takes nothing more; says whether a connection is there to write what is queued.
    pub(crate) fn drain(&self) -> bool {
        let mut state = self.state();
        if state.mode != Mode::Open {
            return state.mode == Mode::Draining;
        }
        state.mode = Mode::Draining;
        wake(state);
        true
    }

    /// Takes nothing more and forgets what was not written; held messages are refused.
    fn close(&self, router: &Arc<Router>) {
        let mut state = self.state();
        state.mode = Mode::Closed;
        self.room.close();
        self.refuse_held(state, router);
    }

    fn refuse_held(&self, mut state: MutexGuard<'_, State>, router: &Arc<Router>) {
        let held = std::mem::take(&mut state.held);
        let cost = state.forget() + held.iter().map(|held| held.cost).sum::<usize>();
        drop(state);
        self.room.give_cost(cost);
        for held in held {
            router.report(held.message, ErrorCode::Unreachable);
        }
    }

    /// Whether the connection has not come up yet, or is down.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state().mode, Mode::Waiting | Mode::Unreachable)
    }

    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.state().mode, Mode::Draining | Mode::Closed)
    }

    /// Notes that the connection is in use.
    pub(crate) fn touch(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    /// Whether the connection was in use since the last call.
    pub(crate) fn was_active(&self) -> bool {
        self.active.swap(false, Ordering::Relaxed)
    }

    /// Waits for frames and swaps them into the empty `batch`.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Taken> {
        let mut state = self.state();
        if state.batch.is_empty() {
            if matches!(state.mode, Mode::Draining | Mode::Closed) {
                return Poll::Ready(Taken::Drained);
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        state.take(batch);
        Poll::Ready(Taken::Batch)
    }

    /// Swaps what there is into the empty `batch`.
    #[cfg(feature = "memory")]
    pub(crate) fn take(&self, batch: &mut Batch) {
        self.state().take(batch);
    }

    /// The batch taken last was written: its room is free again.
    pub(crate) fn written(&self) {
        let cost = std::mem::take(&mut self.state().in_flight);
        self.room.give_cost(cost);
    }

    /// Frees the buffers in which nothing is.
    pub(crate) fn shrink(&self) {
        let mut state = self.state();
        if state.batch.is_empty() {
            state.batch = Batch::default();
        }
        state.held.shrink_to_fit();
    }
}

impl State {
    /// Drops all encoded frames; returns what they cost.
    fn forget(&mut self) -> usize {
        let cost = self.batch.cost + std::mem::take(&mut self.in_flight);
        self.batch = Batch::default();
        cost
    }

    fn take(&mut self, batch: &mut Batch) {
        std::mem::swap(&mut self.batch, batch);
        self.in_flight += batch.cost;
    }
}

/// Wakes the writer if it sleeps, after the lock is free.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Step for Egress {
    fn step(&self, router: &Arc<Router>, mut message: Message, charge: Option<Charge>) -> Next {
        let bytes = message.encoded_len() + LENGTH_HEAD;
        if !charge.is_some_and(|charge| charge.spend(&self.room, bytes)) && !self.room.try_take(bytes) {
            return if self.room.is_closed() {
                Next::Refused(ErrorCode::Unreachable, message)
            } else {
                Next::Full(Arc::clone(&self.room), bytes, message)
            };
        }
        let cost = self.room.cost(bytes);
        let mut state = self.state();
        let is_too_big =
            message.payload().len() > self.payload_max || bytes - LENGTH_HEAD > self.frame_max - GRANT_GROWTH;
        let refused = match state.mode {
            Mode::Open | Mode::Waiting if is_too_big => ErrorCode::TooBig,
            Mode::Open => match router.depart(&mut message, self.flow) {
                Ok(()) => {
                    state.batch.put(&message, cost);
                    self.touch();
                    wake(state);
                    return Next::Done(Some(message));
                }
                Err(code) => code,
            },
            Mode::Waiting => {
                state.held.push(Held { message, cost });
                self.touch();
                return Next::Done(None);
            }
            Mode::Unreachable | Mode::Draining | Mode::Closed => ErrorCode::Unreachable,
        };
        drop(state);
        self.touch();
        self.room.give_cost(cost);
        Next::Refused(refused, message)
    }

    fn as_sink(&self) -> Option<&dyn FrameSink> {
        Some(self)
    }
}

impl FrameSink for Egress {
    fn flow(&self) -> FlowId {
        self.flow
    }

    fn room(&self) -> &Arc<Room> {
        &self.room
    }

    fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    fn frame_max(&self) -> usize {
        self.frame_max
    }

    fn append(&self, bytes: usize, write: &mut dyn FnMut(&mut Vec<u8>)) -> Result<(), Closed> {
        let cost = if bytes == 0 { 0 } else { self.room.cost(bytes) };
        let mut state = self.state();
        if !matches!(state.mode, Mode::Open | Mode::Waiting) || !state.batch.frame(cost, None, write, |_| {})
        {
            drop(state);
            self.room.give_cost(cost);
            return Err(Closed);
        }
        self.touch();
        wake(state);
        Ok(())
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a message as a frame.
    fn put(&mut self, message: &Message, cost: usize) -> bool {
        match message.body().filter(|body| body.len() > SHARED_MIN) {
            None => self.frame(cost, None, |bytes| message.encode(bytes), |_| {}),
            Some(body) => self.frame(
                cost,
                Some(body.clone()),
                |bytes| message.encode_before_payload(bytes),
                |bytes| message.encode_after_payload(bytes),
            ),
        }
    }

    /// Appends the length and what the parts append; `false` and nothing changed if that is nothing.
    fn frame(
        &mut self,
        cost: usize,
        body: Option<Bytes>,
        head: impl FnOnce(&mut Vec<u8>),
        tail: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_HEAD]);
        head(&mut self.bytes);
        let shared = body.as_ref().map_or(0, Bytes::len);
        if let Some(body) = body {
            self.bodies.push((self.bytes.len(), body));
        }
        tail(&mut self.bytes);
        let length = self.bytes.len() - start - LENGTH_HEAD + shared;
        if length == 0 {
            self.bytes.truncate(start);
            return false;
        }
        // Payloads are bounded by 16 MiB, so the length fits.
        self.bytes[start..start + LENGTH_HEAD].copy_from_slice(&(length as u32).to_be_bytes());
        self.cost += cost;
        true
    }

    /// The frames one by one, without their lengths, for a transport that has packets.
    #[cfg(any(feature = "memory", feature = "queue"))]
    pub(crate) fn frames(&self) -> Vec<Bytes> {
        let mut bytes = Vec::with_capacity(self.cost);
        for piece in self.pieces() {
            bytes.extend_from_slice(&piece);
        }
        let mut rest = Bytes::from(bytes);
        let mut frames = Vec::new();
        while let Some(head) = rest.first_chunk::<LENGTH_HEAD>() {
            let length = u32::from_be_bytes(*head) as usize;
            frames.push(rest.split_to(LENGTH_HEAD + length).slice(LENGTH_HEAD..));
        }
        frames
    }

    /// Empties it, keeping its memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bodies.clear();
        self.cost = 0;
    }

    /// The one contiguous piece, if there are no large bodies.
    pub(crate) fn plain(&self) -> Option<&[u8]> {
        self.bodies.is_empty().then_some(&*self.bytes)
    }

    /// All pieces in the order they go on the wire.
    pub(crate) fn pieces(&self) -> Vec<IoSlice<'_>> {
        let mut pieces = Vec::with_capacity(2 * self.bodies.len() + 1);
        let mut from = 0;
        for (at, body) in &self.bodies {
            pieces.push(IoSlice::new(&self.bytes[from..*at]));
            pieces.push(IoSlice::new(body));
            from = *at;
        }
        pieces.push(IoSlice::new(&self.bytes[from..]));
        pieces
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Egress")
            .field("address", &self.address)
            .field("flow", &self.flow)
            .field("mode", &state.mode)
            .field("queued_bytes", &state.batch.bytes.len())
            .finish_non_exhaustive()
    }
}
