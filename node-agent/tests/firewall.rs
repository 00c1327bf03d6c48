//! The firewall adapter against a real kernel, with packets: each rule is shown to stop what passes without it.

#[path = "firewall/foreign.rs"]
mod foreign;
#[path = "firewall/isolation.rs"]
mod isolation;
#[path = "firewall/packets.rs"]
mod packets;
#[path = "firewall/published.rs"]
mod published;
#[path = "firewall/source.rs"]
mod source;
#[path = "firewall/traffic.rs"]
mod traffic;
#[path = "firewall/upkeep.rs"]
mod upkeep;
#[path = "firewall/vxlan.rs"]
mod vxlan;
#[path = "firewall/world.rs"]
mod world;
