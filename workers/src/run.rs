//! The task of a worker: takes batches out of its mailbox and handles one message after the other.
//!
//! A handler runs to its end; a panic in it is contained, answered and given to supervision. The
//! mailbox outlives a restart, so nothing that was accepted is lost by one.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use onward_routing::{Address, ErrorCode, Message, RouteRef};
use tokio::task::{AbortHandle, coop};

use crate::context::Context;
use crate::error::{SendError, StartError};
use crate::mailbox::{EndReason, Mailbox, Notice};
use crate::payload::{Reply, decode, with_scratch};
use crate::room::CHARGE_MIN;
use crate::router::{Router, Target};
use crate::worker::Worker;

/// A running worker. Dropping the handle leaves the worker running.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    mailbox: Arc<Mailbox>,
    task: AbortHandle,
}

impl WorkerHandle {
    /// The worker's address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.mailbox.address
    }

    /// Stops the worker after the message in hand and waits for its end; senders of messages that
    /// still wait are told.
    pub async fn stop(&self) -> EndReason {
        self.mailbox.notify(Notice::Stop);
        self.ended().await
    }

    /// Stops the worker after the messages it has already, and waits for its end. It takes no more.
    pub async fn drain(&self) -> EndReason {
        self.mailbox.notify(Notice::Drain);
        self.ended().await
    }

    /// Drops the worker's task where it stands; whoever waits for an answer is told.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// Whether the worker has ended: from when [`WorkerHandle::ended`] is ready.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.mailbox.has_ended()
    }

    /// Waits until the worker has ended, and says why.
    pub async fn ended(&self) -> EndReason {
        self.mailbox.ended().await
    }
}

/// Starts a worker that ends with its first panic.
///
/// # Errors
/// [`StartError::Taken`].
pub fn start<W: Worker>(
    router: &Arc<Router>,
    address: &Address,
    worker: W,
) -> Result<WorkerHandle, StartError> {
    let mailbox = open(router, address)?;
    // Made before the task: it closes the mailbox also when the task is dropped before its first turn.
    let closing =
        Closing { router: Arc::clone(router), mailbox: Arc::clone(&mailbox), reason: EndReason::Stopped };
    let task = tokio::spawn(async move {
        let mut closing = closing;
        closing.reason = run(&closing.router, &closing.mailbox, worker).await;
    });
    Ok(WorkerHandle { mailbox, task: task.abort_handle() })
}

/// Closes a worker's mailbox when its task ends, however it does.
struct Closing {
    router: Arc<Router>,
    mailbox: Arc<Mailbox>,
    reason: EndReason,
}

impl Drop for Closing {
    fn drop(&mut self) {
        close(&self.router, &self.mailbox, self.reason.clone());
    }
}

/// Opens a mailbox under an address.
pub(crate) fn open(router: &Arc<Router>, address: &Address) -> Result<Arc<Mailbox>, StartError> {
    let mailbox = Mailbox::new(address.clone(), router.limits.mailbox_bytes);
    router.add(address, Target::Mailbox(Arc::clone(&mailbox)))?;
    Ok(mailbox)
}

/// Closes a mailbox for good and tells the senders of what was left in it.
pub(crate) fn close(router: &Arc<Router>, mailbox: &Arc<Mailbox>, reason: EndReason) {
    router.remove(&mailbox.address);
    let code = if reason == EndReason::Stopped { ErrorCode::Stopped } else { ErrorCode::Failed };
    for message in mailbox.end(reason) {
        router.report(message, code);
    }
}

/// Runs a worker until it is stopped or panics.
pub(crate) async fn run<W: Worker>(router: &Arc<Router>, mailbox: &Arc<Mailbox>, worker: W) -> EndReason {
    let mut worker = worker;
    let mut context = Context::new(Arc::clone(router), Arc::clone(mailbox));
    let mut batch = VecDeque::new();
    let reason = match contain(async { worker.started(&mut context).await }).await {
        Ok(Ok(())) => serve(&mut worker, &mut context, &mut batch).await,
        Ok(Err(failure)) => EndReason::Panicked(failure.cause().to_string()),
        Err(text) => EndReason::Panicked(text),
    };
    if reason == EndReason::Stopped {
        // A panic while stopping changes nothing: the worker ends either way.
        let _ = contain(async { worker.stopped(&mut context).await }).await;
    }
    // What was not handled stays in the mailbox: for the worker's next life, or for `close`.
    mailbox.put_back(batch);
    context.wind_down().await;
    reason
}

async fn serve<W: Worker>(worker: &mut W, context: &mut Context, batch: &mut VecDeque<Message>) -> EndReason {
    let mut spent = Vec::new();
    loop {
        let notice = {
            let mailbox = &context.mailbox;
            poll_fn(|cx| {
                let coop = std::task::ready!(coop::poll_proceed(cx));
                let polled = mailbox.poll_next(cx, batch, &mut spent);
                if polled.is_ready() {
                    coop.made_progress();
                }
                polled
            })
            .await
        };
        match notice {
            Some(Notice::Stop) => return EndReason::Stopped,
            Some(Notice::Drain) => {}
            Some(Notice::Ended(ended)) => {
                if let Err(text) = contain(async { worker.ended(context, ended).await }).await {
                    return EndReason::Panicked(text);
                }
            }
            None => {}
        }
        let is_stream = batch.len() >= STREAM_MIN;
        while let Some(message) = batch.pop_front() {
            match handle(worker, context, message).await {
                Ok(Some(message)) if spent.len() < SPENT_MAX => spent.extend(message.spend()),
                Ok(_) => {}
                Err(text) => return EndReason::Panicked(text),
            }
            if context.stopping {
                return EndReason::Stopped;
            }
            if !batch.is_empty() {
                // The budget is the runtime's fairness: a full batch must not hold the thread.
                coop::consume_budget().await;
                if context.mailbox.has_stop() {
                    return EndReason::Stopped;
                }
            }
        }
        if context.mailbox.is_drained() {
            return EndReason::Stopped;
        }
        if is_stream {
            await_stream(&context.mailbox).await;
        }
    }
}

/// Gives a stream that is likely to go on a few turns of the runtime to fill the next batch.
///
/// To sleep and be woken costs more than these turns, and many small batches cost the senders more
/// than a few large ones: each takes the mailbox's lock from them.
async fn await_stream(mailbox: &Mailbox) {
    for _ in 0..STREAM_TURNS {
        tokio::task::yield_now().await;
        if mailbox.room.used() >= STREAM_BYTES || mailbox.has_stop() {
            return;
        }
    }
}

/// A batch of so many messages counts as part of a stream.
const STREAM_MIN: usize = 8;
/// Turns that a stream's next batch has to fill up.
const STREAM_TURNS: usize = 8;
/// Bytes of room that are worth the next batch before the turns are over: 64 small messages.
const STREAM_BYTES: usize = 64 * CHARGE_MIN;
/// Handled messages kept until the next batch, whose blocks then go back to the senders.
const SPENT_MAX: usize = 512;

/// Handles one message and answers it, or gives it back if no answer is wanted; `Err` is a panic's text.
async fn handle<W: Worker>(
    worker: &mut W,
    context: &mut Context,
    message: Message,
) -> Result<Option<Message>, String> {
    if message.has_expired(|| context.router.now()) {
        context.router.report(message, ErrorCode::Expired);
        return Ok(None);
    }
    let request = match decode::<W::Request>(&message) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(worker = %context.address(), %error, "message refused");
            context.router.report(message, ErrorCode::Malformed);
            return Ok(None);
        }
    };
    context.flow = message.flow();
    context.current = Some(message);
    // Within the block: a closure may panic before it returns its future.
    let outcome = contain(async { worker.handle(context, request).await }).await;
    let current = context.current.take();
    match outcome {
        Ok(Ok(reply)) => {
            let Some(message) = current else { return Ok(None) };
            match compose_answer(context, message, reply) {
                Ok(answer) => {
                    if let Err(error) = context.router.try_send(answer) {
                        wait_to_answer(context, error).await;
                    }
                    Ok(None)
                }
                Err(unanswered) => Ok(unanswered),
            }
        }
        Ok(Err(failure)) => {
            tracing::warn!(worker = %context.address(), cause = %failure.cause(), "a request failed");
            if let Some(message) = current {
                context.router.report(message, ErrorCode::Failed);
            }
            Ok(None)
        }
        Err(text) => {
            if let Some(message) = current {
                context.router.report(message, ErrorCode::Failed);
            }
            Err(text)
        }
    }
}

/// A handler's answer as a message; else the message itself, unless its sender was told of a failure.
fn compose_answer(
    context: &Context,
    message: Message,
    reply: impl Reply,
) -> Result<Message, Option<Message>> {
    if message.ret().is_empty() {
        return Err(Some(message));
    }
    if let Some(body) = reply.shared_reply() {
        return message.into_reply_body(RouteRef::default(), body).ok_or(None);
    }
    with_scratch(|payload| match reply.encode_reply(payload) {
        Ok(true) => message.into_reply(RouteRef::default(), payload).ok_or(None),
        Ok(false) => Err(Some(message)),
        Err(error) => {
            tracing::warn!(worker = %context.address(), %error, "an answer cannot be encoded");
            context.router.report(message, ErrorCode::Failed);
            Err(None)
        }
    })
}

/// The rare way of an answer: its egress is full.
///
/// It waits beside the worker, or a peer that reads nothing would hold up all others the worker
/// serves; only when too many wait already does the worker wait itself. A lost answer is logged; its
/// asker has a deadline.
async fn wait_to_answer(context: &Context, error: SendError) {
    let reply = match error {
        SendError::Full(reply) => reply,
        refused => return log_lost(context.address(), &refused),
    };
    let router = Arc::clone(&context.router);
    match Arc::clone(&router.late_answers).try_acquire_owned() {
        Ok(place) => {
            let own = context.address().clone();
            // Ends by itself within the time a send waits.
            tokio::spawn(async move {
                if let Err(error) = router.send(reply).await {
                    log_lost(&own, &error);
                }
                drop(place);
            });
        }
        Err(_) => {
            if let Err(error) = Box::pin(router.send(reply)).await {
                log_lost(context.address(), &error);
            }
        }
    }
}

fn log_lost(worker: &Address, error: &SendError) {
    tracing::debug!(%worker, %error, "an answer was not delivered");
}

/// Runs a future and turns a panic in it into its text.
async fn contain<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panic) => Poll::Ready(Err(panic_text(&*panic))),
    })
    .await
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}
