//! The networks of the cluster: creating, showing and removing them.
//!
//! Any agent may do so; the store decides between two that do at one moment. Removing only begins here: agents detach, and
//! the controller takes away the rest. Results are plain values.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnetwork::IpNetwork;
use serde::Serialize;
use thiserror::Error;
use tokio::time::{Instant, sleep};
use weft_ipam::{
    Taken,
    subnet::conflict::{SubnetConflict, first_conflict},
};
use weft_overlay::{
    claims::{BeginDeleteNetwork, DeletionBegun, NetworkCreated, Stored},
    id::{Name, NetworkId, NodeId, Vni},
    keys::Key,
    model::{BlockState, EndpointKind, EndpointRecord, NetworkNameRecord, NetworkSpec, NetworkState, VniRecord},
    store::Store,
    txn::{Op, Revision, Txn},
};

use self::draft::{Draft, conflict_after};
pub use self::{
    draft::{DraftError, NetworkRequest},
    view::{BlockView, MemberView, NetworkDetails, NetworkView, SubnetView},
};
use super::{
    endpoints::ALL,
    nodes::nodes_in,
    submit::{Client, SubmitError},
};

mod draft;
#[cfg(test)]
mod tests;
mod view;

/// Attempts to find a VNI, an id and subnets that nobody takes at the same moment.
const ATTEMPTS: usize = 16;

/// Specifications that are read in one transaction.
const PER_READ: usize = 100;

/// More gateway legs than this are waited for, so that a transaction stays small.
const MOST_LEGS: usize = 24;

/// How long removing waits for gateway legs, which follow the last container of a node after a short while.
const LEGS_LINGER: Duration = Duration::from_secs(10);

/// Time between two looks at something that is about to change.
const POLL: Duration = Duration::from_millis(50);

/// Why something could not be done with a network.
#[derive(Debug, Error)]
pub enum NetworksError {
    /// The request makes no sense.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// Another network or a route has the addresses.
    #[error(transparent)]
    Conflict(#[from] SubnetConflict),
    /// There is one of that name.
    #[error(
        "network {name} exists already, with id {id}; choose another name, or remove it with `weft network rm {name}`"
    )]
    NameTaken {
        /// The name.
        name: Name,
        /// The network that has it.
        id: NetworkId,
    },
    /// The VNI is in use, or was until a short time ago.
    #[error("VNI {vni} {}; choose another with --vni, or leave it out", by.as_ref().map_or_else(
        || "was in use less than ten minutes ago".to_owned(), |by| format!("is in use by network {by}")))]
    VniTaken {
        /// The VNI.
        vni: Vni,
        /// The network that has it; `None` while it cools down.
        by: Option<String>,
    },
    /// Others took whatever was chosen.
    #[error("network {0} could not be created: others took each VNI and subnet that was chosen; try again")]
    Contended(Name),
    /// There is no such network.
    #[error("there is no network {0:?}; `weft network ls` shows all")]
    Unknown(String),
    /// Something is connected to it.
    #[error("network {name} is in use by {}; disconnect them, or remove all with `weft network rm --force {name}`", users.join(", "))]
    InUse {
        /// The network.
        name: Name,
        /// Some of those that use it.
        users: Vec<String>,
    },
    /// The network is changed by others all the time.
    #[error("network {0} was changed by somebody else at this moment; try again")]
    Changed(Name),
    /// It is not gone yet.
    #[error(
        "network {name} is being removed, but not gone yet: it needs a running controller and the agents of its nodes"
    )]
    StillThere {
        /// The network.
        name: String,
    },
    /// The store did not answer, or said no.
    #[error("networks cannot be shown or changed")]
    Store(#[from] SubmitError),
}

/// Creates a network; whatever the request leaves open is chosen clear of all networks and of every node's routes.
///
/// # Errors
/// When the request makes no sense, or something in it is taken.
pub async fn create_network<S: Store>(
    client: &Client<S>,
    request: &NetworkRequest,
    deadline: Instant,
) -> Result<NetworkView, NetworksError> {
    request.check()?;
    for _ in 0..ATTEMPTS {
        let taken = view::taken(client, deadline).await?;
        if let Some(id) = taken.named(&request.name) {
            return Err(NetworksError::NameTaken { name: request.name.clone(), id });
        }
        let draft = client.with_rng(|rng| Draft::new(request, &taken.ranges, rng))?;
        match client.submit(&draft.claim(), deadline).await? {
            NetworkCreated::Created(revision) => {
                return match settle_overlap(client, &draft, revision, deadline).await? {
                    None => Ok(NetworkView::of(draft.network, &draft.spec, revision)),
                    Some(_) if request.subnets.is_empty() => continue,
                    Some(conflict) => Err(conflict.into()),
                };
            }
            NetworkCreated::NameTaken(other) => {
                return Err(NetworksError::NameTaken { name: request.name.clone(), id: other.record.id });
            }
            NetworkCreated::VniTaken(by) if request.vni.is_some() => {
                let by = by.map(|by| taken.name_of(by));
                return Err(NetworksError::VniTaken { vni: draft.spec.vni, by });
            }
            NetworkCreated::VniTaken(_) | NetworkCreated::IdTaken(_) => {}
        }
    }
    Err(NetworksError::Contended(request.name.clone()))
}

/// A subnet that no network has and no node's route leads into, clear of those to avoid too. It is not taken by this.
///
/// # Errors
/// When nothing is free, or the store does not answer.
pub async fn propose_subnet<S: Store>(
    client: &Client<S>,
    v6: bool,
    avoid: &[IpNetwork],
    deadline: Instant,
) -> Result<IpNetwork, NetworksError> {
    let mut taken = view::taken(client, deadline).await?.ranges;
    taken.extend(avoid.iter().map(|network| Taken { network: *network, holder: "a network being created".to_owned() }));
    client.with_rng(|rng| draft::propose(v6, &taken, rng)).map_err(NetworksError::from)
}

/// Refuses subnets that overlap one that a network has or a node's route leads into. The very subnets of an existing
/// network pass: whether it is the same network is another question.
///
/// # Errors
/// The first overlap; or the store does not answer.
pub async fn check_subnets<S: Store>(
    client: &Client<S>,
    subnets: &[IpNetwork],
    deadline: Instant,
) -> Result<(), NetworksError> {
    let taken = view::taken(client, deadline).await?;
    for subnet in subnets {
        let others: Vec<Taken> = taken.ranges.iter().filter(|taken| taken.network != *subnet).cloned().collect();
        first_conflict(*subnet, &others)?;
    }
    Ok(())
}

/// Refuses what [`create_network`] would refuse, but for a name that is taken: for a request whose name is not known yet.
///
/// # Errors
/// When the request makes no sense or something in it is taken; or the store does not answer.
pub async fn check_request<S: Store>(
    client: &Client<S>,
    request: &NetworkRequest,
    deadline: Instant,
) -> Result<(), NetworksError> {
    request.check()?;
    check_subnets(client, &request.subnets, deadline).await?;
    let Some(vni) = request.vni else { return Ok(()) };
    let key = Key::Vni(vni);
    let reply = client.read([&key], deadline).await?;
    let Some(stored) = client.found::<VniRecord>(&reply, &key)? else { return Ok(()) };
    let by = match stored.record.network {
        Some(network) => match find_network(client, &network.to_string(), deadline).await {
            // The very network, as far as can be told.
            Ok((_, spec)) if spec.record.subnets.iter().any(|part| request.subnets.contains(&part.subnet)) => {
                return Ok(());
            }
            Ok((_, spec)) => Some(spec.record.name.to_string()),
            Err(_) => Some(network.to_string()),
        },
        None => None,
    };
    Err(NetworksError::VniTaken { vni, by })
}

/// Two that create overlapping networks at one moment both succeed; each looks again, and the later one steps back.
async fn settle_overlap<S: Store>(
    client: &Client<S>,
    draft: &Draft,
    revision: Revision,
    deadline: Instant,
) -> Result<Option<SubnetConflict>, NetworksError> {
    let page = client.list(client.keys().network_names(), deadline).await?;
    let mut earlier = Vec::new();
    for kv in page.kvs.iter().filter(|kv| kv.create_revision < revision) {
        if let Ok(stored) = Stored::<NetworkNameRecord>::decode(kv) {
            earlier.push((String::from_utf8_lossy(&kv.key).into_owned(), stored.record));
        }
    }
    let Some(conflict) = conflict_after(draft, &earlier) else { return Ok(None) };
    let spec = Stored { record: draft.spec.clone(), revision, lease: 0 };
    let claim = BeginDeleteNetwork { network: draft.network, spec, force: true, legs: Vec::new() };
    client.submit(&claim, deadline).await?;
    await_removed(client, draft.network, deadline).await.ok();
    Ok(Some(conflict))
}

/// The networks, by name.
///
/// # Errors
/// When the store does not answer.
pub async fn list_networks<S: Store>(client: &Client<S>, deadline: Instant) -> Result<Vec<NetworkView>, NetworksError> {
    let keys = client.keys();
    let page = client.list(keys.network_names(), deadline).await?;
    let names = client.records::<NetworkNameRecord, _>(&page, |key| match key {
        Key::NetworkName(name) => Some(name),
        _ => None,
    })?;
    let mut networks = Vec::with_capacity(names.len());
    for names in names.chunks(PER_READ) {
        let then = names.iter().map(|(_, name)| Op::Read(keys.encode(&Key::Spec(name.record.id)))).collect();
        let reply = client.transact(Txn { then, ..Txn::default() }, deadline).await?;
        for (_, name) in names {
            let spec = client.found::<NetworkSpec>(&reply, &Key::Spec(name.record.id))?;
            networks.extend(spec.map(|spec| NetworkView::of(name.record.id, &spec.record, spec.revision)));
        }
    }
    Ok(networks)
}

/// The specification of a network that is given by name or id.
///
/// # Errors
/// When there is none, or the store does not answer.
pub async fn find_network<S: Store>(
    client: &Client<S>,
    network: &str,
    deadline: Instant,
) -> Result<(NetworkId, Stored<NetworkSpec>), NetworksError> {
    let unknown = || NetworksError::Unknown(network.chars().take(80).collect());
    let by_name = match network.parse::<Name>() {
        Ok(name) => {
            let key = Key::NetworkName(name);
            let reply = client.read([&key], deadline).await?;
            client.found::<NetworkNameRecord>(&reply, &key)?.map(|stored| stored.record.id)
        }
        Err(_) => None,
    };
    let id = by_name.or_else(|| network.parse().ok()).ok_or_else(unknown)?;
    let key = Key::Spec(id);
    let reply = client.read([&key], deadline).await?;
    let spec = client.found(&reply, &key)?.ok_or_else(unknown)?;
    Ok((id, spec))
}

/// Everything about one network, as of one revision.
///
/// # Errors
/// When there is none, or the store does not answer.
pub async fn inspect_network<S: Store>(
    client: &Client<S>,
    network: &str,
    deadline: Instant,
) -> Result<NetworkDetails, NetworksError> {
    let (id, _) = find_network(client, network, deadline).await?;
    let keys = client.keys();
    let ranges = [keys.network(id), keys.blocks(id), keys.nodes(), keys.fences(), keys.lives()];
    let then = ranges.map(|range| Op::ReadRange(range, ALL)).to_vec();
    let reply = client.transact(Txn { then, ..Txn::default() }, deadline).await?;
    let spec = client.found::<NetworkSpec>(&reply, &Key::Spec(id))?;
    let spec = spec.ok_or_else(|| NetworksError::Unknown(network.to_owned()))?;
    Ok(view::details(client, id, &spec, &reply, &nodes_in(client, &reply)))
}

/// Begins to remove a network. With `force`, its endpoints are removed too; without, there must be none.
///
/// # Errors
/// When containers are connected to it, or the store does not answer.
pub async fn remove_network<S: Store>(
    client: &Client<S>,
    network: &str,
    force: bool,
    deadline: Instant,
) -> Result<NetworkId, NetworksError> {
    let legs_until = Instant::now() + LEGS_LINGER;
    let mut legs = Vec::new();
    loop {
        let (id, spec) = find_network(client, network, deadline).await?;
        let name = spec.record.name.clone();
        if spec.record.state == NetworkState::Deleting && (spec.record.force_delete || !force) {
            return Ok(id);
        }
        let is_first = legs.is_empty();
        let claim = BeginDeleteNetwork { network: id, spec, force, legs: std::mem::take(&mut legs) };
        match client.submit(&claim, deadline).await? {
            DeletionBegun::Deleting(_) => return Ok(id),
            DeletionBegun::InUse(users) => {
                let only_legs = users.iter().all(|user| user.record.kind == EndpointKind::Leg);
                if !only_legs || Instant::now() >= legs_until.min(deadline) {
                    return Err(NetworksError::InUse { name, users: name_users(client, &users, deadline).await? });
                }
                if is_first && users.len() <= MOST_LEGS {
                    legs = users;
                } else {
                    sleep(POLL).await;
                }
            }
            DeletionBegun::Changed(_) if Instant::now() < deadline => {}
            DeletionBegun::Changed(_) => return Err(NetworksError::Changed(name)),
        }
    }
}

/// Waits until nothing is left of a network that is being removed.
///
/// # Errors
/// When it is still there at the deadline, or the store does not answer.
pub async fn await_removed<S: Store>(
    client: &Client<S>,
    network: NetworkId,
    deadline: Instant,
) -> Result<(), NetworksError> {
    loop {
        let key = Key::Spec(network);
        let reply = client.read([&key], deadline).await?;
        let Some(spec) = client.found::<NetworkSpec>(&reply, &key)? else { return Ok(()) };
        if Instant::now() + POLL >= deadline {
            return Err(NetworksError::StillThere { name: spec.record.name.to_string() });
        }
        sleep(POLL).await;
    }
}

async fn name_users<S: Store>(
    client: &Client<S>,
    users: &[Stored<EndpointRecord>],
    deadline: Instant,
) -> Result<Vec<String>, NetworksError> {
    let nodes = super::nodes::list_nodes(client, deadline).await.unwrap_or_default();
    let names: BTreeMap<NodeId, String> = nodes.into_iter().map(|node| (node.id, node.name.to_string())).collect();
    let named = |user: &&Stored<EndpointRecord>| {
        let node = names.get(&user.record.node).cloned().unwrap_or_else(|| user.record.node.to_string());
        format!("{} on node {node}", user.record.name)
    };
    // A leg goes away with the last container of its node, so it is nobody's to disconnect.
    let containers: Vec<String> =
        users.iter().filter(|user| user.record.kind == EndpointKind::Container).map(|user| named(&user)).collect();
    Ok(if containers.is_empty() { users.iter().map(|user| named(&user)).collect() } else { containers })
}
