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
        Set::Published4 | Set::Published6 => Element::Published(key.protocol()?, None, key.port()?),
        Set::PublishedAt4 => Element::Published(key.protocol()?, Some(key.v4()?), key.port()?),
        Set::PublishedAt6 => Element::Published(key.protocol()?, Some(key.v6()?), key.port()?),
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
