//! The client of the key service: a [`Vault`] whose keys are in another process.
//!
//! Requests go out as they come and are answered in any order, at most [`IN_FLIGHT_MAX`] at a time. A request that is
//! not answered within [`DEADLINE`], or whose connection is lost, fails: it is not sent again, because it may have
//! been done. The next request connects anew, so that a service that was started again is found.
//!
//! Nothing is sent before the kernel has said that the service runs as the expected user. No private key ever comes
//! here; agreed secrets are wiped from every buffer that they pass through.
//!
//! Specification: docs/protocol.md §7.1.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onward_keys::service::{
    Call, FRAME_BYTES_MAX, IN_FLIGHT_MAX, KeyMeta, KeyState, NewKey, Refusal, Reply, ReplyError, Request,
    SIGNATURES, ServiceState, frame,
};
use onward_keys::{
    Answer, KeyError, KeyId, KeyInfo, KeyUsage, NonContributory, PublicHalf, SharedSecret, Signature,
    SignatureType, Vault,
};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, oneshot};
use zeroize::{Zeroize as _, Zeroizing};

mod general;

/// How long a request may take, connecting included. Source: docs/protocol.md §7.1.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// Bytes of requests that wait for a service that takes nothing.
const UNWRITTEN_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

/// How long unlocking may take, where a guess at a passphrase costs time on purpose, and making an RSA key.
const SLOW_DEADLINE: Duration = Duration::from_secs(30);

/// A connection to a key service that is made when it is needed and again when it was lost. Cheap to clone.
#[derive(Clone)]
pub struct KeyClient {
    shared: Arc<Shared>,
}

struct Shared {
    socket: PathBuf,
    server_uid: u32,
    /// What the labels of generated keys begin with.
    label: String,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    in_flight: Semaphore,
}

impl KeyClient {
    /// A client of the service at `socket`, which must run as the user `server_uid`.
    ///
    /// Keys that [`Vault::generate`] makes are labelled `LABEL/USAGE-RANDOM`; the service's policy decides whether the
    /// label is this client's to use.
    #[must_use]
    pub fn new(socket: &Path, server_uid: u32, label: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                socket: socket.to_owned(),
                server_uid,
                label: label.to_owned(),
                connection: tokio::sync::Mutex::default(),
                in_flight: Semaphore::new(IN_FLIGHT_MAX),
            }),
        }
    }

    /// The state of the service.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`], as of every call here when the service does not answer in time.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it; as for every call here, what has been sent may be done all the same.
    pub async fn status(&self) -> Result<ServiceState, KeyError> {
        self.ask(Call::Status, None, |reply| reply.state()).await
    }

    /// Shows the passphrase: unlocks the service if it is locked, and makes this connection the operator's until it
    /// is lost or the service is locked. With `create`, makes the store if there is none.
    ///
    /// # Errors
    /// [`KeyError::Refused`] with [`Refusal::Denied`] for a wrong passphrase or a user who may not show one, with
    /// [`Refusal::Rate`] after too many wrong ones; [`KeyError::Locked`] when there is no store.
    pub async fn unlock(&self, passphrase: &[u8], create: bool) -> Result<(), KeyError> {
        let call = Call::Unlock { passphrase, create };
        self.ask_within(SLOW_DEADLINE, call, None, |reply| reply.done()).await
    }

    /// Puts another passphrase in the place of the store's; the service has to be unlocked.
    ///
    /// # Errors
    /// As [`KeyClient::unlock`]; the passphrase is the old one.
    pub async fn change_passphrase(&self, passphrase: &[u8], next: &[u8]) -> Result<(), KeyError> {
        let call = Call::ChangePassphrase { passphrase, next };
        self.ask_within(SLOW_DEADLINE, call, None, |reply| reply.done()).await
    }

    /// Has the service wipe every secret.
    ///
    /// # Errors
    /// [`KeyError::Locked`] when it is locked already; [`KeyError::Refused`] when the user may not.
    pub async fn lock(&self) -> Result<(), KeyError> {
        self.ask(Call::Lock, None, |reply| reply.done()).await
    }

    /// Has the service read its policy again.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] when the policy cannot be read: the old one stays in force.
    pub async fn reload(&self) -> Result<(), KeyError> {
        self.ask(Call::Reload, None, |reply| reply.done()).await
    }

    /// What is publicly known of every key that this client may list, ordered by id.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`].
    pub async fn keys(&self) -> Result<Vec<KeyMeta>, KeyError> {
        self.ask(Call::List, None, |reply| reply.keys()).await
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError::Refused`]: the policy does not allow it, or a key in use has the label.
    pub async fn create(&self, new: NewKey<'_>) -> Result<KeyMeta, KeyError> {
        let slow = new.usage.general().is_some_and(|general| general.kind().is_rsa());
        let deadline = if slow { SLOW_DEADLINE } else { DEADLINE };
        self.ask_within(deadline, Call::Generate(new), None, |reply| reply.key()).await
    }

    /// Hands a private key over, in the form of its type, which keeps the name `id` if given. For operators.
    ///
    /// # Errors
    /// As [`KeyClient::create`]; also when the key is or was in the store.
    pub async fn import(
        &self,
        new: NewKey<'_>,
        id: Option<KeyId>,
        secret: &[u8],
    ) -> Result<KeyMeta, KeyError> {
        self.ask(Call::Import { key: new, id, secret }, None, |reply| reply.key()).await
    }

    /// Lets a key rest until it is enabled.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    pub async fn disable(&self, key: KeyId) -> Result<(), KeyError> {
        self.ask(Call::Disable(key), Some(key), |reply| reply.done()).await
    }

    /// Ends a key's rest.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`]; [`KeyError::Refused`] when another key in use has its label by now.
    pub async fn enable(&self, key: KeyId) -> Result<(), KeyError> {
        self.ask(Call::Enable(key), Some(key), |reply| reply.done()).await
    }

    /// Asks, and reads the answer as `read` does. `key` is the one that a denial is about.
    pub(crate) async fn ask<T>(
        &self,
        call: Call<'_>,
        key: Option<KeyId>,
        read: impl FnOnce(&Reply<'_>) -> Result<T, ReplyError>,
    ) -> Result<T, KeyError> {
        self.ask_within(DEADLINE, call, key, read).await
    }

    async fn ask_within<T>(
        &self,
        deadline: Duration,
        call: Call<'_>,
        key: Option<KeyId>,
        read: impl FnOnce(&Reply<'_>) -> Result<T, ReplyError>,
    ) -> Result<T, KeyError> {
        let answered = tokio::time::timeout(deadline, async {
            // Closed never: it lives as long as this.
            let _place = self.shared.in_flight.acquire().await.map_err(unavailable)?;
            let connection = self.shared.connection().await?;
            connection.ask(call).await
        });
        let content = answered.await.map_err(|_| unavailable(Refusal::Timeout))??;
        let reply = Reply::decode(&content).map_err(unavailable)?;
        read(&reply).map_err(|error| refused(error, key))
    }
}

impl Vault for KeyClient {
    fn generate(&self, usage: KeyUsage) -> Answer<'_, KeyId> {
        Box::pin(async move {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(unavailable)?;
            let label = format!("{}/{usage}-{:016x}", self.shared.label, u64::from_be_bytes(random));
            Ok(self.create(NewKey { usage, label: &label, expires: None, extractable: false }).await?.id)
        })
    }

    fn public(&self, key: KeyId) -> Answer<'_, PublicHalf> {
        Box::pin(async move {
            let meta = self.ask(Call::Public(key), Some(key), |reply| reply.key()).await?;
            Ok(meta.public_half())
        })
    }

    fn sign<'a>(&'a self, key: KeyId, kind: SignatureType, body: &'a [u8]) -> Answer<'a, Signature> {
        // The service reads an attestation before it signs it.
        let call = match kind {
            SignatureType::KeyAttest => Call::Attest { key, body },
            _ => Call::Sign { key, kind, body },
        };
        Box::pin(async move {
            let bytes = self.ask(call, Some(key), |reply| reply.signature()).await?;
            Ok(Signature { algorithm: SIGNATURES, bytes: bytes.to_vec() })
        })
    }

    fn agree<'a>(&'a self, key: KeyId, peer: &'a [u8; 32]) -> Answer<'a, SharedSecret> {
        Box::pin(async move {
            let agreed = self.ask(Call::Agree { key, peer }, Some(key), |reply| reply.shared()).await;
            agreed.map_err(|error| match error {
                KeyError::Refused(Refusal::Crypto) => NonContributory.into(),
                error => error,
            })
        })
    }

    fn list(&self) -> Answer<'_, Vec<KeyInfo>> {
        Box::pin(async move {
            let keys = self.keys().await?.into_iter().filter(|meta| meta.state == KeyState::Active);
            Ok(keys
                .map(|meta| KeyInfo { id: meta.id, usage: meta.usage, public: meta.public_half() })
                .collect())
        })
    }

    fn delete(&self, key: KeyId) -> Answer<'_, ()> {
        Box::pin(self.ask(Call::Destroy(key), Some(key), |reply| reply.done()))
    }

    fn protection(&self) -> &str {
        "isolated: keys are in the process of the key service"
    }
}

impl fmt::Debug for KeyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyClient").field("socket", &self.shared.socket).finish_non_exhaustive()
    }
}

impl Shared {
    /// The connection that there is, or a new one.
    async fn connection(&self) -> Result<Arc<Connection>, KeyError> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = connection.as_ref().filter(|connection| !connection.is_lost()) {
            return Ok(Arc::clone(connection));
        }
        let stream = UnixStream::connect(&self.socket).await.map_err(unavailable)?;
        let found = stream.peer_cred().map_err(unavailable)?.uid();
        if found != self.server_uid {
            return Err(unavailable(WrongUser { expected: self.server_uid, found }));
        }
        let made = Connection::start(stream);
        *connection = Some(Arc::clone(&made));
        Ok(made)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.get_mut().take() {
            connection.lose();
            connection.unwritten.notify_one();
        }
    }
}

/// The process at the socket is not the service.
#[derive(Debug, thiserror::Error)]
#[error("the key service runs as user {found}, not {expected}")]
struct WrongUser {
    expected: u32,
    found: u32,
}

/// The connection was lost before the answer came: what was asked may have been done.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the key service was lost")]
struct Lost;

/// The content of an answer's frame.
type Content = Zeroizing<Vec<u8>>;

/// One connection, with a task that reads answers and writes what could not be written at once.
struct Connection {
    writer: OwnedWriteHalf,
    state: Mutex<ConnectionState>,
    /// There is something to write.
    unwritten: Notify,
    lost: AtomicBool,
}

#[derive(Default)]
struct ConnectionState {
    next_id: u32,
    waiting: HashMap<u32, oneshot::Sender<Content>>,
    /// What the socket did not take at once.
    unwritten: Vec<u8>,
}

impl Connection {
    fn start(stream: UnixStream) -> Arc<Self> {
        let (reader, writer) = stream.into_split();
        let connection = Arc::new(Self {
            writer,
            state: Mutex::default(),
            unwritten: Notify::new(),
            lost: AtomicBool::new(false),
        });
        // Ends with the connection: when the service closes it, or when nobody has the client any more.
        tokio::spawn(drive(Arc::clone(&connection), reader));
        connection
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        // Nothing that can panic runs between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, call: Call<'_>) -> Result<Content, KeyError> {
        let (answer, answered) = oneshot::channel();
        let id = self.send(call, answer).map_err(unavailable)?;
        let _forget = Forget { connection: self, id };
        answered.await.map_err(|_| unavailable(Lost))
    }

    /// Writes the request at once if the socket takes it, else leaves the rest to the task.
    fn send(&self, call: Call<'_>, answer: oneshot::Sender<Content>) -> io::Result<u32> {
        // Of its whole size at once: a buffer that has to move is wiped where it was by nobody.
        let long = matches!(call, Call::General(_) | Call::Import { .. });
        let mut framed =
            Zeroizing::new(Vec::with_capacity(if long { LONG_REQUEST_BYTES } else { REQUEST_BYTES }));
        let mut state = self.state();
        if self.is_lost() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        Request { id, call }.put(&mut framed);
        let mut written = 0;
        if state.unwritten.is_empty() {
            written = match self.writer.try_write(&framed) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
        }
        if state.unwritten.len() + framed.len() - written > UNWRITTEN_BYTES_MAX {
            // The service takes nothing: the connection counts as lost.
            return Err(io::ErrorKind::TimedOut.into());
        }
        state.unwritten.extend_from_slice(&framed[written..]);
        state.waiting.insert(id, answer);
        if written < framed.len() {
            self.unwritten.notify_one();
        }
        Ok(id)
    }

    /// Writes what waits; `false` while the socket takes no more.
    fn write(&self) -> io::Result<bool> {
        let mut state = self.state();
        while !state.unwritten.is_empty() {
            match self.writer.try_write(&state.unwritten) {
                Ok(written) => wipe_front(&mut state.unwritten, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Hands the whole frames in `input` to those who wait, and says how many bytes they took.
    fn deliver(&self, input: &[u8]) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
            let Some((content, length)) = frame(&input[used..]).map_err(malformed)? else {
                return Ok(used);
            };
            let id = Reply::decode(content).map_err(malformed)?.id;
            // Nobody waits any more for what came too late.
            if let Some(answer) = self.state().waiting.remove(&id) {
                let _ = answer.send(Zeroizing::new(content.to_vec()));
            }
            used += length;
        }
    }

    /// Fails everything that waits.
    fn lose(&self) {
        let mut state = self.state();
        self.lost.store(true, Ordering::Release);
        state.waiting.clear();
        state.unwritten.zeroize();
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

/// Reads answers, and writes what the socket did not take at once, until the connection is lost or unused.
async fn drive(connection: Arc<Connection>, mut reader: OwnedReadHalf) {
    let mut input = Zeroizing::new(Vec::with_capacity(READ_BYTES));
    while !connection.is_lost() {
        if step(&connection, &mut reader, &mut input).await.is_err() {
            connection.lose();
        }
    }
}

/// Waits for one thing to happen and does what follows.
async fn step(connection: &Connection, reader: &mut OwnedReadHalf, input: &mut Content) -> io::Result<()> {
    if !connection.write()? {
        // The socket is full: answers are read meanwhile, or both ends would wait for each other.
        tokio::select! {
            ready = connection.writer.ready(Interest::WRITABLE) => return ready.map(|_| ()),
            read = read(reader, input) => read?,
        }
    } else {
        tokio::select! {
            () = connection.unwritten.notified() => return Ok(()),
            read = read(reader, input) => read?,
        }
    }
    let used = connection.deliver(input)?;
    wipe_front(input, used);
    Ok(())
}

/// Takes the first `used` bytes off, and wipes where what follows them was.
fn wipe_front(buffer: &mut Vec<u8>, used: usize) {
    buffer.copy_within(used.., 0);
    let kept = buffer.len() - used;
    buffer[kept..].zeroize();
    buffer.truncate(kept);
}

/// Appends what comes to `input`, which never moves without being wiped.
async fn read(reader: &mut OwnedReadHalf, input: &mut Content) -> io::Result<()> {
    if input.len() == input.capacity() {
        if input.len() > FRAME_BYTES_MAX + 4 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * input.capacity()));
        larger.extend_from_slice(input);
        *input = larger;
    }
    match reader.read_buf(&mut **input).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> KeyError {
    KeyError::Unavailable(Box::new(error))
}

/// What a refusal says to the caller of a vault.
fn refused(error: ReplyError, key: Option<KeyId>) -> KeyError {
    match (error, key) {
        (ReplyError::Refused(Refusal::Denied), Some(key)) => KeyError::NoSuchKey(key),
        (ReplyError::Refused(Refusal::Locked), _) => KeyError::Locked,
        (ReplyError::Refused(refusal @ (Refusal::Backend | Refusal::Timeout)), _) => unavailable(refusal),
        (ReplyError::Refused(refusal), _) => KeyError::Refused(refusal),
        (error, _) => unavailable(error),
    }
}

/// Most requests are shorter, and every one with a secret in it but those below.
const REQUEST_BYTES: usize = 2304;
/// More than the longest request with data or a private key in it.
const LONG_REQUEST_BYTES: usize = 68 * 1024;
const READ_BYTES: usize = 16 * 1024;
