//! What the node has once, apart from nftables: forwarding, the data plane's settings, the rules against sending VXLAN.

use std::collections::{BTreeMap, BTreeSet};

use weft_overlay::kernel::{Family, NodeObject, Object, ObjectId, ObserveError, Step, StepError};

use super::{
    Firewall, LinuxKernel,
    decode::Rule,
    encode::{Verb, family_number, list_rules, send_guard},
    errno::{action, added, deleted, io_error, step_error},
    mark::{ROUTE_PROTOCOL, RULE_PREFERENCE},
    observe_error, settings,
};

/// FR_ACT_PROHIBIT.
const PROHIBIT: u8 = 8;

impl<F: Firewall> LinuxKernel<F> {
    /// These objects of the node, or all.
    pub(super) fn observe_node(
        &mut self,
        ids: Option<&BTreeSet<NodeObject>>,
    ) -> Result<BTreeMap<ObjectId, Object>, ObserveError> {
        let wanted = |object: &NodeObject| ids.is_none_or(|ids| ids.contains(object));
        let mut found = BTreeMap::new();
        let mut insert = |object: NodeObject, how: Object| drop(found.insert(ObjectId::Node(object), how));
        if wanted(&NodeObject::HostForwarding) {
            let read = settings::deviations(self.host.namespace(), &settings::host_forwarding());
            let read = read.map_err(observe_error("forwarding", self.host.namespace()))?;
            insert(NodeObject::HostForwarding, present_unless(&read));
        }
        if wanted(&NodeObject::DataPlaneSettings) {
            let read = settings::deviations(self.data_plane.namespace(), &settings::data_plane());
            let read = read.map_err(observe_error("settings", self.data_plane.namespace()))?;
            insert(NodeObject::DataPlaneSettings, present_unless(&read));
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            if wanted(&NodeObject::SendGuard(family))
                && let Some(how) = guard(&self.read_rules(family)?, self.vxlan_port)
            {
                insert(NodeObject::SendGuard(family), how);
            }
        }
        let filtered = ids.map(|ids| ids.iter().filter(|id| is_firewall(id)).cloned().collect::<BTreeSet<_>>());
        if filtered.as_ref().is_none_or(|ids| !ids.is_empty()) {
            let read = self.firewall.observe(filtered.as_ref())?;
            found.extend(read.into_iter().map(|(object, how)| (ObjectId::Node(object), how)));
        }
        Ok(found)
    }

    pub(super) fn apply_node(&mut self, step: &Step) -> Result<(), StepError> {
        let ObjectId::Node(object) = step.id() else { return Ok(()) };
        let io = |cause| io_error(&action(step), cause);
        match (object, step.result()) {
            // Others on the host may need forwarding by now; nobody can tell.
            (NodeObject::HostForwarding | NodeObject::DataPlaneSettings, None) => Ok(()),
            (NodeObject::HostForwarding, Some(_)) => {
                settings::ensure_host_forwarding(self.host.namespace()).map_err(io)
            }
            (NodeObject::DataPlaneSettings, Some(_)) => {
                settings::ensure(self.data_plane.namespace(), &settings::data_plane()).map_err(io)
            }
            (NodeObject::SendGuard(family), wanted) => self.ensure_guard(step, *family, wanted.is_some()),
            (NodeObject::Table(_) | NodeObject::Element(_) | NodeObject::ForeignAccepts, _) => Ok(()),
        }
    }

    /// Adds the right rule before it removes others of ours, such as one for another port.
    fn ensure_guard(&mut self, step: &Step, family: Family, wanted: bool) -> Result<(), StepError> {
        let rules = self.read_rules(family).map_err(|error| io_error(&action(step), error.cause))?;
        let port = self.vxlan_port;
        let right = rules.iter().any(|rule| is_guard(rule, port));
        let mut outcome = Ok(());
        if wanted && !right {
            outcome = added(self.host.ask(send_guard(Verb::Put, family, port)));
        }
        for rule in rules.iter().filter(|rule| rule.protocol == ROUTE_PROTOCOL) {
            let Some((guarded, _)) = rule.destination_ports else { continue };
            if !(wanted && is_guard(rule, port)) && outcome.is_ok() {
                outcome = deleted(self.host.ask(send_guard(Verb::Delete, family, guarded)));
            }
        }
        outcome.map_err(|refusal| step_error(&action(step), refusal))
    }

    fn read_rules(&mut self, family: Family) -> Result<Vec<Rule>, ObserveError> {
        let error = observe_error("routing rules", self.host.namespace());
        let number = family_number(family);
        let decode = |_, payload: &[u8]| {
            let same = payload.first().is_some_and(|of| i32::from(*of) == number);
            same.then(|| Rule::decode(payload)).flatten()
        };
        self.host.dump(&list_rules(family), decode).map_err(error)
    }
}

/// What the rules of a family come to.
fn guard(rules: &[Rule], port: u16) -> Option<Object> {
    let ours: Vec<&Rule> = rules.iter().filter(|rule| rule.protocol == ROUTE_PROTOCOL).collect();
    let right = rules.iter().any(|rule| is_guard(rule, port));
    let others = ours.iter().filter(|rule| !is_guard(rule, port)).count();
    match (right, others) {
        (true, 0) => Some(Object::Present),
        (false, 0) => None,
        (true, _) => Some(Object::Deviant("another rule of ours beside it".to_owned())),
        (false, _) => Some(Object::Deviant("a rule for another port, user range or direction".to_owned())),
    }
}

/// Whoever made it: a rule that says exactly this does what is needed, and the kernel refuses a second one.
fn is_guard(rule: &Rule, port: u16) -> bool {
    let ours = Rule { protocol: rule.protocol, ..wanted_guard(port) };
    *rule == ours
}

fn wanted_guard(port: u16) -> Rule {
    Rule {
        action: PROHIBIT,
        preference: RULE_PREFERENCE,
        protocol: ROUTE_PROTOCOL,
        uids: Some((1, u32::MAX - 1)),
        // IPPROTO_UDP.
        ip_protocol: Some(17),
        destination_ports: Some((port, port)),
        local: true,
        narrower: false,
    }
}

fn present_unless(deviations: &[String]) -> Object {
    if deviations.is_empty() { Object::Present } else { Object::Deviant(deviations.join(", ")) }
}

fn is_firewall(object: &NodeObject) -> bool {
    matches!(object, NodeObject::Table(_) | NodeObject::Element(_) | NodeObject::ForeignAccepts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_another_port_is_deviant_and_a_foreign_rule_is_nothing() {
        let other_port = wanted_guard(8472);
        let foreign = Rule { protocol: 0, preference: 5, ..Rule::default() };

        assert_eq!(guard(std::slice::from_ref(&foreign), 4789), None);
        assert_eq!(guard(&[foreign.clone(), wanted_guard(4789)], 4789), Some(Object::Present));
        assert!(matches!(guard(std::slice::from_ref(&other_port), 4789), Some(Object::Deviant(_))));
        assert!(matches!(guard(&[other_port, wanted_guard(4789)], 4789), Some(Object::Deviant(_))));
    }

    #[test]
    fn a_rule_of_others_that_says_the_same_is_enough() {
        let theirs = Rule { protocol: 3, ..wanted_guard(4789) };

        assert_eq!(guard(&[theirs], 4789), Some(Object::Present));
    }
}
