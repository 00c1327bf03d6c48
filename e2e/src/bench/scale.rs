//! P6 and P7: a network with a hundred thousand endpoints. How soon an agent has them all, and what one more costs it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Effort;
use super::etcd_gateway::EtcdGateway;
use super::machine::{cpu_time_of, cpu_time_of_children, resident_mb};
use super::population::{Crowd, IP_RANGE, SUBNET, check_rows, network_id, row_batches};
use super::report::{Report, Row, Target, Unit};
use super::rig::{LONG, Rig};
use crate::netns::{self, NetnsName};
use crate::topology::fixed_name;

const NETWORK: &str = "crowded";
/// Time between two changes of P7: each is to be dealt with by itself.
const PAUSE: Duration = Duration::from_millis(20);
/// Where the peer writes its rows.
const SCRATCH: &str = "hand-rows";
const BRIDGE: &str = "br0";
const TUNNEL: &str = "vx0";
/// Changes by which the peer's cost is measured.
const PEER_CHANGES: u32 = 20;
/// Rows that the peer writes for one endpoint: two in the FDB, one neighbour.
const PEER: &str = "bridge -batch, ip -batch";

pub(super) fn measure(rig: &Rig, effort: &Effort, progress: &dyn Fn(&str), report: &mut Report) -> Result<()> {
    let [h1, h2] = &rig.hosts;
    let store = EtcdGateway::of_lab()?;
    let crowd = gather(rig, &store)?;
    rig.lab.stop(&h2.name())?;
    progress(&format!("P7: writing {} endpoints into etcd", effort.endpoints));
    let writes: Vec<_> = (0..effort.endpoints).flat_map(|number| crowd.joins(number)).collect();
    let revision = store.write(&writes)?;
    let written = Instant::now();
    h1.agent().wait_converged(revision, LONG)?;
    let behind = written.elapsed();
    check_rows(h1, effort.endpoints)?;

    progress(&format!("P7: {} changes, one at a time", effort.changes));
    let pid = rig.agent_pid(h1)?;
    let per_change = cpu_per_change(&store, &crowd, effort, pid, || h1.agent().wait_converged(0, LONG).map(drop))?;
    check_rows(h1, effort.endpoints)?;

    progress("P6: starting an agent that has to fetch them all");
    let last = store.write(&crowd.joins(0))?;
    let began = Instant::now();
    rig.lab.start(&h2.name())?;
    h2.agent().wait_converged(last, LONG)?;
    let load = began.elapsed();
    check_rows(h2, effort.endpoints)?;
    let memory = [h1, h2].map(|host| rig.agent_pid(host).and_then(resident_mb));

    progress("P6, P7: the same rows with bridge -batch and ip -batch");
    let peer = Peer::measure(effort.endpoints)?;
    let [followed, fetched] = memory;
    let (followed, fetched) = (followed?, fetched?);
    report.rows.extend(rows(effort, per_change, load, &peer, fetched));
    report.notes.push(format!(
        "P6, P7: {} endpoints, {} rows. The agent that followed the writes was done {:.2} s after the last one, and has {followed:.1} MB resident.",
        effort.endpoints,
        effort.endpoints * 3,
        behind.as_secs_f64()
    ));
    Ok(())
}

/// The network, a container of each host in it, and the node that does not exist.
fn gather(rig: &Rig, store: &EtcdGateway) -> Result<Crowd> {
    rig.hosts[0].weft(&["network", "create", NETWORK, "--subnet", SUBNET, "--ip-range", IP_RANGE])?;
    rig.lab.run_container(1, "crowd1", &[NETWORK])?;
    rig.lab.run_container(2, "crowd2", &[NETWORK])?;
    let crowd = Crowd { network: network_id(&rig.hosts[0].weft_json(&["network", "inspect", NETWORK])?)? };
    let revision = store.write(&crowd.arrival())?;
    rig.hosts.iter().try_for_each(|host| host.agent().wait_converged(revision, LONG).map(drop))?;
    Ok(crowd)
}

/// Endpoints go and come back, one change at a time; processor time of the agent for each.
fn cpu_per_change(
    store: &EtcdGateway,
    crowd: &Crowd,
    effort: &Effort,
    pid: i32,
    wait: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let before = cpu_time_of(pid)?;
    for change in 0..effort.changes {
        let number = change / 2 * 37 % effort.endpoints;
        let writes = if change % 2 == 0 { crowd.leaves(number) } else { crowd.joins(number) };
        store.write(&writes)?;
        thread::sleep(PAUSE);
    }
    wait()?;
    Ok(cpu_time_of(pid)?.saturating_sub(before) / effort.changes)
}

fn rows(effort: &Effort, per_change: Duration, load: Duration, peer: &Peer, memory: f64) -> [Row; 3] {
    // The targets are those of a hundred thousand; with fewer there is nothing to judge.
    let is_full = effort.endpoints >= 100_000;
    let target = |most| is_full.then_some(Target::AtMost(most));
    let row = |key, what: String, unit, ours, target, peer: Option<f64>| Row {
        key,
        what,
        unit,
        ours,
        target,
        peer: peer.map(|figure| (PEER, figure)),
    };
    let many = effort.endpoints;
    [
        row(
            "P6",
            format!("agent start, {many} endpoints"),
            Unit::Seconds,
            load.as_secs_f64(),
            target(2.0 * peer.load.as_secs_f64()),
            Some(peer.load.as_secs_f64()),
        ),
        row("P6", format!("resident memory, {many} endpoints"), Unit::Megabytes, memory, target(200.0), None),
        row(
            "P7",
            format!("CPU of one change, {many} endpoints"),
            Unit::Milliseconds,
            per_change.as_secs_f64() * 1e3,
            target(2.0),
            Some(peer.per_change.as_secs_f64() * 1e3),
        ),
    ]
}

/// The same rows without an agent.
struct Peer {
    load: Duration,
    per_change: Duration,
}

impl Peer {
    fn measure(endpoints: u32) -> Result<Self> {
        let netns = fixed_name(SCRATCH);
        netns::create(&[&netns])?;
        let devices = format!(
            "link add {BRIDGE} address 02:00:00:00:00:01 type bridge\n\
             link add {TUNNEL} type vxlan id 7002 local 127.0.0.1 dstport 14790 nolearning\n\
             link set lo up\n\
             link set {TUNNEL} master {BRIDGE} up\n\
             link set {BRIDGE} up\n"
        );
        netns.feed(&["ip", "-batch", "-"], &devices)?;
        let all = row_batches(0..endpoints, BRIDGE, TUNNEL);
        let began = Instant::now();
        write(&netns, &all).context("writing all rows")?;
        let load = began.elapsed();
        let before = cpu_time_of_children()?;
        for number in endpoints..endpoints + PEER_CHANGES {
            write(&netns, &row_batches(number..number + 1, BRIDGE, TUNNEL))?;
        }
        let per_change = cpu_time_of_children()?.saturating_sub(before) / PEER_CHANGES;
        netns.ensure_removed()?;
        Ok(Self { load, per_change })
    }
}

fn write(netns: &NetnsName, [forwarding, neighbours]: &[String; 2]) -> Result<()> {
    netns.feed(&["bridge", "-batch", "-"], forwarding)?;
    netns.feed(&["ip", "-batch", "-"], neighbours)
}
