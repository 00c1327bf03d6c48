//! Declaring nodes lost that gave no sign of life for too long.
//!
//! The time is counted by this controller's own clock from when it first saw the absence while leading; a new leader
//! begins anew. So no clock of two machines is compared, and a controller that was away can only be too slow. The
//! declaration compares that the sign of life is absent at that very revision.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info, warn};
use weft_overlay::{
    claims::{Claim, DeclareLost, LostDeclared, MAX_TXN_OPS, MembersExpelled, ReplyError, expel_members},
    id::{NetworkId, NodeId},
    keys::Key,
    model::{FenceState, NodeRecord},
    store::Store,
    txn::{Compare, Op},
};

use super::{
    LeadError, Leader,
    cluster::{Cluster, PER_READ},
};

/// A field of a node's record: the seconds that this node may be away, when that is longer than for others.
const MAINTENANCE: &str = "maintenance_s";

/// A field of a node's record: somebody who knows better wants it given up at once.
const EXPEL: &str = "expel";

/// Since when each node was seen to be absent.
#[derive(Debug, Default)]
pub(super) struct Absences {
    since: BTreeMap<NodeId, Instant>,
}

impl Absences {
    /// Takes in what was seen; answers which nodes have been absent for too long.
    fn overdue(&mut self, cluster: &Cluster, lost_after: Duration, now: Instant) -> Vec<NodeId> {
        let expected = |node: &NodeId| cluster.fences.get(node).is_some_and(|f| f.record.state != FenceState::Lost);
        self.since.retain(|node, _| expected(node) && !cluster.alive.contains(node));
        let absent = cluster.fences.keys().filter(|node| expected(node) && !cluster.alive.contains(node));
        for node in absent {
            self.since.entry(*node).or_insert(now);
        }
        let patience =
            |node: &NodeId| cluster.nodes.get(node).map_or(lost_after, |record| patience(record, lost_after));
        let overdue = |(node, since): &(&NodeId, &Instant)| now.saturating_duration_since(**since) >= patience(node);
        self.since.iter().filter(overdue).map(|(node, _)| *node).collect()
    }
}

fn patience(record: &NodeRecord, lost_after: Duration) -> Duration {
    if record.extra.get(EXPEL) == Some(&true.into()) {
        return Duration::ZERO;
    }
    let maintenance = record.extra.get(MAINTENANCE).and_then(serde_json::Value::as_u64);
    maintenance.map_or(lost_after, |seconds| lost_after.max(Duration::from_secs(seconds)))
}

pub(super) async fn declare_lost<S: Store>(
    leader: &Leader<S>,
    cluster: &Cluster,
    absences: &mut Absences,
) -> Result<(), LeadError> {
    for node in absences.overdue(cluster, leader.settings.lost_after, Instant::now()) {
        let Some(fence) = cluster.fences.get(&node) else { continue };
        let networks = memberships(leader, cluster, node).await?;
        let claim = DeclareLost { leadership: leader.leadership.clone(), node, fence: fence.clone(), networks };
        match declare(leader, cluster, &claim).await? {
            Some(LostDeclared::Lost { fence, remaining }) => {
                warn!(%node, revision = fence, "node declared lost");
                expel(leader, node, fence, &remaining).await?;
            }
            Some(LostDeclared::NotLeader) => return Err(LeadError::NotLeader),
            Some(LostDeclared::Alive(_) | LostDeclared::Changed(_)) => {
                info!(%node, "node is back just in time");
                absences.since.remove(&node);
            }
            None => debug!(%node, "node has just joined a network; looking again in the next pass"),
        }
    }
    Ok(())
}

/// Declares a node lost together with the end of all its memberships; `None` when it has joined another network since
/// they were read: one that wakes up without a sign of life may still do so. Where the networks are too many for one
/// transaction, the rest of its memberships ends in the same pass.
async fn declare<S: Store>(
    leader: &Leader<S>,
    cluster: &Cluster,
    claim: &DeclareLost,
) -> Result<Option<LostDeclared>, LeadError> {
    let mut txn = claim.txn(&leader.keys);
    let others = cluster.networks.keys().filter(|network| !claim.networks.contains(network));
    let absent = others.map(|network| Compare::Absent(leader.keys.encode(&Key::Member(*network, claim.node))));
    let room = MAX_TXN_OPS - txn.compares.len();
    txn.compares.extend(absent.take(room));
    let reply = leader.store.txn(txn).await?;
    match claim.outcome(&leader.keys, &reply) {
        Ok(outcome) => Ok(Some(outcome)),
        Err(ReplyError::Unexplained { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Ends memberships of a lost node.
pub(super) async fn expel<S: Store>(
    leader: &Leader<S>,
    node: NodeId,
    lost: i64,
    networks: &[NetworkId],
) -> Result<(), LeadError> {
    for claim in expel_members(&leader.leadership, node, lost, networks) {
        match leader.submit(&claim).await? {
            MembersExpelled::Done => {}
            MembersExpelled::NotLeader => return Err(LeadError::NotLeader),
            MembersExpelled::NodeBack(_) => return Ok(()),
        }
    }
    Ok(())
}

/// The networks that a node is a member of.
pub(super) async fn memberships<S: Store>(
    leader: &Leader<S>,
    cluster: &Cluster,
    node: NodeId,
) -> Result<Vec<NetworkId>, LeadError> {
    let networks: Vec<NetworkId> = cluster.networks.keys().copied().collect();
    let mut joined = Vec::new();
    for networks in networks.chunks(PER_READ) {
        let key = |network: &NetworkId| leader.keys.encode(&Key::Member(*network, node));
        let reply = leader.read(networks.iter().map(|network| Op::Read(key(network))).collect()).await?;
        joined.extend(networks.iter().filter(|network| reply.found(&key(network)).is_some()));
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use weft_overlay::{claims::Stored, model::FenceRecord};

    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId::from_entropy(number)
    }

    fn cluster(alive: &[u64], extra: &[(&str, serde_json::Value)]) -> Cluster {
        let record = NodeRecord {
            v: 1,
            name: "h1".parse().unwrap(),
            vtep: "192.168.56.11".parse().unwrap(),
            version: String::new(),
            routes: Vec::new(),
            extra: extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        };
        let fence = FenceRecord { v: 1, epoch: 1, state: FenceState::Active, extra: BTreeMap::new() };
        Cluster {
            nodes: [(node(1), record)].into(),
            fences: [(node(1), Stored { record: fence, revision: 3, lease: 0 })].into(),
            alive: alive.iter().map(|number| node(*number)).collect(),
            networks: BTreeMap::new(),
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn absence_counts_from_when_it_was_seen_and_ends_with_a_sign_of_life() {
        let (mut absences, start) = (Absences::default(), Instant::now());

        assert!(absences.overdue(&cluster(&[], &[]), HOUR, start).is_empty());
        assert!(absences.overdue(&cluster(&[1], &[]), HOUR, start + HOUR).is_empty());
        assert!(absences.overdue(&cluster(&[], &[]), HOUR, start + 2 * HOUR).is_empty());
        assert_eq!(absences.overdue(&cluster(&[], &[]), HOUR, start + 3 * HOUR), [node(1)]);
    }

    #[test]
    fn maintenance_gives_more_time_and_expulsion_none() {
        let start = Instant::now();
        let maintained = cluster(&[], &[(MAINTENANCE, 7200.into())]);
        let mut absences = Absences::default();
        assert!(absences.overdue(&maintained, HOUR, start).is_empty());

        assert!(absences.overdue(&maintained, HOUR, start + HOUR).is_empty());
        assert_eq!(absences.overdue(&maintained, HOUR, start + 2 * HOUR), [node(1)]);
        assert_eq!(Absences::default().overdue(&cluster(&[], &[(EXPEL, true.into())]), HOUR, start), [node(1)]);
    }
}
