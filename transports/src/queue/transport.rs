//! Routes through queues: listening at a mailbox, and dialling `queue:NAME/MAILBOX`.
//!
//! A connection over a queue has two mailboxes: the peer's, and one of this end's own, made for that
//! connection alone, which stands on the return route of all that is published. So neither end needs a
//! port that others can reach, and they need not run at the same time. As on a stream, what comes is
//! marked with the connection's flow and can only be answered by it.
//!
//! Specification: docs/protocol.md §2.3.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use onward_routing::{Address, AddressRef, DialRule, FlowId, Kind};
use onward_workers::{Dialer, Ingress, Router, Step};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use super::inbox::{Arrived, Inbox, mailbox_of};
use super::outbox::Outbox;
use super::post::PostLimits;
use super::{Broker, Lane, Mailbox, QueueMessage};
use crate::connection::Connection;
use crate::dial::Dialled;
use crate::egress::{Egress, Registration};
use crate::error::TransportError;
use crate::listener::BoundListener;

/// Idle time is measured in so many parts.
const IDLE_PARTS: u32 = 10;
/// Longest encoded message, so that the way back can still be written on it.
const FRAME_MAX: usize = QueueMessage::BODY_BYTES_MAX - 1024;
/// The digits of a mailbox in an address.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Characters of a mailbox in an address: 20 random bytes.
const MAILBOX_CHARACTERS: usize = 32;

/// The queues of a node, by the names that addresses call them; also the [`Dialer`] for `queue:` addresses.
pub struct QueueTransport {
    limits: Arc<PostLimits>,
    mounted: RwLock<HashMap<String, Arc<dyn Broker>>>,
    dialled: Dialled,
}

impl QueueTransport {
    /// A transport without queues.
    #[must_use]
    pub fn new(limits: PostLimits) -> Arc<Self> {
        Arc::new(Self { limits: Arc::new(limits), mounted: RwLock::default(), dialled: Dialled::default() })
    }

    /// Makes a queue known as `name`, in place of one that had the name before; connections that are
    /// open go on with that one.
    ///
    /// # Errors
    /// [`TransportError::Endpoint`] if `queue:NAME/…` would be no address.
    pub fn mount(&self, name: &str, broker: Arc<dyn Broker>) -> Result<(), TransportError> {
        let probe = mailbox_address(name, &"a".repeat(MAILBOX_CHARACTERS));
        probe.map_err(|_| TransportError::QueueName(name.to_owned()))?;
        self.mounted.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), broker);
        Ok(())
    }

    /// The queue of this name.
    #[must_use]
    pub fn mounted(&self, name: &str) -> Option<Arc<dyn Broker>> {
        self.mounted.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Receives what is sent to a `queue:` address; who else subscribes to it gets a part.
    ///
    /// # Errors
    /// [`TransportError::Endpoint`] for an address of another kind, [`TransportError::NoQueue`] if no
    /// queue of that name is mounted.
    pub fn listen(&self, router: &Arc<Router>, at: &Address) -> Result<BoundListener, TransportError> {
        let own = mailbox_of(at).ok_or_else(|| TransportError::Endpoint(at.clone()))?;
        let name = at.value().split_once('/').map_or("", |(name, _)| name);
        let broker = self.mounted(name).ok_or_else(|| TransportError::NoQueue(name.to_owned()))?;
        let inbox = Inbox::new(Arc::clone(&broker), own.lane(Lane::Messages), Arc::clone(&self.limits));
        let flow = FlowId::new(router.random().to_be_bytes());
        let receiving = Receiving {
            router: Arc::clone(router),
            broker,
            own: at.clone(),
            limits: Arc::clone(&self.limits),
            flow,
            inbox,
            peers: HashMap::new(),
            tasks: JoinSet::new(),
        };
        Ok(BoundListener::serve(router, flow, at.to_string(), |closed| receiving.run(closed)))
    }

    /// Ends what messages have dialled without draining, as the last handle of a node does.
    pub fn end(&self) {
        self.dialled.end();
    }

    /// Closes every dialled connection, each publishing what it has for at most `within` from now.
    pub async fn close(&self, within: Duration) {
        self.dialled.close(within).await;
    }

    fn connect(
        &self,
        router: &Arc<Router>,
        broker: Arc<dyn Broker>,
        endpoint: &Address,
    ) -> Result<Connection, TransportError> {
        let peer = mailbox_of(endpoint).ok_or_else(|| TransportError::Endpoint(endpoint.clone()))?;
        let name = endpoint.value().split_once('/').map_or("", |(name, _)| name);
        let own = random_mailbox(name, router)?;
        let own_subject = mailbox_of(&own).ok_or(TransportError::NoAddress)?.lane(Lane::Messages);
        let registration = Registration::new(router, None, self.limits.send_bytes, FRAME_MAX)?;
        let egress = Arc::clone(&registration.egress);
        egress.open(router);
        let mut inbox = Inbox::new(Arc::clone(&broker), own_subject, Arc::clone(&self.limits));
        let limits = Arc::clone(&self.limits);
        let outbox = Outbox { broker, to: peer.lane(Lane::Messages), back: own, limits };
        let router = Arc::clone(router);
        let task = tokio::spawn(async move {
            let egress = &registration.egress;
            let mut ingress = Ingress::new(Arc::clone(&router), egress.flow, egress.address.clone());
            let receiving = async {
                loop {
                    let arrived = inbox.next(router.limits().payload_bytes).await;
                    egress.touch();
                    inbox.hand_over(arrived, &mut ingress).await;
                }
            };
            tokio::select! {
                () = send(&outbox, &router, egress) => {}
                () = receiving => {}
            }
            inbox.finish().await;
        });
        Ok(Connection::served(egress, task))
    }
}

impl Dialer for QueueTransport {
    fn dial(
        &self,
        router: &Arc<Router>,
        endpoint: AddressRef<'_>,
        rule: Option<&DialRule>,
    ) -> Option<Arc<dyn Step>> {
        if endpoint.kind() != Kind::Queue {
            return None;
        }
        let (name, _) = endpoint.value().split_once('/')?;
        let broker = self.mounted(name)?;
        self.dialled
            .get(endpoint, rule, self.limits.dialled, |endpoint| self.connect(router, broker, &endpoint))
    }
}

impl fmt::Debug for QueueTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mounted = self.mounted.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("QueueTransport").field("mounted", &mounted.keys()).finish_non_exhaustive()
    }
}

/// Publishes what the egress takes, until it has drained; without traffic it drains by itself.
async fn send(outbox: &Outbox, router: &Arc<Router>, egress: &Arc<Egress>) {
    let mut reports = Ingress::new(Arc::clone(router), egress.flow, egress.address.clone());
    let unused = async {
        let mut quiet_parts = 0;
        while quiet_parts < IDLE_PARTS {
            sleep(outbox.limits.idle / IDLE_PARTS).await;
            quiet_parts = if egress.was_active() { 0 } else { quiet_parts + 1 };
        }
        egress.drain();
        pending::<()>().await;
    };
    tokio::select! {
        () = outbox.run(egress, &mut reports) => {}
        () = unused => {}
    }
}

/// The task of a listener at a mailbox: one inbox, and a connection to each mailbox that answers go to.
struct Receiving {
    router: Arc<Router>,
    broker: Arc<dyn Broker>,
    own: Address,
    limits: Arc<PostLimits>,
    flow: FlowId,
    inbox: Inbox,
    peers: HashMap<Mailbox, Correspondent>,
    tasks: JoinSet<Mailbox>,
}

/// Somebody whose messages came, and who can be answered.
struct Correspondent {
    egress: Arc<Egress>,
    ingress: Ingress,
    task: Id,
    abort: AbortHandle,
    heard: Instant,
}

impl Receiving {
    async fn run(mut self, mut closed: oneshot::Receiver<Instant>) {
        let payload_max = self.router.limits().payload_bytes;
        let deadline = loop {
            tokio::select! {
                biased;
                deadline = &mut closed => break deadline,
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Ok((id, back)) = ended
                        && self.peers.get(&back).is_some_and(|peer| peer.task == id)
                    {
                        self.peers.remove(&back);
                    }
                }
                arrived = self.inbox.next(payload_max) => {
                    // Given up, the message comes again.
                    tokio::select! {
                        biased;
                        deadline = &mut closed => break deadline,
                        () = self.take_in(arrived) => {}
                    }
                }
            }
        };
        for peer in self.peers.values() {
            peer.egress.drain();
        }
        let deadline = deadline.unwrap_or_else(|_| Instant::now());
        while let Ok(Some(_)) = timeout_at(deadline, self.tasks.join_next()).await {}
        self.tasks.shutdown().await;
        // The broker was told already, or will hand the rest out again.
        let _ = timeout_at(deadline, self.inbox.finish()).await;
    }

    async fn take_in(&mut self, arrived: Arrived) {
        if self.peers.get(&arrived.back).is_none_or(|peer| peer.egress.is_draining()) {
            match self.correspond(arrived.back.clone()) {
                Ok(peer) => self.peers.insert(arrived.back.clone(), peer),
                Err(error) => {
                    tracing::warn!(at = %self.own, %error, "a message could not be taken");
                    // Dropped unsettled, it comes again.
                    return;
                }
            };
        }
        if let Some(peer) = self.peers.get_mut(&arrived.back) {
            peer.heard = Instant::now();
            peer.egress.touch();
            self.inbox.hand_over(arrived, &mut peer.ingress).await;
        }
    }

    /// A connection to the mailbox that `back` names.
    fn correspond(&mut self, back: Mailbox) -> Result<Correspondent, TransportError> {
        if self.peers.len() >= self.limits.correspondents
            && let Some(oldest) = self.peers.iter().min_by_key(|(_, peer)| peer.heard)
        {
            let oldest = oldest.0.clone();
            if let Some(peer) = self.peers.remove(&oldest) {
                // What was to be answered goes with it: a mailbox that takes nothing must not hold a task.
                peer.abort.abort();
            }
        }
        let registration =
            Registration::new(&self.router, Some(self.flow), self.limits.send_bytes, FRAME_MAX)?;
        let egress = Arc::clone(&registration.egress);
        egress.open(&self.router);
        let ingress = Ingress::new(Arc::clone(&self.router), egress.flow, egress.address.clone());
        let outbox = Outbox {
            broker: Arc::clone(&self.broker),
            to: back.lane(Lane::Messages),
            back: self.own.clone(),
            limits: Arc::clone(&self.limits),
        };
        let router = Arc::clone(&self.router);
        let task = self.tasks.spawn(async move {
            send(&outbox, &router, &registration.egress).await;
            back
        });
        Ok(Correspondent { egress, ingress, task: task.id(), abort: task, heard: Instant::now() })
    }
}

fn mailbox_address(queue: &str, mailbox: &str) -> Result<Address, onward_routing::AddressError> {
    format!("queue:{queue}/{mailbox}").parse()
}

/// A mailbox on the queue `name` that nobody else knows.
///
/// # Errors
/// [`TransportError::QueueName`].
pub fn random_mailbox(name: &str, router: &Router) -> Result<Address, TransportError> {
    let digits = (0..MAILBOX_CHARACTERS.div_ceil(25)).flat_map(|_| {
        let random = router.random();
        (0..25).map(move |digit| char::from(BASE32[(random >> (5 * digit)) as usize % 32]))
    });
    let mailbox: String = digits.take(MAILBOX_CHARACTERS).collect();
    mailbox_address(name, &mailbox).map_err(|_| TransportError::QueueName(name.to_owned()))
}
