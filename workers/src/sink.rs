//! Where a channel puts its records: straight into the send buffer of the connection they leave by.
//!
//! A record is numbered and sealed in the buffer under its lock, so that wire order is number order
//! and nothing is allocated. Room is taken first: a send that is dropped while it waits burns no
//! number.
//!
//! Specification: docs/protocol.md §2.1.

use bytes::Bytes;
use onward_routing::FlowId;

use crate::room::{Closed, Room};

/// A connection's send buffer, open to whole frames that somebody else writes.
///
/// Call contract: take `size` bytes of [`RecordSink::room`], then append once with the same `size`,
/// without an await in between. The append gives the room back when the frame has left or is lost.
pub trait RecordSink: Send + Sync + 'static {
    /// The flow of the connection the frames leave by.
    fn flow(&self) -> FlowId;

    /// The room to take before appending: for a frame its length and 4 bytes.
    fn room(&self) -> &Room;

    /// Appends one frame: `write` is called once, under the buffer's lock, and appends a whole message
    /// behind what is there; the length in front of it is written here. Appending nothing sends nothing.
    ///
    /// `write` must neither block nor come back to this sink.
    ///
    /// # Errors
    /// [`Closed`] when the connection is gone or out of reach; `write` was not called then.
    fn append(&self, size: usize, write: &mut dyn FnMut(&mut Vec<u8>)) -> Result<(), Closed>;

    /// As [`RecordSink::append`] for a large message made of three parts: what `head` appends, `body`,
    /// what `tail` appends. The body is not copied.
    ///
    /// # Errors
    /// As [`RecordSink::append`].
    fn append_large(
        &self,
        size: usize,
        head: &mut dyn FnMut(&mut Vec<u8>),
        body: Bytes,
        tail: &mut dyn FnMut(&mut Vec<u8>),
    ) -> Result<(), Closed>;
}
