//! One change of an identity: a key, its window, and the commitment to the key that may follow.
//!
//! Specification: docs/protocol.md §3.1, `IdentityChange`.

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};
use onward_keys::{PublicKey, SignatureAlgorithm, SignatureError};

use super::{ChangeHash, Commitment};
use crate::strict;

/// The body of one change, as stated by whoever signed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdentityChange {
    /// The change's position in the history, from 0.
    pub seq: u32,
    /// The change before; `None` exactly at position 0.
    pub previous: Option<ChangeHash>,
    /// The identity's key from `valid_from` on.
    pub key: PublicKey,
    /// The only key that may come next; `None` if no change will follow.
    pub next: Option<Commitment>,
    /// From when the key may sign, Unix seconds, included.
    pub valid_from: u64,
    /// Until when the key may sign, Unix seconds, excluded.
    pub valid_until: u64,
    /// Whether everything that names an older change is void.
    pub revoke_all: bool,
}

impl IdentityChange {
    /// Whether the key's own window contains `time` (Unix seconds).
    #[must_use]
    pub fn is_in_force(&self, time: u64) -> bool {
        (self.valid_from..self.valid_until).contains(&time)
    }
}

impl<C> Encode<C> for IdentityChange {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(9)?.u8(VERSION)?.u32(self.seq)?;
        strict::put_optional_bytes(e, self.previous.as_ref().map(ChangeHash::as_bytes))?;
        e.u8(self.key.algorithm().number())?.bytes(self.key.as_bytes())?;
        strict::put_optional_bytes(e, self.next.as_ref().map(Commitment::as_bytes))?;
        e.u64(self.valid_from)?.u64(self.valid_until)?.bool(self.revoke_all)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for IdentityChange {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 9)?;
        strict::version(d, VERSION)?;
        Ok(Self {
            seq: d.u32()?,
            previous: strict::optional(d, strict::bytes_exact)?.map(ChangeHash::from_bytes),
            key: public_key(d)?,
            next: strict::optional(d, strict::bytes_exact)?.map(Commitment::from_bytes),
            valid_from: d.u64()?,
            valid_until: d.u64()?,
            revoke_all: d.bool()?,
        })
    }
}

/// Reads an algorithm and a key of exactly its length.
fn public_key(d: &mut Decoder<'_>) -> Result<PublicKey, decode::Error> {
    let number = d.u8()?;
    let bytes = strict::bytes(d, KEY_BYTES_MAX)?;
    SignatureAlgorithm::try_from(number)
        .and_then(|algorithm| PublicKey::new(algorithm, bytes))
        .map_err(|_: SignatureError| strict::refuse(d, "key that does not fit its algorithm"))
}

const VERSION: u8 = 1;

/// The longest key field, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 2_000;
