//! One connection to the key service: requests leave in their order, and answers go to those who wait for them.
//!
//! A task reads. Whoever asks writes at once, unless the task has just handed answers out: then all who got one may ask
//! again first, and what they ask leaves in one piece. It never sends anything twice, and bytes that may carry a secret
//! lie in buffers that wipe what they leave.
//!
//! A connection is lost when it breaks, and when the service lets a request's time pass without a word to anybody. All
//! that waits on it fails then.
//!
//! Specification: docs/protocol.md §7.1.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onward_keys::service::{Call, Refusal, Reply, Request, frame};
use onward_keys::{KeyError, WipedBuffer};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::unavailable;

/// Bytes of requests that wait for a service that takes nothing: while there are as many, further requests wait to join
/// them. The one that reaches the bound may be as long as a frame.
const UNWRITTEN_BYTES_MAX: usize = 1 << 20;

/// A service that answered nothing for so long, while a request's time passed, is not there any more.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// The content of an answer's frame.
pub(super) type Content = Zeroizing<Vec<u8>>;

/// How long somebody waits for an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Patience {
    /// As long as any operation may take.
    Usual,
    /// Longer: the service does nothing else meanwhile, so that its silence says nothing.
    Long,
}

/// The connection was lost before the answer came: what was asked may have been done.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the key service was lost")]
struct Lost;

/// A connection, which a task of its own drives until it is lost.
pub(super) struct Connection {
    stream: UnixStream,
    state: Mutex<State>,
    /// Held by whoever waits for room and then sends, so that requests leave in their order.
    door: tokio::sync::Mutex<()>,
    /// There may be room again.
    room: Notify,
    /// There is something to write, or nothing to do any more.
    work: Notify,
}

#[derive(Default)]
struct State {
    lost: bool,
    next_id: u32,
    waiting: HashMap<u32, Waiting>,
    /// What the socket has not taken yet.
    unwritten: WipedBuffer,
    /// Whether the task writes soon, and nobody else has to.
    gathers: bool,
    /// How often answers came.
    heard: u64,
}

struct Waiting {
    answer: oneshot::Sender<Content>,
    patience: Patience,
}

impl Connection {
    /// Begins to read from `stream`, whose peer is known.
    pub(super) fn start(stream: UnixStream) -> Arc<Self> {
        let connection = Arc::new(Self {
            stream,
            state: Mutex::default(),
            door: tokio::sync::Mutex::default(),
            room: Notify::new(),
            work: Notify::new(),
        });
        // Ends with the connection: when the service closes it, or when nobody has the client any more.
        tokio::spawn(drive(Arc::clone(&connection)));
        connection
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state().lost
    }

    /// Asks, and waits for the answer until `until`.
    ///
    /// # Cancel safety
    /// Once it has waited for anything, what is asked may be done all the same.
    pub(super) async fn ask(
        &self,
        call: Call<'_>,
        until: Instant,
        patience: Patience,
    ) -> Result<Content, KeyError> {
        let (began, heard) = (Instant::now(), self.state().heard);
        match timeout_at(until, self.exchange(call, patience)).await {
            Ok(answered) => answered.map_err(unavailable),
            Err(_) => {
                self.give_up(began, heard);
                Err(unavailable(Refusal::Timeout))
            }
        }
    }

    /// Fails everything that waits.
    pub(super) fn lose(&self) {
        let mut state = self.state();
        state.lost = true;
        state.waiting.clear();
        state.unwritten = WipedBuffer::new();
        drop(state);
        self.room.notify_one();
        self.work.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(&self, call: Call<'_>, patience: Patience) -> Result<Content, Lost> {
        let (answer, answered) = oneshot::channel();
        let door = self.door.lock().await;
        while !self.has_room()? {
            self.room.notified().await;
        }
        let _forget = self.send(call, Waiting { answer, patience })?;
        drop(door);
        answered.await.map_err(|_| Lost)
    }

    fn has_room(&self) -> Result<bool, Lost> {
        let state = self.state();
        if state.lost { Err(Lost) } else { Ok(state.unwritten.len() < UNWRITTEN_BYTES_MAX) }
    }

    /// Writes the request at once if the task is not about to write, and leaves to it what the socket does not take.
    fn send(&self, call: Call<'_>, waiting: Waiting) -> Result<Forget<'_>, Lost> {
        let mut state = self.state();
        if state.lost {
            return Err(Lost);
        }
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        state.waiting.insert(id, waiting);
        let is_first = state.unwritten.is_empty() && !state.gathers;
        Request { id, call }.put(&mut state.unwritten);
        // What goes wrong here goes wrong for the task, too, which then ends the connection.
        if is_first && !self.write_some(&mut state).unwrap_or(false) {
            self.work.notify_one();
        }
        Ok(Forget { connection: self, id })
    }

    /// Writes what the socket takes; `false` if that was not all.
    fn write_some(&self, state: &mut State) -> io::Result<bool> {
        while !state.unwritten.is_empty() {
            match self.stream.try_write(&state.unwritten) {
                Ok(written) => state.unwritten.consume(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Does what there is to do, once: writes, or reads and hands out.
    async fn turn(&self, input: &mut WipedBuffer) -> io::Result<()> {
        // Answers are read also while the socket is full, or both ends would wait for each other.
        let interest =
            if self.write()? { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let ready = tokio::select! {
            () = self.work.notified() => return Ok(()),
            ready = self.stream.ready(interest) => ready?,
        };
        if !ready.is_readable() && !ready.is_read_closed() {
            return Ok(());
        }
        match input.fill(READ_BYTES, |room| self.stream.try_read(room)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        if self.deliver(input)? {
            // Those who got answers come first; what they ask next is written together.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Writes what was gathered; `false` while the socket takes no more.
    fn write(&self) -> io::Result<bool> {
        let mut state = self.state();
        if state.lost {
            return Err(io::ErrorKind::NotConnected.into());
        }
        state.gathers = false;
        let before = state.unwritten.len();
        let all = self.write_some(&mut state)?;
        if before >= UNWRITTEN_BYTES_MAX && state.unwritten.len() < UNWRITTEN_BYTES_MAX {
            self.room.notify_one();
        }
        Ok(all)
    }

    /// Hands the whole frames in `input` to those who wait; whether there were any.
    fn deliver(&self, input: &mut WipedBuffer) -> io::Result<bool> {
        let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
        let mut answered = Vec::new();
        let mut state = self.state();
        while let Some((content, length)) = frame(input).map_err(malformed)? {
            let id = Reply::decode(content).map_err(malformed)?.id;
            // Nobody waits any more for what came too late.
            if let Some(waiting) = state.waiting.remove(&id) {
                answered.push((waiting.answer, Zeroizing::new(content.to_vec())));
            }
            input.consume(length);
            state.gathers = true;
            state.heard += 1;
        }
        let gathers = state.gathers;
        drop(state);
        for (answer, content) in answered {
            // Whoever has stopped waiting in between needs none.
            let _ = answer.send(content);
        }
        Ok(gathers)
    }

    /// What a request's end without an answer says of the service: nothing, if others were answered meanwhile, if it had
    /// hardly been asked, or if it does what takes long.
    fn give_up(&self, began: Instant, heard: u64) {
        let state = self.state();
        let is_silent = state.heard == heard && began.elapsed() >= SILENCE_MAX;
        let is_busy = state.waiting.values().any(|waiting| waiting.patience == Patience::Long);
        drop(state);
        if is_silent && !is_busy {
            self.lose();
        }
    }
}

/// Takes a request off the list when nobody waits for its answer any more.
struct Forget<'a> {
    connection: &'a Connection,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.connection.state().waiting.remove(&self.id);
    }
}

/// Drives the connection until it is lost.
async fn drive(connection: Arc<Connection>) {
    let mut input = WipedBuffer::new();
    while connection.turn(&mut input).await.is_ok() {}
    connection.lose();
}

#[cfg(test)]
mod tests {
    use super::*;
    use onward_keys::service::{Outcome, put_answer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn pair() -> (Arc<Connection>, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Connection::start(near), far)
    }

    /// Does what a service does, with every request done.
    async fn serve(mut service: UnixStream) {
        let mut input = WipedBuffer::new();
        loop {
            let mut chunk = vec![0; READ_BYTES];
            match service.read(&mut chunk).await.unwrap() {
                0 => return,
                bytes => input.extend_from_slice(&chunk[..bytes]),
            }
            let mut output = WipedBuffer::new();
            while let Some((content, length)) = frame(&input).unwrap() {
                put_answer(&mut output, Request::decode(content).unwrap().id, &Ok(Outcome::Done));
                input.consume(length);
            }
            service.write_all(&output).await.unwrap();
        }
    }

    /// Asks for something long in a task of its own.
    fn asking(connection: &Arc<Connection>) -> tokio::task::JoinHandle<Result<Content, KeyError>> {
        let connection = Arc::clone(connection);
        tokio::spawn(async move {
            let request = vec![7; 900 * 1024];
            connection.ask(Call::Cache(&request), Instant::now() + PATIENCE, Patience::Usual).await
        })
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        let waiting = async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    }

    #[tokio::test]
    async fn long_requests_at_once_wait_for_room_and_are_all_answered() {
        let (connection, far) = pair();
        let asking: Vec<_> = (0..64).map(|_| asking(&connection)).collect();
        until(|| connection.state().waiting.len() == 2).await;
        // More than one has room, besides what the system took; the others have not been put in.
        assert!((UNWRITTEN_BYTES_MAX..2 * UNWRITTEN_BYTES_MAX).contains(&connection.state().unwritten.len()));
        let serving = tokio::spawn(serve(far));
        for asked in asking {
            assert!(asked.await.unwrap().is_ok());
        }
        connection.lose();
        drop(connection);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn one_byte_below_the_bound_there_is_room_and_at_the_bound_there_is_none() {
        let (connection, mut far) = pair();
        let filler = {
            let mut state = connection.state();
            while connection.stream.try_write(&[0; 4096]).is_ok() {}
            state.unwritten.extend_from_slice(&vec![0; UNWRITTEN_BYTES_MAX - 1]);
            // Short of what the socket still takes of a smaller piece.
            connection.write_some(&mut state).unwrap();
            let more = UNWRITTEN_BYTES_MAX - 1 - state.unwritten.len();
            state.unwritten.extend_from_slice(&vec![0; more]);
            state.unwritten.len()
        };
        assert_eq!(filler, UNWRITTEN_BYTES_MAX - 1);
        assert!(connection.has_room().unwrap());
        connection.state().unwritten.extend_from_slice(&[0]);
        assert!(!connection.has_room().unwrap());
        let waits = asking(&connection);
        tokio::task::yield_now().await;
        assert!(connection.state().waiting.is_empty());
        // Somebody takes some of it.
        connection.work.notify_one();
        let mut chunk = vec![0; 1 << 20];
        while connection.state().waiting.is_empty() {
            far.read_exact(&mut chunk[..4096]).await.unwrap();
        }
        connection.lose();
        assert!(waits.await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_service_is_lost_with_the_first_request_whose_time_passes() {
        let (connection, _far) = pair();
        let other = asking(&connection);
        until(|| connection.state().waiting.len() == 1).await;
        let until = Instant::now() + SILENCE_MAX;
        let asked = connection.ask(Call::List, until, Patience::Usual).await;
        assert!(matches!(asked, Err(KeyError::Unavailable(error)) if error.is::<Refusal>()));
        assert!(connection.is_lost());
        let other = other.await.unwrap();
        assert!(matches!(other, Err(KeyError::Unavailable(error)) if error.is::<Lost>()));
        let late = connection.ask(Call::List, Instant::now() + PATIENCE, Patience::Usual).await;
        assert!(matches!(late, Err(KeyError::Unavailable(error)) if error.is::<Lost>()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_came_late_or_waits_behind_a_long_one_says_nothing_of_the_service() {
        let (connection, far) = pair();
        let short = Duration::from_millis(1);
        let ask = |until, patience| connection.ask(Call::List, until, patience);
        assert!(ask(Instant::now() + SILENCE_MAX - short, Patience::Usual).await.is_err());
        assert!(!connection.is_lost(), "hardly asked");
        let long = ask(Instant::now() + 10 * SILENCE_MAX, Patience::Long);
        let usual = async {
            assert!(ask(Instant::now() + 2 * SILENCE_MAX, Patience::Usual).await.is_err());
            assert!(!connection.is_lost(), "busy");
            serve(far).await;
        };
        tokio::select! {
            answered = long => assert!(answered.is_ok()),
            () = usual => panic!("the connection ended"),
        }
    }
}
