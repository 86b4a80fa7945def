//! How many new handshakes a flow may begin: a token bucket per flow.
//!
//! A bucket that has filled up again is forgotten, so the table holds only flows that were busy lately.

use std::collections::HashMap;
use std::time::Duration;

use crate::Now;

/// The buckets of all flows.
pub(super) struct Rates {
    per_second: u32,
    burst: u32,
    buckets: HashMap<u128, Bucket>,
    swept: Duration,
}

struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Rates {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, buckets: HashMap::new(), swept: Duration::ZERO }
    }

    /// Takes one token of `flow`, if there is one.
    pub(super) fn take(&mut self, now: Now, flow: u128) -> bool {
        self.sweep(now);
        let (per_second, burst) = (f64::from(self.per_second), f64::from(self.burst));
        let bucket = self.buckets.entry(flow).or_insert(Bucket { tokens: burst, at: now.mono });
        bucket.tokens =
            (bucket.tokens + now.mono.saturating_sub(bucket.at).as_secs_f64() * per_second).min(burst);
        bucket.at = now.mono;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Flows that have a bucket.
    pub(super) fn flows(&self) -> usize {
        self.buckets.len()
    }

    /// Forgets full buckets, once in the time that fills an empty one.
    fn sweep(&mut self, now: Now) {
        let fill = Duration::from_secs_f64(f64::from(self.burst) / f64::from(self.per_second.max(1)));
        if now.mono.saturating_sub(self.swept) >= fill {
            self.swept = now.mono;
            self.buckets.retain(|_, bucket| now.mono.saturating_sub(bucket.at) < fill);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Now {
        Now { mono: Duration::from_millis(milliseconds), unix: 0 }
    }

    #[test]
    fn a_flow_gets_its_burst_and_then_its_rate() {
        let mut rates = Rates::new(200, 400);
        let taken = (0..1000).filter(|_| rates.take(at(0), 1)).count();
        assert_eq!(taken, 400);
        assert!(rates.take(at(0), 2), "another flow has its own");
        let taken = (0..1000).filter(|_| rates.take(at(500), 1)).count();
        assert_eq!(taken, 100);
        assert!(rates.take(at(60_000), 3));
        assert_eq!(rates.buckets.len(), 1, "full buckets are forgotten");
    }
}
