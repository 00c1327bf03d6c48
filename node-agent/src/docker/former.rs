//! The addresses of the containers that the engine starts again by itself, so that they have them after it was away.
//!
//! While it starts, the engine asks for an address without saying for which container, and answers no question. The
//! containers that it starts then are those with a restart policy that were running, so each request gets one of the
//! addresses that they had in that network: its own where there was one. Several may swap theirs, as with Docker's own
//! drivers; `--ip` prevents that. On disk, because the whole host may have been away.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use ipnetwork::IpNetwork;
use tracing::warn;
use weft_overlay::{
    codec::{decode_frame, encode_frame},
    id::NetworkId,
};

use crate::{identity::StateDir, reconciler::chain};

const FILE: &str = "docker-addresses";

/// An address in a network.
pub(super) type Place = (NetworkId, IpAddr);

#[derive(Debug, Default)]
pub(super) struct Former {
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// As of the last look at a running engine.
    known: BTreeSet<Place>,
    /// Those that nobody has asked for since the engine went away; none while it is there.
    unclaimed: BTreeSet<Place>,
}

impl Former {
    /// What was noted before; the engine counts as away until [`Self::engine_is_there`].
    pub(super) fn load(state: &StateDir) -> Self {
        let noted = match state.read_frame(FILE) {
            Ok(Some(frame)) => decode_frame::<Vec<(String, IpAddr)>>(&frame).map_err(|error| chain(&error).to_string()),
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(chain(&error).to_string()),
        };
        let noted = noted.unwrap_or_else(|error| {
            warn!(error, "addresses of containers were noted in vain: they may get others");
            Vec::new()
        });
        let known: BTreeSet<Place> =
            noted.into_iter().filter_map(|(network, ip)| Some((network.parse().ok()?, ip))).collect();
        Self { places: Mutex::new(Places { unclaimed: known.clone(), known }) }
    }

    /// Notes what a running container has.
    pub(super) fn note(&self, places: &BTreeSet<Place>, state: &StateDir) {
        let known = self.with(|own| own.known.union(places).copied().collect());
        self.replace(known, state);
    }

    /// Notes all that running containers have, as the engine shows them.
    pub(super) fn replace(&self, places: BTreeSet<Place>, state: &StateDir) {
        let noted: Vec<(String, IpAddr)> = places.iter().map(|(network, ip)| (network.to_string(), *ip)).collect();
        if !self.with(|own| std::mem::replace(&mut own.known, places.clone()) != places) {
            return;
        }
        if let Err(error) = state.write_frame(FILE, &encode_frame(&noted)) {
            warn!(error = %chain(&error), "addresses of containers were not noted: after a restart they may get others");
        }
    }

    /// An address for a container that the engine starts by itself.
    pub(super) fn take(&self, network: NetworkId, pool: IpNetwork) -> Option<IpAddr> {
        self.with(|own| {
            let place = *own.unclaimed.iter().find(|(of, ip)| *of == network && pool.contains(*ip))?;
            own.unclaimed.remove(&place);
            Some(place.1)
        })
    }

    /// From here on a request is for a container that a user starts.
    pub(super) fn engine_is_there(&self) {
        self.with(|own| own.unclaimed.clear());
    }

    /// From here on a request is for a container that the engine starts by itself.
    pub(super) fn engine_is_away(&self) {
        self.with(|own| own.unclaimed.clone_from(&own.known));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Places) -> T) -> T {
        work(&mut self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(network: &str, ip: &str) -> Place {
        (network.parse().unwrap(), ip.parse().unwrap())
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        (directory, state)
    }

    #[test]
    fn containers_that_the_engine_starts_get_the_addresses_that_they_had() {
        let (_directory, state) = state();
        let (blue, green) = (place("0123456789", "10.1.0.5"), place("abcdef0123", "10.2.0.5"));
        let pool = "10.1.0.0/16".parse().unwrap();
        Former::load(&state).replace(BTreeSet::from([blue, green]), &state);

        let former = Former::load(&state);

        assert_eq!(former.take(blue.0, pool), Some(blue.1));
        assert_eq!(former.take(blue.0, pool), None, "each once");
        assert_eq!(former.take(green.0, pool), None, "of another subnet");
    }

    #[test]
    fn containers_that_users_start_get_no_address_of_others() {
        let (_directory, state) = state();
        let blue = place("0123456789", "10.1.0.5");
        let pool = "10.1.0.0/16".parse().unwrap();
        let former = Former::load(&state);
        former.note(&BTreeSet::from([blue]), &state);

        former.engine_is_there();
        assert_eq!(former.take(blue.0, pool), None);
        former.engine_is_away();
        assert_eq!(former.take(blue.0, pool), Some(blue.1));
    }

    #[test]
    fn what_stopped_for_good_is_forgotten() {
        let (_directory, state) = state();
        let blue = place("0123456789", "10.1.0.5");
        let former = Former::load(&state);
        former.replace(BTreeSet::from([blue]), &state);
        former.replace(BTreeSet::new(), &state);

        assert_eq!(Former::load(&state).take(blue.0, "10.1.0.0/16".parse().unwrap()), None);
    }
}
