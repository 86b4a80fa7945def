//! What became of datagrams, counted since the transport was made.

use std::sync::atomic::AtomicU64;

/// Counts of what happened on the UDP sockets of a node.
#[derive(Debug, Default)]
pub struct DatagramCounters {
    /// Messages that came whole.
    pub received: AtomicU64,
    /// Messages that left.
    pub sent: AtomicU64,
    /// Messages that were dropped because their target and its lane were full.
    pub overflowed: AtomicU64,
    /// Datagrams, and messages in datagrams, that have not the form they should.
    pub malformed: AtomicU64,
    /// Datagrams of somebody who is no peer, or no longer.
    pub unknown: AtomicU64,
    /// Pieces that contradicted another piece of their message.
    pub contradictions: AtomicU64,
    /// Challenges sent to addresses that had shown nothing.
    pub challenges: AtomicU64,
    /// Tokens that were forged, copied from another address, or too old.
    pub refused_tokens: AtomicU64,
    /// Peers that were accepted.
    pub accepted: AtomicU64,
    /// Peers that found no place.
    pub refused_peers: AtomicU64,
    /// Peers that were found at another address and showed that they receive there.
    pub moves: AtomicU64,
}
