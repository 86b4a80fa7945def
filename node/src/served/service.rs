//! The worker that lets other nodes use a queue of this one.
//!
//! Who knows a mailbox may fetch from it; whoever reaches the worker may publish. It keeps no message:
//! what it has handed out and not heard of goes back to the queue.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use onward_routing::FlowId;
use onward_transports::queue::{Broker, Delivery, Mid, Publish, QueueError, Subject, Subscription, Verdict};
use onward_workers::{Context, Failure, NoReply, Worker};
use tokio::sync::Semaphore;
use tokio::time::{Instant, interval, timeout};

use super::wire::{Fetched, QueueAnswer, QueueRequest, durability_code, refused, verdict_of};
use super::{ABANDONED, FETCH, FETCH_BYTES, LEASE};

/// Requests that are under way at once; more wait in the worker's mailbox.
const REQUESTS_MAX: usize = 1024;
/// Subscriptions at once; one more is refused.
const SUBSCRIPTIONS_MAX: usize = 4096;
/// Of them, what comes by one connection or channel, so that none takes the places of all others.
const SUBSCRIPTIONS_FLOW_MAX: usize = 512;
/// Deliveries of one subscription that are not settled yet.
const PREFETCH: usize = 256;
/// How often leases are looked at.
const TICK: Duration = Duration::from_secs(5);

/// Serves one queue.
pub(crate) struct QueueService {
    shared: Arc<Shared>,
    free: Arc<Semaphore>,
}

struct Shared {
    broker: Arc<dyn Broker>,
    served: Mutex<HashMap<[u8; 16], Served>>,
}

/// A subscription of somebody else's.
struct Served {
    flow: FlowId,
    subject: Subject,
    /// None while a fetch waits for it.
    subscription: Option<Fetching>,
    leased: HashMap<u64, Lease>,
    tags: u64,
    heard: Instant,
}

/// A subscription, and the message that had no room in the last answer.
struct Fetching {
    subscription: Subscription,
    next: Option<Delivery>,
}

struct Lease {
    delivery: Delivery,
    until: Instant,
}

impl QueueService {
    pub(crate) fn new(broker: Arc<dyn Broker>) -> Self {
        let shared = Arc::new(Shared { broker, served: Mutex::default() });
        Self { shared, free: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }
}

impl Worker for QueueService {
    type Request = QueueRequest;
    type Reply = NoReply;

    async fn started(&mut self, _: &mut Context) -> Result<(), Failure> {
        tokio::spawn(expire(Arc::downgrade(&self.shared)));
        Ok(())
    }

    async fn handle(&mut self, context: &mut Context, request: QueueRequest) -> Result<NoReply, Failure> {
        // A fetch waits for long, and there is one for each subscription at most.
        let permit = match request {
            QueueRequest::Fetch { .. } => None,
            _ => Arc::clone(&self.free).acquire_owned().await.ok(),
        };
        let (shared, router, back) =
            (Arc::clone(&self.shared), Arc::clone(context.router()), context.return_route());
        let flow = context.flow();
        tokio::spawn(async move {
            let subscription = request.subscription();
            let answer = shared.answer(flow, request).await;
            drop(permit);
            if back.is_empty() {
                return;
            }
            if let Err(error) = router.tell(&back, &answer).await {
                tracing::debug!(%error, "an answer was not sent");
                // Whoever asked is gone: what it had goes back to the queue at once.
                drop(subscription.and_then(|id| shared.served().remove(&id)));
            }
        });
        Ok(NoReply)
    }
}

impl Shared {
    fn served(&self) -> MutexGuard<'_, HashMap<[u8; 16], Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, flow: FlowId, request: QueueRequest) -> QueueAnswer {
        let answer = match request {
            QueueRequest::Publish { subject, mid, ttl_ms, bytes } => {
                let Ok(subject) = subject.parse() else { return refused(&QueueError::Closed) };
                let (mid, ttl) = (Mid::new(mid.into()), Duration::from_millis(ttl_ms));
                let message = Publish { subject, mid, ttl, bytes: Vec::from(bytes).into() };
                self.broker.publish(message).await.map(|stored| QueueAnswer::Stored {
                    durability: durability_code(stored.durability),
                    is_duplicate: stored.is_duplicate,
                })
            }
            QueueRequest::Fetch { subscription, subject, most } => {
                let Ok(subject) = subject.parse() else { return refused(&QueueError::Closed) };
                self.fetch(flow, subscription.into(), subject, most).await
            }
            QueueRequest::Settle { subscription, tag, verdict, argument } => {
                let Some(verdict) = verdict_of(verdict, argument) else { return QueueAnswer::Done };
                self.settle(subscription.into(), tag, verdict).await.map(|()| QueueAnswer::Done)
            }
            QueueRequest::Leave { subscription } => {
                // Dropped after the lock is free: deliveries go back to the broker.
                let left = self.served().remove(&<[u8; 16]>::from(subscription));
                drop(left);
                Ok(QueueAnswer::Done)
            }
        };
        answer.unwrap_or_else(|error| refused(&error))
    }

    async fn fetch(
        &self,
        flow: FlowId,
        id: [u8; 16],
        subject: Subject,
        most: u16,
    ) -> Result<QueueAnswer, QueueError> {
        let waiting = {
            let mut served = self.served();
            let is_counted = served.get(&id).is_some_and(|entry| entry.flow == flow);
            let by_flow = || served.values().filter(|entry| entry.flow == flow).count();
            let limit = match () {
                () if is_counted => None,
                () if by_flow() >= SUBSCRIPTIONS_FLOW_MAX => Some(SUBSCRIPTIONS_FLOW_MAX),
                () if served.len() >= SUBSCRIPTIONS_MAX && !served.contains_key(&id) => {
                    Some(SUBSCRIPTIONS_MAX)
                }
                () => None,
            };
            if let Some(limit) = limit {
                return Err(QueueError::QuotaExceeded { quota: "subscriptions", limit: limit as u64 });
            }
            match served.get_mut(&id) {
                Some(entry) if entry.subject == subject => {
                    // After its connection was lost it comes by another, and counts there.
                    entry.flow = flow;
                    entry.heard = Instant::now();
                    // Two fetches of one subscription at once: the second one has nothing to wait for.
                    let Some(subscription) = entry.subscription.take() else {
                        return Err(QueueError::Closed);
                    };
                    Some(subscription)
                }
                Some(_) => return Err(QueueError::Closed),
                None => {
                    let entry = Served {
                        flow,
                        subject: subject.clone(),
                        subscription: None,
                        leased: HashMap::new(),
                        tags: 0,
                        heard: Instant::now(),
                    };
                    served.insert(id, entry);
                    None
                }
            }
        };
        let fetched = self.wait(waiting, subject, most).await;
        let mut served = self.served();
        let (subscription, deliveries) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => {
                let left = served.remove(&id);
                drop(served);
                drop(left);
                return Err(error);
            }
        };
        let Some(entry) = served.get_mut(&id) else {
            // It was left meanwhile: what was fetched goes back.
            drop(served);
            return Err(QueueError::Closed);
        };
        entry.subscription = Some(subscription);
        entry.heard = Instant::now();
        let until = Instant::now() + LEASE;
        let mut fetched = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let (tag, attempt) = (entry.tags, delivery.attempt());
            entry.tags += 1;
            fetched.push(Fetched { tag, attempt, bytes: delivery.bytes().to_vec().into() });
            entry.leased.insert(tag, Lease { delivery, until });
        }
        Ok(QueueAnswer::Deliveries { deliveries: fetched })
    }

    /// Waits for a first message and takes what else there is.
    async fn wait(
        &self,
        fetching: Option<Fetching>,
        subject: Subject,
        most: u16,
    ) -> Result<(Fetching, Vec<Delivery>), QueueError> {
        let mut fetching = match fetching {
            Some(fetching) => fetching,
            None => Fetching { subscription: self.broker.subscribe(subject, PREFETCH).await?, next: None },
        };
        if fetching.next.is_none() {
            match timeout(FETCH, fetching.subscription.next()).await {
                Err(_) => return Ok((fetching, Vec::new())),
                Ok(None) => return Err(QueueError::Closed),
                Ok(first) => fetching.next = first,
            }
        }
        let (mut deliveries, mut bytes) = (Vec::new(), 0);
        while deliveries.len() < usize::from(most.max(1)) {
            let Some(next) = fetching.next.take().or_else(|| fetching.subscription.try_next()) else { break };
            bytes += next.bytes().len();
            if bytes > FETCH_BYTES && !deliveries.is_empty() {
                fetching.next = Some(next);
                break;
            }
            deliveries.push(next);
        }
        Ok((fetching, deliveries))
    }

    async fn settle(&self, id: [u8; 16], tag: u64, verdict: Verdict) -> Result<(), QueueError> {
        let settled = {
            let mut served = self.served();
            let leased = served.get_mut(&id).map(|entry| &mut entry.leased).ok_or(QueueError::Closed)?;
            let mut take = || leased.remove(&tag).map(|lease| lease.delivery).ok_or(QueueError::Closed);
            match verdict {
                Verdict::Ack => take()?.ack(),
                Verdict::Nak(pause) => take()?.nak(pause),
                Verdict::Term(reason) => take()?.term(reason),
                // It stays where it is: whoever extends it may settle it in the same moment.
                Verdict::Extend => {
                    let lease = leased.get_mut(&tag).ok_or(QueueError::Closed)?;
                    lease.until = Instant::now() + LEASE;
                    lease.delivery.extend()
                }
            }
        };
        settled.await
    }

    /// Gives back what nobody has settled in time, and ends subscriptions that nobody fetches from.
    fn expire(&self) {
        let now = Instant::now();
        let mut back: Vec<Lease> = Vec::new();
        let mut left: Vec<Served> = Vec::new();
        {
            let mut served = self.served();
            for entry in served.values_mut() {
                back.extend(entry.leased.extract_if(|_, lease| lease.until <= now).map(|(_, lease)| lease));
            }
            let is_left = |entry: &Served| {
                entry.subscription.is_some() && entry.leased.is_empty() && entry.heard + ABANDONED <= now
            };
            left.extend(served.extract_if(|_, entry| is_left(entry)).map(|(_, entry)| entry));
        }
        // Dropped after the lock is free: deliveries go back to the broker.
        drop((back, left));
    }
}

async fn expire(shared: Weak<Shared>) {
    let mut tick = interval(TICK);
    loop {
        tick.tick().await;
        match shared.upgrade() {
            Some(shared) => shared.expire(),
            None => return,
        }
    }
}

impl fmt::Debug for QueueService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueService").field("broker", &self.shared.broker).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use onward_transports::queue::Lane;
    use onward_transports::queue::conformance::{FakeBroker, Faults, fresh_mailbox};
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    /// Waits for a message that never comes, as another subscriber.
    async fn fetch(shared: Arc<Shared>, number: u64, flow: u64) -> Result<QueueAnswer, QueueError> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        shared.fetch(FlowId::from_number(flow.into()), id, fresh_mailbox().lane(Lane::Messages), 1).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_and_all_together_have_so_many_subscriptions_and_not_one_more() {
        let service = QueueService::new(Arc::new(FakeBroker::new(Faults::default(), 1)));
        let (by_flow, all) = (SUBSCRIPTIONS_FLOW_MAX as u64, SUBSCRIPTIONS_MAX as u64);
        let mut waiting = JoinSet::new();
        for number in 0..all {
            waiting.spawn(fetch(Arc::clone(&service.shared), number, number / by_flow));
        }
        while service.shared.served().len() < SUBSCRIPTIONS_MAX {
            yield_now().await;
        }
        for (flow, most) in [(0, by_flow), (all / by_flow, all)] {
            let refused = fetch(Arc::clone(&service.shared), all, flow).await;
            assert!(
                matches!(refused, Err(QueueError::QuotaExceeded { limit, .. }) if limit == most),
                "{refused:?}"
            );
        }
        while let Some(answer) = waiting.join_next().await {
            let answer = answer.unwrap_or_else(|error| panic!("{error}"));
            assert!(
                matches!(&answer, Ok(QueueAnswer::Deliveries { deliveries }) if deliveries.is_empty()),
                "{answer:?}"
            );
        }
    }
}
