//! A queue that another node serves, used like one of this node's own.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use minicbor::bytes::ByteArray;
use onward_transports::queue::{
    BoxFuture, Broker, Delivery, Publish, QueueError, Settle, Stored, Subject, Subscription, Verdict,
};
use onward_workers::AskError;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval_at, sleep};

use super::wire::{QueueAnswer, QueueRequest, durability_of, error_of, verdict_code};
use super::{FETCH, LEASE};
use crate::node::NodeRoute;

/// How long an answer may take beyond what the server itself waits.
const ANSWER: Duration = Duration::from_secs(10);
/// The first and the longest pause while the server cannot be reached.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// The queue that the worker at the end of a route serves, see [`Node::serve_queue`](crate::Node::serve_queue).
#[derive(Clone)]
pub struct RemoteQueue {
    route: NodeRoute,
}

impl RemoteQueue {
    /// The queue that the worker at the end of `route` serves; nothing is asked yet.
    #[must_use]
    pub fn new(route: NodeRoute) -> Self {
        Self { route }
    }

    async fn ask(&self, request: &QueueRequest, within: Duration) -> Result<QueueAnswer, QueueError> {
        match self.route.ask_within(request, within).await {
            Ok(QueueAnswer::Refused { code, limit }) => {
                let bytes = if let QueueRequest::Publish { bytes, .. } = request { bytes.len() } else { 0 };
                Err(error_of(code, limit, bytes))
            }
            Ok(answer) => Ok(answer),
            Err(AskError::NotSent(_)) => Err(QueueError::Unreachable(None)),
            Err(_) => Err(QueueError::Unknown),
        }
    }
}

impl Broker for RemoteQueue {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(async move {
            let Publish { subject, mid, ttl, bytes } = message;
            let request = QueueRequest::Publish {
                subject: subject.to_string(),
                mid: (*mid.bytes()).into(),
                ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
                bytes: bytes.to_vec().into(),
            };
            match self.ask(&request, ANSWER).await? {
                QueueAnswer::Stored { durability, is_duplicate } => {
                    Ok(Stored { durability: durability_of(durability), is_duplicate })
                }
                _ => Err(QueueError::Unknown),
            }
        })
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        Box::pin(async move {
            let shared = Arc::new(Shared {
                queue: self.clone(),
                id: self.route.router().random().to_be_bytes(),
                unsettled: Mutex::default(),
                task: OnceLock::new(),
            });
            let remote: Arc<dyn Settle> = Arc::new(Remote(Arc::clone(&shared)));
            let (deliveries, _, subscription) = Subscription::new(prefetch, Arc::clone(&remote));
            let task = tokio::spawn(Arc::clone(&shared).run(subject, deliveries, Arc::downgrade(&remote)));
            let _ = shared.task.set(task.abort_handle());
            Ok(subscription)
        })
    }
}

/// The client's side of one subscription.
struct Remote(Arc<Shared>);

struct Shared {
    queue: RemoteQueue,
    id: [u8; 16],
    unsettled: Mutex<HashSet<u64>>,
    task: OnceLock<AbortHandle>,
}

impl Shared {
    fn unsettled(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self) -> ByteArray<16> {
        self.id.into()
    }

    async fn run(self: Arc<Self>, subject: Subject, to: mpsc::Sender<Delivery>, broker: Weak<dyn Settle>) {
        let mut due = interval_at(Instant::now() + LEASE / 3, LEASE / 3);
        let fetching = self.fetch(&subject, &to, &broker);
        let extending = async {
            loop {
                due.tick().await;
                let held: Vec<u64> = self.unsettled().iter().copied().collect();
                let mut telling = JoinSet::new();
                for tag in held {
                    let shared = Arc::clone(&self);
                    telling.spawn(async move { shared.tell(tag, Verdict::Extend).await });
                }
                // One that was not extended comes again.
                while telling.join_next().await.is_some() {}
            }
        };
        tokio::select! {
            () = fetching => {}
            () = extending => {}
        }
    }

    async fn fetch(&self, subject: &Subject, to: &mpsc::Sender<Delivery>, broker: &Weak<dyn Settle>) {
        let mut pause = RETRY.0;
        loop {
            // Room for at least one, so that nothing is fetched that nobody takes.
            let Ok(room) = to.reserve().await else { return };
            drop(room);
            let most = u16::try_from(to.capacity().max(1)).unwrap_or(u16::MAX);
            let request = QueueRequest::Fetch { subscription: self.id(), subject: subject.to_string(), most };
            match self.queue.ask(&request, FETCH + ANSWER).await {
                Ok(QueueAnswer::Deliveries { deliveries: fetched }) => {
                    pause = RETRY.0;
                    for one in fetched {
                        let Some(broker) = broker.upgrade() else { return };
                        self.unsettled().insert(one.tag);
                        let bytes = Vec::from(one.bytes).into();
                        if to.send(Delivery::new(bytes, one.attempt, one.tag, broker)).await.is_err() {
                            return;
                        }
                    }
                }
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(%error, "nothing was fetched");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    async fn tell(&self, tag: u64, verdict: Verdict) -> Result<(), QueueError> {
        let (code, argument) = verdict_code(verdict);
        let request = QueueRequest::Settle { subscription: self.id(), tag, verdict: code, argument };
        self.queue.ask(&request, ANSWER).await.map(|_| ())
    }
}

impl Settle for Remote {
    fn settle(&self, tag: u64, verdict: Verdict) -> BoxFuture<'static, Result<(), QueueError>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            if verdict != Verdict::Extend {
                shared.unsettled().remove(&tag);
            }
            shared.tell(tag, verdict).await
        })
    }

    fn abandon(&self, tag: u64, _: bool) {
        // Its lease is not extended any more.
        self.0.unsettled().remove(&tag);
    }

    fn unsubscribe(&self) {
        if let Some(task) = self.0.task.get() {
            task.abort();
        }
        let (queue, id) = (self.0.queue.clone(), self.0.id());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = queue.ask(&QueueRequest::Leave { subscription: id }, ANSWER).await;
            });
        }
    }
}

impl fmt::Debug for RemoteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteQueue").field("route", &self.route.route()).finish()
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("queue", &self.0.queue).finish_non_exhaustive()
    }
}
