//! The peer: what a careful script with `ip link` makes, without Weft.
//!
//! A bridge and a VXLAN device in each host's own namespace, joined by one tunnel, and one FORWARD rule after those that
//! were there; containers hang on veths.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context, Result};

use super::plain::PlainHost;
use super::rig::INTERFACE;
use crate::command::CommandOutput;
use crate::netns::{self, NetnsName};
use crate::topology::{CONTROL, fixed_name};

/// UDP port of the tunnel.
const PORT: u16 = 4789;
const BRIDGE: &str = "hand-br";
const TUNNEL: &str = "hand-vx";
/// The containers that are always there, one on each host.
pub(super) const CONTAINERS: [&str; 2] = ["hand1", "hand2"];

/// The network made by hand.
pub(super) struct Handmade {
    hosts: [PlainHost; 2],
    etcd: String,
    mtu: u64,
}

impl Handmade {
    /// On these hosts, with a container on each; notes go to `etcd`, interfaces get `mtu` bytes.
    pub(super) fn make(hosts: &[PlainHost; 2], etcd: String, mtu: u64) -> Result<Self> {
        let [here, there] = hosts;
        let network = Self { hosts: hosts.clone(), etcd, mtu };
        network.join(here, there)?;
        network.join(there, here)?;
        for (index, name) in CONTAINERS.iter().enumerate() {
            let name = fixed_name(name);
            netns::create(&[&name])?;
            network.attach(index, &name, Self::address(index, 0))?;
        }
        Ok(network)
    }

    /// Address number `number` of those on host `host`, 0 or 1.
    pub(super) fn address(host: usize, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, u8::from(host != 0), number + 1)
    }

    /// Connects a container: a veth on the bridge, an address, up. What a script does for each.
    pub(super) fn attach(&self, host: usize, container: &NetnsName, address: Ipv4Addr) -> Result<()> {
        let host = &self.hosts[host];
        let (mtu, port) = (self.mtu, port_name(address));
        let outside = format!(
            "link add {port} mtu {mtu} type veth peer name {INTERFACE} netns {container} mtu {mtu}\n\
             link set {port} master {BRIDGE} up\n"
        );
        let inside = format!(
            "link set lo up\n\
             address add {address}/16 dev {INTERFACE}\n\
             link set {INTERFACE} up\n"
        );
        host.netns.feed(&["ip", "-batch", "-"], &outside)?;
        container.feed(&["ip", "-batch", "-"], &inside)
    }

    pub(super) fn detach(&self, host: usize, address: Ipv4Addr) -> Result<()> {
        self.hosts[host].netns.feed(&["ip", "-batch", "-"], &format!("link delete {}\n", port_name(address)))
    }

    /// Notes a container in etcd with the program that a script has for that.
    pub(super) fn register(&self, container: &NetnsName, address: Ipv4Addr) -> Result<()> {
        let mut command = Command::new("etcdctl");
        let endpoints = format!("--endpoints={}", self.etcd);
        command.env("ETCDCTL_API", "3").args([&endpoints, "put", &format!("/handmade/{address}"), container.as_str()]);
        fixed_name(CONTROL).enter(|| CommandOutput::of(&mut command))??.success().map(drop)
    }

    fn join(&self, here: &PlainHost, there: &PlainHost) -> Result<()> {
        let (local, remote) = (here.address, there.address);
        let mtu = self.mtu;
        let batch = format!(
            "link add {BRIDGE} type bridge\n\
             link add {TUNNEL} mtu {mtu} type vxlan id 7001 local {local} remote {remote} dstport {PORT}\n\
             link set {TUNNEL} master {BRIDGE} up\n\
             link set {BRIDGE} up\n"
        );
        here.netns.feed(&["ip", "-batch", "-"], &batch)?;
        let accept = format!("*filter\n-A FORWARD -i {BRIDGE} -o {BRIDGE} -j ACCEPT\nCOMMIT\n");
        here.netns.feed(&["iptables-restore", "--noflush"], &accept)
    }
}

/// The address that `hand2` answers at.
pub(super) fn far_address() -> IpAddr {
    Handmade::address(1, 0).into()
}

fn port_name(address: Ipv4Addr) -> String {
    let [_, _, host, number] = address.octets();
    format!("hand-{host}-{number}")
}

/// Makes network namespaces for containers, `prefix` and a number, with loopback up.
pub(super) fn make_namespaces(prefix: &str, count: usize) -> Result<Vec<NetnsName>> {
    let names: Vec<NetnsName> =
        (0..count).map(|number| format!("{prefix}{number}").parse()).collect::<Result<_, _>>().context("naming")?;
    netns::create(&names.iter().collect::<Vec<_>>())?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::load::{Path, packets_per_second, tcp_bits_per_second};
    use crate::{Lab, LabOptions};

    #[test]
    fn containers_of_the_script_exchange_tcp_and_packets() {
        let lab = Lab::up(LabOptions::with_hosts(1).without_agents()).unwrap();
        let hosts = PlainHost::make(lab.topology().unwrap().underlay_mtu).unwrap();
        let etcd = lab.topology().unwrap().etcd_urls();
        let network = Handmade::make(&hosts, etcd, 1450).unwrap();
        let [from, to] = CONTAINERS.map(fixed_name);
        let path = Path { from, to, address: far_address() };
        let (core, short) = (0, Duration::from_millis(100));

        let bits = tcp_bits_per_second(&path, core, short).unwrap();
        let packets = packets_per_second(&path, core, short).unwrap();
        network.register(&path.from, Handmade::address(0, 0)).unwrap();

        assert!(bits > 1e6 && packets > 1e3, "{bits} bits/s, {packets} packets/s");
    }
}
