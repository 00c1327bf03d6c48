//! P9: packets lost between containers when an agent or the store fails.

use std::time::Duration;

use anyhow::Result;

use super::report::{Report, Row, Target, Unit};
use super::rig::{CONTAINERS, LONG, Rig};
use super::{Effort, Samples};
use crate::lab::Lab;
use crate::probe::PingPair;
use crate::traffic::StreamReport;

/// Echo requests per second, each way.
const RATE: u32 = 1000;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    AgentRestart,
    AgentKill,
    EtcdOutage,
}

const FAULTS: [Fault; 3] = [Fault::AgentRestart, Fault::AgentKill, Fault::EtcdOutage];

impl Fault {
    fn what(self) -> &'static str {
        match self {
            Self::AgentRestart => "agent restart",
            Self::AgentKill => "agent kill -9 and start",
            Self::EtcdOutage => "etcd kill -9 and start",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::AgentRestart => "p9_lost_agent_restart",
            Self::AgentKill => "p9_lost_agent_kill",
            Self::EtcdOutage => "p9_lost_etcd_outage",
        }
    }

    fn happen(self, lab: &Lab, host: &str) -> Result<()> {
        match self {
            Self::AgentRestart => lab.stop(host),
            Self::AgentKill => lab.kill(host),
            Self::EtcdOutage => lab.kill("etcd"),
        }
    }

    fn end(self, lab: &Lab, host: &str) -> Result<()> {
        match self {
            Self::AgentRestart | Self::AgentKill => lab.start(host),
            Self::EtcdOutage => lab.start("etcd"),
        }
    }
}

pub(super) fn measure(rig: &Rig, effort: &Effort, progress: &dyn Fn(&str), report: &mut Report) -> Result<()> {
    for fault in FAULTS {
        let what = fault.what();
        progress(&format!("P9: {what}, under 1,000 packets/s both ways"));
        let reports = suffer(rig, effort, fault)?;
        let lost: Samples = reports.iter().map(|report| number(report.lost)).collect();
        report.keep(fault.key(), &lost);
        let sent: u64 = reports.iter().map(|report| report.sent).sum();
        report.rows.push(Row {
            key: "P9",
            what: format!("lost of {sent}, {what}"),
            unit: Unit::Packets,
            ours: reports.iter().map(|report| number(report.lost)).sum(),
            target: Some(Target::AtMost(0.0)),
            peer: None,
        });
        let gap = reports.iter().map(|report| report.longest_gap).max().unwrap_or(Duration::ZERO);
        report.notes.push(format!("P9: {what}: longest pause between two replies {} ms.", gap.as_millis()));
    }
    Ok(())
}

/// One part of the packets while the fault lasts, another after it is mended and one more when all has settled.
fn suffer(rig: &Rig, effort: &Effort, fault: Fault) -> Result<[StreamReport; 2]> {
    let host = rig.hosts[0].name();
    let pair = PingPair::start(CONTAINERS[0], CONTAINERS[1], RATE)?;
    fault.happen(&rig.lab, &host)?;
    pair.wait_for(effort.packets_after_fault, LONG)?;
    fault.end(&rig.lab, &host)?;
    rig.wait_converged()?;
    pair.wait_for(effort.packets_after_fault, LONG)?;
    Ok(pair.stop()?.map(|(_, report)| report))
}

fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
