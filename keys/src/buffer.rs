//! A buffer for bytes among which there may be secrets: it wipes whatever it leaves.
//!
//! Bytes are appended at its end and taken off its front, on their way from a socket or to one. What was taken off, what
//! had to move, and what is there when it is dropped is overwritten.
//!
//! What a caller copies out of it is the caller's to wipe.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

use minicbor::encode::Write;
use zeroize::Zeroize as _;

/// Bytes that are wiped where they were once they are there no more. Reads as a slice of those that are left.
#[derive(Default)]
pub struct WipedBuffer {
    bytes: Vec<u8>,
    /// How many at the front were taken off: they are zeros.
    start: usize,
}

impl WipedBuffer {
    /// An empty buffer, which takes up no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), start: 0 }
    }

    /// Appends `more`.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        self.reserve(more.len());
        self.bytes.extend_from_slice(more);
    }

    /// Appends what `read` puts into the at most `bytes_max` bytes it is given, and says how many these are.
    ///
    /// # Errors
    /// Those of `read`; the buffer is then as it was.
    pub fn fill(
        &mut self,
        bytes_max: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.reserve(bytes_max);
        let end = self.bytes.len();
        self.bytes.resize(end + bytes_max, 0);
        let read = read(&mut self.bytes[end..]);
        let bytes = read.as_ref().map_or(0, |bytes| *bytes);
        self.bytes.truncate(end + bytes);
        read
    }

    /// Takes the first `bytes` bytes off.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn consume(&mut self, bytes: usize) {
        self[..bytes].zeroize();
        self.start += bytes;
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Makes room for `more` bytes without another move.
    fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() >= more {
            return;
        }
        let kept = self.len();
        if self.bytes.capacity() - kept >= more && self.start >= kept {
            self.bytes.copy_within(self.start.., 0);
            self.bytes[kept..].zeroize();
            self.bytes.truncate(kept);
        } else {
            let mut larger = Vec::with_capacity((2 * kept).max(kept + more));
            larger.extend_from_slice(self);
            self.bytes.zeroize();
            self.bytes = larger;
        }
        self.start = 0;
    }
}

impl Deref for WipedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for WipedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

impl Write for WipedBuffer {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Drop for WipedBuffer {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for WipedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WipedBuffer").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes of the buffer's memory are not zero.
    #[cfg(target_os = "linux")]
    fn not_zero(buffer: &WipedBuffer) -> usize {
        use std::os::unix::fs::FileExt as _;
        // The system shows what no slice does: the bytes behind the last one.
        let mut memory = vec![0; buffer.bytes.capacity()];
        let own = std::fs::File::open("/proc/self/mem").unwrap();
        own.read_exact_at(&mut memory, buffer.bytes.as_ptr() as u64).unwrap();
        memory.iter().filter(|byte| **byte != 0).count()
    }

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut buffer = WipedBuffer::new();
        let (mut came, mut left) = (0_u32, 0_u32);
        for step in 1..2000_u32 {
            for _ in 0..step % 7 {
                buffer.extend_from_slice(&came.to_be_bytes());
                came += 1;
            }
            for _ in 0..step % 6 {
                let Some(next) = buffer.first_chunk::<4>() else { break };
                assert_eq!(u32::from_be_bytes(*next), left);
                buffer.consume(4);
                left += 1;
            }
            assert_eq!(buffer.len() as u32, 4 * (came - left));
        }
        assert!(left > 1000 && came > left);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn whatever_leaves_or_moves_is_zeros_where_it_was() {
        let mut buffer = WipedBuffer::new();
        buffer.reserve(64);
        let room = buffer.bytes.capacity();
        for kept in 0..room / 2 {
            buffer.extend_from_slice(&vec![0xab; room]);
            assert_eq!(not_zero(&buffer), room);
            buffer.consume(room - kept);
            assert_eq!(not_zero(&buffer), kept);
            buffer.reserve(room - kept);
            assert_eq!((buffer.bytes.capacity(), buffer.start), (room, 0), "it moved in its own memory");
            assert_eq!((not_zero(&buffer), buffer.len()), (kept, kept));
            buffer.consume(kept);
            assert_eq!(not_zero(&buffer), 0);
        }
    }

    #[test]
    fn a_read_that_fails_or_is_short_adds_no_more_than_it_read() {
        let mut buffer = WipedBuffer::new();
        buffer.extend_from_slice(b"ab");
        let short = buffer.fill(10, |room| {
            room[..3].copy_from_slice(b"cde");
            Ok(3)
        });
        assert_eq!((short.unwrap(), &buffer[..]), (3, &b"abcde"[..]));
        assert!(buffer.fill(10, |_| Err(io::ErrorKind::WouldBlock.into())).is_err());
        assert_eq!(&buffer[..], b"abcde");
    }

    #[test]
    fn debug_shows_no_content() {
        let mut buffer = WipedBuffer::new();
        buffer.extend_from_slice(b"secret");
        assert_eq!(format!("{buffer:?}"), "WipedBuffer { bytes: 6, .. }");
    }
}
