//! Somebody with an identity and a key service, as both targets on channels need it.

use std::pin::pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use onward_channels::identity::{
    Identifier, Identity, KnownHistories, Params, Purpose, Trust, channel_payload,
};
use onward_channels::{Bases, HandshakeConfig, Input, LocalIdentity, Now, Padding, Profile};
use onward_keys::{Backend, KeyUsage, PublicHalf, SoftwareVault, Vault as _};

/// Seconds since the Unix epoch at the beginning of every input.
const UNIX: u64 = 1_800_000_000;

/// A moment so long after the beginning.
pub(crate) fn at(mono: Duration) -> Now {
    Now { mono, unix: UNIX + mono.as_secs() }
}

/// A member of the handshakes; made once for all inputs.
pub(crate) struct Party {
    vault: SoftwareVault,
    local: Arc<LocalIdentity>,
}

impl Party {
    /// With keys of its own, valid for longer than any input lasts.
    pub(crate) fn new() -> Self {
        let vault = SoftwareVault::ephemeral();
        let local = done(async {
            let identity = Identity::create(&vault, UNIX - 1_000_000, 300_000_000).await.ok()?;
            let static_key = vault.generate(KeyUsage::ChannelStatic).await.ok()?;
            let PublicHalf::Agree(static_public) = vault.public(static_key).await.ok()? else {
                return None;
            };
            let (from, to) = (UNIX - 10, UNIX + 100_000);
            let attest = identity.attest(&vault, Purpose::CHANNEL_STATIC, &static_public, from, to);
            let payload = channel_payload(&identity, &attest.await.ok()?, &[], &Params::default(), 0).ok()?;
            Some(LocalIdentity { identifier: identity.identifier(), static_key, static_public, payload })
        });
        match local {
            Some(local) => Self { vault, local: Arc::new(local) },
            None => panic!("the software vault makes no identity"),
        }
    }

    pub(crate) fn identifier(&self) -> Identifier {
        self.local.identifier
    }

    /// What the key service answers.
    pub(crate) fn agree(&self, peer: &[u8; 32]) -> Input<'static> {
        done(self.vault.agree(self.local.static_key, peer)).map_or(Input::AgreementFailed, Input::Agreed)
    }

    /// What others may know beforehand: the identity payload.
    pub(crate) fn introduction(&self) -> Arc<[u8]> {
        self.local.payload.as_slice().into()
    }

    /// A configuration that accepts `peer` and nobody else.
    pub(crate) fn config(&self, peer: Identifier) -> Arc<HandshakeConfig> {
        self.config_with(peer, Bases::default())
    }

    /// The same, with what handshakes may rest on.
    pub(crate) fn config_with(&self, peer: Identifier, bases: Bases) -> Arc<HandshakeConfig> {
        Arc::new(HandshakeConfig {
            local: Arc::clone(&self.local),
            trust: Arc::new(Trust::pinned([peer])),
            known: Arc::new(RwLock::new(KnownHistories::new(4))),
            bases,
            backend: Backend::Portable,
            app: Vec::new(),
            profile: Arc::new(Profile::live()),
            padding: Padding::None,
        })
    }
}

/// The result of a future of the software vault, which never waits.
fn done<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the software vault waits"),
    }
}
