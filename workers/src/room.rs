//! Room in a bounded queue, counted in bytes and given out in the order it was asked for.
//!
//! Room taken at once is given back by whoever empties the queue; room that was waited for is a
//! [`Charge`] until it is spent. Every entry takes at least [`CHARGE_MIN`], so that a bound in bytes is also one in count.

use std::sync::Arc;

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
    ///
    /// What is taken is given back with [`Room::give`] and the same number of bytes.
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
    pub async fn take(self: Arc<Self>, bytes: usize) -> Result<Charge, Closed> {
        self.free.acquire_many(self.charge(bytes)).await.map_err(|_| Closed)?.forget();
        Ok(Charge { room: self, bytes })
    }

    /// Gives back what an entry of `bytes` took.
    pub fn give(&self, bytes: usize) {
        self.give_cost(self.cost(bytes));
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

    /// Bytes that are taken.
    #[must_use]
    pub(crate) fn used(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.free.available_permits())
    }

    /// Whether the queue takes no more, ever.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.free.is_closed()
    }

    /// Ends every wait and every further take.
    pub fn close(&self) {
        self.free.close();
    }
}

/// Room that was waited for; given back when dropped unless it is spent.
#[derive(Debug)]
pub struct Charge {
    room: Arc<Room>,
    bytes: usize,
}

impl Charge {
    /// Uses the charge for an entry of `bytes` in `room`; `false` gives it back, if it was taken
    /// elsewhere or for another size.
    #[must_use]
    pub fn spend(self, room: &Room, bytes: usize) -> bool {
        let fits = std::ptr::eq(&*self.room, room) && self.room.cost(self.bytes) == room.cost(bytes);
        if fits {
            // Not given back by the drop: the entry now holds it.
            let mut spent = self;
            spent.bytes = SPENT;
        }
        fits
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes != SPENT {
            self.room.give(self.bytes);
        }
    }
}

/// The size that marks a spent charge.
const SPENT: usize = usize::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_bounded_in_count_and_bytes_and_closes() {
        let room = Arc::new(Room::new(1024));
        assert_eq!((0..9).filter(|_| room.try_take(1)).count(), 4);
        room.give(1);
        assert!(!room.try_take(257));
        for _ in 0..3 {
            room.give(1);
        }
        assert!(room.try_take(1 << 30), "a larger entry enters an empty queue");
        room.give(1 << 30);
        let charge = Arc::clone(&room).take(1).await.unwrap();
        assert!(!room.try_take(1024));
        drop(charge);
        assert!(room.try_take(1024), "a dropped charge is given back");
        room.give(1024);
        let charge = Arc::clone(&room).take(1).await.unwrap();
        assert!(charge.spend(&room, 200), "the same cost");
        assert!(!room.try_take(1024), "a spent charge is not");
        room.close();
        assert_eq!(room.take(1).await.unwrap_err(), Closed);
    }
}
