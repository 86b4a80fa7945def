//! Operations with keys of general use: each checks that the key is for it, computes, and says one status.
//!
//! Whether the client may has been decided before (`subjects` says what the policy has to allow). A private half is
//! opened for one operation and wiped with it. All that a peer can get wrong is [`Refusal::Crypto`], and nothing tells
//! what it was.
//!
//! Specification: docs/protocol.md §7.2.

use onward_keys::general::request::GeneralCall;
use onward_keys::general::wrapping::{self, WrappedKey};
use onward_keys::general::{
    Failed, Family, Form, General, agreement, cipher, encapsulation, hpke, material, sealing, signing,
};
use onward_keys::service::{Call, KeyMeta, NewKey, Outcome, Refusal};
use onward_keys::store::{Key, Store};
use onward_keys::{KeyId, KeyUsage, Label, mac};
use zeroize::Zeroizing;

use crate::keys::{admit, change, planned, usable};
use crate::service::{Now, Permit, named_key, new_key};

/// What a call is about, as policies see it.
pub(crate) struct Subject {
    /// The key, if there is one yet.
    pub(crate) id: KeyId,
    /// Its label, or that of a blob; empty for random bytes.
    pub(crate) label: String,
    /// What it is for; nothing for what is no key.
    pub(crate) usage: Option<KeyUsage>,
}

impl Subject {
    fn of(meta: &KeyMeta) -> Self {
        Self { id: meta.id, label: meta.label.clone(), usage: Some(meta.usage) }
    }

    fn named(label: &str) -> Self {
        Self { id: KeyId::from_bytes([0; 16]), label: label.to_owned(), usage: None }
    }
}

/// What a rule has to allow: every subject, the one that does it first. `None` when there is no such key.
pub(crate) fn subjects<'a>(
    call: &Call<'_>,
    find: impl Fn(KeyId) -> Option<&'a KeyMeta>,
) -> Option<Vec<Subject>> {
    let mut subjects = Vec::new();
    if let Some(key) = named_key(call) {
        subjects.push(Subject::of(find(key)?));
    }
    if let Some(new) = new_key(call) {
        subjects.push(Subject::of(&planned(new)));
    }
    match call {
        Call::General(GeneralCall::Wrap { key, .. }) => subjects.push(Subject::of(find(*key)?)),
        Call::General(GeneralCall::Random { .. }) => subjects.push(Subject::named("")),
        Call::General(GeneralCall::Seal { label, .. } | GeneralCall::Open { label, .. }) => {
            subjects.push(Subject::named(label));
        }
        _ => {}
    }
    Some(subjects)
}

/// Does what is asked, for the user `user`.
pub(crate) fn operate(
    store: &mut Store,
    now: Now,
    user: u32,
    call: &GeneralCall<'_>,
) -> Result<Outcome, Refusal> {
    match *call {
        GeneralCall::SignRaw { key, scheme, message } => {
            let (_, general, secret) = open(store, now, key, Family::SignRaw)?;
            let signature = signing::sign(general.kind(), &secret, scheme, message).map_err(refusal)?;
            Ok(Outcome::Bytes(Zeroizing::new(signature)))
        }
        GeneralCall::Verify { key, scheme, message, signature } => {
            let (key, general) = find(store, now, key, Family::SignRaw)?;
            let verified = signing::verify(general.kind(), &key.meta.public, scheme, message, signature);
            verified.map(Outcome::Verdict).map_err(refusal)
        }
        GeneralCall::EcdhKdf { key, peer, info, bytes } => {
            let (_, general, secret) = open(store, now, key, Family::EcdhKdf)?;
            let derived = agreement::agree(general.kind(), &secret, peer, info, bytes.into());
            derived.map(Outcome::Bytes).map_err(refusal)
        }
        GeneralCall::HpkeOpen { key, enc, info, aad, ciphertext } => {
            let (_, general, secret) = open(store, now, key, Family::Hpke)?;
            let opened = hpke::open(general.kind(), &secret, enc, (info, aad), ciphertext);
            opened.map(Outcome::Bytes).map_err(refusal)
        }
        GeneralCall::Encrypt { key, mode, aad, data } => {
            let (.., secret) = open(store, now, key, mode.family())?;
            let sealed = cipher::encrypt(mode, &secret, aad, data).map_err(refusal)?;
            Ok(Outcome::Bytes(Zeroizing::new(sealed)))
        }
        GeneralCall::Decrypt { key, mode, aad, sealed } => {
            let (.., secret) = open(store, now, key, mode.family())?;
            cipher::decrypt(mode, &secret, aad, sealed).map(Outcome::Bytes).map_err(refusal)
        }
        GeneralCall::Wrap { with, key, form } => wrap(store, now, with, key, form),
        GeneralCall::Unwrap { with, form: Form::Sealed, wrapped, new } => {
            restore(store, now, with, wrapped, &new).map(Outcome::Key)
        }
        GeneralCall::Unwrap { with, form, wrapped, new } => {
            adopt(store, now, user, with, form, wrapped, &new).map(Outcome::Key)
        }
        GeneralCall::Mac { key, data } => {
            let (.., secret) = open(store, now, key, Family::Mac)?;
            let code = cipher::mac(&secret, data).map_err(refusal)?;
            Ok(Outcome::Bytes(Zeroizing::new(code.to_vec())))
        }
        GeneralCall::Encapsulate(key) => {
            let (key, general) = find(store, now, key, Family::Kem)?;
            let made = encapsulation::encapsulate(general.kind(), &key.meta.public).map_err(refusal)?;
            Ok(Outcome::Encapsulated(made.0, made.1))
        }
        GeneralCall::Decapsulate { key, ciphertext } => {
            let (_, general, seed) = open(store, now, key, Family::Kem)?;
            let shared = encapsulation::decapsulate(general.kind(), &seed, ciphertext);
            shared.map(Outcome::Shared).map_err(refusal)
        }
        GeneralCall::Random { bytes } => {
            let mut random = Zeroizing::new(vec![0; bytes.into()]);
            getrandom::fill(&mut random).map_err(|_| Refusal::Backend)?;
            Ok(Outcome::Bytes(random))
        }
        GeneralCall::Seal { label, aad, data } => {
            let key = store.derive(&Label::new("state/seal")).map_err(|_| Refusal::Backend)?;
            let sealed = sealing::seal(key.as_bytes(), &state_purpose(), &state_of(user, label, aad), data);
            sealed.map(|sealed| Outcome::Bytes(Zeroizing::new(sealed))).map_err(refusal)
        }
        GeneralCall::Open { label, aad, sealed } => {
            let key = store.derive(&Label::new("state/seal")).map_err(|_| Refusal::Backend)?;
            let opened = sealing::open(key.as_bytes(), &state_purpose(), &state_of(user, label, aad), sealed);
            opened.map(Outcome::Bytes).map_err(|_| Refusal::Crypto)
        }
        GeneralCall::Narrow(key) => change(store.narrow(key)),
        _ => Err(Refusal::BadArguments),
    }
}

/// Makes a key. RSA keys are made for operators: it takes seconds in which nobody else is answered.
pub(crate) fn generate(
    store: &mut Store,
    now: Now,
    permit: &Permit,
    owner: u32,
    new: &NewKey<'_>,
    general: General,
) -> Result<KeyMeta, Refusal> {
    if general.kind().is_rsa() && !permit.operator {
        return Err(Refusal::Denied);
    }
    let secret = material::generate(general.kind()).map_err(refusal)?;
    insert(store, now, owner, new, general, None, &secret)
}

/// Takes in a private half.
pub(crate) fn insert(
    store: &mut Store,
    now: Now,
    owner: u32,
    new: &NewKey<'_>,
    general: General,
    id: Option<KeyId>,
    secret: &[u8],
) -> Result<KeyMeta, Refusal> {
    let public = public(store, general, secret)?;
    let meta = admit(store, now, owner, new, id, public)?;
    store.insert_general(meta.clone(), secret).map_err(|_| Refusal::Backend)?;
    Ok(meta)
}

/// The public half; of a symmetric key, a fingerprint under a secret of this store, which tells nobody else anything.
fn public(store: &Store, general: General, secret: &[u8]) -> Result<Vec<u8>, Refusal> {
    let public = material::public(general.kind(), secret).map_err(refusal)?;
    if !general.kind().is_symmetric() {
        return Ok(public);
    }
    let key = store.derive(&Label::new("key/fingerprint")).map_err(|_| Refusal::Backend)?;
    Ok(mac(key.as_bytes(), secret).to_vec())
}

fn wrap(store: &Store, now: Now, with: KeyId, key: KeyId, form: Form) -> Result<Outcome, Refusal> {
    let (_, general, wrapping) = open(store, now, with, Family::Wrap)?;
    let key = usable(store, now, key)?;
    if !key.meta.extractable || with == key.meta.id {
        return Err(Refusal::BadArguments);
    }
    let secret = private_half(key)?;
    let wrapped = wrapping::wrap(form, general.kind(), &wrapping, &key.meta, &secret).map_err(refusal)?;
    Ok(Outcome::Bytes(Zeroizing::new(wrapped)))
}

/// Takes a key of another store back as what it was there, or as less.
fn restore(
    store: &mut Store,
    now: Now,
    with: KeyId,
    wrapped: &[u8],
    new: &NewKey<'_>,
) -> Result<KeyMeta, Refusal> {
    let (_, general, wrapping) = open(store, now, with, Family::Wrap)?;
    if !Form::Sealed.fits(general.kind()) {
        return Err(Refusal::BadArguments);
    }
    let wrapped = WrappedKey::decode(wrapped).map_err(|_| Refusal::Crypto)?;
    let secret = wrapping::unwrap_sealed(&wrapping, &wrapped).map_err(refusal)?;
    let was = &wrapped.meta;
    let ends_later = was.expires.is_some_and(|end| new.expires.is_none_or(|later| later > end));
    let widened = ends_later || (new.extractable && !was.extractable);
    let general = was.usage.general().filter(|_| new.usage == was.usage && new.label == was.label);
    let general = general.filter(|_| !widened).ok_or(Refusal::BadArguments)?;
    let public = public(store, general, &secret)?;
    let meta = admit(store, now, was.owner, new, None, public)?;
    let meta = KeyMeta { created: was.created, ..meta };
    store.insert_general(meta.clone(), &secret).map_err(|_| Refusal::Backend)?;
    Ok(meta)
}

/// Takes a key of a foreign store in. It never leaves again, and wraps nothing: whoever can encrypt to a wrapping key
/// could else bring in one that he knows, and have other keys wrapped by it.
fn adopt(
    store: &mut Store,
    now: Now,
    owner: u32,
    with: KeyId,
    form: Form,
    wrapped: &[u8],
    new: &NewKey<'_>,
) -> Result<KeyMeta, Refusal> {
    let (_, wrapping_general, wrapping) = open(store, now, with, Family::Wrap)?;
    let general = new.usage.general().filter(|general| general.family() != Family::Wrap && !new.extractable);
    let general = general.ok_or(Refusal::BadArguments)?;
    let secret = wrapping::unwrap(form, wrapping_general.kind(), &wrapping, wrapped).map_err(refusal)?;
    // What was in it is the peer's doing as much as how it was encrypted.
    insert(store, now, owner, new, general, None, &secret).map_err(|refused| match refused {
        Refusal::BadArguments => Refusal::Crypto,
        refused => refused,
    })
}

/// The key, which may be used now and is of this family.
fn find(store: &Store, now: Now, id: KeyId, family: Family) -> Result<(&Key, General), Refusal> {
    let key = usable(store, now, id)?;
    let general = key.meta.usage.general().filter(|general| general.family() == family);
    Ok((key, general.ok_or(Refusal::BadArguments)?))
}

/// The key with its private half.
fn open(
    store: &Store,
    now: Now,
    id: KeyId,
    family: Family,
) -> Result<(&Key, General, Zeroizing<Vec<u8>>), Refusal> {
    let (key, general) = find(store, now, id, family)?;
    Ok((key, general, private_half(key)?))
}

fn private_half(key: &Key) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    key.material().map_err(|_| Refusal::Backend)?.ok_or(Refusal::Denied)
}

fn state_purpose() -> Label {
    Label::new("state")
}

/// Whose blob it is, and what it belongs to.
fn state_of(user: u32, label: &str, aad: &[u8]) -> Vec<u8> {
    Label::new("state").uint(user.into()).text(label).bytes(aad).encode()
}

fn refusal(failed: Failed) -> Refusal {
    match failed {
        Failed::Refused => Refusal::Crypto,
        Failed::System => Refusal::Backend,
        _ => Refusal::BadArguments,
    }
}
