//! P3 and P4: how long a container waits for its network, and others for the container.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::handmade::{self, Handmade, make_namespaces};
use super::report::{Report, Row, Target, Unit};
use super::rig::{CONTAINERS, INTERFACE, NETWORK, Rig};
use super::{Effort, Samples};
use crate::netns::NetnsName;
use crate::probe::time_attach;
use crate::traffic::Asker;

const PEER: &str = "script: ip, etcdctl put";
const SILENT_PEER: &str = "script: ip";
/// The script is measured once for so many of ours.
const SCRIPT_EVERY: usize = 4;
/// Longest wait for the first reply.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn measure(rig: &Rig, effort: &Effort, progress: &dyn Fn(&str), report: &mut Report) -> Result<()> {
    progress(&format!("P3: attaching {} containers through the agent's socket", effort.attaches));
    attach_times(rig, effort.attaches, report)?;
    progress(&format!("P4: time to the first reply at the other host, {} containers", effort.first_replies));
    reply_times(rig, effort.first_replies, report)
}

fn attach_times(rig: &Rig, count: usize, report: &mut Report) -> Result<()> {
    let agent = rig.hosts[0].agent();
    let (names, scripted) = (make_namespaces("at", count)?, make_namespaces("sc", count / SCRIPT_EVERY)?);
    let (mut ours, mut script, mut detach) = (Samples::default(), Samples::default(), Samples::default());
    for (index, name) in names.iter().enumerate() {
        ours.push(milliseconds(|| agent.connect(NETWORK, name.as_str()).map(drop))?);
        if let Some((number, scripted)) = turn(index, &scripted) {
            script.push(milliseconds(|| {
                let address = Handmade::address(0, number);
                rig.handmade.attach(0, scripted, address)?;
                rig.handmade.register(scripted, address)
            })?);
        }
    }
    for name in &names {
        detach.push(milliseconds(|| agent.disconnect(NETWORK, name.as_str()).map(drop))?);
    }
    remove(rig, &scripted, &names)?;
    report.keep("p3_attach_ms", &ours);
    report.keep("p3_attach_ms_script", &script);
    report.keep("p3_detach_ms", &detach);
    let row = |what, ours, target, peer: Option<f64>| Row {
        key: "P3",
        what: String::from(what),
        unit: Unit::Milliseconds,
        ours,
        target,
        peer: peer.map(|peer| (PEER, peer)),
    };
    report.rows.extend([
        row("attach, p50", ours.percentile(50), Some(Target::AtMost(4.0)), Some(script.percentile(50))),
        row("attach, p99", ours.percentile(99), Some(Target::AtMost(15.0)), Some(script.percentile(99))),
        row("detach, p50", detach.percentile(50), None, None),
    ]);
    Ok(())
}

fn reply_times(rig: &Rig, count: usize, report: &mut Report) -> Result<()> {
    let agent = rig.hosts[0].agent();
    let (asker, script_asker) =
        (Asker::open(CONTAINERS[1], INTERFACE)?, Asker::open(handmade::CONTAINERS[1], INTERFACE)?);
    let (names, scripted) = (make_namespaces("fr", count)?, make_namespaces("fs", count / SCRIPT_EVERY)?);
    let (mut ours, mut script) = (Samples::default(), Samples::default());
    for (index, name) in names.iter().enumerate() {
        let times = time_attach(&agent, NETWORK, name.as_str(), &asker)?;
        ours.push(times.replied.as_secs_f64() * 1e3);
        agent.disconnect(NETWORK, name.as_str())?;
        if let Some((number, scripted)) = turn(index, &scripted) {
            script.push(milliseconds(|| {
                let address = Handmade::address(0, number);
                rig.handmade.attach(0, scripted, address)?;
                script_asker.first_reply(address, DEADLINE).map(drop)
            })?);
        }
    }
    remove(rig, &scripted, &names)?;
    report.keep("p4_first_reply_ms", &ours);
    report.keep("p4_first_reply_ms_script", &script);
    let row = |what, ours, most, peer| Row {
        key: "P4",
        what: String::from(what),
        unit: Unit::Milliseconds,
        ours,
        target: Some(Target::AtMost(most)),
        peer: Some((SILENT_PEER, peer)),
    };
    report.rows.extend([
        row("attach to first reply, p50", ours.percentile(50), 10.0, script.percentile(50)),
        row("attach to first reply, p99", ours.percentile(99), 40.0, script.percentile(99)),
    ]);
    Ok(())
}

/// The script's container whose turn it is after our number `index`, and the number of its address.
fn turn(index: usize, scripted: &[NetnsName]) -> Option<(u8, &NetnsName)> {
    if !index.is_multiple_of(SCRIPT_EVERY) {
        return None;
    }
    let number = index / SCRIPT_EVERY;
    // Number 0 is the address of the container that is always there.
    Some((u8::try_from(number + 1).ok()?, scripted.get(number)?))
}

fn remove(rig: &Rig, scripted: &[NetnsName], ours: &[NetnsName]) -> Result<()> {
    for number in 1..=scripted.len() {
        rig.handmade.detach(0, Handmade::address(0, u8::try_from(number)?))?;
    }
    ours.iter().chain(scripted).try_for_each(NetnsName::ensure_removed)?;
    rig.wait_converged()
}

fn milliseconds(action: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    action()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
