//! From observed to desired: the ordered steps, as a value that can be printed, tested and linted.
//!
//! Compares only the objects that it is asked about. Leaves no choice to execution time, and never touches what is not
//! ours or not known.

use std::{collections::BTreeMap, fmt};

use crate::{
    desired::{Wanted, wanted},
    id::{EndpointId, NetworkId},
    kernel::{KernelState, NetworkObject, NodeObject, Object, ObjectId, Step},
    view::NodeView,
};

/// What is to be done, in order, and what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What is in the way.
    pub obstacles: Vec<Obstacle>,
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
        let there = observed.objects.get(id);
        match (wanted(view, id), there) {
            (Wanted::Unknown, _) | (Wanted::Absent, None | Some(Object::Foreign(_))) => {}
            (Wanted::Absent, Some(object)) => plan.steps.push(Step::Delete(id.clone(), object.clone())),
            (Wanted::Exactly(_), Some(Object::Foreign(what))) => {
                plan.obstacles.push(Obstacle::Foreign(id.clone(), what.clone()));
            }
            (Wanted::Exactly(_), Some(Object::Gone)) => plan.obstacles.extend(gone(id)),
            (Wanted::Exactly(desired), Some(object)) if desired == *object => {}
            (Wanted::Exactly(_), None) if has_no_sandbox(observed, id) => {}
            (Wanted::Exactly(_), _) if id.network().is_some_and(|network| is_blocked(observed, network)) => {}
            (Wanted::Exactly(desired), Some(object)) => {
                plan.steps.push(Step::Replace { id: id.clone(), observed: object.clone(), desired })
            }
            (Wanted::Exactly(desired), None) => plan.steps.push(Step::Create(id.clone(), desired)),
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

/// Under a foreign bridge nothing of ours can stand.
fn is_blocked(observed: &KernelState, network: NetworkId) -> bool {
    let bridge = observed.objects.get(&ObjectId::Network(network, NetworkObject::Bridge));
    matches!(bridge, Some(Object::Foreign(_)))
}

/// Without its container's namespace a port cannot be made.
fn has_no_sandbox(observed: &KernelState, id: &ObjectId) -> bool {
    let ObjectId::Network(network, NetworkObject::Port(endpoint)) = id else { return false };
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
