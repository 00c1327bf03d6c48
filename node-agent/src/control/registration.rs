//! Who this node is: its registration, its sign of life, and whether it may write.
//!
//! Level-triggered: whatever happens (a lost lease, a changed fence, a restart), the node's own keys are read at one
//! revision and the one next step follows from them. Shutting down writes nothing: the lease ends by itself, and an agent
//! that starts again before then goes on with it, so that its sign of life never blinks. Must not touch other nodes' keys.

use std::{net::IpAddr, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};
use weft_overlay::{
    claims::{NodeRegistered, NodeUpdated, Register, Rejoin, Return, Stored, Token, UpdateNode},
    id::{Name, NodeId},
    keys::{Key, KeyRange},
    model::{FenceRecord, LiveRecord, NodeRecord, NodeRoute},
    store::{Store, StoreError},
};

use self::step::{Own, Step, next_step};
use super::{
    backoff::Backoff,
    follow::{FollowSettings, Update, follow},
    submit::{Client, SubmitError},
};

mod step;
#[cfg(test)]
mod tests;

/// How long the sign of life outlasts its last renewal.
pub const LIVE_TTL: Duration = Duration::from_secs(30);

/// How long one step may take before the node's keys are read again.
const STEP_DEADLINE: Duration = Duration::from_secs(5);

/// The longest time between two looks at an obstacle that only somebody else can remove.
const OBSTACLE_PAUSE: Duration = Duration::from_secs(5);

/// What identifies the node for as long as the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// From the state directory; random at first.
    pub node: NodeId,
    /// The node's name.
    pub name: Name,
    /// The address that its VXLAN packets come from.
    pub vtep: IpAddr,
    /// The kernel's boot id.
    pub boot_id: String,
}

/// What a node says of itself and may change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDescription {
    /// The agent's version.
    pub version: String,
    /// The routes of its host, without the default route and without those of Weft.
    pub routes: Vec<NodeRoute>,
}

/// What the node may do.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Nothing yet, or nothing any more.
    Registering {
        /// Why.
        why: Obstacle,
    },
    /// Everything.
    Active(Token),
    /// Keep, change and remove what it has; take on nothing new.
    Draining(Token),
    /// Nothing: the controller gave the node up. It returns as soon as it can, with another epoch.
    Lost,
}

impl Standing {
    /// The right to write, if there is one.
    pub fn token(&self) -> Option<Token> {
        match self {
            Self::Active(token) | Self::Draining(token) => Some(*token),
            Self::Registering { .. } | Self::Lost => None,
        }
    }
}

/// Why a node is not registered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Obstacle {
    /// It has only just started.
    #[error("the agent has not reached the store yet")]
    Starting,
    /// The store does not answer.
    #[error("the store does not answer: {reason}; check --etcd and the way there")]
    Store {
        /// What it said.
        reason: String,
    },
    /// Another node has the name.
    #[error(
        "node name {name} is taken by node {by} ({vtep}); choose another with --node, or remove that one with `weft node rm {name}`"
    )]
    NameTaken {
        /// The name.
        name: Name,
        /// The other node's id.
        by: NodeId,
        /// Where the other node is, if it can be read.
        vtep: String,
    },
    /// Another node has the VTEP.
    #[error(
        "underlay address {vtep} is claimed by node {name} ({by}); choose another with --underlay, or remove that node with `weft node rm {name}`"
    )]
    VtepTaken {
        /// The address.
        vtep: IpAddr,
        /// The other node's id.
        by: NodeId,
        /// Its name, if it can be read.
        name: String,
    },
    /// An agent is running under the same id.
    #[error("an agent with this node's id {node} is alive (boot {boot_id}); if this machine or its state directory is a copy, remove the state directory and start again; if the agent was just restarted, this ends within {} s", LIVE_TTL.as_secs())]
    AliveElsewhere {
        /// The id.
        node: NodeId,
        /// The other agent's boot id.
        boot_id: String,
    },
    /// One of the node's own records is damaged.
    #[error("{reason}")]
    Record {
        /// Which, and what to do.
        reason: String,
    },
}

/// How the store has answered lately.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreHealth {
    /// Whether it did.
    pub reachable: bool,
    /// Since when.
    pub since: Instant,
    /// The last error, also when it is over.
    pub last_error: Option<String>,
}

/// What the rest of the agent sees of the registration.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The node's name, for what people are told.
    pub name: Name,
    /// What the node may do.
    pub standing: watch::Receiver<Standing>,
    /// How the store answers.
    pub health: watch::Receiver<StoreHealth>,
    /// The lease of the sign of life; to be kept on disk and given to [`register`] at the next start.
    pub lease: watch::Receiver<Option<i64>>,
    recheck: Arc<Notify>,
    changed: Arc<Notify>,
}

impl Registration {
    /// Waits until the node has a right to write other than `refused`. Those who wait are served in their order.
    pub async fn other_token(&self, refused: Token) -> Token {
        loop {
            let changed = self.changed.notified();
            if let Some(token) = self.standing.borrow().token().filter(|token| *token != refused) {
                return token;
            }
            changed.await;
        }
    }

    /// Has the fence read again at once: for whoever was refused because of it.
    pub fn recheck(&self) {
        self.recheck.notify_one();
    }
}

/// Registers the node and keeps it so; the future must be polled for as long as the agent runs, and may be dropped at any
/// time. `lease` is what [`Registration::lease`] last showed before the agent ended.
pub fn register<S: Store>(
    client: Client<S>,
    identity: NodeIdentity,
    description: watch::Receiver<NodeDescription>,
    lease: Option<i64>,
) -> (Registration, impl Future<Output = ()> + Send) {
    let (standing_in, standing) = watch::channel(Standing::Registering { why: Obstacle::Starting });
    let start = StoreHealth { reachable: false, since: Instant::now(), last_error: None };
    let (health_in, health) = watch::channel(start);
    let (lease_in, lease_out) = watch::channel(lease);
    let (recheck, changed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let name = identity.name.clone();
    let registrar = Registrar {
        client,
        identity,
        description,
        lease: lease.map(|id| HeldLease { id, ttl: LIVE_TTL, proven: false }),
        alive_here: false,
        standing: standing_in,
        health: health_in,
        lease_out: lease_in,
        recheck: recheck.clone(),
        changed: changed.clone(),
        backoff: Backoff::default(),
    };
    (Registration { name, standing, health, lease: lease_out, recheck, changed }, registrar.run())
}

#[derive(Debug, Clone, Copy)]
struct HeldLease {
    id: i64,
    ttl: Duration,
    /// Whether this process has taken it or seen it alive.
    proven: bool,
}

struct Registrar<S> {
    client: Client<S>,
    identity: NodeIdentity,
    description: watch::Receiver<NodeDescription>,
    lease: Option<HeldLease>,
    /// Whether this process has put or taken over the sign of life.
    alive_here: bool,
    standing: watch::Sender<Standing>,
    health: watch::Sender<StoreHealth>,
    lease_out: watch::Sender<Option<i64>>,
    recheck: Arc<Notify>,
    changed: Arc<Notify>,
    backoff: Backoff,
}

impl<S: Store> Registrar<S> {
    async fn run(self) {
        let woken = self.recheck.clone();
        let keys = self.client.keys();
        let [fence, live] =
            [Key::Fence(self.identity.node), Key::Live(self.identity.node)].map(|key| keys.encode(&key));
        let fence = wake_on_change(self.client.clone(), fence, woken.clone());
        let live = wake_on_change(self.client.clone(), live, woken);
        // One task for all three: dropping this future ends them together.
        tokio::select! {
            biased;
            () = fence => {}
            () = live => {}
            () = self.keep_registered() => {}
        }
    }

    async fn keep_registered(mut self) {
        let mut renew_at = Instant::now();
        loop {
            let pause = match self.converge().await {
                Ok(Settled::Standing) => None,
                Ok(Settled::Blocked) => Some(self.pause().min(OBSTACLE_PAUSE)),
                Err(error) => Some(self.unanswered(&error)),
            };
            let look_at = pause.map(|pause| Instant::now() + pause);
            // Renewals go on whatever else happens; anything else leads to a fresh look.
            loop {
                tokio::select! {
                    biased;
                    // All cancel-safe: a permit of `Notify` and a change of a watch channel stay until they are taken.
                    () = sleep_until(renew_at) => {
                        let (next, lost) = self.renew().await;
                        renew_at = next;
                        if lost { break; }
                    }
                    () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => break,
                    () = self.recheck.notified() => break,
                    changed = self.description.changed() => if changed.is_ok() { break } else { return },
                }
            }
        }
    }

    /// Goes from step to step until there is none, or one that only time or somebody else can make possible.
    async fn converge(&mut self) -> Result<Settled, SubmitError> {
        let mut lease_had_ended = false;
        loop {
            let own = self.read_own().await?;
            self.answered();
            let description = self.description.borrow_and_update().clone();
            let step = next_step(&self.identity, &description, &self.claimant(), own);
            debug!(node = %self.identity.node, step = step.name(), "registration step");
            match self.take(step).await {
                Ok(Some(settled)) => return Ok(settled),
                Ok(None) => {}
                // The watch has told of it before the next renewal did. A second lease that ends as it begins has to wait.
                Err(error) if names_dead_lease(&error) && !lease_had_ended => {
                    lease_had_ended = true;
                    self.lease_ended();
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn take(&mut self, step: Step) -> Result<Option<Settled>, SubmitError> {
        match step {
            Step::CheckLease => self.check_lease().await.map(|()| None),
            Step::Grant => self.grant().await.map(|()| None),
            Step::Register { record, lease } => self.first_registration(record, lease).await,
            Step::Rejoin { token, lease } => {
                let (boot_id, version) = self.life();
                let claim = Rejoin { token, boot_id, version, lease };
                self.client.submit(&claim, step_deadline()).await.map(|_| None)
            }
            Step::Return { fence, lease } => {
                self.publish(Standing::Lost);
                let (boot_id, version) = self.life();
                let claim = Return { node: self.identity.node, fence, boot_id, version, lease };
                self.client.submit(&claim, step_deadline()).await.map(|_| None)
            }
            Step::Describe { token, previous, record } => self.describe(token, previous, record).await,
            Step::DropLease => {
                self.lease = None;
                self.lease_out.send_replace(None);
                Ok(None)
            }
            Step::Settled(standing) => {
                self.alive_here = true;
                self.backoff.succeeded();
                self.publish(standing);
                Ok(Some(Settled::Standing))
            }
            Step::Blocked(why) => {
                self.alive_here = false;
                self.publish(Standing::Registering { why });
                Ok(Some(Settled::Blocked))
            }
        }
    }

    async fn read_own(&self) -> Result<Own, SubmitError> {
        let node = self.identity.node;
        let [record, fence, live] = [Key::Node(node), Key::Fence(node), Key::Live(node)];
        let reply = self.client.read([&record, &fence, &live], step_deadline()).await?;
        Ok(Own {
            record: self.client.found::<NodeRecord>(&reply, &record)?,
            fence: self.client.found::<FenceRecord>(&reply, &fence)?,
            live: self.client.found::<LiveRecord>(&reply, &live)?,
        })
    }

    fn claimant(&self) -> step::Claimant {
        step::Claimant { lease: self.lease.map(|lease| (lease.id, lease.proven)), alive_here: self.alive_here }
    }

    fn life(&self) -> (String, String) {
        (self.identity.boot_id.clone(), self.description.borrow().version.clone())
    }

    /// Finds out, without renewing it, whether the lease of an earlier run still lives.
    async fn check_lease(&mut self) -> Result<(), SubmitError> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let left = self.client.store().time_to_live(lease.id).await.map_err(unanswered)?;
        if left.is_zero() {
            self.lease = None;
        } else {
            lease.proven = true;
        }
        Ok(())
    }

    async fn grant(&mut self) -> Result<(), SubmitError> {
        let lease = self.client.store().grant(LIVE_TTL).await.map_err(unanswered)?;
        self.lease = Some(HeldLease { id: lease.id, ttl: lease.ttl, proven: true });
        self.lease_out.send_replace(Some(lease.id));
        Ok(())
    }

    /// Renews the lease; answers when to do so next, and whether the lease has ended.
    async fn renew(&mut self) -> (Instant, bool) {
        let Some(HeldLease { id, ttl, proven: true }) = self.lease else {
            return (Instant::now() + LIVE_TTL / 3, false);
        };
        let soon = Instant::now() + ttl / 10;
        match self.client.store().keep_alive(id).await {
            Ok(left) if left.is_zero() => {
                self.answered();
                self.lease_ended();
                (soon, true)
            }
            Ok(_) => {
                self.answered();
                (Instant::now() + ttl / 3, false)
            }
            Err(error) => {
                self.note_error(&error.to_string());
                (soon, false)
            }
        }
    }

    fn lease_ended(&mut self) {
        if let Some(HeldLease { id, .. }) = self.lease.take() {
            info!(lease = id, "the lease of the sign of life has ended; taking another");
        }
    }

    async fn first_registration(&mut self, record: NodeRecord, lease: i64) -> Result<Option<Settled>, SubmitError> {
        let boot_id = self.identity.boot_id.clone();
        let claim = Register { node: self.identity.node, record, boot_id, lease };
        let why = match self.client.submit(&claim, step_deadline()).await? {
            NodeRegistered::Registered(token) => {
                info!(node = %token.node, epoch = token.epoch, "node registered");
                return Ok(None);
            }
            NodeRegistered::Known { .. } | NodeRegistered::LiveElsewhere(_) => return Ok(None),
            NodeRegistered::NameTaken { by } => self.name_taken(by).await?,
            NodeRegistered::VtepTaken { by } => self.vtep_taken(by).await?,
        };
        self.publish(Standing::Registering { why });
        Ok(Some(Settled::Blocked))
    }

    async fn describe(
        &mut self,
        token: Token,
        previous: Stored<NodeRecord>,
        record: NodeRecord,
    ) -> Result<Option<Settled>, SubmitError> {
        let claim = UpdateNode { token, previous, record };
        let why = match self.client.submit(&claim, step_deadline()).await? {
            NodeUpdated::Updated(_) | NodeUpdated::Fenced(_) | NodeUpdated::Changed(_) => return Ok(None),
            NodeUpdated::NameTaken { by } => self.name_taken(by).await?,
            NodeUpdated::VtepTaken { by } => self.vtep_taken(by).await?,
        };
        self.publish(Standing::Registering { why });
        Ok(Some(Settled::Blocked))
    }

    async fn name_taken(&self, by: NodeId) -> Result<Obstacle, SubmitError> {
        let other = self.other(by).await?;
        let vtep = other.map_or_else(|| "address unknown".to_owned(), |node| node.vtep.to_string());
        Ok(Obstacle::NameTaken { name: self.identity.name.clone(), by, vtep })
    }

    async fn vtep_taken(&self, by: NodeId) -> Result<Obstacle, SubmitError> {
        let other = self.other(by).await?;
        let name = other.map_or_else(|| by.to_string(), |node| node.name.to_string());
        Ok(Obstacle::VtepTaken { vtep: self.identity.vtep, by, name })
    }

    async fn other(&self, node: NodeId) -> Result<Option<NodeRecord>, SubmitError> {
        let key = Key::Node(node);
        let reply = self.client.read([&key], step_deadline()).await?;
        Ok(self.client.found::<NodeRecord>(&reply, &key)?.map(|stored| stored.record))
    }

    fn publish(&self, standing: Standing) {
        let changed = self.standing.send_if_modified(|current| {
            let changed = *current != standing;
            if changed {
                announce(&self.identity, &standing);
                *current = standing;
            }
            changed
        });
        if changed {
            self.changed.notify_waiters();
        }
    }

    fn answered(&self) {
        self.health.send_if_modified(|health| {
            let changed = !health.reachable;
            if changed {
                (health.reachable, health.since) = (true, Instant::now());
            }
            changed
        });
    }

    fn note_error(&self, reason: &str) {
        self.health.send_modify(|health| {
            if health.reachable {
                (health.reachable, health.since) = (false, Instant::now());
            }
            health.last_error = Some(reason.to_owned());
        });
    }

    /// What the node may do stays as it was: the store will say no if it is not so.
    fn unanswered(&mut self, error: &SubmitError) -> Duration {
        let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        let record = matches!(error, SubmitError::Record { .. } | SubmitError::Reply(_));
        if record {
            self.answered();
        } else {
            self.note_error(&reason);
        }
        if self.standing.borrow().token().is_none() {
            let why = if record { Obstacle::Record { reason: error.to_string() } } else { Obstacle::Store { reason } };
            self.publish(Standing::Registering { why });
        }
        self.pause()
    }

    fn pause(&mut self) -> Duration {
        let Self { client, backoff, .. } = self;
        client.with_rng(|rng| backoff.failed(rng))
    }
}

/// Where [`Registrar::converge`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Standing,
    Blocked,
}

fn announce(identity: &NodeIdentity, standing: &Standing) {
    let node = identity.node;
    match standing {
        Standing::Active(token) => info!(%node, epoch = token.epoch, revision = token.fence_revision, "node is active"),
        Standing::Draining(token) => info!(%node, epoch = token.epoch, "node is draining"),
        Standing::Lost => warn!(%node, "the controller has declared this node lost; returning"),
        Standing::Registering { why } => warn!(%node, error = %why, "node is not registered"),
    }
}

fn step_deadline() -> Instant {
    Instant::now() + STEP_DEADLINE
}

fn unanswered(error: StoreError) -> SubmitError {
    SubmitError::Unknown { source: Some(error) }
}

/// Whether a write was refused because the lease that it names has ended.
fn names_dead_lease(error: &SubmitError) -> bool {
    match error {
        SubmitError::Unknown { source: Some(error) } | SubmitError::Refused(error) => {
            matches!(error, StoreError::LeaseNotFound { .. })
        }
        SubmitError::Unknown { source: None } | SubmitError::Reply(_) | SubmitError::Record { .. } => false,
    }
}

/// Follows one key and has the registration look again whenever it may have changed.
async fn wake_on_change<S: Store>(client: Client<S>, key: Vec<u8>, woken: Arc<Notify>) {
    let mut end = key.clone();
    end.push(0);
    let (updates_in, mut updates) = mpsc::channel(4);
    let range = KeyRange { start: key, end };
    let following = follow(client.store().clone(), range, FollowSettings::default(), client.fork_rng(), updates_in);
    let waking = async {
        while let Some(update) = updates.recv().await {
            if matches!(update, Update::Snapshot(_) | Update::Replaced(_) | Update::Events { .. }) {
                woken.notify_one();
            }
        }
    };
    tokio::join!(following, waking);
}
