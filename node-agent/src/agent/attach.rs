//! Connecting a container to a network, and disconnecting it.
//!
//! The interface is built while the store registers the endpoint, and put to use when it has. Whatever goes wrong is undone
//! before the caller hears of it. A detach that the store cannot be told of is carried out all the same, noted on disk,
//! and told later.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::Instant,
};
use tracing::{debug, info, warn};
use weft_overlay::{
    id::{EndpointId, Name, NetworkId, NodeId},
    kernel::{Kernel, NetworkObject, ObjectId},
    keys::Key,
    model::{EndpointKind, EndpointRecord, NetworkNameRecord, NetworkSpec, NetworkState},
    store::Store,
    view::{NodeView, Stored},
};

pub use self::error::{ConnectError, DisconnectError};
use super::{followers::Followers, handle::Handle, journal::Journal};
use crate::{
    api::messages::{Connect, Disconnect},
    container::{Container, ContainerRef},
    control::{
        allocation::{Allocator, CommitError, EndpointRequest, Reservation},
        membership::Membership,
        submit::Client,
    },
    identity::StateDir,
    netns::Namespace,
    reconciler::{Reconciler, chain},
};

mod deferred;
mod error;
mod memory;
mod sandbox;

pub(crate) use sandbox::wait_carrying;

/// Aliases of one endpoint.
const MOST_ALIASES: usize = 64;
/// Published ports of one endpoint.
const MOST_PUBLISHED: usize = 256;

/// An address may be taken from under us by a user's choice of it elsewhere; more often than this, something is wrong.
const ATTEMPTS: usize = 8;
/// Devices that are out of use are deleted for good within this time, or the reconciler complains.
const SWEPT_WITHIN: Duration = Duration::from_secs(5);

/// What attaching needs to know of its node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// The boot of its kernel.
    pub boot_id: String,
    /// The host's namespace.
    pub host: Namespace,
    /// The data plane's namespace.
    pub data_plane: Namespace,
}

/// The parts that attaching works with.
#[derive(Debug)]
pub struct Attacher<S: Store, K> {
    /// To the store.
    pub client: Client<S>,
    /// Gives out addresses and registers endpoints.
    pub allocator: Allocator<S>,
    /// This node's part in networks.
    pub membership: Membership<S>,
    /// Follows networks.
    pub followers: Followers<S, K>,
    /// To the reconciler.
    pub handle: Handle<K>,
    /// This node.
    pub facts: NodeFacts,
    state: Arc<StateDir>,
    gates: Gates,
    /// Containers that may still have an interface of an endpoint that was just removed: devices are deleted late.
    unswept: Mutex<BTreeMap<(u64, u64), Instant>>,
    deferred: deferred::Deferred,
    journal: Journal,
}

/// An endpoint of this node, as stored or about to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached {
    /// Its network.
    pub network: NetworkId,
    /// Its record.
    pub record: EndpointRecord,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl<S: Store, K: Kernel + 'static> Attacher<S, K> {
    /// Joins the parts, and reads which detaches the store has not been told of yet.
    pub fn new(
        allocator: Allocator<S>,
        membership: Membership<S>,
        followers: Followers<S, K>,
        facts: NodeFacts,
        state: Arc<StateDir>,
    ) -> Self {
        let client = followers.client().clone();
        let deferred = deferred::Deferred::load(&state);
        let journal = Journal::load(&state, &facts.boot_id);
        let handle = followers.handle().clone();
        for endpoint in deferred.endpoints() {
            handle.change(move |view| view.set_detaching(endpoint));
        }
        Self {
            client,
            allocator,
            membership,
            followers,
            handle,
            facts,
            state,
            gates: Gates::default(),
            unswept: Mutex::default(),
            deferred,
            journal,
        }
    }

    /// Connects a container to a network.
    ///
    /// # Errors
    /// When it cannot be; then nothing has changed.
    pub async fn connect(&self, request: Connect) -> Result<Attached, ConnectError> {
        check_sizes(&request)?;
        let reference = ContainerRef::parse(&request.container)?;
        let container = reference.find(&self.facts.host, &self.facts.data_plane)?;
        let _gate = self.gates.container(container.dev, container.inode).await;
        self.sweep_before_return(&container).await?;
        let (network, spec) = self.open_network(&request.network).await?;
        let wanted = self.endpoint_request(&request, &container, network, &spec.record).await?;
        let warnings = self.namesakes(network, &wanted).await?;
        let stay = self.membership.join(network, &spec).await?;
        let leg = stay.leg.clone();
        self.handle.change(move |view| view.set_registered(network, leg.record, leg.revision));
        let record = self.register(network, &spec, wanted).await?;
        self.membership.set_in_use(network, true);
        drop(stay);
        info!(%network, endpoint = %record.id, container = request.container, ip = ?record.primary_address(), "connected");
        Ok(Attached { network, record, warnings })
    }

    /// Disconnects a container from a network.
    ///
    /// # Errors
    /// When it is not connected. A store that does not answer is no error: it is told later.
    pub async fn disconnect(&self, request: Disconnect) -> Result<Attached, DisconnectError> {
        let reference = ContainerRef::parse(&request.container)?;
        let found = reference.find(&self.facts.host, &self.facts.data_plane).ok();
        let text = reference.text();
        let name = request.network.clone();
        let look = move |view: &NodeView| find_endpoint(view, &name, &text, found.as_ref());
        let Some((network, stored)) = self.handle.view(look).await?? else {
            return Err(DisconnectError::NotConnected { container: request.container, network: request.network });
        };
        let record = stored.record.clone();
        let told = self.detach(network, stored).await;
        self.hand_over_default_route(&record).await;
        info!(%network, endpoint = %record.id, container = request.container, "disconnected");
        let warnings = told.err().map(|reason| {
            format!("the store cannot be told now, which is tried again by itself; until then others see the endpoint: {reason}")
        });
        Ok(Attached { network, record, warnings: warnings.into_iter().collect() })
    }

    /// A container that returns right after it left must not meet its own old interface.
    async fn sweep_before_return(&self, container: &Container) -> Result<(), ConnectError> {
        let key = (container.dev, container.inode);
        if self.unswept.lock().unwrap_or_else(PoisonError::into_inner).remove(&key).is_some() {
            self.handle.ask(Reconciler::sweep).await?;
        }
        Ok(())
    }

    /// Takes an endpoint of this node out of use, then tells the store; answers why it could not be told yet.
    pub async fn detach(&self, network: NetworkId, stored: Stored<EndpointRecord>) -> Result<(), String> {
        let endpoint = stored.record.id;
        if let Some(sandbox) = &stored.record.sandbox {
            let mut unswept = self.unswept.lock().unwrap_or_else(PoisonError::into_inner);
            unswept.retain(|_, since| since.elapsed() < SWEPT_WITHIN);
            unswept.insert((sandbox.dev, sandbox.inode), Instant::now());
        }
        // The agent is shutting down otherwise, and the next one finishes this.
        self.handle.settle(move |view| view.set_detaching(endpoint)).await.ok();
        // Before the store is told: what it has lost and the journal has not would be brought back by the next agent.
        self.journal.forget(endpoint);
        match self.allocator.release(network, &stored, false).await {
            Ok(()) => {
                self.deferred.forget(endpoint, &self.state);
                Ok(())
            }
            Err(error) => {
                let reason = chain(&error);
                warn!(%network, %endpoint, error = reason, "the store was not told of a detach yet");
                self.deferred.note(network, endpoint, &self.state);
                Err(reason)
            }
        }
    }

    /// Tells the store of the detaches that it has not been told of.
    pub async fn retry_deferred(&self) {
        for (network, endpoint) in self.deferred.pending() {
            self.followers.follow(network);
            let look =
                move |view: &NodeView| view.network(network).map(|content| content.endpoint_by_id(endpoint).cloned());
            match self.handle.view(look).await {
                Ok(Some(Some(stored))) => {
                    // A failure was logged, and stays noted.
                    self.detach(network, stored).await.ok();
                }
                Ok(Some(None)) => self.deferred.forget(endpoint, &self.state),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Ends the wait for registrations that were given up, where nothing can arrive any more.
    pub async fn forget_settled_strays(&self) {
        let Ok(unwanted) = self.handle.view(|view| view.unwanted().collect::<Vec<_>>()).await else { return };
        for endpoint in unwanted.into_iter().filter(|endpoint| !self.allocator.is_unwanted(*endpoint)) {
            self.handle.change(move |view| view.clear_unwanted(endpoint));
        }
    }

    /// Releases an endpoint whose container was observed to be gone, unless a second look finds it.
    pub async fn release_gone(&self, network: NetworkId, endpoint: EndpointId) {
        let look = move |view: &NodeView| {
            let stored = view.network(network)?.endpoint_by_id(endpoint)?;
            Some((stored.clone(), view.sandbox_of(&stored.record)?.clone()))
        };
        let Ok(Some((stored, sandbox))) = self.handle.view(look).await else { return };
        if sandbox::exists(&sandbox, &self.facts.boot_id) {
            debug!(%endpoint, "a container that seemed gone is there");
            return;
        }
        info!(%network, %endpoint, container = sandbox.container, "its container is gone: releasing the endpoint");
        // A failure was logged, and is tried again.
        self.detach(network, stored).await.ok();
    }

    /// Reserves an address, and has the interface built while the store registers the endpoint.
    async fn register(
        &self,
        network: NetworkId,
        spec: &Stored<NetworkSpec>,
        request: EndpointRequest,
    ) -> Result<EndpointRecord, ConnectError> {
        for _ in 0..ATTEMPTS {
            let mut reservation = self.allocator.reserve(network, spec, request.clone()).await?;
            let prepared = reservation.record.clone();
            self.handle.change(move |view| view.set_pending(network, prepared));
            match self.allocator.commit(&mut reservation, None).await {
                Ok(revision) => return self.put_to_use(reservation, revision).await,
                Err(error) => {
                    let endpoint = request.id;
                    // A registration whose fate is unknown may still arrive: it is not put to use, and the allocator removes
                    // it. The allocator is told first: upkeep ends what the allocator does not know of.
                    drop(reservation);
                    let stray = matches!(error, CommitError::Store { .. });
                    let give_up = move |view: &mut NodeView| {
                        if stray { view.set_unwanted(endpoint) } else { view.clear_pending(endpoint) }
                    };
                    self.handle.settle(give_up).await?;
                    // Whoever is refused finds the container as it was.
                    self.handle.ask(Reconciler::sweep).await?;
                    if !error.wants_another_address() {
                        return Err(error.into());
                    }
                    debug!(%network, error = %chain(&error), "another address is tried");
                }
            }
        }
        Err(ConnectError::Contended { network: spec.record.name.clone(), attempts: ATTEMPTS })
    }

    async fn put_to_use(&self, reservation: Reservation, revision: i64) -> Result<EndpointRecord, ConnectError> {
        let network = reservation.network;
        let record = reservation.record.clone();
        let registered = record.clone();
        let built = self.handle.settle(move |view| {
            let mut affected = view.set_registered(network, registered, revision);
            // Without them it is connected to nobody, so it fails with them.
            let devices = [NetworkObject::Bridge, NetworkObject::Vxlan, NetworkObject::Leg];
            affected.extend(devices.map(|device| ObjectId::Network(network, device)));
            affected
        });
        // Noted while the reconciler works.
        let (failures, ()) = tokio::join!(biased; built, async { self.journal.note(network, &record) });
        let failures = failures?;
        if failures.is_empty() {
            if let Some(sandbox) = &record.sandbox {
                wait_carrying(sandbox).await;
            }
            return Ok(record);
        }
        let stored = Stored { record: record.clone(), revision, lease: 0 };
        // A failure was logged, and is tried again.
        self.detach(network, stored).await.ok();
        Err(ConnectError::NotBuilt { container: record.name.to_string(), failures })
    }

    /// The network of a name, followed and listed.
    async fn open_network(&self, name: &Name) -> Result<(NetworkId, Stored<NetworkSpec>), ConnectError> {
        let wanted = name.clone();
        let known = move |view: &NodeView| view.index().find(|(n, _)| **n == wanted).map(|(_, record)| record.id);
        if let Some(network) = self.handle.view(known).await?
            && let Some(spec) = self.listed_spec(network).await?
            && spec.record.state == NetworkState::Active
        {
            return Ok((network, spec));
        }
        // The index may lag behind: the name may be that of a network made since.
        let network = self.read_network_id(name).await?;
        let spec = self.listed_spec(network).await?.ok_or_else(|| ConnectError::UnknownNetwork(name.clone()))?;
        match spec.record.state {
            NetworkState::Active => Ok((network, spec)),
            NetworkState::Deleting => Err(ConnectError::Deleting(name.clone())),
        }
    }

    pub(crate) async fn listed_spec(&self, network: NetworkId) -> Result<Option<Stored<NetworkSpec>>, ConnectError> {
        self.followers.follow_listed(network).await?;
        Ok(self.handle.view(move |view| view.network(network).and_then(|n| n.spec.clone())).await?)
    }

    /// What the store says now: the index may not show the network yet, or still show a former one of that name.
    async fn read_network_id(&self, name: &Name) -> Result<NetworkId, ConnectError> {
        let key = Key::NetworkName(name.clone());
        let deadline = Instant::now() + Duration::from_secs(5);
        let reply = self.client.read([&key], deadline).await?;
        let found = self.client.found::<NetworkNameRecord>(&reply, &key)?;
        found.map(|stored| stored.record.id).ok_or_else(|| ConnectError::UnknownNetwork(name.clone()))
    }

    /// Names answer in turn where several endpoints share one: worth saying, since it is rarely meant.
    async fn namesakes(&self, network: NetworkId, request: &EndpointRequest) -> Result<Vec<String>, ConnectError> {
        let name = request.name.clone();
        let look = move |view: &NodeView| {
            let endpoints = view.network(network).into_iter().flat_map(|content| content.endpoints());
            let same = endpoints.filter(|e| e.record.kind == EndpointKind::Container && e.record.name == name);
            same.filter_map(|e| Some(format!("{} ({})", e.record.primary_address()?, e.record.id))).collect::<Vec<_>>()
        };
        let holders = self.handle.view(look).await?;
        let warning = || {
            let holders = holders.join(", ");
            format!("the name {} is also that of {holders}; a question about it is answered in turn", request.name)
        };
        Ok(if holders.is_empty() { Vec::new() } else { vec![warning()] })
    }

    fn new_endpoint_id(&self) -> EndpointId {
        EndpointId::from_entropy(self.client.with_rng(rand::Rng::next_u64))
    }
}

/// Bounds what one record, which every member of the network reads, may hold.
fn check_sizes(request: &Connect) -> Result<(), ConnectError> {
    for (what, count, most) in
        [("aliases", request.aliases.len(), MOST_ALIASES), ("published ports", request.published.len(), MOST_PUBLISHED)]
    {
        if count > most {
            return Err(ConnectError::TooMany { what, count, most });
        }
    }
    if request.published.iter().any(|published| published.host_port == 0 || published.port == 0) {
        return Err(ConnectError::PortZero);
    }
    Ok(())
}

/// The endpoint of a container in a network: by its namespace if that exists, else by what it was called.
fn find_endpoint(
    view: &NodeView,
    network: &Name,
    text: &str,
    container: Option<&Container>,
) -> Result<Option<(NetworkId, Stored<EndpointRecord>)>, DisconnectError> {
    let of_name = |content: &weft_overlay::view::NetworkView| {
        content.spec.as_ref().is_some_and(|spec| spec.record.name == *network)
    };
    let Some((id, content)) = view.networks().find(|(_, content)| of_name(content)) else {
        let known = view.index().any(|(name, _)| name == network);
        return if known { Ok(None) } else { Err(DisconnectError::UnknownNetwork(network.clone())) };
    };
    let is_it = |record: &EndpointRecord| {
        let Some(sandbox) = &record.sandbox else { return false };
        match container {
            Some(container) => (sandbox.dev, sandbox.inode) == (container.dev, container.inode),
            None => sandbox.container == text,
        }
    };
    let own = content.endpoints_of(view.config.node);
    let mut connected = own.filter(|stored| is_it(&stored.record) && !view.is_detaching(stored.record.id));
    Ok(connected.next().map(|stored| (id, stored.clone())))
}

/// Held by whoever acts on a container; shared by those who wait for it.
type Gate = Arc<AsyncMutex<()>>;

/// Lets one task at a time act on one container.
#[derive(Debug, Default)]
struct Gates {
    containers: Mutex<BTreeMap<(u64, u64), Gate>>,
}

impl Gates {
    async fn container(&self, dev: u64, inode: u64) -> OwnedMutexGuard<()> {
        let gate = {
            let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
            // Gates that nobody else holds are of containers of the past.
            containers.retain(|_, gate| Arc::strong_count(gate) > 1);
            containers.entry((dev, inode)).or_default().clone()
        };
        gate.lock_owned().await
    }
}
