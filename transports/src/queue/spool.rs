//! A queue on the disk of this machine in front of a broker, for the times when that is away.
//!
//! What is published is stored here, and its receipt is this disk's. It leaves for the broker in the order in which it
//! was stored, each mailbox for itself and one message after the other, and is taken off the disk when the broker
//! has confirmed it. So memory holds at most [`WINDOW`] messages of a mailbox, however long the broker is away; the
//! quotas of the disk's queue are the bound of the rest. What is received comes straight from the broker.
//!
//! Several at once would leave sooner, and overtake each other wherever one of them fails.
//!
//! Specification: docs/protocol.md §2.3.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::outbox::unix_now;
use super::server::Backoff;
use super::{
    BoxFuture, Broker, Delivery, Durability, EmbeddedQueue, Publish, QueueError, QueueMessage, Reason,
    Server, Standing, Stored, Subject, Subscription,
};

/// Messages of one mailbox that are in memory, of which the first is on its way to the broker.
const WINDOW: usize = 64;
/// How long a mailbox for which nothing is stored keeps its task.
const IDLE: Duration = Duration::from_secs(60);

/// A broker, with a queue on this disk in front of it.
pub struct SpooledQueue {
    disk: EmbeddedQueue,
    broker: Arc<dyn Server>,
    leaving: Arc<Mutex<Leaving>>,
}

/// Mailboxes that something leaves for. Its tasks end with it.
#[derive(Default)]
struct Leaving {
    /// How often something was stored for each since its task began.
    stored: HashMap<Subject, u64>,
    tasks: JoinSet<()>,
}

impl SpooledQueue {
    /// Puts `disk` in front of `broker`; what is on it begins to leave.
    ///
    /// # Errors
    /// Those of listing what is on the disk.
    ///
    /// # Cancel safety
    /// Nothing has left then.
    pub async fn new(disk: EmbeddedQueue, broker: Arc<dyn Server>) -> Result<Self, QueueError> {
        let rows = disk.mailboxes().await?;
        let spooled = Self { disk, broker, leaving: Arc::default() };
        for row in rows.into_iter().filter(|row| row.messages > 0) {
            spooled.forward(row.subject);
        }
        Ok(spooled)
    }

    async fn store(&self, message: Publish) -> Result<Stored, QueueError> {
        let subject = message.subject.clone();
        let stored = self.disk.publish(message).await?;
        self.forward(subject);
        Ok(stored)
    }

    /// Sees to it that what is stored for a mailbox leaves.
    fn forward(&self, subject: Subject) {
        let mut leaving = lock(&self.leaving);
        while leaving.tasks.try_join_next().is_some() {}
        if let Some(stored) = leaving.stored.get_mut(&subject) {
            *stored += 1;
            return;
        }
        leaving.stored.insert(subject.clone(), 0);
        let (disk, broker) = (self.disk.clone(), Arc::clone(&self.broker));
        let leaving_to = Arc::downgrade(&self.leaving);
        leaving.tasks.spawn(Forwarder { disk, broker, subject, leaving: leaving_to }.run());
    }
}

impl Broker for SpooledQueue {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(self.store(message))
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        self.broker.subscribe(subject, prefetch)
    }
}

impl Server for SpooledQueue {
    fn standing(&self) -> Standing {
        // What leaves has the broker's own class; that of a receipt is the disk's.
        Standing { durability: Durability::Disk, ..self.broker.standing() }
    }
}

impl fmt::Debug for SpooledQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpooledQueue").field("broker", &self.broker).finish_non_exhaustive()
    }
}

fn lock(leaving: &Mutex<Leaving>) -> MutexGuard<'_, Leaving> {
    leaving.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of a mailbox.
struct Forwarder {
    disk: EmbeddedQueue,
    broker: Arc<dyn Server>,
    subject: Subject,
    leaving: Weak<Mutex<Leaving>>,
}

impl Forwarder {
    async fn run(self) {
        let mut known = 0;
        let mut backoff = Backoff::new();
        loop {
            match self.disk.subscribe(self.subject.clone(), WINDOW).await {
                Ok(subscription) => {
                    if self.drain(subscription, &mut known).await {
                        return;
                    }
                }
                Err(QueueError::Closed) => return,
                Err(error) => tracing::debug!(to = %self.subject, %error, "nothing leaves the disk yet"),
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Publishes what comes; whether there is nothing left to do, and not only an end of the subscription.
    async fn drain(&self, mut subscription: Subscription, known: &mut u64) -> bool {
        loop {
            match timeout(IDLE, subscription.next()).await {
                Ok(Some(delivery)) => self.leave(delivery).await,
                Ok(None) => return false,
                Err(_) if self.is_done(known) => return true,
                Err(_) => {}
            }
        }
    }

    /// Whether nothing was stored since the last time this was asked. Whoever stores something later begins
    /// another task.
    fn is_done(&self, known: &mut u64) -> bool {
        let Some(leaving) = self.leaving.upgrade() else { return true };
        let mut leaving = lock(&leaving);
        let stored = leaving.stored.get(&self.subject).copied().unwrap_or_default();
        if stored == *known {
            leaving.stored.remove(&self.subject);
            return true;
        }
        *known = stored;
        false
    }

    /// Publishes a message until the broker has confirmed it, and takes it off the disk.
    async fn leave(&self, delivery: Delivery) {
        let mut backoff = Backoff::new();
        let settled = loop {
            let Some(message) = self.message(&delivery) else { break delivery.term(Reason::Malformed) };
            match self.broker.publish(message).await {
                Ok(_) | Err(QueueError::Expired) => break delivery.ack(),
                Err(QueueError::TooLarge { .. }) => break delivery.term(Reason::Refused),
                Err(error) => tracing::debug!(to = %self.subject, %error, "a message stays on the disk"),
            }
            // Unheard, it comes again.
            let _ = delivery.extend().await;
            sleep(backoff.pause()).await;
        };
        // The disk was told; unheard, the message leaves twice.
        drop(settled);
    }

    /// What was stored, for the time that is left to it.
    fn message(&self, delivery: &Delivery) -> Option<Publish> {
        let QueueMessage { mid, exp, .. } = QueueMessage::decode(delivery.bytes())?;
        let ttl = Duration::from_secs(exp.saturating_sub(unix_now()));
        Some(Publish { subject: self.subject.clone(), mid, ttl, bytes: delivery.bytes().clone() })
    }
}
