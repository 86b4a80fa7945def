//! Measured times of one thing, and what is said of them.

use std::time::Duration;

/// Times of one thing, in any order.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    times: Vec<Duration>,
}

impl Sample {
    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        self.times.push(time);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The time, in milliseconds, that `percent` of all do not exceed (nearest rank).
    ///
    /// # Panics
    /// When there is none: nothing can be said then.
    #[must_use]
    #[track_caller]
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        assert!(!self.is_empty(), "nothing was measured");
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len());
        sorted[rank - 1].as_secs_f64() * 1e3
    }
}

impl Extend<Duration> for Sample {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, times: T) {
        self.times.extend(times);
    }
}

impl FromIterator<Duration> for Sample {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        Self { times: times.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let sample: Sample = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!((sample.percentile_ms(50), sample.percentile_ms(99)), (100.0, 198.0));
        assert_eq!((sample.percentile_ms(0), sample.percentile_ms(100)), (1.0, 200.0));
        assert!(std::panic::catch_unwind(|| Sample::default().percentile_ms(50)).is_err());
    }
}
