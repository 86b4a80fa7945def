//! What is asked of a key cache, and what it answers.
//!
//! A request is `[v=1, id u32, op u8, args]`, an answer `[v=1, id u32, status u8, result/null]`, in frames of the key
//! service's socket or as messages through a channel. Decoding takes only the deterministic encoding and borrows.
//!
//! Specification: docs/protocol.md §5.4.

use std::fmt;

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder};
use onward_keys::audit::EVIDENCE_BYTES_MAX;
use onward_keys::message;
use onward_keys::service::CACHE_BYTES_MAX;
use zeroize::Zeroizing;

use super::super::{
    AUDIENCE_BYTES_MAX, BODY_BYTES_MAX, Direction, DisposableKeyId, PURPOSE_BYTES_MAX, Policy,
    SEALED_BYTES_MAX,
};
use super::Owner;
use crate::strict::{self, Malformed};

/// Bytes of a request or an answer, at most: the longest sealed message with room for the rest.
pub const CACHE_MESSAGE_BYTES_MAX: usize = SEALED_BYTES_MAX + 256;

// The cache in the key service takes what the one in a process takes.
const _: () = assert!(CACHE_MESSAGE_BYTES_MAX <= CACHE_BYTES_MAX);

/// How many others the owner of a key may name that may use it as well.
pub const DELEGATES_MAX: usize = 16;

/// Bytes of a private key that is put in, sealed, at most.
const PUT_BYTES_MAX: usize = 256;

/// What is asked for, and by which number its answer is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheRequest<'a> {
    /// Names the request; the answer repeats it.
    pub id: u32,
    /// What is asked for.
    pub call: CacheCall<'a>,
}

/// An operation with its arguments.
#[derive(Clone, Eq, PartialEq)]
#[non_exhaustive]
pub enum CacheCall<'a> {
    /// Makes a key.
    Generate(NewDisposableKey<'a>),
    /// Opens what was sealed to a key, and ends the key.
    Use {
        /// The key.
        key: DisposableKeyId,
        /// The encoded [`Sealed`](super::super::Sealed), whose signature the asker has checked.
        sealed: &'a [u8],
        /// The request that the exchange belongs to.
        ctx: &'a [u8; 32],
    },
    /// Takes a private key out, and ends the key here.
    Take(DisposableKeyId),
    /// Puts a key in that was made elsewhere.
    Put {
        /// The encoded [`KeyBody`](super::super::KeyBody).
        body: &'a [u8],
        /// The encapsulated key of the HPKE seal to the cache's own key.
        enc: &'a [u8],
        /// The private half, sealed.
        ct: &'a [u8],
    },
    /// Ends a key.
    Destroy(DisposableKeyId),
    /// What is publicly known of a key.
    Stat(DisposableKeyId),
    /// Evidence of what became of a key.
    Proof {
        /// The key.
        key: DisposableKeyId,
        /// The size of a head that the asker has seen.
        since: Option<u64>,
    },
    /// What is publicly known of the cache.
    Status,
}

/// What a key to be made is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewDisposableKey<'a> {
    /// With what is sealed to it.
    pub policy: Policy,
    /// Which way the secret goes.
    pub direction: Direction,
    /// How long it lives, in seconds; as the cache has it if none is given.
    pub ttl: Option<u16>,
    /// For whom it is.
    pub aud: &'a str,
    /// What it is for.
    pub purpose: &'a str,
    /// The one request it may be used for, if it is bound to one.
    pub binding: Option<[u8; 32]>,
    /// The encoded body of the key of the exchange that this one is a part of.
    pub parent: Option<&'a [u8]>,
    /// SHA-256 of the canonical JSON schema that the plaintext follows.
    pub schema: Option<[u8; 32]>,
    /// Whether it may be taken out.
    pub exportable: bool,
    /// Who else may use it, at most [`DELEGATES_MAX`].
    pub delegates: Vec<Owner>,
}

impl CacheCall<'_> {
    const fn number(&self) -> u8 {
        match self {
            Self::Generate(_) => 1,
            Self::Use { .. } => 2,
            Self::Take(_) => 3,
            Self::Put { .. } => 4,
            Self::Destroy(_) => 5,
            Self::Stat(_) => 6,
            Self::Proof { .. } => 7,
            Self::Status => 8,
        }
    }

    /// The operation's name in listings.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Generate(_) => "generate",
            Self::Use { .. } => "use",
            Self::Take(_) => "take",
            Self::Put { .. } => "put",
            Self::Destroy(_) => "destroy",
            Self::Stat(_) => "stat",
            Self::Proof { .. } => "proof",
            Self::Status => "status",
        }
    }
}

impl fmt::Debug for CacheCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheCall({})", self.name())
    }
}

impl<'a> CacheRequest<'a> {
    /// Reads a request of at most [`CACHE_MESSAGE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Malformed`]; an unknown operation is of no known shape.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (id, call) = message::read_request(bytes, CACHE_MESSAGE_BYTES_MAX, call)?;
        Ok(Self { id, call })
    }

    /// The encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut e = Encoder::new(&mut out);
        let written = (|| -> Written {
            message::put_request(&mut e, self.id, self.call.number())?;
            match &self.call {
                CacheCall::Generate(new) => new.put(&mut e),
                CacheCall::Use { key, sealed, ctx } => {
                    e.array(3)?.bytes(key.as_bytes())?.bytes(sealed)?.bytes(*ctx)?.ok()
                }
                CacheCall::Put { body, enc, ct } => e.array(3)?.bytes(body)?.bytes(enc)?.bytes(ct)?.ok(),
                CacheCall::Take(key) | CacheCall::Destroy(key) | CacheCall::Stat(key) => {
                    e.array(1)?.bytes(key.as_bytes())?.ok()
                }
                CacheCall::Proof { key, since } => {
                    e.array(2)?.bytes(key.as_bytes())?;
                    put_optional_number(&mut e, *since)
                }
                CacheCall::Status => e.array(0)?.ok(),
            }
        })();
        debug_assert!(written.is_ok(), "encoding into memory failed");
        out
    }
}

impl<'a> NewDisposableKey<'a> {
    /// A key of which nothing else is asked: as long-lived as the cache has it, for any request, its maker's alone.
    #[must_use]
    pub fn new(policy: Policy, direction: Direction, aud: &'a str, purpose: &'a str) -> Self {
        Self {
            policy,
            direction,
            ttl: None,
            aud,
            purpose,
            binding: None,
            parent: None,
            schema: None,
            exportable: false,
            delegates: Vec::new(),
        }
    }

    fn put(&self, e: &mut Encoder<&mut Vec<u8>>) -> Written {
        e.array(10)?.u16(self.policy.number())?.u8(self.direction.number())?;
        put_optional_number(e, self.ttl.map(u64::from))?;
        e.str(self.aud)?.str(self.purpose)?;
        strict::put_optional_bytes(e, self.binding)?;
        strict::put_optional_bytes(e, self.parent)?;
        strict::put_optional_bytes(e, self.schema)?;
        e.u8(if self.exportable { EXPORTABLE } else { 0 })?.array(self.delegates.len() as u64)?;
        self.delegates.iter().try_for_each(|owner| e.bytes(owner.as_bytes())?.ok())
    }
}

fn call<'b>(number: u8, d: &mut Decoder<'b>) -> Result<CacheCall<'b>, decode::Error> {
    match number {
        1 => {
            strict::array(d, 10)?;
            Ok(CacheCall::Generate(new_key(d)?))
        }
        2 => {
            strict::array(d, 3)?;
            let (key, sealed) = (key_id(d)?, strict::bytes(d, SEALED_BYTES_MAX)?);
            let ctx = d.bytes()?.try_into();
            let ctx = ctx.map_err(|_| strict::refuse(d, "byte string of another length"))?;
            Ok(CacheCall::Use { key, sealed, ctx })
        }
        3 => Ok(CacheCall::Take(only_key_id(d)?)),
        4 => {
            strict::array(d, 3)?;
            let body = strict::bytes(d, BODY_BYTES_MAX)?;
            let (enc, ct) = (strict::bytes(d, PUT_BYTES_MAX)?, strict::bytes(d, PUT_BYTES_MAX)?);
            Ok(CacheCall::Put { body, enc, ct })
        }
        5 => Ok(CacheCall::Destroy(only_key_id(d)?)),
        6 => Ok(CacheCall::Stat(only_key_id(d)?)),
        7 => {
            strict::array(d, 2)?;
            Ok(CacheCall::Proof { key: key_id(d)?, since: strict::optional(d, Decoder::u64)? })
        }
        8 => {
            strict::array(d, 0)?;
            Ok(CacheCall::Status)
        }
        _ => Err(strict::refuse(d, "unknown operation")),
    }
}

fn new_key<'b>(d: &mut Decoder<'b>) -> Result<NewDisposableKey<'b>, decode::Error> {
    let policy = Policy::from_number(d.u16()?).ok_or_else(|| strict::refuse(d, "unknown policy"))?;
    let direction = Direction::from_number(d.u8()?).ok_or_else(|| strict::refuse(d, "unknown direction"))?;
    let ttl = strict::optional(d, Decoder::u16)?;
    let aud = strict::text(d, AUDIENCE_BYTES_MAX)?;
    let purpose = strict::text(d, PURPOSE_BYTES_MAX)?;
    let binding = strict::optional(d, strict::bytes_exact)?;
    let parent = strict::optional(d, |d| strict::bytes(d, BODY_BYTES_MAX))?;
    let schema = strict::optional(d, strict::bytes_exact)?;
    let exportable = match d.u8()? {
        0 => false,
        EXPORTABLE => true,
        _ => return Err(strict::refuse(d, "unknown flags")),
    };
    let count = strict::array_within(d, 0..=DELEGATES_MAX as u64)?;
    let delegates =
        (0..count).map(|_| strict::bytes_exact(d).map(Owner::from_bytes)).collect::<Result<_, _>>()?;
    Ok(NewDisposableKey {
        policy,
        direction,
        ttl,
        aud,
        purpose,
        binding,
        parent,
        schema,
        exportable,
        delegates,
    })
}

fn only_key_id(d: &mut Decoder<'_>) -> Result<DisposableKeyId, decode::Error> {
    strict::array(d, 1)?;
    key_id(d)
}

fn key_id(d: &mut Decoder<'_>) -> Result<DisposableKeyId, decode::Error> {
    strict::bytes_exact(d).map(DisposableKeyId::from_bytes)
}

/// Why the cache did not do what it was asked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[repr(u8)]
#[non_exhaustive]
pub enum CacheRefusal {
    /// There is no such key for the asker: never was, is over, or is somebody else's. These are not told apart.
    #[error("no such disposable key")]
    NotFound = 1,
    /// Not now: a resource is used up that comes back, or no head covers what is to be proved.
    #[error("the key cache is busy")]
    Busy = 2,
    /// The asker may not.
    #[error("denied by the key cache")]
    Denied = 3,
    /// What was sealed does not open. Says no more on purpose.
    #[error("what was sealed does not open")]
    BadSealed = 4,
    /// Arguments that no key may have.
    #[error("refused by the rules for disposable keys")]
    Policy = 5,
    /// The asker's quota, or the cache, is full. Nothing that lives gives way.
    #[error("the key cache takes no more keys")]
    Overload = 6,
}

impl CacheRefusal {
    /// Every refusal.
    pub const ALL: [Self; 6] =
        [Self::NotFound, Self::Busy, Self::Denied, Self::BadSealed, Self::Policy, Self::Overload];
}

/// What the cache answers when it did what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum CacheOutcome {
    /// A key was made or put in.
    Made(MadeKey),
    /// What was sealed.
    Opened(OpenedBytes),
    /// A private key.
    Private(Zeroizing<[u8; 32]>),
    /// The place in the log of a key's end.
    Ended(u64),
    /// What is publicly known of a key.
    Stat(KeyStat),
    /// An encoded [`Evidence`](onward_keys::audit::Evidence).
    Proof(Vec<u8>),
    /// What is publicly known of the cache.
    Status(CacheStatus),
}

/// A key that was made: `[body, r b16]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MadeKey {
    /// Its encoded [`KeyBody`](super::super::KeyBody).
    pub body: Vec<u8>,
    /// By which its owner finds its creation in the log.
    pub commitment: [u8; 16],
}

/// What was sealed: `[plaintext, sender b32/null]`. The plaintext is wiped on drop.
pub struct OpenedBytes {
    /// The plaintext.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// In policy 2 the static key that the sealer proved to hold.
    pub sender: Option<[u8; 32]>,
}

impl fmt::Debug for OpenedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plaintext: _, sender } = self;
        f.debug_struct("OpenedBytes").field("sender", sender).finish_non_exhaustive()
    }
}

/// What is publicly known of a key: `[body/null, remaining_ms u64, state u8]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyStat {
    /// Its encoded body, while it lives.
    pub body: Option<Vec<u8>>,
    /// How long it lives on, in milliseconds.
    pub remaining_ms: u64,
    /// Where it is in its life.
    pub state: DisposableKeyState,
}

/// Where a key is in its life. There is no way back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum DisposableKeyState {
    /// It may be used, once.
    Live = 0,
    /// It was used or taken out.
    Used = 1,
    /// Its time was over.
    Expired = 2,
    /// It was destroyed on demand, by failed uses, or with the cache.
    Destroyed = 3,
}

impl DisposableKeyState {
    /// The state's name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Destroyed => "destroyed",
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Live, Self::Used, Self::Expired, Self::Destroyed]
            .into_iter()
            .find(|state| *state as u8 == number)
    }
}

/// What the cache says of itself: `[replica b16, put key, log_id b32, signer b32, live u32, records u32, epochs u32, leaves u64]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheStatus {
    /// Its name, new with every start.
    pub replica: [u8; 16],
    /// The PEM of the key that private keys are sealed to which are put in.
    pub put_key: Vec<u8>,
    /// Which log its evidence is of.
    pub log_id: [u8; 32],
    /// The public key of that log's heads.
    pub signer: [u8; 32],
    /// Live keys.
    pub live: u32,
    /// Keys that are remembered, the live ones included.
    pub records: u32,
    /// Epoch keys in memory.
    pub epochs: u32,
    /// Leaves in the log.
    pub leaves: u64,
}

/// The answer to the request `id`. A secret in it is in these bytes alone.
#[must_use]
pub fn encode_answer(id: u32, answer: &Result<CacheOutcome, CacheRefusal>) -> Zeroizing<Vec<u8>> {
    // It never moves while it grows: nothing would wipe where it was.
    let mut out = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES + content_bytes(answer)));
    let result = answer.as_ref().map_err(|refusal| *refusal as u8);
    let written = message::put_answer(&mut Encoder::new(&mut *out), id, result, CacheOutcome::put);
    debug_assert!(written.is_ok(), "encoding into memory failed");
    out
}

/// Bytes of an answer without what [`content_bytes`] counts, at most.
const ANSWER_BYTES: usize = 512;

fn content_bytes(answer: &Result<CacheOutcome, CacheRefusal>) -> usize {
    match answer {
        Ok(CacheOutcome::Made(MadeKey { body, .. })) => body.len(),
        Ok(CacheOutcome::Opened(opened)) => opened.plaintext.len(),
        Ok(CacheOutcome::Stat(KeyStat { body, .. })) => body.as_ref().map_or(0, Vec::len),
        Ok(CacheOutcome::Proof(evidence)) => evidence.len(),
        Ok(CacheOutcome::Status(CacheStatus { put_key, .. })) => put_key.len(),
        Ok(CacheOutcome::Private(_) | CacheOutcome::Ended(_)) | Err(_) => 0,
    }
}

impl CacheOutcome {
    fn put(&self, e: &mut Encoder<&mut Vec<u8>>) -> Written {
        match self {
            Self::Made(MadeKey { body, commitment }) => e.array(2)?.bytes(body)?.bytes(commitment)?.ok(),
            Self::Opened(OpenedBytes { plaintext, sender }) => {
                e.array(2)?.bytes(plaintext)?;
                strict::put_optional_bytes(e, *sender)
            }
            Self::Private(private) => e.bytes(&private[..])?.ok(),
            Self::Ended(leaf) => e.u64(*leaf)?.ok(),
            Self::Stat(KeyStat { body, remaining_ms, state }) => {
                e.array(3)?;
                strict::put_optional_bytes(e, body.as_ref())?;
                e.u64(*remaining_ms)?.u8(*state as u8)?.ok()
            }
            Self::Proof(evidence) => e.bytes(evidence)?.ok(),
            Self::Status(status) => {
                let CacheStatus { replica, put_key, log_id, signer, live, records, epochs, leaves } = status;
                e.array(8)?.bytes(replica)?.bytes(put_key)?.bytes(log_id)?.bytes(signer)?;
                e.u32(*live)?.u32(*records)?.u32(*epochs)?.u64(*leaves)?.ok()
            }
        }
    }
}

/// An answer as it came; what it holds is read as what was asked for.
#[derive(Clone, Copy)]
pub struct CacheReply<'a> {
    /// Which request it answers.
    pub id: u32,
    /// The result, still encoded, or why there is none.
    result: Result<&'a [u8], CacheRefusal>,
}

impl<'a> CacheReply<'a> {
    /// Reads an answer of at most [`CACHE_MESSAGE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let refusal = |status| CacheRefusal::ALL.into_iter().find(|refusal| *refusal as u8 == status);
        let (id, result) = message::read_answer(bytes, CACHE_MESSAGE_BYTES_MAX, refusal)?;
        Ok(Self { id, result })
    }

    /// The answer to [`CacheCall::Generate`] and [`CacheCall::Put`].
    ///
    /// # Errors
    /// The refusal, or that the answer is of another shape; as for every reader here.
    pub fn made(&self) -> Result<MadeKey, CacheReplyError> {
        self.read(|d| {
            strict::array(d, 2)?;
            let body = strict::bytes(d, BODY_BYTES_MAX)?.to_vec();
            Ok(MadeKey { body, commitment: strict::bytes_exact(d)? })
        })
    }

    /// The answer to [`CacheCall::Use`].
    ///
    /// # Errors
    /// As [`CacheReply::made`].
    pub fn opened(&self) -> Result<OpenedBytes, CacheReplyError> {
        self.read(|d| {
            strict::array(d, 2)?;
            let plaintext = Zeroizing::new(d.bytes()?.to_vec());
            Ok(OpenedBytes { plaintext, sender: strict::optional(d, strict::bytes_exact)? })
        })
    }

    /// The answer to [`CacheCall::Take`].
    ///
    /// # Errors
    /// As [`CacheReply::made`].
    pub fn private(&self) -> Result<Zeroizing<[u8; 32]>, CacheReplyError> {
        self.read(|d| strict::bytes_exact(d).map(Zeroizing::new))
    }

    /// The answer to [`CacheCall::Destroy`].
    ///
    /// # Errors
    /// As [`CacheReply::made`].
    pub fn ended(&self) -> Result<u64, CacheReplyError> {
        self.read(Decoder::u64)
    }

    /// The answer to [`CacheCall::Stat`].
    ///
    /// # Errors
    /// As [`CacheReply::made`].
    pub fn stat(&self) -> Result<KeyStat, CacheReplyError> {
        self.read(|d| {
            strict::array(d, 3)?;
            let body = strict::optional(d, |d| strict::bytes(d, BODY_BYTES_MAX))?.map(<[u8]>::to_vec);
            let remaining_ms = d.u64()?;
            let state = DisposableKeyState::from_number(d.u8()?);
            Ok(KeyStat {
                body,
                remaining_ms,
                state: state.ok_or_else(|| strict::refuse(d, "unknown state"))?,
            })
        })
    }

    /// The answer to [`CacheCall::Proof`]: an encoded [`Evidence`](onward_keys::audit::Evidence).
    ///
    /// # Errors
    /// As [`CacheReply::made`].
    pub fn proof(&self) -> Result<Vec<u8>, CacheReplyError> {
        self.read(|d| strict::bytes(d, EVIDENCE_BYTES_MAX).map(<[u8]>::to_vec))
    }

    /// The answer to [`CacheCall::Status`].
    ///
    /// # Errors
    /// As [`CacheReply::made`].
    pub fn status(&self) -> Result<CacheStatus, CacheReplyError> {
        self.read(|d| {
            strict::array(d, 8)?;
            let replica = strict::bytes_exact(d)?;
            let put_key = strict::bytes(d, BODY_BYTES_MAX)?.to_vec();
            let (log_id, signer) = (strict::bytes_exact(d)?, strict::bytes_exact(d)?);
            let (live, records, epochs, leaves) = (d.u32()?, d.u32()?, d.u32()?, d.u64()?);
            Ok(CacheStatus { replica, put_key, log_id, signer, live, records, epochs, leaves })
        })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&mut Decoder<'a>) -> Result<T, decode::Error>,
    ) -> Result<T, CacheReplyError> {
        let result = self.result.map_err(CacheReplyError::Refused)?;
        strict::decode_once(result, CACHE_MESSAGE_BYTES_MAX, read).map_err(CacheReplyError::Malformed)
    }
}

impl fmt::Debug for CacheReply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, result } = self;
        f.debug_struct("CacheReply").field("id", id).field("refusal", &result.err()).finish_non_exhaustive()
    }
}

/// Why an answer has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheReplyError {
    /// The cache refused.
    #[error("the key cache refused")]
    Refused(#[source] CacheRefusal),
    /// What came is no answer to what was asked.
    #[error("the key cache's answer is malformed")]
    Malformed(#[source] Malformed),
}

type Written = Result<(), encode::Error<std::convert::Infallible>>;

fn put_optional_number(e: &mut Encoder<&mut Vec<u8>>, number: Option<u64>) -> Written {
    match number {
        Some(number) => e.u64(number)?.ok(),
        None => e.null()?.ok(),
    }
}

/// The flag of a key that may be taken out.
const EXPORTABLE: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewDisposableKey<'static> {
        NewDisposableKey {
            policy: Policy::Strong,
            direction: Direction::AnswerToMe,
            ttl: Some(120),
            aud: "bank",
            purpose: "card-pin",
            binding: Some([1; 32]),
            parent: Some(&[2; 200]),
            schema: None,
            exportable: true,
            delegates: vec![Owner::from_bytes([3; 32]), Owner::of_user(7)],
        }
    }

    fn calls() -> Vec<CacheCall<'static>> {
        let key = DisposableKeyId::from_bytes([7; 16]);
        let plain =
            NewDisposableKey { ttl: None, delegates: vec![], parent: None, exportable: false, ..new() };
        vec![
            CacheCall::Generate(new()),
            CacheCall::Generate(plain),
            CacheCall::Use { key, sealed: &[5; 300], ctx: &[6; 32] },
            CacheCall::Take(key),
            CacheCall::Put { body: &[1; 30], enc: &[4; 65], ct: &[8; 48] },
            CacheCall::Destroy(key),
            CacheCall::Stat(key),
            CacheCall::Proof { key, since: None },
            CacheCall::Proof { key, since: Some(70_000) },
            CacheCall::Status,
        ]
    }

    #[test]
    fn every_request_is_read_as_it_was_written_and_in_no_other_form() {
        for call in calls() {
            let request = CacheRequest { id: 7, call };
            let bytes = request.encode();
            assert_eq!(CacheRequest::decode(&bytes).unwrap(), request);
            assert!(CacheRequest::decode(&[&bytes[..], &[0]].concat()).is_err(), "{request:?}");
            assert!(CacheRequest::decode(&bytes[..bytes.len() - 1]).is_err(), "{request:?}");
            // The id in two bytes where one is enough.
            let longer = [&bytes[..2], &[0x18, 0x07], &bytes[3..]].concat();
            assert!(CacheRequest::decode(&longer).is_err(), "{request:?}");
        }
        assert!(CacheRequest::decode(&[0x84, 1, 7, 9, 0x80]).is_err(), "unknown operation");
        let crowd = vec![Owner::of_user(1); DELEGATES_MAX + 1];
        let call = CacheCall::Generate(NewDisposableKey { delegates: crowd, ..new() });
        assert!(CacheRequest::decode(&CacheRequest { id: 1, call }.encode()).is_err());
    }

    #[test]
    fn every_answer_is_read_as_what_was_asked_for() {
        let made = MadeKey { body: vec![1; 200], commitment: [2; 16] };
        let stat = KeyStat { body: None, remaining_ms: 900, state: DisposableKeyState::Used };
        let status = CacheStatus {
            replica: [1; 16],
            put_key: vec![2; 178],
            log_id: [3; 32],
            signer: [4; 32],
            live: 5,
            records: 6,
            epochs: 7,
            leaves: 8,
        };
        let opened = || OpenedBytes { plaintext: Zeroizing::new(b"1234".to_vec()), sender: Some([9; 32]) };
        let outcomes = [
            CacheOutcome::Made(made.clone()),
            CacheOutcome::Opened(opened()),
            CacheOutcome::Private(Zeroizing::new([8; 32])),
            CacheOutcome::Ended(70_000),
            CacheOutcome::Stat(stat.clone()),
            CacheOutcome::Proof(vec![7; 99]),
            CacheOutcome::Status(status.clone()),
        ];
        for (at, outcome) in outcomes.into_iter().enumerate() {
            let bytes = encode_answer(4, &Ok(outcome));
            let reply = CacheReply::decode(&bytes).unwrap();
            assert_eq!(reply.id, 4);
            let read = [
                reply.made().is_ok_and(|it| it == made),
                reply.opened().is_ok_and(|it| it.plaintext[..] == *b"1234" && it.sender == Some([9; 32])),
                reply.private().is_ok_and(|it| *it == [8; 32]),
                reply.ended().is_ok_and(|it| it == 70_000),
                reply.stat().is_ok_and(|it| it == stat),
                reply.proof().is_ok_and(|it| it == [7; 99]),
                reply.status().is_ok_and(|it| it == status),
            ];
            assert!(read[at], "{at}");
        }
        for refusal in CacheRefusal::ALL {
            let bytes = encode_answer(4, &Err(refusal));
            let reply = CacheReply::decode(&bytes).unwrap();
            assert!(matches!(reply.ended(), Err(CacheReplyError::Refused(found)) if found == refusal));
        }
        assert!(CacheReply::decode(&[0x84, 1, 7, 9, 0xf6]).is_err());
    }

    #[test]
    fn debug_shows_no_argument_and_no_plaintext() {
        for call in calls() {
            let expected = format!("CacheCall({})", call.name());
            assert_eq!(format!("{call:?}"), expected);
        }
        let opened = OpenedBytes { plaintext: Zeroizing::new(b"1234".to_vec()), sender: None };
        assert!(!format!("{opened:?}").contains("1234") && !format!("{opened:?}").contains("49"));
    }
}
