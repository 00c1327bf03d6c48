//! Carrying out steps about rows, addresses and routes, as many as possible in one send.

use std::collections::BTreeSet;

use nix::errno::Errno;
use weft_overlay::kernel::{NetworkObject, Object, ObjectId, Step, StepError};

use super::{
    Firewall, LinuxKernel,
    announce::{Announcement, announce},
    decode::{Address, Row},
    encode::{find_bridge_row, list_addresses},
    errno::{action, added, deleted, foreign, io_error, step_error},
    mark::Role,
    netlink::{Refusal, Request},
    objects::Devices,
    observe::found_or_missing,
    rows::{Requests, needs_actual_port, requests, roles},
};

/// So many departed neighbours are remembered; beyond that a changed MAC may go unannounced.
const DEPARTED: usize = 4096;

/// Where the answer to a step comes from.
enum Pending {
    Known(Result<(), StepError>),
    /// This many answers of the data plane's or the host's socket.
    Sent {
        host: bool,
        count: usize,
    },
}

impl<F: Firewall> LinuxKernel<F> {
    pub(super) fn apply_rows(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let found = match self.find_devices(&steps.iter().flat_map(roles).collect()) {
            Ok(found) => found,
            Err(error) => {
                let again = || std::io::Error::new(error.cause.kind(), error.cause.to_string());
                return steps.iter().map(|step| Err(io_error(&action(step), again()))).collect();
            }
        };
        let (mut data_plane, mut host, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            pending.push(self.prepare(step, &found, (&mut data_plane, &mut host)));
        }
        let mut data_plane = self.data_plane.transact(data_plane).into_iter();
        let mut host = self.host.transact(host).into_iter();
        let mut outcomes = Vec::with_capacity(steps.len());
        for (step, pending) in steps.iter().zip(pending) {
            outcomes.push(match pending {
                Pending::Known(outcome) => outcome,
                Pending::Sent { host: false, count } => outcome(step, data_plane.by_ref().take(count)),
                Pending::Sent { host: true, count } => outcome(step, host.by_ref().take(count)),
            });
        }
        self.forgive_existing_routes(steps, &mut outcomes);
        self.announce_changes(steps, &outcomes, &found);
        outcomes
    }

    fn prepare(
        &mut self,
        step: &Step,
        found: &Devices,
        (data_plane, host): (&mut Vec<Request>, &mut Vec<Request>),
    ) -> Pending {
        let actual = self.with_actual_prefix(step, found);
        let step = actual.as_ref().unwrap_or(step);
        let actual_port = if needs_actual_port(step) { self.actual_port(step, found) } else { None };
        let in_host =
            matches!(step.id(), ObjectId::Network(_, NetworkObject::LegAddress(_) | NetworkObject::LegRoute(_)));
        match requests(step, found, actual_port) {
            Requests::Send(messages) => {
                let count = messages.len();
                if in_host {
                    host.extend(messages)
                } else {
                    data_plane.extend(messages)
                }
                Pending::Sent { host: in_host, count }
            }
            Requests::Done => Pending::Known(Ok(())),
            Requests::Foreign(what) => Pending::Known(Err(foreign(step, &what))),
            Requests::NoDevice(name) => Pending::Known(Err(StepError {
                action: format!("{}: there is no device {name}", action(step)),
                hint: None,
                cause: Errno::ENODEV.into(),
            })),
            Requests::Mismatch => Pending::Known(Err(StepError {
                action: format!("{}: that is not an object of this kind", action(step)),
                hint: None,
                cause: Errno::EINVAL.into(),
            })),
        }
    }

    /// The port that a bridge has a row at, for rows at ports that have no name of ours.
    fn actual_port(&mut self, step: &Step, found: &Devices) -> Option<u32> {
        let ObjectId::Network(network, NetworkObject::BridgeFdb(mac)) = step.id() else { return None };
        let bridge = found.by_role(Role::Bridge(*network))?;
        let answer = found_or_missing(self.data_plane.ask(find_bridge_row(bridge.index, *mac)));
        answer.ok().flatten().as_deref().and_then(Row::decode).map(|row| row.index)
    }

    /// An IPv6 address is deleted by its prefix length too, which a deviant one does not tell.
    fn with_actual_prefix(&mut self, step: &Step, found: &Devices) -> Option<Step> {
        let ObjectId::Network(network, NetworkObject::LegAddress(ip)) = step.id() else { return None };
        let (Step::Replace { observed: Object::Deviant(_), .. } | Step::Delete(_, Object::Deviant(_))) = step else {
            return None;
        };
        let leg = found.by_role(Role::Leg(*network))?.index;
        let read = self.host.dump(&list_addresses(Some(leg)), |_, payload| Address::decode(payload));
        let actual = read.ok()?.into_iter().find(|address| address.local == *ip && address.index == leg)?;
        let observed = Object::LegAddress { prefix: actual.prefix, deprecated: false };
        match step.clone() {
            Step::Replace { id, desired, .. } => Some(Step::Replace { id, observed, desired }),
            Step::Delete(id, _) => Some(Step::Delete(id, observed)),
            Step::Create(..) => None,
        }
    }

    /// A route that exists already as wanted is no error. The kernel's answer does not tell it from one of others.
    fn forgive_existing_routes(&mut self, steps: &[Step], outcomes: &mut [Result<(), StepError>]) {
        for (step, outcome) in steps.iter().zip(outcomes) {
            let Step::Create(id @ ObjectId::Network(_, NetworkObject::LegRoute(_)), wanted) = step else { continue };
            let exists = outcome.as_ref().is_err_and(|e| e.cause.raw_os_error() == Some(Errno::EEXIST as i32));
            let mut read = || self.observe_objects(&BTreeSet::from([id.clone()]));
            if exists && read().is_ok_and(|state| state.objects.get(id) == Some(wanted)) {
                *outcome = Ok(());
            }
        }
    }

    /// Tells this node's containers about addresses that have another MAC now: announcements of the owner do not cross.
    fn announce_changes(&mut self, steps: &[Step], outcomes: &[Result<(), StepError>], found: &Devices) {
        let mut announcements = Vec::new();
        for (step, _) in steps.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok()) {
            let ObjectId::Network(network, NetworkObject::Neighbour(ip)) = step.id() else { continue };
            let key = (*network, *ip);
            let before = match step {
                Step::Create(..) => self.departed.remove(&key),
                Step::Replace { observed: Object::Neighbour(mac), .. } => Some(*mac),
                Step::Replace { .. } => None,
                Step::Delete(_, Object::Neighbour(mac)) => {
                    if self.departed.len() >= DEPARTED {
                        self.departed.pop_first();
                    }
                    self.departed.insert(key, *mac);
                    None
                }
                Step::Delete(..) => None,
            };
            if let (Some(before), Some(Object::Neighbour(mac))) = (before, step.result())
                && before != *mac
                && let Some(bridge) = found.by_role(Role::Bridge(*network))
            {
                announcements.push(Announcement { bridge: bridge.index, address: *ip, mac: *mac });
            }
        }
        if let Err(error) = announce(self.data_plane.namespace(), &announcements) {
            tracing::warn!(%error, count = announcements.len(), "changed addresses not announced to local containers");
        }
    }

    /// The devices of a set of roles, for writing.
    pub(super) fn devices_for(&mut self, step: &Step, roles: BTreeSet<Role>) -> Result<Devices, StepError> {
        self.find_devices(&roles).map_err(|error| io_error(&action(step), error.cause))
    }
}

/// The outcome of a step from the answers to its requests.
fn outcome(step: &Step, answers: impl Iterator<Item = Result<Vec<u8>, Refusal>>) -> Result<(), StepError> {
    let last_of =
        |answers: Vec<Result<(), Refusal>>| answers.into_iter().collect::<Result<Vec<()>, Refusal>>().map(drop);
    let judged: Vec<Result<(), Refusal>> = match step {
        Step::Delete(..) => answers.map(deleted).collect(),
        Step::Create(ObjectId::Network(_, NetworkObject::LegAddress(_)), _) => answers.map(added).collect(),
        // Only an address is replaced by two requests, the first of which removes.
        Step::Replace { id: ObjectId::Network(_, NetworkObject::LegAddress(_)), .. } => {
            answers.enumerate().map(|(at, answer)| if at == 0 { deleted(answer) } else { answer.map(drop) }).collect()
        }
        Step::Create(..) | Step::Replace { .. } => answers.map(|answer| answer.map(drop)).collect(),
    };
    last_of(judged).map_err(|refusal| {
        let route = matches!(step.id(), ObjectId::Network(_, NetworkObject::LegRoute(_)));
        let taken = route && refusal.errno() == Errno::EEXIST;
        let error = step_error(&action(step), refusal);
        if !taken {
            return error;
        }
        StepError {
            hint: Some("the host has another route to this subnet; remove it or choose another subnet"),
            ..error
        }
    })
}
