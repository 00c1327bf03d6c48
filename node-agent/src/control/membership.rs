//! This node's part in networks: joining with the gateway leg, leaving after the last container, coming back when lost.
//!
//! A node joins and leaves in one transaction with its leg, so there is no membership without a leg. Joining and leaving
//! of one network happen one after the other, and nobody leaves while a [`Stay`] is held. The leg's record is an endpoint
//! of kind `leg`: its name is for people, and no name service should answer it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::RngExt;
use thiserror::Error;
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info};
use weft_overlay::{
    claims::{MemberUpdated, Stored, Token, UpdateMember},
    id::{EndpointId, Name, NetworkId},
    keys::Key,
    model::{EndpointKind, EndpointRecord, MemberRecord, NetworkSpec, RECORD_VERSION},
    store::Store,
    txn::Revision,
};

use super::{
    allocation::{AllocationError, Allocator, CommitError, EndpointRequest, ReleaseError, Reservation, StandingError},
    endpoints::own_endpoints,
    registration::{NodeIdentity, Registration, Standing},
    submit::{Client, SubmitError},
};

mod recovery;
#[cfg(test)]
mod tests;

pub use recovery::{Recovered, RecoveryOutcome};

/// How long a node stays in a network after its last container left: a container that is replaced finds all in place.
pub const LINGER: Duration = Duration::from_secs(2);

/// Attempts to find an address for a leg.
const ATTEMPTS: usize = 8;

/// Time between two looks at networks that could not be left or told of a new MTU.
const RETRY: Duration = Duration::from_secs(2);

/// Why a node did not join, or did not leave.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// There is no address for the gateway leg.
    #[error("the gateway leg of network {network} got no address")]
    Address {
        /// The network.
        network: Name,
        /// Why.
        #[source]
        source: Box<AllocationError>,
    },
    /// The gateway leg was not registered.
    #[error("the gateway leg of network {network} was not registered")]
    Leg {
        /// The network.
        network: Name,
        /// Why.
        #[source]
        source: Box<CommitError>,
    },
    /// The gateway leg was not removed.
    #[error("the gateway leg of network {network} was not removed")]
    Release {
        /// The network.
        network: NetworkId,
        /// Why.
        #[source]
        source: ReleaseError,
    },
    /// The node may not do so.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The network is gone.
    #[error("network {0} was deleted meanwhile; use another network")]
    NetworkGone(NetworkId),
    /// The store did not answer, or said no.
    #[error("the networks of this node cannot be read or changed")]
    Store(#[from] SubmitError),
}

/// A network that this node takes part in.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    /// The gateway leg as it is stored.
    pub leg: Stored<EndpointRecord>,
    /// The membership as it is stored.
    pub member: MemberRecord,
}

/// This node's memberships. Clones are the same.
#[derive(Debug)]
pub struct Membership<S: Store> {
    inner: Arc<Inner<S>>,
}

impl<S: Store> Clone for Membership<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

#[derive(Debug)]
struct Inner<S: Store> {
    client: Client<S>,
    allocator: Allocator<S>,
    registration: Registration,
    identity: NodeIdentity,
    underlay_mtu: watch::Receiver<u32>,
    networks: Mutex<BTreeMap<NetworkId, Arc<Part>>>,
    restored: OnceCell<()>,
    /// Containers of which it is not known whether they were registered again. A reservation that is dropped undoes what
    /// may have been done, which would hit the next attempt.
    unsettled: Mutex<BTreeMap<EndpointId, Reservation>>,
    wake: Arc<Notify>,
}

/// Of one network. `state` is also the gate: whoever joins, leaves or changes holds it.
#[derive(Debug, Default)]
struct Part {
    state: tokio::sync::Mutex<PartState>,
    stays: AtomicUsize,
    use_: Mutex<Use>,
}

#[derive(Debug, Default)]
struct PartState {
    joined: Option<Joined>,
    /// A leg of which it is not known whether it was registered: the same registration is tried again until it is.
    unsettled: Option<Reservation>,
    /// Whether leaving was begun and may have been done: it is finished before anything else.
    leaving: bool,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    containers: bool,
    unused_since: Option<Instant>,
}

impl Default for Use {
    fn default() -> Self {
        Self { containers: false, unused_since: Some(Instant::now()) }
    }
}

impl Part {
    fn usage(&self) -> Use {
        *self.use_.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the network may be left, if at all.
    fn leave_at(&self) -> Option<Instant> {
        let Use { containers, unused_since } = self.usage();
        let free = !containers && self.stays.load(Ordering::Relaxed) == 0;
        unused_since.filter(|_| free).map(|since| since + LINGER)
    }
}

/// While it exists, its node does not leave the network: for the time between joining and the container's own record.
#[derive(Debug)]
pub struct Stay {
    /// The gateway leg.
    pub leg: Stored<EndpointRecord>,
    part: Arc<Part>,
    wake: Arc<Notify>,
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut usage = self.part.use_.lock().unwrap_or_else(PoisonError::into_inner);
        self.part.stays.fetch_sub(1, Ordering::Relaxed);
        usage.unused_since = Some(Instant::now());
        self.wake.notify_one();
    }
}

impl<S: Store> Membership<S> {
    /// Memberships that are read from the store at the first use. `underlay_mtu` in bytes.
    pub fn new(
        client: Client<S>,
        allocator: Allocator<S>,
        registration: Registration,
        identity: NodeIdentity,
        underlay_mtu: watch::Receiver<u32>,
    ) -> Self {
        let inner = Inner {
            client,
            allocator,
            registration,
            identity,
            underlay_mtu,
            networks: Mutex::new(BTreeMap::new()),
            restored: OnceCell::new(),
            unsettled: Mutex::default(),
            wake: Arc::new(Notify::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Joins a network, if that is not done yet: makes the gateway leg and the membership.
    ///
    /// # Errors
    /// When the node may not take on anything, no address is left, or the store does not answer.
    pub async fn join(&self, network: NetworkId, spec: &Stored<NetworkSpec>) -> Result<Stay, MembershipError> {
        self.restore().await?;
        let part = self.part(network);
        part.stays.fetch_add(1, Ordering::Relaxed);
        // From here on an error or a dropped future ends the stay.
        let mut stay = PendingStay { part: part.clone(), done: false };
        let mut state = part.state.lock().await;
        self.settle(network, &mut state).await?;
        let leg = match &state.joined {
            Some(joined) => joined.leg.clone(),
            None => self.make_leg(network, spec, None, &mut state).await?,
        };
        drop(state);
        stay.done = true;
        Ok(Stay { leg, part, wake: self.inner.wake.clone() })
    }

    /// The networks that this node takes part in.
    ///
    /// # Errors
    /// When they have yet to be read and the store does not answer.
    pub async fn joined(&self) -> Result<BTreeMap<NetworkId, Joined>, MembershipError> {
        self.restore().await?;
        let mut joined = BTreeMap::new();
        for (network, part) in self.parts() {
            joined.extend(part.state.lock().await.joined.clone().map(|joined| (network, joined)));
        }
        Ok(joined)
    }

    /// Says whether a container of this node is in a network. With one, the node is kept in it; without one for
    /// [`LINGER`], the node leaves it. To be said for every joined network after a start, because until then it is taken
    /// for used.
    pub fn set_in_use(&self, network: NetworkId, containers: bool) {
        let part = self.part(network);
        let mut usage = part.use_.lock().unwrap_or_else(PoisonError::into_inner);
        if usage.containers != containers {
            *usage = Use { containers, unused_since: (!containers).then(Instant::now) };
            self.inner.wake.notify_one();
        }
    }

    /// Leaves a network at once, whatever is in it: for one that is being removed, after its containers' endpoints.
    ///
    /// # Errors
    /// When the node may not write or the store does not answer; it may be tried again.
    pub async fn leave(&self, network: NetworkId) -> Result<(), MembershipError> {
        self.restore().await?;
        let part = self.part(network);
        let mut state = part.state.lock().await;
        self.settle(network, &mut state).await?;
        self.give_up(network, &mut state).await
    }

    /// Forgets a network that is gone.
    pub fn forget(&self, network: NetworkId) {
        self.inner.networks.lock().unwrap_or_else(PoisonError::into_inner).remove(&network);
    }

    /// Leaves networks that are not used, and tells peers of a new MTU; to be polled for as long as the agent runs.
    pub async fn run(self) {
        let mut mtu = self.inner.underlay_mtu.clone();
        let mut standing = self.inner.registration.standing.clone();
        loop {
            let next = self.tend().await;
            tokio::select! {
                biased;
                // All cancel-safe: permits and changes stay until they are taken.
                () = sleep_until(next) => {}
                () = self.inner.wake.notified() => {}
                changed = mtu.changed() => if changed.is_err() { return },
                changed = standing.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Does what is due; answers when to look again.
    async fn tend(&self) -> Instant {
        let later = Instant::now() + LINGER * 10;
        let may_write = self.inner.registration.standing.borrow().token().is_some();
        if !may_write || self.restore().await.is_err() {
            return Instant::now() + RETRY;
        }
        let mut next = later;
        for (network, part) in self.parts() {
            let due = match part.leave_at() {
                Some(at) if at <= Instant::now() => self.leave_unused(network, &part).await,
                Some(at) => {
                    next = next.min(at);
                    self.refresh(network, &part).await
                }
                None => self.refresh(network, &part).await,
            };
            if let Err(error) = due {
                debug!(%network, error = %error, "upkeep of a membership put off");
                next = next.min(Instant::now() + RETRY);
            }
        }
        next
    }

    async fn leave_unused(&self, network: NetworkId, part: &Part) -> Result<(), MembershipError> {
        let mut state = part.state.lock().await;
        self.settle(network, &mut state).await?;
        // Looked at again under the lock: somebody may have joined while this waited for it.
        if part.leave_at().is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        self.give_up(network, &mut state).await
    }

    async fn give_up(&self, network: NetworkId, state: &mut PartState) -> Result<(), MembershipError> {
        let Some(Joined { leg, .. }) = &state.joined else {
            state.leaving = false;
            return Ok(());
        };
        let leg = leg.clone();
        // Also a future that is dropped leaves it to be finished.
        state.leaving = true;
        let released = self.inner.allocator.release(network, &leg, true).await;
        released.map_err(|source| MembershipError::Release { network, source })?;
        info!(%network, "left the network");
        (state.joined, state.leaving) = (None, false);
        Ok(())
    }

    /// Writes the membership again if only its MTU is not as it should be. With another epoch the leg may be gone too,
    /// which [`Self::recover`] looks after.
    async fn refresh(&self, network: NetworkId, part: &Part) -> Result<(), MembershipError> {
        let Standing::Active(token) = *self.inner.registration.standing.borrow() else { return Ok(()) };
        let mut state = part.state.lock().await;
        self.settle(network, &mut state).await?;
        let Some(joined) = state.joined.as_mut() else {
            if part.usage().containers
                && let Some(spec) = self.active_spec(network).await?
            {
                self.make_leg(network, &spec, None, &mut state).await?;
            }
            return Ok(());
        };
        let member = MemberRecord { extra: joined.member.extra.clone(), ..self.member(token.epoch) };
        if member == joined.member || member.epoch != joined.member.epoch || member.vtep != joined.member.vtep {
            return Ok(());
        }
        self.put_member(network, token, member.clone()).await?;
        joined.member = member;
        Ok(())
    }

    async fn put_member(
        &self,
        network: NetworkId,
        token: Token,
        record: MemberRecord,
    ) -> Result<Revision, MembershipError> {
        let client = &self.inner.client;
        let deadline = self.deadline();
        let spec = self.active_spec(network).await?.ok_or(MembershipError::NetworkGone(network))?;
        let claim = UpdateMember { token, network, spec_revision: spec.revision, record };
        match client.submit(&claim, deadline).await? {
            MemberUpdated::Updated(revision) => Ok(revision),
            MemberUpdated::Fenced(_) => {
                self.inner.registration.recheck();
                Err(StandingError::Changing(self.inner.identity.name.clone()).into())
            }
            MemberUpdated::SpecChanged(_) => Err(MembershipError::NetworkGone(network)),
        }
    }

    /// Finishes what was begun and is not known to be done.
    async fn settle(&self, network: NetworkId, state: &mut PartState) -> Result<(), MembershipError> {
        if state.leaving {
            self.give_up(network, state).await?;
        }
        let Some(reservation) = &mut state.unsettled else { return Ok(()) };
        let name = reservation.network_name().clone();
        match self.register_leg(reservation).await {
            Ok(joined) => {
                info!(%network, "the gateway leg is registered after all");
                state.joined = Some(joined);
                state.unsettled = None;
            }
            Err(CommitError::Store { source, .. }) if source.is_unknown() => return Err(source.into()),
            // Dropped reservations look after themselves where the node had no right to ask.
            Err(CommitError::Standing(error)) => return Err(error.into()),
            Err(error) => {
                debug!(%network, %name, error = %error, "the gateway leg was not registered");
                state.unsettled = None;
            }
        }
        Ok(())
    }

    /// Makes the gateway leg and the membership; with `at`, at the addresses that the leg had, if they can be had.
    async fn make_leg(
        &self,
        network: NetworkId,
        spec: &Stored<NetworkSpec>,
        at: Option<&EndpointRecord>,
        state: &mut PartState,
    ) -> Result<Stored<EndpointRecord>, MembershipError> {
        let name = &spec.record.name;
        let mut request = self.leg_request(at);
        for _ in 0..ATTEMPTS {
            self.settle(network, state).await?;
            if let Some(joined) = &state.joined {
                return Ok(joined.leg.clone());
            }
            let reserved = self.inner.allocator.reserve(network, spec, request.clone()).await;
            let reservation = match reserved {
                Ok(reservation) => reservation,
                Err(error) if request.ipv4.is_some() || request.ipv6.is_some() => {
                    debug!(%network, error = %error, "the gateway leg gets another address");
                    (request.ipv4, request.ipv6) = (None, None);
                    continue;
                }
                Err(source) => {
                    return Err(MembershipError::Address { network: name.clone(), source: Box::new(source) });
                }
            };
            // In its place before it is tried: also a future that is dropped leaves it to be settled.
            let reservation = state.unsettled.insert(reservation);
            match self.register_leg(reservation).await {
                Ok(joined) => {
                    let leg = joined.leg.clone();
                    info!(%network, revision = leg.revision, "joined the network");
                    (state.joined, state.unsettled) = (Some(joined), None);
                    return Ok(leg);
                }
                Err(CommitError::AddressTaken { .. } | CommitError::BlockLost(_)) => {
                    state.unsettled = None;
                    request = self.leg_request(None);
                }
                Err(source) => {
                    let unknown = matches!(&source, CommitError::Store { source, .. } if source.is_unknown());
                    if !unknown {
                        state.unsettled = None;
                    }
                    return Err(MembershipError::Leg { network: name.clone(), source: Box::new(source) });
                }
            }
        }
        Err(MembershipError::NetworkGone(network))
    }

    async fn register_leg(&self, reservation: &mut Reservation) -> Result<Joined, CommitError> {
        let member = self.member(reservation.record.epoch);
        let revision = self.inner.allocator.commit(reservation, Some(member.clone())).await?;
        let record = reservation.record.clone();
        let member = MemberRecord { epoch: record.epoch, ..member };
        Ok(Joined { leg: Stored { record, revision, lease: 0 }, member })
    }

    fn leg_request(&self, at: Option<&EndpointRecord>) -> EndpointRequest {
        EndpointRequest {
            id: at
                .map_or_else(|| EndpointId::from_entropy(self.inner.client.with_rng(|rng| rng.random())), |leg| leg.id),
            kind: EndpointKind::Leg,
            name: leg_name(&self.inner.identity.name),
            aliases: Vec::new(),
            mac: None,
            ipv4: at.and_then(|leg| leg.ipv4),
            ipv6: at.and_then(|leg| leg.ipv6),
            sandbox: None,
            published: Vec::new(),
            vtep: self.vtep(),
        }
    }

    fn member(&self, epoch: u64) -> MemberRecord {
        MemberRecord {
            v: RECORD_VERSION,
            vtep: self.vtep(),
            epoch,
            underlay_mtu: *self.inner.underlay_mtu.borrow(),
            extra: BTreeMap::new(),
        }
    }

    /// Reads once which networks this node took part in when its agent was last running.
    async fn restore(&self) -> Result<(), MembershipError> {
        let read = || async {
            let own = own_endpoints(&self.inner.client, self.inner.identity.node, self.deadline()).await?;
            for (network, leg) in own {
                let part = self.part(network);
                // Until the agent has looked for its containers, they may be there.
                *part.use_.lock().unwrap_or_else(PoisonError::into_inner) =
                    Use { containers: true, unused_since: None };
                if leg.record.kind == EndpointKind::Container {
                    continue;
                }
                let key = Key::Member(network, self.inner.identity.node);
                let reply = self.inner.client.read([&key], self.deadline()).await?;
                let member = self.inner.client.found::<MemberRecord>(&reply, &key)?;
                // One that is missing differs from any that it should be, so recovering writes it again.
                let member = member.map_or_else(|| self.member(0), |m| m.record);
                part.state.lock().await.joined = Some(Joined { leg, member });
            }
            self.inner.wake.notify_one();
            Ok(())
        };
        self.inner.restored.get_or_try_init(read).await.copied()
    }

    fn part(&self, network: NetworkId) -> Arc<Part> {
        self.inner.networks.lock().unwrap_or_else(PoisonError::into_inner).entry(network).or_default().clone()
    }

    fn parts(&self) -> Vec<(NetworkId, Arc<Part>)> {
        let networks = self.inner.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.iter().map(|(network, part)| (*network, part.clone())).collect()
    }

    fn vtep(&self) -> IpAddr {
        self.inner.identity.vtep
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(10)
    }
}

/// Ends a stay that came to nothing.
#[derive(Debug)]
struct PendingStay {
    part: Arc<Part>,
    done: bool,
}

impl Drop for PendingStay {
    fn drop(&mut self) {
        if !self.done {
            self.part.stays.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// `gateway-` and the node's name, cut to what a name may be.
fn leg_name(node: &Name) -> Name {
    let text: String = format!("gateway-{node}").chars().take(63).collect();
    text.parse().unwrap_or_else(|_| node.clone())
}
