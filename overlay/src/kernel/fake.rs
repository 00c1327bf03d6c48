//! A kernel in memory: stateful, with the dependencies of the real one, for tests and simulations.
//!
//! It behaves like the real one where a plan can tell: rows go with their device, a port leaves its bridge with the
//! bridge, nothing is made in a device that is not there, and what is not ours is refused. A clone is another hold on
//! the same kernel, so that a test can be the somebody else who meddles with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::consequences::{changed, missing_for, removed};
use super::{
    Family, Kernel, KernelState, NetworkObject, NodeObject, Object, ObjectId, ObserveError, Place, Port, SandboxState,
    Scope, Step, StepError,
};
use crate::id::{EndpointId, Mac, NetworkId};

mod consequences;

/// Linux errno values that steps fail with.
mod errno {
    pub(super) const ENOENT: i32 = 2;
    pub(super) const EEXIST: i32 = 17;
    pub(super) const ENODEV: i32 = 19;
    pub(super) const EINVAL: i32 = 22;
}

/// The objects of a kernel, by id.
type Objects = BTreeMap<ObjectId, Object>;

/// A hold on a kernel in memory.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    shared: Arc<Mutex<Machine>>,
}

#[derive(Debug)]
struct Machine {
    objects: Objects,
    /// Containers' ends of ports that were deleted and not swept yet.
    buried: BTreeSet<ObjectId>,
    /// What each container's end was last wanted to be.
    wanted: BTreeMap<EndpointId, SandboxState>,
    ended: BTreeSet<(u64, u64)>,
    failing: BTreeMap<ObjectId, Failure>,
    unreadable: bool,
    writes: u64,
    departed: BTreeMap<(NetworkId, IpAddr), Mac>,
    announced: Vec<(NetworkId, IpAddr, Mac)>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    errno: i32,
    times: u32,
}

impl Default for Machine {
    fn default() -> Self {
        let unset = |what: &str| Object::Deviant(what.to_owned());
        Self {
            objects: BTreeMap::from([
                (ObjectId::Node(NodeObject::HostForwarding), unset("ipv4.ip_forward is 0")),
                (ObjectId::Node(NodeObject::DataPlaneSettings), unset("ipv4.conf.all.arp_ignore is 0")),
            ]),
            buried: BTreeSet::new(),
            wanted: BTreeMap::new(),
            ended: BTreeSet::new(),
            failing: BTreeMap::new(),
            unreadable: false,
            writes: 0,
            departed: BTreeMap::new(),
            announced: Vec::new(),
        }
    }
}

impl FakeKernel {
    /// A kernel that has nothing of ours yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything that it holds, insides of containers included.
    pub fn state(&self) -> KernelState {
        KernelState { objects: self.machine().objects.clone() }
    }

    /// How many steps it has been asked to carry out, ever.
    pub fn writes(&self) -> u64 {
        self.machine().writes
    }

    /// The changes of MAC that were announced to local containers, in order.
    pub fn announced(&self) -> Vec<(NetworkId, IpAddr, Mac)> {
        self.machine().announced.clone()
    }

    /// Lets the next `times` steps about an object fail with an errno.
    pub fn fail(&self, id: &ObjectId, errno: i32, times: u32) {
        self.machine().failing.insert(id.clone(), Failure { errno, times });
    }

    /// Lets observations fail, or succeed again.
    pub fn set_unreadable(&self, unreadable: bool) {
        self.machine().unreadable = unreadable;
    }

    /// Somebody else deletes something, with all that hangs on it.
    pub fn remove(&self, id: &ObjectId) {
        let mut machine = self.machine();
        if machine.objects.remove(id).is_some() {
            removed(&mut machine.objects, id);
        }
    }

    /// Somebody else makes or changes something. A foreign thing is planted with [`Object::Foreign`].
    pub fn set(&self, id: &ObjectId, object: Object) {
        let mut machine = self.machine();
        let before = machine.objects.insert(id.clone(), object.clone());
        if let Some(before) = before {
            changed(&mut machine.objects, id, &before, &object);
        }
    }

    /// A container's namespace ends, and the veths into it with it. A later one at the same path is another place.
    pub fn end_namespace(&self, place: &Place) {
        let mut machine = self.machine();
        machine.ended.insert((place.dev, place.inode));
        let there = |object: &Object| matches!(object, Object::Sandbox(s) if (s.place.dev, s.place.inode) == (place.dev, place.inode));
        let lost: Vec<ObjectId> =
            machine.objects.iter().filter(|(_, object)| there(object)).map(|(id, _)| id.clone()).collect();
        for id in lost {
            machine.objects.remove(&id);
            if let ObjectId::Network(network, NetworkObject::Sandbox(endpoint)) = id {
                let port = ObjectId::Network(network, NetworkObject::Port(endpoint));
                if machine.objects.remove(&port).is_some() {
                    removed(&mut machine.objects, &port);
                }
            }
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for FakeKernel {
    fn observe(&mut self, scope: &Scope) -> Result<KernelState, ObserveError> {
        let machine = self.machine();
        if machine.unreadable {
            let cause = io::Error::from(io::ErrorKind::TimedOut);
            return Err(ObserveError { what: "anything", namespace: "memory".to_owned(), cause });
        }
        Ok(machine.observe(scope))
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let mut machine = self.machine();
        for step in steps {
            if let (ObjectId::Network(_, NetworkObject::Sandbox(endpoint)), Some(Object::Sandbox(state))) =
                (step.id(), step.result())
            {
                machine.wanted.insert(*endpoint, (**state).clone());
            }
        }
        let outcomes = steps.iter().map(|step| machine.apply(step, steps)).collect();
        for step in steps {
            if let Step::Delete(ObjectId::Network(_, NetworkObject::Sandbox(endpoint)), _) = step {
                machine.wanted.remove(endpoint);
            }
        }
        outcomes
    }

    fn sweep(&mut self) -> Result<(), StepError> {
        let mut machine = self.machine();
        for id in std::mem::take(&mut machine.buried) {
            machine.objects.remove(&id);
        }
        Ok(())
    }
}

impl Machine {
    fn observe(&self, scope: &Scope) -> KernelState {
        let all = || self.objects.iter().filter(|(id, _)| !id.is_sandbox());
        let pick = |wanted: &dyn Fn(&ObjectId) -> bool| -> Objects {
            all().filter(|(id, _)| wanted(id)).map(|(id, object)| (id.clone(), object.clone())).collect()
        };
        let objects = match scope {
            Scope::Everything => pick(&|_| true),
            Scope::Node => pick(&|id| id.network().is_none()),
            Scope::Network(network) => pick(&|id| id.network() == Some(*network)),
            Scope::Objects(ids) => pick(&|id| ids.contains(id)),
            Scope::Sandboxes(places) => {
                places.iter().filter_map(|(id, place)| Some((id.clone(), self.sandbox(id, place)?))).collect()
            }
        };
        KernelState { objects }
    }

    fn sandbox(&self, id: &ObjectId, place: &Place) -> Option<Object> {
        if self.ended.contains(&(place.dev, place.inode)) {
            return Some(Object::Gone);
        }
        let there = |object: &&Object| match object {
            Object::Sandbox(state) => state.place == *place,
            _ => true,
        };
        self.objects.get(id).filter(there).cloned()
    }

    fn apply(&mut self, step: &Step, all: &[Step]) -> Result<(), StepError> {
        self.writes += 1;
        self.planned_failure(step)?;
        if let Some(Object::Foreign(what)) = self.objects.get(step.id()) {
            return Err(error(step, &format!(": in the way is a {what}"), errno::EEXIST));
        }
        self.announce(step);
        match step {
            Step::Delete(id, _) => self.delete(id),
            Step::Create(id, object) | Step::Replace { id, desired: object, .. } => {
                return self.put(step, id, object, all);
            }
        }
        Ok(())
    }

    fn planned_failure(&mut self, step: &Step) -> Result<(), StepError> {
        let Some(failure) = self.failing.get_mut(step.id()).filter(|failure| failure.times > 0) else { return Ok(()) };
        failure.times -= 1;
        Err(error(step, "", failure.errno))
    }

    fn delete(&mut self, id: &ObjectId) {
        let keeps = matches!(id, ObjectId::Node(NodeObject::HostForwarding | NodeObject::DataPlaneSettings));
        let Some(object) = self.objects.remove(id) else { return };
        if keeps {
            self.objects.insert(id.clone(), object);
            return;
        }
        match id {
            // Buried: the container's end stays until it is swept.
            ObjectId::Network(network, NetworkObject::Port(endpoint)) => {
                let sandbox = ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint));
                let state = self.objects.get(&sandbox).cloned();
                removed(&mut self.objects, id);
                if let Some(state) = state {
                    self.objects.insert(sandbox.clone(), state);
                    self.buried.insert(sandbox);
                }
            }
            _ => removed(&mut self.objects, id),
        }
    }

    fn put(&mut self, step: &Step, id: &ObjectId, object: &Object, all: &[Step]) -> Result<(), StepError> {
        if !fits(id, object) {
            return Err(error(step, ": that is not an object of this kind", errno::EINVAL));
        }
        if let Some(missing) = missing_for(&self.objects, id, object) {
            return Err(error(step, &format!(": there is no {missing}"), errno::ENODEV));
        }
        match (id, object) {
            (ObjectId::Network(network, NetworkObject::Port(endpoint)), _) if !self.objects.contains_key(id) => {
                self.make_pair(step, (*network, *endpoint), all)?;
            }
            (ObjectId::Network(network, NetworkObject::Sandbox(endpoint)), Object::Sandbox(state)) => {
                self.enter(step, state)?;
                self.buried.remove(id);
                let port = ObjectId::Network(*network, NetworkObject::Port(*endpoint));
                let fresh = Object::Port(Box::new(Port { mtu: state.mtu, up: false, attached: false }));
                self.objects.entry(port).or_insert(fresh);
            }
            _ => {}
        }
        let before = self.objects.insert(id.clone(), object.clone());
        if let Some(before) = before {
            changed(&mut self.objects, id, &before, object);
        }
        Ok(())
    }

    /// Both ends of a veth come by one message. Without a step about the container's end it is set up as last wanted.
    fn make_pair(
        &mut self,
        step: &Step,
        (network, endpoint): (NetworkId, EndpointId),
        all: &[Step],
    ) -> Result<(), StepError> {
        let sandbox = ObjectId::Network(network, NetworkObject::Sandbox(endpoint));
        let Some(state) = self.wanted.get(&endpoint).cloned() else {
            return Err(error(step, ": where its container's end belongs is not known", errno::ENOENT));
        };
        self.enter(step, &state)?;
        self.buried.remove(&sandbox);
        let comes = all.iter().any(|other| *other.id() == sandbox && other.result().is_some());
        if !comes {
            self.objects.insert(sandbox, Object::Sandbox(Box::new(state)));
        }
        Ok(())
    }

    fn enter(&self, step: &Step, state: &SandboxState) -> Result<(), StepError> {
        if self.ended.contains(&(state.place.dev, state.place.inode)) {
            let gone = format!(": the container's namespace {} is gone", state.place.path);
            return Err(error(step, &gone, errno::ENOENT));
        }
        Ok(())
    }

    fn announce(&mut self, step: &Step) {
        let ObjectId::Network(network, NetworkObject::Neighbour(ip)) = step.id() else { return };
        let before = match self.objects.get(step.id()) {
            Some(Object::Neighbour(mac)) => Some(*mac),
            _ => self.departed.remove(&(*network, *ip)),
        };
        match (step.result(), before) {
            (Some(Object::Neighbour(mac)), Some(before)) if before != *mac => {
                self.announced.push((*network, *ip, *mac));
            }
            (None, Some(before)) => drop(self.departed.insert((*network, *ip), before)),
            _ => {}
        }
    }
}

/// Whether an object is of the kind that its id names.
fn fits(id: &ObjectId, object: &Object) -> bool {
    match id {
        ObjectId::Node(NodeObject::Element(super::Element::Published(..))) => matches!(object, Object::Published(..)),
        ObjectId::Node(NodeObject::SendGuard(Family::Ipv4 | Family::Ipv6) | _) => matches!(object, Object::Present),
        ObjectId::Network(_, kind) => match kind {
            NetworkObject::Bridge => matches!(object, Object::Bridge(_)),
            NetworkObject::Vxlan => matches!(object, Object::Vxlan(_)),
            NetworkObject::Leg => matches!(object, Object::Leg(_)),
            NetworkObject::LegAddress(_) => matches!(object, Object::LegAddress { .. }),
            NetworkObject::LegRoute(_) => matches!(object, Object::LegRoute(_)),
            NetworkObject::Port(_) => matches!(object, Object::Port(_)),
            NetworkObject::Sandbox(_) => matches!(object, Object::Sandbox(_)),
            NetworkObject::BridgeFdb(_) => matches!(object, Object::BridgeFdb(_)),
            NetworkObject::TunnelFdb(_) => matches!(object, Object::TunnelFdb(_)),
            NetworkObject::Flood(_) => matches!(object, Object::Present),
            NetworkObject::Neighbour(_) => matches!(object, Object::Neighbour(_)),
        },
    }
}

fn error(step: &Step, why: &str, errno: i32) -> StepError {
    StepError { action: format!("{step}{why}"), hint: None, cause: io::Error::from_raw_os_error(errno) }
}

#[cfg(test)]
mod tests;
