//! From observed to desired: the ordered steps, as a value that can be printed, tested and linted.
//!
//! Compares only the objects that it is asked about. Leaves no choice to execution time, and never touches what is not
//! ours or not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    desired::{Wanted, wanted},
    id::{EndpointId, NetworkId},
    kernel::{FdbPort, KernelState, NetworkObject, NodeObject, Object, ObjectId, Step},
    view::NodeView,
};

/// What is to be done, in order, and what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What is in the way.
    pub obstacles: Vec<Obstacle>,
    /// What waits for more knowledge, or for something that is foreign or gone to be so no longer: to be asked again then.
    pub deferred: BTreeSet<ObjectId>,
}

/// Something that keeps an object from being as it should be and that a plan must not remove.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// Something that is not ours stands under our name.
    Foreign(ObjectId, String),
    /// The namespace of a container is gone: its endpoint should be released.
    SandboxGone(NetworkId, EndpointId),
}

/// The steps that make these objects as they should be.
pub fn plan<'a>(view: &NodeView, observed: &KernelState, ids: impl IntoIterator<Item = &'a ObjectId>) -> Plan {
    let mut plan = Plan::default();
    for id in ids {
        match (wanted(view, id), observed.objects.get(id)) {
            (Wanted::Absent, None | Some(Object::Foreign(_))) => {}
            (Wanted::Exactly(desired), Some(object)) if desired == *object => {}
            (Wanted::Exactly(_), Some(Object::Foreign(what))) => {
                plan.obstacles.push(Obstacle::Foreign(id.clone(), what.clone()));
            }
            (Wanted::Exactly(_), Some(Object::Gone)) => plan.obstacles.extend(gone(id)),
            (Wanted::Absent, Some(object)) if !is_on_foreign(observed, id, object) => {
                plan.steps.push(Step::Delete(id.clone(), object.clone()));
            }
            (Wanted::Exactly(desired), there) if has_ground(observed, id, &desired) => {
                plan.steps.push(match there.cloned() {
                    Some(observed) => Step::Replace { id: id.clone(), observed, desired },
                    None => Step::Create(id.clone(), desired),
                });
            }
            (Wanted::Unknown | Wanted::Absent | Wanted::Exactly(_), _) => {
                plan.deferred.insert(id.clone());
            }
        }
    }
    plan.steps.sort_by_key(rank);
    plan
}

/// The plan for everything that is there or should be.
pub fn plan_everything(view: &NodeView, observed: &KernelState) -> Plan {
    let mut ids = view.all();
    ids.extend(observed.objects.keys().cloned());
    plan(view, observed, &ids)
}

/// Whether an object can be made or changed: nothing of ours stands under a foreign bridge or on a foreign device or table,
/// and a port and the row that leads to it need the container's namespace.
fn has_ground(observed: &KernelState, id: &ObjectId, desired: &Object) -> bool {
    let bridge = id.network().map(|network| ObjectId::Network(network, NetworkObject::Bridge));
    let under_foreign = bridge.is_some_and(|bridge| bridge != *id && is_foreign(observed, &bridge));
    !under_foreign && !is_on_foreign(observed, id, desired) && !has_lost_sandbox(observed, id, desired)
}

/// Whether writing to an object would write to a device or a table that is not ours.
fn is_on_foreign(observed: &KernelState, id: &ObjectId, object: &Object) -> bool {
    match id {
        ObjectId::Node(NodeObject::Element(element)) => {
            is_foreign(observed, &ObjectId::Node(NodeObject::Table(element.table())))
        }
        ObjectId::Node(_) => false,
        ObjectId::Network(network, name) => {
            devices_under(name, object).any(|device| is_foreign(observed, &ObjectId::Network(*network, device)))
        }
    }
}

fn is_foreign(observed: &KernelState, id: &ObjectId) -> bool {
    matches!(observed.objects.get(id), Some(Object::Foreign(_)))
}

/// The devices that an address, a route or a row is written to. A device is written to as itself.
fn devices_under(name: &NetworkObject, object: &Object) -> impl Iterator<Item = NetworkObject> {
    let devices = match (name, object) {
        (NetworkObject::LegAddress(_) | NetworkObject::LegRoute(_), _) => [Some(NetworkObject::Leg), None],
        (NetworkObject::TunnelFdb(_) | NetworkObject::Flood(_), _) => [Some(NetworkObject::Vxlan), None],
        (NetworkObject::Neighbour(_), _) => [Some(NetworkObject::Bridge), None],
        (NetworkObject::Sandbox(endpoint), _) => [Some(NetworkObject::Port(*endpoint)), None],
        (NetworkObject::BridgeFdb(_), Object::BridgeFdb(port)) => [Some(NetworkObject::Bridge), device_of(*port)],
        (NetworkObject::BridgeFdb(_), _) => [Some(NetworkObject::Bridge), None],
        (NetworkObject::Bridge | NetworkObject::Vxlan | NetworkObject::Leg | NetworkObject::Port(_), _) => [None, None],
    };
    devices.into_iter().flatten()
}

fn device_of(port: FdbPort) -> Option<NetworkObject> {
    match port {
        FdbPort::Vxlan => Some(NetworkObject::Vxlan),
        FdbPort::Leg => Some(NetworkObject::Leg),
        FdbPort::Port(endpoint) => Some(NetworkObject::Port(endpoint)),
        FdbPort::Other => None,
    }
}

fn has_lost_sandbox(observed: &KernelState, id: &ObjectId, desired: &Object) -> bool {
    let (network, endpoint) = match (id, desired) {
        (ObjectId::Network(network, NetworkObject::Port(endpoint)), _) => (network, endpoint),
        (ObjectId::Network(network, _), Object::BridgeFdb(FdbPort::Port(endpoint))) => (network, endpoint),
        _ => return false,
    };
    let sandbox = observed.objects.get(&ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint)));
    matches!(sandbox, Some(Object::Gone))
}

fn gone(id: &ObjectId) -> Option<Obstacle> {
    match id {
        ObjectId::Network(network, NetworkObject::Sandbox(endpoint)) => {
            Some(Obstacle::SandboxGone(*network, *endpoint))
        }
        _ => None,
    }
}

/// Removals come before everything else, in the opposite order of additions: routes, rows, addresses, ports, devices.
/// Additions: settings and filters, devices, addresses, local rows, neighbours, rows to peers, routes, and at last the
/// inside of a container, from where traffic comes.
fn rank(step: &Step) -> (bool, i8) {
    let level = level(step.id());
    match step {
        Step::Delete(..) => (false, -level),
        Step::Create(..) | Step::Replace { .. } => (true, level),
    }
}

fn level(id: &ObjectId) -> i8 {
    match id {
        ObjectId::Node(object) => match object {
            NodeObject::HostForwarding | NodeObject::DataPlaneSettings | NodeObject::SendGuard(_) => 0,
            NodeObject::Table(_) => 1,
            NodeObject::Element(_) => 2,
            NodeObject::ForeignAccepts => 3,
        },
        ObjectId::Network(_, object) => match object {
            NetworkObject::Bridge => 4,
            NetworkObject::Vxlan => 5,
            NetworkObject::Leg => 6,
            NetworkObject::LegAddress(_) => 7,
            NetworkObject::Port(_) => 8,
            NetworkObject::BridgeFdb(_) => 9,
            NetworkObject::Neighbour(_) => 10,
            NetworkObject::TunnelFdb(_) => 11,
            NetworkObject::Flood(_) => 12,
            NetworkObject::LegRoute(_) => 13,
            NetworkObject::Sandbox(_) => 14,
        },
    }
}

impl Plan {
    /// Whether there is nothing to do and nothing in the way.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.obstacles.is_empty()
    }

    /// How many steps there are of each kind, for one line in the log.
    pub fn summary(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for step in &self.steps {
            let kind = match step {
                Step::Create(..) => "create",
                Step::Replace { .. } => "replace",
                Step::Delete(..) => "delete",
            };
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing to do");
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))?;
        self.obstacles.iter().try_for_each(|obstacle| writeln!(f, "{obstacle}"))
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(id, what) => write!(f, "! {id}: {what} is in the way and not ours; remove or rename it"),
            Self::SandboxGone(_, endpoint) => write!(f, "! sandbox {endpoint}: its network namespace is gone"),
        }
    }
}
