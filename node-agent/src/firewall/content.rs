//! Reads the dumps of our sets back into [`Element`]s. Pure.
//!
//! Whatever is read is encoded again and compared, so that nothing that differs in a bit passes for ours. Members that
//! stand for no element make their set strange: then the table as a whole is not as it should be.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use weft_overlay::{
    id::{IfName, Mac, Vni},
    kernel::{Element, Object},
    model::Protocol,
};

use super::{
    sets::{Member, Set, members},
    wire::RawElement,
};

/// What the dumps of a table's sets contain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Elements of ours; those that miss a member are deviant.
    pub(super) elements: BTreeMap<Element, Object>,
    /// Sets with members that stand for no element.
    pub(super) strange: Vec<&'static str>,
}

/// Reads the dumps of sets of one table. All sets that an element has members in must be among them.
pub(super) fn read_content(dumps: &[(Set, Vec<RawElement>)]) -> Content {
    let mut found: BTreeMap<Element, (Object, Vec<Member>)> = BTreeMap::new();
    let mut strange = Vec::new();
    for (set, dump) in dumps {
        let read = if set.has_intervals() { read_subnets(*set, dump) } else { read_members(*set, dump) };
        for decoded in read {
            match decoded {
                Some((element, object, member)) => {
                    let entry = found.entry(element).or_insert_with(|| (object.clone(), Vec::new()));
                    if entry.0 != object {
                        entry.0 = Object::Deviant("leads to two endpoints".to_owned());
                    }
                    entry.1.push(member);
                }
                None => strange.push(set.name()),
            }
        }
    }
    strange.dedup();
    let elements = found.into_iter().map(|(element, (object, seen))| {
        let object = whole(&element, object, &seen);
        (element, object)
    });
    Content { elements: elements.collect(), strange }
}

fn whole(element: &Element, object: Object, seen: &[Member]) -> Object {
    let wanted = members(element, &object).unwrap_or_default();
    match wanted.iter().find(|member| !seen.contains(member)) {
        Some(missing) if !matches!(object, Object::Deviant(_)) => {
            Object::Deviant(format!("missing in set {}", missing.set.name()))
        }
        _ => object,
    }
}

type Decoded = Option<(Element, Object, Member)>;

fn read_members(set: Set, dump: &[RawElement]) -> Vec<Decoded> {
    dump.iter().map(|raw| read_member(set, raw)).collect()
}

fn read_member(set: Set, raw: &RawElement) -> Decoded {
    let (element, object) = decode(set, &mut Reader(&raw.key), &mut Reader(raw.value.as_deref().unwrap_or_default()))?;
    let member = members(&element, &object)?.into_iter().find(|member| member.set == set)?;
    (member.raw() == [raw.clone()]).then_some((element, object, member))
}

fn decode(set: Set, key: &mut Reader<'_>, value: &mut Reader<'_>) -> Option<(Element, Object)> {
    let element = match set {
        Set::Legs | Set::LegPairs => Element::Leg(key.name()?),
        Set::InternalLegs => Element::InternalLeg(key.name()?),
        Set::Vteps4 => Element::Vtep(key.v4()?),
        Set::Vteps6 => Element::Vtep(key.v6()?),
        Set::Accepted4 => Element::AcceptedPair(key.v4()?, key.vni()?),
        Set::Accepted6 => Element::AcceptedPair(key.v6()?, key.vni()?),
        Set::LocalEndpoints4 => Element::LocalEndpoint(key.v4()?),
        Set::LocalEndpoints6 => Element::LocalEndpoint(key.v6()?),
        Set::Published4 => Element::Published(key.protocol()?, IpAddr::from([0; 4]), key.port()?),
        Set::Published6 => Element::Published(key.protocol()?, IpAddr::from([0; 16]), key.port()?),
        Set::PublishedAt4 => Element::Published(key.protocol()?, key.v4()?, key.port()?),
        Set::PublishedAt6 => Element::Published(key.protocol()?, key.v6()?, key.port()?),
        Set::PortMacs => Element::PortMac(key.name()?, key.mac()?),
        Set::PortAddresses4 => Element::PortAddress(key.name()?, key.v4()?),
        Set::PortAddresses6 | Set::PortTargets6 => Element::PortAddress(key.name()?, key.v6()?),
        Set::Gateways4 => Element::Gateway(key.v4()?),
        Set::Gateways6 | Set::GatewayTargets6 => Element::Gateway(key.v6()?),
        Set::Overlay4 | Set::Overlay6 | Set::Masqueraded4 | Set::Masqueraded6 => return None,
    };
    let object = match set {
        Set::Published4 | Set::PublishedAt4 => Object::Published(value.v4()?, value.port()?),
        Set::Published6 | Set::PublishedAt6 => Object::Published(value.v6()?, value.port()?),
        _ => Object::Present,
    };
    Some((element, object))
}

/// An interval begins at an element and ends before the next one, whatever that is. `nft` puts an end at address zero,
/// which says nothing.
fn read_subnets(set: Set, dump: &[RawElement]) -> Vec<Decoded> {
    let mut marks: Vec<(u128, bool)> =
        dump.iter().filter_map(|raw| Some((address_bits(&raw.key)?, !raw.ends_interval))).collect();
    marks.sort_unstable();
    let mut read = Vec::new();
    for (index, (bits, begins)) in marks.iter().enumerate() {
        let next = marks.get(index + 1);
        match (begins, index.checked_sub(1).map(|before| marks[before].1)) {
            (true, _) => {
                read.push(subnet_between(set, *bits, next.map(|(bits, _)| *bits)).and_then(|s| placed(set, s)))
            }
            (false, Some(true)) => {}
            (false, _) if *bits == 0 => {}
            (false, _) => read.push(None),
        }
    }
    read
}

fn placed(set: Set, subnet: IpNetwork) -> Decoded {
    let element = match set {
        Set::Overlay4 | Set::Overlay6 => Element::OverlaySubnet(subnet),
        _ => Element::MasqueradedSubnet(subnet),
    };
    let member = members(&element, &Object::Present)?.into_iter().find(|member| member.set == set)?;
    Some((element, Object::Present, member))
}

fn address_bits(key: &[u8]) -> Option<u128> {
    match key.len() {
        4 => key.first_chunk().map(|bytes| u128::from(u32::from_be_bytes(*bytes))),
        16 => key.first_chunk().map(|bytes| u128::from_be_bytes(*bytes)),
        _ => None,
    }
}

fn subnet_between(set: Set, start: u128, end: Option<u128>) -> Option<IpNetwork> {
    let is_v4 = matches!(set, Set::Overlay4 | Set::Masqueraded4);
    let width: u32 = if is_v4 { 32 } else { 128 };
    let behind = end.unwrap_or(if is_v4 { 1 << 32 } else { 0 });
    // An IPv6 interval up to the last address has no end; its length is the negative of its start.
    let length = behind.wrapping_sub(start);
    if !length.is_power_of_two() || !start.is_multiple_of(length) {
        return None;
    }
    let prefix = u8::try_from(width.checked_sub(length.trailing_zeros())?).ok()?;
    let ip = if is_v4 {
        IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(start).ok()?))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(start))
    };
    IpNetwork::new(ip, prefix).ok()
}

/// Reads the parts of a concatenation one after the other.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = *self.0.first_chunk::<N>()?;
        self.0 = self.0.get(N.next_multiple_of(4)..).unwrap_or_default();
        Some(taken)
    }

    fn name(&mut self) -> Option<IfName> {
        let bytes = self.take::<16>()?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()
    }

    fn v4(&mut self) -> Option<IpAddr> {
        self.take::<4>().map(IpAddr::from)
    }

    fn v6(&mut self) -> Option<IpAddr> {
        self.take::<16>().map(IpAddr::from)
    }

    fn mac(&mut self) -> Option<Mac> {
        Mac::try_from(self.take::<6>()?).ok()
    }

    fn vni(&mut self) -> Option<Vni> {
        let [a, b, c] = self.take::<3>()?;
        Vni::try_from(u32::from_be_bytes([0, a, b, c])).ok()
    }

    fn port(&mut self) -> Option<u16> {
        self.take::<2>().map(u16::from_be_bytes)
    }

    fn protocol(&mut self) -> Option<Protocol> {
        match self.take::<1>()? {
            [6] => Some(Protocol::Tcp),
            [17] => Some(Protocol::Udp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_overlay::kernel::Table;

    use super::*;
    use crate::firewall::sets::sets_of;

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(elements in proptest::collection::vec(element(), 0..20)) {
            // Subnets of networks are apart from each other; everything else is independent.
            let mut wanted: BTreeMap<Element, Object> = BTreeMap::new();
            for (element, object) in elements {
                let is_subnet = |e: &Element| matches!(e, Element::OverlaySubnet(_) | Element::MasqueradedSubnet(_));
                if !(is_subnet(&element) && wanted.keys().any(is_subnet)) {
                    wanted.insert(element, object);
                }
            }
            for table in [Table::Host, Table::DataPlane] {
                let of_table: BTreeMap<_, _> =
                    wanted.clone().into_iter().filter(|(element, _)| element.table() == table).collect();

                let content = read_content(&dumps(table, &of_table));

                prop_assert_eq!(&content.elements, &of_table);
                prop_assert!(content.strange.is_empty(), "{:?}", content.strange);
            }
        }

        #[test]
        fn arbitrary_bytes_are_strange_or_ours_but_never_a_panic(
            set in proptest::sample::select(sets_of(Table::Host)),
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..24)),
            ends_interval in any::<bool>(),
        ) {
            let content = read_content(&[(set, vec![RawElement { key, ends_interval, value }])]);

            prop_assert!(content.elements.len() + content.strange.len() <= 1);
        }
    }

    #[test]
    fn neighbouring_subnets_stay_two() {
        let subnets = ["10.32.0.0/20", "10.32.16.0/20", "10.40.0.0/16", "255.255.255.0/24"];
        let wanted: BTreeMap<_, _> =
            subnets.map(|s| (Element::OverlaySubnet(s.parse().unwrap()), Object::Present)).into_iter().collect();

        let content = read_content(&dumps(Table::Host, &wanted));

        assert_eq!(content, Content { elements: wanted, strange: Vec::new() });
    }

    #[test]
    fn a_range_that_is_no_subnet_is_strange() {
        let mark = |last, ends_interval| RawElement { key: vec![10, 0, 0, last], ends_interval, value: None };

        let content = read_content(&[(Set::Overlay4, vec![mark(0, false), mark(9, true)])]);

        assert_eq!(content, Content { elements: BTreeMap::new(), strange: vec!["overlay4"] });
    }

    #[test]
    fn a_pair_of_two_legs_is_strange() {
        let mut key = [0; 32];
        key[..1].copy_from_slice(b"a");
        key[16..17].copy_from_slice(b"b");

        let raw = RawElement { key: key.to_vec(), ends_interval: false, value: None };
        let content = read_content(&[(Set::LegPairs, vec![raw])]);

        assert_eq!(content.strange, ["leg_pairs"]);
    }

    #[test]
    fn an_element_without_one_of_its_members_is_deviant() {
        let leg = Element::Leg("weft-00000000aa".parse().unwrap());
        let wanted = BTreeMap::from([(leg.clone(), Object::Present)]);
        let only_pairs =
            dumps(Table::Host, &wanted).into_iter().filter(|(set, _)| *set == Set::LegPairs).collect::<Vec<_>>();

        let content = read_content(&only_pairs);

        assert_eq!(content.elements[&leg], Object::Deviant("missing in set legs".to_owned()));
    }

    fn dumps(table: Table, elements: &BTreeMap<Element, Object>) -> Vec<(Set, Vec<RawElement>)> {
        let members: Vec<Member> = elements.iter().flat_map(|(e, object)| members(e, object).unwrap()).collect();
        let of = |set: Set| members.iter().filter(move |member| member.set == set).flat_map(Member::raw).collect();
        sets_of(table).iter().map(|set| (*set, of(*set))).collect()
    }

    fn element() -> impl Strategy<Value = (Element, Object)> {
        let ip = || any::<IpAddr>();
        let name = || "[a-z][a-z0-9-]{0,14}".prop_map(|text| text.parse::<IfName>().unwrap());
        let vni = (1_u32..1 << 24).prop_map(|number| Vni::try_from(number).unwrap());
        let mac = any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| Mac::try_from([2, a, b, c, d, e]).unwrap());
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        let subnet = || {
            (ip(), 8_u8..=32).prop_map(|(ip, prefix)| {
                let network = IpNetwork::new(ip, prefix).unwrap();
                IpNetwork::new(network.network(), prefix).unwrap()
            })
        };
        let published = (protocol, ip(), ip(), any::<bool>(), any::<u16>(), any::<u16>()).prop_map(
            |(protocol, host, to, anywhere, port, to_port)| {
                let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
                let host = if anywhere || host.is_ipv4() != to.is_ipv4() { any } else { host };
                (Element::Published(protocol, host, port), Object::Published(to, to_port))
            },
        );
        let present = prop_oneof![
            (ip(), vni).prop_map(|(ip, vni)| Element::AcceptedPair(ip, vni)),
            ip().prop_map(Element::Vtep),
            ip().prop_map(Element::LocalEndpoint),
            ip().prop_map(Element::Gateway),
            name().prop_map(Element::Leg),
            name().prop_map(Element::InternalLeg),
            subnet().prop_map(Element::OverlaySubnet),
            subnet().prop_map(Element::MasqueradedSubnet),
            (name(), mac).prop_map(|(name, mac)| Element::PortMac(name, mac)),
            (name(), ip()).prop_map(|(name, ip)| Element::PortAddress(name, ip)),
        ];
        prop_oneof![3 => present.prop_map(|element| (element, Object::Present)), 1 => published]
    }
}
