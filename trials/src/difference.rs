//! Whether one thing takes another time than the other.

use std::time::Duration;

/// Times of two things, measured in turn.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    times: [Vec<f64>; 2],
}

/// What part of all times counts, in percent: the slowest are the machine's and not of what is measured.
const KEPT_PERCENT: usize = 90;

/// So often something is measured before a difference is believed: one that is there is there each time, one that the
/// machine made is not.
const MEASURED_TIMES: usize = 3;

impl Difference {
    /// The smallest [`Difference::t`] of three measurements, and of fewer when one is below `enough`.
    pub fn least_t(enough: f64, mut measure: impl FnMut() -> Self) -> f64 {
        let mut least = f64::INFINITY;
        for _ in 0..MEASURED_TIMES {
            least = least.min(measure().t());
            if least <= enough {
                break;
            }
        }
        least
    }

    /// Adds a time of the first thing or of the second.
    pub fn add(&mut self, second: bool, time: Duration) {
        self.times[usize::from(second)].push(time.as_secs_f64());
    }

    /// Welch's t, without its sign: below 4.5 nothing speaks for a difference.
    ///
    /// # Panics
    /// With fewer than ten times of either thing.
    #[must_use]
    #[track_caller]
    pub fn t(&self) -> f64 {
        let mut all: Vec<f64> = self.times.iter().flatten().copied().collect();
        all.sort_unstable_by(f64::total_cmp);
        let most = all.get(all.len() * KEPT_PERCENT / 100).copied().unwrap_or(f64::MAX);
        let [one, other] = self.times.each_ref().map(|times| {
            let kept: Vec<f64> = times.iter().copied().filter(|time| *time <= most).collect();
            assert!(kept.len() >= 10, "too few times were measured");
            let mean = kept.iter().sum::<f64>() / kept.len() as f64;
            let squares: f64 = kept.iter().map(|time| (time - mean).powi(2)).sum();
            (mean, squares / (kept.len() - 1) as f64 / kept.len() as f64)
        });
        let spread = (one.1 + other.1).sqrt();
        if spread == 0.0 && one.0 == other.0 { 0.0 } else { (one.0 - other.0).abs() / spread }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times around 1 ms, those of the second thing longer by so many microseconds.
    fn measured(longer: u64) -> Difference {
        let mut difference = Difference::default();
        let mut noise = 1_u64;
        for number in 0..2000 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let second = number % 2 == 1;
            let micros = 1000 + (noise >> 33) % 100 + if second { longer } else { 0 };
            difference.add(second, Duration::from_micros(micros));
        }
        difference
    }

    #[test]
    fn a_difference_is_seen_and_none_is_made_up() {
        assert!(measured(0).t() < 4.5, "{}", measured(0).t());
        assert!(measured(20).t() > 4.5, "{}", measured(20).t());
        let mut equal = Difference::default();
        (0..100).for_each(|number| equal.add(number % 2 == 0, Duration::from_micros(5)));
        assert_eq!(equal.t(), 0.0);
    }

    #[test]
    fn a_rare_pause_of_the_machine_does_not_count() {
        let mut paused = measured(0);
        (0..50).for_each(|_| paused.add(true, Duration::from_secs(1)));
        assert!(paused.t() < 4.5, "{}", paused.t());
    }
}
