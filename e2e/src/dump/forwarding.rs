//! The rows that forward frames, in one form for the kernel and for the store.
//!
//! Written against the documented keys and records only, a second opinion beside Weft's own
//! derivation of its desired state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{KernelDump, StoreDump};

/// Destination of the rows that flood.
const ALL_ZERO: &str = "00:00:00:00:00:00";

/// What one node's data plane knows about endpoints, its own and others'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Rows of the bridges.
    pub bridge: BTreeSet<BridgeRow>,
    /// Unicast rows of the VXLAN devices.
    pub remote: BTreeSet<RemoteRow>,
    /// Where broadcast, multicast and unknown unicast go.
    pub flood: BTreeSet<FloodRow>,
    /// Addresses that the bridges answer for.
    pub neighbours: BTreeSet<NeighbourEntry>,
}

/// A bridge sends frames for `mac` to `port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeRow {
    /// The network.
    pub vni: u32,
    /// The endpoint's Ethernet address.
    pub mac: String,
    /// Which way.
    pub port: BridgePort,
}

/// Where a bridge's row leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BridgePort {
    /// To an endpoint on this node.
    Local,
    /// Into the VXLAN device.
    Vxlan,
}

/// A VXLAN device sends frames for `mac` to `vtep`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteRow {
    /// The network.
    pub vni: u32,
    /// The endpoint's Ethernet address.
    pub mac: String,
    /// Its node.
    pub vtep: IpAddr,
}

/// A VXLAN device floods to `vtep`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FloodRow {
    /// The network.
    pub vni: u32,
    /// Another member.
    pub vtep: IpAddr,
}

/// A bridge answers ARP or ND for `address` with `mac`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourEntry {
    /// The network.
    pub vni: u32,
    /// An address of an endpoint, or the gateway's.
    pub address: IpAddr,
    /// The Ethernet address behind it.
    pub mac: String,
}

impl Forwarding {
    /// What the kernel holds. Rows for the devices' own addresses, which the kernel adds itself,
    /// are left out.
    #[must_use]
    pub fn of_kernel(dump: &KernelDump) -> Self {
        let vxlans: BTreeMap<_, _> = dump
            .links
            .iter()
            .filter_map(|link| Some((link.name.as_str(), (link.vni()?, link.master.as_deref()))))
            .collect();
        let bridges: BTreeMap<_, _> = vxlans.values().filter_map(|(vni, bridge)| Some(((*bridge)?, *vni))).collect();
        let mut forwarding = Self::default();
        for row in &dump.fdb {
            let own_table = vxlans.get(row.device.as_str()).zip(row.dst);
            if let Some(((vni, _), vtep)) = own_table {
                forwarding.add_vxlan_row(*vni, &row.mac, vtep);
            } else if row.state != "permanent"
                && let Some(vni) = row.master.as_deref().and_then(|name| bridges.get(name))
            {
                let is_vxlan = vxlans.contains_key(row.device.as_str());
                forwarding.bridge.insert(BridgeRow {
                    vni: *vni,
                    mac: row.mac.clone(),
                    port: if is_vxlan { BridgePort::Vxlan } else { BridgePort::Local },
                });
            }
        }
        forwarding.neighbours = dump
            .neighbours
            .iter()
            .filter(|row| row.states.iter().any(|state| state == "PERMANENT"))
            .filter_map(|row| {
                let vni = *bridges.get(row.device.as_str())?;
                let (address, mac) = (row.address, row.mac.clone()?);
                Some(NeighbourEntry { vni, address, mac })
            })
            .collect();
        forwarding
    }

    /// What the store asks of the node whose VTEP is `vtep`.
    ///
    /// # Errors
    /// When a record cannot be decoded.
    pub fn of_store(dump: &StoreDump, vtep: IpAddr) -> Result<Self> {
        let networks: BTreeSet<_> = dump.section("net/").filter_map(|entry| entry.key.split('/').nth(1)).collect();
        let mut forwarding = Self::default();
        for network in networks {
            forwarding.add_network(dump, network, vtep)?;
        }
        Ok(forwarding)
    }

    /// Rows that are missing (`-`) or too many (`+`) compared with `wanted`.
    #[must_use]
    pub fn differences(&self, wanted: &Self) -> Vec<String> {
        let mut lines = differences(&self.bridge, &wanted.bridge);
        lines.extend(differences(&self.remote, &wanted.remote));
        lines.extend(differences(&self.flood, &wanted.flood));
        lines.extend(differences(&self.neighbours, &wanted.neighbours));
        lines
    }

    fn add_vxlan_row(&mut self, vni: u32, mac: &str, vtep: IpAddr) {
        if mac == ALL_ZERO {
            self.flood.insert(FloodRow { vni, vtep });
        } else {
            let mac = mac.to_owned();
            self.remote.insert(RemoteRow { vni, mac, vtep });
        }
    }

    /// Adds nothing unless the node is a member.
    fn add_network(&mut self, dump: &StoreDump, network: &str, own: IpAddr) -> Result<()> {
        let members: Vec<Member> = records(dump, &format!("net/{network}/member/"))?;
        if !members.iter().any(|member| member.vtep == own) {
            return Ok(());
        }
        let spec = dump
            .entry(&format!("net/{network}/spec"))
            .with_context(|| format!("looking for the spec of network {network}"))?;
        let spec: Spec = serde_json::from_value(spec.json()?).context("decoding a network")?;
        let vni = spec.vni;
        let others = members.iter().map(|member| member.vtep);
        self.flood.extend(others.filter(|vtep| *vtep != own).map(|vtep| FloodRow { vni, vtep }));
        for endpoint in endpoints(dump, network)? {
            self.add_endpoint(&spec, &endpoint, own);
        }
        Ok(())
    }

    fn add_endpoint(&mut self, spec: &Spec, endpoint: &Endpoint, own: IpAddr) {
        let (vni, mac) = (spec.vni, endpoint.mac.to_lowercase());
        let is_local = endpoint.vtep == own;
        let port = if is_local { BridgePort::Local } else { BridgePort::Vxlan };
        self.bridge.insert(BridgeRow { vni, mac: mac.clone(), port });
        if !is_local {
            self.add_vxlan_row(vni, &mac, endpoint.vtep);
        }
        let addresses = [endpoint.ipv4, endpoint.ipv6].into_iter().flatten();
        // Every node is the gateway for its own containers.
        let gateways = spec.subnets.iter().map(|subnet| subnet.gateway).filter(|_| is_local && endpoint.kind == "leg");
        self.neighbours.extend(addresses.chain(gateways).map(|address| NeighbourEntry {
            vni,
            address,
            mac: mac.clone(),
        }));
    }
}

#[derive(Deserialize)]
struct Spec {
    vni: u32,
    subnets: Vec<Subnet>,
}

#[derive(Deserialize)]
struct Subnet {
    gateway: IpAddr,
}

#[derive(Deserialize)]
struct Member {
    vtep: IpAddr,
}

#[derive(Deserialize)]
struct Endpoint {
    mac: String,
    vtep: IpAddr,
    kind: String,
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
}

fn records<T: for<'a> Deserialize<'a>>(dump: &StoreDump, prefix: &str) -> Result<Vec<T>> {
    dump.section(prefix).map(|entry| decode(&entry.key, entry.json()?)).collect()
}

/// The second address of an endpoint has a key too, which only refers to the record.
fn endpoints(dump: &StoreDump, network: &str) -> Result<Vec<Endpoint>> {
    dump.section(&format!("net/{network}/ep/"))
        .map(|entry| Ok((entry, entry.json()?)))
        .filter(|record| !record.as_ref().is_ok_and(|(_, value)| value.get("ref").is_some()))
        .map(|record| record.and_then(|(entry, value)| decode(&entry.key, value)))
        .collect()
}

fn decode<T: for<'a> Deserialize<'a>>(key: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).with_context(|| format!("decoding the record {key}"))
}

fn differences<T: Ord + Debug>(present: &BTreeSet<T>, wanted: &BTreeSet<T>) -> Vec<String> {
    let missing = wanted.difference(present).map(|row| format!("- {row:?}"));
    let extra = present.difference(wanted).map(|row| format!("+ {row:?}"));
    missing.chain(extra).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::StoreEntry;
    use super::*;

    fn store(records: &[(&str, Value)]) -> StoreDump {
        let entries = records.iter().map(|(key, value)| StoreEntry {
            key: (*key).to_owned(),
            value: value.to_string().into_bytes(),
            create_revision: 1,
            mod_revision: 1,
            lease: 0,
        });
        StoreDump { revision: 1, entries: entries.collect() }
    }

    fn one_network() -> Vec<(&'static str, Value)> {
        let endpoint =
            |mac, vtep, ip| json!({"mac": mac, "vtep": vtep, "kind": "container", "ipv4": ip, "ipv6": "fd00::2"});
        let (ours, theirs) = ("192.168.56.11", "192.168.56.12");
        vec![
            ("net/n/spec", json!({"vni": 100, "subnets": [{"gateway": "10.0.0.254"}]})),
            ("net/n/member/a", json!({"vtep": ours})),
            ("net/n/member/b", json!({"vtep": theirs})),
            ("net/n/ep/4/1", endpoint("02:42:0a:00:00:01", ours, "10.0.0.1")),
            ("net/n/ep/4/2", endpoint("02:42:0a:00:00:02", theirs, "10.0.0.2")),
            ("net/n/ep/6/2", json!({"ref": "10.0.0.2", "id": "x"})),
        ]
    }

    #[test]
    fn kernel_and_store_agree_on_forwarding_rows() {
        let kernel = Forwarding::of_kernel(&super::super::kernel::tests::recorded());
        let ours = "192.168.56.11".parse().unwrap();

        let wanted = Forwarding::of_store(&store(&one_network()), ours).unwrap();

        assert_eq!(kernel.bridge, wanted.bridge);
        assert_eq!(kernel.remote, wanted.remote);
        assert_eq!(kernel.flood, wanted.flood);
        assert_eq!(wanted.neighbours.len(), 4);
        assert!(kernel.differences(&wanted).iter().all(|line| line.starts_with("- NeighbourEntry")),);
    }

    #[test]
    fn gateway_is_answered_with_the_own_leg() {
        let leg = |vtep| json!({"mac": "02:42:0a:00:00:09", "vtep": vtep, "kind": "leg", "ipv4": "10.0.0.9"});
        let mut records = one_network();
        records.push(("net/n/ep/4/9", leg("192.168.56.12")));
        let gateway = "10.0.0.254".parse::<IpAddr>().unwrap();
        let answers = |vtep: &str| {
            let wanted = Forwarding::of_store(&store(&records), vtep.parse().unwrap()).unwrap();
            wanted.neighbours.iter().any(|row| row.address == gateway)
        };

        assert!(answers("192.168.56.12"));
        assert!(!answers("192.168.56.11"));
    }

    #[test]
    fn nothing_is_asked_of_a_node_that_is_no_member() {
        let stranger = "192.168.56.13".parse().unwrap();

        let wanted = Forwarding::of_store(&store(&one_network()), stranger).unwrap();

        assert_eq!(wanted, Forwarding::default());
    }
}
