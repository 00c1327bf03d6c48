//! Why a call of Docker's was refused, in the words that its user sees.

use thiserror::Error;

use super::order::OrderError;
use crate::{
    agent::{attach::ConnectError, handle::ShuttingDown},
    control::{
        allocation::{AllocationError, CommitError},
        membership::MembershipError,
        networks::NetworksError,
        submit::SubmitError,
    },
};

/// A refusal.
#[derive(Debug, Error)]
pub(super) enum DriverError {
    /// The request was cut off: Docker sent its body to an agent that died, and only the rest to this one.
    #[error("interrupted call (empty request); retry the operation")]
    Interrupted,
    /// The request makes no sense.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// Nobody knows the network.
    #[error("network {0} is not known to weft on this host; remove it with `docker network rm` and create it again")]
    UnknownNetwork(String),
    /// The network was refused when it was created, which Docker could not be told any more.
    #[error("{0}")]
    Refused(String),
    /// An engine that adds an IPv4 subnet to a network without one.
    #[error("the network has {0}, but this engine makes it with {1}")]
    OtherSubnets(String, String),
    /// The network is being removed.
    #[error("network {0} is being removed; try again in a moment")]
    Going(String),
    /// Docker's own addresses for a network whose addresses are handed out by the cluster.
    #[error(
        "network {0} exists in the cluster, and addresses that Docker itself chooses here would be other hosts' too; add --ipam-driver weft"
    )]
    OwnAddresses(String),
    /// Another gateway than the network has.
    #[error("network {name} exists in the cluster with gateway {theirs}, not {ours}; leave --gateway out")]
    OtherGateway {
        /// Its name.
        name: String,
        /// The cluster's gateways.
        theirs: String,
        /// A gateway that was asked for here.
        ours: std::net::IpAddr,
    },
    /// What the network is has not been settled.
    #[error("network {0} is not ready: {1}; see `weft status`, and try again")]
    NotReady(String, &'static str),
    /// The cluster has another network of that name.
    #[error(
        "network {name} exists in the cluster with {theirs}, not {ours}; remove this one with `docker network rm {name}`, and it comes back as the cluster's"
    )]
    OtherNetwork {
        /// Its name.
        name: String,
        /// The cluster's subnets.
        theirs: String,
        /// The subnets that were asked for here.
        ours: String,
    },
    /// A network whose name the cluster cannot use.
    #[error("network {0:?} cannot be a network of the cluster: {1}")]
    BadName(String, String),
    /// Nobody knows the endpoint.
    #[error("endpoint {0} is not known to weft on this host; start the container again")]
    UnknownEndpoint(String),
    /// Networks could not be read or changed.
    #[error(transparent)]
    Networks(#[from] NetworksError),
    /// The endpoint could not be attached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No address.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// Not registered.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// This node could not join the network.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The store could not be read.
    #[error("reading the store")]
    Store(#[from] SubmitError),
    /// The kernel refused.
    #[error("the kernel refused: {}", .0.join("; "))]
    Kernel(Vec<String>),
    /// A handler did not come to an end in time.
    #[error("no answer within {0} s, as when the store is away; see `weft status`, and try again")]
    Late(u64),
    /// The agent is shutting down.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
}

impl DriverError {
    /// Whether the address that was asked for is in use, which may be over in a moment.
    pub(super) fn is_about_address(&self) -> bool {
        matches!(
            self,
            Self::Allocation(AllocationError::Taken { .. } | AllocationError::Busy(_))
                | Self::Commit(CommitError::AddressTaken { .. })
        )
    }
}
