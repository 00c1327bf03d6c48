//! Traffic in both directions that runs during a fault and must not lose anything, or only what it may.

use std::net::IpAddr;
use std::time::Duration;

use weft_e2e::traffic::{Stream, StreamReport};

use super::rig::{Attached, SOON};

/// Packets per second in each direction.
const RATE: u32 = 1000;

/// UDP both ways between two containers: IPv4 one way, IPv6 the other.
#[derive(Debug)]
pub(crate) struct Flow {
    there: Stream,
    back: Stream,
    name: String,
}

impl Flow {
    /// Starts the streams and waits until both flow.
    pub(crate) fn between(one: &Attached, other: &Attached) -> Self {
        let there = Stream::udp(&one.netns, &other.netns, IpAddr::V4(other.v4), RATE).unwrap();
        let back = Stream::udp(&other.netns, &one.netns, IpAddr::V6(one.v6), RATE).unwrap();
        let name = format!("{} to {}", one.netns, other.netns);
        let flow = Self { there, back, name };
        flow.carry(100);
        flow
    }

    /// Waits until `packets` more have arrived in each direction: a second for every thousand.
    #[track_caller]
    pub(crate) fn carry(&self, packets: u64) {
        let deadline = SOON + Duration::from_millis(packets * 2);
        for stream in [&self.there, &self.back] {
            if let Err(error) = stream.wait_for(packets, deadline) {
                panic!("{}: {error:#}", self.name);
            }
        }
    }

    /// Packets sent so far in the slower direction.
    pub(crate) fn sent(&self) -> u64 {
        self.there.sent().min(self.back.sent())
    }

    /// Stops both streams and counts.
    pub(crate) fn stop(self) -> [StreamReport; 2] {
        [self.there.stop().unwrap(), self.back.stop().unwrap()]
    }

    /// Stops both streams, of which no packet may be missing.
    #[track_caller]
    pub(crate) fn stop_without_loss(self) {
        let name = self.name.clone();
        for report in self.stop() {
            assert_eq!(report.lost, 0, "{name}: {report}");
        }
    }
}
