//! Veths of endpoints: both ends are made by one message, one in the bridge, one in the container.
//!
//! The bridge's end is a [`NetworkObject::Port`], the container's a [`NetworkObject::Sandbox`] with its own module. What
//! the container's end should be is known from the steps, or from earlier ones.

use std::os::fd::AsFd;

use nix::errno::Errno;
use weft_overlay::{
    id::{EndpointId, NetworkId},
    kernel::{NetworkObject, ObjectId, Port, SandboxState, Step, StepError},
};

use super::{
    Firewall, LinuxKernel,
    decode::link::Link,
    devices::{Outcome, attachment, common, mtu_change, state_change, vanished},
    encode::link::LinkRequest,
    errno::{action, step_error},
    graves,
    mark::{GROUP, Role, endpoint_alias},
    netlink::Refusal,
    recipe::port_faults,
    sandbox,
};

impl<F: Firewall> LinuxKernel<F> {
    /// `comes`: a step about the container's end follows by itself.
    pub(super) fn ensure_port(
        &mut self,
        step: &Step,
        (network, endpoint): (NetworkId, EndpointId),
        desired: &Port,
        comes: bool,
    ) -> Outcome {
        let role = Role::Port(endpoint);
        self.bridge_index(step, network)?;
        if self.ours(step, role)?.is_none() {
            let Some(sandbox) = self.sandboxes.get(&endpoint).cloned() else {
                return Err(StepError {
                    action: format!("{}: where its container's end belongs is not known", action(step)),
                    hint: None,
                    cause: Errno::ENOENT.into(),
                });
            };
            self.create_pair(step, (network, endpoint), &sandbox)?;
            if !comes {
                sandbox::ensure(&sandbox, network, endpoint).map_err(|refusal| step_error(&action(step), refusal))?;
            }
        }
        let Some(link) = self.ours(step, role)? else { return vanished(step) };
        self.mend_port(step, (network, endpoint), desired, &link)
    }

    fn mend_port(
        &mut self,
        step: &Step,
        (network, endpoint): (NetworkId, EndpointId),
        desired: &Port,
        link: &Link,
    ) -> Outcome {
        let bridge = self.bridge_index(step, network)?;
        let mut changes = Vec::new();
        if !port_faults(link, network, Some(endpoint)).is_empty() {
            changes.push(common(link, &endpoint_alias(network, endpoint)).without_link_local().change());
        }
        changes.extend(mtu_change(link, desired.mtu));
        changes.extend(attachment(link, bridge, false));
        changes.extend(state_change(link, desired.up));
        self.change(step, changes)
    }

    /// Gives a port that was made anew what the one before it had.
    pub(super) fn restore_port(&mut self, step: &Step, ids: (NetworkId, EndpointId), before: &Link) -> Outcome {
        let Some(link) = self.ours(step, Role::Port(ids.1))? else { return vanished(step) };
        let desired = Port { mtu: before.mtu, up: before.up, attached: true };
        self.mend_port(step, ids, &desired, &link)
    }

    /// Makes both ends of an endpoint's veth, the container's straight into its namespace.
    ///
    /// A device of an endpoint that left a moment ago may still have the interface's name; then it is swept first.
    pub(super) fn create_pair(
        &mut self,
        step: &Step,
        (network, endpoint): (NetworkId, EndpointId),
        sandbox: &SandboxState,
    ) -> Outcome {
        let container = sandbox::open(&sandbox.place)
            .map_err(|refusal| step_error(&action(step), refusal))?
            .ok_or_else(|| gone(step, sandbox))?;
        let name = Role::Port(endpoint).name();
        let request = || {
            let peer = LinkRequest::named(sandbox.place.ifname.as_str())
                .mac(sandbox.mac)
                .mtu(sandbox.mtu)
                .group(GROUP)
                .namespace(container.as_fd());
            LinkRequest::named(&name).mtu(sandbox.mtu).group(GROUP).veth(peer).create()
        };
        let answer = match self.data_plane.ask(request()) {
            Err(refusal) if refusal.errno() == Errno::EEXIST => {
                graves::sweep(&mut self.data_plane)?;
                self.data_plane.ask(request())
            }
            answer => answer,
        };
        answer.map_err(|refusal| pair_error(step, refusal))?;
        let marked = LinkRequest::named(&name).alias(&endpoint_alias(network, endpoint)).without_link_local().change();
        self.change(step, vec![marked])
    }
}

pub(super) fn is_sandbox_of(step: &Step, endpoint: EndpointId) -> bool {
    let sandbox = matches!(step.id(), ObjectId::Network(_, NetworkObject::Sandbox(of)) if *of == endpoint);
    sandbox && step.result().is_some()
}

fn pair_error(step: &Step, refusal: Refusal) -> StepError {
    let exists = refusal.errno() == Errno::EEXIST;
    let error = step_error(&action(step), refusal);
    let hint = "the container has an interface of that name; remove it or choose another name with --ifname";
    if exists { StepError { hint: Some(hint), ..error } } else { error }
}

pub(super) fn gone(step: &Step, sandbox: &SandboxState) -> StepError {
    StepError {
        action: format!("{}: the container's namespace {} is gone", action(step), sandbox.place.path),
        hint: Some("it was deleted or made anew; connect the container again"),
        cause: Errno::ENOENT.into(),
    }
}
