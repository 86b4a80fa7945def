//! Frames on a byte stream: the preface, the length, and the buffer that frames are received into.
//!
//! The buffer grows with what was received, never with what a length announces; what all buffers hold
//! together is bounded by one [`Room`].
//!
//! Specification: docs/protocol.md §2.1.

use std::sync::Arc;

use onward_routing::LENGTH_HEAD;

use crate::limits::Streams;
use crate::stream::Lost;

/// What each side sends first: `"ONWD"`, version 1, no capabilities, two zero bytes.
pub(crate) const PREFACE: [u8; 8] = *b"ONWD\x01\x00\x00\x00";
/// What is sent so that the peer hears something.
pub(crate) const KEEPALIVE: [u8; LENGTH_HEAD] = [0; LENGTH_HEAD];
/// Size of the buffer of an idle connection.
pub(crate) const BUFFER_MIN: usize = 4 * 1024;
/// Size up to which a buffer grows for speed: what a sender queues at most. Beyond it only to complete one frame.
const BUFFER_USUAL: usize = 256 * 1024;
/// The least a buffer grows by.
const GROW_MIN: usize = 4 * 1024;

/// Whether a peer's preface is one this version talks to; its capabilities are ignored.
pub(crate) fn is_preface(bytes: [u8; 8]) -> bool {
    let [magic @ .., _caps, zero, nought] = bytes;
    magic == PREFACE[..5] && [zero, nought] == [0, 0]
}

/// The length of the frame `bytes` begin with, without its head; `None` if not even that is there.
///
/// # Errors
/// [`Lost::TooBig`] above `frame_max`.
pub(crate) fn frame_length(bytes: &[u8], frame_max: usize) -> Result<Option<usize>, Lost> {
    let Some(head) = bytes.first_chunk::<LENGTH_HEAD>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > frame_max { Err(Lost::TooBig) } else { Ok(Some(length)) }
}

/// Where a connection receives.
pub(crate) struct Buffer {
    streams: Arc<Streams>,
    /// Initialised to its whole length, so that reading into it needs no unsafe code.
    bytes: Vec<u8>,
    filled: usize,
    /// What was taken of the room for unfinished frames: all beyond [`BUFFER_MIN`].
    charged: usize,
}

impl Buffer {
    pub(crate) fn new(streams: Arc<Streams>) -> Self {
        Self { streams, bytes: vec![0; BUFFER_MIN], filled: 0, charged: 0 }
    }

    /// What was received and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Where the next bytes go; not empty after [`Buffer::make_room`].
    pub(crate) fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// `count` bytes were received; says whether the buffer is full.
    pub(crate) fn received(&mut self, count: usize) -> bool {
        self.filled += count;
        self.filled == self.bytes.len()
    }

    /// Drops the first `count` bytes, and memory that only a large frame was in need of.
    pub(crate) fn consume(&mut self, count: usize) {
        self.bytes.copy_within(count..self.filled, 0);
        self.filled -= count;
        if self.bytes.len() > BUFFER_USUAL && self.filled <= BUFFER_USUAL {
            self.cut(BUFFER_USUAL);
        }
    }

    /// Grows for speed if the last read filled the buffer and there is memory for it.
    pub(crate) fn grow_for_speed(&mut self) {
        if self.bytes.len() < BUFFER_USUAL {
            self.grow_now((self.bytes.len() * 4).min(BUFFER_USUAL));
        }
    }

    /// Makes room for more of the unfinished frame the buffer begins with, `length` bytes long if that
    /// is known already. Waits while other connections hold all memory for unfinished frames.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it changed nothing.
    pub(crate) async fn make_room(&mut self, length: Option<usize>) {
        if self.filled < self.bytes.len() {
            return;
        }
        // At most double what was received, so that an announced length alone takes nothing.
        let whole = length.unwrap_or(0) + LENGTH_HEAD;
        self.grow(whole.min(self.filled * 2)).await;
    }

    async fn grow(&mut self, to: usize) {
        let more = to.saturating_sub(self.bytes.len()).max(GROW_MIN);
        let unfinished = &self.streams.unfinished;
        // The room is never closed.
        if let Ok(charge) = Arc::clone(unfinished).take(more).await
            && charge.spend(unfinished, more)
        {
            self.add(more);
        }
    }

    fn grow_now(&mut self, to: usize) -> bool {
        let more = to.saturating_sub(self.bytes.len()).max(GROW_MIN);
        let granted = self.streams.unfinished.try_take(more);
        if granted {
            self.add(more);
        }
        granted
    }

    fn add(&mut self, more: usize) {
        self.charged += self.streams.unfinished.cost(more);
        self.bytes.reserve_exact(more);
        self.bytes.resize(self.bytes.len() + more, 0);
    }

    /// Goes back to the size of an idle connection if nothing is in the buffer.
    pub(crate) fn shrink(&mut self) {
        if self.filled == 0 && self.bytes.len() > BUFFER_MIN {
            self.cut(BUFFER_MIN);
        }
    }

    /// Gives memory beyond `to` bytes back.
    fn cut(&mut self, to: usize) {
        self.bytes.truncate(to);
        self.bytes.shrink_to_fit();
        let kept = (to - BUFFER_MIN).min(self.charged);
        self.streams.unfinished.give_cost(std::mem::replace(&mut self.charged, kept) - kept);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.streams.unfinished.give_cost(self.charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::StreamLimits;

    fn streams(unfinished_bytes: usize) -> Arc<Streams> {
        Streams::new(StreamLimits { unfinished_bytes, ..StreamLimits::default() })
    }

    fn receive(buffer: &mut Buffer, count: usize) {
        buffer.free()[..count].fill(1);
        buffer.received(count);
    }

    #[tokio::test]
    async fn n2_1_a_buffer_is_at_most_double_of_what_was_received_for_a_frame() {
        let mut buffer = Buffer::new(streams(1 << 20));
        let whole = 300_000;
        while buffer.filled < whole + LENGTH_HEAD {
            buffer.make_room(Some(whole)).await;
            assert!(buffer.bytes.len() <= BUFFER_MIN.max(2 * buffer.filled));
            let count = buffer.free().len().min(1000);
            receive(&mut buffer, count);
        }
        assert!(buffer.bytes.len() < whole + LENGTH_HEAD + GROW_MIN);
    }

    #[tokio::test]
    async fn unfinished_frames_of_all_connections_share_one_bound() {
        let streams = streams(64 * 1024);
        let mut one = Buffer::new(Arc::clone(&streams));
        let mut other = Buffer::new(Arc::clone(&streams));
        receive(&mut other, BUFFER_MIN);
        for _ in 0..4 {
            let count = one.free().len();
            receive(&mut one, count);
            one.make_room(Some(1 << 20)).await;
        }
        assert_eq!(one.bytes.len(), BUFFER_MIN << 4);
        // What is left does not do for the other; it waits until memory comes back.
        other.grow_for_speed();
        assert_eq!(other.bytes.len(), BUFFER_MIN);
        {
            let mut waiting = std::pin::pin!(other.make_room(Some(1 << 20)));
            let no_time = std::time::Duration::ZERO;
            assert!(tokio::time::timeout(no_time, &mut waiting).await.is_ok(), "4 KiB are left");
        }
        receive(&mut other, BUFFER_MIN);
        {
            let mut waiting = std::pin::pin!(other.make_room(Some(1 << 20)));
            let no_time = std::time::Duration::ZERO;
            assert!(tokio::time::timeout(no_time, &mut waiting).await.is_err());
            drop(one);
            waiting.await;
        }
        assert_eq!(other.bytes.len(), 4 * BUFFER_MIN);
        other.consume(other.filled);
        other.shrink();
        assert_eq!(other.bytes.len(), BUFFER_MIN);
        assert!(streams.unfinished.try_take(64 * 1024), "all came back");
    }

    #[tokio::test]
    async fn memory_for_a_large_frame_goes_when_it_is_consumed() {
        let streams = streams(1 << 20);
        let mut buffer = Buffer::new(Arc::clone(&streams));
        let whole = 600_000;
        while buffer.filled < whole {
            buffer.make_room(Some(whole)).await;
            let count = buffer.free().len().min(whole - buffer.filled);
            receive(&mut buffer, count);
        }
        buffer.consume(whole - 3);
        assert_eq!((buffer.filled(), buffer.bytes.len()), (&[1; 3][..], BUFFER_USUAL));
        assert!(
            streams.unfinished.try_take((1 << 20) - (BUFFER_USUAL - BUFFER_MIN)),
            "what it no longer needs"
        );
        streams.unfinished.give((1 << 20) - (BUFFER_USUAL - BUFFER_MIN));
        drop(buffer);
        assert!(streams.unfinished.try_take(1 << 20), "all came back");
    }
}
