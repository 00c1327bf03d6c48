//! Writing to the kernel, and what is believed of it afterwards.
//!
//! A successful write is believed until a notification or an audit casts doubt on it; what the kernel may have dropped
//! along with it, and what failed, is read again.

use std::{collections::BTreeSet, time::Instant};

use tracing::{debug, info, warn};
use weft_overlay::{
    id::{EndpointId, NetworkId},
    kernel::{Kernel, NetworkObject, Object, ObjectId, Step},
    plan::Plan,
};

use super::{Doubt, Reconciler, SWEEP_DELAY, chain};

/// When a device cannot be made, every row on it fails with it: more warnings than this in one pass say nothing new.
const LOUD_FAILURES: usize = 8;

impl<K: Kernel> Reconciler<K> {
    pub(super) fn apply(&mut self, plan: &Plan, now: Instant) {
        let standing = self.standing_networks(plan);
        let results = self.kernel.apply(&plan.steps);
        let mut failed = 0;
        let mut loud = 0;
        for (step, result) in plan.steps.iter().zip(results) {
            match result {
                Ok(()) => self.believe(step, &standing, now),
                Err(error) => {
                    failed += 1;
                    self.doubts.add(Doubt::Object(step.id().clone()), &self.observed);
                    let (error, id) = (chain(&error), step.id());
                    let is_news = self.failures.note(id, &error, now);
                    if is_news && loud < LOUD_FAILURES {
                        loud += 1;
                        warn!(object = %id, error, "step failed");
                    } else {
                        debug!(object = %id, error, "step failed");
                    }
                }
            }
        }
        self.counters.writes += (plan.steps.len() - failed) as u64;
        self.counters.failures += failed as u64;
        let elapsed_ms = now.elapsed().as_secs_f64() * 1000.0;
        info!(planned = plan.steps.len(), failed, elapsed_ms, steps = ?plan.summary(), "pass changed the kernel");
        for step in &plan.steps {
            debug!(%step, "step");
        }
    }

    /// The networks of a plan of which something is there already.
    fn standing_networks(&self, plan: &Plan) -> BTreeSet<NetworkId> {
        let devices = plan.steps.iter().map(Step::id).filter(|id| id.is_device());
        let networks: BTreeSet<NetworkId> = devices.filter_map(ObjectId::network).collect();
        networks.into_iter().filter(|network| self.observed.network(*network).next().is_some()).collect()
    }

    /// Takes what a successful step returned for the kernel's state, and doubts what the kernel may have dropped with it.
    fn believe(&mut self, step: &Step, standing: &BTreeSet<NetworkId>, now: Instant) {
        let id = step.id();
        match step.result() {
            Some(object) => self.observed.objects.insert(id.clone(), object.clone()),
            None => self.observed.objects.remove(id),
        };
        self.failures.forget(id);
        if matches!(step, Step::Delete(..)) && id.is_device() {
            self.schedule.sweep.get_or_insert(now + SWEEP_DELAY);
        }
        let ObjectId::Network(network, object) = id else { return };
        match object {
            NetworkObject::Bridge | NetworkObject::Vxlan | NetworkObject::Leg
                if drops_others(step) && standing.contains(network) =>
            {
                self.doubts.networks.insert(*network);
            }
            NetworkObject::Port(endpoint) => {
                if matches!(step, Step::Delete(..)) {
                    self.observed.objects.remove(&ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint)));
                }
                let row = self.row_of(*network, *endpoint);
                self.doubts.objects.extend(row);
            }
            _ => {}
        }
    }

    /// The row that leaves the bridge with an endpoint's port, if it was there before the port was made or attached again.
    fn row_of(&self, network: NetworkId, endpoint: EndpointId) -> Option<ObjectId> {
        let local = self.view.local(endpoint)?;
        let row = ObjectId::Network(network, NetworkObject::BridgeFdb(local.record.mac));
        self.observed.objects.contains_key(&row).then_some(row)
    }
}

/// Whether the kernel drops rows, addresses, routes or ports along with this step. A changed MTU drops nothing.
fn drops_others(step: &Step) -> bool {
    let Step::Replace { observed, desired, .. } = step else { return true };
    let mut observed = observed.clone();
    match (&mut observed, desired) {
        (Object::Bridge(old), Object::Bridge(new)) => old.mtu = new.mtu,
        (Object::Vxlan(old), Object::Vxlan(new)) => old.mtu = new.mtu,
        (Object::Leg(old), Object::Leg(new)) => old.mtu = new.mtu,
        _ => {}
    }
    observed != *desired
}
