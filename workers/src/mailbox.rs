//! A worker's mailbox: messages swapped out in batches under a short lock, and a lane for notices.
//!
//! Senders take room first ([`Room`]), so the queue is bounded; the worker's task is woken once per
//! batch. Spent blocks go back the same way, so that a stream of messages allocates nothing.
//! Notices (stop, the end of a watched worker) have a lane of their own and overtake messages.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use onward_routing::{Address, Message};
use tokio::sync::Notify;

use crate::room::Room;

/// Why a worker is no more.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum EndReason {
    /// It was stopped, or its node shut down.
    Stopped,
    /// It panicked and was not restarted; the panic's text if it had one.
    Panicked(String),
}

/// A worker that ended, as told to those who watched it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// The worker's address.
    pub worker: Address,
    /// Why it ended.
    pub reason: EndReason,
}

/// Entries that an idle mailbox's queues keep room for, so that a message now and then allocates none.
const IDLE_CAPACITY: usize = 4;

/// What overtakes messages.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Stop after the message in hand; tell the senders of the others.
    Stop,
    /// Take no more, finish what is there, then stop.
    Drain,
    Ended(Ended),
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) address: Address,
    pub(crate) room: Arc<Room>,
    state: Mutex<State>,
    /// Whether a stop is among the notices; looked at between messages, without the lock.
    stopping: AtomicBool,
    /// Woken when the mailbox has ended.
    end: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    /// Handled messages, whose blocks senders take for their next ones; empty when idle.
    spent: Vec<Message>,
    /// How many of the first messages hold no room: it was given back when they were swapped out.
    roomless: usize,
    notices: VecDeque<Notice>,
    waker: Option<Waker>,
    watchers: Vec<Weak<Mailbox>>,
    ended: Option<EndReason>,
    closed: bool,
}

impl Mailbox {
    pub(crate) fn new(address: Address, bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            address,
            room: Arc::new(Room::new(bytes)),
            state: Mutex::default(),
            stopping: AtomicBool::new(false),
            end: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a message for which room was taken, in exchange for a spent one if there is one; gives
    /// it back if the mailbox is closed.
    pub(crate) fn push(&self, message: Message) -> Result<Option<Message>, Message> {
        let (waker, spent) = {
            let mut state = self.state();
            if state.closed {
                return Err(message);
            }
            state.messages.push_back(message);
            (state.waker.take(), state.spent.pop())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(spent)
    }

    /// Puts messages that were swapped out and not handled in front of the others again.
    pub(crate) fn put_back(&self, mut batch: VecDeque<Message>) {
        let mut state = self.state();
        state.roomless += batch.len();
        batch.append(&mut state.messages);
        state.messages = batch;
    }

    /// Puts a notice in front of all messages.
    pub(crate) fn notify(&self, notice: Notice) {
        let waker = {
            let mut state = self.state();
            match notice {
                Notice::Stop => self.stopping.store(true, Ordering::Relaxed),
                Notice::Drain => {
                    state.closed = true;
                    self.room.close();
                }
                Notice::Ended(_) => {}
            }
            state.notices.push_back(notice);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for a notice, or swaps out all messages into the empty `batch` and frees their room;
    /// takes what is `spent` in exchange.
    pub(crate) fn poll_next(
        &self,
        cx: &mut Context<'_>,
        batch: &mut VecDeque<Message>,
        spent: &mut Vec<Message>,
    ) -> Poll<Option<Notice>> {
        let mut state = self.state();
        if let Some(notice) = state.notices.pop_front() {
            return Poll::Ready(Some(notice));
        }
        if state.messages.is_empty() {
            // Idle: keep no buffers of a busy time.
            if state.messages.capacity().max(batch.capacity()) > IDLE_CAPACITY {
                state.messages = VecDeque::new();
                *batch = VecDeque::new();
            }
            state.spent = Vec::new();
            *spent = Vec::new();
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        std::mem::swap(&mut state.messages, batch);
        if state.spent.is_empty() {
            std::mem::swap(&mut state.spent, spent);
        }
        let roomless = std::mem::take(&mut state.roomless);
        drop(state);
        let cost = batch.iter().skip(roomless).map(|message| self.room.cost(message.memory())).sum();
        self.room.give_cost(cost);
        Poll::Ready(None)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// A worker's next life begins: a stop that was meant for the one before is forgotten.
    pub(crate) fn revive(&self) {
        let mut state = self.state();
        state.notices.retain(|notice| !matches!(notice, Notice::Stop));
        self.stopping.store(false, Ordering::Relaxed);
    }

    /// Whether a stop waits, so that the rest of a batch is not handled.
    pub(crate) fn has_stop(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn is_drained(&self) -> bool {
        let state = self.state();
        state.closed && state.messages.is_empty()
    }

    /// Closes for good: returns the messages that were never handled and tells the watchers.
    pub(crate) fn end(&self, reason: EndReason) -> VecDeque<Message> {
        self.room.close();
        let (left, watchers) = {
            let mut state = self.state();
            state.closed = true;
            state.ended = Some(reason.clone());
            state.waker = None;
            state.spent = Vec::new();
            state.notices.clear();
            (std::mem::take(&mut state.messages), std::mem::take(&mut state.watchers))
        };
        self.end.notify_waiters();
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            watcher.notify(Notice::Ended(Ended { worker: self.address.clone(), reason: reason.clone() }));
        }
        left
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended.is_some()
    }

    /// Waits until the mailbox has ended, and says why.
    pub(crate) async fn ended(&self) -> EndReason {
        loop {
            let mut woken = pin!(self.end.notified());
            // Registered before the state is read: an end in between is not missed.
            woken.as_mut().enable();
            if let Some(reason) = self.state().ended.clone() {
                return reason;
            }
            woken.await;
        }
    }

    /// Tells `watcher` when this mailbox ends; at once if it already has.
    pub(crate) fn watch(&self, watcher: &Arc<Self>) {
        let mut state = self.state();
        match state.ended.clone() {
            None => {
                state.watchers.retain(|watcher| watcher.strong_count() > 0);
                state.watchers.push(Arc::downgrade(watcher));
            }
            Some(reason) => {
                drop(state);
                watcher.notify(Notice::Ended(Ended { worker: self.address.clone(), reason }));
            }
        }
    }
}
