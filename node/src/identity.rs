//! An identity of this node, kept fit for use: its newest history, and an attestation that has not run out.
//!
//! All handles to one identity share one state, so that a rotation or a renewed attestation reaches every listener
//! and channel that uses it. No secret comes here: private keys stay in the vault.
//!
//! Specification: docs/protocol.md §3.1.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use onward_channels::LocalIdentity;
use onward_channels::identity::{Identifier, Identity as History, Params, Purpose, channel_payload};
use onward_keys::{KeyId, KeyUsage, PublicHalf, Vault};

use crate::channel::unix_now;
use crate::error::NodeError;
use crate::introduction::Introduction;

/// How often the node looks for attestations to renew.
const LOOK: Duration = Duration::from_secs(1);

/// An identity of this node, ready to open and accept channels. Cheap to clone; holds no secret.
#[derive(Clone)]
pub struct Identity {
    identifier: Identifier,
    state: Arc<RwLock<Prepared>>,
}

/// What a handshake needs of an identity.
#[derive(Clone)]
struct Prepared {
    history: Arc<History>,
    attestation: Attested,
}

/// The payload in which an identity attests a key of its own.
pub(crate) struct AttestedPayload {
    pub(crate) payload: Vec<u8>,
    /// Unix seconds.
    pub(crate) renew_at: u64,
}

/// An attestation of the channel key, as peers are shown it.
#[derive(Clone)]
struct Attested {
    local: Arc<LocalIdentity>,
    /// Unix seconds.
    renew_at: u64,
}

impl Identity {
    /// Who this is.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.identifier
    }

    /// What a peer may know beforehand: history and attested channel key.
    #[must_use]
    pub fn introduction(&self) -> Introduction {
        Introduction::of(self.identifier, &self.local().payload)
    }

    /// The public history as text, for a peer's file.
    #[must_use]
    pub fn export(&self) -> String {
        self.history().history().to_text()
    }

    pub(crate) fn history(&self) -> Arc<History> {
        Arc::clone(&self.read().history)
    }

    /// What a handshake that begins now introduces this end with.
    pub(crate) fn local(&self) -> Arc<LocalIdentity> {
        Arc::clone(&self.read().attestation.local)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Prepared> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, prepared: Prepared) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = prepared;
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.identifier).finish()
    }
}

/// The identities of a node that are in use.
pub(crate) struct Identities {
    vault: Arc<dyn Vault>,
    /// How long an attestation of a channel key lasts.
    attestation: Duration,
    in_use: Mutex<HashMap<Identifier, Weak<RwLock<Prepared>>>>,
}

impl Identities {
    pub(crate) fn new(vault: Arc<dyn Vault>, attestation: Duration) -> Self {
        Self { vault, attestation, in_use: Mutex::default() }
    }

    /// Makes an identity ready: attests `key`, or a new one. Handles that are in use already see the history given here.
    pub(crate) async fn prepare(&self, history: History, key: Option<KeyId>) -> Result<Identity, NodeError> {
        let key = match key {
            Some(key) => key,
            None => self.vault.generate(KeyUsage::ChannelStatic).await?,
        };
        let attestation = self.attest(&history, key).await?;
        let identifier = history.identifier();
        let prepared = Prepared { history: Arc::new(history), attestation };
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|_, state| state.strong_count() > 0);
        if let Some(state) = in_use.get(&identifier).and_then(Weak::upgrade) {
            let identity = Identity { identifier, state };
            identity.set(prepared);
            return Ok(identity);
        }
        let state = Arc::new(RwLock::new(prepared));
        in_use.insert(identifier, Arc::downgrade(&state));
        Ok(Identity { identifier, state })
    }

    /// Attests again, as long as the node runs, what has lived half of its time.
    pub(crate) async fn keep_attested(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.renew().await;
        }
    }

    /// What fails is tried again at the next call.
    async fn renew(&self) {
        for identity in self.due() {
            let (history, key) = (identity.history(), identity.local().static_key);
            match self.attest(&history, key).await {
                // A rotation meanwhile has attested anew itself.
                Ok(attestation) if Arc::ptr_eq(&identity.history(), &history) => {
                    identity.set(Prepared { history, attestation });
                }
                Ok(_) => {}
                Err(error) => {
                    let peer = identity.identifier;
                    tracing::warn!(identity = %peer, %error, "an identity's channel key was not attested again");
                }
            }
        }
    }

    fn due(&self) -> Vec<Identity> {
        let now = unix_now();
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let identities = in_use.iter().filter_map(|(identifier, state)| {
            Some(Identity { identifier: *identifier, state: state.upgrade()? })
        });
        identities.filter(|identity| now >= identity.read().attestation.renew_at).collect()
    }

    /// Attests `public`, a key of this identity, for `purpose`.
    pub(crate) async fn attested(
        &self,
        history: &History,
        purpose: Purpose,
        public: &[u8],
    ) -> Result<AttestedPayload, NodeError> {
        let (now, lasts) = (unix_now(), self.attestation.as_secs());
        let attestation = history.attest(&*self.vault, purpose, public, now, now + lasts).await?;
        let payload = channel_payload(history, &attestation, &[], &Params::default(), 0)?;
        Ok(AttestedPayload { payload, renew_at: now + lasts / 2 })
    }

    async fn attest(&self, history: &History, key: KeyId) -> Result<Attested, NodeError> {
        let PublicHalf::Agree(public) = self.vault.public(key).await? else {
            return Err(NodeError::Misuse("the channel key is no X25519 key"));
        };
        let AttestedPayload { payload, renew_at } =
            self.attested(history, Purpose::CHANNEL_STATIC, &public).await?;
        let local = LocalIdentity {
            identifier: history.identifier(),
            static_key: key,
            static_public: public,
            payload,
        };
        Ok(Attested { local: Arc::new(local), renew_at })
    }
}
