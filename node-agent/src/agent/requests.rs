//! What the socket's requests do: each calls the part that does it, and puts the answer into the promised shape.

use std::{collections::BTreeMap, future::Future, net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};
use weft_overlay::{
    codec::encode_record,
    desired::{encapsulation_overhead, everything, network_mtu},
    id::{Name, NetworkId},
    kernel::KernelState,
    keys::{Key, Keyspace},
    model::{BlockState, EndpointKind, EndpointRecord, NetworkState},
    store::{Store, etcd::EtcdStore},
    view::NodeView,
};

use super::{
    AgentOptions, NodeKernel,
    attach::{Attached, Attacher},
    handle::ShuttingDown,
    naming::Naming,
};
use crate::{
    api::{
        error::RequestError,
        messages::{
            Block, Connect, CreateNetwork, Disconnect, DumpReply, Endpoint, ErrorClass, Member, Network, NetworkStatus,
            Node, PlanReply, RemovedNetwork, Status, StoreStatus,
        },
        server::{EndpointFilter, Requests},
    },
    control::{
        endpoints::{EndpointState, EndpointView, EndpointsError, inspect_endpoint, list_endpoints},
        networks::{
            NetworkDetails, NetworkRequest, NetworkView, NetworksError, await_removed, create_network, find_network,
            inspect_network, list_networks, remove_network,
        },
        nodes::{self, NodeState, NodesError, inspect_node, list_nodes, remove_node, set_draining},
        registration::{Registration, Standing},
    },
    docker::Troubles,
    reconciler::Reconciler,
};

/// How long a request may wait for the store.
const PATIENCE: Duration = Duration::from_secs(10);
/// Deleting also waits for the agents of the members and for the controller.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(30);
/// More lines than this of what is pending or wrong help nobody.
const SHOWN: usize = 50;

type Reply<T> = Result<T, RequestError>;

/// The agent, as its socket sees it.
#[derive(Debug)]
pub(super) struct AgentRequests {
    pub(super) attacher: Arc<Attacher<EtcdStore, NodeKernel>>,
    pub(super) naming: Arc<Mutex<Naming<NodeKernel>>>,
    pub(super) registration: Registration,
    pub(super) options: AgentOptions,
    pub(super) docker: Troubles,
}

impl Requests for AgentRequests {
    async fn status(&self) -> Reply<Status> {
        let observed = self.attacher.handle.ask(|reconciler| Observed::of(reconciler)).await?;
        let facts = &self.attacher.facts;
        let (standing, obstacle) = match &*self.registration.standing.borrow() {
            Standing::Active(_) => ("active", None),
            Standing::Draining(_) => ("draining", None),
            Standing::Lost => ("lost", Some("this node was declared lost and is coming back".to_owned())),
            Standing::Registering { why } => ("registering", Some(why.to_string())),
        };
        let health = self.registration.health.borrow().clone();
        let store_error = health.last_error.filter(|_| !health.reachable);
        let unreachable = store_error.as_ref().map(|error| format!("the store does not answer: {error}"));
        let errors: Vec<String> = obstacle
            .into_iter()
            .chain(unreachable)
            .chain(observed.errors)
            .chain(self.docker.list())
            .take(SHOWN)
            .collect();
        Ok(Status {
            node: facts.name.clone(),
            id: facts.node,
            version: self.options.version.clone(),
            vtep: facts.vtep,
            netns: self.options.netns.clone(),
            vxlan_port: self.options.vxlan_port,
            underlay_mtu: observed.underlay_mtu,
            standing: standing.to_owned(),
            store: StoreStatus {
                endpoint: self.attacher.client.store().endpoint(),
                reachable: health.reachable,
                error: store_error,
            },
            revision: observed.revision,
            converged: observed.converged && matches!(standing, "active" | "draining"),
            pending: observed.pending,
            networks: observed.networks,
            errors,
            counters: observed.counters,
        })
    }

    async fn plan(&self) -> Reply<PlanReply> {
        let preview = self.attacher.handle.ask(Reconciler::preview).await?;
        let (_, plan) = preview.map_err(|error| RequestError::new(ErrorClass::Internal, &error))?;
        Ok(PlanReply {
            steps: plan.steps.iter().map(ToString::to_string).collect(),
            obstacles: plan.obstacles.iter().map(ToString::to_string).collect(),
        })
    }

    async fn dump(&self) -> Reply<DumpReply> {
        let keys = self.options.keys.clone();
        let look = move |reconciler: &mut Reconciler<NodeKernel>| {
            let (observed, _) = reconciler.preview()?;
            let view = reconciler.view();
            let desired = KernelState { objects: everything(view).into_iter().collect() };
            Ok(DumpReply { desired: texts(&desired), observed: texts(&observed), store: store_view(view, &keys) })
        };
        let dump: Result<DumpReply, weft_overlay::kernel::ObserveError> = self.attacher.handle.ask(look).await?;
        dump.map_err(|error| RequestError::new(ErrorClass::Internal, &error))
    }

    async fn create_network(&self, request: CreateNetwork) -> Reply<Network> {
        let request = NetworkRequest {
            name: request.name,
            subnets: request.subnets,
            gateways: request.gateways,
            ip_ranges: request.ip_ranges,
            auxiliary: Vec::new(),
            vni: request.vni,
            mtu: request.mtu,
            internal: request.internal,
            labels: request.labels,
            docker_options: BTreeMap::new(),
        };
        let view = create_network(&self.attacher.client, &request, within(PATIENCE)).await?;
        self.network_of(view, 0).await
    }

    async fn networks(&self) -> Reply<Vec<Network>> {
        let views = list_networks(&self.attacher.client, within(PATIENCE)).await?;
        let endpoints = list_endpoints(&self.attacher.client, None, None, within(PATIENCE)).await?;
        let mut counts: BTreeMap<NetworkId, usize> = BTreeMap::new();
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.kind == EndpointKind::Container) {
            *counts.entry(endpoint.network_id).or_default() += 1;
        }
        let mut networks = Vec::with_capacity(views.len());
        for view in views {
            let count = counts.get(&view.id).copied().unwrap_or_default();
            networks.push(self.network_of(view, count).await?);
        }
        Ok(networks)
    }

    async fn network(&self, name: Name) -> Reply<Network> {
        let details = inspect_network(&self.attacher.client, name.as_str(), within(PATIENCE)).await?;
        let NetworkDetails { network, members, endpoints, blocks, .. } = details;
        let containers: Vec<Endpoint> =
            endpoints.into_iter().filter(|e| e.kind == EndpointKind::Container).map(endpoint_of).collect();
        let overhead = encapsulation_overhead(self.attacher.facts.vtep);
        let smallest = members.iter().map(|member| member.underlay_mtu).min();
        let mut shown = self.network_of(network.clone(), containers.len()).await?;
        if let (None, Some(smallest)) = (network.mtu, smallest) {
            shown.mtu = smallest.saturating_sub(overhead);
        }
        let member = |m: crate::control::networks::MemberView| Member {
            node: m.node,
            vtep: m.vtep,
            underlay_mtu: m.underlay_mtu,
        };
        shown.members = Some(members.into_iter().map(member).collect());
        shown.endpoints = Some(containers);
        let block = |b: crate::control::networks::BlockView| {
            let state = if b.state == BlockState::Owned { "owned" } else { "cooling" };
            Some(Block { block: b.block.parse().ok()?, node: b.node, state: state.to_owned(), used: b.held })
        };
        shown.blocks = Some(blocks.into_iter().filter_map(block).collect());
        Ok(shown)
    }

    async fn remove_network(&self, name: Name, force: bool) -> Reply<RemovedNetwork> {
        let deadline = within(REMOVAL_PATIENCE);
        let id = remove_network(&self.attacher.client, name.as_str(), force, deadline).await?;
        await_removed(&self.attacher.client, id, deadline).await?;
        Ok(RemovedNetwork { name, id })
    }

    async fn connect(&self, request: Connect) -> Reply<Endpoint> {
        let (attacher, naming) = (self.attacher.clone(), self.naming.clone());
        let network = request.network.clone();
        let attached = unhurried(async move {
            let container = request.container.clone();
            let mut attached = Box::pin(attacher.connect(request)).await;
            let mut naming = naming.lock().await;
            naming.refresh().await;
            if let Ok(attached) = &mut attached {
                // The notice of the new record may still be on its way, but the container asks at once.
                let key = attached.record.primary_address().map(|ip| (attached.network, ip));
                naming.endpoints_changed(key.into_iter().collect()).await;
                attached.warnings.extend(naming.resolver_warning(&container));
            }
            attached
        });
        let attached = attached.await?.map_err(|error| RequestError::new(error.class(), &error))?;
        Ok(self.attached(attached, network, "ready"))
    }

    async fn disconnect(&self, request: Disconnect) -> Reply<Endpoint> {
        let (attacher, naming) = (self.attacher.clone(), self.naming.clone());
        let network = request.network.clone();
        let detached = unhurried(async move {
            let detached = Box::pin(attacher.disconnect(request)).await;
            naming.lock().await.refresh().await;
            detached
        });
        let detached = detached.await?.map_err(|error| RequestError::new(error.class(), &error))?;
        Ok(self.attached(detached, network, "disconnected"))
    }

    async fn endpoints(&self, filter: EndpointFilter) -> Reply<Vec<Endpoint>> {
        let client = &self.attacher.client;
        let network = match &filter.network {
            Some(name) => Some(find_network(client, name.as_str(), within(PATIENCE)).await?.0),
            None => None,
        };
        let node = match &filter.node {
            Some(name) => Some(inspect_node(client, name, within(PATIENCE)).await?.id),
            None => None,
        };
        let endpoints = list_endpoints(client, network, node, within(PATIENCE)).await?;
        let shown = endpoints.into_iter().filter(|e| filter.all || e.kind == EndpointKind::Container);
        Ok(shown.map(endpoint_of).collect())
    }

    async fn endpoint(&self, id: String) -> Reply<Endpoint> {
        let client = &self.attacher.client;
        if let Ok(id) = id.parse() {
            return Ok(endpoint_of(inspect_endpoint(client, id, within(PATIENCE)).await?));
        }
        let mut named = list_endpoints(client, None, None, within(PATIENCE)).await?;
        named.retain(|endpoint| endpoint.name.as_str() == id && endpoint.kind == EndpointKind::Container);
        let shown: String = id.chars().take(80).collect();
        match named.len() {
            0 => Err(RequestError::words(
                ErrorClass::NotFound,
                format!("there is no endpoint {shown:?}; `weft endpoint ls` shows all"),
            )),
            1 => Ok(endpoint_of(named.remove(0))),
            _ => {
                let ids: Vec<String> = named.iter().map(|e| format!("{} in {}", e.id, e.network)).collect();
                let words =
                    format!("{shown:?} is the name of several endpoints: {}; name one by its id", ids.join(", "));
                Err(RequestError::words(ErrorClass::Conflict, words))
            }
        }
    }

    async fn nodes(&self) -> Reply<Vec<Node>> {
        let client = &self.attacher.client;
        let nodes = list_nodes(client, within(PATIENCE)).await?;
        let endpoints = list_endpoints(client, None, None, within(PATIENCE)).await?;
        Ok(nodes.into_iter().map(|node| node_of(node, &endpoints, false)).collect())
    }

    async fn node(&self, name: String) -> Reply<Node> {
        let client = &self.attacher.client;
        let node = inspect_node(client, &name, within(PATIENCE)).await?;
        let endpoints = list_endpoints(client, None, Some(node.id), within(PATIENCE)).await?;
        Ok(node_of(node, &endpoints, true))
    }

    async fn drain_node(&self, name: String, undo: bool) -> Reply<Node> {
        let client = &self.attacher.client;
        let node = set_draining(client, &name, !undo, within(PATIENCE)).await?;
        let endpoints = list_endpoints(client, None, Some(node.id), within(PATIENCE)).await?;
        Ok(node_of(node, &endpoints, false))
    }

    async fn remove_node(&self, name: String, force: bool) -> Reply<Node> {
        let client = &self.attacher.client;
        let node = inspect_node(client, &name, within(PATIENCE)).await?;
        let endpoints = list_endpoints(client, None, Some(node.id), within(PATIENCE)).await?;
        remove_node(client, &name, force, within(REMOVAL_PATIENCE)).await?;
        Ok(node_of(node, &endpoints, false))
    }
}

impl AgentRequests {
    async fn network_of(&self, view: NetworkView, endpoint_count: usize) -> Reply<Network> {
        let id = view.id;
        let followed = move |view: &NodeView| {
            let content = view.network(id)?;
            Some(network_mtu(view, content, &content.spec.as_ref()?.record))
        };
        let computed = self.attacher.handle.view(followed).await?;
        let own = self.attacher.handle.view(|view| view.underlay_mtu).await?;
        let own = own.saturating_sub(encapsulation_overhead(self.attacher.facts.vtep));
        Ok(Network {
            name: view.name,
            id,
            vni: view.vni,
            subnets: view.subnets.iter().map(|subnet| subnet.subnet).collect(),
            gateways: view.gateways,
            mtu: view.mtu.or(computed).unwrap_or(own),
            internal: view.internal,
            state: match view.state {
                NetworkState::Active => "active".to_owned(),
                NetworkState::Deleting => "deleting".to_owned(),
            },
            labels: view.labels,
            endpoint_count,
            remark: self.docker.remark_on(id),
            members: None,
            endpoints: None,
            blocks: None,
        })
    }

    fn attached(&self, attached: Attached, network: Name, state: &str) -> Endpoint {
        let EndpointRecord { id, name, ipv4, ipv6, mac, aliases, published, sandbox, .. } = attached.record;
        Endpoint {
            id,
            name,
            network,
            node: self.attacher.facts.name.to_string(),
            ipv4,
            ipv6,
            mac,
            state: state.to_owned(),
            kind: "container".to_owned(),
            container: sandbox.as_ref().map(|sandbox| sandbox.container.clone()),
            ifname: sandbox.map(|sandbox| sandbox.ifname),
            aliases,
            published,
            warnings: attached.warnings,
        }
    }
}

/// Runs to its end even if whoever asked goes away: half an attach is nothing to leave behind.
async fn unhurried<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Reply<T> {
    tokio::spawn(work).await.map_err(|error| RequestError::new(ErrorClass::Internal, &error))
}

fn within(patience: Duration) -> Instant {
    Instant::now() + patience
}

/// What `weft status` takes from the reconciler.
struct Observed {
    underlay_mtu: u32,
    revision: i64,
    converged: bool,
    pending: Vec<String>,
    errors: Vec<String>,
    networks: Vec<NetworkStatus>,
    counters: crate::api::messages::Counters,
}

impl Observed {
    fn of(reconciler: &Reconciler<NodeKernel>) -> Self {
        let view = reconciler.view();
        let (mut pending, errors) = reconciler.troubles();
        pending.truncate(SHOWN);
        Self {
            underlay_mtu: view.underlay_mtu,
            revision: view.revision(),
            converged: reconciler.is_converged(),
            pending,
            errors,
            networks: view.networks().filter_map(|(network, _)| network_status(view, network)).collect(),
            counters: reconciler.counters(),
        }
    }
}

fn network_status(view: &NodeView, network: NetworkId) -> Option<NetworkStatus> {
    let content = view.network(network)?;
    let spec = &content.spec.as_ref()?.record;
    let containers = content.endpoints().filter(|e| e.record.kind == EndpointKind::Container).count();
    let local = view.locals_in(network).filter(|l| l.record.kind == EndpointKind::Container).count();
    Some(NetworkStatus {
        name: spec.name.to_string(),
        id: network,
        mtu: network_mtu(view, content, spec),
        bridge: network.bridge_name(),
        vxlan: network.vxlan_name(),
        leg: network.leg_name(),
        local,
        remote: containers.saturating_sub(local),
        peers: content.members.keys().filter(|node| **node != view.config.node).count(),
    })
}

fn texts(state: &KernelState) -> BTreeMap<String, String> {
    state.objects.iter().map(|(id, object)| (id.to_string(), object.to_string())).collect()
}

fn store_view(view: &NodeView, keys: &Keyspace) -> BTreeMap<String, serde_json::Value> {
    let mut shown = BTreeMap::new();
    let mut show = |key: Key, value: Vec<u8>| {
        let key = String::from_utf8_lossy(&keys.encode(&key)).into_owned();
        shown.insert(key, serde_json::from_slice(&value).unwrap_or_default());
    };
    for (name, record) in view.index() {
        show(Key::NetworkName(name.clone()), encode_record(record));
    }
    for (network, content) in view.networks() {
        if let Some(spec) = &content.spec {
            show(Key::Spec(network), encode_record(&spec.record));
        }
        for (node, member) in &content.members {
            show(Key::Member(network, *node), encode_record(&member.record));
        }
        for stored in content.endpoints() {
            let ip: Option<IpAddr> = stored.record.primary_address();
            if let Some(ip) = ip {
                show(Key::Endpoint(network, ip), encode_record(&stored.record));
            }
        }
    }
    shown
}

fn endpoint_of(view: EndpointView) -> Endpoint {
    Endpoint {
        id: view.id,
        name: view.name,
        network: view.network.parse().unwrap_or_else(|_| unnamed()),
        node: view.node,
        ipv4: view.ipv4,
        ipv6: view.ipv6,
        mac: view.mac,
        state: match view.state {
            EndpointState::Active => "ready".to_owned(),
            EndpointState::Suspect => "unreachable".to_owned(),
            EndpointState::Lost => "lost".to_owned(),
        },
        kind: match view.kind {
            EndpointKind::Container => "container".to_owned(),
            EndpointKind::Leg => "leg".to_owned(),
        },
        container: view.container,
        ifname: None,
        aliases: view.aliases,
        published: view.published,
        warnings: Vec::new(),
    }
}

/// Stands for a network whose specification is gone while its endpoints are being removed.
fn unnamed() -> Name {
    "unnamed".parse().expect("letters are a name")
}

fn node_of(view: nodes::NodeView, endpoints: &[EndpointView], with_routes: bool) -> Node {
    let own = endpoints.iter().filter(|e| e.node_id == view.id && e.kind == EndpointKind::Container);
    let routes = || view.routes.iter().map(|route| format!("{} dev {}", route.destination, route.dev)).collect();
    Node {
        endpoint_count: own.count(),
        routes: with_routes.then(routes),
        name: view.name,
        id: view.id,
        vtep: view.vtep,
        state: match view.state {
            NodeState::Ready => "ready".to_owned(),
            NodeState::Suspect => "unreachable".to_owned(),
            NodeState::Draining => "draining".to_owned(),
            NodeState::Lost => "lost".to_owned(),
        },
        version: view.version,
    }
}

impl From<ShuttingDown> for RequestError {
    fn from(error: ShuttingDown) -> Self {
        Self::new(ErrorClass::Unavailable, &error)
    }
}

impl From<NetworksError> for RequestError {
    fn from(error: NetworksError) -> Self {
        let class = match &error {
            NetworksError::Draft(_) => ErrorClass::Invalid,
            NetworksError::Unknown(_) => ErrorClass::NotFound,
            NetworksError::Conflict(_)
            | NetworksError::NameTaken { .. }
            | NetworksError::VniTaken { .. }
            | NetworksError::Contended(_)
            | NetworksError::InUse { .. }
            | NetworksError::Changed(_) => ErrorClass::Conflict,
            NetworksError::StillThere { .. } | NetworksError::Store(_) => ErrorClass::Unavailable,
        };
        Self::new(class, &error)
    }
}

impl From<NodesError> for RequestError {
    fn from(error: NodesError) -> Self {
        let class = match &error {
            NodesError::Unknown(_) => ErrorClass::NotFound,
            NodesError::Store(_) | NodesError::CleaningUp { .. } => ErrorClass::Unavailable,
            NodesError::Alive { .. } | NodesError::InUse { .. } | NodesError::Claim(_) | NodesError::Changed(_) => {
                ErrorClass::Conflict
            }
        };
        Self::new(class, &error)
    }
}

impl From<EndpointsError> for RequestError {
    fn from(error: EndpointsError) -> Self {
        let class = match &error {
            EndpointsError::Unknown(_) => ErrorClass::NotFound,
            EndpointsError::Store(_) => ErrorClass::Unavailable,
        };
        Self::new(class, &error)
    }
}
