//! What tests need to claim a figure and to prove it: [`Row`], [`size`], [`Ledger`], [`Process`], [`Difference`],
//! a network that is as bad as they say, [`UdpPath`], a disk that is soon full, [`SmallDisk`], and real brokers,
//! [`Server`].
//!
//! Only tests depend on this crate. It knows nothing of the product: a number here means what the test
//! that counted it says. But for servers that start, nothing here waits or retries, and a figure that is not
//! met always fails.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod difference;
mod disk;
mod ledger;
mod path;
mod process;
mod row;
mod sample;
mod server;

pub use difference::Difference;
pub use disk::SmallDisk;
pub use ledger::{Entry, Event, Id, Ledger, Verdict};
pub use path::{PathFaults, UdpPath};
pub use process::Process;
pub use row::Row;
pub use sample::Sample;
pub use server::{Server, ServerKind};

/// The environment variable that asks for trials of the full size: `ONWARD_TRIALS=full`.
pub const SIZE_VARIABLE: &str = "ONWARD_TRIALS";

/// Whether trials of the full size are asked for.
#[must_use]
pub fn is_full() -> bool {
    std::env::var_os(SIZE_VARIABLE).is_some_and(|value| value == "full")
}

/// How much of something a trial does: `ci` with every test run, `full` when that is asked for.
#[must_use]
pub fn size(ci: usize, full: usize) -> usize {
    if is_full() { full } else { ci }
}

/// Held by a trial that measures its own process: as long as it is, no other in this process runs that
/// asked for one too.
#[derive(Debug)]
pub struct Alone {
    _turn: MutexGuard<'static, ()>,
}

/// Waits until no other trial of this process measures it.
#[must_use]
pub fn alone() -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    // One that failed has still ended.
    Alone { _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
}
