//! Two hosts without Weft on the same underlay: for the wire as it is by itself, and for the script.
//!
//! Weft's tables are on the way of everything that its hosts send and receive, so neither the wire nor a peer may be
//! measured on those. These are wired as the lab wires its hosts, and carry the same rules.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::netns::{self, NetnsName};
use crate::topology::{FABRIC, UNDERLAY_BRIDGE, fixed_name};

/// Behind the addresses of the lab's hosts.
const HOSTS: [(&str, Ipv4Addr); 2] =
    [("plain1", Ipv4Addr::new(192, 168, 56, 251)), ("plain2", Ipv4Addr::new(192, 168, 56, 252))];

#[derive(Debug, Clone)]
pub(super) struct PlainHost {
    pub(super) netns: NetnsName,
    pub(super) address: Ipv4Addr,
}

impl PlainHost {
    /// Both, plugged into the lab's underlay with its MTU.
    pub(super) fn make(underlay_mtu: u32) -> Result<[Self; 2]> {
        let hosts = HOSTS.map(|(name, address)| Self { netns: fixed_name(name), address });
        netns::create(&[&hosts[0].netns, &hosts[1].netns])?;
        hosts.iter().try_for_each(|host| host.plug_in(underlay_mtu))?;
        Ok(hosts)
    }

    fn plug_in(&self, mtu: u32) -> Result<()> {
        let Self { netns, address } = self;
        // As on the lab's hosts: the machine's own settings must not leak in.
        netns.write_sysctl("net/ipv4/ip_forward", "0")?;
        netns.write_sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        let outside = format!(
            "link add {netns} mtu {mtu} type veth peer name eth1 mtu {mtu} netns {netns}\n\
             link set {netns} master {UNDERLAY_BRIDGE} up\n"
        );
        fixed_name(FABRIC).feed(&["ip", "-batch", "-"], &outside)?;
        let inside = format!("link set lo up\nlink set eth1 up\naddress add {address}/24 brd + dev eth1\n");
        netns.feed(&["ip", "-batch", "-"], &inside)
    }
}
