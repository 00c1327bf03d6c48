//! A node that exists only in the store, with as many endpoints as one likes: ARCHITECTURE.md says what is under which key.
//!
//! Also the rows that its endpoints should become in the kernel of every other member, as `ip` and `bridge` write them.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::etcd_gateway::Write;
use crate::lab::Host;

/// Subnet of the crowded network; its nodes hand out addresses from the beginning of it only.
pub(super) const SUBNET: &str = "10.64.0.0/15";
pub(super) const IP_RANGE: &str = "10.64.0.0/20";
/// First address of the crowd, behind the range.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 16, 0);
const NODE: &str = "00000000fa";
const VTEP: Ipv4Addr = Ipv4Addr::new(192, 168, 56, 250);
const ROOT: &str = "/weft/v1";

/// Endpoints of the node that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Crowd {
    /// Id of the network.
    pub(super) network: String,
}

impl Crowd {
    /// The node registers and becomes a member.
    pub(super) fn arrival(&self) -> Vec<Write> {
        let network = &self.network;
        let octets = VTEP.octets().map(|octet| format!("{octet:02x}")).concat();
        let put = |key: String, value| Write::Put(format!("{ROOT}/{key}"), value);
        vec![
            put(
                format!("node/{NODE}"),
                json!({"v": 1, "name": "crowd", "vtep": VTEP, "version": "0.1.0", "routes": []}),
            ),
            put("nodename/crowd".to_owned(), json!({"v": 1, "node": NODE})),
            put(format!("vtep/4/{octets}"), json!({"v": 1, "node": NODE})),
            put(format!("fence/{NODE}"), json!({"v": 1, "epoch": 1, "state": "active"})),
            put(
                format!("net/{network}/member/{NODE}"),
                json!({"v": 1, "vtep": VTEP, "epoch": 1, "underlay_mtu": 1500}),
            ),
        ]
    }

    /// Endpoint number `number` comes.
    pub(super) fn joins(&self, number: u32) -> [Write; 2] {
        let address = address(number);
        let endpoint = json!({
            "v": 1, "id": endpoint_id(number), "node": NODE, "epoch": 1, "mac": mac(address), "vtep": VTEP,
            "kind": "container", "name": format!("crowd-{number}"), "ipv4": address,
        });
        let index = json!({"v": 1, "network": self.network, "ip": address});
        [Write::Put(self.key(number), endpoint), Write::Put(index_key(number), index)]
    }

    /// Endpoint number `number` goes.
    pub(super) fn leaves(&self, number: u32) -> [Write; 2] {
        [Write::Delete(self.key(number)), Write::Delete(index_key(number))]
    }

    fn key(&self, number: u32) -> String {
        format!("{ROOT}/net/{}/ep/4/{:08x}", self.network, address(number).to_bits())
    }
}

/// The rows of `count` endpoints as input of `bridge -batch` and of `ip -batch`.
pub(super) fn row_batches(numbers: std::ops::Range<u32>, bridge: &str, tunnel: &str) -> [String; 2] {
    let forwarding = numbers.clone().map(|number| {
        let mac = mac(address(number));
        format!(
            "fdb replace {mac} dev {tunnel} master static\n\
             fdb replace {mac} dev {tunnel} self dst {VTEP} permanent\n"
        )
    });
    let neighbours = numbers.map(|number| {
        let address = address(number);
        format!("neigh replace {address} lladdr {} dev {bridge} nud permanent extern_learn\n", mac(address))
    });
    [forwarding.collect(), neighbours.collect()]
}

/// Fails unless the data plane of `host` holds the three rows of each of `count` endpoints.
pub(super) fn check_rows(host: &Host, count: u32) -> Result<()> {
    let dump = |program: &str, words: &[&str]| -> Result<String> {
        host.data_plane_netns().output(std::process::Command::new(program).args(words))?.success()
    };
    let rows = dump("bridge", &["fdb", "show"])?;
    let ours = || rows.lines().filter(|row| row.split(' ').next().is_some_and(is_of_the_crowd));
    let tunnelled = ours().filter(|row| row.contains(&format!("dst {VTEP}"))).count();
    let bridged = ours().filter(|row| row.contains(" master ") && !row.contains(" dst ")).count();
    let neighbours = dump("ip", &["-4", "neigh", "show"])?;
    let known = neighbours.lines().filter(|row| {
        let address = row.split(' ').next().and_then(|address| address.parse::<Ipv4Addr>().ok());
        address.is_some_and(|address| address >= FIRST) && row.contains("02:42:0a:4")
    });
    let seen = [tunnelled, bridged, known.count()];
    let wanted = usize::try_from(count).context("counting")?;
    if seen.iter().any(|rows| *rows != wanted) {
        bail!("{} should have {wanted} rows of each kind; VXLAN, bridge, neighbours: {seen:?}", host.name());
    }
    Ok(())
}

fn is_of_the_crowd(mac: &str) -> bool {
    let octets: Vec<u8> = mac.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    match octets.as_slice() {
        [0x02, 0x42, a, b, c, d] => Ipv4Addr::new(*a, *b, *c, *d) >= FIRST && *a == FIRST.octets()[0],
        _ => false,
    }
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST.to_bits() + number)
}

/// As every endpoint's that asks for no other.
fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn endpoint_id(number: u32) -> String {
    format!("fa{number:010x}")
}

fn index_key(number: u32) -> String {
    format!("{ROOT}/idx/{NODE}/ep/{}", endpoint_id(number))
}

/// The id of a network as `weft network inspect` shows it.
pub(super) fn network_id(network: &Value) -> Result<String> {
    network["id"].as_str().map(str::to_owned).with_context(|| format!("reading the id from {network}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_addresses_agree() {
        let crowd = Crowd { network: "000000cafe".to_owned() };

        let [endpoint, _] = crowd.joins(1);

        let Write::Put(key, value) = endpoint else { panic!("it is a put") };
        assert_eq!(key, "/weft/v1/net/000000cafe/ep/4/0a401001");
        assert_eq!((value["ipv4"].as_str(), value["mac"].as_str()), (Some("10.64.16.1"), Some("02:42:0a:40:10:01")));
        assert!(is_of_the_crowd("02:42:0a:40:10:01"));
        assert!(!is_of_the_crowd("02:42:0a:40:00:02"), "it was handed out by a node");
    }
}
