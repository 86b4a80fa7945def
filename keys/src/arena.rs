//! The arena: pages that hold private keys, kept from swap, core dumps and neighbouring memory.
//!
//! Where the kernel has `memfd_secret`, the pages are in no other address space, not even the kernel's; else they are
//! locked into memory and left out of dumps. A page that cannot be touched lies on either side. What the pages are
//! protected by is said by [`Arena::protection`]; a caller that wants no less than locked pages asks for it.
//!
//! This is the only file of the project with `unsafe` in it: mapped memory cannot be had without. Nothing else
//! happens here, and nothing here parses, computes or takes what a peer sent.
//!
//! Specification: docs/protocol.md §7.4.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use zeroize::Zeroize as _;

/// Bytes of a secret in the arena.
pub const SECRET_BYTES: usize = 32;

/// What keeps an arena's pages from being read elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Protection {
    /// `memfd_secret`: in no other address space; never swapped or dumped.
    Secret,
    /// Locked into memory and left out of dumps.
    Locked,
    /// Left out of dumps only: the system may write the pages to swap.
    Swappable,
}

/// A fixed number of places for secrets of [`SECRET_BYTES`] bytes.
///
/// Cheap to clone; the pages are wiped and given back with the last clone and the last secret.
#[derive(Clone)]
pub struct Arena(Arc<Pages>);

impl Arena {
    /// Maps an arena with `places` places.
    ///
    /// # Errors
    /// Of the system, when it has no memory, or when nothing better than [`Protection::Swappable`] can be had and
    /// `swappable` does not allow that.
    pub fn new(places: usize, swappable: bool) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let bytes = (places * SECRET_BYTES).next_multiple_of(page);
        let pages = Pages::map(bytes, page)?;
        if pages.protection == Protection::Swappable && !swappable {
            return Err(io::Error::other("no memory can be locked: RLIMIT_MEMLOCK is too small"));
        }
        Ok(Self(Arc::new(pages)))
    }

    /// What keeps the pages from being read elsewhere.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.0.protection
    }

    /// Takes a free place, all zeros.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self) -> io::Result<Secret> {
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.pop().ok_or_else(|| io::Error::other("the arena for secrets is full"))?;
        Ok(Secret { pages: Arc::clone(&self.0), at })
    }

    /// Moves a secret into a free place; the original is wiped.
    ///
    /// # Errors
    /// As [`Arena::take`]; the original is wiped then, too.
    pub fn hold(&self, original: &mut [u8; SECRET_BYTES]) -> io::Result<Secret> {
        let taken = self.take().map(|mut secret| {
            secret.bytes_mut().copy_from_slice(original);
            secret
        });
        original.zeroize();
        taken
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("protection", &self.0.protection).finish_non_exhaustive()
    }
}

/// A secret in an arena; its place is wiped when it is dropped.
pub struct Secret {
    pages: Arc<Pages>,
    /// The place's offset in the pages; no other `Secret` has it.
    at: usize,
}

impl Secret {
    /// The secret itself: for computing with, never for comparison, logs or the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_BYTES] {
        // SAFETY: `at` is a multiple of SECRET_BYTES below the length of the mapping, which lives as long as
        // `self.pages`; it is on no other `Secret` and not on the list of free places, so that whoever writes there
        // has `&mut self`.
        unsafe { self.pages.data.add(self.at).cast().as_ref() }
    }

    /// The place, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8; SECRET_BYTES] {
        // SAFETY: as in `as_bytes`, and `&mut self` is the only borrow of the place.
        unsafe { self.pages.data.add(self.at).cast().as_mut() }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        self.pages.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.at);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pages: _, at: _ } = self;
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// The mapping: a guard page, the data, a guard page.
struct Pages {
    /// The first byte of the data.
    data: NonNull<u8>,
    bytes: usize,
    page: usize,
    protection: Protection,
    free: Mutex<Vec<usize>>,
}

// SAFETY: the mapping belongs to no thread; access to its bytes goes through `Secret`, which follows the rules of
// references, and the list of free places has a lock.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn map(bytes: usize, page: usize) -> io::Result<Self> {
        let whole = bytes + 2 * page;
        // SAFETY: a new private mapping at an address that the kernel chooses replaces no other memory.
        let start = unsafe {
            mm::mmap_anonymous(std::ptr::null_mut(), whole, ProtFlags::empty(), MapFlags::PRIVATE)
        }?;
        // SAFETY: the offset of one page lies inside the mapping.
        let data = unsafe { start.byte_add(page) };
        let protection = Self::back(data, bytes).inspect_err(|_| {
            // SAFETY: the mapping was made above and nobody else knows it.
            let _ = unsafe { mm::munmap(start, whole) };
        })?;
        let free = (0..bytes / SECRET_BYTES).rev().map(|place| place * SECRET_BYTES).collect();
        let data = NonNull::new(data.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { data, bytes, page, protection, free: Mutex::new(free) })
    }

    /// Puts memory behind the data part of the mapping, as well protected as can be had.
    fn back(data: *mut c_void, bytes: usize) -> io::Result<Protection> {
        if Self::back_with_secret(data, bytes).is_ok() {
            return Ok(Protection::Secret);
        }
        // Mapped anew: what failed above may have taken the mapping away.
        // SAFETY: FIXED replaces exactly the data part of our own mapping, which nobody has a reference into yet.
        unsafe {
            let rights = ProtFlags::READ | ProtFlags::WRITE;
            mm::mmap_anonymous(data, bytes, rights, MapFlags::PRIVATE | MapFlags::FIXED)?;
            mm::madvise(data, bytes, Advice::LinuxDontDump)?;
            mm::madvise(data, bytes, Advice::LinuxWipeOnFork)?;
            match mm::mlock(data, bytes) {
                Ok(()) => Ok(Protection::Locked),
                Err(_) => Ok(Protection::Swappable),
            }
        }
    }

    fn back_with_secret(data: *mut c_void, bytes: usize) -> io::Result<()> {
        // SAFETY: the call takes one flag and yields a descriptor or -1.
        let raw = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let raw = i32::try_from(raw).unwrap_or(-1);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it for us alone.
        let file = unsafe { OwnedFd::from_raw_fd(raw) };
        rustix::fs::ftruncate(&file, bytes as u64)?;
        // SAFETY: FIXED replaces exactly the data part of our own mapping, which nobody has a reference into yet.
        unsafe {
            mm::mmap(
                data,
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                &file,
                0,
            )?;
            mm::madvise(data, bytes, Advice::LinuxDontFork)?;
        }
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this is the last owner: every `Secret` holds one. The range is the data part of the mapping.
        unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.bytes) }.zeroize();
        // SAFETY: the mapping begins one page before the data and ends one after, and nobody refers to it any more.
        let unmapped =
            unsafe { mm::munmap(self.data.as_ptr().byte_sub(self.page).cast(), self.bytes + 2 * self.page) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_apart_wiped_and_used_again() {
        let arena = Arena::new(4, true).unwrap();
        let mut original = [7; 32];
        let first = arena.hold(&mut original).unwrap();
        assert_eq!(original, [0; 32], "the original is wiped");
        let second = arena.hold(&mut [9; 32]).unwrap();
        assert_eq!((first.as_bytes(), second.as_bytes()), (&[7; 32], &[9; 32]));
        let place = first.at;
        drop(first);
        let third = arena.take().unwrap();
        assert_eq!((third.at, third.as_bytes()), (place, &[0; 32]));
        assert_eq!(second.as_bytes(), &[9; 32]);
    }

    #[test]
    fn a_full_arena_gives_no_place_until_one_is_free() {
        let arena = Arena::new(1, true).unwrap();
        let places = rustix::param::page_size() / SECRET_BYTES;
        let mut held: Vec<_> = (0..places).map(|_| arena.take().unwrap()).collect();
        assert!(arena.hold(&mut [1; 32]).is_err());
        held.pop();
        assert!(arena.hold(&mut [1; 32]).is_ok());
    }

    #[test]
    fn debug_shows_nothing_of_the_secret() {
        let arena = Arena::new(1, true).unwrap();
        let secret = arena.hold(&mut [0xab; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret { .. }");
    }

    /// The mapping as the kernel describes it: nothing may touch the pages on either side.
    #[test]
    fn the_pages_lie_between_two_that_cannot_be_touched() {
        let arena = Arena::new(1, true).unwrap();
        let data = arena.0.data.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let rights_at = |address: usize| {
            let line = maps.lines().find(|line| {
                let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
                let range = usize::from_str_radix(from, 16).unwrap()..usize::from_str_radix(to, 16).unwrap();
                range.contains(&address)
            });
            line.unwrap().split(' ').nth(1).unwrap()[..3].to_owned()
        };
        assert_eq!(rights_at(data), "rw-");
        assert_eq!(rights_at(data - 1), "---");
        assert_eq!(rights_at(data + arena.0.bytes), "---");
    }
}
