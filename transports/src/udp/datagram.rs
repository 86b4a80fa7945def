//! Datagrams: what stands in them, and nothing of what it means.
//!
//! Every kind has one form; whatever differs from it is no datagram. Integers are big-endian.
//!
//! Specification: docs/protocol.md §2.2.

/// Bytes of the longest datagram, and of every INIT.
pub(crate) const DATAGRAM_MAX: usize = 1200;
/// Bytes of a message in one datagram.
pub(crate) const PIECE_MAX: usize = DATAGRAM_MAX - DATA_HEAD_BYTES;
/// Datagrams of one message.
pub(crate) const PIECES_MAX: usize = 16;
/// Bytes of the longest message that UDP carries, routes and all: 18,912.
pub(crate) const MESSAGE_MAX: usize = PIECES_MAX * PIECE_MAX;

/// Bytes in front of a piece: the header, `seq`, `idx` and `cnt`.
pub(crate) const DATA_HEAD_BYTES: usize = HEADER_BYTES + 6;
const HEADER_BYTES: usize = 12;
const TOKEN_BYTES: usize = 40;
const MAGIC: [u8; 3] = [0x4f, 0x57, 1];

/// By what a node recognises the datagrams of one peer: a random number that it gave to that peer.
/// Never zero, which is the address of an INIT.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Cid(u64);

impl Cid {
    /// `None` for zero.
    pub(crate) fn new(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

/// What a listener sends to an address in order to see it come back from there.
pub(crate) type Token = [u8; TOKEN_BYTES];

/// What an end sends to an address in order to see it come back from there.
pub(crate) type Probe = [u8; 8];

/// One datagram, decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Datagram<'a> {
    /// Who would like to be a peer, and what it was challenged with before.
    Init {
        initiator: Cid,
        token: Option<&'a Token>,
    },
    /// The answer to an INIT of the end `to`.
    Challenge {
        to: Cid,
        token: &'a Token,
    },
    /// `to` is a peer now, which sends to `responder` from here on.
    Accept {
        to: Cid,
        responder: Cid,
    },
    /// A piece of a message.
    Data {
        to: Cid,
        piece: Piece<'a>,
    },
    PathChallenge {
        to: Cid,
        probe: Probe,
    },
    PathResponse {
        to: Cid,
        probe: Probe,
    },
    /// The peer is about to go.
    Close {
        to: Cid,
    },
}

/// A message, or the part of it that one datagram carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Piece<'a> {
    /// The message's number within one direction.
    pub(crate) message: u32,
    /// From 0, below `count`.
    pub(crate) index: u8,
    /// 1 to 16.
    pub(crate) count: u8,
    /// 1 to 1,182 bytes.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads what came as one datagram; `None` for anything that has not the form of its kind.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let ([o, w, version, kind], to) = header.split_first_chunk::<4>()?;
        if [*o, *w, *version] != MAGIC {
            return None;
        }
        let to = u64::from_be_bytes(to.try_into().ok()?);
        if *kind == INIT {
            return if to == 0 { Self::decode_init(bytes.len(), body) } else { None };
        }
        let to = Cid::new(to)?;
        Some(match *kind {
            CHALLENGE => Self::Challenge { to, token: body.try_into().ok()? },
            ACCEPT => Self::Accept { to, responder: cid(body.try_into().ok()?)? },
            DATA => Self::Data { to, piece: Piece::decode(body)? },
            PATH_CHALLENGE => Self::PathChallenge { to, probe: body.try_into().ok()? },
            PATH_RESPONSE => Self::PathResponse { to, probe: body.try_into().ok()? },
            CLOSE if body.is_empty() => Self::Close { to },
            _ => return None,
        })
    }

    fn decode_init(length: usize, body: &'a [u8]) -> Option<Self> {
        let (initiator, rest) = body.split_first_chunk::<8>()?;
        let (&token_bytes, rest) = rest.split_first()?;
        let (token, padding) = match usize::from(token_bytes) {
            0 => (None, rest),
            TOKEN_BYTES => rest.split_first_chunk().map(|(token, padding)| (Some(token), padding))?,
            _ => return None,
        };
        let is_whole = length == DATAGRAM_MAX && padding.iter().all(|byte| *byte == 0);
        is_whole.then_some(Self::Init { initiator: cid(*initiator)?, token })
    }

    /// The datagram's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match *self {
            Self::Init { initiator, token } => {
                header(&mut out, INIT, [0; 8]);
                out.extend_from_slice(&initiator.to_bytes());
                out.push(token.map_or(0, |token| token.len() as u8));
                out.extend_from_slice(token.map_or(&[], |token| token));
                out.resize(DATAGRAM_MAX, 0);
            }
            Self::Challenge { to, token } => {
                header(&mut out, CHALLENGE, to.to_bytes());
                out.extend_from_slice(token);
            }
            Self::Accept { to, responder } => {
                header(&mut out, ACCEPT, to.to_bytes());
                out.extend_from_slice(&responder.to_bytes());
            }
            Self::Data { to, piece } => {
                piece.encode_head(to, &mut out);
                out.extend_from_slice(piece.bytes);
            }
            Self::PathChallenge { to, probe } => {
                header(&mut out, PATH_CHALLENGE, to.to_bytes());
                out.extend_from_slice(&probe);
            }
            Self::PathResponse { to, probe } => {
                header(&mut out, PATH_RESPONSE, to.to_bytes());
                out.extend_from_slice(&probe);
            }
            Self::Close { to } => header(&mut out, CLOSE, to.to_bytes()),
        }
        out
    }
}

impl<'a> Piece<'a> {
    /// The pieces of an encoded message, each as long as possible; none if it does not fit.
    pub(crate) fn cut(message: u32, bytes: &'a [u8]) -> impl Iterator<Item = Self> {
        let count = bytes.len().div_ceil(PIECE_MAX);
        let bytes = if count <= PIECES_MAX { bytes } else { &[] };
        let pieces = bytes.chunks(PIECE_MAX).zip(0..);
        pieces.map(move |(bytes, index)| Self { message, index, count: count as u8, bytes })
    }

    fn decode(body: &'a [u8]) -> Option<Self> {
        let (message, rest) = body.split_first_chunk::<4>()?;
        let ([index, count], bytes) = rest.split_first_chunk::<2>()?;
        let is_one =
            (1..=PIECES_MAX as u8).contains(count) && index < count && (1..=PIECE_MAX).contains(&bytes.len());
        let message = u32::from_be_bytes(*message);
        is_one.then_some(Self { message, index: *index, count: *count, bytes })
    }

    /// Appends what stands in front of the piece in its datagram: [`DATA_HEAD_BYTES`].
    pub(crate) fn encode_head(&self, to: Cid, out: &mut Vec<u8>) {
        header(out, DATA, to.to_bytes());
        out.extend_from_slice(&self.message.to_be_bytes());
        out.extend_from_slice(&[self.index, self.count]);
    }
}

fn cid(bytes: [u8; 8]) -> Option<Cid> {
    Cid::new(u64::from_be_bytes(bytes))
}

fn header(out: &mut Vec<u8>, kind: u8, to: [u8; 8]) {
    out.extend_from_slice(&MAGIC);
    out.push(kind);
    out.extend_from_slice(&to);
}

const INIT: u8 = 1;
const CHALLENGE: u8 = 2;
const ACCEPT: u8 = 3;
const DATA: u8 = 4;
const PATH_CHALLENGE: u8 = 5;
const PATH_RESPONSE: u8 = 6;
const CLOSE: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Cid = Cid(0x0102_0304_0506_0708);
    const OTHER: Cid = Cid(0x1112_1314_1516_1718);

    fn all() -> Vec<(Datagram<'static>, usize)> {
        let piece = Piece { message: 7, index: 1, count: 2, bytes: b"piece" };
        vec![
            (Datagram::Init { initiator: OTHER, token: None }, DATAGRAM_MAX),
            (Datagram::Init { initiator: OTHER, token: Some(&[9; 40]) }, DATAGRAM_MAX),
            (Datagram::Challenge { to: TO, token: &[9; 40] }, 52),
            (Datagram::Accept { to: TO, responder: OTHER }, 20),
            (Datagram::Data { to: TO, piece }, 23),
            (Datagram::PathChallenge { to: TO, probe: [3; 8] }, 20),
            (Datagram::PathResponse { to: TO, probe: [3; 8] }, 20),
            (Datagram::Close { to: TO }, 12),
        ]
    }

    #[test]
    fn every_kind_has_one_form() {
        for (datagram, length) in all() {
            let bytes = datagram.encode();
            assert_eq!((Datagram::decode(&bytes), bytes.len()), (Some(datagram), length));
            // No byte of the header's first three and none of an INIT's target or padding is free.
            for at in [0, 1, 2] {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert_eq!(Datagram::decode(&changed), None, "byte {at} of {datagram:?}");
            }
            let data = matches!(datagram, Datagram::Data { .. });
            for cut in 0..if data { DATA_HEAD_BYTES } else { bytes.len() } {
                assert_eq!(Datagram::decode(&bytes[..cut]), None, "{cut} bytes of {datagram:?}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Datagram::decode(&longer).is_some(), data, "longer: {datagram:?}");
        }
    }

    #[test]
    fn a_datagram_reads_byte_for_byte_as_specified() {
        let piece = Piece { message: 0x0a0b_0c0d, index: 1, count: 3, bytes: b"xyz" };
        let expected = *b"OW\x01\x04\x01\x02\x03\x04\x05\x06\x07\x08\x0a\x0b\x0c\x0d\x01\x03xyz";
        assert_eq!(Datagram::Data { to: TO, piece }.encode(), expected);
        let init = Datagram::Init { initiator: OTHER, token: Some(&[9; 40]) }.encode();
        assert_eq!(init[..12], *b"OW\x01\x01\0\0\0\0\0\0\0\0");
        assert_eq!((&init[12..20], init[20], &init[21..61]), (&OTHER.to_bytes()[..], 40, &[9; 40][..]));
        assert!(init[61..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_not_zero_or_may_not_be_is_refused() {
        let init = Datagram::Init { initiator: OTHER, token: None }.encode();
        for at in [4, 11, 20, 21, 1199] {
            let mut changed = init.clone();
            changed[at] = 1;
            assert_eq!(Datagram::decode(&changed), None, "byte {at}");
        }
        let mut nobody = init;
        nobody[12..20].fill(0);
        assert_eq!(Datagram::decode(&nobody), None);
        let mut close = Datagram::Close { to: TO }.encode();
        close[4..].fill(0);
        assert_eq!(Datagram::decode(&close), None);
        for kind in [0, 8, 255] {
            close[3..].fill(kind);
            assert_eq!(Datagram::decode(&close), None);
        }
    }

    #[test]
    fn n2_5_a_piece_outside_its_count_or_of_0_or_17_is_refused() {
        let encoded = |index, count, bytes: &[u8]| {
            Datagram::Data { to: TO, piece: Piece { message: 1, index, count, bytes } }.encode()
        };
        for (index, count) in [(0, 0), (0, 17), (1, 1), (16, 16), (255, 255)] {
            assert_eq!(Datagram::decode(&encoded(index, count, b"x")), None, "{index} of {count}");
        }
        assert_eq!(Datagram::decode(&encoded(0, 1, b"")), None);
        assert_eq!(Datagram::decode(&encoded(0, 1, &[0; PIECE_MAX + 1])), None);
        for (index, count) in [(0, 1), (15, 16)] {
            assert!(Datagram::decode(&encoded(index, count, &[0; PIECE_MAX])).is_some());
        }
    }

    #[test]
    fn a_message_is_cut_into_as_few_pieces_as_hold_it() {
        for (length, counts) in
            [(1, 1), (PIECE_MAX, 1), (PIECE_MAX + 1, 2), (MESSAGE_MAX, 16), (MESSAGE_MAX + 1, 0)]
        {
            let message: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let pieces: Vec<_> = Piece::cut(5, &message).collect();
            assert_eq!(pieces.len(), counts, "{length}");
            assert!(pieces.iter().enumerate().all(|(at, piece)| {
                (usize::from(piece.index), usize::from(piece.count), piece.message) == (at, counts, 5)
            }));
            let whole = pieces.iter().flat_map(|piece| piece.bytes).copied().collect::<Vec<_>>();
            assert!(whole == message || counts == 0);
        }
    }
}
