//! People with their vaults, an issuer of tokens, and the steps of an exchange.

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use onward_channels::identity::{
    Identity, KnownHistories, Params, PresentedCredential, Purpose, channel_payload,
};
use onward_channels::ok2cry::{
    AttestedKey, Ciphertext, Demand, Direction, DisposableKey, DisposableKeyId, Event, ExchangeError,
    Expected, KeyBody, KeyObject, Pins, Policy, Received, Schema, Sealed, SealerTrust, Sealing, TrustMode,
    VerifiedKey, context, open,
};
use onward_keys::{KeyUsage, PublicHalf, SoftwareVault, Vault as _};
use rand_core::{TryCryptoRng, TryRng};

/// When the tests take place, Unix seconds.
pub(crate) const NOW: u64 = 1_800_000_000;

/// The API's name for itself.
pub(crate) const API: &str = "https://pin.bank.example";

/// The policies that everybody here allows.
pub(crate) const POLICIES: [Policy; 4] = Policy::ALL;

/// Somebody with an identity, and keys of purposes 5 and 8.
pub(crate) struct Person {
    pub(crate) vault: SoftwareVault,
    pub(crate) signing: AttestedKey,
    pub(crate) fixed: AttestedKey,
}

impl Person {
    pub(crate) fn new() -> Self {
        Self::presenting(|_| Vec::new())
    }

    /// Somebody who shows these credentials with each key.
    pub(crate) fn presenting(credentials: impl FnOnce(&Identity) -> Vec<PresentedCredential>) -> Self {
        let vault = SoftwareVault::ephemeral();
        let identity = done(Identity::create(&vault, NOW, 1_000_000)).unwrap();
        let credentials = credentials(&identity);
        let [signing, fixed] = [KeyUsage::Ok2crySigning, KeyUsage::Ok2cryStatic].map(|usage| {
            let key = done(vault.generate(usage)).unwrap();
            let public: PublicHalf = done(vault.public(key)).unwrap();
            let purpose = Purpose::new(usage).unwrap();
            let attest = identity.attest(&vault, purpose, public.as_bytes(), NOW, NOW + 86_400);
            let attestation = done(attest).unwrap();
            let payload =
                channel_payload(&identity, &attestation, &credentials, &Params::default(), 0).unwrap();
            AttestedKey::new(key, payload).unwrap()
        });
        Self { vault, signing, fixed }
    }

    pub(crate) fn pins(&self) -> Pins {
        Pins::identifiers([self.signing.identifier()])
    }

    /// The key with which this person seals to keys of `policy`.
    pub(crate) fn sealing(&self, policy: Policy) -> Sealing<'_> {
        let key = if policy.shows_sealer_inside() { &self.fixed } else { &self.signing };
        Sealing { sealer: Some((&self.vault, key)), ..Sealing::default() }
    }

    pub(crate) fn sign(&self, body: &KeyBody) -> KeyObject {
        done(KeyObject::sign(body.clone(), &self.vault, &self.signing)).unwrap()
    }
}

/// A disposable key with what is said of it.
pub(crate) struct Made {
    pub(crate) key: DisposableKey,
    pub(crate) body: KeyBody,
}

impl Made {
    pub(crate) fn new(policy: Policy, direction: Direction, random: &mut Random) -> Self {
        let key = DisposableKey::generate(policy, random).unwrap();
        let mut id = [0; 16];
        random.fill(&mut id);
        let body = KeyBody {
            policy,
            key_id: DisposableKeyId::from_bytes(id),
            public: key.public().to_vec(),
            direction,
            iat: NOW,
            ttl: 120,
            aud: API.into(),
            purpose: "card-pin".into(),
            binding: Some(ctx()),
            parent: None,
            schema: None,
        };
        Self { key, body }
    }

    pub(crate) fn answer(policy: Policy, random: &mut Random) -> Self {
        Self::new(policy, Direction::AnswerToMe, random)
    }

    /// Verifies what came and, only then, opens it: what the owner of a key does.
    pub(crate) fn receive(&self, sealed: &Sealed, trust: SealerTrust<'_>) -> Result<Received, ExchangeError> {
        self.receive_for(ctx(), sealed, trust)
    }

    /// As [`Made::receive`], of what has to follow a schema.
    pub(crate) fn receive_by(
        &self,
        schema: &dyn Schema,
        sealed: &Sealed,
        trust: SealerTrust<'_>,
    ) -> Result<Received, ExchangeError> {
        self.receive_what(ctx(), sealed, trust, Some(schema))
    }

    pub(crate) fn receive_for(
        &self,
        ctx: [u8; 32],
        sealed: &Sealed,
        trust: SealerTrust<'_>,
    ) -> Result<Received, ExchangeError> {
        self.receive_what(ctx, sealed, trust, None)
    }

    fn receive_what(
        &self,
        ctx: [u8; 32],
        sealed: &Sealed,
        trust: SealerTrust<'_>,
        schema: Option<&dyn Schema>,
    ) -> Result<Received, ExchangeError> {
        let known = KnownHistories::default();
        let expected = Expected { body: &self.body, ctx, trust, now: NOW, known: &known };
        let sealed = Sealed::decode(&sealed.encode())?;
        let terms = expected.verify(&sealed)?;
        let Ciphertext { enc, ct } = &sealed.ciphertext;
        let opened = open(&terms, self.key.private(), enc.as_deref(), ct)?;
        expected.receive(&terms, opened, schema)
    }
}

/// The request that the tests are about.
pub(crate) fn ctx() -> [u8; 32] {
    context("GET", "/cards/1/pin", b"request 42")
}

pub(crate) fn demand(known: &KnownHistories, direction: Direction) -> Demand<'_> {
    Demand { policies: &POLICIES, aud: API, direction, ctx: ctx(), now: NOW, known, carrier: None }
}

/// Verifies `object` as it comes from the wire, for an answer.
pub(crate) fn verify(object: &KeyObject, mode: TrustMode<'_>) -> Result<VerifiedKey, ExchangeError> {
    verify_logging(object, Direction::AnswerToMe, mode).0
}

/// As [`verify`], with what had to be logged.
pub(crate) fn verify_logging(
    object: &KeyObject,
    direction: Direction,
    mode: TrustMode<'_>,
) -> (Result<VerifiedKey, ExchangeError>, Vec<Event>) {
    let known = KnownHistories::default();
    let object = KeyObject::decode(&object.encode()).unwrap();
    let mut events = Vec::new();
    let verified = object.verify(&demand(&known, direction), mode, &mut |event| events.push(event));
    (verified, events)
}

pub(crate) fn seal(
    key: VerifiedKey,
    plaintext: &[u8],
    sealing: Sealing<'_>,
    random: &mut Random,
) -> Result<Sealed, ExchangeError> {
    done(key.seal(plaintext, sealing, NOW, random))
}

/// The result of a future of the software vault, which never waits.
pub(crate) fn done<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the software vault waits"),
    }
}

/// Bytes that repeat with every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn fill(&mut self, output: &mut [u8]) {
        for byte in output {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("only bytes are drawn")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("only bytes are drawn")
    }

    fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Infallible> {
        self.fill(output);
        Ok(())
    }
}

impl TryCryptoRng for Random {}
