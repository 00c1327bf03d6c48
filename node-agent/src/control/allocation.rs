//! Hands out addresses on this node and registers the endpoints that have them.
//!
//! Choosing is local: a free address of one of the node's own blocks. Registering is one transaction, in which the store
//! decides. A reservation that is dropped is undone, also when it is not known how far it had come: the address stays
//! held until the endpoint is known not to exist. No lock is held while the store is waited for, but the one that makes
//! claims of blocks happen one after the other. Must not know sandboxes or the kernel.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use weft_ipam::pool::DEFAULT_COOLDOWN;
use weft_overlay::{
    claims::{CreateEndpoint, DeleteEndpoint, EndpointCreated, EndpointDeleted, Holder, Stored, Token},
    id::{EndpointId, Mac, Name, NetworkId, NodeId},
    keys::Key,
    model::{
        EndpointKind, EndpointRecord, MemberRecord, NetworkSpec, NetworkState, NodeRecord, PublishedPort,
        RECORD_VERSION, Sandbox,
    },
    store::Store,
    txn::Revision,
};

use self::book::{Book, Stage};
pub use self::{
    error::{AllocationError, CommitError, HolderName, ReleaseError, StandingError},
    report::PoolReport,
    shape::{AddressShape, SecondFamily, ShapeError},
};
use super::{
    registration::{Registration, Standing},
    submit::{Client, SubmitError},
};

mod book;
mod claiming;
mod error;
mod report;
mod settling;
mod shape;
#[cfg(test)]
mod tests;

/// How patient an allocator is.
#[derive(Debug, Clone)]
pub struct AllocationSettings {
    /// How long an attach or a detach may wait for the store.
    pub deadline: Duration,
    /// How long a released address rests.
    pub cooldown: Duration,
    /// How long a block must have been empty to be given back.
    pub return_age: Duration,
    /// How long the node must have had no endpoint in a network before its last block there goes back too.
    pub idle_age: Duration,
    /// Time between two rounds of upkeep.
    pub upkeep_every: Duration,
}

impl Default for AllocationSettings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            cooldown: DEFAULT_COOLDOWN,
            return_age: Duration::from_secs(60),
            idle_age: Duration::from_secs(600),
            upkeep_every: Duration::from_secs(10),
        }
    }
}

/// What an endpoint shall be.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointRequest {
    /// Its id, new.
    pub id: EndpointId,
    /// What stands behind it.
    pub kind: EndpointKind,
    /// The name that it is known by.
    pub name: Name,
    /// Further names.
    pub aliases: Vec<Name>,
    /// The Ethernet address; absent: derived from the IP address.
    pub mac: Option<Mac>,
    /// The IPv4 address; absent: any.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address; absent: any, or the one that goes with the IPv4 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Where its interface is.
    pub sandbox: Option<Sandbox>,
    /// Ports of the node's that lead to it.
    pub published: Vec<PublishedPort>,
    /// The node's VTEP.
    pub vtep: IpAddr,
}

/// Hands out addresses on one node. Clones are the same allocator.
#[derive(Debug)]
pub struct Allocator<S: Store> {
    inner: Arc<Inner<S>>,
}

impl<S: Store> Clone for Allocator<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

#[derive(Debug)]
struct Inner<S> {
    client: Client<S>,
    node: NodeId,
    registration: Registration,
    settings: AllocationSettings,
    started: Instant,
    networks: Mutex<BTreeMap<NetworkId, Arc<NetworkBook>>>,
    /// Endpoints that shall not exist, of which it is not known whether they do.
    unwanted: Arc<Mutex<Vec<Unwanted>>>,
    wake: Arc<Notify>,
}

/// A network's book. `gate` lets one task at a time read it from the store or claim a block for it.
#[derive(Debug, Default)]
struct NetworkBook {
    gate: tokio::sync::Mutex<()>,
    book: Mutex<Option<Book>>,
}

impl NetworkBook {
    fn with<T>(&self, work: impl FnOnce(&mut Book) -> T) -> Option<T> {
        // A book is changed by short pure calls; one that panicked has left it usable.
        self.book.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }
}

#[derive(Debug, Clone)]
struct Unwanted {
    network: NetworkId,
    address: IpAddr,
    id: EndpointId,
    book: Arc<NetworkBook>,
    /// Nothing that was sent for it can still arrive after this time.
    settled_at: Instant,
}

/// An address that is reserved for an endpoint, with the endpoint's record as it will be registered.
///
/// Dropping it undoes it, unless [`Allocator::commit`] has succeeded.
#[derive(Debug)]
pub struct Reservation {
    /// The network.
    pub network: NetworkId,
    /// What will be registered.
    pub record: EndpointRecord,
    spec: Stored<NetworkSpec>,
    address: IpAddr,
    /// Whether the user asked for this address, and for the second one of a dual-stack endpoint.
    asked_for: (bool, bool),
    started: Instant,
    book: Arc<NetworkBook>,
    unwanted: Arc<Mutex<Vec<Unwanted>>>,
    wake: Arc<Notify>,
}

/// How long a request that was given up may still be on its way to the store. The store's own client gives up earlier.
const STRAY_TIME: Duration = Duration::from_secs(60);

impl Drop for Reservation {
    fn drop(&mut self) {
        let id = self.record.id;
        let stage = self.book.with(|book| book.stage(self.address, id)).flatten();
        match stage {
            Some(Stage::Reserved) => {
                let now = self.started.elapsed();
                self.book.with(|book| book.free(self.address, id, now));
            }
            Some(Stage::Unknown) => {
                let unwanted = Unwanted {
                    network: self.network,
                    address: self.address,
                    id,
                    book: self.book.clone(),
                    settled_at: Instant::now() + STRAY_TIME,
                };
                self.unwanted.lock().unwrap_or_else(PoisonError::into_inner).push(unwanted);
                self.wake.notify_one();
            }
            Some(Stage::Registered | Stage::Observed) | None => {}
        }
    }
}

impl Reservation {
    /// The network's name.
    pub fn network_name(&self) -> &Name {
        &self.spec.record.name
    }

    /// Makes the address that of an endpoint whose id was not known when it was reserved.
    pub fn rename(&mut self, id: EndpointId) {
        self.book.with(|book| book.rename(self.address, self.record.id, id));
        self.record.id = id;
    }
}

impl<S: Store> Allocator<S> {
    /// An allocator that knows nothing yet: what the node has in a network is read when the network is first used.
    pub fn new(client: Client<S>, node: NodeId, registration: Registration, settings: AllocationSettings) -> Self {
        let inner = Inner {
            client,
            node,
            registration,
            settings,
            started: Instant::now(),
            networks: Mutex::new(BTreeMap::new()),
            unwanted: Arc::new(Mutex::new(Vec::new())),
            wake: Arc::new(Notify::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Reserves an address for an endpoint. Asks the store only where this node has no free address at hand.
    ///
    /// # Errors
    /// When the node may not take on anything, the network is being deleted, the address asked for cannot be had, or none
    /// is left; [`AllocationError::Store`] within the deadline when the store does not answer.
    pub async fn reserve(
        &self,
        network: NetworkId,
        spec: &Stored<NetworkSpec>,
        request: EndpointRequest,
    ) -> Result<Reservation, AllocationError> {
        let deadline = Instant::now() + self.inner.settings.deadline;
        let token = self.may_take_on()?;
        if spec.record.state == NetworkState::Deleting {
            return Err(AllocationError::NetworkDeleting(spec.record.name.clone()));
        }
        let asked = asked_primary(&spec.record, &request)?;
        let asked_second = request.ipv6;
        let place = Place { network, spec, token, deadline };
        let (book, shape) = self.open(&place).await?;
        let second = |ip| shape.second_address(ip, asked_second);
        if let Some(ip) = asked {
            second(ip)?;
        }
        let chosen = match asked {
            Some(ip) => self.choose_asked(&place, &book, ip, request.id).await?,
            None => self.choose_any(&place, &book, request.id).await?,
        };
        let record = record_of(request, chosen, token, |ip| second(ip).ok().flatten());
        let reservation = Reservation {
            network,
            record,
            spec: spec.clone(),
            address: chosen,
            asked_for: (asked.is_some(), asked_second.is_some()),
            started: self.inner.started,
            book,
            unwanted: self.inner.unwanted.clone(),
            wake: self.inner.wake.clone(),
        };
        // Only now, so that an error takes the address back.
        second(chosen)?;
        if reservation.book.with(|book| book.needs_block(self.now())).unwrap_or_default() {
            self.inner.wake.notify_one();
        }
        Ok(reservation)
    }

    /// Registers a reserved endpoint, and with `join` makes the node a member of the network. One round trip; a lost
    /// answer is asked for again until the deadline.
    ///
    /// # Errors
    /// When the store has a reason against it; see [`CommitError::wants_another_address`]. After any error the
    /// reservation is to be dropped.
    pub async fn commit(
        &self,
        reservation: &mut Reservation,
        join: Option<MemberRecord>,
    ) -> Result<Revision, CommitError> {
        let deadline = Instant::now() + self.inner.settings.deadline;
        let endpoint = reservation.record.id;
        loop {
            let token = self.may_take_on()?;
            reservation.record.epoch = token.epoch;
            let claim = self.claim(reservation, token, join.clone())?;
            // Until an answer is read, also if this future is dropped.
            self.stage(reservation, Stage::Unknown);
            let outcome = self.inner.client.submit(&claim, deadline).await;
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(source) => {
                    if !source.is_unknown() {
                        self.stage(reservation, Stage::Reserved);
                    }
                    return Err(CommitError::Store { endpoint, source });
                }
            };
            match outcome {
                EndpointCreated::Created(revision) => {
                    self.stage(reservation, Stage::Registered);
                    return Ok(revision);
                }
                EndpointCreated::AlreadyOurs(stored) => {
                    self.stage(reservation, Stage::Registered);
                    return Ok(stored.revision);
                }
                refused => {
                    self.stage(reservation, Stage::Reserved);
                    self.after_refusal(reservation, token, refused, deadline).await?;
                }
            }
        }
    }

    /// Removes an endpoint of this node; with `leave`, its membership in the network too. Removing one that is gone
    /// succeeds.
    ///
    /// # Errors
    /// When the node may not write or the store does not answer; then it may be tried again.
    pub async fn release(
        &self,
        network: NetworkId,
        endpoint: &Stored<EndpointRecord>,
        leave: bool,
    ) -> Result<(), ReleaseError> {
        let deadline = Instant::now() + self.inner.settings.deadline;
        let id = endpoint.record.id;
        let mut endpoint = endpoint.clone();
        loop {
            let token = self.may_write()?;
            let claim = DeleteEndpoint { token, network, endpoint: endpoint.clone(), leave };
            let outcome = self.inner.client.submit(&claim, deadline).await;
            if !leave && matches!(&outcome, Err(error) if error.is_unknown()) {
                self.settle_later(network, &endpoint.record);
            }
            match outcome.map_err(|source| ReleaseError::Store { endpoint: id, source })? {
                EndpointDeleted::Deleted(_) | EndpointDeleted::AlreadyGone => break,
                EndpointDeleted::Changed(now) => endpoint = *now,
                EndpointDeleted::Fenced(fence) => {
                    self.await_other_token(token, fence.map(|f| f.record.state), deadline).await?;
                }
            }
        }
        if let (Some(ip), Some(book)) = (endpoint.record.primary_address(), self.known(network)) {
            let now = self.now();
            book.with(|book| book.free(ip, id, now));
        }
        Ok(())
    }

    /// Has the upkeep find out whether an endpoint is gone whose removal was not answered; until then its address is held.
    /// A node's leg is not among these: whoever leaves a network goes on until it has left.
    fn settle_later(&self, network: NetworkId, endpoint: &EndpointRecord) {
        let (Some(address), Some(book)) = (endpoint.primary_address(), self.known(network)) else { return };
        let id = endpoint.id;
        let mut unwanted = self.inner.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        if unwanted.iter().all(|one| one.id != id) {
            unwanted.push(Unwanted { network, address, id, book, settled_at: Instant::now() + STRAY_TIME });
        }
    }

    /// Whether an endpoint shall not exist and may still do so.
    pub fn is_unwanted(&self, endpoint: EndpointId) -> bool {
        let unwanted = self.inner.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        unwanted.iter().any(|one| one.id == endpoint)
    }

    /// Notes what is stored under the key of an address in a followed network; `None`: nothing.
    pub fn observe_endpoint(&self, network: NetworkId, ip: IpAddr, endpoint: Option<&EndpointRecord>) {
        let now = self.now();
        if let Some(book) = self.known(network) {
            book.with(|book| book.observe(ip, endpoint, now));
        }
    }

    /// Notes everything that is stored in a followed network, by key.
    pub fn observe_network(&self, network: NetworkId, endpoints: &BTreeMap<IpAddr, EndpointRecord>) {
        let now = self.now();
        if let Some(book) = self.known(network) {
            book.with(|book| book.observe_all(endpoints, now));
        }
    }

    /// Has what the node has in a network read again, because the node was lost meanwhile. Reservations stay valid.
    pub fn reread_network(&self, network: NetworkId) {
        if let Some(book) = self.known(network) {
            self.invalidate(&book);
        }
    }

    /// Forgets a network that is gone.
    pub fn forget_network(&self, network: NetworkId) {
        self.inner.networks.lock().unwrap_or_else(PoisonError::into_inner).remove(&network);
    }

    fn claim(
        &self,
        reservation: &Reservation,
        token: Token,
        join: Option<MemberRecord>,
    ) -> Result<CreateEndpoint, CommitError> {
        let Reservation { network, record, spec, address, .. } = reservation;
        let claim = CreateEndpoint::new(token, *network, spec.revision, record.clone())?;
        let block = reservation.book.with(|book| book.own_block(*address)).flatten();
        let claim = match block {
            Some((block, revision)) => claim.in_block(block.base(), revision),
            None if !reservation.asked_for.0 => return Err(CommitError::BlockLost(*address)),
            None => claim,
        };
        Ok(match join {
            Some(member) => claim.joining(MemberRecord { epoch: token.epoch, ..member }),
            None => claim,
        })
    }

    /// Returns where the claim may be made again; else says why not.
    async fn after_refusal(
        &self,
        reservation: &mut Reservation,
        token: Token,
        refused: EndpointCreated,
        deadline: Instant,
    ) -> Result<(), CommitError> {
        let endpoint = reservation.record.id;
        match refused {
            EndpointCreated::Created(_) | EndpointCreated::AlreadyOurs(_) => Ok(()),
            EndpointCreated::AddressTaken { address, by } => {
                let is_primary = address == reservation.address;
                // The book keeps account of primary addresses only.
                if is_primary {
                    self.note_holder(reservation, &by);
                }
                let holder = self.holder_name(reservation.network, by, deadline).await;
                let asked_for = if is_primary { reservation.asked_for.0 } else { reservation.asked_for.1 };
                Err(CommitError::AddressTaken { address, holder, asked_for })
            }
            EndpointCreated::RegisteredElsewhere(index) => {
                Err(CommitError::RegisteredElsewhere { endpoint, address: index.ip })
            }
            EndpointCreated::BlockLost(_) => {
                self.invalidate(&reservation.book);
                Err(CommitError::BlockLost(reservation.address))
            }
            EndpointCreated::Fenced(fence) => {
                Ok(self.await_other_token(token, fence.map(|f| f.record.state), deadline).await?)
            }
            EndpointCreated::SpecChanged(now) => match now {
                Some(spec) if spec.record.state == NetworkState::Active => {
                    reservation.spec = spec;
                    Ok(())
                }
                _ => Err(CommitError::NetworkGone(reservation.spec.record.name.clone())),
            },
        }
    }

    fn note_holder(&self, reservation: &Reservation, by: &Holder) {
        let (ip, now) = (reservation.address, self.now());
        reservation.book.with(|book| match by {
            Holder::Endpoint(stored) => book.observe(ip, Some(&stored.record), now),
            Holder::Reference(reference) => book.mark_taken(ip, reference.id),
        });
    }

    async fn holder_name(&self, network: NetworkId, by: Holder, deadline: Instant) -> HolderName {
        let reference = match by {
            Holder::Endpoint(stored) => return self.name_of(&stored.record, deadline).await,
            Holder::Reference(reference) => reference,
        };
        let key = Key::Endpoint(network, reference.record);
        let read = async {
            let reply = self.inner.client.read([&key], deadline).await?;
            self.inner.client.found::<EndpointRecord>(&reply, &key)
        };
        match read.await.ok().flatten().filter(|stored| stored.record.id == reference.id) {
            Some(stored) => self.name_of(&stored.record, deadline).await,
            None => HolderName { endpoint: reference.id, name: None, node: "another one".to_owned() },
        }
    }

    /// A node's name for a message; its id when it cannot be read.
    async fn node_name(&self, node: NodeId, deadline: Instant) -> String {
        let key = Key::Node(node);
        let read = async {
            let reply = self.inner.client.read([&key], deadline).await?;
            self.inner.client.found::<NodeRecord>(&reply, &key)
        };
        read.await.ok().flatten().map_or_else(|| node.to_string(), |stored| stored.record.name.to_string())
    }

    /// The right to create something.
    fn may_take_on(&self) -> Result<Token, StandingError> {
        match &*self.inner.registration.standing.borrow() {
            Standing::Active(token) => Ok(*token),
            Standing::Draining(_) => Err(StandingError::Draining(self.inner.registration.name.clone())),
            Standing::Lost => Err(StandingError::Lost(self.inner.registration.name.clone())),
            Standing::Registering { why } => Err(StandingError::NotRegistered(why.clone())),
        }
    }

    /// The right to change or remove something.
    ///
    /// # Errors
    /// When the node has none.
    pub fn may_write(&self) -> Result<Token, StandingError> {
        self.inner.registration.standing.borrow().token().map_or_else(|| self.may_take_on(), Ok)
    }

    /// After the store refused a token: waits until the registration knows what has become of it.
    async fn await_other_token(
        &self,
        refused: Token,
        state: Option<weft_overlay::model::FenceState>,
        deadline: Instant,
    ) -> Result<(), StandingError> {
        self.inner.registration.recheck();
        let changed = timeout_at(deadline, self.inner.registration.other_token(refused)).await;
        changed.map(|_| ()).map_err(|_| StandingError::from_fence(self.inner.registration.name.clone(), state))
    }

    fn stage(&self, reservation: &Reservation, stage: Stage) {
        reservation.book.with(|book| book.set_stage(reservation.address, reservation.record.id, stage));
    }

    fn known(&self, network: NetworkId) -> Option<Arc<NetworkBook>> {
        self.inner.networks.lock().unwrap_or_else(PoisonError::into_inner).get(&network).cloned()
    }

    /// Time since the allocator was made: the clock of its pools.
    fn now(&self) -> Duration {
        self.inner.started.elapsed()
    }
}

/// Where an address is wanted, by what right, and until when.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    network: NetworkId,
    spec: &'a Stored<NetworkSpec>,
    token: Token,
    deadline: Instant,
}

/// The address that was asked for in the family that addresses are chosen in.
fn asked_primary(spec: &NetworkSpec, request: &EndpointRequest) -> Result<Option<IpAddr>, AllocationError> {
    let missing = |family, address| AllocationError::NoSuchFamily { network: spec.name.clone(), family, address };
    if let (Some(v4), None) = (request.ipv4, spec.subnet4()) {
        return Err(missing("IPv4", IpAddr::V4(v4)));
    }
    if let (Some(v6), None) = (request.ipv6, spec.subnet6()) {
        return Err(missing("IPv6", IpAddr::V6(v6)));
    }
    Ok(match spec.subnet4() {
        Some(_) => request.ipv4.map(IpAddr::V4),
        None => request.ipv6.map(IpAddr::V6),
    })
}

fn record_of(
    request: EndpointRequest,
    address: IpAddr,
    token: Token,
    second: impl FnOnce(IpAddr) -> Option<Ipv6Addr>,
) -> EndpointRecord {
    let (ipv4, ipv6) = match address {
        IpAddr::V4(v4) => (Some(v4), second(address)),
        IpAddr::V6(v6) => (None, Some(v6)),
    };
    EndpointRecord {
        v: RECORD_VERSION,
        id: request.id,
        node: token.node,
        epoch: token.epoch,
        mac: request.mac.unwrap_or_else(|| Mac::derived_from(address)),
        vtep: request.vtep,
        kind: request.kind,
        name: request.name,
        aliases: request.aliases,
        ipv4,
        ipv6,
        sandbox: request.sandbox,
        docker: None,
        published: request.published,
        extra: BTreeMap::default(),
    }
}

/// What a failed read of the store means for an allocation.
fn claimed(error: SubmitError) -> AllocationError {
    AllocationError::Store(error)
}
