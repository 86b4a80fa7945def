//! Error reports: what a sender is told of a message that did not arrive.
//!
//! A code, never text, and where it happened if the receiver of the report may know. A report that
//! came over a transport is an unauthenticated hint.
//!
//! Specification: docs/protocol.md §1.2 *Undeliverable*.

use core::fmt;

use crate::address::{Address, AddressRef};
use crate::cbor::{Reader, put_head};

/// What happened to a message; the number is its code on the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
#[non_exhaustive]
pub enum ErrorCode {
    /// Policy does not let this sender reach the address, or will not say more.
    Refused = 1,
    /// There is no worker of that name.
    NoWorker = 2,
    /// The next node cannot be reached; the outcome of the message is unknown.
    Unreachable = 3,
    /// The target takes no more for now.
    Overloaded = 4,
    /// The message outlived its deadline.
    Expired = 5,
    /// The worker stopped before it answered.
    Stopped = 6,
    /// The worker failed while it handled the message.
    Failed = 7,
    /// The message is larger than a transport on its way carries.
    TooBig = 8,
    /// The hop budget or a route's length was used up.
    HopLimit = 9,
    /// The worker could not decode the message.
    Malformed = 10,
}

impl ErrorCode {
    const ALL: [Self; 10] = [
        Self::Refused,
        Self::NoWorker,
        Self::Unreachable,
        Self::Overloaded,
        Self::Expired,
        Self::Stopped,
        Self::Failed,
        Self::TooBig,
        Self::HopLimit,
        Self::Malformed,
    ];
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::NoWorker => "no such worker",
            Self::Unreachable => "unreachable",
            Self::Overloaded => "overloaded",
            Self::Expired => "expired",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::TooBig => "too big",
            Self::HopLimit => "hop limit reached",
            Self::Malformed => "malformed",
        })
    }
}

/// The payload of an error report: `[code: u8, at: Addr/null]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ErrorReport {
    /// What happened.
    pub code: ErrorCode,
    /// The address that could not be reached, where the sender may know it.
    pub at: Option<Address>,
}

impl ErrorReport {
    /// Encodes the report; at most 262 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0x82];
        put_head(&mut out, 0, self.code as u64);
        match &self.at {
            Some(at) => out.extend_from_slice(at.as_ref().encoded()),
            None => out.push(0xf6),
        }
        out
    }

    /// Decodes a report strictly; `None` for anything malformed or an unknown code.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        if reader.array()? != 2 {
            return None;
        }
        let code = reader.u8()?;
        let code = ErrorCode::ALL.into_iter().find(|known| *known as u8 == code)?;
        let at = if reader.null() {
            None
        } else {
            let (at, length) = AddressRef::split(reader.rest())?;
            reader.take(length)?;
            Some(at.to_owned())
        };
        reader.is_at_end().then_some(Self { code, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_round_trip() {
        for code in ErrorCode::ALL {
            for at in [None, Some(Address::local("bank").unwrap())] {
                let report = ErrorReport { code, at };
                assert_eq!(ErrorReport::decode(&report.encode()), Some(report));
            }
        }
    }

    #[test]
    fn malformed_reports_are_refused() {
        for bytes in [
            &b""[..],
            b"\x82\x00\xf6",
            b"\x82\x0b\xf6",
            b"\x82\x18\x01\xf6",
            b"\x82\x01\xf6\x00",
            b"\x83\x01\xf6\xf6",
        ] {
            assert_eq!(ErrorReport::decode(bytes), None);
        }
    }
}
