//! One namespace's devices, FDB, neighbours and firewall as iproute2 and nft report them.
//!
//! Decoding is kept apart from reading, so that it is tested on recorded output.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::netns::NetnsName;

/// Everything of the data plane that the kernel holds in one namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelDump {
    /// Devices.
    pub links: Vec<Link>,
    /// Rows of the bridges' and the VXLAN devices' forwarding tables.
    pub fdb: Vec<FdbRow>,
    /// Neighbours of both families, without those that need no resolution (multicast).
    pub neighbours: Vec<NeighbourRow>,
    /// The objects of `nft -j list ruleset`, without the one that names nft's version.
    pub nftables: Vec<Value>,
}

/// A device, as `ip -json -details link` reports it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Link {
    /// Its number in the namespace.
    pub ifindex: u32,
    /// Its name.
    #[serde(rename = "ifname")]
    pub name: String,
    /// Its Ethernet address.
    #[serde(rename = "address")]
    pub mac: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub master: Option<String>,
    /// Its alias.
    #[serde(rename = "ifalias")]
    pub alias: Option<String>,
    /// Flags such as `UP` and `LOWER_UP`.
    pub flags: BTreeSet<String>,
    /// Kind and settings.
    #[serde(default, rename = "linkinfo")]
    settings: LinkSettings,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct LinkSettings {
    info_kind: Option<String>,
    #[serde(default)]
    info_data: Value,
    #[serde(default)]
    info_slave_data: Value,
}

impl Link {
    /// `bridge`, `vxlan`, `veth`; nothing for loopback and hardware.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.settings.info_kind.as_deref()
    }

    /// A setting of its kind by iproute2's name, such as a VXLAN device's `local`.
    #[must_use]
    pub fn setting(&self, name: &str) -> &Value {
        &self.settings.info_data[name]
    }

    /// A setting as bridge port by iproute2's name, such as `neigh_suppress`.
    #[must_use]
    pub fn port_setting(&self, name: &str) -> &Value {
        &self.settings.info_slave_data[name]
    }

    /// The VNI of a VXLAN device.
    #[must_use]
    pub fn vni(&self) -> Option<u32> {
        let is_vxlan = self.kind() == Some("vxlan");
        let id = self.setting("id").as_u64().filter(|_| is_vxlan)?;
        u32::try_from(id).ok()
    }

    /// True when it is administratively up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags.contains("UP")
    }
}

/// A forwarding row, as `bridge -json fdb` reports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct FdbRow {
    /// The Ethernet address.
    pub mac: String,
    /// The device: of a bridge's table the port.
    #[serde(rename = "ifname")]
    pub device: String,
    /// The remote VTEP, in the table of a VXLAN device.
    pub dst: Option<IpAddr>,
    /// The bridge in whose table it is.
    pub master: Option<String>,
    /// `static`, `permanent` (the device's own address, or a VXLAN device's permanent row), or
    /// nothing for a learned row.
    #[serde(default)]
    pub state: String,
    /// `self` when it is in the device's own table, `extern_learn` and others.
    #[serde(default)]
    pub flags: BTreeSet<String>,
}

/// A neighbour, as `ip -json neigh` reports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourRow {
    /// The IP address.
    pub address: IpAddr,
    /// The device.
    pub device: String,
    /// The Ethernet address, unless resolution failed.
    pub mac: Option<String>,
    /// States such as `PERMANENT` and `STALE`.
    pub states: Vec<String>,
    /// Whether a program answers for it (`extern_learn`).
    pub is_extern_learned: bool,
}

impl KernelDump {
    /// Reads one namespace. The parts are read one after the other: compare when it is quiet.
    ///
    /// # Errors
    /// When the namespace is missing or a part cannot be read.
    pub fn observe(netns: &NetnsName) -> Result<Self> {
        let read = |words: &[&str]| read(netns, words);
        Ok(Self {
            links: links(read(&["ip", "-json", "-details", "link"])?)?,
            fdb: decode(read(&["bridge", "-json", "fdb", "show"])?)?,
            neighbours: neighbours(&read(&["ip", "-json", "neigh", "show"])?)?,
            nftables: nftables(read(&["nft", "-j", "list", "ruleset"])?),
        })
    }

    /// The device called `name`.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The VXLAN device of a network.
    #[must_use]
    pub fn vxlan(&self, vni: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.vni() == Some(vni))
    }

    /// The bridge of a network: the master of its VXLAN device.
    #[must_use]
    pub fn bridge(&self, vni: u32) -> Option<&Link> {
        self.link(self.vxlan(vni)?.master.as_deref()?)
    }

    /// True when the firewall has a table of this family (`inet`, `bridge`) and name.
    #[must_use]
    pub fn has_table(&self, family: &str, name: &str) -> bool {
        self.nftables.iter().any(|object| object["table"]["family"] == family && object["table"]["name"] == name)
    }
}

fn read(netns: &NetnsName, words: &[&str]) -> Result<Value> {
    let mut command = Command::new(words[0]);
    let text = netns.output(command.args(&words[1..]))?.success()?;
    // iproute2 prints nothing at all for an empty table.
    if text.trim().is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).with_context(|| format!("decoding the answer of {} in {netns}", words.join(" ")))
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("decoding what iproute2 reports")
}

/// Countdowns are left out: they differ from one reading to the next.
fn links(rows: Value) -> Result<Vec<Link>> {
    let mut links: Vec<Link> = decode(rows)?;
    for link in &mut links {
        for settings in [&mut link.settings.info_data, &mut link.settings.info_slave_data] {
            if let Value::Object(settings) = settings {
                settings.retain(|name, _| !name.ends_with("_timer"));
            }
        }
    }
    Ok(links)
}

fn neighbours(rows: &Value) -> Result<Vec<NeighbourRow>> {
    let rows = rows.as_array().into_iter().flatten();
    rows.map(neighbour).collect()
}

/// iproute2 prints a flag as a key with the value null, which a derived decoder cannot tell from
/// an absent one.
fn neighbour(row: &Value) -> Result<NeighbourRow> {
    let states = row["state"].as_array().into_iter().flatten();
    Ok(NeighbourRow {
        address: decode(row["dst"].clone())?,
        device: decode(row["dev"].clone())?,
        mac: decode(row["lladdr"].clone())?,
        states: states.filter_map(|state| state.as_str().map(str::to_owned)).collect(),
        is_extern_learned: row.get("extern_learn").is_some(),
    })
}

fn nftables(mut answer: Value) -> Vec<Value> {
    let mut objects = match answer["nftables"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    };
    objects.retain(|object| object.get("metainfo").is_none());
    objects
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A member of VNI 100 with one remote and one local endpoint.
    pub(in crate::dump) fn recorded() -> KernelDump {
        let links = json!([
            {"ifindex": 2, "ifname": "wb-x", "flags": ["UP"], "mtu": 1450,
             "address": "02:00:00:00:00:01", "linkinfo": {"info_kind": "bridge", "info_data": {}}},
            {"ifindex": 3, "ifname": "wx-x", "flags": ["UP", "LOWER_UP"], "mtu": 1450,
             "master": "wb-x", "ifalias": "weft",
             "linkinfo": {"info_kind": "vxlan",
                          "info_data": {"id": 100, "local": "192.168.56.11", "learning": false},
                          "info_slave_data": {"neigh_suppress": true}}},
            {"ifindex": 4, "ifname": "wv-x", "flags": [], "mtu": 1450, "master": "wb-x",
             "linkinfo": {"info_kind": "veth"}},
        ]);
        let fdb = json!([
            {"mac": "33:33:00:00:00:01", "ifname": "wb-x", "flags": ["self"], "state": "permanent"},
            {"mac": "02:00:00:00:00:01", "ifname": "wb-x", "flags": [], "master": "wb-x",
             "state": "permanent"},
            {"mac": "02:42:0a:00:00:02", "ifname": "wx-x", "flags": [], "master": "wb-x",
             "state": "static"},
            {"mac": "02:42:0a:00:00:02", "ifname": "wx-x", "dst": "192.168.56.12",
             "flags": ["self"], "state": "static"},
            {"mac": "00:00:00:00:00:00", "ifname": "wx-x", "dst": "192.168.56.12",
             "flags": ["self"], "state": "permanent"},
            {"mac": "02:42:0a:00:00:01", "ifname": "wv-x", "flags": [], "master": "wb-x",
             "state": "static"},
        ]);
        let rows = json!([
            {"dst": "10.0.0.2", "dev": "wb-x", "lladdr": "02:42:0a:00:00:02",
             "extern_learn": null, "state": ["PERMANENT"]},
            {"dst": "10.0.0.9", "dev": "wb-x", "state": ["FAILED"]},
        ]);
        KernelDump {
            links: decode(links).unwrap(),
            fdb: decode(fdb).unwrap(),
            neighbours: neighbours(&rows).unwrap(),
            nftables: nftables(json!({"nftables": [
                {"metainfo": {"version": "1.0.6"}},
                {"table": {"family": "bridge", "name": "weft"}},
            ]})),
        }
    }

    #[test]
    fn decodes_what_iproute2_and_nft_print() {
        let dump = recorded();

        let vxlan = dump.vxlan(100).unwrap();
        assert_eq!((vxlan.name.as_str(), vxlan.kind()), ("wx-x", Some("vxlan")));
        assert_eq!(vxlan.setting("local"), "192.168.56.11");
        assert_eq!(vxlan.port_setting("neigh_suppress"), true);
        assert!(vxlan.is_up());
        assert_eq!(dump.bridge(100).unwrap().name, "wb-x");
        assert!(dump.neighbours[0].is_extern_learned);
        assert!(!dump.neighbours[1].is_extern_learned);
        assert!(dump.has_table("bridge", "weft"));
        assert!(!dump.has_table("inet", "weft"));
    }
}
