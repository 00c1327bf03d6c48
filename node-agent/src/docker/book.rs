//! What the front end remembers between calls: which of Docker's networks is which of the cluster's, and addresses that
//! were promised.
//!
//! The first is kept on disk, because Docker never repeats it; the rest may be lost: an address that Docker was told
//! comes back with the call that uses it. Changed by short calls without I/O, but for that file.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use tracing::warn;
use weft_overlay::{
    codec::{decode_frame, encode_frame},
    id::NetworkId,
};

use super::order::NetworkOrder;
use crate::{control::allocation::Reservation, identity::StateDir, reconciler::chain};

const FILE: &str = "docker-networks";
/// A promise that is not used within this time is not kept.
const PROMISED_FOR: Duration = Duration::from_secs(60);

/// What one of Docker's networks is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Known {
    /// Its name, and so what it is in the cluster, is not known yet.
    Nameless(Box<NetworkOrder>),
    /// This network of the cluster.
    Bound(NetworkId),
    /// Nothing: the reason, and the subnets that it has in Docker.
    Refused(String, Vec<IpNetwork>),
}

#[derive(Debug, Default)]
pub(super) struct Book {
    networks: BTreeMap<String, Known>,
    pools: BTreeMap<IpNetwork, Pool>,
    proposed: Vec<(IpNetwork, Instant)>,
    reserved: BTreeMap<(NetworkId, IpAddr), (Reservation, Instant)>,
    /// Docker's networks that we are deleting ourselves.
    pub(super) deleting: BTreeSet<String>,
    /// Networks of the cluster that a copy is being made of in this engine, with their subnets.
    pub(super) mirroring: BTreeMap<NetworkId, Vec<IpNetwork>>,
    /// Networks of the cluster that a user is removing here, until they are gone.
    pub(super) removing: BTreeSet<NetworkId>,
    /// Docker's networks whose name is being settled.
    pub(super) settling: BTreeSet<String>,
}

/// A pool that Docker was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pool {
    /// Whether a network came of it: until then addresses are asked for the network.
    made: bool,
    /// Where in it the user wants addresses to be handed out, which Docker says only here.
    range: Option<IpNetwork>,
}

impl Book {
    pub(super) fn load(state: &StateDir) -> Self {
        let mut book = Self::default();
        let entries = match state.read_frame(FILE) {
            Ok(Some(frame)) => decode_frame::<Vec<(String, String)>>(&frame).unwrap_or_else(|error| {
                warn!(error = %chain(&error), "the list of Docker's networks is damaged; it is made from the engine's");
                Vec::new()
            }),
            Ok(None) => Vec::new(),
            Err(error) => {
                warn!(error = %chain(&error), "the list of Docker's networks cannot be read; it is made from the engine's");
                Vec::new()
            }
        };
        let parsed = entries.into_iter().filter_map(|(docker, network)| Some((docker, network.parse().ok()?)));
        book.networks.extend(parsed.map(|(docker, network)| (docker, Known::Bound(network))));
        book
    }

    pub(super) fn network(&self, docker: &str) -> Option<&Known> {
        self.networks.get(docker)
    }

    pub(super) fn bound(&self) -> impl Iterator<Item = (&str, NetworkId)> {
        self.networks.iter().filter_map(|(docker, known)| match known {
            Known::Bound(network) => Some((docker.as_str(), *network)),
            Known::Nameless(_) | Known::Refused(..) => None,
        })
    }

    pub(super) fn set(&mut self, docker: &str, known: Known, state: &StateDir) {
        let durable = matches!(known, Known::Bound(_));
        if self.networks.get(docker) == Some(&known) {
            return;
        }
        self.networks.insert(docker.to_owned(), known);
        if durable {
            self.save(state);
        }
    }

    pub(super) fn remove(&mut self, docker: &str, state: &StateDir) -> Option<Known> {
        let removed = self.networks.remove(docker);
        if matches!(removed, Some(Known::Bound(_))) {
            self.save(state);
        }
        removed
    }

    fn save(&self, state: &StateDir) {
        let entries: Vec<(String, String)> =
            self.bound().map(|(docker, network)| (docker.to_owned(), network.to_string())).collect();
        if let Err(error) = state.write_frame(FILE, &encode_frame(&entries)) {
            warn!(error = %chain(&error), "which of Docker's networks is which was not noted; it is asked of the engine again");
        }
    }

    /// Notes a pool that Docker was given, and where in it addresses shall be handed out.
    pub(super) fn open_pool(&mut self, pool: IpNetwork, range: Option<IpNetwork>) {
        let open = self.pools.entry(pool).or_default();
        if !open.made {
            open.range = range;
        }
    }

    /// Notes that a network was made of a pool.
    pub(super) fn settle_pool(&mut self, pool: IpNetwork) {
        self.pools.entry(pool).or_default().made = true;
    }

    /// Where in a pool addresses shall be handed out, if not in all of it.
    pub(super) fn range_of(&self, pool: IpNetwork) -> Option<IpNetwork> {
        self.pools.get(&pool)?.range
    }

    /// The network that a copy with one of these subnets is being made of, and all that it has.
    pub(super) fn mirrored_with(&self, subnets: &[IpNetwork]) -> Option<(NetworkId, Vec<IpNetwork>)> {
        let mut copies = self.mirroring.iter();
        copies.find(|(_, of)| of.iter().any(|subnet| subnets.contains(subnet))).map(|(id, of)| (*id, of.clone()))
    }

    pub(super) fn close_pool(&mut self, pool: IpNetwork) {
        self.pools.remove(&pool);
    }

    /// Whether a pool is one of a network that is being made at this moment.
    pub(super) fn is_being_made(&self, pool: IpNetwork) -> bool {
        self.pools.get(&pool).is_some_and(|open| !open.made)
    }

    /// Pools that were proposed a short time ago, and now this one: Docker asks again where it does not like one.
    pub(super) fn propose(&mut self, pool: IpNetwork) {
        self.proposed.retain(|(_, since)| since.elapsed() < PROMISED_FOR);
        self.proposed.push((pool, Instant::now()));
    }

    pub(super) fn proposed(&self) -> Vec<IpNetwork> {
        self.proposed.iter().map(|(pool, _)| *pool).collect()
    }

    /// Why a network of Docker's with this subnet is none of the cluster's, if there is one.
    pub(super) fn refused_with(&self, pool: IpNetwork) -> Option<String> {
        self.networks.values().find_map(|known| match known {
            Known::Refused(why, subnets) if subnets.contains(&pool) => Some(why.clone()),
            _ => None,
        })
    }

    /// Keeps an address that Docker was told.
    pub(super) fn promise(&mut self, ip: IpAddr, reservation: Reservation) {
        self.reserved.retain(|_, (_, since)| since.elapsed() < PROMISED_FOR);
        self.reserved.insert((reservation.network, ip), (reservation, Instant::now()));
    }

    pub(super) fn take_promised(&mut self, network: NetworkId, ip: IpAddr) -> Option<Reservation> {
        self.reserved.remove(&(network, ip)).map(|(reservation, _)| reservation)
    }

    /// The youngest promise in a network: Docker asks for an endpoint's addresses one after the other.
    pub(super) fn youngest_promised(&mut self, network: NetworkId) -> Option<&mut Reservation> {
        let of_network = self.reserved.iter_mut().filter(|((of, _), _)| *of == network);
        of_network.max_by_key(|(_, (_, since))| *since).map(|(_, (reservation, _))| reservation)
    }
}
