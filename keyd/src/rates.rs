//! How often something may be done: uses of a key under a rule, notes of refusals, wrong passphrases.
//!
//! Time is an argument.
//!
//! Specification: docs/protocol.md §7.2, §7.3.

use std::time::{Duration, Instant};

use onward_keys::service::Refusal;

/// Wrong passphrases in a row before each further one has to wait, twice as long each time.
pub const FREE_GUESSES: u32 = 10;

/// The longest wait after wrong passphrases.
pub const GUESS_WAIT_MAX: Duration = Duration::from_secs(3600);

/// How much of a rate is left: it fills up in a second, and never holds more than a second's worth.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    /// When it was looked at last, and what was left then.
    last: Option<(Instant, f64)>,
}

impl Rate {
    /// Takes one, if there is one left.
    pub(crate) fn take(&mut self, now: Instant, per_second: u32) -> bool {
        let full = f64::from(per_second);
        let left = self.last.map_or(full, |(then, left)| {
            (left + now.saturating_duration_since(then).as_secs_f64() * full).min(full)
        });
        let taken = left >= 1.0;
        self.last = Some((now, if taken { left - 1.0 } else { left }));
        taken
    }
}

/// Wrong passphrases in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Guesses {
    wrong: u32,
    wait_until: Option<Instant>,
}

impl Guesses {
    /// Refuses a further one for as long as the last ones cost.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Refusal> {
        if self.wait_until.is_some_and(|until| now < until) { Err(Refusal::Rate) } else { Ok(()) }
    }

    /// Counts one more.
    pub(crate) fn wrong(&mut self, now: Instant) {
        self.wrong = self.wrong.saturating_add(1);
        if let Some(over) = self.wrong.checked_sub(FREE_GUESSES) {
            let wait = Duration::from_secs(1 << over.min(12)).min(GUESS_WAIT_MAX);
            self.wait_until = Some(now + wait);
        }
    }
}
