//! The container's end of a veth: reading and setting up one interface inside a container's namespace.
//!
//! Only the interface that carries our mark is touched. The namespace is told by its inode: a later one under the same
//! path is another container.

use std::{collections::BTreeSet, io, net::IpAddr};

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use weft_overlay::{
    id::{EndpointId, NetworkId},
    kernel::{Family, NetworkObject, Object, ObjectId, Place, SandboxState, Step, StepError},
};

use super::{
    Firewall, LinuxKernel,
    decode::{Address, Route, link::Link},
    encode::{Verb, container_address, default_route, delete_address, link::LinkRequest, list_addresses, list_routes},
    errno::{action, deleted, foreign, step_error},
    graves,
    mark::{GROUP, Role, endpoint_alias},
    netlink::{Channel, Refusal},
    observe::found_or_missing,
    ports::gone,
    settings::{self, Setting},
};
use crate::netns::{Namespace, NetnsError};

/// The interface and what is configured on it.
struct Interior {
    link: Link,
    addresses: BTreeSet<IpNetwork>,
    default_routes: BTreeSet<IpAddr>,
}

/// How the interface is; absent when the namespace has none of that name.
///
/// # Errors
/// When the namespace cannot be entered or read.
pub(crate) fn observe(place: &Place, network: NetworkId, endpoint: EndpointId) -> io::Result<Option<Object>> {
    let Some(namespace) = open(place).map_err(|refusal| refusal.cause)? else { return Ok(Some(Object::Gone)) };
    let mut channel = Channel::new(namespace);
    let Some(interior) = read(&mut channel, place)? else { return Ok(None) };
    let link = &interior.link;
    if !is_ours(link, network, endpoint) {
        return Ok(Some(Object::Foreign(link.description())));
    }
    let Some(mac) = link.mac else { return Ok(Some(Object::Deviant("without a MAC".to_owned()))) };
    Ok(Some(Object::Sandbox(Box::new(SandboxState {
        place: place.clone(),
        mac,
        mtu: link.mtu,
        up: link.up,
        addresses: interior.addresses,
        default_routes: interior.default_routes,
    }))))
}

/// The namespace at a place; absent when it is gone.
///
/// # Errors
/// When the path cannot be opened for another reason than that it is not there.
pub(crate) fn open(place: &Place) -> Result<Option<Namespace>, Refusal> {
    let namespace = match Namespace::open(place.path.as_ref()) {
        Ok(namespace) => namespace,
        Err(NetnsError::Open { cause, .. }) if is_not_there(&cause) => return Ok(None),
        Err(NetnsError::Open { cause, .. } | NetnsError::Enter { cause, .. } | NetnsError::Thread { cause, .. }) => {
            return Err(cause.into());
        }
    };
    let identity = namespace.identity().map_err(io::Error::other)?;
    Ok((identity == (place.dev, place.inode)).then_some(namespace))
}

/// Sets the interface up as wanted. It must be there.
///
/// # Errors
/// ENOENT when the namespace is gone, ENODEV when it has no such interface, EEXIST when the interface is not ours.
pub(crate) fn ensure(desired: &SandboxState, network: NetworkId, endpoint: EndpointId) -> Result<(), Refusal> {
    let namespace = open(&desired.place)?.ok_or_else(|| refused(Errno::ENOENT))?;
    let mut channel = Channel::new(namespace);
    let interior = read(&mut channel, &desired.place)?.ok_or_else(|| refused(Errno::ENODEV))?;
    if !is_ours(&interior.link, network, endpoint) {
        return Err(Refusal { cause: Errno::EEXIST.into(), text: Some(interior.link.description()) });
    }
    ensure_settings(channel.namespace(), desired)?;
    set_link(&mut channel, &interior.link, desired, &endpoint_alias(network, endpoint))?;
    set_addresses(&mut channel, &interior, desired)?;
    if interior.link.up != desired.up {
        channel.ask(LinkRequest::indexed(interior.link.index).up(desired.up).change())?;
    }
    // Read again: routes go with addresses and with the link's state.
    let Some(interior) = read(&mut channel, &desired.place)? else { return Err(refused(Errno::ENODEV)) };
    set_default_routes(&mut channel, &interior, desired)
}

impl<F: Firewall> LinuxKernel<F> {
    pub(super) fn apply_sandbox(&mut self, step: &Step) -> Result<(), StepError> {
        let ObjectId::Network(network, NetworkObject::Sandbox(endpoint)) = step.id() else { return Ok(()) };
        let error = |refusal| step_error(&action(step), refusal);
        let desired = match (step, step.result()) {
            (Step::Delete(_, Object::Sandbox(observed)), _) => {
                return take_down(&observed.place, *network, *endpoint).map_err(error);
            }
            (_, Some(Object::Sandbox(desired))) => desired,
            _ => return Ok(()),
        };
        match ensure(desired, *network, *endpoint) {
            Err(refusal) if refusal.errno() == Errno::ENOENT => Err(gone(step, desired)),
            Err(refusal) if refusal.errno() == Errno::EEXIST && refusal.text.is_some() => {
                Err(foreign(step, refusal.text.as_deref().unwrap_or_default()))
            }
            Err(refusal) if refusal.errno() == Errno::ENODEV => self.remake(step, (*network, *endpoint), desired),
            outcome => outcome.map_err(error),
        }
    }

    /// The container's end was renamed, moved or lost: the veth is made anew, and the port as it was.
    fn remake(
        &mut self,
        step: &Step,
        (network, endpoint): (NetworkId, EndpointId),
        desired: &SandboxState,
    ) -> Result<(), StepError> {
        let port = self.ours(step, Role::Port(endpoint))?;
        if let Some(port) = &port {
            self.delete_link(step, port.index)?;
        }
        self.create_pair(step, (network, endpoint), desired)?;
        ensure(desired, network, endpoint).map_err(|refusal| step_error(&action(step), refusal))?;
        match port {
            Some(port) => self.restore_port(step, (network, endpoint), &port),
            None => Ok(()),
        }
    }
}

/// Inside the container: no router advertisements, addresses survive the link's going down, and a strict reverse path
/// filter is loosened, since it loses what arrives by a second network.
fn ensure_settings(namespace: &Namespace, desired: &SandboxState) -> io::Result<()> {
    let device = desired.place.ifname.as_str();
    let v6 = |name: &str, value| Setting::of_device("ipv6", device, name, value);
    let mut wanted = vec![v6("accept_ra", 0), v6("keep_addr_on_down", 1)];
    if desired.addresses.iter().any(IpNetwork::is_ipv6) {
        wanted.push(v6("disable_ipv6", 0));
    }
    let inside = || {
        let all = settings::read("ipv4/conf/all/rp_filter")?;
        let own = settings::read(&format!("ipv4/conf/{device}/rp_filter"))?;
        // The kernel takes the larger of the two; 1 is strict, 2 is loose.
        let strict = all.max(own) == Some(1);
        wanted.extend(strict.then(|| Setting::of_device("ipv4", device, "rp_filter", 2)));
        settings::write(&wanted)
    };
    namespace.run(inside).map_err(io::Error::other)?
}

fn set_link(channel: &mut Channel, link: &Link, desired: &SandboxState, alias: &str) -> Result<(), Refusal> {
    let mut changes = Vec::new();
    if link.alias.as_deref() != Some(alias) || link.group != GROUP {
        changes.push(LinkRequest::indexed(link.index).alias(alias).group(GROUP).change());
    }
    changes.extend((link.mac != Some(desired.mac)).then(|| LinkRequest::indexed(link.index).mac(desired.mac).change()));
    changes.extend((link.mtu != desired.mtu).then(|| LinkRequest::indexed(link.index).mtu(desired.mtu).change()));
    channel.transact(changes).into_iter().try_for_each(|answer| answer.map(drop))
}

fn set_addresses(channel: &mut Channel, interior: &Interior, desired: &SandboxState) -> Result<(), Refusal> {
    let index = interior.link.index;
    let surplus = interior.addresses.difference(&desired.addresses).map(|a| delete_address(index, *a)).collect();
    channel.transact(surplus).into_iter().try_for_each(deleted)?;
    let missing = desired.addresses.difference(&interior.addresses).map(|a| container_address(index, *a)).collect();
    channel.transact(missing).into_iter().try_for_each(|answer| answer.map(drop))
}

fn set_default_routes(channel: &mut Channel, interior: &Interior, desired: &SandboxState) -> Result<(), Refusal> {
    let index = interior.link.index;
    let surplus = interior.default_routes.difference(&desired.default_routes);
    let surplus = surplus.map(|gateway| default_route(Verb::Delete, index, *gateway)).collect();
    channel.transact(surplus).into_iter().try_for_each(deleted)?;
    let missing = desired.default_routes.difference(&interior.default_routes);
    let missing = missing.map(|gateway| default_route(Verb::Put, index, *gateway)).collect();
    channel.transact(missing).into_iter().try_for_each(|answer| answer.map(drop))
}

/// Puts the interface out of use and marks it as such; its device goes with the port.
fn take_down(place: &Place, network: NetworkId, endpoint: EndpointId) -> Result<(), Refusal> {
    let Some(namespace) = open(place)? else { return Ok(()) };
    let mut channel = Channel::new(namespace);
    let Some(link) = find(&mut channel, place)? else { return Ok(()) };
    if !is_ours(&link, network, endpoint) {
        return Ok(());
    }
    graves::bury(&mut channel, link.index)
}

fn read(channel: &mut Channel, place: &Place) -> io::Result<Option<Interior>> {
    let Some(link) = find(channel, place)? else { return Ok(None) };
    let index = link.index;
    let addresses = channel.dump(&list_addresses(Some(index)), |_, payload| Address::decode(payload))?;
    let addresses = addresses.iter().filter(|a| a.index == index && !is_link_local(a.local));
    let mut default_routes = BTreeSet::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let routes = channel.dump(&list_routes(family, None, Some(index)), |_, payload| Route::decode(payload));
        let routes = match routes {
            // The main table is made with the first route.
            Err(cause) if cause.raw_os_error() == Some(Errno::ENOENT as i32) => continue,
            routes => routes?,
        };
        let through = routes.iter().filter(|r| r.destination.prefix() == 0 && r.device == Some(index) && !r.cached);
        default_routes.extend(through.filter_map(|route| route.gateway));
    }
    Ok(Some(Interior { link, addresses: addresses.filter_map(Address::network).collect(), default_routes }))
}

fn find(channel: &mut Channel, place: &Place) -> io::Result<Option<Link>> {
    let answer = found_or_missing(channel.ask(LinkRequest::named(place.ifname.as_str()).find()))?;
    Ok(answer.as_deref().and_then(Link::decode).filter(|link| !graves::is_grave(link)))
}

/// The group is set at creation, the alias right after: either tells it from an interface of others.
fn is_ours(link: &Link, network: NetworkId, endpoint: EndpointId) -> bool {
    match link.owner() {
        Some(owner) => owner == (network, Some(endpoint)),
        None => link.group == GROUP,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80)
}

fn is_not_there(cause: &io::Error) -> bool {
    // ESRCH and ENOTDIR: /proc/PID of a process that has just ended.
    cause.kind() == io::ErrorKind::NotFound || matches!(cause.raw_os_error(), Some(3 | 20))
}

fn refused(errno: Errno) -> Refusal {
    Refusal { cause: errno.into(), text: None }
}
