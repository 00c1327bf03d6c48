//! What an endpoint will be inside its container: its interface's name, its routes, and whether it can be there at all.

use std::{net::IpAddr, path::Path, time::Duration};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nameindex},
};
use tokio::time::Instant;
use tracing::warn;
use weft_overlay::{
    claims::{EndpointUpdated, UpdateEndpoint},
    id::{IfName, Name, NetworkId},
    kernel::Kernel,
    model::{EndpointRecord, NetworkSpec, PublishedPort, Sandbox},
    store::Store,
    view::{NodeView, Stored},
};

use super::{Attacher, ConnectError};
use crate::{
    api::messages::Connect,
    container::Container,
    control::allocation::EndpointRequest,
    netns::{Namespace, NetnsError},
    reconciler::chain,
};

impl<S: Store, K: Kernel + 'static> Attacher<S, K> {
    /// What is to be registered, after everything has been refused that can be refused before.
    pub(super) async fn endpoint_request(
        &self,
        request: &Connect,
        container: &Container,
        network: NetworkId,
        spec: &NetworkSpec,
    ) -> Result<EndpointRequest, ConnectError> {
        let name = match &request.name {
            Some(name) => name.clone(),
            None => default_name(request, container)?,
        };
        let key = (container.dev, container.inode);
        let published = request.published.clone();
        let siblings = self.handle.view(move |view| Siblings::of(view, key, &published)).await?;
        if let Some((_, ip)) = siblings.networks.iter().find(|(other, _)| *other == network) {
            return Err(ConnectError::Connected {
                container: request.container.clone(),
                network: spec.name.clone(),
                endpoint: ip.clone(),
            });
        }
        if let Some((port, by)) = siblings.port_conflict {
            return Err(ConnectError::PortTaken { port, by });
        }
        let inside = Inside::observe(&container.namespace)?;
        let ifname = inside.choose_ifname(request)?;
        let default_route = !spec.internal && !siblings.default_route && !inside.default_route;
        let sandbox = Sandbox {
            container: container.reference.text(),
            path: container.path.clone(),
            dev: container.dev,
            inode: container.inode,
            boot_id: self.facts.boot_id.clone(),
            ifname,
            default_route,
        };
        Ok(EndpointRequest {
            id: self.new_endpoint_id(),
            kind: weft_overlay::model::EndpointKind::Container,
            name,
            aliases: request.aliases.clone(),
            mac: request.mac,
            ipv4: request.ipv4,
            ipv6: request.ipv6,
            sandbox: Some(sandbox),
            published: request.published.clone(),
            vtep: self.facts.vtep,
        })
    }

    /// Gives a container's default routes to another of its networks, after the one that had them has left.
    pub(super) async fn hand_over_default_route(&self, left: &EndpointRecord) {
        let Some(sandbox) = left.sandbox.clone().filter(|sandbox| sandbox.default_route) else { return };
        let look = move |view: &NodeView| heir(view, &sandbox);
        let Ok(Some((network, stored))) = self.handle.view(look).await else { return };
        let mut record = stored.record.clone();
        if let Some(sandbox) = &mut record.sandbox {
            sandbox.default_route = true;
        }
        if let Err(error) = self.update(network, stored, record).await {
            warn!(%network, error, "the default route was not handed over");
        }
    }

    async fn update(
        &self,
        network: NetworkId,
        previous: Stored<EndpointRecord>,
        record: EndpointRecord,
    ) -> Result<(), String> {
        let token = self.allocator.may_write().map_err(|error| chain(&error))?;
        let claim = UpdateEndpoint::new(token, network, &previous, record.clone()).map_err(|error| chain(&error))?;
        let deadline = Instant::now() + Duration::from_secs(5);
        match self.client.submit(&claim, deadline).await.map_err(|error| chain(&error))? {
            EndpointUpdated::Updated(revision) => {
                self.note_change(network, &record);
                self.handle.change(move |view| view.set_registered(network, record, revision));
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    }
}

/// Whether a sandbox's namespace is still there.
pub(super) fn exists(sandbox: &Sandbox, boot_id: &str) -> bool {
    let identity = Namespace::open(Path::new(&sandbox.path)).and_then(|namespace| namespace.identity());
    sandbox.boot_id == boot_id && identity.is_ok_and(|identity| identity == (sandbox.dev, sandbox.inode))
}

fn default_name(request: &Connect, container: &Container) -> Result<Name, ConnectError> {
    let name = container.reference.default_name();
    name.map_err(|cause| ConnectError::Name { container: request.container.clone(), cause })
}

/// The next network of a container that can have its default routes.
fn heir(view: &NodeView, left: &Sandbox) -> Option<(NetworkId, Stored<EndpointRecord>)> {
    view.networks().find_map(|(network, content)| {
        if content.spec.as_ref()?.record.internal {
            return None;
        }
        let own = content.endpoints_of(view.config.node);
        let mut same = own.filter(|stored| {
            let sandbox = stored.record.sandbox.as_ref();
            sandbox.is_some_and(|s| (s.dev, s.inode) == (left.dev, left.inode)) && !view.is_detaching(stored.record.id)
        });
        same.next().map(|stored| (network, stored.clone()))
    })
}

/// The other endpoints of this node, as far as they matter for a new one.
struct Siblings {
    /// The networks that the container is in, with its address there.
    networks: Vec<(NetworkId, String)>,
    /// Whether one of them has the container's default routes.
    default_route: bool,
    port_conflict: Option<(u16, Name)>,
}

impl Siblings {
    fn of(view: &NodeView, container: (u64, u64), published: &[PublishedPort]) -> Self {
        let mut siblings = Self { networks: Vec::new(), default_route: false, port_conflict: None };
        for (network, _) in view.networks() {
            for local in view.locals_in(network) {
                let record = local.record;
                if let Some(taken) = published.iter().find(|port| record.published.iter().any(|p| collides(p, port))) {
                    siblings.port_conflict = Some((taken.host_port, record.name.clone()));
                }
                let Some(sandbox) = &record.sandbox else { continue };
                if (sandbox.dev, sandbox.inode) == container {
                    let ip = record.primary_address().map_or_else(String::new, |ip| ip.to_string());
                    siblings.networks.push((network, format!("{ip} (endpoint {})", record.id)));
                    siblings.default_route |= sandbox.default_route;
                }
            }
        }
        siblings
    }
}

fn collides(one: &PublishedPort, other: &PublishedPort) -> bool {
    let meet =
        |a: IpAddr, b: IpAddr| a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()));
    (one.protocol, one.host_port) == (other.protocol, other.host_port)
        && one.host_addresses().any(|a| other.host_addresses().any(|b| meet(a, b)))
}

/// Waits until the container's end carries frames.
///
/// It was set up before the port, so the kernel puts it to use from a work queue (net/core/link_watch.c), and drops
/// what the container sends until then: a first ARP request that is lost so costs a second. Without an answer in time
/// the endpoint is no worse than slow, so that is no error.
pub(crate) async fn wait_carrying(sandbox: &Sandbox) {
    const PATIENCE: Duration = Duration::from_millis(500);
    const PAUSE: Duration = Duration::from_millis(1);
    let Ok(namespace) = Namespace::open(Path::new(&sandbox.path)) else { return };
    let deadline = Instant::now() + PATIENCE;
    while !is_running(&namespace, &sandbox.ifname) && Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_running(namespace: &Namespace, ifname: &IfName) -> bool {
    let look = || {
        let mut entries = getifaddrs().ok()?;
        let entry = entries.find(|entry| entry.interface_name == ifname.as_str())?;
        Some(entry.flags.contains(InterfaceFlags::IFF_RUNNING))
    };
    // An interface that cannot be looked at is not worth waiting for.
    namespace.run(look).ok().flatten().unwrap_or(true)
}

/// What a container's namespace holds already.
struct Inside {
    interfaces: Vec<String>,
    default_route: bool,
}

impl Inside {
    fn observe(namespace: &Namespace) -> Result<Self, NetnsError> {
        namespace.run(|| {
            let names = if_nameindex().map(|index| {
                index.into_iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect()
            });
            // Destination and mask are the second and the eighth column, in hexadecimal.
            let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
            let is_default = |line: &str| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                columns.get(1) == Some(&"00000000") && columns.get(7) == Some(&"00000000")
            };
            Self { interfaces: names.unwrap_or_default(), default_route: routes.lines().any(is_default) }
        })
    }

    fn choose_ifname(&self, request: &Connect) -> Result<IfName, ConnectError> {
        let is_free = |name: &str| !self.interfaces.iter().any(|taken| taken == name);
        if let Some(ifname) = &request.ifname {
            return if is_free(ifname.as_str()) {
                Ok(ifname.clone())
            } else {
                Err(ConnectError::IfNameTaken { container: request.container.clone(), ifname: ifname.clone() })
            };
        }
        let numbered = (0..=self.interfaces.len()).map(|number| format!("eth{number}"));
        let free = numbered.filter(|name| is_free(name)).find_map(|name| name.parse().ok());
        Ok(free.expect("one of more names than there are interfaces is free"))
    }
}
