//! Typed payloads: how values become a message's bytes and back.
//!
//! Every type with minicbor's traits is a payload; serde types travel in [`Serde`], bytes as they are
//! in [`Raw`]. Decoding requires that nothing is left over.

use bytes::Bytes;
use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder};
use onward_routing::{Message, RouteRef};

use crate::error::PayloadError;

/// A value that travels in a message.
pub trait Payload: Sized + Send + 'static {
    /// Appends the encoded value.
    ///
    /// # Errors
    /// [`PayloadError::Encode`] when the value has no encoding.
    fn encode_payload(&self, out: &mut Vec<u8>) -> Result<(), PayloadError>;

    /// Decodes a value from the whole of `bytes`.
    ///
    /// # Errors
    /// [`PayloadError::Decode`] and [`PayloadError::Trailing`].
    fn decode_payload(bytes: &[u8]) -> Result<Self, PayloadError>;

    /// The encoded value where it exists as shared bytes already, so that a large one is not copied.
    fn shared(&self) -> Option<&Bytes> {
        None
    }

    /// Decodes a value from bytes that it may keep.
    ///
    /// # Errors
    /// As [`Payload::decode_payload`].
    fn from_shared(bytes: Bytes) -> Result<Self, PayloadError> {
        Self::decode_payload(&bytes)
    }
}

/// Decodes the payload of a message.
pub(crate) fn decode<T: Payload>(message: &Message) -> Result<T, PayloadError> {
    match message.body() {
        Some(body) => T::from_shared(body.clone()),
        None => T::decode_payload(message.payload()),
    }
}

/// A fresh message with a value as its payload.
pub(crate) fn compose<T: Payload>(
    onward: RouteRef<'_>,
    ret: RouteRef<'_>,
    value: &T,
) -> Result<Message, PayloadError> {
    if let Some(body) = value.shared() {
        return Ok(Message::with_body(onward, ret, body));
    }
    with_scratch(|payload| {
        value.encode_payload(payload)?;
        Ok(Message::new(onward, ret, payload))
    })
}

/// Calls `act` with an empty buffer that the thread keeps, so that encoding allocates nothing.
pub(crate) fn with_scratch<T>(act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local! {
        static SCRATCH: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
    }
    /// A buffer larger than this is not kept: one large message must not pin its size.
    const KEPT_MAX: usize = 64 * 1024;

    let mut scratch = SCRATCH.take();
    scratch.clear();
    let result = act(&mut scratch);
    if scratch.capacity() <= KEPT_MAX {
        SCRATCH.set(scratch);
    }
    result
}

impl<T> Payload for T
where
    T: Encode<()> + for<'b> Decode<'b, ()> + Send + 'static,
{
    fn encode_payload(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        minicbor::encode(self, out).map_err(|error| PayloadError::Encode(error.to_string()))
    }

    fn decode_payload(bytes: &[u8]) -> Result<Self, PayloadError> {
        check_nesting(bytes)?;
        let mut decoder = Decoder::new(bytes);
        let value = decoder.decode().map_err(PayloadError::Decode)?;
        match bytes.len() - decoder.position() {
            0 => Ok(value),
            left => Err(PayloadError::Trailing(left)),
        }
    }
}

/// Refuses what is nested so deeply that decoding a recursive type would overflow the stack.
///
/// Looks at heads only and without recursion; what is malformed is left to the decoder.
fn check_nesting(bytes: &[u8]) -> Result<(), PayloadError> {
    // Each level takes a byte, so that short payloads need no look.
    if bytes.len() <= NESTING_MAX {
        return Ok(());
    }
    // Items still to come at each open level; `u64::MAX` where a break ends it.
    let mut open = [0u64; NESTING_MAX];
    let (mut depth, mut at) = (0, 0);
    while let Some(&initial) = bytes.get(at) {
        at += 1;
        let (major, info) = (initial >> 5, initial & 31);
        let follow = match info {
            24..=27 => 1 << (info - 24),
            _ => 0,
        };
        let Some(argument) = bytes.get(at..at + follow) else { return Ok(()) };
        at += follow;
        let value = match follow {
            0 => u64::from(info),
            _ => argument.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
        };
        let inside = match (major, info) {
            (7, 31) => {
                depth = usize::saturating_sub(depth, 1);
                0
            }
            (2..=5, 31) => u64::MAX,
            (2 | 3, _) => {
                let Some(end) = usize::try_from(value).ok().and_then(|length| at.checked_add(length)) else {
                    return Ok(());
                };
                at = end;
                0
            }
            (4, _) => value,
            (5, _) => value.saturating_mul(2),
            (6, _) => 1,
            _ => 0,
        };
        if inside > 0 {
            let Some(level) = open.get_mut(depth) else { return Err(PayloadError::TooDeep) };
            *level = inside;
            depth += 1;
            continue;
        }
        while let Some(level) = depth.checked_sub(1).and_then(|top| open.get_mut(top)) {
            if *level == u64::MAX {
                break;
            }
            *level -= 1;
            if *level > 0 {
                break;
            }
            depth -= 1;
        }
    }
    Ok(())
}

/// Arrays, maps and tags of a typed payload that may be open at once.
const NESTING_MAX: usize = 64;

/// Bytes that travel as they are, without any encoding around them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Raw(pub Bytes);

impl Payload for Raw {
    fn encode_payload(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode_payload(bytes: &[u8]) -> Result<Self, PayloadError> {
        Ok(Self(Bytes::copy_from_slice(bytes)))
    }

    fn shared(&self) -> Option<&Bytes> {
        Some(&self.0)
    }

    fn from_shared(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(bytes))
    }
}

/// Carries a serde type, in CBOR; also as a field of a minicbor type.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Serde<T>(pub T);

impl<C, T: serde::Serialize> Encode<C> for Serde<T> {
    fn encode<W: Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        // Through a buffer, because the serializer wants to own its encoder.
        let bytes = minicbor_serde::to_vec(&self.0)
            .map_err(|error| minicbor::encode::Error::message(error.to_string()))?;
        encoder.writer_mut().write_all(&bytes).map_err(minicbor::encode::Error::write)
    }
}

impl<'b, C, T: serde::Deserialize<'b>> Decode<'b, C> for Serde<T> {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let start = decoder.position();
        let mut inner = minicbor_serde::Deserializer::new(&decoder.input()[start..]);
        let value = T::deserialize(&mut inner)
            .map_err(|error| minicbor::decode::Error::message(error.to_string()).at(start))?;
        let length = inner.decoder().position();
        decoder.set_position(start + length);
        Ok(Self(value))
    }
}

/// What a handler returns in place of a value: no answer is sent, not even an empty one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NoReply;

/// What a handler may return: every [`Payload`], or [`NoReply`].
pub trait Reply: Send + 'static {
    /// Appends the encoded answer and says whether there is one.
    ///
    /// # Errors
    /// As [`Payload::encode_payload`].
    fn encode_reply(&self, out: &mut Vec<u8>) -> Result<bool, PayloadError>;

    /// As [`Payload::shared`].
    fn shared_reply(&self) -> Option<&Bytes> {
        None
    }
}

impl<T: Payload> Reply for T {
    fn encode_reply(&self, out: &mut Vec<u8>) -> Result<bool, PayloadError> {
        self.encode_payload(out).map(|()| true)
    }

    fn shared_reply(&self) -> Option<&Bytes> {
        self.shared()
    }
}

impl Reply for NoReply {
    fn encode_reply(&self, _: &mut Vec<u8>) -> Result<bool, PayloadError> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    struct Order {
        id: u64,
        lines: Vec<String>,
    }

    fn round_trip<T: Payload + PartialEq + std::fmt::Debug>(value: T) {
        let mut bytes = Vec::new();
        value.encode_payload(&mut bytes).unwrap();
        assert_eq!(T::decode_payload(&bytes).unwrap(), value);
    }

    #[test]
    fn minicbor_serde_and_raw_values_round_trip() {
        let order = || Serde(Order { id: 7, lines: vec!["a".into()] });
        round_trip(String::from("hi"));
        round_trip(order());
        round_trip((order(), 5u8, order()));
        round_trip(Ok::<u8, String>(1));
        round_trip(Err::<u8, String>("no".into()));
        round_trip(Raw(Bytes::from_static(b"\xff\x00")));
    }

    #[test]
    fn a31_nesting_that_would_overflow_the_stack_is_refused() {
        #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
        struct Tree(Vec<Tree>);
        let nested = |depth: usize, head: u8| [vec![head; depth], vec![0x80]].concat();
        assert!(Serde::<Tree>::decode_payload(&nested(63, 0x81)).is_ok());
        let refused = [0x81, 0x9f, 0xc1, 0xa1].iter().filter(|head| {
            let error = Serde::<Tree>::decode_payload(&nested(1 << 20, **head)).unwrap_err();
            matches!(error, PayloadError::TooDeep)
        });
        onward_trials::Row::new("A31").exactly(
            "payloads refused that are 1,048,576 deep",
            refused.count(),
            4,
        );
        // Wide is not deep.
        let wide: Vec<Vec<u8>> = vec![vec![1, 2, 3]; 1000];
        round_trip(wide);
        round_trip(vec!["text".repeat(100); 50]);
    }

    #[test]
    fn surplus_and_wrong_bytes_are_refused() {
        assert!(matches!(u8::decode_payload(&[1, 2]), Err(PayloadError::Trailing(1))));
        assert!(matches!(String::decode_payload(&[1]), Err(PayloadError::Decode(_))));
        assert!(matches!(Serde::<Order>::decode_payload(&[0x81, 1]), Err(PayloadError::Decode(_))));
    }
}
