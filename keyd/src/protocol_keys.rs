//! Operations with the keys of the protocols: each signs what it is for, or agrees, and reads what it signs where that
//! says for how long.
//!
//! Whether the client may has been decided before, and `Permit` says what the rule allows beyond the operation itself.
//!
//! Specification: docs/protocol.md §7.2.

use onward_channels::identity::{Credential, KeyAttest};
use onward_keys::service::{BODY_BYTES_MAX, KeyMeta, NewKey, Outcome, Refusal};
use onward_keys::store::{Key, Store};
use onward_keys::{KeyId, SignatureType, private, strict};
use zeroize::{Zeroize as _, Zeroizing};

use crate::keys::{admit, change, is_named, is_usable, usable};
use crate::policy::NEVER_SIGNED;
use crate::service::{Now, Permit};

/// A time in a body to sign may differ from the clock by so much, in seconds. Source: docs/protocol.md §7.2.
pub const CLOCK_SKEW_SECONDS: u64 = 300;

pub(crate) fn sign(
    store: &Store,
    now: Now,
    permit: &Permit,
    key: KeyId,
    kind: SignatureType,
    body: &[u8],
) -> Result<Outcome, Refusal> {
    // An identity's attestation has an operation of its own, which reads what it signs.
    let forbidden = NEVER_SIGNED.contains(&kind) && kind != SignatureType::IdentityChange;
    if forbidden || (kind == SignatureType::IdentityChange && !permit.operator) {
        return Err(Refusal::Denied);
    }
    let (meta, secret) = computes(store, now, key)?;
    if !meta.usage.signs(kind) {
        return Err(Refusal::BadArguments);
    }
    if kind == SignatureType::Credential {
        let credential: Credential =
            strict::decode(body, BODY_BYTES_MAX).map_err(|_| Refusal::BadArguments)?;
        near(now, credential.iat)?;
    }
    Ok(Outcome::Signature(private::sign(secret, kind, body)))
}

/// Signs an attestation of a key in this store, made now, for no longer than the rule allows.
///
/// A client cannot have a key attested that it holds itself, nor one for a time when it may be gone.
pub(crate) fn attest(
    store: &Store,
    now: Now,
    permit: &Permit,
    key: KeyId,
    body: &[u8],
) -> Result<Outcome, Refusal> {
    let (meta, secret) = computes(store, now, key)?;
    if !meta.usage.signs(SignatureType::KeyAttest) {
        return Err(Refusal::BadArguments);
    }
    let attest: KeyAttest = strict::decode(body, BODY_BYTES_MAX).map_err(|_| Refusal::BadArguments)?;
    near(now, attest.iat)?;
    if attest.exp <= attest.iat || attest.exp - attest.iat > permit.attest_seconds {
        return Err(Refusal::BadArguments);
    }
    let attested = |key: &&Key| {
        let meta = &key.meta;
        meta.public[..] == attest.key[..] && meta.usage == attest.purpose.usage() && is_usable(now, meta)
    };
    if !store.keys().any(|key| attested(&key)) {
        return Err(Refusal::Denied);
    }
    Ok(Outcome::Signature(private::sign(secret, SignatureType::KeyAttest, body)))
}

pub(crate) fn agree(
    store: &Store,
    now: Now,
    permit: &Permit,
    key: KeyId,
    peer: &[u8; 32],
) -> Result<Outcome, Refusal> {
    let (meta, secret) = computes(store, now, key)?;
    if !meta.usage.agrees() {
        return Err(Refusal::BadArguments);
    }
    let is_own = |key: &Key| key.meta.usage.agrees() && key.meta.public[..] == peer[..];
    if !permit.agree_with_own && store.keys().any(is_own) {
        return Err(Refusal::Denied);
    }
    private::agree(secret, peer).map(Outcome::Shared).map_err(|_| Refusal::Crypto)
}

pub(crate) fn enable(store: &mut Store, id: KeyId) -> Result<Outcome, Refusal> {
    let meta = store.key(id).map(|key| key.meta.clone()).ok_or(Refusal::Denied)?;
    let taken = |key: &Key| key.meta.id != id && is_named(&key.meta, &meta.label);
    if store.keys().any(taken) {
        return Err(Refusal::BadArguments);
    }
    change(store.set_active(id, true))
}

pub(crate) fn generate(
    store: &mut Store,
    now: Now,
    owner: u32,
    new: &NewKey<'_>,
) -> Result<KeyMeta, Refusal> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(secret.as_mut()).map_err(|_| Refusal::Backend)?;
    insert(store, now, owner, new, None, &mut secret)
}

/// Takes in an Ed25519 seed or an X25519 scalar.
pub(crate) fn import(
    store: &mut Store,
    now: Now,
    owner: u32,
    new: &NewKey<'_>,
    id: Option<KeyId>,
    secret: &[u8],
) -> Result<KeyMeta, Refusal> {
    let secret: &[u8; 32] = secret.try_into().map_err(|_| Refusal::BadArguments)?;
    insert(store, now, owner, new, id, &mut Zeroizing::new(*secret))
}

/// Adds a key with this private half, which is wiped.
fn insert(
    store: &mut Store,
    now: Now,
    owner: u32,
    new: &NewKey<'_>,
    id: Option<KeyId>,
    secret: &mut [u8; 32],
) -> Result<KeyMeta, Refusal> {
    let public = private::public_half(new.usage, secret).as_bytes().to_vec();
    let meta = admit(store, now, owner, new, id, public).inspect_err(|_| secret.zeroize())?;
    store.insert(meta.clone(), secret).map_err(|_| Refusal::Backend)?;
    Ok(meta)
}

/// A protocol's key that may be used now, with its private half.
fn computes(store: &Store, now: Now, key: KeyId) -> Result<(&KeyMeta, &[u8; 32]), Refusal> {
    let key = usable(store, now, key)?;
    let secret = key.secret.as_ref().ok_or(Refusal::Denied)?;
    Ok((&key.meta, secret.as_bytes()))
}

fn near(now: Now, time: u64) -> Result<(), Refusal> {
    if time.abs_diff(now.seconds()) <= CLOCK_SKEW_SECONDS { Ok(()) } else { Err(Refusal::BadArguments) }
}
