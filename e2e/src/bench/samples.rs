//! Measured values of one thing, and what is said about them.

use serde::Serialize;

/// Values in the order in which they were measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle value; for an even number of values the mean of the two in the middle.
    ///
    /// NaN without values.
    #[must_use]
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        if sorted.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.wrapping_sub(1)), at(half)) }
    }

    /// The smallest value that at least `percent` in a hundred do not exceed (nearest rank); `percent` is 1 to 100.
    ///
    /// NaN without values.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let sorted = self.sorted();
        let rank = (sorted.len() * percent).div_ceil(100);
        rank.checked_sub(1).and_then(|index| sorted.get(index)).copied().unwrap_or(f64::NAN)
    }

    /// This value divided by the other's of the same round, round by round.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_percentiles_are_order_independent() {
        let samples: Samples = [5.0, 1.0, 4.0, 2.0].into_iter().collect();

        assert_eq!(samples.median().to_bits(), 3.0_f64.to_bits());
        assert_eq!(samples.percentile(50).to_bits(), 2.0_f64.to_bits());
        assert_eq!(samples.percentile(99).to_bits(), 5.0_f64.to_bits());
        assert_eq!(samples.percentile(1).to_bits(), 1.0_f64.to_bits());
    }

    #[test]
    fn nothing_measured_is_not_a_number() {
        let none = Samples::default();

        assert!(none.median().is_nan() && none.percentile(99).is_nan());
    }
}
