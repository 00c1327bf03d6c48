//! The text of our two tables, as `nft -f` loads it. Pure.
//!
//! Chains, rules and sets depend on the VXLAN port alone; whatever varies is a member of a set. Each text replaces its
//! table in one transaction with all members in it, so that a repair opens no gap and cuts no established connection.
//!
//! A packet sees one generation of a chain, but it may meet an old and a new chain on both sides of the change, and it
//! looks into maps of the new generation from rules of the old one (net/netfilter/nf_tables_core.c). So a table that
//! stands is refilled rather than made anew, and rules use no maps of their own, which would go with them.

use std::{collections::BTreeMap, fmt::Write as _};

use weft_overlay::kernel::{Element, Object, Table};

use super::sets::{Set, members, sets_of};

/// The name of both tables.
pub(super) const TABLE_NAME: &str = "weft";

/// How a table is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Chains and sets stay and get new content. Fails when one of them is of another type than it should be.
    Refill,
    /// Whatever stands is removed in the same transaction.
    Anew,
}

/// The text that replaces a table. Elements of the other table are left out.
pub(super) fn script<'a>(
    manner: Manner,
    table: Table,
    vxlan_port: u16,
    elements: impl Iterator<Item = (&'a Element, &'a Object)>,
) -> String {
    let mut content: BTreeMap<Set, Vec<String>> = BTreeMap::new();
    for (element, object) in elements.filter(|(element, _)| element.table() == table) {
        for member in members(element, object).into_iter().flatten() {
            content.entry(member.set).or_default().push(member.text());
        }
    }
    let mut text = clearance(manner, table);
    text.push_str(&format!("table {} {TABLE_NAME} {{\n", family_name(table)));
    text.push_str(&declarations(table, &content));
    match table {
        Table::Host => text.push_str(&host_chains(vxlan_port)),
        Table::DataPlane => text.push_str(DATA_PLANE_CHAINS),
    }
    text.push_str("}\n");
    text
}

/// What comes before the table's own text: every part that is removed or emptied has to exist.
fn clearance(manner: Manner, table: Table) -> String {
    let place = format!("{} {TABLE_NAME}", family_name(table));
    match manner {
        Manner::Anew => format!("add table {place}\ndelete table {place}\n"),
        Manner::Refill => {
            let empty = declarations(table, &BTreeMap::new());
            let flushes: String =
                sets_of(table).iter().map(|set| format!("flush {} {place} {}\n", word(*set), set.name())).collect();
            format!("table {place} {{\n{empty}}}\nflush table {place}\n{flushes}")
        }
    }
}

/// What `nft` calls the family of a table.
pub(super) const fn family_name(table: Table) -> &'static str {
    match table {
        Table::Host => "inet",
        Table::DataPlane => "bridge",
    }
}

fn declarations(table: Table, content: &BTreeMap<Set, Vec<String>>) -> String {
    sets_of(table).iter().map(|set| declaration(*set, content.get(set).map_or(&[], Vec::as_slice))).collect()
}

fn word(set: Set) -> &'static str {
    if set.is_map() { "map" } else { "set" }
}

fn declaration(set: Set, members: &[String]) -> String {
    let mut text = format!("\t{} {} {{\n\t\t{}\n", word(set), set.name(), set.kind());
    if set.has_intervals() {
        text.push_str("\t\tflags interval\n");
    }
    if !members.is_empty() {
        writeln!(text, "\t\telements = {{ {} }}", members.join(",\n\t\t\t")).expect("writing to a string cannot fail");
    }
    text.push_str("\t}\n\n");
    text
}

fn host_chains(vxlan_port: u16) -> String {
    HOST_CHAINS
        .replace("$VXLAN_PORT", &vxlan_port.to_string())
        .replace("$UDP_SOURCE_PORTS", &masquerade_ports(vxlan_port))
}

/// The source ports that masqueraded UDP may get: answers to the VXLAN port would never find their way back, so of the
/// unprivileged ports the longer run beside it is used.
fn masquerade_ports(vxlan_port: u16) -> String {
    const FIRST: u16 = 1024;
    let below = vxlan_port.saturating_sub(FIRST);
    let above = u16::MAX - vxlan_port.max(FIRST - 1);
    if above >= below {
        format!("{}-{}", vxlan_port.max(FIRST - 1) + 1, u16::MAX)
    } else {
        format!("{FIRST}-{}", vxlan_port - 1)
    }
}

/// What may enter, cross and leave the host.
///
/// * Everything that the host sends and receives passes here, so rules ask first for what is cheap to ask for and seldom
///   true. A name of an interface is copied and hashed for each look-up; a port or an address is compared in place.
/// * Connection tracking is left out for VXLAN between members only: foreign tunnels through this host keep theirs.
/// * VXLAN is judged at `input`, where fragments have been put together: at `prerouting` the VNI lies behind the end of
///   a first fragment, and a rule that cannot load it does not match.
/// * The host offers containers DNS and ICMP, and answers of connections that the host began. Everything else on the
///   host is closed to them, as if the overlay were any untrusted network; published ports are turned away from the
///   host before this is asked.
/// * Networks without a way out take no part in forwarding at all, published ports included.
/// * DNS at an address of the overlay is the agent's, even when somebody publishes port 53.
/// * `route_localnet` on the legs, for published ports at 127.0.0.1, also opens the host's loopback to containers: both
///   directions are closed in `raw`. IPv6 has no such setting, so at ::1 nothing is published: the kernel would never
///   let the packet out, and whoever listens there himself would be cut off.
const HOST_CHAINS: &str = r#"	chain raw_prerouting {
		type filter hook prerouting priority raw; policy accept;
		ip daddr 127.0.0.0/8 iifname @legs counter drop
		ip saddr 127.0.0.0/8 iifname @legs counter drop
		udp dport $VXLAN_PORT ip saddr @vteps4 notrack
		udp dport $VXLAN_PORT ip6 saddr @vteps6 notrack
	}

	chain raw_output {
		type filter hook output priority raw; policy accept;
		udp dport $VXLAN_PORT ip daddr @vteps4 notrack
		udp dport $VXLAN_PORT ip6 daddr @vteps6 notrack
	}

	chain input {
		type filter hook input priority filter - 5; policy accept;
		udp dport $VXLAN_PORT goto vxlan
		iifname @legs goto from_container
		ip daddr @overlay4 iifname != "lo" counter drop
		ip6 daddr @overlay6 iifname != "lo" counter drop
	}

	chain vxlan {
		iifname @legs counter drop
		ip saddr . @th,96,24 @accepted4 accept
		ip6 saddr . @th,96,24 @accepted6 accept
		counter drop
	}

	chain from_container {
		ct state established,related accept
		meta l4proto { icmp, ipv6-icmp } accept
		udp dport 53 accept
		tcp dport 53 accept
		counter drop
	}

	chain forward {
		type filter hook forward priority filter - 5; policy accept;
		udp dport $VXLAN_PORT ip daddr @vteps4 counter drop
		udp dport $VXLAN_PORT ip6 daddr @vteps6 counter drop
		iifname @legs goto forward_from_leg
		oifname @legs goto forward_to_leg
	}

	chain forward_from_leg {
		iifname @internal_legs counter drop
		oifname @internal_legs counter drop
		ct status dnat accept
		oifname @legs goto forward_between_legs
		ip daddr @overlay4 counter drop
		ip6 daddr @overlay6 counter drop
	}

	chain forward_between_legs {
		iifname . oifname @leg_pairs accept
		counter drop
	}

	chain forward_to_leg {
		oifname @internal_legs counter drop
		ct status dnat accept
		ct state invalid,new,untracked counter drop
	}

	chain nat_prerouting {
		type nat hook prerouting priority -105; policy accept;
		fib daddr type local goto published
	}

	chain nat_output {
		type nat hook output priority -105; policy accept;
		fib daddr type local goto published
	}

	chain published {
		ip6 daddr ::1 accept
		ip daddr @overlay4 meta l4proto { tcp, udp } th dport 53 accept
		ip6 daddr @overlay6 meta l4proto { tcp, udp } th dport 53 accept
		meta nfproto ipv4 dnat ip to meta l4proto . ip daddr . th dport map @published_at4
		meta nfproto ipv4 dnat ip to meta l4proto . th dport map @published4
		meta nfproto ipv6 dnat ip6 to meta l4proto . ip6 daddr . th dport map @published_at6
		meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @published6
	}

	chain nat_postrouting {
		type nat hook postrouting priority 95; policy accept;
		oifname @legs goto masquerade_to_leg
		ip saddr @masqueraded4 goto masquerade_out
		ip6 saddr @masqueraded6 goto masquerade_out
	}

	chain masquerade_to_leg {
		ip saddr 127.0.0.0/8 masquerade
		ct status dnat iifname @legs masquerade
		ct status dnat ip daddr != @local_endpoints4 masquerade
		ct status dnat ip6 daddr != @local_endpoints6 masquerade
	}

	chain masquerade_out {
		meta l4proto udp masquerade to :$UDP_SOURCE_PORTS
		masquerade
	}
"#;

/// What a container may send, and what may cross the tunnel. Everything from a port named `wp-*` is a container's: the
/// namespace is ours alone, so a prefix names no foreign device.
///
/// * Most frames are unicast IPv4. No rule of `crossing` is about IPv4, so it is let go first; the group addresses, and the
///   protocol of what comes from port 67, are looked at only where the cheaper half of the question holds.
/// * The forwarding of MAC addresses that are not the container's would let one that bridges two interfaces storm the
///   cluster, so no other source passes. 01:80:c2:00:00:0x are for the bridge itself (IEEE 802.1D 7.12.6).
/// * `ether type` of a tagged frame is that of the tag, so VLANs end at the default drop.
/// * IPv6 link-local sources are not registered; the MAC address, checked first, ties them to the port.
/// * `::` is the source of duplicate address detection (RFC 4862 5.4.2) and of the reports before it (RFC 3590).
/// * ARP and ND that claim or seek a gateway stay on their node, where the node's own leg answers.
const DATA_PLANE_CHAINS: &str = r#"	chain source {
		type filter hook prerouting priority -300; policy accept;
		iifname "wp-*" goto container
	}

	chain container {
		iifname . ether saddr != @port_macs counter drop
		meta pkttype multicast ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter drop
		ether type ip goto container_ip
		ether type ip6 goto container_ip6
		ether type arp goto container_arp
		counter drop
	}

	chain container_ip {
		th sport 67 meta l4proto udp counter drop
		iifname . ip saddr @port_addresses4 accept
		counter drop
	}

	chain container_arp {
		arp htype != 1 counter drop
		arp ptype != ip counter drop
		arp hlen != 6 counter drop
		arp plen != 4 counter drop
		arp operation != { request, reply } counter drop
		iifname . arp saddr ether != @port_macs counter drop
		iifname . arp saddr ip @port_addresses4 accept
		arp operation request arp saddr ip 0.0.0.0 iifname . arp daddr ip @port_addresses4 accept
		counter drop
	}

	chain container_ip6 {
		udp sport 547 counter drop
		icmpv6 type { nd-router-solicit, nd-router-advert, nd-redirect } counter drop
		icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @port_targets6 @th,64,10 != 0x3fa counter drop
		ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @port_targets6 accept
		ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,10 0x3fa accept
		ip6 saddr :: icmpv6 type { mld-listener-report, mld2-listener-report } accept
		ip6 saddr fe80::/10 accept
		iifname . ip6 saddr @port_addresses6 accept
		counter drop
	}

	chain crossing {
		type filter hook forward priority -200; policy accept;
		meta protocol ip accept
		iifname "wx-*" goto tunnel
		oifname "wx-*" goto tunnel
	}

	chain tunnel {
		arp saddr ip @gateways4 counter drop
		arp daddr ip @gateways4 counter drop
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 saddr @gateways6 counter drop
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } @th,64,128 @gateway_targets6 counter drop
	}
"#;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;
    use weft_overlay::model::Protocol;

    use super::*;

    #[test]
    fn the_tables_are_as_committed() {
        let elements = elements();

        for (name, table) in [("host", Table::Host), ("data_plane", Table::DataPlane)] {
            compare(name, &script(Manner::Refill, table, 4789, elements.iter()));
        }
    }

    #[test]
    fn a_table_made_anew_is_the_same_behind_other_first_lines() {
        for table in [Table::Host, Table::DataPlane] {
            let [refill, anew] = [Manner::Refill, Manner::Anew].map(|manner| {
                let text = script(manner, table, 4789, elements().iter());
                text.strip_prefix(&clearance(manner, table)).unwrap().to_owned()
            });

            assert_eq!(refill, anew);
        }
    }

    proptest! {
        #[test]
        fn masqueraded_ports_are_many_and_never_the_vxlan_port(vxlan_port in 1_u16..) {
            let text = masquerade_ports(vxlan_port);
            let (first, last) = text.split_once('-').unwrap();
            let (first, last): (u16, u16) = (first.parse().unwrap(), last.parse().unwrap());

            prop_assert!(first >= 1024 && last - first > 32_000, "{text}");
            prop_assert!(!(first..=last).contains(&vxlan_port), "{text}");
        }
    }

    fn elements() -> BTreeMap<Element, Object> {
        let present = [
            Element::AcceptedPair("192.168.56.12".parse().unwrap(), 70_001.try_into().unwrap()),
            Element::AcceptedPair("fd56::12".parse().unwrap(), 70_001.try_into().unwrap()),
            Element::Vtep("192.168.56.12".parse().unwrap()),
            Element::Vtep("fd56::12".parse().unwrap()),
            Element::Leg("weft-00000000aa".parse().unwrap()),
            Element::Leg("weft-00000000ab".parse().unwrap()),
            Element::InternalLeg("weft-00000000ab".parse().unwrap()),
            Element::OverlaySubnet("10.32.0.0/20".parse().unwrap()),
            Element::OverlaySubnet("10.32.16.0/20".parse().unwrap()),
            Element::OverlaySubnet("fd00:32::/64".parse().unwrap()),
            Element::MasqueradedSubnet("10.32.0.0/20".parse().unwrap()),
            Element::MasqueradedSubnet("fd00:32::/64".parse().unwrap()),
            Element::LocalEndpoint("10.32.0.5".parse().unwrap()),
            Element::LocalEndpoint("fd00:32::5".parse().unwrap()),
            Element::PortMac("wp-0000000000cc".parse().unwrap(), "02:42:0a:20:00:05".parse().unwrap()),
            Element::PortAddress("wp-0000000000cc".parse().unwrap(), "10.32.0.5".parse().unwrap()),
            Element::PortAddress("wp-0000000000cc".parse().unwrap(), "fd00:32::5".parse().unwrap()),
            Element::Gateway("10.32.0.1".parse().unwrap()),
            Element::Gateway("fd00:32::1".parse().unwrap()),
        ];
        let to4 = Object::Published("10.32.0.5".parse().unwrap(), 80);
        let to6 = Object::Published("fd00:32::5".parse().unwrap(), 80);
        let published = [
            (Element::Published(Protocol::Tcp, "0.0.0.0".parse().unwrap(), 8080), to4.clone()),
            (Element::Published(Protocol::Udp, "::".parse().unwrap(), 8081), to6.clone()),
            (Element::Published(Protocol::Tcp, "192.168.56.11".parse().unwrap(), 8082), to4),
            (Element::Published(Protocol::Tcp, "fd56::11".parse().unwrap(), 8082), to6),
        ];
        present.map(|element| (element, Object::Present)).into_iter().chain(published).collect()
    }

    /// `BLESS=1` rewrites the committed text.
    fn compare(name: &str, actual: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/firewall/golden/{name}.nft"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, actual).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert!(actual == expected, "{} differs; BLESS=1 rewrites it:\n{actual}", path.display());
    }
}
