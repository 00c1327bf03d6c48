//! The next step of a registration, from the node's own keys as of one revision. Pure.
//!
//! A sign of life counts as this agent's own when it hangs on the lease that this agent holds. A lease from an earlier run
//! is believed only if boot and VTEP are the same too: a copied state directory carries the lease of the original.

use weft_overlay::{
    claims::{Stored, Token},
    model::{FenceRecord, FenceState, LiveRecord, NodeRecord, RECORD_VERSION},
};

use super::{NodeDescription, NodeIdentity, Obstacle, Standing};
use crate::control::nodes::EXPEL;

/// A node's own keys.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) record: Option<Stored<NodeRecord>>,
    pub(super) fence: Option<Stored<FenceRecord>>,
    pub(super) live: Option<Stored<LiveRecord>>,
}

/// What this process has.
#[derive(Debug, Clone)]
pub(super) struct Claimant {
    /// The lease, and whether it is known to be alive.
    pub(super) lease: Option<(i64, bool)>,
    /// Whether this process has put or taken over the sign of life.
    pub(super) alive_here: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    CheckLease,
    Grant,
    DropLease,
    Register { record: NodeRecord, lease: i64 },
    Rejoin { token: Token, lease: i64 },
    Return { fence: Stored<FenceRecord>, lease: i64 },
    Describe { token: Token, previous: Stored<NodeRecord>, record: NodeRecord },
    Settled(Standing),
    Blocked(Obstacle),
}

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::CheckLease => "check lease",
            Self::Grant => "grant",
            Self::DropLease => "drop lease",
            Self::Register { .. } => "register",
            Self::Rejoin { .. } => "rejoin",
            Self::Return { .. } => "return",
            Self::Describe { .. } => "describe",
            Self::Settled(_) => "settled",
            Self::Blocked(_) => "blocked",
        }
    }
}

pub(super) fn next_step(identity: &NodeIdentity, description: &NodeDescription, claimant: &Claimant, own: Own) -> Step {
    let lease = match claimant.lease {
        None => None,
        Some((_, false)) => return Step::CheckLease,
        Some((lease, true)) => Some(lease),
    };
    if let Some(live) = &own.live
        && !is_ours(identity, claimant, live, own.record.as_ref())
    {
        if lease == Some(live.lease) {
            return Step::DropLease;
        }
        let boot_id = live.record.boot_id.clone();
        return Step::Blocked(Obstacle::AliveElsewhere { node: identity.node, boot_id });
    }
    let Some(lease) = lease else { return Step::Grant };
    let (Some(previous), Some(fence)) = (own.record, own.fence) else {
        return Step::Register { record: described(identity, description, None), lease };
    };
    if fence.record.state == FenceState::Lost {
        return Step::Return { fence, lease };
    }
    let token = Token { node: identity.node, epoch: fence.record.epoch, fence_revision: fence.revision };
    if own.live.is_none() {
        return Step::Rejoin { token, lease };
    }
    let record = described(identity, description, Some(&previous.record));
    if record != previous.record {
        return Step::Describe { token, previous, record };
    }
    Step::Settled(match fence.record.state {
        FenceState::Draining => Standing::Draining(token),
        FenceState::Active | FenceState::Lost => Standing::Active(token),
    })
}

fn is_ours(
    identity: &NodeIdentity,
    claimant: &Claimant,
    live: &Stored<LiveRecord>,
    record: Option<&Stored<NodeRecord>>,
) -> bool {
    let lease = claimant.lease.is_some_and(|(lease, _)| lease == live.lease);
    let same_place = live.record.boot_id == identity.boot_id && record.is_none_or(|r| r.record.vtep == identity.vtep);
    lease && (claimant.alive_here || same_place)
}

/// The record as it should be; fields that only others know stay.
fn described(identity: &NodeIdentity, description: &NodeDescription, stored: Option<&NodeRecord>) -> NodeRecord {
    let mut extra = stored.map(|record| record.extra.clone()).unwrap_or_default();
    // Somebody wanted the node given up while it was away; it is back.
    extra.remove(EXPEL);
    NodeRecord {
        v: RECORD_VERSION,
        name: identity.name.clone(),
        vtep: identity.vtep,
        version: description.version.clone(),
        routes: description.routes.clone(),
        extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> NodeIdentity {
        NodeIdentity {
            node: "00000000a1".parse().unwrap(),
            name: "h1".parse().unwrap(),
            vtep: "192.168.56.11".parse().unwrap(),
            boot_id: "boot-1".to_owned(),
        }
    }

    fn description() -> NodeDescription {
        NodeDescription { version: "0.1.0".to_owned(), routes: Vec::new() }
    }

    fn own(state: Option<FenceState>, live: Option<(i64, &str)>) -> Own {
        let stored_record =
            state.map(|_| Stored { record: described(&identity(), &description(), None), revision: 3, lease: 0 });
        let fence = state.map(|state| Stored {
            record: FenceRecord { v: 1, epoch: 4, state, extra: Default::default() },
            revision: 9,
            lease: 0,
        });
        let live = live.map(|(lease, boot_id)| Stored {
            record: LiveRecord {
                v: 1,
                boot_id: boot_id.to_owned(),
                version: "0.1.0".to_owned(),
                epoch: 4,
                extra: Default::default(),
            },
            revision: 10,
            lease,
        });
        Own { record: stored_record, fence, live }
    }

    fn step(claimant: &Claimant, own: Own) -> Step {
        next_step(&identity(), &description(), claimant, own)
    }

    const fn held(lease: i64) -> Claimant {
        Claimant { lease: Some((lease, true)), alive_here: false }
    }

    #[test]
    fn a_new_node_takes_a_lease_and_registers() {
        let nothing = Claimant { lease: None, alive_here: false };

        assert_eq!(step(&nothing, own(None, None)), Step::Grant);
        assert!(matches!(step(&held(7), own(None, None)), Step::Register { lease: 7, .. }));
    }

    #[test]
    fn a_restarted_agent_goes_on_with_its_lease() {
        let hint = Claimant { lease: Some((7, false)), alive_here: false };
        let active = || own(Some(FenceState::Active), Some((7, "boot-1")));

        assert_eq!(step(&hint, active()), Step::CheckLease);
        let token = Token { node: identity().node, epoch: 4, fence_revision: 9 };
        assert_eq!(step(&held(7), active()), Step::Settled(Standing::Active(token)));
    }

    #[test]
    fn a_lost_lease_leads_to_a_new_sign_of_life_and_a_lost_node_to_a_new_epoch() {
        assert!(matches!(step(&held(8), own(Some(FenceState::Active), None)), Step::Rejoin { lease: 8, .. }));
        assert!(matches!(step(&held(8), own(Some(FenceState::Draining), None)), Step::Rejoin { lease: 8, .. }));
        assert!(matches!(step(&held(8), own(Some(FenceState::Lost), None)), Step::Return { lease: 8, .. }));
    }

    #[test]
    fn a_copy_of_a_living_node_is_refused_even_with_a_copied_lease() {
        let elsewhere = step(&held(8), own(Some(FenceState::Active), Some((7, "boot-1"))));
        let rebooted = step(&held(7), own(Some(FenceState::Active), Some((7, "boot-2"))));
        let mut moved = identity();
        moved.vtep = "192.168.56.12".parse().unwrap();
        let copied = next_step(&moved, &description(), &held(7), own(Some(FenceState::Active), Some((7, "boot-1"))));

        assert!(matches!(elsewhere, Step::Blocked(Obstacle::AliveElsewhere { .. })), "{elsewhere:?}");
        assert_eq!(rebooted, Step::DropLease);
        assert_eq!(copied, Step::DropLease);
    }

    #[test]
    fn a_changed_description_is_written_and_foreign_fields_stay() {
        let mut keys = own(Some(FenceState::Active), Some((7, "boot-1")));
        let stored = &mut keys.record.as_mut().unwrap().record;
        stored.version = "0.0.9".to_owned();
        stored.extra.insert("maintenance_until".to_owned(), 5.into());

        let Step::Describe { record, .. } = step(&held(7), keys) else { panic!("no new description") };

        assert_eq!(record.version, "0.1.0");
        assert!(record.extra.contains_key("maintenance_until"));
    }
}
