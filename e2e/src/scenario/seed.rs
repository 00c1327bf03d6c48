//! The lab that everything serves: containers on different hosts, found by name.

use anyhow::{Result, bail, ensure};

use super::stage::Stage;

/// `ct1` on one host, `ct2` on another, `ping ct1`; and the tables that tell of it.
pub(super) fn containers_ping_by_name(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "")?;
    stage.container(1, "ct1", "--net net1")?;
    let image = stage.cluster.image();
    let ping = format!("docker run --rm --name ct2 --net net1 {image} ping -c 3 ct1");
    let answer = stage.on(2, &ping)?;
    ensure!(answer.contains("3 packets transmitted, 3 packets received"), "{answer}");
    every_vtep_is_the_private_address(stage)?;

    stage.container(2, "ct3", "--net net1")?;
    let endpoints = stage.weft(2, "endpoint ls --network net1")?;
    for (name, node) in [("ct1", 1), ("ct3", 2)] {
        let node = stage.cluster.name(node);
        let listed = endpoints.as_array().into_iter().flatten().any(|e| e["name"] == name && e["node"] == *node);
        ensure!(listed, "{name} on {node} is missing in {endpoints}");
    }
    stage.reaches(1, "ct1", "ct3")?;
    stage.tidy(&[(1, "ct1"), (2, "ct3")], &["net1"])
}

/// Never the address of a NAT that every machine has, whatever the machine ids are.
fn every_vtep_is_the_private_address(stage: &Stage<'_>) -> Result<()> {
    let nodes = stage.weft(1, "node ls")?;
    for node in 1..=stage.cluster.nodes() {
        let (name, vtep) = (stage.cluster.name(node), stage.cluster.vtep(node).to_string());
        let Some(row) = nodes.as_array().into_iter().flatten().find(|row| row["name"] == *name) else {
            bail!("{name} is missing in {nodes}");
        };
        ensure!(row["vtep"] == *vtep && row["state"] == "ready", "{name} should be ready at {vtep}: {row}");
    }
    Ok(())
}

pub(super) fn second_network_comes_and_goes(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "")?;
    stage.network("net2", "--internal")?;
    stage.container(1, "db", "--net net2")?;
    stage.container(2, "app", "--net net1")?;

    stage.on(2, "docker network connect net2 app")?;
    stage.reaches(2, "app", "db")?;
    stage.on(2, "docker network disconnect net2 app")?;
    let address = stage.address(1, "db", "net2")?;
    let ping = format!("docker exec app ping -c 1 -W 1 {address}");
    ensure!(!stage.cluster.run(2, &ping)?.is_success(), "app reaches {address} in a network that it has left");

    stage.tidy(&[(1, "db"), (2, "app")], &["net1", "net2"])
}

pub(super) fn published_port(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "")?;
    let image = stage.cluster.image();
    let server = "sh -c \"echo served >/www/index.html; exec httpd -f -h /www\"";
    stage.on(1, &format!("docker run -d --init --name web --net net1 -p 8080:80 {image} {server}"))?;
    stage.container(2, "client", "--net net1")?;

    for url in [format!("http://{}:8080/", stage.cluster.vtep(1)), "http://web/".to_owned()] {
        let fetch = format!("docker exec client timeout 5 wget -q -O - {url}");
        stage.wait(2, &format!("the page at {url}"), &fetch, |output| output.stdout == "served\n")?;
    }
    stage.tidy(&[(1, "web"), (2, "client")], &["net1"])
}

/// One that came later finds what is there, and is found.
pub(super) fn third_node(stage: &Stage<'_>) -> Result<()> {
    stage.network("net1", "")?;
    for (node, name) in [(1, "ct1"), (2, "ct2"), (3, "ct3")] {
        stage.container(node, name, "--net net1")?;
    }
    every_vtep_is_the_private_address(stage)?;
    for (node, from, to) in [(3, "ct3", "ct1"), (3, "ct3", "ct2"), (1, "ct1", "ct3"), (2, "ct2", "ct3")] {
        stage.reaches(node, from, to)?;
    }
    stage.tidy(&[(1, "ct1"), (2, "ct2"), (3, "ct3")], &["net1"])
}
