//! Chance that can be repeated: every test that rolls dice says with which seed.
//!
//! `WEFT_FAULT_SEED` repeats a run. The generator is xorshift64 (Marsaglia 2003); quality does not matter here.

use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of chance.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of this run's seed, which a failed test shows.
    #[expect(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
    pub(crate) fn new() -> Self {
        let given = env::var_os("WEFT_FAULT_SEED").and_then(|text| text.to_str()?.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(now.subsec_nanos()) + 1
        });
        eprintln!("WEFT_FAULT_SEED={seed}");
        Self(seed.max(1))
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (end as u64)).expect("the remainder is below a usize")
    }

    /// One of `items`, which is not empty.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Lets a random part of `most` pass: the moment of a fault, not a wait for anything.
    pub(crate) fn let_pass(&mut self, most: Duration) {
        let part = self.below(1000);
        std::thread::sleep(most * u32::try_from(part).expect("below 1000") / 1000);
    }
}
