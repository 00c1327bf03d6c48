//! Steps about rows, addresses and routes as requests; many of them go in one send.
//!
//! Pure. Each request needs the index of a device that is there and ours; without it the step fails, or has succeeded
//! if it deletes, since rows go with their device.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use weft_overlay::{
    id::NetworkId,
    kernel::{FdbPort, NetworkObject, Object, ObjectId, Step},
};

use super::{
    encode::{
        Verb, bridge_row, delete_address, delete_own_row, flood_row, leg_address, leg_route, neighbour_row, tunnel_row,
    },
    mark::Role,
    netlink::Request,
    objects::Devices,
};

/// What a step comes to.
#[derive(Debug)]
pub(crate) enum Requests {
    /// These, in this order.
    Send(Vec<Request>),
    /// Nothing is left to do.
    Done,
    /// A device is missing that the row would be in.
    NoDevice(String),
    /// A device of that name is not ours.
    Foreign(String),
    /// The object does not belong to the id.
    Mismatch,
}

/// The devices whose indices a step needs.
pub(crate) fn roles(step: &Step) -> BTreeSet<Role> {
    let ObjectId::Network(network, object) = step.id() else { return BTreeSet::new() };
    let mut roles = BTreeSet::new();
    match object {
        NetworkObject::Neighbour(_) => drop(roles.insert(Role::Bridge(*network))),
        NetworkObject::TunnelFdb(_) | NetworkObject::Flood(_) => drop(roles.insert(Role::Vxlan(*network))),
        NetworkObject::LegAddress(_) | NetworkObject::LegRoute(_) => drop(roles.insert(Role::Leg(*network))),
        NetworkObject::BridgeFdb(_) => {
            roles.insert(Role::Bridge(*network));
            roles.extend(objects(step).filter_map(|object| port_role(*network, object)));
        }
        NetworkObject::Bridge
        | NetworkObject::Vxlan
        | NetworkObject::Leg
        | NetworkObject::Port(_)
        | NetworkObject::Sandbox(_) => {}
    }
    roles
}

/// The requests of a step. `actual_port` is where the bridge has the row now, if that was looked up.
pub(crate) fn requests(step: &Step, devices: &Devices, actual_port: Option<u32>) -> Requests {
    let ObjectId::Network(network, object) = step.id() else { return Requests::Mismatch };
    let device = match object {
        NetworkObject::Neighbour(_) => Role::Bridge(*network),
        NetworkObject::TunnelFdb(_) | NetworkObject::Flood(_) => Role::Vxlan(*network),
        NetworkObject::LegAddress(_) | NetworkObject::LegRoute(_) => Role::Leg(*network),
        _ => return bridge_requests(step, *network, devices, actual_port),
    };
    let index = match index(devices, device, step) {
        Ok(index) => index,
        Err(other) => return other,
    };
    let verb = verb(step);
    let one = |request| Requests::Send(vec![request]);
    match (object, step.result().or_else(|| objects(step).next())) {
        (NetworkObject::Neighbour(ip), Some(Object::Neighbour(mac))) => one(neighbour_row(verb, index, *ip, *mac)),
        (NetworkObject::TunnelFdb(mac), Some(Object::TunnelFdb(vtep))) => one(tunnel_row(verb, index, *mac, *vtep)),
        (NetworkObject::Flood(vtep), Some(Object::Present)) => one(flood_row(verb, index, *vtep)),
        (NetworkObject::LegRoute(to), Some(Object::LegRoute(source))) => {
            one(leg_route(verb, index, *to, *source, matches!(step, Step::Replace { .. })))
        }
        (NetworkObject::LegAddress(_), _) => leg_address_requests(step, index),
        // Deviant rows are deleted by their key alone.
        (_, Some(Object::Deviant(_))) if verb == Verb::Delete => delete_by_key(object, index),
        _ => Requests::Mismatch,
    }
}

/// Whether the bridge must be asked where it has the row before the step can be carried out.
pub(crate) fn needs_actual_port(step: &Step) -> bool {
    let ObjectId::Network(network, NetworkObject::BridgeFdb(_)) = step.id() else { return false };
    matches!(step, Step::Delete(_, object) if port_role(*network, object).is_none())
}

fn bridge_requests(step: &Step, network: NetworkId, devices: &Devices, actual_port: Option<u32>) -> Requests {
    let ObjectId::Network(_, NetworkObject::BridgeFdb(mac)) = step.id() else { return Requests::Mismatch };
    let verb = verb(step);
    let object = step.result().or_else(|| objects(step).next());
    if let (Some(port), Verb::Delete) = (actual_port, verb) {
        let of_bridge = devices.by_role(Role::Bridge(network)).is_some_and(|bridge| bridge.index == port);
        let deletion = if of_bridge { delete_own_row(port, *mac) } else { bridge_row(verb, port, *mac) };
        return Requests::Send(vec![deletion]);
    }
    match object.and_then(|object| port_role(network, object)) {
        Some(role) => match index(devices, role, step) {
            Ok(port) => Requests::Send(vec![bridge_row(verb, port, *mac)]),
            Err(other) => other,
        },
        None if verb == Verb::Delete => Requests::Done,
        None => Requests::Mismatch,
    }
}

fn leg_address_requests(step: &Step, index: u32) -> Requests {
    let ObjectId::Network(_, NetworkObject::LegAddress(ip)) = step.id() else { return Requests::Mismatch };
    let network = |prefix: u8| IpNetwork::new(*ip, prefix).ok();
    let full = if ip.is_ipv4() { 32 } else { 128 };
    let removal = |object: &Object| match object {
        Object::LegAddress { prefix, .. } => network(*prefix).map(|address| delete_address(index, address)),
        _ => network(full).map(|address| delete_address(index, address)),
    };
    let addition = |object: &Object| match object {
        Object::LegAddress { prefix, deprecated } => network(*prefix).map(|a| leg_address(index, a, *deprecated)),
        _ => None,
    };
    let requests = match step {
        Step::Create(_, object) => addition(object).map(|request| vec![request]),
        Step::Replace { observed, desired, .. } => removal(observed).zip(addition(desired)).map(|(a, b)| vec![a, b]),
        Step::Delete(_, object) => removal(object).map(|request| vec![request]),
    };
    requests.map_or(Requests::Mismatch, Requests::Send)
}

fn delete_by_key(object: &NetworkObject, index: u32) -> Requests {
    let any = || std::net::IpAddr::from([0; 4]);
    match object {
        NetworkObject::Neighbour(ip) => {
            let Ok(mac) = weft_overlay::id::Mac::try_from([2, 0, 0, 0, 0, 0]) else { return Requests::Mismatch };
            Requests::Send(vec![neighbour_row(Verb::Delete, index, *ip, mac)])
        }
        NetworkObject::TunnelFdb(mac) => Requests::Send(vec![tunnel_row(Verb::Delete, index, *mac, any())]),
        NetworkObject::Flood(vtep) => Requests::Send(vec![flood_row(Verb::Delete, index, *vtep)]),
        NetworkObject::LegRoute(to) => Requests::Send(vec![leg_route(Verb::Delete, index, *to, None, false)]),
        _ => Requests::Mismatch,
    }
}

fn index(devices: &Devices, role: Role, step: &Step) -> Result<u32, Requests> {
    match devices.by_role(role) {
        Some(link) if link.is_marked() => Ok(link.index),
        _ if verb(step) == Verb::Delete => Err(Requests::Done),
        Some(link) => Err(Requests::Foreign(link.description())),
        None => Err(Requests::NoDevice(role.name())),
    }
}

fn verb(step: &Step) -> Verb {
    match step {
        Step::Create(..) | Step::Replace { .. } => Verb::Put,
        Step::Delete(..) => Verb::Delete,
    }
}

fn objects(step: &Step) -> impl Iterator<Item = &Object> {
    match step {
        Step::Create(_, object) | Step::Delete(_, object) => [Some(object), None],
        Step::Replace { observed, desired, .. } => [Some(desired), Some(observed)],
    }
    .into_iter()
    .flatten()
}

fn port_role(network: NetworkId, object: &Object) -> Option<Role> {
    match object {
        Object::BridgeFdb(FdbPort::Vxlan) => Some(Role::Vxlan(network)),
        Object::BridgeFdb(FdbPort::Leg) => Some(Role::LegPort(network)),
        Object::BridgeFdb(FdbPort::Port(endpoint)) => Some(Role::Port(*endpoint)),
        _ => None,
    }
}
