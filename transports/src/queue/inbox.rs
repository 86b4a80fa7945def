//! What comes to a mailbox: deliveries read, checked against time and repetition, and settled.
//!
//! A delivery is acknowledged once its message is with its target: in a mailbox of this node, or in the
//! buffer of the next connection. While its target is not there, has stopped or has no room, it stays in
//! the queue. What is no message, or may not reach its target, goes to the dead letters; what has
//! expired, or was taken before, is acknowledged and forgotten.
//!
//! Specification: docs/protocol.md §2.3.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use onward_routing::{ErrorCode, Kind, Message};
use onward_workers::Ingress;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::outbox::unix_now;
use super::post::PostLimits;
use super::{
    Broker, Delivery, Mailbox, Mid, QueueError, QueueKind, QueueMessage, Reason, Subject, Subscription,
    transient_pause,
};

/// How long a message waits for its target to have room before it goes back to the queue, so that others get by.
const PATIENCE: Duration = Duration::from_secs(5);

/// Receives from one mailbox of this node.
pub(super) struct Inbox {
    broker: Arc<dyn Broker>,
    subject: Subject,
    limits: Arc<PostLimits>,
    subscription: Option<Subscription>,
    taken: Remembered,
    settling: JoinSet<()>,
}

/// A message with what its delivery is settled by.
pub(super) struct Arrived {
    delivery: Delivery,
    mid: Mid,
    /// The mailbox that answers go to.
    pub(super) back: Mailbox,
    pub(super) message: Message,
}

/// The identifiers of the last messages that were taken.
#[derive(Debug, Default)]
struct Remembered {
    known: HashSet<Mid>,
    order: VecDeque<Mid>,
}

enum Read {
    Message {
        mid: Mid,
        back: Mailbox,
        message: Message,
    },
    /// Expired, or taken before.
    Past,
    Malformed,
}

impl Inbox {
    pub(super) fn new(broker: Arc<dyn Broker>, subject: Subject, limits: Arc<PostLimits>) -> Self {
        let taken = Remembered::default();
        Self { broker, subject, limits, subscription: None, taken, settling: JoinSet::new() }
    }

    /// Waits for the next message; subscribes again whenever the broker ends the subscription.
    ///
    /// # Cancel safety
    /// No message is lost.
    pub(super) async fn next(&mut self, payload_max: usize) -> Arrived {
        loop {
            let delivery = self.delivery().await;
            match self.read(&delivery, payload_max) {
                Read::Message { mid, back, message } => return Arrived { delivery, mid, back, message },
                Read::Past => self.settle(delivery.ack()),
                Read::Malformed => self.settle(delivery.term(Reason::Malformed)),
            }
        }
    }

    /// Hands a message to its target and settles its delivery.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message comes again.
    pub(super) async fn hand_over(&mut self, arrived: Arrived, ingress: &mut Ingress) {
        let Arrived { delivery, mid, back: _, message } = arrived;
        let pause = transient_pause(delivery.attempt());
        match timeout(PATIENCE, ingress.deliver(message)).await {
            Ok(Ok(())) => {
                self.taken.insert(mid, self.limits.remembered);
                self.settle(delivery.ack());
            }
            Err(_) => self.settle(delivery.nak(pause)),
            Ok(Err((code, message))) => {
                tracing::debug!(from = %self.subject, ?code, "a message was not taken");
                if is_transient(code) {
                    self.settle(delivery.nak(pause));
                } else {
                    ingress.router().report(message, code);
                    self.settle(delivery.term(Reason::Refused));
                }
            }
        }
    }

    /// Waits until the broker has heard what became of every delivery.
    pub(super) async fn finish(mut self) {
        while self.settling.join_next().await.is_some() {}
    }

    async fn delivery(&mut self) -> Delivery {
        let mut pause = self.limits.retry_first;
        loop {
            if let Some(subscription) = &mut self.subscription {
                if let Some(delivery) = subscription.next().await {
                    return delivery;
                }
                self.subscription = None;
                // A broker that ends every subscription must not be asked in a tight loop.
                sleep(pause).await;
                pause = (pause * 2).min(self.limits.retry_last);
            }
            match self.broker.subscribe(self.subject.clone(), self.limits.prefetch).await {
                Ok(subscription) => self.subscription = Some(subscription),
                Err(error) => {
                    tracing::debug!(from = %self.subject, %error, "no subscription yet");
                    sleep(pause).await;
                    pause = (pause * 2).min(self.limits.retry_last);
                }
            }
        }
    }

    fn read(&self, delivery: &Delivery, payload_max: usize) -> Read {
        let Some(queued) = QueueMessage::decode(delivery.bytes()) else { return Read::Malformed };
        if queued.exp <= unix_now() || self.taken.known.contains(&queued.mid) {
            return Read::Past;
        }
        if queued.kind != QueueKind::Routed {
            return Read::Malformed;
        }
        let Ok(mut message) = Message::decode_shared(&queued.body, payload_max) else {
            return Read::Malformed;
        };
        match message.take_return().as_ref().and_then(mailbox_of) {
            Some(back) => Read::Message { mid: queued.mid, back, message },
            None => Read::Malformed,
        }
    }

    fn settle(&mut self, settling: impl Future<Output = Result<(), QueueError>> + Send + 'static) {
        while self.settling.try_join_next().is_some() {}
        let subject = self.subject.clone();
        self.settling.spawn(async move {
            if let Err(error) = settling.await {
                tracing::debug!(from = %subject, %error, "a delivery may come again");
            }
        });
    }
}

impl Remembered {
    fn insert(&mut self, mid: Mid, most: usize) {
        if !self.known.insert(mid) {
            return;
        }
        self.order.push_back(mid);
        if self.order.len() > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// Whether a message that was refused so may be taken later.
fn is_transient(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NoWorker | ErrorCode::Stopped | ErrorCode::Overloaded | ErrorCode::Unreachable)
}

/// The mailbox that a queue address names, whatever its sender calls the queue.
pub(super) fn mailbox_of(address: &onward_routing::Address) -> Option<Mailbox> {
    if address.kind() != Kind::Queue {
        return None;
    }
    address.value().split_once('/')?.1.parse().ok()
}
