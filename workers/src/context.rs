//! What a handler can do besides answering: send, ask, forward, start children, set timers, stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use onward_routing::{Address, FlowId, Message, RandomAddress, Route, RouteRef};
use tokio::task::JoinSet;

use crate::error::{AskError, PayloadError, SendError, StartError};
use crate::mailbox::{EndReason, Ended, Mailbox, Notice};
use crate::payload::{Payload, compose, decode};
use crate::router::Router;
use crate::run::{WorkerHandle, start};
use crate::worker::Worker;

/// The world as a worker sees it while it handles a message.
pub struct Context {
    pub(crate) router: Arc<Router>,
    pub(crate) mailbox: Arc<Mailbox>,
    /// The message in hand; gone once it was answered or forwarded.
    pub(crate) current: Option<Message>,
    pub(crate) flow: FlowId,
    pub(crate) stopping: bool,
    extras: Option<Box<Extras>>,
}

/// What only some workers have, so that an idle worker stays small.
#[derive(Default)]
struct Extras {
    children: Vec<WorkerHandle>,
    timers: JoinSet<()>,
}

impl From<PayloadError> for AskError {
    fn from(error: PayloadError) -> Self {
        Self::Answer(error)
    }
}

impl Context {
    pub(crate) fn new(router: Arc<Router>, mailbox: Arc<Mailbox>) -> Self {
        Self { router, mailbox, current: None, flow: FlowId::LOCAL, stopping: false, extras: None }
    }

    /// This worker's address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.mailbox.address
    }

    /// The ingress of the message in hand; local for one from this node.
    #[must_use]
    pub fn flow(&self) -> FlowId {
        self.flow
    }

    /// The return route of the message in hand, empty when no answer is wanted.
    #[must_use]
    pub fn return_route(&self) -> Route {
        self.current.as_ref().map(|message| message.ret().to_owned()).unwrap_or_default()
    }

    /// The node's router, for what the methods here do not cover.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Sends a value along `route`; answers come to this worker's mailbox.
    ///
    /// Waits at most the node's `send_wait` for room.
    ///
    /// # Errors
    /// [`SendError`] gives the message back.
    pub async fn send<T: Payload>(&self, route: &Route, value: &T) -> Result<(), AskError> {
        let message = compose(route.as_ref(), RouteRef::one(self.address().as_ref()), value)?;
        Ok(self.router.send(message).await?)
    }

    /// Sends a value along `route` and waits for the answer until the node's default deadline.
    ///
    /// # Errors
    /// [`AskError`]; [`AskError::OneSelf`] at once when the route leads back to this worker.
    pub async fn ask<Q: Payload, R: Payload>(&self, route: &Route, value: &Q) -> Result<R, AskError> {
        self.ask_within(route, value, self.router.limits.ask_deadline).await
    }

    /// As [`Context::ask`] with a deadline of its own.
    ///
    /// # Errors
    /// As [`Context::ask`].
    pub async fn ask_within<Q: Payload, R: Payload>(
        &self,
        route: &Route,
        value: &Q,
        within: Duration,
    ) -> Result<R, AskError> {
        if route.as_ref() == RouteRef::one(self.address().as_ref()) {
            return Err(AskError::OneSelf);
        }
        self.router.ask(route, value, within).await
    }

    /// Answers the message in hand now; what the handler returns is then not sent.
    ///
    /// # Errors
    /// [`SendError`] gives the answer back. Without a return route nothing is sent, which is no error.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the asker is not answered and waits for its deadline.
    pub async fn reply<T: Payload>(&mut self, value: &T) -> Result<(), AskError> {
        let mut payload = Vec::new();
        value.encode_payload(&mut payload)?;
        let own = Route::from(self.address().clone());
        let reply = self.current.take().and_then(|message| message.into_reply(own.as_ref(), &payload));
        match reply {
            Some(reply) => Ok(self.router.send(reply).await?),
            None => Ok(()),
        }
    }

    /// Passes the message in hand on along `route`, unchanged; its answer goes to who asked.
    ///
    /// # Errors
    /// [`SendError`] gives the message back.
    pub async fn forward(&mut self, route: &Route) -> Result<(), SendError> {
        let Some(mut message) = self.current.take() else { return Ok(()) };
        // Taking this worker's own address off and the configured route on is what a relay does.
        if message.relay(route.as_ref()).is_err() {
            return Err(SendError::refused(onward_routing::ErrorCode::HopLimit, message));
        }
        self.router.send(message).await
    }

    /// Sends `value` to this worker itself after `delay`; forgotten when the worker stops.
    ///
    /// # Errors
    /// [`PayloadError`] when the value has no encoding.
    pub fn after<T: Payload>(&mut self, delay: Duration, value: &T) -> Result<(), PayloadError> {
        let mut payload = Vec::new();
        value.encode_payload(&mut payload)?;
        let router = Arc::clone(&self.router);
        let own = Route::from(self.address().clone());
        let timers = &mut self.extras().timers;
        while timers.try_join_next().is_some() {}
        timers.spawn(async move {
            tokio::time::sleep(delay).await;
            let message = Message::new(own.as_ref(), RouteRef::default(), &payload);
            if let Err(error) = router.send(message).await {
                tracing::warn!(worker = %own, %error, "a timer's message was not delivered");
            }
        });
        Ok(())
    }

    /// Starts a worker that is stopped when this one ends, last started first.
    ///
    /// # Errors
    /// [`StartError::Taken`].
    pub fn spawn<W: Worker>(&mut self, address: &Address, worker: W) -> Result<(), StartError> {
        let child = start(&self.router, address, worker)?;
        self.extras().children.push(child);
        Ok(())
    }

    /// Has [`Worker::ended`] called when the worker at `address` ends; at once if there is none.
    pub fn watch(&self, address: &Address) {
        match self.router.mailbox(address) {
            Some(mailbox) => mailbox.watch(&self.mailbox),
            None => self
                .mailbox
                .notify(Notice::Ended(Ended { worker: address.clone(), reason: EndReason::Stopped })),
        }
    }

    /// Ends this worker after the message in hand.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Stops timers and children, last started first.
    pub(crate) async fn wind_down(&mut self) {
        let Some(mut extras) = self.extras.take() else { return };
        extras.timers.abort_all();
        while let Some(child) = extras.children.pop() {
            // Boxed: a child may have children of its own.
            let stop: Pin<Box<dyn Future<Output = EndReason> + Send>> = Box::pin(child.stop());
            stop.await;
        }
    }
}

impl Router {
    /// Sends a value along `route`; no answer is wanted.
    ///
    /// # Errors
    /// [`SendError`] gives the message back; [`PayloadError`] when the value has no encoding.
    pub async fn tell<T: Payload>(self: &Arc<Self>, route: &Route, value: &T) -> Result<(), AskError> {
        let message = compose(route.as_ref(), RouteRef::default(), value)?;
        Ok(self.send(message).await?)
    }

    /// Sends a value along `route` and waits for the answer.
    ///
    /// # Errors
    /// [`AskError`]. After [`AskError::NotSent`] nothing left this node; after the others the outcome
    /// is unknown unless the worker itself reported.
    ///
    /// # Cancel safety
    /// Dropped, a late answer is discarded.
    pub async fn ask<Q: Payload, R: Payload>(
        self: &Arc<Self>,
        route: &Route,
        value: &Q,
        within: Duration,
    ) -> Result<R, AskError> {
        let mut waiting = self.asks.open(within)?;
        let reply_to = RandomAddress::new(waiting.id());
        let message = compose(route.as_ref(), RouteRef::one(reply_to.as_ref()), value)?;
        self.send_within(message, within).await?;
        let answer = waiting.answer().await?;
        let value = decode(&answer);
        answer.recycle();
        Ok(value?)
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("address", self.address())
            .field("flow", &self.flow)
            .finish_non_exhaustive()
    }
}

impl Drop for Context {
    /// A task that is dropped in the middle of a message tells who waits for its answer.
    fn drop(&mut self) {
        if let Some(message) = self.current.take() {
            self.router.report(message, onward_routing::ErrorCode::Stopped);
        }
    }
}
