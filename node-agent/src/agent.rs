//! The agent: makes the parts, joins them, and runs until it is told to stop.
//!
//! The kernel is left as it is at the end: containers keep talking, and the next agent adopts what it finds.

use std::{collections::BTreeSet, convert::Infallible, future::Future, path::PathBuf, sync::Arc};

use rand::{SeedableRng, rngs::StdRng};
use thiserror::Error;
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    task::JoinSet,
};
use tracing::{info, warn};
use weft_overlay::{
    id::{Name, NodeId},
    kernel::{ObserveError, Table},
    keys::Keyspace,
    store::etcd::{EtcdOptions, EtcdOptionsError, EtcdStore},
    view::{NodeConfig, NodeView},
};

use self::{
    attach::{Attacher, NodeFacts},
    followers::Followers,
    handle::Handle,
    naming::Naming,
    requests::AgentRequests,
};
use crate::{
    api::server::{self, SocketError},
    control::{
        allocation::{AllocationSettings, Allocator},
        membership::Membership,
        registration::{NodeDescription, NodeIdentity, Registration, register},
        submit::Client,
    },
    docker::{self, DockerOptions},
    firewall::{FirewallError, NftFirewall},
    identity::{IdentityError, StateDir, boot_id},
    kernel::{
        LinuxKernel, Places,
        dataplane_ns::{DataPlaneNamespace, DataPlaneNamespaceError},
        host,
        watch::{KernelWatch, Report, WatchError},
    },
    names::{NameServer, ServerOptions, Upstream},
    netns::{Namespace, NetnsError},
    privilege,
    reconciler::{Doubt, Reconciler, chain},
    underlay::{UnderlayError, choose_underlay},
};

pub mod attach;
pub mod followers;
pub mod handle;
mod journal;
pub mod naming;
mod progress;
mod requests;
mod upkeep;

pub use self::progress::Progress;

/// The kernel that an agent works on.
pub type NodeKernel = LinuxKernel<NftFirewall>;

/// What an agent is told at its start.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Where the store is.
    pub store: EtcdOptions,
    /// The root of the cluster's keys.
    pub keys: Keyspace,
    /// This node's name.
    pub node: Name,
    /// Which address is the VTEP: an interface, a subnet or an address; absent: the only candidate.
    pub underlay: Option<String>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Where the node's identity is kept.
    pub state_dir: PathBuf,
    /// The socket of the local interface.
    pub socket: PathBuf,
    /// The group whose members may use it beside root.
    pub socket_group: Option<u32>,
    /// The name of the data plane's namespace, in /run/netns.
    pub netns: String,
    /// Where the host's resolvers are listed.
    pub resolv_conf: PathBuf,
    /// How long answers about names may be kept.
    pub dns_ttl: std::time::Duration,
    /// Whether and where Docker is served.
    pub docker: DockerOptions,
    /// The program's version.
    pub version: String,
}

/// Why an agent did not start, or ended.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its user may not do what an agent does.
    #[error(
        "the agent lacks {}; run it with sudo or as a system service, with these in the unit's CapabilityBoundingSet",
        .0.join(", ")
    )]
    Privilege(Vec<&'static str>),
    /// No VTEP.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store's options make no sense.
    #[error(transparent)]
    Store(#[from] EtcdOptionsError),
    /// A namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// The data plane's namespace cannot be made.
    #[error("making the data plane's network namespace")]
    DataPlane(#[from] DataPlaneNamespaceError),
    /// The firewall cannot be used.
    #[error("preparing the firewall")]
    Firewall(#[from] FirewallError),
    /// The host cannot be read.
    #[error("reading the host's addresses")]
    Observe(#[from] ObserveError),
    /// The kernel cannot be watched.
    #[error("watching the kernel")]
    Watch(#[from] WatchError),
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A part of the agent ended that must not: the process ends too, and is to be started again.
    #[error("{0} ended unexpectedly")]
    PartEnded(&'static str),
}

/// Runs an agent until `shutdown` completes. `tell` is called with news of it, and must not block.
///
/// # Errors
/// When it cannot start, or a part of it fails for good.
pub async fn run(
    options: AgentOptions,
    tell: impl Fn(Progress),
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let missing = privilege::missing();
    if !missing.is_empty() {
        return Err(AgentError::Privilege(missing));
    }
    let parts = Parts::prepare(&options).await?;
    let mut tasks = JoinSet::new();
    let Started { registration, docker } = parts.start(&options, &mut tasks)?;
    tokio::select! {
        // All cancel-safe: whatever was ready stays so, and the tasks end with the set.
        never = progress::tell_progress(docker, registration, tell) => match never {},
        () = shutdown => {
            info!("shutting down; the kernel is left as it is");
            Ok(())
        }
        ended = tasks.join_next() => {
            let part = match ended {
                Some(Ok(part)) => part,
                Some(Err(error)) => {
                    warn!(%error, "a task of the agent failed");
                    "a task"
                }
                None => "everything",
            };
            Err(AgentError::PartEnded(part))
        }
    }
}

/// What is made before anything runs.
struct Parts {
    state: Arc<StateDir>,
    identity: NodeIdentity,
    data_plane: DataPlaneNamespace,
    places: Places,
    facts: NodeFacts,
    store: EtcdStore,
    view: NodeView,
    kernel: NodeKernel,
    own_commits: BTreeSet<(Table, u32)>,
    underlay_ifname: String,
}

/// What is known of an agent whose parts run.
struct Started {
    registration: Registration,
    /// Ends when nobody has to wait for Docker's plugin socket any longer.
    docker: oneshot::Receiver<Infallible>,
}

impl Parts {
    async fn prepare(options: &AgentOptions) -> Result<Self, AgentError> {
        let state = Arc::new(StateDir::open(&options.state_dir)?);
        let node = state.node_id(rand::random())?;
        let boot_id = boot_id()?;
        let here = Namespace::current()?;
        let underlay = choose_underlay(options.underlay.as_deref(), &host::addresses(&here)?)?;
        let vtep = underlay.address.ip();
        let data_plane = DataPlaneNamespace::ensure(&options.netns)?;
        let facts = NodeFacts {
            node,
            name: options.node.clone(),
            vtep,
            boot_id: boot_id.clone(),
            host: here.clone(),
            data_plane: data_plane.namespace().clone(),
        };
        let places =
            Places { host: here.clone(), data_plane: facts.data_plane.clone(), vxlan_port: options.vxlan_port };
        let firewall = NftFirewall::new(here, facts.data_plane.clone(), options.vxlan_port)?;
        let config = NodeConfig { node, boot_id: boot_id.clone(), vtep, vxlan_port: options.vxlan_port };
        info!(%node, name = %options.node, %vtep, underlay = underlay.ifname, netns = options.netns, version = options.version, "agent starts");
        Ok(Self {
            state,
            identity: NodeIdentity { node, name: options.node.clone(), vtep, boot_id },
            places: places.clone(),
            store: EtcdStore::connect(options.store.clone()).await?,
            view: NodeView::new(config, options.keys.clone(), underlay.mtu),
            own_commits: firewall.netlink_ports(),
            kernel: LinuxKernel::new(places, firewall),
            underlay_ifname: underlay.ifname,
            facts,
            data_plane,
        })
    }

    fn start(self, options: &AgentOptions, tasks: &mut JoinSet<&'static str>) -> Result<Started, AgentError> {
        let rng = StdRng::from_rng(&mut rand::rng());
        let client = Client::new(self.store, options.keys.clone(), rng);
        let (handle, inputs) = Handle::<NodeKernel>::channel();
        let (mtu_in, mtu) = watch::channel(self.view.underlay_mtu);
        let (notices_in, notices) = mpsc::unbounded_channel();
        let reconciler = Reconciler::new(self.kernel, self.view, notices_in);
        tasks.spawn_blocking(move || {
            reconciler.run(&inputs);
            "the reconciler"
        });

        let (description_in, description) =
            watch::channel(NodeDescription { version: options.version.clone(), routes: Vec::new() });
        let (registration, registering) =
            register(client.clone(), self.identity.clone(), description, self.state.lease());
        tasks.spawn(async move {
            Box::pin(registering).await;
            "the registration"
        });
        let allocator =
            Allocator::new(client.clone(), self.identity.node, registration.clone(), AllocationSettings::default());
        let upkeep_of_addresses = allocator.clone();
        tasks.spawn(async move {
            Box::pin(upkeep_of_addresses.run()).await;
            "the allocator"
        });
        let membership =
            Membership::new(client.clone(), allocator.clone(), registration.clone(), self.identity.clone(), mtu);
        let followers = Followers::new(client.clone(), handle.clone());
        let attacher = Arc::new(Attacher::new(
            allocator.clone(),
            membership.clone(),
            followers.clone(),
            self.facts.clone(),
            self.state.clone(),
        ));
        let naming = make_naming(options, handle.clone(), self.identity.node);
        let insider = naming.insider();
        let naming = Arc::new(Mutex::new(naming));
        let troubles = docker::Troubles::default();
        let parts = docker::Parts {
            attacher: attacher.clone(),
            naming: naming.clone(),
            insider,
            state: self.state.clone(),
            troubles: troubles.clone(),
        };
        let docker = docker::start(options.docker.clone(), parts, tasks);

        let wake = Arc::new(Notify::new());
        let upkeep = upkeep::Upkeep {
            attacher: attacher.clone(),
            naming: naming.clone(),
            registration: registration.clone(),
            state: self.state,
            data_plane: self.data_plane,
            underlay_ifname: self.underlay_ifname,
            mtu: mtu_in,
            description: description_in,
            wake: wake.clone(),
            epoch: None,
        };
        upkeep.start(notices, tasks);
        let kernel_watch = KernelWatch::start(&self.places, self.own_commits)?;
        heed_kernel(kernel_watch, handle.clone(), wake, tasks);

        let listener = server::bind(&options.socket, options.socket_group)?;
        let started = Started { registration: registration.clone(), docker };
        let requests =
            Arc::new(AgentRequests { attacher, naming, registration, options: options.clone(), docker: troubles });
        tasks.spawn(async move {
            if let Err(error) = server::serve(listener, requests).await {
                warn!(error = %chain(&error), "serving the socket");
            }
            "the socket's server"
        });
        Ok(started)
    }
}

fn make_naming(options: &AgentOptions, handle: Handle<NodeKernel>, node: NodeId) -> Naming<NodeKernel> {
    let table = Arc::default();
    let upstream = Upstream::new(&options.resolv_conf);
    let settings = ServerOptions { ttl: options.dns_ttl, ..ServerOptions::default() };
    let server = NameServer::new(Arc::clone(&table), upstream, settings);
    Naming::new(handle, table, server, node)
}

fn heed_kernel(
    kernel_watch: KernelWatch,
    handle: Handle<NodeKernel>,
    wake: Arc<Notify>,
    tasks: &mut JoinSet<&'static str>,
) {
    tasks.spawn(async move {
        loop {
            let doubts = kernel_watch.doubts().await;
            if doubts.host {
                wake.notify_one();
            }
            handle.doubt(doubts_of(doubts));
        }
    });
}

/// What the kernel's notifications cast doubt on.
fn doubts_of(reported: crate::kernel::watch::Doubts) -> Vec<Doubt> {
    let mut doubts: Vec<Doubt> = reported.networks.into_iter().map(Doubt::Network).collect();
    if reported.everything {
        doubts.push(Doubt::Everything);
    }
    if reported.obstruction {
        doubts.push(Doubt::Obstruction);
    }
    doubts.extend(reported.firewall.into_iter().map(Doubt::Firewall));
    doubts.extend(reported.objects.into_iter().map(|(id, report)| match report {
        Report::Is(object) => Doubt::Changed(id, Some(object)),
        Report::Absent => Doubt::Changed(id, None),
        Report::Changed => Doubt::Object(id),
    }));
    doubts
}
