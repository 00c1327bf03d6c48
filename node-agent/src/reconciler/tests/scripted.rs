//! A kernel for these tests: keeps what is written, drops what a real one drops along, and fails where it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use weft_overlay::kernel::{
    FdbPort, Kernel, KernelState, NetworkObject, Object, ObjectId, ObserveError, Scope, Step, StepError,
};

/// A handle to the kernel, for the test and for the reconciler.
#[derive(Debug, Clone, Default)]
pub(super) struct Scripted(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
pub(super) struct Inside {
    pub(super) state: KernelState,
    /// Steps on these fail.
    pub(super) broken: BTreeSet<ObjectId>,
    /// Nothing can be read.
    pub(super) unreadable: bool,
    /// The insides of containers cannot be read.
    pub(super) unreadable_sandboxes: bool,
    /// Sandboxes whose namespace is gone.
    pub(super) gone: BTreeSet<ObjectId>,
    /// Changed by somebody else, in another way every time, right after every write.
    pub(super) contested: BTreeSet<ObjectId>,
    turns: usize,
    pub(super) sweep_fails: bool,
    pub(super) written: Vec<Step>,
    pub(super) readings: Vec<Scope>,
    pub(super) sweeps: usize,
}

impl Scripted {
    pub(super) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    /// The steps since this was last asked.
    pub(super) fn take_written(&self) -> Vec<String> {
        std::mem::take(&mut self.inside().written).iter().map(ToString::to_string).collect()
    }

    /// How many readings there were since this was last asked.
    pub(super) fn take_readings(&self) -> usize {
        std::mem::take(&mut self.inside().readings).len()
    }

    /// Somebody deletes something.
    pub(super) fn lose(&self, id: &ObjectId) {
        let mut inside = self.inside();
        inside.state.objects.remove(id).unwrap_or_else(|| panic!("{id} is not there"));
        inside.drop_along(id);
    }
}

impl Kernel for Scripted {
    fn observe(&mut self, scope: &Scope) -> Result<KernelState, ObserveError> {
        let mut inside = self.inside();
        inside.readings.push(scope.clone());
        if inside.unreadable || (inside.unreadable_sandboxes && matches!(scope, Scope::Sandboxes(_))) {
            let namespace = "weft".to_owned();
            return Err(ObserveError { what: "links", namespace, cause: io::Error::other("no buffer space") });
        }
        let enters = matches!(scope, Scope::Sandboxes(_));
        let covered = inside.state.objects.iter().filter(|(id, _)| scope.covers(id) && id.is_sandbox() == enters);
        let mut objects: BTreeMap<ObjectId, Object> =
            covered.map(|(id, object)| (id.clone(), object.clone())).collect();
        if let Scope::Sandboxes(places) = scope {
            objects.extend(places.keys().filter(|id| inside.gone.contains(id)).map(|id| (id.clone(), Object::Gone)));
        }
        Ok(KernelState { objects })
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let mut inside = self.inside();
        let results = steps.iter().map(|step| inside.apply(step)).collect();
        inside.turns += 1;
        let turn = inside.turns;
        for id in inside.contested.clone() {
            inside.state.objects.insert(id, Object::Deviant(format!("turn {turn}")));
        }
        results
    }

    fn sweep(&mut self) -> Result<(), StepError> {
        let mut inside = self.inside();
        inside.sweeps += 1;
        if inside.sweep_fails { Err(refusal("sweeping".to_owned())) } else { Ok(()) }
    }
}

impl Inside {
    fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        let id = step.id();
        self.written.push(step.clone());
        if self.broken.contains(id) {
            return Err(refusal(format!("writing {id}")));
        }
        match step.result() {
            Some(object) => {
                if !self.state.objects.contains_key(id) {
                    self.drop_along(id);
                }
                self.state.objects.insert(id.clone(), object.clone());
            }
            None => {
                self.state.objects.remove(id);
                self.drop_along(id);
            }
        }
        Ok(())
    }

    /// What goes with a device that is deleted, and is not there when it is made.
    fn drop_along(&mut self, id: &ObjectId) {
        let ObjectId::Network(network, device) = id else { return };
        let goes = |name: &NetworkObject, object: &Object| match device {
            NetworkObject::Bridge => matches!(name, NetworkObject::BridgeFdb(_) | NetworkObject::Neighbour(_)),
            NetworkObject::Vxlan => {
                matches!(name, NetworkObject::TunnelFdb(_) | NetworkObject::Flood(_))
                    || matches!(object, Object::BridgeFdb(FdbPort::Vxlan))
            }
            NetworkObject::Leg => {
                matches!(name, NetworkObject::LegAddress(_) | NetworkObject::LegRoute(_))
                    || matches!(object, Object::BridgeFdb(FdbPort::Leg))
            }
            NetworkObject::Port(endpoint) => {
                *name == NetworkObject::Sandbox(*endpoint)
                    || matches!(object, Object::BridgeFdb(FdbPort::Port(e)) if e == endpoint)
            }
            _ => false,
        };
        self.state.objects.retain(|id, object| match id {
            ObjectId::Network(n, name) if n == network => !goes(name, object),
            _ => true,
        });
        if *device == NetworkObject::Bridge {
            for (_, object) in self.state.objects.iter_mut().filter(|(id, _)| id.network() == Some(*network)) {
                match object {
                    Object::Vxlan(vxlan) => vxlan.attached = false,
                    Object::Leg(leg) => leg.attached = false,
                    Object::Port(port) => port.attached = false,
                    _ => {}
                }
            }
        }
    }
}

fn refusal(action: String) -> StepError {
    StepError { action, hint: None, cause: io::Error::other("device or resource busy") }
}
