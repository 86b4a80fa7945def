//! What a worker is: something that handles one typed message at a time.

use std::future::Future;
use std::marker::PhantomData;

use crate::context::Context;
use crate::error::Failure;
use crate::mailbox::Ended;
use crate::payload::{Payload, Reply};

/// Handles messages, one at a time, in the order they came.
///
/// What [`Worker::handle`] returns goes back along the request's return route, if it has one. An
/// error is logged here and reported to the caller as `failed`; a panic too, and then the worker's
/// supervision decides what becomes of it.
pub trait Worker: Send + 'static {
    /// What the worker takes.
    type Request: Payload;
    /// What it answers; [`NoReply`](crate::NoReply) for a worker that never does.
    type Reply: Reply;

    /// Called once before the first message, and again after every restart.
    ///
    /// # Errors
    /// A [`Failure`] counts as a panic.
    fn started(&mut self, _: &mut Context) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Handles one message. It runs to its end: stopping a worker waits for the message in hand.
    ///
    /// # Errors
    /// A [`Failure`] fails this request alone.
    fn handle(
        &mut self,
        context: &mut Context,
        request: Self::Request,
    ) -> impl Future<Output = Result<Self::Reply, Failure>> + Send;

    /// Called when a worker that was [watched](Context::watch) has ended.
    fn ended(&mut self, _: &mut Context, _: Ended) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Called once after the last message of a worker that is stopped.
    fn stopped(&mut self, _: &mut Context) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A closure as a worker: `|request| async move { Ok(answer) }`.
pub struct FnWorker<F, Q> {
    function: F,
    request: PhantomData<fn(Q)>,
}

impl<F, Q> FnWorker<F, Q> {
    /// Makes a worker of a function from requests to futures of answers.
    pub fn new<R, A>(function: F) -> Self
    where
        F: FnMut(Q) -> A + Send + 'static,
        A: Future<Output = Result<R, Failure>> + Send,
        Q: Payload,
        R: Reply,
    {
        Self { function, request: PhantomData }
    }
}

impl<F, Q, R, A> Worker for FnWorker<F, Q>
where
    F: FnMut(Q) -> A + Send + 'static,
    A: Future<Output = Result<R, Failure>> + Send,
    Q: Payload,
    R: Reply,
{
    type Request = Q;
    type Reply = R;

    fn handle(&mut self, _: &mut Context, request: Q) -> impl Future<Output = Result<R, Failure>> + Send {
        (self.function)(request)
    }
}

impl<F, Q> std::fmt::Debug for FnWorker<F, Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FnWorker")
    }
}
