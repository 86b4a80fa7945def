//! People with their vaults, and the tools to make what no honest program makes.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use minicbor::Encoder;
use onward_channels::identity::{
    Attestation, History, Identifier, Identity, IdentityError, KnownHistories, Params, Purpose, Trust,
    VerifiedPeer, channel_payload, verify_payload,
};
use onward_channels::signed::Signed;
use onward_channels::strict;
use onward_keys::{
    KeyId, KeyUsage, PublicHalf, PublicKey, Signature, SignatureType, SoftwareVault, Vault as _,
};

/// When the tests take place, Unix seconds.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const DAY: u64 = 24 * 3600;
pub(crate) const YEAR: u64 = 365 * DAY;

/// Somebody with an identity, a channel static key and its attestation, all made at [`NOW`].
pub(crate) struct Person {
    pub(crate) vault: SoftwareVault,
    pub(crate) identity: Identity,
    pub(crate) noise_static: [u8; 32],
    pub(crate) attestation: Attestation,
}

impl Person {
    pub(crate) fn new() -> Self {
        let vault = SoftwareVault::ephemeral();
        let identity = done(Identity::create(&vault, NOW, YEAR)).unwrap();
        let key = done(vault.generate(KeyUsage::ChannelStatic)).unwrap();
        let PublicHalf::Agree(noise_static) = done(vault.public(key)).unwrap() else {
            panic!("not an X25519 key")
        };
        let attest = identity.attest(&vault, Purpose::CHANNEL_STATIC, &noise_static, NOW, NOW + DAY);
        let attestation = done(attest).unwrap();
        Self { vault, identity, noise_static, attestation }
    }

    pub(crate) fn id(&self) -> Identifier {
        self.identity.identifier()
    }

    pub(crate) fn attest(&self, purpose: Purpose, iat: u64, exp: u64) -> Attestation {
        done(self.identity.attest(&self.vault, purpose, &self.noise_static, iat, exp)).unwrap()
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        self.payload_with(&self.attestation)
    }

    pub(crate) fn payload_with(&self, attestation: &Attestation) -> Vec<u8> {
        channel_payload(&self.identity, attestation, &[], &Params::default(), 0).unwrap()
    }

    /// The peer that `bytes` prove at `now` to somebody who knows nothing and trusts everybody.
    pub(crate) fn verify(&self, bytes: &[u8], now: u64) -> Result<VerifiedPeer, IdentityError> {
        self.verify_knowing(&KnownHistories::default(), bytes, now)
    }

    pub(crate) fn verify_knowing(
        &self,
        known: &KnownHistories,
        bytes: &[u8],
        now: u64,
    ) -> Result<VerifiedPeer, IdentityError> {
        verify_payload(bytes, &self.noise_static, None, now, &Trust::dangerously_any(), known)
    }

    pub(crate) fn sign(&self, key: KeyId, kind: SignatureType, body: &[u8]) -> Signature {
        done(self.vault.sign(key, kind, body)).unwrap()
    }

    pub(crate) fn public(&self, key: KeyId) -> PublicKey {
        let PublicHalf::Verify(key) = done(self.vault.public(key)).unwrap() else {
            panic!("not a signing key")
        };
        key
    }
}

/// The result of a future of the software vault, which never waits.
pub(crate) fn done<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the software vault waits"),
    }
}

/// `body` with `signatures`, whatever they are worth.
pub(crate) fn signed(body: &[u8], signatures: &[Signature]) -> Signed {
    let mut e = Encoder::new(Vec::new());
    e.array(2).unwrap().bytes(body).unwrap().array(signatures.len() as u64).unwrap();
    for signature in signatures {
        e.array(2).unwrap().u8(signature.algorithm.number()).unwrap().bytes(&signature.bytes).unwrap();
    }
    Signed::decode(e.writer()).unwrap()
}

/// The changes of `history` as they were signed.
pub(crate) fn changes(history: &History) -> Vec<Signed> {
    minicbor::decode(&history.encode()).unwrap()
}

/// The history with these changes, whatever they are worth.
pub(crate) fn history_of(changes: &[Signed]) -> Result<History, IdentityError> {
    History::decode(&minicbor::to_vec(changes).unwrap())
}

/// A payload of these parts, whatever they are worth.
pub(crate) fn payload_of(history: &History, attestation: &Attestation) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    e.array(6).unwrap().u8(1).unwrap().encode(history).unwrap().encode(attestation).unwrap();
    e.array(0).unwrap().map(0).unwrap().null().unwrap();
    e.into_writer()
}

/// The body of a structure made here.
pub(crate) fn body<T: minicbor::Encode<()>>(structure: &T) -> Vec<u8> {
    strict::encode(structure)
}
