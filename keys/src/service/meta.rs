//! What is publicly known of a key, and of the service.
//!
//! Specification: docs/protocol.md §7.2.

use std::convert::Infallible;

use minicbor::decode::{self, Decoder};
use minicbor::encode::{Encoder, Write};

use super::call::{extractable, key_id, usage};
use super::{LABEL_BYTES_MAX, Written, put_optional};
use crate::general::PUBLIC_BYTES_MAX;
use crate::strict;
use crate::{KeyId, KeyUsage, PublicHalf, PublicKey, WipedBuffer};

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum KeyState {
    /// It may.
    Active = 0,
    /// It rests, and may be enabled again.
    Disabled = 1,
    /// Its private half is gone for good.
    Destroyed = 2,
}

impl KeyState {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Active, Self::Disabled, Self::Destroyed].into_iter().find(|state| *state as u8 == number)
    }

    /// The state's name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Destroyed => "destroyed",
        }
    }
}

/// What is publicly known of a key:
/// `[kid b16, usage u16, state u8, owner u32, created u64, exp u64/null, label, public, extractable bool]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyMeta {
    /// The key's name.
    pub id: KeyId,
    /// What it may do; algorithm and types of signatures follow from it.
    pub usage: KeyUsage,
    /// Whether it may do it now.
    pub state: KeyState,
    /// The system's number of the user it was made for.
    pub owner: u32,
    /// When it was made, Unix seconds.
    pub created: u64,
    /// When it ends, Unix seconds, if ever.
    pub expires: Option<u64>,
    /// Its name for people and policies, 1 to [`LABEL_BYTES_MAX`] bytes.
    pub label: String,
    /// Its public half, in the form of its type: 32 bytes, or up to [`PUBLIC_BYTES_MAX`] for a key of general use.
    pub public: Vec<u8>,
    /// Whether it may leave the store wrapped by another key. Once it may not, it never may again.
    pub extractable: bool,
}

impl KeyMeta {
    /// The public half by what it can do.
    #[must_use]
    pub fn public_half(&self) -> PublicHalf {
        match <[u8; 32]>::try_from(&self.public[..]) {
            Ok(public) if self.usage.agrees() => PublicHalf::Agree(public),
            Ok(public) if self.usage.general().is_none() => PublicHalf::Verify(PublicKey::ed25519(public)),
            _ => PublicHalf::General(self.public.clone()),
        }
    }

    /// Appends the encoding.
    pub(crate) fn put<W: Write<Error = Infallible>>(&self, e: &mut Encoder<W>) -> Written {
        e.array(9)?.bytes(self.id.as_bytes())?.u16(self.usage.number())?.u8(self.state as u8)?;
        e.u32(self.owner)?.u64(self.created)?;
        put_optional(e, self.expires)?;
        e.str(&self.label)?.bytes(&self.public)?.bool(self.extractable)?.ok()
    }

    pub(crate) fn read(d: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        strict::array(d, 9)?;
        let (id, usage) = (key_id(d)?, usage(d)?);
        Ok(Self {
            id,
            usage,
            state: KeyState::from_number(d.u8()?).ok_or_else(|| strict::refuse(d, "unknown state"))?,
            owner: d.u32()?,
            created: d.u64()?,
            expires: strict::optional(d, Decoder::u64)?,
            label: strict::text(d, LABEL_BYTES_MAX)?.to_owned(),
            public: public(d, usage)?,
            extractable: extractable(d, usage)?,
        })
    }
}

fn public(d: &mut Decoder<'_>, usage: KeyUsage) -> Result<Vec<u8>, decode::Error> {
    let public = strict::bytes(d, PUBLIC_BYTES_MAX)?;
    let fits = usage.general().map_or(public.len() == 32, |it| it.kind().has_public_of(public.len()));
    if fits { Ok(public.to_vec()) } else { Err(strict::refuse(d, "public half of another length")) }
}

/// What the service says of itself: `[unlocked, keys u32, rules u32, clients u32, answered u64, [protection text]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceState {
    /// Whether secrets are in memory and operations are answered.
    pub unlocked: bool,
    /// Keys that are not destroyed.
    pub keys: u32,
    /// Rules of the policy.
    pub rules: u32,
    /// Connected clients.
    pub clients: u32,
    /// Requests answered since the start.
    pub answered: u64,
    /// What protects the keys, and what does not: sentences that begin with `+ ` or `- `.
    pub protection: Vec<String>,
}

impl ServiceState {
    pub(super) fn put(&self, e: &mut Encoder<&mut WipedBuffer>) -> Written {
        e.array(6)?.bool(self.unlocked)?.u32(self.keys)?.u32(self.rules)?.u32(self.clients)?;
        e.u64(self.answered)?.array(self.protection.len() as u64)?;
        self.protection.iter().try_for_each(|line| e.str(line)?.ok())
    }

    pub(super) fn read(d: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        strict::array(d, 6)?;
        let (unlocked, keys, rules, clients, answered) = (d.bool()?, d.u32()?, d.u32()?, d.u32()?, d.u64()?);
        let count = strict::array_within(d, 0..=PROTECTION_LINES_MAX)?;
        let lines = (0..count).map(|_| strict::text(d, PROTECTION_LINE_BYTES_MAX).map(str::to_owned));
        let protection = lines.collect::<Result<_, _>>()?;
        Ok(Self { unlocked, keys, rules, clients, answered, protection })
    }
}

const PROTECTION_LINES_MAX: u64 = 32;
const PROTECTION_LINE_BYTES_MAX: usize = 200;
