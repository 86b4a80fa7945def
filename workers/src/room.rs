//! Room in a bounded queue, counted in bytes and given out in the order it was asked for.
//!
//! Taking room and using it must not be separated by an await: what is taken is not returned by a
//! drop. Every entry takes at least [`CHARGE_MIN`], so that a bound in bytes is also one in count.

use tokio::sync::Semaphore;

/// The least any entry takes, in bytes: a queue of 256 KiB holds at most 1,024 entries.
pub const CHARGE_MIN: usize = 256;

/// Bytes a queue may still take. An entry larger than the whole queue enters an empty one.
#[derive(Debug)]
pub struct Room {
    free: Semaphore,
    capacity: u32,
}

/// The queue takes no more, ever.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the queue is closed")]
pub struct Closed;

impl Room {
    /// Room for `capacity` bytes, at least [`CHARGE_MIN`].
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(CHARGE_MIN, u32::MAX as usize >> 4);
        Self { free: Semaphore::new(capacity), capacity: capacity as u32 }
    }

    /// What an entry of `bytes` takes.
    fn charge(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.max(CHARGE_MIN)).unwrap_or(u32::MAX).min(self.capacity)
    }

    /// Takes room for an entry of `bytes` now, if nobody waits for it and there is enough.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> bool {
        match self.free.try_acquire_many(self.charge(bytes)) {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Waits, first come first served, until there is room for an entry of `bytes`, and takes it.
    ///
    /// # Errors
    /// [`Closed`] once the queue is closed.
    ///
    /// # Cancel safety
    /// Dropped before it is ready it takes nothing.
    pub async fn take(&self, bytes: usize) -> Result<(), Closed> {
        self.free.acquire_many(self.charge(bytes)).await.map_err(|_| Closed)?.forget();
        Ok(())
    }

    /// Gives back what an entry of `bytes` took.
    pub fn give(&self, bytes: usize) {
        self.free.add_permits(self.charge(bytes) as usize);
    }

    /// Gives back what several entries took: the sum of their [`Room::cost`].
    pub fn give_cost(&self, cost: usize) {
        self.free.add_permits(cost);
    }

    /// What an entry of `bytes` takes, for summing up.
    #[must_use]
    pub fn cost(&self, bytes: usize) -> usize {
        self.charge(bytes) as usize
    }

    /// Whether at least half of the room is free.
    #[must_use]
    pub fn is_half_free(&self) -> bool {
        self.free.available_permits() >= self.capacity as usize / 2
    }

    /// Ends every wait and every further take.
    pub fn close(&self) {
        self.free.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_bounded_in_count_and_bytes_and_closes() {
        let room = Room::new(1024);
        assert_eq!((0..9).filter(|_| room.try_take(1)).count(), 4);
        room.give(1);
        assert!(!room.try_take(257));
        for _ in 0..3 {
            room.give(1);
        }
        assert!(room.try_take(1 << 30), "a larger entry enters an empty queue");
        assert!(!room.is_half_free());
        room.close();
        assert_eq!(room.take(1).await, Err(Closed));
    }
}
