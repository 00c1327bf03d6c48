//! Reading the kernel: settles what is in doubt, and keeps the doubt where reading fails.
//!
//! Costs as much as is in doubt. Must not write to the kernel.

use std::{collections::BTreeMap, time::Instant};

use tracing::{debug, warn};
use weft_overlay::{
    desired::{Wanted, wanted},
    kernel::{Kernel, NetworkObject, Object, ObjectId, Place, Scope},
    model::EndpointKind,
};

use super::{Reconciler, chain};

impl<K: Kernel> Reconciler<K> {
    pub(super) fn resolve_doubts(&mut self, now: Instant) {
        if self.reads.allows(now) {
            let mut failed = false;
            for scope in self.doubts.take_scopes() {
                failed |= !self.observe(&scope, now);
            }
            if !failed {
                self.reads.forget();
            }
        }
        let unseen: Vec<ObjectId> = self.unseen_sandboxes().collect();
        self.doubts.sandboxes.extend(unseen);
        if self.sandbox_reads.allows(now) {
            let sandboxes = std::mem::take(&mut self.doubts.sandboxes);
            let places = self.places(sandboxes);
            if places.is_empty() || self.observe(&Scope::Sandboxes(places), now) {
                self.sandbox_reads.forget();
            }
        }
    }

    fn observe(&mut self, scope: &Scope, now: Instant) -> bool {
        match self.kernel.observe(scope) {
            Ok(read) => {
                let differing = self.observed.absorb(scope, read);
                if *scope == Scope::Everything && self.counters.audits > 1 {
                    self.counters.audit_findings += differing.len() as u64;
                }
                if differing.iter().any(ObjectId::carries_others) {
                    self.dirty.append(&mut self.deferred);
                }
                self.dirty.extend(differing);
                true
            }
            Err(error) => {
                self.counters.failures += 1;
                self.doubts.put_back(scope);
                let reads =
                    if matches!(scope, Scope::Sandboxes(_)) { &mut self.sandbox_reads } else { &mut self.reads };
                if reads.note(&chain(&error), now) {
                    warn!(error = %chain(&error), "reading the kernel");
                } else {
                    debug!(error = %chain(&error), "reading the kernel failed again");
                }
                false
            }
        }
    }

    /// Sandboxes that must be read before anything is decided about them: whose port has vanished although it was made,
    /// because the container may have gone with it; and whose port is there while nobody has looked inside yet.
    fn unseen_sandboxes(&self) -> impl Iterator<Item = ObjectId> {
        let observed = &self.observed.objects;
        self.dirty.iter().filter_map(|id| {
            let ObjectId::Network(network, object) = id else { return None };
            let sandbox = |endpoint| ObjectId::Network(*network, NetworkObject::Sandbox(endpoint));
            match object {
                NetworkObject::Port(endpoint) => {
                    let sandbox = sandbox(*endpoint);
                    let was_made = || self.view.local(*endpoint).is_some_and(|local| local.registered);
                    let is_lost = !observed.contains_key(id) && (observed.contains_key(&sandbox) || was_made());
                    is_lost.then_some(sandbox)
                }
                NetworkObject::Sandbox(endpoint) => {
                    let port = ObjectId::Network(*network, NetworkObject::Port(*endpoint));
                    (!observed.contains_key(id) && observed.contains_key(&port)).then(|| id.clone())
                }
                _ => None,
            }
        })
    }

    /// The sandboxes of this node's containers.
    pub(super) fn sandboxes(&self) -> impl Iterator<Item = ObjectId> {
        let locals = self.view.networks().flat_map(|(network, _)| self.view.locals_in(network));
        let containers = locals.filter(|local| local.record.kind == EndpointKind::Container);
        containers.map(|local| ObjectId::Network(local.network, NetworkObject::Sandbox(local.record.id)))
    }

    /// Where these sandboxes are, as far as they are wanted.
    pub(super) fn places(&self, sandboxes: impl IntoIterator<Item = ObjectId>) -> BTreeMap<ObjectId, Place> {
        let place = |id: ObjectId| match wanted(&self.view, &id) {
            Wanted::Exactly(Object::Sandbox(state)) => Some((id, state.place)),
            _ => None,
        };
        sandboxes.into_iter().filter_map(place).collect()
    }
}
