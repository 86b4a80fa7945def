//! A connection that is made again after it broke, shared by all who use it.
//!
//! One at a time connects, with pauses that grow; the others wait for that. Nothing is kept here while there is no
//! connection: whoever wants to say something waits, for a bounded time, or is told that the broker is away.

use core::future::Future;
use core::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::server::{ANSWER, Backoff};
use super::{BoxFuture, QueueError};

/// A connection `C`, cheap to clone, and how to make it.
pub(super) struct Link<C> {
    dial: Box<dyn Fn() -> BoxFuture<'static, Result<C, QueueError>> + Send + Sync>,
    made: Mutex<Made<C>>,
}

struct Made<C> {
    /// How often it was made.
    number: u64,
    connection: Option<C>,
}

impl<C: Clone + Send> Link<C> {
    /// Connects for the first time.
    ///
    /// # Errors
    /// Those of `dial`; [`QueueError::Unreachable`] when it takes longer than [`ANSWER`].
    pub(super) async fn new<F>(dial: impl Fn() -> F + Send + Sync + 'static) -> Result<Self, QueueError>
    where
        F: Future<Output = Result<C, QueueError>> + Send + 'static,
    {
        let dial: Box<dyn Fn() -> BoxFuture<'static, Result<C, QueueError>> + Send + Sync> =
            Box::new(move || Box::pin(dial()));
        let connection = within(dial()).await?;
        Ok(Self { dial, made: Mutex::new(Made { number: 1, connection: Some(connection) }) })
    }

    /// The connection and its number, made if there is none.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`] after `patience`.
    ///
    /// # Cancel safety
    /// Nothing is lost; another goes on connecting.
    pub(super) async fn get(&self, patience: Duration) -> Result<(u64, C), QueueError> {
        timeout(patience, self.wait()).await.map_err(|_| QueueError::Unreachable(None))
    }

    /// The connection and its number, however long it takes.
    pub(super) async fn wait(&self) -> (u64, C) {
        let mut made = self.made.lock().await;
        let mut backoff = Backoff::new();
        loop {
            if let Some(connection) = &made.connection {
                return (made.number, connection.clone());
            }
            match within((self.dial)()).await {
                Ok(connection) => {
                    made.number += 1;
                    made.connection = Some(connection);
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection to the broker yet");
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// The connection of this number is of no more use.
    pub(super) async fn broke(&self, number: u64) {
        let mut made = self.made.lock().await;
        if made.number == number {
            made.connection = None;
        }
    }
}

async fn within<C>(dialling: BoxFuture<'static, Result<C, QueueError>>) -> Result<C, QueueError> {
    timeout(ANSWER, dialling).await.unwrap_or(Err(QueueError::Unreachable(None)))
}
