//! A socket as others see it: what they ask of the task that serves it, and how they wake it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use onward_routing::FlowId;
use onward_workers::Closed;
use tokio::sync::{oneshot, watch};

use super::datagram::Cid;
use crate::egress::Egress;
use crate::stream::Lost;

/// A bound socket. The task that serves it ends when nobody listens on it or has dialled by it.
pub(crate) struct Socket {
    pub(crate) local: SocketAddr,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    orders: Vec<Order>,
    /// Peers for which there is something to be sent.
    ready: Vec<Cid>,
    waker: Option<Waker>,
    is_closed: bool,
}

/// What is asked of the task that serves a socket.
pub(crate) enum Order {
    /// Take new peers, whose flows are children of this one.
    Listen(FlowId),
    /// Take no new peers and let those that were accepted write what they have. The sender is dropped
    /// when none is left.
    Drain(oneshot::Sender<()>),
    /// End what was accepted. The sender is dropped when that is done.
    Unlisten(Option<oneshot::Sender<()>>),
    /// Ask for a peer at an address.
    Dial { cid: Cid, address: SocketAddr, egress: Arc<Egress>, progress: watch::Sender<Progress> },
    /// Forget a peer that was dialled.
    HangUp(Cid),
}

/// How a peer that was dialled stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Progress {
    Asking,
    Connected,
    Gone,
}

impl Socket {
    /// A socket bound to `local`, whose task is first to do this.
    pub(crate) fn new(local: SocketAddr, first: Order) -> Arc<Self> {
        let inbox = Inbox { orders: vec![first], ..Inbox::default() };
        Arc::new(Self { local, inbox: Mutex::new(inbox) })
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks something of the socket's task.
    ///
    /// # Errors
    /// The order, when the task has ended.
    pub(crate) fn order(&self, order: Order) -> Result<(), Order> {
        let mut inbox = self.inbox();
        if inbox.is_closed {
            return Err(order);
        }
        inbox.orders.push(order);
        wake(inbox);
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inbox().is_closed
    }

    /// Takes what was asked, and the peers with something to send.
    pub(crate) fn take(&self, orders: &mut Vec<Order>, ready: &mut impl Extend<Cid>) {
        let mut inbox = self.inbox();
        orders.append(&mut inbox.orders);
        ready.extend(inbox.ready.drain(..));
    }

    /// Waits until there is something to take.
    pub(crate) fn poll_called(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inbox = self.inbox();
        if !inbox.orders.is_empty() || !inbox.ready.is_empty() {
            return Poll::Ready(());
        }
        match &mut inbox.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Takes no more orders.
    ///
    /// # Errors
    /// [`Closed`] when some have come: they are to be done first.
    pub(crate) fn close(&self) -> Result<(), Closed> {
        let mut inbox = self.inbox();
        inbox.is_closed = inbox.orders.is_empty();
        if inbox.is_closed { Ok(()) } else { Err(Closed) }
    }

    /// The waker by which the egress of a peer says that it has something to send.
    pub(crate) fn waker_of(self: &Arc<Self>, cid: Cid) -> Waker {
        Waker::from(Arc::new(PeerWaker { socket: Arc::clone(self), cid }))
    }
}

/// Wakes the task, after the lock is free.
fn wake(mut inbox: MutexGuard<'_, Inbox>) {
    let waker = inbox.waker.take();
    drop(inbox);
    if let Some(waker) = waker {
        waker.wake();
    }
}

struct PeerWaker {
    socket: Arc<Socket>,
    cid: Cid,
}

impl Wake for PeerWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut inbox = self.socket.inbox();
        inbox.ready.push(self.cid);
        wake(inbox);
    }
}

/// A peer that was dialled; dropping it forgets the peer.
pub(crate) struct Call {
    cid: Cid,
    socket: Arc<Socket>,
    progress: watch::Receiver<Progress>,
}

impl Call {
    pub(crate) fn new(socket: Arc<Socket>, cid: Cid, progress: watch::Receiver<Progress>) -> Self {
        Self { cid, socket, progress }
    }

    /// Waits until the peer has answered.
    pub(crate) async fn connected(&mut self) -> Result<(), Lost> {
        match self.progress.wait_for(|progress| *progress != Progress::Asking).await.as_deref() {
            Ok(Progress::Connected) => Ok(()),
            _ => Err(Lost::Silent),
        }
    }

    /// Waits until the peer is gone.
    pub(crate) async fn gone(&mut self) {
        // An error says that the socket's task is gone, and with it every peer.
        let _ = self.progress.wait_for(|progress| *progress == Progress::Gone).await;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // With the task, the peer is forgotten as well.
        let _ = self.socket.order(Order::HangUp(self.cid));
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("local", &self.local).finish_non_exhaustive()
    }
}
