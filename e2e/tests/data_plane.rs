//! The data plane on three hosts: who reaches whom, with what, and who must not.
//!
//! Tests share one lab where they need nothing of their own, with networks and containers of their own
//! names. That something does not arrive is never waited for: a frame that must arrive follows, and what
//! came before it is looked at.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_e2e::{Host, Lab, SharedLab, dump::settles};

#[path = "data_plane/attachment.rs"]
mod attachment;
#[path = "data_plane/gateway.rs"]
mod gateway;
#[path = "data_plane/groups.rs"]
mod groups;
#[path = "data_plane/hostile_host.rs"]
mod hostile_host;
#[path = "data_plane/injection.rs"]
mod injection;
#[path = "data_plane/isolation.rs"]
mod isolation;
#[path = "data_plane/mtu.rs"]
mod mtu;
#[path = "data_plane/neighbours.rs"]
mod neighbours;
#[path = "data_plane/published.rs"]
mod published;
#[path = "data_plane/spoofing.rs"]
mod spoofing;

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);
/// How long a connection that must not come about is tried.
const NEVER: Duration = Duration::from_millis(300);
/// Where VXLAN arrives.
const VXLAN_PORT: u16 = 4789;

fn shared() -> SharedLab {
    Lab::shared().unwrap()
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new("::".parse().unwrap(), port)
}

fn underlay(host: &Host) -> IpAddr {
    host.id().underlay_address().into()
}

/// Packets that the dropping rules of one chain of our table have counted.
fn dropped(netns: &str, family: &str, chain: &str, lab: &Lab) -> u64 {
    let words = ["nft", "-j", "list", "table", family, "weft"];
    let listing: serde_json::Value = serde_json::from_str(&lab.in_netns(netns, &words).unwrap()).unwrap();
    let objects = listing["nftables"].as_array().unwrap();
    let rules = objects.iter().map(|object| &object["rule"]).filter(|rule| rule["chain"] == chain);
    let expressions = rules.filter_map(|rule| rule["expr"].as_array());
    let dropping = expressions.filter(|expressions| expressions.iter().any(|e| e.get("drop").is_some()));
    dropping.flatten().filter_map(|expression| expression["counter"]["packets"].as_u64()).sum()
}
