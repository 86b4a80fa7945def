//! A connection that is made again after it broke, shared by all who use it.
//!
//! One at a time connects, with pauses that grow; the others wait for that. Nothing is kept here while there is no
//! connection: whoever wants to say something waits, for a bounded time, or is told that the broker is away. Whoever
//! says that a connection broke waits for nobody.

use core::future::Future;
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{sleep, timeout};

use super::server::{ANSWER, Backoff};
use super::{BoxFuture, QueueError};

/// A connection `C`, cheap to clone, and how to make it.
pub(super) struct Link<C> {
    dial: Box<dyn Fn() -> BoxFuture<'static, Result<C, QueueError>> + Send + Sync>,
    made: Mutex<Made<C>>,
    /// Held by the one who connects.
    dialling: tokio::sync::Mutex<()>,
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
        let made = Mutex::new(Made { number: 1, connection: Some(connection) });
        Ok(Self { dial, made, dialling: tokio::sync::Mutex::default() })
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
        if let Some(made) = self.there() {
            return made;
        }
        let _dialling = self.dialling.lock().await;
        let mut backoff = Backoff::new();
        loop {
            if let Some(made) = self.there() {
                return made;
            }
            match within((self.dial)()).await {
                Ok(connection) => {
                    let mut made = self.made();
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
    pub(super) fn broke(&self, number: u64) {
        let mut made = self.made();
        if made.number == number {
            made.connection = None;
        }
    }

    /// The connection that is there now.
    fn there(&self) -> Option<(u64, C)> {
        let made = self.made();
        made.connection.clone().map(|connection| (made.number, connection))
    }

    fn made(&self) -> MutexGuard<'_, Made<C>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn within<C>(dialling: BoxFuture<'static, Result<C, QueueError>>) -> Result<C, QueueError> {
    timeout(ANSWER, dialling).await.unwrap_or(Err(QueueError::Unreachable(None)))
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering};
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;

    /// Connects once, and then never again.
    async fn link() -> Arc<Link<()>> {
        let calls = AtomicU64::new(0);
        let dial = move || {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move { if call == 0 { Ok(()) } else { core::future::pending().await } }
        };
        Arc::new(Link::new(dial).await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_publishes_waits_no_longer_than_it_likes_while_another_connects() {
        let link = link().await;
        link.broke(1);
        let other = Arc::clone(&link);
        let connecting = tokio::spawn(async move { other.wait().await });
        tokio::task::yield_now().await;
        let began = Instant::now();
        let patience = Duration::from_secs(1);
        assert!(matches!(link.get(patience).await, Err(QueueError::Unreachable(_))));
        link.broke(1);
        assert_eq!(began.elapsed(), patience);
        connecting.abort();
    }

    #[tokio::test]
    async fn only_the_connection_that_is_named_is_given_up() {
        let link = link().await;
        link.broke(0);
        assert_eq!(link.get(Duration::from_secs(1)).await.unwrap().0, 1);
    }
}
