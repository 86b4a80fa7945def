//! The client of the key service: a [`Vault`] whose keys are in another process.
//!
//! Requests go out as they come and are answered in any order, at most [`IN_FLIGHT_MAX`] at a time. A request that is
//! not answered within [`DEADLINE`], or whose connection is lost, fails: it is not sent again, because it may have
//! been done. A connection is lost also by the service's silence. The next request connects anew, so that a service
//! that was started again is found.
//!
//! Nothing is sent before the kernel has said that the service runs as the expected user. No private key ever comes
//! here; agreed secrets are wiped from every buffer that they pass through.
//!
//! Specification: docs/protocol.md §7.1.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onward_keys::service::{
    Call, IN_FLIGHT_MAX, KeyMeta, KeyState, NewKey, Refusal, Reply, ReplyError, SIGNATURES, ServiceState,
};
use onward_keys::{
    Answer, KeyError, KeyId, KeyInfo, KeyUsage, NonContributory, PublicHalf, SharedSecret, Signature,
    SignatureType, Vault,
};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use self::connection::{Connection, Patience};

mod connection;
mod general;

/// How long a request may take, connecting included. Source: docs/protocol.md §7.1.
pub const DEADLINE: Duration = Duration::from_secs(2);

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
        self.ask_within(Patience::Long, call, None, |reply| reply.done()).await
    }

    /// Puts another passphrase in the place of the store's; the service has to be unlocked.
    ///
    /// # Errors
    /// As [`KeyClient::unlock`]; the passphrase is the old one.
    pub async fn change_passphrase(&self, passphrase: &[u8], next: &[u8]) -> Result<(), KeyError> {
        let call = Call::ChangePassphrase { passphrase, next };
        self.ask_within(Patience::Long, call, None, |reply| reply.done()).await
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
        let patience = if slow { Patience::Long } else { Patience::Usual };
        self.ask_within(patience, Call::Generate(new), None, |reply| reply.key()).await
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
        self.ask_within(Patience::Usual, call, key, read).await
    }

    async fn ask_within<T>(
        &self,
        patience: Patience,
        call: Call<'_>,
        key: Option<KeyId>,
        read: impl FnOnce(&Reply<'_>) -> Result<T, ReplyError>,
    ) -> Result<T, KeyError> {
        let until = Instant::now() + patience.deadline();
        let prepared = timeout_at(until, async {
            // Closed never: it lives as long as this.
            let place = self.shared.in_flight.acquire().await.map_err(unavailable)?;
            Ok::<_, KeyError>((place, self.shared.connection().await?))
        });
        let (_place, connection) = prepared.await.map_err(|_| unavailable(Refusal::Timeout))??;
        let content = connection.ask(call, until, patience).await?;
        let reply = Reply::decode(&content).map_err(unavailable)?;
        read(&reply).map_err(|error| refused(error, key))
    }
}

impl Patience {
    fn deadline(self) -> Duration {
        match self {
            Self::Usual => DEADLINE,
            Self::Long => SLOW_DEADLINE,
        }
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
