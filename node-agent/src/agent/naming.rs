//! Keeps the name server's table, the addresses it listens on, and the containers' resolver files as the view says.
//!
//! Level-triggered: told that endpoints changed, it looks up what they are now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use tracing::{debug, warn};
use weft_overlay::{
    id::{EndpointId, Name, NetworkId, NodeId},
    kernel::Kernel,
    model::{EndpointKind, EndpointRecord, NetworkSpec},
    view::NodeView,
};

use super::handle::Handle;
use crate::{
    container::ContainerRef,
    names::{NameServer, NameTable, NetnsName, ResolverOptions, resolver_file, server::inside::Insider},
    reconciler::chain,
};
use resolver_file::Ensured;

/// Where `ip netns exec` finds files that stand in for those of /etc.
pub const NETNS_ETC: &str = "/etc/netns";

/// What the naming task keeps.
#[derive(Debug)]
pub struct Naming<K> {
    handle: Handle<K>,
    table: Arc<RwLock<NameTable>>,
    server: NameServer,
    known: BTreeMap<(NetworkId, IpAddr), EndpointId>,
    scopes: BTreeSet<IpAddr>,
    resolvers: Resolvers,
}

/// What names need to know of one endpoint record.
struct Named {
    id: EndpointId,
    names: Vec<Name>,
    addresses: Vec<IpAddr>,
}

impl<K: Kernel + 'static> Naming<K> {
    /// Names of nothing yet, on a node whose resolver files of before are kept up.
    pub fn new(handle: Handle<K>, table: Arc<RwLock<NameTable>>, server: NameServer, node: NodeId) -> Self {
        Self {
            handle,
            table,
            server,
            known: BTreeMap::new(),
            scopes: BTreeSet::new(),
            resolvers: Resolvers::adopt(Path::new(NETNS_ETC), node),
        }
    }

    /// What answers the same names inside containers.
    pub(crate) fn insider(&self) -> Insider {
        self.server.insider()
    }

    /// Takes in that these endpoint records changed.
    pub async fn endpoints_changed(&mut self, changes: BTreeSet<(NetworkId, IpAddr)>) {
        let lookup = move |view: &NodeView| -> Vec<_> {
            changes.into_iter().map(|(network, ip)| (network, ip, named(view, network, ip))).collect()
        };
        let Ok(found) = self.handle.view(lookup).await else { return };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for (network, ip, named) in found {
            if let Some(before) = self.known.remove(&(network, ip)) {
                table.remove(network, before);
            }
            if let Some(named) = named {
                table.upsert(network, named.id, &named.names, &named.addresses);
                self.known.insert((network, ip), named.id);
            }
        }
    }

    /// Brings listeners, scopes and resolver files in line with the networks and containers of this node.
    pub async fn refresh(&mut self) {
        let Ok(here) = self.handle.view(Here::of).await else { return };
        self.update_table(&here);
        let listening: BTreeMap<NetworkId, Vec<IpAddr>> =
            here.networks.iter().map(|(network, spec)| (*network, gateways(spec))).collect();
        for error in self.server.ensure_listening(&listening).await {
            debug!(error = %chain(&error), "listening for questions about names");
        }
        self.resolvers.ensure(&here.resolvers, here.is_all);
    }

    /// What the user should know about the resolver file of a container's namespace: that it is somebody else's.
    pub fn resolver_warning(&self, container: &str) -> Option<String> {
        let reference = ContainerRef::parse(container).ok()?;
        self.resolvers.warning(reference.netns_name()?)
    }

    fn update_table(&mut self, here: &Here) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for (network, spec) in &here.networks {
            table.set_network_name(*network, &spec.name);
            let subnets: Vec<_> = spec.subnets.iter().map(|s| s.subnet).collect();
            table.set_subnets(*network, &subnets);
        }
        for (client, networks) in &here.scopes {
            table.set_scope(*client, networks);
        }
        let current: BTreeSet<IpAddr> = here.scopes.keys().copied().collect();
        for gone in self.scopes.difference(&current) {
            table.remove_scope(*gone);
        }
        self.scopes = current;
    }
}

fn named(view: &NodeView, network: NetworkId, ip: IpAddr) -> Option<Named> {
    let record = &view.network(network)?.endpoint(ip)?.record;
    if record.kind == EndpointKind::Leg {
        return None;
    }
    let names = std::iter::once(&record.name).chain(&record.aliases).cloned().collect();
    Some(Named { id: record.id, names, addresses: record.addresses().collect() })
}

fn gateways(spec: &NetworkSpec) -> Vec<IpAddr> {
    spec.subnets.iter().map(|subnet| subnet.gateway).collect()
}

/// The networks and containers of this node, as far as names are concerned.
struct Here {
    /// Whether everything of this node is known, so that what is missing here is gone.
    is_all: bool,
    networks: BTreeMap<NetworkId, NetworkSpec>,
    scopes: BTreeMap<IpAddr, Vec<NetworkId>>,
    /// By the name of the container's namespace: the name servers to ask.
    resolvers: BTreeMap<String, Vec<IpAddr>>,
}

impl Here {
    fn of(view: &NodeView) -> Self {
        let is_all = view.is_loaded() && view.unlisted().next().is_none();
        let mut here = Self { is_all, networks: BTreeMap::new(), scopes: BTreeMap::new(), resolvers: BTreeMap::new() };
        let mut containers: BTreeMap<(u64, u64), Vec<(NetworkId, &EndpointRecord)>> = BTreeMap::new();
        for (network, content) in view.networks() {
            let Some(spec) = content.spec.as_ref().filter(|_| view.own_leg(network).is_some()) else { continue };
            here.networks.insert(network, spec.record.clone());
            for local in view.locals_in(network) {
                if let Some(sandbox) = view.sandbox_of(local.record) {
                    containers.entry((sandbox.dev, sandbox.inode)).or_default().push((network, local.record));
                }
            }
        }
        for endpoints in containers.into_values() {
            here.add_container(endpoints);
        }
        here
    }

    fn add_container(&mut self, mut endpoints: Vec<(NetworkId, &EndpointRecord)>) {
        let networks: Vec<NetworkId> = endpoints.iter().map(|(network, _)| *network).collect();
        let addresses = endpoints.iter().flat_map(|(_, record)| record.addresses());
        self.scopes.extend(addresses.map(|ip| (ip, networks.clone())));
        endpoints.sort_by_key(|(_, record)| record.sandbox.as_ref().is_none_or(|sandbox| !sandbox.default_route));
        let container = endpoints.iter().find_map(|(_, record)| {
            let container = ContainerRef::parse(&record.sandbox.as_ref()?.container).ok()?;
            container.netns_name().map(str::to_owned)
        });
        let Some(container) = container else { return };
        let servers = endpoints.iter().filter_map(|(network, _)| self.networks.get(network)).flat_map(gateways);
        self.resolvers.insert(container, servers.collect());
    }
}

/// The resolver files of the containers of this node.
#[derive(Debug)]
struct Resolvers {
    base: PathBuf,
    node: NodeId,
    /// Files of this node that were there at the start and have not been asked for yet.
    left: BTreeSet<NetnsName>,
    written: BTreeMap<String, Written>,
}

/// What a resolver file was last made to say.
#[derive(Debug)]
struct Written {
    servers: Vec<IpAddr>,
    outcome: Ensured,
}

impl Resolvers {
    fn adopt(base: &Path, node: NodeId) -> Self {
        let left = resolver_file::owned(base, node).unwrap_or_else(|error| {
            warn!(error = %chain(&error), "resolver files of before are not known; those not needed any more stay");
            Vec::new()
        });
        Self { base: base.to_owned(), node, left: left.into_iter().collect(), written: BTreeMap::new() }
    }

    /// Writes and removes files. What is only not known yet is not removed: until `is_all`, files of before stay.
    fn ensure(&mut self, wanted: &BTreeMap<String, Vec<IpAddr>>, is_all: bool) {
        let gone: Vec<String> = self.written.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            self.written.remove(&name);
            self.remove(&name);
        }
        if is_all {
            for name in std::mem::take(&mut self.left) {
                if !wanted.contains_key(name.as_str()) {
                    self.remove(name.as_str());
                }
            }
        }
        for (name, servers) in wanted {
            if self.written.get(name).is_some_and(|written| written.servers == *servers) {
                continue;
            }
            if let Some(outcome) = self.write(name, servers) {
                self.written.insert(name.clone(), Written { servers: servers.clone(), outcome });
            }
        }
    }

    fn remove(&self, name: &str) {
        let removed = name.parse::<NetnsName>().and_then(|name| resolver_file::remove(&self.base, &name));
        if let Err(error) = removed {
            warn!(netns = name, error = %chain(&error), "removing a resolver file");
        }
    }

    fn warning(&self, name: &str) -> Option<String> {
        let written = self.written.get(name).filter(|written| written.outcome == Ensured::Foreign)?;
        let path = self.base.join(name).join("resolv.conf");
        let servers: Vec<String> = written.servers.iter().map(IpAddr::to_string).collect();
        Some(format!(
            "{} is not Weft's and was left alone: for names of the network, make it say 'nameserver {}'",
            path.display(),
            servers.first().map_or("GATEWAY", String::as_str)
        ))
    }

    /// What became of the file, unless it failed.
    fn write(&self, name: &str, servers: &[IpAddr]) -> Option<Ensured> {
        let content = resolver_file::render(servers, &ResolverOptions::default(), self.node);
        match name.parse::<NetnsName>().and_then(|name| resolver_file::ensure(&self.base, &name, &content)) {
            Ok(outcome) => {
                debug!(netns = name, ?outcome, "resolver file");
                Some(outcome)
            }
            Err(error) => {
                warn!(netns = name, error = %chain(&error), "writing a resolver file");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_an_agent_that_was_killed_goes_once_everything_is_known_and_is_not_wanted() {
        let base = tempfile::tempdir().unwrap();
        let (node, other) = ("0123456789".parse().unwrap(), "abcdef0123".parse().unwrap());
        let gateway = vec!["10.1.0.1".parse().unwrap()];
        let file = |name: &str| base.path().join(name).join("resolv.conf");
        let mut before = Resolvers::adopt(base.path(), node);
        before.ensure(
            &BTreeMap::from([("kept".to_owned(), gateway.clone()), ("gone".to_owned(), gateway.clone())]),
            true,
        );
        // Killed while it wrote.
        let half_made = base.path().join("half/.resolv.conf.weft");
        std::fs::create_dir(base.path().join("half")).unwrap();
        std::fs::copy(file("gone"), &half_made).unwrap();
        Resolvers::adopt(base.path(), other).ensure(&BTreeMap::from([("others".to_owned(), gateway.clone())]), true);

        let mut after = Resolvers::adopt(base.path(), node);
        after.ensure(&BTreeMap::new(), false);
        assert!(file("kept").exists() && file("gone").exists(), "nothing is concluded before everything is known");
        after.ensure(&BTreeMap::from([("kept".to_owned(), gateway)]), true);

        assert!(file("kept").exists() && !file("gone").exists() && !base.path().join("half").exists());
        assert!(file("others").exists(), "a file of another node's");
    }
}
