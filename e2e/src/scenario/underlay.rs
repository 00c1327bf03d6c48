//! What befalls the network between nodes: cuts, delay, loss, a smaller MTU.

use anyhow::{Result, bail, ensure};

use super::stage::Stage;
use crate::cluster::Impairment;

/// Bytes of a large transfer: thousands of full packets.
const LARGE: u32 = 4 << 20;
/// What VXLAN over IPv4 adds.
const OVERHEAD: u32 = 50;

/// Both ways: of a file each way, what arrives is what was sent.
fn transfers(stage: &Stage<'_>, times: u32, bytes: u32, ends: [(u8, &str); 2]) -> Result<()> {
    let [(first, one), (second, two)] = ends;
    for (server_node, server, node, container) in [(first, one, second, two), (second, two, first, one)] {
        let make = format!("head -c {bytes} /dev/urandom >/www/large; md5sum </www/large");
        let sent = stage.inside(server_node, server, &make)?;
        // The server may run already; then this one ends by itself.
        stage.inside(server_node, server, "httpd -h /www")?;
        let fetch = format!(
            "docker exec {container} sh -c 'wget -q -O /tmp/large http://{server}/large && md5sum </tmp/large'"
        );
        stage
            .patient(times)
            .wait(node, &format!("{bytes} bytes of {server} in {container}"), &fetch, |output| output.stdout == sent)?;
        stage.inside(server_node, server, "killall httpd")?;
    }
    Ok(())
}

pub(super) fn delay_and_loss(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "")?;
    stage.container(1, "ct1", "--net net1")?;
    let bad = Impairment { delay_ms: 50, loss_percent: 2 };
    let applied = stage.cluster.impair(2, bad)?;
    ensure!(applied.loss_percent == bad.loss_percent, "no loss could be made: {applied:?}");

    // Attaching, finding names and talking, all over the bad link: the store is behind it too.
    stage.container(2, "ct2", "--net net1")?;
    stage.reaches(2, "ct2", "ct1")?;
    if applied.delay_ms > 0 {
        let ping = stage.wait(2, "pings over the slow link", "docker exec ct2 ping -c 5 -W 5 ct1", |output| {
            output.stdout.contains("round-trip")
        })?;
        let Some(fastest) = fastest_round_trip(&ping) else { bail!("no round trip times in {ping}") };
        ensure!(fastest >= f64::from(applied.delay_ms), "a link of {applied:?} answers after {fastest} ms");
    }
    transfers(stage, 4, LARGE / 16, [(1, "ct1"), (2, "ct2")])?;

    stage.cluster.impair(2, Impairment::NONE)?;
    stage.tidy(&[(1, "ct1"), (2, "ct2")], &["net1"])
}

/// As in `round-trip min/avg/max = 50.9/51.3/52.0 ms`.
fn fastest_round_trip(text: &str) -> Option<f64> {
    let times = text.lines().find_map(|line| line.strip_prefix("round-trip min/avg/max = "))?;
    times.split('/').next()?.parse().ok()
}

/// One node's link carries less, and nobody is told: no ICMP message gets through.
pub(super) fn small_mtu(stage: &Stage<'_>) -> Result<()> {
    const SMALL: u32 = 1400;
    const USUAL: u32 = 1500;
    stage.network("net1", "")?;
    stage.container(1, "ct1", "--net net1")?;
    stage.container(2, "ct2", "--net net1")?;
    stage.reaches(2, "ct2", "ct1")?;
    for node in 1..=stage.cluster.nodes() {
        stage.on(
            node,
            "nft add table inet silence; \
             nft add chain inet silence input \"{ type filter hook input priority -300; }\"; \
             nft add rule inet silence input icmp type destination-unreachable drop",
        )?;
    }

    stage.cluster.set_underlay_mtu(2, SMALL)?;
    has_mtu(stage, SMALL - OVERHEAD)?;
    transfers(stage, 2, LARGE, [(1, "ct1"), (2, "ct2")])?;
    stage.cluster.set_underlay_mtu(2, USUAL)?;
    has_mtu(stage, USUAL - OVERHEAD)?;

    for node in 1..=stage.cluster.nodes() {
        stage.on(node, "nft delete table inet silence")?;
    }
    stage.tidy(&[(1, "ct1"), (2, "ct2")], &["net1"])
}

/// Waits until the interfaces of both containers have this MTU.
fn has_mtu(stage: &Stage<'_>, mtu: u32) -> Result<()> {
    for (node, container) in [(1, "ct1"), (2, "ct2")] {
        let links = format!("docker exec {container} ip link show");
        stage.wait(node, &format!("MTU {mtu} in {container}"), &links, |output| {
            output.stdout.lines().any(|line| line.contains(&format!(" mtu {mtu} ")))
        })?;
    }
    Ok(())
}

/// The others go on, and the node that was cut off does so by itself.
pub(super) fn cut_and_healed(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "")?;
    for (node, name) in [(1, "ct1"), (2, "ct2"), (3, "ct3")] {
        stage.container(node, name, "--net net1")?;
    }
    stage.container(2, "ct4", "--net net1")?;
    stage.reaches(3, "ct3", "ct1")?;
    stage.reaches(2, "ct2", "ct1")?;
    let (around, within) = (stage.pings(3, "ct3", "ct1")?, stage.pings(2, "ct2", "ct4")?);

    stage.cluster.cut(2)?;
    let far = stage.address(1, "ct1", "net1")?;
    stage.wait(2, "no way to ct1", &format!("docker exec ct2 ping -c 1 -W 1 {far}"), |output| !output.is_success())?;
    // Names are known without the store, and containers of one host need no underlay.
    stage.reaches(2, "ct4", "ct2")?;
    around.carry()?;
    within.carry()?;
    stage.cluster.heal(2)?;

    stage.reaches(2, "ct2", "ct1")?;
    stage.reaches(1, "ct1", "ct4")?;
    around.stop_without_loss()?;
    within.stop_without_loss()?;
    stage.tidy(&[(1, "ct1"), (2, "ct2"), (2, "ct4"), (3, "ct3")], &["net1"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_round_trip_is_the_first_number() {
        let text =
            "5 packets transmitted, 5 packets received, 0% packet loss\nround-trip min/avg/max = 50.961/51.3/52.0 ms\n";

        assert_eq!(fastest_round_trip(text), Some(50.961));
        assert_eq!(fastest_round_trip("nothing"), None);
    }
}
