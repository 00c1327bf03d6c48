//! Making, mending and removing devices: bridge, VXLAN device, gateway leg, ports of endpoints.
//!
//! A step about a device always reads the device first by name (about 20 us), so that it converges from whatever is
//! there: what is missing is made, what is ours is mended in place or, where the kernel cannot, made anew, and what is
//! not ours is left alone. Every device is set up completely before it goes up.

use std::{
    collections::BTreeSet,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use weft_overlay::{
    id::NetworkId,
    kernel::{Bridge, Leg, NetworkObject, Object, ObjectId, Step, StepError, Vxlan},
};

use super::{
    Firewall, LinuxKernel,
    decode::link::{Kind, Link},
    encode::link::LinkRequest,
    errno::{action, deleted, foreign, io_error, step_error},
    graves, host,
    mark::{GROUP, Role, network_alias},
    netlink::{Refusal, Request},
    observe::list_links,
    ports::is_sandbox_of,
    recipe::{
        LEG_IPV4, LEG_IPV6, bridge_faults, is_attached, leg_faults, port_faults, vxlan_faults,
        vxlan_reasons_to_recreate,
    },
    settings::{self, Setting},
};

/// A VNI stays taken for about 40 ms after its device, or the namespace of that, was deleted.
const VNI_PATIENCE: Duration = Duration::from_secs(1);
const VNI_PAUSE: Duration = Duration::from_millis(10);

pub(super) type Outcome = Result<(), StepError>;

impl<F: Firewall> LinuxKernel<F> {
    pub(super) fn apply_device(&mut self, step: &Step, all: &[Step]) -> Outcome {
        let ObjectId::Network(network, object) = step.id() else { return mismatch(step) };
        match (object, step.result()) {
            (_, None) => self.delete_device(step, *network, object),
            (NetworkObject::Bridge, Some(Object::Bridge(desired))) => self.ensure_bridge(step, *network, desired),
            (NetworkObject::Vxlan, Some(Object::Vxlan(desired))) => self.ensure_vxlan(step, *network, desired),
            (NetworkObject::Leg, Some(Object::Leg(desired))) => self.ensure_leg(step, *network, desired),
            (NetworkObject::Port(endpoint), Some(Object::Port(desired))) => {
                let comes = all.iter().any(|other| is_sandbox_of(other, *endpoint));
                self.ensure_port(step, (*network, *endpoint), desired, comes)
            }
            _ => mismatch(step),
        }
    }

    fn ensure_bridge(&mut self, step: &Step, network: NetworkId, desired: &Bridge) -> Outcome {
        let role = Role::Bridge(network);
        if self.ours(step, role)?.is_none() {
            // The MAC is part of the creation: a bridge without one takes the lowest of its ports, and every change of
            // it empties the neighbour table. The MTU is not: a bridge follows the smallest of its ports' until it is
            // given another than it has.
            let other_mtu = desired.mtu.saturating_sub(1);
            let request =
                LinkRequest::named(&role.name()).mac(desired.mac).mtu(other_mtu).group(GROUP).bridge().create();
            self.data_plane.ask(request).map_err(|refusal| step_error(&action(step), refusal))?;
        }
        let Some(link) = self.ours(step, role)? else { return vanished(step) };
        let faults = bridge_faults(&link, network);
        if !matches!(link.kind, Kind::Bridge(_)) {
            return Err(foreign(step, &link.description()));
        }
        if link.inet6.as_ref().is_some_and(|v6| v6.disabled != 0) {
            self.set_in_data_plane(step, &[Setting::of_device("ipv6", &link.name, "disable_ipv6", 0)])?;
        }
        let mut changes = Vec::new();
        if !faults.is_empty() {
            let change = LinkRequest::indexed(link.index).alias(&network_alias(network)).group(GROUP);
            changes.push(change.without_link_local().bridge().change());
            if matches!(&link.kind, Kind::Bridge(options) if options.vlan_filtering) {
                changes.push(LinkRequest::indexed(link.index).bridge_without_vlans().change());
            }
            changes.extend(link.no_arp.then(|| LinkRequest::indexed(link.index).with_arp().change()));
            self.quiet(step, &link)?;
        }
        changes.extend(
            (link.mac != Some(desired.mac)).then(|| LinkRequest::indexed(link.index).mac(desired.mac).change()),
        );
        changes.extend(mtu_change(&link, desired.mtu));
        changes.extend(state_change(&link, desired.up));
        self.change(step, changes)
    }

    fn ensure_vxlan(&mut self, step: &Step, network: NetworkId, desired: &Vxlan) -> Outcome {
        let role = Role::Vxlan(network);
        let bridge = self.bridge_index(step, network)?;
        if let Some(link) = self.ours(step, role)? {
            let reasons = vxlan_reasons_to_recreate(&link, desired);
            if !reasons.is_empty() {
                tracing::info!(ifname = %link.name, reasons = reasons.join(", "), "vxlan device made anew");
                self.delete_link(step, link.index)?;
                self.create_vxlan(step, network, desired)?;
            }
        } else {
            self.create_vxlan(step, network, desired)?;
        }
        let Some(link) = self.ours(step, role)? else { return vanished(step) };
        let mut changes = Vec::new();
        if !vxlan_faults(&link, network).is_empty() {
            changes.push(common(&link, &network_alias(network)).without_link_local().change());
            changes.push(LinkRequest::indexed(link.index).vxlan_without_learning().change());
            self.quiet(step, &link)?;
        }
        changes.extend(
            (link.mac != Some(desired.mac)).then(|| LinkRequest::indexed(link.index).mac(desired.mac).change()),
        );
        changes.extend(mtu_change(&link, desired.mtu));
        changes.extend(attachment(&link, bridge, true));
        self.change(step, changes)?;
        let up = state_change(&link, desired.up);
        self.change(step, up).map_err(|error| self.with_port_users(error, desired.port))
    }

    /// Makes the device from the host's socket, so that its UDP socket is in the host's namespace, straight into the
    /// data plane's, so that nobody on the host ever sees it.
    fn create_vxlan(&mut self, step: &Step, network: NetworkId, desired: &Vxlan) -> Outcome {
        let name = Role::Vxlan(network).name();
        let started = Instant::now();
        loop {
            let request = LinkRequest::named(&name)
                .mac(desired.mac)
                .mtu(desired.mtu)
                .group(GROUP)
                .namespace(self.data_plane.namespace().as_fd())
                .vxlan(desired.vni, desired.local, desired.port)
                .create();
            match self.host.ask(request) {
                Ok(_) => return Ok(()),
                Err(refusal) if refusal.errno() == Errno::EEXIST => match self.vni_holder(desired) {
                    Some(holder) => return Err(step_error(&format!("{}: {holder} has it", action(step)), refusal)),
                    None if started.elapsed() < VNI_PATIENCE => thread::sleep(VNI_PAUSE),
                    None => return Err(step_error(&action(step), refusal)),
                },
                Err(refusal) => return Err(step_error(&action(step), refusal)),
            }
        }
    }

    /// The device that has a VNI on a port, if one can be seen: then there is nothing to wait for.
    fn vni_holder(&mut self, desired: &Vxlan) -> Option<String> {
        let mut links = list_links(&mut self.host).unwrap_or_default();
        links.extend(list_links(&mut self.data_plane).unwrap_or_default());
        let same =
            |link: &&Link| matches!(&link.kind, Kind::Vxlan(o) if o.vni == desired.vni.get() && o.port == desired.port);
        links.iter().find(same).map(Link::description)
    }

    fn ensure_leg(&mut self, step: &Step, network: NetworkId, desired: &Leg) -> Outcome {
        let (port_role, host_role) = (Role::LegPort(network), Role::Leg(network));
        let bridge = self.bridge_index(step, network)?;
        let ends = (self.ours(step, port_role)?, self.ours(step, host_role)?);
        let paired = |port: &Link, host: &Link| port.peer == Some(host.index) && host.peer == Some(port.index);
        match &ends {
            (Some(port), Some(host)) if paired(port, host) => {}
            (port, host) => {
                if let Some(port) = port {
                    self.delete_link(step, port.index)?;
                }
                if self.ours(step, host_role)?.is_some()
                    && let Some(host) = host
                {
                    let answer = self.host.ask(LinkRequest::indexed(host.index).delete());
                    deleted(answer).map_err(|refusal| step_error(&action(step), refusal))?;
                }
                self.create_leg(step, network, desired)?;
            }
        }
        let (Some(port), Some(host)) = (self.ours(step, port_role)?, self.ours(step, host_role)?) else {
            return vanished(step);
        };
        self.mend_leg(step, (network, bridge), desired, (&port, &host))
    }

    fn create_leg(&mut self, step: &Step, network: NetworkId, desired: &Leg) -> Outcome {
        let namespace = self.host.namespace().clone();
        let peer = LinkRequest::named(&Role::Leg(network).name())
            .mac(desired.mac)
            .mtu(desired.mtu)
            .group(GROUP)
            .namespace(namespace.as_fd());
        let name = Role::LegPort(network).name();
        let request = LinkRequest::named(&name).mtu(desired.mtu).group(GROUP).veth(peer).create();
        self.data_plane.ask(request).map(drop).map_err(|refusal| step_error(&action(step), refusal))
    }

    fn mend_leg(
        &mut self,
        step: &Step,
        (network, bridge): (NetworkId, u32),
        desired: &Leg,
        (port, host): (&Link, &Link),
    ) -> Outcome {
        let alias = network_alias(network);
        let mut changes = Vec::new();
        if !port_faults(port, network, None).is_empty() {
            changes.push(common(port, &alias).without_link_local().change());
        }
        changes.extend(mtu_change(port, desired.mtu));
        changes.extend(attachment(port, bridge, false));
        changes.extend(state_change(port, desired.up));
        self.change(step, changes)?;

        let mut changes = Vec::new();
        if !leg_faults(host, network).is_empty() {
            // Before it is up: one router advertisement is enough to give the host another default route.
            let namespace = self.host.namespace().clone();
            settings::ensure(&namespace, &leg_settings(&host.name)).map_err(|cause| io_error(&action(step), cause))?;
            changes.push(common(host, &alias).change());
        }
        changes.extend(
            (host.mac != Some(desired.mac)).then(|| LinkRequest::indexed(host.index).mac(desired.mac).change()),
        );
        changes.extend(mtu_change(host, desired.mtu));
        changes.extend(state_change(host, desired.up));
        let answers = self.host.transact(changes);
        all_done(answers).map_err(|refusal| step_error(&action(step), refusal))
    }

    fn delete_device(&mut self, step: &Step, network: NetworkId, object: &NetworkObject) -> Outcome {
        let role = match object {
            NetworkObject::Bridge => Role::Bridge(network),
            NetworkObject::Vxlan => Role::Vxlan(network),
            NetworkObject::Leg => Role::LegPort(network),
            NetworkObject::Port(endpoint) => Role::Port(*endpoint),
            _ => return mismatch(step),
        };
        let found = self.ours(step, role)?;
        match (object, found) {
            (NetworkObject::Port(_), Some(link)) => {
                graves::bury(&mut self.data_plane, link.index).map_err(|refusal| step_error(&action(step), refusal))
            }
            (_, Some(link)) => self.delete_link(step, link.index),
            (NetworkObject::Leg, None) => match self.ours(step, Role::Leg(network))? {
                Some(host) => {
                    let answer = self.host.ask(LinkRequest::indexed(host.index).delete());
                    deleted(answer).map_err(|refusal| step_error(&action(step), refusal))
                }
                None => Ok(()),
            },
            (_, None) => Ok(()),
        }
    }

    pub(super) fn delete_link(&mut self, step: &Step, index: u32) -> Outcome {
        let answer = self.data_plane.ask(LinkRequest::indexed(index).delete());
        deleted(answer).map_err(|refusal| step_error(&action(step), refusal))
    }

    /// The device in a role, if there is one; an error when it is not ours.
    pub(super) fn ours(&mut self, step: &Step, role: Role) -> Result<Option<Link>, StepError> {
        let found = self.devices_for(step, BTreeSet::from([role]))?;
        match found.by_role(role) {
            None => Ok(None),
            Some(link) if link.is_marked() => Ok(Some(link.clone())),
            // One that waits for deletion is in nobody's way for long.
            Some(link) if graves::is_grave(link) => {
                graves::sweep(&mut self.data_plane)?;
                Ok(None)
            }
            Some(link) => Err(foreign(step, &link.description())),
        }
    }

    pub(super) fn bridge_index(&mut self, step: &Step, network: NetworkId) -> Result<u32, StepError> {
        let missing = || StepError {
            action: format!("{}: there is no device {}", action(step), network.bridge_name()),
            hint: None,
            cause: Errno::ENODEV.into(),
        };
        self.ours(step, Role::Bridge(network))?.map(|link| link.index).ok_or_else(missing)
    }

    pub(super) fn change(&mut self, step: &Step, changes: Vec<Request>) -> Outcome {
        all_done(self.data_plane.transact(changes)).map_err(|refusal| step_error(&action(step), refusal))
    }

    /// Router advertisements do not reach the data plane's own devices.
    fn quiet(&mut self, step: &Step, link: &Link) -> Outcome {
        if link.inet6.as_ref().is_none_or(|v6| v6.accept_ra == 0) {
            return Ok(());
        }
        self.set_in_data_plane(step, &[Setting::of_device("ipv6", &link.name, "accept_ra", 0)])
    }

    fn set_in_data_plane(&mut self, step: &Step, wanted: &[Setting]) -> Outcome {
        settings::ensure(self.data_plane.namespace(), wanted).map_err(|cause| io_error(&action(step), cause))
    }

    fn with_port_users(&self, error: StepError, port: u16) -> StepError {
        if error.cause.raw_os_error() != Some(Errno::EADDRINUSE as i32) {
            return error;
        }
        let users = host::udp_port_users(self.host.namespace(), port).unwrap_or_default();
        let named: Vec<String> = users.iter().map(ToString::to_string).collect();
        let by = if named.is_empty() { "another socket".to_owned() } else { named.join(", ") };
        StepError { action: format!("{}: UDP port {port} is in use by {by}", error.action), ..error }
    }
}

/// The settings of a leg's host end.
fn leg_settings(device: &str) -> Vec<Setting> {
    let v4 = LEG_IPV4.iter().map(|(name, value)| Setting::of_device("ipv4", device, name, *value));
    let v6 = LEG_IPV6.iter().map(|(name, value)| Setting::of_device("ipv6", device, name, *value));
    v4.chain(v6).collect()
}

pub(super) fn common(link: &Link, alias: &str) -> LinkRequest {
    LinkRequest::indexed(link.index).alias(alias).group(GROUP)
}

pub(super) fn mtu_change(link: &Link, mtu: u32) -> Option<Request> {
    (link.mtu != mtu).then(|| LinkRequest::indexed(link.index).mtu(mtu).change())
}

pub(super) fn state_change(link: &Link, up: bool) -> Vec<Request> {
    if link.up == up { Vec::new() } else { vec![LinkRequest::indexed(link.index).up(up).change()] }
}

/// Into the bridge, with its flags: entering a bridge resets them.
pub(super) fn attachment(link: &Link, bridge: u32, suppress_neighbours: bool) -> Vec<Request> {
    if is_attached(link, Some(bridge), suppress_neighbours) {
        return Vec::new();
    }
    let enter = (link.master != Some(bridge)).then(|| LinkRequest::indexed(link.index).master(bridge).change());
    enter.into_iter().chain([LinkRequest::indexed(link.index).port_flags(suppress_neighbours).change()]).collect()
}

fn all_done(answers: Vec<Result<Vec<u8>, Refusal>>) -> Result<(), Refusal> {
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}

fn mismatch(step: &Step) -> Outcome {
    let action = format!("{}: that is not an object of this kind", action(step));
    Err(StepError { action, hint: None, cause: Errno::EINVAL.into() })
}

pub(super) fn vanished(step: &Step) -> Outcome {
    let action = format!("{}: the device vanished at once", action(step));
    Err(StepError { action, hint: Some("something else on this host removes it"), cause: Errno::ENODEV.into() })
}
