//! The endpoints that share one name in one network, and whose turn it is to be named first.
//!
//! A name with a single holder, which is nearly every name, costs no memory beyond the id.

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{Mutex, PoisonError},
};

use weft_overlay::id::EndpointId;

use super::Family;

/// Who has a name.
#[derive(Debug)]
pub(super) enum Holders {
    /// One endpoint.
    One(EndpointId),
    /// Several.
    Many(Box<Crowd>),
}

/// Several endpoints under one name, in the order of their ids.
#[derive(Debug)]
pub(super) struct Crowd {
    members: BTreeSet<EndpointId>,
    // Who was named first last time, per family: a resolver asks for A and AAAA in pairs, and one turn for both
    // would show half of the endpoints to each. An id, not a number, so that coming and going skips nobody.
    last_first: [Mutex<Option<EndpointId>>; 2],
}

/// What became of a holder that was offered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// It had an address of the family.
    pub(super) any: bool,
    /// No further one is wanted.
    pub(super) enough: bool,
}

impl Holders {
    pub(super) fn add(&mut self, endpoint: EndpointId) {
        match self {
            Self::One(only) if *only == endpoint => {}
            Self::One(only) => {
                let members = BTreeSet::from([*only, endpoint]);
                *self = Self::Many(Box::new(Crowd { members, last_first: Default::default() }));
            }
            Self::Many(crowd) => {
                crowd.members.insert(endpoint);
            }
        }
    }

    /// Removes a holder; answers whether nobody is left.
    pub(super) fn remove(&mut self, endpoint: EndpointId) -> bool {
        match self {
            Self::One(only) => *only == endpoint,
            Self::Many(crowd) => {
                crowd.members.remove(&endpoint);
                if let (Some(last), 1) = (crowd.members.first().copied(), crowd.members.len()) {
                    *self = Self::One(last);
                }
                false
            }
        }
    }

    /// Offers the holders to `take`, beginning with the one whose turn it is, until it has enough.
    pub(super) fn collect(&self, family: Family, takes_turn: bool, mut take: impl FnMut(EndpointId) -> Taken) {
        match self {
            Self::One(only) => {
                take(*only);
            }
            Self::Many(crowd) => crowd.collect(family, takes_turn, take),
        }
    }
}

impl Crowd {
    fn collect(&self, family: Family, takes_turn: bool, mut take: impl FnMut(EndpointId) -> Taken) {
        let mut last_first = self.last_first[family.index()].lock().unwrap_or_else(PoisonError::into_inner);
        let after = last_first.map_or(Bound::Unbounded, Bound::Excluded);
        let wrapped = last_first.map(|last| self.members.range(..=last));
        let order = self.members.range((after, Bound::Unbounded)).chain(wrapped.into_iter().flatten());
        let mut first = None;
        for endpoint in order {
            let taken = take(*endpoint);
            if taken.any && first.is_none() {
                first = Some(*endpoint);
            }
            if taken.enough {
                break;
            }
        }
        if takes_turn && first.is_some() {
            *last_first = first;
        }
    }
}
