//! Routes of last resort that hold the cluster's subnets free on a host that has none of them.
//!
//! Docker chooses pools for its own bridges by looking at the host's routes. On a host without a container in a network
//! there is none to see, and it would take the very subnet; a container with a leg in both reaches neither. Such a route
//! leads nowhere, and loses to every other one to the same subnet.

use std::{collections::BTreeSet, io};

use ipnetwork::IpNetwork;
use weft_overlay::kernel::Family;

use super::{
    decode::Route,
    encode::{Verb, held_route, list_routes},
    errno::deleted,
    mark::HELD_PROTOCOL,
    netlink::Channel,
};
use crate::netns::Namespace;

/// Makes the routes that hold subnets free be those of `wanted`.
///
/// # Errors
/// When the namespace cannot be entered, or the kernel refuses.
pub fn ensure_held(namespace: &Namespace, wanted: &BTreeSet<IpNetwork>) -> io::Result<()> {
    let mut channel = Channel::new(namespace.clone());
    let mut held = BTreeSet::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let listed = list_routes(family, Some(HELD_PROTOCOL), None);
        let routes = channel.dump(&listed, |_, payload| Route::decode(payload))?;
        held.extend(routes.iter().filter(|route| route.protocol == HELD_PROTOCOL).map(|route| route.destination));
    }
    let surplus = held.difference(wanted).map(|subnet| held_route(Verb::Delete, *subnet)).collect();
    for answer in channel.transact(surplus) {
        deleted(answer).map_err(|refusal| refusal.cause)?;
    }
    let missing = wanted.difference(&held).map(|subnet| held_route(Verb::Put, *subnet)).collect();
    channel.transact(missing).into_iter().try_for_each(|answer| answer.map(drop)).map_err(|refusal| refusal.cause)
}
