//! Datagrams on their way out: those of one length to one address leave in one call of the system.
//!
//! Only whole datagrams are put here; nothing here decides where they go.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::datagram::{Cid, DATA_HEAD_BYTES, Piece};

/// Bytes that one call may take: what fits in one IP packet, with room for all headers.
const CALL_BYTES_MAX: usize = 65_000;

/// Datagrams in the order they leave.
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    bursts: Vec<Burst>,
    /// So many of the bursts have left.
    gone: usize,
    /// How many datagrams the system takes in one call.
    segments_max: usize,
}

/// Datagrams that leave in one call. All have the same length but the last, which may be shorter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Burst {
    pub(crate) to: SocketAddr,
    /// The own address they leave by, where there are several.
    pub(crate) by: Option<IpAddr>,
    pub(crate) segment: usize,
    range: Range<usize>,
}

impl Outgoing {
    /// Nothing, on a system that takes so many datagrams in one call.
    pub(crate) fn new(segments_max: usize) -> Self {
        Self { bytes: Vec::new(), bursts: Vec::new(), gone: 0, segments_max }
    }

    /// The system may have learned that it takes fewer.
    pub(crate) fn limit(&mut self, segments_max: usize) {
        self.segments_max = segments_max;
    }

    /// Appends a piece of a message for the peer `cid`.
    pub(crate) fn put(&mut self, to: SocketAddr, by: Option<IpAddr>, cid: Cid, piece: &Piece<'_>) {
        let length = DATA_HEAD_BYTES + piece.bytes.len();
        let start = self.bytes.len();
        piece.encode_head(cid, &mut self.bytes);
        self.bytes.extend_from_slice(piece.bytes);
        let end = self.bytes.len();
        if let Some(last) = self.bursts.last_mut()
            && last.takes(to, by, length, self.segments_max)
        {
            last.range.end = end;
            return;
        }
        self.bursts.push(Burst { to, by, segment: length, range: start..end });
    }

    /// What leaves next, and its bytes.
    pub(crate) fn first(&self) -> Option<(&Burst, &[u8])> {
        let burst = self.bursts.get(self.gone)?;
        Some((burst, &self.bytes[burst.range.clone()]))
    }

    /// What was first has left.
    pub(crate) fn left(&mut self) {
        self.gone += 1;
        if self.gone == self.bursts.len() {
            self.bursts.clear();
            self.bytes.clear();
            self.gone = 0;
        }
    }

    /// Frees the memory if nothing is in it.
    pub(crate) fn shrink(&mut self) {
        if self.bursts.is_empty() {
            self.bytes = Vec::new();
        }
    }
}

impl Burst {
    fn takes(&self, to: SocketAddr, by: Option<IpAddr>, length: usize, segments_max: usize) -> bool {
        let is_even = self.range.len().is_multiple_of(self.segment);
        is_even
            && length <= self.segment
            && self.range.len() / self.segment < segments_max
            && self.range.len() + length <= CALL_BYTES_MAX
            && (self.to, self.by) == (to, by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The segments and lengths of the bursts that pieces of these lengths make.
    fn bursts(segments_max: usize, pieces: &[(u16, usize)]) -> Vec<(usize, usize)> {
        let mut outgoing = Outgoing::new(segments_max);
        let cid = Cid::new(1).unwrap();
        for (port, length) in pieces {
            let bytes = vec![7; length - DATA_HEAD_BYTES];
            let piece = Piece { message: 1, index: 0, count: 1, bytes: &bytes };
            outgoing.put(([127, 0, 0, 1], *port).into(), None, cid, &piece);
        }
        let mut bursts = Vec::new();
        while let Some((burst, bytes)) = outgoing.first() {
            bursts.push((burst.segment, bytes.len()));
            outgoing.left();
        }
        assert!(outgoing.bytes.is_empty());
        bursts
    }

    #[test]
    fn datagrams_of_one_length_to_one_address_leave_together() {
        assert_eq!(bursts(64, &[(1, 100), (1, 100), (1, 100)]), [(100, 300)]);
        assert_eq!(bursts(64, &[(1, 100), (1, 60), (1, 60)]), [(100, 160), (60, 60)], "a shorter one ends");
        assert_eq!(bursts(64, &[(1, 60), (1, 100)]), [(60, 60), (100, 100)]);
        assert_eq!(bursts(64, &[(1, 60), (2, 60), (1, 60)]), [(60, 60); 3]);
        assert_eq!(bursts(2, &[(1, 60); 5]), [(60, 120), (60, 120), (60, 60)]);
        assert_eq!(bursts(1, &[(1, 60); 2]), [(60, 60); 2]);
    }

    #[test]
    fn a_call_takes_no_more_than_an_ip_packet_holds() {
        let lengths = bursts(64, &[(1, 1200); 60]);
        assert_eq!(lengths, [(1200, 54 * 1200), (1200, 6 * 1200)]);
    }
}
