//! What stands in the file of a queue: entries that prove themselves whole.
//!
//! Every entry begins with the file's mark, eight random bytes that nobody outside knows, and a
//! checksum over all of the rest, its place included. So an entry that was damaged, or that stands
//! where another belongs, is noticed when it is read; and when the tree around them is broken, entries
//! are found again by searching for the mark. A message whose bytes look like an entry is none.
//!
//! Layout, integers little-endian: mark (8), checksum (4), kind (1), mailbox (8), sequence (8), and
//! behind that what the kind says.

use core::str;

use super::super::{Mailbox, Mid, Subject};

/// The mark of a file.
pub(crate) type Mark = [u8; 8];

/// Bytes of an entry in front of what its kind says.
const HEAD: usize = 29;
/// Bytes of a message's entry in front of its subject: head, stored, exp, mid, two lengths.
const MESSAGE_HEAD: usize = HEAD + 8 + 8 + 16 + 1 + 4;
/// Bytes that the entry of a message has beside its body, at most.
pub(crate) const OVERHEAD: usize = MESSAGE_HEAD + 16 + Mailbox::BYTES_MAX;

const KIND_MESSAGE: u8 = 1;
const KIND_MAILBOX: u8 = 2;
const KIND_COUNTER: u8 = 3;
const KIND_RECENT: u8 = 4;

/// Where an entry stands. Mailbox 0 is the queue itself; sequence 0 is what is known of the mailbox.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    pub(crate) mailbox: u64,
    pub(crate) sequence: u64,
}

impl Place {
    pub(crate) const COUNTER: Self = Self { mailbox: 0, sequence: 0 };

    /// The key in the tree; its order is that of mailboxes, then of sequences.
    pub(crate) fn key(self) -> u128 {
        u128::from(self.mailbox) << 64 | u128::from(self.sequence)
    }

    pub(crate) fn from_key(key: u128) -> Self {
        Self { mailbox: (key >> 64) as u64, sequence: key as u64 }
    }
}

/// A message as it is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Message<'a> {
    /// When it was stored, in seconds since the Unix epoch.
    pub(crate) stored: u64,
    /// When it ends, likewise.
    pub(crate) exp: u64,
    pub(crate) mid: Mid,
    /// The subject as text, so that an entry can be put back without anything else.
    pub(crate) subject: &'a str,
    pub(crate) body: &'a [u8],
}

/// An entry, read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Entry<'a> {
    Message(Message<'a>),
    /// What the number of a mailbox stands for; messages in front of `handed` may have been handed out.
    Mailbox {
        handed: u64,
        subject: &'a str,
    },
    /// The first sequence that was never used.
    Counter {
        next: u64,
    },
    /// Messages stored not long ago, for noticing when one comes again: see [`Recent`].
    Recent(&'a [u8]),
}

/// What begins at a mark in raw bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found<'a> {
    /// A message: the place it was written for, and the bytes of its entry.
    Whole(Place, Message<'a>, usize),
    /// A message that is damaged.
    Broken,
    /// No message.
    Other,
}

/// One of the messages in an [`Entry::Recent`]: mailbox (8), mid (16), checksum of the body (4), when (8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Recent {
    pub(crate) mailbox: u64,
    pub(crate) mid: Mid,
    pub(crate) check: u32,
    pub(crate) stored: u64,
}

impl Recent {
    pub(crate) const BYTES: usize = 36;

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.mailbox.to_le_bytes());
        out.extend_from_slice(self.mid.bytes());
        out.extend_from_slice(&self.check.to_le_bytes());
        out.extend_from_slice(&self.stored.to_le_bytes());
    }

    /// Those in the bytes of an [`Entry::Recent`].
    pub(crate) fn all(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.as_chunks::<{ Self::BYTES }>().0.iter().map_while(|chunk| {
            let mut rest = &chunk[..];
            Some(Self {
                mailbox: u64::from_le_bytes(take(&mut rest)?),
                mid: Mid::new(take(&mut rest)?),
                check: u32::from_le_bytes(take(&mut rest)?),
                stored: u64::from_le_bytes(take(&mut rest)?),
            })
        })
    }
}

impl Entry<'_> {
    /// Appends this entry for `place`.
    pub(crate) fn encode(&self, mark: Mark, place: Place, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&mark);
        out.extend_from_slice(&[0; 4]);
        let kind = match self {
            Self::Message(_) => KIND_MESSAGE,
            Self::Mailbox { .. } => KIND_MAILBOX,
            Self::Counter { .. } => KIND_COUNTER,
            Self::Recent(_) => KIND_RECENT,
        };
        out.push(kind);
        out.extend_from_slice(&place.mailbox.to_le_bytes());
        out.extend_from_slice(&place.sequence.to_le_bytes());
        match self {
            Self::Message(Message { stored, exp, mid, subject, body }) => {
                out.extend_from_slice(&stored.to_le_bytes());
                out.extend_from_slice(&exp.to_le_bytes());
                out.extend_from_slice(mid.bytes());
                out.push(subject.len() as u8);
                out.extend_from_slice(&(body.len() as u32).to_le_bytes());
                out.extend_from_slice(subject.as_bytes());
                out.extend_from_slice(body);
            }
            Self::Mailbox { handed, subject } => {
                out.extend_from_slice(&handed.to_le_bytes());
                out.extend_from_slice(subject.as_bytes());
            }
            Self::Counter { next } => out.extend_from_slice(&next.to_le_bytes()),
            Self::Recent(bytes) => out.extend_from_slice(bytes),
        }
        let check = checksum(&out[start + 12..]);
        out[start + 8..start + 12].copy_from_slice(&check.to_le_bytes());
    }
}

impl<'a> Entry<'a> {
    /// Reads the whole entry that stands at `place`; `None` when it is damaged or another's.
    pub(crate) fn decode(mark: Mark, place: Place, bytes: &'a [u8]) -> Option<Self> {
        let (found, entry, rest) = Self::read(mark, bytes)?;
        (found == place && rest.is_empty()).then_some(entry)
    }

    /// Reads a message's entry from the front of `bytes`, which begin with the mark and go on behind it.
    pub(crate) fn find_message(mark: Mark, bytes: &'a [u8]) -> Found<'a> {
        if bytes.get(12) != Some(&KIND_MESSAGE) {
            return Found::Other;
        }
        let whole = message_len(bytes).and_then(|length| Some((length, bytes.get(..length)?)));
        match whole.and_then(|(length, bytes)| Some((length, Self::read(mark, bytes)?))) {
            Some((length, (place, Self::Message(message), []))) => Found::Whole(place, message, length),
            _ => Found::Broken,
        }
    }

    fn read(mark: Mark, bytes: &'a [u8]) -> Option<(Place, Self, &'a [u8])> {
        let mut rest = bytes;
        if take::<8>(&mut rest)? != mark || u32::from_le_bytes(take(&mut rest)?) != checksum(bytes.get(12..)?)
        {
            return None;
        }
        let [kind] = take(&mut rest)?;
        let mailbox = u64::from_le_bytes(take(&mut rest)?);
        let place = Place { mailbox, sequence: u64::from_le_bytes(take(&mut rest)?) };
        let entry = match kind {
            KIND_MESSAGE => {
                let stored = u64::from_le_bytes(take(&mut rest)?);
                let exp = u64::from_le_bytes(take(&mut rest)?);
                let mid = Mid::new(take(&mut rest)?);
                let [subject] = take(&mut rest)?;
                let body = u32::from_le_bytes(take(&mut rest)?) as usize;
                let (subject, behind) = rest.split_at_checked(usize::from(subject))?;
                let (body, behind) = behind.split_at_checked(body)?;
                rest = behind;
                Self::Message(Message { stored, exp, mid, subject: str::from_utf8(subject).ok()?, body })
            }
            KIND_MAILBOX => {
                let handed = u64::from_le_bytes(take(&mut rest)?);
                Self::Mailbox { handed, subject: str::from_utf8(core::mem::take(&mut rest)).ok()? }
            }
            KIND_COUNTER => Self::Counter { next: u64::from_le_bytes(take(&mut rest)?) },
            KIND_RECENT => Self::Recent(core::mem::take(&mut rest)),
            _ => return None,
        };
        Some((place, entry, rest))
    }
}

impl Message<'_> {
    /// The subject, parsed; `None` only for what nobody here has written.
    pub(crate) fn subject(&self) -> Option<Subject> {
        self.subject.parse().ok()
    }
}

/// How many bytes the message's entry at the front of `bytes` says it has.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let lengths = bytes.get(MESSAGE_HEAD - 5..MESSAGE_HEAD)?;
    let body = u32::from_le_bytes(lengths[1..].try_into().ok()?) as usize;
    MESSAGE_HEAD.checked_add(usize::from(lengths[0]))?.checked_add(body)
}

/// The checksum of entries and bodies: CRC-32, which misses no single flipped bit.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = *b"\x01markmrk";

    fn entries() -> [Entry<'static>; 4] {
        let message =
            Message { stored: 5, exp: 9, mid: Mid::new([3; 16]), subject: "ow.v1.mb.a", body: b"body" };
        [
            Entry::Message(message),
            Entry::Mailbox { handed: 17, subject: "ow.v1.mb.a" },
            Entry::Counter { next: 12 },
            Entry::Recent(b"0123"),
        ]
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let place = Place { mailbox: 2, sequence: 7 };
        for entry in entries() {
            let mut bytes = Vec::new();
            entry.encode(MARK, place, &mut bytes);
            assert_eq!(Entry::decode(MARK, place, &bytes), Some(entry));
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Entry::decode(MARK, place, &bytes), None, "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            for end in 0..bytes.len() {
                assert_eq!(Entry::decode(MARK, place, &bytes[..end]), None);
            }
        }
    }

    #[test]
    fn an_entry_is_good_only_in_its_place_and_its_file() {
        let place = Place { mailbox: 2, sequence: 7 };
        let mut bytes = Vec::new();
        entries()[0].encode(MARK, place, &mut bytes);
        assert_eq!(Entry::decode(MARK, Place { mailbox: 3, ..place }, &bytes), None);
        assert_eq!(Entry::decode(MARK, Place { sequence: 8, ..place }, &bytes), None);
        assert_eq!(Entry::decode(*b"\x01MARKMRK", place, &bytes), None);
    }

    #[test]
    fn a_message_is_found_with_other_bytes_behind_it() {
        let place = Place { mailbox: 2, sequence: 7 };
        let mut bytes = Vec::new();
        entries()[0].encode(MARK, place, &mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(b"behind");
        let Entry::Message(message) = entries()[0] else { panic!("the first is a message") };
        assert_eq!(Entry::find_message(MARK, &bytes), Found::Whole(place, message, length));
        bytes[length - 1] ^= 1;
        assert_eq!(Entry::find_message(MARK, &bytes), Found::Broken);
        assert_eq!(Entry::find_message(MARK, &bytes[..length - 1]), Found::Broken);
        bytes.clear();
        entries()[1].encode(MARK, place, &mut bytes);
        assert_eq!(Entry::find_message(MARK, &bytes), Found::Other);
    }

    #[test]
    fn recent_messages_survive_a_round_trip() {
        let recent = Recent { mailbox: 1, mid: Mid::new([8; 16]), check: 4, stored: 6 };
        let mut bytes = Vec::new();
        recent.put(&mut bytes);
        recent.put(&mut bytes);
        assert_eq!(Recent::all(&bytes).collect::<Vec<_>>(), [recent; 2]);
    }

    #[test]
    fn places_sort_by_mailbox_then_sequence() {
        let one = Place { mailbox: 1, sequence: u64::MAX };
        let two = Place { mailbox: 2, sequence: 0 };
        assert!(one.key() < two.key());
        assert_eq!(Place::from_key(one.key()), one);
    }
}
