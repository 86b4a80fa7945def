//! The handshake message on the wire.
//!
//! `HS = [v=1, type, mode, suite, flags, hsid: b16, cookie: b40/null, pskid: b8/null, noise: b<=65535/null]`, strictly
//! encoded: what decodes, encodes to the same bytes. Decoding judges form only; which message is expected is for the
//! state machines.
//!
//! Specification: docs/protocol.md §3.2, §0 (encoding).

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::handshake::Terms;
use crate::handshake::basis::PskId;
use crate::mode::{Mode, Suite};

/// A decoded handshake message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Message<'a> {
    pub(crate) terms: Terms,
    pub(crate) body: Body<'a>,
}

/// What a handshake message carries, by its type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Body<'a> {
    First { cookie: Option<Cookie>, noise: &'a [u8] },
    Second { noise: &'a [u8] },
    Third { noise: &'a [u8] },
    Retry { cookie: Cookie },
}

/// Epoch (8, big endian) and MAC (32).
pub(crate) type Cookie = [u8; 40];

impl<'a> Message<'a> {
    /// Decodes a whole packet.
    ///
    /// `None` if it is not exactly one message of this version, with a mode and a suite that this version has, and
    /// with fields that go together.
    pub(crate) fn decode(packet: &'a [u8]) -> Option<Self> {
        let mut decoder = Decoder::new(packet);
        if decoder.array().ok()? != Some(9) || decoder.u8().ok()? != VERSION {
            return None;
        }
        let kind = decoder.u8().ok()?;
        let mode = Mode::from_number(decoder.u8().ok()?)?;
        let suite = Suite::from_number(decoder.u8().ok()?)?;
        let bound = match decoder.u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let hsid = decoder.bytes().ok()?.try_into().ok()?;
        let cookie = optional_bytes(&mut decoder)?.map(Cookie::try_from).transpose().ok()?;
        let pskid = optional_bytes(&mut decoder)?;
        let noise = optional_bytes(&mut decoder)?;
        let body = match (kind, cookie, noise) {
            (1, cookie, Some(noise)) => Body::First { cookie, noise },
            (2, None, Some(noise)) => Body::Second { noise },
            (3, None, Some(noise)) => Body::Third { noise },
            (4, Some(cookie), None) => Body::Retry { cookie },
            _ => return None,
        };
        let pskid = pskid.map(PskId::try_from).transpose().ok()?;
        let goes_together = pskid.is_some() == mode.has_psk()
            && (bound || !mode.has_two_messages())
            && !(mode.has_two_messages() && matches!(body, Body::Third { .. }));
        if !goes_together || noise.is_some_and(|noise| noise.is_empty() || noise.len() > NOISE_MAX) {
            return None;
        }
        let message = Self { terms: Terms { mode, suite, bound, hsid, pskid }, body };
        (message.encode() == packet).then_some(message)
    }

    /// The one encoding of this message.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Terms { mode, suite, bound, hsid, pskid } = &self.terms;
        let (kind, cookie, noise) = match &self.body {
            Body::First { cookie, noise } => (1, cookie.as_ref(), Some(*noise)),
            Body::Second { noise } => (2, None, Some(*noise)),
            Body::Third { noise } => (3, None, Some(*noise)),
            Body::Retry { cookie } => (4, Some(cookie), None),
        };
        let mut encoder = Encoder::new(Vec::with_capacity(HEAD_BYTES_MAX + noise.map_or(0, <[u8]>::len)));
        let Ok(()) = (|| -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            encoder.array(9)?.u8(VERSION)?.u8(kind)?.u8(mode.number())?.u8(suite.number())?;
            encoder.u8(u8::from(*bound))?.bytes(hsid)?;
            put_optional(&mut encoder, cookie.map(|cookie| &cookie[..]))?;
            put_optional(&mut encoder, pskid.as_ref().map(|pskid| &pskid[..]))?;
            put_optional(&mut encoder, noise)
        })() else {
            return Vec::new();
        };
        encoder.into_writer()
    }
}

/// Length of the encoding of a second message of `mode` around `noise_bytes`.
pub(crate) fn second_bytes(mode: Mode, noise_bytes: usize) -> usize {
    let head = match noise_bytes {
        0..24 => 1,
        24..256 => 2,
        _ => 3,
    };
    let pskid = if mode.has_psk() { 9 } else { 1 };
    // Array head, five numbers, hsid with its head, a null for the cookie.
    1 + 5 + 17 + 1 + pskid + head + noise_bytes
}

fn optional_bytes<'a>(decoder: &mut Decoder<'a>) -> Option<Option<&'a [u8]>> {
    if decoder.datatype().ok()? == Type::Null {
        decoder.null().ok()?;
        return Some(None);
    }
    decoder.bytes().ok().map(Some)
}

fn put_optional<W: minicbor::encode::Write>(
    encoder: &mut Encoder<W>,
    bytes: Option<&[u8]>,
) -> Result<(), minicbor::encode::Error<W::Error>> {
    match bytes {
        Some(bytes) => encoder.bytes(bytes)?,
        None => encoder.null()?,
    };
    Ok(())
}

const VERSION: u8 = 1;
const NOISE_MAX: usize = 65_535;
/// Everything but `noise`, cookie included.
const HEAD_BYTES_MAX: usize = 1 + 5 + 17 + 42 + 9 + 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        terms_of(Mode::ClassicalXx)
    }

    fn terms_of(mode: Mode) -> Terms {
        let pskid = mode.has_psk().then_some([6; 8]);
        Terms { mode, suite: Suite::AesGcm, bound: true, hsid: [7; 16], pskid }
    }

    fn bodies() -> [Body<'static>; 5] {
        [
            Body::First { cookie: None, noise: b"one" },
            Body::First { cookie: Some([3; 40]), noise: &[9; 300] },
            Body::Second { noise: b"two" },
            Body::Third { noise: &[1; 64] },
            Body::Retry { cookie: [4; 40] },
        ]
    }

    #[test]
    fn messages_survive_encoding() {
        for body in bodies() {
            let message = Message { terms: terms(), body };
            let packet = message.encode();
            assert_eq!(packet[0], 0x89);
            assert_eq!(Message::decode(&packet), Some(message));
        }
        for (mode, bytes) in
            Mode::ALL.into_iter().flat_map(|mode| [1, 23, 24, 255, 256, 1300].map(|n| (mode, n)))
        {
            let noise = vec![0; bytes];
            let message = Message { terms: terms_of(mode), body: Body::Second { noise: &noise } };
            let packet = message.encode();
            assert_eq!(packet.len(), second_bytes(mode, bytes));
            assert_eq!(Message::decode(&packet), Some(message));
        }
    }

    #[test]
    fn other_encodings_of_a_message_are_refused() {
        for body in bodies() {
            let packet = Message { terms: terms(), body }.encode();
            for cut in 0..packet.len() {
                assert_eq!(Message::decode(&packet[..cut]), None, "cut at {cut}");
            }
            let mut longer = packet.clone();
            longer.push(0xf6);
            assert_eq!(Message::decode(&longer), None);
            // The version as a two-byte integer.
            let long_integer = [&packet[..1], &[0x18, 0x01], &packet[2..]].concat();
            assert_eq!(Message::decode(&long_integer), None);
            // An array of indefinite length.
            let indefinite = [&[0x9f], &packet[1..], &[0xff]].concat();
            assert_eq!(Message::decode(&indefinite), None);
            // Another version, type, mode, suite and flag.
            for (at, value) in [(1, 2), (2, 0), (2, 5), (3, 0), (3, 9), (4, 0), (4, 3), (5, 2)] {
                let mut changed = packet.clone();
                changed[at] = value;
                assert_eq!(Message::decode(&changed), None, "byte {at} = {value}");
            }
        }
    }

    #[test]
    fn fields_that_do_not_go_together_are_refused() {
        let head = [0x89, 1, 1, 1, 1, 0, 0x50];
        let build = |kind: u8, cookie: &[u8], pskid: &[u8], noise: &[u8]| {
            let mut packet = [&head[..], &[5; 16], cookie, pskid, noise].concat();
            packet[2] = kind;
            packet
        };
        let cookie = [&[0x58, 40][..], &[0; 40]].concat();
        let short_cookie = [&[0x58, 39][..], &[0; 39]].concat();
        let pskid = [&[0x48][..], &[0; 8]].concat();
        let (null, noise) = (&[0xf6][..], &[0x41, 9][..]);
        assert!(Message::decode(&build(1, null, null, noise)).is_some());
        assert!(Message::decode(&build(1, &cookie, null, noise)).is_some());
        assert!(Message::decode(&build(4, &cookie, null, null)).is_some());
        for packet in [
            build(1, null, null, null),
            build(1, &short_cookie, null, noise),
            build(1, null, &pskid, noise),
            build(1, null, null, &[0x40]),
            build(2, &cookie, null, noise),
            build(3, &cookie, null, noise),
            build(4, null, null, null),
            build(4, &cookie, null, noise),
        ] {
            assert_eq!(Message::decode(&packet), None);
        }
    }

    #[test]
    fn n3_5_fields_that_the_mode_does_not_have_are_refused() {
        for mode in Mode::ALL {
            let terms = terms_of(mode);
            let pskid = if terms.pskid.is_some() { None } else { Some([6; 8]) };
            let first = Body::First { cookie: None, noise: b"one" };
            let other = Message { terms: Terms { pskid, ..terms.clone() }, body: first.clone() };
            assert_eq!(Message::decode(&other.encode()), None, "{mode:?} with the other pskid");
            let unbound = Message { terms: Terms { bound: false, ..terms.clone() }, body: first };
            assert_eq!(Message::decode(&unbound.encode()).is_some(), !mode.has_two_messages(), "{mode:?}");
            let third = Message { terms, body: Body::Third { noise: b"three" } };
            assert_eq!(Message::decode(&third.encode()).is_some(), !mode.has_two_messages(), "{mode:?}");
        }
    }
}
