//! The wire encoding of messages: one strict, definite, shortest form.
//!
//! `Msg = [1, flags, hops, onward, ret, payload, meta]` in deterministic CBOR. The decoder works on
//! borrowed bytes, checks everything once and allocates at most the message's own block.
//!
//! Specification: docs/protocol.md §0, §1.1.

use bytes::Bytes;

use crate::address::AddressRef;
use crate::cbor::{Reader, head_len, put_head};
use crate::flow::FlowId;
use crate::message::{INLINE_MAX, Message, Parts, Payload};
use crate::route::RouteRef;
use crate::{HEADER_BYTES_MAX, META_BYTES_MAX, ROUTE_ADDRESSES_MAX, ROUTE_BYTES_MAX};

/// Array head, version and flags: `87 01 00` or `87 01 01`.
const FIXED_HEAD: usize = 3;

/// Bytes of the length that stands in front of a frame on a stream transport.
pub const LENGTH_HEAD: usize = 4;

/// Why bytes are not a message. All are answered by dropping them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not the one strict encoding of a message.
    #[error("not a message in canonical encoding")]
    Malformed,
    /// A version other than 1.
    #[error("unknown version")]
    Version,
    /// The payload or the header exceeds its limit.
    #[error("a part of the message exceeds its limit")]
    TooBig,
    /// The meta map holds a critical key (128 or more) this version does not know.
    #[error("unknown critical meta key")]
    CriticalMeta,
}

impl Message {
    /// Decodes a whole frame; copies the payload.
    ///
    /// The flow is local until an ingress sets it.
    ///
    /// # Errors
    /// Each [`DecodeError`]; `payload_max` bounds the payload in bytes.
    pub fn decode(frame: &[u8], payload_max: usize) -> Result<Self, DecodeError> {
        decode(frame, payload_max, |at, length| Bytes::copy_from_slice(&frame[at..at + length]))
    }

    /// As [`Message::decode`], but a payload above [`INLINE_MAX`] shares the frame's memory.
    ///
    /// # Errors
    /// As [`Message::decode`].
    pub fn decode_shared(frame: &Bytes, payload_max: usize) -> Result<Self, DecodeError> {
        decode(frame, payload_max, |at, length| frame.slice(at..at + length))
    }

    /// Length of the encoding in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let payload = self.payload().len();
        FIXED_HEAD
            + head_len(self.hops().into())
            + 2
            + self.onward().encoded.len()
            + self.ret().encoded.len()
            + head_len(payload as u64)
            + payload
            + self.meta().len().max(1)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_before_payload(out);
        out.extend_from_slice(self.payload());
        self.encode_after_payload(out);
    }

    /// Appends everything in front of the payload's bytes.
    pub fn encode_before_payload(&self, out: &mut Vec<u8>) {
        self.encode_routes(out);
        Self::encode_payload_head(self.payload().len(), out);
    }

    /// Appends the head of a payload of `length` bytes, which stands between routes and payload.
    pub fn encode_payload_head(length: usize, out: &mut Vec<u8>) {
        put_head(out, 2, length as u64);
    }

    /// Length of what [`Message::encode_payload_head`] appends: 1 to 9 bytes.
    #[must_use]
    pub fn payload_head_len(length: usize) -> usize {
        head_len(length as u64)
    }

    /// Appends everything in front of the payload's head.
    pub fn encode_routes(&self, out: &mut Vec<u8>) {
        let (onward, ret) = (self.onward(), self.ret());
        out.extend_from_slice(&[0x87, 0x01, self.is_report().into()]);
        put_head(out, 0, self.hops().into());
        put_head(out, 4, onward.count.into());
        out.extend_from_slice(onward.encoded);
        put_head(out, 4, ret.count.into());
        out.extend_from_slice(ret.encoded);
    }

    /// Appends everything behind the payload's bytes.
    pub fn encode_after_payload(&self, out: &mut Vec<u8>) {
        match self.meta() {
            [] => out.push(0xf6),
            meta => out.extend_from_slice(meta),
        }
    }
}

fn decode(
    frame: &[u8],
    payload_max: usize,
    share: impl FnOnce(usize, usize) -> Bytes,
) -> Result<Message, DecodeError> {
    use DecodeError::{CriticalMeta, Malformed, TooBig, Version};

    let mut reader = Reader::new(frame);
    let elements = reader.array().ok_or(Malformed)?;
    if reader.u8().ok_or(Malformed)? != 1 {
        return Err(Version);
    }
    if elements != 7 {
        return Err(Malformed);
    }
    let flags = reader.u8().ok_or(Malformed)?;
    if flags > 1 {
        return Err(Malformed);
    }
    let hops = reader.u8().ok_or(Malformed)?;
    let onward = route(&mut reader).ok_or(Malformed)?;
    let ret = route(&mut reader).ok_or(Malformed)?;
    let payload = reader.bytes().ok_or(Malformed)?;
    let payload_at = reader.at() - payload.len();
    let meta = reader.rest();
    let is_null = reader.null();
    if !is_null {
        check_meta(&mut reader)?;
    }
    if !reader.is_at_end() {
        return Err(Malformed);
    }
    if payload.len() > payload_max
        || frame.len() - payload.len() > HEADER_BYTES_MAX
        || meta.len() > META_BYTES_MAX
    {
        return Err(TooBig);
    }
    let payload = if payload.len() <= INLINE_MAX {
        Payload::Inline(payload)
    } else {
        Payload::Shared(share(payload_at, payload.len()))
    };
    let meta = if is_null { &[] } else { meta };
    let parts = Parts {
        onward,
        ret,
        payload,
        meta,
        hops,
        configured: 0,
        is_report: flags == 1,
        flow: FlowId::LOCAL,
        expires: None,
    };
    return Ok(Message::compose(parts, None));

    fn check_meta(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let pairs = reader.map().ok_or(Malformed)?;
        let mut last = None;
        for _ in 0..pairs {
            let key = reader.uint().ok_or(Malformed)?;
            if last.is_some_and(|last| key <= last) {
                return Err(Malformed);
            }
            last = Some(key);
            match key {
                1 => drop(reader.u32().ok_or(Malformed)?),
                // The message's array and this map are open.
                0..128 => reader.skip_item(2).ok_or(Malformed)?,
                _ => return Err(CriticalMeta),
            }
        }
        Ok(())
    }
}

fn route<'a>(reader: &mut Reader<'a>) -> Option<RouteRef<'a>> {
    let count = u8::try_from(reader.array()?).ok()?;
    if usize::from(count) > ROUTE_ADDRESSES_MAX {
        return None;
    }
    let whole = reader.rest();
    let mut length = 0;
    for _ in 0..count {
        length += AddressRef::split(&whole[length..])?.1;
    }
    if 1 + length > ROUTE_BYTES_MAX {
        return None;
    }
    Some(RouteRef { encoded: reader.take(length)?, count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Route;
    use crate::{Address, PAYLOAD_BYTES_MAX};

    fn route(text: &str) -> Route {
        text.parse().unwrap()
    }

    fn sample() -> Message {
        Message::new(route("tcp:a.b:1 => bank").as_ref(), route("me").as_ref(), b"hello")
    }

    fn encode(message: &Message) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(out.len(), message.encoded_len());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        Message::decode(bytes, PAYLOAD_BYTES_MAX)
    }

    #[test]
    fn the_encoding_is_as_specified() {
        let bytes = encode(&sample());
        assert_eq!(
            hex::encode(bytes),
            concat!(
                "870100",
                "1820",
                "82",
                "820145",
                "612e623a31",
                "820044",
                "62616e6b",
                "81",
                "820042",
                "6d65",
                "45",
                "68656c6c6f",
                "f6"
            )
        );
    }

    #[test]
    fn messages_round_trip_and_reuse_a_block() {
        let mut message = sample();
        message.set_ttl_ms(9);
        let bytes = encode(&message);
        sample().recycle();
        let decoded = Message::decode(&bytes, PAYLOAD_BYTES_MAX).unwrap();
        assert_eq!(encode(&decoded), bytes);
        assert_eq!(decoded.ttl_ms(), Some(9));
    }

    #[test]
    fn large_payloads_share_the_frame() {
        let message = Message::new(route("a").as_ref(), Route::empty().as_ref(), &[3; INLINE_MAX + 1]);
        let frame = Bytes::from(encode(&message));
        let decoded = Message::decode_shared(&frame, PAYLOAD_BYTES_MAX).unwrap();
        let inside = decoded.payload().as_ptr() as usize - frame.as_ptr() as usize;
        assert!(inside < frame.len());
        assert_eq!(decoded.payload(), message.payload());
    }

    #[test]
    fn n1_1_every_second_spelling_is_dropped() {
        let good = encode(&sample());
        assert!(decode(&good).is_ok());
        let splice = |at: usize, remove: usize, insert: &[u8]| {
            let mut bytes = good.clone();
            bytes.splice(at..at + remove, insert.iter().copied());
            decode(&bytes).map(drop)
        };
        let end = good.len() - 1;
        let malformed = Err(DecodeError::Malformed);
        assert_eq!(splice(1, 1, &[0x18, 0x01]), malformed, "non-shortest version");
        assert_eq!(splice(3, 2, &[0x19, 0x00, 0x20]), malformed, "non-shortest hops");
        assert_eq!(splice(0, 1, &[0x9f]), malformed, "indefinite array");
        assert_eq!(splice(good.len(), 0, &[0]), malformed, "trailing byte");
        assert_eq!(splice(0, 1, &[0x88]), malformed, "surplus element announced");
        assert_eq!(splice(2, 1, &[2]), malformed, "unknown flag");
        assert_eq!(splice(1, 1, &[2]), Err(DecodeError::Version));
        assert_eq!(splice(7, 1, &[5]), malformed, "unknown address type");
        assert_eq!(splice(end, 1, &[0xa2, 0x00, 0x00, 0x00, 0x00]), malformed, "duplicate meta key");
        assert_eq!(splice(end, 1, &[0xa2, 0x02, 0x00, 0x00, 0x00]), malformed, "unsorted meta keys");
        assert_eq!(splice(end, 1, &[0xa1, 0x18, 0x80, 0x00]), Err(DecodeError::CriticalMeta));
        assert!(splice(end, 1, &[0xa1, 0x18, 0x7f, 0x00]).is_ok(), "a key below 128 is passed on");
        assert!(splice(end, 1, &[0xa0]).is_ok());
        let nested = |depth: usize| [&[0xa1, 0x02][..], &vec![0x81; depth], &[0x00]].concat();
        assert!(splice(end, 1, &nested(6)).is_ok(), "eight open");
        assert_eq!(splice(end, 1, &nested(7)), malformed, "depth 9");
        let fat = [&[0xa1, 0x02, 0x59, 0x01, 0x00][..], &[0; 256]].concat();
        assert_eq!(splice(end, 1, &fat), Err(DecodeError::TooBig), "meta above 256 bytes");
    }

    #[test]
    fn n1_1_seventeen_addresses_and_long_values_are_dropped() {
        let address = Address::local("w").unwrap();
        let with_onward = |count: usize| {
            let mut bytes = vec![0x87, 0x01, 0x00, 0x01];
            put_head(&mut bytes, 4, count as u64);
            bytes.extend(address.as_ref().encoded().repeat(count));
            bytes.extend([0x80, 0x40, 0xf6]);
            decode(&bytes).map(drop)
        };
        assert_eq!(with_onward(16), Ok(()));
        assert_eq!(with_onward(17), Err(DecodeError::Malformed));
        let mut long = vec![0x87, 0x01, 0x00, 0x01, 0x81, 0x82, 0x00, 0x59, 0x01, 0x00];
        long.extend([b'a'; 256]);
        long.extend([0x80, 0x40, 0xf6]);
        assert_eq!(decode(&long).map(drop), Err(DecodeError::Malformed));
    }

    #[test]
    fn n1_8_a_payload_above_the_limit_is_refused() {
        let at_limit =
            Message::new(route("a").as_ref(), Route::empty().as_ref(), &vec![0; PAYLOAD_BYTES_MAX]);
        assert!(decode(&encode(&at_limit)).is_ok());
        let above =
            Message::new(route("a").as_ref(), Route::empty().as_ref(), &vec![0; PAYLOAD_BYTES_MAX + 1]);
        assert_eq!(decode(&encode(&above)).map(drop), Err(DecodeError::TooBig));
    }

    #[test]
    fn n1_8_every_truncation_is_refused() {
        let good = encode(&sample());
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_err(), "{length}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(flips in proptest::collection::vec((0usize..60, 0u8..=255), 0..4)) {
            let mut bytes = encode(&sample());
            for (at, value) in flips {
                if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            }
            if let Ok(message) = decode(&bytes) {
                let again = encode(&message);
                // Null and the empty map mean the same and are both kept as null.
                proptest::prop_assert!(again == bytes || bytes.last() == Some(&0xa0));
            }
        }
    }
}
