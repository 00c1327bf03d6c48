//! The loop that makes the kernel what the view says: owns the view, what was observed, and the kernel.
//!
//! Level-triggered: whatever arrives only changes the view, or casts doubt on something observed. A pass re-reads what is
//! in doubt, plans for what is dirty, applies, and believes what each write returned until something casts doubt on it.
//! One thread, one pass at a time. Must not talk to the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::UnboundedSender, oneshot};
use tracing::{debug, info, warn};
use weft_overlay::{
    desired::{Wanted, wanted},
    id::{EndpointId, NetworkId},
    kernel::{Kernel, KernelState, NetworkObject, Object, ObjectId, ObserveError, Scope, Step},
    model::EndpointKind,
    plan::{Obstacle, Plan, plan, plan_everything},
    view::NodeView,
};

use crate::api::messages::Counters;

pub use doubt::Doubt;
use doubt::Doubts;
use failure::Failures;

mod doubt;
mod failure;

/// How often everything is read and compared, whatever notifications say.
const AUDIT_INTERVAL: Duration = Duration::from_secs(300);
/// How often the insides of containers are read: nothing tells of changes there.
const SANDBOX_AUDIT_INTERVAL: Duration = Duration::from_secs(30);
/// How often settings are read that the kernel does not announce changes of (`arp_ignore`, `accept_ra` and the like).
const SETTINGS_INTERVAL: Duration = Duration::from_millis(900);
/// When devices that were put out of use are deleted for good: soon, but not while somebody waits.
const SWEEP_DELAY: Duration = Duration::from_millis(20);
/// A plan whose devices were remade needs another one; more rounds than this in one pass mean that somebody works
/// against us, and then others get their turn first.
const ROUNDS: usize = 4;

/// A change of the view, which answers what may be affected.
pub type Change = Box<dyn FnOnce(&mut NodeView) -> BTreeSet<ObjectId> + Send>;

/// A look at the reconciler between two passes.
pub type Ask<K> = Box<dyn FnOnce(&mut Reconciler<K>) + Send>;

/// What the reconciler is told.
pub enum Input<K> {
    /// Changes the view; answers what may be affected.
    Change {
        /// The change.
        change: Change,
        /// Told what could not be done of it, once it was tried.
        done: Option<oneshot::Sender<Settled>>,
    },
    /// Something observed may no longer be so.
    Doubts(Vec<Doubt>),
    /// Looks at the reconciler between two passes.
    Ask(Ask<K>),
}

impl<K> std::fmt::Debug for Input<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Change { .. } => "Change",
            Self::Doubts(_) => "Doubts",
            Self::Ask(_) => "Ask",
        })
    }
}

/// What became of a change: the steps that failed, as text.
pub type Settled = Vec<String>;

/// What the reconciler tells others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// These endpoint records changed; look them up.
    EndpointsChanged(BTreeSet<(NetworkId, std::net::IpAddr)>),
    /// The namespace of a container of this node is gone.
    SandboxGone(NetworkId, EndpointId),
}

/// The reconciler of one node.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    view: NodeView,
    observed: KernelState,
    dirty: BTreeSet<ObjectId>,
    doubts: Doubts,
    failures: Failures,
    obstacles: BTreeSet<Obstacle>,
    waiting: Vec<(BTreeSet<ObjectId>, oneshot::Sender<Settled>)>,
    notices: UnboundedSender<Notice>,
    counters: Counters,
    schedule: Schedule,
}

#[derive(Debug)]
struct Schedule {
    audit: Instant,
    sandboxes: Instant,
    settings: Instant,
    sweep: Option<Instant>,
}

impl<K: Kernel> Reconciler<K> {
    /// A reconciler that has seen nothing yet; its first pass is an audit.
    pub fn new(kernel: K, view: NodeView, notices: UnboundedSender<Notice>) -> Self {
        let now = Instant::now();
        Self {
            kernel,
            view,
            observed: KernelState::default(),
            dirty: BTreeSet::new(),
            doubts: Doubts::default(),
            failures: Failures::default(),
            obstacles: BTreeSet::new(),
            waiting: Vec::new(),
            notices,
            counters: Counters::default(),
            schedule: Schedule { audit: now, sandboxes: now, settings: now + SETTINGS_INTERVAL, sweep: None },
        }
    }

    /// Runs until every sender of inputs is gone. The kernel is left as it is.
    pub fn run(mut self, inputs: &mpsc::Receiver<Input<K>>) {
        loop {
            let wait = self.next_wake().saturating_duration_since(Instant::now());
            match inputs.recv_timeout(wait) {
                Ok(input) => {
                    self.take(input);
                    while let Ok(input) = inputs.try_recv() {
                        self.take(input);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.pass();
        }
    }

    /// Takes in one input.
    pub fn take(&mut self, input: Input<K>) {
        match input {
            Input::Change { change, done } => {
                let affected = change(&mut self.view);
                if let Some(done) = done {
                    self.waiting.push((affected.clone(), done));
                }
                self.dirty.extend(affected);
            }
            Input::Doubts(doubts) => {
                for doubt in doubts {
                    self.doubts.add(doubt, &self.observed);
                }
            }
            Input::Ask(ask) => ask(self),
        }
    }

    /// One pass: reads what is in doubt, does what is to be done, answers who waits.
    pub fn pass(&mut self) {
        let began = Instant::now();
        self.counters.passes += 1;
        self.fall_due(began);
        self.resolve_doubts();
        self.converge(began);
        self.tell();
        self.sweep_if_due();
    }

    /// The view that is being reconciled.
    pub fn view(&self) -> &NodeView {
        &self.view
    }

    /// What the kernel is believed to hold.
    pub fn observed(&self) -> &KernelState {
        &self.observed
    }

    /// Counters since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether there is nothing to do, nothing in doubt and nothing in the way.
    pub fn is_converged(&self) -> bool {
        self.view.is_loaded()
            && self.view.unlisted().next().is_none()
            && self.dirty.is_empty()
            && self.doubts.is_empty()
            && self.failures.is_empty()
            && self.obstacles.is_empty()
    }

    /// What is still to be done, and what keeps failing or is in the way.
    pub fn troubles(&self) -> (Vec<String>, Vec<String>) {
        let unlisted = self.view.unlisted().map(|network| format!("network {network} is not listed yet"));
        let pending = self.dirty.iter().map(ToString::to_string).chain(unlisted).collect();
        let quarantined = self.view.quarantine().map(|(key, reason)| {
            format!(
                "value of {} in the store is unreadable, its last good version is kept: {reason}",
                String::from_utf8_lossy(key)
            )
        });
        let errors = self.failures.texts().chain(self.obstacles.iter().map(ToString::to_string)).chain(quarantined);
        (pending, errors.collect())
    }

    /// What would be done now, from a fresh reading of everything; nothing is written.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn preview(&mut self) -> Result<(KernelState, Plan), ObserveError> {
        let mut fresh = self.kernel.observe(&Scope::Everything)?;
        let places = self.places();
        fresh.objects.extend(self.kernel.observe(&Scope::Sandboxes(places))?.objects);
        let plan = plan_everything(&self.view, &fresh);
        Ok((fresh, plan))
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let soon = [self.schedule.sweep, self.failures.next_retry()].into_iter().flatten();
        let fixed = [self.schedule.audit, self.schedule.sandboxes, self.schedule.settings];
        let next = soon.chain(fixed).min().unwrap_or(now);
        if self.dirty.is_empty() && self.doubts.is_empty() { next } else { next.min(now + Duration::from_millis(1)) }
    }

    fn fall_due(&mut self, now: Instant) {
        if now >= self.schedule.audit {
            self.schedule.audit = now + AUDIT_INTERVAL;
            self.counters.audits += 1;
            self.doubts.add(Doubt::Everything, &self.observed);
            self.dirty.extend(self.view.all());
            self.dirty.extend(self.observed.objects.keys().cloned());
        }
        if now >= self.schedule.sandboxes {
            self.schedule.sandboxes = now + SANDBOX_AUDIT_INTERVAL;
            self.doubts.sandboxes.extend(self.places().into_keys());
        }
        if now >= self.schedule.settings {
            self.schedule.settings = now + SETTINGS_INTERVAL;
            self.doubts.add_settings(&self.observed);
        }
        self.dirty.extend(self.failures.due(now));
    }

    fn resolve_doubts(&mut self) {
        for scope in self.doubts.take_scopes() {
            self.observe(&scope);
        }
        let lost_ports = self.lost_ports();
        self.doubts.sandboxes.extend(lost_ports);
        let sandboxes = std::mem::take(&mut self.doubts.sandboxes);
        if !sandboxes.is_empty() {
            let mut places = self.places();
            places.retain(|id, _| sandboxes.contains(id));
            self.observe(&Scope::Sandboxes(places));
        }
    }

    fn observe(&mut self, scope: &Scope) {
        match self.kernel.observe(scope) {
            Ok(read) => {
                let differing = self.observed.absorb(scope, read);
                self.dirty.extend(differing);
            }
            Err(error) => {
                warn!(error = %chain(&error), "reading the kernel");
                self.counters.failures += 1;
                self.doubts.put_back(scope);
            }
        }
    }

    /// Sandboxes whose port has vanished although it was made: the container may have gone with it.
    fn lost_ports(&self) -> Vec<ObjectId> {
        let is_lost = |id: &ObjectId| match id {
            ObjectId::Network(network, NetworkObject::Port(endpoint)) => {
                let sandbox = ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint));
                let known = self.observed.objects.contains_key(&sandbox);
                let registered = self.view.local(*endpoint).is_some_and(|local| local.registered);
                (!self.observed.objects.contains_key(id) && (known || registered)).then_some(sandbox)
            }
            ObjectId::Network(..) | ObjectId::Node(_) => None,
        };
        self.dirty.iter().filter_map(is_lost).collect()
    }

    /// Where the containers of this node are, as far as their sandboxes are wanted.
    fn places(&self) -> BTreeMap<ObjectId, weft_overlay::kernel::Place> {
        let networks: Vec<NetworkId> = self.view.networks().map(|(network, _)| network).collect();
        let locals = networks.iter().flat_map(|network| self.view.locals_in(*network));
        let containers = locals.filter(|local| local.record.kind == EndpointKind::Container);
        let ids = containers.map(|local| ObjectId::Network(local.network, NetworkObject::Sandbox(local.record.id)));
        let place = |id: ObjectId| match wanted(&self.view, &id) {
            Wanted::Exactly(Object::Sandbox(state)) => Some((id, state.place)),
            _ => None,
        };
        ids.filter_map(place).collect()
    }

    fn converge(&mut self, began: Instant) {
        for _ in 0..ROUNDS {
            let ids = std::mem::take(&mut self.dirty);
            if ids.is_empty() {
                return;
            }
            let plan = plan(&self.view, &self.observed, &ids);
            self.note_obstacles(&ids, &plan);
            self.failures.forget_settled(&ids, &plan);
            if plan.steps.is_empty() {
                continue;
            }
            self.apply(&plan, began);
            self.resolve_doubts();
        }
    }

    fn apply(&mut self, plan: &Plan, began: Instant) {
        let results = self.kernel.apply(&plan.steps);
        let mut failed = 0;
        for (step, result) in plan.steps.iter().zip(results) {
            match result {
                Ok(()) => self.believe(step),
                Err(error) => {
                    failed += 1;
                    self.failures.note(step.id(), &chain(&error), Instant::now());
                    self.doubts.objects.insert(step.id().clone());
                }
            }
        }
        self.counters.writes += (plan.steps.len() - failed) as u64;
        self.counters.failures += failed as u64;
        let elapsed_ms = began.elapsed().as_secs_f64() * 1000.0;
        info!(planned = plan.steps.len(), failed, elapsed_ms, steps = ?plan.summary(), "pass changed the kernel");
        for step in &plan.steps {
            debug!(%step, "step");
        }
    }

    /// Takes what a successful step returned for the kernel's state, and doubts what the kernel may have dropped with it.
    fn believe(&mut self, step: &Step) {
        let id = step.id();
        match step.result() {
            Some(object) => self.observed.objects.insert(id.clone(), object.clone()),
            None => self.observed.objects.remove(id),
        };
        self.failures.forget(id);
        let ObjectId::Network(network, object) = id else { return };
        match object {
            NetworkObject::Bridge | NetworkObject::Vxlan | NetworkObject::Leg if drops_others(step) => {
                self.doubts.networks.insert(*network);
            }
            NetworkObject::Port(endpoint) => {
                if matches!(step, Step::Delete(..)) {
                    self.observed.objects.remove(&ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint)));
                    self.schedule.sweep.get_or_insert_with(|| Instant::now() + SWEEP_DELAY);
                }
                let rows = self.rows_of(*network, *endpoint);
                self.doubts.objects.extend(rows);
            }
            _ => {}
        }
    }

    /// Rows that leave the bridge with an endpoint's port: they were there before a replaced one was attached again.
    fn rows_of(&self, network: NetworkId, endpoint: EndpointId) -> Option<ObjectId> {
        let local = self.view.local(endpoint)?;
        let row = ObjectId::Network(network, NetworkObject::BridgeFdb(local.record.mac));
        self.observed.objects.contains_key(&row).then_some(row)
    }

    fn note_obstacles(&mut self, ids: &BTreeSet<ObjectId>, plan: &Plan) {
        self.obstacles.retain(|obstacle| !ids.contains(&obstacle_id(obstacle)));
        for obstacle in &plan.obstacles {
            if let Obstacle::SandboxGone(network, endpoint) = obstacle {
                self.notify(Notice::SandboxGone(*network, *endpoint));
            } else if !self.obstacles.contains(obstacle) {
                warn!(%obstacle, "obstacle");
            }
            self.obstacles.insert(obstacle.clone());
        }
    }

    fn tell(&mut self) {
        let changes = self.view.take_changes();
        if !changes.is_empty() {
            self.notify(Notice::EndpointsChanged(changes));
        }
        for (ids, done) in std::mem::take(&mut self.waiting) {
            // Nobody waits any more when this fails.
            done.send(self.failures.texts_of(&ids)).ok();
        }
    }

    fn notify(&self, notice: Notice) {
        // The receiver ends with the agent.
        self.notices.send(notice).ok();
    }

    fn sweep_if_due(&mut self) {
        if self.schedule.sweep.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.schedule.sweep = None;
        if let Err(error) = self.kernel.sweep() {
            warn!(error = %chain(&error), "deleting devices that are out of use");
            self.schedule.sweep = Some(Instant::now() + Duration::from_secs(1));
        }
    }
}

/// Whether the kernel drops rows or ports along with this step. A changed MTU does not.
fn drops_others(step: &Step) -> bool {
    match step {
        Step::Create(..) | Step::Delete(..) => true,
        Step::Replace { observed: Object::Bridge(old), desired: Object::Bridge(new), .. } => {
            (old.mac, old.up) != (new.mac, new.up)
        }
        Step::Replace { observed: Object::Leg(old), desired: Object::Leg(new), .. } => {
            (old.mac, old.attached) != (new.mac, new.attached)
        }
        Step::Replace { observed: Object::Vxlan(old), desired: Object::Vxlan(new), .. } => {
            let fixed = |v: &weft_overlay::kernel::Vxlan| (v.vni, v.local, v.port, v.mac, v.attached, v.tuned);
            fixed(old) != fixed(new)
        }
        Step::Replace { .. } => true,
    }
}

fn obstacle_id(obstacle: &Obstacle) -> ObjectId {
    match obstacle {
        Obstacle::Foreign(id, _) => id.clone(),
        Obstacle::SandboxGone(network, endpoint) => ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint)),
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
