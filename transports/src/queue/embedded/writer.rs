//! The thread that has the file of a queue: it waits for requests and for the time, and nothing else.
//!
//! Decisions are the depot's. Here is only how requests are gathered: all that come while one commit is
//! written go into the next one.

use core::mem;
use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::super::QueueError;
use super::depot::{Depot, Now, Reply, Request};

/// Longest wait for those who stored with the last commit and, having their receipts, are likely to
/// store again at once. Who stores alone is never waited for.
const GATHER: Duration = Duration::from_millis(1);
/// Bytes of messages after which one commit takes no more.
const COMMIT_BYTES: usize = 4 << 20;

/// The thread, as others see it.
#[derive(Debug)]
pub(crate) struct Writer {
    desk: Arc<Desk>,
}

/// What lies before the thread.
#[derive(Debug, Default)]
struct Desk {
    tray: Mutex<Tray>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Tray {
    requests: Vec<Request>,
    /// How many requests the thread sleeps for; none while it is awake.
    sleeps_for: Option<usize>,
    closing: Option<Option<Reply<()>>>,
    is_closed: bool,
}

impl Writer {
    pub(crate) fn start(depot: Depot) -> Result<Self, QueueError> {
        let desk = Arc::new(Desk::default());
        let thread_desk = Arc::clone(&desk);
        let thread = thread::Builder::new().name("onward-queue".to_owned());
        let spawned = thread.spawn(move || {
            let end = End(&thread_desk);
            thread_desk.run(depot);
            drop(end);
        });
        spawned.map_err(|error| QueueError::Storage(Arc::new(error)))?;
        Ok(Self { desk })
    }

    pub(crate) fn push(&self, request: Request) -> Result<(), QueueError> {
        let mut tray = self.desk.lock();
        if tray.is_closed {
            return Err(QueueError::Closed);
        }
        tray.requests.push(request);
        self.desk.wake(tray);
        Ok(())
    }

    /// Takes no more requests; the thread ends when it has done those that it has.
    pub(crate) fn close(&self, reply: Option<Reply<()>>) {
        let mut tray = self.desk.lock();
        if tray.is_closed {
            return;
        }
        tray.is_closed = true;
        tray.closing = Some(reply);
        tray.sleeps_for = tray.sleeps_for.map(|_| 0);
        self.desk.wake(tray);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close(None);
    }
}

/// However the thread ends, nobody waits for it any more.
struct End<'a>(&'a Desk);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut tray = self.0.lock();
        tray.is_closed = true;
        let unanswered = (mem::take(&mut tray.requests), tray.closing.take());
        drop(tray);
        drop(unanswered);
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut tray: MutexGuard<'_, Tray>) {
        if tray.sleeps_for.is_some_and(|wanted| tray.requests.len() >= wanted) {
            tray.sleeps_for = None;
            drop(tray);
            self.woken.notify_one();
        }
    }

    fn run(&self, mut depot: Depot) {
        let began = Instant::now();
        let now = || Now {
            steady: began.elapsed(),
            unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let mut stored_last = 0;
        loop {
            let at = now();
            let wait = depot.due(at).map(|due| due.saturating_sub(at.steady));
            let (requests, closing) = self.gather(wait, stored_last);
            stored_last =
                requests.iter().filter(|request| matches!(request, Request::Publish { .. })).count();
            depot.turn(requests, now());
            if let Some(reply) = closing {
                let closed = depot.close(now());
                if let Some(reply) = reply {
                    let _ = reply.send(closed);
                }
                return;
            }
        }
    }

    /// Waits for requests, at most for `wait`, and takes as many as one commit should have; and what
    /// was said of closing, once nothing else is left.
    fn gather(
        &self,
        wait: Option<Duration>,
        stored_last: usize,
    ) -> (Vec<Request>, Option<Option<Reply<()>>>) {
        let mut tray = self.lock();
        if tray.requests.is_empty() && tray.closing.is_none() {
            tray = self.sleep(tray, 1, wait);
        }
        if stored_last > 1 && tray.requests.len() < stored_last && tray.closing.is_none() {
            tray = self.sleep(tray, stored_last, Some(wait.map_or(GATHER, |wait| wait.min(GATHER))));
        }
        let mut bytes = 0;
        let mut fits = |request: &Request| {
            if let Request::Publish { message, .. } = request {
                bytes += message.bytes.len();
            }
            bytes <= COMMIT_BYTES
        };
        let count = tray.requests.iter().take_while(|request| fits(request)).count().max(1);
        let count = count.min(tray.requests.len());
        let rest = tray.requests.split_off(count);
        let requests = mem::replace(&mut tray.requests, rest);
        let closing = if tray.requests.is_empty() { tray.closing.take() } else { None };
        (requests, closing)
    }

    /// Sleeps until there are `wanted` requests, for at most `wait`.
    fn sleep<'a>(
        &self,
        mut tray: MutexGuard<'a, Tray>,
        wanted: usize,
        wait: Option<Duration>,
    ) -> MutexGuard<'a, Tray> {
        tray.sleeps_for = Some(wanted);
        let sleeps = |tray: &mut Tray| tray.sleeps_for.is_some();
        tray = match wait {
            None => self.woken.wait_while(tray, sleeps).unwrap_or_else(PoisonError::into_inner),
            Some(wait) => {
                let woken = self.woken.wait_timeout_while(tray, wait, sleeps);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        tray.sleeps_for = None;
        tray
    }
}
