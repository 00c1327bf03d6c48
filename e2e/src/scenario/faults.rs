//! What befalls nodes: power cuts, upgrades, reloads.

use anyhow::{Result, ensure};

use super::stage::Stage;

/// Containers that the engine is to start again have the addresses that they had, and are found under their names.
pub(super) fn power_lost(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "--subnet 10.45.0.0/16")?;
    stage.network("net2", "")?;
    stage.container(1, "ct1", "--net net1")?;
    stage.on(1, "docker network connect net2 ct1")?;
    stage.container(2, "fixed", "--net net1 --ip 10.45.7.7 --restart always")?;
    stage.container(2, "any", "--net net2 --restart always")?;
    let any = stage.address(2, "any", "net2")?;
    stage.reaches(1, "ct1", "fixed")?;
    stage.reaches(1, "ct1", "any")?;

    stage.cluster.power_cycle(2)?;

    for (container, network, before) in [("fixed", "net1", "10.45.7.7"), ("any", "net2", any.as_str())] {
        let running = format!("docker inspect -f '{{{{.State.Running}}}}' {container}");
        stage.patient(3).wait(2, &format!("{container} running again"), &running, |out| out.stdout.trim() == "true")?;
        let after = stage.address(2, container, network)?;
        ensure!(after == before, "{container} had {before} and has {after} after the power came back");
        stage.reaches(1, "ct1", container)?;
        stage.reaches(2, container, "ct1")?;
    }
    stage.tidy(&[(1, "ct1"), (2, "fixed"), (2, "any")], &["net1", "net2"])
}

/// The program is replaced and the agent started anew on either side of a conversation.
pub(super) fn agent_upgraded(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "")?;
    stage.container(1, "ct1", "--net net1")?;
    stage.container(2, "ct2", "--net net1")?;
    stage.reaches(2, "ct2", "ct1")?;
    let pings = stage.pings(2, "ct2", "ct1")?;

    for node in [1, 2] {
        stage.cluster.upgrade_agent(node)?;
        pings.carry()?;
    }

    pings.stop_without_loss()?;
    stage.tidy(&[(1, "ct1"), (2, "ct2")], &["net1"])
}

/// A firewall that is loaded anew flushes what was there; an engine that is restarted sets FORWARD to DROP.
pub(super) fn reloads(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "")?;
    stage.container(1, "ct1", "--net net1 --restart always")?;
    stage.container(2, "ct2", "--net net1")?;
    stage.reaches(2, "ct2", "ct1")?;
    let pings = stage.pings(2, "ct2", "ct1")?;

    stage.on(1, "nft flush ruleset")?;
    stage.wait(1, "the agent's rules", "nft list table inet weft && weft plan", |output| {
        output.is_success() && output.stdout.contains("nothing to do")
    })?;
    stage.on(1, "iptables -P FORWARD DROP")?;
    pings.carry()?;
    stage.reaches(1, "ct1", "ct2")?;

    stage.cluster.restart_engine(1)?;
    let running = "docker inspect -f '{{.State.Running}}' ct1";
    stage.patient(3).wait(1, "ct1 running again", running, |output| output.stdout.trim() == "true")?;
    stage.reaches(1, "ct1", "ct2")?;
    stage.reaches(2, "ct2", "ct1")?;
    stage.tidy(&[(1, "ct1"), (2, "ct2")], &["net1"])
}
