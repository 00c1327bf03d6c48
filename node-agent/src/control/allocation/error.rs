//! Why an endpoint got no address, was not registered, or was not removed.
//!
//! Each error names the thing, the reason and the remedy, because a user reads it as it is.

use std::{fmt, net::IpAddr};

use thiserror::Error;
use weft_ipam::{Exhaustion, static_address::StaticRefusal};
use weft_overlay::{
    claims::ClaimError,
    id::{EndpointId, Name},
    model::FenceState,
};

use super::shape::ShapeError;
use crate::control::{registration::Obstacle, submit::SubmitError};

/// Why a node may not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StandingError {
    /// The node has no right to write yet, or no longer.
    #[error("this node is not registered: {0}")]
    NotRegistered(#[source] Obstacle),
    /// The node takes on nothing new.
    #[error(
        "node {0} is being drained and takes no new endpoints; use another node, or end it with `weft node drain --undo {0}`"
    )]
    Draining(Name),
    /// The controller gave the node up while it was away.
    #[error(
        "node {0} was declared lost while it did not reach the store; it returns by itself within seconds, try again then"
    )]
    Lost(Name),
    /// The node is not in the cluster any more.
    #[error("node {0} was removed from the cluster; restart its agent to register it anew")]
    Removed(Name),
    /// The node's right has just been renewed.
    #[error("node {0} has just changed its standing; try again")]
    Changing(Name),
}

impl StandingError {
    pub(super) fn from_fence(node: Name, state: Option<FenceState>) -> Self {
        match state {
            None => Self::Removed(node),
            Some(FenceState::Lost) => Self::Lost(node),
            Some(FenceState::Draining) => Self::Draining(node),
            Some(FenceState::Active) => Self::Changing(node),
        }
    }
}

/// Who has an address, as a user knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderName {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name, if it could be read.
    pub name: Option<Name>,
    /// The name of its node, or the node's id.
    pub node: String,
}

impl fmt::Display for HolderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "endpoint {name} ({}) on node {}", self.endpoint, self.node),
            None => write!(f, "endpoint {} on node {}", self.endpoint, self.node),
        }
    }
}

/// Why no address was reserved.
#[derive(Debug, Error)]
pub enum AllocationError {
    /// The node may not take on anything.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The network is on its way out, or gone.
    #[error("network {0} is being deleted; use another network")]
    NetworkDeleting(Name),
    /// The network changed while the address was chosen.
    #[error("network {0} was changed or deleted at this moment; look with `weft network ls`, then try again")]
    NetworkChanged(Name),
    /// An address of a family that the network does not have.
    #[error("network {network} has no {family} subnet, so an endpoint cannot have {address}; leave it out")]
    NoSuchFamily {
        /// The network.
        network: Name,
        /// IPv4 or IPv6.
        family: &'static str,
        /// What was asked for.
        address: IpAddr,
    },
    /// The address asked for cannot be an endpoint's.
    #[error(transparent)]
    Static(#[from] StaticRefusal),
    /// The address asked for is taken.
    #[error("address {address} is taken by {holder}; choose another with --ip")]
    Taken {
        /// What was asked for.
        address: IpAddr,
        /// Who has it.
        holder: HolderName,
    },
    /// The address asked for is being given to another container of this node, or taken from one.
    #[error("address {0} is being attached or detached on this node; try again, or choose another with --ip")]
    Busy(IpAddr),
    /// Nothing is left.
    #[error("{0}")]
    Exhausted(Box<Exhaustion>),
    /// The network's stored specification makes no sense.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The store did not answer, or said no.
    #[error("no address could be claimed")]
    Store(#[from] SubmitError),
}

/// Why an endpoint was not registered.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The node may not take on anything.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The network is on its way out, or gone.
    #[error("network {0} was deleted meanwhile; use another network")]
    NetworkGone(Name),
    /// Somebody else has the address.
    #[error("address {address} is taken by {holder}; choose another with {}", if address.is_ipv4() { "--ip" } else { "--ip6" })]
    AddressTaken {
        /// Which.
        address: IpAddr,
        /// Who has it.
        holder: HolderName,
        /// Whether the user had asked for this address; if not, another one may be reserved.
        asked_for: bool,
    },
    /// The block that the address was in is not ours any more; another address may be reserved.
    #[error("the block of address {0} was taken from this node; try again")]
    BlockLost(IpAddr),
    /// The endpoint's id is registered at another address.
    #[error("endpoint {endpoint} is registered already, at {address}; disconnect it first")]
    RegisteredElsewhere {
        /// The endpoint.
        endpoint: EndpointId,
        /// Where.
        address: IpAddr,
    },
    /// The record cannot be registered.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store did not answer, or said no.
    #[error("endpoint {endpoint} was not registered")]
    Store {
        /// The endpoint.
        endpoint: EndpointId,
        /// Why.
        #[source]
        source: SubmitError,
    },
}

impl CommitError {
    /// Whether the same request may succeed with another address: abandon this reservation and reserve again.
    pub fn wants_another_address(&self) -> bool {
        matches!(self, Self::AddressTaken { asked_for: false, .. } | Self::BlockLost(_))
    }
}

/// Why an endpoint was not removed.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// The node may not write.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The store did not answer, or said no. Removing may be tried again.
    #[error("endpoint {endpoint} was not removed")]
    Store {
        /// The endpoint.
        endpoint: EndpointId,
        /// Why.
        #[source]
        source: SubmitError,
    },
}
