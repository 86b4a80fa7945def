//! Places of one size for what comes and goes: a free one is used again, and none is given back.
//!
//! Nothing is moved when there is more, and nothing is freed when there is less. An allocator may put off what freeing
//! costs, and catch up with that of a million places in the middle of one request.

/// Things of one kind, each in a place of its own.
pub(super) struct Slab<T> {
    /// All full but the last.
    pieces: Vec<Vec<Place<T>>>,
    /// The free place that is used next.
    free: Option<At>,
}

enum Place<T> {
    Taken(T),
    /// With the free place that is used after this one.
    Free(Option<At>),
}

/// Where something is in its [`Slab`].
#[derive(Clone, Copy)]
pub(super) struct At(usize);

/// Places that are made at a time.
const PIECE: usize = 256;

impl<T> Slab<T> {
    /// Bytes that one of them takes up.
    pub(super) const PLACE_BYTES: usize = size_of::<Place<T>>();

    pub(super) fn new() -> Self {
        Self { pieces: Vec::new(), free: None }
    }

    /// Puts `new` into a free place, or into a new one.
    pub(super) fn put(&mut self, new: T) -> At {
        if let Some(at) = self.free
            && let Some(place) = self.place(at)
            && let Place::Free(next) = *place
        {
            *place = Place::Taken(new);
            self.free = next;
            return at;
        }
        let at = At(self.places());
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(Place::Taken(new)),
            _ => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(Place::Taken(new));
                self.pieces.push(piece);
            }
        }
        at
    }

    pub(super) fn get(&self, At(at): At) -> Option<&T> {
        match self.pieces.get(at / PIECE)?.get(at % PIECE)? {
            Place::Taken(found) => Some(found),
            Place::Free(_) => None,
        }
    }

    pub(super) fn get_mut(&mut self, at: At) -> Option<&mut T> {
        match self.place(at)? {
            Place::Taken(found) => Some(found),
            Place::Free(_) => None,
        }
    }

    /// Drops what is there, where it is.
    pub(super) fn free(&mut self, at: At) {
        let next = self.free;
        if let Some(place @ Place::Taken(_)) = self.place(at) {
            *place = Place::Free(next);
            self.free = Some(at);
        }
    }

    /// Places, the free ones included.
    pub(super) fn places(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    fn place(&mut self, At(at): At) -> Option<&mut Place<T>> {
        self.pieces.get_mut(at / PIECE)?.get_mut(at % PIECE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_free_is_used_before_a_new_one() {
        let mut slab = Slab::new();
        let places: Vec<At> = (0..3 * PIECE).map(|value| slab.put(value)).collect();
        for at in &places[10..20] {
            slab.free(*at);
            // Twice is once.
            slab.free(*at);
            assert!(slab.get(*at).is_none() && slab.get_mut(*at).is_none());
        }
        let again: Vec<At> = (0..10).map(|value| slab.put(1000 + value)).collect();
        assert_eq!(slab.places(), 3 * PIECE);
        for (value, at) in again.iter().rev().enumerate() {
            assert_eq!((at.0, slab.get(*at)), (10 + value, Some(&(1009 - value))));
        }
        for (value, at) in places.iter().enumerate().filter(|(value, _)| !(10..20).contains(value)) {
            assert_eq!(slab.get(*at), Some(&value));
        }
        assert_eq!(slab.put(0).0, 3 * PIECE);
    }
}
