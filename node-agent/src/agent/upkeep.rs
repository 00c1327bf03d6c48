//! What the agent does by itself: follows the networks that concern the node, passes on what changed, releases what is
//! gone, and keeps up with its host.
//!
//! Each look is complete in itself; ticks only bound how long something may go unnoticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, mpsc::UnboundedReceiver, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, info, warn};
use weft_overlay::{
    id::NetworkId,
    model::{EndpointKind, EndpointRecord, NetworkState},
    store::etcd::EtcdStore,
    view::{NodeView, Stored},
};

use super::{NodeKernel, attach::Attacher, naming::Naming};
use crate::{
    control::{
        endpoints::own_endpoints,
        registration::{NodeDescription, Registration},
    },
    identity::StateDir,
    kernel::{dataplane_ns::DataPlaneNamespace, host},
    netns::Namespace,
    reconciler::{Notice, chain},
};

mod recovery;

/// How long something may go unnoticed that nothing told of.
const TICK: Duration = Duration::from_secs(5);
/// What is told in quick succession is looked at together.
const SETTLE: Duration = Duration::from_millis(50);

pub(super) struct Upkeep {
    pub(super) attacher: Arc<Attacher<EtcdStore, NodeKernel>>,
    pub(super) naming: Arc<Mutex<Naming<NodeKernel>>>,
    pub(super) registration: Registration,
    pub(super) state: Arc<StateDir>,
    pub(super) data_plane: DataPlaneNamespace,
    pub(super) underlay_ifname: String,
    pub(super) mtu: watch::Sender<u32>,
    pub(super) description: watch::Sender<NodeDescription>,
    /// Told when something changed that may concern the host or its networks.
    pub(super) wake: Arc<Notify>,
    /// The epoch that everything of this node was last looked at in.
    pub(super) epoch: Option<u64>,
}

impl Upkeep {
    pub(super) fn start(self, notices: UnboundedReceiver<Notice>, tasks: &mut JoinSet<&'static str>) {
        let (attacher, registration) = (self.attacher.clone(), self.registration.clone());
        tasks.spawn(async move {
            load(&attacher, &registration).await;
            attacher.followers.clone().follow_index().await;
            "following the index of networks"
        });
        let membership = self.attacher.membership.clone();
        tasks.spawn(async move {
            Box::pin(membership.run()).await;
            "the membership"
        });
        tasks.spawn(keep_lease(self.registration.clone(), self.state.clone()));
        tasks.spawn(take_notices(self.attacher.clone(), self.naming.clone(), self.wake.clone(), notices));
        tasks.spawn(self.tick());
    }

    async fn tick(mut self) -> &'static str {
        let mut news = self.attacher.followers.news();
        loop {
            if let Err(error) = self.data_plane.ensure_mounted() {
                warn!(error = %chain(&error), "keeping the data plane's namespace mounted");
            }
            self.refresh_mtu().await;
            self.refresh_routes();
            self.attacher.retry_deferred().await;
            self.attacher.forget_settled_strays().await;
            Box::pin(self.recover()).await;
            Box::pin(self.follow_fate_of_networks()).await;
            self.naming.lock().await.refresh().await;
            tokio::select! {
                biased;
                // All cancel-safe: a permit and a change stay until they are taken.
                () = self.wake.notified() => {}
                Ok(()) = news.changed() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// The smallest MTU of the ways to the other members, and of the underlay's interface itself.
    async fn refresh_mtu(&mut self) {
        let own = self.attacher.facts.vtep;
        let Ok(peers) = self.attacher.handle.view(move |view| peers(view, own)).await else { return };
        let host = &self.attacher.facts.host;
        let Some(device) = device_mtu(host, &self.underlay_ifname, own) else {
            debug!(ifname = self.underlay_ifname, "the underlay's interface is away; its MTU is kept");
            return;
        };
        let ways = peers.into_iter().filter_map(|peer| host::route_mtu(host, peer).ok());
        let smallest = ways.fold(device, u32::min);
        if self.mtu.send_if_modified(|mtu| std::mem::replace(mtu, smallest) != smallest) {
            info!(mtu = smallest, "the underlay's MTU changed");
            self.attacher.handle.change(move |view| view.set_underlay_mtu(smallest));
        }
    }

    fn refresh_routes(&mut self) {
        match host::routes(&self.attacher.facts.host) {
            Ok(routes) => {
                self.description.send_if_modified(|description| {
                    let changed = description.routes != routes;
                    description.routes = routes;
                    changed
                });
            }
            Err(error) => warn!(error = %chain(&error), "listing the host's routes"),
        }
    }

    /// Registers again what somebody else removed while it was in use: the controller, because this node was lost, or a
    /// person. At the start and after a change of the epoch the legs and memberships are looked at too.
    async fn recover(&mut self) {
        let Some(token) = self.registration.standing.borrow().token() else { return };
        let vtep = self.attacher.facts.vtep;
        let look = move |view: &NodeView| recovery::astray(view, token, vtep);
        let Ok(astray) = self.attacher.handle.view(look).await else { return };
        if astray.is_empty() && self.epoch == Some(token.epoch) {
            return;
        }
        if Box::pin(recovery::register_again(&self.attacher, astray)).await {
            self.epoch = Some(token.epoch);
        }
    }

    /// Networks being deleted by force lose their containers here; those that are gone are not followed any longer.
    async fn follow_fate_of_networks(&self) {
        let Ok(fates) = self.attacher.handle.view(fates).await else { return };
        for (network, fate) in fates {
            match fate {
                Fate::InUse(used) => self.attacher.membership.set_in_use(network, used),
                Fate::Evict(endpoints) => {
                    for endpoint in endpoints {
                        info!(%network, endpoint = %endpoint.record.id, "its network is being deleted: detaching");
                        // A failure was logged, and is tried again.
                        self.attacher.detach(network, endpoint).await.ok();
                    }
                    self.attacher.membership.set_in_use(network, false);
                    if let Err(error) = Box::pin(self.attacher.membership.leave(network)).await {
                        debug!(%network, error = %chain(&error), "leaving a network that is being deleted");
                    }
                }
                Fate::Over => {
                    self.attacher.allocator.forget_network(network);
                    self.attacher.followers.unfollow(network);
                }
            }
        }
    }
}

/// The MTU of the interface that has the VTEP.
fn device_mtu(host: &Namespace, ifname: &str, vtep: IpAddr) -> Option<u32> {
    let addresses = host::addresses(host).ok()?;
    let holder = addresses.iter().find(|address| address.address.ip() == vtep);
    holder.or_else(|| addresses.iter().find(|address| address.ifname == ifname)).map(|address| address.mtu)
}

/// What is to be done about a network that is followed.
enum Fate {
    /// Whether containers of this node are in it.
    InUse(bool),
    /// It is being deleted: these containers have to leave it.
    Evict(Vec<Stored<EndpointRecord>>),
    /// It is gone, or this node has nothing in it.
    Over,
}

fn fates(view: &NodeView) -> Vec<(NetworkId, Fate)> {
    let fate = |(network, content): (NetworkId, &weft_overlay::view::NetworkView)| {
        let Some(spec) = &content.spec else { return (network, Fate::Over) };
        let own = content.endpoints_of(view.config.node);
        let containers: Vec<_> = own.filter(|stored| stored.record.kind == EndpointKind::Container).cloned().collect();
        let pending = view.locals_in(network).any(|local| local.record.kind == EndpointKind::Container);
        if spec.record.state == NetworkState::Deleting && (spec.record.force_delete || containers.is_empty()) {
            return (network, Fate::Evict(containers));
        }
        (network, Fate::InUse(pending || !containers.is_empty()))
    };
    view.networks().map(fate).collect()
}

fn peers(view: &NodeView, own: IpAddr) -> BTreeSet<IpAddr> {
    let members = view.networks().flat_map(|(_, content)| content.members.values());
    members.map(|member| member.record.vtep).filter(|vtep| *vtep != own).collect()
}

/// Follows the networks that this node has something in. Until they are known, nothing is concluded and nothing removed.
async fn load(attacher: &Attacher<EtcdStore, NodeKernel>, registration: &Registration) {
    const RETRY: Duration = Duration::from_millis(500);
    loop {
        let deadline = Instant::now() + Duration::from_secs(5);
        match own_endpoints(&attacher.client, attacher.facts.node, deadline).await {
            Ok(own) => {
                let forgotten = Box::pin(recovery::recall(attacher, registration, &own)).await;
                let networks: BTreeSet<NetworkId> = own.iter().map(|(network, _)| *network).chain(forgotten).collect();
                for network in networks {
                    attacher.followers.follow(network);
                }
                return;
            }
            Err(error) => debug!(error = %chain(&error), "this node's endpoints are not known yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn keep_lease(registration: Registration, state: Arc<StateDir>) -> &'static str {
    let mut lease = registration.lease.clone();
    loop {
        let now = *lease.borrow_and_update();
        if let Some(id) = now
            && let Err(error) = state.set_lease(id)
        {
            warn!(error = %chain(&error), "the lease was not noted: after a restart this node seems away for a moment");
        }
        if lease.changed().await.is_err() {
            return "the registration's lease";
        }
    }
}

async fn take_notices(
    attacher: Arc<Attacher<EtcdStore, NodeKernel>>,
    naming: Arc<Mutex<Naming<NodeKernel>>>,
    wake: Arc<Notify>,
    mut notices: UnboundedReceiver<Notice>,
) -> &'static str {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::SandboxGone(network, endpoint) => {
                let attacher = attacher.clone();
                tokio::spawn(async move { attacher.release_gone(network, endpoint).await });
            }
            Notice::EndpointsChanged(changes) => {
                tell_allocator(&attacher, changes.clone()).await;
                naming.lock().await.endpoints_changed(changes).await;
                wake.notify_one();
            }
        }
    }
    "the reconciler's notices"
}

async fn tell_allocator(attacher: &Attacher<EtcdStore, NodeKernel>, changes: BTreeSet<(NetworkId, IpAddr)>) {
    let look = move |view: &NodeView| -> BTreeMap<(NetworkId, IpAddr), Option<EndpointRecord>> {
        let now = |(network, ip): (NetworkId, IpAddr)| {
            let stored = view.network(network).and_then(|content| content.endpoint(ip));
            ((network, ip), stored.map(|stored| stored.record.clone()))
        };
        changes.into_iter().map(now).collect()
    };
    let Ok(found) = attacher.handle.view(look).await else { return };
    for ((network, ip), record) in found {
        attacher.allocator.observe_endpoint(network, ip, record.as_ref());
    }
}
