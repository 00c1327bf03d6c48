//! What hangs on what in a kernel: which objects go or change along with another, and which one needs another.
//!
//! Pure. Each rule is one that the real kernel was seen to follow; the same scenarios run through both.

use crate::id::NetworkId;
use crate::kernel::{FdbPort, Leg, NetworkObject, NodeObject, Object, ObjectId, SandboxState, Vxlan};

use super::Objects;

/// Takes along what cannot be without an object that was removed.
pub(super) fn removed(objects: &mut Objects, id: &ObjectId) {
    match id {
        ObjectId::Node(NodeObject::Table(table)) => {
            objects.retain(|id, _| !matches!(id, ObjectId::Node(NodeObject::Element(e)) if e.table() == *table));
        }
        ObjectId::Node(_) => {}
        ObjectId::Network(network, NetworkObject::Bridge) => {
            retain(objects, *network, |kind, _| {
                !matches!(kind, NetworkObject::BridgeFdb(_) | NetworkObject::Neighbour(_))
            });
            each(objects, *network, detach);
        }
        ObjectId::Network(network, NetworkObject::Vxlan) => {
            retain(objects, *network, |kind, object| {
                let own = matches!(kind, NetworkObject::TunnelFdb(_) | NetworkObject::Flood(_));
                !own && *object != Object::BridgeFdb(FdbPort::Vxlan)
            });
        }
        ObjectId::Network(network, NetworkObject::Leg) => {
            retain(objects, *network, |kind, object| {
                let own = matches!(kind, NetworkObject::LegAddress(_) | NetworkObject::LegRoute(_));
                !own && *object != Object::BridgeFdb(FdbPort::Leg)
            });
        }
        ObjectId::Network(network, NetworkObject::Port(endpoint)) => {
            let sandbox = NetworkObject::Sandbox(*endpoint);
            retain(objects, *network, |kind, object| {
                *kind != sandbox && *object != Object::BridgeFdb(FdbPort::Port(*endpoint))
            });
        }
        // A container's end takes the port along, as the other end of one veth.
        ObjectId::Network(..) => {}
    }
}

/// Takes along what cannot survive the change of an object.
pub(super) fn changed(objects: &mut Objects, id: &ObjectId, before: &Object, now: &Object) {
    let ObjectId::Network(network, _) = id else { return };
    match (before, now) {
        (Object::Bridge(before), Object::Bridge(now)) if before.mac != now.mac || before.up != now.up => {
            retain(objects, *network, |kind, _| !matches!(kind, NetworkObject::Neighbour(_)));
        }
        (Object::Vxlan(before), Object::Vxlan(now)) if !same_device(before, now) => {
            removed(objects, id);
        }
        (Object::Vxlan(before), Object::Vxlan(now)) if before.attached && !now.attached => {
            retain(objects, *network, |_, object| *object != Object::BridgeFdb(FdbPort::Vxlan));
        }
        (Object::Leg(before), Object::Leg(now)) => leg_changed(objects, *network, before, now),
        (Object::Port(before), Object::Port(now)) if before.attached && !now.attached => {
            let ObjectId::Network(_, NetworkObject::Port(endpoint)) = id else { return };
            retain(objects, *network, |_, object| *object != Object::BridgeFdb(FdbPort::Port(*endpoint)));
        }
        (Object::Sandbox(before), Object::Sandbox(now)) => sandbox_changed(objects, id, before, now),
        _ => {}
    }
}

/// The device or table that an object needs and that is not there.
pub(super) fn missing_for(objects: &Objects, id: &ObjectId, object: &Object) -> Option<ObjectId> {
    let needed = match id {
        ObjectId::Node(NodeObject::Element(element)) => {
            vec![ObjectId::Node(NodeObject::Table(element.table()))]
        }
        ObjectId::Node(_) => Vec::new(),
        ObjectId::Network(network, kind) => {
            needed_by(kind, object).into_iter().map(|kind| ObjectId::Network(*network, kind)).collect()
        }
    };
    let there = |id: &ObjectId| objects.get(id).is_some_and(|object| !matches!(object, Object::Foreign(_)));
    needed.into_iter().find(|id| !there(id))
}

fn needed_by(kind: &NetworkObject, object: &Object) -> Vec<NetworkObject> {
    match kind {
        NetworkObject::Bridge | NetworkObject::Sandbox(_) => Vec::new(),
        NetworkObject::Vxlan | NetworkObject::Leg | NetworkObject::Port(_) | NetworkObject::Neighbour(_) => {
            vec![NetworkObject::Bridge]
        }
        NetworkObject::LegAddress(_) | NetworkObject::LegRoute(_) => vec![NetworkObject::Leg],
        NetworkObject::TunnelFdb(_) | NetworkObject::Flood(_) => vec![NetworkObject::Vxlan],
        NetworkObject::BridgeFdb(_) => match object {
            Object::BridgeFdb(FdbPort::Vxlan) => vec![NetworkObject::Bridge, NetworkObject::Vxlan],
            Object::BridgeFdb(FdbPort::Leg) => vec![NetworkObject::Bridge, NetworkObject::Leg],
            Object::BridgeFdb(FdbPort::Port(endpoint)) => vec![NetworkObject::Bridge, NetworkObject::Port(*endpoint)],
            _ => vec![NetworkObject::Bridge],
        },
    }
}

fn same_device(before: &Vxlan, now: &Vxlan) -> bool {
    (before.vni, before.local, before.port) == (now.vni, now.local, now.port)
}

/// Routes go when a link goes down, addresses stay; entering a bridge begins without rows.
fn leg_changed(objects: &mut Objects, network: NetworkId, before: &Leg, now: &Leg) {
    if before.up && !now.up {
        retain(objects, network, |kind, _| !matches!(kind, NetworkObject::LegRoute(_)));
    }
    if before.attached && !now.attached {
        retain(objects, network, |_, object| *object != Object::BridgeFdb(FdbPort::Leg));
    }
}

/// Default routes go when a link goes down.
fn sandbox_changed(objects: &mut Objects, id: &ObjectId, before: &SandboxState, now: &SandboxState) {
    if before.up
        && !now.up
        && let Some(Object::Sandbox(state)) = objects.get_mut(id)
    {
        state.default_routes.clear();
    }
}

fn detach(object: &mut Object) {
    match object {
        Object::Vxlan(vxlan) => vxlan.attached = false,
        Object::Leg(leg) => leg.attached = false,
        Object::Port(port) => port.attached = false,
        _ => {}
    }
}

fn each(objects: &mut Objects, network: NetworkId, change: impl Fn(&mut Object)) {
    objects.iter_mut().filter(|(id, _)| id.network() == Some(network)).for_each(|(_, object)| change(object));
}

fn retain(objects: &mut Objects, network: NetworkId, keep: impl Fn(&NetworkObject, &Object) -> bool) {
    objects.retain(|id, object| match id {
        ObjectId::Network(of, kind) if *of == network => keep(kind, object),
        _ => true,
    });
}
