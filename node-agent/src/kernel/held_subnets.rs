//! Routes of last resort that hold the cluster's subnets free on a host that has none of them.
//!
//! Docker chooses pools for its own bridges by looking at the host's routes. On a host without a container in a network
//! there is none to see, and it would take the very subnet; a container with a leg in both reaches neither. Such a route
//! leads nowhere, and loses to every other one to the same subnet.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use weft_overlay::kernel::Family;

use super::{
    decode::Route,
    encode::{Verb, held_routes, list_routes},
    errno::deleted,
    mark::HELD_PROTOCOL,
    netlink::Channel,
};
use crate::netns::Namespace;

/// The loopback interface of every namespace.
const LOOPBACK: u32 = 1;

/// Makes the routes that hold subnets free be those of `wanted`.
///
/// # Errors
/// When the namespace cannot be entered, or the kernel refuses.
pub fn ensure_held(namespace: &Namespace, wanted: &BTreeSet<IpNetwork>) -> io::Result<()> {
    let mut channel = Channel::new(namespace.clone());
    let mut held: BTreeMap<IpNetwork, usize> = BTreeMap::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let listed = list_routes(family, Some(HELD_PROTOCOL), None);
        let routes = channel.dump(&listed, |_, payload| Route::decode(payload))?;
        for route in routes.iter().filter(|route| route.protocol == HELD_PROTOCOL) {
            *held.entry(route.destination).or_default() += 1;
        }
    }
    let surplus = held.keys().filter(|subnet| !wanted.contains(subnet));
    let surplus = surplus.flat_map(|subnet| held_routes(Verb::Delete, *subnet, LOOPBACK)).collect();
    for answer in channel.transact(surplus) {
        deleted(answer).map_err(|refusal| refusal.cause)?;
    }
    let missing = wanted.iter().filter(|subnet| held.get(subnet).is_none_or(|routes| *routes < 2));
    let missing = missing.flat_map(|subnet| held_routes(Verb::Put, *subnet, LOOPBACK)).collect();
    for answer in channel.transact(missing) {
        match answer {
            Err(refusal) if refusal.errno() != Errno::EEXIST => return Err(refusal.cause),
            _ => {}
        }
    }
    Ok(())
}
