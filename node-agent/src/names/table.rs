//! What names there are, per network, and which networks each local container may see.
//!
//! Pure: no clock, no socket. Every change costs the logarithm of what exists, so that one endpoint that comes or goes
//! among 100,000 is as cheap as the first. The only state that answering changes is whose turn it is: endpoints that
//! share a name take turns in being first, one step per answer and address family.
//!
//! Written by whoever follows the cluster view; read by [`crate::names::answer`].

mod holders;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ipnetwork::IpNetwork;
use weft_overlay::id::{EndpointId, Name, NetworkId};

use self::holders::Holders;

/// The names and addresses of all networks that this node knows, and what each local client may see of them.
#[derive(Debug, Default)]
pub struct NameTable {
    networks: BTreeMap<NetworkId, Network>,
    // Keyed by first address: subnets of a cluster never overlap, so the nearest key below decides.
    subnets: BTreeMap<IpAddr, (IpNetwork, NetworkId)>,
    scopes: BTreeMap<IpAddr, Box<[NetworkId]>>,
    network_turns: [AtomicUsize; 2],
}

/// An address family; A records are for the first, AAAA records for the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    fn holds(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    fn index(self) -> usize {
        usize::from(self == Self::V6)
    }
}

#[derive(Debug, Default)]
struct Network {
    name: Option<Box<str>>,
    subnets: Box<[IpNetwork]>,
    endpoints: BTreeMap<EndpointId, Entry>,
    names: BTreeMap<Arc<str>, Holders>,
    // Pairs rather than a map: an address may for a moment belong to the endpoint that leaves and the one that comes,
    // and the result must not depend on the order in which the two changes arrive.
    addresses: BTreeSet<(IpAddr, EndpointId)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    names: Box<[Arc<str>]>,
    addresses: Box<[IpAddr]>,
}

impl NameTable {
    /// Makes an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what is known of an endpoint: its name, then its aliases, and its addresses. Replaces what was known before.
    pub fn upsert(&mut self, network: NetworkId, endpoint: EndpointId, names: &[Name], addresses: &[IpAddr]) {
        let mut folded: Vec<Arc<str>> = Vec::with_capacity(names.len());
        for name in names {
            let name: Arc<str> = fold(name).into();
            if !folded.contains(&name) {
                folded.push(name);
            }
        }
        let entry = Entry { names: folded.into(), addresses: addresses.iter().map(IpAddr::to_canonical).collect() };
        self.networks.entry(network).or_default().set_endpoint(endpoint, entry);
    }

    /// Forgets an endpoint; one that is not known is no error.
    pub fn remove(&mut self, network: NetworkId, endpoint: EndpointId) {
        let Some(known) = self.networks.get_mut(&network) else { return };
        known.clear_endpoint(endpoint);
        if known.is_blank() {
            self.networks.remove(&network);
        }
    }

    /// Forgets a network with all its endpoints, its name and its subnets.
    pub fn remove_network(&mut self, network: NetworkId) {
        self.set_subnets(network, &[]);
        self.networks.remove(&network);
    }

    /// Sets the name by which `endpoint.network` is understood.
    pub fn set_network_name(&mut self, network: NetworkId, name: &Name) {
        self.networks.entry(network).or_default().name = Some(fold(name).into());
    }

    /// Sets the subnets of a network: reverse questions about them are never sent to the outside.
    pub fn set_subnets(&mut self, network: NetworkId, subnets: &[IpNetwork]) {
        let known = self.networks.entry(network).or_default();
        for old in &known.subnets {
            if self.subnets.get(&old.network()).is_some_and(|(_, owner)| *owner == network) {
                self.subnets.remove(&old.network());
            }
        }
        known.subnets = subnets.into();
        for subnet in subnets {
            self.subnets.insert(subnet.network(), (*subnet, network));
        }
        if known.is_blank() {
            self.networks.remove(&network);
        }
    }

    /// Sets which networks the local container with this address is attached to: it sees the names of all of them.
    pub fn set_scope(&mut self, client: IpAddr, networks: &[NetworkId]) {
        let unique: BTreeSet<NetworkId> = networks.iter().copied().collect();
        self.scopes.insert(client.to_canonical(), unique.into_iter().collect());
    }

    /// Forgets which networks a local address is attached to.
    pub fn remove_scope(&mut self, client: IpAddr) {
        self.scopes.remove(&client.to_canonical());
    }

    /// The networks whose names a client sees that asked at the gateway of `asked`.
    ///
    /// An address without a scope (the host itself, or a container in the moment of its attachment) sees only the
    /// network that it asked at, and not even that one when the address belongs to another network's subnet.
    pub fn visible_to(&self, client: IpAddr, asked: NetworkId) -> Vec<NetworkId> {
        let client = client.to_canonical();
        if let Some(networks) = self.scopes.get(&client) {
            return networks.to_vec();
        }
        match self.subnet_around(client) {
            Some((_, owner)) if owner != asked => Vec::new(),
            _ => vec![asked],
        }
    }

    /// The addresses of one family that stand behind a name, at most about `room` of them, in the order of their turn.
    ///
    /// `name` is in lower case without a final dot. `None` means that no endpoint has the name; an empty list, that
    /// those that have it have no address of the family. `endpoint.network` is understood for the visible networks and
    /// goes before an endpoint of the same network that has the whole text as its name.
    pub fn addresses(&self, name: &str, visible: &[NetworkId], family: Family, room: usize) -> Option<Vec<IpAddr>> {
        let places: Vec<(&Network, &Holders)> =
            visible.iter().filter_map(|id| self.networks.get(id)).filter_map(|n| Some((n, n.find(name)?))).collect();
        let first = match places.len() {
            0 => return None,
            1 => 0,
            several => self.network_turns[family.index()].fetch_add(1, Ordering::Relaxed) % several,
        };
        let mut found = Vec::new();
        for (network, holders) in places[first..].iter().chain(&places[..first]) {
            // Only the network that comes first takes a turn, else those behind it would skip some of theirs.
            let takes_turn = found.is_empty();
            holders.collect(family, takes_turn, |endpoint| {
                let addresses = network.endpoints.get(&endpoint).map_or(&[][..], |e| &e.addresses);
                let before = found.len();
                found.extend(addresses.iter().filter(|a| family.holds(a)));
                holders::Taken { any: found.len() > before, enough: found.len() >= room }
            });
            if found.len() >= room {
                break;
            }
        }
        Some(found)
    }

    /// The full name, `endpoint.network` in lower case, of a visible address.
    pub fn name_of(&self, address: IpAddr, visible: &[NetworkId]) -> Option<String> {
        visible.iter().filter_map(|id| self.networks.get(id)).find_map(|network| network.name_of(address))
    }

    /// Whether all addresses of a prefix lie within a subnet of some network, visible or not.
    pub fn is_overlay(&self, prefix: IpNetwork) -> bool {
        self.subnet_around(prefix.network()).is_some_and(|(subnet, _)| prefix.prefix() >= subnet.prefix())
    }

    /// Whether a name (in lower case) is below the name of a visible network.
    pub fn is_below_network(&self, name: &str, visible: &[NetworkId]) -> bool {
        visible.iter().filter_map(|id| self.networks.get(id)).any(|network| network.strip(name).is_some())
    }

    fn subnet_around(&self, address: IpAddr) -> Option<(IpNetwork, NetworkId)> {
        let (_, found) = self.subnets.range(..=address).next_back()?;
        found.0.contains(address).then_some(*found)
    }
}

impl Network {
    fn set_endpoint(&mut self, endpoint: EndpointId, entry: Entry) {
        if self.endpoints.get(&endpoint) == Some(&entry) {
            return;
        }
        self.clear_endpoint(endpoint);
        for name in &entry.names {
            match self.names.get_mut(name) {
                Some(holders) => holders.add(endpoint),
                None => {
                    self.names.insert(Arc::clone(name), Holders::One(endpoint));
                }
            }
        }
        self.addresses.extend(entry.addresses.iter().map(|address| (*address, endpoint)));
        self.endpoints.insert(endpoint, entry);
    }

    fn clear_endpoint(&mut self, endpoint: EndpointId) {
        let Some(entry) = self.endpoints.remove(&endpoint) else { return };
        for name in &entry.names {
            if self.names.get_mut(name).is_some_and(|holders| holders.remove(endpoint)) {
                self.names.remove(name);
            }
        }
        for address in entry.addresses {
            self.addresses.remove(&(address, endpoint));
        }
    }

    fn is_blank(&self) -> bool {
        self.endpoints.is_empty() && self.name.is_none() && self.subnets.is_empty()
    }

    fn find(&self, name: &str) -> Option<&Holders> {
        let qualified = self.strip(name).and_then(|name| self.names.get(name));
        qualified.or_else(|| self.names.get(name))
    }

    fn strip<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_suffix(self.name.as_deref()?)?.strip_suffix('.')
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let from = (address, EndpointId::from_entropy(0));
        let mut holders = self.addresses.range(from..).take_while(|(a, _)| *a == address);
        let name = holders.find_map(|(_, endpoint)| self.endpoints.get(endpoint)?.names.first())?;
        Some(match &self.name {
            Some(network) => format!("{name}.{network}"),
            None => name.to_string(),
        })
    }
}

/// The form in which names are compared: lower case (RFC 4343), without a final dot.
fn fold(name: &Name) -> String {
    name.as_str().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
