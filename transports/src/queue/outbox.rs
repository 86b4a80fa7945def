//! What leaves for a mailbox: the frames of an egress, each published as one message.
//!
//! A message is in the memory of this node until its broker has confirmed it. While the broker cannot be
//! reached it is published again and again, under one identifier, and what comes behind it waits in the
//! egress, whose bound is felt by the senders.
//!
//! Specification: docs/protocol.md §2.3.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use onward_routing::{Address, ErrorCode, Message};
use onward_workers::Ingress;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::post::PostLimits;
use super::{Broker, Mid, Publish, QueueError, QueueKind, QueueMessage, Stored, Subject};
use crate::egress::{Batch, Egress, Taken};

/// Publishes to one mailbox of a peer.
pub(super) struct Outbox {
    pub(super) broker: Arc<dyn Broker>,
    /// The peer's mailbox.
    pub(super) to: Subject,
    /// The address of this end's mailbox, where answers come: the peer finds it on the return route.
    pub(super) back: Address,
    pub(super) limits: Arc<PostLimits>,
}

/// A frame that was not stored, and why.
type Refused = (Bytes, ErrorCode);

impl Outbox {
    /// Publishes until the egress has drained. Senders of what is refused are told through `ingress`, as
    /// if the peer had refused it.
    pub(super) async fn run(&self, egress: &Egress, ingress: &mut Ingress) {
        let mut batch = Batch::default();
        while poll_fn(|cx| egress.poll_take(cx, &mut batch)).await == Taken::Batch {
            self.publish(&batch, ingress).await;
            batch.clear();
            egress.written();
        }
    }

    /// Publishes a batch, all of it at once, so that the broker may store it as one.
    async fn publish(&self, batch: &Batch, ingress: &mut Ingress) {
        let mut under_way = JoinSet::new();
        let mut refused: Vec<Refused> = Vec::new();
        for frame in batch.frames() {
            match self.envelop(&frame, ingress) {
                Ok(message) => {
                    let (broker, limits) = (Arc::clone(&self.broker), Arc::clone(&self.limits));
                    let jitter = ingress.router().random();
                    let publishing = Box::pin(async move {
                        let stored = publish(&*broker, message, &limits, jitter).await;
                        stored.map_err(|error| (frame, refusal(&error)))
                    });
                    if let Some(Err(failed)) = begin(&mut under_way, publishing).await {
                        refused.push(failed);
                    }
                }
                Err(code) => refused.push((frame, code)),
            }
        }
        while let Some(published) = under_way.join_next().await {
            if let Ok(Err(failed)) = published {
                refused.push(failed);
            }
        }
        for (frame, code) in refused {
            tracing::debug!(to = %self.to, ?code, "a message was not stored");
            let message = Message::decode_shared(&frame, ingress.router().limits().payload_bytes);
            if let Some(report) = message.ok().and_then(|message| message.into_report(code, None)) {
                // A report that finds its way full is dropped: nobody waits for it.
                drop(ingress.take_in(report));
            }
        }
    }

    /// Writes the way back on a frame and puts it into a message for the queue.
    fn envelop(&self, frame: &Bytes, ingress: &Ingress) -> Result<Publish, ErrorCode> {
        let router = ingress.router();
        let mut message =
            Message::decode_shared(frame, router.limits().payload_bytes).map_err(|_| ErrorCode::Malformed)?;
        message.prepend_return(self.back.as_ref()).map_err(|_| ErrorCode::HopLimit)?;
        if message.encoded_len() > QueueMessage::BODY_BYTES_MAX {
            return Err(ErrorCode::TooBig);
        }
        let own = message.ttl_ms().map(|ttl| Duration::from_millis(ttl.into()));
        let ttl = own.unwrap_or(self.limits.ttl).min(self.limits.ttl);
        let mut body = Vec::with_capacity(message.encoded_len());
        message.encode(&mut body);
        let mid = Mid::new(router.random().to_be_bytes());
        let exp = unix_now().saturating_add(ttl.as_millis().div_ceil(1000) as u64);
        let bytes = QueueMessage { mid, exp, kind: QueueKind::Routed, body: body.into() }.encode();
        Ok(Publish { subject: self.to.clone(), mid, ttl, bytes })
    }
}

/// Publishes until the broker has said yes or no, or the message has expired.
async fn publish(
    broker: &dyn Broker,
    message: Publish,
    limits: &PostLimits,
    jitter: u128,
) -> Result<Stored, QueueError> {
    let until = Instant::now() + message.ttl;
    let mut pause = limits.retry_first * (500 + (jitter % 1001) as u32) / 1000;
    loop {
        match broker.publish(message.clone()).await {
            Err(QueueError::Unreachable(_) | QueueError::Unknown) if Instant::now() < until => {
                sleep(pause).await;
                pause = (pause * 2).min(limits.retry_last);
            }
            said => return said,
        }
    }
}

/// What the sender of a message is told that a broker did not take.
fn refusal(error: &QueueError) -> ErrorCode {
    match error {
        QueueError::QuotaExceeded { .. } | QueueError::StorageFull => ErrorCode::Overloaded,
        QueueError::TooLarge { .. } => ErrorCode::TooBig,
        QueueError::Expired => ErrorCode::Expired,
        QueueError::Unreachable(_) | QueueError::Unknown | QueueError::Closed => ErrorCode::Unreachable,
        _ => ErrorCode::Failed,
    }
}

/// Begins a future here, so that several begin in their order, and lets it end on a task of its own.
async fn begin<T: Send + 'static>(
    tasks: &mut JoinSet<T>,
    mut future: Pin<Box<dyn Future<Output = T> + Send>>,
) -> Option<T> {
    match poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending => {
            tasks.spawn(future);
            None
        }
    }
}

/// Seconds since the Unix epoch.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
