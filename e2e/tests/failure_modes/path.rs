//! What is on the wire: outer source (B3), MTU (B15), and who may inject (B22).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use weft_e2e::topology::{FABRIC, HostId};
use weft_e2e::traffic::{Direction, FramePort, SeenFrame, Stream, packet, tcp_transfer};
use weft_e2e::{LabOptions, dump, eventually};

use crate::fault_support::rig::{Attached, REPAIR, Rig, SOON, assert_connected, ensure};
use crate::fault_support::shared::with_lab;

/// UDP port of VXLAN.
const VXLAN: u16 = 4789;

#[test]
fn b03_outer_source_is_the_vtep_whatever_other_addresses_and_routes_there_are() {
    with_lab(LabOptions::default(), |rig| {
        rig.network("blue", &[]);
        let [a, b] = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
        rig.settle();
        let h1 = rig.host(1);
        h1.exec(&["ip", "address", "add", "192.168.56.111/24", "dev", "eth1"]).unwrap();
        h1.exec(&["ip", "route", "add", "192.168.56.0/26", "dev", "eth1", "src", "192.168.56.111"]).unwrap();

        let wire = FramePort::open(FABRIC, "h1").unwrap();
        let [there, back] = [("a", b.v4), ("b", a.v4)].map(|(from, to)| Stream::icmp(from, to.into(), 200).unwrap());
        let mut sources = BTreeSet::new();
        let mut seen = 0;
        wire.watch(SOON, |frame| {
            if let Some(source) = vxlan_source(frame) {
                sources.insert(source);
                seen += 1;
            }
            seen == 100
        })
        .unwrap();
        there.wait_for(50, SOON).unwrap();
        back.wait_for(50, SOON).unwrap();

        assert_eq!((seen, sources), (100, BTreeSet::from([h1.id().underlay_address()])));
        h1.exec(&["ip", "route", "del", "192.168.56.0/26", "dev", "eth1"]).unwrap();
        h1.exec(&["ip", "address", "del", "192.168.56.111/24", "dev", "eth1"]).unwrap();
        rig.settle();
    });
}

#[test]
fn b15_smaller_underlay_mtu_with_icmp_filtered_carries_large_transfers() {
    with_lab(LabOptions::default(), |rig| {
        rig.network("blue", &[]);
        let [a, b] = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
        rig.settle();
        let filter = "add table bridge silence\n\
            add chain bridge silence forward { type filter hook forward priority 0; }\n\
            add rule bridge silence forward ether type ip ip protocol icmp drop\n";
        let fabric = FABRIC.parse::<weft_e2e::netns::NetnsName>().unwrap();
        fabric.feed(&["nft", "-f", "-"], filter).unwrap();

        rig.lab.set_underlay_mtu("h2", 1400).unwrap();
        eventually(SOON, "MTU 1350 in both containers", || has_mtu(rig, 1350));
        for (from, to, address) in [("a", "b", IpAddr::V4(b.v4)), ("b", "a", IpAddr::V6(a.v6))] {
            tcp_transfer(from, to, address, 10 << 20).unwrap();
        }
        rig.lab.set_underlay_mtu("h2", 1500).unwrap();
        eventually(SOON, "MTU 1450 in both containers", || has_mtu(rig, 1450));

        fabric.feed(&["nft", "-f", "-"], "delete table bridge silence\n").unwrap();
        tcp_transfer("a", "b", b.v4.into(), 1 << 20).unwrap();
        rig.settle();
    });
}

#[test]
fn b22_vxlan_of_a_host_that_is_no_member_is_dropped() {
    with_lab(LabOptions::default(), |rig| {
        let network = rig.network("blue", &[]);
        let [a, b] = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
        rig.settle();

        // What a member sends arrives, so the check below can fail.
        assert!(forged_frames_that_arrive(2, &a, &b, network.vni));
        assert!(!forged_frames_that_arrive(3, &a, &b, network.vni));

        assert_connected(&a, &b);
    });
}

/// Sends a frame in VXLAN from the address of host `from` to h1, as from `b` to `a`; whether it arrived in `a`.
pub(crate) fn forged_frames_that_arrive(from: u8, a: &Attached, b: &Attached, vni: u32) -> bool {
    let host = HostId::new(from).unwrap();
    let target = HostId::new(a.host).unwrap();
    let sender = FramePort::open(&host.to_string(), "eth1").unwrap();
    let gateway = FramePort::open(&target.to_string(), "eth1").unwrap().mac();
    let inside = FramePort::open(&a.netns, "eth0").unwrap();
    let secret = b"forged";
    let content = packet::udp4((b.v4, 4000), (a.v4, 4001), secret);
    let inner = packet::ethernet(mac(&a.mac), mac(&b.mac), packet::ETHERTYPE_IPV4, &content);
    let outer =
        packet::udp4((host.underlay_address(), 40000), (target.underlay_address(), VXLAN), &packet::vxlan(vni, &inner));
    let frame = packet::ethernet(gateway, sender.mac(), packet::ETHERTYPE_IPV4, &outer);
    (0..10).for_each(|_| sender.send(&frame).unwrap());
    let deadline = REPAIR / 2;
    inside.watch(deadline, |seen| seen.bytes.windows(secret.len()).any(|window| window == secret)).unwrap().is_some()
}

fn mac(text: &str) -> packet::MacBytes {
    let bytes: Vec<_> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// The outer source of a VXLAN packet that the host sent.
fn vxlan_source(frame: &SeenFrame) -> Option<Ipv4Addr> {
    let bytes = &frame.bytes;
    let is_udp = bytes.get(12..14)? == packet::ETHERTYPE_IPV4.to_be_bytes() && *bytes.get(23)? == 17;
    let is_vxlan = bytes.get(36..38)? == VXLAN.to_be_bytes();
    let source = bytes.get(26..30)?.first_chunk::<4>()?;
    (frame.direction == Direction::Received && is_udp && is_vxlan).then_some(Ipv4Addr::from(*source))
}

fn has_mtu(rig: &Rig, wanted: u64) -> Result<(), String> {
    let mtu = |container: &str| -> anyhow::Result<Option<u64>> {
        let text = rig.lab.in_netns(container, &["cat", "/sys/class/net/eth0/mtu"])?;
        Ok(text.trim().parse().ok())
    };
    let found = ["a", "b"].map(|container| mtu(container).ok().flatten());
    ensure(found == [Some(wanted); 2], || format!("{found:?}"))?;
    dump::check_forwarding(&rig.lab)
}
