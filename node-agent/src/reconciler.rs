//! The loop that makes the kernel what the view says: owns the view, what was observed, and the kernel.
//!
//! Level-triggered: whatever arrives only changes the view, or casts doubt on something observed. A pass re-reads what is
//! in doubt, plans for what is dirty, applies, and believes what each write returned until something casts doubt on it.
//! One thread, one pass at a time. Must not talk to the store.

use std::{
    collections::BTreeSet,
    sync::mpsc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::UnboundedSender, oneshot};
use tracing::warn;
use weft_overlay::{
    id::{EndpointId, NetworkId},
    kernel::{Kernel, KernelState, NodeObject, ObjectId, ObserveError, Scope},
    plan::{Obstacle, Plan, plan, plan_everything},
    view::{Knowledge, NodeView},
};

use crate::api::messages::Counters;

pub use doubt::Doubt;
use doubt::Doubts;
use failure::{Backoff, Failures};
use report::obstacle_id;
pub(crate) use weft_overlay::cause::chain;

mod belief;
mod doubt;
mod failure;
mod reading;
mod report;

/// How often everything is read and compared, whatever notifications say.
const AUDIT_INTERVAL: Duration = Duration::from_secs(300);
/// How often the insides of containers are read: nothing tells of changes there.
const SANDBOX_AUDIT_INTERVAL: Duration = Duration::from_secs(30);
/// How often settings are read that the kernel does not announce changes of (`arp_ignore`, `accept_ra` and the like).
const SETTINGS_INTERVAL: Duration = Duration::from_millis(900);
/// How often the chains of others are listed: nftables announces changes, the older iptables does not. It takes several
/// processes, so it is not done often.
const ACCEPTS_INTERVAL: Duration = Duration::from_secs(60);
/// When devices that were put out of use are deleted for good: soon, but not while somebody waits.
const SWEEP_DELAY: Duration = Duration::from_millis(20);
/// When that is tried again after it failed.
const SWEEP_RETRY: Duration = Duration::from_secs(1);
/// A plan whose devices were remade needs another one; more rounds than this in one pass mean that somebody works
/// against us, and then others get their turn first.
const ROUNDS: usize = 4;
/// When a pass goes on that could not settle everything: because of that somebody, or because the kernel was not readable.
const RESUME_DELAY: Duration = Duration::from_millis(100);

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
    /// What is to be compared with what is wanted.
    dirty: BTreeSet<ObjectId>,
    /// What cannot be decided or done until more is known, or what is foreign or gone is so no longer.
    deferred: BTreeSet<ObjectId>,
    /// What was known when that was last asked.
    knowledge: Knowledge,
    doubts: Doubts,
    reads: Backoff,
    sandbox_reads: Backoff,
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
    accepts: Instant,
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
            deferred: BTreeSet::new(),
            knowledge: Knowledge::default(),
            doubts: Doubts::default(),
            reads: Backoff::default(),
            sandbox_reads: Backoff::default(),
            failures: Failures::default(),
            obstacles: BTreeSet::new(),
            waiting: Vec::new(),
            notices,
            counters: Counters::default(),
            schedule: Schedule {
                audit: now,
                sandboxes: now,
                settings: now + SETTINGS_INTERVAL,
                accepts: now + ACCEPTS_INTERVAL,
                sweep: None,
            },
        }
    }

    /// Runs until every sender of inputs is gone. The kernel is left as it is.
    pub fn run(mut self, inputs: &mpsc::Receiver<Input<K>>) {
        loop {
            let now = Instant::now();
            let wait = self.next_wake(now).saturating_duration_since(now);
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
                    if doubt == Doubt::Obstruction {
                        self.dirty.extend(self.failures.ids());
                    }
                    self.doubts.add(doubt, &self.observed);
                }
            }
            Input::Ask(ask) => ask(self),
        }
    }

    /// One pass: reads what is in doubt, does what is to be done, answers who waits.
    pub fn pass(&mut self) {
        self.pass_at(Instant::now());
    }

    fn pass_at(&mut self, now: Instant) {
        self.counters.passes += 1;
        self.fall_due(now);
        self.ask_again_when_more_is_known();
        self.resolve_doubts(now);
        self.converge(now);
        self.tell();
        self.sweep_if_due(now);
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

    /// What would be done now, from a fresh reading of everything; nothing is written.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn preview(&mut self) -> Result<(KernelState, Plan), ObserveError> {
        let mut fresh = self.kernel.observe(&Scope::Everything)?;
        let places = self.places(self.sandboxes());
        fresh.objects.extend(self.kernel.observe(&Scope::Sandboxes(places))?.objects);
        let plan = plan_everything(&self.view, &fresh);
        Ok((fresh, plan))
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let fixed = [self.schedule.audit, self.schedule.sandboxes, self.schedule.settings, self.schedule.accepts];
        let unsettled = !self.dirty.is_empty() || !self.doubts.is_empty();
        let resume = unsettled.then_some(now + RESUME_DELAY);
        let soon = [self.schedule.sweep, self.failures.next_retry(), resume].into_iter().flatten();
        soon.chain(fixed).min().unwrap_or(now)
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
            let sandboxes: Vec<ObjectId> = self.sandboxes().collect();
            self.doubts.sandboxes.extend(sandboxes);
        }
        if now >= self.schedule.settings {
            self.schedule.settings = now + SETTINGS_INTERVAL;
            let networks = self.view.networks().map(|(network, _)| network);
            self.doubts.add_settings(&self.observed, networks);
        }
        if now >= self.schedule.accepts {
            self.schedule.accepts = now + ACCEPTS_INTERVAL;
            self.doubts.objects.insert(ObjectId::Node(NodeObject::ForeignAccepts));
        }
        self.dirty.extend(self.failures.take_due(now));
    }

    fn ask_again_when_more_is_known(&mut self) {
        let knowledge = self.view.knowledge();
        if knowledge != self.knowledge {
            self.knowledge = knowledge;
            self.dirty.append(&mut self.deferred);
        }
    }

    fn converge(&mut self, now: Instant) {
        for _ in 0..ROUNDS {
            let ids = self.take_decidable();
            if ids.is_empty() {
                return;
            }
            let plan = plan(&self.view, &self.observed, &ids);
            self.failures.forget_settled(&ids, &plan);
            self.defer(&ids, &plan);
            self.note_obstacles(&ids, &plan);
            if !plan.steps.is_empty() {
                self.apply(&plan, now);
                self.resolve_doubts(now);
            }
        }
    }

    /// What is dirty, without that of which it is not known how it is now: nothing is planned on an outdated reading.
    fn take_decidable(&mut self) -> BTreeSet<ObjectId> {
        let dirty = std::mem::take(&mut self.dirty);
        if self.doubts.is_empty() {
            return dirty;
        }
        let (unread, ids) = dirty.into_iter().partition(|id| self.doubts.covers(id));
        self.dirty = unread;
        ids
    }

    fn defer(&mut self, ids: &BTreeSet<ObjectId>, plan: &Plan) {
        if !self.deferred.is_empty() {
            for id in ids {
                self.deferred.remove(id);
            }
        }
        self.deferred.extend(plan.deferred.iter().cloned());
    }

    fn note_obstacles(&mut self, ids: &BTreeSet<ObjectId>, plan: &Plan) {
        let gone = |obstacle: &Obstacle| ids.contains(&obstacle_id(obstacle)) && !plan.obstacles.contains(obstacle);
        self.obstacles.retain(|obstacle| !gone(obstacle));
        for obstacle in &plan.obstacles {
            if self.obstacles.insert(obstacle.clone()) {
                warn!(%obstacle, "obstacle");
            }
            if let Obstacle::SandboxGone(network, endpoint) = obstacle {
                self.notify(Notice::SandboxGone(*network, *endpoint));
            }
        }
    }

    fn sweep_if_due(&mut self, now: Instant) {
        if self.schedule.sweep.is_some_and(|due| due <= now) {
            self.sweep();
        }
    }

    /// Deletes for good what is out of use, if there is anything.
    pub fn sweep(&mut self) {
        if self.schedule.sweep.take().is_none() {
            return;
        }
        if let Err(error) = self.kernel.sweep() {
            warn!(error = %chain(&error), "deleting devices that are out of use");
            self.schedule.sweep = Some(Instant::now() + SWEEP_RETRY);
        }
    }
}

#[cfg(test)]
mod tests;
