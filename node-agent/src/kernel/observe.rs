//! Reading the objects of networks: whole namespaces, one network, or single objects.
//!
//! Selections are made by the kernel where it can (by device, by bridge, by protocol), since the tables of a node may
//! hold 300,000 rows and those of a host a full routing table.

use std::collections::{BTreeMap, BTreeSet};

use nix::{errno::Errno, libc};
use weft_overlay::{
    id::NetworkId,
    kernel::{Family, KernelState, NetworkObject, NodeObject, Object, ObjectId, ObserveError, Place},
};

use super::{
    Firewall, LinuxKernel,
    decode::{Address, Route, Row, link::Link},
    encode::{
        Forwarding, family_number, find_bridge_row, find_neighbour, find_tunnel_row, link::LinkRequest, list_addresses,
        list_forwarding, list_neighbours, list_routes,
    },
    errno::is_missing,
    mark::{ROUTE_PROTOCOL, Role},
    netlink::{Answer, Channel, Request},
    objects::{Devices, devices},
    observe_error, sandbox,
};

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

impl<F: Firewall> LinuxKernel<F> {
    /// Every object of every network, or of one.
    pub(super) fn observe_networks(&mut self, network: Option<NetworkId>) -> Result<KernelState, ObserveError> {
        let found = self.read_devices(network)?;
        let mut state = devices(&found, network);
        for row in self.read_forwarding(&found, network)? {
            insert(&mut state, network, found.forwarding_row(&row));
        }
        for row in self.read_neighbours(&found, network)? {
            insert(&mut state, network, found.neighbour(&row));
        }
        for address in self.read_addresses(&found, network)? {
            insert(&mut state, network, found.leg_address(&address));
        }
        for route in self.read_routes(&found, network)? {
            insert(&mut state, network, found.leg_route(&route));
        }
        Ok(state)
    }

    /// Single objects, by asking for each; what cannot be asked for by itself is listed with its like.
    pub(super) fn observe_objects(&mut self, ids: &BTreeSet<ObjectId>) -> Result<KernelState, ObserveError> {
        let mut state = KernelState::default();
        let node: BTreeSet<NodeObject> = ids
            .iter()
            .filter_map(|id| match id {
                ObjectId::Node(object) => Some(object.clone()),
                ObjectId::Network(..) => None,
            })
            .collect();
        if !node.is_empty() {
            state.objects.extend(self.observe_node(Some(&node))?);
        }
        let found = self.find_devices(&ids.iter().flat_map(roles).collect())?;
        for id in ids {
            if let ObjectId::Network(network, object) = id
                && let Some(object) = found.device(*network, object)
            {
                state.objects.insert(id.clone(), object);
            }
        }
        self.observe_rows(ids, &found, &mut state)?;
        self.observe_listed(ids, &found, &mut state)?;
        Ok(state)
    }

    /// The insides of containers. One whose namespace is not there, or is another one now, is gone.
    pub(super) fn observe_sandboxes(&self, places: &BTreeMap<ObjectId, Place>) -> KernelState {
        let mut state = KernelState::default();
        for (id, place) in places {
            let ObjectId::Network(network, NetworkObject::Sandbox(endpoint)) = id else { continue };
            // One container that cannot be read must not hide the others.
            let unreadable = |cause: std::io::Error| Some(Object::Deviant(format!("not readable: {cause}")));
            let read = sandbox::observe(place, *network, *endpoint).unwrap_or_else(unreadable);
            state.objects.extend(read.map(|object| (id.clone(), object)));
        }
        state
    }

    /// The devices with these roles, asked for by name. Absent where there is none.
    pub(super) fn find_devices(&mut self, roles: &BTreeSet<Role>) -> Result<Devices, ObserveError> {
        let (host, data_plane): (Vec<Role>, Vec<Role>) = roles.iter().partition(|role| matches!(role, Role::Leg(_)));
        let data_plane = find_links(&mut self.data_plane, &data_plane)?;
        let host = find_links(&mut self.host, &host)?;
        Ok(Devices::new(data_plane, host))
    }

    fn read_devices(&mut self, network: Option<NetworkId>) -> Result<Devices, ObserveError> {
        let data_plane = list_links(&mut self.data_plane)?;
        let host = match network {
            Some(network) => find_links(&mut self.host, &[Role::Leg(network)])?,
            None => list_links(&mut self.host)?,
        };
        Ok(Devices::new(data_plane, host))
    }

    fn read_forwarding(&mut self, found: &Devices, network: Option<NetworkId>) -> Result<Vec<Row>, ObserveError> {
        let mut selections = Vec::new();
        match network {
            None => selections.push(Forwarding::All),
            Some(network) => {
                let bridge = found.by_role(Role::Bridge(network)).map(|link| link.index);
                selections.extend(bridge.map(Forwarding::Bridge));
                // Outside its bridge, the tunnel is not among the bridge's ports.
                let loose =
                    found.by_role(Role::Vxlan(network)).filter(|link| link.master.is_none() || link.master != bridge);
                selections.extend(loose.map(|link| Forwarding::Port(link.index)));
            }
        }
        let mut rows = Vec::new();
        for selection in selections {
            rows.extend(self.dump_forwarding(selection)?);
        }
        Ok(rows)
    }

    pub(super) fn dump_forwarding(&mut self, selection: Forwarding) -> Result<Vec<Row>, ObserveError> {
        let error = observe_error("forwarding rows", self.data_plane.namespace());
        self.data_plane.dump(&list_forwarding(selection), |_, payload| Row::decode(payload)).map_err(error)
    }

    fn read_neighbours(&mut self, found: &Devices, network: Option<NetworkId>) -> Result<Vec<Row>, ObserveError> {
        let device = match network {
            None => None,
            Some(network) => match found.by_role(Role::Bridge(network)) {
                Some(link) => Some(link.index),
                None => return Ok(Vec::new()),
            },
        };
        let mut rows = Vec::new();
        for family in FAMILIES {
            let error = observe_error("neighbours", self.data_plane.namespace());
            let decode = |_, payload: &[u8]| of_family(payload, family).then(|| Row::decode(payload)).flatten();
            rows.extend(self.data_plane.dump(&list_neighbours(family, device), decode).map_err(error)?);
        }
        Ok(rows)
    }

    fn read_addresses(&mut self, found: &Devices, network: Option<NetworkId>) -> Result<Vec<Address>, ObserveError> {
        let Some(device) = leg_index(found, network) else { return Ok(Vec::new()) };
        let error = observe_error("addresses", self.host.namespace());
        self.host.dump(&list_addresses(device), |_, payload| Address::decode(payload)).map_err(error)
    }

    fn read_routes(&mut self, found: &Devices, network: Option<NetworkId>) -> Result<Vec<Route>, ObserveError> {
        let Some(device) = leg_index(found, network) else { return Ok(Vec::new()) };
        let mut routes = Vec::new();
        for family in FAMILIES {
            let request = list_routes(family, Some(ROUTE_PROTOCOL), device);
            let read = self.host.dump(&request, |_, payload| Route::decode(payload));
            match read {
                // The main table is made with the first route.
                Err(cause) if cause.raw_os_error() == Some(libc::ENOENT) => {}
                read => routes.extend(read.map_err(observe_error("routes", self.host.namespace()))?),
            }
        }
        Ok(routes)
    }

    fn observe_rows(
        &mut self,
        ids: &BTreeSet<ObjectId>,
        found: &Devices,
        state: &mut KernelState,
    ) -> Result<(), ObserveError> {
        let asked: Vec<Request> = ids.iter().filter_map(|id| row_request(id, found)).collect();
        for answer in self.data_plane.transact(asked) {
            let payload = found_or_missing(answer)
                .map_err(observe_error("forwarding and neighbour rows", self.data_plane.namespace()))?;
            let Some(row) = payload.as_deref().and_then(Row::decode) else { continue };
            let bridged = i32::from(row.family) == libc::AF_BRIDGE;
            let object = if bridged { found.forwarding_row(&row) } else { found.neighbour(&row) };
            // The bridge's answer comes from the port that has the row, which need not be one that was looked up.
            let object = match object {
                None if bridged => self.row_at_unknown_port(&row)?,
                object => object,
            };
            state.objects.extend(object.filter(|(id, _)| ids.contains(id)));
        }
        Ok(())
    }

    fn row_at_unknown_port(&mut self, row: &Row) -> Result<Option<(ObjectId, Object)>, ObserveError> {
        let request = LinkRequest::indexed(row.index).find();
        let answer = found_or_missing(self.data_plane.ask(request))
            .map_err(observe_error("a device", self.data_plane.namespace()))?;
        let Some(port) = answer.as_deref().and_then(Link::decode) else { return Ok(None) };
        let mut links = vec![port.clone()];
        if let Some(master) = port.master {
            let answer = found_or_missing(self.data_plane.ask(LinkRequest::indexed(master).find()))
                .map_err(observe_error("a device", self.data_plane.namespace()))?;
            links.extend(answer.as_deref().and_then(Link::decode));
        }
        Ok(Devices::new(links, Vec::new()).forwarding_row(row))
    }

    /// Flood rows share one key, and addresses and routes cannot be asked for by theirs.
    fn observe_listed(
        &mut self,
        ids: &BTreeSet<ObjectId>,
        found: &Devices,
        state: &mut KernelState,
    ) -> Result<(), ObserveError> {
        let networks = |wanted: fn(&NetworkObject) -> bool| -> BTreeSet<NetworkId> {
            let of = |id: &ObjectId| match id {
                ObjectId::Network(network, object) if wanted(object) => Some(*network),
                _ => None,
            };
            ids.iter().filter_map(of).collect()
        };
        let mut listed = Vec::new();
        for network in networks(|object| matches!(object, NetworkObject::Flood(_))) {
            if let Some(link) = found.by_role(Role::Vxlan(network)) {
                let rows = self.dump_forwarding(Forwarding::Port(link.index))?;
                listed.extend(rows.iter().filter_map(|row| found.forwarding_row(row)));
            }
        }
        for network in networks(|object| matches!(object, NetworkObject::LegAddress(_))) {
            let addresses = self.read_addresses(found, Some(network))?;
            listed.extend(addresses.iter().filter_map(|address| found.leg_address(address)));
        }
        for network in networks(|object| matches!(object, NetworkObject::LegRoute(_))) {
            let routes = self.read_routes(found, Some(network))?;
            listed.extend(routes.iter().filter_map(|route| found.leg_route(route)));
        }
        state.objects.extend(listed.into_iter().filter(|(id, _)| ids.contains(id)));
        Ok(())
    }
}

/// The payload, or nothing where the kernel has no such thing.
pub(super) fn found_or_missing(answer: Answer) -> Result<Option<Vec<u8>>, std::io::Error> {
    match answer {
        Ok(payload) => Ok(Some(payload)),
        Err(refusal) if is_missing(refusal.errno()) || refusal.errno() == Errno::EINVAL => Ok(None),
        Err(refusal) => Err(refusal.cause),
    }
}

/// Every device of a namespace.
pub(super) fn list_links(channel: &mut Channel) -> Result<Vec<Link>, ObserveError> {
    let error = observe_error("devices", channel.namespace());
    channel.dump(&LinkRequest::list(), |_, payload| Link::decode(payload)).map_err(error)
}

fn find_links(channel: &mut Channel, roles: &[Role]) -> Result<Vec<Link>, ObserveError> {
    let requests = roles.iter().map(|role| LinkRequest::named(&role.name()).find()).collect();
    let mut links = Vec::new();
    for answer in channel.transact(requests) {
        let payload = found_or_missing(answer).map_err(observe_error("devices", channel.namespace()))?;
        links.extend(payload.as_deref().and_then(Link::decode));
    }
    Ok(links)
}

/// Which leg to select by: `None` inside for all of them; nothing when the network has no leg.
fn leg_index(found: &Devices, network: Option<NetworkId>) -> Option<Option<u32>> {
    match network {
        None => Some(None),
        Some(network) => found.by_role(Role::Leg(network)).map(|link| Some(link.index)),
    }
}

fn insert(state: &mut KernelState, network: Option<NetworkId>, object: Option<(ObjectId, Object)>) {
    let wanted = |id: &ObjectId| network.is_none() || id.network() == network;
    state.objects.extend(object.filter(|(id, _)| wanted(id)));
}

fn of_family(payload: &[u8], family: Family) -> bool {
    payload.first().is_some_and(|number| i32::from(*number) == family_number(family))
}

/// The devices that must be known to read an object.
fn roles(id: &ObjectId) -> Vec<Role> {
    let ObjectId::Network(network, object) = id else { return Vec::new() };
    match object {
        NetworkObject::Bridge | NetworkObject::Neighbour(_) => vec![Role::Bridge(*network)],
        NetworkObject::Vxlan | NetworkObject::TunnelFdb(_) | NetworkObject::Flood(_) => {
            vec![Role::Bridge(*network), Role::Vxlan(*network)]
        }
        NetworkObject::Leg => vec![Role::Bridge(*network), Role::LegPort(*network), Role::Leg(*network)],
        NetworkObject::LegAddress(_) | NetworkObject::LegRoute(_) => vec![Role::Leg(*network)],
        NetworkObject::Port(endpoint) => vec![Role::Bridge(*network), Role::Port(*endpoint)],
        NetworkObject::BridgeFdb(_) => {
            vec![Role::Bridge(*network), Role::Vxlan(*network), Role::LegPort(*network)]
        }
        NetworkObject::Sandbox(_) => Vec::new(),
    }
}

fn row_request(id: &ObjectId, found: &Devices) -> Option<Request> {
    let ObjectId::Network(network, object) = id else { return None };
    let index = |role| found.by_role(role).map(|link| link.index);
    match object {
        NetworkObject::BridgeFdb(mac) => Some(find_bridge_row(index(Role::Bridge(*network))?, *mac)),
        NetworkObject::TunnelFdb(mac) => Some(find_tunnel_row(index(Role::Vxlan(*network))?, *mac)),
        NetworkObject::Neighbour(ip) => Some(find_neighbour(index(Role::Bridge(*network))?, *ip)),
        _ => None,
    }
}
