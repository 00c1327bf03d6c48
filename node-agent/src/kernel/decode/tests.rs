use proptest::prelude::*;
use rtnetlink::packet_core::NetlinkSerializable;
use weft_overlay::{
    id::{NetworkId, Vni},
    kernel::Family,
};

use super::{
    link::{Kind, Link},
    *,
};
use crate::kernel::{
    encode::{
        Verb, bridge_row, container_address, default_route, flood_row, leg_address, leg_route, link::LinkRequest,
        neighbour_row, send_guard, tunnel_row,
    },
    mark::{GROUP, ROUTE_PROTOCOL, RULE_PREFERENCE, network_alias},
    netlink::Request,
};

/// A request as the kernel gets it, without the header.
fn payload(request: &Request) -> Vec<u8> {
    let mut bytes = vec![0; request.message.buffer_len()];
    request.message.serialize(&mut bytes);
    bytes
}

fn mac() -> Mac {
    "02:42:0a:20:00:05".parse().unwrap()
}

fn row(request: &Request) -> Row {
    Row::decode(&payload(request)).unwrap()
}

#[test]
fn forwarding_rows_say_where_a_mac_is() {
    let vtep = IpAddr::from([198, 18, 0, 2]);

    let tunnel = row(&tunnel_row(Verb::Put, 7, mac(), vtep));
    assert_eq!((i32::from(tunnel.family), tunnel.index, tunnel.mac), (libc::AF_BRIDGE, 7, Some(mac().octets())));
    assert_eq!((tunnel.state, tunnel.flags, tunnel.destination), (libc::NUD_PERMANENT, libc::NTF_SELF, Some(vtep)));
    let flood = row(&flood_row(Verb::Put, 7, vtep));
    assert_eq!((flood.mac, flood.destination), (Some([0; 6]), Some(vtep)));
    let bridged = row(&bridge_row(Verb::Put, 9, mac()));
    assert_eq!((bridged.index, bridged.state, bridged.flags), (9, libc::NUD_NOARP, libc::NTF_MASTER));
}

#[test]
fn neighbours_are_permanent_and_externally_learned() {
    for address in [IpAddr::from([10, 32, 0, 6]), "fd00::6".parse().unwrap()] {
        let neighbour = row(&neighbour_row(Verb::Put, 3, address, mac()));

        assert_eq!(neighbour.destination, Some(address));
        assert_eq!((neighbour.state, neighbour.flags), (libc::NUD_PERMANENT, libc::NTF_EXT_LEARNED));
    }
}

#[test]
fn addresses_keep_their_prefix_and_flags() {
    let leg = leg_address(4, "10.32.0.2/24".parse().unwrap(), false);
    let gateway = leg_address(4, "fd00::1/128".parse().unwrap(), true);
    let inside = container_address(4, "10.32.0.5/24".parse().unwrap());

    let read = |request: &Request| Address::decode(&payload(request)).unwrap();
    assert_eq!(read(&leg).network(), Some("10.32.0.2/24".parse().unwrap()));
    // IFA_F_NOPREFIXROUTE and IFA_F_NODAD.
    assert_eq!(read(&leg).flags, 0x202);
    assert_eq!(read(&gateway).network(), Some("fd00::1/128".parse().unwrap()));
    assert_eq!(read(&inside).flags, 0x2);
}

#[test]
fn routes_carry_our_protocol_and_source() {
    let source = IpAddr::from([10, 32, 0, 2]);
    let request = leg_route(Verb::Put, 4, "10.32.0.0/24".parse().unwrap(), Some(source), false);

    let route = Route::decode(&payload(&request)).unwrap();

    assert_eq!(route.destination, "10.32.0.0/24".parse().unwrap());
    assert_eq!((route.protocol, route.device, route.source), (ROUTE_PROTOCOL, Some(4), Some(source)));
    assert_eq!((route.table, route.kind, route.gateway), (254, libc::RTN_UNICAST, None));
}

#[test]
fn default_routes_have_a_gateway_and_no_length() {
    let gateway: IpAddr = "fd00::1".parse().unwrap();

    let route = Route::decode(&payload(&default_route(Verb::Put, 2, gateway))).unwrap();

    assert_eq!((route.destination.prefix(), route.gateway), (0, Some(gateway)));
}

#[test]
fn the_rule_matches_everybody_but_root() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let rule = Rule::decode(&payload(&send_guard(Verb::Put, family, 4789))).unwrap();

        assert_eq!((rule.preference, rule.protocol), (RULE_PREFERENCE, ROUTE_PROTOCOL));
        assert_eq!((rule.uids, rule.ip_protocol), (Some((1, u32::MAX - 1)), Some(17)));
        assert_eq!((rule.destination_ports, rule.local, rule.narrower), (Some((4789, 4789)), true, false));
    }
}

#[test]
fn a_tunnel_is_described_as_the_recipe_says() {
    let network = NetworkId::from_entropy(1);
    let local = IpAddr::from([198, 18, 0, 1]);
    let request = LinkRequest::named("wx-0000000001")
        .mac(mac())
        .mtu(1450)
        .group(GROUP)
        .alias(&network_alias(network))
        .vxlan(Vni::try_from(77).unwrap(), local, 4789)
        .create();

    let link = Link::decode(&payload(&request)).unwrap();

    assert_eq!((link.name.as_str(), link.mac, link.mtu), ("wx-0000000001", Some(mac()), 1450));
    assert_eq!(link.owner(), Some((network, None)));
    let Kind::Vxlan(options) = &link.kind else { panic!("{link:?}") };
    assert_eq!((options.vni, options.local, options.port, options.device), (77, Some(local), 4789, None));
    assert!(options.udp_checksum && !options.learning && !options.zero_checksum6 && !options.extras);
}

#[test]
fn port_flags_and_bridge_options_are_read_back() {
    let port = Link::decode(&payload(&LinkRequest::indexed(5).port_flags(true).change())).unwrap().port.unwrap();
    assert!(!port.learning && port.suppresses_neighbours && !port.isolated && port.floods);

    let bridge = Link::decode(&payload(&LinkRequest::named("wb-0000000001").bridge().create())).unwrap();
    let Kind::Bridge(options) = bridge.kind else { panic!("not a bridge") };
    assert!(!options.stp && !options.multicast_snooping && !options.calls_netfilter);
}

#[test]
fn a_bridge_row_of_one_vlan_is_special() {
    let mut bytes = payload(&bridge_row(Verb::Put, 9, mac()));
    // NDA_VLAN of 10.
    bytes.extend([6, 0, 5, 0, 10, 0, 0, 0]);

    assert!(Row::decode(&bytes).unwrap().special);
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        // The shortest header has eight bytes.
        let shown = format!("{:?}{:?}{:?}{:?}{:?}", Row::decode(&bytes), Address::decode(&bytes), Route::decode(&bytes),
            Rule::decode(&bytes), Link::decode(&bytes));
        prop_assert!(bytes.len() >= 8 || shown == "None".repeat(5), "{shown}");
        prop_assert!(bytes.len() >= 12 || configured_device(&bytes).is_none());
    }

    #[test]
    fn a_message_cut_short_anywhere_does_not_make_decoding_panic(length in 0_usize..300) {
        let request = LinkRequest::named("wb-0000000001").mac(mac()).group(GROUP).bridge().create();
        let bytes = payload(&request);
        let whole = Link::decode(&bytes).unwrap();
        let cut = Link::decode(&bytes[..length.min(bytes.len())]);
        prop_assert!(cut.is_none_or(|cut| cut.index == whole.index));
    }
}
