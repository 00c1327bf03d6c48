//! How much is measured: enough for a judgement, or a quick look.

use std::time::Duration;

use serde::Serialize;

/// Numbers of repetitions and lengths of measurements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effort {
    /// Rounds of P1; each takes every path once. Many short ones: what else the machine does then meets all paths alike.
    pub rounds: usize,
    /// Length of each transfer of P1.
    pub transfer: Duration,
    /// Containers attached for P3.
    pub attaches: usize,
    /// Containers attached for P4.
    pub first_replies: usize,
    /// How long pings go on during and after each fault of P9, in packets each way at 1,000 a second.
    pub packets_after_fault: u64,
    /// How long the idle agent of P10 is watched.
    pub idle: Duration,
    /// Endpoints present in P6 and P7; at most 130,000.
    pub endpoints: u32,
    /// Changes in P7.
    pub changes: u32,
    /// Rounds of D; each connects and starts one container in every kind of network.
    pub docker_rounds: usize,
}

impl Effort {
    /// About five minutes.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rounds: 41,
            transfer: Duration::from_millis(300),
            attaches: 200,
            first_replies: 50,
            packets_after_fault: 4000,
            idle: Duration::from_secs(30),
            endpoints: 100_000,
            changes: 200,
            docker_rounds: 15,
        }
    }

    /// About a minute; fewer repetitions and endpoints, so the numbers scatter and P6 and P7 are not those of the targets.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: 15,
            transfer: Duration::from_millis(200),
            attaches: 50,
            first_replies: 20,
            packets_after_fault: 1500,
            idle: Duration::from_secs(5),
            endpoints: 10_000,
            changes: 50,
            docker_rounds: 7,
        }
    }
}
