//! Faults of the network: pulled cables, a cut way to the store, another MTU.
//!
//! What is cut is read back from the kernel, never remembered: the state of a bridge port, and
//! the set of ports in the fabric's firewall.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Lab;
use super::fault::Target;
use crate::netns::NetnsName;
use crate::topology::{FABRIC, STORE_CUT_TABLE, UNDERLAY_BRIDGE, fixed_name};

/// The fabric's tables of lossy links, one a host.
const LOSS_TABLE: &str = "weft-lab-loss";

impl Lab {
    /// Pulls the target's underlay cable: its interface loses the carrier.
    ///
    /// # Errors
    /// When the target is unknown.
    pub fn cut(&self, target: &str) -> Result<()> {
        self.set_cable(target, "down")
    }

    /// Plugs the cable in again, and undoes [`Self::cut_store`].
    ///
    /// # Errors
    /// When the target is unknown.
    pub fn heal(&self, target: &str) -> Result<()> {
        self.set_cable(target, "up")?;
        self.heal_store(target)
    }

    /// Drops every IP packet between the target and etcd or the controller; hosts still reach
    /// one another.
    ///
    /// # Errors
    /// When the target is unknown.
    pub fn cut_store(&self, target: &str) -> Result<()> {
        self.for_ports(target, |port| nft(&store_cut(port)))
    }

    /// Undoes [`Self::cut_store`], and nothing else.
    ///
    /// # Errors
    /// When the target is unknown.
    pub fn heal_store(&self, target: &str) -> Result<()> {
        self.for_ports(target, |port| {
            // Adding first makes the deletion succeed also when the port is not in the set.
            nft(&format!("{}{}", store_cut(port), store_heal(port)))
        })
    }

    /// Changes the MTU of a host's underlay interface and of its port on the fabric, in bytes.
    ///
    /// # Errors
    /// When the host is unknown or the kernel refuses the value.
    pub fn set_underlay_mtu(&self, host: &str, mtu: u32) -> Result<()> {
        let host = self.find_host(host)?;
        let set = |interface: &str| format!("link set {interface} mtu {mtu}\n");
        ip(&fixed_name(FABRIC), &set(&host.name()))?;
        ip(&host.netns(), &set("eth1"))
    }

    /// Has the fabric lose so many of a hundred packets to and from a host, 0 to 100.
    ///
    /// # Errors
    /// When the host is unknown or the kernel refuses.
    pub fn set_loss(&self, host: &str, percent: u8) -> Result<()> {
        let host = self.find_host(host)?.name();
        // Adding first makes the deletion succeed also when there is none.
        nft(&format!(
            "add table bridge {LOSS_TABLE}-{host}\ndelete table bridge {LOSS_TABLE}-{host}\n{}",
            loss(&host, percent)
        ))
    }

    fn set_cable(&self, target: &str, state: &str) -> Result<()> {
        self.for_ports(target, |port| ip(&fixed_name(FABRIC), &format!("link set {port} {state}\n")))
    }

    fn for_ports(&self, target: &str, mut action: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let target = Target::parse(target, &self.state()?)?;
        target.ports().iter().try_for_each(|port| action(port))
    }
}

fn ip(netns: &NetnsName, batch: &str) -> Result<()> {
    netns.feed(&["ip", "-batch", "-"], batch)
}

fn store_cut(port: &str) -> String {
    format!("add element bridge {STORE_CUT_TABLE} hosts {{ \"{port}\" }}\n")
}

fn store_heal(port: &str) -> String {
    format!("delete element bridge {STORE_CUT_TABLE} hosts {{ \"{port}\" }}\n")
}

fn loss(host: &str, percent: u8) -> String {
    if percent == 0 {
        return String::new();
    }
    format!(
        "table bridge {LOSS_TABLE}-{host} {{\n\
           chain forward {{\n\
             type filter hook forward priority 1; policy accept;\n\
             iifname \"{host}\" numgen random mod 100 < {percent} drop\n\
             oifname \"{host}\" numgen random mod 100 < {percent} drop\n\
           }}\n\
         }}\n"
    )
}

fn nft(script: &str) -> Result<()> {
    fixed_name(FABRIC).feed(&["nft", "-f", "-"], script)
}

/// Ports of the fabric that are down, and ports that are cut off the store.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cuts {
    cables: Vec<String>,
    store: Vec<String>,
}

impl Cuts {
    pub(super) fn observe() -> Result<Self> {
        let fabric = fixed_name(FABRIC);
        let read = |words: &[&str]| -> Result<Value> {
            let mut command = Command::new(words[0]);
            let text = fabric.output(command.args(&words[1..]))?.success()?;
            serde_json::from_str(&text).with_context(|| format!("decoding the answer of {}", words.join(" ")))
        };
        let links = read(&["ip", "-json", "link", "show", "master", UNDERLAY_BRIDGE])?;
        let set = read(&["nft", "-j", "list", "set", "bridge", STORE_CUT_TABLE, "hosts"])?;
        Ok(Self::of(&links, &set))
    }

    fn of(links: &Value, set: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let is_down = |link: &&Value| {
            let flags = link["flags"].as_array();
            !flags.is_some_and(|flags| flags.iter().any(|flag| flag == "UP"))
        };
        let cables = links.as_array().into_iter().flatten().filter(is_down);
        let elements = set["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|object| object["set"]["elem"].as_array())
            .flatten();
        Self {
            cables: cables.filter_map(|link| text(&link["ifname"])).collect(),
            store: elements.filter_map(text).collect(),
        }
    }

    pub(super) fn of_port(&self, port: &str) -> Vec<String> {
        let is_in = |ports: &[String]| ports.iter().any(|name| name == port);
        let cable = is_in(&self.cables).then(|| "underlay".to_owned());
        let store = is_in(&self.store).then(|| "store".to_owned());
        cable.into_iter().chain(store).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cuts_from_what_the_kernel_reports() {
        let links = serde_json::json!([
            {"ifname": "h1", "flags": ["BROADCAST", "UP"]},
            {"ifname": "h2", "flags": ["BROADCAST"]},
        ]);
        let set = serde_json::json!({"nftables": [
            {"metainfo": {}},
            {"set": {"name": "hosts", "elem": ["h2", "h3"]}},
        ]});

        let cuts = Cuts::of(&links, &set);

        assert_eq!(cuts.of_port("h1"), Vec::<String>::new());
        assert_eq!(cuts.of_port("h2"), ["underlay", "store"]);
        assert_eq!(cuts.of_port("h3"), ["store"]);
    }
}
