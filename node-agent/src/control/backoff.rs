//! How long to wait before the next attempt.
//!
//! Full jitter: a random time between nothing and a bound that doubles with each failure, so that agents which lost the
//! store at one moment do not come back at one moment.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};

/// The bound after the first failure.
const FIRST: Duration = Duration::from_millis(200);
/// The largest bound.
const LONGEST: Duration = Duration::from_secs(30);
/// The least wait, so that a fault which is reported at once cannot spin.
const SHORTEST: Duration = Duration::from_millis(5);

/// Counts failures in a row.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure: 5 ms to 30 s.
    pub fn failed(&mut self, rng: &mut StdRng) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(rng.random::<f64>()).max(SHORTEST)
    }

    /// Notes that an attempt succeeded.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A time that differs from `middle` by at most a fifth, so that periodic work of many agents spreads out.
pub fn around(middle: Duration, rng: &mut StdRng) -> Duration {
    middle.mul_f64(rng.random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_never_vanish() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();

        let waits: Vec<Duration> = (0..200).map(|_| backoff.failed(&mut rng)).collect();

        assert!(waits[0] <= FIRST, "{:?}", waits[0]);
        assert!(waits.iter().all(|wait| (SHORTEST..=LONGEST).contains(wait)), "{waits:?}");
        assert!(waits[20..].iter().any(|wait| *wait > LONGEST / 2), "{waits:?}");
        backoff.succeeded();
        assert!(backoff.failed(&mut rng) <= FIRST);
    }
}
