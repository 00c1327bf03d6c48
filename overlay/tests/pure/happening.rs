//! Random events: few networks, nodes, addresses, MACs and ids, so that they collide all the time.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::{collection::vec, prelude::*, sample::Index};
use weft_overlay::{
    keys::{Key, Keyspace},
    model::{EndpointRecord, NetworkSpec, Protocol, PublishedPort},
    plan::Plan,
};

use crate::{
    builder::{container, endpoint, leg, member, name_of, network, node, spec, vtep},
    world::{Said, World},
};

pub(crate) const NETWORKS: u64 = 2;
/// Ids of endpoints are 1 to this; the odd ones are of network 1.
pub(crate) const ENDPOINTS: u64 = 8;

/// One event.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    Spec {
        net: u64,
        shape: usize,
    },
    DropSpec {
        net: u64,
    },
    Name {
        net: u64,
        shape: usize,
    },
    DropName {
        net: u64,
    },
    Member {
        net: u64,
        node: u64,
        vtep: u64,
        mtu: u32,
    },
    DropMember {
        net: u64,
        node: u64,
    },
    Endpoint(Claim),
    DropEndpoint {
        net: u64,
        slot: u8,
    },
    Damage {
        net: u64,
        slot: u8,
    },
    /// An event of the past is delivered once more.
    Repeat(Index),
    Follow {
        net: u64,
    },
    Unfollow {
        net: u64,
    },
    List {
        net: u64,
    },
    /// A listing that is as old as an event of the past.
    ListAsOf {
        net: u64,
        at: Index,
    },
    Index,
    Pending(Claim),
    GiveUp {
        endpoint: u64,
    },
    Register(Claim),
    Detach {
        endpoint: u64,
    },
    ClearDetaching {
        endpoint: u64,
    },
    Underlay {
        mtu: u32,
    },
    Pass,
}

/// An endpoint's claim to an address.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    net: u64,
    slot: u8,
    who: u64,
    node: u64,
    is_leg: bool,
    ipv6: Option<u8>,
    shared_mac: bool,
    earlier_boot: bool,
    published: bool,
}

pub(crate) fn store_happening() -> impl Strategy<Value = Happening> {
    let net = || 1..=NETWORKS;
    prop_oneof![
        2 => (net(), 0..4usize).prop_map(|(net, shape)| Happening::Spec { net, shape }),
        1 => net().prop_map(|net| Happening::DropSpec { net }),
        3 => (net(), 1..4u64, 1..4u64, prop_oneof![Just(1500), Just(1400), Just(9000)])
            .prop_map(|(net, node, vtep, mtu)| Happening::Member { net, node, vtep, mtu }),
        1 => (net(), 1..4u64).prop_map(|(net, node)| Happening::DropMember { net, node }),
        8 => claim().prop_map(Happening::Endpoint),
        3 => (net(), 0..5u8).prop_map(|(net, slot)| Happening::DropEndpoint { net, slot }),
        1 => (net(), 0..5u8).prop_map(|(net, slot)| Happening::Damage { net, slot }),
    ]
}

pub(crate) fn happening() -> impl Strategy<Value = Happening> {
    let net = || 1..=NETWORKS;
    prop_oneof![
        18 => store_happening(),
        1 => (net(), 0..4usize).prop_map(|(net, shape)| Happening::Name { net, shape }),
        1 => net().prop_map(|net| Happening::DropName { net }),
        2 => any::<Index>().prop_map(Happening::Repeat),
        3 => net().prop_map(|net| Happening::Follow { net }),
        1 => net().prop_map(|net| Happening::Unfollow { net }),
        4 => net().prop_map(|net| Happening::List { net }),
        1 => (net(), any::<Index>()).prop_map(|(net, at)| Happening::ListAsOf { net, at }),
        2 => Just(Happening::Index),
        3 => claim().prop_map(Happening::Pending),
        1 => (1..=ENDPOINTS).prop_map(|endpoint| Happening::GiveUp { endpoint }),
        2 => claim().prop_map(Happening::Register),
        2 => (1..=ENDPOINTS).prop_map(|endpoint| Happening::Detach { endpoint }),
        2 => (1..=ENDPOINTS).prop_map(|endpoint| Happening::ClearDetaching { endpoint }),
        1 => prop_oneof![Just(1500), Just(1450), Just(1000)].prop_map(|mtu| Happening::Underlay { mtu }),
        4 => Just(Happening::Pass),
    ]
}

/// Random events; most of the time on a node that takes part in both networks already.
pub(crate) fn happenings(most: usize) -> impl Strategy<Value = Vec<Happening>> {
    (prop::bool::weighted(0.8), vec(happening(), 1..most)).prop_map(|(settled, happenings)| {
        let prelude = if settled { prelude() } else { Vec::new() };
        prelude.into_iter().chain(happenings).collect()
    })
}

fn prelude() -> Vec<Happening> {
    let per_network = |net| {
        let leg = Claim {
            net,
            slot: 0,
            who: net,
            node: 1,
            is_leg: true,
            ipv6: None,
            shared_mac: false,
            earlier_boot: false,
            published: false,
        };
        [
            Happening::Follow { net },
            Happening::Spec { net, shape: 1 },
            Happening::Endpoint(leg),
            Happening::List { net },
        ]
    };
    (1..=NETWORKS).flat_map(per_network).chain([Happening::Index, Happening::Pass]).collect()
}

prop_compose! {
    fn claim()(
        net in 1..=NETWORKS,
        slot in 0..5u8,
        who in 0..ENDPOINTS / NETWORKS,
        node in prop_oneof![3 => Just(1), 1 => Just(2), 1 => Just(3)],
        is_leg in prop::bool::weighted(0.4),
        ipv6 in prop::option::of(0..3u8),
        shared_mac in prop::bool::weighted(0.3),
        earlier_boot in prop::bool::weighted(0.2),
        published in prop::bool::weighted(0.3),
    ) -> Claim {
        Claim { net, slot, who: who * NETWORKS + net, node, is_leg, ipv6, shared_mac, earlier_boot, published }
    }
}

impl Happening {
    /// Lets it happen; a pass answers its plan.
    pub(crate) fn befall(&self, world: &mut World) -> Option<Plan> {
        match self {
            Self::Follow { net } => world.view.follow(network(*net)),
            Self::Unfollow { net } => world.change(|view| view.unfollow(network(*net))),
            Self::List { net } => world.list(network(*net)),
            Self::ListAsOf { net, at } => list_as_of(world, *net, at),
            Self::Index => world.list_index(),
            Self::Pending(claim) => world.change(|view| view.set_pending(network(claim.net), claim.own_record())),
            Self::GiveUp { endpoint: e } => world.change(|view| view.clear_pending(endpoint(*e))),
            Self::Register(claim) => {
                let (net, record) = (network(claim.net), claim.own_record());
                world.store.put(&key(claim.net, claim.slot), &record);
                let revision = world.store.revision;
                world.change(|view| view.set_registered(net, record, revision));
                if world.view.network(net).is_none() {
                    // The watch brings it.
                    let said = world.store.history.last().cloned();
                    world.hear(net, said.as_ref());
                }
            }
            Self::Detach { endpoint: e } => world.change(|view| view.set_detaching(endpoint(*e))),
            Self::ClearDetaching { endpoint: e } => world.change(|view| view.clear_detaching(endpoint(*e))),
            Self::Underlay { mtu } => world.change(|view| view.set_underlay_mtu(*mtu)),
            Self::Pass => return Some(world.pass()),
            Self::Repeat(at) => {
                if !world.store.history.is_empty() {
                    let said = at.get(&world.store.history).clone();
                    hear_everywhere(world, &said);
                }
            }
            Self::Spec { .. }
            | Self::DropSpec { .. }
            | Self::Name { .. }
            | Self::DropName { .. }
            | Self::Member { .. }
            | Self::DropMember { .. }
            | Self::Endpoint(_)
            | Self::DropEndpoint { .. }
            | Self::Damage { .. } => {
                if let Some(said) = self.write(world) {
                    hear_everywhere(world, &said);
                }
            }
        }
        None
    }

    fn write(&self, world: &mut World) -> Option<Said> {
        let store = &mut world.store;
        match self {
            Self::Spec { net, shape } => Some(store.put(&Key::Spec(network(*net)), &spec_of(*net, *shape))),
            Self::DropSpec { net } => store.delete(&Key::Spec(network(*net))),
            Self::Name { net, shape } => Some(store.put(&name(*net), &name_of(*net, &spec_of(*net, *shape)))),
            Self::DropName { net } => store.delete(&name(*net)),
            Self::Member { net, node: n, vtep: v, mtu } => {
                let mut record = member(*n, *mtu);
                record.vtep = vtep(*v);
                Some(store.put(&Key::Member(network(*net), node(*n)), &record))
            }
            Self::DropMember { net, node: n } => store.delete(&Key::Member(network(*net), node(*n))),
            Self::Endpoint(claim) => Some(store.put(&key(claim.net, claim.slot), &claim.record())),
            Self::DropEndpoint { net, slot } => store.delete(&key(*net, *slot)),
            Self::Damage { net, slot } => Some(store.put_raw(&key(*net, *slot), b"{\"v\":1,".to_vec())),
            _ => None,
        }
    }
}

impl Claim {
    /// Only endpoints of this node are registered by it.
    fn own_record(&self) -> EndpointRecord {
        Self { node: 1, ..self.clone() }.record()
    }

    fn record(&self) -> EndpointRecord {
        let Key::Endpoint(_, ip) = key(self.net, self.slot) else { unreachable!("of an endpoint") };
        let ipv6 = self.ipv6.map(|host| format!("fd00:{}::{host:x}", 31 + self.net).parse().unwrap());
        let addresses: Vec<_> = if ip.is_ipv6() { vec![ip] } else { [ip].into_iter().chain(ipv6).collect() };
        let make = if self.is_leg { leg } else { container };
        let mut record = make(self.who, self.node, &addresses);
        if self.shared_mac {
            record.mac = "02:00:00:00:00:01".parse().unwrap();
        }
        if let Some(sandbox) = record.sandbox.as_mut().filter(|_| self.earlier_boot) {
            sandbox.boot_id = "earlier-boot".to_owned();
        }
        if self.published {
            let published = PublishedPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8080, port: 80 };
            record.published.push(published);
        }
        record
    }
}

/// Slots 0 to 3 are of IPv4, slot 4 is of IPv6; slot 1 is a gateway.
fn key(net: u64, slot: u8) -> Key {
    let ip = if slot == 4 { format!("fd00:{}::2", 31 + net) } else { format!("10.{}.0.{slot}", 31 + net) };
    Key::Endpoint(network(net), ip.parse().unwrap())
}

/// Every subnet that a network may have.
pub(crate) fn subnets(net: u64) -> Vec<IpNetwork> {
    spec_of(net, 1).subnets.iter().map(|subnet| subnet.subnet).collect()
}

/// Every address that an endpoint or a gateway of a network may have.
pub(crate) fn addresses(net: u64) -> Vec<IpAddr> {
    let v4 = (0..4).map(|slot| format!("10.{}.0.{slot}", 31 + net));
    let v6 = (0..3).map(|host| format!("fd00:{}::{host:x}", 31 + net));
    v4.chain(v6).map(|text| text.parse().unwrap()).collect()
}

fn name(net: u64) -> Key {
    Key::NetworkName(format!("net{net}").parse().unwrap())
}

fn spec_of(net: u64, shape: usize) -> NetworkSpec {
    let (v4, v6) = (format!("10.{}.0.0/24", 31 + net), format!("fd00:{}::/64", 31 + net));
    match shape {
        0 => spec(net, &[&v4]),
        1 => spec(net, &[&v4, &v6]),
        2 => NetworkSpec { internal: true, ..spec(net, &[&v6]) },
        _ => NetworkSpec { mtu: Some(1300), vni: spec(9, &[]).vni, ..spec(net, &[&v4, &v6]) },
    }
}

fn hear_everywhere(world: &mut World, said: &Said) {
    for net in 1..=NETWORKS {
        world.hear(network(net), Some(said));
    }
}

/// A listing of a network that is listed already, as of an event of the past.
fn list_as_of(world: &mut World, net: u64, at: &Index) {
    if world.view.network(network(net)).is_none() || world.store.history.is_empty() {
        return;
    }
    let count = at.index(world.store.history.len()) + 1;
    let (kvs, revision) = world.store.as_of(count);
    let range = Keyspace::default().network(network(net));
    let kvs: Vec<_> = kvs.into_values().filter(|kv| range.contains(&kv.key)).collect();
    world.change(|view| view.set_network(network(net), kvs, revision));
}
