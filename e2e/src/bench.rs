//! Benchmarks: how far Weft is from the wire, from a script written by hand, and from its own targets.
//!
//! Everything is measured in one run on one machine: hosts as namespaces, real agents, a real etcd. What is compared is
//! taken alternately, round by round, so that a machine that slows down slows all of it. The host namespaces carry
//! what a host in the field carries: br_netfilter on, FORWARD policy DROP, 500 rules. The wire and the script are
//! measured on two more such hosts, which have no agent.

mod attach;
mod docker;
mod effort;
mod etcd_gateway;
mod footprint;
mod handmade;
mod load;
mod losses;
mod machine;
mod plain;
mod population;
mod report;
mod rig;
mod samples;
mod scale;
mod throughput;

use anyhow::Result;

pub use effort::Effort;
pub use machine::Machine;
pub use report::{Report, Row, Target, Unit, Verdict};
pub use samples::Samples;

use rig::Rig;

/// A part of the benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// P10: what an idle agent costs.
    Footprint,
    /// P3 and P4: attaching.
    Attach,
    /// P9: packets lost when something fails.
    Losses,
    /// P1: between containers, compared with the wire.
    Throughput,
    /// P6 and P7: a hundred thousand endpoints.
    Scale,
    /// D: Docker's networks beside Swarm's, in a lab of its own.
    Docker,
}

/// All of them, in the order in which they are run: the idle agent first, the one with most endpoints last.
pub const PARTS: [Part; 6] = [Part::Footprint, Part::Attach, Part::Losses, Part::Throughput, Part::Scale, Part::Docker];

/// Makes a lab, runs the parts in it and takes it down; `progress` is told what is being done.
///
/// # Errors
/// When the lab does not come up. What cannot be measured is in the report's failures; a target that is missed is neither.
pub fn run(parts: &[Part], effort: &Effort, progress: &dyn Fn(&str)) -> Result<Report> {
    let mut report = Report::new(Machine::observe()?, effort.clone());
    let (own, shared): (Vec<_>, Vec<_>) =
        PARTS.into_iter().filter(|part| parts.contains(part)).partition(|part| *part == Part::Docker);
    if !shared.is_empty() {
        progress("bringing up two hosts, etcd, the controller and the agents");
        let rig = Rig::up()?;
        for part in shared {
            if let Err(failure) = part.run(&rig, effort, progress, &mut report) {
                report.failures.push(format!("{}: {failure:#}", part.name()));
            }
        }
    }
    for part in own {
        if let Err(failure) = docker::measure(effort, progress, &mut report) {
            report.failures.push(format!("{}: {failure:#}", part.name()));
        }
    }
    Ok(report)
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Footprint => "P10",
            Self::Attach => "P3, P4",
            Self::Losses => "P9",
            Self::Throughput => "P1",
            Self::Scale => "P6, P7",
            Self::Docker => "D",
        }
    }

    fn run(self, rig: &Rig, effort: &Effort, progress: &dyn Fn(&str), report: &mut Report) -> Result<()> {
        match self {
            Self::Footprint => footprint::measure(rig, effort, progress, report),
            Self::Attach => attach::measure(rig, effort, progress, report),
            Self::Losses => losses::measure(rig, effort, progress, report),
            Self::Throughput => throughput::measure(rig, effort, progress, report),
            Self::Scale => scale::measure(rig, effort, progress, report),
            Self::Docker => Ok(()),
        }
    }
}
