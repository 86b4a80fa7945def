//! What a client and the key service say to each other: one request, one answer, in frames over a Unix socket.
//!
//! A frame is `length u32 BE | CBOR`, at most [`FRAME_BYTES_MAX`] bytes of CBOR. A request is
//! `[v=1, id u32, op u8, args]`, an answer `[v=1, id u32, status u8, result/null]`. Decoding takes only the
//! deterministic encoding and borrows from the frame, so that a secret in it is nowhere twice.
//!
//! No message has a place for a private key on its way to a client, but for one that another wraps. One carries a private key to the service
//! ([`Call::Import`]) and two the passphrase of its store ([`Call::Unlock`], [`Call::ChangePassphrase`]): all are wiped
//! with the frame.
//!
//! Specification: docs/protocol.md §7.1, §7.2.

use std::convert::Infallible;

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};

use crate::strict::{self, Malformed};
use crate::{SignatureAlgorithm, WipedBuffer};

mod answer;
mod call;
mod meta;

pub use answer::{Outcome, Refusal, Reply, ReplyError, put_answer};
pub use call::{Call, CallKind, NewKey, Request};
pub(crate) use call::{key_id, new_key};
pub use meta::{KeyMeta, KeyState, ServiceState};

/// Bytes of CBOR in a frame, at most: 1 MiB that was sealed to a disposable key, and what goes with it.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// Requests of one client that may wait for their answers.
pub const IN_FLIGHT_MAX: usize = 64;

/// Bytes of a key's label, at most; it has at least one.
pub const LABEL_BYTES_MAX: usize = 64;

/// Bytes of a passphrase, at most; it has at least one.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;

/// Bytes of a body to sign, at most.
pub const BODY_BYTES_MAX: usize = 65_535;

/// Bytes of a request to the key cache or of its answer, at most: what fits into a frame.
pub const CACHE_BYTES_MAX: usize = FRAME_BYTES_MAX - 64;

/// The content of the first whole frame in `bytes`, and how many bytes it takes up; `None` while it is not whole.
///
/// # Errors
/// [`Malformed::TooLong`] as soon as the length says so.
pub fn frame(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Malformed::TooLong { bytes: length, bytes_max: FRAME_BYTES_MAX });
    }
    Ok(rest.get(..length).map(|content| (content, length + 4)))
}

pub(crate) type Written = Result<(), encode::Error<Infallible>>;

fn put_frame(out: &mut WipedBuffer, write: impl FnOnce(&mut Encoder<&mut WipedBuffer>) -> Written) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    // Memory takes every write.
    let written = write(&mut Encoder::new(&mut *out));
    debug_assert!(written.is_ok(), "encoding into memory failed");
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_optional<W: Write<Error = Infallible>>(e: &mut Encoder<W>, number: Option<u64>) -> Written {
    match number {
        Some(number) => e.u64(number)?.ok(),
        None => e.null()?.ok(),
    }
}

/// The algorithm of every signing key of the service.
pub const SIGNATURES: SignatureAlgorithm = SignatureAlgorithm::Ed25519;

fn exact<'b>(d: &mut Decoder<'b>) -> Result<&'b [u8; 32], decode::Error> {
    d.bytes()?.try_into().map_err(|_| strict::refuse(d, "byte string of another length"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::general::request::GeneralCall;
    use crate::general::{Form, Mode, Scheme};
    use crate::{KeyId, KeyUsage, SharedSecret, SignatureType};

    const KEY: KeyId = KeyId::from_bytes([3; 16]);

    fn calls() -> Vec<Call<'static>> {
        let usage = KeyUsage::ChannelStatic;
        let new = NewKey { usage, label: "orders", expires: Some(1 << 40), extractable: false };
        let general = KeyUsage::parse("rsa-2048:wrap").unwrap();
        let leaves = NewKey { usage: general, extractable: true, ..new };
        vec![
            Call::Generate(new),
            Call::Import { key: NewKey { expires: None, ..new }, id: Some(KEY), secret: &[7; 32] },
            Call::Public(KEY),
            Call::List,
            Call::Sign { key: KEY, kind: SignatureType::Credential, body: b"body" },
            Call::General(GeneralCall::SignRaw {
                key: KEY,
                scheme: Scheme::RsaPssSha384,
                message: b"message",
            }),
            Call::General(GeneralCall::Verify {
                key: KEY,
                scheme: Scheme::Ed25519,
                message: b"",
                signature: b"signature",
            }),
            Call::Agree { key: KEY, peer: &[9; 32] },
            Call::General(GeneralCall::EcdhKdf { key: KEY, peer: b"peer", info: b"info", bytes: 48 }),
            Call::General(GeneralCall::HpkeOpen {
                key: KEY,
                enc: b"enc",
                info: b"",
                aad: b"aad",
                ciphertext: b"ciphertext",
            }),
            Call::General(GeneralCall::Encrypt { key: KEY, mode: Mode::GcmSiv, aad: b"aad", data: b"" }),
            Call::General(GeneralCall::Decrypt { key: KEY, mode: Mode::Gcm, aad: b"", sealed: b"sealed" }),
            Call::General(GeneralCall::Wrap { with: KEY, key: KEY, form: Form::Kwp }),
            Call::General(GeneralCall::Unwrap {
                with: KEY,
                form: Form::Sealed,
                wrapped: b"wrapped",
                new: leaves,
            }),
            Call::General(GeneralCall::Mac { key: KEY, data: b"data" }),
            Call::General(GeneralCall::Encapsulate(KEY)),
            Call::General(GeneralCall::Decapsulate { key: KEY, ciphertext: b"ciphertext" }),
            Call::Destroy(KEY),
            Call::General(GeneralCall::Random { bytes: 32 }),
            Call::General(GeneralCall::Seal { label: "state", aad: b"aad", data: b"data" }),
            Call::General(GeneralCall::Open { label: "state", aad: b"", sealed: b"sealed" }),
            Call::Attest { key: KEY, body: b"attest" },
            Call::Status,
            Call::Unlock { passphrase: b"correct horse", create: true },
            Call::Lock,
            Call::Reload,
            Call::Disable(KEY),
            Call::Enable(KEY),
            Call::General(GeneralCall::Narrow(KEY)),
            Call::ChangePassphrase { passphrase: b"correct horse", next: b"battery staple" },
            Call::Cache(b"request"),
        ]
    }

    fn meta() -> KeyMeta {
        KeyMeta {
            id: KEY,
            usage: KeyUsage::Identity,
            state: KeyState::Disabled,
            owner: 1000,
            created: 1_700_000_000,
            expires: None,
            label: "orders".to_owned(),
            public: vec![5; 32],
            extractable: false,
        }
    }

    #[test]
    fn every_request_is_read_as_it_was_written() {
        assert_eq!(calls().iter().map(Call::kind).collect::<Vec<_>>(), CallKind::ALL);
        for call in calls() {
            let mut framed = WipedBuffer::new();
            let request = Request { id: 70_000, call };
            request.put(&mut framed);
            let (content, used) = frame(&framed).unwrap().unwrap();
            assert_eq!(used, framed.len());
            assert_eq!(Request::decode(content).unwrap(), request);
        }
    }

    #[test]
    fn no_truncation_extension_or_other_spelling_of_a_request_is_read() {
        for call in calls() {
            let mut framed = WipedBuffer::new();
            Request { id: 7, call }.put(&mut framed);
            let content = &framed[4..];
            for length in 0..content.len() {
                assert!(Request::decode(&content[..length]).is_err(), "{call:?} {length}");
            }
            assert!(Request::decode(&[content, &[0]].concat()).is_err());
            // The id in two bytes where one is enough.
            let longer = [&content[..2], &[0x18, 0x07], &content[3..]].concat();
            assert!(Request::decode(&longer).is_err(), "{call:?}");
        }
    }

    #[test]
    fn unknown_operations_and_statuses_are_malformed() {
        for number in (0..=255).filter(|number| CallKind::from_number(*number).is_none()) {
            let head = if number < 24 { vec![number] } else { vec![0x18, number] };
            let content = [&[0x84, 1, 7][..], &head, &[0x80]].concat();
            assert!(Request::decode(&content).is_err(), "{number}");
        }
        assert!(Reply::decode(&[0x84, 1, 7, 8, 0xf6]).is_err());
        assert!(matches!(
            Reply::decode(&[0x84, 1, 7, 5, 0xf6]).unwrap().done(),
            Err(ReplyError::Refused(Refusal::Rate))
        ));
    }

    #[test]
    fn every_answer_is_read_as_what_was_asked_for_and_as_nothing_else() {
        let state = ServiceState {
            unlocked: true,
            keys: 3,
            rules: 2,
            clients: 1,
            answered: 9,
            protection: vec!["+ x".to_owned()],
        };
        let outcomes = [
            Outcome::Done,
            Outcome::Key(meta()),
            Outcome::Keys(vec![meta(), meta()]),
            Outcome::Signature([8; 64]),
            Outcome::Shared(SharedSecret::new(&[6; 32])),
            Outcome::State(state.clone()),
            Outcome::Verdict(true),
            Outcome::Encapsulated(vec![1; 1088], SharedSecret::new(&[6; 32])),
        ];
        for (at, outcome) in outcomes.into_iter().enumerate() {
            let mut framed = WipedBuffer::new();
            put_answer(&mut framed, 4, &Ok(outcome));
            let reply = Reply::decode(&framed[4..]).unwrap();
            assert_eq!(reply.id, 4);
            let read = [
                reply.done().is_ok(),
                reply.key().is_ok_and(|key| key == meta()),
                reply.keys().is_ok_and(|keys| keys == [meta(), meta()]),
                reply.signature().is_ok_and(|bytes| bytes == [8; 64]),
                reply.shared().is_ok_and(|secret| secret.as_bytes() == &[6; 32]),
                reply.state().is_ok_and(|read| read == state),
                reply.verdict().is_ok_and(|verdict| verdict),
                reply.encapsulated().is_ok_and(|(ciphertext, _)| ciphertext.len() == 1088),
            ];
            let expected: [bool; 8] = std::array::from_fn(|reader| reader == at);
            assert_eq!(read, expected, "{at}");
        }
    }

    #[test]
    fn a_frame_is_refused_by_its_length_before_it_comes() {
        let length = |bytes: usize| (bytes as u32).to_be_bytes();
        assert!(frame(&length(FRAME_BYTES_MAX)[..3]).unwrap().is_none());
        assert!(frame(&length(FRAME_BYTES_MAX)).unwrap().is_none());
        assert!(matches!(frame(&length(FRAME_BYTES_MAX + 1)), Err(Malformed::TooLong { .. })));
        assert_eq!(frame(&[0, 0, 0, 1, 9, 9]).unwrap(), Some((&[9][..], 5)));
    }

    #[test]
    fn debug_shows_no_argument() {
        for call in calls() {
            let shown = format!("{:?}", Request { id: 1, call });
            assert_eq!(shown, format!("Request {{ id: 1, call: Call({}) }}", call.kind()));
        }
    }
}
