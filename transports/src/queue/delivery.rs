//! What a subscriber gets: messages that are its own until it settles them.
//!
//! A delivery that is dropped unsettled goes back to its broker and comes again.

use core::fmt;
use core::future::ready;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{BoxFuture, QueueError, Reason};

/// What becomes of a message that was handed out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is handled, or kept elsewhere: the broker forgets it.
    Ack,
    /// It could not be handled now: it comes again after this pause. Not counted.
    Nak(Duration),
    /// It can never be handled: it goes to the dead letters of its mailbox.
    Term(Reason),
    /// It is still being handled: the broker waits as long as at the beginning once more.
    Extend,
}

/// The broker's side of a subscription.
pub trait Settle: fmt::Debug + Send + Sync {
    /// Begins to tell the broker what becomes of the message it handed out under `tag`; the future
    /// waits until it holds. One that it no longer waits for is ignored: it was handed out again.
    ///
    /// # Errors
    /// [`QueueError`] when the broker did not hear it; the message then comes again.
    ///
    /// # Cancel safety
    /// Heard or not.
    fn settle(&self, tag: u64, verdict: Verdict) -> BoxFuture<'static, Result<(), QueueError>>;

    /// The delivery was dropped unsettled, before or after its subscriber had `taken` it. A broker that
    /// does nothing here notices when its own patience ends.
    fn abandon(&self, tag: u64, taken: bool) {
        let _ = (tag, taken);
    }

    /// The subscription is over.
    fn unsubscribe(&self) {}
}

/// A message that was handed out, to be settled by exactly one of `ack`, `nak` and `term`.
#[derive(Debug)]
pub struct Delivery {
    bytes: Bytes,
    attempt: u32,
    tag: u64,
    taken: bool,
    /// None once it is settled.
    broker: Option<Arc<dyn Settle>>,
}

impl Delivery {
    /// A message that `broker` knows by `tag`; it was handed out `attempt` times, this time included.
    #[must_use]
    pub fn new(bytes: Bytes, attempt: u32, tag: u64, broker: Arc<dyn Settle>) -> Self {
        Self { bytes, attempt, tag, taken: false, broker: Some(broker) }
    }

    /// The bytes as they came from the broker, who may have changed them: a
    /// [`QueueMessage`](super::QueueMessage), if they were not.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How often it was handed out, this time included, as far as the broker knows. 1 is certainly the
    /// first time; with 2 or more it may have been handled before.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// It is handled, or kept elsewhere: only after that is durable may this be called. The broker is told
    /// now; the future waits until it holds, and who does not wait may have the message once more.
    ///
    /// # Errors
    /// [`QueueError`]; the message then comes again.
    ///
    /// # Cancel safety
    /// Heard or not.
    pub fn ack(self) -> BoxFuture<'static, Result<(), QueueError>> {
        self.settle(Verdict::Ack)
    }

    /// It cannot be handled now, for a reason that is not the message's: it comes again after `pause`,
    /// see [`transient_pause`](super::transient_pause).
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// Heard or not.
    pub fn nak(self, pause: Duration) -> BoxFuture<'static, Result<(), QueueError>> {
        self.settle(Verdict::Nak(pause))
    }

    /// It can never be handled: its bytes go to the dead letters of its mailbox, unchanged.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// Heard or not.
    pub fn term(self, reason: Reason) -> BoxFuture<'static, Result<(), QueueError>> {
        self.settle(Verdict::Term(reason))
    }

    /// It is still being handled; to be called every 10 s while it is.
    ///
    /// # Errors
    /// [`QueueError`]; the message may then come again meanwhile.
    ///
    /// # Cancel safety
    /// Heard or not.
    pub fn extend(&self) -> BoxFuture<'static, Result<(), QueueError>> {
        match &self.broker {
            Some(broker) => broker.settle(self.tag, Verdict::Extend),
            None => Box::pin(ready(Ok(()))),
        }
    }

    fn settle(mut self, verdict: Verdict) -> BoxFuture<'static, Result<(), QueueError>> {
        match self.broker.take() {
            Some(broker) => broker.settle(self.tag, verdict),
            None => Box::pin(ready(Ok(()))),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.abandon(self.tag, self.taken);
        }
    }
}

/// The messages of one subject, as a subscriber gets them. Its end gives back what was not settled.
pub struct Subscription {
    deliveries: mpsc::Receiver<Delivery>,
    taken: Arc<AtomicU64>,
    broker: Arc<dyn Settle>,
}

impl Subscription {
    /// A subscription whose broker sends at most `prefetch` unsettled deliveries into the returned
    /// sender, and learns from the returned counter how many of them were taken, in their order.
    #[must_use]
    pub fn new(prefetch: usize, broker: Arc<dyn Settle>) -> (mpsc::Sender<Delivery>, Arc<AtomicU64>, Self) {
        let (sender, deliveries) = mpsc::channel(prefetch.max(1));
        let taken = Arc::new(AtomicU64::new(0));
        (sender, Arc::clone(&taken), Self { deliveries, taken, broker })
    }

    /// Waits for the next message; `None` once the broker has ended the subscription. Waiting costs
    /// nothing: nothing wakes up until there is a message.
    ///
    /// # Cancel safety
    /// No message is lost.
    pub async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.recv().await;
        delivery.map(|delivery| self.take(delivery))
    }

    /// The next message, if there is one now.
    pub fn try_next(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.try_recv().ok();
        delivery.map(|delivery| self.take(delivery))
    }

    fn take(&self, mut delivery: Delivery) -> Delivery {
        self.taken.fetch_add(1, Ordering::Relaxed);
        delivery.taken = true;
        delivery
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.broker.unsubscribe();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deliveries, taken: _, broker } = self;
        f.debug_struct("Subscription")
            .field("broker", broker)
            .field("waiting", &deliveries.len())
            .finish_non_exhaustive()
    }
}
